"""Between the layouts of other libraries and those of this one, exactly.

torchvision, mmcv, ONNX, Paddle and ncnn lay offsets and masks out as `pydeform.deform_conv2d` does,
and need no conversion. Every other pair of functions here moves numbers without changing one,
unless it says otherwise, so that there and back is the identity to the bit; and as they only move
numbers, each is also what takes gradients back through the other. The table of all that libraries
differ in is docs/reference/conventions.md.
"""

from pydeform.ops.conventions._attention import PositionWeight, from_msda, to_msda
from pydeform.ops.conventions._columns import from_dcnv3, from_dcnv4, to_dcnv3, to_dcnv4
from pydeform.ops.conventions._common import OffsetMask
from pydeform.ops.conventions._packed import (
    from_chainer,
    from_mindspore,
    to_chainer,
    to_mindspore,
)

__all__ = [
    "OffsetMask",
    "PositionWeight",
    "from_chainer",
    "from_dcnv3",
    "from_dcnv4",
    "from_mindspore",
    "from_msda",
    "to_chainer",
    "to_dcnv3",
    "to_dcnv4",
    "to_mindspore",
    "to_msda",
]
