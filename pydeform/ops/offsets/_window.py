"""Masks that make part of a kernel its receptive field."""

from __future__ import annotations

from math import prod
from typing import Any, TypeVar

from pydeform._arrays import Array
from pydeform.ops._checks import Layout, PerAxis
from pydeform.ops._composed import Terms, derivatives, namespace, run
from pydeform.ops.offsets._grid import ParameterPlan, Parametric, taps_like

A = TypeVar("A", bound=Array)


class _Window(Parametric):
    def shape(self, plan: ParameterPlan) -> tuple[int, ...]:
        return (plan.batch, plan.groups * prod(plan.kernel), *plan.out_size)

    def _split(self, plan: ParameterPlan, mask: Any) -> Any:
        """[N, G*K, *O] -> [N, G, K, 1, *O]."""
        split = (plan.batch, plan.groups, prod(plan.kernel), 1, *plan.out_size)
        return namespace(mask).reshape(mask, split)

    def _distance(self, plan: ParameterPlan, at: Terms) -> Any:
        """tap - shift, in taps: [N, G, K, n, *O], or what broadcasts to it."""
        taps = taps_like(plan, at["size"])
        return taps - at["shift"][:, :, None, ...] if "shift" in at else taps


class _Gaussian(_Window):
    """m = exp(-sum_d z_d^2 / 2), z = (tap - shift) / size."""

    def _terms(self, plan: ParameterPlan, at: Terms) -> tuple[Any, Any, Any]:
        """z, the size beside it, and m [N, G, K, 1, *O]."""
        size = at["size"][:, :, None, ...]
        z = self._distance(plan, at) / size
        xp = namespace(z)
        return z, size, xp.exp(-xp.sum(z * z, axis=3, keepdims=True) / 2)

    def _slope(self, tangents: Terms, z: Any, size: Any) -> Any:
        """The derivative of log m along tangents: [N, G, K, 1, *O]."""
        slope = z * z / size * tangents["size"][:, :, None, ...]
        if "shift" in tangents:
            slope = slope + z / size * tangents["shift"][:, :, None, ...]
        return namespace(z).sum(slope, axis=3, keepdims=True)

    def at(self, plan: ParameterPlan, at: Terms) -> Any:
        return namespace(at["size"]).reshape(self._terms(plan, at)[2], self.shape(plan))

    def at_jvp(self, plan: ParameterPlan, tangents: Terms, at: Terms) -> Any:
        z, size, m = self._terms(plan, at)
        return namespace(z).reshape(m * self._slope(tangents, z, size), self.shape(plan))

    def at_backward(self, plan: ParameterPlan, grad_output: Any, at: Terms) -> Terms:
        z, size, m = self._terms(plan, at)
        xp, weight = namespace(z), m * self._split(plan, grad_output)
        found = {"size": xp.sum(weight * (z * z / size), axis=2)}
        if "shift" in at:
            found["shift"] = xp.sum(weight * (z / size), axis=2)
        return found

    def at_second(self, plan: ParameterPlan, tangents: Terms, grad_output: Any, at: Terms) -> Terms:
        """d(m dl) = m (dl dl + d2l) with l = log m."""
        z, size, m = self._terms(plan, at)
        xp, weight = namespace(z), m * self._split(plan, grad_output)
        slope = self._slope(tangents, z, size)
        u = tangents["size"][:, :, None, ...]
        size_term = slope * (z * z / size) - 3 * z * z / (size * size) * u
        found = {}
        if "shift" in at:
            v = tangents["shift"][:, :, None, ...]
            size_term = size_term - 2 * z / (size * size) * v
            shift_term = slope * (z / size) - (v + 2 * z * u) / (size * size)
            found["shift"] = xp.sum(weight * shift_term, axis=2)
        return {"size": xp.sum(weight * size_term, axis=2), **found}


class _Box(_Window):
    """1 where |tap - shift| <= size/2 along every axis: flat but where it jumps."""

    def at(self, plan: ParameterPlan, at: Terms) -> Any:
        distance = self._distance(plan, at)
        xp = namespace(distance)
        inside = xp.abs(distance) <= at["size"][:, :, None, ...] / 2
        mask = xp.astype(xp.all(inside, axis=3), distance.dtype)
        # The sum is NaN where a coordinate is, and the mask says so rather than hide it.
        total = xp.sum(distance, axis=3)
        return xp.reshape(xp.where(total != total, total, mask), self.shape(plan))

    def at_jvp(self, plan: ParameterPlan, tangents: Terms, at: Terms) -> Any:
        del tangents
        size = at["size"]
        return namespace(size).zeros(self.shape(plan), dtype=size.dtype)

    def at_backward(self, plan: ParameterPlan, grad_output: Any, at: Terms) -> Terms:
        return self.at_second(plan, at, grad_output, at)


_GAUSSIAN, _BOX = _Gaussian(), _Box()


def gaussian_window(
    size: A,
    shift: Array | None = None,
    *,
    kernel_size: tuple[int, ...],
    log: bool = False,
    tile: PerAxis | None = None,
    output_size: PerAxis | None = None,
    layout: Layout = "channels_first",
) -> A:
    """Return a Gaussian over the taps of a kernel at every position, as a mask.

    ``mask = exp(-sum over axes of ((t - centre - shift)/size)**2 / 2)`` for tap t. It is not
    normalised: at the shifted centre it is 1.

    Parameters
    ----------
    size : array, shape (N, G, *O) or (N, G, n, *O)
        Standard deviation in taps for each of G offset groups: one, or one per axis (y, x).
        Positive.
    shift : array, shape (N, G, n, *O), optional
        Where the centre of the window moves, in taps.
    kernel_size : tuple of n int
        Taps per axis; its length is the number of axes.
    log : bool
        Take `size` for the natural logarithm of the standard deviation.
    tile : int or n of them, optional
        Positions per axis that share one size and shift; then both are given per tile, the last
        tiles may be cut off, and `output_size` is needed.
    output_size : int or n of them, optional
        O, the output size of the convolution.
    layout : {"channels_first", "channels_last"}
        With "channels_last" sizes are (N, *O, G) or (N, *O, G, n), shifts (N, *O, G, n) and masks
        (N, *O, G*K).

    Returns
    -------
    array, shape (N, G*K, *O)
        The mask for `pydeform.deform_conv2d` and its like.

    Raises
    ------
    TypeError
        If an argument is not of its type, or arrays are not all float32 or all float64.
    ValueError
        If shapes do not fit, or a size is not positive (with `log`, is no logarithm of a normal
        number). On a CUDA device nobody looks at sizes, as that would wait for it.

    See Also
    --------
    box_window : A hard window.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> mask = pydeform.offsets.gaussian_window(np.ones((1, 1, 1)), kernel_size=(3,))
    >>> mask.ravel().round(3)
    array([0.607, 1.   , 0.607])
    """
    options = {
        "kernel_size": kernel_size,
        "log": log,
        "tile": tile,
        "output_size": output_size,
        "layout": layout,
    }
    return run(_GAUSSIAN, {"size": size, "shift": shift}, options)  # type: ignore[no-any-return]


def box_window(
    size: A,
    shift: Array | None = None,
    *,
    kernel_size: tuple[int, ...],
    tile: PerAxis | None = None,
    output_size: PerAxis | None = None,
    layout: Layout = "channels_first",
) -> A:
    """Return a mask that keeps the taps of a kernel inside a box at every position.

    ``mask = 1`` where ``|t - centre - shift| <= size/2`` along every axis, else 0. It is constant
    but where it jumps, so its derivatives are 0.

    Parameters
    ----------
    size : array, shape (N, G, *O) or (N, G, n, *O)
        Length of the box in taps for each of G offset groups: one, or one per axis (y, x).
        Positive.
    shift : array, shape (N, G, n, *O), optional
        Where the centre of the box moves, in taps.
    kernel_size : tuple of n int
        Taps per axis; its length is the number of axes.
    tile : int or n of them, optional
        Positions per axis that share one size and shift; then both are given per tile, the last
        tiles may be cut off, and `output_size` is needed.
    output_size : int or n of them, optional
        O, the output size of the convolution.
    layout : {"channels_first", "channels_last"}
        With "channels_last" sizes are (N, *O, G) or (N, *O, G, n), shifts (N, *O, G, n) and masks
        (N, *O, G*K).

    Returns
    -------
    array, shape (N, G*K, *O)
        The mask for `pydeform.deform_conv2d` and its like; NaN where the shift is.

    Raises
    ------
    TypeError
        If an argument is not of its type, or arrays are not all float32 or all float64.
    ValueError
        If shapes do not fit, or a size is not positive. On a CUDA device nobody looks at sizes, as
        that would wait for it.

    See Also
    --------
    gaussian_window : A window with derivatives.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> size, shift = np.full((1, 1, 1), 3.0), np.full((1, 1, 1, 1), 1.0)
    >>> pydeform.offsets.box_window(size, shift, kernel_size=(5,)).ravel()
    array([0., 0., 1., 1., 1.])
    """
    options = {
        "kernel_size": kernel_size,
        "tile": tile,
        "output_size": output_size,
        "layout": layout,
    }
    return run(_BOX, {"size": size, "shift": shift}, options)  # type: ignore[no-any-return]


(
    gaussian_window_backward,
    gaussian_window_jvp,
    gaussian_window_double_backward,
) = derivatives(_GAUSSIAN, gaussian_window, ("np.full((1, 1, 4), 2.0)", "size, kernel_size=(3,)"))
box_window_backward, box_window_jvp, box_window_double_backward = derivatives(
    _BOX, box_window, ("np.full((1, 1, 4), 2.0)", "size, kernel_size=(3,)")
)
