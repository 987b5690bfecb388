"""Attention and DCNv3/v4 on the CPU, side by side: ``python -m benchmarks.family``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cases import DIRECTIONS
from benchmarks.cpu import RESULTS, counts, published, tell, words
from benchmarks.machine import facts
from benchmarks.problems import DEFAULT, PROBLEMS, Problem
from benchmarks.progress import Say, progress
from benchmarks.report import README, Saved, facts_text, grid, write_section
from benchmarks.sampling import CONTESTANTS
from benchmarks.timing import Measurement, hold
from benchmarks.workers import team

BEGIN, END = "<!-- family:begin -->", "<!-- family:end -->"
OURS = "pydeform"
#: How many times faster pydeform is to be.
AIMS = {"grid_sample": 5.0, "native": 1.3}
#: Above this load average before the run, other programs were running.
QUIET = 0.3


@dataclass
class Found(Saved):
    """Everything that a run measured.

    Attributes
    ----------
    facts
        Machine, versions, command.
    problems
        In the order of the tables.
    measurements
        All times; their ratios are to pydeform's time.
    absent
        Why a contestant took no part, by name.
    failed
        Of one contest each: problem, direction, threads, contestant, reason.
    """

    facts: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Found:
        """Read what `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        data["problems"] = [Problem.from_json(p) for p in data["problems"]]
        data["measurements"] = [
            Measurement(**m | {"rounds": tuple(m["rounds"])}) for m in data["measurements"]
        ]
        return cls(**data)


def table(found: Found) -> str:
    """Return the times, and how many times longer the others take than pydeform."""
    others = [name for name in CONTESTANTS if name != OURS]
    rows = [["problem", "direction", "threads", "pydeform ms"]]
    rows[0] += [head for name in others for head in (f"{name} ms", "times")]
    broken = {(f["problem"], f["direction"], f["threads"], f["peer"]) for f in found.failed}
    groups: dict[tuple[str, str, int], dict[str, Measurement]] = {}
    for m in found.measurements:
        groups.setdefault((m.case, m.direction, m.threads), {})[m.peer] = m
    order = [p.name for p in found.problems]
    for key in sorted(groups, key=lambda k: (order.index(k[0]), DIRECTIONS.index(k[1]), k[2])):
        row = [key[0], key[1], str(key[2])]
        for name in (OURS, *others):
            one = groups[key].get(name)
            empty = "fails" if (*key, name) in broken else "-"
            row.append(f"{one.seconds * 1e3:.1f}" if one else empty)
            if name != OURS:
                row.append(ratio_text(one.ratio, name) if one and one.ratio else empty)
        rows.append(row)
    return grid(rows, words=2)


def ratio_text(ratio: float, name: str) -> str:
    """Return one cell: bold where the aim is reached."""
    return f"**{ratio:.2f}**" if ratio >= AIMS[name] else f"{ratio:.2f}"


def as_markdown(found: Found) -> str:
    """Return everything as text: for the terminal and for the README."""
    parts = [facts_text(found.facts)]
    if (found.facts["machine"].get("load") or 0) > QUIET:
        parts.append("The machine was shared with other programs during this run.")
    problems = [[p.name, p.describe()] for p in found.problems]
    parts.append(grid([["problem", "what it is"], *problems], words=2))
    aims = ", ".join(f"{aim:g} for {name}" for name, aim in AIMS.items())
    parts.append(f"*times*: of pydeform's time, median of ratios; bold from {aims}.")
    parts.append(table(found))
    notes = [f"- took no part: {name} ({reason})" for name, reason in found.absent.items()]
    notes += [
        f"- {f['peer']}, {f['problem']}, {f['direction']}, {f['threads']} threads: {f['reason']}"
        for f in found.failed
    ]
    return "\n\n".join([*parts, "\n".join(notes)] if notes else parts)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.family", description=__doc__, allow_abbrev=False
    )
    add = made.add_argument
    add("--cases", type=words, default=list(DEFAULT), help="names of problems with commas")
    add("--threads", type=counts, default=[1, 2], help="numbers of threads (default: 1,2)")
    add("--rounds", type=int, default=9, help="rounds of every contest (default: 9)")
    add("--budget", type=float, default=5.0,
        help="seconds after which a contestant drops out of a contest, though not before its "
        "third round (default: 5)")  # fmt: skip
    add("--output", type=Path, default=RESULTS, metavar="FOLDER", help="for the JSON")
    add("--load", type=Path, metavar="JSON", help="show this report instead of measuring")
    add("--write-readme", action="store_true", help="put the tables into benchmarks/README.md")
    return made


def run(options: argparse.Namespace, found: Found, say: Say) -> None:
    """Hold every contest and take in the outcomes."""
    found.absent |= {
        name: f"not installed: {missing}"
        for name, contestant in CONTESTANTS.items()
        if (missing := contestant.missing())
    }
    names = [name for name in CONTESTANTS if name not in found.absent]
    plan = [(problem, direction) for problem in found.problems for direction in DIRECTIONS]
    everything = len(plan) * len(options.threads)
    for turn, threads in enumerate(options.threads):
        with team(names, threads, "benchmarks.sampling") as (workers, versions, failures):
            found.facts["versions"] |= {k: v for k, v in versions.items() if k != OURS}
            found.absent |= failures
            for number, (problem, direction) in enumerate(plan):
                before = turn * len(plan) + number
                text = f"{problem.name}, {direction}, {threads} threads"
                say(text, before / everything)
                contest = hold(
                    workers,
                    problem,
                    direction,
                    rounds=options.rounds,
                    budget=options.budget,
                    step=partial(tell, say, text, before, everything),
                    peers=CONTESTANTS,
                    yardstick=OURS,
                )
                found.measurements += contest.measurements
                where = {"problem": problem.name, "direction": direction, "threads": threads}
                found.failed += [
                    where | {"peer": peer, "reason": reason}
                    for peer, reason in contest.failed.items()
                ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON and what else was asked for."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    made = parser()
    options = made.parse_args(given)
    if unknown := sorted(set(options.cases) - set(PROBLEMS)):
        made.error(f"cases: expected some of {', '.join(PROBLEMS)}; got {', '.join(unknown)}")
    if options.load:
        found = Found.load(options.load)
    else:
        found = Found(facts("benchmarks.family", published(given)))
        found.problems = [PROBLEMS[name] for name in options.cases]
        with progress() as say:
            run(options, found, say)
        path = options.output / f"family-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        found.save(path)
        print(f"wrote {path.name}", file=sys.stderr)
    print(as_markdown(found))
    if options.write_readme:
        write_section(as_markdown(found), README, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
