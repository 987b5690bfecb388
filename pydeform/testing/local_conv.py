"""Cases of convolution with a kernel per position, and their entries in the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import lcm
from typing import Any

import hypothesis.strategies as st
import numpy as np

from pydeform._ref.stencil import number
from pydeform._shapes import ConvGeometry
from pydeform.testing import bounds
from pydeform.testing.bounds import Expected, judged, long, sizes_and_counts
from pydeform.testing.cases import Array, Case, Results
from pydeform.testing.contract import Operation
from pydeform.testing.strategies import geometries
from pydeform.testing.values import SPOILED, Draw, deform_conv_moves, make_geometry

NONFINITE = (np.nan, np.inf, -np.inf)
ARGUMENTS = ("input", "kernel", "offset")


def local_conv_case(
    geometry: ConvGeometry,
    pad_end: tuple[int, ...],
    seed: int,
    kind: str = "random",
    *,
    upscale: tuple[int, ...] = (),
    offset: bool = True,
    sized: bool = True,
    tangents: tuple[str, ...] = ARGUMENTS,
    spoiled: str = "",
) -> Case:
    """Make a case of convolution with a kernel per position, in float64.

    Parameters
    ----------
    geometry : ConvGeometry
        As `make_geometry` makes it, without upscale; its groups are the kernel's.
    pad_end : tuple of int
        Padding after the last element of each axis.
    seed : int
        Of the generator that draws the values.
    kind : str
        One of `pydeform.testing.values.KINDS`.
    upscale : tuple of int
        Output positions per step; empty for 1.
    offset : bool
        Give one.
    sized : bool
        Give kernel_size; else the kernel must be as long along every axis.
    tangents : tuple of str
        Arguments to draw a tangent for, of those that are given.
    spoiled : str
        Array that gets NaN and infinities.

    Returns
    -------
    Case
        Its geometry is that of the same deformable convolution, with the groups that kernel and
        offset have in common.
    """
    g, up = geometry, upscale or (1,) * geometry.rank
    size = tuple(o * times for o, times in zip(g.out_size, up, strict=True))
    draw = Draw(kind, g.rank, seed)

    def shaped(channels: tuple[int, ...], spatial: tuple[int, ...]) -> tuple[int, ...]:
        return (g.batch, *spatial, *channels) if g.channels_last else (g.batch, *channels, *spatial)

    shapes = {
        "input": shaped((g.channels,), g.size),
        "kernel": shaped((g.groups, g.taps), size),
        "offset": shaped((g.offset_groups * g.taps * g.rank,), size),
    }
    given = ARGUMENTS if offset else ARGUMENTS[:2]
    rules = {"input": draw.plain, "kernel": draw.mask, "offset": draw.offset}
    tangent_rules = {**rules, "offset": draw.offset_tangent}
    arrays = {name: rules[name](shapes[name]) for name in given}
    drawn = {name: tangent_rules[name](shapes[name]) for name in given if name in tangents}
    grad_output = draw.plain(shaped((g.channels,), size))
    if spoiled:
        draw.spoil({**arrays, "grad_output": grad_output}[spoiled], NONFINITE)
    return Case(
        operation=f"local_conv{g.rank}d",
        geometry=g._replace(
            groups=g.channels,
            out_channels=g.channels,
            offset_groups=lcm(g.groups, g.offset_groups) if offset else g.groups,
            out_size=size,
            upscale=up,
        ),
        arrays={name: arrays.get(name) for name in ARGUMENTS},
        options={
            "stride": g.stride,
            "padding": tuple(zip(g.pad, pad_end, strict=True)),
            "dilation": g.dilation,
            "kernel_size": g.kernel if sized else None,
            "upscale": up,
            "mode": g.mode,
            "kink": g.kink,
            "layout": "channels_last" if g.channels_last else "channels_first",
        },
        grad_output=grad_output,
        tangents=drawn,
        moves=deform_conv_moves(g),
        wide=("kernel", "offset"),
    )


def _groups(case: Case, name: str) -> tuple[int, int]:
    """How many groups kernel or offset have, and the channels of one."""
    g, shape = case.geometry, np.shape(case.arrays[name])
    if name == "kernel":
        return shape[g.rank + 1 if g.channels_last else 1], g.taps
    share = g.taps * g.rank
    return shape[-1 if g.channels_last else 1] // share, share


def _repeated(case: Case, name: str, array: Array) -> Array:
    """Kernel or offset with the groups of the case's geometry, as mask and offset lie."""
    g = case.geometry
    groups, share = _groups(case, name)
    lead = (g.batch, *g.out_size) if g.channels_last else (g.batch,)
    rest = () if g.channels_last else g.out_size
    grouped = array.reshape(*lead, groups, share, *rest)
    common = np.repeat(grouped, g.offset_groups // groups, axis=len(lead))
    return common.reshape(*lead, g.offset_groups * share, *rest)


def as_deform_conv(case: Case) -> Case:
    """Return the deformable convolution of single channels by weight 1 that a case is."""
    g = case.geometry
    weight = np.full((g.channels, 1, *g.kernel), number(1, case.dtype), case.dtype)
    names = {"input": "input", "offset": "offset", "kernel": "mask"}

    def renamed(arrays: Any) -> dict[str, Any]:
        return {
            names[name]: array
            if array is None or name == "input"
            else _repeated(case, name, np.asarray(array))
            for name, array in arrays.items()
        }

    arrays = {"bias": None, "weight": weight, **renamed(case.arrays)}
    order = ("input", "offset", "weight", "bias", "mask")
    return replace(
        case,
        operation=f"deform_conv{g.rank}d",
        arrays={name: arrays[name] for name in order},
        tangents=renamed(case.tangents),
    )


def _folded(case: Case, name: str, array: Array) -> tuple[Array, int]:
    """A gradient of mask or offset summed to the groups of kernel or offset, and how many."""
    g = case.geometry
    groups, share = _groups(case, name)
    times = g.offset_groups // groups
    lead = (g.batch, *g.out_size) if g.channels_last else (g.batch,)
    rest = (share,) if g.channels_last else (share, *g.out_size)
    total = array.reshape(*lead, groups, times, *rest).sum(axis=len(lead) + 1)
    return np.asarray(total).reshape(case.arrays[name].shape), times


def _named(case: Case, results: dict[str, Any]) -> dict[str, tuple[Any, int]]:
    """The results of the deformable convolution under the names of this operation."""
    found: dict[str, tuple[Any, int]] = {}
    for name, result in results.items():
        start, _, argument = name.rpartition("_")
        if argument in ("weight", "bias"):
            continue
        if argument in ("mask", "offset") and start in ("grad", "second"):
            to = "kernel" if argument == "mask" else "offset"
            if case.arrays[to] is not None:
                found[f"{start}_{to}"] = _folded(case, to, result)
        else:
            found[name] = (result, 1)
    return found


def reference(case: Case) -> Results:
    """Evaluate a case by the specification of deformable convolution."""
    results = bounds.reference(as_deform_conv(case))
    with np.errstate(all="ignore"):  # infinities may meet in a sum
        return {name: value for name, (value, _) in _named(case, results).items()}


def expected(case: Case) -> dict[str, Expected]:
    """Return what every result should be, with the bound of the same deformable convolution."""
    sizes, counts = sizes_and_counts(as_deform_conv(case))
    parts = {
        name: (size, counts[name.replace("kernel", "mask")] + times - 1)
        for name, (size, times) in _named(case, sizes).items()
    }
    return judged(case, reference(case.map(long)), parts)


@st.composite
def local_conv_cases(draw: st.DrawFn, /, rank: int, kind: str) -> Case:
    """Draw a case of convolution with a kernel per position.

    Parameters
    ----------
    rank : {1, 2, 3}
        Number of spatial axes.
    kind : str
        Kind of values, one of ``pydeform.testing.values.KINDS``.

    Returns
    -------
    strategy for Case
        With and without offset, with kernel and offset groups that need not divide each other, and
        with upscale along one axis.
    """
    options: dict[str, Any] = {}
    if "interior" in kind and draw(st.booleans()):
        options["kinks"] = ("right", "mean")
    elif "interior" in kind:
        options["modes"] = ("zeros", "clip_zero")
    geometry, pad_end = draw(geometries(rank, **options))
    upscale = [1] * rank
    upscale[draw(st.integers(0, rank - 1))] = draw(st.integers(1, 3))
    offset = bool(draw(st.integers(0, 4))) or kind in SPOILED
    tangents = tuple(name for name in ARGUMENTS if kind in SPOILED or draw(st.integers(0, 4)))
    spoiled = ""
    if kind in SPOILED:
        of_factor = st.sampled_from(("kernel", "grad_output"))
        spoiled = {"nonfinite offset": "offset", "nonfinite input": "input"}.get(
            kind, draw(of_factor)
        )
    return local_conv_case(
        geometry if offset else geometry._replace(offset_groups=1),
        pad_end,
        draw(st.integers(0, 2**32 - 1)),
        kind,
        upscale=tuple(upscale),
        offset=offset,
        sized=len(set(geometry.kernel)) > 1 or draw(st.booleans()),
        tangents=tangents,
        spoiled=spoiled,
    )


def local_conv_examples(rank: int) -> dict[str, Callable[[str], Case]]:
    """Cases at the edges of what is allowed, from a kind, by name."""
    long_size = {1: (90,), 2: (13, 11), 3: (5, 6, 5)}[rank]
    one, two, three = (1,) * rank, (2,) * rank, (3,) * rank
    same = ((1, 1),) * rank
    options: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
        "size one": (one, {"size": one, "kernel": one}),
        "wide last": (
            one,
            {
                "size": long_size,
                "kernel": two,
                "channels": 40,
                "groups": 5,
                "offset_groups": 4,
                "channels_last": True,
                "kink": "mean",
            },
        ),
        "involution": (
            one,
            {"size": long_size, "kernel": three, "pad": same, "channels": 33, "groups": 3},
        ),
        "upscaled": (
            two,
            {"size": three, "kernel": two, "channels": 6, "groups": 3, "offset_groups": 2},
        ),
        "own kernel per channel": (
            (1,) * (rank - 1) + (3,),
            {
                "size": three,
                "kernel": two,
                "channels": 6,
                "groups": 6,
                "channels_last": True,
                "mode": "border",
                "kink": "open",
            },
        ),
    }

    def make(name: str, seed: int, kind: str) -> Case:
        upscale, chosen = options[name]
        made = make_geometry(**{"out_channels": chosen.get("channels", 1), **chosen})
        return local_conv_case(*made, seed, kind, upscale=upscale, offset=name != "involution")

    return {name: partial(make, name, seed) for seed, name in enumerate(options)}


LOCAL_CONV = tuple(
    Operation(
        name=f"local_conv{rank}d",
        cases=partial(local_conv_cases, rank),
        examples=local_conv_examples(rank),
        reference=reference,
        expected=expected,
        spoiled={
            "nonfinite offset": ("output", "grad_", "second_"),
            "nonfinite input": ("output of jvp", "grad_"),
            "nonfinite factor": ("output of jvp",),
        },
    )
    for rank in (1, 2, 3)
)
