"""Deformable convolution on the GPU: columns by sampling, a matrix product, chunk by chunk.

Where tensor cores take the numbers, the output comes from one kernel without columns (`_fused`).

The letters are those of `pydeform._ref.deform_conv`: samples s = S_0(x), slopes D_d = S_{e_d}(x),
A = sum_o w ybar, B = sum_o omega ybar, (u, v, omega, beta, mu) tangents of (x, p, w, b, m). Every
result is a sum over rows, one per output position of an image; a chunk of rows is in memory at a
time. Columns are [g, rows, K, C/g], weights [g, K * C/g, Co/g] (a leading N per sample). Of 16-bit
arrays the columns m s, an operand of a product, are rounded to 16 bits; sums are float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from pydeform._gpu import _fused
from pydeform._gpu._layout import Array, Layout, Maybe
from pydeform._gpu._product import ones, product
from pydeform._gpu._sampling import Sampling, modulated
from pydeform._gpu._second import Dots
from pydeform._gpu._workspace import halve_once, in_workspace
from pydeform._shapes import ConvGeometry


class Tangent:
    """A direction (u, v, omega, beta, mu) as the kernels take it; v is one field per axis."""

    def __init__(self, layer: Layer, parts: Iterable[Maybe]) -> None:
        u, v, omega, self.beta, mu = parts
        layout = layer.layout
        self.u = None if u is None else layout.image(u)
        self.omega = None if omega is None else layer.weight(omega)
        self.mu = None if mu is None else layout.pairs(mu)
        moves = None if v is None else layout.coordinates(v)
        self.terms, self.v = modulated(layout, layer.m, self.mu, moves)


class Layer:
    """One convolution on the device; its methods are the operators of the formulas."""

    def __init__(
        self, geometry: ConvGeometry, input: Array, offset: Maybe, weight: Array, mask: Maybe
    ) -> None:
        self.geometry = geometry
        self.layout = layout = Layout(geometry, input)
        self.xp = layout.xp
        coordinates = None if offset is None else layout.coordinates(offset)
        self.sampling = Sampling(layout, coordinates)
        self.x = layout.image(input)
        self.per_sample = weight.ndim == geometry.rank + 3
        self.given = weight
        self.m = None if mask is None else layout.pairs(mask)

    @cached_property
    def w(self) -> Array:
        """The weight, [N or 1, g, K * C/g, Co/g]."""
        return self.weight(self.given)

    def weight(self, weight: Array) -> Array:
        """[N or 1, g, K * C/g, Co/g]."""
        g = self.geometry
        per_group = g.channels // g.groups
        outputs = g.out_channels // g.groups
        shaped = weight.reshape(-1, g.groups, outputs, per_group, g.taps).transpose(0, 1, 4, 3, 2)
        shaped = self.xp.ascontiguousarray(shaped)
        return shaped.reshape(shaped.shape[0], g.groups, g.taps * per_group, outputs)

    def to_weight(self, w: Array, out: Array) -> None:
        """Write [N or 1, g, K * C/g, Co/g] in the weight's layout."""
        g = self.geometry
        shape = (-1, g.groups, g.taps, g.channels // g.groups, g.out_channels // g.groups)
        out[...] = w.reshape(shape).transpose(0, 1, 4, 3, 2).reshape(out.shape)

    def chunks(self, buffers: int) -> Iterable[tuple[int, int]]:
        """(first, count) of rows."""
        return self.sampling.chunks(buffers, self.per_sample)

    def of(self, w: Array, first: int) -> Array:
        """The weight that rows from `first` on have, [g, K * C/g, Co/g]."""
        return w[first // self.layout.positions if self.per_sample else 0]

    def columns(self, rows: int, dtype: Any = None) -> Array:
        """Memory for columns, of the working type by default.

        Groups lie inside of rows: in one row of memory is what a sample writes.
        """
        g = self.geometry
        shape = (rows, g.groups, g.taps, g.channels // g.groups)
        return self.layout.empty(*shape, dtype=dtype).transpose(1, 0, 2, 3)

    def sampled(self, first: int, rows: int) -> Array:
        """m s, rounded to the storage type."""
        columns = self.columns(rows, self.layout.storage)
        self.sampling.blend(self.x, [(0, self.m)], columns, first)
        return columns

    def column_tangent(self, t: Tangent, first: int, rows: int) -> Maybe:
        """mu s + m T, T = S_0(u) + sum_d v_d D_d, of the working type; None where that is 0."""
        if not t.terms and t.u is None:
            return None
        columns = self.columns(rows)
        if t.terms:
            self.sampling.blend(self.x, t.terms, columns, first)
        if t.u is not None:
            self.sampling.blend(t.u, [(0, self.m)], columns, first, add=bool(t.terms))
        return columns

    def rows(self, flat: Array, first: int, rows: int) -> Array:
        """Some rows of [N * P, Co], seen as [g, rows, Co/g]."""
        chunk = flat[first : first + rows].reshape(rows, self.geometry.groups, -1)
        return chunk.transpose(1, 0, 2)

    def conv(self, w: Array, columns: Array, out: Array, add: bool = False) -> None:
        """Write (or add) sum_{c,tap} w columns to [g, rows, Co/g]."""
        if w.dtype != columns.dtype:
            w = w.astype(columns.dtype)
        product(_flat(columns), w, out, add=add)

    def conv_T(self, w: Array, y: Array) -> Array:
        """sum_o w ybar, as columns of the working type: what are A and B."""
        columns = self.columns(y.shape[1])
        product(y, w, _flat(columns), b_turned=True)
        return columns

    def correlate(self, y: Array, columns: Array, out: Array) -> None:
        """Add the sum over rows of ybar columns to [g, K * C/g, Co/g]."""
        if y.dtype != columns.dtype:
            y = y.astype(columns.dtype)
        product(_flat(columns), y, out, a_turned=True, add=True)

    def output(self, bias: Maybe, out: Array) -> None:
        """b + sum_{c,tap} w m s."""
        if _fused.applies(self.sampling, self.x, self.given):
            _fused.convolve(self.sampling, self.x, self.given, bias, self.m, out)
            return
        for first, rows in self.chunks(1):
            flat = self.layout.empty(rows, self.geometry.out_channels)
            self.conv(self.of(self.w, first), self.sampled(first, rows), self.rows(flat, 0, rows))
            self.layout.store(flat, out, first, self._bias(bias))

    def _bias(self, bias: Maybe) -> Maybe:
        return None if bias is None else bias.astype(self.layout.dtype, copy=False)

    def output_tangent(self, t: Tangent, out: Array) -> None:
        """beta + sum_{c,tap} [ omega m s + w (mu s + m T) ]."""
        for first, rows in self.chunks(2):
            flat = self.layout.zeros(rows, self.geometry.out_channels)
            target = self.rows(flat, 0, rows)
            if t.omega is not None:
                self.conv(self.of(t.omega, first), self.sampled(first, rows), target)
            moved = self.column_tangent(t, first, rows)
            if moved is not None:
                self.conv(self.of(self.w, first), moved, target, add=True)
            self.layout.store(flat, out, first, self._bias(t.beta))


def _flat(columns: Array) -> Array:
    """[g, rows, K, C/g] as matrices."""
    groups, rows, taps, channels = columns.shape
    return columns.reshape(groups, rows, taps * channels)


@in_workspace
@halve_once
def deform_conv(
    geometry: ConvGeometry,
    input: Array,
    offset: Maybe,
    weight: Array,
    bias: Maybe,
    mask: Maybe,
    out: Array,
) -> None:
    """Write the output."""
    Layer(geometry, input, offset, weight, mask).output(bias, out)


@in_workspace
@halve_once
def deform_conv_backward(
    geometry: ConvGeometry,
    grad_output: Array,
    input: Array,
    offset: Maybe,
    weight: Array,
    mask: Maybe,
    grads: Sequence[Maybe],
    deterministic: bool,
) -> None:
    """Write the gradients of <grad_output, output> to the arrays that are not None in `grads`."""
    layer = Layer(geometry, input, offset, weight, mask)
    layout, sampling = layer.layout, layer.sampling
    to_x, to_p, to_w, to_b, to_m = grads
    ybar = layout.output(grad_output, geometry.out_channels, layout.storage)
    xbar = None if to_x is None else layout.zeros(*layer.x.shape)
    wbar = None if to_w is None else layout.zeros(*layer.w.shape)
    outputs = []
    if to_p is not None:
        axes = layout.coordinates(to_p)
        outputs += [(1 << d, axes[..., d], True) for d in range(geometry.rank)]
    if to_m is not None:
        outputs.append((0, layout.pairs(to_m), False))
    for first, rows in layer.chunks(2):
        y = layer.rows(ybar, first, rows)
        if wbar is not None:
            layer.correlate(y, layer.sampled(first, rows), layer.of(wbar, first))
        if xbar is None and not outputs:
            continue
        A = layer.conv_T(layer.of(layer.w, first), y)
        if outputs:
            sampling.dots(A, layer.x, outputs, first, layer.m)
        if xbar is not None:
            sampling.splat(A, [(0, layer.m)], xbar, first, deterministic)
    if to_b is not None:
        bbar = layout.zeros(1, 1, geometry.out_channels)
        product(ones(layer.xp, layout.rows, ybar.dtype), ybar[None], bbar)
        to_b[...] = bbar[0, 0]
    _finish(layer, (to_x, xbar), (to_w, wbar))


def _finish(layer: Layer, image: tuple[Maybe, Maybe], weight: tuple[Maybe, Maybe]) -> None:
    """Write results to the caller's layout and type: pairs of (where to, what)."""
    if image[0] is not None:
        xbar: Array = image[1]
        layer.layout.store(xbar.reshape(-1, xbar.shape[2]), image[0], 0)
    if weight[0] is not None:
        layer.to_weight(weight[1], weight[0])


@in_workspace
@halve_once
def deform_conv_jvp(
    geometry: ConvGeometry,
    input: Array,
    offset: Maybe,
    weight: Array,
    bias: Maybe,
    mask: Maybe,
    tangents: Sequence[Maybe],
    out: Maybe,
    out_tangent: Array,
) -> None:
    """Write the output and its derivative in the direction of the tangents (None is zero)."""
    layer = Layer(geometry, input, offset, weight, mask)
    if out is not None:
        layer.output(bias, out)
    layer.output_tangent(Tangent(layer, tangents), out_tangent)


@in_workspace
@halve_once
def deform_conv_double_backward(
    geometry: ConvGeometry,
    grad_grads: Sequence[Maybe],
    grad_output: Array,
    input: Array,
    offset: Maybe,
    weight: Array,
    mask: Maybe,
    results: Sequence[Maybe],
) -> None:
    """Write the gradients of <grad_grads, grads> to (grad_output, input, offset, weight, mask).

    Cotangents that are None are zero, and results that are None are not computed.
    """
    layer = Layer(geometry, input, offset, weight, mask)
    layout, sampling = layer.layout, layer.sampling
    u, v, omega, beta, mu = grad_grads
    t = Tangent(layer, (u, v, omega, beta, mu))
    to_ybar, to_x, to_p, to_w, to_m = results
    if to_ybar is not None:
        layer.output_tangent(t, to_ybar)
    ybar = layout.output(grad_output, geometry.out_channels, layout.storage)
    xbar = None if to_x is None else layout.zeros(*layer.x.shape)
    wbar = None if to_w is None else layout.zeros(*layer.w.shape)
    dots = Dots(sampling, layer.m, t.mu, t.v, to_p is not None, to_m is not None)
    dotted = to_p is not None or to_m is not None
    on_x = t.terms
    for first, rows in layer.chunks(2):
        y = layer.rows(ybar, first, rows)
        if wbar is not None and (moved := layer.column_tangent(t, first, rows)) is not None:
            layer.correlate(y, moved, layer.of(wbar, first))
        if dotted or (xbar is not None and on_x):
            A = layer.conv_T(layer.of(layer.w, first), y)
            if xbar is not None and on_x:
                sampling.splat(A, on_x, xbar, first)
            dots.take("Ax", A, layer.x, first)
            if t.u is not None:
                dots.take("Au", A, t.u, first)
        if t.omega is not None and (dotted or xbar is not None):
            B = layer.conv_T(layer.of(t.omega, first), y)
            if xbar is not None:
                sampling.splat(B, [(0, layer.m)], xbar, first)
            dots.take("Bx", B, layer.x, first)
    _finish(layer, (to_x, xbar), (to_w, wbar))
    dots.write(
        None if to_p is None else layout.coordinates(to_p),
        None if to_m is None else layout.pairs(to_m),
    )
