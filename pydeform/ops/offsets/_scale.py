"""Kernels whose centre and size are chosen at every position."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar, TypeVar

from pydeform._arrays import Array
from pydeform.ops._checks import Layout, PerAxis
from pydeform.ops._composed import Terms, constants, derivatives, namespace, run
from pydeform.ops.offsets._grid import ParameterPlan, Parametric, taps_like

A = TypeVar("A", bound=Array)


class _ScaleTaps(Parametric):
    """offset = shift + (A - diag(dilation)) tap: zero, to the bit, for A = diag(dilation)."""

    matrices: ClassVar[bool] = True

    def shape(self, plan: ParameterPlan) -> tuple[int, ...]:
        return (plan.batch, plan.groups * prod(plan.kernel) * plan.rank, *plan.out_size)

    def _output(self, plan: ParameterPlan, size: Any, shift: Any) -> Any:
        """size [N, G, 1 or n, *O] or [N, G, n, n, *O] times taps, plus shift."""
        xp, taps, n = namespace(size), taps_like(plan, size), plan.rank
        if plan.form < 2:
            offset = size[:, :, None, ...] * taps  # [N, G, K, n, *O]
        else:
            offset = size[:, :, None, :, 0, ...] * taps[:, :, :, :1, ...]
            for b in range(1, n):
                offset = offset + size[:, :, None, :, b, ...] * taps[:, :, :, b : b + 1, ...]
        if shift is not None:
            offset = offset + shift[:, :, None, ...]
        return xp.reshape(offset, self.shape(plan))

    def at(self, plan: ParameterPlan, at: Terms) -> Any:
        size, n = at["size"], plan.rank
        xp = namespace(size)
        steps = constants(plan.dilation, size)
        if plan.form == 2:
            steps = xp.eye(n, dtype=size.dtype) * steps
        steps = xp.reshape(steps, (1, 1, *steps.shape, *(1,) * n))
        return self._output(plan, size - steps, at.get("shift"))

    def at_jvp(self, plan: ParameterPlan, tangents: Terms, at: Terms) -> Any:
        del at
        return self._output(plan, tangents["size"], tangents.get("shift"))

    def at_backward(self, plan: ParameterPlan, grad_output: Any, at: Terms) -> Terms:
        xp, n = namespace(grad_output), plan.rank
        split = (plan.batch, plan.groups, prod(plan.kernel), n, *plan.out_size)
        grad = xp.reshape(grad_output, split)
        taps = taps_like(plan, grad)
        if plan.form < 2:
            found = {"size": xp.sum(grad * taps, axis=2)}
        else:
            columns = [xp.sum(grad * taps[:, :, :, b : b + 1, ...], axis=2) for b in range(n)]
            found = {"size": xp.stack(columns, axis=3)}
        if "shift" in at:
            found["shift"] = xp.sum(grad, axis=2)
        return found


_RULES = _ScaleTaps()


def scale_taps(
    size: A,
    shift: Array | None = None,
    *,
    kernel_size: tuple[int, ...],
    dilation: PerAxis = 1,
    log: bool = False,
    tile: PerAxis | None = None,
    output_size: PerAxis | None = None,
    layout: Layout = "channels_first",
) -> A:
    """Return the offsets of a kernel with a size and a centre of its own at every position.

    The dynamic convolution kernel. Tap t reads at ``base_centre + shift + size*(t - centre)``,
    where base_centre is where the plain kernel's centre lies, so that a size is the step between
    taps in pixels: a size d everywhere is a convolution with dilation d around the same centres,
    and a size equal to `dilation` with no shift gives offsets of exactly 0.

    Parameters
    ----------
    size : array, shape (N, G, *O), (N, G, n, *O) or (N, G, n, n, *O)
        Step between taps in pixels for each of G offset groups: one, one per axis (y, x), or a
        matrix [to axis, from axis]. Positive; a matrix may be any.
    shift : array, shape (N, G, n, *O), optional
        Where the centre moves, in pixels.
    kernel_size : tuple of n int
        Taps per axis; its length is the number of axes.
    dilation : int or n of them
        The dilation that the convolution itself is given.
    log : bool
        Take `size` for the natural logarithm of the size, per tap axis or of all.
    tile : int or n of them, optional
        Positions per axis that share one size and shift; then both are given per tile, the last
        tiles may be cut off, and `output_size` is needed.
    output_size : int or n of them, optional
        O, the output size of the convolution.
    layout : {"channels_first", "channels_last"}
        With "channels_last" sizes are (N, *O, G), (N, *O, G, n) or (N, *O, G, n, n), shifts (N, *O,
        G, n) and offsets (N, *O, G*K*n).

    Returns
    -------
    array, shape (N, G*K*n, *O)
        The offset for `pydeform.deform_conv2d` and its like.

    Raises
    ------
    TypeError
        If an argument is not of its type, or arrays are not all float32 or all float64.
    ValueError
        If shapes do not fit, a size is not positive (with `log`, is no logarithm of a normal
        number; in a matrix, is not finite), or `log` comes with matrices. On a CUDA device nobody
        looks at sizes, as that would wait for it.

    See Also
    --------
    gaussian_window : A mask of a size and a centre of its own.

    References
    ----------
    .. [1] R. Zhang et al., "Scale-Adaptive Convolutions for Scene Parsing", ICCV 2017.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> size = np.full((1, 1, 1), 2.0)
    >>> pydeform.offsets.scale_taps(size, kernel_size=(3,)).ravel()
    array([-1.,  0.,  1.])
    >>> pydeform.offsets.scale_taps(np.log(size), kernel_size=(3,), log=True).ravel()
    array([-1.,  0.,  1.])
    """
    options = {
        "kernel_size": kernel_size,
        "dilation": dilation,
        "log": log,
        "tile": tile,
        "output_size": output_size,
        "layout": layout,
    }
    return run(_RULES, {"size": size, "shift": shift}, options)  # type: ignore[no-any-return]


scale_taps_backward, scale_taps_jvp, scale_taps_double_backward = derivatives(
    _RULES, scale_taps, ("np.full((1, 1, 4), 2.0)", "size, kernel_size=(3,)")
)
