"""Sampling and its adjoint on the GPU: the operators S_alpha by themselves, one tap a position."""

from __future__ import annotations

from collections.abc import Sequence

from pydeform._gpu._layout import Array, Layout, Maybe
from pydeform._gpu._workspace import in_workspace
from pydeform._gpu.local_conv import Layer
from pydeform._shapes import ConvGeometry


def _alpha(deriv: Sequence[int]) -> int:
    """Bits of the differentiated axes."""
    return sum(1 << axis for axis, order in enumerate(deriv) if order)


def _by_sample(geometry: ConvGeometry, offset: Maybe) -> Maybe:
    return None if offset is None else Layout(geometry, offset).coordinates(offset)


@in_workspace
def sample(
    geometry: ConvGeometry, deriv: Sequence[int], input: Array, offset: Maybe, out: Array
) -> None:
    """Write S_deriv(input) at every position, [N, C, *O]."""
    layer = Layer(geometry, input, _by_sample(geometry, offset), None, input)
    layer.weigh([(layer.x, [(_alpha(deriv), None)])], out)


@in_workspace
def splat(
    geometry: ConvGeometry, deriv: Sequence[int], values: Array, offset: Maybe, out: Array
) -> None:
    """Write the adjoint of S_deriv on values [N, C, *O], an image [N, C, *S]."""
    layer = Layer(geometry, None, _by_sample(geometry, offset), None, values)
    layer.splat(layer.columns(values), [(_alpha(deriv), None)], out)
