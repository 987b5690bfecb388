"""PaddlePaddle's deform_conv2d with its own autograd."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from benchmarks.cases import Arrays, Case
from benchmarks.peers.base import Peer, Prepared, Results


class Paddle(Peer):
    """paddle.vision.ops.deform_conv2d on the CPU."""

    name: ClassVar[str] = "paddle"
    modules: ClassVar[tuple[str, ...]] = ("paddle",)
    backward: ClassVar[bool] = True

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        paddle: Any = import_module("paddle")
        paddle.set_device("cpu")
        paddle.base.core.set_num_threads(threads)

    def prepare(self, case: Case, arrays: Arrays, direction: str) -> Prepared:
        """Make tensors, which copies the arrays."""
        paddle: Any = import_module("paddle")

        given = {k: a for k, a in arrays._asdict().items() if a is not None}
        tensors = {k: paddle.to_tensor(a) for k, a in given.items()}
        cotangent = tensors.pop("grad_output", None)

        def forward() -> Any:
            return paddle.vision.ops.deform_conv2d(
                *(tensors["input"], tensors["offset"], tensors["weight"], tensors["bias"]),
                *(case.stride, case.padding, case.dilation),
                deformable_groups=case.offset_groups,
                groups=case.groups,
                mask=tensors.get("mask"),
            )

        if direction == "forward":

            def alone() -> Any:
                with paddle.no_grad():
                    return (forward(),)

            return Prepared(alone, lambda found: {"output": found[0].numpy()})

        for tensor in tensors.values():
            tensor.stop_gradient = False

        def both() -> Any:
            output = forward()
            return output, *paddle.grad([output], list(tensors.values()), [cotangent])

        def results(found: Any) -> Results:
            return {k: t.numpy() for k, t in zip(("output", *tensors), found, strict=True)}

        return Prepared(both, results)
