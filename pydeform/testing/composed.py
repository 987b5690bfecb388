"""Cases of the operations made of array expressions, and their entries in the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import hypothesis.strategies as st
import numpy as np

import pydeform
from pydeform.ops.offsets._project import INWARDS
from pydeform.testing import counted
from pydeform.testing.bounds import Expected, judged, long
from pydeform.testing.cases import Array, Case, Move
from pydeform.testing.contract import Operation
from pydeform.testing.differences import COORDINATE_STEP
from pydeform.testing.values import Draw

# These compute alike on every backend, which only says what dtypes they take.
_SINGLE = ("float64", "float32")


def _case(operation: str, draw: Draw, arrays: dict[str, Any], **options: Any) -> Case:
    """Return a case with cotangents and tangents of its own."""
    output = attrgetter(operation)(pydeform)(**arrays, **options)
    given = {name: array for name, array in arrays.items() if array is not None}
    return Case(
        operation=operation,
        arrays=arrays,
        options=options,
        grad_output=draw.plain(output.shape),
        tangents={name: draw.offset_tangent(array.shape) for name, array in given.items()},
    )


def mix_kernels_case(
    kind: str, seed: int, *, batch: int = 2, experts: int = 3, kernel: tuple[int, ...] = (2, 3)
) -> Case:
    """Make a case of mixed kernels, in float64.

    Parameters
    ----------
    kind : str
        One of `pydeform.testing.values.KINDS`.
    seed : int
        Of the generator that draws the values.
    batch, experts, kernel : int and tuple of int
        N, E and the shape of an expert.

    Returns
    -------
    Case
        A call of ``pydeform.mix_kernels``.
    """
    draw = Draw(kind, 2, seed)
    arrays = {"weights": draw.mask((batch, experts)), "experts": draw.plain((experts, *kernel))}
    return _case("mix_kernels", draw, arrays)


def parameters_case(
    operation: str,
    kind: str,
    seed: int,
    *,
    kernel: tuple[int, ...] = (3, 2),
    batch: int = 1,
    groups: int = 1,
    form: int = 0,
    shift: bool = True,
    last: bool = False,
    place: tuple[int, ...] | None = None,
    **options: Any,
) -> Case:
    """Make a case of a function of sizes and shifts, in float64.

    Parameters
    ----------
    operation : {"offsets.scale_taps", "offsets.gaussian_window", "offsets.box_window"}
        Which.
    kind : str
        One of `pydeform.testing.values.KINDS`.
    seed : int
        Of the generator that draws the values.
    kernel, batch, groups : tuple of int and int
        Taps per axis, N and G.
    form : {0, 1, 2}
        Isotropic sizes, sizes per axis, matrices.
    shift, last : bool
        Whether there is a shift, and whether channels come last.
    place : tuple of int, optional
        Positions or tiles that have sizes; two an axis by default.
    **options : dict
        Passed on.

    Returns
    -------
    Case
        Sizes are between 1.5 and 3, so that a step of 1 leaves them positive.
    """
    rank = len(kernel)
    draw, where = Draw(kind, rank, seed), place or (2,) * rank

    def shape(axes: tuple[int, ...]) -> tuple[int, ...]:
        return (batch, *where, groups, *axes) if last else (batch, groups, *axes, *where)

    size = 1.5 + np.abs(draw.offset(shape((rank,) * form))) % 1.5
    jumps = operation == "offsets.box_window"
    if draw.exact or jumps:
        size = np.floor(4 * size) / 4
    moved = draw.offset(shape((rank,))) if shift else None
    if jumps:  # kept 1/32 and more away from where a tap enters or leaves
        size = size + 1 / 16
        moved = None if moved is None else np.round(8 * moved) / 8
    arrays = {"size": size, "shift": moved}
    layout = "channels_last" if last else "channels_first"
    case = _case(operation, draw, arrays, kernel_size=kernel, layout=layout, **options)
    if jumps:
        return replace(case, moves=dict.fromkeys(case.names, Move(2.0**-6)))
    if operation == "offsets.gaussian_window" or options.get("log"):
        smooth = Move(2.0**-5, smooth=True)
        moves = dict.fromkeys(case.names, smooth)
        return replace(case, moves=moves)
    return case


def offset_case(
    operation: str,
    kind: str,
    seed: int,
    *,
    shape: tuple[int, ...] = (1, 12, 2, 2),
    arrays: Callable[[Draw], dict[str, Array]] | None = None,
    **options: Any,
) -> Case:
    """Make a case of a function of offsets, or of other arrays, in float64.

    Parameters
    ----------
    operation : str
        Which.
    kind : str
        One of `pydeform.testing.values.KINDS`.
    seed : int
        Of the generator that draws the values.
    shape : tuple of int
        Of the offset.
    arrays : callable, optional
        Draws the arguments, where they are others.
    **options : dict
        Passed on.

    Returns
    -------
    Case
        With bounds at whole numbers a projection onto a box is affine around offsets of the kinds
        for finite differences.
    """
    draw = Draw(kind, 2, seed)
    found = arrays(draw) if arrays else {"offset": draw.offset(shape)}
    case = _case(operation, draw, found, **options)
    if operation not in ("offsets.project_box", "offsets.constrain"):
        return case
    return replace(case, moves={"offset": Move(COORDINATE_STEP)})


_seeds = st.integers(0, 2**32 - 1)


def mix_kernels_cases(kind: str) -> st.SearchStrategy[Case]:
    """Return a strategy for cases of mixed kernels.

    Parameters
    ----------
    kind : str
        One of `pydeform.testing.values.KINDS`.

    Returns
    -------
    SearchStrategy
        Of cases.
    """
    return st.builds(
        partial(mix_kernels_case, kind),
        _seeds,
        batch=st.integers(0, 3),
        experts=st.integers(1, 4),
        kernel=st.lists(st.integers(1, 3), max_size=4).map(tuple),
    )


def parameters_cases(operation: str, kind: str) -> st.SearchStrategy[Case]:
    """Return a strategy for cases of a function of sizes and shifts.

    Parameters
    ----------
    operation : {"offsets.scale_taps", "offsets.gaussian_window", "offsets.box_window"}
        Which.
    kind : str
        One of `pydeform.testing.values.KINDS`.

    Returns
    -------
    SearchStrategy
        Of cases.
    """
    scale = operation == "offsets.scale_taps"
    rank = st.shared(st.integers(1, 3), key="rank")
    common = {
        "kernel": rank.flatmap(lambda n: st.tuples(*(st.integers(1, 3),) * n)),
        "batch": st.integers(0, 2),
        "groups": st.integers(1, 2),
        "form": st.integers(0, 2 if scale else 1),
        "shift": st.booleans(),
        "last": st.booleans(),
        **({"dilation": st.integers(1, 2)} if scale else {}),
    }
    make = partial(parameters_case, operation, kind)
    plain = st.builds(make, _seeds, **common)
    tiled = st.builds(
        make,
        _seeds,
        **common,
        tile=st.just(2),
        output_size=rank.map(lambda n: (3,) * n),
    )
    return plain | tiled


def _examples(make: Callable[..., Case], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    def one(options: dict[str, Any], seed: int, kind: str) -> Case:
        return make(kind, seed, **options)

    return {name: partial(one, options, seed) for seed, (name, options) in enumerate(found.items())}


def _offset_operation(name: str, *choices: dict[str, Any]) -> Operation:
    """Return the entry of a function of offsets, from the options that it is drawn with."""
    make = partial(offset_case, f"offsets.{name}")

    def cases(kind: str) -> st.SearchStrategy[Case]:
        # A smooth one is neither exact nor affine: it is held to its bound.
        fine = [c for c in choices if not (c.get("smooth") and kind != "random")]
        return st.builds(
            lambda seed, chosen: make(kind, seed, **chosen), _seeds, st.sampled_from(fine)
        )

    return Operation(name=f"offsets.{name}", cases=cases, dtypes=_SINGLE)


def _inwards(case: Case) -> dict[str, Expected]:
    """Return results of a projection onto a ball, whose radius each dtype rounds to the inside.

    On objects it does not: of what is computed, the radius, which enters a second derivative up to
    three times and tanh with a slope of at most ten, is off by twice as many unit roundoffs.
    """
    numbers = counted.reference(case.map(lambda array: counted.counted(array, case.dtype)))
    parts = counted.sizes_and_counts(numbers)
    more = 3 * 10 * 2 * INWARDS
    values = counted.reference(case.map(long))
    return judged(case, values, {n: (size, count + more) for n, (size, count) in parts.items()})


def _ball_cases(kind: str) -> st.SearchStrategy[Case]:
    """Return cases inside, outside and, where no difference crosses it, around a sphere."""
    choices: list[dict[str, Any]] = [
        {"eps": 100.0},
        {"eps": 1.0, "center": (10, -9), **_LAST},
        {"eps": 3.0, "smooth": True},
    ]
    if kind == "random":
        choices.append({"eps": 1.5, "center": (0.25, 0)})

    def make(seed: int, chosen: dict[str, Any]) -> Case:
        case = offset_case("offsets.project_ball", kind, seed, **chosen)
        return replace(case, moves={"offset": Move(2.0**-5, smooth=True)})

    return st.builds(make, _seeds, st.sampled_from(choices))


_LAST = {"layout": "channels_last", "shape": (2, 2, 1, 12)}


def _spacing(draw: Draw) -> dict[str, Array]:
    return {"offset": draw.offset((2, 3, 2))}


def _matrix(draw: Draw) -> dict[str, Array]:
    return {"matrix": draw.mask((2, 2, 2)), "shift": draw.offset((2, 2))}


#: Operations made of array expressions, for the contract.
COMPOSED = (
    _offset_operation("cumulative_taps", {"kernel_size": (2, 3)}, {"kernel_size": (3, 1), **_LAST}),
    _offset_operation(
        "sampling_locations",
        {"kernel_size": (2, 3), "stride": 2, "padding": 1},
        {"kernel_size": (3, 2), "dilation": (1, 2), **_LAST},
    ),
    _offset_operation(
        "static_offsets",
        {"arrays": _spacing, "batch": 2, "output_size": (3, 2)},
        {"arrays": _spacing, "batch": 1, "output_size": 1, "layout": "channels_last"},
    ),
    _offset_operation(
        "affine_lattice",
        {"arrays": _matrix, "size": (3, 4)},
        {"arrays": _matrix, "size": (4, 4), "output_size": (2, 3)},
    ),
    _offset_operation(
        "project_box",
        {"bounds": [(1, 2), (0, 1)]},
        {"bounds": [(1, float("inf")), (1, 1)], **_LAST},
        {"bounds": [(1, 2), (2, 1)], "smooth": True},
    ),
    _offset_operation(
        "constrain",
        {"center_constraint": None, "kernel_size": (2, 4)},
        {"center_constraint": [(1, 2), (0, 1)], "kernel_size": (3, 3), **_LAST},
        {"center_constraint": [(1, 2), (2, 1)], "kernel_size": (3, 3), "smooth": True},
    ),
    Operation(
        name="offsets.project_ball",
        cases=_ball_cases,
        expected=_inwards,
        exact=(),
        differences={"interior": 1e-9},  # as of gaussian_window
        dtypes=_SINGLE,
    ),
    Operation(
        name="mix_kernels",
        cases=mix_kernels_cases,
        examples=_examples(
            mix_kernels_case,
            {
                "empty batch": {"batch": 0},
                "one expert": {"experts": 1},
                "many experts": {"experts": 17, "kernel": (3,)},
                "a number each": {"kernel": ()},
            },
        ),
    ),
    Operation(
        name="offsets.scale_taps",
        cases=partial(parameters_cases, "offsets.scale_taps"),
        examples=_examples(
            partial(parameters_case, "offsets.scale_taps"),
            {
                "empty batch": {"batch": 0},
                "one tap": {"kernel": (1, 1), "form": 2},
                "many positions last": {"place": (9, 7), "last": True, "form": 1},
                "cut tiles": {"place": (2, 2), "tile": (4, 3), "output_size": (5, 4), "form": 2},
            },
        ),
        dtypes=_SINGLE,
    ),
    Operation(
        name="offsets.gaussian_window",
        cases=partial(parameters_cases, "offsets.gaussian_window"),
        examples=_examples(
            partial(parameters_case, "offsets.gaussian_window"),
            {"empty batch": {"batch": 0}, "one tap": {"kernel": (1, 1)}},
        ),
        exact=(),
        # Truncation of the differences of eighth order at steps of 2^-5, for sizes of 1.5 at least.
        differences={"interior": 1e-9},
        dtypes=_SINGLE,
    ),
    Operation(
        name="offsets.box_window",
        cases=partial(parameters_cases, "offsets.box_window"),
        examples=_examples(
            partial(parameters_case, "offsets.box_window"),
            {"empty batch": {"batch": 0}, "one tap": {"kernel": (1, 1)}},
        ),
        dtypes=_SINGLE,
    ),
)
