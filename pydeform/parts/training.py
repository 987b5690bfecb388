"""What training adds: DropBlock and two losses."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from pydeform._arrays import NumpyArray
from pydeform.recipes._namespace import (
    Array,
    axes_of,
    log_softmax,
    namespace,
    positive,
    shape_of,
)


def drop_block(input: Array, mask: Array) -> Array:
    """Multiply by a mask of zeros and ones, and by what keeps the mean.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch of signals, images or volumes.
    mask : array, shape (N, C, *S), or one that broadcasts to it
        0 where dropped, 1 elsewhere; of the dtype of `input`. `drop_block_mask` draws one.

    Returns
    -------
    array, shape (N, C, *S)
        ``x * mask * (number of elements of mask) / (number of ones)``; 0 where nothing is left.

    References
    ----------
    .. [1] G. Ghiasi, T.-Y. Lin, Q. Le, "DropBlock: A regularization method for convolutional
       networks", NeurIPS 2018, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> parts.drop_block(np.ones((1, 1, 4)), np.array([[[1.0, 0, 0, 1]]]))
    array([[[2., 0., 0., 2.]]])
    """
    xp = namespace(input=input, mask=mask)
    ones = xp.sum(mask)
    ones = xp.where(ones > 0, ones, ones + 1)  # where all is dropped, 0 and not 0/0
    return input * mask * (prod(mask.shape) / ones)


def drop_block_mask(
    shape: tuple[int, ...],
    *,
    block_size: int,
    drop_rate: float,
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> NumpyArray:
    """Draw the mask of DropBlock: whole blocks are 0.

    Centres are drawn where a block fits, each with probability
    ``gamma = drop_rate / block_size**n * prod(S) / prod(S - block_size + 1)``, so that a fraction
    `drop_rate` would be dropped if blocks never overlapped; a block around each centre is 0.

    Parameters
    ----------
    shape : tuple of int, (N, C, *S)
        Shape of the mask; (N, 1, *S) drops the same blocks in all channels.
    block_size : int
        Size of a block along each axis, at most the smallest size.
    drop_rate : float
        In [0, 1).
    rng : numpy.random.Generator
        What draws.
    dtype : dtype
        Of the mask.

    Returns
    -------
    numpy.ndarray, shape `shape`
        0 where dropped, 1 elsewhere.

    References
    ----------
    .. [1] G. Ghiasi, T.-Y. Lin, Q. Le, "DropBlock: A regularization method for convolutional
       networks", NeurIPS 2018, equation (1).

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> rng = np.random.default_rng(0)
    >>> parts.drop_block_mask((1, 1, 9), block_size=3, drop_rate=0.3, rng=rng)
    array([[[1., 1., 0., 0., 0., 0., 1., 1., 1.]]], dtype=float32)
    """
    size = shape[2:]
    if not size or not 1 <= block_size <= min(size):
        raise ValueError(
            f"block_size: expected 1 up to the smallest of the sizes {size}, got {block_size}"
        )
    if not 0 <= drop_rate < 1:
        raise ValueError(f"drop_rate: expected a number in [0, 1), got {drop_rate}")
    inner = tuple(length - block_size + 1 for length in size)
    gamma = drop_rate / block_size ** len(size) * prod(size) / prod(inner)
    seeds = rng.random((*shape[:2], *inner)) < gamma
    # Element i is dropped if a block starts at any of the block_size places up to i.
    for axis in range(2, len(shape)):
        margin = [(0, 0)] * len(shape)
        margin[axis] = (block_size - 1, block_size - 1)
        window = np.lib.stride_tricks.sliding_window_view(
            np.pad(seeds, margin), block_size, axis=axis
        )
        seeds = window.any(axis=-1)
    mask: NumpyArray = (~seeds).astype(dtype)
    return mask


def _one_hot(xp: Any, labels: Array, logits: Array) -> Array:
    axes_of("logits", logits, "(N, K)")
    shape_of("labels", labels, (logits.shape[0],), "(N,)")
    hit = xp.reshape(labels, (-1, 1)) == xp.arange(logits.shape[1], device=logits.device)
    one = xp.ones_like(logits)
    return xp.where(hit, one, 0 * one)


def label_smoothing_loss(logits: Array, labels: Array, *, smoothing: float = 0.1) -> Array:
    """Return the cross entropy with targets moved towards the uniform distribution.

    Parameters
    ----------
    logits : array, shape (N, K)
        Scores of K classes.
    labels : array of int, shape (N,)
        The right class of each sample, from 0 to K-1.
    smoothing : float
        In [0, 1]: the target is ``(1 - smoothing)*onehot + smoothing/K``.

    Returns
    -------
    array, shape ()
        Mean over the samples of ``-sum_k target_k log softmax(logits)_k``. Its gradient by the
        logits is ``(softmax(logits) - target)/N``.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
       CVPR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts, recipes
    >>> logits, labels = np.zeros((1, 4)), np.array([2])
    >>> loss, pullback = recipes.vjp(parts.label_smoothing_loss, logits, labels, smoothing=0.2)
    >>> loss.round(3), pullback(np.ones(()))[0].round(3)
    (np.float64(1.386), array([[ 0.2,  0.2, -0.6,  0.2]]))
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing: expected a number in [0, 1], got {smoothing}")
    xp = namespace(logits=logits, labels=labels)
    target = _one_hot(xp, labels, logits) * (1 - smoothing) + smoothing / logits.shape[1]
    return -xp.mean(xp.sum(target * log_softmax(xp, logits), axis=1))


def distillation_loss(
    student: Array,
    teacher: Array,
    labels: Array | None = None,
    *,
    temperature: float = 4.0,
    hard: float = 0.0,
) -> Array:
    """Return how far a student's softened probabilities are from a teacher's.

    Parameters
    ----------
    student : array, shape (N, K)
        Scores of the student.
    teacher : array, shape (N, K)
        Scores of the teacher.
    labels : array of int, shape (N,), optional
        The right classes; needed where `hard` is not 0.
    temperature : float
        Divides both scores.
    hard : float
        In [0, 1]: the weight of the cross entropy with the labels, at temperature 1.

    Returns
    -------
    array, shape ()
        ``(1 - hard) T**2 mean KL(softmax(teacher/T) || softmax(student/T)) + hard * cross
        entropy``. The gradient of the first term by the student's scores is
        ``(1 - hard) T (softmax(student/T) - softmax(teacher/T))/N``.

    References
    ----------
    .. [1] G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network",
       NeurIPS workshop 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import parts
    >>> scores = np.array([[1.0, 2.0, 3.0]])
    >>> parts.distillation_loss(scores, scores)
    np.float64(0.0)
    """
    t = positive("temperature", temperature)
    if not 0 <= hard <= 1:
        raise ValueError(f"hard: expected a number in [0, 1], got {hard}")
    xp = namespace(student=student, teacher=teacher)
    axes_of("student", student, "(N, K)")
    shape_of("teacher", teacher, tuple(student.shape), "(N, K), that of student")
    log_p, log_q = log_softmax(xp, teacher / t), log_softmax(xp, student / t)
    soft = xp.mean(xp.sum(xp.exp(log_p) * (log_p - log_q), axis=1)) * ((1 - hard) * t * t)
    if not hard:
        return soft
    if labels is None:
        raise ValueError("labels: expected the right classes where hard is not 0, got None")
    return soft + hard * label_smoothing_loss(student, labels, smoothing=0.0)
