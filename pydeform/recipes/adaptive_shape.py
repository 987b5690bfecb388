"""Kernels whose shape depends on the position: where taps lie, not what they weigh."""

from __future__ import annotations

from math import log
from typing import Any

from pydeform.recipes._namespace import (
    Array,
    axes_of,
    convolve,
    half,
    indices,
    namespace,
    pointwise,
    shape_of,
)
from pydeform.recipes._primitives import (
    cumulative_taps,
    deform_conv2d,
    local_conv2d,
    sample,
    scale_taps,
)


def scale_adaptive_conv(
    input: Array,
    weight: Array,
    regressor: Array,
    regressor_bias: Array | None = None,
    bias: Array | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    **options: Any,
) -> Array:
    """Convolve with a kernel whose dilation a layer chooses at every position.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    weight : array, shape (Co, C/groups, *k)
        Kernel of odd sizes.
    regressor : array, shape (1, C, *kr)
        Layer that gives the logarithm of the factor of `dilation`; odd sizes.
    regressor_bias : array, shape (1,), optional
        Its bias.
    bias : array, shape (Co,), optional
        Added to every output position.
    stride : int
        Steps between output positions in pixels.
    dilation : int
        Steps between taps in pixels where the factor is 1.
    **options : dict
        Options of `pydeform.deform_conv2d`: groups, mode, kink.

    Returns
    -------
    array, shape (N, Co, *O)
        Padded so that stride 1 keeps the size.

    Notes
    -----
    The paper regresses the factor itself from zero weights and bias 1; through its logarithm, from
    zero weights and no bias, it cannot turn negative.

    References
    ----------
    .. [1] R. Zhang et al., "Scale-Adaptive Convolutions for Scene Parsing", ICCV 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x, w = np.arange(7.0).reshape(1, 1, 7), np.array([[[-1.0, 0, 1]]])
    >>> regressor = np.zeros((1, 1, 1))
    >>> recipes.scale_adaptive_conv(x, w, regressor)[0, 0, 2:5]
    array([2., 2., 2.])
    >>> recipes.scale_adaptive_conv(x, w, regressor, np.log([1.5]))[0, 0, 2:5]
    array([3., 3., 3.])
    """
    namespace(input=input, weight=weight, regressor=regressor)
    factor = convolve(
        input, regressor, bias=regressor_bias, stride=stride, padding=half("regressor", regressor)
    )
    offset = scale_taps(
        factor + log(dilation), kernel_size=tuple(weight.shape[2:]), dilation=dilation, log=True
    )
    padding = tuple(dilation * size for size in half("weight", weight))
    return convolve(
        input,
        weight,
        offset=offset,
        bias=bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        **options,
    )


def adaptive_dck(
    input: Array,
    weight: Array,
    net: Array,
    head: Array,
    head_bias: Array | None = None,
    bias: Array | None = None,
    *,
    tile: int | None = None,
    dilation: int = 1,
    **options: Any,
) -> Array:
    """Convolve with a kernel whose centre and size a small network chooses at every position.

    The dynamic convolution kernel: features of the receptive field around a position, or their
    means over a tile of positions, give a shift of the kernel's centre and the logarithm of its
    size, and these say where the taps read.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes, of n axes.
    weight : array, shape (Co, C/groups, *k)
        Kernel of odd sizes.
    net : array, shape (F, C, *kr)
        Layer that sees the receptive field, followed by tanh; odd sizes.
    head : array, shape (n + 1, F)
        Layer to the shift along each axis, in pixels, and the logarithm of the factor of
        `dilation`.
    head_bias : array, shape (n + 1,), optional
        Its bias.
    bias : array, shape (Co,), optional
        Added to every output position.
    tile : int, optional
        Positions per axis that share one centre and one size; divides S.
    dilation : int
        Steps between taps in pixels where the factor is 1.
    **options : dict
        Options of `pydeform.deform_conv2d`: groups, mode, kink.

    Returns
    -------
    array, shape (N, Co, *S)
        The convolution; a `head` of zeros makes it the plain one, to the bit.

    References
    ----------
    .. [1] J. Dai et al., "Deformable Convolutional Networks", ICCV 2017: offsets of every tap from
       a layer; here they have n + 1 degrees of freedom.
    .. [2] R. Zhang et al., "Scale-Adaptive Convolutions for Scene Parsing", ICCV 2017: sizes alone.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.normal(size=(2, 3, 8, 8)), rng.normal(size=(4, 3, 3, 3))
    >>> net, head = rng.normal(size=(5, 3, 3, 3)), rng.normal(size=(3, 5))
    >>> recipes.adaptive_dck(x, w, net, head).shape
    (2, 4, 8, 8)
    >>> recipes.adaptive_dck(x, w, net, head, tile=4).shape
    (2, 4, 8, 8)
    """
    xp = namespace(input=input, weight=weight, net=net, head=head)
    size = tuple(input.shape[2:])
    n = len(size)
    shape_of("head", head, (n + 1, net.shape[0]), "(axes + 1, features)")
    features = xp.tanh(convolve(input, net, padding=half("net", net)))
    if tile is not None:
        features = means_over_tiles(xp, features, tile)
    found = pointwise(xp, features, head, head_bias)
    offset = scale_taps(
        found[:, n:, ...] + log(dilation),
        found[:, None, :n, ...],
        kernel_size=tuple(weight.shape[2:]),
        dilation=dilation,
        log=True,
        tile=tile,
        output_size=size,
    )
    padding = tuple(dilation * size for size in half("weight", weight))
    return convolve(
        input, weight, offset=offset, bias=bias, padding=padding, dilation=dilation, **options
    )


def means_over_tiles(xp: Any, x: Array, tile: int) -> Array:
    """Return the means over tile x tile x ... positions, which divide the size."""
    size = x.shape[2:]
    if tile < 1 or any(length % tile for length in size):
        raise ValueError(f"tile: expected a divisor of the sizes {tuple(size)}, got {tile}")
    split = [part for length in size for part in (length // tile, tile)]
    cells = xp.reshape(x, (*x.shape[:2], *split))
    return xp.mean(cells, axis=tuple(range(3, cells.ndim, 2)))


def deformable_kernels(
    input: Array,
    scope: Array,
    layer: Array,
    layer_bias: Array | None = None,
    *,
    kernel_size: int = 3,
    stride: int = 1,
) -> Array:
    """Filter with kernels whose taps are read, anew at every position, from a larger kernel.

    Parameters
    ----------
    input : array, shape (N, C, H, W)
        Images.
    scope : array, shape (C, Sy, Sx)
        Kernel space of each channel: the taps of the kernels are samples of it.
    layer : array, shape (2*K, C, kl, kl)
        Layer that gives the shift (y, x) of each of the K = kernel_size**2 taps, in steps of the
        scope; kl odd.
    layer_bias : array, shape (2*K,), optional
        Its bias.
    kernel_size : int
        Odd size of the kernels; without shifts they are the middle of the scope.
    stride : int
        Steps between output positions in pixels.

    Returns
    -------
    array, shape (N, C, Ho, Wo)
        Padded so that stride 1 keeps the size.

    Notes
    -----
    This is the local form for depthwise convolution, where each position has shifts of its own.
    Samples outside the scope take the nearest value at its edge.

    References
    ----------
    .. [1] H. Gao et al., "Deformable Kernels: Adapting Effective Receptive Fields for Object
       Deformation", ICLR 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x, scope = np.ones((1, 2, 6, 6)), np.full((2, 4, 4), 0.5)
    >>> recipes.deformable_kernels(x, scope, np.zeros((18, 2, 3, 3)))[0, 0, 1]
    array([3. , 4.5, 4.5, 4.5, 4.5, 3. ])
    """
    xp = namespace(input=input, scope=scope, layer=layer)
    axes_of("scope", scope, "(C, Sy, Sx)")
    taps = kernel_size * kernel_size
    shape_of("layer", layer, (2 * taps, input.shape[1], *layer.shape[2:]), "(2*taps, C, kl, kl)")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: expected an odd number, got {kernel_size}")
    shift = deform_conv2d(
        input, None, layer, layer_bias, stride=stride, padding=half("layer", layer)
    )
    n, _, *out = shift.shape
    steps = indices(xp, kernel_size, input)
    y, x = (steps + (length - kernel_size) / 2 for length in scope.shape[1:])
    grid = (kernel_size, kernel_size)
    base = xp.stack([xp.broadcast_to(y[:, None], grid), xp.broadcast_to(x[None, :], grid)], axis=-1)
    shift = xp.permute_dims(xp.reshape(shift, (n, taps, 2, *out)), (1, 0, 3, 4, 2))
    position = shift + xp.reshape(base, (taps, 1, 1, 1, 2))  # [K, N, Ho, Wo, 2]
    kernel = sample(
        scope[None, ...], position[None, None, ...], mode="border"
    )  # [1, C, K, N, Ho, Wo]
    kernel = xp.permute_dims(kernel[0, ...], (2, 0, 1, 3, 4))
    return local_conv2d(input, kernel, stride=stride, padding=kernel_size // 2)


def dynamic_snake_conv(
    input: Array,
    weight: Array,
    layer: Array,
    layer_bias: Array | None = None,
    bias: Array | None = None,
    *,
    stride: int = 1,
    **options: Any,
) -> Array:
    """Convolve along a line that bends: each tap lies at most one pixel beside its neighbour.

    Parameters
    ----------
    input : array, shape (N, C, H, W)
        Images.
    weight : array, shape (Co, C/groups, 1, K) or (Co, C/groups, K, 1)
        Kernel along x or along y, with an odd number K of taps.
    layer : array, shape (K, C, kl, kl)
        Layer that gives, through tanh, the step of each tap across the line; kl odd.
    layer_bias : array, shape (K,), optional
        Its bias.
    bias : array, shape (Co,), optional
        Added to every output position.
    stride : int
        Steps between output positions in pixels.
    **options : dict
        Options of `pydeform.deform_conv2d`: groups, mode, kink.

    Returns
    -------
    array, shape (N, Co, Ho, Wo)
        Padded so that stride 1 keeps the size.

    Notes
    -----
    The paper normalises the layer's output before tanh, and puts results along x, along y and of a
    plain convolution side by side.

    References
    ----------
    .. [1] Y. Qi et al., "Dynamic Snake Convolution based on Topological Geometric Constraints for
       Tubular Structure Segmentation", ICCV 2023.

    Examples
    --------
    A line along x that climbs one pixel per step (tanh(40) is 1) follows the diagonal:

    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x, weight = np.eye(5)[None, None], np.ones((1, 1, 1, 3))
    >>> steps = np.array([-40.0, 0.0, 40.0])
    >>> recipes.dynamic_snake_conv(x, weight, np.zeros((3, 1, 1, 1)), steps)[0, 0, 2]
    array([0., 0., 3., 0., 0.])
    """
    xp = namespace(input=input, weight=weight, layer=layer)
    kernel = tuple(weight.shape[2:])
    if len(kernel) != 2 or 1 not in kernel:
        raise ValueError(f"weight: expected a kernel of 1 x K or K x 1 taps, got {kernel}")
    keep_size = half("weight", weight)
    axis = 1 if kernel[0] == 1 else 0
    taps = kernel[axis]
    shape_of("layer", layer, (taps, input.shape[1], *layer.shape[2:]), "(taps, C, kl, kl)")
    padding = half("layer", layer)
    steps = xp.tanh(deform_conv2d(input, None, layer, layer_bias, stride=stride, padding=padding))
    across = [steps, xp.zeros_like(steps)] if axis == 1 else [xp.zeros_like(steps), steps]
    offset = xp.stack(across, axis=2)  # [N, K, 2, Ho, Wo]
    offset = xp.reshape(offset, (steps.shape[0], 2 * taps, *steps.shape[2:]))
    offset = cumulative_taps(offset, kernel_size=kernel, axis=axis)
    return deform_conv2d(input, offset, weight, bias, stride, keep_size, **options)
