"""Convolution with a kernel per position: its checks and its rules."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm, prod
from typing import Any, Generic, NamedTuple, TypeVar

from pydeform import _shapes
from pydeform._arrays import NumpyArray, namespace
from pydeform._shapes import AXES, ConvGeometry
from pydeform.ops import _checks
from pydeform.ops._call import Arrays, Rules, working
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


class Plan(NamedTuple):
    """One call; `geometry` has the common groups, to which kernel and offset are repeated."""

    geometry: ConvGeometry
    groups: dict[str, int]  # of the kernel and of the offset, as they lie
    output: Wanted


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


def plan(arrays: Arrays, accepted: Sequence[str], options: Options) -> Plan:
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
    return Plan(geometry, groups, Wanted(output, input.dtype))


class _Common:
    """Kernel and offset with the groups that they have in common, and back.

    A backend sees them as [N, P, G, K] and [N, P, G, K, n], P positions.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        g = plan.geometry
        # The axes of one group of each.
        self.share = {"kernel": (g.taps,), "offset": (g.taps, g.rank)}

    def _seen(self, name: str, array: NumpyArray) -> NumpyArray:
        """[N, P, G, *share] on the memory of an array with groups of its own."""
        g, share = self.plan.geometry, self.share[name]
        positions, groups = prod(g.out_size), self.plan.groups[name]
        if g.channels_last:
            return array.reshape(g.batch, positions, groups, *share, copy=False)
        first = array.reshape(g.batch, groups, *share, positions, copy=False)
        seen: NumpyArray = namespace(array).moveaxis(first, -1, 1)
        return seen

    def _times(self, name: str) -> int:
        return self.plan.geometry.offset_groups // self.plan.groups[name]

    def take(self, name: str, arrays: Arrays) -> NumpyArray | None:
        """Return an array as a backend reads it; with groups repeated where they are fewer."""
        if name not in arrays:
            return None
        seen, times = self._seen(name, arrays[name]), self._times(name)
        return seen if times == 1 else namespace(seen).repeat(seen, times, axis=2)

    def memory(self, name: str, results: Arrays) -> NumpyArray | None:
        """Return what a backend writes a gradient to: the result itself where groups are alike."""
        if name not in results:
            return None
        seen, times = self._seen(name, results[name]), self._times(name)
        if times == 1:
            return seen
        batch, positions, groups, *share = seen.shape
        shape = (batch, positions, groups * times, *share)
        memory: NumpyArray = namespace(seen).empty(shape, working(seen[:0]).dtype)
        return memory

    def give(self, name: str, written: NumpyArray | None, results: Arrays) -> None:
        """Sum over the repeated groups what `memory` was for."""
        if written is None or (times := self._times(name)) == 1:
            return
        seen = self._seen(name, results[name])
        batch, positions, groups, *share = seen.shape
        seen[...] = written.reshape(batch, positions, groups, times, *share).sum(axis=3)


def _forward(backend: Any, plan: Plan, arrays: Arrays, results: dict[str, NumpyArray]) -> None:
    common = _Common(plan)
    offset, kernel = (common.take(name, arrays) for name in ("offset", "kernel"))
    backend.local_conv(plan.geometry, arrays["input"], offset, kernel, results["out"])


def _backward(
    backend: Any, plan: Plan, ybar: NumpyArray, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    common = _Common(plan)
    offset, kernel = (common.take(name, arrays) for name in ("offset", "kernel"))
    written = [common.memory(name, results) for name in ("offset", "kernel")]
    grads = (results.get("input"), *written)
    backend.local_conv_backward(plan.geometry, ybar, arrays["input"], offset, kernel, grads)
    for name, memory in zip(("offset", "kernel"), written, strict=True):
        common.give(name, memory, results)


def _jvp(
    backend: Any, plan: Plan, tangents: Arrays, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    common = _Common(plan)
    offset, kernel = (common.take(name, arrays) for name in ("offset", "kernel"))
    t = (tangents.get("input"), *(common.take(name, tangents) for name in ("offset", "kernel")))
    backend.local_conv_jvp(
        plan.geometry,
        arrays["input"],
        offset,
        kernel,
        t,
        results["output"],
        results["output_tangent"],
    )


def _double_backward(
    backend: Any,
    plan: Plan,
    grad_grads: Arrays,
    ybar: NumpyArray,
    arrays: Arrays,
    results: dict[str, NumpyArray],
) -> None:
    common = _Common(plan)
    offset, kernel = (common.take(name, arrays) for name in ("offset", "kernel"))
    t = (grad_grads.get("input"), *(common.take(n, grad_grads) for n in ("offset", "kernel")))
    written = [common.memory(name, results) for name in ("offset", "kernel")]
    grads = (results.get("grad_output"), results.get("input"), *written)
    backend.local_conv_double_backward(
        plan.geometry, t, ybar, arrays["input"], offset, kernel, grads
    )
    for name, memory in zip(("offset", "kernel"), written, strict=True):
        common.give(name, memory, results)


RULES = Rules(
    arguments=("input", "kernel", "offset"),
    required=("input", "kernel"),
    like="input",
    plan=plan,
    forward=_forward,
    backward=_backward,
    jvp=_jvp,
    double_backward=_double_backward,
    grads=LocalConvGrads,
    double_grads=LocalConvDoubleGrads,
)
