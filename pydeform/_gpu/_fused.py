"""Deformable convolution without columns: samples go straight to tensor cores.

Samples are rounded to the type of the operands on the way, which costs one unit roundoff of that
type times the sum of absolute terms; sums are of float32. The kernels are in `deform_conv.cu`.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from pydeform._gpu._layout import NAMES, THREADS, Array, Layout, Maybe, blocks, field, pointer
from pydeform._gpu._loader import launch
from pydeform._gpu._product import tf32
from pydeform._gpu._sampling import Sampling

_ROWS = 128
_OUTPUTS = 64
#: As in deform_conv.cu: of each rank, taps that a block plans at a time.
_TAPS = {1: 16, 2: 9, 3: 5}
_NARROW = 1 << 29
_CAPABILITY = 80


@cache
def _device(number: int) -> tuple[int, int]:
    """Return compute capability (0 where there are no such tensor cores) and multiprocessors."""
    import cupy

    if cupy.cuda.runtime.is_hip:
        return 0, 0
    device = cupy.cuda.Device(number)
    return int(device.compute_capability), int(device.attributes["MultiProcessorCount"])


def _machine(layout: Layout) -> tuple[int, int]:
    if layout.xp is np:
        return _CAPABILITY, 2  # executed on this CPU: few, so that tests meet both tiles
    return _device(layout.xp.cuda.runtime.getDevice())


def applies(sampling: Sampling, image: Array, weight: Array) -> bool:
    """Return whether the fused kernel can take a convolution with one weight for all samples."""
    layout, g = sampling.layout, sampling.geometry
    # Of rank 3 only 16-bit types: with floats the registers do not hold what a thread needs.
    if image.itemsize > 2 and not (image.dtype == np.float32 and g.rank < 3 and tf32()):
        return False
    slab = 64 // image.itemsize
    return (
        weight.ndim == g.rank + 2
        and sampling.width % slab == 0
        and g.channels // g.groups % slab == 0
        and sampling.index == "int"
        and max(g.batch * layout.pixels, g.channels, weight.size) < _NARROW
        and pointer(image) % 16 == 0
        and _machine(layout)[0] >= _CAPABILITY
    )


def _pack(layout: Layout, weight: Array, padded: int) -> Array:
    g = layout.geometry
    outputs, channels = g.out_channels // g.groups, g.channels // g.groups
    packed = layout.empty(g.channels * g.taps * padded, dtype=weight.dtype)
    args = [pointer(weight), pointer(packed), g.groups, outputs, channels, g.taps, padded]
    grid = blocks(-(-packed.size // THREADS))
    names = (NAMES[weight.dtype.name],)
    launch("deform_conv", "pack_weights", names, grid, (THREADS,), args, xp=layout.xp)
    return packed


def _split(rows: int, tiles: int, multiprocessors: int) -> list[tuple[int, int, int]]:
    """Return launches (first row, last row, 64s of outputs a block): the same bits however split.

    Blocks of 256 outputs sample once for all of them, one to a multiprocessor. Rounds of them that
    fill all; then, where fewer than half would work, twice as many blocks of 128 outputs. `tiles`
    is how many 256 outputs come in, 0 where 128 are enough.
    """
    if not tiles:
        return [(0, rows, 2)]
    lines = -(-rows // _ROWS)
    rest = lines * tiles % multiprocessors
    few = -(-rest // tiles) if 2 * rest <= multiprocessors else 0
    middle = min(rows, (lines - few) * _ROWS)
    return [part for part in ((0, middle, 4), (middle, rows, 2)) if part[0] < part[1]]


def convolve(
    sampling: Sampling, image: Array, weight: Array, bias: Maybe, mask: Maybe, out: Array
) -> None:
    """Write b + sum_{c,tap} w m s in the output's own layout; all arrays of the storage type.

    Parameters
    ----------
    sampling
        Where samples lie.
    image
        x [N, pixels, C].
    weight
        w [Co, C / g, *k], contiguous.
    bias
        b [Co] or None.
    mask
        m [N, P, Go, K] of any strides and type, or None.
    out
        [N, Co, *O] or, channels last, [N, *O, Co]; contiguous.
    """
    layout, g = sampling.layout, sampling.geometry
    outputs, channels = g.out_channels // g.groups, g.channels // g.groups
    wide = outputs > 2 * _OUTPUTS or g.rank == 3
    step = _OUTPUTS * (4 if wide else 2)
    padded = -(-outputs // step) * step
    packed = _pack(layout, weight, padded)
    chunks = -(-g.taps // _TAPS[g.rank])
    vector = 16 // out.itemsize
    run = outputs if g.channels_last else layout.positions
    whole = run % vector == 0 and pointer(out) % 16 == 0
    # Offset groups that a group of the product has channels of, at most.
    even = channels % sampling.width == 0 or sampling.width % channels == 0
    spans = max(1, channels // sampling.width) if even else -(-channels // sampling.width) + 1
    tiles = g.groups * padded // step if wide else 0
    multiprocessors = 1 if g.rank == 3 else _machine(layout)[1]
    for first, end, across in _split(layout.rows, tiles, multiprocessors):
        grid = (-(-(end - first) // _ROWS), -(-outputs // (across * _OUTPUTS)), g.groups)
        args = [
            *(*sampling.args, *field(mask), pointer(image), pointer(packed)),
            *(pointer(bias), pointer(out), first, end, g.groups, outputs, padded),
            *(channels, sampling.width, spans, -(-g.taps // chunks), chunks),
            *(int(g.channels_last), int(whole)),
        ]
        names = (NAMES[image.dtype.name], str(g.rank), str(across))
        shared = _shared(g.rank, across)
        threads = across * _OUTPUTS
        launch("deform_conv", "fused", names, grid, (threads,), args, shared, layout.xp)


def _shared(rank: int, across: int) -> int:
    """Bytes of `Fused::Shared`: two stages of both operands, and plans."""
    stages = 2 * (_ROWS + across * _OUTPUTS) * 64
    return stages + _ROWS * _TAPS[rank] * (8 * (1 << rank) + 4)
