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
    samples_of_position,
    sizes,
)
from benchmarks.problems import Problem

#: What is computed in, whatever the storage.
WIDE = 4
#: A radix sort of int32 keys with int64 numbers: 4 times both ways, and the histogram.
SORT_BYTES = 4 * 2 * (4 + 8) + 4


def wide(timed: Timed, name: str) -> float:
    """Return the bytes of an argument in the working type."""
    return sizes(timed)[name] * WIDE / ITEMSIZE[timed.dtype]


def fused(timed: Timed, ceilings: Ceilings = H100) -> list[Pass]:
    """Return the passes of the fused forward product in 16 bits: no columns at all.

    A block of 128 positions and 256 outputs fills a multiprocessor; the last wave of blocks is
    rarely full, and every block reads its weights anew.
    """
    found, shape = sizes(timed), timed.shape
    assert isinstance(shape, Case)
    down, across = -(-positions(timed) // 128), -(-shape.out_channels // 256)
    blocks = down * across
    waves = -(-blocks // ceilings.multiprocessors)
    full = blocks / (waves * ceilings.multiprocessors)
    read = sum(size for name, size in found.items() if name not in ("bias", "weight"))
    work = Pass(
        "sample and multiply",
        read + found["weight"],
        product(timed) / full,
        "mma",
        corner_bytes(timed, 2) * across,
        down * found["weight"],
    )
    return [
        Pass("turn input to channels last", 2 * found["input"]),
        Pass("pack weight", 2 * found["weight"]),
        work,
    ]


def columns_forward(timed: Timed) -> list[Pass]:
    """Return the passes of a forward convolution by columns."""
    found, parts = sizes(timed), chunks(timed, 1)
    columns, out = column_bytes(timed, WIDE), wide(timed, "output")
    item = ITEMSIZE[timed.dtype]
    fields = _fields(timed)
    passes = [Pass("turn input to channels last", 2 * found["input"])]
    if item < WIDE:
        narrow = sum(found.get(name, 0.0) for name in ("offset", "mask"))
        passes.append(Pass("widen offset and mask", narrow + fields, launches=2))
    return [
        *passes,
        Pass("pack weight", found["weight"] + wide(timed, "weight")),
        Pass(
            "blend", found["input"] + fields + columns,
            gathered=corner_bytes(timed, item), launches=parts,
        ),
        Pass("product", columns + out + wide(timed, "weight"), product(timed), launches=parts),
        *_grouped(timed, out, parts),
        Pass("turn output, add bias", out + found["output"], launches=parts),
    ]  # fmt: skip


def _fields(timed: Timed) -> float:
    """Return the bytes of offset and mask in the working type."""
    return sum(wide(timed, name) for name in ("offset", "mask") if name in sizes(timed))


def _grouped(timed: Timed, out: float, parts: int) -> list[Pass]:
    """Return what puts the outputs of a group side by side, or takes them apart."""
    groups = timed.shape.groups
    return [Pass("order outputs by groups", 2 * out, launches=parts)] if groups > 1 else []


def columns_backward(timed: Timed, deterministic: bool = True) -> list[Pass]:
    """Return the passes of all gradients of a convolution by columns."""
    found, parts = sizes(timed), chunks(timed, 2)
    item = ITEMSIZE[timed.dtype]
    columns, image = column_bytes(timed, WIDE), wide(timed, "input")
    fields, weight, out = _fields(timed), wide(timed, "weight"), wide(timed, "output")
    samples = positions(timed) * samples_of_position(timed)
    corners = 4 * WIDE  # weights of a sample, kept from the keys for the gather
    gathered = corner_bytes(timed, item)
    if deterministic:
        splat = [
            Pass("keys", fields + (WIDE + corners) * samples, launches=parts),
            Pass("sort and find cells", (SORT_BYTES + 24) * samples, launches=12 * parts),
            Pass(
                "gather", columns + 2 * image * parts + (corners + 16) * samples,
                gathered=4 * columns, launches=parts,
            ),
        ]  # fmt: skip
    else:
        # Each corner adds in the second-level cache: read, add, write.
        splat = [
            Pass("scatter", columns + 2 * image + fields, gathered=2 * 4 * columns, launches=parts)
        ]
    widened, rounded = [], []
    if item < WIDE:
        both = fields * (1 + item / WIDE)
        widened = [Pass("widen offset and mask", both, launches=2)]
        rounded = [Pass("round gradients of offset and mask", both, launches=2)]
    return [
        Pass("turn input and cotangent", 2 * found["input"] + found["output"] + out, launches=2),
        *widened,
        Pass("pack weight", found["weight"] + weight),
        Pass("blend", found["input"] + fields + columns, gathered=gathered, launches=parts),
        # One product of three axes copies what is transposed first.
        Pass("copy transposed columns and weight", 2 * columns + 2 * weight, launches=2 * parts),
        Pass("gradient of weight", columns + out + weight, product(timed), launches=2 * parts),
        Pass("gradient of columns", columns + out + weight, product(timed), launches=parts),
        Pass(
            "dots", columns + found["input"] + 2 * fields,
            gathered=gathered + columns, launches=parts,
        ),
        *splat,
        Pass("turn gradient of input", image + found["input"]),
        *_grouped(timed, out, parts),
        Pass("gradient of bias", out, launches=2),
        Pass("begin with zeros", image + weight, launches=2),
        Pass("turn gradient of weight", weight + found["weight"]),
        *rounded,
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
    if fuses and timed.dtype == "float16" and timed.shape.groups == 1:
        found["fused"] = fused(timed)
    return found


def seconds(passes: list[Pass], ceilings: Ceilings = H100) -> float:
    """Return what all the passes take together on the device."""
    return sum(one.seconds(ceilings) for one in passes)


def host_seconds(passes: list[Pass], ceilings: Ceilings = H100) -> float:
    """Return what starting them takes: the time of a call where this is the longer one."""
    return sum(one.launches for one in passes) * ceilings.host
