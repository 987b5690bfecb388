"""One call of one operation as data: arrays, options, cotangents, and what it evaluates to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pydeform
from pydeform._shapes import ConvGeometry
from pydeform.ops import _checks

Array = NDArray[Any]
Results = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """A call of ``pydeform.<operation>`` and of its derivatives, with everything they take.

    Attributes
    ----------
    operation
        Public name, such as ``"deform_conv2d"``.
    geometry
        What the options and shapes amount to, for the executable specification.
    arrays
        The array arguments by name; None where the call goes without one.
    options
        The other keyword arguments.
    grad_output
        Cotangent of the output.
    tangents
        Tangents of `arrays`, by the same names, that serve as cotangents of the gradients as well.
        A name that is missing is a zero tangent.
    """

    operation: str
    geometry: ConvGeometry
    arrays: Mapping[str, Any]
    options: Mapping[str, Any]
    grad_output: Array
    tangents: Mapping[str, Array]

    @classmethod
    def of(
        cls,
        operation: str,
        arrays: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        *,
        grad_output: Array,
        tangents: Mapping[str, Array] | None = None,
    ) -> Case:
        """Make a case of a deformable convolution from the arguments of a call.

        Parameters
        ----------
        operation : {"deform_conv1d", "deform_conv2d", "deform_conv3d"}
            Public name.
        arrays : mapping of str to array
            Of input, offset, weight, bias, mask those that the call has.
        options : mapping, optional
            Its other keyword arguments.
        grad_output : array
            Cotangent of the output.
        tangents : mapping of str to array, optional
            Tangents of the arrays; those that are missing are zero.

        Returns
        -------
        Case
            Sharing the arrays.

        Examples
        --------
        >>> import numpy as np
        >>> x, w = np.ones((1, 1, 4)), np.ones((1, 1, 3))
        >>> case = Case.of(
        ...     "deform_conv1d", {"input": x, "weight": w}, grad_output=np.ones((1, 1, 2))
        ... )
        >>> case.geometry.out_size
        (2,)
        """
        rank = int(operation.removeprefix("deform_conv")[0])
        given = {name: array for name, array in arrays.items() if array is not None}
        defaults = {
            "stride": 1,
            "padding": 0,
            "dilation": 1,
            "groups": None,
            "offset_groups": None,
            "mode": "zeros",
            "kink": "right",
            "layout": "channels_first",
        }
        options = dict(options or {})
        checked = _checks.Options(**{**defaults, **options})
        return cls(
            operation=operation,
            geometry=_checks.geometry_of(rank, given, checked),
            arrays={name: given.get(name) for name in _checks.ARGUMENTS},
            options=options,
            grad_output=grad_output,
            tangents=dict(tangents or {}),
        )

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
            Of offset and mask instead.

        Returns
        -------
        Case
            With arrays of its own.
        """

        def cast(name: str, array: Array) -> Array:
            wide = positions is not None and name in ("offset", "mask")
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
        function = getattr(pydeform, self.operation)
        return np.asarray(function(**self.arrays, **self.options))

    def backward(self) -> Results:
        """The gradients of ``<grad_output, output>``, by argument."""
        function = getattr(pydeform, self.operation + "_backward")
        return _present(function(self.grad_output, **self.arrays, **self.options))

    def jvp(self) -> tuple[Array, Array]:
        """The output and its derivative in the direction of the tangents."""
        function = getattr(pydeform, self.operation + "_jvp")
        out, tangent = function(**self.arrays, **self.options, tangents=self.tangents)
        return np.asarray(out), np.asarray(tangent)

    def double_backward(self) -> Results:
        """The gradients of ``<tangents, gradients>``, by argument, and to ``"grad_output"``."""
        function = getattr(pydeform, self.operation + "_double_backward")
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
