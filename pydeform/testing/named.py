"""Cases of the operations with layouts of their own, for the contract.

Positions are drawn in pixels and turned into the arguments that lead there, with factors that are
powers of two where results are to be exact.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import hypothesis.strategies as st
import numpy as np

from pydeform.testing.cases import Array, Case, Move
from pydeform.testing.contract import Operation
from pydeform.testing.differences import COORDINATE_STEP
from pydeform.testing.values import Draw

_KINKS = ("right", "open", "mean")


def _pixels(draw: Draw, shape: tuple[int, ...]) -> Array:
    """Coordinates near whole ones, by kind; random ones stay away from kinks."""
    if draw.kind != "random":
        return draw.offset(shape)
    whole = draw.random.integers(-2, 3, shape)
    return np.asarray(whole + draw.random.uniform(1 / 64, 63 / 64, shape))


def _tangents(draw: Draw, arrays: dict[str, Array], moving: tuple[str, ...]) -> dict[str, Array]:
    return {
        name: (draw.offset_tangent if name in moving else draw.plain)(array.shape)
        for name, array in arrays.items()
    }


# Versions 3 and 4 of deformable convolution.


def _lattice(o: dict[str, Any]) -> Array:
    """Where taps are for offsets of 0, from q*stride - pad on: [K, 2] as (x, y)."""
    kw, kh = o["kernel_w"], o["kernel_h"]
    taps = [(i, j) for i in range(kw) for j in range(kh)]
    if o["remove_center"]:
        taps.remove((kw // 2, kh // 2))
    step = np.array((o["dilation_w"], o["dilation_h"]))
    centre = step * (np.array((kw, kh)) - 1) // 2
    return np.asarray(centre + (np.array(taps) * step - centre) * o["offset_scale"])


def _dcn_case(
    packed: bool, size: tuple[int, int], batch: int, options: dict[str, Any], kind: str, seed: int
) -> Case:
    """Make a case of `dcnv4` (packed) or `dcnv3`."""
    draw = Draw(kind, 2, seed)
    o = options
    out = tuple(
        (s + 2 * o[f"pad_{a}"] - o[f"dilation_{a}"] * (o[f"kernel_{a}"] - 1) - 1)
        // o[f"stride_{a}"]
        + 1
        for s, a in zip(size, "hw", strict=True)
    )
    start, groups = _lattice(o), o["group"]
    taps = len(start)
    # Fractions of positions are those that are drawn, whatever the lattice is.
    shifts = _pixels(draw, (batch, *out, groups, taps, 2)) - (start - np.floor(start))
    offset, mask = shifts / o["offset_scale"], draw.mask((batch, *out, groups, taps))
    space = (batch, *out)
    channels = groups * o["group_channels"]
    arrays = {"input": draw.plain((batch, *size, channels))}
    step = COORDINATE_STEP / o["offset_scale"]
    if packed:
        used = np.concatenate((offset.reshape(*space, groups, 2 * taps), mask), -1)
        whole = np.zeros((*space, -(-groups * taps * 3 // 8) * 8))
        whole[..., : groups * taps * 3] = used.reshape(*space, groups * taps * 3)
        arrays["offset_mask"] = whole
        part = np.full(whole.shape[-1], 2)
        labels = np.tile(np.concatenate((np.arange(2 * taps) % 2, np.full(taps, 2))), groups)
        part[: len(labels)] = labels
        moves = {"offset_mask": Move(np.where(part < 2, step, 1.0), part)}
    else:
        arrays["offset"] = offset.reshape(*space, groups * taps * 2)
        arrays["mask"] = mask.reshape(*space, groups * taps)
        moves = {"offset": Move(step, np.arange(groups * taps * 2) % 2)}
    return Case(
        operation="dcnv4" if packed else "dcnv3",
        arrays=arrays,
        options=o,
        grad_output=draw.plain((*space, channels)),
        tangents=_tangents(draw, arrays, ("offset", "offset_mask")),
        moves=moves,
        wide=("offset_mask",) if packed else ("offset", "mask"),
    )


@st.composite
def _dcn_cases(draw: st.DrawFn, packed: bool, kind: str) -> Case:
    options: dict[str, Any] = {}
    size = []
    for a in "hw":
        kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        pad = draw(st.integers(0, 2))
        smallest = max(1, (kernel - 1) * dilation + 1 - 2 * pad)
        size.append(draw(st.integers(smallest, max(smallest, 3))))
        options |= {f"kernel_{a}": kernel, f"dilation_{a}": dilation, f"pad_{a}": pad}
        options[f"stride_{a}"] = draw(st.integers(1, 2))
    shape = options["kernel_h"], options["kernel_w"]
    odd = shape[0] % 2 == shape[1] % 2 == 1 and shape != (1, 1)
    options |= {
        "group": draw(st.integers(1, 2)),
        "group_channels": draw(st.integers(1, 2)),
        "offset_scale": draw(st.sampled_from((1.0, 2.0, 0.5))),
        "remove_center": odd and draw(st.booleans()),
        "kink": draw(st.sampled_from(_KINKS)),
    }
    batch = draw(st.sampled_from((1, 2, 0)))
    seed = draw(st.integers(0, 2**32 - 1))
    return _dcn_case(packed, (size[0], size[1]), batch, options, kind, seed)


def _dcn_examples(packed: bool) -> dict[str, Callable[[str], Case]]:
    plain = {
        "kernel_h": 3, "kernel_w": 3, "stride_h": 1, "stride_w": 1, "pad_h": 1, "pad_w": 1,
        "dilation_h": 1, "dilation_w": 1, "group": 1, "group_channels": 1, "offset_scale": 1.0,
        "remove_center": False, "kink": "right",
    }  # fmt: skip
    one = {"kernel_h": 1, "kernel_w": 1, "pad_h": 0, "pad_w": 0}
    chosen: dict[str, tuple[tuple[int, int], int, dict[str, Any]]] = {
        "empty batch": ((3, 3), 0, {"group": 2}),
        "size one": ((1, 1), 1, one),
        "wide": ((2, 3), 1, {"group_channels": 17, "remove_center": True}),
        "many groups": ((3, 3), 2, {"group": 9, "pad_h": 2, "pad_w": 0, "stride_h": 2}),
        "many positions": ((13, 17), 1, {**one, "group_channels": 2}),
    }

    def make(name: str, seed: int, kind: str) -> Case:
        size, batch, options = chosen[name]
        return _dcn_case(packed, size, batch, plain | options, kind, seed)

    return {name: partial(make, name, seed) for seed, name in enumerate(chosen)}


# Multi-scale deformable attention.


def _attention_case(
    levels: list[tuple[int, int]],
    batch: int,
    queries: int,
    heads: int,
    channels: int,
    points: int,
    kink: str,
    kind: str,
    seed: int,
) -> Case:
    draw = Draw(kind, 2, seed)
    lengths = [h * w for h, w in levels]
    shape = (batch, queries, heads, len(levels), points)
    size = np.array(levels)[:, None, ::-1]  # [L, 1, (x, y)]
    whole = draw.random.integers(-1, size + 1, (*shape, 2))
    locations = (whole + _pixels(draw, (*shape, 2)) + 0.5) / size
    arrays = {
        "value": draw.plain((batch, sum(lengths), heads, channels)),
        "sampling_locations": locations,
        "attention_weights": draw.mask(shape),
    }
    return Case(
        operation="ms_deform_attn",
        arrays=arrays,
        options={
            "spatial_shapes": levels,
            "level_start_index": [0, *np.cumsum(lengths)[:-1].tolist()],
            "kink": kink,
        },
        grad_output=draw.plain((batch, queries, heads * channels)),
        tangents=_tangents(draw, arrays, ("sampling_locations",)),
        moves={"sampling_locations": Move(COORDINATE_STEP / size, np.arange(2))},
        wide=("sampling_locations", "attention_weights"),
    )


@st.composite
def _attention_cases(draw: st.DrawFn, kind: str) -> Case:
    # Powers of two, where locations are exact.
    sizes = st.sampled_from((1, 2, 4, 3, 5) if kind == "random" else (1, 2, 4))
    return _attention_case(
        draw(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=3)),
        draw(st.sampled_from((1, 2, 0))),
        draw(st.integers(0, 4)),
        draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
        draw(st.sampled_from(_KINKS)),
        kind,
        draw(st.integers(0, 2**32 - 1)),
    )


def _attention_examples() -> dict[str, Callable[[str], Case]]:
    levels = [(8, 4), (2, 4), (1, 1)]
    chosen: dict[str, tuple[list[tuple[int, int]], int, int, int, int, int, str]] = {
        "empty batch": (levels, 0, 3, 2, 1, 2, "right"),
        "no queries": (levels, 2, 0, 2, 1, 2, "right"),
        "size one": ([(1, 1)], 1, 1, 1, 1, 1, "mean"),
        "wide": (levels, 1, 3, 2, 33, 2, "open"),
        "many queries": (levels, 1, 150, 1, 2, 1, "mean"),
    }

    def make(name: str, seed: int, kind: str) -> Case:
        return _attention_case(*chosen[name], kind, seed)

    return {name: partial(make, name, seed) for seed, name in enumerate(chosen)}


# Pooling of regions.


def _roi_case(
    size: tuple[int, int],
    batch: int,
    channels: int,
    bins: tuple[int, int],
    grids: list[tuple[int, int]],
    options: dict[str, Any],
    given: set[str],
    kind: str,
    seed: int,
) -> Case:
    """Make a case of `deform_roi_pool`, or of `roi_align` without options for offsets.

    A region for each of `grids`, samples per bin along (y, x), powers of two and one pixel apart.
    """
    draw = Draw(kind, 2, seed)
    many, space = len(grids), (len(grids), *bins)
    extent = np.array(grids).reshape(-1, 2) * bins
    # The first sample is half a pixel beyond the start, which half a pixel was taken off.
    start = draw.random.integers(-2, np.array(size), (many, 2))
    index = draw.random.integers(0, max(batch, 1), many)
    rois = np.column_stack((index, start[:, ::-1], (start + extent)[:, ::-1])).astype(float)
    rois[:, 1:] /= options["spatial_scale"]
    arrays = {"input": draw.plain((batch, channels, *size))}
    moves = {}
    if "offset" in given:
        reach = options["gamma"] * extent[:, ::-1, None, None]  # of an offset of 1, (x, y)
        arrays["offset"] = _pixels(draw, (many, 2, *bins)) / reach
        moves["offset"] = Move(COORDINATE_STEP / reach, np.arange(2)[:, None, None])
    if "mask" in given:
        arrays["mask"] = draw.mask((many, 1, *bins))
    return Case(
        operation="deform_roi_pool" if "gamma" in options else "roi_align",
        arrays={"offset": None, **arrays} if "gamma" in options else arrays,
        options={"rois": rois, "output_size": bins, **options},
        grad_output=draw.plain((many, channels, *space[1:])),
        tangents=_tangents(draw, arrays, ("offset",)),
        moves=moves,
        wide=("offset", "mask"),
    )


@st.composite
def _roi_cases(draw: st.DrawFn, deformable: bool, kind: str) -> Case:
    powers, few = st.sampled_from((1, 2, 4)), st.sampled_from((1, 2))
    batch = draw(st.integers(1, 2))
    alike = draw(st.booleans())  # then the number of samples is an option
    many = draw(st.integers(0, 3))
    if alike:
        ratio = draw(few)
        grids = [(ratio, ratio)] * many
    else:
        ratio = 0
        grids = draw(st.lists(st.tuples(few, few), min_size=many, max_size=many))
    options: dict[str, Any] = {
        "spatial_scale": draw(st.sampled_from((1.0, 0.5))),
        "sampling_ratio": ratio,
    }
    given: set[str] = set()
    if deformable:
        options |= {"gamma": 2.0 ** -draw(st.integers(0, 3)), "kink": draw(st.sampled_from(_KINKS))}
        given = {name for name in ("offset", "mask") if draw(st.integers(0, 3))}
    sizes = st.integers(1, 5)
    return _roi_case(
        (draw(sizes), draw(sizes)),
        batch,
        draw(st.integers(1, 2)),
        (draw(powers), draw(few)),
        grids,
        options,
        given,
        kind,
        draw(st.integers(0, 2**32 - 1)),
    )


def _roi_examples(deformable: bool) -> dict[str, Callable[[str], Case]]:
    both = {"offset", "mask"} if deformable else set()
    options: dict[str, Any] = {"spatial_scale": 0.5, "sampling_ratio": 0}
    if deformable:
        options |= {"gamma": 0.25, "kink": "mean"}
    chosen: dict[str, tuple[Any, ...]] = {
        "no regions": ((4, 5), 2, 2, (2, 2), []),
        "no images": ((4, 5), 0, 2, (2, 2), []),
        "size one": ((1, 1), 1, 1, (1, 1), [(1, 1)]),
        "wide": ((5, 6), 1, 33, (2, 1), [(1, 2)]),
        "many regions": ((6, 7), 2, 1, (1, 2), [(1, 1), (2, 1), (4, 4), (1, 2)] * 5),
    }

    def make(name: str, seed: int, kind: str) -> Case:
        size, batch, channels, bins, grids = chosen[name]
        return _roi_case(size, batch, channels, bins, grids, options, both, kind, seed)

    return {name: partial(make, name, seed) for seed, name in enumerate(chosen)}


#: `dcnv3`, `dcnv4`, `ms_deform_attn`, `deform_roi_pool` and `roi_align`.
NAMED = (
    Operation("dcnv3", partial(_dcn_cases, False), _dcn_examples(False)),
    Operation("dcnv4", partial(_dcn_cases, True), _dcn_examples(True)),
    Operation("ms_deform_attn", _attention_cases, _attention_examples()),
    Operation("deform_roi_pool", partial(_roi_cases, True), _roi_examples(True)),
    Operation("roi_align", partial(_roi_cases, False), _roi_examples(False)),
)
