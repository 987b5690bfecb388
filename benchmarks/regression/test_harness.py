# ruff: noqa: D103  (the name of a test says what it shows)
"""The measuring itself: wrong peers are found, and nothing is lost between run and README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import report as reports
from benchmarks.cases import DIRECTIONS, SETS, Case, case, select
from benchmarks.cpu import published
from benchmarks.peers import PEERS, choose
from benchmarks.peers.blas import Sgemm
from benchmarks.peers.check import disagreement, expected, own_disagreement
from benchmarks.report import Report, together
from benchmarks.timing import Contest, Measurement
from benchmarks.workers import WorkerError, worker

SMALL = case("small", (2, 4, 9, 8), 6, 3, stride=2, offset_groups=2)


def wrong(change: dict[str, Any], problem: Case = SMALL) -> str:
    """What is said where some of the right results are replaced."""
    arrays = problem.arrays()
    right = expected(problem, arrays, DIRECTIONS[1], plain=False)
    return disagreement(problem, arrays, DIRECTIONS[1], right | change)


def right(name: str) -> Any:
    return expected(SMALL, SMALL.arrays(), DIRECTIONS[1], plain=False)[name].copy()


def test_right_results_agree() -> None:
    assert not wrong({})


@pytest.mark.parametrize("name", ["output", "input", "offset", "weight", "bias", "mask"])
def test_every_wrong_result_is_found(name: str) -> None:
    assert name in wrong({name: right(name) * np.float32(1.01)})


def test_nan_and_shape_are_found() -> None:
    output = right("output")
    assert "shape" in wrong({"output": output[:1]})
    output[0, 0, 0, 0] = np.nan
    assert "output differs" in wrong({"output": output})


def test_rounding_to_bfloat16_is_found() -> None:
    bits = right("output").view(np.uint32) & np.uint32(0xFFFF0000)
    assert "output differs" in wrong({"output": bits.view(np.float32)})


def test_missing_gradient_is_found() -> None:
    arrays = SMALL.arrays()
    results = expected(SMALL, arrays, DIRECTIONS[1], plain=False)
    del results["mask"]
    assert "mask" in disagreement(SMALL, arrays, DIRECTIONS[1], results)


@pytest.mark.parametrize("name", ["E", "F", "3D-a", "1D-b", "resnext", "dilated"])
def test_pydeform_agrees_with_its_specification(name: str) -> None:
    (problem,) = select([name])
    assert not own_disagreement(problem, DIRECTIONS[1])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("groups", [1, 2])
def test_products_are_those_of_the_convolution(direction: str, groups: int) -> None:
    problem = case("g", (2, 4, 9, 8), 6, 3, stride=2, dilation=2, groups=groups)
    arrays = problem.arrays(direction)
    prepared = Sgemm(1).prepare(problem, arrays, direction)
    results = prepared.results(prepared.run())
    assert not disagreement(problem, arrays, direction, results, yardstick=True)


def test_cases_go_through_json_and_names_are_unique() -> None:
    everything = SETS["all"] + SETS["huge"]
    assert [Case.from_json(c.to_json()) for c in everything] == list(everything)
    assert len({c.name for c in everything}) == len(everything)
    with pytest.raises(ValueError, match="expected one of"):
        select(["Z"])


@pytest.mark.parametrize("problem", SETS["all"] + SETS["huge"], ids=lambda c: c.name)
def test_sizes_fit_together(problem: Case) -> None:
    assert problem.channels % problem.groups == problem.out_channels % problem.groups == 0
    assert problem.channels % problem.offset_groups == 0
    assert min(problem.out_size) >= 1


def test_unknown_peers_are_named() -> None:
    with pytest.raises(ValueError, match="nobody"):
        choose(["nobody"])
    taken, left = choose([])
    assert set(taken) | set(left) == set(PEERS)


def test_a_peer_that_raises_says_so() -> None:
    with worker("pydeform", 1) as process:
        process.greeting()
        with pytest.raises(WorkerError, match="nothing is prepared"):
            process.ask("time")


def test_report_keeps_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        "date": "today",
        "command": "python",
        "machine": {"cpu": "c", "cores": 2, "vectors": [], "memory_gib": 1, "system": "s"},
        "versions": {"pydeform": "0"},
        "build": {},
    }
    made = Report(facts)
    contest = Contest(
        [
            Measurement("small", "forward", 1, "pydeform", 0.002, 2.0, (0.002,)),
            Measurement("small", "forward", 1, "dense", 0.001, 1.0, (0.001,)),
        ],
        refused={"ncnn": "one group only"},
        failed={"paddle": "disagrees"},
    )
    made.add(contest, SMALL, "forward", 1)
    made.save(tmp_path / "a.json")
    assert Report.load(tmp_path / "a.json") == made
    readme = tmp_path / "README.md"
    readme.write_text(f"before {reports.BEGIN} old {reports.END} after", encoding="utf-8")
    reports.write_readme(made, readme)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before")
    assert text.endswith("after")
    assert "**2.00**" in text
    assert " old " not in text
    monkeypatch.setattr(reports, "BEGIN", "not there")
    with pytest.raises(ValueError, match="expected one pair"):
        reports.write_readme(made, readme)


def part(case_name: str, seconds: float, **facts: Any) -> Report:
    """A run of one contest."""
    made = Report(
        {
            "command": f"run {case_name}",
            "machine": {"cpu": "c", "load": seconds},
            "versions": {"pydeform": "0"},
            "build": {},
        }
        | facts,
        absent={"ncnn": "not asked for"} if seconds < 2 else {},
    )
    (problem,) = select([case_name])
    name = "ncnn" if seconds >= 2 else "pydeform"
    made.add(Contest([Measurement(case_name, "forward", 1, name, seconds, None, ())]),
             problem, "forward", 1)  # fmt: skip
    return made


def test_parts_make_one_report() -> None:
    whole = together([part("B", 1.0), part("A", 1.5), part("B", 3.0)])
    assert [case.name for case in whole.cases] == ["A", "B"]
    assert {(m.case, m.seconds) for m in whole.measurements} == {("A", 1.5), ("B", 3.0)}
    assert whole.facts["machine"]["load"] == 3.0
    assert whole.facts["command"] == "run B`, `run A"
    assert not whole.absent


def test_parts_of_different_runs_do_not_mix() -> None:
    with pytest.raises(ValueError, match="machine"):
        together([part("A", 1.0), part("B", 1.0, machine={"cpu": "other"})])
    with pytest.raises(ValueError, match="version of pydeform"):
        together([part("A", 1.0), part("B", 1.0, versions={"pydeform": "1"})])


def test_no_folder_is_published() -> None:
    given = ["--quick", "--output", "folder", "--cases", "A", "--output=other"]
    assert published(given) == ["--quick", "--cases", "A"]
