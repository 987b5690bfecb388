"""Deformable convolution on plain arrays.

`deform_conv1d`, `deform_conv2d` and `deform_conv3d` compute deformable convolution, versions 1 and
2, of NumPy arrays and of any other CPU array that speaks DLPack; `_backward`, `_jvp` and
`_double_backward` beside each are its derivatives.
"""

from pydeform._dispatch import use_backend
from pydeform._info import info
from pydeform._threads import get_num_threads, num_threads, set_num_threads
from pydeform._version import __version__
from pydeform.ops import (
    DeformConvDoubleGrads,
    DeformConvGrads,
    deform_conv1d,
    deform_conv1d_backward,
    deform_conv1d_double_backward,
    deform_conv1d_jvp,
    deform_conv2d,
    deform_conv2d_backward,
    deform_conv2d_double_backward,
    deform_conv2d_jvp,
    deform_conv3d,
    deform_conv3d_backward,
    deform_conv3d_double_backward,
    deform_conv3d_jvp,
)

__all__ = [
    "DeformConvDoubleGrads",
    "DeformConvGrads",
    "__version__",
    "deform_conv1d",
    "deform_conv1d_backward",
    "deform_conv1d_double_backward",
    "deform_conv1d_jvp",
    "deform_conv2d",
    "deform_conv2d_backward",
    "deform_conv2d_double_backward",
    "deform_conv2d_jvp",
    "deform_conv3d",
    "deform_conv3d_backward",
    "deform_conv3d_double_backward",
    "deform_conv3d_jvp",
    "get_num_threads",
    "info",
    "num_threads",
    "set_num_threads",
    "use_backend",
]
