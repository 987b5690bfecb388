"""From the caller's layout to what the kernels read: channels last, fields with strides."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np

from pydeform._gpu._loader import launch
from pydeform._shapes import ConvGeometry

Array = Any  # numpy.ndarray where kernels are executed on the CPU, cupy.ndarray on a GPU
Maybe = Array | None

NAMES = {"float32": "float", "float64": "double", "float16": "half_t", "bfloat16": "bf16_t"}
THREADS = 256
#: Blocks of one launch: more than fill any GPU; kernels stride over what is left.
BLOCKS = 1 << 16
_BLOCKS_EACH = 16  # of a multiprocessor


def namespace(array: Array) -> Any:
    """Return the module that the array belongs to: numpy, or cupy without importing it here."""
    if isinstance(array, np.ndarray):
        return np
    import cupy

    return cupy


def working(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return what is computed in: float32 for 16-bit storage, else the dtype itself."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def pointer(array: Maybe) -> int:
    """Return the address of an array's first element, of any strides; 0 for None."""
    if array is None:
        return 0
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def strides(array: Array) -> tuple[int, ...]:
    """Strides in elements."""
    itemsize = array.itemsize
    return tuple([step // itemsize for step in array.strides])


@cache  # NumPy puts a name together each time
def kind(dtype: np.dtype[Any]) -> int:
    """Return the number of a type where kernels take any: as in _stencil.cuh."""
    return {"float16": 1, "bfloat16": 2}.get(dtype.name, 0)


@cache
def named(dtype: np.dtype[Any]) -> str:
    """Return what kernels call a type."""
    return NAMES[dtype.name]


def field(array: Maybe) -> list[int]:
    """Members of a `Field`: [N, P, Go, K] of any strides, or None for 1 everywhere."""
    if array is None:
        return [0] * 6
    return [pointer(array), *strides(array), kind(array.dtype)]


def divisor(by: int) -> list[int]:
    """Members of a `Divisor`; the quotient of nothing is never taken."""
    shift = 31 + (max(by, 1) - 1).bit_length()
    return [by, -(-(1 << shift) // max(by, 1)), shift]


def blocks(count: int) -> tuple[int]:
    """Return a grid for `count` units of work that a block takes one after the other."""
    return (min(max(count, 0), BLOCKS),)


@cache
def _device(number: int) -> tuple[int, int]:
    import cupy

    device = cupy.cuda.Device(number)
    capability = 0 if cupy.cuda.runtime.is_hip else int(device.compute_capability)
    return capability, int(device.attributes["MultiProcessorCount"])


def machine(xp: Any) -> tuple[int, int]:
    """Return what runs kernels: NVIDIA's compute capability (0 elsewhere), and multiprocessors."""
    if xp is np:
        return 80, 2  # executed on this CPU: few, so that tests meet every block, and often
    return _device(xp.cuda.runtime.getDevice())


def lasting(count: int, xp: Any) -> int:
    """Return a number of blocks that take `count` units one after the other.

    For kernels that prepare much before their first unit: enough blocks to keep a device busy to
    the end, and no more. Executed on this CPU they are few, so that blocks have several units.
    """
    each = 2 if xp is np else _BLOCKS_EACH
    return min(count, each * machine(xp)[1])


def copy(source: Array, out: Array, turned: bool, bias: Maybe = None) -> None:
    """Write source [n, i, j] + bias [j] to out: [n, i, j], or [n, j, i] where it is turned.

    The last axis of both is contiguous; types may differ.
    """
    count, rows, columns = source.shape
    tiles = count * -(-rows // 32) * -(-columns // 32) if turned else -(-source.size // THREADS)
    steps = (*strides(source)[:2], *strides(out)[:2])
    flat = bias is None and source.flags.c_contiguous and out.flags.c_contiguous
    args = [pointer(source), pointer(bias), pointer(out), count, rows, columns, *steps, tiles]
    args.append(int(flat))
    names = (named(source.dtype), named(out.dtype))
    kernel = "turn" if turned else "cast"
    launch("turn", kernel, names, blocks(tiles), (THREADS,), args, xp=namespace(source))


class Layout:
    """Arrays of one convolution as the kernels take them."""

    def __init__(self, geometry: ConvGeometry, like: Array) -> None:
        self.geometry = geometry
        self.xp, self.like = namespace(like), like
        self.storage = like.dtype
        self.dtype = working(like.dtype)
        self.pixels = prod(geometry.size)
        self.positions = prod(geometry.out_size)
        self.rows = geometry.batch * self.positions

    def empty(self, *shape: int, dtype: Any = None) -> Array:
        """Return new memory, of the working type."""
        return self.xp.empty(shape, self.dtype if dtype is None else dtype)

    def zeros(self, *shape: int) -> Array:
        """Return zeros of the working type."""
        return self.xp.zeros(shape, self.dtype)

    def wide(self, array: Array) -> Array:
        """Return an array in the working type: itself where it has it."""
        return array.astype(self.dtype, copy=False)

    def _last(self, array: Array, channels: int, dtype: Any) -> Array:
        """[N, spatial, channels], contiguous: the array itself where it lies so."""
        g = self.geometry
        spatial = array.shape[1:-1] if g.channels_last else array.shape[2:]
        shape = (g.batch, prod(spatial), channels)
        if g.channels_last and array.dtype == dtype:
            return array.reshape(shape)
        out = self.empty(*shape, dtype=dtype)
        if g.channels_last:
            copy(array.reshape(shape), out, turned=False)
        else:
            copy(array.reshape(g.batch, channels, shape[1]), out, turned=True)
        return out

    def image(self, input: Array) -> Array:
        """x [N, pixels, C] of the storage type."""
        return self._last(input, self.geometry.channels, self.storage)

    def output(self, grad_output: Array, channels: int, dtype: Any) -> Array:
        """ybar [N * P, channels]."""
        return self._last(grad_output, channels, dtype).reshape(self.rows, channels)

    def pairs(self, array: Array) -> Array:
        """View [N, P, Go, K] of an array with one number per offset group and tap."""
        return self._samples(array)

    def coordinates(self, array: Array) -> Array:
        """View [N, P, Go, K, n] of an array with one number per offset group, tap and axis."""
        return self._samples(array, self.geometry.rank)

    def _samples(self, array: Array, *axes: int) -> Array:
        g = self.geometry
        each = (g.offset_groups, g.taps, *axes)
        if g.channels_last:
            return array.reshape(g.batch, self.positions, *each)
        split = array.reshape(g.batch, *each, self.positions)
        return split.transpose(0, len(each) + 1, *range(1, len(each) + 1))

    def store(self, rows: Array, out: Array, first: int, bias: Maybe = None) -> None:
        """Write rows [count, channels] from `first` on to the output's or input's layout.

        Rows are positions of whole images, or of a part of one.
        """
        g = self.geometry
        count, channels = rows.shape
        if g.channels_last:
            target = out.reshape(1, -1, channels)[:, first : first + count]
            copy(rows[None], target, False, bias)
            return
        each = prod(out.shape[2:])
        target = out.reshape(g.batch, channels, each)
        image, at = divmod(first, each)
        images = max(count // each, 1)  # or a part of one
        source = rows.reshape(images, count // images, channels)
        copy(source, target[image : image + images, :, at : at + count // images], True, bias)
