"""Convolution with a kernel per position: the public functions.

    y_c(q) = sum over taps of  kernel[g(c), tap, q] * x_c(p(q, tap))
    p      = q // upscale * stride - padding + tap * dilation + offset          (pixels)

Every channel is read on its own; groups of channels share a kernel, which the caller predicts for
every output position. Each function is written once, for all ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import SupportsIndex, TypeVar

from pydeform._arrays import Array
from pydeform.ops import _call
from pydeform.ops._checks import Kink, Layout, Mode, Padding, PerAxis
from pydeform.ops._local import RULES, LocalConvDoubleGrads, LocalConvGrads, Options
from pydeform.ops._ranks import of_rank

A = TypeVar("A", bound=Array)


def local_conv(
    rank: int,
    /,
    input: A,
    kernel: Array,
    offset: Array | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    *,
    kernel_size: PerAxis | None = None,
    upscale: PerAxis = 1,
    groups: SupportsIndex | None = None,
    offset_groups: SupportsIndex | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    layout: Layout = "channels_first",
    out: Array | None = None,
) -> A:
    """Convolve images with a kernel of its own at every output position.

    Channel c at output position q is the sum over taps t of ``kernel[c // (C/G), t, q]`` times the
    input at ``q//upscale*stride - padding + t*dilation + offset``, by linear interpolation: what
    dynamic filter networks, involution, kernel prediction and CARAFE do once the kernel is there.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch, which may be empty, of images.
    kernel : array, shape (N, G, K, *O)
        Factor of each of K taps in row-major order at every output position, for G groups of
        channels, which divide C. Used as it is: no softmax. Its axes are (N, *O, G, K) where
        `layout` is "channels_last".
    offset : array, shape (N, Go*K*RANK, *O), optional
        Shift of every tap at every output position, in pixels, as of `deform_convRANKd`: channel
        ``(g*K + tap)*RANK + axis`` for offset group g and axes AXES. Go divides C; it need not be
        equal to G. None is 0.
    stride : int or RANK of them
        Steps between output positions in pixels, at least 1.
    padding : int, RANK of them, RANK pairs (begin, end), "same" or "valid"
        Pixels added around the input, where `mode` says what they hold. "same" gives
        ceil(size/stride) steps.
    dilation : int or RANK of them
        Steps between taps in pixels, at least 1.
    kernel_size : int or RANK of them, optional
        (*k), with K = prod(k). Default: the kernel is as long along every axis.
    upscale : int or RANK of them
        Output positions per step and axis, which read the same pixels with kernels of their own.
    groups, offset_groups : int, optional
        G and Go. Inferred from the shapes of kernel and offset; given, they are checked.
    mode : {"zeros", "clip_zero", "border"}
        What is read outside, as of `deform_convRANKd`.
    kink : {"right", "open", "mean"}
        Derivative at whole coordinates, as of `deform_convRANKd`.
    layout : {"channels_first", "channels_last"}
        With "channels_last" input, offset and the output have their channels last, the kernel its
        groups and taps.
    out : array, shape of the output, optional
        Written and returned. C-contiguous, writable, of the dtype of input, no memory shared with
        another argument.

    Returns
    -------
    array, shape (N, C, *O)
        Of the same kind and dtype as `input`; along each axis ``upscale * ((S + begin + end -
        dilation*(k - 1) - 1)//stride + 1)`` positions.

    Raises
    ------
    TypeError
        If an argument is not an array or an option not of its type, if dtypes are mixed or not
        float32, float64, float16 or bfloat16 (kernel and offset may both be float32 beside 16-bit
        arrays), or devices are mixed.
    ValueError
        If shapes or options do not fit together, or `out` cannot be written.
    MemoryError
        If the output does not fit in memory. Nothing is written before all checks pass.

    See Also
    --------
    local_convRANKd_backward : Gradients.
    deform_convRANKd : One kernel for all positions, across channels.

    Notes
    -----
    float16 and bfloat16 are storage: arithmetic and coordinates are float32. A sample at a NaN
    coordinate is NaN, at an infinite one 0. The bits of the result do not depend on the number of
    threads.

    References
    ----------
    .. [1] X. Jia et al., "Dynamic Filter Networks", NeurIPS 2016.
    .. [2] D. Li et al., "Involution: Inverting the Inherence of Convolution for Visual
           Recognition", CVPR 2021.
    .. [3] J. Wang et al., "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x = np.arange(4.0**RANK).reshape(1, 1, *(4,) * RANK)
    >>> kernel = np.zeros((1, 1, 3**RANK, *(4,) * RANK))
    >>> kernel[:, :, 3**RANK // 2] = 2  # the tap in the middle, at every position
    >>> y = pydeform.local_convRANKd(x, kernel, padding=1)
    >>> np.array_equal(y, 2 * x)
    True
    """
    return _call.forward(  # type: ignore[no-any-return]
        RULES,
        {"input": input, "kernel": kernel, "offset": offset},
        Options(
            rank,
            (stride, padding, dilation),
            kernel_size,
            upscale,
            (groups, offset_groups),
            mode,
            kink,
            layout,
        ),
        out,
    )


def local_conv_backward(
    rank: int,
    /,
    grad_output: Array,
    input: A,
    kernel: Array,
    offset: Array | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    *,
    kernel_size: PerAxis | None = None,
    upscale: PerAxis = 1,
    groups: SupportsIndex | None = None,
    offset_groups: SupportsIndex | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    layout: Layout = "channels_first",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> LocalConvGrads[A]:
    """Compute the gradients of `local_convRANKd` (reverse mode).

    Parameters
    ----------
    grad_output : array, shape (N, C, *O)
        Gradient of some loss with respect to the output.
    input, kernel, offset, stride, padding, dilation : see `local_convRANKd`
        As they were given to it.
    kernel_size, upscale, groups, offset_groups, mode, kink, layout : see `local_convRANKd`
        As they were given to it.
    needs : iterable of str, optional
        Names among "input", "kernel", "offset" whose gradients are computed. Default: of all
        arguments that are given.
    out : mapping from names to arrays, optional
        Gradients to be written in these arrays, which are returned; each as `out` of
        `local_convRANKd`.

    Returns
    -------
    LocalConvGrads
        Named tuple (input, kernel, offset); each of the shape and dtype of its argument, None where
        the argument is absent or its gradient not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `local_convRANKd`, also where `grad_output` has not the shape and dtype of the output, or
        `needs` or `out` name an argument that is absent.

    Notes
    -----
    A sample at a NaN coordinate gives NaN to its own offset and kernel entry, and nothing to the
    input; one at an infinite coordinate gives 0.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, kernel = np.ones((1, 2, *(6,) * RANK)), np.ones((1, 1, 3**RANK, *(6,) * RANK))
    >>> grads = pydeform.local_convRANKd_backward(x, x, kernel, padding=1)
    >>> grads.kernel.shape == kernel.shape, grads.offset
    (True, None)
    """
    return _call.backward(  # type: ignore[no-any-return]
        RULES,
        grad_output,
        {"input": input, "kernel": kernel, "offset": offset},
        Options(
            rank,
            (stride, padding, dilation),
            kernel_size,
            upscale,
            (groups, offset_groups),
            mode,
            kink,
            layout,
        ),
        needs,
        out,
    )


def local_conv_jvp(
    rank: int,
    /,
    input: A,
    kernel: Array,
    offset: Array | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    *,
    tangents: Mapping[str, Array],
    kernel_size: PerAxis | None = None,
    upscale: PerAxis = 1,
    groups: SupportsIndex | None = None,
    offset_groups: SupportsIndex | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    layout: Layout = "channels_first",
    out: Mapping[str, Array] | None = None,
) -> tuple[A, A]:
    """Compute the output of `local_convRANKd` and its derivative along a direction (forward mode).

    Parameters
    ----------
    input, kernel, offset, stride, padding, dilation : see `local_convRANKd`
        As they were given to it.
    tangents : mapping from names to arrays
        The direction, by names among "input", "kernel", "offset"; each of the shape and dtype of
        its argument. What is not named does not change.
    kernel_size, upscale, groups, offset_groups, mode, kink, layout : see `local_convRANKd`
        As they were given to it.
    out : mapping from "output" and "output_tangent" to arrays, optional
        Results to be written in these arrays, which are returned; each as `out` of
        `local_convRANKd`.

    Returns
    -------
    output : array, shape (N, C, *O)
        As of `local_convRANKd`.
    output_tangent : array, shape (N, C, *O)
        Derivative of the output along `tangents`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `local_convRANKd`, also where a tangent names an absent argument or is not like it.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, kernel = np.ones((1, 2, *(6,) * RANK)), np.ones((1, 1, 3**RANK, *(6,) * RANK))
    >>> y, dy = pydeform.local_convRANKd_jvp(x, kernel, padding=1, tangents={"kernel": kernel})
    >>> np.array_equal(y, dy)
    True
    """
    return _call.jvp(
        RULES,
        {"input": input, "kernel": kernel, "offset": offset},
        Options(
            rank,
            (stride, padding, dilation),
            kernel_size,
            upscale,
            (groups, offset_groups),
            mode,
            kink,
            layout,
        ),
        tangents,
        out,
    )


def local_conv_double_backward(
    rank: int,
    /,
    grad_grads: Mapping[str, Array],
    grad_output: Array,
    input: A,
    kernel: Array,
    offset: Array | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    *,
    kernel_size: PerAxis | None = None,
    upscale: PerAxis = 1,
    groups: SupportsIndex | None = None,
    offset_groups: SupportsIndex | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    layout: Layout = "channels_first",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> LocalConvDoubleGrads[A]:
    """Compute the gradients of `local_convRANKd_backward` (second order).

    Parameters
    ----------
    grad_grads : mapping from names to arrays
        Gradient of some loss with respect to each result of `local_convRANKd_backward`, by names
        among "input", "kernel", "offset"; each of the shape and dtype of its argument. What is not
        named is 0.
    grad_output : array, shape (N, C, *O)
        As given to `local_convRANKd_backward`.
    input, kernel, offset, stride, padding, dilation : see `local_convRANKd`
        As they were given to it.
    kernel_size, upscale, groups, offset_groups, mode, kink, layout : see `local_convRANKd`
        As they were given to it.
    needs : iterable of str, optional
        Names among "grad_output" and the arguments whose gradients are computed. Default: all that
        are given.
    out : mapping from names to arrays, optional
        Gradients to be written in these arrays, which are returned; each as `out` of
        `local_convRANKd`.

    Returns
    -------
    LocalConvDoubleGrads
        Named tuple (grad_output, input, kernel, offset); each of the shape and dtype of its
        argument, None where absent or not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `local_convRANKd_backward`, also where `grad_grads` names an absent argument or holds an
        array unlike it.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, kernel = np.ones((1, 2, *(6,) * RANK)), np.ones((1, 1, 3**RANK, *(6,) * RANK))
    >>> second = pydeform.local_convRANKd_double_backward({"input": x}, x, x, kernel, padding=1)
    >>> np.array_equal(second.grad_output, pydeform.local_convRANKd(x, kernel, padding=1))
    True
    """
    return _call.double_backward(  # type: ignore[no-any-return]
        RULES,
        grad_grads,
        grad_output,
        {"input": input, "kernel": kernel, "offset": offset},
        Options(
            rank,
            (stride, padding, dilation),
            kernel_size,
            upscale,
            (groups, offset_groups),
            mode,
            kink,
            layout,
        ),
        needs,
        out,
    )


local_conv1d = of_rank(local_conv, 1)
local_conv2d = of_rank(local_conv, 2)
local_conv3d = of_rank(local_conv, 3)
local_conv1d_backward = of_rank(local_conv_backward, 1)
local_conv2d_backward = of_rank(local_conv_backward, 2)
local_conv3d_backward = of_rank(local_conv_backward, 3)
local_conv1d_jvp = of_rank(local_conv_jvp, 1)
local_conv2d_jvp = of_rank(local_conv_jvp, 2)
local_conv3d_jvp = of_rank(local_conv_jvp, 3)
local_conv1d_double_backward = of_rank(local_conv_double_backward, 1)
local_conv2d_double_backward = of_rank(local_conv_double_backward, 2)
local_conv3d_double_backward = of_rank(local_conv_double_backward, 3)
