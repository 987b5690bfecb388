"""Numbers from one layout to another on the GPU, as in `pydeform._ref.relay`."""

from __future__ import annotations

from pydeform._gpu._layout import NAMES, THREADS, Array, Maybe, blocks, namespace, pointer, strides
from pydeform._gpu._loader import launch


def relay(source: Array, scale: Array, start: Maybe, out: Array) -> None:
    """Write out[r, b, k, -1-a] = source[r, b, k, a] * scale[a] + start[k, a]."""
    arrays = [pointer(source), pointer(scale), pointer(start), pointer(out)]
    args = [*arrays, *source.shape, *strides(source), *strides(out)]
    grid = blocks(-(-source.size // THREADS))
    instance = (NAMES[source.dtype.name],)
    launch("relay", "relay", instance, grid, (THREADS,), args, xp=namespace(source))
