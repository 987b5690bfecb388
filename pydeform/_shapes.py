"""Sizes, padding and groups: pure integers. A leaf: it imports nothing of this package.

Every function takes what a caller may have written, and returns plain Python integers that fit 64
bits or raises an error that names the argument, what it got and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from math import prod
from operator import index
from typing import NamedTuple

AXES = {1: ("x",), 2: ("y", "x"), 3: ("z", "y", "x")}

# Extents of one axis stay below 2^62, so that base + floor(offset) cannot pass 2^63 in a kernel.
AXIS_LIMIT = 2**62
# Numbers of elements and of bytes stay below 2^63.
PRODUCT_LIMIT = 2**63


class Level(NamedTuple):
    """An image among those that lie after each other in one input."""

    start: int  # its first pixel
    size: tuple[int, ...]


class ConvGeometry(NamedTuple):
    """All about one convolution that is not an array; per-axis tuples are (y, x) or (z, y, x)."""

    batch: int
    channels: int
    out_channels: int
    groups: int
    offset_groups: int
    size: tuple[int, ...]
    out_size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]  # before the first element of each axis; the end is implied by out_size
    dilation: tuple[int, ...]
    mode: str
    kink: str
    channels_last: bool
    upscale: tuple[int, ...] = ()  # outputs per step of the grid; empty for 1 along all axes
    absolute: bool = False  # the grid is 0 everywhere: an offset says where, not how far
    # Of local convolutions only, where offsets are kept in other units. Per tap and axis, from what
    # is stored to pixels: scale * offset + start. Derivatives are those by what is stored.
    scale: tuple[tuple[Fraction | float, ...], ...] = ()
    start: tuple[tuple[Fraction | float, ...], ...] = ()
    # As many images as taps fall into: the first K / levels taps read the first one. The size is
    # then (1, pixels of all).
    levels: tuple[Level, ...] = ()

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def taps(self) -> int:
        """Number of kernel taps, K = prod(k)."""
        return prod(self.kernel)


def integer(name: str, value: object, expected: str = "an int") -> int:
    """Return `value` as a Python int; NumPy integers pass, bools and floats do not."""
    if not isinstance(value, bool):
        try:
            return index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{name}: expected {expected}, got {value!r} ({type(value).__name__})")


def at_least(name: str, value: int, minimum: int) -> int:
    """Return `value`, checked to lie in [minimum, 2^62)."""
    if value < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {value}")
    if value >= AXIS_LIMIT:
        raise ValueError(f"{name}: expected less than 2^62, got {value}")
    return value


def _items(name: str, value: object, expected: str) -> tuple[object, ...]:
    """Return what a sequence holds; text, sets and mappings are none of numbers."""
    ordered = hasattr(value, "__getitem__") and not isinstance(value, str | bytes | Mapping)
    if ordered and isinstance(value, Iterable):
        with suppress(TypeError):  # an array without axes says that it is iterable
            return tuple(value)
    raise TypeError(f"{name}: expected {expected}, got {value!r} ({type(value).__name__})")


def _is_integer(value: object) -> bool:
    return (
        hasattr(value, "__index__")
        and not isinstance(value, bool)
        and not hasattr(value, "__len__")
    )


def per_axis(name: str, value: object, rank: int, minimum: int) -> tuple[int, ...]:
    """Return one integer per axis from one integer for all or a sequence of `rank`."""
    expected = f"an int or {rank} of them, one per axis {AXES[rank]}"
    if _is_integer(value) or isinstance(value, bool):
        return (at_least(name, integer(name, value, expected), minimum),) * rank
    items = _items(name, value, expected)
    if len(items) != rank:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return tuple(at_least(name, integer(name, item, expected), minimum) for item in items)


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the padding that gives ceil(size / stride) outputs; the smaller half comes first."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def padding_pairs(
    padding: object,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """Return (begin, end) per axis from an int, a tuple, a tuple of pairs, "same" or "valid"."""
    rank = len(size)
    expected = f'an int, {rank} ints, {rank} pairs (begin, end), "same" or "valid"'
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * rank
        if padding == "same":
            axes = zip(size, kernel, stride, dilation, strict=True)
            return tuple(same_padding(*axis) for axis in axes)
        raise ValueError(f"padding: expected {expected}, got {padding!r}")
    if _is_integer(padding) or isinstance(padding, bool):
        pad = at_least("padding", integer("padding", padding, expected), 0)
        return ((pad, pad),) * rank
    items = _items("padding", padding, expected)
    if len(items) != rank:
        hint = " (one pair for the one axis is written ((begin, end),))" if rank == 1 else ""
        raise ValueError(f"padding: expected {expected}, got {padding!r}{hint}")
    pairs = []
    for item in items:
        pair = (item, item) if _is_integer(item) else _items("padding", item, expected)
        if len(pair) != 2:
            raise ValueError(f"padding: expected {expected}, got {padding!r}")
        begin, end = (at_least("padding", integer("padding", p, expected), 0) for p in pair)
        pairs.append((begin, end))
    return tuple(pairs)


def output_size(
    size: Sequence[int],
    pads: Sequence[tuple[int, int]],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    argument: str = "weight",
) -> tuple[int, ...]:
    """Return the output size per axis; a kernel that does not fit the padded input is an error.

    `argument` is what the kernel's size comes from, for that error.
    """
    out = []
    for axis, s, (begin, end), k, step, d in zip(
        AXES[len(size)], size, pads, kernel, stride, dilation, strict=True
    ):
        padded, extent = s + begin + end, (k - 1) * d + 1
        if padded >= AXIS_LIMIT:
            raise ValueError(
                f"padding: expected a padded size below 2^62 along {axis}, got {padded}"
            )
        if extent > padded:
            raise ValueError(
                f"{argument}: expected a kernel that fits the padded input along {axis}: "
                f"size {s} + padding {begin} + {end} = {padded}, "
                f"got {k} taps with dilation {d}, which span {extent}"
            )
        out.append((padded - extent) // step + 1)
    return tuple(out)


def conv_groups(
    channels: int, weight_channels: int, out_channels: int, groups: object, hint: str = ""
) -> int:
    """Return the number of groups, inferred from the channels or checked against them."""
    if groups is None:
        if channels % weight_channels:
            raise ValueError(
                f"weight: expected channels per group that divide the {channels} input channels, "
                f"got {weight_channels}{hint}"
            )
        found = channels // weight_channels
    else:
        found = at_least("groups", integer("groups", groups, "an int or None"), 1)
        if channels % found:
            raise ValueError(
                f"groups: expected a divisor of the {channels} input channels, got {found}{hint}"
            )
        if found * weight_channels != channels:
            raise ValueError(
                f"weight: expected {channels // found} channels per group "
                f"({channels} input channels / {found} groups), got {weight_channels}{hint}"
            )
    if out_channels % found:
        raise ValueError(
            f"weight: expected a number of output channels that the {found} groups "
            f"({channels} input channels / {weight_channels}) divide, got {out_channels}"
        )
    return found


def check_bytes(name: str, shape: Sequence[int], itemsize: int) -> None:
    """Check that an array of this shape has fewer than 2^63 bytes."""
    count = prod(shape) * itemsize
    if count >= PRODUCT_LIMIT:
        raise ValueError(
            f"{name}: expected fewer than 2^63 bytes, got shape {tuple(shape)} "
            f"of {itemsize} bytes each ({count} bytes)"
        )
