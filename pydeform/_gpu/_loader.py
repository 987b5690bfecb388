"""From a name, template arguments and arrays to a kernel that runs where the arrays are.

CuPy arrays: NVRTC compiles the instance when it is first used, CuPy keeps it on disk, and it starts
on CuPy's current stream. NumPy arrays: a C++ compiler builds the very same source and it runs on
this CPU (`_host`), which is how the kernels are tested on a machine without a GPU.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from pydeform._gpu import _declared, _host

# More dynamic shared memory than this, and a kernel must ask for it.
_SHARED_WITHOUT_ASKING = 48 * 1024


def launch(
    source: str,
    kernel: str,
    instance: tuple[str, ...],
    grid: tuple[int, ...],
    block: tuple[int, ...],
    args: Sequence[Any],
    shared: int = 0,
    xp: Any = np,
) -> None:
    """Start a kernel.

    Parameters
    ----------
    source : str
        `X` for `X.cu` of this package, or the path of another .cu file.
    kernel : str
        A kernel that the source declares.
    instance : tuple of str
        Template arguments, one of the instances that the source declares.
    grid, block : tuple of int
        Up to three numbers each. Nothing happens where a grid has no blocks.
    args : sequence
        Members of the kernel's struct, in order: arrays and None become pointers, integers
        int64_t, floats double; bytes are what they are.
    shared : int
        Bytes of dynamic shared memory.
    xp : module
        numpy or cupy: whose arrays these are.
    """
    if 0 in grid:
        return
    declared = _find(source, kernel, instance)
    threads = 1
    for extent in block:
        threads *= extent
    if not 1 <= threads <= declared.block(instance):
        raise ValueError(
            f"block: {kernel} takes up to {declared.block(instance)} threads, got {block}"
        )
    if xp is np:
        _host.launch(source, declared, instance, grid, block, _packed(args, _host_pointer), shared)
    else:
        _device_launch(source, declared, instance, grid, block, args, shared)


_find = cache(_declared.find)


@cache
def device_name() -> str | None:
    """Name the current CUDA device; None without one, or without CuPy."""
    try:
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    except ImportError:
        return None
    except cupy.cuda.runtime.CUDARuntimeError:  # no driver, no device
        return None
    return str(properties["name"].decode())


def _packed(args: Sequence[Any], pointer: Any) -> bytes:
    """Members of a struct of 8 bytes each, and arrays as bytes."""
    parts: list[bytes] = []
    run: list[Any] = []
    for value in args:
        if type(value) is bytes:
            parts += [_run(run, pointer), value]
            run = []
        else:
            run.append(value)
    return b"".join([*parts, _run(run, pointer)])


def _run(values: Sequence[Any], pointer: Any) -> bytes:
    """Members that lie side by side. Mostly all are integers, which are asked about at once."""
    if set(map(type, values)) <= {int}:
        return struct.pack(f"={len(values)}q", *values)
    form, numbers = "", []
    for value in values:
        if isinstance(value, float | np.floating):
            form += "d"
            numbers.append(float(value))
        else:
            form += "q"
            integer = value is None or isinstance(value, int | np.integer)
            numbers.append(int(value or 0) if integer else pointer(value))
    return struct.pack("=" + form, *numbers)


def _host_pointer(array: Any) -> int:
    interface = array.__array_interface__
    if interface["strides"] is not None:
        raise ValueError("args: expected contiguous arrays")
    return int(interface["data"][0])


def _device_pointer(array: Any) -> int:
    if not array.flags.c_contiguous:
        raise ValueError("args: expected contiguous arrays")
    return int(array.data.ptr)


@cache
def _device_kernel(source: str, kernel: str, instance: tuple[str, ...]) -> Any:
    import cupy

    declared = _declared.find(source, kernel, instance)
    code = _declared.joined(source) + "\n" + _declared.device_stub(declared, instance)
    return cupy.RawKernel(code, declared.symbol(instance), options=("-std=c++17",))


# Of each kernel on each device, the dynamic shared memory that it has asked for.
_asked: dict[tuple[Any, int], int] = {}


def _device_launch(
    source: str,
    declared: _declared.Kernel,
    instance: tuple[str, ...],
    grid: tuple[int, ...],
    block: tuple[int, ...],
    args: Sequence[Any],
    shared: int,
) -> None:
    compiled = _device_kernel(source, declared.name, instance)
    if shared > _SHARED_WITHOUT_ASKING:
        import cupy

        key = (compiled, cupy.cuda.runtime.getDevice())
        if _asked.get(key, 0) < shared:
            compiled.max_dynamic_shared_size_bytes = shared
            _asked[key] = shared
    packed = _packed(args, _device_pointer)
    # CuPy passes an array of NumPy with one element by value, whatever its type.
    compiled(grid, block, (np.frombuffer(packed, f"V{len(packed)}"),), shared_mem=shared)
