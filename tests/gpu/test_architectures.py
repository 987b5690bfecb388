"""Kernels that hold fewer numbers where an architecture has no registers to spare: the same bits.

The host execution takes Hopper's way unless PYDEFORM_HOST_ARCH names another.
"""

import os
import subprocess
import sys
from functools import cache

import pytest

SCRIPT = """
import hashlib
import numpy as np
import pydeform

rng = np.random.default_rng(0)

def draw(*shape, dtype=np.float16):
    return rng.standard_normal(shape).astype(dtype)

def say(name, arrays):
    arrays = arrays if isinstance(arrays, tuple) else (arrays,)
    found = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays if a is not None)
    print(name, hashlib.sha256(found).hexdigest())

with pydeform.use_backend("emulated"):
    # Sums of samples, two at a time or one; samples of a pixel, four at a time or two.
    x, kernel = draw(1, 16, 6, 7), draw(1, 1, 9, 6, 7)
    offset = draw(1, 18, 6, 7)
    say("sums", pydeform.local_conv2d(x, kernel, offset, padding=1))
    wide = [a.astype(np.float32) for a in (x, x, kernel, offset)]
    say("samples of a pixel", pydeform.local_conv2d_backward(*wide, padding=1))
    # Each shape of block of the fused kernel.
    for outputs, size in ((136, (6, 20)), (136, (17, 8)), (40, (5, 6))):
        x, weight = draw(1, 32, *size), draw(outputs, 32, 3, 3)
        offset, mask = draw(1, 18, *size), draw(1, 9, *size)
        out = pydeform.deform_conv2d(x, offset, weight, padding=1, mask=mask)
        say(f"fused {outputs} {size}", out)
"""


@cache
def bits(arch):
    """What comes out, by name."""
    chosen = {} if arch is None else {"PYDEFORM_HOST_ARCH": str(arch)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **chosen},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("arch", [800, 1200])
def test_every_architecture_gives_the_same_bits(arch):
    assert len(bits(None)) == 5
    assert bits(arch) == bits(None)
