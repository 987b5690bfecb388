"""Layouts with all x before all y: Chainer's, and MindSpore's with the mask behind them."""

from __future__ import annotations

from typing import Any

from pydeform._arrays import Array, NumpyArray, namespace
from pydeform.ops._checks import PerAxis
from pydeform.ops.conventions._common import (
    OffsetMask,
    groups_of,
    kernel_of,
    split_ours,
    take,
    where_it_lies,
)


@where_it_lies
def from_chainer(offset: Array, *, kernel_size: PerAxis) -> Any:
    """Return Chainer's offsets as this library lays them out.

    Parameters
    ----------
    offset : array, shape (N, 2*K, Ho, Wo)
        First x for all taps, then y for all taps; taps row-major, pixels.
    kernel_size : int or (kH, kW)
        Rows and columns of the kernel.

    Returns
    -------
    array, shape (N, K*2, Ho, Wo)
        For every tap y, then x.

    Raises
    ------
    TypeError
        If an argument is not of its type.
    ValueError
        If the channels are not 2*K: Chainer has one offset group.

    See Also
    --------
    to_chainer : The way back.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> theirs = np.array([10.0, 11.0, 20.0, 21.0]).reshape(1, 4, 1, 1)
    >>> pydeform.conventions.from_chainer(theirs, kernel_size=(1, 2)).ravel()
    array([20., 10., 21., 11.])
    """
    array, taps, give = _chainer(offset, kernel_size)
    parts = array.reshape(array.shape[0], 2, taps, *array.shape[2:])
    return give(parts[:, ::-1].swapaxes(1, 2).reshape(array.shape))


@where_it_lies
def to_chainer(offset: Array, *, kernel_size: PerAxis) -> Any:
    """Return offsets as Chainer lays them out.

    Parameters
    ----------
    offset : array, shape (N, K*2, Ho, Wo)
        Of one offset group: for every tap y, then x.
    kernel_size : int or (kH, kW)
        Rows and columns of the kernel.

    Returns
    -------
    array, shape (N, 2*K, Ho, Wo)
        First x for all taps, then y for all taps.

    Raises
    ------
    TypeError
        If an argument is not of its type.
    ValueError
        If the channels are not K*2: Chainer has one offset group.

    See Also
    --------
    from_chainer : The way back.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> offset = np.array([20.0, 10.0, 21.0, 11.0]).reshape(1, 4, 1, 1)
    >>> pydeform.conventions.to_chainer(offset, kernel_size=(1, 2)).ravel()
    array([10., 11., 20., 21.])
    """
    array, taps, give = _chainer(offset, kernel_size)
    parts = array.reshape(array.shape[0], taps, 2, *array.shape[2:])
    return give(parts[:, :, ::-1].swapaxes(1, 2).reshape(array.shape))


def _chainer(offset: Any, kernel_size: object) -> tuple[NumpyArray, int, Any]:
    """Return the checked array, the number of taps, and how to give a result back."""
    height, width = kernel_of(kernel_size)
    taps = height * width
    arrays, give = take({"offset": offset})
    array = arrays["offset"]
    if groups_of("offset", array, 1, 2 * taps, f"(batch, 2*{taps}, H, W)") != 1:
        raise ValueError(
            f"offset: expected {2 * taps} channels, one offset group, got {array.shape[1]}"
        )
    return array, taps, give


@where_it_lies
def from_mindspore(offsets: Array, *, kernel_size: PerAxis) -> OffsetMask:
    """Return MindSpore's packed offsets as an offset and a mask.

    Parameters
    ----------
    offsets : array, shape (N, 3*G*K, Ho, Wo)
        First x of all groups and taps, then y, then the mask; taps row-major, pixels.
    kernel_size : int or (kH, kW)
        Rows and columns of the kernel.

    Returns
    -------
    OffsetMask
        The offset (N, G*K*2, Ho, Wo) and the mask (N, G*K, Ho, Wo).

    Raises
    ------
    TypeError
        If an argument is not of its type.
    ValueError
        If the channels are not 3*G*K.

    See Also
    --------
    to_mindspore : The way back.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> packed = np.array([10.0, 11.0, 20.0, 21.0, 0.5, 0.25]).reshape(1, 6, 1, 1)
    >>> offset, mask = pydeform.conventions.from_mindspore(packed, kernel_size=(1, 2))
    >>> offset.ravel(), mask.ravel()
    (array([20., 10., 21., 11.]), array([0.5 , 0.25]))
    """
    height, width = kernel_of(kernel_size)
    taps = height * width
    arrays, give = take({"offsets": offsets})
    array = arrays["offsets"]
    groups = groups_of("offsets", array, 1, 3 * taps, "(batch, 3*G*K, H, W)")
    batch, _, *size = array.shape
    x, y, mask = array.reshape(batch, 3, groups * taps, *size).transpose(1, 0, 2, 3, 4)
    offset = namespace(x).stack([y, x], axis=2).reshape(batch, groups * taps * 2, *size)
    return OffsetMask(give(offset), give(mask))


@where_it_lies
def to_mindspore(offset: Array, mask: Array | None = None, *, kernel_size: PerAxis) -> Any:
    """Return an offset and a mask in MindSpore's one tensor.

    Parameters
    ----------
    offset : array, shape (N, G*K*2, Ho, Wo)
        For every group and tap y, then x.
    mask : array, shape (N, G*K, Ho, Wo), optional
        Ones if None: MindSpore has no operation without a mask.
    kernel_size : int or (kH, kW)
        Rows and columns of the kernel.

    Returns
    -------
    array, shape (N, 3*G*K, Ho, Wo)
        First x of all groups and taps, then y, then the mask.

    Raises
    ------
    TypeError
        If an argument is not of its type.
    ValueError
        If the shapes do not fit.

    See Also
    --------
    from_mindspore : The way back.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> offset = np.array([20.0, 10.0, 21.0, 11.0]).reshape(1, 4, 1, 1)
    >>> pydeform.conventions.to_mindspore(offset, kernel_size=(1, 2)).ravel()
    array([10., 11., 20., 21.,  1.,  1.])
    """
    height, width = kernel_of(kernel_size)
    given = {"offset": offset} if mask is None else {"offset": offset, "mask": mask}
    arrays, give = take(given)
    split, factors = split_ours(arrays, height * width)
    batch, groups, taps, _, *size = split.shape
    if factors is None:
        factors = namespace(split).ones_like(split[:, :, :, 0])
    parts = namespace(split).stack([split[:, :, :, 1], split[:, :, :, 0], factors], axis=1)
    return give(parts.reshape(batch, 3 * groups * taps, *size))
