"""Taps around the centre of a kernel, and parameters given per position or per tile."""

from __future__ import annotations

from itertools import product
from math import inf, prod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pydeform import _shapes
from pydeform.ops import _checks
from pydeform.ops._composed import Formulas, Terms, constants, namespace


def kernel_of(value: object) -> tuple[int, ...]:
    """Return kernel_size as a tuple, whose length is the rank; an int alone says too little."""
    expected = "1 to 3 ints, one per axis, such as (3, 3)"
    if not isinstance(value, list | tuple):
        raise TypeError(f"kernel_size: expected {expected}, got {value!r} ({type(value).__name__})")
    if len(value) not in _shapes.AXES:
        raise ValueError(f"kernel_size: expected {expected}, got {value!r}")
    return _shapes.per_axis("kernel_size", value, len(value), 1)


def is_last(layout: object) -> bool:
    """Tell whether the layout has channels last."""
    return _checks.choice("layout", layout, _checks.LAYOUTS) == "channels_last"


def centred_taps(kernel: tuple[int, ...]) -> list[tuple[float, ...]]:
    """Return where every tap lies from the kernel's centre, in taps, row-major: exact halves."""
    taps = product(*(range(k) for k in kernel))
    return [tuple(t - (k - 1) / 2 for t, k in zip(tap, kernel, strict=True)) for tap in taps]


def offset_channels(array: Any, rank: int, last: bool, taps: int | None = None) -> int:
    """Return Go*K of an offset [N, Go*K*n, *O], or Go where the number of taps is given."""
    meaning = "(batch, *output, Go*K*n)" if last else "(batch, Go*K*n, *output)"
    if array.ndim != rank + 2:
        raise ValueError(
            f"offset: expected {rank + 2} dimensions {meaning} for {rank} axes, "
            f"got {array.ndim}, shape {tuple(array.shape)}"
        )
    channels: int = array.shape[-1 if last else 1]
    unit = rank * (taps or 1)
    if channels == 0 or channels % unit:
        expected = f"{rank} axes" if taps is None else f"{taps} taps times {rank} axes"
        raise ValueError(
            f"offset: expected channels in multiples of {unit} ({expected}), {meaning}, "
            f"got {channels}, shape {tuple(array.shape)}"
        )
    return channels // unit


class ParameterPlan(NamedTuple):
    """What a field of kernel parameters needs beside its arrays."""

    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    batch: int
    groups: int
    form: int  # axes of one size: 0 isotropic, 1 per axis, 2 a matrix
    log: bool
    tile: tuple[int, ...] | None
    out_size: tuple[int, ...]
    last: bool

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)


def _spread(array: Any, tile: tuple[int, ...], out_size: tuple[int, ...]) -> Any:
    """[..., *T] -> [..., *O]: every position has its tile's value."""
    xp = namespace(array)
    lead = array.ndim - len(tile)
    for axis, (t, size) in enumerate(zip(tile, out_size, strict=True), lead):
        array = xp.repeat(array, t, axis=axis)
        array = array[(*(slice(None),) * axis, slice(0, size), ...)]
    return array


def _gather(array: Any, tile: tuple[int, ...], tiles: tuple[int, ...]) -> Any:
    """[..., *O] -> [..., *T]: the sum over each tile, the adjoint of `_spread`."""
    xp = namespace(array)
    lead = array.ndim - len(tile)
    for axis, (t, count) in enumerate(zip(tile, tiles, strict=True), lead):
        before, size, after = array.shape[:axis], array.shape[axis], array.shape[axis + 1 :]
        if missing := count * t - size:
            gap = xp.zeros((*before, missing, *after), dtype=array.dtype)
            array = xp.concat([array, gap], axis=axis)
        array = xp.sum(xp.reshape(array, (*before, count, t, *after)), axis=axis + 1)
    return array


class Parametric(Formulas):
    """Formulas whose arguments are `size` and `shift`: fields of parameters of a kernel.

    Subclasses see them at every position: size [N, G, 1, *O], [N, G, n, *O] or [N, G, n, n, *O]
    and shift [N, G, n, *O]. This class brings them there, and gradients back: sizes may be given by
    their logarithm, and both per tile of positions.
    """

    names: ClassVar[tuple[str, ...]] = ("size", "shift")
    optional: ClassVar[tuple[str, ...]] = ("shift",)
    positional: ClassVar[tuple[str, ...]] = ("size", "shift", "output")
    matrices: ClassVar[bool] = False

    def plan(self, arrays: Terms, options: Any) -> ParameterPlan:
        """Check everything."""
        kernel = kernel_of(options["kernel_size"])
        rank, last = len(kernel), is_last(options["layout"])
        dilation = _shapes.per_axis("dilation", options.get("dilation", 1), rank, 1)
        log = options.get("log", False)
        if not isinstance(log, bool):
            raise TypeError(f"log: expected True or False, got {log!r}")
        size = arrays["size"]
        forms = 3 if self.matrices else 2
        meanings = [("G", "G, n", "G, n, n")[f] for f in range(forms)]
        meanings = [f"[N, *O, {m}]" if last else f"[N, {m}, *O]" for m in meanings]
        form = size.ndim - rank - 2
        if form not in range(forms):
            raise ValueError(
                f"size: expected {rank + 2} to {rank + 1 + forms} dimensions "
                f"({', '.join(meanings)}) for {rank} axes, got {size.ndim}, shape {size.shape}"
            )
        given = size.shape[1 : rank + 1] if last else size.shape[size.ndim - rank :]
        channels = size.shape[rank + 1 :] if last else size.shape[1 : size.ndim - rank]
        groups = channels[0]
        if groups == 0 or channels[1:] != (rank,) * form:
            raise ValueError(
                f"size: expected {meanings[form]} with n = {rank} and at least one group, "
                f"got shape {size.shape}"
            )
        self._check_values(size, form, log)
        if "shift" in arrays:
            expected = (size.shape[0], *given, groups, rank)
            if not last:
                expected = (size.shape[0], groups, rank, *given)
            if arrays["shift"].shape != expected:
                raise ValueError(
                    f"shift: expected shape {expected} ({rank} coordinates for every size), "
                    f"got {arrays['shift'].shape}"
                )
        tile, out_size = self._tiles(options, given)
        return ParameterPlan(
            kernel, dilation, size.shape[0], groups, form, log, tile, out_size, last
        )

    @staticmethod
    def _check_values(size: Any, form: int, log: bool) -> None:
        """Check that sizes are numbers, and positive but for matrices; on a device nobody looks."""
        xp = namespace(size)
        if log and form == 2:
            raise ValueError("log: expected False beside matrices of sizes, got True")
        lowest, highest, expected = -inf, inf, "finite numbers"
        if form < 2 and not log:
            lowest, expected = 0.0, "positive numbers"
        elif log:
            exact = size.dtype if size.dtype != object else np.dtype(np.float64)
            limit = np.finfo(exact)
            lowest, highest = (float(np.log(exact.type(x))) for x in (limit.tiny, limit.max))
            expected = f"logarithms of normal numbers, from {lowest:.6g} to {highest:.6g}"
        if not isinstance(size, np.ndarray):
            return
        bad = ~((size > lowest) & (size < highest))  # NaN is not in any interval
        if bool(xp.any(bad)):
            where = tuple(int(i[0]) for i in xp.nonzero(bad))
            raise ValueError(f"size: expected {expected}, got {size[where]} at {where}")

    @staticmethod
    def _tiles(
        options: Any, given: tuple[int, ...]
    ) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
        """Return the tile's size, None for one position, and the output size."""
        rank = len(given)
        out = options["output_size"]
        if out is not None:
            out = _shapes.per_axis("output_size", out, rank, 1)
        if options["tile"] is None:
            if out is not None and out != given:
                raise ValueError(
                    f"output_size: expected {given}, the positions that size has, or a tile, "
                    f"got {out}"
                )
            return None, given
        tile = _shapes.per_axis("tile", options["tile"], rank, 1)
        if out is None:
            raise ValueError("output_size: expected the output's size beside a tile, got None")
        tiles = tuple(-(-o // t) for o, t in zip(out, tile, strict=True))
        if tiles != given:
            raise ValueError(
                f"size: expected {tiles} tiles, output_size {out} over tile {tile} rounded up, "
                f"got {given}"
            )
        return tile, out

    def _at_positions(self, plan: ParameterPlan, arrays: Terms) -> Terms:
        """Return arrays, given like the arguments, as the subclass sees them."""
        found = dict(arrays)
        if plan.form == 0:
            found["size"] = namespace(found["size"]).expand_dims(found["size"], axis=2)
        if plan.tile is not None:
            found = {n: _spread(a, plan.tile, plan.out_size) for n, a in found.items()}
        return found

    def _back(self, plan: ParameterPlan, grads: Terms) -> Terms:
        """Return gradients at positions as those of the arguments: the adjoint."""
        found = dict(grads)
        if plan.form == 0:
            found["size"] = namespace(found["size"]).sum(found["size"], axis=2)
        if plan.tile is not None:
            axes = zip(plan.out_size, plan.tile, strict=True)
            tiles = tuple(-(-o // t) for o, t in axes)
            found = {n: _gather(a, plan.tile, tiles) for n, a in found.items()}
        return found

    def _plain(self, plan: ParameterPlan, arrays: Terms) -> Terms:
        """Return the arguments with sizes in place of their logarithms."""
        if not plan.log:
            return arrays
        return {**arrays, "size": namespace(arrays["size"]).exp(arrays["size"])}

    def forward(self, plan: ParameterPlan, arrays: Terms) -> Any:
        """Return the output."""
        return self.at(plan, self._at_positions(plan, self._plain(plan, arrays)))

    def backward(self, plan: ParameterPlan, grad_output: Any, arrays: Terms) -> Terms:
        """Return the gradients of the arguments."""
        plain = self._plain(plan, arrays)
        grads = self.at_backward(plan, grad_output, self._at_positions(plan, plain))
        found = self._back(plan, grads)
        if plan.log:
            found["size"] = found["size"] * plain["size"]
        return found

    def jvp(self, plan: ParameterPlan, tangents: Terms, arrays: Terms) -> Any:
        """Return the tangent of the output."""
        plain = self._plain(plan, arrays)
        if plan.log:
            tangents = {**tangents, "size": tangents["size"] * plain["size"]}
        at = self._at_positions(plan, plain)
        return self.at_jvp(plan, self._at_positions(plan, tangents), at)

    def second(
        self, plan: ParameterPlan, tangents: Terms, grad_output: Any, arrays: Terms
    ) -> Terms:
        """Return the gradients of <grad_output, jvp(tangents)>."""
        plain = self._plain(plan, arrays)
        if plan.log:
            tangents = {**tangents, "size": tangents["size"] * plain["size"]}
        at = self._at_positions(plan, plain)
        along = self._at_positions(plan, tangents)
        found = self._back(plan, self.at_second(plan, along, grad_output, at))
        if plan.log:  # the tangent is exp(s) times that of s, so it moves with s, too
            grads = self._back(plan, self.at_backward(plan, grad_output, at))
            found["size"] = found["size"] * plain["size"] + grads["size"] * tangents["size"]
        return found

    def at(self, plan: ParameterPlan, at: Terms) -> Any:
        """Return the output for parameters at positions."""
        raise NotImplementedError

    def at_backward(self, plan: ParameterPlan, grad_output: Any, at: Terms) -> Terms:
        """Return the gradients of parameters at positions; an isotropic size may have n of them."""
        raise NotImplementedError

    def at_jvp(self, plan: ParameterPlan, tangents: Terms, at: Terms) -> Any:
        """Return the tangent of the output."""
        raise NotImplementedError

    def at_second(
        self,
        plan: ParameterPlan,
        tangents: Terms,
        grad_output: Any,
        at: Terms,
    ) -> Terms:
        """Return the gradients of <grad_output, at_jvp(tangents)>."""
        del plan, tangents, grad_output
        return {name: namespace(a).zeros_like(a) for name, a in at.items()}


def taps_like(plan: ParameterPlan, array: Any) -> Any:
    """Return the taps around the centre [1, 1, K, n, 1, ...], of the dtype of an array."""
    xp = namespace(array)
    taps = constants(centred_taps(plan.kernel), array)
    return xp.reshape(taps, (1, 1, prod(plan.kernel), plan.rank, *(1,) * plan.rank))
