# ruff: noqa: D103  (the name of a test says what it shows)
"""Floors and predictions of `benchmarks.gpu`: against numbers by hand, and against real arrays."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cases import case
from benchmarks.gpu import cases, contestants, floors, predictions
from benchmarks.gpu.cases import DIRECTIONS, ITEMSIZE, SHAPES, Timed, plan, tiny
from benchmarks.gpu.device import Emulated
from benchmarks.gpu.floors import H100, Pass
from pydeform._gpu import _declared, _host, _layout, _sampling, _workspace

EVERYTHING = plan(SHAPES, ITEMSIZE, small=False)
ids = [one.words for one in EVERYTHING]


def microseconds(name: str, direction: str = "forward", dtype: str = "float16") -> float:
    return floors.floor(Timed(SHAPES[name], dtype, direction)) * 1e6


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [("R256", 37, 74), ("F256", 45, 90), ("R512", 74, 148), ("dcnv4-64", 158, 274)],
)
def test_floors_in_16_bits_on_the_assumed_device(name: str, forward: int, backward: int) -> None:
    assert microseconds(name) == pytest.approx(forward, abs=0.5)
    assert microseconds(name, "backward") == pytest.approx(backward, abs=0.5)


@pytest.mark.parametrize(("name", "expected"), [("R256", 86.5), ("F256", 104.7), ("R512", 117)])
def test_floors_of_columns_and_a_product(name: str, expected: float) -> None:
    found = floors.column_floor(Timed(SHAPES[name], "float16", "forward"))
    assert found * 1e6 == pytest.approx(expected, abs=0.5)


def test_a_product_in_float32_has_its_own_ceiling() -> None:
    flops = 2 * 8 * 56 * 56 * (9 * 256) * 256
    assert microseconds("R256", dtype="float32") == pytest.approx(flops / H100.single * 1e6)
    timed = Timed(SHAPES["R256"], "float32", "forward")
    assert floors.floor(timed, tf32=True) == pytest.approx(flops / H100.tf32)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", ITEMSIZE)
def test_sizes_are_those_of_the_arrays(name: str, dtype: str) -> None:
    timed = Timed(tiny(SHAPES[name]), dtype, "forward")
    arrays = timed.arrays()
    sizes = floors.sizes(timed)
    assert sizes.pop("output") == arrays.pop("grad_output").nbytes
    assert sizes == {key: array.nbytes for key, array in arrays.items()}


@pytest.mark.parametrize("timed", EVERYTHING, ids=ids)
def test_no_prediction_is_below_the_floor(timed: Timed) -> None:
    found = predictions.predictions(timed)
    assert found
    for passes in found.values():
        assert predictions.seconds(passes) > floors.floor(timed)
        assert predictions.host_seconds(passes) >= H100.host * len(passes)


@pytest.mark.parametrize("buffers", [1, 2])
@pytest.mark.parametrize("name", [c.name for c in cases.CONVOLUTIONS])
def test_chunks_are_those_of_the_backend(name: str, buffers: int) -> None:
    timed = Timed(SHAPES[name], "float32", "forward")
    shape = timed.shape
    geometry = Geometry(shape)
    layout = _layout.Layout(geometry, np.empty(0, np.float32))  # type: ignore[arg-type]
    sampling = _sampling.Sampling.__new__(_sampling.Sampling)
    sampling.layout, sampling.geometry = layout, geometry  # type: ignore[assignment]
    assert _workspace.at_a_time() == floors.WORKSPACE
    assert floors.chunks(timed, buffers) == len(list(sampling.chunks(buffers)))


class Geometry:
    """As much of a `ConvGeometry` as chunks depend on."""

    def __init__(self, shape: Any) -> None:
        self.batch, self.channels, self.taps = shape.batch, shape.channels, shape.taps
        self.size, self.out_size = shape.size, shape.out_size


def test_a_large_image_is_taken_in_parts() -> None:
    timed = Timed(case("large", (2, 64, 512, 512), 64, 3), "float32", "forward")
    fitting = floors.WORKSPACE // (64 * 9 * 4)
    assert floors.chunks(timed, 1) == 2 * -(-(512 * 512) // fitting)


def test_a_pass_takes_its_slowest_part_and_its_launches() -> None:
    ceilings = replace(H100, copy=1e12, half=1e14, gather=1e13, launch=1e-6)
    one = Pass("one", moved=5e6, flops=1e8, rate="half", gathered=2e7, launches=2)
    assert one.seconds(ceilings) == pytest.approx(5e-6 + 2e-6)
    assert replace(one, flops=1e9).seconds(ceilings) == pytest.approx(1e-5 + 2e-6)
    assert replace(one, cached=2e8).seconds(replace(ceilings, cache=1e13)) == pytest.approx(2.2e-5)
    assert replace(one, gathered=2e8).seconds(ceilings) == pytest.approx(2e-5 + 2e-6)


def test_the_fused_kernel_goes_in_rounds() -> None:
    timed = Timed(SHAPES["R256"], "float16", "forward")
    # Of 196 tiles 132 fill the multiprocessors; 64 go as 128 halves. 72 slabs in each.
    (*_, whole, half) = predictions.fused(timed)
    assert "128" in whole.name
    assert "64" in half.name
    assert whole.gathered == 132 * 72 * 1264 * 128
    assert half.gathered == 132 * 72 * 696 * 128
    work = floors.product(timed) * 132 / 196
    assert whole.flops == pytest.approx(work)
    assert half.flops == pytest.approx(work / 2)
    assert whole.cached + half.cached == (132 + 128) * 256 * 256 * 9 * 2


@pytest.mark.parametrize(
    ("channels", "groups", "offset_groups", "dtype", "fused"),
    [
        (64, 1, 2, "float16", True),
        (64, 2, 1, "float16", True),
        (64, 1, 4, "float16", False),
        (64, 4, 1, "float16", False),
        (48, 1, 1, "float16", False),
        (64, 1, 1, "float32", False),
    ],
)
def test_the_fused_kernel_is_predicted_where_it_is_taken(
    channels: int,
    groups: int,
    offset_groups: int,
    dtype: str,
    fused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = case(
        "one", (1, channels, 4, 5), 16 * groups, 3, groups=groups, offset_groups=offset_groups
    )
    timed = Timed(shape, dtype, "forward")
    assert ("fused" in predictions.predictions(timed)) == fused
    assert (launched(timed, monkeypatch, runs=False)["fused"] > 0) == fused


CALLS = {
    "R256 forward, float16, fused": ("R256", "float16", "forward", "fused"),
    "R256 forward, float16, by columns": ("R256", "float16", "forward", "columns"),
    "R256 forward, float32": ("R256", "float32", "forward", "columns"),
    "R256 backward, float16": ("R256", "float16", "backward", "columns"),
    "R256 backward, float16, atomics": ("R256", "float16", "backward", "columns, atomics"),
    "R256 backward, float32": ("R256", "float32", "backward", "columns"),
    "F256 forward, float16, fused": ("F256", "float16", "forward", "fused"),
    "R512 forward, float16, fused": ("R512", "float16", "forward", "fused"),
    "DCNv4 64x320x56x56 forward, float16": ("dcnv4-64", "float16", "forward", "local"),
    "DCNv4 64x320x56x56 forward, float32": ("dcnv4-64", "float32", "forward", "local"),
    "DCNv4 64x320x56x56 backward, float16": ("dcnv4-64", "float16", "backward", "local"),
    "attention, 17,821 queries, forward, float32": ("attention", "float32", "forward", "local"),
}


PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "gpu-kernels.md"


def test_the_documentation_has_every_kernel() -> None:
    _, _, text = PAGE.read_text(encoding="utf-8").partition("| kernel | what it does |")
    table, _, _ = text.partition("\n\n")
    named = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.+?) \|", table, re.MULTILINE))))
    assert named == {name for source in _declared.sources() for name in _declared.kernels(source)}


def test_the_documentation_has_the_clocks_of_a_slab() -> None:
    (row,) = re.findall(
        r"^\| sum, .+ \| ([\d,]+) \| (\d+) \|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    clocks = [int(number.replace(",", "")) for number in row]
    assert clocks == [predictions.slab_bytes(rows, 256) / 128 for rows in (128, 64)]


def test_the_documentation_has_the_numbers_of_the_functions() -> None:
    rows = re.findall(
        r"^\| (.+?) \| ([\d,]+) us \| ([\d,]+) us \| [\d.]+ \| (\d+) \| ([\d,]+) us \|$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert {row[0] for row in rows} == set(CALLS)
    for name, *numbers in rows:
        shape, dtype, direction, way = CALLS[name]
        timed = Timed(SHAPES[shape], dtype, direction)
        passes = predictions.predictions(timed)[way]
        launches = sum(one.launches for one in passes)
        seconds = floors.floor(timed), predictions.seconds(passes)
        starting = predictions.host_seconds(passes)
        found = [round(1e6 * t) for t in seconds], launches, round(1e6 * starting)
        floor, predicted, started, host = (int(n.replace(",", "")) for n in numbers)
        assert ([floor, predicted], started, host) == found, name


#: Kernels of ours behind the passes of a prediction; cuBLAS and CuPy start the others.
KERNELS = {
    "turn input to channels last": "turn",
    "pack weight": "pack_weights",
    "fused, blocks of 128 rows": "fused",
    "fused, blocks of 64 rows": "fused",
    "blend": "blend",
    "turn output, add bias": "turn",
    "turn input and cotangent": "turn",
    "dots": "dots",
    "keys": "keys",
    "place": "place",
    "settle": "settle",
    "gather": "gather",
    "turn gradient of input": "turn",
    "weigh": "weigh",
}


def launched(timed: Timed, monkeypatch: pytest.MonkeyPatch, runs: bool = True) -> Counter[str]:
    """Count the kernels of a call by name; without `runs` they only pretend to."""
    made: Counter[str] = Counter()
    inner = _host.launch

    def counting(source: str, kernel: Any, *rest: Any) -> None:
        made[kernel.name] += 1
        if runs:
            inner(source, kernel, *rest)

    monkeypatch.setattr(_host, "launch", counting)
    (entry, *_) = contestants.ours(Emulated(), timed, timed.arrays())
    with entry.context():
        entry.call()
    return made


def expected(passes: list[Pass]) -> Counter[str]:
    """Count the kernels that are predicted."""
    found: Counter[str] = Counter()
    for one in passes:
        if one.name in KERNELS:
            found[KERNELS[one.name]] += one.launches
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["R256", "E", "dcnv3", "dcnv4", "attention"])
def test_predicted_launches_are_those_that_are_made(
    name: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = Timed(tiny(SHAPES[name]), "float32", direction)
    made = launched(timed, monkeypatch)
    (passes, *_) = predictions.predictions(timed).values()
    assert {k: v for k, v in made.items() if k in KERNELS.values()} == expected(passes)


def test_predicted_launches_of_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three tiles on two multiprocessors: one round of whole blocks, one of halves.
    timed = Timed(case("one", (1, 32, 12, 26), 256, 3), "float16", "forward")
    made = launched(timed, monkeypatch, runs=False)
    passes = predictions.fused(timed, replace(H100, multiprocessors=2))
    assert made == expected(passes) == {"turn": 1, "pack_weights": 1, "fused": 2}


def test_products_are_predicted_in_their_own_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 bits their operands, of float32 what they write, as `floors.rate` says."""
    seen: list[tuple[int, int]] = []
    module = import_module("pydeform._gpu.deform_conv")  # the package has the function's name
    inner = module.product

    def watching(a: Any, b: Any, out: Any, **turned: bool) -> None:
        seen.append((a.itemsize, out.itemsize))
        inner(a, b, out, **turned)

    monkeypatch.setattr(module, "product", watching)
    shape = tiny(SHAPES["R256"])
    for direction, products in (("forward", 1), ("backward", 3)):
        for dtype, item in ITEMSIZE.items():
            seen.clear()
            timed = Timed(shape, dtype, direction)
            launched(timed, monkeypatch)
            assert seen == [(item, 4)] * products
            (passes, *_) = predictions.predictions(timed).values()
            rates = {one.rate for one in passes if one.flops}
            assert rates == {floors.rate(timed)}
