"""Peak memory: ``python -m benchmarks.memory``.

Without `--operation`, of one case of `benchmarks.cases` on any peer. With it, how much the calls of
one or more operations take beside arguments and results, and whether that grows with the image.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence

from benchmarks.cases import DIRECTIONS, select
from benchmarks.growth import DTYPES, FIXED, LAYOUTS, OPERATIONS, WAYS, Call, as_json
from benchmarks.peers import PEERS
from benchmarks.report import grid
from benchmarks.workers import ROOT, WorkerError, worker

MIB = 2.0**20
#: A thread's tile and plans, and whole pages, beside what the limit counts: bytes.
TILE = 4 << 20


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    add = made.add_argument
    add("--threads", type=int, default=2, help="number of threads (default: 2)")
    add("--limit", type=float, metavar="RATIO", help="fail where a ratio of pydeform is above this")
    add = made.add_argument_group("one case").add_argument
    add("--case", default="L-4096", help="name of a case (default: L-4096, needs 8 GiB)")
    add("--peers", default="pydeform", help="names with commas (default: pydeform)")
    add("--direction", choices=DIRECTIONS, default=DIRECTIONS[1])
    add = made.add_argument_group("operations; every choice is names with commas").add_argument
    add("--operation", help=f"some of {', '.join(OPERATIONS)}; or all")
    add("--way", default=",".join(WAYS), help="default: all of %(default)s")
    add("--dtype", default="float32,float16", help=f"some of {', '.join(DTYPES)}")
    add("--layout", default=LAYOUTS[0], help=f"some of {', '.join(LAYOUTS)}")
    add("--channels", default="8,64", help="default: %(default)s")
    add("--sides", default="256,512,1024", help="pixels of images along an axis; ascending")
    add("--own-weights", action="store_true", help="of every sample, for deform_conv")
    add("--workspace", type=float, default=4, metavar="MIB", help="what is set as its limit")
    return made


def of_case(made: argparse.ArgumentParser, options: argparse.Namespace) -> float:
    """Measure every peer in a process of its own, print the table, return pydeform's ratio."""
    peers = names(options.peers)
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
    return worst


def names(text: str) -> list[str]:
    """Return the parts of a list with commas."""
    return [part.strip() for part in text.split(",")]


def calls(made: argparse.ArgumentParser, options: argparse.Namespace) -> list[list[Call]]:
    """Return the calls to be measured: for each row of the table one for every side."""

    def chosen(option: str, known: Iterable[str]) -> list[str]:
        wanted = names(getattr(options, option))
        if unknown := set(wanted) - set(known):
            expected = ", ".join(known)
            made.error(f"{option}: expected some of {expected}; got {', '.join(sorted(unknown))}")
        return wanted

    if options.operation == "all":
        options.operation = ",".join(OPERATIONS)
    return [
        [
            Call(
                operation,
                way,
                dtype,
                int(side),
                int(channels),
                layout=layout,
                own_weights=options.own_weights,
                threads=options.threads,
                limit=int(options.workspace * MIB),
            )
            for side in names(options.sides)
        ]
        for operation in chosen("operation", OPERATIONS)
        for way in chosen("way", WAYS)
        for dtype in chosen("dtype", DTYPES)
        for layout in (LAYOUTS[:1] if operation in FIXED else chosen("layout", LAYOUTS))
        for channels in names(options.channels)
    ]


def measured(call: Call) -> dict[str, int]:
    """Make one call in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", as_json(call)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{call}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def of_operations(made: argparse.ArgumentParser, options: argparse.Namespace) -> float:
    """Measure every call, print the table and return the largest ratio."""
    limit = options.threads * (options.workspace * MIB + TILE)
    sides = names(options.sides)
    heads = ["operation", "way", "dtype", "layout", "channels", *sides, "ratio", "bounded"]
    rows = [heads]
    worst = 0.0
    print(f"MiB beside arguments and results, workspace {options.workspace:g} MiB a thread, ")
    print(f"{options.threads} threads; the ratio is peak/(arguments+results) of the largest")
    for row in calls(made, options):
        found = [measured(call) for call in row]
        last, first = found[-1], row[0]
        ratio = 1 + last["beside"] / (last["arguments"] + last["results"])
        worst = max(worst, ratio)
        layout = "own" if first.operation in FIXED else first.layout
        rows.append([first.operation, first.way, first.dtype, layout, str(first.channels)])
        rows[-1] += [f"{one['beside'] / MIB:.1f}" for one in found] + [f"{ratio:.2f}"]
        rows[-1].append("yes" if last["beside"] <= limit else "no")
        print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(grid(rows))
    return worst


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where the limit is passed."""
    made = parser()
    options = made.parse_args(arguments)
    worst = (of_operations if options.operation else of_case)(made, options)
    return 1 if options.limit is not None and worst > options.limit else 0


if __name__ == "__main__":
    sys.exit(main())
