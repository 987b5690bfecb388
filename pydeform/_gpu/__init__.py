"""The CUDA backend: kernels in CUDA C++, started by CuPy, or executed on the CPU without one.

A module with the same function names as the other backends. CuPy arrays are computed on where they
lie, on CuPy's current stream, without synchronisation. NumPy arrays run through the host execution
(`_host`), in which the same sources are compiled for this processor: slow, and for tests.
"""

from pydeform._gpu._workspace import get_workspace, set_workspace
from pydeform._gpu.deform_conv import (
    deform_conv,
    deform_conv_backward,
    deform_conv_double_backward,
    deform_conv_jvp,
)
from pydeform._gpu.local_conv import (
    local_conv,
    local_conv_backward,
    local_conv_double_backward,
    local_conv_jvp,
)
from pydeform._gpu.sample import sample, splat

__all__ = [
    "deform_conv",
    "deform_conv_backward",
    "deform_conv_double_backward",
    "deform_conv_jvp",
    "get_workspace",
    "local_conv",
    "local_conv_backward",
    "local_conv_double_backward",
    "local_conv_jvp",
    "sample",
    "set_workspace",
    "splat",
]
