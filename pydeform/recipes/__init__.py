"""Published methods as short compositions of this package's operations, and their gradients.

Each recipe is a function of arrays, written against the array API: NumPy arrays, and others with
``__array_namespace__`` or of torch. `vjp` differentiates any of them on NumPy. Beside the recipes
stand the operations they are made of, in a form that `vjp` can follow.
"""

from pydeform.recipes._primitives import (
    cumulative_taps,
    deform_conv1d,
    deform_conv2d,
    deform_conv3d,
    local_conv1d,
    local_conv2d,
    local_conv3d,
    mix_kernels,
    sample,
    scale_taps,
    splat,
    static_offsets,
)
from pydeform.recipes._vjp import vjp
from pydeform.recipes.adaptive_shape import (
    adaptive_dck,
    deformable_kernels,
    dynamic_snake_conv,
    scale_adaptive_conv,
)
from pydeform.recipes.branches import selective_kernels, switchable_atrous_conv
from pydeform.recipes.dynamic_weights import cond_conv, dynamic_conv, dynamic_filter, odconv
from pydeform.recipes.free_taps import active_convolution, ldconv
from pydeform.recipes.per_position import (
    carafe,
    dynamic_local_filter,
    involution,
    kernel_prediction,
    pixel_adaptive_conv,
    separable_adaptive_conv,
)
from pydeform.recipes.sequences import dynamic_conv1d, lightweight_conv

__all__ = [
    "active_convolution",
    "adaptive_dck",
    "carafe",
    "cond_conv",
    "cumulative_taps",
    "deform_conv1d",
    "deform_conv2d",
    "deform_conv3d",
    "deformable_kernels",
    "dynamic_conv",
    "dynamic_conv1d",
    "dynamic_filter",
    "dynamic_local_filter",
    "dynamic_snake_conv",
    "involution",
    "kernel_prediction",
    "ldconv",
    "lightweight_conv",
    "local_conv1d",
    "local_conv2d",
    "local_conv3d",
    "mix_kernels",
    "odconv",
    "pixel_adaptive_conv",
    "sample",
    "scale_adaptive_conv",
    "scale_taps",
    "selective_kernels",
    "separable_adaptive_conv",
    "splat",
    "static_offsets",
    "switchable_atrous_conv",
    "vjp",
]
