"""Public functions of rank 1, 2 and 3 from one that takes the rank, with one documentation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# What stands for sizes in the documentation of all ranks, and what it is in that of one.
_WORDS = {
    1: {"images": "signals", "*S": "W", "*O": "Wo", "*k": "kW", "PROD": "kW"},
    2: {"*S": "H, W", "*O": "Ho, Wo", "*k": "kH, kW", "PROD": "kH*kW"},
    3: {
        "images": "volumes",
        "*S": "D, H, W",
        "*O": "Do, Ho, Wo",
        "*k": "kD, kH, kW",
        "PROD": "kD*kH*kW",
    },
}
_AXES = {1: "(x,)", 2: "(y, x)", 3: "(z, y, x)"}


def documented(text: str, rank: int) -> str:
    """Return the documentation of one rank from that of all.

    ``RANK`` is the number of axes (``namesRANKd`` are names), ``AXES`` their names, ``images``,
    ``*S``, ``*O`` and ``*k`` what is read, its size, the output's and the kernel's; ``PROD`` is the
    number of taps.
    """
    text = text.replace("RANK", str(rank)).replace("AXES", _AXES[rank])
    pattern = "|".join(re.escape(word) for word in _WORDS[rank])
    return re.sub(pattern, lambda found: _WORDS[rank][found.group()], text)


def of_rank(function: Callable[Concatenate[int, P], R], rank: int) -> Callable[P, R]:
    """Return the function of one rank: its first argument is filled in, its name ends in 1d to 3d.

    Parameters
    ----------
    function : callable
        Its first parameter is the rank; its name is ``X``, ``X_backward``, ``X_jvp`` or
        ``X_double_backward``.
    rank : {1, 2, 3}
        Number of axes.

    Returns
    -------
    callable
        With name, signature and documentation of its own.
    """

    @wraps(function)
    def ranked(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(rank, *args, **kwargs)

    stem, kind = re.fullmatch(r"(\w+?)((?:_double)?_backward|_jvp|)", function.__name__).groups()  # type: ignore[union-attr]
    ranked.__name__ = ranked.__qualname__ = f"{stem}{rank}d{kind}"
    ranked.__doc__ = documented(function.__doc__ or "", rank)
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1:]
    ranked.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return ranked
