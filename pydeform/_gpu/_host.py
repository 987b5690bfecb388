"""The host execution: kernels built by a C++ compiler, each of their threads a fiber on this CPU.

Slow, and exact about what CUDA leaves undefined: a divergent barrier, a lane outside its mask and a
misaligned pack end the launch with a RuntimeError; a race shows as a difference between schedules;
PYDEFORM_HOST_SANITIZE=address,undefined builds with the compiler's sanitizers.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydeform._gpu import _declared

_FILES = ("runtime.h", "half.h", "product.h", "stacks.h", "cuda_on_host.h", "runtime.cpp")
# No contraction and no aliasing rules: kernels reinterpret memory as GPUs allow.
_FLAGS = ("-std=c++17", "-fPIC", "-shared", "-pthread", "-fno-strict-aliasing", "-ffp-contract=off")
_schedule: ContextVar[tuple[int, int]] = ContextVar("pydeform_host_schedule", default=(0, 1))


@contextmanager
def schedule(seed: int = 0, threads: int = 1) -> Iterator[None]:
    """Choose the order in which kernels run inside a `with` block.

    Parameters
    ----------
    seed : int
        0: threads and blocks take turns in ascending order; 1: in descending order, so that of two
        unsynchronised accesses the other one comes first; else threads in random order.
    threads : int
        OS threads that blocks are spread over.
    """
    token = _schedule.set((seed, threads))
    try:
        yield
    finally:
        _schedule.reset(token)


def launch(
    source: str,
    kernel: _declared.Kernel,
    instance: tuple[str, ...],
    grid: tuple[int, ...],
    block: tuple[int, ...],
    packed: bytes,
    shared: int,
) -> None:
    """Run a kernel on this CPU; a RuntimeError names what it did wrong."""
    # Building with sanitizers is slow: then by the instance, else all that a kernel has at once. So
    # where few instances are wanted, of what is compiled for another architecture than Hopper.
    special = os.environ.get("PYDEFORM_HOST_SANITIZE") or os.environ.get("PYDEFORM_HOST_ARCH")
    alone = (instance,) if special else None
    size, functions = _library(source, kernel.name, alone)
    if size != len(packed):
        raise ValueError(f"args: {kernel.args} has {size // 8} members, got {len(packed) // 8}")
    seed, threads = _schedule.get()
    shape = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
    message = ctypes.create_string_buffer(256)
    run = _runtime().coh_launch
    if run(functions[instance], packed, shape, shared, threads, seed, message, len(message)):
        raise RuntimeError(f"{kernel.call(instance)}: {message.value.decode()}")


def cache_folder() -> Path:
    """Where built kernels are kept: PYDEFORM_CACHE_DIR, else a folder of the user's caches."""
    if chosen := os.environ.get("PYDEFORM_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pydeform"


def _run(call: list[str], folder: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the compiler that the user's environment names
        call, cwd=folder, capture_output=True, text=True, check=False
    )


@cache
def _compiler() -> tuple[tuple[str, ...], str]:
    """The compiler's command with flags of all builds, and its version."""
    command = shlex.split(os.environ.get("CXX", "g++"))
    try:
        version = _run([*command, "--version"])
    except OSError as error:
        raise RuntimeError(f"no C++ compiler: {shlex.join(command)} ({error}); set CXX") from error
    flags = [*_FLAGS, *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else [])]
    if sanitize := os.environ.get("PYDEFORM_HOST_SANITIZE"):
        flags += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-g1"]
    if arch := os.environ.get("PYDEFORM_HOST_ARCH"):
        flags.append(f"-DPYD_ARCH={int(arch)}")
    return (*command, *flags), version.stdout


@cache
def _files() -> dict[str, str]:
    folder = resources.files(__package__).joinpath("host")
    return {name: folder.joinpath(name).read_text(encoding="utf-8") for name in _FILES}


def _build(name: str, source: str, flags: tuple[str, ...]) -> Path:
    """Build a library, unless the cache has it; many processes may want it at once."""
    import fcntl

    command, version = _compiler()
    known = "\0".join((version, *command, *flags, source, *_files().values()))
    key = hashlib.sha256(known.encode()).hexdigest()[:24]
    folder = cache_folder()
    library = folder / f"{name}-{key}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return library
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as work:
            for file, text in _files().items():
                (Path(work) / file).write_text(text, encoding="utf-8")
            (Path(work) / "source.cpp").write_text(source, encoding="utf-8")
            call = [*command, *flags, "source.cpp", "-o", "library.so"]
            done = _run(call, work)
            if done.returncode:
                raise RuntimeError(f"{name}: {shlex.join(call)}\n{done.stderr}")
            (Path(work) / "library.so").replace(library)
    return library


@cache
def _runtime() -> Any:
    """The scheduler; its names are global, for the libraries of kernels."""
    text = _files()["runtime.cpp"]
    library = ctypes.CDLL(str(_build("runtime", text, ("-O2",))), mode=ctypes.RTLD_GLOBAL)
    pointer = ctypes.c_void_p
    library.coh_launch.argtypes = [
        pointer, ctypes.c_char_p, pointer, ctypes.c_size_t,
        ctypes.c_uint, ctypes.c_uint, ctypes.c_char_p, ctypes.c_size_t,
    ]  # fmt: skip
    return library


@cache
def _library(
    source: str, name: str, chosen: tuple[_declared.Instance, ...] | None
) -> tuple[int, dict[_declared.Instance, Any]]:
    """Bytes of a kernel's struct, and its instances: one library for all of them, or for some."""
    _runtime()
    kernel = _declared.kernels(source)[name]
    instances = kernel.instances if chosen is None else chosen
    text = [
        '#include "cuda_on_host.h"',
        _declared.joined(source),
        '#line 1 "stubs"',
        'extern "C" {',
    ]
    text.append(f"extern const long long coh_size = sizeof({kernel.args});")
    text += [
        f"void {kernel.symbol(i)}(void* a) "
        f"{{ coh::Copies copies; {kernel.call(i)}(*static_cast<const {kernel.args}*>(a)); }}"
        for i in instances
    ]
    # Optimising what sanitizers insert takes GCC many minutes.
    level = "-O0" if os.environ.get("PYDEFORM_HOST_SANITIZE") else "-O1"
    warnings = (level, "-Wall", "-Wno-unknown-pragmas", "-Wno-unused")
    stem = f"{Path(source).stem}-{name}"
    library = ctypes.CDLL(str(_build(stem, "\n".join([*text, "}", ""]), warnings)))
    size = ctypes.c_longlong.in_dll(library, "coh_size").value
    return size, {
        i: ctypes.cast(getattr(library, kernel.symbol(i)), ctypes.c_void_p) for i in instances
    }
