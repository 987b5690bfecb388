"""The memory of `fake_cupy`: a pool that splits what it is given, and allocators by context."""

import contextlib
import ctypes

import numpy as np

streams = []  # the last one is current
_allocators = []


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self._owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset


class PooledMemory:
    """A part of a pool's memory; free again when nobody holds it."""

    def __init__(self, pool, ptr, size):
        self.pool, self.ptr, self.size = pool, ptr, size

    def __del__(self):
        self.pool._free(self.ptr, self.size)


class MemoryPool:
    """As CuPy's: the smallest free part that is large enough is split, neighbours grow together."""

    def __init__(self, allocator):
        self._allocator, self._parts, self._used = allocator, [], 0
        self._whole = []

    def malloc(self, size):
        size = -(-size // 512) * 512
        stream = streams[-1] if streams else None
        large = [part for part in self._parts if part[1] >= size and part[2] is stream]
        if large:
            part = min(large, key=lambda part: part[1])
            self._parts.remove(part)
            ptr = part[0]
            if part[1] > size:
                self._parts.append((ptr + size, part[1] - size, stream))
        else:
            self._whole.append(self._allocator(size))
            ptr = self._whole[-1].ptr
        self._used += size
        return MemoryPointer(PooledMemory(self, ptr, size), 0)

    def _free(self, ptr, size):
        self._used -= size
        stream = streams[-1] if streams else None
        for part in list(self._parts):
            if part[2] is stream and (part[0] + part[1] == ptr or ptr + size == part[0]):
                self._parts.remove(part)
                ptr, size = min(ptr, part[0]), size + part[1]
        self._parts.append((ptr, size, stream))

    def used_bytes(self):
        return self._used


@contextlib.contextmanager
def using_allocator(allocator=None):
    _allocators.append(allocator)
    try:
        yield
    finally:
        _allocators.pop()


def allocated(shape, dtype, order):
    """New memory, from the allocator in use where there is one."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    if not _allocators or not size:
        return np.empty(shape, dtype, order)
    pointer = _allocators[-1](size)
    memory = (ctypes.c_char * size).from_address(pointer.ptr)
    memory.held = pointer  # as long as an array looks at it
    return np.frombuffer(memory, np.uint8).view(dtype).reshape(shape, order=order)
