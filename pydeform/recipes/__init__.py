"""Published methods as short compositions of this package's operations, and their gradients.

Each recipe is a function of arrays, written against the array API: NumPy arrays, and others with
``__array_namespace__`` or of torch. `vjp` differentiates any of them on NumPy. Beside the recipes
stand the operations they are made of, in a form that `vjp` can follow.
"""

from pydeform.recipes._primitives import (
    deform_conv1d,
    deform_conv2d,
    deform_conv3d,
    local_conv1d,
    local_conv2d,
    local_conv3d,
    mix_kernels,
    sample,
    splat,
)
from pydeform.recipes._vjp import vjp
from pydeform.recipes.branches import selective_kernels, switchable_atrous_conv
from pydeform.recipes.dynamic_weights import cond_conv, dynamic_conv, dynamic_filter, odconv
from pydeform.recipes.per_position import (
    carafe,
    dynamic_conv1d,
    dynamic_local_filter,
    involution,
    kernel_prediction,
    lightweight_conv,
    pixel_adaptive_conv,
    separable_adaptive_conv,
)

__all__ = [
    "carafe",
    "cond_conv",
    "deform_conv1d",
    "deform_conv2d",
    "deform_conv3d",
    "dynamic_conv",
    "dynamic_conv1d",
    "dynamic_filter",
    "dynamic_local_filter",
    "involution",
    "kernel_prediction",
    "lightweight_conv",
    "local_conv1d",
    "local_conv2d",
    "local_conv3d",
    "mix_kernels",
    "odconv",
    "pixel_adaptive_conv",
    "sample",
    "selective_kernels",
    "separable_adaptive_conv",
    "splat",
    "switchable_atrous_conv",
    "vjp",
]
