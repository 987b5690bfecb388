"""Deformable convolution on the GPU: columns by sampling, a matrix product, chunk by chunk.

Where tensor cores take the numbers, the output comes from one kernel without columns (`_fused`).

The letters are those of `pydeform._ref.deform_conv`: samples s = S_0(x), slopes D_d = S_{e_d}(x),
A = sum_o w ybar, B = sum_o omega ybar, (u, v, omega, beta, mu) tangents of (x, p, w, b, m). Every
result is a sum over rows, one per output position of an image; a chunk of rows is in memory at a
time. Columns are [g, rows, K, C/g], weights [g, K * C/g, Co/g] (a leading N per sample).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from pydeform._gpu import _fused
from pydeform._gpu._layout import Array, Layout, Maybe
from pydeform._gpu._sampling import Sampling, modulated
from pydeform._gpu._second import Dots
from pydeform._shapes import ConvGeometry


class Tangent:
    """A direction (u, v, omega, beta, mu) as the kernels take it; v is one field per axis."""

    def __init__(self, layer: Layer, parts: Iterable[Maybe]) -> None:
        u, v, omega, self.beta, mu = parts
        layout = layer.layout
        self.u = None if u is None else layout.image(u)
        self.v: list[Maybe] = [None] * layout.geometry.rank
        if v is not None:
            planes = layout.coordinates(v)
            self.v = [planes[:, :, axis] for axis in range(layout.geometry.rank)]
        self.omega = None if omega is None else layer.weight(omega)
        self.mu = None if mu is None else layout.pairs(mu)
        self.terms = modulated(layer.m, self.mu, self.v)


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
        """[N or 1, g, K * C/g, Co/g] of the working type."""
        g = self.geometry
        per_group = g.channels // g.groups
        outputs = g.out_channels // g.groups
        shaped = weight.reshape(-1, g.groups, outputs, per_group, g.taps).transpose(0, 1, 4, 3, 2)
        shaped = self.xp.ascontiguousarray(shaped.astype(self.layout.dtype, copy=False))
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

    def columns(self, rows: int) -> Array:
        """Memory for columns."""
        g = self.geometry
        return self.layout.empty(g.groups, rows, g.taps, g.channels // g.groups)

    def sampled(self, first: int, rows: int) -> Array:
        """m s."""
        columns = self.columns(rows)
        self.sampling.blend(self.x, [(0, self.m)], columns, first)
        return columns

    def column_tangent(self, t: Tangent, first: int, rows: int) -> Maybe:
        """mu s + m T, T = S_0(u) + sum_d v_d D_d; None where that is 0."""
        terms = t.terms
        if not terms and t.u is None:
            return None
        columns = self.columns(rows)
        if terms:
            self.sampling.blend(self.x, terms, columns, first)
        if t.u is not None:
            self.sampling.blend(t.u, [(0, self.m)], columns, first, add=bool(terms))
        return columns

    def conv(self, w: Array, columns: Array) -> Array:
        """sum_{c,tap} w columns, [g, rows, Co/g]."""
        return self.xp.matmul(_flat(columns), w)

    def conv_T(self, w: Array, y: Array) -> Array:
        """sum_o w ybar, as columns: what are A and B."""
        columns = self.columns(y.shape[1])
        self.xp.matmul(y, w.swapaxes(1, 2), out=_flat(columns))
        return columns

    def correlate(self, y: Array, columns: Array) -> Array:
        """sum over rows of ybar columns, [g, K * C/g, Co/g]."""
        return self.xp.matmul(_flat(columns).swapaxes(1, 2), y)

    def grouped(self, ybar: Array, first: int, rows: int) -> Array:
        """ybar of some rows, [g, rows, Co/g]."""
        chunk = ybar[first : first + rows].reshape(rows, self.geometry.groups, -1)
        return self.xp.ascontiguousarray(chunk.transpose(1, 0, 2))

    def store(self, product: Maybe, out: Array, first: int, rows: int, bias: Maybe) -> None:
        """Write [g, rows, Co/g] + bias to the output's layout."""
        shape = (rows, self.geometry.out_channels)
        if product is None:
            flat = self.layout.zeros(*shape)
        else:
            flat = self.xp.ascontiguousarray(product.transpose(1, 0, 2)).reshape(shape)
        self.layout.store(flat, out, first, bias)

    def output(self, bias: Maybe, out: Array) -> None:
        """b + sum_{c,tap} w m s."""
        if _fused.applies(self.sampling, self.x, self.given):
            _fused.convolve(self.sampling, self.x, self.given, bias, self.m, out)
            return
        for first, rows in self.chunks(1):
            product = self.conv(self.of(self.w, first), self.sampled(first, rows))
            self.store(product, out, first, rows, self._bias(bias))

    def _bias(self, bias: Maybe) -> Maybe:
        return None if bias is None else bias.astype(self.layout.dtype, copy=False)

    def output_tangent(self, t: Tangent, out: Array) -> None:
        """beta + sum_{c,tap} [ omega m s + w (mu s + m T) ]."""
        for first, rows in self.chunks(2):
            parts = []
            if t.omega is not None:
                parts.append(self.conv(self.of(t.omega, first), self.sampled(first, rows)))
            moved = self.column_tangent(t, first, rows)
            if moved is not None:
                parts.append(self.conv(self.of(self.w, first), moved))
            product = parts[0] + parts[1] if len(parts) == 2 else parts[0] if parts else None
            self.store(product, out, first, rows, self._bias(t.beta))


def _flat(columns: Array) -> Array:
    """[g, rows, K, C/g] as matrices."""
    groups, rows, taps, channels = columns.shape
    return columns.reshape(groups, rows, taps * channels)


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


def deform_conv_backward(
    geometry: ConvGeometry,
    grad_output: Array,
    input: Array,
    offset: Maybe,
    weight: Array,
    mask: Maybe,
    grads: Sequence[Maybe],
) -> None:
    """Write the gradients of <grad_output, output> to the arrays that are not None in `grads`."""
    layer = Layer(geometry, input, offset, weight, mask)
    layout, sampling = layer.layout, layer.sampling
    to_x, to_p, to_w, to_b, to_m = grads
    ybar = layout.output(grad_output, geometry.out_channels)
    xbar = None if to_x is None else layout.zeros(*layer.x.shape)
    pbar, mbar = layout.result(to_p), layout.result(to_m)
    wbar = None if to_w is None else layout.zeros(*layer.w.shape)
    outputs = []
    if pbar is not None:
        axes = layout.target_coordinates(pbar)
        outputs += [(1 << d, axes[:, :, d], True) for d in range(geometry.rank)]
    if mbar is not None:
        outputs.append((0, layout.target_pairs(mbar), False))
    for first, rows in layer.chunks(2):
        y = layer.grouped(ybar, first, rows)
        if wbar is not None:
            layer.of(wbar, first)[...] += layer.correlate(y, layer.sampled(first, rows))
        if xbar is None and not outputs:
            continue
        A = layer.conv_T(layer.of(layer.w, first), y)
        if outputs:
            sampling.dots(A, layer.x, outputs, first, layer.m)
        if xbar is not None:
            sampling.splat(A, [(0, layer.m)], xbar, first)
    if to_b is not None:
        to_b[...] = ybar.sum(axis=0)
    _finish(layer, (to_x, xbar), (to_w, wbar), (to_p, pbar), (to_m, mbar))


def _finish(
    layer: Layer,
    image: tuple[Maybe, Maybe],
    weight: tuple[Maybe, Maybe],
    *others: tuple[Maybe, Maybe],
) -> None:
    """Write results to the caller's layout and type: pairs of (where to, what)."""
    if image[0] is not None:
        xbar: Array = image[1]
        layer.layout.store(xbar.reshape(-1, xbar.shape[2]), image[0], 0)
    if weight[0] is not None:
        layer.to_weight(weight[1], weight[0])
    for target, found in others:
        if target is not None and target is not found:
            target[...] = found


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
    ybar = layout.output(grad_output, geometry.out_channels)
    xbar = None if to_x is None else layout.zeros(*layer.x.shape)
    wbar = None if to_w is None else layout.zeros(*layer.w.shape)
    dots = Dots(sampling, layer.m, t.mu, t.v, to_p is not None, to_m is not None)
    dotted = to_p is not None or to_m is not None
    on_x = t.terms
    for first, rows in layer.chunks(2):
        y = layer.grouped(ybar, first, rows)
        if wbar is not None and (moved := layer.column_tangent(t, first, rows)) is not None:
            layer.of(wbar, first)[...] += layer.correlate(y, moved)
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
    dots.write(to_p, to_m)
