"""What each operation means: its documentation, its checks and the shapes of its results."""

from pydeform.ops import conventions, offsets
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
from pydeform.ops._sampling_rules import (
    SampleDoubleGrads,
    SampleGrads,
    SplatDoubleGrads,
    SplatGrads,
)
from pydeform.ops.deform_conv import DeformConvDoubleGrads, DeformConvGrads
from pydeform.ops.local_conv import (
    LocalConvDoubleGrads,
    LocalConvGrads,
    local_conv1d,
    local_conv1d_backward,
    local_conv1d_double_backward,
    local_conv1d_jvp,
    local_conv2d,
    local_conv2d_backward,
    local_conv2d_double_backward,
    local_conv2d_jvp,
    local_conv3d,
    local_conv3d_backward,
    local_conv3d_double_backward,
    local_conv3d_jvp,
)
from pydeform.ops.mix_kernels import (
    mix_kernels,
    mix_kernels_backward,
    mix_kernels_double_backward,
    mix_kernels_jvp,
)
from pydeform.ops.sample import (
    sample,
    sample_backward,
    sample_double_backward,
    sample_jvp,
    splat,
    splat_backward,
    splat_double_backward,
    splat_jvp,
)

__all__ = [
    "DeformConvDoubleGrads",
    "DeformConvGrads",
    "LocalConvDoubleGrads",
    "LocalConvGrads",
    "SampleDoubleGrads",
    "SampleGrads",
    "SplatDoubleGrads",
    "SplatGrads",
    "conventions",
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
    "local_conv1d",
    "local_conv1d_backward",
    "local_conv1d_double_backward",
    "local_conv1d_jvp",
    "local_conv2d",
    "local_conv2d_backward",
    "local_conv2d_double_backward",
    "local_conv2d_jvp",
    "local_conv3d",
    "local_conv3d_backward",
    "local_conv3d_double_backward",
    "local_conv3d_jvp",
    "mix_kernels",
    "mix_kernels_backward",
    "mix_kernels_double_backward",
    "mix_kernels_jvp",
    "offsets",
    "sample",
    "sample_backward",
    "sample_double_backward",
    "sample_jvp",
    "splat",
    "splat_backward",
    "splat_double_backward",
    "splat_jvp",
]
