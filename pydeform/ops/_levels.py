"""The levels of multi-scale deformable attention: their table, its checks, and one part each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from pydeform import _shapes
from pydeform._arrays import NumpyArray, as_array, device_of, namespace, on_host, ready
from pydeform._shapes import ConvGeometry
from pydeform.ops import _checks, _parts
from pydeform.ops._call import Arrays
from pydeform.ops._outputs import Wanted

NAMES = ("value", "sampling_locations", "attention_weights")


class Options(NamedTuple):
    """What a caller passes beside the arrays with gradients, as it was written."""

    spatial_shapes: object
    level_start_index: object
    kink: object


class Part:
    """One sample of the batch at one level.

    Parameters
    ----------
    sample, level
        Which ones.
    start
        Where the level begins in value.
    heads
        M.
    geometry
        Of the level's local convolution, whose offsets are positions.
    backend
        Which moves numbers between layouts.
    """

    def __init__(
        self,
        sample: int,
        level: int,
        start: int,
        heads: int,
        geometry: ConvGeometry,
        backend: Any,
    ) -> None:
        self.sample, self.level, self.start = sample, level, start
        self.heads, self.geometry, self.backend = heads, geometry, backend

    def _of(self, role: str, array: NumpyArray) -> NumpyArray:
        """What belongs to this part, on the memory of the argument."""
        if role == "image":
            height, width = self.geometry.size
            piece: NumpyArray = array[self.sample, self.start : self.start + height * width]
        elif role == "output":
            piece = array[self.sample]
        else:
            piece = array[self.sample, :, :, self.level]  # [Lq, M, P, 2]
            if role == "factor":
                piece = piece[..., None]  # [Lq, M, P, 1]
        return piece

    def linear(self, role: str, array: NumpyArray) -> NumpyArray:
        """Return what the backend reads, from an argument, a tangent or a cotangent."""
        g = self.geometry
        if role == "position":
            return self._turned(array, None)
        piece = self._of(role, array)
        if role == "factor":
            piece = _parts.relayed(self.backend, piece, (1,))
        space = g.size if role == "image" else g.out_size
        return ready(piece).reshape(1, *space, -1)

    def position(self, array: NumpyArray | None) -> NumpyArray:
        """Return the positions in pixels, as (y, x)."""
        array = cast("NumpyArray", array)
        half = _parts.exact(-0.5, array.dtype)
        start = namespace(array).full((self.geometry.taps, 2), half, array.dtype)
        return self._turned(array, start)

    def factor(self, array: NumpyArray | None) -> NumpyArray:
        """Return the attention weights."""
        return self.linear("factor", cast("NumpyArray", array))

    def _turned(self, array: NumpyArray, start: NumpyArray | None) -> NumpyArray:
        """From (x, y) in sizes to (y, x) in pixels."""
        locations, size = self._of("position", array), self.geometry.size[::-1]
        turned = _parts.relayed(self.backend, locations, size, start)
        return turned.reshape(1, *self.geometry.out_size, -1)

    def memory(self, role: str, result: NumpyArray) -> NumpyArray | None:
        """Return the piece of value, and the output where the first level is written."""
        if role == "image" or (role == "output" and self.level == 0):
            g = self.geometry
            space = g.size if role == "image" else g.out_size
            piece: NumpyArray = self._of(role, result).reshape(1, *space, -1, copy=False)
            return piece
        return None

    def add(self, role: str, values: NumpyArray, result: NumpyArray) -> None:
        """Write the adjoint of `linear`; later levels are added to the output."""
        target = self._of(role, result)
        if role == "output":
            target += values.reshape(target.shape)
        else:
            scale = self.geometry.size if role == "position" else (1,)
            _parts.relay(self.backend, values.reshape(target.shape), scale, target)


def _table(name: str, value: object, columns: int) -> list[tuple[int, ...]]:
    """Return a table of integers, from an array or from nested sequences."""
    expected = "(height, width) of every level" if columns == 2 else "the start of every level"
    if hasattr(value, "__dlpack__") or hasattr(value, "__cuda_array_interface__"):
        device = device_of(name, value)
        if not device.startswith(("cpu", "cuda")):
            raise TypeError(f"{name}: expected an array on the CPU or CUDA, got one on {device}")
        array = on_host(as_array(name, value, device))
    else:
        try:
            array = np.array(value)
        except ValueError:  # rows of different lengths
            array = np.empty(0)
    ndim = 2 if columns == 2 else 1
    if array.ndim != ndim or 0 in array.shape or array.shape[1:] != (2,) * (ndim - 1):
        shape = "(levels, 2)" if columns == 2 else "(levels,)"
        raise ValueError(f"{name}: expected shape {shape}, {expected}, got {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, {expected}, got dtype {array.dtype}")
    return [tuple(row) for row in array.reshape(len(array), -1).tolist()]


def _levels(value: NumpyArray, options: Options) -> list[tuple[int, int, int]]:
    """Return (start, height, width) of every level, checked against the length of value."""
    sizes = _table("spatial_shapes", options.spatial_shapes, 2)
    starts = _table("level_start_index", options.level_start_index, 1)
    for size in sizes:
        if min(size) < 1:
            raise ValueError(f"spatial_shapes: expected sizes of at least 1, got {size}")
    length = sum(height * width for height, width in sizes)
    if length != value.shape[1]:
        raise ValueError(
            f"spatial_shapes: expected levels that add up to the length of value, "
            f"{value.shape[1]}, got {sizes}, {length} in all"
        )
    ends = np.cumsum([height * width for height, width in sizes]).tolist()
    expected = [0, *ends[:-1]]
    found = [start for (start,) in starts]
    if found != expected:
        raise ValueError(
            f"level_start_index: expected {expected}, where the levels {sizes} begin, got {found}"
        )
    return [(start, h, w) for start, (h, w) in zip(expected, sizes, strict=True)]


def plan(arrays: Arrays, accepted: Sequence[str], options: Options) -> _parts.Plan:
    """Check everything and return how attention is computed."""
    value, locations, _ = (arrays[name] for name in NAMES)
    _checks.check_dtypes(arrays, accepted, "value", NAMES[1:])
    kink = _checks.choice("kink", options.kink, _checks.KINKS)
    _parts.check_axes("value", value, 4, "(batch, length, heads, channels)")
    if 0 in value.shape[1:]:
        raise ValueError(
            "value: expected at least one element along every axis but the batch, "
            f"got shape {value.shape}"
        )
    levels = _levels(value, options)
    batch, _, heads, channels = value.shape
    meaning = "(batch, queries, heads, levels, points, 2)"
    _parts.check_axes("sampling_locations", locations, 6, meaning)
    queries, points = locations.shape[1], locations.shape[4]
    shape = (batch, queries, heads, len(levels), points)
    _parts.check_shape("sampling_locations", locations, (*shape, 2), meaning)
    meaning = meaning.replace(", 2)", ")")
    _parts.check_shape("attention_weights", arrays["attention_weights"], shape, meaning)
    if points == 0:
        raise ValueError(f"sampling_locations: expected at least one point, got {locations.shape}")
    output = (batch, queries, heads * channels)
    _shapes.check_bytes("output", output, value.itemsize)

    def parts(backend: Any) -> Iterator[Part]:
        for sample, level in itertools.product(range(batch if queries else 0), range(len(levels))):
            start, *size = levels[level]
            geometry = _parts.depthwise(
                1, heads * channels, heads, (size[0], size[1]), (1, queries), points, kink
            )
            yield Part(sample, level, start, heads, geometry, backend)

    roles = dict(zip(_parts.ROLES, NAMES, strict=True))
    nothing = frozenset() if queries else frozenset({"value"})
    return _parts.Plan(Wanted(output, value.dtype), parts, roles, nothing)
