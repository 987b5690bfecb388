"""From the caller's layout to the axes that the formulas are written in, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pydeform._ref.stencil import Array, Term, number
from pydeform._shapes import ConvGeometry


class Layout:
    """Views of one convolution's arrays in the working dtype, channels first, positions flat."""

    def __init__(self, geometry: ConvGeometry, dtype: np.dtype[Any], per_sample: bool) -> None:
        self.geometry = geometry
        self.dtype = dtype
        self.per_sample = per_sample
        self.pixels = math.prod(geometry.size)
        self.positions = math.prod(geometry.out_size)

    def _channels_first(self, array: Array) -> Array:
        array = np.asarray(array).astype(self.dtype)
        return np.moveaxis(array, -1, 1) if self.geometry.channels_last else array

    def _restored(self, values: Term, channels: int, spatial: tuple[int, ...]) -> Array:
        g = self.geometry
        flat = (g.batch, channels, math.prod(spatial))
        array = self._filled(values, flat).reshape(g.batch, channels, *spatial)
        return np.moveaxis(array, 1, -1) if g.channels_last else array

    def _filled(self, values: Term, shape: tuple[int, ...]) -> Array:
        if values is None:
            return np.full(shape, number(0, self.dtype), self.dtype)
        return values.reshape(shape)

    def image(self, input: Array) -> Array:
        """x [N, C, prod(S)]."""
        g = self.geometry
        return self._channels_first(input).reshape(g.batch, g.channels, self.pixels)

    def coordinates(self, offset: Array) -> Array:
        """p [N, Go, K, n, P]."""
        g = self.geometry
        shape = (g.batch, g.offset_groups, g.taps, g.rank, self.positions)
        return self._channels_first(offset).reshape(shape)

    def modulation(self, mask: Array) -> Array:
        """m [N, Go, K, P]."""
        g = self.geometry
        shape = (g.batch, g.offset_groups, g.taps, self.positions)
        return self._channels_first(mask).reshape(shape)

    def kernel(self, weight: Array) -> Array:
        """w [g, Co/g, C/g, K], with a leading N where it is per sample."""
        g = self.geometry
        shape = (g.groups, g.out_channels // g.groups, g.channels // g.groups, g.taps)
        lead = (g.batch,) if self.per_sample else ()
        return np.asarray(weight).astype(self.dtype).reshape(*lead, *shape)

    def output(self, out: Array) -> Array:
        """y [N, g, Co/g, P]."""
        g = self.geometry
        shape = (g.batch, g.groups, g.out_channels // g.groups, self.positions)
        return self._channels_first(out).reshape(shape)

    def bias(self, bias: Array) -> Array:
        """b [N, g, Co/g, P]: the same number at every position."""
        g = self.geometry
        b = np.asarray(bias).astype(self.dtype).reshape(g.groups, g.out_channels // g.groups, 1)
        return np.broadcast_to(b, (g.batch, *b.shape[:2], self.positions))

    def channels(self, grouped: Array) -> Array:
        """[N, Go, K, P] -> [N, C, K, P]: every channel of an offset group shares its samples."""
        return np.repeat(grouped, self.geometry.channels // self.geometry.offset_groups, axis=1)

    def fold(self, columns: Term) -> Term:
        """sum_c within an offset group: [N, C, K, P] -> [N, Go, K, P], the adjoint of channels."""
        if columns is None:
            return None
        g = self.geometry
        per_group = g.channels // g.offset_groups
        grouped = columns.reshape(g.batch, g.offset_groups, per_group, *columns.shape[2:])
        return np.asarray(np.sum(grouped, axis=2))

    def to_image(self, x: Term) -> Array:
        """The input's layout, from [N, C, prod(S)]."""
        return self._restored(x, self.geometry.channels, self.geometry.size)

    def to_offset(self, per_axis: Sequence[Term]) -> Array:
        """The offset's layout, from n arrays [N, Go, K, P]."""
        g = self.geometry
        shape = (g.batch, g.offset_groups, g.taps, self.positions)
        p = np.stack([self._filled(values, shape) for values in per_axis], axis=3)
        return self._restored(p, g.offset_groups * g.taps * g.rank, g.out_size)

    def to_mask(self, m: Term) -> Array:
        """The mask's layout, from [N, Go, K, P]."""
        g = self.geometry
        return self._restored(m, g.offset_groups * g.taps, g.out_size)

    def to_output(self, y: Term) -> Array:
        """The output's layout, from [N, g, Co/g, P]."""
        return self._restored(y, self.geometry.out_channels, self.geometry.out_size)

    def to_weight(self, w: Term) -> Array:
        """The weight's layout, from `kernel`'s."""
        g = self.geometry
        lead = (g.batch,) if self.per_sample else ()
        return self._filled(w, (*lead, g.out_channels, g.channels // g.groups, *g.kernel))


class SampleLayout(Layout):
    """The same where offsets are [N, P, Go, K, n] and masks [N, P, Go, K], of any strides."""

    def coordinates(self, offset: Array) -> Array:
        """p [N, Go, K, n, P]."""
        return np.moveaxis(offset, 1, -1).astype(self.dtype)

    def modulation(self, mask: Array) -> Array:
        """m [N, Go, K, P]."""
        return np.moveaxis(mask, 1, -1).astype(self.dtype)

    def to_offset(self, per_axis: Sequence[Term]) -> Array:
        """The offset's layout, from n arrays [N, Go, K, P]."""
        return np.stack([self.to_mask(values) for values in per_axis], axis=-1)

    def to_mask(self, m: Term) -> Array:
        """The mask's layout, from [N, Go, K, P]."""
        g = self.geometry
        shape = (g.batch, g.offset_groups, g.taps, self.positions)
        return np.moveaxis(self._filled(m, shape), -1, 1)
