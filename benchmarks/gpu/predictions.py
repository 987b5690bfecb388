"""The passes that our implementation makes over its data, and what they should take.

The lists follow `pydeform/_gpu/*.py` line by line: who takes a pass away there takes it away here.
They count bytes, products, launches and, where samples have few channels, instructions; what a lack
of parallelism adds is not in them, so a measured time may be longer.
"""

from __future__ import annotations

from math import prod

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
#: Of a sample: number of its cell, place in it, and four weights.
KEY_BYTES = 4 + 4 + 4 * WIDE
#: A number somewhere in memory is read or written with its sector.
SECTOR = 32

# Instructions of a thread in the loops that NVRTC 13.0 makes for sm_90a of instances with 16-byte
# loads and `int`, on the way that a plain call takes, by the bytes of a number. Counted by hand.
#: Of `weigh`: a sample's plan, and 16 bytes of its channels.
PLANNED = {2: 178, 4: 171}
WEIGHED = {2: 87, 4: 39}
#: Of `dots`: a sample, before and after its channels, and 16 bytes of those.
DOTTED = {2: (680, 267), 4: (680, 227)}
#: Of `gather`: four channels of a pixel, and of a sample in one of its cells.
GATHERED = (300, 46)
LANES = 32


def wide(timed: Timed, name: str) -> float:
    """Return the bytes of an argument in the working type."""
    return sizes(timed)[name] * WIDE / ITEMSIZE[timed.dtype]


def _narrow(timed: Timed) -> bool:
    """Return whether storage is narrower than what is computed in."""
    return ITEMSIZE[timed.dtype] < WIDE


def _fields(timed: Timed) -> float:
    """Return the bytes of what every sample has numbers of its own of."""
    found = sizes(timed)
    names = ("offset", "mask", "offset_mask", "sampling_locations", "attention_weights")
    return sum(found[name] for name in names if name in found)


def _counted(samples: float, cells: float, fields: float, parts: int) -> list[Pass]:
    """Return what brings samples in the order of their cells."""
    return [
        Pass("begin counts with zeros", WIDE * cells, launches=parts),
        Pass("keys", fields + KEY_BYTES * samples, cached=2 * SECTOR * samples, launches=parts),
        Pass("add counts up", 2 * WIDE * cells, launches=2 * parts),
        Pass("place", 3 * WIDE * samples, cached=2 * SECTOR * samples, launches=parts),
        Pass("settle", 2 * WIDE * samples + WIDE * cells, launches=parts),
    ]


def slab_bytes(rows: int, outputs: int) -> float:
    """Return what a block of `rows` and `outputs` moves for 64 bytes of channels.

    Of one tap, between a multiprocessor and its first-level cache and shared memory, one path of
    128 bytes a clock.
    """
    # Each warp reads 64 rows and 32 outputs.
    fragments = rows // 64 * outputs // 32 * (64 + 32) * 64
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
        Pass("pack weight", found["weight"] + packed),
    ]
    tiles = shape.groups * padded // step if step == 256 else 0
    for first, end, block in _fused._split(rows, tiles, ceilings.multiprocessors):
        blocks = -(-(end - first) // block[0]) * padded // block[1] * shape.groups
        busy = -(-blocks // ceilings.multiprocessors) * ceilings.multiprocessors
        passes.append(
            Pass(
                f"fused, blocks of {block[0]} rows",
                moved * (end - first) / rows + packed,
                busy * 2.0 * block[0] * block[1] * depth,
                "mma",
                busy * slab_bytes(*block) * depth * item / 64,
                float(blocks * block[1] * depth * item),
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
    gathered = corner_bytes(timed, item)
    if deterministic:
        splat = [
            *_counted(samples, _cells(timed), fields, parts),
            Pass(
                "gather", wide_columns + 2 * image * parts + KEY_BYTES * samples,
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
    ]  # fmt: skip


def _cells(timed: Timed) -> float:
    """Return how many cells samples are counted in: a row of them more than pixels on each side."""
    shape = timed.shape
    if isinstance(shape, Case):
        return float(shape.batch * shape.offset_groups * prod(size + 2 for size in shape.size))
    per_image = sum((height + 2) * (width + 2) for height, width in shape.levels)
    return float(shape.batch * shape.groups * per_image)


def _loads(timed: Timed) -> float:
    """Return the 16 bytes of channels that a call has, of all samples."""
    vectors = _problem(timed).depth * ITEMSIZE[timed.dtype] / 16
    return positions(timed) * samples_of_position(timed) * vectors


def sampled_forward(timed: Timed) -> list[Pass]:
    """Return the one pass of DCNv3, DCNv4 or attention, all of their images and levels."""
    item = ITEMSIZE[timed.dtype]
    samples = positions(timed) * samples_of_position(timed)
    issued = samples * PLANNED[item] + _loads(timed) * WEIGHED[item]
    moved, gathered = sum(sizes(timed).values()), corner_bytes(timed, item)
    return [Pass("weigh", moved, gathered=gathered, issued=issued / LANES)]


def sampled_backward(timed: Timed) -> list[Pass]:
    """Return the passes of their gradients."""
    shape, found, item = _problem(timed), sizes(timed), ITEMSIZE[timed.dtype]
    samples = positions(timed) * samples_of_position(timed)
    image, out = found["value" if shape.attends else "input"], found["output"]
    fields, gathered = _fields(timed), corner_bytes(timed, item)
    padding = [Pass("fill what is never read")] if shape.operation == "dcnv4" else []
    return [
        Pass(
            "dots", image + out + 2 * fields, gathered=1.25 * gathered,
            issued=(samples * DOTTED[item][0] + _loads(timed) * DOTTED[item][1]) / LANES,
        ),
        *_counted(samples, _cells(timed), fields, 1),
        Pass(
            "gather", out + image + KEY_BYTES * samples, gathered=gathered,
            issued=_gathered(timed) / LANES,
        ),
        *padding,
    ]  # fmt: skip


def _gathered(timed: Timed) -> float:
    """Return instructions of threads: for a pixel's channels, and for a sample at each corner.

    Its threads take 4 channels each, whatever the type.
    """
    shape, (pixel, sample) = _problem(timed), GATHERED
    pixels = shape.batch * shape.pixels * shape.groups
    samples = 4.0 * positions(timed) * samples_of_position(timed)
    return (pixels * pixel + samples * sample) * shape.depth / 4


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
