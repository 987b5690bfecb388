"""Layouts of versions 3 and 4: channels last, x before y, taps column by column."""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from pydeform import _shapes
from pydeform._arrays import Array, NumpyArray, constant, namespace
from pydeform.ops._checks import PerAxis, check_like
from pydeform.ops.conventions._common import (
    OffsetMask,
    groups_of,
    kernel_of,
    split_ours,
    take,
    where_it_lies,
)


class _Lattice(NamedTuple):
    """What versions 3 and 4 have beside the arrays."""

    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    removed: bool
    scale: float

    @property
    def taps(self) -> int:
        """Taps of the other layout."""
        return self.kernel[0] * self.kernel[1] - self.removed

    @property
    def order(self) -> list[int]:
        """Row-major number of every tap, column by column: x outside, y inside."""
        (height, width), center = self.kernel, tuple(k // 2 for k in self.kernel)
        taps = [(j, i) for i in range(width) for j in range(height)]
        return [j * width + i for j, i in taps if not (self.removed and (j, i) == center)]


def _lattice(
    kernel_size: object, dilation: object, remove_center: object, offset_scale: object
) -> _Lattice:
    kernel = kernel_of(kernel_size)
    if not isinstance(remove_center, bool | int) or remove_center not in (0, 1):
        raise TypeError(f"remove_center: expected True or False, got {remove_center!r}")
    if remove_center and any(k % 2 == 0 for k in kernel):
        raise ValueError(
            f"remove_center: expected odd kernel sizes beside it, which have a centre, got {kernel}"
        )
    if remove_center and kernel == (1, 1):
        raise ValueError("remove_center: expected a kernel of more than its centre, got (1, 1)")
    if isinstance(offset_scale, bool) or not isinstance(offset_scale, int | float):
        raise TypeError(f"offset_scale: expected a number, got {offset_scale!r}")
    if not isfinite(offset_scale) or offset_scale == 0:
        raise ValueError(f"offset_scale: expected a finite number but 0, got {offset_scale!r}")
    steps = _shapes.per_axis("dilation", dilation, 2, 1)
    return _Lattice(kernel, steps, bool(remove_center), float(offset_scale))


def _stretch(lattice: _Lattice, dtype: np.dtype[Any]) -> NumpyArray:
    """What offset_scale moves the row-major taps themselves by: [K, 2]."""
    if dtype.itemsize < 4:
        raise TypeError(
            f"offset_scale: expected 1 beside {dtype.name}, whose offsets would lose bits, "
            f"got {lattice.scale}"
        )
    axes = zip(lattice.kernel, lattice.dilation, strict=True)
    steps = [np.arange(k) * d - d * (k - 1) // 2 for k, d in axes]
    grid = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(grid * (lattice.scale - 1), dtype)


def _from_columns(
    offset: NumpyArray, mask: NumpyArray, lattice: _Lattice
) -> tuple[NumpyArray, NumpyArray]:
    """[N, H, W, G, P, (x, y)], [N, H, W, G, P] -> the layouts of this library."""
    batch, height, width, groups = mask.shape[:4]
    taps = lattice.kernel[0] * lattice.kernel[1]
    xp = namespace(offset)
    ours = xp.zeros((batch, groups, taps, 2, height, width), offset.dtype)
    factors = xp.zeros((batch, groups, taps, height, width), mask.dtype)
    moved = offset[..., ::-1].transpose(0, 3, 4, 5, 1, 2)
    if lattice.scale != 1:
        stretch = _stretch(lattice, offset.dtype)[lattice.order, :, None, None]
        moved = moved * offset.dtype.type(lattice.scale) + constant(stretch, offset)
    ours[:, :, lattice.order] = moved
    factors[:, :, lattice.order] = mask.transpose(0, 3, 4, 1, 2)
    return (
        ours.reshape(batch, groups * taps * 2, height, width),
        factors.reshape(batch, groups * taps, height, width),
    )


def _to_columns(arrays: dict[str, NumpyArray], lattice: _Lattice) -> tuple[NumpyArray, NumpyArray]:
    """The layouts of this library -> [N, H, W, G, P, (x, y)], [N, H, W, G, P]."""
    height, width = lattice.kernel
    split, factors = split_ours(arrays, height * width)
    if factors is None:
        factors = namespace(split).ones_like(split[:, :, :, 0])
    if lattice.removed:
        removed = (height // 2) * width + width // 2
        # On a device nobody looks: that would wait for it.
        if isinstance(factors, np.ndarray) and np.any(factors[:, :, removed] != 0):
            raise ValueError(
                "remove_center: expected a mask of 0 at the centre tap, which is left out, "
                "got other numbers"
            )
    moved = split[:, :, lattice.order]
    if lattice.scale != 1:
        stretch = _stretch(lattice, split.dtype)[lattice.order, :, None, None]
        moved = (moved - constant(stretch, split)) / split.dtype.type(lattice.scale)
    offset = moved[:, :, :, ::-1].transpose(0, 4, 5, 1, 2, 3)
    return offset, factors[:, :, lattice.order].transpose(0, 3, 4, 1, 2)


@where_it_lies
def from_dcnv3(
    offset: Array,
    mask: Array,
    *,
    kernel_size: PerAxis,
    dilation: PerAxis = 1,
    remove_center: bool = False,
    offset_scale: float = 1.0,
) -> OffsetMask:
    """Return DCNv3's offsets and mask as this library lays them out.

    Parameters
    ----------
    offset : array, shape (N, Ho, Wo, G*P*2)
        For every group and tap x, then y; taps column by column.
    mask : array, shape (N, Ho, Wo, G*P)
        Factors, after the softmax that the published layer takes outside of the operation.
    kernel_size : int or (kH, kW)
        Rows and columns of the kernel.
    dilation : int or (y, x)
        Steps between taps; matters beside `offset_scale` only.
    remove_center : bool
        P = K - 1 taps, without the centre, which gets offset 0 and mask 0 here.
    offset_scale : float
        What stretches the lattice of taps about its centre, and offsets with it. With 1 no number
        changes; with another each is rounded.

    Returns
    -------
    OffsetMask
        The offset (N, G*K*2, Ho, Wo) and the mask (N, G*K, Ho, Wo).

    Raises
    ------
    TypeError
        If an argument is not of its type, or 16-bit offsets would be scaled.
    ValueError
        If the shapes do not fit, or remove_center comes with an even kernel.

    See Also
    --------
    to_dcnv3 : The way back.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> offset = np.arange(8.0).reshape(1, 1, 1, 8)  # (x, y) of taps (0, 0), (1, 0), (0, 1), (1, 1)
    >>> mask = np.ones((1, 1, 1, 4))
    >>> pydeform.conventions.from_dcnv3(offset, mask, kernel_size=2).offset.ravel()
    array([1., 0., 5., 4., 3., 2., 7., 6.])
    """
    lattice = _lattice(kernel_size, dilation, remove_center, offset_scale)
    arrays, give = take({"offset": offset, "mask": mask})
    array, taps = arrays["offset"], lattice.taps
    groups = groups_of("offset", array, 3, 2 * taps, f"(batch, H, W, G*{taps}*2)")
    place = array.shape[:3]
    shape = (*place, groups * taps)
    check_like("mask", arrays["mask"], "the offset's positions", shape, array.dtype)
    found = _from_columns(
        array.reshape(*place, groups, taps, 2),
        arrays["mask"].reshape(*place, groups, taps),
        lattice,
    )
    return OffsetMask(*(give(part) for part in found))


@where_it_lies
def to_dcnv3(
    offset: Array,
    mask: Array | None = None,
    *,
    kernel_size: PerAxis,
    dilation: PerAxis = 1,
    remove_center: bool = False,
    offset_scale: float = 1.0,
) -> OffsetMask:
    """Return an offset and a mask as DCNv3 lays them out.

    Parameters
    ----------
    offset : array, shape (N, G*K*2, Ho, Wo)
        For every group and tap y, then x.
    mask : array, shape (N, G*K, Ho, Wo), optional
        Ones if None.
    kernel_size : int or (kH, kW)
        Rows and columns of the kernel.
    dilation : int or (y, x)
        Steps between taps; matters beside `offset_scale` only.
    remove_center : bool
        Leave the centre tap out, where the mask must be 0.
    offset_scale : float
        As the operation will be given it.

    Returns
    -------
    OffsetMask
        The offset (N, Ho, Wo, G*P*2) and the mask (N, Ho, Wo, G*P).

    Raises
    ------
    TypeError
        If an argument is not of its type, or 16-bit offsets would be scaled.
    ValueError
        If the shapes do not fit, or remove_center comes with an even kernel or a mask that is not 0
        there. On a CUDA device nobody looks at the mask.

    See Also
    --------
    from_dcnv3 : The way back.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> offset = np.arange(8.0).reshape(1, 8, 1, 1)  # (y, x) of taps (0, 0), (0, 1), (1, 0), (1, 1)
    >>> pydeform.conventions.to_dcnv3(offset, kernel_size=2).offset.ravel()
    array([1., 0., 5., 4., 3., 2., 7., 6.])
    """
    lattice = _lattice(kernel_size, dilation, remove_center, offset_scale)
    given = {"offset": offset} if mask is None else {"offset": offset, "mask": mask}
    arrays, give = take(given)
    moved, factors = _to_columns(arrays, lattice)
    place = factors.shape[:3]
    return OffsetMask(give(moved.reshape(*place, -1)), give(factors.reshape(*place, -1)))


@where_it_lies
def from_dcnv4(
    offset_mask: Array,
    *,
    kernel_size: PerAxis,
    group: SupportsIndex,
    dilation: PerAxis = 1,
    remove_center: bool = False,
    offset_scale: float = 1.0,
) -> OffsetMask:
    """Return DCNv4's packed offsets and mask as this library lays them out.

    Parameters
    ----------
    offset_mask : array, shape (N, Ho, Wo, D)
        For every group x and y of all taps, then the mask of all taps; taps column by column. D is
        G*P*3, rounded up to a multiple of 8 with channels that nothing reads.
    kernel_size : int or (kH, kW)
        Rows and columns of the kernel.
    group : int
        G.
    dilation : int or (y, x)
        Steps between taps; matters beside `offset_scale` only.
    remove_center : bool
        P = K - 1 taps, without the centre, which gets offset 0 and mask 0 here.
    offset_scale : float
        What stretches the lattice of taps about its centre, and offsets with it. With 1 no number
        changes; with another each is rounded.

    Returns
    -------
    OffsetMask
        The offset (N, G*K*2, Ho, Wo) and the mask (N, G*K, Ho, Wo).

    Raises
    ------
    TypeError
        If an argument is not of its type, or 16-bit offsets would be scaled.
    ValueError
        If the shapes do not fit, or remove_center comes with an even kernel.

    See Also
    --------
    to_dcnv4 : The way back.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> packed = np.array([10.0, 20.0, 11.0, 21.0, 0.5, 0.25, 0, 0]).reshape(1, 1, 1, 8)
    >>> offset, mask = pydeform.conventions.from_dcnv4(packed, kernel_size=(1, 2), group=1)
    >>> offset.ravel(), mask.ravel()
    (array([20., 10., 21., 11.]), array([0.5 , 0.25]))
    """
    lattice = _lattice(kernel_size, dilation, remove_center, offset_scale)
    groups = _shapes.at_least("group", _shapes.integer("group", group), 1)
    arrays, give = take({"offset_mask": offset_mask})
    array, taps = arrays["offset_mask"], lattice.taps
    used = groups * taps * 3
    if array.ndim != 4 or array.shape[3] != _padded(used):
        raise ValueError(
            f"offset_mask: expected shape (batch, H, W, {_padded(used)}), {groups} groups times "
            f"{taps} taps times 3 rounded up to a multiple of 8, got {array.shape}"
        )
    parts = array[..., :used].reshape(*array.shape[:3], groups, taps * 3)
    shifts = parts[..., : 2 * taps].reshape(*array.shape[:3], groups, taps, 2)
    found = _from_columns(shifts, parts[..., 2 * taps :], lattice)
    return OffsetMask(*(give(part) for part in found))


@where_it_lies
def to_dcnv4(
    offset: Array,
    mask: Array | None = None,
    *,
    kernel_size: PerAxis,
    dilation: PerAxis = 1,
    remove_center: bool = False,
    offset_scale: float = 1.0,
) -> Any:
    """Return an offset and a mask in DCNv4's one array.

    Parameters
    ----------
    offset : array, shape (N, G*K*2, Ho, Wo)
        For every group and tap y, then x.
    mask : array, shape (N, G*K, Ho, Wo), optional
        Ones if None.
    kernel_size : int or (kH, kW)
        Rows and columns of the kernel.
    dilation : int or (y, x)
        Steps between taps; matters beside `offset_scale` only.
    remove_center : bool
        Leave the centre tap out, where the mask must be 0.
    offset_scale : float
        As the operation will be given it.

    Returns
    -------
    array, shape (N, Ho, Wo, D)
        D is G*P*3 rounded up to a multiple of 8, the channels beyond it 0.

    Raises
    ------
    TypeError
        If an argument is not of its type, or 16-bit offsets would be scaled.
    ValueError
        If the shapes do not fit, or remove_center comes with an even kernel or a mask that is not 0
        there. On a CUDA device nobody looks at the mask.

    See Also
    --------
    from_dcnv4 : The way back.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> offset = np.array([20.0, 10.0, 21.0, 11.0]).reshape(1, 4, 1, 1)
    >>> pydeform.conventions.to_dcnv4(offset, kernel_size=(1, 2)).ravel()
    array([10., 20., 11., 21.,  1.,  1.,  0.,  0.])
    """
    lattice = _lattice(kernel_size, dilation, remove_center, offset_scale)
    given = {"offset": offset} if mask is None else {"offset": offset, "mask": mask}
    arrays, give = take(given)
    moved, factors = _to_columns(arrays, lattice)
    place, groups, taps = factors.shape[:3], factors.shape[3], factors.shape[4]
    used = groups * taps * 3
    xp = namespace(moved)
    packed = xp.zeros((*place, _padded(used)), moved.dtype)
    parts = xp.concatenate([moved.reshape(*place, groups, 2 * taps), factors], axis=-1)
    packed[..., :used] = parts.reshape(*place, used)
    return give(packed)


def _padded(channels: int) -> int:
    return -(-channels // 8) * 8
