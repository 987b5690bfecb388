"""Finite differences without truncation error.

Most operations are affine in each entry of each argument, and in a single coordinate as long as it
stays inside its cell. So a central difference is not an approximation: with fractions of
coordinates in [3/8, 5/8] a step of 1/4 stays inside the open cell, and

    (f(a + h e) - f(a - h e)) / (2 h) = df/da(e)

up to rounding, with h = 1/4 for a coordinate and h = 1 for anything else: powers of two, so that
the step itself rounds nothing. On dyadic values even the rounding is gone.

The same holds one order up, since <t, gradients> is affine in each entry too; its gradient is what
the double backward computes. One argument moves at a time, and of a coordinate one axis: in two
axes at once the operations are not affine. A case's `moves` say which entries of an argument may
move together and how far; in an argument that an operation is smooth but not affine in, a
difference of eighth order is taken, whose truncation error is of the order of rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pydeform.testing.cases import PLAIN, Array, Case, Move

#: By how much a coordinate moves to stay in the cell that it is in the middle of.
COORDINATE_STEP = 0.25

# Weights of f(a + j h) - f(a - j h), j = 1, 2, ...: exact for quadratics, and up to degree 8.
_CENTRAL = (1 / 2,)
_EIGHTH = (4 / 5, -1 / 5, 4 / 105, -1 / 280)


def _array(case: Case, name: str) -> Array:
    return case.grad_output if name == "grad_output" else np.asarray(case.arrays[name])


def _move(case: Case, name: str) -> Move:
    """How an argument moves; every operation is linear in grad_output."""
    return case.moves.get(name, PLAIN)


def _unit(case: Case, name: str) -> float:
    """The largest step."""
    return float(np.max(_move(case, name).step, initial=0))


def tangent(case: Case, name: str, direction: Array) -> Array:
    """Return where `difference` goes in a direction, in units of the largest step."""
    step = np.broadcast_to(_move(case, name).step, direction.shape)
    return np.asarray(direction * (step / _unit(case, name)))


def difference(function: Callable[[Case], Array], case: Case, name: str, direction: Array) -> Array:
    """Return the central difference of a function of a case in one argument.

    Parameters
    ----------
    function : callable
        From a case to an array or a number.
    case : Case
        Whose coordinates are so far inside their cells that a step of `case.moves` stays there.
    name : str
        The argument that moves, or ``"grad_output"``.
    direction : array
        Where to, entries of size 1 at most, other than 0 only along one part of the argument;
        `directions` makes such.

    Returns
    -------
    array
        The derivative along ``tangent(case, name, direction)``, which is the direction itself where
        all steps are alike; exact but for rounding where the operation is affine.
    """
    array, move = _array(case, name), _move(case, name)
    step = move.step * direction
    total: Any = 0
    for j, weight in enumerate(_EIGHTH if move.smooth else _CENTRAL, 1):
        ahead = function(case.with_array(name, array + j * step))
        behind = function(case.with_array(name, array - j * step))
        total = total + weight * (ahead - behind)
    return np.asarray(total / _unit(case, name))


def directions(case: Case, name: str, seed: int) -> Iterator[Array]:
    """Yield directions of entries -1, 0, 1, one per part of an argument.

    Parameters
    ----------
    case : Case
        The case.
    name : str
        The argument.
    seed : int
        Of the generator that draws them.

    Yields
    ------
    array
        Of the shape of the argument; together they move every entry that they draw.
    """
    random = np.random.default_rng(seed)
    array, part = _array(case, name), _move(case, name).part
    direction = random.integers(-1, 2, array.shape).astype(array.dtype)
    if part is None:
        yield direction
        return
    for label in np.unique(part):
        yield direction * (part == label).astype(array.dtype)


def entries(array: Array, count: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Yield the indices of up to `count` entries of an array, drawn without repetition."""
    random = np.random.default_rng(seed)
    for flat in random.permutation(array.size)[:count]:
        yield tuple(int(i) for i in np.unravel_index(flat, array.shape))


def first_order(case: Case, count: int = 8, seed: int = 0) -> dict[str, float]:
    """Return the largest error of the jvp and of every gradient against finite differences.

    Parameters
    ----------
    case : Case
        Float64, whose coordinates have fractions in [3/8, 5/8] (kinds "interior" of
        `pydeform.testing.values`).
    count : int
        Entries per argument to move one by one, for the gradients.
    seed : int
        Of the generator that draws entries and directions.

    Returns
    -------
    dict of float
        By result. For a jvp, relative to the largest entry of the difference or of the output; for
        a gradient, relative to the largest of its entries or to <grad_output, output>, whose
        rounding a difference inherits. An error that is 0 stays 0.

    Examples
    --------
    >>> import pydeform
    >>> from pydeform.testing.values import deform_conv_case, make_geometry
    >>> case = deform_conv_case(*make_geometry((5,), (3,)), seed=0, kind="dyadic interior")
    >>> with pydeform.use_backend("ref"):
    ...     max(first_order(case).values())
    0.0
    """

    def loss(moved: Case) -> Array:
        return np.asarray(np.sum(case.grad_output * moved.output()))

    errors: dict[str, float] = {}
    output, gradients = case.output(), case.backward()
    for name in case.names:
        for direction in directions(case, name, seed):
            one = replace(case, tangents={name: tangent(case, name, direction)})
            derivative = difference(Case.output, case, name, direction)
            key = f"jvp {name}"
            errors[key] = max(
                errors.get(key, 0.0), _relative(one.jvp()[1], derivative, _largest(output))
            )
        errors[f"grad_{name}"] = _entrywise(
            loss, case, name, gradients[name], float(np.abs(loss(case))), count, seed
        )
    return errors


def second_order(case: Case, count: int = 8, seed: int = 0) -> dict[str, float]:
    """Return the largest error of the double backward against differences of the gradients.

    Parameters
    ----------
    case : Case
        As for `first_order`; its tangents are the cotangents of the gradients.
    count : int
        Entries per argument to move one by one.
    seed : int
        Of the generator that draws the entries.

    Returns
    -------
    dict of float
        By result, relative to the largest of its entries or to <tangents, gradients>.

    Examples
    --------
    >>> import pydeform
    >>> from pydeform.testing.values import deform_conv_case, make_geometry
    >>> case = deform_conv_case(*make_geometry((5,), (3,)), seed=0, kind="dyadic interior")
    >>> with pydeform.use_backend("ref"):
    ...     max(second_order(case).values())
    0.0
    """

    def loss(moved: Case) -> Array:
        gradients = moved.backward()
        return np.asarray(sum(np.sum(t * gradients[k]) for k, t in case.tangents.items()))

    scale = float(np.abs(loss(case)))
    return {
        f"second_{name}": _entrywise(loss, case, name, result, scale, count, seed)
        for name, result in case.double_backward().items()
    }


def _entrywise(
    loss: Callable[[Case], Array],
    case: Case,
    name: str,
    gradient: Array,
    scale: float,
    count: int,
    seed: int,
) -> float:
    worst, scale = 0.0, max(scale, _largest(gradient))
    steps = np.broadcast_to(_move(case, name).step, gradient.shape)
    for index in entries(gradient, count, seed):
        direction = np.zeros(gradient.shape)
        direction[index] = 1
        derivative = difference(loss, case, name, direction) * (_unit(case, name) / steps[index])
        worst = max(worst, _relative(gradient[index], derivative, scale))
    return worst


def _largest(array: Array) -> float:
    return float(np.max(np.abs(array), initial=0))


def _relative(computed: Array, derivative: Array, scale: float) -> float:
    error = _largest(computed - derivative)
    return error / max(scale, _largest(derivative)) if error else 0.0
