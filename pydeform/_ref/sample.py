"""Sampling and its adjoint: the operators S_alpha by themselves, at one tap per position."""

from __future__ import annotations

from typing import Any

import numpy as np

from pydeform._ref.deform_conv import quiet, working_dtype
from pydeform._ref.layout import Layout
from pydeform._ref.stencil import Alpha, Array, Sampling, Term, number
from pydeform._shapes import ConvGeometry


def _sampling(
    geometry: ConvGeometry, dtype: np.dtype[Any], offset: Term
) -> tuple[Layout, Sampling]:
    dtype = working_dtype(dtype)
    layout = Layout(geometry, dtype, per_sample=False)
    shape = (geometry.batch, geometry.offset_groups, 1, geometry.rank, layout.positions)
    zero = np.full(shape, number(0, dtype), dtype)
    return layout, Sampling(geometry, zero if offset is None else layout.coordinates(offset))


@quiet
def sample(geometry: ConvGeometry, deriv: Alpha, input: Array, offset: Term, out: Array) -> None:
    """Write S_deriv(input) at every position, [N, C, *O]."""
    layout, sampling = _sampling(geometry, input.dtype, offset)
    out[...] = layout.to_output(sampling.sample(layout.image(input), deriv))


@quiet
def splat(geometry: ConvGeometry, deriv: Alpha, values: Array, offset: Term, out: Array) -> None:
    """Write the adjoint of S_deriv on values [N, C, *O], an image [N, C, *S]."""
    layout, sampling = _sampling(geometry, values.dtype, offset)
    out[...] = layout.to_image(sampling.splat(layout.output(values), deriv))  # [N, C, 1, P]
