"""Operations made of array expressions: from one set of formulas to four checked public functions.

What is written with a backend's kernels lives in files of its own; what takes a few lines of array
arithmetic is a subclass of `Formulas`. Its methods see plain arrays of one dtype with channels
first and use the array API standard only, so that they run on any array that has it. The frame of
the four functions is that of `_call`, which all operations share.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from pydeform import _arrays
from pydeform._arrays import NumpyArray
from pydeform.ops import _call, _checks
from pydeform.ops._derivative_docs import docstring
from pydeform.ops._outputs import Wanted

Terms: TypeAlias = dict[str, Any]  # arrays by the names of arguments

_HALF = ("float16", "bfloat16")


class Formulas:
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
        """Check shapes, values and options; return what the formulas need beside the arrays."""
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
    """Return the array API namespace of an array; CuPy's arrays have none, its module is one."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__()
    return _arrays.namespace(array)


def constants(values: Sequence[Any], like: Any) -> Any:
    """Return numbers as an array of the dtype of another, where that lies."""
    if hasattr(like, "__array_namespace__"):
        return namespace(like).asarray(values, dtype=like.dtype)
    return _arrays.constant(np.asarray(values, like.dtype), like)


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


class _Plan(NamedTuple):
    """One call after the checks, and the way between its caller's arrays and the formulas'."""

    formulas: Formulas
    inner: Any
    names: tuple[str, ...]  # the arguments that there are
    output: Wanted

    def turns(self, name: str) -> bool:
        """Tell whether the caller has the channels of an argument, or of the output, last."""
        return self.formulas.last(self.inner) and name in self.formulas.positional

    def enter(self, name: str, array: NumpyArray) -> NumpyArray:
        """Return an array as the formulas see it."""
        array = _call.working(array)
        return positions_last(array, self.formulas.rank(self.inner)) if self.turns(name) else array

    def arguments(self, arrays: _call.Arrays) -> Terms:
        """Return the arguments as the formulas see them."""
        return {name: self.enter(name, arrays[name]) for name in self.names}

    def directions(self, given: _call.Arrays, arguments: Terms) -> Terms:
        """Return what a mapping such as tangents held, zeros where it has no entry."""
        return {
            name: self.enter(name, given[name]) if name in given else zeros_like(array)
            for name, array in arguments.items()
        }

    def write(self, name: str, array: Any, to: NumpyArray) -> None:
        """Put a result where it belongs, in the caller's layout and dtype."""
        if self.turns(name):
            array = positions_first(array, self.formulas.rank(self.inner))
        to[...] = array


@cache
def _frame(formulas: Formulas) -> _call.Rules:
    """Return what `_call` wants to know; the named tuples are those of `derivatives`."""

    def plan(arrays: _call.Arrays, accepted: Sequence[str], options: Mapping[str, Any]) -> _Plan:
        if not formulas.half:
            accepted = tuple(dtype for dtype in accepted if dtype not in _HALF)
        own = dict(arrays)
        main = formulas.names[0]
        _checks.check_dtypes(own, accepted, main, wide=())
        inner = formulas.plan(own, options)
        shape, rank = formulas.shape(inner), formulas.rank(inner)
        if formulas.last(inner) and "output" in formulas.positional:
            shape = (shape[0], *shape[len(shape) - rank :], *shape[1 : len(shape) - rank])
        return _Plan(formulas, inner, tuple(own), Wanted(shape, own[main].dtype))

    def forward(_: Any, plan: _Plan, arrays: _call.Arrays, results: Terms) -> None:
        plan.write("output", formulas.forward(plan.inner, plan.arguments(arrays)), results["out"])

    def backward(
        _: Any, plan: _Plan, grad_output: NumpyArray, arrays: _call.Arrays, results: Terms
    ) -> None:
        grad = plan.enter("output", grad_output)
        found = formulas.backward(plan.inner, grad, plan.arguments(arrays))
        for name, result in results.items():
            plan.write(name, found[name], result)

    def jvp(
        _: Any, plan: _Plan, tangents: _call.Arrays, arrays: _call.Arrays, results: Terms
    ) -> None:
        own = plan.arguments(arrays)
        tangent = formulas.jvp(plan.inner, plan.directions(tangents, own), own)
        plan.write("output", formulas.forward(plan.inner, own), results["output"])
        plan.write("output", tangent, results["output_tangent"])

    def double_backward(
        _: Any,
        plan: _Plan,
        grad_grads: _call.Arrays,
        grad_output: NumpyArray,
        arrays: _call.Arrays,
        results: Terms,
    ) -> None:
        own = plan.arguments(arrays)
        directions = plan.directions(grad_grads, own)
        if "grad_output" in results:
            tangent = formulas.jvp(plan.inner, directions, own)
            plan.write("output", tangent, results["grad_output"])
        if results.keys() - {"grad_output"}:
            grad = plan.enter("output", grad_output)
            second = formulas.second(plan.inner, directions, grad, own)
            for name in results.keys() - {"grad_output"}:
                plan.write(name, second[name], results[name])

    required = tuple(name for name in formulas.names if name not in formulas.optional)
    return _call.Rules(
        arguments=formulas.names,
        required=required,
        like=formulas.names[0],
        plan=plan,
        forward=forward,
        backward=backward,
        jvp=jvp,
        double_backward=double_backward,
        grads=tuple,
        double_grads=tuple,
    )


def run(formulas: Formulas, values: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Return the output of an operation for arguments as its caller wrote them."""
    return _call.forward(_frame(formulas), values, options, None)


Derivatives: TypeAlias = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]


def _named(function: Callable[..., Any], name: str, fields: tuple[str, ...]) -> Any:
    """Return a named tuple, as an attribute of the module of a function, where pickle looks."""
    found = NamedTuple(name, [(field, Any) for field in fields])  # type: ignore[misc]
    found.__module__ = function.__module__
    setattr(sys.modules[function.__module__], name, found)
    return found


def derivatives(
    formulas: Formulas, function: Callable[..., Any], example: tuple[str, str]
) -> Derivatives:
    """Return the backward, jvp and double backward functions that belong to a public function.

    They take its arguments under the same names, which are documented once, there. `example` makes
    the first array for their examples, and calls the function: (expression, arguments).
    """
    name = function.__name__
    signature = inspect.signature(function)
    camel = "".join(word.capitalize() for word in name.split("_"))
    grads = _named(function, f"{camel}Grads", formulas.names)
    fields = ("grad_output", *formulas.names)
    double_grads = _named(function, f"{camel}DoubleGrads", fields)

    frame = replace(_frame(formulas), grads=grads, double_grads=double_grads)

    def split(*args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arrays and the options of a call."""
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = {n: bound.arguments.pop(n) for n in formulas.names}
        return values, dict(bound.arguments)

    def backward(
        grad_output: Any, *args: Any, needs: Iterable[str] | None = None, **kwargs: Any
    ) -> Any:
        return _call.backward(frame, grad_output, *split(*args, **kwargs), needs, None)

    def jvp(*args: Any, tangents: Mapping[str, Any], **kwargs: Any) -> tuple[Any, Any]:
        return _call.jvp(frame, *split(*args, **kwargs), tangents, None)

    def double_backward(
        grad_grads: Mapping[str, Any],
        grad_output: Any,
        *args: Any,
        needs: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        arguments = split(*args, **kwargs)
        return _call.double_backward(frame, grad_grads, grad_output, *arguments, needs, None)

    by_name = inspect.Parameter.KEYWORD_ONLY
    before = inspect.Parameter.POSITIONAL_OR_KEYWORD
    given = tuple(signature.parameters.values())
    needs = inspect.Parameter("needs", by_name, default=None)
    tangents = inspect.Parameter("tangents", by_name)
    grad = inspect.Parameter("grad_output", before)
    grad_grads = inspect.Parameter("grad_grads", before)
    for made, suffix, parameters, result in (
        (backward, "_backward", (grad, *given, needs), formulas.names),
        (jvp, "_jvp", (*given, tangents), ()),
        (double_backward, "_double_backward", (grad_grads, grad, *given, needs), fields),
    ):
        made.__name__ = made.__qualname__ = name + suffix
        made.__module__ = function.__module__
        documented = signature.replace(parameters=parameters, return_annotation=Any)
        setattr(made, "__signature__", documented)  # noqa: B010 - mypy knows no such attribute
        made.__doc__ = docstring(suffix, function, result, formulas.names[0], example)
    return backward, jvp, double_backward
