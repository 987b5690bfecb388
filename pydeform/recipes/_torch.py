"""torch by the names of the array API: what torch itself calls otherwise.

Imported only where a torch tensor was passed, so torch is there.
"""

from __future__ import annotations

import sys
from typing import Any

torch: Any = sys.modules["torch"]


def __getattr__(name: str) -> Any:
    return getattr(torch, name)


def permute_dims(x: Any, /, axes: tuple[int, ...]) -> Any:
    """Return axes in another order."""
    return x.permute(axes)


def expand_dims(x: Any, /, *, axis: int = 0) -> Any:
    """Return the array with a new axis of size 1."""
    return x.unsqueeze(axis)


def max(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Return the maximum over some axes."""
    return torch.amax(x, dim=() if axis is None else axis, keepdim=keepdims)


def flip(x: Any, /, *, axis: int) -> Any:
    """Return the order of elements along an axis turned round."""
    return torch.flip(x, (axis,))
