"""The levels of multi-scale deformable attention: their table and its checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pydeform import _shapes
from pydeform._arrays import NumpyArray, as_array, device_of, on_host
from pydeform._shapes import ConvGeometry, Level
from pydeform.ops import _checks, _samples
from pydeform.ops._call import Arrays
from pydeform.ops._outputs import Wanted

NAMES = ("value", "sampling_locations", "attention_weights")


class Options(NamedTuple):
    """What a caller passes beside the arrays with gradients, as it was written."""

    spatial_shapes: object
    level_start_index: object
    kink: object


class _Views(_samples.Views):
    """How the arrays of attention are seen: all points of all levels are the taps of a query."""

    def __init__(self, geometry: ConvGeometry) -> None:
        g = geometry
        self.geometry = g
        self.samples = (g.batch, g.out_size[1], g.offset_groups, g.taps)

    def read(self, role: str, array: NumpyArray) -> NumpyArray:
        """Return what the backend reads or writes, on the memory of the array."""
        g = self.geometry
        if role == "position":
            return array.reshape(*self.samples, 2, copy=False)[..., ::-1]  # (x, y) as (y, x)
        if role == "factor":
            return array.reshape(self.samples, copy=False)
        space = g.size if role == "image" else g.out_size
        return array.reshape(g.batch, *space, g.channels, copy=False)


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


def _levels(value: NumpyArray, options: Options) -> tuple[Level, ...]:
    """Return the levels, checked against the length of value."""
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
    return tuple(Level(start, (h, w)) for start, (h, w) in zip(expected, sizes, strict=True))


def plan(arrays: Arrays, accepted: Sequence[str], options: Options) -> _samples.Plan:
    """Check everything and return how attention is computed."""
    value, locations, _ = (arrays[name] for name in NAMES)
    _checks.check_dtypes(arrays, accepted, "value", NAMES[1:])
    kink = _checks.choice("kink", options.kink, _checks.KINKS)
    _samples.check_axes("value", value, 4, "(batch, length, heads, channels)")
    if 0 in value.shape[1:]:
        raise ValueError(
            "value: expected at least one element along every axis but the batch, "
            f"got shape {value.shape}"
        )
    levels = _levels(value, options)
    batch, _, heads, channels = value.shape
    meaning = "(batch, queries, heads, levels, points, 2)"
    _samples.check_axes("sampling_locations", locations, 6, meaning)
    queries, points = locations.shape[1], locations.shape[4]
    shape = (batch, queries, heads, len(levels), points)
    _samples.check_shape("sampling_locations", locations, (*shape, 2), meaning)
    meaning = meaning.replace(", 2)", ")")
    _samples.check_shape("attention_weights", arrays["attention_weights"], shape, meaning)
    if points == 0:
        raise ValueError(f"sampling_locations: expected at least one point, got {locations.shape}")
    output = (batch, queries, heads * channels)
    _shapes.check_bytes("output", output, value.itemsize)

    geometry = _samples.depthwise(
        batch,
        heads * channels,
        heads,
        (1, value.shape[1]),
        (1, queries),
        len(levels) * points,
        kink,
    )._replace(
        # Locations are in sizes of the level, with pixel centres at halves.
        scale=tuple(level.size for level in levels for _ in range(points)),
        start=((-0.5, -0.5),) * (len(levels) * points),
        levels=levels,
    )
    roles = dict(zip(_samples.ROLES, NAMES, strict=True))
    return _samples.Plan(Wanted(output, value.dtype), geometry, _Views(geometry), roles)
