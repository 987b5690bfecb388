"""How much memory columns may take at a time, and memory that the caller gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

_VARIABLE = "PYDEFORM_GPU_WORKSPACE_MIB"


def _at_import() -> int:
    text = os.environ.get(_VARIABLE, "256")
    if not text.isdecimal() or int(text) > 1 << 42:
        raise ValueError(f"{_VARIABLE}={text!r}: expected 0 to 2**42, a number of MiB")
    return int(text) << 20


_UNIT = 512  # bytes: what CuPy's pool rounds to, and aligns
_limits = {"columns": _at_import()}
_halved: ContextVar[bool] = ContextVar("pydeform_gpu_halved", default=False)
_given: ContextVar[Workspace | None] = ContextVar("pydeform_gpu_workspace", default=None)
F = TypeVar("F", bound=Callable[..., None])


def set_workspace(size: int) -> None:
    """Set the bytes that columns may take; what one tile of positions needs is always taken."""
    _limits["columns"] = size


def get_workspace() -> int:
    """Return the bytes that columns may take."""
    return _limits["columns"]


def at_a_time() -> int:
    """Return the bytes that columns may take in this call."""
    limit, workspace = _limits["columns"], _given.get()
    if workspace is not None:  # half of it is for what is beside them
        limit = min(limit, workspace.size // 2)
    return limit // 2 if _halved.get() else limit


def halve_once(function: F) -> F:
    """Run a backend function again with half the columns where the device is out of memory.

    Such a function writes all of its results anew, so that it may start over.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            return function(*args, **kwargs)
        except MemoryError:
            token = _halved.set(True)
        try:
            return function(*args, **kwargs)
        except MemoryError as error:
            raise MemoryError(
                f"{function.__name__}: no memory for {at_a_time()} bytes of columns at a time and "
                f"what is beside them ({error}); less at a time: "
                f'pydeform.set_workspace_limit({at_a_time() // 2}, "cuda")'
            ) from error
        finally:
            _halved.reset(token)

    return call  # type: ignore[return-value]


class Workspace:
    """Memory of the caller's as an allocator of CuPy's.

    Parameters
    ----------
    memory
        A CuPy array: contiguous, and the caller's to keep.

    Notes
    -----
    CuPy's pool splits what it has and puts it together again; this one is given all of the memory
    at once, and never gets more. Free memory of a pool belongs to a stream, so another stream
    starts with a pool of its own.
    """

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.skipped = -memory.data.ptr % _UNIT
        self.size = max(0, memory.nbytes - self.skipped) // _UNIT * _UNIT
        self.peak = 0
        self.stream: int | None = None
        self.pool: Any = None

    def malloc(self, size: int) -> Any:
        """Return so many bytes; MemoryError where they do not fit."""
        import cupy

        stream = cupy.cuda.get_current_stream().ptr
        if self.pool is None or stream != self.stream:
            if self.pool is not None and self.pool.used_bytes():
                raise RuntimeError(
                    "workspace: expected calls on one stream after the other, got a call on "
                    "another stream inside one"
                )
            self._start(cupy, stream)
        found = self.pool.malloc(size)
        self.peak = max(self.peak, self.pool.used_bytes())
        return found

    def _start(self, cupy: Any, stream: int) -> None:
        """Give all of the memory to a new pool."""
        memory, given = self.memory, [self.size]

        def once(size: int) -> Any:
            if not given or size > given[0]:
                raise MemoryError(
                    f"workspace: expected memory for {size} bytes more, got {self.size} bytes, of "
                    f"which {self.pool.used_bytes()} are taken"
                )
            given.clear()
            start = memory.data.ptr + self.skipped
            whole = cupy.cuda.UnownedMemory(start, size, memory, memory.device.id)
            return cupy.cuda.MemoryPointer(whole, 0)

        self.pool, self.stream = cupy.cuda.MemoryPool(once), stream
        if self.size:
            self.pool.malloc(self.size)  # and free: from here on the pool has it


@contextmanager
def given(memory: Any) -> Iterator[Workspace]:
    """Let the backend take what it needs beside arguments and results from there."""
    workspace = Workspace(memory)
    token = _given.set(workspace)
    try:
        yield workspace
    finally:
        _given.reset(token)


def in_workspace(function: F) -> F:
    """Run a backend function in the workspace that was given, if there is one."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        workspace = _given.get()
        if workspace is None:
            return function(*args, **kwargs)
        import cupy

        with cupy.cuda.using_allocator(workspace.malloc):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]
