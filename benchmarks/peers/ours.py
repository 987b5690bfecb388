"""pydeform itself."""

from __future__ import annotations

from typing import Any, ClassVar

import pydeform
from benchmarks.cases import Arrays, Case
from benchmarks.peers.base import Peer, Prepared, Results
from benchmarks.peers.check import own_disagreement


class Ours(Peer):
    """The public functions on NumPy arrays, as a user calls them: memory for results included."""

    name: ClassVar[str] = "pydeform"
    modules: ClassVar[tuple[str, ...]] = ("pydeform",)
    backward: ClassVar[bool] = True
    ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)
    columns: ClassVar[bool] = False

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        pydeform.set_num_threads(threads)

    def prepare(self, case: Case, arrays: Arrays, direction: str) -> Prepared:
        """Bind the public function of this rank to its arguments."""
        forward = getattr(pydeform, f"deform_conv{case.rank}d")
        backward = getattr(pydeform, f"deform_conv{case.rank}d_backward")
        values = (
            *(arrays.input, arrays.offset, arrays.weight, arrays.bias),
            *(case.stride, case.padding, case.dilation, arrays.mask),
        )

        def run() -> tuple[Any, Any]:
            output = forward(*values)
            grads = None if direction == "forward" else backward(arrays.grad_output, *values)
            return output, grads

        def results(value: tuple[Any, Any]) -> Results:
            output, grads = value
            named = {} if grads is None else grads._asdict()
            return {"output": output} | {k: g for k, g in named.items() if g is not None}

        return Prepared(run, results)

    def wrong(self, case: Case, arrays: Arrays, direction: str, results: Results) -> str:  # noqa: ARG002
        """Compare with the executable specification: the others are compared with this."""
        return own_disagreement(case, direction)
