"""What offsets may be: boxes, balls, and the ways to ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, isnan
from numbers import Real
from typing import NamedTuple, TypeAlias

from pydeform import _shapes
from pydeform.ops.offsets._grid import kernel_of


class Box(NamedTuple):
    """Offsets with -low <= offset <= high, low and high per axis in pixels."""

    low: tuple[float, ...]
    high: tuple[float, ...]


class Ball(NamedTuple):
    """Offsets at most `eps` pixels away from `center`."""

    center: tuple[float, ...]
    eps: float


CenterConstraint: TypeAlias = (
    float | tuple[str, float | Sequence[float], float] | Sequence[tuple[float, float]] | None
)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r} ({type(value).__name__})")
    return float(value)


def radius(name: str, value: object) -> float:
    """Return the radius of a ball, which is positive."""
    eps = _number(name, value)
    if not eps > 0 or not isfinite(eps):
        raise ValueError(f"{name}: expected a positive, finite radius in pixels, got {value!r}")
    return eps


def point(name: str, value: object, rank: int) -> tuple[float, ...]:
    """Return a point from one number for all axes or one per axis."""
    if isinstance(value, list | tuple):
        if len(value) != rank:
            raise ValueError(
                f"{name}: expected a number or {rank} of them, one per axis {_shapes.AXES[rank]}, "
                f"got {value!r}"
            )
        found = tuple(_number(name, item) for item in value)
    else:
        found = (_number(name, value),) * rank
    if not all(isfinite(item) for item in found):
        raise ValueError(f"{name}: expected finite numbers, got {value!r}")
    return found


def box_of(name: str, value: object, rank: int | None = None) -> Box:
    """Return a box from pairs (low, high), one per axis; axis i keeps to [-low, high]."""
    expected = f"{rank or '1 to 3'} pairs (low, high), one per axis, for offsets in [-low, high]"
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name}: expected {expected}, got {value!r} ({type(value).__name__})")
    if len(value) not in ((1, 2, 3) if rank is None else (rank,)):
        raise ValueError(f"{name}: expected {expected}, got {len(value)}: {value!r}")
    for pair in value:
        if not isinstance(pair, list | tuple):
            raise TypeError(f"{name}: expected {expected}, got {pair!r} in {value!r}")
        if len(pair) != 2:
            raise ValueError(f"{name}: expected {expected}, got {pair!r} in {value!r}")
    low, high = (tuple(_number(name, pair[i]) for pair in value) for i in (0, 1))
    for bound in (*low, *high):
        if isnan(bound) or bound < 0:
            raise ValueError(f"{name}: expected bounds of at least 0, got {bound!r} in {value!r}")
    return Box(low, high)


def resolve_constraint(center_constraint: object, *, kernel_size: tuple[int, ...]) -> Box | Ball:
    """Return the box or the ball that a center_constraint argument stands for.

    Parameters
    ----------
    center_constraint : None, float, ("ball", center, eps) or list of n pairs
        None keeps axis i of every offset to half the kernel's size there, [-k_i/2, k_i/2]. A number
        eps keeps offsets to the ball of that radius around 0; ("ball", center, eps) to that around
        a center, a number or one per axis. A list of n pairs (low, high) keeps axis i to [-low,
        high], so that [(2, 2), (2, 2)] is 2 pixels to either side.
    kernel_size : tuple of n int
        Taps per axis; its length is the number of axes.

    Returns
    -------
    Box or Ball
        Bounds in pixels, per axis (y, x).

    Raises
    ------
    TypeError
        If an argument is none of these.
    ValueError
        If a list has not n pairs, a bound is negative or NaN, or eps is not positive.

    Examples
    --------
    >>> import pydeform
    >>> pydeform.offsets.resolve_constraint(None, kernel_size=(3, 5))
    Box(low=(1.5, 2.5), high=(1.5, 2.5))
    >>> pydeform.offsets.resolve_constraint(2.0, kernel_size=(3, 5))
    Ball(center=(0.0, 0.0), eps=2.0)
    """
    kernel = kernel_of(kernel_size)
    rank = len(kernel)
    if center_constraint is None:
        half = tuple(k / 2 for k in kernel)
        return Box(half, half)
    if isinstance(center_constraint, Real):
        return Ball((0.0,) * rank, radius("center_constraint", center_constraint))
    if not isinstance(center_constraint, list | tuple):
        raise TypeError(
            'center_constraint: expected None, a radius, ("ball", center, eps) or '
            f"{rank} pairs (low, high), got {center_constraint!r} "
            f"({type(center_constraint).__name__})"
        )
    if len(center_constraint) > 0 and isinstance(center_constraint[0], str):
        if center_constraint[0] != "ball" or len(center_constraint) != 3:
            raise ValueError(
                f'center_constraint: expected ("ball", center, eps), got {center_constraint!r}'
            )
        center = point("center_constraint", center_constraint[1], rank)
        return Ball(center, radius("center_constraint", center_constraint[2]))
    return box_of("center_constraint", center_constraint, rank)
