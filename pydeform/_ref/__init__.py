"""The executable specification: every operation in NumPy, for any real type, slow and readable.

A module with the same function names as the other backends. Besides the types these take, it works
in ``longdouble`` and on object arrays of :class:`fractions.Fraction`, where it is exact.
"""

from pydeform._ref.deform_conv import (
    deform_conv,
    deform_conv_backward,
    deform_conv_double_backward,
    deform_conv_jvp,
)
from pydeform._ref.local_conv import (
    local_conv,
    local_conv_backward,
    local_conv_double_backward,
    local_conv_jvp,
)
from pydeform._ref.sample import sample, splat

__all__ = [
    "deform_conv",
    "deform_conv_backward",
    "deform_conv_double_backward",
    "deform_conv_jvp",
    "local_conv",
    "local_conv_backward",
    "local_conv_double_backward",
    "local_conv_jvp",
    "sample",
    "splat",
]
