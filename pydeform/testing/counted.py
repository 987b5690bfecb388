"""An a-priori bound for any operation: evaluate it on numbers that carry their own.

Every entry of an array becomes a `Counted`: a value v, a size L >= |v| and a count k, with the
promise that floating point, in any order of summation, computes v with an error of at most

    gamma_k L,     gamma_k = k u / (1 - k u).

The executable specification works on object arrays, so running an operation on `ref` over such
numbers carries the promise through to its results. With |computed - v| <= gamma_k L for both
operands, and each operation rounded by a relative u at most, what holds to first order in u is

    x + y    L = Lx + Ly                        k = max(kx, ky) + 1
    x * y    L = Lx Ly                          k = kx + ky + 1
    x / y    L = Lx Ly / y^2                    k = kx + ky + 1
    f(x)     L = |f(x)| + |f'(x)| Lx            k = kx + c, where f itself is good to c roundings

(for a product: error <= gamma_kx Lx |y| + gamma_ky Ly |x| + u |x y|, and
gamma_a + gamma_b + gamma_a gamma_b <= gamma_{a+b}; the others follow in the same way). In sums any
order must be allowed: of m terms the first to be added goes through m - 1 additions, so a count is
kept as that of the largest term and the number of additions, k = term + additions, which are added
up apart from each other.
Without cancellation this is the k u Lambda of `pydeform.testing.bounds`: for one sample of rank n
it counts n + (n - 1) + 1 + (2^n - 1) = 2^n + 2n - 1 roundings, as is written there.

What is exact counts as exact: numbers that are given, their negatives, products by powers of two,
and a sum of a given number and a constant that the working type can hold, such as offset -
floor(offset) but for tiny negative offsets. Comparisons, floor and maximum go by the value: a case
drawn so close to a jump that rounding crosses it is not one that this is for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

import pydeform
from pydeform._ref.deform_conv import working_dtype
from pydeform.testing.bounds import Expected, judged, long
from pydeform.testing.cases import Array, Case, Results

# Roundings of a library function: within 4 units in the last place, which NumPy promises.
_FUNCTION = 8

_CONSTANTS = (int, float, Fraction, np.integer, np.floating)


class Counted:
    """A number with a size and a count, as the module says.

    Parameters
    ----------
    value : float
        The number.
    size : float
        L.
    holds : callable
        Tells whether the working type holds a float exactly.
    term, additions : int
        The count k is their sum.
    """

    __slots__ = ("additions", "holds", "size", "term", "value")

    def __init__(
        self,
        value: float,
        size: float,
        holds: Callable[[float], bool],
        term: int = 0,
        additions: int = 0,
    ) -> None:
        self.value = value
        self.size = size
        self.holds = holds
        self.term = term
        self.additions = additions

    @property
    def count(self) -> int:
        """The number of roundings, k."""
        return self.term + self.additions

    def _shifted(self, constant: Any) -> Counted:
        """The sum with a constant."""
        c = float(constant)
        if c == 0:
            return self
        total = self.value + c
        if self.term + self.additions:
            size = self.size + abs(c)
            return Counted(total, size, self.holds, self.term, self.additions + 1)
        # Both are exact. Where the sum fits the working type, nothing is rounded.
        exact = (
            Fraction(self.value) + Fraction(constant) == Fraction(total)
            if math.isfinite(total)
            else True
        )
        return Counted(total, abs(total), self.holds, int(not (exact and self.holds(total))))

    def __add__(self, other: Any) -> Any:
        if type(other) is Counted:
            return Counted(
                self.value + other.value,
                self.size + other.size,
                self.holds,
                max(self.term, other.term),
                self.additions + other.additions + 1,
            )
        return self._shifted(other) if isinstance(other, _CONSTANTS) else NotImplemented

    __radd__ = __add__

    def __neg__(self) -> Counted:
        return Counted(-self.value, self.size, self.holds, self.term, self.additions)

    def __pos__(self) -> Counted:
        return self

    def __abs__(self) -> Counted:
        return -self if self.value < 0 else self

    def __sub__(self, other: Any) -> Any:
        if type(other) is Counted:
            return self + -other
        return self._shifted(-other) if isinstance(other, _CONSTANTS) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        if type(other) is Counted:
            count = self.term + self.additions + other.term + other.additions + 1
            return Counted(self.value * other.value, self.size * other.size, self.holds, count)
        if not isinstance(other, _CONSTANTS):
            return NotImplemented
        if not other:
            return Fraction(0)  # a structural zero: what is added to it is not rounded
        c = float(other)
        if math.frexp(c)[0] in (0.5, -0.5):  # a power of two
            return Counted(
                self.value * c, self.size * abs(c), self.holds, self.term, self.additions
            )
        # The constant may be rounded before the product is.
        return Counted(
            self.value * c, self.size * abs(c), self.holds, self.count + 1 + (not self.holds(c))
        )

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        if type(other) is not Counted:
            if not isinstance(other, _CONSTANTS):
                return NotImplemented
            other = Counted(float(other), abs(float(other)), self.holds)
        size = self.size * other.size / (other.value * other.value)
        return Counted(self.value / other.value, size, self.holds, self.count + other.count + 1)

    def __rtruediv__(self, other: Any) -> Any:
        if not isinstance(other, _CONSTANTS):
            return NotImplemented
        return Counted(float(other), abs(float(other)), self.holds) / self

    def __pow__(self, power: int) -> Any:
        result: Any = self
        for _ in range(power - 1):
            result = result * self
        return result if power else 1

    # What NumPy calls for its functions on objects.

    def _function(self, value: float, slope: float, roundings: int = _FUNCTION) -> Counted:
        size = abs(value) + abs(slope) * self.size
        return Counted(value, size, self.holds, self.count + roundings)

    def exp(self) -> Counted:
        """Return e to the power of this."""
        value = math.exp(self.value)
        return self._function(value, value)

    def log(self) -> Counted:
        """Return the natural logarithm."""
        return self._function(math.log(self.value), 1 / self.value)

    def tanh(self) -> Counted:
        """Return the hyperbolic tangent."""
        value = math.tanh(self.value)
        return self._function(value, 1 - value * value)

    def sin(self) -> Counted:
        """Return the sine."""
        return self._function(math.sin(self.value), math.cos(self.value))

    def cos(self) -> Counted:
        """Return the cosine."""
        return self._function(math.cos(self.value), math.sin(self.value))

    def sqrt(self) -> Counted:
        """Return the square root."""
        if self.value == 0:
            return self
        value = math.sqrt(self.value)
        return self._function(value, 0.5 / value, roundings=1)

    def __floor__(self) -> int:
        return math.floor(self.value)

    def __ceil__(self) -> int:
        return math.ceil(self.value)

    def __bool__(self) -> bool:
        return self.value != 0

    def __eq__(self, other: object) -> bool:
        return bool(self.value == _value(other))

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < _value(other))

    def __le__(self, other: Any) -> bool:
        return bool(self.value <= _value(other))

    def __gt__(self, other: Any) -> bool:
        return bool(self.value > _value(other))

    def __ge__(self, other: Any) -> bool:
        return bool(self.value >= _value(other))

    __hash__ = None  # type: ignore[assignment]


def _value(number: Any) -> Any:
    return number.value if type(number) is Counted else number


def counted(array: Array, working: Any) -> Array:
    """Return an object array of `Counted`, exact in a working dtype.

    Parameters
    ----------
    array : array
        Of finite numbers.
    working : dtype
        What is computed in: float32 or float64.

    Returns
    -------
    array of object
        Of the same shape.

    Examples
    --------
    >>> x, y = counted(np.array([0.5, 3.0]), "float32")
    >>> (x * y + x).value, (x * y + x).size, (x * y - x).size, (x * y + x).count
    (2.0, 2.0, 2.0, 2)
    """
    kind = np.dtype(working).type

    def holds(value: float) -> bool:
        return float(kind(value)) == value

    def make(value: float) -> Counted:
        return Counted(value, abs(value), holds)

    flat = [make(float(value)) for value in np.asarray(array).reshape(-1)]
    result = np.empty(len(flat), object)
    result[:] = flat
    return result.reshape(np.shape(array))


def sizes_and_counts(results: Results) -> dict[str, tuple[Array, Array]]:
    """Return Lambda and k of every entry of results that hold `Counted` and constants."""

    def parts(array: Array) -> tuple[Array, Array]:
        pairs = [
            (x.size, x.count) if type(x) is Counted else (abs(float(x)), 0)
            for x in array.reshape(-1)
        ]
        both = np.array(pairs, np.float64).reshape(*array.shape, 2)
        return both[..., 0], both[..., 1]

    return {name: parts(array) for name, array in results.items()}


def reference(case: Case) -> Results:
    """Evaluate a case by the operation itself on the executable specification.

    Parameters
    ----------
    case : Case
        Of any type that `ref` takes: longdouble, object arrays of fractions, ...

    Returns
    -------
    dict of array
        What `Case.evaluate` has.
    """
    with pydeform.use_backend("ref"):
        return case.evaluate()


def expected(case: Case) -> dict[str, Expected]:
    """Return what every result of a case should be, with its a-priori bound.

    Parameters
    ----------
    case : Case
        Of finite numbers, already rounded to the dtype that is to be judged. The operation must
        work on object arrays on `ref`. Python carries every number: thousands of samples take
        seconds.

    Returns
    -------
    dict of Expected
        By the names that `Case.evaluate` uses.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform.testing.values import deform_conv_case, make_geometry
    >>> case = deform_conv_case(*make_geometry((4,), (3,)), seed=0).astype(np.float32)
    >>> with pydeform.use_backend("ref"):
    ...     output = case.output()
    >>> expected(case)["output"].units(output) <= 1
    True
    """
    values = reference(case.map(long))
    working = working_dtype(case.dtype)
    numbers = reference(case.map(lambda array: counted(array, working)))
    return judged(case, values, sizes_and_counts(numbers))
