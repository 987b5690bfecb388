"""One call of one operation as data: arrays, options, cotangents, and what it evaluates to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pydeform

Array = NDArray[Any]
Results = dict[str, Array]


@dataclass(frozen=True)
class Move:
    """How finite differences move an argument.

    Attributes
    ----------
    step
        How far an entry moves; an array, broadcast to the argument's shape, where that differs from
        entry to entry. A power of two rounds nothing.
    part
        Labels 0, 1, ... of entries, broadcast to the argument's shape: along entries of one label
        together the operation is affine, along others at once it need not be. None where it is
        along all.
    smooth
        True where it is not affine but smooth. Differences of eighth order are taken then, which
        are exact for polynomials up to that degree; the step should be some 2**-5.
    """

    step: float | Array = 1.0
    part: Array | None = None
    smooth: bool = False


#: How an argument moves of which nothing else is said: the operation is affine in all of it.
PLAIN = Move()


@dataclass(frozen=True)
class Case:
    """A call of ``pydeform.<operation>`` and of its derivatives, with everything they take.

    Attributes
    ----------
    operation
        Public name, such as ``"deform_conv2d"`` or ``"offsets.scale_taps"``.
    arrays
        The array arguments that have gradients, by name; None where the call goes without one.
    options
        The other keyword arguments, among them arrays without gradients.
    grad_output
        Cotangent of the output.
    tangents
        Tangents of `arrays`, by the same names, that serve as cotangents of the gradients as well.
        A name that is missing is a zero tangent.
    moves
        How finite differences move the arguments that are not affine in all of their entries.
    wide
        The arguments that may be float32 beside 16-bit ones.
    geometry
        What the operation's own reference wants to know besides.
    """

    operation: str
    arrays: Mapping[str, Any]
    options: Mapping[str, Any]
    grad_output: Array
    tangents: Mapping[str, Array]
    moves: Mapping[str, Move] = field(default_factory=dict)
    wide: tuple[str, ...] = ()
    geometry: Any = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Storage dtype of the output."""
        return self.grad_output.dtype

    @property
    def names(self) -> list[str]:
        """The array arguments that this call has."""
        return [name for name, array in self.arrays.items() if array is not None]

    def astype(self, dtype: Any, positions: Any = None) -> Case:
        """Return the case with every array rounded to a dtype.

        Parameters
        ----------
        dtype : dtype
            Of the arrays.
        positions : dtype, optional
            Of the arguments in `wide` instead.

        Returns
        -------
        Case
            With arrays of its own.
        """

        def cast(name: str, array: Array) -> Array:
            wide = positions is not None and name in self.wide
            return array.astype(positions if wide else dtype)

        return replace(
            self,
            arrays={k: None if a is None else cast(k, a) for k, a in self.arrays.items()},
            tangents={k: cast(k, a) for k, a in self.tangents.items()},
            grad_output=self.grad_output.astype(dtype),
        )

    def map(self, function: Callable[[Array], Array]) -> Case:
        """Return the case with ``function(array)`` for every array."""
        return replace(
            self,
            arrays={k: None if a is None else function(a) for k, a in self.arrays.items()},
            tangents={k: function(a) for k, a in self.tangents.items()},
            grad_output=function(self.grad_output),
        )

    def with_array(self, name: str, array: Array) -> Case:
        """Return the case with another array for one argument, or for ``"grad_output"``."""
        if name == "grad_output":
            return replace(self, grad_output=array)
        return replace(self, arrays={**self.arrays, name: array})

    # The public functions on this case; they run on the backend that is in use.

    def output(self) -> Array:
        """The operation itself."""
        function = attrgetter(self.operation)(pydeform)
        return np.asarray(function(**self.arrays, **self.options))

    def backward(self) -> Results:
        """The gradients of ``<grad_output, output>``, by argument."""
        function = attrgetter(self.operation + "_backward")(pydeform)
        return _present(function(self.grad_output, **self.arrays, **self.options))

    def jvp(self) -> tuple[Array, Array]:
        """The output and its derivative in the direction of the tangents."""
        function = attrgetter(self.operation + "_jvp")(pydeform)
        out, tangent = function(**self.arrays, **self.options, tangents=self.tangents)
        return np.asarray(out), np.asarray(tangent)

    def double_backward(self) -> Results:
        """The gradients of ``<tangents, gradients>``, by argument, and to ``"grad_output"``."""
        function = attrgetter(self.operation + "_double_backward")(pydeform)
        return _present(function(self.tangents, self.grad_output, **self.arrays, **self.options))

    def evaluate(self) -> Results:
        """Return everything: output, output_tangent, grad_<argument>, second_<argument>."""
        primal, tangent = self.jvp()
        return {
            "output": self.output(),
            "output of jvp": primal,
            "output_tangent": tangent,
            **{f"grad_{name}": array for name, array in self.backward().items()},
            **{f"second_{name}": array for name, array in self.double_backward().items()},
        }


def _present(results: Any) -> Results:
    return {k: np.asarray(a) for k, a in results._asdict().items() if a is not None}
