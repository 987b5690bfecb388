"""Values for the arrays of a case, from a seed: chosen so that a check on them can be tight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from pydeform._shapes import ConvGeometry
from pydeform.ops import _checks
from pydeform.ops._checks import ARGUMENTS
from pydeform.testing.cases import Array, Case, Move
from pydeform.testing.differences import COORDINATE_STEP

#: The kinds of values that spoil one array with NaN and infinities, and which array that may be.
SPOILED = {
    "nonfinite offset": ("offset",),
    "nonfinite input": ("input",),
    "nonfinite factor": ("mask", "weight", "grad_output"),
}

#: The kinds of values that `deform_conv_case` draws.
KINDS = ("random", "dyadic", "kinks", "interior", "dyadic interior", *SPOILED)

#: Offsets of dyadic cases are multiples of 2**-FRACTION_BITS[rank].
FRACTION_BITS = {1: 3, 2: 2, 3: 1}


class Draw:
    """Arrays of one kind from one generator.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    rank : int
        Number of axes, which sets the fractions of dyadic coordinates.
    seed : int
        Of the generator.
    """

    def __init__(self, kind: str, rank: int, seed: int) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {KINDS}, got {kind!r}")
        self.kind = kind
        self.rank = rank
        self.random = np.random.default_rng(seed)
        self.exact = kind not in ("random", "interior")

    def plain(self, shape: tuple[int, ...]) -> Array:
        """Values of input, weight, bias, cotangents: small integers where sums are to be exact."""
        if self.exact:
            return self.random.integers(-2, 3, shape).astype(np.float64)
        return self.random.standard_normal(shape)

    def mask(self, shape: tuple[int, ...]) -> Array:
        """Raw modulation, of either sign."""
        return (
            np.asarray(self.random.integers(-1, 3, shape) / 2) if self.exact else self.plain(shape)
        )

    def offset(self, shape: tuple[int, ...]) -> Array:
        """Coordinates within a few pixels of the grid: inside, on the border and beyond it."""
        whole = self.random.integers(-2, 3, shape)
        if self.kind == "kinks":
            return whole.astype(np.float64)
        if self.kind == "interior":
            return np.asarray(whole + self.random.uniform(0.375, 0.625, shape))
        if self.kind == "dyadic interior":
            return np.asarray(whole + self.random.integers(3, 6, shape) / 8)
        if self.exact:
            steps = 2 ** FRACTION_BITS[self.rank]
            return np.asarray(whole + self.random.integers(0, steps, shape) / steps)
        offset = whole + self.random.random(shape)
        # Tiny ones too, of either sign, where offset - floor(offset) has to round.
        tiny = self.random.random(shape) < 0.1
        return np.where(tiny, offset * 10.0 ** self.random.uniform(-12, 0, shape), offset)

    def offset_tangent(self, shape: tuple[int, ...]) -> Array:
        """Directions of coordinates."""
        if self.exact:
            return self.random.integers(-1, 2, shape).astype(np.float64)
        return self.plain(shape)

    def spoil(self, array: Array, values: tuple[float, ...]) -> None:
        """Overwrite some entries with NaN or an infinity."""
        chosen = self.random.random(array.shape) < min(0.1, 3 / max(array.size, 1))
        array[chosen] = self.random.choice(values, int(chosen.sum()))


def deform_conv_case(
    geometry: ConvGeometry,
    pad_end: tuple[int, ...],
    seed: int,
    kind: str = "random",
    *,
    optional: Iterable[str] = ("offset", "bias", "mask"),
    per_sample: bool = False,
    tangents: Iterable[str] = ARGUMENTS,
    spoiled: str = "offset",
) -> Case:
    """Make a case of deformable convolution, in float64.

    Parameters
    ----------
    geometry : ConvGeometry
        Sizes and options. `offset_groups` must be 1 if there is neither offset nor mask.
    pad_end : tuple of int
        Padding after the last element of each axis, which `geometry` only implies.
    seed : int
        Of the generator that draws the values.
    kind : str
        One of `KINDS`.

        - "random": normal values, any coordinate.
        - "dyadic": small integers, halves for the mask, offsets in multiples of
          ``2**-FRACTION_BITS[rank]``: every intermediate of every derivative is exact in float32,
          in any order, as long as sums run over fewer than some 10^3 terms.
        - "kinks": the same with integer offsets.
        - "interior": random, with fractions of coordinates in [3/8, 5/8], where finite differences
          with a step of 1/4 stay in the open cell.
        - "dyadic interior": the same in eighths and with integers elsewhere, so that in float64
          they are exact.
        - "nonfinite offset", "nonfinite input", "nonfinite factor": dyadic, with NaN and
          infinities in one array, `spoiled`; a factor is the mask, the weight or grad_output.
    optional : iterable of {"offset", "bias", "mask"}
        The optional arguments to give; offset is optional in that None is a plain convolution.
    per_sample : bool
        Draw one kernel per sample.
    tangents : iterable of str
        Arguments to draw a tangent for, of those that are given.
    spoiled : str
        Array that gets NaN and infinities where `kind` is one of `SPOILED`.

    Returns
    -------
    Case
        In the layout that `geometry` names.

    Examples
    --------
    >>> from pydeform._shapes import ConvGeometry
    >>> geometry = ConvGeometry(
    ...     batch=1, channels=2, out_channels=2, groups=1, offset_groups=1, size=(5,),
    ...     out_size=(5,), kernel=(3,), stride=(1,), pad=(1,), dilation=(1,),
    ...     mode="zeros", kink="right", channels_last=False,
    ... )
    >>> case = deform_conv_case(geometry, (1,), seed=0)
    >>> case.arrays["offset"].shape
    (1, 3, 5)
    """
    g = geometry
    draw = Draw(kind, g.rank, seed)

    def shaped(channels: int, spatial: tuple[int, ...]) -> tuple[int, ...]:
        return (g.batch, *spatial, channels) if g.channels_last else (g.batch, channels, *spatial)

    kernel = (g.out_channels, g.channels // g.groups, *g.kernel)
    shapes = {
        "input": shaped(g.channels, g.size),
        "offset": shaped(g.offset_groups * g.taps * g.rank, g.out_size),
        "weight": (g.batch, *kernel) if per_sample else kernel,
        "bias": (g.out_channels,),
        "mask": shaped(g.offset_groups * g.taps, g.out_size),
    }
    rules = {"offset": draw.offset, "mask": draw.mask}
    tangent_rules = {"offset": draw.offset_tangent, "mask": draw.mask}
    given = [name for name in ARGUMENTS if name in ("input", "weight") or name in set(optional)]
    arrays = {name: rules.get(name, draw.plain)(shapes[name]) for name in given}
    drawn = {
        name: tangent_rules.get(name, draw.plain)(shapes[name])
        for name in given
        if name in set(tangents)
    }
    grad_output = draw.plain(shaped(g.out_channels, g.out_size))
    if kind in SPOILED:
        draw.spoil({**arrays, "grad_output": grad_output}[spoiled], (np.nan, np.inf, -np.inf))
    return Case(
        operation=f"deform_conv{g.rank}d",
        geometry=g,
        arrays={name: arrays.get(name) for name in ARGUMENTS},
        options={
            "stride": g.stride,
            "padding": tuple(zip(g.pad, pad_end, strict=True)),
            "dilation": g.dilation,
            "mode": g.mode,
            "kink": g.kink,
            "layout": "channels_last" if g.channels_last else "channels_first",
        },
        grad_output=grad_output,
        tangents=drawn,
        moves=deform_conv_moves(g),
        wide=("offset", "mask"),
    )


def deform_conv_moves(geometry: ConvGeometry) -> dict[str, Move]:
    """Return how an offset moves: within its cell, along one axis at a time."""
    rank = geometry.rank
    axis = np.arange(geometry.offset_groups * geometry.taps * rank) % rank
    if not geometry.channels_last:
        axis = axis.reshape(-1, *(1,) * rank)
    return {"offset": Move(COORDINATE_STEP, axis)}


def deform_conv_call(
    operation: str,
    arrays: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    *,
    grad_output: Array,
    tangents: Mapping[str, Array] | None = None,
) -> Case:
    """Make a case of a deformable convolution from the arguments of a call.

    Parameters
    ----------
    operation : {"deform_conv1d", "deform_conv2d", "deform_conv3d"}
        Public name.
    arrays : mapping of str to array
        Of input, offset, weight, bias, mask those that the call has.
    options : mapping, optional
        Its other keyword arguments.
    grad_output : array
        Cotangent of the output.
    tangents : mapping of str to array, optional
        Tangents of the arrays; those that are missing are zero.

    Returns
    -------
    Case
        Sharing the arrays.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.ones((1, 1, 4)), np.ones((1, 1, 3))
    >>> case = deform_conv_call(
    ...     "deform_conv1d", {"input": x, "weight": w}, grad_output=np.ones((1, 1, 2))
    ... )
    >>> case.geometry.out_size
    (2,)
    """
    rank = int(operation.removeprefix("deform_conv")[0])
    given = {name: array for name, array in arrays.items() if array is not None}
    defaults = {
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": None,
        "offset_groups": None,
        "mode": "zeros",
        "kink": "right",
        "layout": "channels_first",
    }
    options = dict(options or {})
    checked = _checks.Options(**{**defaults, **options})
    geometry = _checks.geometry_of(rank, given, checked)
    return Case(
        operation=operation,
        geometry=geometry,
        arrays={name: given.get(name) for name in ARGUMENTS},
        options=options,
        grad_output=grad_output,
        tangents=dict(tangents or {}),
        moves=deform_conv_moves(geometry),
        wide=("offset", "mask"),
    )


def make_geometry(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    *,
    batch: int = 1,
    channels: int = 1,
    out_channels: int = 1,
    groups: int = 1,
    offset_groups: int = 1,
    stride: tuple[int, ...] = (),
    pad: tuple[tuple[int, int], ...] = (),
    dilation: tuple[int, ...] = (),
    mode: str = "zeros",
    kink: str = "right",
    channels_last: bool = False,
) -> tuple[ConvGeometry, tuple[int, ...]]:
    """Make the geometry of a convolution, and its end padding, from what a call would say.

    Parameters
    ----------
    size, kernel : tuple of int
        Sizes of the input and of the kernel, one per axis.
    batch, channels, out_channels, groups, offset_groups : int
        Of the arrays.
    stride, dilation : tuple of int
        One per axis; empty for 1 along all.
    pad : tuple of (int, int)
        Begin and end, one pair per axis; empty for none.
    mode, kink : str
        Options of the operation.
    channels_last : bool
        Its layout.

    Returns
    -------
    ConvGeometry
        What backends get.
    tuple of int
        Padding after the last element of each axis.

    Raises
    ------
    ValueError
        If the kernel does not fit.

    Notes
    -----
    Computed on its own and not by the functions that the package's operations use for it, so that
    a case checks those too.

    Examples
    --------
    >>> geometry, pad_end = make_geometry((5, 4), (3, 3), pad=((1, 1), (0, 1)))
    >>> geometry.out_size, pad_end
    ((5, 3), (1, 1))
    """
    rank = len(size)
    stride, dilation = stride or (1,) * rank, dilation or (1,) * rank
    pad = pad or ((0, 0),) * rank
    out_size = tuple(
        (s + begin + end - (k - 1) * d - 1) // step + 1
        for s, k, (begin, end), d, step in zip(size, kernel, pad, dilation, stride, strict=True)
    )
    if prod(max(o, 0) for o in out_size) == 0:
        raise ValueError(f"size: the kernel {kernel} does not fit {size} padded by {pad}")
    geometry = ConvGeometry(
        batch=batch,
        channels=channels,
        out_channels=out_channels,
        groups=groups,
        offset_groups=offset_groups,
        size=size,
        out_size=out_size,
        kernel=kernel,
        stride=stride,
        pad=tuple(begin for begin, _ in pad),
        dilation=dilation,
        mode=mode,
        kink=kink,
        channels_last=channels_last,
    )
    return geometry, tuple(end for _, end in pad)
