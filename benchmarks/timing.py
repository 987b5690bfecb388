"""Contests: every contestant once a round, in rotating order, and medians over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.workers import Worker, WorkerError

#: What every time is divided by, round by round.
YARDSTICK = "dense"
#: A slow contestant takes part in so many rounds; in one, if a single call breaks its budget.
FEWEST = 3


@dataclass(frozen=True)
class Measurement:
    """The times of one contestant in one contest.

    Attributes
    ----------
    case, direction, threads, peer
        What was measured.
    seconds
        Median over the rounds.
    ratio
        Median over the rounds of its time over the yardstick's in the same round; None where the
        yardstick is missing.
    rounds
        Seconds of each round it took part in.
    """

    case: str
    direction: str
    threads: int
    peer: str
    seconds: float
    ratio: float | None
    rounds: tuple[float, ...]


@dataclass
class Contest:
    """The outcome of one case, one direction and one number of threads.

    Attributes
    ----------
    measurements
        One for each contestant, in the order of the tables.
    refused
        Why others cannot do this case, by peer.
    failed
        Which of them failed or computed something else, by peer; those were not timed.
    """

    measurements: list[Measurement] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def ask(workers: Mapping[str, Worker], contest: Contest, name: str, do: str, **what: Any) -> float:
    """Ask one contestant for seconds; 0 where it failed, and then the contest says why."""
    try:
        answer = workers[name].ask(do, **what)
    except WorkerError as error:
        contest.failed[name] = str(error)
        return 0.0
    if "disagrees" in answer:
        contest.failed[name] = f"disagrees with pydeform: {answer['disagrees']}"
        return 0.0
    return float(answer["seconds"])


def release(workers: Iterable[Worker]) -> None:
    """Let every contestant free its arrays."""
    for process in workers:
        try:
            process.ask("release")
        except WorkerError:
            continue  # it has said so before, and its process is gone


def hold(
    workers: Mapping[str, Worker],
    case: Any,
    direction: str,
    *,
    rounds: int,
    budget: float,
    step: Callable[[float], None] = lambda _: None,
    peers: Mapping[str, Any] = PEERS,
    yardstick: str = YARDSTICK,
) -> Contest:
    """Hold one contest.

    Parameters
    ----------
    workers : mapping of str to Worker
        The contestants, all of one number of threads.
    case : Case
        The problem, or one of another class that the peers know.
    direction : {"forward", "forward+backward"}
        What is timed.
    rounds : int
        How often each of them is timed.
    budget : float
        Seconds after which one drops out, though not before three rounds; but after the first
        where a single call takes longer.
    step : callable, optional
        Told after each round which part of the contest is done.
    peers : mapping of str to class, optional
        Where a contestant's name says what it refuses.
    yardstick : str, optional
        The contestant whose time every time is divided by.
    """
    contest = Contest()
    threads = next((w.threads for w in workers.values()), 0)
    problem = {"case": case.to_json(), "direction": direction}
    runners: dict[str, float] = {}  # with the seconds of a call
    for name in workers:
        if reason := peers[name].refuses(case, direction):
            contest.refused[name] = reason
        elif seconds := ask(workers, contest, name, "prepare", **problem):
            runners[name] = seconds
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds):
        active = [
            name
            for name in runners
            if name not in contest.failed
            and (
                name == yardstick
                or sum(times[name]) < budget
                or number < (FEWEST if runners[name] < budget else 1)
            )
        ]
        start = number % max(1, len(active))
        for name in active[start:] + active[:start]:
            if seconds := ask(workers, contest, name, "time"):
                times[name].append(seconds)
        step((number + 1) / rounds)
    release(workers.values())
    divisors = times.get(yardstick, [])
    contest.measurements = [
        Measurement(
            case=case.name,
            direction=direction,
            threads=threads,
            peer=name,
            seconds=median(times[name]),
            ratio=median(map(float.__truediv__, times[name], divisors)) if divisors else None,
            rounds=tuple(times[name]),
        )
        for name in runners
        if times[name] and name not in contest.failed
    ]
    return contest
