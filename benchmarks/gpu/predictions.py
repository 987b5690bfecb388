"""The passes that our implementation makes over its data, and what they should take.

The lists follow `pydeform/_gpu/*.py` and `pydeform/ops/_parts.py` line by line: who takes a pass
away there takes it away here. They count bytes, products and launches; what integer divisions and a
lack of parallelism add is not in them, so a measured time may be longer.
"""

from __future__ import annotations

from benchmarks.cases import Case
from benchmarks.gpu.cases import ITEMSIZE, Timed
from benchmarks.gpu.floors import (
    H100,
    Ceilings,
    Pass,
    chunks,
    column_bytes,
    corner_bytes,
    positions,
    product,
    rate,
    samples_of_position,
    sizes,
)
from benchmarks.problems import Problem
from pydeform._gpu import _fused

#: What is computed in, whatever the storage.
WIDE = 4
#: A radix sort of int32 keys with int64 numbers: 4 times both ways, and the histogram.
SORT_BYTES = 4 * 2 * (4 + 8) + 4


def wide(timed: Timed, name: str) -> float:
    """Return the bytes of an argument in the working type."""
    return sizes(timed)[name] * WIDE / ITEMSIZE[timed.dtype]


def _narrow(timed: Timed) -> bool:
    """Return whether storage is narrower than what is computed in."""
    return ITEMSIZE[timed.dtype] < WIDE


def _fields(timed: Timed) -> float:
    """Return the bytes of offset and mask in the working type."""
    return sum(wide(timed, name) for name in ("offset", "mask") if name in sizes(timed))


def _widened(timed: Timed, name: str = "widen offset and mask") -> list[Pass]:
    """Return what takes offset and mask to the working type, or their gradients back."""
    both = _fields(timed) * (1 + ITEMSIZE[timed.dtype] / WIDE)
    count = sum(name in sizes(timed) for name in ("offset", "mask"))
    return [Pass(name, both, launches=count)] if _narrow(timed) else []


def slab_bytes(across: int) -> float:
    """Return what a block of 128 rows and 64 * `across` outputs moves for 64 bytes of channels.

    Of one tap, between a multiprocessor and its first-level cache and shared memory, one path of
    128 bytes a clock.
    """
    rows, outputs = 128, 64 * across
    fragments = 2 * across * (64 + 64) * 64  # each warp reads 64 rows and 64 outputs
    corners, samples, weights = 4 * rows * 64, rows * 64, outputs * 64
    return fragments + corners + samples + weights + rows * 48  # and plans


def fused(timed: Timed, ceilings: Ceilings = H100) -> list[Pass]:
    """Return the passes of the fused forward product in 16 bits: no columns at all.

    Blocks go in rounds, one of them to a multiprocessor; each reads its weights anew.
    """
    found, shape = sizes(timed), timed.shape
    assert isinstance(shape, Case)
    rows, outputs = positions(timed), shape.out_channels // shape.groups
    step = 256 if outputs > 128 else 128
    padded = -(-outputs // step) * step
    packed = found["weight"] * padded / outputs
    depth = shape.channels // shape.groups * shape.taps
    item = ITEMSIZE[timed.dtype]
    moved = found["input"] + _fields(timed) + found["output"]
    passes = [
        Pass("turn input to channels last", 2 * found["input"]),
        *_widened(timed),
        Pass("pack weight", found["weight"] + packed),
    ]
    tiles = shape.groups * padded // step if step == 256 else 0
    for first, end, across in _fused._split(rows, tiles, ceilings.multiprocessors):
        across_outputs = 64 * across
        blocks = -(-(end - first) // 128) * -(-outputs // across_outputs) * shape.groups
        busy = -(-blocks // ceilings.multiprocessors) * ceilings.multiprocessors
        passes.append(
            Pass(
                f"fused, {across_outputs} outputs a block",
                moved * (end - first) / rows + packed,
                busy * 2.0 * 128 * across_outputs * depth,
                "mma",
                busy * slab_bytes(across) * depth * item / 64,
                float(blocks * across_outputs * depth * item),
            )
        )
    return passes


def columns_forward(timed: Timed) -> list[Pass]:
    """Return the passes of a forward convolution by columns."""
    found, parts = sizes(timed), chunks(timed, 1)
    item = ITEMSIZE[timed.dtype]
    columns, out = column_bytes(timed, item), wide(timed, "output")
    bias = [Pass("widen bias", 3 * found["bias"], launches=parts)] if _narrow(timed) else []
    return [
        Pass("turn input to channels last", 2 * found["input"]),
        *_widened(timed),
        Pass("order weight", 2 * found["weight"]),
        Pass(
            "blend", found["input"] + _fields(timed) + columns,
            gathered=corner_bytes(timed, item), launches=parts,
        ),
        Pass(
            "product", columns + out + found["weight"], product(timed), rate(timed),
            launches=parts,
        ),
        *bias,
        Pass("turn output, add bias", out + found["output"], launches=parts),
    ]  # fmt: skip


def columns_backward(timed: Timed, deterministic: bool = True) -> list[Pass]:
    """Return the passes of all gradients of a convolution by columns."""
    found, parts = sizes(timed), chunks(timed, 2)
    item = ITEMSIZE[timed.dtype]
    columns, wide_columns = column_bytes(timed, item), column_bytes(timed, WIDE)
    image, fields, weight = wide(timed, "input"), _fields(timed), wide(timed, "weight")
    samples = positions(timed) * samples_of_position(timed)
    corners = 4 * WIDE  # weights of a sample, kept from the keys for the gather
    gathered = corner_bytes(timed, item)
    if deterministic:
        splat = [
            Pass("keys", fields + (WIDE + corners) * samples, launches=parts),
            Pass("sort and find cells", (SORT_BYTES + 24) * samples, launches=12 * parts),
            Pass(
                "gather", wide_columns + 2 * image * parts + (corners + 16) * samples,
                gathered=4 * wide_columns, launches=parts,
            ),
        ]  # fmt: skip
    else:
        # Each corner adds in the second-level cache: read, add, write.
        splat = [
            Pass(
                "scatter", wide_columns + 2 * image + fields,
                gathered=2 * 4 * wide_columns, launches=parts,
            )
        ]  # fmt: skip
    return [
        Pass("turn input and cotangent", 2 * found["input"] + 2 * found["output"], launches=2),
        *_widened(timed),
        Pass("begin with zeros", image + weight, launches=2),
        Pass("blend", found["input"] + fields + columns, gathered=gathered, launches=parts),
        Pass(
            "gradient of weight", columns + found["output"] + 2 * weight * parts,
            product(timed), rate(timed), launches=parts,
        ),
        Pass("order weight", 2 * found["weight"]),
        Pass(
            "gradient of columns", wide_columns + found["output"] + found["weight"],
            product(timed), rate(timed), launches=parts,
        ),
        Pass(
            "dots", wide_columns + found["input"] + 2 * fields,
            gathered=gathered + wide_columns, launches=parts,
        ),
        *splat,
        # Ones, zeros, a product, and to where it belongs.
        Pass("gradient of bias", found["output"], launches=4),
        Pass("turn gradient of input", image + found["input"]),
        Pass("order gradient of weight", weight + found["weight"]),
        *_widened(timed, "round gradients of offset and mask"),
    ]  # fmt: skip


def sampled_forward(timed: Timed) -> list[Pass]:
    """Return the passes of DCNv3, DCNv4 or attention, as sums of local convolutions."""
    found, shape = sizes(timed), _problem(timed)
    item = ITEMSIZE[timed.dtype]
    image = "value" if shape.attends else "input"
    others = [name for name in found if name not in (image, "output")]
    parts = shape.batch * len(shape.levels) if shape.attends else 1
    fields = 3.0 * WIDE * positions(timed) * samples_of_position(timed)
    source, out = wide(timed, image), wide(timed, "output")
    passes = []
    if item < WIDE:
        narrow = found[image] + sum(found[name] for name in others)
        widened = source + sum(wide(timed, name) for name in others)
        passes.append(Pass("widen every argument", narrow + widened, launches=3))
    passes += [
        _relay("relay positions and factors", shape, fields, parts),
        Pass(
            "weigh", source + fields + out * len(shape.levels if shape.attends else (0,)),
            gathered=corner_bytes(timed, WIDE), launches=parts,
        ),
    ]  # fmt: skip
    if shape.attends and len(shape.levels) > 1:
        added = len(shape.levels) - 1
        passes.append(Pass("add levels", 3 * out * added, launches=shape.batch * added))
    if item < WIDE:
        # `astype` to a temporary, then a copy to where the result belongs.
        passes.append(Pass("round output", out + 3 * found["output"], launches=2))
    return passes


def sampled_backward(timed: Timed) -> list[Pass]:
    """Return the passes of their gradients; DCNv3 and DCNv4 are one local convolution."""
    shape = _problem(timed)
    item, found = ITEMSIZE[timed.dtype], sizes(timed)
    image = "value" if shape.attends else "input"
    parts = shape.batch * len(shape.levels) if shape.attends else 1
    samples = positions(timed) * samples_of_position(timed)
    fields, source, out = 3.0 * WIDE * samples, wide(timed, image), wide(timed, "output")
    levels = len(shape.levels) if shape.attends else 1
    gathered = corner_bytes(timed, WIDE)
    passes = []
    if item < WIDE:
        narrow = sum(found.values())
        passes.append(Pass("widen every argument", narrow * (1 + WIDE / item), launches=4))
    passes += [
        _relay("relay positions and factors", shape, fields, parts),
        Pass(
            "dots", source + out * levels + 2 * fields,
            gathered=gathered * 1.25, launches=parts,
        ),
        Pass("keys", fields + (WIDE + 4 * WIDE) * samples, launches=parts),
        Pass("sort and find cells", (SORT_BYTES + 24) * samples, launches=12 * parts),
        Pass("begin with zeros", source, launches=parts),
        Pass(
            "gather", out * levels + 2 * source + (4 * WIDE + 16) * samples,
            gathered=gathered, launches=parts,
        ),
        Pass("store gradient of image", 2 * source, launches=parts),
        _relay("relay gradients back", shape, fields, parts),
    ]  # fmt: skip
    if item < WIDE:
        gradients = sum(size for name, size in found.items() if name != "output")
        passes.append(Pass("round gradients", gradients * (3 + WIDE / item), launches=6))
    return passes


def _relay(name: str, shape: Problem, fields: float, parts: int) -> Pass:
    """Return what turns positions around, two of three numbers; DCNv3's factors lie as they are."""
    if shape.operation == "dcnv3":
        return Pass(name, 2 * fields * 2 / 3, launches=parts)
    return Pass(name, 2 * fields, launches=2 * parts)


def _problem(timed: Timed) -> Problem:
    if not isinstance(timed.shape, Problem):
        raise TypeError(f"shape: expected one that samples, got {timed.shape.name}")
    return timed.shape


def fusible(timed: Timed) -> bool:
    """Return whether the fused kernel takes it: as `pydeform._gpu._fused.applies` without TF32."""
    shape = timed.shape
    return (
        isinstance(shape, Case)
        and _narrow(timed)
        and shape.channels // shape.offset_groups % 32 == 0
        and shape.channels // shape.groups % 32 == 0
    )


def predictions(timed: Timed, fuses: bool = True) -> dict[str, list[Pass]]:
    """Return the passes of every way that we have to compute this, by name."""
    if not timed.convolves:
        make = sampled_forward if timed.direction == "forward" else sampled_backward
        return {"local": make(timed)}
    if timed.direction == "backward":
        return {
            "columns": columns_backward(timed),
            "columns, atomics": columns_backward(timed, deterministic=False),
        }
    found = {"columns": columns_forward(timed)}
    if fuses and fusible(timed):
        found["fused"] = fused(timed)
    return found


def seconds(passes: list[Pass], ceilings: Ceilings = H100) -> float:
    """Return what all the passes take together on the device."""
    return sum(one.seconds(ceilings) for one in passes)


def host_seconds(passes: list[Pass], ceilings: Ceilings = H100) -> float:
    """Return what starting them takes: the time of a call where this is the longer one."""
    return sum(one.launches for one in passes) * ceilings.host
