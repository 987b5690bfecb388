"""Convolution with a kernel per position: its checks and its rules."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm, prod
from typing import Generic, NamedTuple, TypeVar

from pydeform import _shapes
from pydeform._arrays import NumpyArray, namespace
from pydeform._shapes import AXES, ConvGeometry
from pydeform.ops import _checks, _samples
from pydeform.ops._call import Arrays, working
from pydeform.ops._checks import KINKS, LAYOUTS, MODES, choice
from pydeform.ops._outputs import Wanted

T = TypeVar("T")


class LocalConvGrads(NamedTuple, Generic[T]):
    """Gradients of a local convolution; None where the argument is absent or not needed."""

    input: T | None
    kernel: T | None
    offset: T | None


class LocalConvDoubleGrads(NamedTuple, Generic[T]):
    """Gradients of the gradients of a local convolution; None where absent or not needed."""

    grad_output: T | None
    input: T | None
    kernel: T | None
    offset: T | None


class Options(NamedTuple):
    """What a caller may choose beside the arrays, as it was written."""

    rank: int
    steps: tuple[object, object, object]  # stride, padding, dilation
    kernel_size: object
    upscale: object
    groups: tuple[object, object]  # groups, offset_groups
    mode: object
    kink: object
    layout: object


def _kernel_size(value: object, rank: int, taps: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the kernel's size: as given, or the k of k**n taps."""
    if value is not None:
        size = _shapes.per_axis("kernel_size", value, rank, 1)
        if prod(size) != taps:
            raise ValueError(
                f"kernel: expected {prod(size)} taps, those of kernel_size {size}, got {taps}, "
                f"shape {shape}"
            )
        return size
    side = round(taps ** (1 / rank))
    if taps < 1 or side**rank != taps:
        raise ValueError(
            f"kernel: expected k**{rank} taps where kernel_size is not given, got {taps}, "
            f"shape {shape}; for another shape of the kernel, give kernel_size"
        )
    return (side,) * rank


def _lead(array: NumpyArray, last: bool, count: int) -> tuple[int, ...]:
    """The axes that are not spatial, without the batch: `count` of them."""
    return array.shape[-count:] if last else array.shape[1 : 1 + count]


def _ranks(arrays: Arrays, rank: int, last: bool) -> None:
    axes = ", ".join(AXES[rank])
    meanings = {
        "input": (rank + 2, f"(batch, {axes}, channels)" if last else f"(batch, channels, {axes})"),
        "kernel": (
            rank + 3,
            f"(batch, {axes}, groups, taps)" if last else f"(batch, groups, taps, {axes})",
        ),
        "offset": (
            rank + 2,
            f"(batch, {axes}, channels)" if last else f"(batch, channels, {axes})",
        ),
    }
    for name, (ndim, meaning) in meanings.items():
        if name in arrays and arrays[name].ndim != ndim:
            found = arrays[name]
            hint = ""
            if found.ndim == ndim - 1:
                what = "one group" if name == "kernel" else "a single sample"
                hint = f"; {what} needs its axis too"
            raise ValueError(
                f"{name}: expected {ndim} dimensions {meaning}, "
                f"got {found.ndim}, shape {found.shape}{hint}"
            )
    if 0 in arrays["input"].shape[1:]:
        raise ValueError(
            "input: expected at least one element along every axis but the batch, "
            f"got shape {arrays['input'].shape}"
        )


def _groups(name: str, found: int, given: object, channels: int, shape: tuple[int, ...]) -> int:
    """Return the number of groups that an array has, checked against what was said."""
    option = "groups" if name == "kernel" else "offset_groups"
    if given is not None:
        groups = _shapes.at_least(option, _shapes.integer(option, given, "an int or None"), 1)
        if channels % groups:
            raise ValueError(
                f"{option}: expected a divisor of the {channels} input channels, got {groups}"
            )
        if groups != found:
            raise ValueError(f"{name}: expected {groups} groups, got {found}, shape {shape}")
    if found < 1 or channels % found:
        raise ValueError(
            f"{name}: expected groups that divide the {channels} input channels, got {found}, "
            f"shape {shape}"
        )
    return found


def plan(arrays: Arrays, accepted: Sequence[str], options: Options) -> _samples.Plan:
    """Check a call."""
    _checks.check_dtypes(arrays, accepted, "input", ("kernel", "offset"))
    rank = options.rank
    mode = choice("mode", options.mode, MODES)
    kink = choice("kink", options.kink, KINKS)
    last = choice("layout", options.layout, LAYOUTS) == "channels_last"
    _ranks(arrays, rank, last)
    input, kernel, offset = arrays["input"], arrays["kernel"], arrays.get("offset")
    batch, channels = input.shape[0], input.shape[-1 if last else 1]
    size = input.shape[1:-1] if last else input.shape[2:]
    found, taps = _lead(kernel, last, 2)
    kernel_size = _kernel_size(options.kernel_size, rank, taps, kernel.shape)
    stride = _shapes.per_axis("stride", options.steps[0], rank, 1)
    dilation = _shapes.per_axis("dilation", options.steps[2], rank, 1)
    upscale = _shapes.per_axis("upscale", options.upscale, rank, 1)
    pads = _shapes.padding_pairs(options.steps[1], size, kernel_size, stride, dilation)
    steps = _shapes.output_size(size, pads, kernel_size, stride, dilation, "kernel_size")
    out_size = tuple(
        _shapes.at_least("upscale", up * step, 1) for up, step in zip(upscale, steps, strict=True)
    )
    groups = {"kernel": _groups("kernel", found, options.groups[0], channels, kernel.shape)}
    spatial: dict[str, tuple[int, ...]] = {"kernel": (groups["kernel"], taps)}
    if offset is not None:
        (wide,) = _lead(offset, last, 1)
        if wide % (taps * rank):
            raise ValueError(
                f"offset: expected a multiple of {taps}*{rank} channels, one per tap and axis "
                f"{AXES[rank]}, got {wide}, shape {offset.shape}"
            )
        found = wide // (taps * rank)
        groups["offset"] = _groups("offset", found, options.groups[1], channels, offset.shape)
        spatial["offset"] = (wide,)
    elif options.groups[1] is not None:
        raise ValueError("offset_groups: expected None where there is no offset")
    for name, lead in spatial.items():
        shape = (batch, *out_size, *lead) if last else (batch, *lead, *out_size)
        if arrays[name].shape != shape:
            raise ValueError(
                f"{name}: expected shape {shape}, as the output {out_size} follows from input, "
                "kernel_size, stride, padding, dilation and upscale, "
                f"got {arrays[name].shape}"
            )
    geometry = ConvGeometry(
        batch=batch,
        channels=channels,
        out_channels=channels,
        groups=channels,
        offset_groups=lcm(*groups.values()),
        size=size,
        out_size=out_size,
        kernel=kernel_size,
        stride=stride,
        pad=tuple(begin for begin, _ in pads),
        dilation=dilation,
        mode=mode,
        kink=kink,
        channels_last=last,
        upscale=() if prod(upscale) == 1 else upscale,
    )
    output = _checks.output_shape(geometry)
    _shapes.check_bytes("output", output, input.itemsize)
    roles = dict(zip(_samples.ROLES, ("input", "offset", "kernel"), strict=True))
    views = _Views(geometry, groups)
    return _samples.Plan(Wanted(output, input.dtype), geometry, views, roles)


class _Views(_samples.Views):
    """Offset and kernel with the groups that they have in common.

    Parameters
    ----------
    geometry
        With the common groups.
    groups
        Those of the arrays as they lie, by name; a kernel has some, an offset if it is there.
    """

    def __init__(self, geometry: ConvGeometry, groups: dict[str, int]) -> None:
        self.geometry = g = geometry
        # Of a position: groups, and the axes of one group.
        self.shape: dict[str, tuple[int, ...]] = {"factor": (groups["kernel"], g.taps)}
        if "offset" in groups:
            self.shape["position"] = (groups["offset"], g.taps, g.rank)

    def _times(self, role: str) -> int:
        """How often the groups that lie there are repeated."""
        return self.geometry.offset_groups // self.shape[role][0] if role in self.shape else 1

    def _seen(self, role: str, array: NumpyArray) -> NumpyArray:
        """[N, P, groups, ...] on the memory of an offset or a kernel."""
        g, shape = self.geometry, self.shape[role]
        positions = prod(g.out_size)
        if g.channels_last:
            return array.reshape(g.batch, positions, *shape, copy=False)
        seen: NumpyArray = namespace(array).moveaxis(
            array.reshape(g.batch, *shape, positions, copy=False), -1, 1
        )
        return seen

    def read(self, role: str, array: NumpyArray) -> NumpyArray:
        """Return what a backend reads; with groups repeated where they are fewer."""
        if role not in self.shape:
            return array
        seen, times = self._seen(role, array), self._times(role)
        return seen if times == 1 else namespace(seen).repeat(seen, times, axis=2)

    def write(self, role: str, result: NumpyArray) -> NumpyArray:
        """Return what a backend writes to: the result itself where groups are alike."""
        if (times := self._times(role)) == 1:
            return self.read(role, result)
        seen = self._seen(role, result)
        batch, positions, groups, *axes = seen.shape
        shape = (batch, positions, groups * times, *axes)
        memory: NumpyArray = namespace(seen).empty(shape, working(seen[:0]).dtype)
        return memory

    def finish(self, role: str, written: NumpyArray, result: NumpyArray) -> None:
        """Sum over the repeated groups."""
        if (times := self._times(role)) > 1:
            seen = self._seen(role, result)
            batch, positions, groups, *axes = seen.shape
            seen[...] = written.reshape(batch, positions, groups, times, *axes).sum(axis=3)


RULES = _samples.rules(
    arguments=("input", "kernel", "offset"),
    required=("input", "kernel"),
    like="input",
    plan=plan,
    grads=LocalConvGrads,
    double_grads=LocalConvDoubleGrads,
)
