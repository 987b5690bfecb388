"""The operators S_alpha on the GPU: columns, their adjoint, and dots with gradients of columns."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydeform import _cuda
from pydeform._gpu import _workspace
from pydeform._gpu._layout import (
    THREADS,
    Array,
    Layout,
    Maybe,
    blocks,
    divisor,
    field,
    kind,
    lasting,
    named,
    pointer,
    strides,
)
from pydeform._gpu._loader import launch
from pydeform._shapes import ConvGeometry

#: One addend factor * S_alpha: bits of the differentiated axes, and a field [N, P, Go, K] or None.
Term = tuple[int, Maybe]
#: Extents up to which an `int` holds every index, whatever the offsets (see _stencil.cuh).
_NARROW = 1 << 29
#: Numbers of a table that come with a kernel's arguments, `Taps::near`.
_NEAR = 256
_MODES = ("zeros", "clip_zero", "border")
_KINKS = ("right", "open", "mean")
_LANES = 32
_TILE_ROWS = 16


def _power(count: int, most: int) -> int:
    """Return the smallest power of two that is at least `count`, and at most `most`."""
    return min(1 << max(count - 1, 0).bit_length(), most)


#: Geometries whose members are kept: an application has few, and uses them over and over.
_KEPT = 256


@lru_cache(_KEPT)
def _span(g: ConvGeometry) -> int:
    """Return the largest extent or coordinate of a pixel."""
    upscale = g.upscale or (1,) * g.rank
    spans = [prod(g.size), prod(g.out_size), g.channels]
    for axis in range(g.rank):
        steps = (g.out_size[axis] - 1) // upscale[axis] * g.stride[axis]
        spans += [g.size[axis], g.pad[axis], steps + (g.kernel[axis] - 1) * g.dilation[axis]]
        spans += [g.stride[axis], g.dilation[axis], upscale[axis]]
    return max(spans)


def _indices(g: ConvGeometry, samples: int, fields: Iterable[Maybe]) -> str:
    """Return the type of indices, and of the strides of fields."""
    steps = [abs(step) for array in fields if array is not None for step in strides(array)]
    return "int" if max(_span(g), samples, *steps) < _NARROW else "int64_t"


def modulated(layout: Layout, m: Maybe, mu: Maybe, v: Maybe) -> tuple[list[Term], list[Maybe]]:
    """Return the terms of mu S_0 + sum_d m v_d S_{e_d}: how samples change in a direction.

    v is [N, P, Go, K, n]; the second result is it by axes.
    """
    terms: list[Term] = [] if mu is None else [(0, mu)]
    by_axes: list[Maybe] = [None] * layout.geometry.rank
    if v is not None:
        by_axes = [v[..., axis] for axis in range(layout.geometry.rank)]
        products = (
            by_axes if m is None else [layout.wide(m) * layout.wide(move) for move in by_axes]
        )
        terms += [(1 << axis, product) for axis, product in enumerate(products)]
    return terms, by_axes


def _rows_first(array: Maybe) -> bool:
    """Return whether numbers of neighbouring rows lie closer than those of neighbouring samples."""
    if array is None:
        return False
    steps = [abs(step) for step in strides(array)]
    others = [step for step, extent in zip(steps[2:], array.shape[2:], strict=True) if extent > 1]
    return steps[1] < min(others, default=0)


@lru_cache(_KEPT)
def _table(g: ConvGeometry, dtype: np.dtype[Any]) -> NDArray[np.int64]:
    """Return what `Taps` of _stencil.cuh tells of levels and taps."""
    levels, cell = [], 0
    for level in g.levels:
        levels += [level.start, cell, *level.size]
        cell += prod(size + 2 for size in level.size)
    if levels:
        each = g.taps // len(g.levels)
        levels += [tap // each * (2 + g.rank) for tap in range(g.taps)]
    units = np.array(
        [
            [[dtype.type(x) for x in axis] for axis in zip(*tap, strict=True)]
            for tap in zip(g.scale, g.start, strict=True)
        ],
        dtype,
    ).tobytes()
    units += bytes(-len(units) % 8)
    return np.concatenate([np.array(levels, np.int64), np.frombuffer(units, np.int64)])


@lru_cache(_KEPT)
def _members(g: ConvGeometry, pixels: int, positions: int) -> tuple[bytes, int, bytes]:
    """Return members of `Geometry` before its offsets, cells of an image, and members after."""

    def three(values: Sequence[int]) -> list[int]:
        return [*values, *[1] * (3 - g.rank)]

    cells = sum(
        prod(size + 2 for size in part) for part in ([level.size for level in g.levels] or [g.size])
    )
    per_axis = (g.size, g.out_size, g.kernel, g.stride, g.pad, g.dilation)
    before = [
        *(g.batch, g.channels, g.offset_groups, g.taps, pixels, positions),
        *(number for values in per_axis for number in three(values)),
        *three(g.upscale or (1,) * g.rank),
        *(_MODES.index(g.mode), _KINKS.index(g.kink), int(g.absolute)),
    ]
    divisors = [positions, g.taps, g.offset_groups * g.taps]
    divisors += [*three(g.out_size)[1:], *three(g.kernel)[1:]]
    after = [cells, *(number for by in divisors for number in divisor(by))]
    first, last = (struct.pack(f"={len(part)}q", *part) for part in (before, after))
    return first, cells, last


class Sampling:
    """All the samples of one convolution.

    Parameters
    ----------
    layout
        The convolution and where its arrays lie.
    offset
        [N, P, Go, K, n] of any strides, or None for offsets of 0.
    fields
        What else is read or written by sample.
    """

    def __init__(self, layout: Layout, offset: Maybe, fields: Sequence[Maybe] = ()) -> None:
        g = layout.geometry
        self.layout, self.geometry, self.xp = layout, g, layout.xp
        self.pairs = g.offset_groups * g.taps
        self.width = g.channels // g.offset_groups
        self.index = _indices(g, layout.rows * self.pairs, (offset, *fields))
        self.T, self.A = named(layout.storage), named(layout.dtype)
        self.offset = offset  # kept as long as its address
        self.rows_first = _rows_first(next((f for f in (offset, *fields) if f is not None), None))

        samples = [0] * 7
        if offset is not None:
            samples = [*field(offset[..., 0]), strides(offset)[-1]]
        before, self.cells, after = _members(g, layout.pixels, layout.positions)
        self.args: list[int | bytes] = [before, *samples, after]

    @cached_property
    def taps(self) -> list[int | bytes]:
        """Members of `Taps`."""
        g = self.geometry
        table = _table(g, self.layout.dtype)
        known = [int(bool(g.scale)), len(g.levels), len(table)]
        if len(table) <= _NEAR:
            return [*known, 0, table.tobytes().ljust(8 * _NEAR, b"\0")]
        self.far = table  # kept as long as its address
        if self.xp is not np:
            with self.xp.cuda.using_allocator():  # not in a workspace: other calls will read it
                self.far = _cuda.constant(table, self.layout.like.device.id)
        return [*known, pointer(self.far), bytes(8 * _NEAR)]

    # How a launch is made.

    def _vector(self, itemsize: int, arrays: Iterable[Array], widths: Iterable[int]) -> int:
        """Return how many channels a thread reads at once: 16 bytes where everything allows it."""
        vector = 16 // itemsize
        whole = all(width % vector == 0 for width in (self.width, *widths))
        aligned = all(pointer(array) % 16 == 0 for array in arrays)
        return vector if whole and aligned and self.index == "int" else 1

    def _lanes(self, vector: int) -> int:
        """Return how many neighbouring threads share the channels of a sample."""
        return _power(self.width // vector, _LANES)

    def _wide(self, alphas: Iterable[int]) -> str:
        """Return whether some sample reads three pixels along an axis."""
        return "true" if self.geometry.kink == "mean" and any(alphas) else "false"

    def _terms(self, terms: Sequence[Term]) -> list[int]:
        missing = 4 - len(terms)
        fields = [number for _, factor in terms for number in field(factor)]
        alphas = [alpha for alpha, _ in terms]
        return [len(terms), *alphas, *[0] * missing, *fields, *[0] * 6 * missing]

    def _columns(self, columns: Array, first: int) -> list[int]:
        """Members of `Columns` from [groups, rows, taps, channels of a group]."""
        group, row, tap, _ = strides(columns)
        width = divisor(columns.shape[3])
        return [pointer(columns), first, *width, group, row, tap, kind(columns.dtype)]

    def _run(
        self,
        source: str,
        kernel: str,
        instance: Sequence[object],
        units: int,
        args: Sequence[int | bytes],
        threads: int = THREADS,
        plain: bool = False,
    ) -> None:
        names = tuple(str(part) for part in instance)
        args = args if plain else [*self.args, *args]
        launch(source, kernel, names, blocks(units), (threads,), args, xp=self.xp)

    def _tiles(self, rows: int, wide: str, lanes: int) -> tuple[int, list[int]]:
        """Return how many tiles there are, and members of `Tiles`; see `Tile` of _columns.cuh."""
        corners = (3 if wide == "true" else 2) ** self.geometry.rank
        number, index = self.layout.dtype.itemsize, 8 if self.index == "int64_t" else 4
        most = 4 if corners * (number + index) + number > 150 else 16
        across = -(-self.pairs // most)
        count = -(-rows // _TILE_ROWS) * across
        return count, [rows, count, lanes, *divisor(across), -(-self.pairs // across)]

    # The operators. Images are [N, pixels, C], columns [g, rows, K, C / g].

    def blend(
        self, image: Array, terms: Sequence[Term], columns: Array, first: int, add: bool = False
    ) -> None:
        """Write (or add) the sum over terms of factor * S_alpha(image) for rows from `first`."""
        vector = self._vector(image.itemsize, (image, columns), (columns.shape[3],))
        wide = self._wide(alpha for alpha, _ in terms)
        count, tiles = self._tiles(columns.shape[1], wide, self._lanes(vector))
        args = [*self._terms(terms), pointer(image), *self._columns(columns, first)]
        instance = (self.T, self.A, self.geometry.rank, vector, wide, self.index)
        self._run("sample", "blend", instance, count, [*args, *tiles, int(add)])

    def weigh(self, image: Array, terms: Sequence[Term], out: Array, add: bool = False) -> None:
        """Write (or add) the same, summed over taps, for all rows [N * P, C] of any type."""
        g = self.geometry
        vector = self._vector(image.itemsize, (image, out), ())
        wide = self._wide(alpha for alpha, _ in terms)
        # Plans of 27 corners: a smaller block, so that one tap of each fits its shared memory.
        threads = 64 if wide == "true" and g.rank == 3 else THREADS
        vectors = g.channels // vector
        across = min(vectors, threads)
        lines = -(-vectors // across)
        tiles = -(-out.shape[0] // (threads // across)) * lines
        args = [*self.taps, *self._terms(terms), pointer(image), pointer(out), kind(out.dtype)]
        args += [out.shape[0], tiles, across, *divisor(lines), *divisor(self.width)]
        args += [int(add), int(self.rows_first)]
        plain = "true" if g.mode == "zeros" and [alpha for alpha, _ in terms] == [0] else "false"
        instance = (self.T, self.A, g.rank, vector, wide, plain, self.index)
        self._run("local_conv", "weigh", instance, lasting(tiles, self.xp), args, threads=threads)

    def dots(
        self,
        columns: Array,
        image: Array,
        outputs: Sequence[tuple[int, Array, bool]],
        first: int,
        factor: Maybe = None,
    ) -> None:
        """Write sum_c columns * S_alpha(image), one number per sample, for rows from `first`.

        `outputs` are (alpha, [N, P, Go, K] to write to, whether to multiply by `factor`).
        """
        rank = self.geometry.rank
        vector = self._vector(image.itemsize, (image, columns), (columns.shape[3],))
        wide = self._wide(alpha for alpha, _, _ in outputs)
        rows = columns.shape[1]
        missing = [0] * (8 - len(outputs))
        args = [
            *(*self.taps, pointer(image), *self._columns(columns, first), rows),
            *(self._lanes(vector), int(self.rows_first), *divisor(rows)),
            *(*field(factor), len(outputs)),
            *(*[alpha for alpha, _, _ in outputs], *missing),
            *(*[int(factored) for _, _, factored in outputs], *missing),
            *(number for _, out, _ in outputs for number in field(out)),
            *missing * 6,
        ]
        instance = (self.T, self.A, rank, vector, wide, self.index)
        self._run("sample", "dots", instance, -(-rows * self.pairs // THREADS), args)

    def splat(
        self,
        columns: Array,
        terms: Sequence[Term],
        images: Array,
        first: int,
        deterministic: bool = True,
        add: bool = True,
    ) -> None:
        """Add the sum over terms of S_alpha^T(factor * columns) to images, [N, pixels, C].

        Without `add` (by the deterministic way, for all rows) it is written, and they may be of any
        type.
        """
        if deterministic:
            self._gather(columns, terms, images, first, add)
            return
        vector = self._vector(images.itemsize, (columns,), (columns.shape[3],))
        wide = self._wide(alpha for alpha, _ in terms)
        count, tiles = self._tiles(columns.shape[1], wide, self._lanes(vector))
        args = [*self._terms(terms), *self._columns(columns, first), pointer(images), *tiles]
        instance = (self.A, self.geometry.rank, vector, wide, self.index)
        self._run("splat", "scatter", instance, count, args)

    def _gather(
        self, columns: Array, terms: Sequence[Term], images: Array, first: int, add: bool
    ) -> None:
        g, xp, rows = self.geometry, self.xp, columns.shape[1]
        if not rows or not terms:
            if not add:
                images[...] = 0
            return
        image = first // self.layout.positions
        count = -(-(first + rows) // self.layout.positions) - image
        cells = count * g.offset_groups * self.cells
        index = self.index if max(cells, columns.size) < 2**31 else "int64_t"
        wide = self._wide(alpha for alpha, _ in terms)
        corners = (3 if wide == "true" else 2) ** g.rank
        numbers = np.int32 if index == "int" else np.int64
        keys, ranks, order = (xp.empty(rows * self.pairs, numbers) for _ in range(3))
        weights = self.layout.empty(keys.size, corners)
        counts = xp.zeros(cells + 1, numbers)
        args = [*self.taps, *self._terms(terms), first, rows, image]
        args += [pointer(array) for array in (keys, ranks, counts, weights)]
        units = -(-keys.size // THREADS)
        self._run("splat", "keys", (self.A, g.rank, wide, index), units, args)
        start = xp.cumsum(counts, dtype=numbers)
        args = [pointer(array) for array in (keys, ranks, start, order)]
        self._run("splat", "place", (index,), units, [*args, keys.size], plain=True)
        tiles = -(-cells // THREADS)
        args = [pointer(start), pointer(order), cells, tiles, round(tiles * 0.618)]
        self._run("splat", "settle", (index,), tiles, args, plain=True)
        vector = self._vector(self.layout.dtype.itemsize, (columns, images), (columns.shape[3],))
        vector = vector if index == "int" else 1
        lanes = self._lanes(vector)
        args = [*self.taps, *self._columns(columns, first)]
        args += [pointer(weights), pointer(order), pointer(start)]
        units = -(-count * self.layout.pixels * g.offset_groups * lanes // THREADS)
        args += [pointer(images), kind(images.dtype), int(add), image, count, lanes]
        args += [*divisor(g.offset_groups), *divisor(self.layout.pixels)]
        self._run("splat", "gather", (self.A, g.rank, vector, wide, index), units, args)

    def chunks(self, buffers: int, within_images: bool = False) -> Iterator[tuple[int, int]]:
        """Split the rows so that so many buffers of columns stay in the workspace: (first, count).

        A chunk is whole images, or a part of one; with `within_images` never more than one.
        """
        positions, rows = self.layout.positions, self.layout.rows
        each = max(1, buffers * self.geometry.channels * self.geometry.taps)
        most = max(_TILE_ROWS, _workspace.at_a_time() // (each * self.layout.dtype.itemsize))
        if most >= positions and not within_images:
            step = most // max(positions, 1) * positions
            for first in range(0, rows, max(step, 1)):
                yield first, min(step, rows - first)
            return
        step = min(positions, most)
        for first in range(0, rows, max(positions, 1)):
            for at in range(0, positions, max(step, 1)):
                yield first + at, min(step, positions - at)
