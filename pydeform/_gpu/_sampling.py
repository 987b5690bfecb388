"""The operators S_alpha on the GPU: columns, their adjoint, and dots with gradients of columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np

from pydeform._gpu import _workspace
from pydeform._gpu._layout import (
    NAMES,
    THREADS,
    Array,
    Layout,
    Maybe,
    blocks,
    field,
    pointer,
    strides,
)
from pydeform._gpu._loader import launch
from pydeform._shapes import ConvGeometry

#: One addend factor * S_alpha: bits of the differentiated axes, and a field [N, pairs, P] or None.
Term = tuple[int, Maybe]
#: Extents up to which an `int` holds every index, whatever the offsets (see _stencil.cuh).
_NARROW = 1 << 29
_MODES = ("zeros", "clip_zero", "border")
_KINKS = ("right", "open", "mean")
_LANES = 32
_TILE_ROWS = 16
_DOT_SAMPLES = 256


def _power(count: int, most: int) -> int:
    """Return the smallest power of two that is at least `count`, and at most `most`."""
    return min(1 << max(count - 1, 0).bit_length(), most)


def _indices(g: ConvGeometry, samples: int) -> str:
    """Return the type of indices."""
    upscale = g.upscale or (1,) * g.rank
    spans = [samples, prod(g.size), prod(g.out_size)]
    for axis in range(g.rank):
        steps = (g.out_size[axis] - 1) // upscale[axis] * g.stride[axis]
        spans += [g.size[axis], g.pad[axis], steps + (g.kernel[axis] - 1) * g.dilation[axis]]
        spans += [g.stride[axis], g.dilation[axis], upscale[axis]]
    return "int" if max(spans) < _NARROW else "int64_t"


def modulated(m: Maybe, mu: Maybe, v: Sequence[Maybe]) -> list[Term]:
    """Return the terms of mu S_0 + sum_d m v_d S_{e_d}: how samples change in a direction."""
    terms: list[Term] = [] if mu is None else [(0, mu)]
    moved = ((1 << d, move) for d, move in enumerate(v) if move is not None)
    return terms + [(alpha, move if m is None else m * move) for alpha, move in moved]


class Sampling:
    """All the samples of one convolution.

    Parameters
    ----------
    layout
        The convolution and where its arrays lie.
    coordinates
        [N, Go * K, n, P] in pixels, of the working type, or None for offsets of 0.
    """

    def __init__(self, layout: Layout, coordinates: Maybe) -> None:
        g = layout.geometry
        self.layout, self.geometry, self.xp = layout, g, layout.xp
        self.pairs = g.offset_groups * g.taps
        self.width = g.channels // g.offset_groups
        self.index = _indices(g, layout.rows * self.pairs)
        self.T, self.A = NAMES[layout.storage.name], NAMES[layout.dtype.name]
        self.offset = coordinates
        # Of [N, Go * K * n, P] as the caller has it.
        channels = self.pairs * g.rank
        moves = (1, channels) if g.channels_last else (layout.positions, 1)

        def three(values: Sequence[int]) -> list[int]:
            return [*values, *[1] * (3 - g.rank)]

        per_axis = (g.size, g.out_size, g.kernel, g.stride, g.pad, g.dilation)
        self.args = [
            *(g.batch, g.channels, g.offset_groups, g.taps, layout.pixels, layout.positions),
            *(number for values in per_axis for number in three(values)),
            *three(g.upscale or (1,) * g.rank),
            *(_MODES.index(g.mode), _KINKS.index(g.kink), int(g.absolute)),
            *(pointer(coordinates), channels * layout.positions, *moves),
        ]

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
        return [len(terms), *alphas, *[0] * missing, *fields, *[0] * 4 * missing]

    def _columns(self, columns: Array, first: int) -> list[int]:
        """Members of `Columns` from [groups, rows, taps, channels of a group]."""
        group, row, tap, _ = strides(columns)
        return [pointer(columns), first, columns.shape[3], group, row, tap]

    def _run(
        self,
        source: str,
        kernel: str,
        instance: Sequence[object],
        units: int,
        args: list[int],
        threads: int = THREADS,
    ) -> None:
        names = tuple(str(part) for part in instance)
        launch(source, kernel, names, blocks(units), (threads,), [*self.args, *args], xp=self.xp)

    def _tiles(self, rows: int, wide: str) -> int:
        """Return how many tiles there are; `Tile` of _columns.cuh has their size."""
        corners = (3 if wide == "true" else 2) ** self.geometry.rank
        number, index = self.layout.dtype.itemsize, 8 if self.index == "int64_t" else 4
        plan = corners * (number + index) + number + index
        pairs = 4 if -(-plan // max(number, index)) * max(number, index) > 200 else 8
        return -(-rows // _TILE_ROWS) * -(-self.pairs // pairs)

    # The operators. Images are [N, pixels, C]; columns [g, rows, K, C / g] of the working type.

    def blend(
        self, image: Array, terms: Sequence[Term], columns: Array, first: int, add: bool = False
    ) -> None:
        """Write (or add) the sum over terms of factor * S_alpha(image) for rows from `first`.

        Columns that nothing is added to may be of the storage type.
        """
        rank = self.geometry.rank
        vector = self._vector(image.itemsize, (image, columns), (columns.shape[3],))
        wide = self._wide(alpha for alpha, _ in terms)
        rows = columns.shape[1]
        tiles = self._tiles(rows, wide)
        args = [*self._terms(terms), pointer(image), *self._columns(columns, first)]
        instance = (self.T, self.A, rank, vector, wide, self.index)
        narrow = int(columns.dtype != self.layout.dtype)
        args += [rows, tiles, self._lanes(vector), int(add), narrow]
        self._run("sample", "blend", instance, tiles, args)

    def weigh(self, image: Array, terms: Sequence[Term], out: Array, add: bool = False) -> None:
        """Write (or add) the same, summed over taps, for all rows [N * P, C].

        `out` is of the working type, or of the storage type where nothing is added.
        """
        g = self.geometry
        vector = self._vector(image.itemsize, (image, out), ())
        wide = self._wide(alpha for alpha, _ in terms)
        # Plans of 27 corners: a smaller block, so that one tap of each fits its shared memory.
        threads = 64 if wide == "true" and g.rank == 3 else THREADS
        vectors = g.channels // vector
        across = min(vectors, threads)
        tiles = -(-out.shape[0] // (threads // across)) * -(-vectors // across)
        narrow = int(out.dtype != self.layout.dtype)
        args = [*self._terms(terms), pointer(image), pointer(out), out.shape[0], tiles, across]
        instance = (self.T, self.A, g.rank, vector, wide, self.index)
        self._run(
            "local_conv", "weigh", instance, tiles, [*args, int(add), narrow], threads=threads
        )

    def dots(
        self,
        columns: Array,
        image: Array,
        outputs: Sequence[tuple[int, Array, bool]],
        first: int,
        factor: Maybe = None,
    ) -> None:
        """Write sum_c columns * S_alpha(image), one number per sample, for rows from `first`.

        `outputs` are (alpha, [N, pairs, P] to write to, whether to multiply by `factor`).
        """
        rank = self.geometry.rank
        vector = self._vector(image.itemsize, (image, columns), (columns.shape[3],))
        wide = self._wide(alpha for alpha, _, _ in outputs)
        rows = columns.shape[1]
        tiles = -(-rows * self.pairs // _DOT_SAMPLES)
        missing = [0] * (8 - len(outputs))
        args = [
            *(pointer(image), *self._columns(columns, first), rows, tiles),
            *(self._lanes(vector), *field(factor), len(outputs)),
            *(*[alpha for alpha, _, _ in outputs], *missing),
            *(*[int(factored) for _, _, factored in outputs], *missing),
            *(number for _, out, _ in outputs for number in field(out)),
            *missing * 4,
        ]
        instance = (self.T, self.A, rank, vector, wide, self.index)
        self._run("sample", "dots", instance, tiles, args)

    def splat(
        self,
        columns: Array,
        terms: Sequence[Term],
        images: Array,
        first: int,
        deterministic: bool = True,
    ) -> None:
        """Add the sum over terms of S_alpha^T(factor * columns) to images of the working type."""
        if deterministic:
            self._gather(columns, terms, images, first)
            return
        rows = columns.shape[1]
        vector = self._vector(images.itemsize, (columns,), (columns.shape[3],))
        wide = self._wide(alpha for alpha, _ in terms)
        tiles = self._tiles(rows, wide)
        args = [*self._terms(terms), *self._columns(columns, first), pointer(images), rows, tiles]
        args.append(self._lanes(vector))
        instance = (self.A, self.geometry.rank, vector, wide, self.index)
        self._run("sample", "scatter", instance, tiles, args)

    def _gather(self, columns: Array, terms: Sequence[Term], images: Array, first: int) -> None:
        g, xp, rows = self.geometry, self.xp, columns.shape[1]
        if not rows:
            return
        image = first // self.layout.positions
        count = -(-(first + rows) // self.layout.positions) - image
        dead = count * g.offset_groups * prod(size + 2 for size in g.size)
        narrow = dead < 2**31
        keys = xp.empty(rows * self.pairs, np.int32 if narrow else np.int64)
        wide = self._wide(alpha for alpha, _ in terms)
        corners = (3 if wide == "true" else 2) ** g.rank
        weights = self.layout.empty(keys.size, corners)
        args = [*self._terms(terms), first, rows, image, dead, pointer(keys), int(narrow)]
        instance = (self.A, g.rank, wide, self.index)
        units = -(-keys.size // THREADS)
        self._run("sample", "keys", instance, units, [*args, pointer(weights)])
        order = xp.argsort(keys, kind="stable").astype(np.int64, copy=False)
        cells = xp.arange(dead + 1, dtype=keys.dtype)
        start = xp.searchsorted(keys[order], cells).astype(np.int64, copy=False)
        vector = self._vector(images.itemsize, (columns, images), (columns.shape[3],))
        lanes = self._lanes(vector)
        args = [*self._columns(columns, first), pointer(weights), pointer(order), pointer(start)]
        units = -(-count * self.layout.pixels * g.offset_groups * lanes // THREADS)
        args += [pointer(images), image, count, lanes]
        self._run("sample", "gather", (self.A, g.rank, vector, wide), units, args)

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
