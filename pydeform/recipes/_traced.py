"""The namespace of traced arrays: the part of the array API that the recipes use.

Each function is the rule of its name in `_adjoints`, applied and remembered. Arrays that are made
from nothing are plain NumPy arrays: constants, which mix with traced ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy import (
    arange,
    eye,
    float32,
    float64,
    full,
    int64,
    isdtype,
    linspace,
    ones,
    pi,
    result_type,
    zeros,
)

from pydeform._arrays import NumpyArray
from pydeform.recipes import _adjoints
from pydeform.recipes._adjoints import Axis, Ruled
from pydeform.recipes._tape import Traced, apply, value_of

__all__ = [
    "abs", "add", "arange", "asarray", "broadcast_to", "concat", "cos", "divide", "exp",
    "expand_dims", "eye", "flip", "float32", "float64", "floor", "full", "int64", "isdtype",
    "linspace", "log", "matmul", "max", "maximum", "mean", "minimum", "multiply", "negative",
    "ones", "ones_like", "permute_dims", "pi", "pow", "reshape", "result_type", "sin", "sqrt",
    "square", "squeeze", "stack", "subtract", "sum", "tanh", "where", "zeros", "zeros_like",
]  # fmt: skip


def asarray(x: Any, **options: Any) -> Any:
    """Return a traced array as it is, and anything else as a NumPy array."""
    return x if isinstance(x, Traced) else np.asarray(x, **options)


def zeros_like(x: Any) -> NumpyArray:
    """Return zeros of the shape and dtype of `x`."""
    return np.zeros_like(value_of(x))


def ones_like(x: Any) -> NumpyArray:
    """Return ones of the shape and dtype of `x`."""
    return np.ones_like(value_of(x))


def floor(x: Any) -> NumpyArray:
    """Return the largest whole numbers not above; constant almost everywhere."""
    floored: NumpyArray = np.floor(value_of(x))
    return floored


def _of_one(rule: Callable[[Any], Ruled]) -> Callable[[Any], Any]:
    """Return the function of one array."""

    def function(x: Any, /) -> Any:
        return apply(rule, x)

    function.__doc__ = rule.__doc__
    return function


def _of_two(rule: Callable[[Any, Any], Ruled]) -> Callable[[Any, Any], Any]:
    """Return the function of two arrays, or of one and a number."""

    def function(x: Any, y: Any, /) -> Any:
        return apply(rule, x, y)

    function.__doc__ = rule.__doc__
    return function


def _reduction(rule: Callable[..., Ruled]) -> Callable[..., Any]:
    """Return the function that reduces some axes."""

    def function(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
        return apply(rule, x, axis=axis, keepdims=keepdims)

    function.__doc__ = rule.__doc__
    return function


abs, negative, exp, log = map(
    _of_one, (_adjoints.abs, _adjoints.negative, _adjoints.exp, _adjoints.log)
)
sqrt, tanh, sin, cos = map(_of_one, (_adjoints.sqrt, _adjoints.tanh, _adjoints.sin, _adjoints.cos))
add, subtract = map(_of_two, (_adjoints.add, _adjoints.subtract))
multiply, divide = map(_of_two, (_adjoints.multiply, _adjoints.divide))
maximum, minimum = map(_of_two, (_adjoints.maximum, _adjoints.minimum))
matmul = _of_two(_adjoints.matmul)
sum, mean, max = map(_reduction, (_adjoints.sum, _adjoints.mean, _adjoints.max))


def pow(x: Any, exponent: float, /) -> Any:
    """x to the power of a number."""
    return apply(_adjoints.power, x, exponent=exponent)


def square(x: Any, /) -> Any:
    """x x."""
    return x * x


def where(condition: Any, x: Any, y: Any, /) -> Any:
    """One of two, element by element."""
    return apply(_adjoints.where, condition, x, y)


def reshape(x: Any, /, shape: tuple[int, ...]) -> Any:
    """The same elements in other axes."""
    return apply(_adjoints.reshape, x, shape=shape)


def permute_dims(x: Any, /, axes: tuple[int, ...]) -> Any:
    """Axes in another order."""
    return apply(_adjoints.permute_dims, x, axes=axes)


def broadcast_to(x: Any, /, shape: tuple[int, ...]) -> Any:
    """Repeated along axes of size 1 and along new first ones."""
    return apply(_adjoints.broadcast_to, x, shape=shape)


def expand_dims(x: Any, /, *, axis: int = 0) -> Any:
    """A new axis of size 1."""
    return reshape(x, np.expand_dims(value_of(x), axis).shape)


def squeeze(x: Any, /, axis: int | tuple[int, ...]) -> Any:
    """Without some axes of size 1."""
    return reshape(x, np.squeeze(value_of(x), axis).shape)


def flip(x: Any, /, *, axis: Axis = None) -> Any:
    """The order of elements along some axes turned round."""
    return apply(_adjoints.flip, x, axis=axis)


def concat(arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
    """Arrays joined along an axis that they have."""
    return apply(_adjoints.concat, *arrays, axis=axis)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
    """Arrays joined along a new axis."""
    return apply(_adjoints.stack, *arrays, axis=axis)
