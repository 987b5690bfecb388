"""How much memory columns may take at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

_VARIABLE = "PYDEFORM_GPU_WORKSPACE_MIB"


def _at_import() -> int:
    text = os.environ.get(_VARIABLE, "256")
    if not text.isdecimal() or int(text) > 1 << 42:
        raise ValueError(f"{_VARIABLE}={text!r}: expected 0 to 2**42, a number of MiB")
    return int(text) << 20


_limits = {"columns": _at_import()}
_halved: ContextVar[bool] = ContextVar("pydeform_gpu_halved", default=False)
F = TypeVar("F", bound=Callable[..., None])


def set_workspace(size: int) -> None:
    """Set the bytes that columns may take; what one tile of positions needs is always taken."""
    _limits["columns"] = size


def get_workspace() -> int:
    """Return the bytes that columns may take."""
    return _limits["columns"]


def at_a_time() -> int:
    """Return the bytes that columns may take in this call."""
    return _limits["columns"] // 2 if _halved.get() else _limits["columns"]


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
