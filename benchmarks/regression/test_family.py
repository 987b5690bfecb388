# ruff: noqa: D103  (the name of a test says what it shows)
"""The measuring of attention and DCNv3/v4: wrong contestants are found, and nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import family
from benchmarks.cases import DIRECTIONS
from benchmarks.cpu import main as cpu
from benchmarks.problems import NAMES, PROBLEMS, Problem, shrunk
from benchmarks.sampling import CONTESTANTS, GridSample, Native, Ours, disagreement, expected
from benchmarks.timing import Measurement, hold
from benchmarks.workers import team

SMALL = {p.operation: shrunk(p) for p in PROBLEMS.values()}
BOTH = DIRECTIONS[1]


@pytest.mark.parametrize("operation", SMALL)
def test_every_wrong_result_is_found(operation: str) -> None:
    problem = SMALL[operation]
    want = expected(problem, problem.arrays(BOTH), BOTH)
    assert set(want) == {"output", *NAMES[operation]}
    assert not disagreement(problem, want, want)
    for name, array in want.items():
        assert name in disagreement(problem, want | {name: array * np.float32(1.001)}, want)
        assert name in disagreement(problem, {k: a for k, a in want.items() if k != name}, want)


@pytest.mark.parametrize("name", PROBLEMS)
def test_pydeform_agrees_with_its_specification(name: str) -> None:
    problem = shrunk(PROBLEMS[name])
    assert not Ours(1).wrong(problem, problem.arrays(BOTH), BOTH, {})


# Those that a contestant computes; what it refuses, a report says.
ACCEPTED = [
    pytest.param(operation, direction, contestant, id=f"{operation}-{direction}-{contestant.name}")
    for contestant in (GridSample, Native)
    for direction in DIRECTIONS
    for operation, problem in SMALL.items()
    if not contestant.refuses(problem, direction)
]


@pytest.mark.parametrize(("operation", "direction", "contestant"), ACCEPTED)
def test_contestants_compute_the_operation(operation: str, direction: str, contestant: Any) -> None:
    problem = SMALL[operation]
    for module in contestant.modules:
        pytest.importorskip(module)
    arrays = problem.arrays(direction)
    prepared = contestant(1).prepare(problem, arrays, direction)
    results = prepared.results(prepared.run())
    assert not contestant(1).wrong(problem, arrays, direction, results)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=lambda p: p.name)
def test_coordinates_stay_away_from_whole_pixels(problem: Problem) -> None:
    arrays = shrunk(problem).arrays("forward")
    if problem.attends:
        size = np.array(shrunk(problem).levels)[:, None, ::-1]
        position = arrays["sampling_locations"].astype(float) * size - 0.5
    elif problem.operation == "dcnv3":
        position = arrays["offset"].astype(float)
    else:
        used = arrays["offset_mask"][..., : problem.groups * 27].astype(float)
        position = used.reshape(-1, 27)[:, :18]
    assert np.abs(position - np.round(position)).min() > 0.015


def test_problems_go_through_json() -> None:
    assert [Problem.from_json(p.to_json()) for p in PROBLEMS.values()] == list(PROBLEMS.values())
    assert PROBLEMS["attention"].queries == PROBLEMS["attention"].pixels == 17821
    assert PROBLEMS["attention-5440"].queries == 5440


@pytest.mark.parametrize("operation", SMALL)
def test_a_contest_is_held(operation: str) -> None:
    with team(("pydeform",), 1, "benchmarks.sampling") as (workers, _, failures):
        assert not failures
        contest = hold(
            workers,
            SMALL[operation],
            BOTH,
            rounds=2,
            budget=1.0,
            peers=CONTESTANTS,
            yardstick=family.OURS,
        )
    assert not contest.failed
    assert [(m.peer, m.ratio, len(m.rounds)) for m in contest.measurements] == [("pydeform", 1, 2)]


def test_report_keeps_everything(tmp_path: Path) -> None:
    facts = {
        "date": "today",
        "command": "python",
        "machine": {
            "cpu": "c",
            "cores": 2,
            "vectors": [],
            "memory_gib": 1,
            "system": "s",
            "load": 2,
        },
        "versions": {"pydeform": "0"},
        "build": {},
    }
    made = family.Found(facts, [PROBLEMS["dcnv3"]], absent={"native": "not installed"})
    made.measurements = [
        Measurement("dcnv3", "forward", 2, "pydeform", 0.002, 1.0, (0.002,)),
        Measurement("dcnv3", "forward", 2, "grid_sample", 0.012, 6.0, (0.012,)),
    ]
    made.failed = [
        {"problem": "dcnv3", "direction": "forward", "threads": 2, "peer": "native", "reason": "r"}
    ]
    made.save(tmp_path / "a.json")
    assert family.Found.load(tmp_path / "a.json") == made
    text = family.as_markdown(made)
    row = next(line for line in text.splitlines() if "| forward" in line)
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        *("dcnv3", "forward", "2", "2.0", "12.0", "**6.00**", "fails", "fails")
    ]
    assert "was shared" in text
    assert "took no part: native (not installed)" in text


def test_unknown_problems_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cpu(["--family", "--cases", "nothing"])
    assert "attention-5440" in capsys.readouterr().err
