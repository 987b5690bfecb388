"""Where taps read, and the padding that keeps sizes."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar, NamedTuple, TypeVar

from pydeform import _shapes
from pydeform._arrays import Array
from pydeform.ops._checks import Layout, Padding, PerAxis
from pydeform.ops._composed import Formulas, Terms, derivatives, namespace, run
from pydeform.ops.offsets._grid import is_last, kernel_of, offset_channels

A = TypeVar("A", bound=Array)


class _Plan(NamedTuple):
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    batch: int
    groups: int
    out_size: tuple[int, ...]
    last: bool

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)


class _SamplingLocations(Formulas):
    """p = q*stride - pad + tap*dilation + offset."""

    names: ClassVar[tuple[str, ...]] = ("offset",)
    positional: ClassVar[tuple[str, ...]] = ("offset",)

    def plan(self, arrays: Terms, options: Any) -> _Plan:
        offset, kernel = arrays["offset"], kernel_of(options["kernel_size"])
        rank, last = len(kernel), is_last(options["layout"])
        stride = _shapes.per_axis("stride", options["stride"], rank, 1)
        dilation = _shapes.per_axis("dilation", options["dilation"], rank, 1)
        groups = offset_channels(offset, rank, last, prod(kernel))
        out: tuple[int, ...] = offset.shape[1:-1] if last else offset.shape[2:]
        padding, size = options["padding"], options["size"]
        if size is None and isinstance(padding, str) and padding == "same":
            raise ValueError('size: expected the input size beside padding="same", got None')
        known = (1,) * rank if size is None else _shapes.per_axis("size", size, rank, 1)
        pads = _shapes.padding_pairs(padding, known, kernel, stride, dilation)
        if size is not None:
            expected = _shapes.output_size(known, pads, kernel, stride, dilation)
            if out != expected:
                raise ValueError(
                    f"offset: expected positions {expected}, which follow from size, kernel_size, "
                    f"stride, padding and dilation, got {out}"
                )
        begin = tuple(b for b, _ in pads)
        return _Plan(kernel, stride, begin, dilation, offset.shape[0], groups, out, last)

    def shape(self, plan: _Plan) -> tuple[int, ...]:
        return (plan.batch, plan.groups, prod(plan.kernel), *plan.out_size, plan.rank)

    def _moved(self, plan: _Plan, offset: Any) -> Any:
        """[N, G*K*n, *O] -> [N, G, K, *O, n]."""
        xp, n = namespace(offset), plan.rank
        split = (plan.batch, plan.groups, prod(plan.kernel), n, *plan.out_size)
        return xp.permute_dims(xp.reshape(offset, split), (0, 1, 2, *range(4, n + 4), 3))

    def forward(self, plan: _Plan, arrays: Terms) -> Any:
        offset, n = arrays["offset"], plan.rank
        xp = namespace(offset)
        bases = []
        for d in range(n):
            tap_shape = [1] * n
            tap_shape[d] = plan.kernel[d]
            tap = xp.reshape(xp.arange(plan.kernel[d]) * plan.dilation[d], tuple(tap_shape))
            tap = xp.reshape(xp.broadcast_to(tap, plan.kernel), (-1, *(1,) * n))
            q_shape = [1] * (n + 1)
            q_shape[d + 1] = plan.out_size[d]
            q = xp.arange(plan.out_size[d]) * plan.stride[d] - plan.pad[d]
            base = tap + xp.reshape(q, tuple(q_shape))  # whole numbers, exact
            bases.append(xp.broadcast_to(base, (prod(plan.kernel), *plan.out_size)))
        base = xp.astype(xp.stack(bases, axis=-1), offset.dtype)
        return base + self._moved(plan, offset)

    def jvp(self, plan: _Plan, tangents: Terms, arrays: Terms) -> Any:
        del arrays
        return self._moved(plan, tangents["offset"])

    def backward(self, plan: _Plan, grad_output: Any, arrays: Terms) -> Terms:
        del arrays
        xp, n = namespace(grad_output), plan.rank
        grad = xp.permute_dims(grad_output, (0, 1, 2, n + 3, *range(3, n + 3)))
        channels = plan.groups * prod(plan.kernel) * n
        return {"offset": xp.reshape(grad, (plan.batch, channels, *plan.out_size))}


_RULES = _SamplingLocations()


def sampling_locations(
    offset: A,
    *,
    kernel_size: tuple[int, ...],
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    size: PerAxis | None = None,
    layout: Layout = "channels_first",
) -> A:
    """Return where every tap of a deformable convolution reads its input, in pixels.

    ``q*stride - padding + tap*dilation + offset``, with the options that the convolution has.

    Parameters
    ----------
    offset : array, shape (N, G*K*n, *O)
        Offsets in pixels.
    kernel_size : tuple of n int
        Taps per axis; its length is the number of axes.
    stride : int or n of them
        Steps between output positions in pixels, at least 1.
    padding : int, n of them, n pairs (begin, end), "same" or "valid"
        Pixels added around the input; "same" needs `size`.
    dilation : int or n of them
        Steps between taps in pixels, at least 1.
    size : int or n of them, optional
        The input size S; given, O is checked against it.
    layout : {"channels_first", "channels_last"}
        With "channels_last" offsets are (N, *O, G*K*n); positions are the same.

    Returns
    -------
    array, shape (N, G, K, *O, n)
        Positions, coordinates (y, x) last: what `pydeform.sample` takes.

    Raises
    ------
    TypeError
        If an argument is not of its type, or the array is not float32 or float64.
    ValueError
        If shapes or options do not fit together.

    See Also
    --------
    affine_lattice : Positions of an affine map.

    Notes
    -----
    The convolutions themselves never form this sum: beside a large base, an offset loses bits.
    Positions outside the input are returned as they are; the mode of the convolution says what is
    read there.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> offset = np.full((1, 3, 2), 0.25)
    >>> pydeform.offsets.sampling_locations(offset, kernel_size=(3,), padding=1)[0, 0, :, :, 0]
    array([[-0.75,  0.25],
           [ 0.25,  1.25],
           [ 1.25,  2.25]])
    """
    options = {
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "size": size,
        "layout": layout,
    }
    return run(_RULES, {"offset": offset}, options)  # type: ignore[no-any-return]


(
    sampling_locations_backward,
    sampling_locations_jvp,
    sampling_locations_double_backward,
) = derivatives(
    _RULES, sampling_locations, ("np.ones((1, 18, 4, 4))", "offset, kernel_size=(3, 3)")
)


def same_padding(
    size: tuple[int, ...],
    *,
    kernel_size: tuple[int, ...],
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
) -> tuple[tuple[int, int], ...]:
    """Return the padding that gives ceil(size/stride) outputs, as padding="same" does.

    Parameters
    ----------
    size : tuple of n int
        The input size.
    kernel_size : tuple of n int
        Taps per axis; its length is the number of axes.
    stride : int or n of them
        Steps between output positions in pixels, at least 1.
    dilation : int or n of them
        Steps between taps in pixels, at least 1.

    Returns
    -------
    tuple of n pairs (begin, end)
        Pixels before and after the input along each axis; the smaller half comes first.

    Raises
    ------
    TypeError
        If an argument is not of its type.
    ValueError
        If there are not n of something, or a number is too small.

    See Also
    --------
    sampling_locations : Where taps read.

    Examples
    --------
    >>> import pydeform
    >>> pydeform.offsets.same_padding((7, 8), kernel_size=(3, 4))
    ((1, 1), (1, 2))
    """
    kernel = kernel_of(kernel_size)
    rank = len(kernel)
    return _shapes.padding_pairs(
        "same",
        _shapes.per_axis("size", size, rank, 1),
        kernel,
        _shapes.per_axis("stride", stride, rank, 1),
        _shapes.per_axis("dilation", dilation, rank, 1),
    )
