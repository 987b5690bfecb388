"""Operations whose samples lie in layouts of their own: local convolutions on views of them.

A backend's local convolution reads and writes offsets [N, P, G, K, n] and factors [N, P, G, K] of
any strides, P positions, G groups of channels, K taps, n axes; the geometry says how an offset
becomes pixels. So an operation is a geometry, and how its arrays are seen.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
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


class Plan(NamedTuple):
    """How a call is computed.

    `view` takes "output" or a role, and an argument, a tangent, a cotangent or a result; what it
    returns is on the same memory. `finish` takes the gradients that were written.
    """

    output: Wanted
    geometry: ConvGeometry
    view: Callable[[str, NumpyArray], NumpyArray]
    arguments: Mapping[str, str]  # by role
    finish: Callable[[Arrays], None] | None = None

    def views(self, arrays: Arrays) -> tuple[NumpyArray | None, ...]:
        """Image, position and factor of what is there; None where it is not."""
        given = ((role, arrays.get(self.arguments[role])) for role in ROLES)
        return tuple(None if array is None else self.view(role, array) for role, array in given)

    def outputs(self, arrays: Arrays, *names: str) -> tuple[NumpyArray | None, ...]:
        """What lies as the output does."""
        given = (arrays.get(name) for name in names)
        return tuple(None if array is None else self.view("output", array) for array in given)


def _forward(backend: Any, plan: Plan, arrays: Arrays, results: dict[str, NumpyArray]) -> None:
    backend.local_conv(plan.geometry, *plan.views(arrays), *plan.outputs(results, "out"))


def _backward(
    backend: Any, plan: Plan, ybar: NumpyArray, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    ybar = plan.view("output", ybar)
    backend.local_conv_backward(plan.geometry, ybar, *plan.views(arrays), plan.views(results))
    if plan.finish is not None:
        plan.finish(results)


def _jvp(
    backend: Any, plan: Plan, tangents: Arrays, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    written = plan.outputs(results, "output", "output_tangent")
    backend.local_conv_jvp(plan.geometry, *plan.views(arrays), plan.views(tangents), *written)


def _double_backward(
    backend: Any,
    plan: Plan,
    grad_grads: Arrays,
    ybar: NumpyArray,
    arrays: Arrays,
    results: dict[str, NumpyArray],
) -> None:
    backend.local_conv_double_backward(
        plan.geometry,
        plan.views(grad_grads),
        plan.view("output", ybar),
        *plan.views(arrays),
        (*plan.outputs(results, "grad_output"), *plan.views(results)),
    )
    if plan.finish is not None:
        plan.finish(results)


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
