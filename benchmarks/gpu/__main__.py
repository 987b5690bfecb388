"""Check, measure and show the CUDA backend on this machine's GPU: ``python -m benchmarks.gpu``."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from benchmarks.cpu import published
from benchmarks.gpu import ceilings, checks, device, floors, kernels, only_gpu, sanitize
from benchmarks.gpu.cases import ITEMSIZE, SHAPES, Timed, plan
from benchmarks.gpu.contest import hold, short
from benchmarks.gpu.found import BEGIN, END, Found, as_markdown, passes_table, predicted_table
from benchmarks.machine import facts
from benchmarks.progress import Say, progress
from benchmarks.report import write_section
from benchmarks.workers import ROOT

STEPS = ("check", "ceilings", "times", "kernels", "show", "sanitize")
RESULTS = Path(__file__).parents[1] / "results"
README = Path(__file__).with_name("README.md")


def words(text: str) -> list[str]:
    """Split at commas."""
    return [word for word in text.split(",") if word]


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, allow_abbrev=False
    )
    add = made.add_argument
    add("steps", nargs="*", metavar="STEP", default=[],
        help=f"some of {', '.join(STEPS)} (default: all); or predict, which needs no GPU: floors "
        "and predictions alone")  # fmt: skip
    add("--cases", type=words, default=list(SHAPES), help="names of problems with commas")
    add("--dtypes", type=words, default=list(ITEMSIZE), help="float16,float32")
    add("--rounds", type=int, default=21, help="rounds of every contest (default: 21)")
    add("--runs", type=int, default=100, help="runs that must give equal bits (default: 100)")
    add("--checks", type=int, default=4, help="examples of every operation (default: 4)")
    add("--operations", type=words, default=[], help="check only these, by public name")
    add("--emulate", action="store_true",
        help="tiny problems in the host execution, without CuPy: tests this script, measures "
        "nothing")  # fmt: skip
    add("--output", type=Path, default=RESULTS, metavar="FOLDER", help="for the JSON")
    add("--load", type=Path, metavar="JSON", help="show this report instead of running")
    add("--write-readme", action="store_true", help="put the tables into benchmarks/gpu/README.md")
    return made


def build() -> str:
    """Build the CPU backend in place where it is missing and can be; say what was done.

    The CUDA kernels need no building: CuPy compiles each when it is first used.
    """
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    if (ROOT / "pydeform" / f"_cpu{suffix}").exists():
        return "built before"
    if find_spec("Cython") is None:
        return "not built: Cython is not installed"
    if not any(map(shutil.which, ("cc", "gcc", "clang", "cl"))):
        return "not built: no C compiler"
    call = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    return "built" if done.returncode == 0 else f"not built: {done.stderr.strip()[-200:]}"


def predict(timed: Sequence[Timed]) -> str:
    """Return floors and predictions on the device that the documentation assumes."""
    parts = [predicted_table(list(timed), floors.H100)]
    for one in timed:
        if one.shape.name in ("R256", "dcnv4-64") and one.dtype == "float16":
            for way in floors_ways(one):
                parts += [f"**{one.words}, {way}**", passes_table(one, way, floors.H100)]
    return "\n\n".join(parts)


def floors_ways(timed: Timed) -> list[str]:
    """Return the ways that are predicted for a problem."""
    from benchmarks.gpu.predictions import predictions

    return list(predictions(timed))


def time_all(place: device.Device, found: Found, timed: list[Timed], rounds: int, say: Say) -> None:
    """Hold every contest."""
    for number, one in enumerate(timed):
        say(one.words, number / len(timed))
        found.floors[one.words] = floors.floor(one, found.ceilings)
        try:
            measured, failed = hold(place, one, rounds)
        except Exception as error:  # noqa: BLE001  (out of memory in one ends not the others)
            measured, failed = [], {"pydeform": short(error)}
        found.measured += measured
        found.failed += [
            {"case": one.words, "contestant": name, "reason": reason}
            for name, reason in failed.items()
        ]
        place.free_bytes()


def run(options: argparse.Namespace, place: device.Device, found: Found, say: Say) -> None:
    """Take the steps that were asked for, or all of them."""
    steps = options.steps or STEPS
    small = options.emulate
    if "check" in steps:
        try:
            names = tuple(options.operations)
            found.checks = checks.run(place, options.checks, say, names)
        except ImportError as error:
            found.absent["check"] = f"{error.name} is not installed"
    if "ceilings" in steps or "times" in steps:
        say("ceilings", 0.0)
        found.ceilings = ceilings.measure(place, small)
    if "times" in steps:
        timed = plan(options.cases, options.dtypes, small)
        time_all(place, found, timed, options.rounds, say)
    if "kernels" in steps:
        if place.name != "cuda" or find_spec("torch") is None:
            found.absent["kernels"] = "torch's profiler watches a GPU"
        else:
            for one in plan(options.cases, options.dtypes, small):
                say(f"kernels of {one.words}", 0.0)
                try:
                    found.kernels += kernels.watched(place, one)
                except ValueError as error:
                    found.absent[f"kernels of {one.words}"] = str(error)
    if "show" in steps:
        say("what only a GPU can show", 0.0)
        found.shown += only_gpu.run(place, options.runs, small)
    if "sanitize" in steps:
        say("compute-sanitizer", 0.0)
        if place.name == "cuda":
            found.shown += sanitize.run(min(options.checks, 2))
        else:
            found.absent["compute-sanitizer"] = "it watches a GPU"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the tables, write the JSON; 1 where something is wrong, 2 without a GPU."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    made = parser()
    options = made.parse_args(given)
    if unknown := sorted(set(options.steps) - {*STEPS, "predict"}):
        made.error(f"steps: expected some of {', '.join(STEPS)}, or predict; got {unknown[0]}")
    try:
        timed = plan(options.cases, options.dtypes, small=False)
    except ValueError as error:
        made.error(str(error))
    if "predict" in options.steps:
        print(predict(timed))
        return 0
    if options.load:
        found = Found.load(options.load)
    else:
        if not options.emulate and (reason := device.absent()):
            print(f"{reason}; --emulate tests this script without a GPU", file=sys.stderr)
            return 2
        built = build()
        place = device.Emulated() if options.emulate else device.Cuda()
        kept = facts("benchmarks.gpu", published(given))
        kept["device"] = place.facts()
        kept["versions"] |= device.versions() | {"CPU backend": built}
        found = Found(kept, floors.H100)
        with progress() as say:
            run(options, place, found, say)
        path = options.output / f"gpu-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        found.save(path)
        print(f"wrote {path.name}", file=sys.stderr)
    print(as_markdown(found))
    if options.write_readme:
        write_section(as_markdown(found), README, BEGIN, END)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
