"""The two ceilings of a device: how fast it copies, and how fast it multiplies matrices."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

from benchmarks.gpu.device import Device
from benchmarks.gpu.floors import H100, Ceilings

#: Bytes of the array that is copied, and rows of the square matrices.
COPIED, ROWS = 1 << 30, 8192
TIMES = 11


def best(device: Device, call: Any) -> float:
    """Return the median seconds of a call after warming up."""
    for _ in range(3):
        device.seconds(call)
    return median(device.seconds(call) for _ in range(TIMES))


def copied(device: Device, size: int) -> float:
    """Return bytes a second that a plain copy reads and writes."""
    xp: Any = device.xp  # type: ignore[attr-defined]
    source, target = xp.ones(size, np.uint8), xp.empty(size, np.uint8)

    def copy() -> None:
        target[...] = source

    return 2 * size / best(device, copy)


def multiplied(device: Device, rows: int, dtype: str) -> float:
    """Return operations a second of a product of square matrices, by CuPy's cuBLAS."""
    xp: Any = device.xp  # type: ignore[attr-defined]
    # Random numbers: plain ones draw less power, and clocks stay higher than in real work.
    values = np.random.default_rng(0).standard_normal((rows, rows), np.float32)
    a = device.array(values.astype(dtype))
    out = xp.empty_like(a)
    return 2 * rows**3 / best(device, lambda: xp.matmul(a, a, out=out))


def tf32(device: Device, rows: int) -> float | None:
    """Return the same in TF32, by torch; None where it is not installed or not on a GPU."""
    if device.name != "cuda":
        return None
    try:
        import torch
    except ImportError:
        return None
    with device.torch(creating=True):
        a = torch.randn(rows, rows)
        torch.set_float32_matmul_precision("high")
        seconds = best(device, lambda: torch.matmul(a, a))
        torch.set_float32_matmul_precision("highest")
    return 2 * rows**3 / seconds


def measure(device: Device, small: bool) -> Ceilings:
    """Measure them all.

    What cannot be measured keeps its ratio to the float16 product, as on the device that the
    documentation assumes; so do the caches, to the copy.
    """
    size, rows = (1 << 16, 64) if small else (COPIED, ROWS)
    copy, half = copied(device, size), multiplied(device, rows, "float16")
    single = multiplied(device, rows, "float32")
    return Ceilings(
        name=device.facts()["device"],
        copy=copy,
        half=half,
        tf32=tf32(device, rows) or half * H100.tf32 / H100.half,
        single=single,
        mma=half * H100.mma / H100.half,
        gather=copy * H100.gather / H100.copy,
        cache=copy * H100.cache / H100.copy,
    )
