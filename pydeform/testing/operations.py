"""The operations that the contract holds for: one entry here is all that its tests ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis.strategies import SearchStrategy

from pydeform.testing.bounds import Expected, expected, reference
from pydeform.testing.cases import Case, Results
from pydeform.testing.strategies import deform_conv_cases
from pydeform.testing.values import deform_conv_case, make_geometry


@dataclass(frozen=True)
class Operation:
    """An operation as the contract sees it.

    Attributes
    ----------
    name
        Public name; its derivatives are ``<name>_backward``, ``_jvp`` and ``_double_backward``.
    cases
        From a kind of values (see `pydeform.testing.values`) to a strategy for cases.
    examples
        From a kind to cases that no draw is likely to hit: wide, long, empty, of size one.
    reference
        Every result of a case from the executable specification, in the case's own types.
    expected
        Every result in `longdouble`, with its a-priori bound.
    """

    name: str
    cases: Callable[[str], SearchStrategy[Case]]
    examples: Callable[[str], dict[str, Case]]
    reference: Callable[[Case], Results]
    expected: Callable[[Case], dict[str, Expected]]


def deform_conv_examples(rank: int, kind: str) -> dict[str, Case]:
    """Cases of deformable convolution at the edges of what is allowed, by name.

    Channel counts around the widths of vector registers, and positions in hundreds, which a blocked
    kernel takes in several tiles; both layouts, every mode and every kink.
    """
    long = {1: (90,), 2: (13, 11), 3: (5, 6, 5)}[rank]
    longer = {1: (900,), 2: (29, 31), 3: (9, 10, 10)}[rank]
    one, two, three = (1,) * rank, (2,) * rank, (3,) * rank
    same = ((1, 1),) * rank
    options: dict[str, dict[str, Any]] = {
        "empty batch": {"batch": 0, "size": three, "kernel": two, "channels": 2},
        "size one": {"size": one, "kernel": one},
        "one pixel, many taps": {"size": one, "kernel": three, "pad": same, "mode": "border"},
        "wide": {"size": long, "kernel": two, "channels": 33, "out_channels": 17},
        "wide last": {
            "size": long,
            "kernel": two,
            "channels": 40,
            "out_channels": 24,
            "groups": 2,
            "offset_groups": 4,
            "channels_last": True,
            "kink": "mean",
        },
        "many positions": {
            "size": longer,
            "kernel": two,
            "channels": 3,
            "out_channels": 5,
            "batch": 2,
            "kink": "mean",
        },
        "many positions last": {
            "size": longer,
            "kernel": (1,) * (rank - 1) + (2,),
            "channels": 36,
            "out_channels": 10,
            "groups": 2,
            "offset_groups": 3,
            "channels_last": True,
            "mode": "border",
            "kink": "open",
        },
        "depthwise": {
            "size": long,
            "kernel": three,
            "pad": same,
            "channels": 9,
            "out_channels": 18,
            "groups": 9,
            "offset_groups": 3,
            "mode": "clip_zero",
        },
        "own offsets per channel": {
            "size": long,
            "kernel": two,
            "channels": 6,
            "out_channels": 4,
            "groups": 2,
            "offset_groups": 6,
            "channels_last": True,
            "mode": "border",
            "kink": "open",
        },
        "sparse": {
            "size": tuple(s + 4 for s in long),
            "kernel": three,
            "stride": (4,) * rank,
            "dilation": (3,) * rank,
            "pad": ((0, 3),) * rank,
            "channels": 4,
            "out_channels": 4,
            "batch": 3,
        },
    }
    return {
        name: deform_conv_case(
            *make_geometry(**chosen), seed=seed, kind=kind, per_sample=name == "sparse"
        )
        for seed, (name, chosen) in enumerate(options.items())
    }


#: Every operation that `tests/test_contract.py` runs.
OPERATIONS = tuple(
    Operation(
        name=f"deform_conv{rank}d",
        cases=partial(deform_conv_cases, rank),
        examples=partial(deform_conv_examples, rank),
        reference=reference,
        expected=expected,
    )
    for rank in (1, 2, 3)
)
