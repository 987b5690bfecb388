"""Deformable convolution on the CPU, side by side: ``python -m benchmarks.cpu``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.cases import DIRECTIONS, Case, select
from benchmarks.machine import facts
from benchmarks.peers import choose
from benchmarks.progress import Say, progress
from benchmarks.report import Report, as_markdown, together, write_readme
from benchmarks.sweeps import measure
from benchmarks.timing import hold
from benchmarks.workers import team

RESULTS = Path(__file__).with_name("results")


def words(text: str) -> list[str]:
    """Split a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def counts(text: str) -> list[int]:
    """Split a list of numbers of threads with commas."""
    found = sorted({int(word) for word in words(text)})
    if not found or found[0] < 1:
        raise argparse.ArgumentTypeError(f"expected numbers of threads such as 1,2; got {text!r}")
    return found


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu", description=__doc__, allow_abbrev=False
    )
    add = made.add_argument
    add("--cases", type=words, help="names of cases or sets with commas (default: default)")
    add("--threads", type=counts, default=[1, 2], help="numbers of threads (default: 1,2)")
    add("--rounds", type=int, default=9, help="rounds of every contest (default: 9)")
    add("--budget", type=float, default=5.0,
        help="seconds after which a contestant drops out of a contest, though not before its "
        "third round (default: 5)")  # fmt: skip
    add("--peers", type=words, help="only these, beside pydeform and dense (default: all found)")
    add("--compile", action="store_true", help="also torch.compile of the grid_sample composition")
    add("--forward", action="store_true", help="forward only")
    add("--large", action="store_true", help="also the case of 4096x4096 pixels (gigabytes)")
    add("--unlisted", action="store_true", help="also the shapes that nobody tuned for")
    add("--family", action="store_true",
        help="attention and DCNv3/v4 instead: benchmarks.family, with its options")  # fmt: skip
    add("--quick", action="store_true", help="three small cases, three rounds: under two minutes")
    add("--pictures", action="store_true",
        help="draw pictures, and measure what they need: time and memory against size and "
        "channels")  # fmt: skip
    add("--output", type=Path, default=RESULTS, metavar="FOLDER", help="for JSON and pictures")
    add("--load", type=Path, nargs="+", metavar="JSON",
        help="show this report instead of measuring; several are put together, so that a long run "
        "can be made in parts")  # fmt: skip
    add("--write-readme", action="store_true", help="put the tables into benchmarks/README.md")
    return made


def chosen_cases(options: argparse.Namespace) -> tuple[Case, ...]:
    """Return the cases that the command line asks for."""
    names = options.cases or (["quick"] if options.quick else ["default"])
    names = names + ["unlisted"] * options.unlisted + ["huge"] * options.large
    return select(names)


def published(arguments: Sequence[str]) -> list[str]:
    """Return a command line without ``--output``: whose folders there are belongs in no report."""
    words_left = iter(arguments)
    kept: list[str] = []
    for word in words_left:
        if word == "--output":
            next(words_left, None)
        elif not word.startswith("--output="):
            kept.append(word)
    return kept


def tell(say: Say, text: str, before: int, everything: int, part: float) -> None:
    """Say how much is done: some contests of everything, and a part of the current one."""
    say(text, (before + part) / everything)


def run(options: argparse.Namespace, report: Report, cases: Sequence[Case], say: Say) -> None:
    """Hold every contest and put the outcomes into the report."""
    peers, report.absent = choose(options.peers, compiled=options.compile)
    directions = DIRECTIONS[:1] if options.forward else DIRECTIONS
    rounds = min(options.rounds, 3) if options.quick else options.rounds
    budget = min(options.budget, 0.5) if options.quick else options.budget
    plan = [(case, direction) for case in cases for direction in directions]
    everything = len(plan) * len(options.threads)
    for turn, threads in enumerate(options.threads):
        say(f"starting {len(peers)} peers", turn / len(options.threads))
        with team(peers, threads) as (workers, versions, failures):
            report.facts["versions"] |= {k: v for k, v in versions.items() if k != "pydeform"}
            report.absent |= failures
            for number, (case, direction) in enumerate(plan):
                before = turn * len(plan) + number
                text = f"{case.name}, {direction}, {threads} threads"
                say(text, before / everything)
                step = partial(tell, say, text, before, everything)
                contest = hold(workers, case, direction, rounds=rounds, budget=budget, step=step)
                report.add(contest, case, direction, threads)
    if options.pictures and not options.quick:
        report.sweeps = measure(
            [p for p in peers if p not in report.absent], max(options.threads), say
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON and what else was asked for."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if "--family" in given:
        from benchmarks import family

        return family.main([word for word in given if word != "--family"])
    made = parser()
    options = made.parse_args(given)
    if options.load:
        try:
            report = together([Report.load(path) for path in options.load])
        except ValueError as error:
            made.error(str(error))
    else:
        try:
            cases = chosen_cases(options)
            choose(options.peers, compiled=options.compile)
        except ValueError as error:
            made.error(str(error))
        report = Report(facts("benchmarks.cpu", published(given)))
        with progress() as say:
            run(options, report, cases, say)
        path = options.output / f"cpu-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        report.save(path)
        print(f"wrote {path.name}", file=sys.stderr)
    print(as_markdown(report))
    if options.pictures:
        from benchmarks.pictures import draw

        for path in draw(report, options.output):
            print(f"drew {path.name}", file=sys.stderr)
    if options.write_readme:
        write_readme(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
