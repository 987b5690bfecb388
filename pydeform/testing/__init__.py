"""What this package verifies itself with, for anyone who has a kernel to verify.

- `cases`: one call of an operation as data, and what it evaluates to on the backend in use.
- `values`: values from a seed, chosen so that a check can be tight: dyadic ones are exact.
- `bounds`: what every result should be, and how far rounding may take it.
- `counted`: the same for any operation, from numbers that carry their own bound.
- `differences`: finite differences without truncation error, first and second order.
- `strategies`: hypothesis strategies for all of that; imported on its own, it needs hypothesis.
"""

from pydeform.testing.bounds import Expected, expected, reference, unit_roundoff
from pydeform.testing.cases import Case, Move
from pydeform.testing.differences import first_order, second_order
from pydeform.testing.values import deform_conv_call, deform_conv_case, make_geometry

__all__ = [
    "Case",
    "Expected",
    "Move",
    "deform_conv_call",
    "deform_conv_case",
    "expected",
    "first_order",
    "make_geometry",
    "reference",
    "second_order",
    "unit_roundoff",
]
