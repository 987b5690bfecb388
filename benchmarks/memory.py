"""The peak memory of one call over its arguments and results: ``python -m benchmarks.memory``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.cases import DIRECTIONS, select
from benchmarks.peers import PEERS
from benchmarks.report import grid
from benchmarks.workers import WorkerError, worker

MIB = 2.0**20


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    add = made.add_argument
    add("--case", default="L-4096", help="name of a case (default: L-4096, needs 8 GiB)")
    add("--peers", default="pydeform", help="names with commas (default: pydeform)")
    add("--threads", type=int, default=2, help="number of threads (default: 2)")
    add("--direction", choices=DIRECTIONS, default=DIRECTIONS[1])
    add("--limit", type=float, metavar="RATIO", help="fail where pydeform's ratio is above this")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every peer in a process of its own and print the table."""
    made = parser()
    options = made.parse_args(arguments)
    peers = [name.strip() for name in options.peers.split(",")]
    try:
        (case,) = select([options.case])
        if unknown := set(peers) - set(PEERS):
            raise ValueError(f"peers: expected some of {', '.join(PEERS)}; got {unknown}")
    except ValueError as error:
        made.error(str(error))
    print(f"{case.name}: {case.describe()}, {options.direction}, {options.threads} threads")
    rows = [["peer", "arguments MiB", "results MiB", "peak MiB", "peak/(arguments+results)"]]
    worst = 0.0
    for name in peers:
        if reason := PEERS[name].missing() or PEERS[name].refuses(case, options.direction):
            rows.append([name, "-", "-", "-", reason])
            continue
        try:
            with worker(name, options.threads) as process:
                process.greeting()
                problem = case.to_json()
                found = process.ask("memory", case=problem, direction=options.direction)
        except WorkerError as error:
            rows.append([name, "-", "-", "-", str(error)])
            continue
        ratio = found["total"] / (found["arguments"] + found["results"])
        worst = max(worst, ratio) if name == "pydeform" else worst
        sizes = (found[key] / MIB for key in ("arguments", "results", "total"))
        rows.append([name, *(f"{size:.0f}" for size in sizes), f"{ratio:.3f}"])
    print(grid(rows))
    return 1 if options.limit is not None and worst > options.limit else 0


if __name__ == "__main__":
    sys.exit(main())
