"""How much memory columns may take at a time."""

from __future__ import annotations

_limit = 256 << 20


def limit() -> int:
    """Bytes."""
    return _limit


def set_workspace(size: int) -> None:
    """Set the bytes that columns may take; what one tile of positions needs is always taken."""
    global _limit
    _limit = size


def get_workspace() -> int:
    """Return the bytes that columns may take."""
    return _limit
