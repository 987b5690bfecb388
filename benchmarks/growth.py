"""What one call takes beside its arguments and results: ``python -m benchmarks.growth JSON``.

Each call has a process of its own; `benchmarks.memory` starts them and prints the table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.worker import forget_peak, peak, resident

Array = NDArray[Any]
WAYS = ("forward", "backward", "jvp", "double_backward")
DTYPES = ("float32", "float64", "float16", "bfloat16")
LAYOUTS = ("channels_first", "channels_last")
TAPS = 3  # along an axis
#: Operations without `layout`: they have their own.
FIXED = ("dcnv3", "dcnv4", "ms_deform_attn", "roi_align", "deform_roi_pool", "sample", "splat")
OPERATIONS = (
    *(f"deform_conv{rank}d" for rank in (1, 2, 3)),
    *(f"local_conv{rank}d" for rank in (1, 2, 3)),
    *FIXED,
)


@dataclass(frozen=True)
class Call:
    """One call of a public function.

    Attributes
    ----------
    operation, way, dtype, layout
        One of `OPERATIONS`, `WAYS`, `DTYPES` and `LAYOUTS`.
    side
        The image has side x side pixels, in one, two or three dimensions.
    channels, batch
        Of the image, and of the output.
    own_weights
        Whether every sample has its own weight.
    threads, limit
        What is set before: the number of threads, and the workspace's bytes (None: as it is).
    """

    operation: str
    way: str
    dtype: str = "float32"
    side: int = 512
    channels: int = 8
    batch: int = 1
    layout: str = "channels_first"
    own_weights: bool = False
    threads: int = 2
    limit: int | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """Return the image's size along each axis."""
        n = self.side
        rank = self.operation[-2]
        if rank == "1":
            return (n * n,)
        return (16, n // 4, n // 4) if rank == "3" else (n, n)

    @property
    def groups(self) -> int:
        """Return groups of 16 channels, where groups have kernels or heads of their own."""
        return max(1, self.channels // 16)


def drawn(call: Call) -> Callable[..., Array]:
    """Return what draws an array of a shape, a plane at a time, so that copies stay small."""
    rng = np.random.default_rng(0)
    dtype: Any = call.dtype
    if call.dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16

    def draw(*shape: int, scale: float = 1.0) -> Array:
        made = np.empty(shape, dtype)
        flat = made.reshape(-1)
        for first in range(0, flat.size, 1 << 20):
            part = flat[first : first + (1 << 20)]
            part[...] = scale * rng.standard_normal(part.size, dtype=np.float32)
        return made

    return draw


def arguments(call: Call) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays that have gradients by name, and everything else."""
    n, c, size, rank = call.batch, call.channels, call.size, len(call.size)
    draw, taps, groups = drawn(call), TAPS**rank, call.groups

    def placed(channels: int, scale: float = 1.0) -> Array:
        last = call.layout == "channels_last"
        shape = (n, *size, channels) if last else (n, channels, *size)
        return draw(*shape, scale=scale)

    same = {"padding": 1, "layout": call.layout}
    if call.operation.startswith("deform_conv"):
        own = (n,) if call.own_weights else ()
        arrays = {"input": placed(c), "offset": placed(taps * rank, 2.0)}
        arrays |= {"weight": draw(*own, c, c, *(TAPS,) * rank, scale=0.1), "bias": draw(c)}
        return arrays | {"mask": placed(taps)}, same
    if call.operation.startswith("local_conv"):
        kernel = placed(groups * taps)
        shape = (*size, groups, taps) if call.layout == "channels_last" else (groups, taps, *size)
        kernel = kernel.reshape(n, *shape)
        offset = placed(groups * taps * rank, 2.0)
        return {"input": placed(c), "kernel": kernel, "offset": offset}, same
    if call.operation in ("dcnv3", "dcnv4"):
        options = dict.fromkeys(("kernel_h", "kernel_w"), TAPS)
        options |= dict.fromkeys(("pad_h", "pad_w", "stride_h", "stride_w"), 1)
        options |= dict.fromkeys(("dilation_h", "dilation_w"), 1)
        options |= {"group": groups, "group_channels": c // groups}
        arrays = {"input": draw(n, *size, c)}
        if call.operation == "dcnv3":
            arrays |= {"offset": draw(n, *size, groups * taps * 2, scale=2.0)}
            return arrays | {"mask": draw(n, *size, groups * taps)}, options
        return arrays | {"offset_mask": draw(n, *size, -(groups * taps * 3) // 8 * -8)}, options
    if call.operation == "ms_deform_attn":
        pixels, heads = call.side**2, groups
        locations = draw(n, pixels, heads, 1, 4, 2, scale=0.01)
        locations += locations.dtype.type(0.5)
        arrays = {"value": draw(n, pixels, heads, c // heads), "sampling_locations": locations}
        arrays |= {"attention_weights": draw(n, pixels, heads, 1, 4)}
        return arrays, {"spatial_shapes": [size], "level_start_index": [0]}
    if call.operation in ("roi_align", "deform_roi_pool"):
        side = call.side
        rois = np.array([[0, i, i, side / 2 + i, side / 2 + i] for i in range(16)], np.float32)
        arrays = {"input": draw(n, c, *size)}
        if call.operation == "deform_roi_pool":
            arrays |= {"offset": draw(16, 2, 7, 7), "mask": draw(16, 1, 7, 7)}
        return arrays, {"rois": rois, "output_size": 7, "sampling_ratio": 2}
    position = draw(n, 1, 1, *size, 2, scale=call.side / 4)
    if call.operation == "sample":
        return {"input": draw(n, c, *size), "position": position}, {}
    return {"values": draw(n, c, 1, *size), "position": position}, {"size": size}


def measured(call: Call) -> dict[str, int]:
    """Make one call and return bytes: of its arguments, its results, and beside both at the peak.

    For a process that did nothing else before: a small call loads what is loaded once.
    """
    import pydeform

    pydeform.set_num_threads(call.threads)
    for one in (replace(call, side=32), call):
        arrays, options = arguments(one)
        function = getattr(pydeform, one.operation)
        given = {**arrays, **options}
        if one.way == "backward":
            function = getattr(pydeform, f"{one.operation}_backward")
            given["grad_output"] = drawn(one)(*output_shape(one))
        if one.way == "jvp":
            function = getattr(pydeform, f"{one.operation}_jvp")
            given["tangents"] = like(arrays)
        if one.way == "double_backward":
            function = getattr(pydeform, f"{one.operation}_double_backward")
            given["grad_output"] = drawn(one)(*output_shape(one))
            given["grad_grads"] = like(arrays)
        if one is call and call.limit is not None:
            pydeform.set_workspace_limit(call.limit)
        before = resident()
        forget_peak()
        results = function(**given)
        highest = peak()
        size = total(results)
        if one is not call:
            del results, arrays, given
    return {"arguments": total(given), "results": size, "beside": max(0, highest - before - size)}


def like(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return other arrays of the same shapes, with numbers in them."""
    return {name: array.copy() for name, array in arrays.items()}


def output_shape(call: Call) -> tuple[int, ...]:
    """Return the shape of the output: positions are pixels but for regions of interest."""
    n, c, size = call.batch, call.channels, call.size
    if call.operation in ("roi_align", "deform_roi_pool"):
        return 16, c, 7, 7
    if call.operation == "ms_deform_attn":
        return n, call.side**2, c
    if call.operation == "sample":
        return n, c, 1, *size
    last = call.layout == "channels_last" or call.operation in ("dcnv3", "dcnv4")
    return (n, *size, c) if last else (n, c, *size)


def total(values: Any) -> int:
    """Return the bytes of all arrays in a tuple or a mapping, however deep."""
    if isinstance(values, np.ndarray):
        return values.nbytes
    if isinstance(values, Mapping):
        return total(tuple(values.values()))
    return sum(map(total, values)) if isinstance(values, tuple) else 0


def as_json(call: Call) -> str:
    """Return what the command line takes."""
    return json.dumps(asdict(call))


if __name__ == "__main__":
    print(json.dumps(measured(Call(**json.loads(sys.argv[1])))))
