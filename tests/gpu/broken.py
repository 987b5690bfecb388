"""Run a kernel of faults.cu on the GPU, for `.ci/check-gpu`: `python broken.py KERNEL [sound]`."""

import sys
from pathlib import Path

import cupy

from pydeform._gpu._loader import launch

cupy.cuda.set_allocator(None)  # a pool would hide an access past an array
kernel, fault = sys.argv[1], "0" if "sound" in sys.argv[2:] else "1"
x, y = cupy.ones(128, cupy.float32), cupy.zeros(512, cupy.float32)
source = str(Path(__file__).parent / "faults.cu")
launch(source, kernel, (fault,), (4,), (128,), [x, y, 128], 512, cupy)
cupy.cuda.get_current_stream().synchronize()
