"""Time and memory against one number that grows: the points of the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.cases import CHANNELS, DIRECTIONS, SIZES, Case
from benchmarks.peers import PEERS
from benchmarks.timing import hold
from benchmarks.workers import WorkerError, team, worker

ROUNDS = 3
BUDGET = 1.0
#: Name of a sweep: its cases, and the number that grows.
SWEEPS: dict[str, tuple[tuple[Case, ...], Callable[[Case], int]]] = {
    "size": (SIZES, lambda case: case.size[0]),
    "channels": (CHANNELS, lambda case: case.channels),
}


def peak(peer: str, case: Case, direction: str, threads: int) -> dict[str, Any]:
    """Return the bytes of one call, measured in a fresh process; empty where it failed."""
    try:
        with worker(peer, threads) as process:
            process.greeting()
            return process.ask("memory", case=case.to_json(), direction=direction)
    except WorkerError:
        return {}


def measure(
    peers: Sequence[str], threads: int, say: Callable[[str, float], None]
) -> list[dict[str, Any]]:
    """Measure every sweep.

    Returns
    -------
    list of dict
        One for each sweep, case, direction and peer: sweep, x, direction, peer, threads, seconds
        and `bytes`, which a call adds to its arguments (None where that failed).
    """
    contestants = [name for name in peers if name != "sgemm"]
    points: list[dict[str, Any]] = []
    plan = [
        (sweep, case, direction)
        for sweep, (cases, _) in SWEEPS.items()
        for case in cases
        for direction in DIRECTIONS
    ]
    with team(contestants, threads) as (workers, _, _):
        for number, (sweep, case, direction) in enumerate(plan):
            say(f"{sweep}: {case.name}, {direction}", number / len(plan) / 2)
            contest = hold(workers, case, direction, rounds=ROUNDS, budget=BUDGET)
            points += [
                {
                    "sweep": sweep,
                    "x": SWEEPS[sweep][1](case),
                    "case": case.name,
                    "direction": direction,
                    "peer": m.peer,
                    "threads": threads,
                    "seconds": m.seconds,
                }
                for m in contest.measurements
            ]
    cases = {c.name: c for cases, _ in SWEEPS.values() for c in cases}
    for number, point in enumerate(points):
        say(f"memory: {point['peer']}, {point['case']}", 0.5 + number / len(points) / 2)
        found = peak(point["peer"], cases[point["case"]], point["direction"], threads)
        point["bytes"] = found.get("call")
    return points


def taking_part(points: Sequence[dict[str, Any]]) -> list[str]:
    """Return the peers of some points, in the order of the tables."""
    seen = {point["peer"] for point in points}
    return [name for name in PEERS if name in seen]
