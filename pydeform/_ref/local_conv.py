"""Convolution with a kernel per position: deformable convolution of single channels by weight 1.

The kernel kappa takes the mask's place, so that with w = 1, A = ybar and B = 0

    y_c(q) = sum_tap kappa s      kappabar = sum_c ybar s      pbar_d = sum_c kappa ybar D_d
    xbar = S_0^T(kappa ybar)

and the formulas of `deform_conv` are those of this operation. Offsets are [N, P, Go, K, n], kernels
[N, P, Go, K], of any strides, P = prod(O): they are read and written where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pydeform._ref.deform_conv import Layer, Tangent, quiet, working_dtype
from pydeform._ref.layout import SampleLayout
from pydeform._ref.stencil import Array, Term, number
from pydeform._shapes import ConvGeometry


def _layer(geometry: ConvGeometry, input: Array, offset: Term, kernel: Term) -> Layer:
    """The convolution of every channel on its own, each tap times 1 and its kernel's entry."""
    dtype = working_dtype(input.dtype)
    weight = np.full((geometry.channels, 1, *geometry.kernel), number(1, dtype), dtype)
    return Layer(geometry, input, offset, weight, kernel, layout_type=SampleLayout)


def _tangent(layer: Layer, tangents: Sequence[Term]) -> Tangent:
    u, v, kappa = tangents
    return Tangent(layer.layout, (u, v, None, None, kappa))


@quiet
def local_conv(
    geometry: ConvGeometry, input: Array, offset: Term, kernel: Term, out: Array
) -> None:
    """Write the output; a kernel that is None is 1 everywhere."""
    out[...] = _layer(geometry, input, offset, kernel).output(None)


@quiet
def local_conv_backward(
    geometry: ConvGeometry,
    grad_output: Array,
    input: Array,
    offset: Term,
    kernel: Term,
    grads: Sequence[Term],
) -> None:
    """Write the gradients to (input, offset, kernel) to the arrays that are not None in `grads`."""
    layer = _layer(geometry, input, offset, kernel)
    ybar = layer.layout.output(grad_output)
    rules = (layer.grad_input, layer.grad_offset, layer.grad_mask)
    for gradient, rule in zip(grads, rules, strict=True):
        if gradient is not None:
            gradient[...] = rule(ybar)


@quiet
def local_conv_jvp(
    geometry: ConvGeometry,
    input: Array,
    offset: Term,
    kernel: Term,
    tangents: Sequence[Term],
    output: Array,
    output_tangent: Array,
) -> None:
    """Write the output and its derivative in the direction of (input, offset, kernel) tangents."""
    layer = _layer(geometry, input, offset, kernel)
    output[...] = layer.output(None)
    output_tangent[...] = layer.output_tangent(_tangent(layer, tangents))


@quiet
def local_conv_double_backward(
    geometry: ConvGeometry,
    grad_grads: Sequence[Term],
    grad_output: Array,
    input: Array,
    offset: Term,
    kernel: Term,
    grads: Sequence[Term],
) -> None:
    """Write the gradients of <grad_grads, gradients> to (grad_output, input, offset, kernel)."""
    layer = _layer(geometry, input, offset, kernel)
    ybar = layer.layout.output(grad_output)
    t = _tangent(layer, grad_grads)
    if grads[0] is not None:
        grads[0][...] = layer.output_tangent(t)
    rules = (layer.second_input, layer.second_offset, layer.second_mask)
    for gradient, rule in zip(grads[1:], rules, strict=True):
        if gradient is not None:
            gradient[...] = rule(ybar, t)
