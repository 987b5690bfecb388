"""What each operation means: its documentation, its checks and the shapes of its results."""

from pydeform.ops._deform_conv1d import (
    deform_conv1d,
    deform_conv1d_backward,
    deform_conv1d_double_backward,
    deform_conv1d_jvp,
)
from pydeform.ops._deform_conv2d import (
    deform_conv2d,
    deform_conv2d_backward,
    deform_conv2d_double_backward,
    deform_conv2d_jvp,
)
from pydeform.ops._deform_conv3d import (
    deform_conv3d,
    deform_conv3d_backward,
    deform_conv3d_double_backward,
    deform_conv3d_jvp,
)
from pydeform.ops.deform_conv import DeformConvDoubleGrads, DeformConvGrads

__all__ = [
    "DeformConvDoubleGrads",
    "DeformConvGrads",
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
]
