"""The bare matrix products inside a convolution, by the BLAS that SciPy has."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from benchmarks.cases import Arrays, Case
from benchmarks.peers.base import Peer, Prepared, Results


def columns_of(case: Case, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the columns of the plain convolution, (groups, C/groups*K, N*P)."""
    axes = tuple(range(2, 2 + case.rank))
    padded = np.pad(image, [(0, 0), (0, 0), *((p, p) for p in case.padding)])
    window = tuple(d * (k - 1) + 1 for d, k in zip(case.dilation, case.kernel, strict=True))
    view = sliding_window_view(padded, window, axis=axes)
    steps = (slice(None, None, s) for s in (1, 1, *case.stride, *case.dilation))
    view = view[tuple(steps)]  # [N, C, *O, *k]
    taps = tuple(a + case.rank for a in axes)
    ordered = view.transpose(1, *taps, 0, *axes)  # [C, *k, N, *O]
    depth = case.channels // case.groups * case.taps
    return np.ascontiguousarray(ordered).reshape(case.groups, depth, -1)


class Sgemm(Peer):
    """One product forward, and the two of the gradients: nothing is sampled, summed or moved.

    The columns are those of the plain convolution and made beforehand, so its output and its
    gradient of the weight can be checked. BLAS reads its number of threads from the environment.
    """

    name: ClassVar[str] = "sgemm"
    modules: ClassVar[tuple[str, ...]] = ("scipy",)
    yardstick: ClassVar[bool] = True
    backward: ClassVar[bool] = True
    ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def prepare(self, case: Case, arrays: Arrays, direction: str) -> Prepared:
        """Make the columns and the memory for the products."""
        from scipy.linalg.blas import sgemm

        columns = columns_of(case, arrays.input)
        groups, depth, positions = columns.shape
        weight = arrays.weight.reshape(groups, -1, depth)
        shape = (groups, weight.shape[1], positions)
        out = np.zeros(shape, np.float32)
        backward = arrays.grad_output is not None
        if arrays.grad_output is not None:
            cotangent = np.ascontiguousarray(np.moveaxis(arrays.grad_output, 1, 0)).reshape(shape)
            grad_columns, grad_weight = np.zeros_like(columns), np.zeros_like(weight)

        def run() -> Any:
            # BLAS counts in columns: a row-major matrix is handed over as its transpose.
            for g in range(groups):
                sgemm(1.0, columns[g].T, weight[g].T, c=out[g].T, overwrite_c=1)
                if not backward:
                    continue
                grad = cotangent[g].T
                sgemm(1.0, grad, weight[g].T, trans_b=1, c=grad_columns[g].T, overwrite_c=1)
                sgemm(1.0, columns[g].T, grad, trans_a=1, c=grad_weight[g].T, overwrite_c=1)

        def results(_: Any) -> Results:
            found = np.moveaxis(out.reshape(case.out_channels, case.batch, *case.out_size), 1, 0)
            bias = arrays.bias.reshape(-1, *(1,) * case.rank)
            named = {"output": found + bias}
            if direction == "forward":
                return named
            return named | {"weight": grad_weight.reshape(case.shapes["weight"])}

        return Prepared(run, results)
