"""Peers on PyTorch: its dense convolution, compositions of grid_sample, and torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, ClassVar

import numpy as np

from benchmarks.cases import Arrays, Case
from benchmarks.peers.base import Peer, Prepared, Results


class OnTorch(Peer):
    """Whatever runs on tensors with autograd: a subclass gives the function of the tensors."""

    modules: ClassVar[tuple[str, ...]] = ("torch",)
    backward: ClassVar[bool] = True
    ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def __init__(self, threads: int) -> None:
        import torch

        super().__init__(threads)
        torch.set_num_threads(threads)

    def function(self, case: Case) -> Callable[[Mapping[str, Any]], Any]:
        """Return the function from tensors by name to the output."""
        raise NotImplementedError

    def prepare(self, case: Case, arrays: Arrays, direction: str) -> Prepared:
        """Make tensors that share the arrays' memory."""
        import torch

        skipped = {"grad_output"} | ({"offset", "mask"} if self.yardstick else set())
        given = {k: a for k, a in arrays._asdict().items() if a is not None and k not in skipped}
        tensors = {k: torch.from_numpy(a) for k, a in given.items()}
        function = self.function(case)
        if direction == "forward":

            def forward() -> Any:
                with torch.no_grad():
                    return (function(tensors),)

            return Prepared(forward, lambda found: {"output": found[0].numpy()})

        leaves = {k: t.requires_grad_() for k, t in tensors.items()}
        cotangent = torch.from_numpy(arrays.grad_output)

        def both() -> Any:
            output = function(leaves)
            return output, *torch.autograd.grad(output, list(leaves.values()), cotangent)

        def results(found: Any) -> Results:
            named = zip(("output", *leaves), found, strict=True)
            return {k: t.detach().numpy() for k, t in named}

        return Prepared(both, results)


class Dense(OnTorch):
    """The plain convolution of the same shape (oneDNN where torch chooses it): the yardstick."""

    name: ClassVar[str] = "dense"
    yardstick: ClassVar[bool] = True
    columns: ClassVar[bool] = False

    def function(self, case: Case) -> Callable[[Mapping[str, Any]], Any]:
        """Return the convolution of this rank."""
        from torch.nn import functional

        conv = getattr(functional, f"conv{case.rank}d")
        options = (case.stride, case.padding, case.dilation, case.groups)
        return lambda t: conv(t["input"], t["weight"], t["bias"], *options)


def grid_of(case: Case) -> tuple[Any, Any]:
    """Return shift [1, K, n, *O] and scale [n, 1...] from offsets to the grid that torch wants.

    Coordinate p of an axis of S pixels is (2p + 1)/S - 1 there.
    """
    import torch

    size = np.asarray(case.size, np.float64).reshape(-1, *(1,) * case.rank)
    steps = (case.stride, case.padding, case.dilation, case.kernel, case.out_size)
    axes = [
        np.arange(k)[:, None] * d + np.arange(o) * s - p
        for s, p, d, k, o in zip(*steps, strict=True)
    ]  # per axis [k, O]
    base = np.empty((*case.kernel, case.rank, *case.out_size))
    for axis, values in enumerate(axes):
        at = [1] * (2 * case.rank)
        at[axis], at[case.rank + axis] = values.shape
        base[(slice(None),) * case.rank + (axis,)] = values.reshape(at)
    shift = (2 * base.reshape(1, case.taps, case.rank, *case.out_size) + 1) / size - 1
    return torch.from_numpy(shift.astype(np.float32)), torch.from_numpy(
        (2 / size).astype(np.float32)
    )


class GridSample(OnTorch):
    """All columns by one grid_sample per call, times the mask, then one product: in plain torch."""

    name: ClassVar[str] = "grid_sample"
    normalised: ClassVar[bool] = True

    def function(self, case: Case) -> Callable[[Mapping[str, Any]], Any]:
        """Return the composition."""
        import torch
        from torch.nn import functional

        shift, scale = grid_of(case)
        images, positions = case.batch * case.offset_groups, prod(case.out_size)
        depth = case.channels // case.offset_groups
        rows, *rest = case.out_size

        def compose(t: Mapping[str, Any]) -> Any:
            offset = t["offset"].view(images, case.taps, case.rank, *case.out_size)
            grid = (offset * scale + shift).flip(2).movedim(2, -1)  # x first
            if case.rank == 1:  # a signal is an image of one row
                grid = torch.cat((grid, torch.zeros_like(grid)), -1)
                image = t["input"].view(images, depth, 1, *case.size)
            else:
                grid = grid.reshape(images, case.taps * rows, *rest, case.rank)
                image = t["input"].view(images, depth, *case.size)
            columns = functional.grid_sample(image, grid, align_corners=False)
            columns = columns.view(images, depth, case.taps, positions)
            if "mask" in t:
                columns = columns * t["mask"].view(images, 1, case.taps, positions)
            columns = columns.view(case.batch, case.groups, -1, positions)
            weight = t["weight"].view(case.groups, case.out_channels // case.groups, -1)
            out = torch.matmul(weight, columns).view(case.batch, case.out_channels, positions)
            return (out + t["bias"][:, None]).view(case.batch, case.out_channels, *case.out_size)

        return compose


class Compiled(GridSample):
    """The same through torch.compile; compiling takes its time and is not measured."""

    name: ClassVar[str] = "torch_compile"
    on_request: ClassVar[bool] = True

    def function(self, case: Case) -> Callable[[Mapping[str, Any]], Any]:
        """Return the compiled composition."""
        import torch

        compiled: Callable[[Mapping[str, Any]], Any] = torch.compile(
            super().function(case), fullgraph=True, dynamic=False
        )
        return compiled


class Torchvision(OnTorch):
    """torchvision.ops.deform_conv2d with its own autograd."""

    name: ClassVar[str] = "torchvision"
    modules: ClassVar[tuple[str, ...]] = ("torchvision", "torch")
    ranks: ClassVar[tuple[int, ...]] = (2,)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch
        import torchvision  # noqa: F401  (registers its operators)

        torch.ops.torchvision.deform_conv2d  # noqa: B018  (raises where it was built without)

    def function(self, case: Case) -> Callable[[Mapping[str, Any]], Any]:
        """Return the operator with its options."""
        from torchvision.ops import deform_conv2d

        options = (case.stride, case.padding, case.dilation)
        return lambda t: deform_conv2d(
            t["input"], t["offset"], t["weight"], t["bias"], *options, t.get("mask")
        )
