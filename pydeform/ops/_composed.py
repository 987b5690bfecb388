"""Operations made of array expressions: from one set of rules to four checked public functions.

What is written with a backend's kernels lives in files of its own; what takes a few lines of array
arithmetic is a subclass of `Rules`. Its methods see plain arrays of one dtype with channels first
and use the array API standard only, so that they run on any array that has it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from pydeform import _arrays, _dispatch
from pydeform._arrays import NumpyArray
from pydeform.ops import _checks
from pydeform.ops._derivative_docs import docstring

Terms: TypeAlias = dict[str, Any]  # arrays by the names of arguments

_HALF = ("float16", "bfloat16")


class Rules:
    """The mathematics of one operation on plain arrays.

    With J the Jacobian at `arrays`: `backward` is J^T, `jvp` is J, and `second` is the gradient, by
    the arguments, of <grad_output, J tangents>; the double backward is made of the last two.
    """

    #: Array arguments; those in `optional` may be None.
    names: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    #: What has the positions' axes, which `layout` moves; the result is "output".
    positional: ClassVar[tuple[str, ...]] = ()
    #: 16-bit arrays are storage for float32 where True, and refused where False.
    half: ClassVar[bool] = False

    def plan(self, arrays: Terms, options: Mapping[str, Any]) -> Any:
        """Check shapes, values and options; return what the rules need beside the arrays."""
        raise NotImplementedError

    def rank(self, plan: Any) -> int:
        """Return how many axes the positions have."""
        return int(plan.rank)

    def last(self, plan: Any) -> bool:
        """Tell whether the caller's arrays have their channels last."""
        return bool(getattr(plan, "last", False))

    def shape(self, plan: Any) -> tuple[int, ...]:
        """Return the shape of the output, channels first."""
        raise NotImplementedError

    def forward(self, plan: Any, arrays: Terms) -> Any:
        """Return the output."""
        raise NotImplementedError

    def backward(self, plan: Any, grad_output: Any, arrays: Terms) -> Terms:
        """Return the gradient of <grad_output, output> by every argument."""
        raise NotImplementedError

    def jvp(self, plan: Any, tangents: Terms, arrays: Terms) -> Any:
        """Return the derivative of the output along tangents of all arguments."""
        raise NotImplementedError

    def second(self, plan: Any, tangents: Terms, grad_output: Any, arrays: Terms) -> Terms:
        """Return the gradient of <grad_output, jvp(tangents)> by every argument."""
        del plan, tangents, grad_output
        return {name: zeros_like(array) for name, array in arrays.items()}


def namespace(array: Any) -> Any:
    """Return the array API namespace of an array."""
    return array.__array_namespace__()


def zeros_like(array: Any) -> Any:
    """Return zeros of the shape, dtype and namespace of an array."""
    return namespace(array).zeros_like(array)


def positions_last(array: Any, rank: int) -> Any:
    """[N, *O, channels] -> [N, channels, *O]."""
    lead = (0, *range(rank + 1, array.ndim), *range(1, rank + 1))
    return namespace(array).permute_dims(array, lead)


def positions_first(array: Any, rank: int) -> Any:
    """[N, channels, *O] -> [N, *O, channels]."""
    lead = (0, *range(array.ndim - rank, array.ndim), *range(1, array.ndim - rank))
    return namespace(array).permute_dims(array, lead)


class _Call(NamedTuple):
    """One call after the checks."""

    rules: Rules
    plan: Any
    arrays: Terms  # the arguments as the rules see them
    extra: Terms  # other arrays, as the caller lays them
    like: NumpyArray
    shapes: dict[str, tuple[int, ...]]
    give: Callable[[NumpyArray], Any]

    def enter(self, name: str, array: NumpyArray) -> NumpyArray:
        """Return an array as the rules see it; `name` is the argument it belongs to, or output."""
        array = _arrays.ready(array)  # sums are taken in an order that depends on strides
        if array.dtype.name in _HALF:
            array = array.astype(np.float32)
        if self.rules.last(self.plan) and name in self.rules.positional:
            array = positions_last(array, self.rules.rank(self.plan))
        return array

    def leave(self, name: str, array: Any) -> Any:
        """Return a result as the caller's kind, layout and dtype."""
        if self.rules.last(self.plan) and name in self.rules.positional:
            array = positions_first(array, self.rules.rank(self.plan))
        result = np.array(array, dtype=self.like.dtype, order="C", copy=None)
        if any(
            np.may_share_memory(result, a) for a in (*self.arrays.values(), *self.extra.values())
        ):
            result = result.copy()  # nobody writes to an argument through a result
        return self.give(result)

    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of the output as the caller sees it."""
        shape, rank = self.rules.shape(self.plan), self.rules.rank(self.plan)
        if self.rules.last(self.plan) and "output" in self.rules.positional:
            return (shape[0], *shape[len(shape) - rank :], *shape[1 : len(shape) - rank])
        return shape

    def grad_output(self) -> Any:
        """Return grad_output, checked, as the rules see it."""
        array = self.extra["grad_output"]
        shape = self.output_shape()
        _checks.check_like("grad_output", array, "the output", shape, self.like.dtype)
        return self.enter("output", array)

    def directions(self, argument: str) -> Terms:
        """Return what a mapping such as tangents held, zeros where it has no entry."""
        found = {}
        for name, array in self.arrays.items():
            key = f"{argument}[{name!r}]"
            if key not in self.extra:
                found[name] = zeros_like(array)
                continue
            given = self.extra[key]
            _checks.check_like(key, given, name, self.shapes[name], self.like.dtype)
            found[name] = self.enter(name, given)
        return found


def _check_dtypes(arrays: Mapping[str, NumpyArray], accepted: tuple[str, ...]) -> None:
    found = {name: _checks.dtype_name(array.dtype) for name, array in arrays.items()}
    for name, dtype in found.items():
        if dtype not in accepted:
            hint = "" if dtype == "object" else f"; convert it, as in {name}.astype(numpy.float32)"
            raise TypeError(f"{name}: expected one of {accepted}, got {dtype}{hint}")
    if len(set(found.values())) > 1:
        got = ", ".join(f"{name} {dtype}" for name, dtype in found.items())
        raise TypeError(f"mixed dtypes: expected one dtype for all arrays, got {got}")


def _prepare(
    rules: Rules, values: Mapping[str, Any], options: Mapping[str, Any], extra: Mapping[str, Any]
) -> _Call:
    """Check the arguments and options; the caller checks the shapes of `extra` arrays."""
    given = {
        name: values[name]
        for name in rules.names
        if values[name] is not None or name not in rules.optional
    }
    taken = _arrays.take({**given, **extra}, like=rules.names[0])
    # No backend computes these, but it says which arrays may come.
    _, accepted = _dispatch.backend_for(taken.device)
    if not rules.half:
        accepted = tuple(dtype for dtype in accepted if dtype not in _HALF)
    own = {name: taken.arrays[name] for name in given}
    _check_dtypes(own, accepted)
    plan = rules.plan(own, options)
    others = {name: array for name, array in taken.arrays.items() if name not in given}
    like = own[rules.names[0]]
    shapes = {name: array.shape for name, array in own.items()}
    call = _Call(rules, plan, {}, others, like, shapes, taken.give)
    return call._replace(arrays={name: call.enter(name, array) for name, array in own.items()})


def _keyed(argument: str, value: object, known: tuple[str, ...]) -> dict[str, Any]:
    found = _checks.mapping(argument, value, known)
    return {f"{argument}[{name!r}]": array for name, array in found.items()}


def run(rules: Rules, values: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Return the output of an operation for arguments as its caller wrote them."""
    call = _prepare(rules, values, options, {})
    return call.leave("output", rules.forward(call.plan, call.arrays))


class _Split(NamedTuple):
    """The arguments of a call, split into arrays and options."""

    values: dict[str, Any]
    options: dict[str, Any]
    present: tuple[str, ...]


Derivatives: TypeAlias = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]


def _named(function: Callable[..., Any], name: str, fields: tuple[str, ...]) -> Any:
    """Return a named tuple, as an attribute of the module of a function, where pickle looks."""
    found = NamedTuple(name, [(field, Any) for field in fields])  # type: ignore[misc]
    found.__module__ = function.__module__
    setattr(sys.modules[function.__module__], name, found)
    return found


def derivatives(
    rules: Rules, function: Callable[..., Any], example: tuple[str, str]
) -> Derivatives:
    """Return the backward, jvp and double backward functions that belong to a public function.

    They take its arguments under the same names, which are documented once, there. `example` makes
    the first array for their examples, and calls the function: (expression, arguments).
    """
    name = function.__name__
    signature = inspect.signature(function)
    camel = "".join(word.capitalize() for word in name.split("_"))
    grads = _named(function, f"{camel}Grads", rules.names)
    fields = ("grad_output", *rules.names)
    double_grads = _named(function, f"{camel}DoubleGrads", fields)

    def split(*args: Any, **kwargs: Any) -> _Split:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = {n: bound.arguments.pop(n) for n in rules.names}
        present = tuple(n for n in rules.names if values[n] is not None or n not in rules.optional)
        return _Split(values, dict(bound.arguments), present)

    def backward(
        grad_output: Any, *args: Any, needs: Iterable[str] | None = None, **kwargs: Any
    ) -> Any:
        values, options, present = split(*args, **kwargs)
        needed = _checks.names("needs", needs, present)
        call = _prepare(rules, values, options, {"grad_output": grad_output})
        found = rules.backward(call.plan, call.grad_output(), call.arrays)
        return grads(*(call.leave(n, found[n]) if n in needed else None for n in rules.names))

    def jvp(*args: Any, tangents: Mapping[str, Any], **kwargs: Any) -> tuple[Any, Any]:
        values, options, present = split(*args, **kwargs)
        call = _prepare(rules, values, options, _keyed("tangents", tangents, present))
        directions = call.directions("tangents")
        output = rules.forward(call.plan, call.arrays)
        tangent = rules.jvp(call.plan, directions, call.arrays)
        return call.leave("output", output), call.leave("output", tangent)

    def double_backward(
        grad_grads: Mapping[str, Any],
        grad_output: Any,
        *args: Any,
        needs: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        values, options, present = split(*args, **kwargs)
        needed = _checks.names("needs", needs, ("grad_output", *present))
        extra = {"grad_output": grad_output, **_keyed("grad_grads", grad_grads, present)}
        call = _prepare(rules, values, options, extra)
        grad, directions = call.grad_output(), call.directions("grad_grads")
        found: Terms = {}
        if "grad_output" in needed:
            found["grad_output"] = call.leave(
                "output", rules.jvp(call.plan, directions, call.arrays)
            )
        if set(needed) - {"grad_output"}:
            second = rules.second(call.plan, directions, grad, call.arrays)
            found.update({n: call.leave(n, second[n]) for n in needed if n != "grad_output"})
        return double_grads(*(found.get(n) for n in fields))

    by_name = inspect.Parameter.KEYWORD_ONLY
    before = inspect.Parameter.POSITIONAL_OR_KEYWORD
    given = tuple(signature.parameters.values())
    needs = inspect.Parameter("needs", by_name, default=None)
    tangents = inspect.Parameter("tangents", by_name)
    grad = inspect.Parameter("grad_output", before)
    grad_grads = inspect.Parameter("grad_grads", before)
    for made, suffix, parameters, result in (
        (backward, "_backward", (grad, *given, needs), rules.names),
        (jvp, "_jvp", (*given, tangents), ()),
        (double_backward, "_double_backward", (grad_grads, grad, *given, needs), fields),
    ):
        made.__name__ = made.__qualname__ = name + suffix
        made.__module__ = function.__module__
        documented = signature.replace(parameters=parameters, return_annotation=Any)
        setattr(made, "__signature__", documented)  # noqa: B010 - mypy knows no such attribute
        made.__doc__ = docstring(suffix, function, result, rules.names[0], example)
    return backward, jvp, double_backward
