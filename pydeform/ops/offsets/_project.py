"""Projections of offsets onto boxes and balls."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, ClassVar, NamedTuple, TypeVar

from pydeform._arrays import Array
from pydeform.ops._checks import Layout
from pydeform.ops._composed import Formulas, Terms, constants, derivatives, namespace, run
from pydeform.ops.offsets._constraint import (
    Ball,
    Box,
    CenterConstraint,
    box_of,
    point,
    radius,
    resolve_constraint,
)
from pydeform.ops.offsets._grid import is_last, offset_channels

A = TypeVar("A", bound=Array)

# tanh(z)/z = sum of these times z^(2j); below _SMALL the next term is under one unit of float64.
_TANH = (1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075)
#: By how many machine epsilons a ball's radius is rounded to the inside.
INWARDS = 8
_SMALL = 0.125


class _Plan(NamedTuple):
    rank: int
    last: bool
    smooth: bool
    region: Box | Ball
    batch: int
    taps: int  # G*K
    out_size: tuple[int, ...]


def _per_axis(values: Sequence[float], array: Any) -> Any:
    """Return constants beside an array [N, G*K, n, *O]."""
    xp = namespace(array)
    found = constants(values, array)
    return xp.reshape(found, (1, 1, len(values), *(1,) * len(values)))


def _box(plan: _Plan, v: Any) -> tuple[Any, Any, Any]:
    """Return the projection of v onto a box, and its first and second derivative, all per entry."""
    xp, region = namespace(v), plan.region
    assert isinstance(region, Box)  # noqa: S101
    low, high = _per_axis(region.low, v), _per_axis(region.high, v)
    if plan.smooth:
        # bound*tanh(v/bound) with the bound of v's own side, which keeps 0 and, to second order,
        # what is near it; a bound of 0 leaves 0.
        bound = xp.where(v < 0, low, high)
        finite = (bound > 0) & (bound < inf)
        safe = xp.where(finite, bound, xp.ones_like(bound))
        t = xp.tanh(v / safe)
        free = xp.astype(bound > 0, v.dtype)
        slope = xp.where(finite, 1 - t * t, free)
        curve = xp.where(finite, -2 * t * (1 - t * t) / safe, xp.zeros_like(v))
        return xp.where(finite, bound * t, xp.where(bound > 0, v, 0 * v)), slope, curve
    below, above = v < -low, v > high
    outside = xp.astype(below | above, v.dtype)
    return xp.where(below, -low, xp.where(above, high, v)), 1 - outside, 0 * outside


class _Radial(NamedTuple):
    """The map u -> F(r) u/r with r = |u|: what its derivatives are made of, [N, G*K, 1, *O]."""

    unit: Any  # u/r, 0 where r is 0
    value: Any  # F
    ratio: Any  # F/r
    slope: Any  # F'
    bend: Any  # (F' - F/r)/r
    curve: Any  # F''
    inside: Any  # where a hard ball leaves things as they are

    def times(self, v: Any) -> Any:
        """Return the Jacobian, which is symmetric, times v."""
        xp = namespace(v)
        along = xp.sum(self.unit * v, axis=2, keepdims=True)
        return self.ratio * (v - along * self.unit) + self.slope * along * self.unit


def _ball(plan: _Plan, v: Any) -> _Radial:
    """Return the radial map of a ball at offsets v."""
    xp, region = namespace(v), plan.region
    assert isinstance(region, Ball)  # noqa: S101
    u = v - _per_axis(region.center, v)
    # Rounded to the inside: what comes out has at most the length eps by any order of operations.
    eps, limit = region.eps, float("inf")
    if v.dtype != object:  # which rounds nothing
        eps *= 1 - INWARDS * float(xp.finfo(v.dtype).eps)
        limit = float(xp.finfo(v.dtype).max) / 4  # of what is longer, only the length suffers
    largest = xp.max(xp.abs(u), axis=2, keepdims=True)
    one = xp.ones_like(largest)
    scale = xp.where(largest == 0, one, largest)  # and NaN stays
    w = u / scale  # no square overflows or is lost
    length = xp.sqrt(xp.sum(w * w, axis=2, keepdims=True))
    unit = w / xp.where(length == 0, one, length)
    r = xp.where(scale > limit, limit * one, scale) * length
    if plan.smooth:
        z = r / eps
        t = xp.tanh(z)
        f1, f2 = 1 - t * t, -2 * t * (1 - t * t) / eps
        # F' - F/r is a difference of near ones for small z: a series there.
        small = z < _SMALL
        near = xp.where(small, z, 0 * one)
        series, power = 0 * near, one
        for j, c in enumerate(_TANH):
            series, power = series + 2 * j * c * power, power * near * near
        ratio = xp.where(z == 0, one, t / xp.where(z == 0, one, z))
        bend = xp.where(small, series, f1 - ratio) / xp.where(r == 0, one, r)
        return _Radial(unit, eps * t, ratio, f1, bend, f2, xp.zeros_like(z) > 0)
    inside, zero = r <= region.eps, 0 * one
    safe = xp.where(inside, one, r)
    ratio = xp.where(inside, one, eps / safe)
    bend = xp.where(inside, zero, -ratio / safe)
    value = xp.where(inside, r, eps + zero)
    return _Radial(unit, value, ratio, xp.where(inside, one, zero), bend, zero, inside)


class _Project(Formulas):
    names: ClassVar[tuple[str, ...]] = ("offset",)
    positional: ClassVar[tuple[str, ...]] = ("offset", "output")

    def plan(self, arrays: Terms, options: Any) -> _Plan:
        offset, region = arrays["offset"], self.region(options, arrays["offset"].ndim - 2)
        smooth, last = options["smooth"], is_last(options["layout"])
        if not isinstance(smooth, bool):
            raise TypeError(f"smooth: expected True or False, got {smooth!r}")
        rank = len(region[0] if isinstance(region, Box) else region.center)
        taps = offset_channels(offset, rank, last)
        out = offset.shape[1:-1] if last else offset.shape[2:]
        return _Plan(rank, last, smooth, region, offset.shape[0], taps, out)

    def region(self, options: Any, rank: int) -> Box | Ball:
        """Return what to project onto."""
        raise NotImplementedError

    def shape(self, plan: _Plan) -> tuple[int, ...]:
        return (plan.batch, plan.taps * plan.rank, *plan.out_size)

    def _vectors(self, plan: _Plan, array: Any) -> Any:
        """[N, G*K*n, *O] -> [N, G*K, n, *O]."""
        split = (plan.batch, plan.taps, plan.rank, *plan.out_size)
        return namespace(array).reshape(array, split)

    def _channels(self, plan: _Plan, array: Any) -> Any:
        return namespace(array).reshape(array, self.shape(plan))

    def forward(self, plan: _Plan, arrays: Terms) -> Any:
        v = self._vectors(plan, arrays["offset"])
        if isinstance(plan.region, Box):
            return self._channels(plan, _box(plan, v)[0])
        xp, radial = namespace(v), _ball(plan, v)
        center = _per_axis(plan.region.center, v)
        moved = center + radial.value * radial.unit
        return self._channels(plan, xp.where(radial.inside, v, moved))

    def _jacobian(self, plan: _Plan, direction: Any, arrays: Terms) -> Any:
        """Return the Jacobian, which is symmetric, times a direction."""
        v, d = (self._vectors(plan, a) for a in (arrays["offset"], direction))
        if isinstance(plan.region, Box):
            return self._channels(plan, _box(plan, v)[1] * d)
        return self._channels(plan, _ball(plan, v).times(d))

    def backward(self, plan: _Plan, grad_output: Any, arrays: Terms) -> Terms:
        return {"offset": self._jacobian(plan, grad_output, arrays)}

    def jvp(self, plan: _Plan, tangents: Terms, arrays: Terms) -> Any:
        return self._jacobian(plan, tangents["offset"], arrays)

    def second(self, plan: _Plan, tangents: Terms, grad_output: Any, arrays: Terms) -> Terms:
        given = (arrays["offset"], tangents["offset"], grad_output)
        v, g, y = (self._vectors(plan, a) for a in given)
        if isinstance(plan.region, Box):
            return {"offset": self._channels(plan, _box(plan, v)[2] * g * y)}
        xp, m = namespace(v), _ball(plan, v)
        # <y, J g> = ratio <y, g> + r bend <unit, y> <unit, g>, by the rules for each factor.
        a = xp.sum(m.unit * y, axis=2, keepdims=True)
        b = xp.sum(m.unit * g, axis=2, keepdims=True)
        d = xp.sum(y * g, axis=2, keepdims=True)
        along = m.bend * (d - 3 * a * b) + m.curve * a * b
        return {"offset": self._channels(plan, along * m.unit + m.bend * (b * y + a * g))}


class _ProjectBox(_Project):
    def region(self, options: Any, rank: int) -> Box | Ball:
        return box_of("bounds", options["bounds"], rank)


class _ProjectBall(_Project):
    def region(self, options: Any, rank: int) -> Box | Ball:
        eps = radius("eps", options["eps"])
        return Ball(point("center", options["center"], rank), eps)


class _Constrain(_Project):
    def region(self, options: Any, rank: int) -> Box | Ball:
        del rank
        return resolve_constraint(options["center_constraint"], kernel_size=options["kernel_size"])


_BOX, _BALL, _CONSTRAIN = _ProjectBox(), _ProjectBall(), _Constrain()


def project_box(
    offset: A,
    bounds: Sequence[tuple[float, float]],
    *,
    smooth: bool = False,
    layout: Layout = "channels_first",
) -> A:
    """Bring every offset into a box.

    Axis i goes to the nearest number of [-low_i, high_i]; with `smooth`, to ``high*tanh(v/high)``,
    or with low for negative v, which is inside for any v and leaves small offsets nearly alone.

    Parameters
    ----------
    offset : array, shape (N, G*K*n, *O)
        Offsets in pixels.
    bounds : sequence of n pairs (low, high)
        Pixels to either side of 0 along each axis (y, x), at least 0; infinity bounds nothing.
    smooth : bool
        Bend instead of clip.
    layout : {"channels_first", "channels_last"}
        With "channels_last" offsets are (N, *O, G*K*n).

    Returns
    -------
    array, shape of offset
        Offsets inside the box.

    Raises
    ------
    TypeError
        If an argument is not of its type, or the array is not float32 or float64.
    ValueError
        If shapes do not fit, there are not n pairs, or a bound is negative or NaN.

    See Also
    --------
    constrain : The same, from any form of constraint.

    Notes
    -----
    Without `smooth` the derivative is 1 inside and on the boundary, 0 outside. A NaN stays one.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> pydeform.offsets.project_box(np.array([[[-3.0, 0.5, 4.0]]]), [(1, 2)])
    array([[[-1. ,  0.5,  2. ]]])
    """
    options = {"bounds": bounds, "smooth": smooth, "layout": layout}
    return run(_BOX, {"offset": offset}, options)  # type: ignore[no-any-return]


def project_ball(
    offset: A,
    eps: float,
    *,
    center: float | Sequence[float] = 0.0,
    smooth: bool = False,
    layout: Layout = "channels_first",
) -> A:
    """Bring every tap's offset, as a vector of n coordinates, into a ball.

    With u = offset - center and r its length, the result is ``center + u*min(1, eps/r)``, the
    nearest point; with `smooth` ``center + u*eps*tanh(r/eps)/r``, which is inside for any offset.

    Parameters
    ----------
    offset : array, shape (N, G*K*n, *O)
        Offsets in pixels.
    eps : float
        Radius in pixels, positive.
    center : float or n of them
        Centre of the ball along (y, x).
    smooth : bool
        Bend instead of cut.
    layout : {"channels_first", "channels_last"}
        With "channels_last" offsets are (N, *O, G*K*n).

    Returns
    -------
    array, shape of offset
        Offsets inside the ball.

    Raises
    ------
    TypeError
        If an argument is not of its type, or the array is not float32 or float64.
    ValueError
        If shapes do not fit, or eps is not positive and finite.

    See Also
    --------
    constrain : The same, from any form of constraint.

    Notes
    -----
    Offsets that are inside keep their bits. Those outside are rounded to the inside by 8 units of
    rounding, so that the result's computed length is eps at most where the center is 0. A vector
    with a coordinate that is not finite becomes NaN.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> pydeform.offsets.project_ball(np.array([[[[3.0]], [[4.0]]]]), 2.5).ravel()
    array([1.5, 2. ])
    """
    options = {"eps": eps, "center": center, "smooth": smooth, "layout": layout}
    return run(_BALL, {"offset": offset}, options)  # type: ignore[no-any-return]


def constrain(
    offset: A,
    center_constraint: CenterConstraint = None,
    *,
    kernel_size: tuple[int, ...],
    smooth: bool = False,
    layout: Layout = "channels_first",
) -> A:
    """Bring every offset into what a center_constraint argument stands for.

    Parameters
    ----------
    offset : array, shape (N, G*K*n, *O)
        Offsets in pixels.
    center_constraint : None, float, ("ball", center, eps) or list of n pairs
        None is the box [-k_i/2, k_i/2], a number eps the ball of that radius around 0, ("ball",
        center, eps) that around a center, and pairs (low, high) the box [-low, high]: see
        `resolve_constraint`.
    kernel_size : tuple of n int
        Taps per axis; its length is the number of axes.
    smooth : bool
        Bend instead of cut.
    layout : {"channels_first", "channels_last"}
        With "channels_last" offsets are (N, *O, G*K*n).

    Returns
    -------
    array, shape of offset
        Offsets that keep the constraint.

    Raises
    ------
    TypeError
        If an argument is not of its type, or the array is not float32 or float64.
    ValueError
        If shapes do not fit, or the constraint is none; see `resolve_constraint`.

    See Also
    --------
    project_box, project_ball : What it comes to.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> pydeform.offsets.constrain(np.array([[[-3.0], [0.5], [4.0]]]), kernel_size=(3,)).ravel()
    array([-1.5,  0.5,  1.5])
    """
    options = {
        "center_constraint": center_constraint,
        "kernel_size": kernel_size,
        "smooth": smooth,
        "layout": layout,
    }
    return run(_CONSTRAIN, {"offset": offset}, options)  # type: ignore[no-any-return]


project_box_backward, project_box_jvp, project_box_double_backward = derivatives(
    _BOX, project_box, ("np.ones((1, 3, 4))", "offset, [(1, 2)]")
)
(
    project_ball_backward,
    project_ball_jvp,
    project_ball_double_backward,
) = derivatives(_BALL, project_ball, ("np.ones((1, 6, 4, 4))", "offset, 0.5"))
constrain_backward, constrain_jvp, constrain_double_backward = derivatives(
    _CONSTRAIN, constrain, ("np.ones((1, 18, 4, 4))", "offset, 0.5, kernel_size=(3, 3)")
)
