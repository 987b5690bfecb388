"""CuPy by the names of the array API: its arrays have no namespace, its functions no `device`.

Imported only where a CuPy array was passed, so CuPy is there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

cupy: Any = sys.modules["cupy"]


def __getattr__(name: str) -> Any:
    return getattr(cupy, name)


def _creation(name: str) -> Callable[..., Any]:
    """Return the function of this name, on the device that is asked for."""

    def make(*args: Any, device: Any, **options: Any) -> Any:
        with device:
            return getattr(cupy, name)(*args, **options)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"Return `cupy.{name}` of the arguments on a device."
    return make


arange, asarray, eye, full = map(_creation, ("arange", "asarray", "eye", "full"))
