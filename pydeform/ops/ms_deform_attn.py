"""Multi-scale deformable attention: sampled values of several feature maps, weighted and summed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from pydeform._arrays import Array
from pydeform.ops import _call, _levels, _samples
from pydeform.ops._checks import Kink
from pydeform.ops._levels import NAMES, Options

A = TypeVar("A", bound=Array)
T = TypeVar("T")


class MsDeformAttnGrads(NamedTuple, Generic[T]):
    """Gradients of `ms_deform_attn`; None where not needed."""

    value: T | None
    sampling_locations: T | None
    attention_weights: T | None


class MsDeformAttnDoubleGrads(NamedTuple, Generic[T]):
    """Gradients of the gradients of `ms_deform_attn`; None where not needed."""

    grad_output: T | None
    value: T | None
    sampling_locations: T | None
    attention_weights: T | None


_RULES = _samples.rules(
    arguments=NAMES,
    required=NAMES,
    like="value",
    plan=_levels.plan,
    grads=MsDeformAttnGrads,
    double_grads=MsDeformAttnDoubleGrads,
)


def ms_deform_attn(
    value: A,
    spatial_shapes: Any,
    level_start_index: Any,
    sampling_locations: Array,
    attention_weights: Array,
    *,
    kink: Kink = "right",
    out: Array | None = None,
) -> A:
    """Attend to a few sampled points of several feature maps (Deformable DETR).

    Every head of every query reads `P` points of each level by bilinear interpolation and sums them
    with its attention weights. Layout and order of arguments are those of the published operator.

    Parameters
    ----------
    value : array, shape (N, S, M, D)
        Feature maps of all levels after each other, row by row, for M heads of D channels.
    spatial_shapes : array of int or nested sequence, shape (L, 2)
        Height and width of every level; their products add up to S.
    level_start_index : array of int or sequence, shape (L,)
        Where each level begins along S: the sums of the sizes before it. CUDA arrays here and in
        `spatial_shapes` are fetched, which waits for the device; lists and CPU arrays are not.
    sampling_locations : array, shape (N, Lq, M, L, P, 2)
        Points as (x, y) in units of the level's size: 0 and 1 are its outer edges.
    attention_weights : array, shape (N, Lq, M, L, P)
        Factor of every point, used as it is: no softmax.
    kink : {"right", "open", "mean"}
        Derivative at whole pixels, as in `deform_conv2d`; "open" is the published operator's.
    out : array, shape of the output, optional
        Written and returned. C-contiguous, writable, of the dtype of value, no memory shared with
        another argument.

    Returns
    -------
    array, shape (N, Lq, M*D)
        Of the same kind and dtype as `value`.

    Raises
    ------
    TypeError
        If an argument is not an array or an option not of its type, if dtypes are mixed or not
        float32, float64, float16 or bfloat16 (sampling_locations and attention_weights may both be
        float32 beside a 16-bit value), or devices are mixed.
    ValueError
        If shapes, levels or options do not fit together, or `out` cannot be written.
    MemoryError
        If the output does not fit in memory. Nothing is written before all checks pass.

    See Also
    --------
    ms_deform_attn_backward : Gradients.
    ms_deform_attn_jvp : Directional derivatives.

    Notes
    -----
    The position in pixels is ``location*size - 0.5``, computed in the dtype of the locations
    (float32 for 16-bit ones): it is as exact as they are. A map is 0 outside; samples between the
    last pixel and one beyond fade out.

    References
    ----------
    .. [1] X. Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object
       Detection", ICLR 2021.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> value = np.arange(5.0).reshape(1, 5, 1, 1)  # a map of 2 x 2, then one of 1 x 1
    >>> points = np.full((1, 1, 1, 2, 1, 2), 0.5)  # the middle of both
    >>> weights = np.array([1.0, 10.0]).reshape(1, 1, 1, 2, 1)
    >>> pydeform.ms_deform_attn(value, [(2, 2), (1, 1)], [0, 4], points, weights)
    array([[[41.5]]])
    """
    options = Options(spatial_shapes, level_start_index, kink)
    values = dict(zip(NAMES, (value, sampling_locations, attention_weights), strict=True))
    return _call.forward(_RULES, values, options, out)  # type: ignore[no-any-return]


def ms_deform_attn_backward(
    grad_output: Array,
    value: A,
    spatial_shapes: Any,
    level_start_index: Any,
    sampling_locations: Array,
    attention_weights: Array,
    *,
    kink: Kink = "right",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> MsDeformAttnGrads[A]:
    """Compute the gradients of `ms_deform_attn`.

    Parameters
    ----------
    grad_output : array, shape (N, Lq, M*D)
        Cotangent of the output.
    value, spatial_shapes, level_start_index, sampling_locations, attention_weights : array
        As in `ms_deform_attn`.
    kink : {"right", "open", "mean"}
        As in `ms_deform_attn`.
    needs : iterable of str, optional
        Names of the arguments whose gradients are computed; all by default.
    out : mapping of str to array, optional
        Memory for gradients, by name.

    Returns
    -------
    MsDeformAttnGrads
        Named tuple (value, sampling_locations, attention_weights), each like its argument; None
        where not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `ms_deform_attn`; ValueError also if a name in `needs` or `out` is unknown.

    See Also
    --------
    ms_deform_attn : The operation.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> value = np.arange(4.0).reshape(1, 4, 1, 1)
    >>> points, weights = np.full((1, 1, 1, 1, 1, 2), 0.5), np.ones((1, 1, 1, 1, 1))
    >>> y, shapes = np.ones((1, 1, 1)), [(2, 2)]
    >>> grads = pydeform.ms_deform_attn_backward(y, value, shapes, [0], points, weights)
    >>> grads.sampling_locations.ravel()  # a step of one size is two pixels
    array([2., 4.])
    """
    options = Options(spatial_shapes, level_start_index, kink)
    values = dict(zip(NAMES, (value, sampling_locations, attention_weights), strict=True))
    return _call.backward(_RULES, grad_output, values, options, needs, out)  # type: ignore[no-any-return]


def ms_deform_attn_jvp(
    value: A,
    spatial_shapes: Any,
    level_start_index: Any,
    sampling_locations: Array,
    attention_weights: Array,
    *,
    tangents: Mapping[str, Array],
    kink: Kink = "right",
    out: Mapping[str, Array] | None = None,
) -> tuple[A, A]:
    """Compute `ms_deform_attn` and its derivative along tangents.

    Parameters
    ----------
    value, spatial_shapes, level_start_index, sampling_locations, attention_weights : array
        As in `ms_deform_attn`.
    tangents : mapping of str to array
        Directions by argument, each like its argument; those that are missing are 0.
    kink : {"right", "open", "mean"}
        As in `ms_deform_attn`.
    out : mapping of str to array, optional
        Memory for "output" and "output_tangent".

    Returns
    -------
    output, output_tangent : array, shape (N, Lq, M*D)
        The output, to the bit that of `ms_deform_attn`, and its derivative.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `ms_deform_attn`; ValueError also if a tangent is not like its argument.

    See Also
    --------
    ms_deform_attn : The operation.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> value = np.arange(4.0).reshape(1, 4, 1, 1)
    >>> points, weights = np.full((1, 1, 1, 1, 1, 2), 0.5), np.ones((1, 1, 1, 1, 1))
    >>> along = {"value": np.ones((1, 4, 1, 1))}
    >>> pydeform.ms_deform_attn_jvp(value, [(2, 2)], [0], points, weights, tangents=along)
    (array([[[1.5]]]), array([[[1.]]]))
    """
    options = Options(spatial_shapes, level_start_index, kink)
    values = dict(zip(NAMES, (value, sampling_locations, attention_weights), strict=True))
    return _call.jvp(_RULES, values, options, tangents, out)


def ms_deform_attn_double_backward(
    grad_grads: Mapping[str, Array],
    grad_output: Array,
    value: A,
    spatial_shapes: Any,
    level_start_index: Any,
    sampling_locations: Array,
    attention_weights: Array,
    *,
    kink: Kink = "right",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> MsDeformAttnDoubleGrads[A]:
    """Compute the gradients of the gradients of `ms_deform_attn`.

    Parameters
    ----------
    grad_grads : mapping of str to array
        Cotangents of the gradients by argument; those that are missing are 0.
    grad_output : array, shape (N, Lq, M*D)
        Cotangent of the output.
    value, spatial_shapes, level_start_index, sampling_locations, attention_weights : array
        As in `ms_deform_attn`.
    kink : {"right", "open", "mean"}
        As in `ms_deform_attn`.
    needs : iterable of str, optional
        Names among "grad_output" and the arguments that results are computed for; all by default.
    out : mapping of str to array, optional
        Memory for results, by name.

    Returns
    -------
    MsDeformAttnDoubleGrads
        Named tuple (grad_output, value, sampling_locations, attention_weights): the gradients of
        the sum over names of <grad_grads[name], gradient of name>; None where not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `ms_deform_attn_backward`.

    See Also
    --------
    ms_deform_attn_backward : What is differentiated.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> value = np.arange(4.0).reshape(1, 4, 1, 1)
    >>> points, weights = np.full((1, 1, 1, 1, 1, 2), 0.5), np.ones((1, 1, 1, 1, 1))
    >>> y, along = np.ones((1, 1, 1)), {"value": value}
    >>> arguments = (y, value, [(2, 2)], [0], points, weights)
    >>> pydeform.ms_deform_attn_double_backward(along, *arguments).grad_output
    array([[[1.5]]])
    """
    options = Options(spatial_shapes, level_start_index, kink)
    values = dict(zip(NAMES, (value, sampling_locations, attention_weights), strict=True))
    return _call.double_backward(  # type: ignore[no-any-return]
        _RULES, grad_grads, grad_output, values, options, needs, out
    )
