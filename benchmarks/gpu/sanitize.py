"""The same checks under NVIDIA's compute-sanitizer, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu.only_gpu import Shown
from benchmarks.workers import ROOT

TOOLS = ("memcheck", "racecheck")
#: What the tool ends with where it found something; of our own, nothing ends so.
FOUND = 86
#: Slow under the tool: one example of the operations that have kernels.
CHECKED = ("deform_conv2d", "local_conv2d", "sample")


def find() -> str | None:
    """Return the tool's path: on the search path, or where CUDA is."""
    if found := shutil.which("compute-sanitizer"):
        return found
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        folder = os.environ.get(variable)
        if folder and (tool := Path(folder) / "bin" / "compute-sanitizer").is_file():
            return str(tool)
    tool = Path("/usr/local/cuda/bin/compute-sanitizer")
    return str(tool) if tool.is_file() else None


def command(sanitizer: str, tool: str, checks: int) -> list[str]:
    """Return the command line that runs the checks under a tool."""
    ours = [sys.executable, "-m", "benchmarks.gpu", "check", "--checks", str(checks)]
    # What they find is in their output; their JSON is not wanted.
    ours += ["--output", tempfile.gettempdir()]
    return [
        sanitizer, "--tool", tool, "--error-exitcode", str(FOUND),
        *ours, "--operations", ",".join(CHECKED),
    ]  # fmt: skip


def run(
    checks: int,
    sanitizer: str | None = None,
    start: Callable[[Sequence[str]], tuple[int, str]] | None = None,
) -> list[Shown]:
    """Run every tool; "not run" where there is none."""
    sanitizer = sanitizer or find()
    if sanitizer is None:
        reason = "compute-sanitizer is not installed"
        return [Shown(f"compute-sanitizer {tool}", "not run", reason) for tool in TOOLS]
    shown = []
    for tool in TOOLS:
        status, text = (start or _start)(command(sanitizer, tool, checks))
        summary = [line for line in text.splitlines() if "ERROR SUMMARY" in line.upper()
                   or "RACECHECK SUMMARY" in line]  # fmt: skip
        detail = summary[-1].strip("= ") if summary else f"ended with {status}"
        outcome = "right" if status == 0 else "wrong"
        shown.append(Shown(f"compute-sanitizer {tool}", outcome, detail))
    return shown


def _start(words: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(list(words), cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr
