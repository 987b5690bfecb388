# ruff: noqa: D103  (the name of a test says what it shows)
"""Floors and predictions of `benchmarks.gpu`: against numbers by hand, and against real arrays."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cases import case
from benchmarks.gpu import cases, contestants, floors, predictions
from benchmarks.gpu.cases import DIRECTIONS, ITEMSIZE, SHAPES, Timed, plan, tiny
from benchmarks.gpu.device import Emulated
from benchmarks.gpu.floors import H100, Pass
from pydeform._gpu import _host, _layout, _sampling, _workspace

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


def test_the_fused_product_waits_for_its_last_wave() -> None:
    timed = Timed(SHAPES["R256"], "float16", "forward")  # 196 blocks, 2 waves of 132
    (*_, work) = predictions.fused(timed)
    assert work.flops == pytest.approx(floors.product(timed) * 264 / 196)
    assert work.cached == 196 * 256 * 256 * 9 * 2


CALLS = {
    "R256 forward, float16, fused": ("R256", "float16", "forward", "fused"),
    "R256 forward, float16, by columns": ("R256", "float16", "forward", "columns"),
    "R256 forward, float32": ("R256", "float32", "forward", "columns"),
    "R256 backward, float16": ("R256", "float16", "backward", "columns"),
    "R256 backward, float16, atomics": ("R256", "float16", "backward", "columns, atomics"),
    "R256 backward, float32": ("R256", "float32", "backward", "columns"),
    "DCNv4 64x320x56x56 forward, float16": ("dcnv4-64", "float16", "forward", "local"),
    "DCNv4 64x320x56x56 forward, float32": ("dcnv4-64", "float32", "forward", "local"),
    "DCNv4 64x320x56x56 backward, float16": ("dcnv4-64", "float16", "backward", "local"),
    "attention, 17,821 queries, forward, float32": ("attention", "float32", "forward", "local"),
}


def test_the_documentation_has_the_numbers_of_the_functions() -> None:
    page = Path(__file__).parents[2] / "docs" / "explanation" / "gpu-kernels.md"
    rows = re.findall(
        r"^\| (.+?) \| ([\d,]+) us \| ([\d,]+) us \| [\d.]+ \| (\d+) \| ([\d,]+) us \|$",
        page.read_text(encoding="utf-8"),
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
    "blend": "blend",
    "turn output, add bias": "turn",
    "turn input and cotangent": "turn",
    "dots": "dots",
    "keys": "keys",
    "gather": "gather",
    "turn gradient of input": "turn",
    "relay positions and factors": "relay",
    "relay gradients back": "relay",
    "weigh": "weigh",
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["R256", "E", "dcnv3", "dcnv4", "attention"])
def test_predicted_launches_are_those_that_are_made(
    name: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = Timed(tiny(SHAPES[name]), "float32", direction)
    made: Counter[str] = Counter()
    inner = _host.launch

    def counting(source: str, kernel: Any, *rest: Any) -> None:
        made[kernel.name] += 1
        inner(source, kernel, *rest)

    monkeypatch.setattr(_host, "launch", counting)
    device = Emulated()
    (entry, *_) = contestants.ours(device, timed, timed.arrays())
    with entry.context():
        entry.call()
    expected: Counter[str] = Counter()
    (passes, *_) = predictions.predictions(timed).values()
    for one in passes:
        if one.name in KERNELS:
            expected[KERNELS[one.name]] += one.launches
    assert {k: v for k, v in made.items() if k in KERNELS.values()} == expected
