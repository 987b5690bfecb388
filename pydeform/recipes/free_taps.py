"""Kernels of freely placed taps: any number of them, anywhere."""

from __future__ import annotations

from typing import Any

from pydeform.recipes._namespace import Array, axes_of, half, namespace, shape_of
from pydeform.recipes._primitives import deform_conv2d, static_offsets


def _place(
    xp: Any, input: Array, weight: Array, offset: Array, bias: Array | None, **options: Any
) -> Array:
    """Convolve taps [Co, C/groups, K] that lie at offsets from the position itself."""
    co, c, taps = weight.shape
    # As a column of taps the kernel's own grid is (t, 0): the offset takes it away again.
    grid = [float(v) for tap in range(taps) for v in (-tap, 0)]
    grid = xp.asarray(grid, dtype=input.dtype, device=input.device)
    offset = offset + xp.reshape(grid, (1, 2 * taps, 1, 1))
    column = xp.reshape(weight, (co, c, taps, 1))
    return deform_conv2d(input, offset, column, bias, padding=((0, taps - 1), (0, 0)), **options)


def active_convolution(
    input: Array,
    weight: Array,
    positions: Array,
    bias: Array | None = None,
    *,
    stride: int = 1,
    **options: Any,
) -> Array:
    """Convolve with taps whose positions, the same everywhere, are learned like their weights.

    Parameters
    ----------
    input : array, shape (N, C, H, W)
        Images.
    weight : array, shape (Co, C/groups, K)
        One weight per tap.
    positions : array, shape (K, 2)
        Where each tap lies (y, x) from the output position, in pixels.
    bias : array, shape (Co,), optional
        Added to every output position.
    stride : int
        Steps between output positions in pixels.
    **options : dict
        Options of `pydeform.deform_conv2d`: groups, mode, kink.

    Returns
    -------
    array, shape (N, Co, Ho, Wo)
        Of ceil(H/stride) by ceil(W/stride) pixels.

    Notes
    -----
    Dilated convolution with learnable spacings is the same function for ``mode="zeros"``: it
    spreads each weight over the four taps of a dense kernel around its position, which is
    `pydeform.splat`, where this one reads between pixels.

    References
    ----------
    .. [1] Y. Jeon, J. Kim, "Active Convolution: Learning the Shape of Convolution for Image
       Classification", CVPR 2017.
    .. [2] I. Khalfaoui-Hassani, T. Pellegrini, T. Masquelier, "Dilated convolution with learnable
       spacings", ICLR 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x = np.arange(8.0).reshape(1, 1, 2, 4)
    >>> positions = np.array([[0.0, -0.5], [0.0, 0.5]])
    >>> recipes.active_convolution(x, np.array([[[-1.0, 1.0]]]), positions)[0, 0, :, 1:3]
    array([[1., 1.],
           [1., 1.]])
    """
    xp = namespace(input=input, weight=weight, positions=positions)
    axes_of("input", input, "(N, C, H, W)")
    axes_of("weight", weight, "(Co, C/groups, K)")
    shape_of("positions", positions, (weight.shape[2], 2), "(taps, 2)")
    out = tuple(-(-size // stride) for size in input.shape[2:])
    offset = static_offsets(positions, batch=input.shape[0], output_size=out)
    return _place(xp, input, weight, offset, bias, stride=stride, **options)


def ld_grid(taps: int) -> list[tuple[int, int]]:
    """Return where LDConv's taps start: rows of round(sqrt(taps)), the last may be shorter."""
    width = round(taps**0.5)
    return [divmod(tap, width) for tap in range(taps)]


def ldconv(
    input: Array,
    weight: Array,
    layer: Array,
    layer_bias: Array | None = None,
    bias: Array | None = None,
    *,
    stride: int = 1,
    mode: Any = "border",
) -> Array:
    """Convolve with any number of taps, on a grid whose last row may be shorter, plus offsets.

    Parameters
    ----------
    input : array, shape (N, C, H, W)
        Images.
    weight : array, shape (Co, C/groups, K)
        One weight per tap; tap t starts t // r rows below and t % r pixels to the right of the
        position, r = round(sqrt(K)).
    layer : array, shape (2*K, C, kl, kl)
        Layer that gives the offset (y, x) of each tap in pixels; kl odd.
    layer_bias : array, shape (2*K,), optional
        Its bias.
    bias : array, shape (Co,), optional
        Added to every output position.
    stride : int
        Steps between output positions in pixels.
    mode : {"border", "zeros", "clip_zero"}
        What the input holds outside; the authors clamp coordinates, which is "border".

    Returns
    -------
    array, shape (N, Co, Ho, Wo)
        Of ceil(H/stride) by ceil(W/stride) pixels.

    References
    ----------
    .. [1] X. Zhang et al., "LDConv: Linear deformable convolution for improving convolutional
       neural networks", Image and Vision Computing 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> recipes.ldconv(x, np.ones((1, 1, 3)), np.zeros((6, 1, 1, 1)))  # 3 taps: 2 above, 1 below
    array([[[[ 4.,  7.,  9.],
             [13., 16., 18.],
             [19., 22., 24.]]]])
    """
    xp = namespace(input=input, weight=weight, layer=layer)
    axes_of("weight", weight, "(Co, C/groups, K)")
    taps = weight.shape[2]
    shape_of("layer", layer, (2 * taps, input.shape[1], *layer.shape[2:]), "(2*taps, C, kl, kl)")
    offset = deform_conv2d(
        input, None, layer, layer_bias, stride=stride, padding=half("layer", layer)
    )
    start = [float(v) for place in ld_grid(taps) for v in place]
    offset = offset + xp.reshape(
        xp.asarray(start, dtype=input.dtype, device=input.device), (1, 2 * taps, 1, 1)
    )
    return _place(xp, input, weight, offset, bias, stride=stride, mode=mode)
