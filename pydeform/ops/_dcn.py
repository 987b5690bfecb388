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
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np

from pydeform import _shapes
from pydeform._arrays import NumpyArray, constant, ready
from pydeform._shapes import ConvGeometry
from pydeform.ops import _checks, _parts
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

    def start(self, dtype: np.dtype[Any]) -> NumpyArray:
        """Return where taps read for offset 0, from q*stride - pad on: [K, 2] as (x, y)."""
        (rows, columns), (dy, dx) = self.kernel, self.dilation
        cy, cx = dy * (rows - 1) // 2, dx * (columns - 1) // 2
        scale = Fraction(self.scale)
        points = [
            (cx + (i * dx - cx) * scale, cy + (j * dy - cy) * scale)
            for i in range(columns)
            for j in range(rows)
            if not (self.remove_center and (i, j) == (columns // 2, rows // 2))
        ]
        if dtype == object:
            return np.array(points, object)
        wide = [[np.longdouble(x.numerator) / x.denominator for x in point] for point in points]
        return np.array(wide, np.longdouble).astype(dtype)


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
        scale=_parts.real("offset_scale", options.offset_scale),
        remove_center=bool(remove),
        kink=_checks.choice("kink", options.kink, _checks.KINKS),
    )


def geometry_of(lattice: Lattice, input: NumpyArray) -> ConvGeometry:
    """Check the input and return the geometry of the local convolution."""
    _parts.check_axes("input", input, 4, "(batch, height, width, channels)")
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
    geometry = _parts.depthwise(
        batch,
        channels,
        lattice.group,
        (height, width),
        lattice.out_size((height, width)),
        lattice.taps,
        lattice.kink,
        base=(lattice.stride, lattice.pad),
    )
    _shapes.check_bytes("output", (batch, *geometry.out_size, channels), input.itemsize)
    return geometry


class Part:
    """The one local convolution that these operations are.

    Parameters
    ----------
    lattice, geometry
        As checked.
    packed
        Whether offset and mask lie in one array, per group those of all taps after each other.
    backend
        Which moves numbers between layouts.
    """

    def __init__(
        self, lattice: Lattice, geometry: ConvGeometry, packed: bool, backend: Any
    ) -> None:
        self.lattice, self.geometry = lattice, geometry
        self.packed, self.backend = packed, backend

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        g = self.geometry
        return math.prod((g.batch, *g.out_size)), g.offset_groups, g.taps

    def _grouped(self, packed: NumpyArray) -> NumpyArray:
        """[R, G, 3K] on the memory of a packed array, R positions."""
        rows, groups, taps = self._shape
        used = packed.reshape(rows, packed.shape[-1], copy=False)[:, : groups * taps * 3]
        grouped: NumpyArray = used.reshape(rows, groups, taps * 3, copy=False)
        return grouped

    def _offsets(self, array: NumpyArray) -> NumpyArray:
        """[R, G, K, 2] as (x, y), on the memory of the argument."""
        if self.packed:
            array = self._grouped(array)[..., : 2 * self.geometry.taps]
        offsets: NumpyArray = array.reshape(*self._shape, 2, copy=False)
        return offsets

    def _factors(self, packed: NumpyArray) -> NumpyArray:
        """[R, G, K, 1] on the memory of a packed argument."""
        return self._grouped(packed)[..., 2 * self.geometry.taps :, None]

    def linear(self, role: str, array: NumpyArray) -> NumpyArray:
        """Return what the backend reads, from an argument, a tangent or a cotangent."""
        array = ready(array)
        if role == "position":
            return self._turned(array, None)
        if role == "factor" and self.packed:
            factors = _parts.relayed(self.backend, self._factors(array), (1,))
            return self._flat(factors)
        return array

    def position(self, array: NumpyArray | None) -> NumpyArray:
        """Return the scaled offsets, from q*stride - pad on, as (y, x)."""
        array = ready(cast("NumpyArray", array))
        return self._turned(array, constant(self.lattice.start(array.dtype), array))

    def factor(self, array: NumpyArray | None) -> NumpyArray:
        """Return the mask."""
        return self.linear("factor", cast("NumpyArray", array))

    def _turned(self, array: NumpyArray, start: NumpyArray | None) -> NumpyArray:
        """From (x, y) to (y, x), scaled, and moved by `start`."""
        scale = (self.lattice.scale,) * 2
        return self._flat(_parts.relayed(self.backend, self._offsets(array), scale, start))

    def _flat(self, array: NumpyArray) -> NumpyArray:
        """From [R, G, K, each] to [N, Ho, Wo, G*K*each]."""
        g = self.geometry
        return array.reshape(g.batch, *g.out_size, g.offset_groups * g.taps * array.shape[-1])

    def memory(self, role: str, result: NumpyArray) -> NumpyArray | None:
        """Return the result itself where it lies as the backend writes."""
        if role == "position" or (role == "factor" and self.packed):
            return None
        return result

    def add(self, role: str, values: NumpyArray, result: NumpyArray) -> None:
        """Write the adjoint of `linear` at what the backend wrote."""
        if role == "factor":
            values = values.reshape(*self._shape, 1)
            _parts.relay(self.backend, values, (1,), self._factors(result))
            used = math.prod(self._shape[1:]) * 3
            result[..., used:] = _parts.exact(0, result.dtype)  # the padding is never read
            return
        scale = (self.lattice.scale,) * 2
        values = values.reshape(*self._shape, 2)
        _parts.relay(self.backend, values, scale, self._offsets(result))


def plan(
    lattice: Lattice, geometry: ConvGeometry, packed: bool, input: NumpyArray, names: Sequence[str]
) -> _parts.Plan:
    """Return how the operation is computed; `names` are those of image, position and factor."""
    output = (geometry.batch, *geometry.out_size, geometry.channels)
    return _parts.Plan(
        Wanted(output, input.dtype),
        lambda backend: [Part(lattice, geometry, packed, backend)],
        dict(zip(_parts.ROLES, names, strict=True)),
    )
