"""Deformable convolution, version 4, in the layout that it was published with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, SupportsIndex, TypeVar

from pydeform._arrays import Array
from pydeform.ops import _call, _checks, _dcn, _samples
from pydeform.ops._call import Arrays
from pydeform.ops._checks import Kink

A = TypeVar("A", bound=Array)
T = TypeVar("T")


class Dcnv4Grads(NamedTuple, Generic[T]):
    """Gradients of `dcnv4`; None where not needed."""

    input: T | None
    offset_mask: T | None


class Dcnv4DoubleGrads(NamedTuple, Generic[T]):
    """Gradients of the gradients of `dcnv4`; None where not needed."""

    grad_output: T | None
    input: T | None
    offset_mask: T | None


def _plan(arrays: Arrays, accepted: Sequence[str], options: _dcn.Options) -> _samples.Plan:
    _checks.check_dtypes(arrays, accepted, wide=("offset_mask",))
    lattice = _dcn.lattice(options)
    g = _dcn.geometry_of(lattice, arrays["input"])
    channels = -(-g.offset_groups * g.taps * 3 // 8) * 8
    count = f"{g.offset_groups} groups * {g.taps} taps * 3, rounded up to a multiple of 8"
    meaning = f"(batch, *output, {count})"
    shape = (g.batch, *g.out_size, channels)
    _samples.check_shape("offset_mask", arrays["offset_mask"], shape, meaning)
    return _dcn.plan(g, True, arrays["input"], ("input", "offset_mask", "offset_mask"))


_RULES = _samples.rules(
    arguments=("input", "offset_mask"),
    required=("input", "offset_mask"),
    like="input",
    plan=_plan,
    grads=Dcnv4Grads,
    double_grads=Dcnv4DoubleGrads,
)


def dcnv4(
    input: A,
    offset_mask: Array,
    kernel_h: SupportsIndex,
    kernel_w: SupportsIndex,
    stride_h: SupportsIndex,
    stride_w: SupportsIndex,
    pad_h: SupportsIndex,
    pad_w: SupportsIndex,
    dilation_h: SupportsIndex,
    dilation_w: SupportsIndex,
    group: SupportsIndex,
    group_channels: SupportsIndex,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    kink: Kink = "right",
    out: Array | None = None,
) -> A:
    """Sum masked samples of a deformed lattice of taps (DCNv4).

    Each group of channels is sampled at every tap of the kernel and summed with the factors in
    `offset_mask`; there is no other weight. Layout, order of arguments and order of taps are those
    of the published operator.

    Parameters
    ----------
    input : array, shape (N, H, W, C)
        Batch, which may be empty, of images with their channels last.
    offset_mask : array, shape (N, Ho, Wo, ceil(group*K*3/8)*8)
        For each group 3*K channels: first the shift of every tap, in pixels before `offset_scale`,
        as (x, y) after (x, y), then the factor of every tap, used as it is: no softmax. Taps go
        column by column: tap ``i*kernel_h + j`` is in column i and row j. What is left up to the
        multiple of 8 is not read, and its gradient is 0.
    kernel_h, kernel_w : int
        Rows and columns of the kernel; K is their product, less 1 with `remove_center`.
    stride_h, stride_w : int
        Steps between output positions in pixels, at least 1.
    pad_h, pad_w : int
        Rows and columns of zeros on each side of the input.
    dilation_h, dilation_w : int
        Steps between taps in pixels, at least 1.
    group : int
        Groups of channels that share offsets and mask.
    group_channels : int
        Channels of each group; ``C = group*group_channels``.
    offset_scale : float
        Factor of the offsets and of the lattice of taps about its centre.
    remove_center : bool
        Leave out the tap at the centre; kernel_h and kernel_w must be odd.
    kink : {"right", "open", "mean"}
        Derivative at whole coordinates, as in `deform_conv2d`; "open" is the published operator's.
    out : array, shape of the output, optional
        Written and returned. C-contiguous, writable, of the dtype of input, no memory shared with
        another argument.

    Returns
    -------
    array, shape (N, Ho, Wo, C)
        Of the same kind and dtype as `input`; ``Ho = (H + 2*pad_h - dilation_h*(kernel_h - 1) -
        1)//stride_h + 1``.

    Raises
    ------
    TypeError
        If an argument is not an array or an option not of its type, if dtypes are mixed or not
        float32, float64, float16 or bfloat16 (offset_mask may be float32 beside 16-bit
        input), or devices are mixed.
    ValueError
        If shapes or options do not fit together, or `out` cannot be written.
    MemoryError
        If the output does not fit in memory. Nothing is written before all checks pass.

    See Also
    --------
    dcnv4_backward : Gradients.
    dcnv4_jvp : Directional derivatives.
    dcnv3 : The same with offset and mask in arrays of their own.

    Notes
    -----
    With the centre ``c = dilation*(kernel - 1)//2`` the tap in column i reads at ``x = q*stride_w -
    pad_w + c + (i*dilation_w - c + offset)*offset_scale``, and y likewise with its row. The image
    is 0 outside; samples between the last pixel and one beyond fade out. ``q*stride - pad`` is kept
    as an integer apart from the rest, so that wide images lose no bits.

    References
    ----------
    .. [1] Y. Xiong et al., "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator
       for Vision Applications", CVPR 2024.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x = np.arange(9.0, dtype=np.float32).reshape(1, 3, 3, 1)
    >>> offset_mask = np.zeros((1, 1, 1, 32), np.float32)  # 18 + 9, and 5 more that are not read
    >>> offset_mask[..., 0] = 0.5  # the tap at the top left, half a pixel along x
    >>> offset_mask[..., 18:27] = 1
    >>> pydeform.dcnv4(x, offset_mask, 3, 3, 1, 1, 0, 0, 1, 1, 1, 1)
    array([[[[36.5]]]], dtype=float32)
    """
    options = _dcn.Options(
        kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
        group, group_channels, offset_scale, remove_center, kink,
    )  # fmt: skip
    values = {"input": input, "offset_mask": offset_mask}
    return _call.forward(_RULES, values, options, out)  # type: ignore[no-any-return]


def dcnv4_backward(
    grad_output: Array,
    input: A,
    offset_mask: Array,
    kernel_h: SupportsIndex,
    kernel_w: SupportsIndex,
    stride_h: SupportsIndex,
    stride_w: SupportsIndex,
    pad_h: SupportsIndex,
    pad_w: SupportsIndex,
    dilation_h: SupportsIndex,
    dilation_w: SupportsIndex,
    group: SupportsIndex,
    group_channels: SupportsIndex,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    kink: Kink = "right",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> Dcnv4Grads[A]:
    """Compute the gradients of `dcnv4`.

    Parameters
    ----------
    grad_output : array, shape (N, Ho, Wo, C)
        Cotangent of the output.
    input, offset_mask : array
        As in `dcnv4`.
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w : int
        As in `dcnv4`.
    group, group_channels, offset_scale, remove_center, kink : int, float, bool, str
        As in `dcnv4`.
    needs : iterable of str, optional
        Names of the arguments whose gradients are computed; all by default.
    out : mapping of str to array, optional
        Memory for gradients, by name.

    Returns
    -------
    Dcnv4Grads
        Named tuple (input, offset_mask), each like its argument; None where not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `dcnv4`; ValueError also if a name in `needs` or `out` is unknown.

    See Also
    --------
    dcnv4 : The operation.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> packed = np.repeat([0.0, 1.0, 0.0], (18, 9, 5)).reshape(1, 1, 1, 32)
    >>> y = np.ones((1, 1, 1, 1))
    >>> pydeform.dcnv4_backward(y, x, packed, 3, 3, 1, 1, 0, 0, 1, 1, 1, 1).offset_mask[..., 18:27]
    array([[[[0., 3., 6., 1., 4., 7., 2., 5., 8.]]]])
    """
    options = _dcn.Options(
        kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
        group, group_channels, offset_scale, remove_center, kink,
    )  # fmt: skip
    values = {"input": input, "offset_mask": offset_mask}
    return _call.backward(_RULES, grad_output, values, options, needs, out)  # type: ignore[no-any-return]


def dcnv4_jvp(
    input: A,
    offset_mask: Array,
    kernel_h: SupportsIndex,
    kernel_w: SupportsIndex,
    stride_h: SupportsIndex,
    stride_w: SupportsIndex,
    pad_h: SupportsIndex,
    pad_w: SupportsIndex,
    dilation_h: SupportsIndex,
    dilation_w: SupportsIndex,
    group: SupportsIndex,
    group_channels: SupportsIndex,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    tangents: Mapping[str, Array],
    kink: Kink = "right",
    out: Mapping[str, Array] | None = None,
) -> tuple[A, A]:
    """Compute `dcnv4` and its derivative along tangents.

    Parameters
    ----------
    input, offset_mask : array
        As in `dcnv4`.
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w : int
        As in `dcnv4`.
    group, group_channels, offset_scale, remove_center : int, float, bool
        As in `dcnv4`.
    tangents : mapping of str to array
        Directions by argument, each like its argument; those that are missing are 0.
    kink : {"right", "open", "mean"}
        As in `dcnv4`.
    out : mapping of str to array, optional
        Memory for "output" and "output_tangent".

    Returns
    -------
    output, output_tangent : array, shape (N, Ho, Wo, C)
        The output, to the bit that of `dcnv4`, and its derivative.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `dcnv4`; ValueError also if a tangent is not like its argument.

    See Also
    --------
    dcnv4 : The operation.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> packed = np.repeat([0.0, 1.0, 0.0], (18, 9, 5)).reshape(1, 1, 1, 32)
    >>> along = {"input": np.ones((1, 3, 3, 1))}
    >>> arguments = (x, packed, 3, 3, 1, 1, 0, 0, 1, 1, 1, 1)
    >>> pydeform.dcnv4_jvp(*arguments, tangents=along)[1]
    array([[[[9.]]]])
    """
    options = _dcn.Options(
        kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
        group, group_channels, offset_scale, remove_center, kink,
    )  # fmt: skip
    values = {"input": input, "offset_mask": offset_mask}
    return _call.jvp(_RULES, values, options, tangents, out)


def dcnv4_double_backward(
    grad_grads: Mapping[str, Array],
    grad_output: Array,
    input: A,
    offset_mask: Array,
    kernel_h: SupportsIndex,
    kernel_w: SupportsIndex,
    stride_h: SupportsIndex,
    stride_w: SupportsIndex,
    pad_h: SupportsIndex,
    pad_w: SupportsIndex,
    dilation_h: SupportsIndex,
    dilation_w: SupportsIndex,
    group: SupportsIndex,
    group_channels: SupportsIndex,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    *,
    kink: Kink = "right",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> Dcnv4DoubleGrads[A]:
    """Compute the gradients of the gradients of `dcnv4`.

    Parameters
    ----------
    grad_grads : mapping of str to array
        Cotangents of the gradients by argument; those that are missing are 0.
    grad_output : array, shape (N, Ho, Wo, C)
        Cotangent of the output.
    input, offset_mask : array
        As in `dcnv4`.
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w : int
        As in `dcnv4`.
    group, group_channels, offset_scale, remove_center, kink : int, float, bool, str
        As in `dcnv4`.
    needs : iterable of str, optional
        Names among "grad_output" and the arguments that results are computed for; all by default.
    out : mapping of str to array, optional
        Memory for results, by name.

    Returns
    -------
    Dcnv4DoubleGrads
        Named tuple (grad_output, input, offset_mask): the gradients of the sum over names of
        <grad_grads[name], gradient of name>; None where not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `dcnv4_backward`.

    See Also
    --------
    dcnv4_backward : What is differentiated.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> packed = np.repeat([0.0, 1.0, 0.0], (18, 9, 5)).reshape(1, 1, 1, 32)
    >>> y, along = np.ones((1, 1, 1, 1)), {"input": x}
    >>> arguments = (y, x, packed, 3, 3, 1, 1, 0, 0, 1, 1, 1, 1)
    >>> pydeform.dcnv4_double_backward(along, *arguments).grad_output
    array([[[[36.]]]])
    """
    options = _dcn.Options(
        kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
        group, group_channels, offset_scale, remove_center, kink,
    )  # fmt: skip
    values = {"input": input, "offset_mask": offset_mask}
    return _call.double_backward(  # type: ignore[no-any-return]
        _RULES, grad_grads, grad_output, values, options, needs, out
    )
