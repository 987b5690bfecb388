"""The problems that are timed: shapes and options, and arrays of random values for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
#: Names of what is timed: the output alone, or the output and all gradients.
DIRECTIONS = ("forward", "forward+backward")


class Arrays(NamedTuple):
    """The arguments of one call, float32; with a cotangent of its output for gradients."""

    input: Array
    offset: Array
    weight: Array
    bias: Array
    mask: Array | None
    grad_output: Array | None


@dataclass(frozen=True)
class Case:
    """One deformable convolution; every tuple has one entry per spatial axis.

    Attributes
    ----------
    name
        What the tables call it.
    batch, channels, out_channels, groups, offset_groups
        Sizes of the axes that are not spatial.
    size, kernel, stride, padding, dilation
        Pixels per axis, (y, x) or (z, y, x); the padding is the same on both sides.
    mask
        True is version 2 of the operation, False version 1.
    spread
        Standard deviation of the offsets, in pixels.
    """

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    offset_groups: int = 1
    mask: bool = True
    spread: float = 2.0

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def taps(self) -> int:
        """Number of positions of the kernel."""
        return prod(self.kernel)

    @property
    def out_size(self) -> tuple[int, ...]:
        """Spatial shape of the output."""
        axes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)

    @property
    def column_bytes(self) -> int:
        """Bytes of the column matrix that an im2col method writes."""
        return 4 * self.batch * self.channels * self.taps * prod(self.out_size)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays by name; without "mask" where the case has none."""
        positions = self.offset_groups * self.taps
        shapes = {
            "input": (self.batch, self.channels, *self.size),
            "offset": (self.batch, positions * self.rank, *self.out_size),
            "weight": (self.out_channels, self.channels // self.groups, *self.kernel),
            "bias": (self.out_channels,),
            "grad_output": (self.batch, self.out_channels, *self.out_size),
        }
        return shapes | ({"mask": (self.batch, positions, *self.out_size)} if self.mask else {})

    def argument_bytes(self, direction: str) -> int:
        """Return the size of all arguments, with the cotangent where gradients are wanted."""
        left_out = "grad_output" if direction == "forward" else None
        return sum(4 * prod(shape) for name, shape in self.shapes.items() if name != left_out)

    def result_bytes(self, direction: str) -> int:
        """Return the size of the output, and of all gradients where they are wanted."""
        output = 4 * prod(self.shapes["grad_output"])
        gradients = self.argument_bytes("forward")
        return output if direction == "forward" else output + gradients

    def arrays(self, direction: str = DIRECTIONS[1], seed: int = 0) -> Arrays:
        """Draw the arrays: the same for the same seed, and without memory beyond their own."""
        rng = np.random.default_rng(seed)

        def normal(name: str, scale: float) -> Array:
            values = rng.standard_normal(self.shapes[name], dtype=np.float32)
            values *= np.float32(scale)
            return values

        return Arrays(
            input=normal("input", 1.0),
            offset=normal("offset", self.spread),
            weight=normal("weight", (self.channels // self.groups * self.taps) ** -0.5),
            bias=normal("bias", 1.0),
            mask=rng.random(self.shapes["mask"], dtype=np.float32) if self.mask else None,
            grad_output=None if direction == "forward" else normal("grad_output", 1.0),
        )

    def describe(self) -> str:
        """Say what it is, in the way of ``1x64x56x56 -> 64, 3x3 v2``."""
        words = [
            f"{'x'.join(map(str, (self.batch, self.channels, *self.size)))} -> {self.out_channels}",
            f"{'x'.join(map(str, self.kernel))} {'v2' if self.mask else 'v1'}",
        ]
        if self.stride != (1,) * self.rank:
            words.append(f"stride {'x'.join(map(str, self.stride))}")
        if self.dilation != (1,) * self.rank:
            words.append(f"dilation {'x'.join(map(str, self.dilation))}")
        if self.groups > 1:
            words.append(f"{self.groups} groups")
        if self.offset_groups > 1:
            words.append(f"{self.offset_groups} offset groups")
        if self.spread != Case.spread:
            words.append(f"offsets N(0, {self.spread:g})")
        return ", ".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data; `from_json` takes it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Case:
        """Return the case that `to_json` wrote."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**plain)


def case(
    name: str,
    shape: tuple[int, ...],
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    **options: Any,
) -> Case:
    """Make a case from the shape (batch, channels, size...) and one number for every axis.

    The padding keeps the size of the input where the stride is 1.
    """
    rank = len(shape) - 2
    return Case(
        name=name,
        batch=shape[0],
        channels=shape[1],
        size=shape[2:],
        out_channels=out_channels,
        kernel=(kernel,) * rank,
        stride=(stride,) * rank,
        padding=(dilation * (kernel - 1) // 2,) * rank,
        dilation=(dilation,) * rank,
        **options,
    )


#: The six images that targets are set for: layers of ResNet, FPN and an image's first layer.
NAMED = (
    case("A", (1, 64, 56, 56), 64, 3),
    case("B", (1, 256, 56, 56), 256, 3),
    case("C", (2, 512, 28, 28), 512, 3),
    case("D", (1, 256, 100, 152), 256, 3),
    case("E", (8, 64, 32, 32), 64, 3, offset_groups=4, mask=False),
    case("F", (1, 3, 224, 224), 64, 7, stride=2, mask=False),
)
VOLUMES = (
    case("3D-a", (1, 32, 16, 32, 32), 32, 3),
    case("3D-b", (1, 64, 8, 56, 56), 64, 3, mask=False),
)
SIGNALS = (
    case("1D-a", (4, 128, 2000), 128, 3),
    case("1D-b", (1, 64, 32000), 64, 5, dilation=2, offset_groups=4),
)
LARGE = (case("L-512", (1, 64, 512, 512), 64, 3),)
#: Gigabytes of memory: only on request.
HUGE = (case("L-4096", (1, 8, 4096, 4096), 8, 3),)
#: What nobody tuned for; a method that is good at `NAMED` alone falls short here.
UNLISTED = (
    case("stride-2", (1, 128, 56, 56), 128, 3, stride=2),
    case("5x5", (1, 64, 56, 56), 64, 5),
    case("dilated", (1, 128, 56, 56), 128, 3, dilation=2),
    case("depthwise", (1, 128, 56, 56), 128, 3, groups=128),
    case("one-channel", (1, 1, 256, 256), 1, 3),
    case("far-offsets", (1, 64, 56, 56), 64, 3, spread=30.0),
    case("16-channel", (1, 16, 112, 112), 16, 3),
    case("resnext", (1, 256, 56, 56), 256, 3, groups=32),
)
#: Cheap ones that still cover many channels, offset groups and few channels.
QUICK = tuple(c for c in NAMED if c.name in "AEF")
SETS = {
    "named": NAMED,
    "3d": VOLUMES,
    "1d": SIGNALS,
    "large": LARGE,
    "huge": HUGE,
    "unlisted": UNLISTED,
    "quick": QUICK,
    "default": NAMED + VOLUMES + SIGNALS + LARGE,
}
SETS["all"] = SETS["default"] + UNLISTED

#: For pictures: the size of the image, and the number of channels, one at a time.
SIZES = tuple(case(f"{n}x{n}", (1, 64, n, n), 64, 3) for n in (32, 64, 128, 256, 512))
CHANNELS = tuple(case(f"{c} channels", (1, c, 56, 56), c, 3) for c in (4, 16, 64, 128, 256, 512))


def select(names: Iterable[str]) -> tuple[Case, ...]:
    """Return the cases of these names, where a name may also be one of `SETS`.

    Raises
    ------
    ValueError
        If a name is unknown; the message lists the known ones.
    """
    known = {c.name: (c,) for c in SETS["all"] + HUGE}
    sets = known | SETS
    chosen: dict[str, Case] = {}
    for name in names:
        if name not in sets:
            raise ValueError(f"case: expected one of {', '.join(sets)}; got {name!r}")
        chosen |= {c.name: c for c in sets[name]}
    return tuple(chosen.values())


def tiny(like: Case) -> Case:
    """Return a very small case of the same kind, for loading what a library loads at first use."""
    rank = like.rank
    return replace(
        case("tiny", (1, 4, *(6,) * rank), 4, 3),
        mask=like.mask,
        groups=1,
    )
