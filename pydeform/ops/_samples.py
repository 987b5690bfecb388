"""Operations whose samples lie in layouts of their own: local convolutions on views of them.

A backend's local convolution reads and writes offsets [N, P, G, K, n] and factors [N, P, G, K] of
any strides, P positions, G groups of channels, K taps, n axes; the geometry says how an offset
becomes pixels. So an operation is a geometry, and how its arrays are seen.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pydeform._arrays import NumpyArray
from pydeform._shapes import ConvGeometry
from pydeform.ops import _call
from pydeform.ops._call import Arrays
from pydeform.ops._outputs import Wanted

# What a backend's local convolution reads, in its order.
ROLES = ("image", "position", "factor")


class Views(ABC):
    """How the arrays of an operation are seen; roles are "output" and those of `ROLES`."""

    @abstractmethod
    def read(self, role: str, array: NumpyArray) -> NumpyArray:
        """Return what the backend reads of an argument, a tangent or a cotangent."""

    def write(self, role: str, result: NumpyArray) -> NumpyArray:
        """Return what it writes to: the result's memory, where `finish` has nothing to do."""
        return self.read(role, result)

    def finish(self, role: str, written: NumpyArray, result: NumpyArray) -> None:  # noqa: B027
        """Bring to the result what was written elsewhere, and what the backend does not write."""


class Plan(NamedTuple):
    """How a call is computed."""

    output: Wanted
    geometry: ConvGeometry
    views: Views
    arguments: Mapping[str, str]  # by role

    def reads(self, arrays: Arrays) -> tuple[NumpyArray | None, ...]:
        """Image, position and factor of what is there; None where it is not."""
        given = ((role, arrays.get(self.arguments[role])) for role in ROLES)
        return tuple(None if a is None else self.views.read(role, a) for role, a in given)

    @contextmanager
    def writes(self, results: Arrays, *outputs: str) -> Iterator[tuple[NumpyArray | None, ...]]:
        """Memory for results like the output and for those like image, position and factor."""
        names = [("output", name) for name in outputs]
        names += [(role, self.arguments[role]) for role in ROLES]
        given = [(role, results.get(name)) for role, name in names]
        written = [None if r is None else self.views.write(role, r) for role, r in given]
        yield tuple(written)
        for (role, result), memory in zip(given, written, strict=True):
            if result is not None and memory is not None:
                self.views.finish(role, memory, result)


def _forward(backend: Any, plan: Plan, arrays: Arrays, results: dict[str, NumpyArray]) -> None:
    out = plan.views.write("output", results["out"])
    backend.local_conv(plan.geometry, *plan.reads(arrays), out)


def _backward(
    backend: Any, plan: Plan, ybar: NumpyArray, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    ybar = plan.views.read("output", ybar)
    with plan.writes(results) as grads:
        backend.local_conv_backward(plan.geometry, ybar, *plan.reads(arrays), grads)


def _jvp(
    backend: Any, plan: Plan, tangents: Arrays, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    names = ("output", "output_tangent")
    written = (plan.views.write("output", results[name]) for name in names)
    backend.local_conv_jvp(plan.geometry, *plan.reads(arrays), plan.reads(tangents), *written)


def _double_backward(
    backend: Any,
    plan: Plan,
    grad_grads: Arrays,
    ybar: NumpyArray,
    arrays: Arrays,
    results: dict[str, NumpyArray],
) -> None:
    ybar = plan.views.read("output", ybar)
    with plan.writes(results, "grad_output") as grads:
        backend.local_conv_double_backward(
            plan.geometry, plan.reads(grad_grads), ybar, *plan.reads(arrays), grads
        )


# The rules of an operation whose plan is a `Plan`.
rules = partial(
    _call.Rules,
    forward=_forward,
    backward=_backward,
    jvp=_jvp,
    double_backward=_double_backward,
)


def exact(value: float | Fraction, dtype: np.dtype[Any]) -> Any:
    """Return a scalar of a dtype; a Fraction for object arrays, so that they stay exact."""
    return Fraction(value) if dtype == object else dtype.type(value)


def real(name: str, value: object) -> float:
    """Return `value` as a finite float."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {value!r} ({type(value).__name__})")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return number


def check_shape(name: str, array: NumpyArray, shape: tuple[int, ...], meaning: str) -> None:
    """Check the shape of an argument."""
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape} {meaning}, got {array.shape}")


def check_axes(name: str, array: NumpyArray, count: int, meaning: str) -> None:
    """Check how many axes an argument has."""
    if array.ndim != count:
        raise ValueError(
            f"{name}: expected {count} dimensions {meaning}, got {array.ndim}, shape {array.shape}"
        )


def depthwise(
    batch: int,
    channels: int,
    offset_groups: int,
    size: tuple[int, int],
    out_size: tuple[int, int],
    taps: int,
    kink: str,
    mode: str = "zeros",
    base: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> ConvGeometry:
    """Return the geometry of a local convolution whose taps share one base.

    The base is q*stride - pad with `base` = (stride, pad), an exact integer, and 0 without it: then
    the offset is the position. A dilation of 0 leaves it to the offset where each tap lies.
    """
    stride, pad = ((1, 1), (0, 0)) if base is None else base
    return ConvGeometry(
        batch=batch,
        channels=channels,
        out_channels=channels,
        groups=channels,
        offset_groups=offset_groups,
        size=size,
        out_size=out_size,
        kernel=(1, taps),
        stride=stride,
        pad=pad,
        dilation=(0, 0),
        mode=mode,
        kink=kink,
        channels_last=True,
        absolute=base is None,
    )
