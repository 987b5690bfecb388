"""Convolutions and heads that are special cases of this package's operations."""

from __future__ import annotations

from typing import Any, Literal

from pydeform.recipes._namespace import (
    Array,
    axes_of,
    convolve,
    namespace,
    pointwise,
    pool,
    shape_of,
    softmax,
)


def feature_reuse(input: Array, weight: Array, untied_bias: Array, **options: Any) -> Array:
    """Convolve with one kernel for all positions and a bias for each of them.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    weight : array, shape (Co, C/groups, *k)
        The kernel that all positions share.
    untied_bias : array, shape (Co, *O)
        A bias for each output channel and position.
    **options : dict
        Options of `pydeform.deform_conv2d`: stride, padding, dilation, groups, mode.

    Returns
    -------
    array, shape (N, Co, *O)
        The convolution plus the bias.

    References
    ----------
    .. [1] M. Lin, Q. Chen, S. Yan, "Network In Network", ICLR 2014, on one small network for all
       positions; the bias of each position is an addition.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> x, w = np.ones((1, 1, 4)), np.ones((1, 1, 2))
    >>> parts.feature_reuse(x, w, np.array([[0.0, 1.0, 2.0]]))
    array([[[2., 3., 4.]]])
    """
    namespace(input=input, weight=weight, untied_bias=untied_bias)
    output = convolve(input, weight, **options)
    shape_of("untied_bias", untied_bias, tuple(output.shape[1:]), "(Co, *O)")
    return output + untied_bias


def dilated_conv(input: Array, weight: Array, dilation: Any, **options: Any) -> Array:
    """Convolve with steps between the taps: a deformable convolution without offsets.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    weight : array, shape (Co, C/groups, *k)
        Kernel.
    dilation : int or one per axis
        Steps between taps in pixels.
    **options : dict
        Options of `pydeform.deform_conv2d`: bias, stride, padding, groups, mode.

    Returns
    -------
    array, shape (N, Co, *O)
        The convolution.

    References
    ----------
    .. [1] F. Yu, V. Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", ICLR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> parts.dilated_conv(np.arange(5.0).reshape(1, 1, 5), np.ones((1, 1, 2)), 3)
    array([[[3., 5.]]])
    """
    return convolve(input, weight, dilation=dilation, **options)


def per_position_head(
    features: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    average: Literal["scores", "probabilities"] = "scores",
) -> Array:
    """Classify every position by one layer, and average over the positions.

    Parameters
    ----------
    features : array, shape (N, F, *S)
        Features of every position.
    weight : array, shape (K, F)
        The layer to K classes.
    bias : array, shape (K,), optional
        Its bias.
    average : {"scores", "probabilities"}
        What is averaged: scores, or their softmax at each position.

    Returns
    -------
    array, shape (N, K)
        Mean scores, or mean probabilities, which sum to 1.

    References
    ----------
    .. [1] M. Lin, Q. Chen, S. Yan, "Network In Network", ICLR 2014: global average pooling.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> parts.per_position_head(np.array([[[1.0, 3.0]]]), np.array([[1.0], [-1.0]]))
    array([[ 2., -2.]])
    """
    if average not in {"scores", "probabilities"}:
        raise ValueError(f"average: expected 'scores' or 'probabilities', got {average!r}")
    xp = namespace(features=features, weight=weight, bias=bias)
    axes_of("weight", weight, "(K, F)")
    scores = pointwise(xp, features, weight, bias)
    return pool(xp, softmax(xp, scores, axis=1) if average == "probabilities" else scores)
