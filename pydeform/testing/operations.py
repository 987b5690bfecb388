"""The operations that the contract holds for: one entry here is all that its tests ask for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pydeform.testing.bounds import expected, reference
from pydeform.testing.cases import Case
from pydeform.testing.composed import COMPOSED
from pydeform.testing.contract import Operation
from pydeform.testing.local_conv import LOCAL_CONV
from pydeform.testing.named import NAMED
from pydeform.testing.sample import SAMPLE
from pydeform.testing.strategies import deform_conv_cases
from pydeform.testing.values import deform_conv_case, make_geometry


def deform_conv_examples(rank: int) -> dict[str, Callable[[str], Case]]:
    """Cases of deformable convolution at the edges of what is allowed, from a kind, by name.

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

    def make(name: str, seed: int, kind: str) -> Case:
        return deform_conv_case(
            *make_geometry(**options[name]), seed=seed, kind=kind, per_sample=name == "sparse"
        )

    return {name: partial(make, name, seed) for seed, name in enumerate(options)}


DEFORM_CONV = tuple(
    Operation(
        name=f"deform_conv{rank}d",
        cases=partial(deform_conv_cases, rank),
        examples=deform_conv_examples(rank),
        reference=reference,
        expected=expected,
        narrow_columns=("emulated",),
        spoiled={
            "nonfinite offset": ("output", "grad_", "second_"),
            "nonfinite input": ("output of jvp", "grad_"),
            "nonfinite factor": ("output of jvp",),
        },
    )
    for rank in (1, 2, 3)
)

#: Every operation that `tests/test_contract.py` runs.
OPERATIONS: tuple[Operation, ...] = (
    *DEFORM_CONV,
    *SAMPLE,
    *LOCAL_CONV,
    *COMPOSED,
    *NAMED,
)
