"""The adjoint of every elementary operation: the table that the tape reads.

A rule takes NumPy arrays (or Python numbers) and returns the output and a function from the
gradient of the output to one gradient per operand. Names and options are those of the array API.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from pydeform._arrays import NumpyArray

Pullback: TypeAlias = Callable[[NumpyArray], tuple[Any, ...]]
Ruled: TypeAlias = tuple[Any, Pullback]
Axis: TypeAlias = int | tuple[int, ...] | None


def fold(grad: NumpyArray, operand: Any) -> Any:
    """Sum a gradient over the axes along which its operand was broadcast."""
    shape = np.shape(operand)
    extra = grad.ndim - len(shape)
    axes = tuple(range(extra))
    axes += tuple(extra + i for i, n in enumerate(shape) if n == 1 and grad.shape[extra + i] != 1)
    return np.sum(grad, axis=axes).reshape(shape) if axes else grad


def spread(grad: NumpyArray, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> NumpyArray:
    """Repeat a gradient along the axes that were reduced."""
    if not keepdims and axis is not None:
        grad = np.expand_dims(grad, axis)
    elif not keepdims:
        grad = np.reshape(grad, (1,) * len(shape))
    return np.broadcast_to(grad, shape)


# Element by element


def add(x: Any, y: Any) -> Ruled:
    """x + y."""
    return x + y, lambda g: (fold(g, x), fold(g, y))


def subtract(x: Any, y: Any) -> Ruled:
    """x - y."""
    return x - y, lambda g: (fold(g, x), fold(-g, y))


def multiply(x: Any, y: Any) -> Ruled:
    """x y."""
    return x * y, lambda g: (fold(g * y, x), fold(g * x, y))


def divide(x: Any, y: Any) -> Ruled:
    """x / y."""
    quotient = x / y
    return quotient, lambda g: (fold(g / y, x), fold(-g * quotient / y, y))


def maximum(x: Any, y: Any) -> Ruled:
    """The larger; where both are equal the first takes the gradient."""
    first = np.greater_equal(x, y)
    return np.maximum(x, y), lambda g: (fold(g * first, x), fold(g * ~first, y))


def minimum(x: Any, y: Any) -> Ruled:
    """The smaller; where both are equal the first takes the gradient."""
    first = np.less_equal(x, y)
    return np.minimum(x, y), lambda g: (fold(g * first, x), fold(g * ~first, y))


def where(condition: Any, x: Any, y: Any) -> Ruled:
    """One of two; what is not taken gets 0, even where the gradient is NaN."""
    condition = np.asarray(condition)
    return np.where(condition, x, y), lambda g: (
        None,
        fold(np.where(condition, g, 0), x),
        fold(np.where(condition, 0, g), y),
    )


def power(x: Any, *, exponent: float) -> Ruled:
    """x to the power of a number."""
    return x**exponent, lambda g: (g * exponent * x ** (exponent - 1),)


def negative(x: Any) -> Ruled:
    """-x."""
    return -x, lambda g: (-g,)


def exp(x: Any) -> Ruled:
    """The exponential."""
    y = np.exp(x)
    return y, lambda g: (g * y,)


def log(x: Any) -> Ruled:
    """The natural logarithm."""
    return np.log(x), lambda g: (g / x,)


def sqrt(x: Any) -> Ruled:
    """The square root."""
    y = np.sqrt(x)
    return y, lambda g: (g / (2 * y),)


def tanh(x: Any) -> Ruled:
    """The hyperbolic tangent."""
    y = np.tanh(x)
    return y, lambda g: (g * (1 - y * y),)


def sin(x: Any) -> Ruled:
    """The sine of an angle in radians."""
    return np.sin(x), lambda g: (g * np.cos(x),)


def cos(x: Any) -> Ruled:
    """The cosine of an angle in radians."""
    return np.cos(x), lambda g: (-g * np.sin(x),)


def abs(x: Any) -> Ruled:
    """The absolute value; its derivative at 0 is taken as 0."""
    return np.abs(x), lambda g: (g * np.sign(x),)


# Reductions


def sum(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Ruled:
    """The sum over some axes."""
    return np.sum(x, axis=axis, keepdims=keepdims), lambda g: (spread(g, x.shape, axis, keepdims),)


def mean(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Ruled:
    """The mean over some axes."""
    y = np.mean(x, axis=axis, keepdims=keepdims)
    share = y.size / x.size
    return y, lambda g: (spread(g * share, x.shape, axis, keepdims),)


def max(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Ruled:
    """The maximum over some axes; elements that share it share the gradient."""
    y = np.max(x, axis=axis, keepdims=True)
    chosen = x == y

    def pull(g: NumpyArray) -> tuple[Any, ...]:
        count = np.sum(chosen, axis=axis, keepdims=True, dtype=x.dtype)
        return (spread(g, x.shape, axis, keepdims) * (chosen / count),)

    return np.max(x, axis=axis, keepdims=keepdims), pull


def matmul(x: Any, y: Any) -> Ruled:
    """Matrix products; leading axes broadcast."""
    if x.ndim < 2 or y.ndim < 2:
        raise ValueError(f"matmul: expected matrices, got shapes {x.shape} and {y.shape}")
    return x @ y, lambda g: (fold(g @ y.mT, x), fold(x.mT @ g, y))


# Shapes


def reshape(x: Any, *, shape: tuple[int, ...]) -> Ruled:
    """The same elements, in the same order, in other axes."""
    return np.reshape(x, shape), lambda g: (np.reshape(g, x.shape),)


def permute_dims(x: Any, *, axes: tuple[int, ...]) -> Ruled:
    """Axes in another order."""
    return np.permute_dims(x, axes), lambda g: (np.permute_dims(g, np.argsort(axes)),)


def broadcast_to(x: Any, *, shape: tuple[int, ...]) -> Ruled:
    """Repeated along axes of size 1 and along new first ones."""
    return np.broadcast_to(x, shape), lambda g: (fold(g, x),)


def flip(x: Any, *, axis: Axis = None) -> Ruled:
    """The order of elements along some axes turned round."""
    return np.flip(x, axis), lambda g: (np.flip(g, axis),)


def getitem(x: Any, *, key: Any) -> Ruled:
    """Part of an array, by integers, slices, None, Ellipsis or integer arrays."""

    def pull(g: NumpyArray) -> tuple[Any, ...]:
        grad = np.zeros_like(x)
        np.add.at(grad, key, g)  # an element may be taken more than once
        return (grad,)

    def pull_slices(g: NumpyArray) -> tuple[Any, ...]:
        grad = np.zeros_like(x)
        grad[key] = g
        return (grad,)

    keys = key if isinstance(key, tuple) else (key,)
    basic = all(k is None or k is Ellipsis or isinstance(k, int | slice) for k in keys)
    return x[key], pull_slices if basic else pull


def concat(*arrays: Any, axis: int = 0) -> Ruled:
    """Arrays joined along an axis that they have."""
    ends = np.cumsum([a.shape[axis] for a in arrays])[:-1]
    return np.concat(arrays, axis=axis), lambda g: tuple(np.split(g, ends, axis))


def stack(*arrays: Any, axis: int = 0) -> Ruled:
    """Arrays joined along a new axis."""
    return np.stack(arrays, axis=axis), lambda g: tuple(np.moveaxis(g, axis, 0))
