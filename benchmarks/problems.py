"""The problems of `benchmarks.family`: attention and DCNv3/v4, and random arrays for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.float32]]
#: Coordinates stay this far from whole pixels, where derivatives jump and rounding would decide.
FROM_WHOLE = 1 / 64
NAMES = {
    "ms_deform_attn": ("value", "sampling_locations", "attention_weights"),
    "dcnv3": ("input", "offset", "mask"),
    "dcnv4": ("input", "offset_mask"),
}


@dataclass(frozen=True)
class Problem:
    """One call of an operation that samples, float32.

    Attributes
    ----------
    name, operation
        What the tables call it, and the public function.
    batch, groups, depth
        Images, groups (attention: heads), and channels of each group.
    levels
        Sizes (y, x): of every level for attention, of the image for the others.
    points
        Points of each head and level, or rows and columns of the kernel.
    queries
        Of attention; the others have one for each pixel.
    spread
        Standard deviation of offsets in pixels; None draws positions all over the image. For
        attention, offsets are from the query's own pixel, as in an encoder.
    """

    name: str
    operation: str
    batch: int
    groups: int
    depth: int
    levels: tuple[tuple[int, int], ...]
    points: int
    queries: int = 0
    spread: float | None = 2.0

    @property
    def attends(self) -> bool:
        """Whether this is attention."""
        return self.operation == "ms_deform_attn"

    @property
    def pixels(self) -> int:
        """Pixels of all levels together."""
        return sum(map(prod, self.levels))

    @property
    def starts(self) -> list[int]:
        """Where each level begins."""
        return [0, *accumulate(map(prod, self.levels[:-1]))]

    def arrays(self, direction: str, seed: int = 0) -> Arrays:
        """Draw arguments by name, and a cotangent "grad_output" for gradients."""
        rng = np.random.default_rng(seed)
        made = self._attention(rng) if self.attends else self._lattice(rng)
        if direction != "forward":
            inner = (self.queries,) if self.attends else self.levels[0]
            shape = (self.batch, *inner, self.groups * self.depth)
            made["grad_output"] = rng.standard_normal(shape, dtype=np.float32)
        return made

    def _attention(self, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        size = np.array(self.levels, np.float64)[:, None, ::-1]  # [L, 1, 2] as (x, y)
        shape = (self.batch, self.queries, self.groups, len(self.levels), self.points, 2)
        if self.spread is None:
            position = rng.random(shape) * size - 0.5
        else:
            own = np.concatenate([centres(level) for level in self.levels])[: self.queries]
            position = own[:, None, None, None] * size - 0.5
            position = position + rng.standard_normal(shape) * self.spread
        weights = rng.random(shape[:-1], dtype=np.float32)
        weights /= weights.sum((-2, -1), keepdims=True)
        value = (self.batch, self.pixels, self.groups, self.depth)
        return {
            "value": rng.standard_normal(value, dtype=np.float32),
            "sampling_locations": ((between(position) + 0.5) / size).astype(np.float32),
            "attention_weights": weights,
        }

    def _lattice(self, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        (size,) = self.levels
        taps = self.points**2
        shape = (self.batch, *size, self.groups, taps)
        offset = between(rng.standard_normal((*shape, 2)) * (self.spread or 0)).astype(np.float32)
        mask = rng.random(shape, dtype=np.float32)
        image = (self.batch, *size, self.groups * self.depth)
        made = {"input": rng.standard_normal(image, dtype=np.float32)}
        if self.operation == "dcnv3":
            split = {"offset": offset, "mask": mask}
            return made | {k: a.reshape(self.batch, *size, -1) for k, a in split.items()}
        both = np.concatenate((offset.reshape(*shape[:-1], 2 * taps), mask), -1)
        both = both.reshape(self.batch, *size, -1)
        padding = [(0, 0)] * 3 + [(0, -both.shape[-1] % 8)]
        return made | {"offset_mask": np.pad(both, padding)}

    def arguments(self, arrays: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return all arguments of the public function in its order."""
        first, *rest = (arrays[name] for name in NAMES[self.operation])
        if self.attends:
            return (first, self.levels, self.starts, *rest)
        pad = (self.points - 1) // 2
        return (
            first,
            *rest,
            self.points,
            self.points,
            1,
            1,
            pad,
            pad,
            1,
            1,
            self.groups,
            self.depth,
        )

    def describe(self) -> str:
        """Say what it is."""
        where = "anywhere" if self.spread is None else f"offsets N(0, {self.spread:g})"
        levels = ", ".join(f"{h}x{w}" for h, w in self.levels)
        words = [f"{self.operation}, N={self.batch}"]
        if self.attends:
            words += [f"{self.groups} heads, {self.depth} channels per head", f"levels {levels}"]
            words += [f"{self.points} points", f"{self.queries:,} queries"]
        else:
            words += [f"C={self.groups * self.depth}", levels, f"{self.groups} groups"]
            words += [f"{self.points}x{self.points}"]
        return ", ".join([*words, where])

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data; `from_json` takes it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Problem:
        """Return the problem that `to_json` wrote."""
        return cls(**data | {"levels": tuple((h, w) for h, w in data["levels"])})


def centres(size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the centres of all pixels as parts of the size, [H*W, 2] as (x, y)."""
    y, x = ((np.arange(n) + 0.5) / n for n in size)
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def between(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return positions moved away from whole pixels."""
    whole = np.floor(position)
    return whole + np.clip(position - whole, FROM_WHOLE, 1 - FROM_WHOLE)


def pyramid(size: tuple[int, int], *more: tuple[int, int]) -> dict[str, Any]:
    """Return levels and one query for each of their pixels."""
    levels = (size, *more)
    return {"levels": levels, "queries": sum(map(prod, levels))}


_DETECTION = pyramid((100, 134), (50, 67), (25, 34), (13, 17))
_SQUARE = pyramid((64, 64), (32, 32), (16, 16), (8, 8))
PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("attention", "ms_deform_attn", 1, 8, 32, points=4, **_DETECTION),
        Problem("attention-5440", "ms_deform_attn", 1, 8, 32, points=4, spread=None, **_SQUARE),
        Problem("dcnv3", "dcnv3", 4, 8, 16, ((56, 56),), 3),
        Problem("dcnv4", "dcnv4", 4, 8, 16, ((56, 56),), 3),
        Problem("attention-far", "ms_deform_attn", 1, 8, 32, points=4, spread=None, **_DETECTION),
    )
}
#: Those that targets are set for; the others only on request.
DEFAULT = tuple(PROBLEMS)[:4]


def shrunk(problem: Problem) -> Problem:
    """Return a small problem of the same kind."""
    levels = tuple((min(h, 7), min(w, 9)) for h, w in problem.levels)
    queries = sum(map(prod, levels)) if problem.attends else 0
    return replace(problem, levels=levels, queries=queries, batch=min(problem.batch, 2))
