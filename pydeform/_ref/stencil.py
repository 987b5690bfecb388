"""Where a sample reads and with which weights: the operators S_alpha and their adjoints.

A coordinate is kept split, ``p = i + f`` with ``i = base + floor(offset)`` an exact integer and
``f = offset - floor(offset)``. Per axis that gives two stencils, lists of (at, weight):

- the value stencil, {(i, 1-f), (i+1, f)} inside, and what `mode` makes of it at the border;
- the slope stencil, the derivative of the value in p. In the open cell (j, j+1) it is
  {(j, -1), (j+1, +1)}; on the integers the value has a kink, and `kink` chooses between the slope
  of the cell on the right and the mean of both neighbours.

S_alpha takes the slope stencil on the axes named by alpha and the value stencil on the others,
and reads the tensor product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pydeform._shapes import ConvGeometry

Array = NDArray[Any]
Term = Array | None  # None is a structural zero: nothing is computed from it
Size = int | Array  # of an axis; an array [K, 1] where taps read levels
Alpha = tuple[int, ...]  # one 0 or 1 per axis: differentiated or not

# No array is this long, and float32 holds the number exactly: floors are clipped here so that the
# cast to an integer is defined for every finite offset.
_FAR = 2**53


class Corner(NamedTuple):
    """One entry of a stencil for every sample; weight 0 where it is not to be read."""

    at: Array
    weight: Array


def number(value: float | Fraction, dtype: np.dtype[Any]) -> Any:
    """A scalar of a dtype; a Fraction for object arrays, so that they stay exact."""
    if dtype == object:
        return Fraction(value)
    if dtype == np.longdouble and isinstance(value, Fraction):  # a float would round it before
        return np.longdouble(value.numerator) / np.longdouble(value.denominator)
    return dtype.type(value)


def _table(values: Iterable[Iterable[float | Fraction]], dtype: np.dtype[Any]) -> Array:
    """Numbers per tap and axis, [K, n, 1]."""
    return np.array([[[number(value, dtype)] for value in row] for row in values], dtype)


def split(offset: Array) -> tuple[Array, Array]:
    """Floor (as int64) and fraction of finite offsets."""
    whole = np.frompyfunc(math.floor, 1, 1)(offset) if offset.dtype == object else np.floor(offset)
    return np.clip(whole, -_FAR, _FAR).astype(np.int64), offset - whole


def value_stencil(i: Array, f: Array, size: Size, mode: str) -> list[Corner]:
    """The samples that a value is blended from along one axis."""
    zero, one = number(0, f.dtype), number(1, f.dtype)
    near, far = one - f, f
    if mode == "zeros":
        return [Corner(i, near), Corner(i + 1, far)]
    edge = (i < 0) | (i >= size - 1)
    near, far = np.where(edge, one, near), np.where(edge, zero, far)
    if mode == "clip_zero":
        near = np.where((i < 0) | (i >= size), zero, near)
    i = np.clip(i, 0, size - 1)
    return [Corner(i, near), Corner(i + 1, far)]


def slope_stencil(i: Array, f: Array, size: Size, mode: str, kink: str) -> list[Corner]:
    """The derivative of `value_stencil` in p."""
    zero, half, one = (number(value, f.dtype) for value in (0, 0.5, 1))

    def rise(cell: Array) -> Array:
        """1, or 0 in a cell that the mode makes flat."""
        flat = (mode != "zeros") & ((cell < 0) | (cell > size - 2))
        return np.asarray(np.where(flat, zero, one))

    if kink != "mean":
        right = rise(i)
        return [Corner(i, -right), Corner(i + 1, right)]
    right = rise(i) * np.where(f == 0, half, one)
    left = rise(i - 1) * np.where(f == 0, half, zero)
    return [Corner(i - 1, -left), Corner(i, left - right), Corner(i + 1, right)]


class Sampling:
    """All the samples of one convolution, and the operators S_alpha that read and scatter there.

    Parameters
    ----------
    geometry
        The convolution.
    offset
        [N, Go, K, n, P], P = prod(O), in pixels, or in what the geometry scales to pixels; its
        dtype is the one that is computed in. Slopes are those by the offset as it is here.

    Notes
    -----
    A sample with a NaN coordinate reads NaN and scatters nothing; one with an infinite coordinate,
    and no NaN, reads 0 and scatters nothing.
    """

    def __init__(self, geometry: ConvGeometry, offset: Array) -> None:
        self.geometry = geometry
        self.dtype = offset.dtype
        self.zero = number(0, self.dtype)
        self.scale: Term = None
        if geometry.scale:
            self.scale = _table(geometry.scale, self.dtype)
            offset = self.scale * offset + _table(geometry.start, self.dtype)
        exact = self.dtype == object
        finite: Array = abs(offset) != np.inf if exact else np.isfinite(offset)
        nan: Array = np.zeros(offset.shape, bool) if exact else np.isnan(offset)
        self.nan: Array = np.any(nan, axis=3)  # [N, Go, K, P]
        self.alive: Array = np.all(finite, axis=3)
        floor, self.fraction = split(np.where(finite, offset, self.zero))
        self.cell = floor + grid(geometry)  # [N, Go, K, n, P]
        self.sizes: tuple[Size, ...] = geometry.size
        self.first: Size = 0  # pixel of the image that a tap reads
        if geometry.levels:
            each = geometry.taps // len(geometry.levels)
            taps = np.repeat(
                np.array([[level.start, *level.size] for level in geometry.levels]), each, axis=0
            )
            self.first, *sizes = taps.T[..., None]
            self.sizes = tuple(sizes)

    @cached_property
    def stencils(self) -> tuple[list[list[Corner]], list[list[Corner]]]:
        """The value stencils and the slope stencils, one of each per axis."""
        mode, kink = self.geometry.mode, self.geometry.kink
        values, slopes = [], []
        differentiable = self.alive
        for axis, size in enumerate(self.sizes):
            i, f = self.cell[:, :, :, axis], self.fraction[:, :, :, axis]
            values.append(self._within(value_stencil(i, f, size, mode), size, self.alive))
            slopes.append(slope_stencil(i, f, size, mode, kink))
            if kink == "open":
                outside = (i < -1) | ((i == -1) & (f == 0)) | (i >= size)
                differentiable = differentiable & ~outside
        for axis, size in enumerate(self.sizes):
            if self.scale is not None:
                scale = self.scale[:, axis]
                slopes[axis] = [Corner(at, scale * weight) for at, weight in slopes[axis]]
            slopes[axis] = self._within(slopes[axis], size, differentiable)
        return values, slopes

    def _within(self, stencil: list[Corner], size: Size, alive: Array) -> list[Corner]:
        """Give weight 0 and a readable index to corners that are out of range or not alive."""
        return [
            Corner(
                np.clip(at, 0, size - 1),
                np.where(alive & (at >= 0) & (at < size), weight, self.zero),
            )
            for at, weight in stencil
        ]

    def corners(self, alpha: Alpha) -> Iterator[Corner]:
        """The tensor product of the stencils that alpha picks; indices into prod(S)."""
        stencils = [self.stencils[which][axis] for axis, which in enumerate(alpha)]
        for factors in product(*stencils):
            at, weight = factors[0]
            for size, factor in zip(self.sizes[1:], factors[1:], strict=True):
                at, weight = at * size + factor.at, weight * factor.weight
            yield Corner(self.first + at, weight)

    def sample(self, image: Array, alpha: Alpha) -> Array:
        """S_alpha(image): [N, C, prod(S)] -> [N, C, K, P]."""
        g = self.geometry
        samples, positions = self.nan.shape[2], self.nan.shape[3]
        per_group = g.channels // g.offset_groups
        pixels = image.reshape(g.batch, g.offset_groups, per_group, image.shape[2])
        shape = (g.batch, g.offset_groups, 1, samples * positions)
        total = self.zero
        for at, weight in self.corners(alpha):
            read = np.take_along_axis(pixels, at.reshape(shape), axis=3)
            w = weight.reshape(shape)
            # Selected, not multiplied: a corner of weight 0 is not read, whatever lies there.
            total = total + np.where(w != 0, w * read, self.zero)
        if self.nan.any():
            total = np.where(self.nan.reshape(shape), self.dtype.type("nan"), total)
        return np.asarray(total).reshape(g.batch, g.channels, samples, positions)

    def splat(self, columns: Array, alpha: Alpha) -> Array:
        """The adjoint of S_alpha: [N, C, K, P] -> [N, C, prod(S)]."""
        g = self.geometry
        pixels = math.prod(g.size)
        per_group = g.channels // g.offset_groups
        shape = (g.batch, g.offset_groups, 1, columns.shape[2] * columns.shape[3])
        columns = columns.reshape(g.batch, g.offset_groups, per_group, shape[3])
        image = np.full(g.batch * g.channels * pixels, self.zero, self.dtype)
        plane = pixels * np.arange(g.batch * g.channels).reshape(*columns.shape[:3], 1)
        for at, weight in self.corners(alpha):
            w = weight.reshape(shape)
            here = np.where(w != 0, w * columns, self.zero)
            np.add.at(image, (plane + at.reshape(shape)).reshape(-1), here.reshape(-1))
        return image.reshape(g.batch, g.channels, pixels)


def grid(geometry: ConvGeometry) -> Array:
    """base(q, tap) = q // upscale * stride - pad + tap * dilation: exact integers, [K, n, P].

    All 0 where offsets are absolute.
    """
    taps = np.indices(geometry.kernel).reshape(geometry.rank, geometry.taps)
    positions = np.indices(geometry.out_size).reshape(geometry.rank, math.prod(geometry.out_size))
    stride, pad, dilation, upscale = (
        np.array(per_axis)[:, None]
        for per_axis in (
            geometry.stride,
            geometry.pad,
            geometry.dilation,
            geometry.upscale or (1,) * geometry.rank,
        )
    )
    first = (taps * dilation).T[:, :, None]  # [K, n, 1]
    base = np.asarray(first + (positions // upscale * stride - pad)[None], dtype=np.int64)
    return base * (not geometry.absolute)
