"""A reverse tape: arrays that remember how they came about, and the walk back to their gradients.

A `Traced` array wraps a NumPy array and holds the operands it was made of and the rule that takes a
gradient back to them. Its namespace has the operations of `_adjoints`, by the names of the array
API, so a function written against that API runs on it unchanged. The whole tape is these links:
there is no global list, and what nobody holds is freed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NoReturn

import numpy as np

from pydeform._arrays import NumpyArray
from pydeform.recipes import _adjoints
from pydeform.recipes._adjoints import Pullback, Ruled

_serial = count()


def value_of(x: Any) -> Any:
    """Return the NumPy array inside a traced one, and anything else as it is."""
    return x.value if isinstance(x, Traced) else x


def apply(rule: Callable[..., Ruled], *operands: Any, **options: Any) -> Any:
    """Compute one operation and remember it where an operand is traced."""
    value, pullback = rule(*map(value_of, operands), **options)
    traced = any(isinstance(x, Traced) for x in operands)
    return Traced(value, operands, pullback) if traced else value


def _operator(rule: Callable[..., Ruled]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the two methods of a binary operator: from the left and from the right."""

    def left(self: Traced, other: Any) -> Any:
        return apply(rule, self, other)

    def right(self: Traced, other: Any) -> Any:
        return apply(rule, other, self)

    return left, right


def _comparison(name: str) -> Callable[..., Any]:
    """Return a method that compares values; what it gives is constant almost everywhere."""

    def compare(self: Traced, other: Any) -> Any:
        return getattr(self.value, name)(value_of(other))

    return compare


class Traced:
    """An array that remembers the operation it came from.

    Parameters
    ----------
    value : numpy.ndarray
        What it holds.
    operands : sequence
        What the operation took; those that are `Traced` get gradients.
    pullback : callable, optional
        From the gradient of `value` to one gradient per operand. None for an argument.
    """

    __slots__ = ("operands", "pullback", "serial", "value")
    __array_ufunc__ = None  # so that `numpy array * traced` asks the traced one
    __hash__ = None  # type: ignore[assignment]  # == compares elements

    def __init__(
        self, value: Any, operands: Sequence[Any] = (), pullback: Pullback | None = None
    ) -> None:
        self.value: NumpyArray = np.asarray(value)
        self.operands = operands
        self.pullback = pullback
        self.serial = next(_serial)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        del api_version
        from pydeform.recipes import _traced

        return _traced

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "a traced array cannot become a numpy.ndarray, which would lose its gradient; "
            "use the functions of x.__array_namespace__()"
        )

    def __repr__(self) -> str:
        return f"Traced({self.value!r})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.value.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.value.size

    @property
    def dtype(self) -> Any:
        """Type of the elements."""
        return self.value.dtype

    @property
    def device(self) -> Any:
        """Where the elements lie."""
        return self.value.device

    def __len__(self) -> int:
        return len(self.value)

    __add__, __radd__ = _operator(_adjoints.add)
    __sub__, __rsub__ = _operator(_adjoints.subtract)
    __mul__, __rmul__ = _operator(_adjoints.multiply)
    __truediv__, __rtruediv__ = _operator(_adjoints.divide)
    __matmul__, __rmatmul__ = _operator(_adjoints.matmul)
    __lt__, __le__ = _comparison("__lt__"), _comparison("__le__")
    __gt__, __ge__ = _comparison("__gt__"), _comparison("__ge__")
    __eq__, __ne__ = _comparison("__eq__"), _comparison("__ne__")

    def __neg__(self) -> Any:
        return apply(_adjoints.negative, self)

    def __abs__(self) -> Any:
        return apply(_adjoints.abs, self)

    def __pow__(self, exponent: float) -> Any:
        return apply(_adjoints.power, self, exponent=exponent)

    def __getitem__(self, key: Any) -> Any:
        return apply(_adjoints.getitem, self, key=key)


def gradients(
    output: Traced, grad_output: NumpyArray, arguments: Sequence[Traced]
) -> list[NumpyArray]:
    """Walk back from the output; return the gradient of each argument, 0 where it had no part."""
    reached = {output.serial: output}
    waiting = [output]
    while waiting:
        for operand in waiting.pop().operands:
            if isinstance(operand, Traced) and operand.serial not in reached:
                reached[operand.serial] = operand
                waiting.append(operand)

    found: dict[int, NumpyArray] = {output.serial: grad_output}
    for serial in sorted(reached, reverse=True):  # what was made last comes first
        node = reached[serial]
        if node.pullback is None or serial not in found:
            continue
        grads = node.pullback(found.pop(serial))
        for operand, grad in zip(node.operands, grads, strict=True):
            if isinstance(operand, Traced) and grad is not None:
                known = found.get(operand.serial)
                found[operand.serial] = grad if known is None else known + grad
    return [
        np.array(found[x.serial], dtype=x.dtype) if x.serial in found else np.zeros_like(x.value)
        for x in arguments
    ]
