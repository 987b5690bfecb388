"""Kernels that depend on the sample: mixed from experts, then used as an ordinary convolution."""

from __future__ import annotations

from math import prod
from typing import Any

from pydeform.recipes._namespace import (
    Array,
    convolve,
    linear,
    namespace,
    pool,
    positive,
    relu,
    shape_of,
    sigmoid,
    softmax,
)
from pydeform.recipes._primitives import mix_kernels


def dynamic_filter(
    input: Array, features: Array, generator: Array, bias: Array | None = None, **options: Any
) -> Array:
    """Convolve each sample with a kernel that a linear layer generates from features of it.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    features : array, shape (N, F)
        What the kernels are generated from: the last layer of some network.
    generator : array, shape (F, Co, C/groups, *k)
        Weight of the generating layer.
    bias : array, shape (Co, C/groups, *k), optional
        Bias of the generating layer: the kernel where all features are 0.
    **options : dict
        Options of `pydeform.deform_conv2d`: stride, padding, dilation, groups, mode.

    Returns
    -------
    array, shape (N, Co, *O)
        The convolutions.

    References
    ----------
    .. [1] B. De Brabandere et al., "Dynamic Filter Networks", NeurIPS 2016: the dynamic
       convolutional layer. `dynamic_local_filter` is the dynamic local filtering layer.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x = np.ones((2, 1, 5))
    >>> generator = np.ones((1, 1, 1, 3))
    >>> recipes.dynamic_filter(x, np.array([[1.0], [2.0]]), generator)[:, 0, 0]
    array([3., 6.])
    """
    namespace(input=input, features=features, generator=generator, bias=bias)
    weight = mix_kernels(features, generator)
    return convolve(input, weight if bias is None else weight + bias, **options)


def cond_conv(
    input: Array,
    experts: Array,
    routing: Array,
    routing_bias: Array | None = None,
    **options: Any,
) -> Array:
    """Mix the kernels of experts per sample, by sigmoids of its pooled channels, and convolve.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    experts : array, shape (E, Co, C/groups, *k)
        Kernels of the experts.
    routing : array, shape (E, C)
        Weight of the layer from pooled channels to routes.
    routing_bias : array, shape (E,), optional
        Its bias.
    **options : dict
        Options of `pydeform.deform_conv2d`: stride, padding, dilation, groups, mode.

    Returns
    -------
    array, shape (N, Co, *O)
        ``x * (sum_e r_e experts_e)`` with ``r = sigmoid(routing mean(x) + routing_bias)``.

    References
    ----------
    .. [1] B. Yang et al., "CondConv: Conditionally Parameterized Convolutions for Efficient
       Inference", NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> rng = np.random.default_rng(0)
    >>> x, experts = rng.normal(size=(2, 3, 8, 8)), rng.normal(size=(4, 5, 3, 3, 3))
    >>> recipes.cond_conv(x, experts, rng.normal(size=(4, 3)), padding=1).shape
    (2, 5, 8, 8)
    """
    xp = namespace(input=input, experts=experts, routing=routing, routing_bias=routing_bias)
    shape_of("routing", routing, (experts.shape[0], input.shape[1]), "(experts, channels)")
    routes = sigmoid(xp, linear(xp, pool(xp, input), routing, routing_bias))
    return convolve(input, mix_kernels(routes, experts), **options)


def dynamic_conv(
    input: Array,
    experts: Array,
    squeeze: Array,
    excite: Array,
    excite_bias: Array | None = None,
    biases: Array | None = None,
    *,
    temperature: float = 30.0,
    **options: Any,
) -> Array:
    """Mix kernels and biases of experts per sample, by a softmax with temperature, and convolve.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    experts : array, shape (E, Co, C/groups, *k)
        Kernels of the experts.
    squeeze : array, shape (R, C)
        First layer of the attention, followed by a rectifier.
    excite : array, shape (E, R)
        Second layer of the attention.
    excite_bias : array, shape (E,), optional
        Its bias.
    biases : array, shape (E, Co), optional
        Biases of the experts, mixed like the kernels.
    temperature : float
        The attention is ``softmax(z / temperature)``; the paper starts training at 30.
    **options : dict
        Options of `pydeform.deform_conv2d`: stride, padding, dilation, groups, mode.

    Returns
    -------
    array, shape (N, Co, *O)
        The convolutions.

    References
    ----------
    .. [1] Y. Chen et al., "Dynamic Convolution: Attention over Convolution Kernels", CVPR 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> rng = np.random.default_rng(0)
    >>> x, experts = rng.normal(size=(2, 8, 9)), rng.normal(size=(4, 6, 8, 3))
    >>> squeeze, excite = rng.normal(size=(2, 8)), rng.normal(size=(4, 2))
    >>> recipes.dynamic_conv(x, experts, squeeze, excite, stride=2).shape
    (2, 6, 4)
    """
    xp = namespace(input=input, experts=experts, squeeze=squeeze, excite=excite, biases=biases)
    shape_of("excite", excite, (experts.shape[0], squeeze.shape[0]), "(experts, squeezed)")
    hidden = relu(xp, linear(xp, pool(xp, input), squeeze))
    scores = linear(xp, hidden, excite, excite_bias)
    attention = softmax(xp, scores / positive("temperature", temperature))
    output = convolve(input, mix_kernels(attention, experts), **options)
    if biases is None:
        return output
    mixed = attention @ biases
    return output + xp.reshape(mixed, (*mixed.shape, *(1,) * (input.ndim - 2)))


def odconv(
    input: Array,
    experts: Array,
    squeeze: Array,
    spatial: Array,
    channel: Array,
    filter: Array,
    kernel: Array,
    *,
    temperature: float = 1.0,
    **options: Any,
) -> Array:
    """Mix kernels per sample, weighted along taps, input channels, filters and experts; convolve.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    experts : array, shape (E, Co, C/groups, *k)
        Kernels of the experts.
    squeeze : array, shape (A, C)
        Layer that all four attentions share, followed by a rectifier.
    spatial : array, shape (K, A)
        Attention over the K = prod(k) taps, a sigmoid.
    channel : array, shape (C/groups, A)
        Attention over input channels, a sigmoid.
    filter : array, shape (Co, A)
        Attention over output channels, a sigmoid.
    kernel : array, shape (E, A)
        Attention over experts, a softmax.
    temperature : float
        Divides what goes into the sigmoids and the softmax.
    **options : dict
        Options of `pydeform.deform_conv2d`: stride, padding, dilation, groups, mode.

    Returns
    -------
    array, shape (N, Co, *O)
        The convolutions.

    Notes
    -----
    As in the authors' code the first three attentions are shared by all experts; in the paper's
    formula (3) each expert may have its own.

    References
    ----------
    .. [1] C. Li, A. Zhou, A. Yao, "Omni-Dimensional Dynamic Convolution", ICLR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> rng = np.random.default_rng(0)
    >>> x, experts = rng.normal(size=(2, 3, 8, 8)), rng.normal(size=(4, 5, 3, 3, 3))
    >>> heads = [rng.normal(size=(size, 2)) for size in (9, 3, 5, 4)]
    >>> recipes.odconv(x, experts, rng.normal(size=(2, 3)), *heads, padding=1).shape
    (2, 5, 8, 8)
    """
    xp = namespace(input=input, experts=experts, squeeze=squeeze, spatial=spatial, kernel=kernel)
    divisor = positive("temperature", temperature)
    n, (e, co, c, *k) = input.shape[0], experts.shape
    shape_of("kernel", kernel, (e, squeeze.shape[0]), "(experts, squeezed)")
    hidden = relu(xp, linear(xp, pool(xp, input), squeeze))
    weight = mix_kernels(softmax(xp, linear(xp, hidden, kernel) / divisor), experts)
    for name, head, axes in (
        ("spatial", spatial, (1, 1, *k)),
        ("channel", channel, (1, c, *(1,) * len(k))),
        ("filter", filter, (co, 1, *(1,) * len(k))),
    ):
        shape_of(name, head, (prod(axes), squeeze.shape[0]), "(weighted elements, squeezed)")
        attention = sigmoid(xp, linear(xp, hidden, head) / divisor)
        weight = weight * xp.reshape(attention, (n, *axes))
    return convolve(input, weight, **options)
