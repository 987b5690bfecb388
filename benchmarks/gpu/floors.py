"""How fast a call can be, and how fast our kernels should be: computed, not measured.

A *floor* is what no implementation passes: every argument read once, every result written once,
and every multiplication of the product done, each at a ceiling of the device. A *prediction* adds
up the passes that our implementation makes, each at the same ceilings, and its launches.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from benchmarks.cases import Case
from benchmarks.gpu.cases import ITEMSIZE, Timed
from benchmarks.problems import Problem

#: Bytes of columns that are in memory at a time, as `pydeform._gpu._workspace` begins with.
WORKSPACE = 256 << 20


@dataclass(frozen=True)
class Ceilings:
    """What a device does at most.

    Attributes
    ----------
    name
        Of the device, and where the numbers are from.
    copy
        Bytes a second that are read or written.
    half, tf32, single
        Operations a second of a matrix product in float16, in TF32, and in float32 without it.
    mma
        The same in float16 by `mma.sync`, which our kernel uses; cuBLAS has `wgmma` on an H100,
        and only that reaches the peak.
    gather
        Bytes a second between all multiprocessors together and their first-level caches and shared
        memories, which are one path.
    cache
        Bytes a second from the second-level cache.
    issue
        Instructions of a warp a second, of all multiprocessors together.
    multiprocessors
        How many blocks run at a time where each fills one.
    launch
        Seconds from the end of one kernel to the start of the next in one stream.
    host
        Seconds that Python and CuPy take to start one kernel.
    """

    name: str
    copy: float
    half: float
    tf32: float
    single: float
    mma: float = 600e12
    gather: float = 28e12
    cache: float = 5.5e12
    issue: float = 0.9e12
    multiprocessors: int = 132
    launch: float = 3e-6
    host: float = 12e-6


#: The constants behind the floors in the documentation: what is usually reached of 3.35 TB/s, 989,
#: 495 and 67 Tflop/s; 132 multiprocessors that load 128 bytes and start 4 instructions a clock, at
#: 1.7 GHz.
H100 = Ceilings("H100 SXM, assumed", copy=3.0e12, half=800e12, tf32=400e12, single=55e12)


@dataclass(frozen=True)
class Pass:
    """One kernel or product over the data.

    Attributes
    ----------
    name
        What it is.
    moved
        Bytes read and written in memory.
    flops, rate
        Operations of a product, and which ceiling they have.
    gathered
        Bytes that samples read at corners, most of them from the first-level caches; of the fused
        kernel everything on that path.
    cached
        Bytes that blocks read again from the second-level cache.
    issued
        Instructions of a warp, as the compiled loops have them; where they are few, not counted.
    launches
        Kernels.
    """

    name: str
    moved: float = 0.0
    flops: float = 0.0
    rate: str = "single"
    gathered: float = 0.0
    cached: float = 0.0
    issued: float = 0.0
    launches: int = 1

    def seconds(self, ceilings: Ceilings) -> float:
        """Return how long it takes: its launches, and the slowest of its parts: they overlap."""
        parts = (
            self.moved / ceilings.copy,
            self.flops / getattr(ceilings, self.rate),
            self.gathered / ceilings.gather,
            self.cached / ceilings.cache,
            self.issued / ceilings.issue,
        )
        return max(parts) + self.launches * ceilings.launch


def sizes(timed: Timed) -> dict[str, float]:
    """Return the bytes of every argument with a gradient, and of "output"."""
    item, shape = ITEMSIZE[timed.dtype], timed.shape
    if isinstance(shape, Case):
        found = {k: v for k, v in shape.shapes.items() if k != "grad_output"}
        found["output"] = shape.shapes["grad_output"]
        return {name: float(item * prod(extents)) for name, extents in found.items()}
    rows, channels = positions(timed), shape.groups * shape.depth
    samples = rows * samples_of_position(timed)
    counts = {"output": rows * channels}
    if shape.attends:
        counts |= {
            "value": shape.batch * shape.pixels * channels,
            "sampling_locations": 2 * samples,
            "attention_weights": samples,
        }
    else:
        counts["input"] = shape.batch * shape.pixels * channels
        if shape.operation == "dcnv3":
            counts |= {"offset": 2 * samples, "mask": samples}
        else:  # numbers of a pixel are padded to a multiple of 8
            counts["offset_mask"] = rows * -(-3 * samples // rows // 8) * 8
    return {name: float(item * count) for name, count in counts.items()}


def positions(timed: Timed) -> int:
    """Return the number of output positions of all images."""
    shape = timed.shape
    if isinstance(shape, Case):
        return shape.batch * prod(shape.out_size)
    return shape.batch * (shape.queries if shape.attends else shape.pixels)


def samples_of_position(timed: Timed) -> int:
    """Return how many points every output position reads."""
    shape = timed.shape
    if isinstance(shape, Case):
        return shape.offset_groups * shape.taps
    taps = len(shape.levels) * shape.points if shape.attends else shape.points**2
    return shape.groups * taps


def product(timed: Timed) -> float:
    """Return the operations of one product with the weight; 0 where there is none."""
    shape = timed.shape
    if isinstance(shape, Problem):
        return 0.0
    depth = shape.taps * shape.channels // shape.groups
    return 2.0 * positions(timed) * depth * shape.out_channels


def rate(timed: Timed, tf32: bool = False) -> str:
    """Return which ceiling the product has."""
    return "half" if timed.dtype == "float16" else "tf32" if tf32 else "single"


def floor(timed: Timed, ceilings: Ceilings = H100, tf32: bool = False) -> float:
    """Return the seconds that no implementation passes.

    Backward reads the arguments and the cotangent and writes a gradient of each argument; it has
    two products.
    """
    found, products = sizes(timed), product(timed)
    moved = sum(found.values())
    if timed.direction == "backward":
        moved += sum(size for name, size in found.items() if name != "output")
        products *= 2
    return Pass("floor", moved, products, rate(timed, tf32), launches=0).seconds(ceilings)


def column_floor(timed: Timed, ceilings: Ceilings = H100) -> float:
    """Return the same for a forward call that writes a matrix of columns in the storage dtype."""
    found = sizes(timed)
    columns = column_bytes(timed, ITEMSIZE[timed.dtype])
    read = sum(found.get(name, 0.0) for name in ("input", "offset", "mask"))
    multiplied = columns + found["output"] + found["weight"]
    passes = [
        Pass("sample", read + columns, launches=0),
        Pass("product", multiplied, product(timed), rate(timed), launches=0),
    ]
    return sum(one.seconds(ceilings) for one in passes)


def column_bytes(timed: Timed, item: int) -> float:
    """Return the bytes of all columns of a convolution in numbers of `item` bytes."""
    shape = timed.shape
    if not isinstance(shape, Case):
        raise TypeError(f"shape: expected a convolution, got {shape.name}")
    return float(item * positions(timed) * shape.taps * shape.channels)


def corner_bytes(timed: Timed, item: int) -> float:
    """Return the bytes that samples read at their corners."""
    shape = timed.shape
    if isinstance(shape, Case):
        return column_bytes(timed, item) * 2**shape.rank
    return 4.0 * item * positions(timed) * samples_of_position(timed) * shape.depth


def chunks(timed: Timed, buffers: int) -> int:
    """Return in how many parts the rows of a convolution are taken."""
    each = column_bytes(timed, 4) / positions(timed) * buffers
    fitting = int(WORKSPACE // each)
    per_image = positions(timed) // timed.shape.batch
    images = max(1, fitting // per_image)
    if fitting >= per_image:
        return int(-(-timed.shape.batch // images))
    return int(timed.shape.batch * -(-per_image // fitting))
