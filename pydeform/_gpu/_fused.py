"""Deformable convolution without columns: samples go straight to tensor cores.

Samples are rounded to the type of the operands on the way, which costs one unit roundoff of that
type times the sum of absolute terms; sums are of float32. The kernels are in `deform_conv.cu`.
"""

from __future__ import annotations

import numpy as np

from pydeform._gpu._layout import (
    THREADS,
    Array,
    Layout,
    Maybe,
    blocks,
    field,
    machine,
    named,
    pointer,
)
from pydeform._gpu._loader import launch
from pydeform._gpu._product import tf32
from pydeform._gpu._sampling import Sampling
from pydeform._shapes import ConvGeometry

#: Rows and outputs of a block: of outputs that 128 are enough for, else of whole rounds, and of the
#: last one. As in deform_conv.cu, as are taps that a block plans at a time, of each rank.
_FEW, _WHOLE, _LAST = (128, 128), (128, 256), (64, 256)
_TAPS = {1: 16, 2: 9, 3: 7}
_NARROW = 1 << 29
_CAPABILITY = 80


def applies(sampling: Sampling, image: Array, weight: Array) -> bool:
    """Return whether the fused kernel can take a convolution with one weight for all samples."""
    layout, g = sampling.layout, sampling.geometry
    # Of rank 3 only 16-bit types: with floats there are twice as many slabs of 8 corners.
    if image.itemsize > 2 and not (image.dtype == np.float32 and g.rank < 3 and tf32()):
        return False
    slab = 64 // image.itemsize
    return (
        weight.ndim == g.rank + 2
        and sampling.width % slab == 0
        and g.channels // g.groups % slab == 0
        and sampling.index == "int"
        and max(g.batch * layout.pixels, g.channels, weight.size) < _NARROW
        and g.channels * g.taps * _padded(g)[1] // 4 < _NARROW  # counted in 16 bytes
        and pointer(image) % 16 == 0
        and machine(layout.xp)[0] >= _CAPABILITY
    )


def _padded(g: ConvGeometry) -> tuple[int, int]:
    """Return outputs of a block and, a multiple of that, those of a group with zeros."""
    outputs = g.out_channels // g.groups
    step = (_WHOLE if outputs > _FEW[1] else _FEW)[1]
    return step, -(-outputs // step) * step


def _pack(layout: Layout, weight: Array, padded: int) -> Array:
    g = layout.geometry
    outputs, channels = g.out_channels // g.groups, g.channels // g.groups
    packed = layout.empty(g.channels * g.taps * padded, dtype=weight.dtype)
    args = [pointer(weight), pointer(packed), g.groups, outputs, channels, g.taps, padded]
    grid = blocks(-(-packed.size // THREADS))
    names = (named(weight.dtype),)
    launch("deform_conv", "pack_weights", names, grid, (THREADS,), args, xp=layout.xp)
    return packed


def _split(rows: int, tiles: int, multiprocessors: int) -> list[tuple[int, int, tuple[int, int]]]:
    """Return launches (first row, last row, block): the same bits however split.

    Rounds of blocks that fill all multiprocessors, one to each; then, where fewer than half would
    work, twice as many blocks of half the rows. `tiles` is how many 256 outputs come in, 0 where
    128 are enough.
    """
    if not tiles:
        return [(0, rows, _FEW)]
    lines = -(-rows // _WHOLE[0])
    rest = lines * tiles % multiprocessors
    few = -(-rest // tiles) if 2 * rest <= multiprocessors else 0
    middle = min(rows, (lines - few) * _WHOLE[0])
    return [part for part in ((0, middle, _WHOLE), (middle, rows, _LAST)) if part[0] < part[1]]


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
    step, padded = _padded(g)
    packed = _pack(layout, weight, padded)
    chunks = -(-g.taps // _TAPS[g.rank])
    vector = 16 // out.itemsize
    run = outputs if g.channels_last else layout.positions
    whole = run % vector == 0 and pointer(out) % 16 == 0
    tiles = g.groups * padded // step if step == _WHOLE[1] else 0
    for first, end, block in _split(layout.rows, tiles, machine(layout.xp)[1]):
        grid = (-(-(end - first) // block[0]), padded // step, g.groups)
        args = [
            *(*sampling.args, *field(mask), pointer(image), pointer(packed)),
            *(pointer(bias), pointer(out), first, end, g.groups, outputs, 4 * padded),
            *(channels, sampling.width, -(-g.taps // chunks)),
            *(int(g.channels_last), int(whole)),
        ]
        names = (named(image.dtype), str(g.rank), *map(str, block))
        threads, shared = block[0] * block[1] // 64, _shared(g.rank, *block)
        launch("deform_conv", "fused", names, grid, (threads,), args, shared, layout.xp)


def _shared(rank: int, rows: int, outputs: int) -> int:
    """Bytes of `Fused::Shared`: two stages of samples, three of weights, and plans."""
    stages = (2 * rows + 3 * outputs) * 64
    return stages + rows * _TAPS[rank] * (4 * (1 << rank) + 8)
