"""Deformable convolution: the formulas of its definition, line by line.

Letters: x input, p coordinates, w weight, b bias, m mask, y output; a bar is a cotangent, so that
``ybar`` is the gradient of the output; (u, v, omega, beta, mu) are tangents of (x, p, w, b, m), or
cotangents of their gradients. Samples s = S_0(x), slopes D_d = S_{e_d}(x), A = sum_o w ybar,
B = sum_o omega ybar. Axes: x [N, C, prod(S)], columns [N, C, K, P], y [N, g, Co/g, P], with
P = prod(O); w [g, Co/g, C/g, K], and a leading N where it is per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add, mul
from typing import Any

import numpy as np

from pydeform._ref.layout import Layout
from pydeform._ref.stencil import Array, Sampling, Term, number
from pydeform._shapes import ConvGeometry

# NaN and Inf are values here, and 16-bit results may overflow: neither is worth a warning.
quiet = np.errstate(all="ignore")


def plus(*terms: Term) -> Term:
    """The sum of the terms that are there."""
    present = [term for term in terms if term is not None]
    return reduce(add, present) if present else None


def times(*factors: Term) -> Term:
    """The product, zero if one factor is."""
    present = [factor for factor in factors if factor is not None]
    return reduce(mul, present) if len(present) == len(factors) else None


def working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What is computed in: float32 for 16-bit storage, else the dtype itself."""
    return np.dtype(np.float32) if dtype != object and dtype.itemsize == 2 else dtype


class Tangent:
    """A direction (u, v, omega, beta, mu) in the axes of the formulas; v is one term per axis."""

    def __init__(self, layout: Layout, parts: Iterable[Term]) -> None:
        u, v, omega, beta, mu = parts
        axes = range(layout.geometry.rank)
        self.u = None if u is None else layout.image(u)
        self.v: list[Term] = [None for _ in axes]
        if v is not None:
            self.v = [layout.channels(layout.coordinates(v)[:, :, :, d]) for d in axes]
        self.omega = None if omega is None else layout.kernel(omega)
        self.beta = None if beta is None else layout.bias(beta)
        self.mu = None if mu is None else layout.channels(layout.modulation(mu))


class Layer:
    """One convolution with its samples taken; its methods are the formulas.

    Parameters
    ----------
    geometry, input, offset, weight, mask
        As every backend gets them.
    sampling
        Makes the sampling operators from (geometry, coordinates).
    layout_type
        How offset and mask lie.
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        input: Array,
        offset: Term,
        weight: Array,
        mask: Term,
        sampling: Callable[[ConvGeometry, Array], Sampling] = Sampling,
        layout_type: type[Layout] = Layout,
    ) -> None:
        g = geometry
        dtype = working_dtype(input.dtype)
        self.layout = layout = layout_type(g, dtype, per_sample=weight.ndim == g.rank + 3)
        shape = (g.batch, g.offset_groups, g.taps, g.rank, layout.positions)
        zero = np.full(shape, number(0, dtype), dtype)
        self.sampling = sampling(g, zero if offset is None else layout.coordinates(offset))
        self.axes = range(g.rank)
        self.x = layout.image(input)
        self.w = layout.kernel(weight)
        one = np.full((1, 1, 1, 1), number(1, dtype), dtype)
        self.m = one if mask is None else layout.channels(layout.modulation(mask))
        self.s = self.sampling.sample(self.x, self._alpha())

    # The operators of the formulas.

    def _alpha(self, *axes: int) -> tuple[int, ...]:
        return tuple(int(axis in axes) for axis in self.axes)

    def S(self, image: Term, *axes: int) -> Term:
        """S_alpha: [N, C, prod(S)] -> [N, C, K, P]; alpha is 1 on the given axes."""
        return None if image is None else self.sampling.sample(image, self._alpha(*axes))

    def S_T(self, columns: Term, *axes: int) -> Term:
        """The adjoint of S_alpha."""
        return None if columns is None else self.sampling.splat(columns, self._alpha(*axes))

    def _einsum(self, axes: str, a: Term, b: Term) -> Term:
        """Over n batch, g group, o and c the channels in it, k tap, p position."""
        if a is None or b is None:
            return None
        w = "ngock" if self.layout.per_sample else "gock"
        return np.asarray(np.einsum(axes.format(w=w), a, b))

    def _grouped(self, columns: Term) -> Term:
        """[N, C, K, P] -> [N, g, C/g, K, P]."""
        if columns is None:
            return None
        g = self.layout.geometry
        return columns.reshape(g.batch, g.groups, g.channels // g.groups, *columns.shape[2:])

    def conv(self, w: Term, columns: Term) -> Term:
        """sum_{c,tap} w columns."""
        return self._einsum("{w},ngckp->ngop", w, self._grouped(columns))

    def conv_T(self, w: Term, ybar: Array) -> Term:
        """sum_o w ybar: what are A and B."""
        columns = self._einsum("{w},ngop->ngckp", w, ybar)
        return None if columns is None else columns.reshape(self.s.shape)

    def correlate(self, ybar: Array, columns: Term) -> Term:
        """sum_{N,q} ybar columns; only over q where the weight is per sample."""
        return self._einsum("ngop,ngckp->{w}", ybar, self._grouped(columns))

    # Forward, and its derivative in a direction.

    def output(self, bias: Term) -> Array:
        """b + sum_{c,tap} w m s."""
        b = None if bias is None else self.layout.bias(bias)
        return self.layout.to_output(plus(self.conv(self.w, self.m * self.s), b))

    def _T(self, t: Tangent) -> Term:
        """The samples' derivative: S_0(u) + sum_d v_d D_d."""
        return plus(self.S(t.u), *(times(t.v[d], self.S(self.x, d)) for d in self.axes))

    def _column_tangent(self, t: Tangent) -> Term:
        return plus(times(t.mu, self.s), times(self.m, self._T(t)))

    def output_tangent(self, t: Tangent) -> Array:
        """beta + sum_{c,tap} [ omega m s + w (mu s + m T) ]."""
        y = plus(
            self.conv(t.omega, self.m * self.s), self.conv(self.w, self._column_tangent(t)), t.beta
        )
        return self.layout.to_output(y)

    # The gradients of <ybar, y>.

    def grad_input(self, ybar: Array) -> Array:
        """S_0^T(m A)."""
        return self.layout.to_image(self.S_T(times(self.m, self.conv_T(self.w, ybar))))

    def grad_offset(self, ybar: Array) -> Array:
        """sum_c m A D_d, for every axis d."""
        mA = times(self.m, self.conv_T(self.w, ybar))
        fold = self.layout.fold
        return self.layout.to_offset([fold(times(mA, self.S(self.x, d))) for d in self.axes])

    def grad_weight(self, ybar: Array) -> Array:
        """sum_{N,q} ybar m s."""
        return self.layout.to_weight(self.correlate(ybar, self.m * self.s))

    def grad_bias(self, ybar: Array) -> Array:
        """sum_{N,q} ybar."""
        return np.asarray(ybar.sum(axis=(0, 3))).reshape(-1)

    def grad_mask(self, ybar: Array) -> Array:
        """sum_c A s."""
        A = self.conv_T(self.w, ybar)
        return self.layout.to_mask(self.layout.fold(times(A, self.s)))

    # The gradients of <t, (xbar, pbar, wbar, bbar, mbar)>; the one to ybar is output_tangent.

    def second_input(self, ybar: Array, t: Tangent) -> Array:
        """S_0^T(B m + A mu) + sum_d S_{e_d}^T(A m v_d)."""
        A, B, m = self.conv_T(self.w, ybar), self.conv_T(t.omega, ybar), self.m
        slopes = (self.S_T(times(A, m, t.v[d]), d) for d in self.axes)
        return self.layout.to_image(plus(self.S_T(plus(times(B, m), times(A, t.mu))), *slopes))

    def second_offset(self, ybar: Array, t: Tangent) -> Array:
        """sum_c [ (B m + A mu) D_e + A m ( S_{e_e}(u) + sum_{d!=e} v_d S_{e_d+e_e}(x) ) ]."""
        A, B, m = self.conv_T(self.w, ybar), self.conv_T(t.omega, ybar), self.m
        AB = plus(times(B, m), times(A, t.mu))
        result = []
        for e in self.axes:
            mixed = (times(t.v[d], self.S(self.x, d, e)) for d in self.axes if d != e)
            bend = plus(self.S(t.u, e), *mixed)
            columns = plus(times(AB, self.S(self.x, e)), times(A, m, bend))
            result.append(self.layout.fold(columns))
        return self.layout.to_offset(result)

    def second_weight(self, ybar: Array, t: Tangent) -> Array:
        """sum_{N,q} ybar (mu s + m T)."""
        return self.layout.to_weight(self.correlate(ybar, self._column_tangent(t)))

    def second_mask(self, ybar: Array, t: Tangent) -> Array:
        """sum_c (B s + A T)."""
        A, B = self.conv_T(self.w, ybar), self.conv_T(t.omega, ybar)
        columns = plus(times(B, self.s), times(A, self._T(t)))
        return self.layout.to_mask(self.layout.fold(columns))


@quiet
def deform_conv(
    geometry: ConvGeometry,
    input: Array,
    offset: Term,
    weight: Array,
    bias: Term,
    mask: Term,
    out: Array,
) -> None:
    """Write the output."""
    out[...] = Layer(geometry, input, offset, weight, mask).output(bias)


@quiet
def deform_conv_backward(
    geometry: ConvGeometry,
    grad_output: Array,
    input: Array,
    offset: Term,
    weight: Array,
    mask: Term,
    grads: Sequence[Term],
    deterministic: bool,  # noqa: ARG001 - it always is
) -> None:
    """Write the gradients of <grad_output, output> to the arrays that are not None in `grads`."""
    layer = Layer(geometry, input, offset, weight, mask)
    ybar = layer.layout.output(grad_output)
    rules = (
        layer.grad_input,
        layer.grad_offset,
        layer.grad_weight,
        layer.grad_bias,
        layer.grad_mask,
    )
    for gradient, rule in zip(grads, rules, strict=True):
        if gradient is not None:
            gradient[...] = rule(ybar)


@quiet
def deform_conv_jvp(
    geometry: ConvGeometry,
    input: Array,
    offset: Term,
    weight: Array,
    bias: Term,
    mask: Term,
    tangents: Sequence[Term],
    out: Array,
    out_tangent: Array,
) -> None:
    """Write the output and its derivative in the direction of the tangents (None is zero)."""
    layer = Layer(geometry, input, offset, weight, mask)
    out[...] = layer.output(bias)
    out_tangent[...] = layer.output_tangent(Tangent(layer.layout, tangents))


@quiet
def deform_conv_double_backward(
    geometry: ConvGeometry,
    grad_grads: Sequence[Term],
    grad_output: Array,
    input: Array,
    offset: Term,
    weight: Array,
    mask: Term,
    results: Sequence[Term],
) -> None:
    """Write the gradients of <grad_grads, grads> to (grad_output, input, offset, weight, mask).

    Cotangents that are None are zero, and results that are None are not computed.
    """
    layer = Layer(geometry, input, offset, weight, mask)
    ybar = layer.layout.output(grad_output)
    u, v, omega, beta, mu = grad_grads
    t = Tangent(layer.layout, (u, v, omega, beta, mu))
    to_ybar, to_x, to_p, to_w, to_m = results
    if to_ybar is not None:
        to_ybar[...] = layer.output_tangent(t)
    for result, rule in (
        (to_x, layer.second_input),
        (to_p, layer.second_offset),
        (to_w, layer.second_weight),
        (to_m, layer.second_mask),
    ):
        if result is not None:
            result[...] = rule(ybar, t)
