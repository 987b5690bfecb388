"""Sampling and splatting: their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, SupportsIndex, TypeAlias

from pydeform import _shapes
from pydeform._arrays import NumpyArray, namespace
from pydeform._shapes import AXES, ConvGeometry
from pydeform.ops import _checks
from pydeform.ops._call import Arrays
from pydeform.ops._checks import KINKS, MODES, choice
from pydeform.ops._outputs import Wanted

Alpha: TypeAlias = tuple[int, ...]
Deriv: TypeAlias = Sequence[SupportsIndex]


class Options(NamedTuple):
    """What a caller may choose beside the arrays, as it was written."""

    deriv: object
    mode: object
    kink: object
    size: object = None  # of splat


@dataclass(frozen=True)
class Plan:
    """One call; images are [N, C, *S], columns [N, C, K, *O], positions [N, G, K, *O, n]."""

    geometry: ConvGeometry  # its positions are the K * prod(O) of the call, its one tap is at 0
    deriv: Alpha
    columns: tuple[int, ...]  # shape
    output: Wanted

    @property
    def image(self) -> tuple[int, ...]:
        """The shape of an image."""
        return (self.geometry.batch, self.geometry.channels, *self.geometry.size)

    def raised(self, *axes: int) -> Alpha | None:
        """Return alpha with axes added; None where one comes twice: a derivative of 0."""
        alpha = list(self.deriv)
        for axis in axes:
            alpha[axis] += 1
        return tuple(alpha) if max(alpha) < 2 else None

    def per_axis(self, array: NumpyArray) -> list[NumpyArray]:
        """Return tangents of positions as factors of columns, [N, C, K, *O] per axis."""
        share = self.geometry.channels // self.geometry.offset_groups
        repeat = namespace(array).repeat
        return [repeat(array[..., d], share, axis=1) for d in range(self.geometry.rank)]

    def fold(self, columns: NumpyArray) -> NumpyArray:
        """Sum over the channels of each group: [N, C, K, *O] -> [N, G, K, *O]."""
        g = self.geometry
        shape = (g.batch, g.offset_groups, g.channels // g.offset_groups, *self.columns[2:])
        folded: NumpyArray = columns.reshape(shape).sum(axis=2)
        return folded


def _flags(value: object, rank: int) -> Alpha:
    expected = f"{rank} of 0 and 1, one per axis {AXES[rank]}, or None"
    if value is None:
        return (0,) * rank
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"deriv: expected {expected}, got {value!r} ({type(value).__name__})")
    flags = tuple(_shapes.integer("deriv", flag, expected) for flag in value)
    if len(flags) != rank or any(flag not in (0, 1) for flag in flags):
        raise ValueError(f"deriv: expected {expected}, got {value!r}")
    return flags


def _geometry(
    lead: tuple[int, ...], size: tuple[int, ...], position: NumpyArray, options: Options
) -> ConvGeometry:
    """Check `position` [N, G, K, *O, n] against an image, and the options."""
    batch, channels = lead
    rank, shape = len(size), position.shape
    if position.ndim < 4 or shape[-1] != rank or shape[0] != batch:
        hint = ""
        if position.ndim >= 3 and shape[-1] == rank and shape[0] == batch:
            hint = "; groups and taps need an axis each, as in position[:, None, None]"
        raise ValueError(
            f"position: expected shape (batch {batch}, groups, taps, *output, {rank}), its last "
            f"axis {AXES[rank]}, got {shape}{hint}"
        )
    groups = shape[1]
    if groups == 0 or channels % groups:
        raise ValueError(
            f"position: expected groups that divide the {channels} channels, got {groups}, "
            f"shape {shape}"
        )
    one = (1,) * rank
    return ConvGeometry(
        batch=batch,
        channels=channels,
        out_channels=channels,
        groups=channels,
        offset_groups=groups,
        size=size,
        out_size=(*one[1:], prod(shape[2:-1])),
        kernel=one,
        stride=one,
        pad=(0,) * rank,
        dilation=one,
        mode=choice("mode", options.mode, MODES),
        kink=choice("kink", options.kink, KINKS),
        channels_last=False,
        absolute=True,
    )


def _check_image(name: str, shape: tuple[int, ...], least: int, meaning: str) -> None:
    if not least <= len(shape) <= least + 2:
        raise ValueError(
            f"{name}: expected {least} to {least + 2} dimensions {meaning}, "
            f"got {len(shape)}, shape {shape}"
        )


def plan_sample(arrays: Arrays, accepted: Sequence[str], options: Options) -> Plan:
    """Check a call of `sample`."""
    _checks.check_dtypes(arrays, accepted, "input", ("position",))
    input, position = arrays["input"], arrays["position"]
    _check_image("input", input.shape, 3, "(batch, channels, *size)")
    if 0 in input.shape[1:]:
        raise ValueError(
            "input: expected at least one element along every axis but the batch, "
            f"got shape {input.shape}"
        )
    geometry = _geometry(input.shape[:2], input.shape[2:], position, options)
    columns = (*input.shape[:2], *position.shape[2:-1])
    _shapes.check_bytes("output", columns, input.itemsize)
    deriv = _flags(options.deriv, geometry.rank)
    return Plan(geometry, deriv, columns, Wanted(columns, input.dtype))


def plan_splat(arrays: Arrays, accepted: Sequence[str], options: Options) -> Plan:
    """Check a call of `splat`."""
    _checks.check_dtypes(arrays, accepted, "values", ("position",))
    values, position = arrays["values"], arrays["position"]
    rank = position.shape[-1] if position.ndim else 0
    if rank not in AXES:
        raise ValueError(f"position: expected a last axis of 1 to 3, got shape {position.shape}")
    size = _shapes.per_axis("size", options.size, rank, 1)
    if values.ndim < 3 or values.shape[1] == 0:
        raise ValueError(
            "values: expected shape (batch, channels, taps, *output) with at least one channel, "
            f"got {values.shape}"
        )
    geometry = _geometry(values.shape[:2], size, position, options)
    columns = (*values.shape[:2], *position.shape[2:-1])
    if values.shape != columns:
        raise ValueError(
            f"values: expected shape {columns} (batch, channels, taps, *output), as position has "
            f"shape {position.shape}, got {values.shape}"
        )
    image = (*values.shape[:2], *size)
    _shapes.check_bytes("output", image, values.itemsize)
    return Plan(geometry, _flags(options.deriv, rank), columns, Wanted(image, values.dtype))
