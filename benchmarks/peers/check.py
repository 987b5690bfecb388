"""Whether a peer computes the same as pydeform: only then is it worth timing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pydeform
from benchmarks.cases import Arrays, Case

#: Results by name: "output", and gradients under the names of the arguments.
Results = Mapping[str, NDArray[Any]]

#: Largest difference, as a part of the root mean square of what is expected. Single precision with
#: rounded coordinates stays 30 times below it; bfloat16 inside a library does not.
TOLERANCE = 1e-3
#: The gradient of a coordinate jumps between cells. Where a peer rounds a coordinate across the
#: border, that one entry is another; no more than this part of them may be.
ACROSS = 1e-3


def expected(case: Case, arrays: Arrays, direction: str, *, plain: bool) -> dict[str, NDArray[Any]]:
    """Return pydeform's results: "output", and the gradients by argument.

    Parameters
    ----------
    case : Case
        The problem.
    arrays : Arrays
        Its arguments.
    direction : {"forward", "forward+backward"}
        Whether gradients are wanted.
    plain : bool
        Whether to leave out offset and mask: the plain convolution.
    """
    name = f"deform_conv{case.rank}d"
    values = (
        arrays.input,
        None if plain else arrays.offset,
        arrays.weight,
        arrays.bias,
        case.stride,
        case.padding,
        case.dilation,
        None if plain else arrays.mask,
    )
    found = {"output": getattr(pydeform, name)(*values)}
    if direction != "forward":
        grads = getattr(pydeform, name + "_backward")(arrays.grad_output, *values)
        found |= {k: g for k, g in grads._asdict().items() if g is not None}
    return found


def difference(
    name: str, got: NDArray[Any], want: NDArray[Any], tolerance: float = TOLERANCE
) -> str:
    """Say how one result differs from what is expected; empty where it agrees."""
    if got.shape != want.shape:
        return f"{name} has shape {got.shape}, expected {want.shape}"
    if not want.size:
        return ""
    scale = float(np.sqrt(np.mean(np.square(want, dtype=np.float64))))
    wrong = ~(np.abs(got - want) <= tolerance * scale)  # NaN counts as wrong
    share = float(np.mean(wrong))
    if share <= (ACROSS if name == "offset" else 0.0):
        return ""
    largest = float(np.max(np.abs(got - want))) / scale
    return f"{name} differs in {share:.2%} of its entries, by {largest:.1e} of its scale at most"


def disagreement(
    case: Case,
    arrays: Arrays,
    direction: str,
    results: Results,
    *,
    yardstick: bool = False,
    normalised: bool = False,
) -> str:
    """Compare a peer's results with pydeform's and say what differs; empty where they agree.

    Parameters
    ----------
    case, arrays, direction
        The problem.
    results : mapping of str to array
        All of the peer's results.
    yardstick : bool
        Whether to compare with the plain convolution, and only the results that are there.
    normalised : bool
        Whether coordinates are parts of the size, so that their error in pixels grows with it.
    """
    tolerance = TOLERANCE * (max(1.0, max(case.size) / 1000) if normalised else 1.0)
    want = expected(case, arrays, direction, plain=yardstick)
    lacking = set(want) - set(results)
    if lacking and not yardstick:
        return f"no gradient of {', '.join(sorted(lacking))}"
    said = (difference(name, np.asarray(a), want[name], tolerance) for name, a in results.items())
    return "; ".join(text for text in said if text)


def own_disagreement(case: Case, direction: str) -> str:
    """Compare pydeform with its executable specification, on a small image of the same kind."""
    most = {1: 96, 2: 12, 3: 6}[case.rank]
    small = replace(case, batch=min(case.batch, 2), size=tuple(min(n, most) for n in case.size))
    arrays = small.arrays(direction)
    with pydeform.use_backend("ref"):
        want = expected(small, arrays, direction, plain=False)
    got = expected(small, arrays, direction, plain=False)
    said = (difference(name, got[name], array) for name, array in want.items())
    return "; ".join(text for text in said if text)
