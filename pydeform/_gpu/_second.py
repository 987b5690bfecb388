"""Gradients of gradients by coordinates and factors, from dots of columns with S_alpha.

With m the factor of every sample (a mask, a kernel), mu and v the directions of factor and
coordinates, and dots summed over the channels of an offset group,

    to p_e:  m B.D_e + mu A.D_e + m ( A.S_{e_e}(u) + sum_{d != e} v_d A.S_{e_d+e_e}(x) )
    to m:    B.s + A.S_0(u) + sum_d v_d A.D_d
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from pydeform._gpu._layout import Array, Maybe
from pydeform._gpu._sampling import Sampling


def _sum(terms: list[Array]) -> Maybe:
    return reduce(add, terms) if terms else None


class Dots:
    """All the dots that are needed, taken chunk by chunk: [N, P, Go, K] of the working type."""

    def __init__(
        self, sampling: Sampling, m: Maybe, mu: Maybe, v: list[Maybe], to_p: bool, to_m: bool
    ) -> None:
        self.sampling = sampling
        self.v = [self._wide(one) for one in v]
        self.m, self.mu = self._wide(m), self._wide(mu)
        self.to_p, self.to_m = to_p, to_m
        self.axes = range(sampling.geometry.rank)
        self.found: dict[tuple[str, int], Array] = {}

    def _wide(self, array: Maybe) -> Maybe:
        return None if array is None else self.sampling.layout.wide(array)

    def take(self, name: str, columns: Array, image: Array, first: int) -> None:
        """Dot one chunk of columns with an image: "Ax", "Au" or "Bx"."""
        slopes = [1 << d for d in self.axes]
        alphas = slopes if self.to_p else []
        if name == "Ax":
            moved = [d for d in self.axes if self.v[d] is not None]
            if self.to_p:
                bends = {1 << d | 1 << e for d in moved for e in self.axes if d != e}
                alphas = [*slopes, *sorted(bends)]
            elif self.to_m:
                alphas = [1 << d for d in moved]
        elif self.to_m:
            alphas = [0, *alphas]
        if not alphas:
            return
        layout = self.sampling.layout
        g = layout.geometry
        shape = (g.batch, layout.positions, g.offset_groups, g.taps)
        for alpha in alphas:
            if (name, alpha) not in self.found:
                self.found[name, alpha] = layout.empty(*shape)
        outputs = [(alpha, self.found[name, alpha], False) for alpha in alphas]
        self.sampling.dots(columns, image, outputs, first)

    def _of(self, name: str, alpha: int, factor: Maybe = None) -> list[Array]:
        """The dot, times a factor, where it was taken."""
        found = self.found.get((name, alpha))
        return [] if found is None else [found if factor is None else factor * found]

    def second_coordinates(self) -> list[Maybe]:
        """One [N, P, Go, K] per axis; None where it is 0."""
        results = []
        for e in self.axes:
            terms = self._of("Bx", 1 << e) + self._of("Au", 1 << e)
            for d in self.axes:
                if d != e and self.v[d] is not None:
                    terms += self._of("Ax", 1 << d | 1 << e, self.v[d])
            inner = _sum(terms)
            parts = [] if inner is None else [inner if self.m is None else self.m * inner]
            if self.mu is not None:
                parts += self._of("Ax", 1 << e, self.mu)
            results.append(_sum(parts))
        return results

    def second_factor(self) -> Maybe:
        """[N, P, Go, K]; None where it is 0."""
        terms = self._of("Bx", 0) + self._of("Au", 0)
        for d in self.axes:
            if self.v[d] is not None:
                terms += self._of("Ax", 1 << d, self.v[d])
        return _sum(terms)

    def write(self, to_p: Maybe, to_m: Maybe) -> None:
        """Write both to the caller's views, [N, P, Go, K, n] and [N, P, Go, K]."""
        targets: list[tuple[Any, Maybe]] = []
        if to_p is not None:
            targets += [(to_p[..., e], found) for e, found in enumerate(self.second_coordinates())]
        if to_m is not None:
            targets.append((to_m, self.second_factor()))
        for target, found in targets:
            target[...] = 0 if found is None else found
