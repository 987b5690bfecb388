"""Convolutions with several kernels or rates, weighted by the content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydeform.recipes._namespace import (
    Array,
    axes_of,
    convolve,
    linear,
    namespace,
    pointwise,
    pool,
    relu,
    shape_of,
    softmax,
)
from pydeform.recipes._primitives import deform_conv2d


def switchable_atrous_conv(
    input: Array,
    weight: Array,
    delta: Array,
    switch: Array,
    switch_bias: Array | None = None,
    bias: Array | None = None,
    *,
    rate: int = 3,
    stride: int = 1,
    **options: Any,
) -> Array:
    """Blend, at every position, a convolution and a dilated one whose kernel differs by `delta`.

    Parameters
    ----------
    input : array, shape (N, C, H, W)
        Images.
    weight : array, shape (Co, C/groups, k, k)
        Kernel of the plain convolution, k odd.
    delta : array, shape of weight
        What is added to it for the dilated one.
    switch : array, shape (1, C)
        A 1 x 1 layer that makes the switch S from means over 5 x 5 pixels.
    switch_bias : array, shape (1,), optional
        Its bias.
    bias : array, shape (Co,), optional
        Added to every output position.
    rate : int
        Dilation of the second convolution.
    stride : int
        Steps between output positions in pixels.
    **options : dict
        Options of `pydeform.deform_conv2d`: groups, mode.

    Returns
    -------
    array, shape (N, Co, Ho, Wo)
        ``S conv(x, weight) + (1 - S) conv(x, weight + delta, dilation=rate) + bias``, padded so
        that stride 1 keeps the size.

    Notes
    -----
    The means repeat the pixels at the edge; the authors' code reflects there. The global context
    before and after the convolution in the paper is `pydeform.parts.global_context_residual`.

    References
    ----------
    .. [1] S. Qiao, L.-C. Chen, A. Yuille, "DetectoRS: Detecting Objects with Recursive Feature
       Pyramid and Switchable Atrous Convolution", CVPR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> rng = np.random.default_rng(0)
    >>> x, w, delta = (rng.normal(size=s) for s in [(2, 4, 9, 9), (6, 4, 3, 3), (6, 4, 3, 3)])
    >>> recipes.switchable_atrous_conv(x, w, delta, rng.normal(size=(1, 4)), stride=2).shape
    (2, 6, 5, 5)
    """
    xp = namespace(input=input, weight=weight, delta=delta, switch=switch)
    axes_of("input", input, "(N, C, H, W)")
    channels, k = input.shape[1], weight.shape[-1]
    if weight.shape[-2] != k or k % 2 == 0:
        raise ValueError(
            f"weight: expected a square kernel of odd size, got {tuple(weight.shape[2:])}"
        )
    shape_of("switch", switch, (1, channels), "(1, channels)")
    box = xp.full((channels, 1, 5, 5), 1 / 25, dtype=input.dtype, device=input.device)
    means = deform_conv2d(input, None, box, stride=stride, padding=2, mode="border")
    s = pointwise(xp, means, switch, switch_bias)
    options = {"stride": stride, **options}
    near = deform_conv2d(input, None, weight, padding=k // 2, **options)
    far = deform_conv2d(
        input, None, weight + delta, padding=k // 2 * rate, dilation=rate, **options
    )
    output = s * near + (1 - s) * far
    return output if bias is None else output + xp.reshape(bias, (-1, 1, 1))


def selective_kernels(
    input: Array,
    weights: Sequence[Array],
    squeeze: Array,
    excite: Array,
    *,
    dilations: Sequence[int] | None = None,
    **options: Any,
) -> Array:
    """Convolve with several kernels, and blend their outputs channel by channel by a softmax.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    weights : sequence of B arrays, shape (Co, C/groups, *k)
        Kernels, of different sizes or dilations.
    squeeze : array, shape (R, Co)
        Layer from the pooled sum of all outputs, followed by a rectifier.
    excite : array, shape (B*Co, R)
        Layer to one score per branch and channel.
    dilations : sequence of B int, optional
        Dilation of each branch; 1 by default.
    **options : dict
        Options of `pydeform.deform_conv2d`: stride, groups, mode. Padding is "same".

    Returns
    -------
    array, shape (N, Co, *O)
        ``sum_b a_b conv(x, weights[b])``, where the a_b sum to 1 in every channel.

    Notes
    -----
    The paper normalises and rectifies each branch before they are blended; where that is wanted,
    it is done to what this recipe is written of.

    References
    ----------
    .. [1] X. Li et al., "Selective Kernel Networks", CVPR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> rng = np.random.default_rng(0)
    >>> weights = [rng.normal(size=(4, 4, k, k)) for k in (3, 5)]
    >>> x, squeeze, excite = (rng.normal(size=s) for s in [(2, 4, 8, 8), (2, 4), (8, 2)])
    >>> recipes.selective_kernels(x, weights, squeeze, excite).shape
    (2, 4, 8, 8)
    """
    if not weights:
        raise ValueError("weights: expected at least one kernel, got none")
    rates = [1] * len(weights) if dilations is None else list(dilations)
    if len(rates) != len(weights):
        raise ValueError(f"dilations: expected {len(weights)}, one per kernel, got {len(rates)}")
    xp = namespace(input=input, squeeze=squeeze, excite=excite, weight=weights[0])
    branches = [
        convolve(input, weight, padding="same", dilation=rate, **options)
        for weight, rate in zip(weights, rates, strict=True)
    ]
    u = xp.stack(branches, axis=1)  # [N, B, Co, *O]
    n, b, co = u.shape[:3]
    shape_of("excite", excite, (b * co, squeeze.shape[0]), "(branches*channels, squeezed)")
    hidden = relu(xp, linear(xp, pool(xp, xp.sum(u, axis=1)), squeeze))
    scores = xp.reshape(linear(xp, hidden, excite), (n, b, co, *(1,) * (u.ndim - 3)))
    return xp.sum(softmax(xp, scores, axis=1) * u, axis=1)
