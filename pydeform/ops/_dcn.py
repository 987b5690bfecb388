"""What versions 3 and 4 of deformable convolution share: the lattice, its checks, one part.

Both read, for the tap in column i and row j of the kernel, at

    x = q_x*stride_w - pad_w + c_w + ((i*dilation_w - c_w) + offset_x) * offset_scale
    y = q_y*stride_h - pad_h + c_h + ((j*dilation_h - c_h) + offset_y) * offset_scale

in pixels, with the centre c = dilation*(kernel - 1)//2, so that the scale stretches the lattice of
taps about its centre together with the offsets. Taps go column by column (x outside, y inside).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pydeform import _shapes
from pydeform._arrays import NumpyArray
from pydeform._shapes import ConvGeometry
from pydeform.ops import _checks, _samples
from pydeform.ops._outputs import Wanted


class Options(NamedTuple):
    """What a caller may choose beside the arrays, as it was written and in that order."""

    kernel_h: object
    kernel_w: object
    stride_h: object
    stride_w: object
    pad_h: object
    pad_w: object
    dilation_h: object
    dilation_w: object
    group: object
    group_channels: object
    offset_scale: object
    remove_center: object
    kink: object


class Lattice(NamedTuple):
    """The checked options; pairs are (y, x)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilation: tuple[int, int]
    group: int
    group_channels: int
    scale: float
    remove_center: bool
    kink: str

    @property
    def taps(self) -> int:
        """Taps that are left when the centre is removed."""
        return self.kernel[0] * self.kernel[1] - self.remove_center

    def out_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the output size; a kernel that does not fit the padded input is an error."""
        out = []
        for axis, s, k, step, pad, d in zip(
            ("h", "w"), size, self.kernel, self.stride, self.pad, self.dilation, strict=True
        ):
            extent, padded = (k - 1) * d + 1, s + 2 * pad
            if extent > padded:
                raise ValueError(
                    f"kernel_{axis}: expected a kernel that fits the padded input: size {s} + 2 * "
                    f"pad_{axis} {pad} = {padded}, got {k} taps with dilation {d}, which span "
                    f"{extent}"
                )
            out.append((padded - extent) // step + 1)
        return out[0], out[1]


@lru_cache(maxsize=256)
def starts(lattice: Lattice) -> tuple[tuple[Fraction | float, ...], ...]:
    """Return where every tap reads for offset 0, from q*stride - pad on, as (y, x)."""
    (rows, columns), (dy, dx) = lattice.kernel, lattice.dilation
    cy, cx = dy * (rows - 1) // 2, dx * (columns - 1) // 2
    scale = Fraction(lattice.scale)
    points = [
        (cy + (j * dy - cy) * scale, cx + (i * dx - cx) * scale)
        for i in range(columns)
        for j in range(rows)
        if not (lattice.remove_center and (i, j) == (columns // 2, rows // 2))
    ]
    return tuple(tuple(_number(x) for x in point) for point in points)


def _number(x: Fraction | int) -> Fraction | float:
    """Return a float where that is exact, which it nearly always is: quicker to work with."""
    try:
        near = float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf
    return near if near == x else Fraction(x)


def lattice(options: Options) -> Lattice:
    """Check the options."""

    def pair(name: str, minimum: int) -> tuple[int, int]:
        names = (f"{name}_h", f"{name}_w")
        h, w = (
            _shapes.at_least(n, _shapes.integer(n, getattr(options, n)), minimum) for n in names
        )
        return h, w

    def single(name: str) -> int:
        return _shapes.at_least(name, _shapes.integer(name, getattr(options, name)), 1)

    remove = options.remove_center
    # The published operators take 0 and 1.
    if not isinstance(remove, bool | np.bool_ | int) or remove not in (0, 1):
        raise TypeError(f"remove_center: expected True or False, got {remove!r}")
    kernel = pair("kernel", 1)
    if remove and (kernel[0] % 2 == 0 or kernel[1] % 2 == 0 or kernel == (1, 1)):
        raise ValueError(
            "remove_center: expected odd kernel_h and kernel_w that leave other taps, "
            f"got a kernel of {kernel[0]} x {kernel[1]}"
        )
    return Lattice(
        kernel=kernel,
        stride=pair("stride", 1),
        pad=pair("pad", 0),
        dilation=pair("dilation", 1),
        group=single("group"),
        group_channels=single("group_channels"),
        scale=_samples.real("offset_scale", options.offset_scale),
        remove_center=bool(remove),
        kink=_checks.choice("kink", options.kink, _checks.KINKS),
    )


def geometry_of(lattice: Lattice, input: NumpyArray) -> ConvGeometry:
    """Check the input and return the geometry of the local convolution."""
    _samples.check_axes("input", input, 4, "(batch, height, width, channels)")
    batch, height, width, channels = input.shape
    if 0 in input.shape[1:]:
        raise ValueError(
            f"input: expected at least one element along every axis but the batch, "
            f"got shape {input.shape}"
        )
    if channels != lattice.group * lattice.group_channels:
        raise ValueError(
            f"input: expected group * group_channels = {lattice.group} * {lattice.group_channels} "
            f"= {lattice.group * lattice.group_channels} channels, last, "
            f"got {channels}, shape {input.shape}"
        )
    geometry = _samples.depthwise(
        batch,
        channels,
        lattice.group,
        (height, width),
        lattice.out_size((height, width)),
        lattice.taps,
        lattice.kink,
        base=(lattice.stride, lattice.pad),
    )._replace(scale=((lattice.scale,) * 2,) * lattice.taps, start=starts(lattice))
    _shapes.check_bytes("output", (batch, *geometry.out_size, channels), input.itemsize)
    return geometry


class _Views(_samples.Views):
    """How the arrays of these operations are seen.

    With `packed`, offset and mask lie in one array: of every group the offsets of all taps, then
    their masks, and after the last group what is never read.
    """

    def __init__(self, geometry: ConvGeometry, packed: bool) -> None:
        g = geometry
        self.packed = packed
        self.shape = (g.batch, math.prod(g.out_size), g.offset_groups, g.taps)
        self.used = g.offset_groups * g.taps * 3  # channels of a packed array

    def _grouped(self, packed: NumpyArray) -> NumpyArray:
        """[N, P, G, 3K] on the memory of a packed array."""
        batch, positions, groups, taps = self.shape
        rows = packed.reshape(batch, positions, packed.shape[-1], copy=False)[..., : self.used]
        grouped: NumpyArray = rows.reshape(batch, positions, groups, 3 * taps, copy=False)
        return grouped

    def read(self, role: str, array: NumpyArray) -> NumpyArray:
        """Return what the backend reads or writes, on the memory of the array."""
        if role in ("image", "output"):
            return array
        taps = self.shape[-1]
        if role == "factor":
            if self.packed:
                return self._grouped(array)[..., 2 * taps :]
            return array.reshape(self.shape, copy=False)
        if self.packed:
            array = self._grouped(array)[..., : 2 * taps]
        return array.reshape(*self.shape, 2, copy=False)[..., ::-1]  # (x, y) as (y, x)

    def finish(self, role: str, written: NumpyArray, result: NumpyArray) -> None:  # noqa: ARG002
        """Fill what is never read of a packed gradient."""
        if self.packed and role == "factor":
            result[..., self.used :] = _samples.exact(0, result.dtype)


def plan(
    geometry: ConvGeometry, packed: bool, input: NumpyArray, names: Sequence[str]
) -> _samples.Plan:
    """Return how the operation is computed; `names` are those of image, position and factor."""
    output = (geometry.batch, *geometry.out_size, geometry.channels)
    roles = dict(zip(_samples.ROLES, names, strict=True))
    return _samples.Plan(Wanted(output, input.dtype), geometry, _Views(geometry, packed), roles)
