"""Deformable convolution of any rank: what the public functions of each rank share.

A tap of the kernel reads the input not on the grid but at `base + offset`, by linear interpolation
between the neighbouring pixels, times an optional mask:

    p = q * stride - padding + tap * dilation + offset          (pixels)
    y[q] = bias + sum over channels and taps of  weight * mask * sample(input, p)

The output is linear in input, weight, mask and bias, and within a cell of the grid affine in every
coordinate; its derivatives are made of the same sampling with one or two axes differentiated. Each
function checks everything, then hands plain arrays to a backend, which knows the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from pydeform import _arrays, _dispatch
from pydeform._arrays import NumpyArray
from pydeform._shapes import ConvGeometry
from pydeform.ops import _checks, _outputs
from pydeform.ops._checks import ARGUMENTS, Options
from pydeform.ops._outputs import Wanted

T = TypeVar("T")
Values: TypeAlias = tuple[Any, Any, Any, Any, Any]  # in the order of ARGUMENTS


class DeformConvGrads(NamedTuple, Generic[T]):
    """Gradients of a deformable convolution; None where the argument is absent or not needed."""

    input: T | None
    offset: T | None
    weight: T | None
    bias: T | None
    mask: T | None


class DeformConvDoubleGrads(NamedTuple, Generic[T]):
    """Gradients of the gradients of a deformable convolution; None where absent or not needed."""

    grad_output: T | None
    input: T | None
    offset: T | None
    weight: T | None
    bias: T | None
    mask: T | None


_OUTPUT = ("output", "output_tangent")


class _Call(NamedTuple):
    """One call after the checks; `arrays` holds all that were given, as they lie."""

    backend: Any
    geometry: ConvGeometry
    arrays: dict[str, NumpyArray]
    give: Callable[[NumpyArray], Any]

    @property
    def like_output(self) -> Wanted:
        """The shape and dtype of the output."""
        return Wanted(_checks.output_shape(self.geometry), self.arrays["input"].dtype)

    def like(self, name: str) -> Wanted:
        """Return the shape and dtype of an argument, or of the output for `grad_output`."""
        if name == "grad_output":
            return self.like_output
        return Wanted(self.arrays[name].shape, self.arrays[name].dtype)

    def check_grad_output(self) -> None:
        """Check that grad_output is like the output."""
        _checks.check_like(
            "grad_output", self.arrays["grad_output"], "the output", *self.like_output
        )

    def check(self, argument: str, names: Iterable[str]) -> None:
        """Check what a mapping such as tangents held against the arguments of the same names."""
        for name in names:
            key = _key(argument, name)
            if key in self.arrays:
                _checks.check_like(key, self.arrays[key], name, *self.like(name))

    def run(self, wanted: Mapping[str, Wanted], out: Mapping[str, Any]) -> _Buffers:
        """Return what the backend computes with: contiguous arrays and memory for the results."""
        strided = {name: a for name, a in self.arrays.items() if not _arrays.is_ready(a)}
        results = _outputs.prepare(wanted, out, self.arrays, strided)
        arrays = {name: _arrays.ready(a) for name, a in self.arrays.items()}
        return _Buffers(arrays, results, out, self.give)


class _Buffers(NamedTuple):
    """What a backend reads and writes, by the names that messages use."""

    arrays: dict[str, NumpyArray]
    results: dict[str, NumpyArray]
    out: Mapping[str, Any]
    give: Callable[[NumpyArray], Any]

    def read(self, names: Iterable[str], of: str = "") -> tuple[NumpyArray | None, ...]:
        """Return the arrays of these names, or those that the mapping `of` held, else None."""
        return tuple(self.arrays.get(_key(of, name) if of else name) for name in names)

    def write(self, names: Iterable[str]) -> tuple[NumpyArray | None, ...]:
        """Return the memory for these results; None where not needed."""
        return tuple(self.results.get(_key("out", name)) for name in names)

    def returned(self, key: str) -> Any:
        """Return a result as the caller's kind of array, or the object that was given for it."""
        if key in self.out:
            return self.out[key]
        return self.give(self.results[key]) if key in self.results else None


def _key(argument: str, name: str) -> str:
    """Return how messages name an entry of a mapping."""
    return f"{argument}[{name!r}]"


def _keyed(argument: str, value: object, known: Sequence[str]) -> dict[str, Any]:
    """Return the arrays of a mapping such as tangents under the names that messages give them."""
    found = _checks.mapping(argument, value, known)
    return {_key(argument, name): array for name, array in found.items()}


def _given(values: Values) -> dict[str, Any]:
    """Return the arguments by name, without the optional ones that are absent."""
    named = zip(ARGUMENTS, values, strict=True)
    return {n: value for n, value in named if value is not None or n in ("input", "weight")}


def _prepare(rank: int, values: Values, options: Options, extra: Mapping[str, Any]) -> _Call:
    """Check the arguments and options; `extra` arrays are taken in, the caller checks them."""
    given = _given(values)
    taken = _arrays.take({**given, **extra}, like="input")
    backend, accepted = _dispatch.backend_for(taken.device)
    arguments = {name: taken.arrays[name] for name in given}
    _checks.check_dtypes(arguments, accepted)
    geometry = _checks.geometry_of(rank, arguments, options)
    return _Call(backend, geometry, taken.arrays, taken.give)


def deform_conv(rank: int, values: Values, options: Options, out: Any) -> Any:
    """Return the output; `values` are input, offset, weight, bias and mask, None where absent."""
    call = _prepare(rank, values, options, {})
    buffers = call.run({"out": call.like_output}, {} if out is None else {"out": out})
    call.backend.deform_conv(call.geometry, *buffers.read(ARGUMENTS), buffers.results["out"])
    return buffers.returned("out")


def deform_conv_backward(
    rank: int,
    grad_output: Any,
    values: Values,
    options: Options,
    needs: Iterable[str] | None,
    deterministic: bool,
    out: Mapping[str, Any] | None,
) -> DeformConvGrads[Any]:
    """Return the gradients of <grad_output, output> by the arguments named in `needs`."""
    if not isinstance(deterministic, bool):
        raise TypeError(f"deterministic: expected True or False, got {deterministic!r}")
    needed = _checks.names("needs", needs, tuple(_given(values)))
    given = _keyed("out", {} if out is None else out, needed)
    call = _prepare(rank, values, options, {"grad_output": grad_output})
    call.check_grad_output()
    buffers = call.run({_key("out", name): call.like(name) for name in needed}, given)
    call.backend.deform_conv_backward(
        call.geometry,
        *buffers.read(("grad_output", "input", "offset", "weight", "mask")),
        buffers.write(ARGUMENTS),
    )
    return DeformConvGrads(*(buffers.returned(_key("out", name)) for name in ARGUMENTS))


def deform_conv_jvp(
    rank: int,
    values: Values,
    options: Options,
    tangents: Mapping[str, Any],
    out: Mapping[str, Any] | None,
) -> tuple[Any, Any]:
    """Return the output and its derivative along the tangents."""
    given = _keyed("out", {} if out is None else out, _OUTPUT)
    call = _prepare(rank, values, options, _keyed("tangents", tangents, tuple(_given(values))))
    call.check("tangents", ARGUMENTS)
    buffers = call.run({_key("out", name): call.like_output for name in _OUTPUT}, given)
    call.backend.deform_conv_jvp(
        call.geometry,
        *buffers.read(ARGUMENTS),
        buffers.read(ARGUMENTS, of="tangents"),
        *buffers.write(_OUTPUT),
    )
    output, output_tangent = (buffers.returned(_key("out", name)) for name in _OUTPUT)
    return output, output_tangent


def deform_conv_double_backward(
    rank: int,
    grad_grads: Mapping[str, Any],
    grad_output: Any,
    values: Values,
    options: Options,
    needs: Iterable[str] | None,
    out: Mapping[str, Any] | None,
) -> DeformConvDoubleGrads[Any]:
    """Return the gradients of the sum over names of <grad_grads[name], gradient of name>."""
    present = tuple(_given(values))
    needed = _checks.names("needs", needs, ("grad_output", *present))
    given = _keyed("out", {} if out is None else out, needed)
    extra = {"grad_output": grad_output, **_keyed("grad_grads", grad_grads, present)}
    call = _prepare(rank, values, options, extra)
    call.check_grad_output()
    call.check("grad_grads", ARGUMENTS)
    buffers = call.run({_key("out", name): call.like(name) for name in needed}, given)
    (bias,) = buffers.write(("bias",))
    if bias is not None:
        bias[...] = 0  # no gradient depends on the bias
    call.backend.deform_conv_double_backward(
        call.geometry,
        buffers.read(ARGUMENTS, of="grad_grads"),
        *buffers.read(("grad_output", "input", "offset", "weight", "mask")),
        buffers.write(("grad_output", "input", "offset", "weight", "mask")),
    )
    fields = DeformConvDoubleGrads._fields
    return DeformConvDoubleGrads(*(buffers.returned(_key("out", name)) for name in fields))
