"""How much memory columns may take at a time."""

from __future__ import annotations

import os

_VARIABLE = "PYDEFORM_GPU_WORKSPACE_MIB"


def _at_import() -> int:
    text = os.environ.get(_VARIABLE, "256")
    if not text.isdecimal() or int(text) > 1 << 42:
        raise ValueError(f"{_VARIABLE}={text!r}: expected 0 to 2**42, a number of MiB")
    return int(text) << 20


_limits = {"columns": _at_import()}


def set_workspace(size: int) -> None:
    """Set the bytes that columns may take; what one tile of positions needs is always taken."""
    _limits["columns"] = size


def get_workspace() -> int:
    """Return the bytes that columns may take."""
    return _limits["columns"]
