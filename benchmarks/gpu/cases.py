"""What is timed on a GPU: deformable convolutions, and what samples without a product."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, case
from benchmarks.problems import NAMES, PROBLEMS, Problem, shrunk

Shape: TypeAlias = Case | Problem
#: The output alone, or the gradients alone.
DIRECTIONS = ("forward", "backward")
ITEMSIZE = {"float16": 2, "float32": 4}

#: Layers whose floors are named in `docs/explanation/gpu-kernels.md`.
CONVOLUTIONS: tuple[Case, ...] = (
    case("R256", (8, 256, 56, 56), 256, 3),
    case("F256", (2, 256, 100, 152), 256, 3),
    case("R512", (16, 512, 28, 28), 512, 3),
    # What the tensor cores do not take: a few channels, and groups.
    case("E", (8, 64, 32, 32), 64, 3, offset_groups=4, mask=False),
    case("resnext", (8, 256, 56, 56), 256, 3, groups=32),
)
SAMPLED: tuple[Problem, ...] = (
    Problem("dcnv4-64", "dcnv4", 64, 20, 16, ((56, 56),), 3),
    *(PROBLEMS[name] for name in ("dcnv3", "dcnv4", "attention", "attention-5440")),
    replace(PROBLEMS["attention"], name="attention-8", batch=8),
)
SHAPES: dict[str, Shape] = {c.name: c for c in CONVOLUTIONS} | {p.name: p for p in SAMPLED}


@dataclass(frozen=True)
class Timed:
    """One shape in one dtype and direction.

    Attributes
    ----------
    shape
        The problem.
    dtype
        "float16" or "float32": of every array.
    direction
        One of `DIRECTIONS`.
    """

    shape: Shape
    dtype: str
    direction: str

    @property
    def convolves(self) -> bool:
        """Whether it has a weight."""
        return isinstance(self.shape, Case)

    @property
    def words(self) -> str:
        """What a line of a log calls it."""
        return f"{self.shape.name}, {self.dtype}, {self.direction}"

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments that have gradients, in the order of the public function."""
        if isinstance(self.shape, Problem):
            return NAMES[self.shape.operation]
        return ("input", "offset", "weight", "bias", *(("mask",) if self.shape.mask else ()))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Draw all arguments and "grad_output", rounded to the dtype."""
        direction = "forward+backward"
        if isinstance(self.shape, Problem):
            drawn = dict(self.shape.arrays(direction))
        else:
            drawn = self.shape.arrays(direction)._asdict()
        return {k: a.astype(np.dtype(self.dtype)) for k, a in drawn.items() if a is not None}


def tiny(shape: Shape) -> Shape:
    """Return a problem of the same kind for the host execution."""
    if isinstance(shape, Problem):
        small = shrunk(replace(shape, groups=2, depth=8))
        levels = tuple((min(h, 3), min(w, 4)) for h, w in small.levels[:2])
        queries = sum(h * w for h, w in levels) if small.attends else 0
        return replace(small, batch=1, levels=levels, queries=queries)
    groups = 2 if shape.groups > 1 else 1
    return replace(shape, batch=1, channels=16, out_channels=16, size=(4, 5), groups=groups,
                   offset_groups=min(shape.offset_groups, 2))  # fmt: skip


def plan(names: Iterable[str], dtypes: Iterable[str], small: bool) -> list[Timed]:
    """Return all that is timed, in the order of the tables.

    Raises
    ------
    ValueError
        If there is no shape of a name or no such dtype.
    """
    names, dtypes = list(names), list(dtypes)
    for what, given, known in (("case", names, SHAPES), ("dtype", dtypes, ITEMSIZE)):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"{what}: expected some of {', '.join(known)}; got {unknown[0]!r}")
    shapes = [tiny(SHAPES[name]) if small else SHAPES[name] for name in names]
    return [
        Timed(shape, dtype, direction)
        for shape in shapes
        for dtype in dtypes
        for direction in DIRECTIONS
    ]
