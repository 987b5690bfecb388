"""Deformable convolution: the public functions, written once for all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import SupportsIndex, TypeVar

from pydeform._arrays import Array
from pydeform.ops import deform_conv as _any_rank
from pydeform.ops._checks import Kink, Layout, Mode, Options, Padding, PerAxis
from pydeform.ops._ranks import of_rank

A = TypeVar("A", bound=Array)


def deform_conv(
    rank: int,
    /,
    input: A,
    offset: Array | None,
    weight: Array,
    bias: Array | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    mask: Array | None = None,
    *,
    groups: SupportsIndex | None = None,
    offset_groups: SupportsIndex | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    layout: Layout = "channels_first",
    out: Array | None = None,
) -> A:
    """Convolve images with a deformable kernel (DCNv1; with `mask` DCNv2).

    Tap `t` of the kernel reads the input at ``q*stride - padding + t*dilation + offset`` by linear
    interpolation, in pixels, and not only on the grid. Zero offsets give the plain convolution (a
    cross-correlation).

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch, which may be empty, of images.
    offset : array, shape (N, Go*PROD*RANK, *O), or None
        Shift of every tap at every output position, in pixels. Channel ``(g*K + tap)*RANK + axis``
        for offset group g, K taps in row-major order and axes AXES. None is a plain convolution.
    weight : array, shape (Co, C/groups, *k) or (N, Co, C/groups, *k)
        Kernel, or one kernel per sample of the batch.
    bias : array, shape (Co,), optional
        Added to every output position.
    stride : int or RANK of them
        Steps between output positions in pixels, at least 1.
    padding : int, RANK of them, RANK pairs (begin, end), "same" or "valid"
        Pixels added around the input, where `mode` says what they hold. "same" gives
        ceil(size/stride) outputs.
    dilation : int or RANK of them
        Steps between taps in pixels, at least 1.
    mask : array, shape (N, Go*PROD, *O), optional
        Factor of every tap at every output position, used as it is: no sigmoid, no softmax.
    groups : int, optional
        Channel groups of the kernel. Inferred from the shapes of input and weight; given, it is
        checked.
    offset_groups : int, optional
        Go, groups of input channels that share offsets. Inferred from the shape of offset, else of
        mask.
    mode : {"zeros", "clip_zero", "border"}
        "zeros": the input is 0 outside, and samples between the last pixel and one beyond fade out.
        "clip_zero": samples below 0 count 0, those beyond the last pixel are clamped to it, at the
        size and beyond 0. "border": coordinates are clamped to the edge.
    kink : {"right", "open", "mean"}
        Derivative at whole coordinates, where it jumps: the right one; the right one, but 0 for
        samples at or beyond one pixel outside; half the left and half the right one. The output
        does not depend on it.
    layout : {"channels_first", "channels_last"}
        With "channels_last" input, offset, mask and the output have their channels last:
        (N, *S, C).
    out : array, shape of the output, optional
        Written and returned. C-contiguous, writable, of the dtype of input, no memory shared with
        another argument.

    Returns
    -------
    array, shape (N, Co, *O)
        Of the same kind and dtype as `input`; ``Wo = (W + begin + end - dilation*(kW - 1) -
        1)//stride + 1``.

    Raises
    ------
    TypeError
        If an argument is not an array or an option not of its type, if dtypes are mixed or not
        float32, float64, float16 or bfloat16 (offset and mask may both be float32 beside 16-bit
        arrays), or devices are mixed.
    ValueError
        If shapes or options do not fit together, or `out` cannot be written.
    MemoryError
        If the output does not fit in memory. Nothing is written before all checks pass.

    See Also
    --------
    deform_convRANKd_backward : Gradients.
    deform_convRANKd_jvp : Directional derivatives.

    Notes
    -----
    float16 and bfloat16 are storage: arithmetic and coordinates are float32. A sample at a NaN
    coordinate is NaN, at an infinite one 0. The bits of the result do not depend on the number of
    threads.

    References
    ----------
    .. [1] J. Dai et al., "Deformable Convolutional Networks", ICCV 2017.
    .. [2] X. Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x = np.arange(4.0**RANK, dtype=np.float32).reshape(1, 1, *(4,) * RANK)
    >>> w = np.ones((1, 1, *(1,) * RANK), np.float32)
    >>> offset = np.zeros((1, RANK, *(4,) * RANK), np.float32)
    >>> offset[:, -1] = 0.5  # half a pixel along x
    >>> pydeform.deform_convRANKd(x, offset, w).reshape(-1, 4)[0]
    array([0.5, 1.5, 2.5, 1.5], dtype=float32)
    >>> rng = np.random.default_rng(0)
    >>> size, taps = (9,) * RANK, 3**RANK
    >>> x, w = rng.normal(size=(2, 3, *size)), rng.normal(size=(8, 3, *(3,) * RANK))
    >>> offset = rng.normal(size=(2, taps * RANK, *size))
    >>> mask = rng.random((2, taps, *size))
    >>> y = pydeform.deform_convRANKd(x, offset, w, padding=1, mask=mask)
    >>> y.shape == (2, 8, *size)
    True
    """
    return _any_rank.deform_conv(  # type: ignore[no-any-return]
        rank,
        (input, offset, weight, bias, mask),
        Options(stride, padding, dilation, groups, offset_groups, mode, kink, layout),
        out,
    )


def deform_conv_backward(
    rank: int,
    /,
    grad_output: Array,
    input: A,
    offset: Array | None,
    weight: Array,
    bias: Array | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    mask: Array | None = None,
    *,
    groups: SupportsIndex | None = None,
    offset_groups: SupportsIndex | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    layout: Layout = "channels_first",
    needs: Iterable[str] | None = None,
    deterministic: bool = True,
    out: Mapping[str, Array] | None = None,
) -> _any_rank.DeformConvGrads[A]:
    """Compute the gradients of `deform_convRANKd` (reverse mode).

    Parameters
    ----------
    grad_output : array, shape (N, Co, *O)
        Gradient of some loss with respect to the output.
    input, offset, weight, bias, stride, padding, dilation, mask : see `deform_convRANKd`
        As they were given to it.
    groups, offset_groups, mode, kink, layout : see `deform_convRANKd`
        As they were given to it.
    needs : iterable of str, optional
        Names among "input", "offset", "weight", "bias", "mask" whose gradients are computed.
        Default: of all arguments that are given.
    deterministic : bool
        Give the same bits on every run. On the CPU that is so whatever is said here, for any number
        of threads. On a GPU False adds the input's gradient up by atomic additions instead of
        sorting the samples: less work, and bits that may differ from run to run.
    out : mapping from names to arrays, optional
        Gradients to be written in these arrays, which are returned; each as `out` of
        `deform_convRANKd`.

    Returns
    -------
    DeformConvGrads
        Named tuple (input, offset, weight, bias, mask); each of the shape and dtype of its
        argument, None where the argument is absent or its gradient not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `deform_convRANKd`, also where `grad_output` has not the shape and dtype of the output,
        or `needs` or `out` name an argument that is absent.

    Notes
    -----
    A sample at a NaN coordinate gives NaN to its own offset and mask and to the weight, and nothing
    to the input; one at an infinite coordinate gives 0.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, w = np.ones((1, 2, *(8,) * RANK)), np.ones((4, 2, *(3,) * RANK))
    >>> offset = np.full((1, 3**RANK * RANK, *(8,) * RANK), 0.25)
    >>> gy = np.ones((1, 4, *(8,) * RANK))
    >>> grads = pydeform.deform_convRANKd_backward(gy, x, offset, w, padding=1, needs=("offset",))
    >>> grads.offset.shape == offset.shape, grads.weight
    (True, None)
    """
    return _any_rank.deform_conv_backward(
        rank,
        grad_output,
        (input, offset, weight, bias, mask),
        Options(stride, padding, dilation, groups, offset_groups, mode, kink, layout),
        needs,
        deterministic,
        out,
    )


def deform_conv_jvp(
    rank: int,
    /,
    input: A,
    offset: Array | None,
    weight: Array,
    bias: Array | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    mask: Array | None = None,
    *,
    tangents: Mapping[str, Array],
    groups: SupportsIndex | None = None,
    offset_groups: SupportsIndex | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    layout: Layout = "channels_first",
    out: Mapping[str, Array] | None = None,
) -> tuple[A, A]:
    """Compute the output of `deform_convRANKd` and its derivative along a direction (forward mode).

    Parameters
    ----------
    input, offset, weight, bias, stride, padding, dilation, mask : see `deform_convRANKd`
        As they were given to it.
    tangents : mapping from names to arrays
        The direction, by names among "input", "offset", "weight", "bias", "mask"; each of the shape
        and dtype of its argument. What is not named does not change.
    groups, offset_groups, mode, kink, layout : see `deform_convRANKd`
        As they were given to it.
    out : mapping from "output" and "output_tangent" to arrays, optional
        Results to be written in these arrays, which are returned; each as `out` of
        `deform_convRANKd`.

    Returns
    -------
    output : array, shape (N, Co, *O)
        As of `deform_convRANKd`.
    output_tangent : array, shape (N, Co, *O)
        Derivative of the output along `tangents`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `deform_convRANKd`, also where a tangent names an absent argument or is not like it.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, w = np.ones((1, 2, *(8,) * RANK)), np.ones((4, 2, *(3,) * RANK))
    >>> y, dy = pydeform.deform_convRANKd_jvp(x, None, w, padding=1, tangents={"weight": w})
    >>> np.array_equal(y, dy)
    True
    """
    return _any_rank.deform_conv_jvp(
        rank,
        (input, offset, weight, bias, mask),
        Options(stride, padding, dilation, groups, offset_groups, mode, kink, layout),
        tangents,
        out,
    )


def deform_conv_double_backward(
    rank: int,
    /,
    grad_grads: Mapping[str, Array],
    grad_output: Array,
    input: A,
    offset: Array | None,
    weight: Array,
    bias: Array | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    mask: Array | None = None,
    *,
    groups: SupportsIndex | None = None,
    offset_groups: SupportsIndex | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    layout: Layout = "channels_first",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> _any_rank.DeformConvDoubleGrads[A]:
    """Compute the gradients of `deform_convRANKd_backward` (second order).

    Parameters
    ----------
    grad_grads : mapping from names to arrays
        Gradient of some loss with respect to each result of `deform_convRANKd_backward`, by names
        among "input", "offset", "weight", "bias", "mask"; each of the shape and dtype of its
        argument. What is not named is 0.
    grad_output : array, shape (N, Co, *O)
        As given to `deform_convRANKd_backward`.
    input, offset, weight, bias, stride, padding, dilation, mask : see `deform_convRANKd`
        As they were given to it.
    groups, offset_groups, mode, kink, layout : see `deform_convRANKd`
        As they were given to it.
    needs : iterable of str, optional
        Names among "grad_output" and the arguments whose gradients are computed. Default: all that
        are given.
    out : mapping from names to arrays, optional
        Gradients to be written in these arrays, which are returned; each as `out` of
        `deform_convRANKd`.

    Returns
    -------
    DeformConvDoubleGrads
        Named tuple (grad_output, input, offset, weight, bias, mask); each of the shape and dtype of
        its argument, None where absent or not needed. That of bias is 0, as no gradient depends on
        it.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `deform_convRANKd_backward`, also where `grad_grads` names an absent argument or holds an
        array unlike it.

    Notes
    -----
    At whole coordinates the second derivatives follow `kink` like the first. The second derivative
    along one and the same axis is 0, since the interpolation is linear.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, w = np.ones((1, 2, *(8,) * RANK)), np.ones((4, 2, *(3,) * RANK))
    >>> gy = np.ones((1, 4, *(8,) * RANK))
    >>> t = {"input": x}
    >>> second = pydeform.deform_convRANKd_double_backward(t, gy, x, None, w, padding=1)
    >>> np.array_equal(second.grad_output, pydeform.deform_convRANKd(x, None, w, padding=1))
    True
    """
    return _any_rank.deform_conv_double_backward(
        rank,
        grad_grads,
        grad_output,
        (input, offset, weight, bias, mask),
        Options(stride, padding, dilation, groups, offset_groups, mode, kink, layout),
        needs,
        out,
    )


deform_conv1d = of_rank(deform_conv, 1)
deform_conv2d = of_rank(deform_conv, 2)
deform_conv3d = of_rank(deform_conv, 3)
deform_conv1d_backward = of_rank(deform_conv_backward, 1)
deform_conv2d_backward = of_rank(deform_conv_backward, 2)
deform_conv3d_backward = of_rank(deform_conv_backward, 3)
deform_conv1d_jvp = of_rank(deform_conv_jvp, 1)
deform_conv2d_jvp = of_rank(deform_conv_jvp, 2)
deform_conv3d_jvp = of_rank(deform_conv_jvp, 3)
deform_conv1d_double_backward = of_rank(deform_conv_double_backward, 1)
deform_conv2d_double_backward = of_rank(deform_conv_double_backward, 2)
deform_conv3d_double_backward = of_rank(deform_conv_double_backward, 3)
