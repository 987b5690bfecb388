"""Convolution with a kernel per position on the GPU: sums over taps, channels in registers.

The kernel kappa takes the mask's place and every weight is 1, so that the columns A of
`pydeform._gpu.deform_conv` are ybar for all taps, and nothing is multiplied by a matrix. Offsets
are [N, P, Go, K, n], kernels [N, P, Go, K]: the device reads and writes them where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydeform._gpu._layout import Array, Layout, Maybe
from pydeform._gpu._sampling import Sampling, Term, modulated
from pydeform._gpu._second import Dots
from pydeform._gpu._workspace import in_workspace
from pydeform._shapes import ConvGeometry


class Layer:
    """One convolution on the device; offset and kernel are views by sample."""

    def __init__(
        self,
        geometry: ConvGeometry,
        input: Maybe,
        offset: Maybe,
        kernel: Maybe,
        like: Array,
        fields: Sequence[Maybe] = (),
    ) -> None:
        self.geometry = geometry
        self.layout = layout = Layout(geometry, like)
        self.xp = layout.xp
        # Of more than numbers (the gradients of offsets) any axis does.
        views = [f if f is None or f.ndim == 4 else f[..., 0] for f in (kernel, *fields)]
        self.sampling = Sampling(layout, offset, views)
        self.x = None if input is None else layout.image(input)
        self.kappa = kernel

    def columns(self, ybar: Array) -> Array:
        """ybar as columns that are the same for all taps, [1, N * P, K, C]; nothing is copied."""
        y = self.layout.output(ybar, self.geometry.channels, ybar.dtype)
        rows, channels = y.shape
        shape = (1, rows, self.geometry.taps, channels)
        return self.xp.broadcast_to(y[None, :, None], shape)

    def weigh(self, images: Sequence[tuple[Array, list[Term]]], out: Array) -> None:
        """Write the sum over images, taps and terms of factor * S_alpha(image) to `out`."""
        layout, channels = self.layout, self.geometry.channels
        # What is added up is rounded to storage once, at the end.
        dtype = out.dtype if len(images) == 1 else layout.dtype
        direct = self.geometry.channels_last and dtype == out.dtype
        rows = (
            out.reshape(-1, channels)
            if direct
            else layout.empty(layout.rows, channels, dtype=dtype)
        )
        for number, (image, terms) in enumerate(images):
            self.sampling.weigh(image, terms, rows, add=number > 0)
        if not images:
            out[...] = 0
        elif not direct:
            layout.store(rows, out, 0)

    def splat(self, columns: Array, terms: list[Term], out: Array) -> None:
        """Write the sum over terms of S_alpha^T(factor * columns) in the input's layout."""
        layout, g = self.layout, self.geometry
        shape = (g.batch, layout.pixels, g.channels)
        images = out.reshape(shape) if g.channels_last else layout.empty(*shape, dtype=out.dtype)
        self.sampling.splat(columns, terms, images, 0, add=False)
        if not g.channels_last:
            layout.store(images.reshape(-1, g.channels), out, 0)


class Tangent:
    """A direction as the kernels take it."""

    def __init__(self, layer: Layer, u: Maybe, v: Maybe, mu: Maybe) -> None:
        self.u = None if u is None else layer.layout.image(u)
        self.mu = mu
        self.terms, self.v = modulated(layer.layout, layer.kappa, mu, v)

    def images(self, layer: Layer) -> list[tuple[Array, list[Term]]]:
        """What the derivative of the output is a weighted sum of."""
        found = [(layer.x, self.terms)] if self.terms else []
        return found + ([] if self.u is None else [(self.u, [(0, layer.kappa)])])


@in_workspace
def local_conv(
    geometry: ConvGeometry, input: Array, offset: Maybe, kernel: Maybe, out: Array
) -> None:
    """Write the output; a kernel that is None is 1 everywhere."""
    layer = Layer(geometry, input, offset, kernel, input)
    layer.weigh([(layer.x, [(0, kernel)])], out)


@in_workspace
def local_conv_backward(
    geometry: ConvGeometry,
    grad_output: Array,
    input: Array,
    offset: Maybe,
    kernel: Maybe,
    grads: Sequence[Maybe],
) -> None:
    """Write the gradients to (input, offset, kernel) to the arrays that are not None in `grads`."""
    to_x, to_p, to_k = grads
    layer = Layer(geometry, input, offset, kernel, input, (to_p, to_k))
    columns = layer.columns(grad_output)
    outputs = []
    if to_p is not None:
        outputs += [(1 << d, to_p[..., d], True) for d in range(geometry.rank)]
    if to_k is not None:
        outputs.append((0, to_k, False))
    if outputs:
        layer.sampling.dots(columns, layer.x, outputs, 0, kernel)
    if to_x is not None:
        layer.splat(columns, [(0, kernel)], to_x)


@in_workspace
def local_conv_jvp(
    geometry: ConvGeometry,
    input: Array,
    offset: Maybe,
    kernel: Maybe,
    tangents: Sequence[Maybe],
    output: Maybe,
    output_tangent: Array,
) -> None:
    """Write the output and its derivative in the direction of (input, offset, kernel) tangents."""
    layer = Layer(geometry, input, offset, kernel, input, tangents[1:])
    if output is not None:
        layer.weigh([(layer.x, [(0, kernel)])], output)
    layer.weigh(Tangent(layer, *tangents).images(layer), output_tangent)


@in_workspace
def local_conv_double_backward(
    geometry: ConvGeometry,
    grad_grads: Sequence[Maybe],
    grad_output: Array,
    input: Array,
    offset: Maybe,
    kernel: Maybe,
    grads: Sequence[Maybe],
) -> None:
    """Write the gradients of <grad_grads, gradients> to (grad_output, input, offset, kernel)."""
    to_ybar, to_x, to_p, to_k = grads
    layer = Layer(geometry, input, offset, kernel, input, (*grad_grads[1:], to_p, to_k))
    t = Tangent(layer, *grad_grads)
    if to_ybar is not None:
        layer.weigh(t.images(layer), to_ybar)
    columns = layer.columns(grad_output)
    if to_x is not None:
        layer.splat(columns, t.terms, to_x)
    dots = Dots(layer.sampling, kernel, t.mu, t.v, to_p is not None, to_k is not None)
    dots.take("Ax", columns, layer.x, 0)
    if t.u is not None:
        dots.take("Au", columns, t.u, 0)
    dots.write(to_p, to_k)
