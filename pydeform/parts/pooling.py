"""Pooling over pyramids, and what is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Literal, TypeAlias

from pydeform.recipes._namespace import (
    Array,
    axes_of,
    linear,
    namespace,
    pointwise,
    pool,
    relu,
    shape_of,
    softmax,
)

Reduce: TypeAlias = Literal["max", "mean"]


def _bins(size: int, count: int) -> list[slice]:
    """Return `count` slices that cover `size`; where it does not divide, neighbours overlap."""
    return [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _levels(levels: Sequence[int], size: Sequence[int]) -> None:
    if not levels or any(not 1 <= level <= min(size) for level in levels):
        raise ValueError(
            f"levels: expected whole numbers from 1 to the smallest size {min(size)}, "
            f"got {list(levels)}"
        )


def _reduce(xp: Any, x: Array, reduce: Reduce) -> Array:
    axis = tuple(range(2, x.ndim))
    if reduce == "max":
        return xp.max(x, axis=axis)
    if reduce == "mean":
        return xp.mean(x, axis=axis)
    raise ValueError(f"reduce: expected 'max' or 'mean', got {reduce!r}")


def _cells(size: Sequence[int], level: int) -> Iterator[tuple[slice, ...]]:
    """Walk over the bins of one level, the last axis fastest."""
    return product(*(_bins(length, level) for length in size))


def spatial_pyramid_pool(
    input: Array, levels: Sequence[int] = (1, 2, 4), *, reduce: Reduce = "max"
) -> Array:
    """Pool images of any size to vectors of one length.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    levels : sequence of int
        Bins per axis at each level. Bin i of l along a size S has the elements from
        ``floor(i*S/l)`` up to, without, ``ceil((i + 1)*S/l)``.
    reduce : {"max", "mean"}
        What is taken of a bin.

    Returns
    -------
    array, shape (N, C*(l_1**n + l_2**n + ...))
        Level after level, in each the bins in row-major order, in each bin the channels.

    References
    ----------
    .. [1] K. He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
       Recognition", ECCV 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> x = np.arange(12.0).reshape(1, 1, 3, 4)
    >>> parts.spatial_pyramid_pool(x, (1, 2))
    array([[11.,  5.,  7.,  9., 11.]])
    """
    xp = namespace(input=input)
    size = input.shape[2:]
    _levels(levels, size)
    found = [
        _reduce(xp, input[(slice(None), slice(None), *cell)], reduce)
        for level in levels
        for cell in _cells(size, level)
    ]
    return xp.concat(found, axis=1)


def _window_max(xp: Any, x: Array, axis: int, window: int) -> Array:
    """Return the maximum over a centred window along an axis; outside counts nothing."""
    shape = list(x.shape)
    shape[axis] = window // 2
    edge = xp.full(tuple(shape), -float("inf"), dtype=x.dtype, device=x.device)
    padded = xp.concat([edge, x, edge], axis=axis)
    length = x.shape[axis]
    shifted = [
        padded[(slice(None),) * axis + (slice(start, start + length), ...)]
        for start in range(window)
    ]
    return xp.max(xp.stack(shifted, axis=0), axis=0)


def spatial_pyramid_map(input: Array, windows: Sequence[int] = (5, 9, 13)) -> Array:
    """Pool by maxima over windows of several sizes at every position, beside the input itself.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    windows : sequence of odd int
        Sizes of the windows, the same along each axis; the stride is 1.

    Returns
    -------
    array, shape (N, C*(1 + number of windows), *S)
        The input, then the maxima of each window.

    Notes
    -----
    The stride is 1 by definition: the maps stand beside the input and have its size. The default
    windows are those of YOLOv3-SPP; SPPF, three windows of 5 one after another, is the same.
    Pooling to ever fewer bins is `spatial_pyramid_pool` and `context_pyramid`.

    References
    ----------
    .. [1] J. Redmon, A. Farhadi, "YOLOv3: An Incremental Improvement", 2018, whose SPP variant has
       this block.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> parts.spatial_pyramid_map(np.array([[[1.0, 2, 3, 0, 0]]]), (3,))
    array([[[1., 2., 3., 0., 0.],
            [2., 3., 3., 3., 0.]]])
    """
    xp = namespace(input=input)
    if any(window < 1 or window % 2 == 0 for window in windows):
        raise ValueError(f"windows: expected odd numbers, got {list(windows)}")
    found = [input]
    for window in windows:
        pooled = input
        for axis in range(2, input.ndim):
            pooled = _window_max(xp, pooled, axis, window)
        found.append(pooled)
    return xp.concat(found, axis=1)


def context_pyramid(input: Array, levels: Sequence[int] = (1, 2, 4)) -> tuple[Array, ...]:
    """Return the means over ever smaller bins: the first step of global context.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    levels : sequence of int
        Bins per axis at each level, as in `spatial_pyramid_pool`.

    Returns
    -------
    tuple of arrays, each of shape (N, C, l, ..., l)
        One map per level.

    References
    ----------
    .. [1] H. Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> coarse, fine = parts.context_pyramid(np.arange(4.0).reshape(1, 1, 4), (1, 2))
    >>> coarse, fine
    (array([[[1.5]]]), array([[[0.5, 2.5]]]))
    """
    xp = namespace(input=input)
    n, c, *size = input.shape
    _levels(levels, size)
    maps = []
    for level in levels:
        cells = [
            _reduce(xp, input[(slice(None), slice(None), *cell)], "mean")
            for cell in _cells(size, level)
        ]
        maps.append(xp.reshape(xp.stack(cells, axis=2), (n, c, *(level,) * len(size))))
    return tuple(maps)


def context_extract(pyramid: Sequence[Array], weights: Sequence[Array]) -> Array:
    """Return one vector per level: a 1 x 1 layer, a rectifier and the mean over the bins.

    Parameters
    ----------
    pyramid : sequence of L arrays, shape (N, C, ...)
        What `context_pyramid` returns.
    weights : sequence of L arrays, shape (D, C)
        Layer of each level.

    Returns
    -------
    array, shape (N, L, D)
        The second step of global context.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> pyramid = parts.context_pyramid(np.arange(4.0).reshape(1, 1, 4), (1, 2))
    >>> parts.context_extract(pyramid, [np.eye(1), 2 * np.eye(1)])
    array([[[1.5],
            [3. ]]])
    """
    if len(pyramid) != len(weights) or not pyramid:
        raise ValueError(f"weights: expected {len(pyramid)}, one per level, got {len(weights)}")
    xp = namespace(pyramid=pyramid[0], weights=weights[0])
    levels = zip(pyramid, weights, strict=True)
    vectors = [pool(xp, relu(xp, pointwise(xp, level, weight))) for level, weight in levels]
    return xp.stack(vectors, axis=1)


def context_aggregate(contexts: Array, score: Array) -> Array:
    """Return the mean of the levels' vectors, weighted by a softmax over the levels.

    Parameters
    ----------
    contexts : array, shape (N, L, D)
        What `context_extract` returns.
    score : array, shape (D,)
        Layer from a vector to its score.

    Returns
    -------
    array, shape (N, D)
        The third step of global context; the weights of the levels sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> parts.context_aggregate(np.array([[[1.5], [3.0]]]), np.zeros(1))
    array([[2.25]])
    """
    xp = namespace(contexts=contexts, score=score)
    axes_of("contexts", contexts, "(N, L, D)")
    shape_of("score", score, (contexts.shape[2],), "(features,)")
    scores = xp.sum(contexts * score, axis=2, keepdims=True)
    return xp.sum(softmax(xp, scores, axis=1) * contexts, axis=1)


def global_context_residual(input: Array, weight: Array, bias: Array | None = None) -> Array:
    """Add to every position what a layer makes of the mean over all of them.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    weight : array, shape (C, C)
        The layer.
    bias : array, shape (C,), optional
        Its bias.

    Returns
    -------
    array, shape (N, C, *S)
        ``x + weight mean(x) + bias``.

    References
    ----------
    .. [1] S. Qiao, L.-C. Chen, A. Yuille, "DetectoRS", CVPR 2021: the global context before and
       after a switchable atrous convolution.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> parts.global_context_residual(np.array([[[1.0, 3.0]]]), np.eye(1))
    array([[[3., 5.]]])
    """
    xp = namespace(input=input, weight=weight, bias=bias)
    added = linear(xp, pool(xp, input), weight, bias)
    return input + xp.reshape(added, (*input.shape[:2], *(1,) * (input.ndim - 2)))
