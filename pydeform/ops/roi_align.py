"""RoIAlign: averages of regions of interest in bins, without rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, SupportsIndex, TypeVar

from pydeform._arrays import Array
from pydeform.ops import _call, _parts, _roi
from pydeform.ops._checks import PerAxis

A = TypeVar("A", bound=Array)
T = TypeVar("T")


class RoiAlignGrads(NamedTuple, Generic[T]):
    """Gradient of `roi_align`; None where not needed."""

    input: T | None


class RoiAlignDoubleGrads(NamedTuple, Generic[T]):
    """Gradients of the gradient of `roi_align`; None where not needed."""

    grad_output: T | None
    input: T | None


_RULES = _parts.rules(
    arguments=("input",),
    required=("input",),
    constants=("rois",),
    like="input",
    plan=_roi.plan,
    grads=RoiAlignGrads,
    double_grads=RoiAlignDoubleGrads,
)


def _options(output_size: object, spatial_scale: object, sampling_ratio: object) -> _roi.Options:
    return _roi.Options(output_size, spatial_scale, sampling_ratio, 0.0, "right")


def roi_align(
    input: A,
    rois: Array,
    output_size: PerAxis,
    spatial_scale: float = 1.0,
    sampling_ratio: SupportsIndex = 0,
    *,
    out: Array | None = None,
) -> A:
    """Average regions of images in bins (RoIAlign).

    Each region is split into bins; each bin is the average of a grid of bilinear samples. This is
    `deform_roi_pool` with offsets of 0, and ``torchvision.ops.roi_align`` with ``aligned=True``.

    Parameters
    ----------
    input : array, shape (N, C, H, W)
        Batch of images.
    rois : array of float32 or float64, shape (R, 5)
        Regions (i, x1, y1, x2, y2): which image, and two corners, x1 < x2 and y1 < y2, in pixels
        before `spatial_scale`. There may be none. No derivative is taken by them. Beside an input
        on a CUDA device they may lie on the CPU; else they are fetched, which waits for the device.
    output_size : int or 2 of them
        Bins (ph, pw) of each region.
    spatial_scale : float
        From units of `rois` to pixels of `input`.
    sampling_ratio : int
        Samples per bin along each axis; with 0 (or -1) as many as a bin has pixels, rounded up.
    out : array, shape of the output, optional
        Written and returned. C-contiguous, writable, of the dtype of input, no memory shared with
        another argument.

    Returns
    -------
    array, shape (R, C, ph, pw)
        Of the same kind and dtype as `input`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `deform_roi_pool`. Nothing is written before all checks pass.

    See Also
    --------
    deform_roi_pool : With bins that move.

    References
    ----------
    .. [1] K. He et al., "Mask R-CNN", ICCV 2017.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> pydeform.roi_align(x, np.array([[0.0, 1, 1, 3, 3]]), 2)
    array([[[[ 5.,  6.],
             [ 9., 10.]]]])
    """
    options = _options(output_size, spatial_scale, sampling_ratio)
    return _call.forward(  # type: ignore[no-any-return]
        _RULES, {"input": input, "rois": rois}, options, out
    )


def roi_align_backward(
    grad_output: Array,
    input: A,
    rois: Array,
    output_size: PerAxis,
    spatial_scale: float = 1.0,
    sampling_ratio: SupportsIndex = 0,
    *,
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> RoiAlignGrads[A]:
    """Compute the gradient of `roi_align`.

    Parameters
    ----------
    grad_output : array, shape (R, C, ph, pw)
        Cotangent of the output.
    input, rois : array
        As in `roi_align`. Of input only shape and dtype matter.
    output_size, spatial_scale, sampling_ratio : int, float
        As in `roi_align`.
    needs : iterable of str, optional
        Names of the arguments whose gradients are computed; all by default.
    out : mapping of str to array, optional
        Memory for gradients, by name.

    Returns
    -------
    RoiAlignGrads
        Named tuple (input,), like the argument; None where not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `roi_align`; ValueError also if a name in `needs` or `out` is unknown.

    See Also
    --------
    roi_align : The operation.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, rois = np.ones((1, 1, 2, 2)), np.array([[0.0, 0, 0, 2, 2]])
    >>> pydeform.roi_align_backward(np.ones((1, 1, 1, 1)), x, rois, 1).input
    array([[[[0.25, 0.25],
             [0.25, 0.25]]]])
    """
    options = _options(output_size, spatial_scale, sampling_ratio)
    values = {"input": input, "rois": rois}
    return _call.backward(_RULES, grad_output, values, options, needs, out)  # type: ignore[no-any-return]


def roi_align_jvp(
    input: A,
    rois: Array,
    output_size: PerAxis,
    spatial_scale: float = 1.0,
    sampling_ratio: SupportsIndex = 0,
    *,
    tangents: Mapping[str, Array],
    out: Mapping[str, Array] | None = None,
) -> tuple[A, A]:
    """Compute `roi_align` and its derivative along a tangent.

    Parameters
    ----------
    input, rois : array
        As in `roi_align`.
    output_size, spatial_scale, sampling_ratio : int, float
        As in `roi_align`.
    tangents : mapping of str to array
        The direction of "input", like it; missing, it is 0.
    out : mapping of str to array, optional
        Memory for "output" and "output_tangent".

    Returns
    -------
    output, output_tangent : array, shape (R, C, ph, pw)
        The output, to the bit that of `roi_align`, and its derivative.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `roi_align`; ValueError also if a tangent is not like its argument.

    See Also
    --------
    roi_align : The operation.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, rois = np.ones((1, 1, 2, 2)), np.array([[0.0, 0, 0, 2, 2]])
    >>> pydeform.roi_align_jvp(x, rois, 1, tangents={"input": 3 * x})
    (array([[[[1.]]]]), array([[[[3.]]]]))
    """
    options = _options(output_size, spatial_scale, sampling_ratio)
    return _call.jvp(_RULES, {"input": input, "rois": rois}, options, tangents, out)


def roi_align_double_backward(
    grad_grads: Mapping[str, Array],
    grad_output: Array,
    input: A,
    rois: Array,
    output_size: PerAxis,
    spatial_scale: float = 1.0,
    sampling_ratio: SupportsIndex = 0,
    *,
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> RoiAlignDoubleGrads[A]:
    """Compute the gradients of the gradient of `roi_align`.

    Parameters
    ----------
    grad_grads : mapping of str to array
        Cotangent of the gradient of "input"; missing, it is 0.
    grad_output : array, shape (R, C, ph, pw)
        Cotangent of the output.
    input, rois : array
        As in `roi_align`.
    output_size, spatial_scale, sampling_ratio : int, float
        As in `roi_align`.
    needs : iterable of str, optional
        Names among "grad_output" and "input" that results are computed for; both by default.
    out : mapping of str to array, optional
        Memory for results, by name.

    Returns
    -------
    RoiAlignDoubleGrads
        Named tuple (grad_output, input): the gradients of <grad_grads["input"], gradient of input>;
        that by input is 0, as the operation is linear.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `roi_align_backward`.

    See Also
    --------
    roi_align_backward : What is differentiated.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, rois = np.ones((1, 1, 2, 2)), np.array([[0.0, 0, 0, 2, 2]])
    >>> y, along = np.ones((1, 1, 1, 1)), {"input": 3 * x}
    >>> pydeform.roi_align_double_backward(along, y, x, rois, 1).grad_output
    array([[[[3.]]]])
    """
    options = _options(output_size, spatial_scale, sampling_ratio)
    values = {"input": input, "rois": rois}
    return _call.double_backward(  # type: ignore[no-any-return]
        _RULES, grad_grads, grad_output, values, options, needs, out
    )
