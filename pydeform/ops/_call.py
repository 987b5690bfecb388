"""The four functions of an operation, from its rules: what every operation has to do is done here.

A call takes its arrays in, checks them, finds memory for the results and lets a rule write them.
What is special to an operation is in its `Rules`; names in messages are those of the public
functions' arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np

from pydeform import _arrays, _dispatch
from pydeform._arrays import NumpyArray
from pydeform.ops import _checks, _outputs
from pydeform.ops._outputs import Wanted

P = ParamSpec("P")
R = TypeVar("R")
Arrays: TypeAlias = Mapping[str, NumpyArray]  # those that are there, by name, C-contiguous


@dataclass(frozen=True)
class Rules:
    """What an operation is. Rules write to `results`, which has only what is needed, by name.

    Attributes
    ----------
    arguments
        Names of the arrays that have gradients, in the order of the results.
    required
        Those that cannot be None.
    like
        The argument whose kind of array the results are.
    plan
        From (arrays, names of the backend's dtypes, options) to whatever the rules want to know,
        with an attribute `output`, the `Wanted` output. Checks everything: what is not said here is
        checked nowhere.
    forward
        Writes results["out"] from (backend, plan, arrays).
    backward
        Writes gradients by name from (backend, plan, grad_output, arrays).
    jvp
        Writes results["output"] and ["output_tangent"] from (backend, plan, tangents, arrays).
    double_backward
        Writes gradients by name, "grad_output" too, from
        (backend, plan, grad_grads, grad_output, arrays).
    grads, double_grads
        The named tuples that the gradients are returned in.
    constants
        Names of arrays that have no gradients; they may lie on the CPU beside others on a device.
    """

    arguments: tuple[str, ...]
    required: tuple[str, ...]
    like: str
    plan: Callable[[Arrays, Sequence[str], Any], Any]
    forward: Callable[[Any, Any, Arrays, dict[str, NumpyArray]], None]
    backward: Callable[[Any, Any, NumpyArray, Arrays, dict[str, NumpyArray]], None]
    jvp: Callable[[Any, Any, Arrays, Arrays, dict[str, NumpyArray]], None]
    double_backward: Callable[[Any, Any, Arrays, NumpyArray, Arrays, dict[str, NumpyArray]], None]
    grads: Callable[..., Any]
    double_grads: Callable[..., Any]
    constants: tuple[str, ...] = ()

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arrays with gradients that a call has; one that is required stays if None."""
        return {
            name: value
            for name in self.arguments
            if (value := values.get(name)) is not None or name in self.required
        }


class _Call(NamedTuple):
    """One call after the checks; `arrays` holds all that were given, as they lie."""

    backend: Any
    plan: Any
    arguments: tuple[str, ...]
    arrays: dict[str, NumpyArray]
    give: Callable[[NumpyArray], Any]

    @property
    def output(self) -> Wanted:
        wanted: Wanted = self.plan.output
        return wanted

    def like(self, name: str) -> Wanted:
        """Return the shape and dtype of an argument, or of the output for `grad_output`."""
        if name == "grad_output":
            return self.output
        return Wanted(self.arrays[name].shape, self.arrays[name].dtype)

    def check_grad_output(self) -> None:
        """Check that grad_output is like the output."""
        _checks.check_like("grad_output", self.arrays["grad_output"], "the output", *self.output)

    def check(self, argument: str) -> None:
        """Check what a mapping such as tangents held against the arguments of the same names."""
        for name in self.arguments:
            key = _key(argument, name)
            if key in self.arrays:
                _checks.check_like(key, self.arrays[key], name, *self.like(name))

    def prepared(self, wanted: Mapping[str, Wanted], out: Mapping[str, Any]) -> _Buffers:
        """Return what a rule computes with: contiguous arrays and memory for the results."""
        strided = {name: a for name, a in self.arrays.items() if not _arrays.is_ready(a)}
        empty = getattr(self.backend, "empty", None)  # a backend may keep memory of its own
        results = _outputs.prepare(wanted, out, self.arrays, strided, empty)
        copies = {name: _arrays.ready(a) for name, a in strided.items()}
        return _Buffers({**self.arrays, **copies}, results, out, self.give)


class _Buffers(NamedTuple):
    """What a rule reads and writes, by the names that messages use."""

    arrays: dict[str, NumpyArray]
    results: dict[str, NumpyArray]
    out: Mapping[str, Any]
    give: Callable[[NumpyArray], Any]

    def of(self, argument: str) -> dict[str, NumpyArray]:
        """Return the arrays that a mapping held, by its own names."""
        return _unkeyed(argument, self.arrays)

    def write(self) -> dict[str, NumpyArray]:
        """Return the memory for the results by their own names."""
        return _unkeyed("out", self.results)

    def returned(self, key: str) -> Any:
        """Return a result as the caller's kind of array, or the object that was given for it."""
        if key in self.out:
            return self.out[key]
        return self.give(self.results[key]) if key in self.results else None


def _quiet() -> np.errstate:
    """NaN and Inf are values here, and 16-bit results may overflow: neither is worth a warning."""
    return np.errstate(all="ignore")


def _key(argument: str, name: str) -> str:
    """Return how messages name an entry of a mapping."""
    return f"{argument}[{name!r}]"


def _keyed(argument: str, value: object, known: Sequence[str]) -> dict[str, Any]:
    """Return the arrays of a mapping such as tangents under the names that messages give them."""
    found = _checks.mapping(argument, value, known)
    return {_key(argument, name): array for name, array in found.items()}


def _unkeyed(argument: str, arrays: Arrays) -> dict[str, NumpyArray]:
    start, end = f"{argument}['", "']"
    return {
        key[len(start) : -len(end)]: array for key, array in arrays.items() if key.startswith(start)
    }


def _prepare(
    rules: Rules, values: Mapping[str, Any], options: Any, extra: Mapping[str, Any]
) -> _Call:
    """Check the arguments and options; `extra` arrays are taken in, the caller checks them."""
    given = rules.given(values)
    for name in rules.constants:
        if values.get(name) is not None:
            given[name] = values[name]
    taken = _arrays.take({**given, **extra}, like=rules.like, host=rules.constants)
    backend, accepted = _dispatch.backend_for(taken.device)
    plan = rules.plan({name: taken.arrays[name] for name in given}, accepted, options)
    return _Call(backend, plan, rules.arguments, taken.arrays, taken.give)


def _where_it_lies(at: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make the device of a call's arrays current, and the stream of their library.

    `at` is where the arrays by name stand among the positional arguments.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            rules, values = cast("Rules", args[0]), cast("Mapping[str, Any]", args[at])
            place = _arrays.place(values.get(rules.like))
            if place is None:
                return function(*args, **kwargs)
            with place:
                return function(*args, **kwargs)

        return call

    return decorate


@_where_it_lies(1)
def forward(rules: Rules, values: Mapping[str, Any], options: Any, out: Any) -> Any:
    """Return the output; `values` are the arrays by name, None where absent."""
    call = _prepare(rules, values, options, {})
    buffers = call.prepared({"out": call.output}, {} if out is None else {"out": out})
    with _quiet():
        rules.forward(call.backend, call.plan, buffers.arrays, buffers.results)
    return buffers.returned("out")


@_where_it_lies(2)
def backward(
    rules: Rules,
    grad_output: Any,
    values: Mapping[str, Any],
    options: Any,
    needs: Iterable[str] | None,
    out: Mapping[str, Any] | None,
) -> Any:
    """Return the gradients of <grad_output, output> by the arguments named in `needs`."""
    needed = _checks.names("needs", needs, tuple(rules.given(values)))
    given = _keyed("out", {} if out is None else out, needed)
    call = _prepare(rules, values, options, {"grad_output": grad_output})
    call.check_grad_output()
    buffers = call.prepared({_key("out", name): call.like(name) for name in needed}, given)
    arrays = buffers.arrays
    with _quiet():
        rules.backward(call.backend, call.plan, arrays["grad_output"], arrays, buffers.write())
    return rules.grads(*(buffers.returned(_key("out", name)) for name in rules.arguments))


@_where_it_lies(1)
def jvp(
    rules: Rules,
    values: Mapping[str, Any],
    options: Any,
    tangents: Mapping[str, Any],
    out: Mapping[str, Any] | None,
) -> tuple[Any, Any]:
    """Return the output and its derivative along the tangents."""
    names = ("output", "output_tangent")
    given = _keyed("out", {} if out is None else out, names)
    extra = _keyed("tangents", tangents, tuple(rules.given(values)))
    call = _prepare(rules, values, options, extra)
    call.check("tangents")
    buffers = call.prepared({_key("out", name): call.output for name in names}, given)
    with _quiet():
        rules.jvp(call.backend, call.plan, buffers.of("tangents"), buffers.arrays, buffers.write())
    output, output_tangent = (buffers.returned(_key("out", name)) for name in names)
    return output, output_tangent


@_where_it_lies(3)
def double_backward(
    rules: Rules,
    grad_grads: Mapping[str, Any],
    grad_output: Any,
    values: Mapping[str, Any],
    options: Any,
    needs: Iterable[str] | None,
    out: Mapping[str, Any] | None,
) -> Any:
    """Return the gradients of the sum over names of <grad_grads[name], gradient of name>."""
    present = tuple(rules.given(values))
    needed = _checks.names("needs", needs, ("grad_output", *present))
    given = _keyed("out", {} if out is None else out, needed)
    extra = {"grad_output": grad_output, **_keyed("grad_grads", grad_grads, present)}
    call = _prepare(rules, values, options, extra)
    call.check_grad_output()
    call.check("grad_grads")
    buffers = call.prepared({_key("out", name): call.like(name) for name in needed}, given)
    arrays = buffers.arrays
    with _quiet():
        rules.double_backward(
            call.backend,
            call.plan,
            buffers.of("grad_grads"),
            arrays["grad_output"],
            arrays,
            buffers.write(),
        )
    fields = ("grad_output", *rules.arguments)
    return rules.double_grads(*(buffers.returned(_key("out", name)) for name in fields))


def working(array: NumpyArray) -> NumpyArray:
    """Return an array in the dtype that is computed in: float32 for 16-bit storage, else its own.

    Compositions compute in it throughout, so that results are rounded to storage once.
    """
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array
