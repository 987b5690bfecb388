"""Kernels that depend on the position: predicted from features, one for every output pixel."""

from __future__ import annotations

from math import isqrt
from typing import Any

from pydeform.recipes._namespace import (
    Array,
    axes_of,
    convolve,
    namespace,
    neighbours,
    pointwise,
    relu,
    shape_of,
    softmax,
)
from pydeform.recipes._primitives import (
    deform_conv2d,
    local_conv2d,
)


def dynamic_local_filter(
    input: Array,
    features: Array,
    generator: Array,
    bias: Array | None = None,
    *,
    groups: int = 1,
    normalise: bool = False,
    **options: Any,
) -> Array:
    """Filter every position with a kernel of its own, generated from features there.

    Parameters
    ----------
    input : array, shape (N, C, H, W)
        Images to be filtered.
    features : array, shape (N, F, Ho, Wo)
        What the kernels are generated from, on the grid of the output.
    generator : array, shape (groups*K, F)
        Weight of the generating layer, a 1 x 1 convolution; K = k*k taps.
    bias : array, shape (groups*K,), optional
        Its bias.
    groups : int
        Channel groups, each of which has kernels of its own.
    normalise : bool
        Take the softmax over the taps, as the paper does to predict frames.
    **options : dict
        Options of `pydeform.local_conv2d`: stride, padding, dilation, mode.

    Returns
    -------
    array, shape (N, C, Ho, Wo)
        The filtered images.

    References
    ----------
    .. [1] B. De Brabandere et al., "Dynamic Filter Networks", NeurIPS 2016: the dynamic local
       filtering layer. `dynamic_filter` is the dynamic convolutional layer.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> generator = np.zeros((9, 1))
    >>> generator[5] = 1  # the feature chooses the pixel on the right
    >>> recipes.dynamic_local_filter(x, np.ones((1, 1, 2, 2)), generator)
    array([[[[ 6.,  7.],
             [10., 11.]]]])
    """
    xp = namespace(input=input, features=features, generator=generator, bias=bias)
    axes_of("features", features, "(N, F, Ho, Wo)")
    kernel = pointwise(xp, features, generator, bias)
    n, _, *out = kernel.shape
    kernel = xp.reshape(kernel, (n, groups, -1, *out))
    if normalise:
        kernel = softmax(xp, kernel, axis=2)
    return local_conv2d(input, kernel, **options)


def involution(
    input: Array,
    reduce: Array,
    span: Array,
    *,
    kernel_size: int,
    groups: int = 1,
    stride: int = 1,
) -> Array:
    """Filter every position with a kernel that two 1 x 1 layers make of the pixel there.

    Parameters
    ----------
    input : array, shape (N, C, H, W)
        Images; H and W are multiples of the stride.
    reduce : array, shape (R, C)
        First layer, followed by a rectifier.
    span : array, shape (groups*K, R)
        Second layer, K = kernel_size**2.
    kernel_size : int
        Odd size of the kernels.
    groups : int
        Channel groups, each of which has kernels of its own.
    stride : int
        Step between outputs; the kernels come from means over stride x stride pixels.

    Returns
    -------
    array, shape (N, C, H/stride, W/stride)
        The filtered images.

    Notes
    -----
    The paper's batch normalisation between the layers is an affine map at inference and can be
    folded into `reduce` and `span`.

    References
    ----------
    .. [1] D. Li et al., "Involution: Inverting the Inherence of Convolution for Visual
       Recognition", CVPR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> rng = np.random.default_rng(0)
    >>> x, reduce, span = (rng.normal(size=s) for s in [(2, 8, 6, 6), (2, 8), (4 * 9, 2)])
    >>> recipes.involution(x, reduce, span, kernel_size=3, groups=4).shape
    (2, 8, 6, 6)
    """
    xp = namespace(input=input, reduce=reduce, span=span)
    axes_of("input", input, "(N, C, H, W)")
    n, c, h, w = input.shape
    taps = kernel_size * kernel_size
    shape_of("span", span, (groups * taps, reduce.shape[0]), "(groups*taps, reduced)")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: expected an odd number, got {kernel_size}")
    if h % stride or w % stride:
        raise ValueError(f"stride: expected a divisor of {h} and {w}, got {stride}")
    cells = xp.reshape(input, (n, c, h // stride, stride, w // stride, stride))
    hidden = relu(xp, pointwise(xp, xp.mean(cells, axis=(3, 5)), reduce))
    kernel = pointwise(xp, hidden, span)
    kernel = xp.reshape(kernel, (n, groups, taps, h // stride, w // stride))
    return local_conv2d(input, kernel, stride=stride, padding=kernel_size // 2)


def pixel_adaptive_conv(
    input: Array, guide: Array, weight: Array, bias: Array | None = None, **options: Any
) -> Array:
    """Convolve with a kernel that fades where the guide differs from its value at the centre.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    guide : array, shape (N, F, *S)
        Features whose differences count, already scaled: the factor of a tap is
        ``exp(-|f_tap - f_centre|^2 / 2)``.
    weight : array, shape (Co, C/groups, *k)
        Kernel of odd sizes.
    bias : array, shape (Co,), optional
        Added to every output position.
    **options : dict
        Options of `pydeform.deform_conv2d`: stride, padding, dilation, groups, mode.

    Returns
    -------
    array, shape (N, Co, *O)
        The filtered images.

    References
    ----------
    .. [1] H. Su et al., "Pixel-Adaptive Convolutional Neural Networks", CVPR 2019.

    Examples
    --------
    A step in the guide keeps the two sides apart:

    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x = np.array([[[1.0, 1.0, 5.0, 5.0]]])
    >>> recipes.pixel_adaptive_conv(x, 100 * x, np.ones((1, 1, 3)), padding=1)
    array([[[ 2.,  2., 10., 10.]]])
    """
    xp = namespace(input=input, guide=guide, weight=weight, bias=bias)
    kernel = tuple(weight.shape[2:])
    if any(size % 2 == 0 for size in kernel):
        raise ValueError(f"weight: expected a kernel of odd sizes, got {kernel}")
    shape_of("guide", guide, (input.shape[0], guide.shape[1], *input.shape[2:]), "(N, F, *S)")
    around = {name: value for name, value in options.items() if name != "groups"}
    values = neighbours(xp, guide, kernel, **around)  # [N, F, K, *O]
    middle = values.shape[2] // 2
    distance = values - values[:, :, middle : middle + 1, ...]
    mask = xp.exp(xp.sum(distance * distance, axis=1) * -0.5)  # [N, K, *O]
    return convolve(input, weight, bias=bias, mask=mask, **options)


def carafe(
    input: Array,
    compress: Array,
    encode: Array,
    encode_bias: Array | None = None,
    *,
    scale: int = 2,
) -> Array:
    """Enlarge images; every new pixel is a mean of old ones, weighted by its own kernel.

    Parameters
    ----------
    input : array, shape (N, C, H, W)
        Images.
    compress : array, shape (M, C)
        A 1 x 1 layer before the kernels are predicted.
    encode : array, shape (K*scale**2, M, ke, ke)
        The layer that predicts kernels of K = k*k taps, k odd; channel ``(tap*scale + y)*scale +
        x`` for the new pixel (y, x) within an old one. A softmax over the taps follows.
    encode_bias : array, shape (K*scale**2,), optional
        Its bias.
    scale : int
        How much larger the result is.

    Returns
    -------
    array, shape (N, C, scale*H, scale*W)
        The enlarged images.

    References
    ----------
    .. [1] J. Wang et al., "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019.

    Examples
    --------
    Kernels without preference take plain means:

    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> y = recipes.carafe(x, np.ones((1, 1)), np.zeros((36, 1, 3, 3)))
    >>> y.shape, y[0, 0, 2, 2].round(12)
    ((1, 1, 6, 6), np.float64(4.0))
    """
    xp = namespace(input=input, compress=compress, encode=encode, encode_bias=encode_bias)
    axes_of("input", input, "(N, C, H, W)")
    n, _, h, w = input.shape
    taps = encode.shape[0] // scale**2
    size = isqrt(taps)
    if size % 2 == 0 or size * size * scale**2 != encode.shape[0]:
        raise ValueError(
            f"encode: expected k*k*{scale}*{scale} output channels with an odd k, "
            f"got {encode.shape[0]}"
        )
    hidden = pointwise(xp, input, compress)
    logits = deform_conv2d(hidden, None, encode, encode_bias, padding="same")
    logits = xp.reshape(logits, (n, taps, scale, scale, h, w))
    logits = xp.permute_dims(logits, (0, 1, 4, 2, 5, 3))  # a new pixel beside its neighbours
    kernel = softmax(xp, xp.reshape(logits, (n, 1, taps, scale * h, scale * w)), axis=2)
    return local_conv2d(input, kernel, padding=size // 2, upscale=scale)


def kernel_prediction(burst: Array, kernels: Array, *, padding: Any = "same") -> Array:
    """Denoise a burst of frames: each pixel of each frame has a kernel; the frames are averaged.

    Parameters
    ----------
    burst : array, shape (N, T, H, W)
        T frames of a scene.
    kernels : array, shape (N, T, K, H, W)
        Predicted kernels of K = k*k taps, used as they are.
    padding : see `pydeform.deform_conv2d`
        What makes the output as large as the kernels' maps.

    Returns
    -------
    array, shape (N, 1, H, W)
        ``mean_t sum_tap kernels[t, tap] burst[t] at the tap``.

    References
    ----------
    .. [1] B. Mildenhall et al., "Burst Denoising with Kernel Prediction Networks", CVPR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> burst = np.stack([np.full((3, 3), 1.0), np.full((3, 3), 3.0)])[None]
    >>> recipes.kernel_prediction(burst, np.ones((1, 2, 1, 3, 3)))[0, 0, 0]
    array([2., 2., 2.])
    """
    xp = namespace(burst=burst, kernels=kernels)
    axes_of("kernels", kernels, "(N, T, K, H, W)")
    return xp.mean(local_conv2d(burst, kernels, padding=padding), axis=1, keepdims=True)


def separable_adaptive_conv(
    input: Array, vertical: Array, horizontal: Array, *, padding: Any = 0
) -> Array:
    """Filter every position with the product of a vertical and a horizontal kernel of its own.

    Parameters
    ----------
    input : array, shape (N, C, H, W)
        Images. To interpolate frames, the results of the two frames are added.
    vertical : array, shape (N, ky, Ho, Wo)
        Predicted kernels along y.
    horizontal : array, shape (N, kx, Ho, Wo)
        Predicted kernels along x.
    padding : see `pydeform.deform_conv2d`
        Pixels added around the input.

    Returns
    -------
    array, shape (N, C, Ho, Wo)
        The filtered images.

    References
    ----------
    .. [1] S. Niklaus, L. Mai, F. Liu, "Video Frame Interpolation via Adaptive Separable
       Convolution", ICCV 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> third = np.full((1, 3, 2, 2), 1 / 3)
    >>> recipes.separable_adaptive_conv(x, third, third).round(12)
    array([[[[ 5.,  6.],
             [ 9., 10.]]]])
    """
    xp = namespace(input=input, vertical=vertical, horizontal=horizontal)
    axes_of("vertical", vertical, "(N, ky, Ho, Wo)")
    n, ky, *out = vertical.shape
    kx = horizontal.shape[1]
    kernel = vertical[:, :, None, ...] * horizontal[:, None, ...]
    kernel = xp.reshape(kernel, (n, 1, ky * kx, *out))
    return local_conv2d(input, kernel, padding=padding, kernel_size=(ky, kx))
