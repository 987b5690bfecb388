"""Operations as sums of local convolutions, with linear maps around each.

A part is

    place(local_conv(image(x), position(o), factor(m)))

where place, image and factor are linear and position is affine in an argument. It knows these maps
and their adjoints; every derivative of the operation is then that of the local convolution between
them. Arrays are computed with in float32 where they are stored in 16 bits, and rounded to storage
once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from pydeform._arrays import NumpyArray, namespace
from pydeform._shapes import ConvGeometry
from pydeform.ops import _call
from pydeform.ops._call import Arrays
from pydeform.ops._outputs import Wanted
from pydeform.ops._samples import ROLES, exact


class Part(Protocol):
    """One local convolution, and the maps between its arrays and those of the operation.

    A role is "output" or one of `ROLES`. Arrays for the backend lie as it reads them.
    """

    @property
    def geometry(self) -> ConvGeometry:
        """Of the local convolution."""

    def linear(self, role: str, array: NumpyArray) -> NumpyArray:
        """Return what the backend reads, from an argument, a tangent or a cotangent."""

    def position(self, array: NumpyArray | None) -> NumpyArray:
        """Return the offsets that the backend reads: linear, and what does not depend on array."""

    def factor(self, array: NumpyArray | None) -> NumpyArray | None:
        """Return the factors of the taps; None is 1 everywhere."""

    def add(self, role: str, values: NumpyArray, result: NumpyArray) -> None:
        """Put the adjoint of `linear` at what the backend wrote into a result; add to an image."""


class Plan(NamedTuple):
    """How a call is computed."""

    output: Wanted
    parts: Sequence[Part]
    arguments: Mapping[str, str]  # by role


def _shape(g: ConvGeometry, role: str) -> tuple[int, ...]:
    """Return the shape of a backend's array."""
    samples = (g.batch, math.prod(g.out_size), g.offset_groups, g.taps)
    return {
        "output": (g.batch, *g.out_size, g.channels),
        "image": (g.batch, *g.size, g.channels),
        "position": (*samples, g.rank),
        "factor": samples,
    }[role]


class _Memory:
    """Where the results of a call are computed, and memory between that parts share."""

    def __init__(self, backend: Any, plan: Plan, results: Arrays) -> None:
        self.backend, self.results = backend, results
        self.working = {name: _working(result) for name, result in results.items()}
        image = self.working.get(plan.arguments["image"])
        if image is not None:  # which parts add to
            image[...] = exact(0, image.dtype)
        self.spare: dict[tuple[str, tuple[int, ...]], NumpyArray] = {}

    def empty(self, like: NumpyArray, shape: tuple[int, ...]) -> NumpyArray:
        """Return new memory, from the backend where that keeps some."""
        make = getattr(self.backend, "empty", None) or namespace(like).empty
        result: NumpyArray = make(shape, like.dtype)
        return result

    def finish(self) -> None:
        """Round what was computed in a wider dtype than it is stored in."""
        for name, result in self.results.items():
            if result is not self.working[name]:
                result[...] = self.working[name].astype(result.dtype)


def _working(result: NumpyArray) -> NumpyArray:
    if result.dtype.itemsize != 2:
        return result
    wide: NumpyArray = namespace(result).empty(result.shape, np.float32)
    return wide


class _Step:
    """One part of a call: what the backend reads and writes."""

    def __init__(self, plan: Plan, part: Part, memory: _Memory) -> None:
        self.plan, self.part, self.memory = plan, part, memory
        self.written: list[tuple[str, NumpyArray, NumpyArray]] = []

    def arguments(self, arrays: Arrays) -> tuple[NumpyArray, NumpyArray, NumpyArray | None]:
        """Image, position and factor."""
        image, position, factor = (arrays.get(self._name(role)) for role in ROLES)
        return (
            self.part.linear("image", cast("NumpyArray", image)),
            self.part.position(position),
            self.part.factor(factor),
        )

    def _name(self, role: str) -> str:
        return self.plan.arguments.get(role, "")

    def linears(self, arrays: Arrays) -> tuple[NumpyArray | None, ...]:
        """What the backend reads of tangents or of cotangents of gradients; None is 0."""
        given = ((role, arrays.get(self._name(role))) for role in ROLES)
        return tuple(None if a is None else self.part.linear(role, a) for role, a in given)

    def write(self, role: str, name: str) -> NumpyArray | None:
        """Return memory for what the backend writes; None where it is not needed."""
        result = self.memory.working.get(name)
        if result is None:
            return None
        key = (f"{role} {name}", _shape(self.part.geometry, role))
        found = self.memory.spare.get(key)
        if found is None:
            found = self.memory.empty(result, key[1])
            self.memory.spare[key] = found
        self.written.append((role, found, result))
        return found

    def writes(self) -> tuple[NumpyArray | None, ...]:
        """Memory for what belongs to image, position and factor."""
        return tuple(self.write(role, self._name(role)) for role in ROLES)

    def finish(self) -> None:
        """Move what the backend wrote to where it belongs."""
        for role, values, result in self.written:
            self.part.add(role, values, result)


def _steps(backend: Any, plan: Plan, results: Arrays) -> Iterator[_Step]:
    """Go through the parts; what a step has written is placed when the next one is asked for."""
    memory = _Memory(backend, plan, results)
    for part in plan.parts:
        step = _Step(plan, part, memory)
        yield step
        step.finish()
    memory.finish()


@contextmanager
def _quiet() -> Iterator[None]:
    """Infinities and NaN come and go without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        yield


def _wide(arrays: Arrays) -> dict[str, NumpyArray]:
    return {name: _call.working(array) for name, array in arrays.items()}


@_quiet()
def _forward(backend: Any, plan: Plan, arrays: Arrays, results: dict[str, NumpyArray]) -> None:
    arrays = _wide(arrays)
    for step in _steps(backend, plan, results):
        backend.local_conv(step.part.geometry, *step.arguments(arrays), step.write("output", "out"))


@_quiet()
def _backward(
    backend: Any,
    plan: Plan,
    grad_output: NumpyArray,
    arrays: Arrays,
    results: dict[str, NumpyArray],
) -> None:
    arrays, grad_output = _wide(arrays), _call.working(grad_output)
    for step in _steps(backend, plan, results):
        backend.local_conv_backward(
            step.part.geometry,
            step.part.linear("output", grad_output),
            *step.arguments(arrays),
            step.writes(),
        )


@_quiet()
def _jvp(
    backend: Any, plan: Plan, tangents: Arrays, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    arrays, tangents = _wide(arrays), _wide(tangents)
    names = ("output", "output_tangent")
    for step in _steps(backend, plan, results):
        backend.local_conv_jvp(
            step.part.geometry,
            *step.arguments(arrays),
            step.linears(tangents),
            *(step.write("output", name) for name in names),
        )


@_quiet()
def _double_backward(
    backend: Any,
    plan: Plan,
    grad_grads: Arrays,
    grad_output: NumpyArray,
    arrays: Arrays,
    results: dict[str, NumpyArray],
) -> None:
    arrays, grad_grads = _wide(arrays), _wide(grad_grads)
    grad_output = _call.working(grad_output)
    for step in _steps(backend, plan, results):
        backend.local_conv_double_backward(
            step.part.geometry,
            step.linears(grad_grads),
            step.part.linear("output", grad_output),
            *step.arguments(arrays),
            (step.write("output", "grad_output"), *step.writes()),
        )


# The rules of an operation whose plan is a `Plan`.
rules = partial(
    _call.Rules,
    forward=_forward,
    backward=_backward,
    jvp=_jvp,
    double_backward=_double_backward,
)
