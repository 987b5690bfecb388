"""On what, with what and how something was measured: facts that belong to every number."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import pydeform
from benchmarks.workers import ROOT


def cpu_model() -> str:
    """Return the processor's name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def vector_units() -> list[str]:
    """Return which of the vector extensions that matter here the processor has."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return []
    known = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve")
    return [name for name in known if name in words]


def memory_bytes() -> int:
    """Return the size of the memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def commit() -> str:
    """Return the commit of the source tree, with a plus sign where files were changed."""
    git = shutil.which("git")
    if git is None:
        return ""

    def ask(*words: str) -> str:
        done = subprocess.run([git, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    found = ask("rev-parse", "--short=10", "HEAD")
    changed = ask("status", "--porcelain", "--untracked-files=no", "--", "pydeform", "setup.py")
    return found + ("+" if changed else "")


def facts(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return what a report says about its circumstances; names no user, host or folder.

    Parameters
    ----------
    module : str
        What ``python -m`` ran.
    arguments : sequence of str
        Its command line.
    """
    build = pydeform.info().build
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", module, *arguments]),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "vectors": vector_units(),
            "memory_gib": round(memory_bytes() / 2**30, 1),
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {
            "pydeform": pydeform.__version__,
            "commit": commit(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "build": {k: v if isinstance(v, str | bool | int) else str(v) for k, v in build.items()},
    }
