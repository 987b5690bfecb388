"""Cases of sampling and splatting, and their entries in the contract."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import hypothesis.strategies as st
import numpy as np

from pydeform.ops._checks import KINKS, MODES
from pydeform.testing.cases import Array, Case, Move
from pydeform.testing.contract import Operation
from pydeform.testing.differences import COORDINATE_STEP
from pydeform.testing.values import SPOILED, Draw

NONFINITE = (np.nan, np.inf, -np.inf)


def sample_case(
    operation: str,
    size: tuple[int, ...],
    seed: int,
    kind: str = "random",
    *,
    batch: int = 1,
    groups: int = 1,
    share: int = 1,
    taps: int = 1,
    output: tuple[int, ...] = (3,),
    deriv: tuple[int, ...] | None = None,
    mode: str = "zeros",
    kink: str = "right",
    tangents: tuple[str, ...] | None = None,
    spoiled: str = "",
) -> Case:
    """Make a case of sampling or splatting, in float64.

    Parameters
    ----------
    operation : {"sample", "splat"}
        Which.
    size : tuple of int
        Of the image.
    seed : int
        Of the generator that draws the values.
    kind : str
        One of `pydeform.testing.values.KINDS`; positions lie in and around the image.
    batch, groups, share, taps, output : int and tuple of int
        N, G, C/G, K and O.
    deriv, mode, kink : see `pydeform.sample`
        Options.
    tangents : tuple of str, optional
        Arguments to draw a tangent for. Default: both.
    spoiled : str
        "position", "grad_output" or the image or the values: what gets NaN and infinities.

    Returns
    -------
    Case
        Of one of the operations.
    """
    rank = len(size)
    draw = Draw(kind, rank, seed)
    image = (batch, groups * share, *size)
    columns = (batch, groups * share, taps, *output)
    where = (batch, groups, taps, *output, rank)
    first, shape, result = (
        ("input", image, columns) if operation == "sample" else ("values", columns, image)
    )

    def positions() -> Array:
        # Inside mostly, and up to two pixels beyond; what is tiny stays beside 0.
        whole = [draw.random.integers(-2, s + 1, where[:-1]) for s in size]
        offset = draw.offset(where)
        moved = np.stack(whole, axis=-1) + offset - np.floor(offset)
        return np.where(np.abs(offset) < 1e-3, offset, moved)

    arrays = {first: draw.plain(shape), "position": positions()}
    drawn = {first: draw.plain(shape), "position": draw.offset_tangent(where)}
    grad_output = draw.plain(result)
    if spoiled:
        chosen = first if spoiled == "input" else spoiled
        draw.spoil({**arrays, "grad_output": grad_output}[chosen], NONFINITE)
    options: dict[str, Any] = {"deriv": deriv, "mode": mode, "kink": kink}
    if operation == "splat":
        options["size"] = size
    return Case(
        operation=operation,
        arrays=arrays,
        options=options,
        grad_output=grad_output,
        tangents={n: t for n, t in drawn.items() if tangents is None or n in tangents},
        moves={"position": Move(COORDINATE_STEP, np.arange(rank))},
        wide=("position",),
    )


@st.composite
def sample_cases(draw: st.DrawFn, /, operation: str, kind: str) -> Case:
    """Draw a case of sampling or splatting, of any rank.

    Parameters
    ----------
    operation : {"sample", "splat"}
        Which.
    kind : str
        Kind of values, one of ``pydeform.testing.values.KINDS``.

    Returns
    -------
    strategy for Case
        Small ones, whose bound takes numbers in Python. Kinds "interior" leave out kink "open" with
        mode "border", as `deform_conv_cases` does.
    """
    rank = draw(st.integers(1, 3))
    modes: tuple[str, ...] = MODES
    kinks: tuple[str, ...] = KINKS
    if "interior" in kind and draw(st.booleans()):
        kinks = ("right", "mean")
    elif "interior" in kind:
        modes = ("zeros", "clip_zero")
    spoiled = ""
    names = ("input" if operation == "sample" else "values", "position")
    tangents = draw(st.sampled_from((names, names, names, names[:1], names[1:])))
    if kind in SPOILED:
        tangents = names
        spoiled = {"nonfinite offset": "position", "nonfinite input": "input"}.get(
            kind, "grad_output"
        )
    largest = {1: 9, 2: 5, 3: 4}[rank]
    empty = draw(st.sampled_from(("", "", "", "", "", "batch", "positions")))
    return sample_case(
        operation,
        tuple(draw(st.integers(1, largest) | st.just(largest)) for _ in range(rank)),
        draw(st.integers(0, 2**32 - 1)),
        kind,
        batch=0 if empty == "batch" else draw(st.integers(1, 2)),
        groups=draw(st.integers(1, 2)),
        share=draw(st.integers(1, 2)),
        taps=draw(st.integers(1, 2)),
        output=(0,) if empty == "positions" else draw(st.sampled_from(((7,), (), (3, 3), (12,)))),
        deriv=draw(st.none() | st.tuples(*[st.integers(0, 1)] * rank)),
        mode=draw(st.sampled_from(modes)),
        kink=draw(st.sampled_from(kinks)),
        tangents=tangents,
        spoiled=spoiled,
    )


_EXAMPLES: dict[str, dict[str, Any]] = {
    "size one": {"size": (1, 1), "output": (4,), "mode": "border"},
    "wide": {"size": (5, 4), "share": 33, "output": (7,), "kink": "mean"},
    "wide, differentiated": {"size": (9,), "share": 17, "groups": 3, "deriv": (1,)},
    "many positions": {"size": (40,), "output": (29, 31), "share": 2, "mode": "border"},
    "a volume": {"size": (3, 4, 5), "output": (5,), "taps": 2, "deriv": (0, 1, 0)},
    "one pixel": {"size": (1, 1, 1), "output": (11,), "share": 3, "mode": "clip_zero"},
}


def sample_examples(operation: str) -> dict[str, Callable[[str], Case]]:
    """Cases at the edges of what is allowed, from a kind, by name."""

    def make(name: str, seed: int, kind: str) -> Case:
        return sample_case(operation, seed=seed, kind=kind, **_EXAMPLES[name])

    return {name: partial(make, name, seed) for seed, name in enumerate(_EXAMPLES)}


SAMPLE = tuple(
    Operation(
        name=name,
        cases=partial(sample_cases, name),
        examples=sample_examples(name),
        spoiled={
            "nonfinite offset": ("output", "grad_", "second_"),
            "nonfinite input": ("output", "grad_", "second_"),
            "nonfinite factor": ("output", "grad_", "second_"),
        },
    )
    for name in ("sample", "splat")
)
