"""Offsets that are fixed over positions, or add up along a kernel."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar, NamedTuple, SupportsIndex, TypeVar

from pydeform import _shapes
from pydeform._arrays import Array
from pydeform.ops._checks import Layout, PerAxis
from pydeform.ops._composed import Formulas, Terms, derivatives, namespace, run
from pydeform.ops.offsets._grid import is_last, kernel_of, offset_channels

A = TypeVar("A", bound=Array)


class _SnakePlan(NamedTuple):
    kernel: tuple[int, ...]
    axis: int
    last: bool
    batch: int
    groups: int
    out_size: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)


class _CumulativeTaps(Formulas):
    """Sums from the centre outwards; linear, and its adjoint sums inwards."""

    names: ClassVar[tuple[str, ...]] = ("offset",)
    positional: ClassVar[tuple[str, ...]] = ("offset", "output")

    def plan(self, arrays: Terms, options: Any) -> _SnakePlan:
        offset, kernel = arrays["offset"], kernel_of(options["kernel_size"])
        rank, last = len(kernel), is_last(options["layout"])
        axis = _shapes.integer("axis", options["axis"])
        if not -rank <= axis < rank:
            raise ValueError(f"axis: expected one of the {rank} axes of kernel_size, got {axis}")
        axis %= rank
        if kernel[axis] % 2 == 0:
            raise ValueError(
                f"kernel_size: expected an odd number of taps along axis {axis}, which has a "
                f"centre, got {kernel}"
            )
        groups = offset_channels(offset, rank, last, prod(kernel))
        out = offset.shape[1:-1] if last else offset.shape[2:]
        return _SnakePlan(kernel, axis, last, offset.shape[0], groups, out)

    def shape(self, plan: _SnakePlan) -> tuple[int, ...]:
        channels = plan.groups * prod(plan.kernel) * plan.rank
        return (plan.batch, channels, *plan.out_size)

    def _along(self, plan: _SnakePlan, offset: Any, outwards: bool) -> Any:
        """Sum along the axis: up to every tap from the centre, or from every tap to the end."""
        xp, size = namespace(offset), plan.kernel[plan.axis]
        before, after = prod(plan.kernel[: plan.axis]), prod(plan.kernel[plan.axis + 1 :])
        lead = plan.batch * plan.groups * before
        taps = xp.reshape(offset, (lead, size, after * plan.rank * prod(plan.out_size)))
        parts: list[Any] = [None] * size
        center = size // 2
        parts[center] = xp.zeros_like(taps[:, center, ...])
        for side in (1, -1):
            order = range(1, center + 1) if outwards else range(center, 0, -1)
            total = parts[center]
            for step in order:
                total = total + taps[:, center + side * step, ...]
                parts[center + side * step] = total
        return xp.reshape(xp.stack(parts, axis=1), self.shape(plan))

    def forward(self, plan: _SnakePlan, arrays: Terms) -> Any:
        return self._along(plan, arrays["offset"], outwards=True)

    def jvp(self, plan: _SnakePlan, tangents: Terms, arrays: Terms) -> Any:
        del arrays
        return self._along(plan, tangents["offset"], outwards=True)

    def backward(self, plan: _SnakePlan, grad_output: Any, arrays: Terms) -> Terms:
        del arrays
        return {"offset": self._along(plan, grad_output, outwards=False)}


class _StaticPlan(NamedTuple):
    shape: tuple[int, ...]  # of the argument
    batch: int
    out_size: tuple[int, ...]
    last: bool

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.out_size)


class _StaticOffsets(Formulas):
    """The same offsets at every position; the adjoint is their sum."""

    names: ClassVar[tuple[str, ...]] = ("offset",)
    positional: ClassVar[tuple[str, ...]] = ("output",)

    def plan(self, arrays: Terms, options: Any) -> _StaticPlan:
        shape = arrays["offset"].shape
        last = is_last(options["layout"])
        rank = shape[-1] if len(shape) in (2, 3) else 0
        if rank not in _shapes.AXES or 0 in shape:
            raise ValueError(
                "offset: expected shape (K, n) or (G, K, n) with n from 1 to 3 coordinates last, "
                f"got {shape}"
            )
        batch = _shapes.at_least("batch", _shapes.integer("batch", options["batch"]), 0)
        out = _shapes.per_axis("output_size", options["output_size"], rank, 1)
        return _StaticPlan(shape, batch, out, last)

    def shape(self, plan: _StaticPlan) -> tuple[int, ...]:
        return (plan.batch, prod(plan.shape), *plan.out_size)

    def forward(self, plan: _StaticPlan, arrays: Terms) -> Any:
        offset = arrays["offset"]
        xp = namespace(offset)
        column = xp.reshape(offset, (1, prod(plan.shape), *(1,) * plan.rank))
        return xp.broadcast_to(column, self.shape(plan))

    def jvp(self, plan: _StaticPlan, tangents: Terms, arrays: Terms) -> Any:
        del arrays
        return self.forward(plan, tangents)

    def backward(self, plan: _StaticPlan, grad_output: Any, arrays: Terms) -> Terms:
        del arrays
        xp = namespace(grad_output)
        total = xp.sum(grad_output, axis=(0, *range(2, plan.rank + 2)))
        return {"offset": xp.reshape(total, plan.shape)}


_SNAKE, _STATIC = _CumulativeTaps(), _StaticOffsets()


def cumulative_taps(
    offset: A,
    *,
    kernel_size: tuple[int, ...],
    axis: SupportsIndex = -1,
    layout: Layout = "channels_first",
) -> A:
    """Add offsets up along one axis of the kernel, from its centre tap to both ends.

    The centre tap's result is 0; the tap j steps away has the sum of the j offsets between the
    centre and it, its own included, so that neighbouring taps stay near each other: a snake.

    Parameters
    ----------
    offset : array, shape (N, G*K*n, *O)
        Steps in pixels, laid out as offsets; those of the centre taps have no effect.
    kernel_size : tuple of n int
        Taps per axis, an odd number along `axis`; its length is the number of axes.
    axis : int
        Axis of the kernel along which steps add up.
    layout : {"channels_first", "channels_last"}
        With "channels_last" offsets are (N, *O, G*K*n).

    Returns
    -------
    array, shape of offset
        The offset for `pydeform.deform_conv2d` and its like.

    Raises
    ------
    TypeError
        If an argument is not of its type, or the array is not float32 or float64.
    ValueError
        If shapes do not fit, or the number of taps along the axis is even.

    See Also
    --------
    static_offsets : Offsets that are the same at every position.

    References
    ----------
    .. [1] Y. Qi et al., "Dynamic Snake Convolution based on Topological Geometric Constraints for
       Tubular Structure Segmentation", ICCV 2023.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> steps = np.array([[[1.0], [2.0], [9.0], [4.0], [8.0]]])
    >>> pydeform.offsets.cumulative_taps(steps, kernel_size=(5,)).ravel()
    array([ 3.,  2.,  0.,  4., 12.])
    """
    options = {"kernel_size": kernel_size, "axis": axis, "layout": layout}
    return run(_SNAKE, {"offset": offset}, options)  # type: ignore[no-any-return]


def static_offsets(
    offset: A,
    *,
    batch: SupportsIndex,
    output_size: PerAxis,
    layout: Layout = "channels_first",
) -> A:
    """Give every position the same offsets, one per tap: learnable spacings between taps.

    The active convolution unit, and the dilated convolution with learnable spacings.

    Parameters
    ----------
    offset : array, shape (K, n) or (G, K, n)
        Offset of every tap in pixels along (y, x), for one or for G offset groups.
    batch : int
        N, which may be 0.
    output_size : int or n of them
        O, the output size of the convolution.
    layout : {"channels_first", "channels_last"}
        With "channels_last" the result is (N, *O, G*K*n).

    Returns
    -------
    array, shape (N, G*K*n, *O)
        The offset for `pydeform.deform_conv2d` and its like.

    Raises
    ------
    TypeError
        If an argument is not of its type, or the array is not float32 or float64.
    ValueError
        If the shape is none of these, or a size is not positive.

    See Also
    --------
    cumulative_taps : Offsets that add up along the kernel.

    References
    ----------
    .. [1] Y. Jeon, J. Kim, "Active Convolution: Learning the Shape of Convolution for Image
       Classification", CVPR 2017.
    .. [2] I. Khalfaoui-Hassani et al., "Dilated convolution with learnable spacings", ICLR 2023.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> spacing = np.array([[-0.5], [0.5]])
    >>> pydeform.offsets.static_offsets(spacing, batch=1, output_size=3)
    array([[[-0.5, -0.5, -0.5],
            [ 0.5,  0.5,  0.5]]])
    """
    options = {"batch": batch, "output_size": output_size, "layout": layout}
    return run(_STATIC, {"offset": offset}, options)  # type: ignore[no-any-return]


(
    cumulative_taps_backward,
    cumulative_taps_jvp,
    cumulative_taps_double_backward,
) = derivatives(_SNAKE, cumulative_taps, ("np.ones((1, 3, 4))", "offset, kernel_size=(3,)"))
(
    static_offsets_backward,
    static_offsets_jvp,
    static_offsets_double_backward,
) = derivatives(_STATIC, static_offsets, ("np.ones((9, 2))", "offset, batch=1, output_size=4"))
