"""Who computes attention and DCNv3/v4, and the process that times one of them.

``python -m benchmarks.sampling CONTESTANT THREADS`` answers commands as `benchmarks.worker` does;
``python -m benchmarks.family`` starts it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import pydeform
from benchmarks import worker
from benchmarks.peers.base import Prepared
from benchmarks.peers.check import Results, difference
from benchmarks.problems import NAMES, Arrays, Problem, shrunk

#: Largest difference, as a part of the root mean square of what is expected.
TOLERANCE = 1e-4


def expected(problem: Problem, arrays: Arrays, direction: str) -> dict[str, NDArray[Any]]:
    """Return pydeform's results: "output", and the gradients by argument."""
    arguments = problem.arguments(arrays)
    found = {"output": getattr(pydeform, problem.operation)(*arguments)}
    if direction != "forward":
        backward = getattr(pydeform, problem.operation + "_backward")
        found |= backward(arrays["grad_output"], *arguments)._asdict()
    return found


def in_pixels(problem: Problem, name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return gradients of normalised locations as those of pixels: one scale for all levels."""
    if name != "sampling_locations" or array.ndim != 6:
        return array
    pixels: NDArray[Any] = array / np.array(problem.levels, array.dtype)[:, None, ::-1]
    return pixels


def disagreement(problem: Problem, got: Results, want: Results) -> str:
    """Say how results differ from what is expected; empty where they agree."""
    if lacking := set(want) - set(got):
        return f"no {', '.join(sorted(lacking))}"
    said = (
        difference(
            f"gradient of {name}" if name != "output" else name,
            in_pixels(problem, name, got[name]),
            in_pixels(problem, name, array),
            TOLERANCE,
        )
        for name, array in want.items()
    )
    return "; ".join(text for text in said if text)


class Contestant(ABC):
    """A way to compute these operations, in a process of its own for one number of threads.

    Attributes
    ----------
    name
        What the tables call it.
    modules
        What must be installed.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @classmethod
    def missing(cls) -> str:
        """Name the modules that are not installed; empty where it can be tried."""
        return ", ".join(m for m in cls.modules if find_spec(m) is None)

    @classmethod
    def refuses(cls, problem: Problem, direction: str) -> str:  # noqa: ARG003
        """Say why it cannot do this; empty where it can."""
        return ""

    def version(self) -> str:
        """Return the version of the library behind it."""
        return str(getattr(import_module(self.modules[0]), "__version__", "unknown"))

    @abstractmethod
    def prepare(self, problem: Problem, arrays: Arrays, direction: str) -> Prepared:
        """Convert the arguments to its own kind of array."""

    def wrong(self, problem: Problem, arrays: Arrays, direction: str, results: Results) -> str:
        """Say how its results differ from pydeform's; empty where they agree."""
        return disagreement(problem, results, expected(problem, arrays, direction))


class Ours(Contestant):
    """The public functions on NumPy arrays; memory for results included."""

    name: ClassVar[str] = "pydeform"
    modules: ClassVar[tuple[str, ...]] = ("pydeform",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        pydeform.set_num_threads(threads)

    def prepare(self, problem: Problem, arrays: Arrays, direction: str) -> Prepared:
        """Bind the arguments."""
        return Prepared(lambda: expected(problem, arrays, direction), lambda found: found)

    def wrong(self, problem: Problem, arrays: Arrays, direction: str, results: Results) -> str:  # noqa: ARG002
        """Compare with the executable specification, on a small problem of the same kind."""
        small = shrunk(problem)
        given = small.arrays(direction)
        with pydeform.use_backend("ref"):
            want = expected(small, given, direction)
        return disagreement(small, expected(small, given, direction), want)


class OnTorch(Contestant):
    """Tensors with autograd: a subclass gives the function of the tensors."""

    modules: ClassVar[tuple[str, ...]] = ("torch",)

    def __init__(self, threads: int) -> None:
        import torch

        super().__init__(threads)
        torch.set_num_threads(threads)

    @abstractmethod
    def function(self, problem: Problem) -> Callable[..., Any]:
        """Return the function from the tensors, in the order of `NAMES`, to the output."""

    def prepare(self, problem: Problem, arrays: Arrays, direction: str) -> Prepared:
        """Make tensors that share the arrays' memory."""
        import torch

        names = NAMES[problem.operation]
        tensors = [torch.from_numpy(arrays[name]) for name in names]
        function = self.function(problem)
        if direction == "forward":

            def forward() -> Any:
                with torch.no_grad():
                    return (function(*tensors),)

            return Prepared(forward, lambda found: {"output": found[0].numpy()})

        leaves = [tensor.requires_grad_() for tensor in tensors]
        cotangent = torch.from_numpy(arrays["grad_output"])

        def both() -> Any:
            output = function(*leaves)
            return output, *torch.autograd.grad(output, leaves, cotangent)

        def results(found: Any) -> Results:
            named = zip(("output", *names), found, strict=True)
            return {name: tensor.detach().numpy() for name, tensor in named}

        return Prepared(both, results)


class GridSample(OnTorch):
    """The published formulas in plain torch: grid_sample, times the factors, summed."""

    name: ClassVar[str] = "grid_sample"

    def function(self, problem: Problem) -> Callable[..., Any]:
        """Return the composition."""
        return attention(problem) if problem.attends else lattice(problem)


def attention(problem: Problem) -> Callable[..., Any]:
    """Return multi-scale deformable attention: one grid_sample for each level."""
    import torch
    from torch.nn import functional

    images = problem.batch * problem.groups

    def compose(value: Any, locations: Any, weights: Any) -> Any:
        grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # [N*M, Lq, L, P, 2]
        maps = value.permute(0, 2, 3, 1).reshape(images, problem.depth, -1)
        found = []
        for number, (start, size) in enumerate(zip(problem.starts, problem.levels, strict=True)):
            image = maps[..., start : start + prod(size)].unflatten(-1, size)
            grid = grids[:, :, number]
            found.append(functional.grid_sample(image, grid, align_corners=False))
        factors = weights.transpose(1, 2).reshape(images, 1, problem.queries, -1)
        summed = (torch.cat(found, -1) * factors).sum(-1)  # [N*M, D, Lq]
        return summed.view(problem.batch, -1, problem.queries).transpose(1, 2).contiguous()

    return compose


def lattice(problem: Problem) -> Callable[..., Any]:
    """Return DCNv3, or DCNv4 where offsets and factors come in one array."""
    import torch
    from torch.nn import functional

    (height, width), side = problem.levels[0], problem.points
    taps, images = side**2, problem.batch * problem.groups
    # Taps go column by column; torch wants (2x + 1)/width - 1.
    y, x = (torch.arange(n, dtype=torch.float32) for n in (height, width))
    tap = torch.arange(side, dtype=torch.float32) - (side - 1) // 2
    base = torch.empty(height * width, taps, 2)
    base[..., 0] = (
        (x[None, :, None] + tap.repeat_interleave(side)).repeat(height, 1, 1).flatten(0, 1)
    )
    base[..., 1] = (y[:, None, None] + tap.repeat(side)).repeat(1, width, 1).flatten(0, 1)
    size = torch.tensor([width, height], dtype=torch.float32)
    shift, scale = (2 * base + 1) / size - 1, 2 / size

    def compose(image: Any, offset: Any, mask: Any) -> Any:
        offset = offset.reshape(problem.batch, height * width, problem.groups, taps, 2)
        grid = (offset.transpose(1, 2) * scale + shift).flatten(0, 1)
        maps = image.permute(0, 3, 1, 2).reshape(images, problem.depth, height, width)
        found = functional.grid_sample(maps, grid, align_corners=False)  # [N*G, D, H*W, K]
        mask = mask.reshape(problem.batch, height * width, problem.groups, taps).transpose(1, 2)
        summed = (found * mask.reshape(images, 1, height * width, taps)).sum(-1)
        summed = summed.view(problem.batch, -1, height, width)
        return summed.permute(0, 2, 3, 1).contiguous()

    def packed(image: Any, both: Any) -> Any:
        used = both[..., : problem.groups * taps * 3].unflatten(-1, (problem.groups, taps * 3))
        return compose(image, used[..., : 2 * taps], used[..., 2 * taps :])

    return compose if problem.operation == "dcnv3" else packed


class Native(OnTorch):
    """The compiled operator of torch-ms-deform-attn."""

    name: ClassVar[str] = "native"
    modules: ClassVar[tuple[str, ...]] = ("torch_ms_deform_attn", "torch")

    def version(self) -> str:
        """Return the version of the package."""
        from importlib.metadata import version

        return version("torch-ms-deform-attn")

    @classmethod
    def refuses(cls, problem: Problem, direction: str) -> str:  # noqa: ARG003
        """Attention is all it has."""
        return "" if problem.attends else "attention only"

    def function(self, problem: Problem) -> Callable[..., Any]:
        """Return the operator with its levels."""
        import torch
        from torch_ms_deform_attn import ms_deform_attn

        levels, starts = torch.tensor(problem.levels), torch.tensor(problem.starts)
        return lambda value, *rest: ms_deform_attn(value, levels, starts, *rest)


#: In the order of the tables.
CONTESTANTS: dict[str, type[Contestant]] = {c.name: c for c in (Ours, GridSample, Native)}


if __name__ == "__main__":
    worker.main(CONTESTANTS, Problem)
