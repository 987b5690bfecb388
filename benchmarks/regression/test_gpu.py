# ruff: noqa: ARG002, D102, D103  (tests say by name what they show; stand-ins take what CuPy takes)
"""The script `benchmarks.gpu` itself, on the host execution and on a stand-in for CuPy."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pydeform
from benchmarks.gpu import __main__ as script
from benchmarks.gpu import ceilings, checks, contest, kernels, only_gpu, sanitize
from benchmarks.gpu.cases import SHAPES, Timed, plan, tiny
from benchmarks.gpu.device import Cuda, Emulated
from benchmarks.gpu.found import BEGIN, END, Found, as_markdown


def emulate(folder: Path, *words: str) -> tuple[int, Found]:
    """Run the script; returns its status and what it wrote."""
    status = script.main([*words, "--emulate", "--output", str(folder)])
    (path,) = folder.glob("gpu-*.json")
    return status, Found.load(path)


def test_the_whole_script_runs_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--cases",
        "E,dcnv4,attention",
        "--rounds",
        "2",
        "--runs",
        "2",
        "--checks",
        "1",
        "--operations",
    ]
    status, found = emulate(tmp_path, *words, "deform_conv2d,dcnv4")
    assert status == 0
    text = capsys.readouterr().out
    assert text.strip() == as_markdown(found).strip()
    assert "says nothing" in text or "say nothing" in text
    assert {c.operation for c in found.checks} == {"deform_conv2d", "dcnv4"}
    assert not any(c.wrong for c in found.checks)
    assert [s.outcome for s in found.shown] == ["right"] * 9 + ["not run"]
    ours = [m for m in found.measured if m.contestant == "pydeform"]
    assert len(ours) == 3 * 2 * 2
    assert all(len(m.rounds) == 2 and m.seconds > 0 for m in ours)
    assert max(m.error for m in ours if m.dtype == "float32") == 0
    assert max(m.error for m in ours) < 1e-3
    assert set(found.floors) == {f"{m.case}, {m.dtype}, {m.direction}" for m in ours}
    assert str(tmp_path) not in str(found.facts)


def test_grid_sample_agrees_with_ours() -> None:
    pytest.importorskip("torch")
    for name in ("dcnv4", "attention"):
        for direction in ("forward", "backward"):
            timed = Timed(tiny(SHAPES[name]), "float32", direction)
            measured, failed = contest.hold(Emulated(), timed, 1)
            assert failed.keys() == {"pydeform, graph"}
            (peer,) = (m for m in measured if m.contestant == "grid_sample")
            assert peer.error < 1e-5


def test_a_wrong_result_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = pydeform.deform_conv2d
    monkeypatch.setattr(pydeform, "deform_conv2d", lambda *a, **k: right(*a, **k) * 2)
    status, found = emulate(tmp_path, "check", "--checks", "1", "--operations", "deform_conv2d")
    assert status == 1
    assert [c.wrong for c in found.checks] == ["output"]


def test_a_failing_operation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(pydeform, "sample_backward", fails)
    found = checks.run(Emulated(), 1, lambda *_: None, ("sample",))
    assert [c.wrong for c in found] == ["RuntimeError: no such kernel"]


def test_bits_that_change_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = pydeform.deform_conv2d, [0]

    def drifting(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        out = right(*args, **options)
        out.view(np.uint16)[0, 0, 0, 0] ^= calls[0] % 2
        return out

    monkeypatch.setattr(pydeform, "deform_conv2d", drifting)
    outcomes = {s.what: s.outcome for s in only_gpu.equal_bits(Emulated(), 2, small=True)}
    assert outcomes["equal bits: E, float16, forward"] == "wrong"
    assert outcomes["equal bits: E, float16, backward"] == "right"


def test_a_wrong_strip_of_a_large_image_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pydeform.deform_conv2d

    def overflowing(x: Any, *rest: Any) -> Any:
        out = right(x, *rest)
        if x.shape[2] == 96:  # the whole image, not a strip
            out[:, :, 60:] = 0
        return out

    assert [s.outcome for s in only_gpu.large(Emulated(), 96, 2)] == ["right"]
    monkeypatch.setattr(pydeform, "deform_conv2d", overflowing)
    assert [s.outcome for s in only_gpu.large(Emulated(), 96, 2)] == ["wrong"]


def test_sanitizers_are_started_and_understood() -> None:
    started: list[Sequence[str]] = []

    def start(status: int, text: str) -> Callable[[Sequence[str]], tuple[int, str]]:
        def run(words: Sequence[str]) -> tuple[int, str]:
            started.append(words)
            return status, text

        return run

    clean = sanitize.run(1, "compute-sanitizer", start(0, "========= ERROR SUMMARY: 0 errors\n"))
    assert [s.outcome for s in clean] == ["right", "right"]
    assert clean[0].detail == "ERROR SUMMARY: 0 errors"
    assert [words[2] for words in started] == ["memcheck", "racecheck"]
    assert script.parser().parse_args(started[0][8:]).operations == list(sanitize.CHECKED)
    found = sanitize.run(1, "compute-sanitizer", start(sanitize.FOUND, ""))
    assert [s.outcome for s in found] == ["wrong", "wrong"]


def test_without_a_sanitizer_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitize, "find", lambda: None)
    assert {s.outcome for s in sanitize.run(1)} == {"not run"}


def test_without_a_gpu_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.device, "absent", lambda: "no CUDA device")
    assert script.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_predictions_need_no_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["predict", "--cases", "R256"]) == 0
    text = capsys.readouterr().out
    assert "37.0" in text
    assert "turn input to channels last" in text


@pytest.mark.parametrize("words", [["--cases", "none"], ["--dtypes", "int8"], ["everything"]])
def test_unknown_words_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(words)


def test_unknown_cases_are_named() -> None:
    with pytest.raises(ValueError, match=r"case: expected some of R256.*'none'"):
        plan(["none"], ["float32"], small=True)


def test_the_readme_has_a_place_for_the_tables() -> None:
    text = script.README.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1


class Clock:
    """An event that knows when it was recorded."""

    now = 0.0

    def record(self, stream: Any) -> None:
        self.at, self.stream = Clock.now, stream

    def synchronize(self) -> None:
        self.waited = True


class Stream:
    """A stream that refuses to be captured twice, and to synchronise in a capture."""

    ptr = 1

    def __init__(self, non_blocking: bool = False) -> None:
        self.capturing, self.broken = False, False

    def use(self) -> None:
        self.used = True

    def synchronize(self) -> None:
        if self.capturing:
            self.broken = True
            raise RuntimeError("a capture was synchronised")

    def begin_capture(self) -> None:
        assert not self.capturing
        self.capturing = True

    def end_capture(self) -> Any:
        self.capturing = False
        if self.broken:
            self.broken = False
            raise RuntimeError("invalid capture")
        return SimpleNamespace(launch=lambda stream: stream)

    def is_capturing(self) -> bool:
        return self.capturing


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """The device for CuPy, on a CuPy whose arrays are NumPy's."""
    module: Any = ModuleType("cupy")
    vars(module).update({name: getattr(np, name) for name in ("empty", "asarray", "matmul")})
    vars(module).update(ones=np.ones, empty_like=np.empty_like, asnumpy=np.asarray)
    module.arange, module.uint8 = np.arange, np.uint8
    properties = {"l2CacheSize": 64, "name": b"GPU", "totalGlobalMem": 1 << 33}
    properties |= {"multiProcessorCount": 4, "major": 9, "minor": 0}

    @contextmanager
    def allocator(_: Any) -> Any:
        yield

    module.cuda = SimpleNamespace(
        Stream=Stream,
        Event=Clock,
        MemoryPool=lambda: SimpleNamespace(malloc=None),
        using_allocator=allocator,
        get_elapsed_time=lambda start, stop: (stop.at - start.at) * 1e3,
        runtime=SimpleNamespace(
            CUDARuntimeError=OSError,
            getDevice=lambda: 0,
            getDeviceProperties=lambda _: properties,
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
            memGetInfo=lambda: (1 << 32, 1 << 33),
        ),
    )
    module.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
    monkeypatch.setitem(sys.modules, "cupy", module)
    device = Cuda()
    monkeypatch.setattr(device, "backend", Emulated().backend)
    return device


def test_events_surround_the_call(cuda: Cuda) -> None:
    def call() -> None:
        assert set(cuda.lines.tolist()) == {1}  # flushed before, not in the measured time
        Clock.now += 0.25

    cuda.lines[...] = 0
    assert cuda.seconds(call) == pytest.approx(0.25)
    assert cuda.start.stream is cuda.stop.stream is cuda.stream
    assert cuda.facts()["device"] == "GPU"
    assert cuda.free_bytes() == 1 << 32


def test_a_profile_becomes_parts_of_a_call() -> None:
    (timed, *_) = plan(["R256"], ["float16"], small=True)

    def event(name: str, start: float, took: float) -> SimpleNamespace:
        return SimpleNamespace(name=name, device_time=took, time_range=SimpleNamespace(start=start))

    events = [event("cudaLaunchKernel", 0, 0)]
    for call in range(kernels.WATCHED):
        events += [event("fill", 10 * call, 700), event("turn", 10 * call + 1, 20 + call)]
        events += [event("fused", 10 * call + 2, 90), event("fused", 10 * call + 3, 60)]
    found = kernels.parts(timed, events[::-1])
    assert [(one.kernel, one.launches) for one in found] == [("turn", 1), ("fused", 2)]
    assert [one.seconds for one in found] == pytest.approx([22e-6, 150e-6])
    with pytest.raises(ValueError, match="expected a multiple of 5, got 19"):
        kernels.parts(timed, events[:-1])


def test_a_call_is_captured_after_it_has_warmed_up(cuda: Cuda) -> None:
    capturing = []
    replay = cuda.capture(lambda: capturing.append(cuda.stream.is_capturing()))
    assert capturing == [False, False, True]
    assert replay() is cuda.stream


def test_what_a_captured_call_refers_to_lives_as_long_as_its_replay(cuda: Cuda) -> None:
    class Array:
        """What a graph has the address of."""

    array = Array()
    kept = weakref.ref(array)
    replay = cuda.capture(partial(lambda _: None, array))
    del array
    assert kept() is not None
    del replay
    assert kept() is None


def test_a_call_that_waits_is_not_captured_and_leaves_the_stream(cuda: Cuda) -> None:
    calls = []

    def waits() -> None:
        calls.append(1)
        cuda.stream.synchronize()

    with pytest.raises(RuntimeError, match="not captured: a capture was synchronised"):
        cuda.capture(waits)
    assert len(calls) == 3
    assert not cuda.stream.is_capturing()
    cuda.capture(lambda: None)


def test_contests_graphs_and_ceilings_run_through_cupy(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest.contestants, "peers", lambda _: {})
    monkeypatch.setattr(cuda, "seconds", lambda call: (call(), 0.5)[1])
    timed = Timed(tiny(SHAPES["E"]), "float16", "backward")
    measured, failed = contest.hold(cuda, timed, 2)
    assert not failed
    names = ["pydeform", "pydeform, atomics", "pydeform, graph"]
    assert [m.contestant for m in measured] == names
    assert {m.seconds for m in measured} == {0.5}
    assert max(m.error for m in measured) < 1e-3
    monkeypatch.setattr(ceilings, "tf32", lambda *_: 7.0)
    found = ceilings.measure(cuda, small=True)
    assert (found.copy, found.tf32) == (2 * (1 << 16) / 0.5, 7.0)
    assert found.half == found.single == 2 * 64**3 / 0.5
