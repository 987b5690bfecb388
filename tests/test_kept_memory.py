"""Results and workspace use the memory that earlier ones left, within a bound."""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pydeform
from pydeform import _cpu

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="this system does not say what a process has"
)

PER_MIB = 1 << 18  # floats


def filled(mib, value):
    """An array of so many MiB in kept memory."""
    array = _cpu.empty((mib, PER_MIB), np.dtype(np.float32))
    array[...] = value
    return array


def test_an_array_is_as_any_other():
    for dtype in (np.float32, np.float64, np.float16):
        array = _cpu.empty((3, 1, 40000), np.dtype(dtype))
        assert array.shape == (3, 1, 40000)
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.flags.writeable
    assert _cpu.empty((0, 5), np.dtype(np.float32)).shape == (0, 5)
    assert _cpu.empty((), np.dtype(np.float32)).shape == ()


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = _cpu.empty((300, 300), np.dtype(ml_dtypes.bfloat16))
    array[...] = 1.5
    assert (array == 1.5).all()


def test_what_is_alive_is_not_given_again():
    rng = np.random.default_rng(0)
    alive = []
    for value in range(300):
        if len(alive) > 6 or (alive and rng.random() < 0.4):
            array, expected = alive.pop(rng.integers(len(alive)))
            assert (array == expected).all()
        alive.append((filled(int(rng.integers(1, 5)), value), value))
    for array, expected in alive:
        assert (array == expected).all()


def test_a_view_keeps_its_memory():
    view = filled(1, 7)[:, 5:]
    others = [filled(1, 8) for _ in range(4)]
    assert (view == 7).all()
    assert len(others) == 4


def test_freed_memory_is_used_again_even_after_other_sizes():
    large = [filled(20, 0) for _ in range(3)]
    del large  # as much as may stay
    address = filled(3, 1).ctypes.data
    assert filled(3, 2).ctypes.data == address


def test_garbage_collection_gives_memory_back():
    box = [filled(5, 1)]
    address = box[0].ctypes.data
    box.append(box)
    del box
    gc.collect()
    assert filled(5, 2).ctypes.data == address


def test_results_of_operations_come_from_it():
    x = np.ones((1, 8, 64, 64), np.float32)
    w = np.ones((8, 8, 3, 3), np.float32)
    first = pydeform.deform_conv2d(x, None, w, padding=1)
    kept = first.copy()
    second = pydeform.deform_conv2d(2 * x, None, w, padding=1)
    assert np.array_equal(first, kept)
    assert np.array_equal(second, 2 * kept)
    del first, second
    again = {pydeform.deform_conv2d(x, None, w, padding=1).ctypes.data for _ in range(3)}
    assert len(again) == 1


BOUND = """
import re, sys
import numpy as np
from pydeform import _cpu

def resident():
    return int(re.findall(r"VmRSS:\\s+(\\d+) kB", open("/proc/self/status").read())[0]) / 1024

before = resident()
for mib in (8, 1, 30):
    arrays = [_cpu.empty((mib, 1 << 18), np.dtype(np.float32)) for _ in range(240 // mib)]
    for array in arrays:
        array[...] = 1
    assert resident() > before + 200
    del array, arrays
    assert resident() < before + 72, (mib, resident() - before)
    assert resident() > before + 25, (mib, resident() - before)
"""


def test_no_more_stays_than_64_mib():
    done = subprocess.run(
        [sys.executable, "-c", BOUND], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
