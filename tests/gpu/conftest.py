"""Where the kernels of these tests run: on the GPU, else on the host execution."""

from pathlib import Path

import numpy as np
import pytest

from pydeform._gpu._host import schedule
from pydeform._gpu._loader import device_name, launch

FOLDER = Path(__file__).parent


class Emulated:
    """Arrays are NumPy's; kernels run under a schedule."""

    name = "emulated"

    def __init__(self, seed=0, threads=1):
        self.seed, self.threads = seed, threads

    def launch(self, source, kernel, instance, grid, block, args, shared=0):
        path = str(FOLDER / f"{source}.cu")
        with schedule(self.seed, self.threads):
            launch(path, kernel, instance, grid, block, args, shared)


class Cuda:
    """Arrays are copied to the GPU and back."""

    name = "cuda"

    def launch(self, source, kernel, instance, grid, block, args, shared=0):
        import cupy

        path = str(FOLDER / f"{source}.cu")

        def moved(array):
            """A copy that lies as the array does: `asarray` would make it contiguous."""
            if array.flags.c_contiguous:
                return cupy.asarray(array)
            whole = cupy.asarray(array.base)
            return cupy.ndarray(array.shape, array.dtype, whole.data, array.strides)

        there = [moved(a) if isinstance(a, np.ndarray) else a for a in args]
        launch(path, kernel, instance, grid, block, there, shared, cupy)
        for here, result in zip(args, there, strict=True):
            if isinstance(here, np.ndarray) and here.flags.writeable:
                here[...] = result.get()


PLACES = [Emulated(0, 1), Emulated(1, 2), Emulated(5, 2)]


@pytest.fixture(
    params=[*PLACES, *([Cuda()] if device_name() else [])],
    ids=lambda p: f"{p.name}-{p.seed}" if p.name == "emulated" else p.name,
)
def place(request):
    """Run the test in each schedule of the host execution and, where there is one, on the GPU."""
    return request.param
