"""Pooling of regions of interest: their checks, where their samples lie, and the parts.

A region is split into bins, a bin is the average of the samples of a regular grid inside it:

    y = y1*spatial_scale - 0.5 + gamma*height*offset_y + bin_row*bin_h + (row + 0.5)*bin_h/rows

and x likewise. From -1 to the size of the image coordinates are clamped to its pixels, where the
derivative of the clamped coordinate is 0; samples beyond count 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np

from pydeform import _shapes
from pydeform._arrays import NumpyArray, namespace, on_host, ready
from pydeform._shapes import ConvGeometry
from pydeform.ops import _call, _checks, _outputs, _parts, _samples
from pydeform.ops._call import Arrays
from pydeform.ops._outputs import Wanted

# Below this many bytes of positions the operating system is not asked.
_SMALL = 2**28


class Options(NamedTuple):
    """What a caller may choose beside the arrays, as it was written."""

    output_size: object
    spatial_scale: object
    sampling_ratio: object
    gamma: object
    kink: object


class Regions(NamedTuple):
    """Regions of interest in pixels of the image; pairs are (y, x). R of them, or some."""

    image: NumpyArray  # [R]: which one of the batch
    start: NumpyArray  # [R, 2]
    extent: NumpyArray  # [R, 2]: height and width
    grid: NumpyArray  # [R, 2]: samples per bin along each axis, at least 1

    @property
    def samples(self) -> NumpyArray:
        """Samples per bin, [R]."""
        return self.grid[:, 0] * self.grid[:, 1]

    def take(self, rows: NumpyArray) -> Regions:
        """Return some of the regions."""
        return Regions(*(array[rows] for array in self))

    def where(self, xp: Any) -> Regions:
        """Return the regions as arrays of NumPy or of CuPy."""
        return Regions(*(xp.asarray(array) for array in self))


@dataclass
class Image:
    """One image of the batch, which several parts read channels last."""

    index: int
    copies: dict[int, tuple[NumpyArray, NumpyArray]] = field(default_factory=dict)

    def last(self, array: NumpyArray) -> NumpyArray:
        """Return the image from [N, C, H, W] as [1, H, W, C]."""
        if id(array) not in self.copies:
            image = ready(namespace(array).moveaxis(array[self.index], 0, -1)[None])
            self.copies[id(array)] = array, image  # holding the array keeps its id
        return self.copies[id(array)][1]


class Part:
    """Regions of one image that have similar numbers of samples.

    Parameters
    ----------
    image
        What is read.
    rows
        Which regions these are, beside the arrays.
    regions
        These regions, there too.
    gamma
        Factor of the offsets, in sizes of the region.
    bins
        (ph, pw).
    geometry
        P = R*ph*pw positions with as many taps as the most samples of a bin. A tap that a bin has
        no sample for reads at infinity, which is 0.
    """

    def __init__(
        self,
        image: Image,
        rows: NumpyArray,
        regions: Regions,
        gamma: float,
        bins: tuple[int, int],
        geometry: ConvGeometry,
    ) -> None:
        self.xp = namespace(rows)
        self.image, self.rows, self.regions = image, rows, regions
        self.gamma, self.bins, self.geometry = gamma, bins, geometry

    @cached_property
    def _shape(self) -> tuple[int, int, int, int]:
        return len(self.rows), *self.bins, self.geometry.taps

    @cached_property
    def _count(self) -> NumpyArray:
        dtype = self.regions.start.dtype
        return self.regions.samples.astype(dtype).reshape(-1, 1, 1, 1)

    @cached_property
    def _reach(self) -> NumpyArray:
        """What an offset of 1 moves a region by, [R, 2]."""
        dtype = self.regions.extent.dtype
        return cast("NumpyArray", _samples.exact(self.gamma, dtype) * self.regions.extent)

    def linear(self, role: str, array: NumpyArray) -> NumpyArray:
        """Return what the backend reads, from an argument, a tangent or a cotangent."""
        xp = self.xp
        if role == "image":
            return self.image.last(array)
        if role == "output":
            array = xp.moveaxis(array[self.rows], 1, -1) / self._count
            return ready(array).reshape(1, 1, -1, self.geometry.channels)
        if role == "factor":
            array = xp.broadcast_to(array[:, 0][self.rows][..., None], self._shape)
            return ready(array).reshape(1, -1, 1, self.geometry.taps)
        moves = xp.moveaxis(array[self.rows], 1, -1)[..., None, ::-1]  # [R, ph, pw, 1, (y, x)]
        moves = moves * self._reach[:, None, None, None]
        moves = ready(xp.broadcast_to(moves, (*self._shape, 2)))
        return moves.reshape(1, -1, 1, self.geometry.taps, 2)

    def position(self, array: NumpyArray | None) -> NumpyArray:
        """Return the positions in pixels; those that read nothing are infinite."""
        regions, dtype, xp = self.regions, self.regions.start.dtype, self.xp
        tap = xp.arange(self.geometry.taps)
        columns = regions.grid[:, 1:]
        result: NumpyArray = xp.empty((*self._shape, 2), dtype)
        outside = (tap >= regions.samples[:, None])[:, None, None]  # [R, 1, 1, taps]
        for axis, at in enumerate((tap // columns, tap % columns)):
            many = self.bins[axis]
            size = regions.extent[:, axis, None] / many
            inner = (at.astype(dtype) + _samples.exact(0.5, dtype)) * size
            inner = inner / regions.grid[:, axis, None].astype(dtype)
            start = xp.broadcast_to(regions.start[:, axis, None, None], self._shape[:3])
            if array is not None:
                move = array[:, 1 - axis][self.rows]
                start = start + move * self._reach[:, axis, None, None]
            first = size * xp.arange(many, dtype=dtype)  # [R, bins]
            first = first[:, :, None] if axis == 0 else first[:, None]
            result[..., axis] = (start + first)[..., None] + inner[:, None, None]
            at, limit = result[..., axis], _samples.exact(self.geometry.size[axis], dtype)
            outside = outside | (at < -1) | (at > limit)
        result[outside] = np.inf
        return result.reshape(1, -1, 1, self.geometry.taps, 2)

    def factor(self, array: NumpyArray | None) -> NumpyArray | None:
        """Return the mask for every sample of a bin; None for 1."""
        return None if array is None else self.linear("factor", array)

    def add(self, role: str, values: NumpyArray, result: NumpyArray) -> None:
        """Write the adjoint of `linear`, or add it to the image."""
        if role == "image":
            target = result[self.image.index]
            target += self.xp.moveaxis(values[0], -1, 0)
        elif role == "output":
            values = values.reshape(*self._shape[:3], -1) / self._count
            result[self.rows] = self.xp.moveaxis(values, -1, 1)
        elif role == "factor":
            result[:, 0][self.rows] = values.reshape(self._shape).sum(axis=3)
        else:
            moves = values.reshape(*self._shape, 2).sum(axis=3) * self._reach[:, None, None]
            result[self.rows] = self.xp.moveaxis(moves[..., ::-1], -1, 1)


def _regions(
    rois: NumpyArray,
    dtype: np.dtype[Any],
    batch: int,
    scale: float,
    ratio: int,
    bins: tuple[int, int],
) -> Regions:
    """Check the regions and return them in pixels, in the dtype that is computed in.

    How many samples there are, and so all that follows, depends on their numbers: they are needed
    on the host.
    """
    rois = _call.working(on_host(rois))
    if not np.isfinite(rois).all():
        row = int(np.flatnonzero(~np.isfinite(rois).all(axis=1))[0])
        raise ValueError(f"rois: expected finite numbers, got {rois[row].tolist()} in row {row}")
    index, corners = rois[:, 0], rois[:, 1:].reshape(-1, 2, 2)
    wrong = (index != np.floor(index)) | (index < 0) | (index >= batch)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"rois: expected batch indices 0 <= i < {batch}, whole numbers in column 0, "
            f"got {index[row]} in row {row}"
        )
    wrong = (corners[:, 1] <= corners[:, 0]).any(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            "rois: expected positive sizes, x1 < x2 and y1 < y2 in columns (i, x1, y1, x2, y2), "
            f"got {rois[row].tolist()} in row {row}"
        )
    if dtype == object:
        corners = cast("NumpyArray", np.frompyfunc(Fraction, 1, 1)(corners))
    half = _samples.exact(0.5, dtype)
    corners = corners[:, :, ::-1].astype(dtype) * _samples.exact(scale, dtype) - half  # (y, x)
    extent = corners[:, 1] - corners[:, 0]
    if ratio > 0:
        grid = np.full(extent.shape, ratio, np.int64)
    else:
        grid = np.maximum(np.ceil(extent / np.array(bins, dtype)), 1).astype(np.int64)
    return Regions(index.astype(np.int64), corners[:, 0], extent, grid)


def _split(regions: Regions) -> list[NumpyArray]:
    """Return rows of regions that are computed together: of one image, of similar counts."""
    count = regions.samples.tolist()
    together: dict[tuple[int, int], list[int]] = {}
    for row, image in enumerate(regions.image.tolist()):
        together.setdefault((image, (count[row] - 1).bit_length()), []).append(row)
    return [np.array(together[key]) for key in sorted(together)]


def _size(value: object) -> tuple[int, int]:
    h, w = _shapes.per_axis("output_size", value, 2, 1)
    return h, w


def plan(arrays: Arrays, accepted: Sequence[str], options: Options) -> _parts.Plan:
    """Check everything and return how regions are pooled."""
    if "rois" not in arrays:
        raise TypeError("rois: expected an array, got None")
    input, rois = arrays["input"], arrays["rois"]
    _checks.check_dtypes({n: a for n, a in arrays.items() if n != "rois"}, accepted)
    if rois.dtype not in (input.dtype, np.float32, np.float64):
        raise TypeError(
            "rois: expected float32, float64 or the dtype of input, "
            f"got {_checks.dtype_name(rois.dtype)}"
        )
    bins = _size(options.output_size)
    scale = _samples.real("spatial_scale", options.spatial_scale)
    if scale <= 0:
        raise ValueError(f"spatial_scale: expected a positive number, got {scale}")
    gamma = _samples.real("gamma", options.gamma)
    ratio = _shapes.at_least(
        "sampling_ratio", _shapes.integer("sampling_ratio", options.sampling_ratio), -1
    )
    kink = _checks.choice("kink", options.kink, _checks.KINKS)
    _samples.check_axes("input", input, 4, "(batch, channels, height, width)")
    if 0 in input.shape[1:]:
        raise ValueError(
            "input: expected at least one element along every axis but the batch, "
            f"got shape {input.shape}"
        )
    batch, channels, height, width = input.shape
    _samples.check_axes("rois", rois, 2, "(regions, 5)")
    _samples.check_shape("rois", rois, (len(rois), 5), "(regions, 5) as (i, x1, y1, x2, y2)")
    for name, each in (("offset", 2), ("mask", 1)):
        if name in arrays:
            meaning = f"(regions, {each}, *output_size)"
            _samples.check_shape(name, arrays[name], (len(rois), each, *bins), meaning)
    output = (len(rois), channels, *bins)
    _shapes.check_bytes("output", output, input.itemsize)
    regions = _regions(rois, _call.working(input[:0]).dtype, batch, scale, ratio, bins)
    images = [Image(index) for index in range(batch)]
    xp, parts = namespace(input), []
    for rows in _split(regions):
        some = regions.take(rows)
        taps = int(some.samples.max())
        if xp is np:
            _check_memory(len(rows) * math.prod(bins) * taps * 2 * regions.start.itemsize, taps)
        points = (1, len(rows) * math.prod(bins))
        geometry = _samples.depthwise(
            1, channels, 1, (height, width), points, taps, kink, mode="border"
        )
        image, where = images[int(some.image[0])], xp.asarray(rows)
        parts.append(Part(image, where, some.where(xp), gamma, bins, geometry))
    roles = {"image": "input"}
    roles |= {r: n for r, n in (("position", "offset"), ("factor", "mask")) if n in arrays}
    return _parts.Plan(Wanted(output, input.dtype), parts, roles)


def _check_memory(needed: int, taps: int) -> None:
    """Raise MemoryError where the positions of all samples cannot fit."""
    available: Any = _outputs.available_bytes() if needed > _SMALL else None
    if available is not None and needed > available:
        raise MemoryError(
            f"rois: expected samples whose positions fit {available} bytes, which are available, "
            f"got {taps} samples a bin ({needed} bytes); sampling_ratio sets how many"
        )
