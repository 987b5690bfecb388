"""The derivatives of sampling and splatting: calls of both, by flags per axis.

With alpha in {0, 1}^n, d S_alpha / d p_d is S_{alpha+e_d} where axis d was not differentiated yet,
else 0. So first and second derivatives are sums of S and S^T with more flags set.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np

from pydeform._arrays import NumpyArray, namespace
from pydeform.ops._call import Arrays, Rules, working
from pydeform.ops._sampling import Alpha, Plan, plan_sample, plan_splat

T = TypeVar("T")


class SampleGrads(NamedTuple, Generic[T]):
    """Gradients of `sample`; None where not needed."""

    input: T | None
    position: T | None


class SampleDoubleGrads(NamedTuple, Generic[T]):
    """Gradients of the gradients of `sample`; None where not needed."""

    grad_output: T | None
    input: T | None
    position: T | None


class SplatGrads(NamedTuple, Generic[T]):
    """Gradients of `splat`; None where not needed."""

    values: T | None
    position: T | None


class SplatDoubleGrads(NamedTuple, Generic[T]):
    """Gradients of the gradients of `splat`; None where not needed."""

    grad_output: T | None
    values: T | None
    position: T | None


class _Sampler:
    """S_alpha and its adjoint at the positions of a call, in the arrays' own dtypes."""

    def __init__(self, backend: Any, plan: Plan, position: NumpyArray) -> None:
        self.backend, self.plan = backend, plan
        self.xp = namespace(position)
        g = plan.geometry
        # [N, G, K, *O, n] -> [N, G * n, K * prod(O)], as offsets lie.
        flat = self.xp.moveaxis(position, -1, 2)
        shape = (g.batch, g.offset_groups * g.rank, *g.out_size)
        self.offset = self.xp.ascontiguousarray(flat).reshape(shape)

    def new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NumpyArray:
        """Return zeros where the positions lie."""
        zeros: NumpyArray = self.xp.zeros(shape, dtype)
        return zeros

    def read(self, image: NumpyArray, alpha: Alpha, out: NumpyArray | None = None) -> NumpyArray:
        """S_alpha of an image, into `out` where it is given."""
        g = self.plan.geometry
        if out is None:
            out = cast("NumpyArray", self.xp.empty(self.plan.columns, image.dtype))
        if out.size:
            flat = out.reshape(g.batch, g.channels, *g.out_size)
            self.backend.sample(g, alpha, image, self.offset, flat)
        return out

    def spread(
        self, columns: NumpyArray, alpha: Alpha, out: NumpyArray | None = None
    ) -> NumpyArray:
        """The adjoint of S_alpha."""
        g = self.plan.geometry
        if out is None:
            out = cast("NumpyArray", self.xp.empty(self.plan.image, columns.dtype))
        if columns.size == 0:
            out[...] = 0
            return out
        flat = self.xp.ascontiguousarray(columns).reshape(g.batch, g.channels, *g.out_size)
        self.backend.splat(g, alpha, flat, self.offset, out)
        return out

    def moved(self, image: NumpyArray, v: NumpyArray) -> NumpyArray:
        """sum_d v_d S_{alpha+e_d}(image): how samples change where positions move by v."""
        total = self.new(self.plan.columns, image.dtype)
        for d, along in enumerate(self.plan.per_axis(v)):
            alpha = self.plan.raised(d)
            if alpha is not None:
                total += along * self.read(image, alpha)
        return total

    def spread_moved(self, columns: NumpyArray, v: NumpyArray) -> NumpyArray:
        """sum_d S_{alpha+e_d}^T(v_d columns)."""
        total = self.new(self.plan.image, columns.dtype)
        for d, along in enumerate(self.plan.per_axis(v)):
            alpha = self.plan.raised(d)
            if alpha is not None:
                total += self.spread(along * columns, alpha)
        return total

    def slopes(self, image: NumpyArray, columns: NumpyArray, out: NumpyArray) -> None:
        """out_e = sum_c columns S_{alpha+e_e}(image)."""
        for e in range(self.plan.geometry.rank):
            alpha = self.plan.raised(e)
            out[..., e] = 0 if alpha is None else self.plan.fold(columns * self.read(image, alpha))

    def bends(
        self,
        image: NumpyArray,
        columns: NumpyArray,
        first: tuple[NumpyArray, NumpyArray] | None,
        v: NumpyArray | None,
        out: NumpyArray,
    ) -> None:
        """out_e = sum_c [ a S_{alpha+e_e}(b) + columns sum_d v_d S_{alpha+e_d+e_e}(image) ].

        `first` is (a, b); without it or without v its term is 0.
        """
        plan = self.plan
        for e in range(plan.geometry.rank):
            total = self.new(plan.columns, image.dtype)
            alpha = plan.raised(e)
            if first is not None and alpha is not None:
                total += first[0] * self.read(first[1], alpha)
            for d, along in enumerate([] if v is None else plan.per_axis(v)):
                alpha = plan.raised(d, e)
                if alpha is not None:
                    total += columns * along * self.read(image, alpha)
            out[..., e] = plan.fold(total)


def _wide(arrays: Arrays) -> dict[str, NumpyArray]:
    return {name: working(array) for name, array in arrays.items()}


# The rules of sampling: x input, p position, y output, (u, v) tangents of (x, p).


def _sample(backend: Any, plan: Plan, arrays: Arrays, results: dict[str, NumpyArray]) -> None:
    _Sampler(backend, plan, arrays["position"]).read(arrays["input"], plan.deriv, results["out"])


def _sample_backward(
    backend: Any, plan: Plan, ybar: NumpyArray, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    """xbar = S^T(ybar); pbar_d = sum_c ybar S_{alpha+e_d}(x)."""
    if "input" in results:
        _Sampler(backend, plan, arrays["position"]).spread(ybar, plan.deriv, results["input"])
    if "position" in results:
        arrays, ybar = _wide(arrays), working(ybar)
        sampler = _Sampler(backend, plan, arrays["position"])
        sampler.slopes(arrays["input"], ybar, results["position"])


def _sample_tangent(sampler: _Sampler, x: NumpyArray, t: Arrays) -> NumpyArray:
    """S(u) + sum_d v_d S_{alpha+e_d}(x)."""
    plan = sampler.plan
    total = sampler.new(plan.columns, x.dtype)
    if "input" in t:
        total += sampler.read(t["input"], plan.deriv)
    return total + sampler.moved(x, t["position"]) if "position" in t else total


def _sample_jvp(
    backend: Any, plan: Plan, tangents: Arrays, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    _sample(backend, plan, arrays, {"out": results["output"]})
    arrays, t = _wide(arrays), _wide(tangents)
    sampler = _Sampler(backend, plan, arrays["position"])
    results["output_tangent"][...] = _sample_tangent(sampler, arrays["input"], t)


def _sample_double_backward(
    backend: Any,
    plan: Plan,
    grad_grads: Arrays,
    ybar: NumpyArray,
    arrays: Arrays,
    results: dict[str, NumpyArray],
) -> None:
    """To ybar the tangent; to x sum_d S_{alpha+e_d}^T(ybar v_d); to p what `bends` says."""
    arrays, t, ybar = _wide(arrays), _wide(grad_grads), working(ybar)
    x, v = arrays["input"], t.get("position")
    sampler = _Sampler(backend, plan, arrays["position"])
    if "grad_output" in results:
        results["grad_output"][...] = _sample_tangent(sampler, x, t)
    if "input" in results:
        results["input"][...] = 0 if v is None else sampler.spread_moved(ybar, v)
    if "position" in results:
        first = (ybar, t["input"]) if "input" in t else None
        sampler.bends(x, ybar, first, v, results["position"])


# The rules of splatting: z values, p position, X the image, (zeta, v) tangents of (z, p).


def _splat(backend: Any, plan: Plan, arrays: Arrays, results: dict[str, NumpyArray]) -> None:
    _Sampler(backend, plan, arrays["position"]).spread(arrays["values"], plan.deriv, results["out"])


def _splat_backward(
    backend: Any, plan: Plan, Xbar: NumpyArray, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    """zbar = S(Xbar); pbar_d = sum_c z S_{alpha+e_d}(Xbar)."""
    if "values" in results:
        _Sampler(backend, plan, arrays["position"]).read(Xbar, plan.deriv, results["values"])
    if "position" in results:
        arrays, Xbar = _wide(arrays), working(Xbar)
        sampler = _Sampler(backend, plan, arrays["position"])
        sampler.slopes(Xbar, arrays["values"], results["position"])


def _splat_tangent(sampler: _Sampler, z: NumpyArray, t: Arrays) -> NumpyArray:
    """S^T(zeta) + sum_d S_{alpha+e_d}^T(v_d z)."""
    plan = sampler.plan
    total = sampler.new(plan.image, z.dtype)
    if "values" in t:
        total += sampler.spread(t["values"], plan.deriv)
    return total + sampler.spread_moved(z, t["position"]) if "position" in t else total


def _splat_jvp(
    backend: Any, plan: Plan, tangents: Arrays, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    _splat(backend, plan, arrays, {"out": results["output"]})
    arrays, t = _wide(arrays), _wide(tangents)
    sampler = _Sampler(backend, plan, arrays["position"])
    results["output_tangent"][...] = _splat_tangent(sampler, arrays["values"], t)


def _splat_double_backward(
    backend: Any,
    plan: Plan,
    grad_grads: Arrays,
    Xbar: NumpyArray,
    arrays: Arrays,
    results: dict[str, NumpyArray],
) -> None:
    """To Xbar the tangent; to z sum_d v_d S_{alpha+e_d}(Xbar); to p what `bends` says."""
    arrays, t, Xbar = _wide(arrays), _wide(grad_grads), working(Xbar)
    z, v = arrays["values"], t.get("position")
    sampler = _Sampler(backend, plan, arrays["position"])
    if "grad_output" in results:
        results["grad_output"][...] = _splat_tangent(sampler, z, t)
    if "values" in results:
        results["values"][...] = 0 if v is None else sampler.moved(Xbar, v)
    if "position" in results:
        first = (t["values"], Xbar) if "values" in t else None
        sampler.bends(Xbar, z, first, v, results["position"])


SAMPLE = Rules(
    arguments=("input", "position"),
    required=("input", "position"),
    like="input",
    plan=plan_sample,
    forward=_sample,
    backward=_sample_backward,
    jvp=_sample_jvp,
    double_backward=_sample_double_backward,
    grads=SampleGrads,
    double_grads=SampleDoubleGrads,
)
SPLAT = Rules(
    arguments=("values", "position"),
    required=("values", "position"),
    like="values",
    plan=plan_splat,
    forward=_splat,
    backward=_splat_backward,
    jvp=_splat_jvp,
    double_backward=_splat_double_backward,
    grads=SplatGrads,
    double_grads=SplatDoubleGrads,
)
