"""The executable specification itself: exact on fractions, and one rounding for 16-bit types."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pydeform
from pydeform.testing import deform_conv_case, make_geometry, reference
from pydeform.testing.strategies import deform_conv_cases

RANKS = pytest.mark.parametrize("rank", [1, 2, 3])
KINKS = pytest.mark.parametrize("kink", ["right", "open", "mean"])
MODES = pytest.mark.parametrize("mode", ["zeros", "clip_zero", "border"])


def fractions(array):
    return np.frompyfunc(lambda value: Fraction(float(value)), 1, 1)(array)


@RANKS
@KINKS
@MODES
def test_fractions_are_exact(rank, kink, mode):
    """On dyadic values float64 has no rounding to do, so it says what the fractions say."""
    geometry, pad_end = make_geometry(
        (3, 2, 2)[:rank],
        (2, 1, 2)[:rank],
        channels=2,
        out_channels=2,
        groups=2,
        pad=((1, 1),) * rank,
        mode=mode,
        kink=kink,
    )
    for kind in ("dyadic", "kinks"):
        case = deform_conv_case(geometry, pad_end, rank, kind)
        exact, floats = reference(case.map(fractions)), reference(case)
        for name, values in exact.items():
            assert {type(value) for value in values.flat} <= {Fraction, int}, name
            np.testing.assert_array_equal(floats[name], values.astype(np.float64), name)


def test_fractions_that_no_float_holds():
    """A third of a pixel between 1 and 2 is 4/3, and its slope is 1."""
    x = fractions(np.array([1.0, 2, 3, 4]))[None, None]
    third = np.array([Fraction(1, 3)] * 4)[None, None]
    one = fractions(np.ones((1, 1, 1)))
    with pydeform.use_backend("ref"):
        output = pydeform.deform_conv1d(x, third, one)
        grads = pydeform.deform_conv1d_backward(fractions(np.ones((1, 1, 4))), x, third, one)
    thirds = [Fraction(4, 3), Fraction(7, 3), Fraction(10, 3), Fraction(8, 3)]
    assert list(output[0, 0]) == thirds
    assert list(grads.offset[0, 0]) == [1, 1, 1, -4]
    assert list(grads.input[0, 0]) == [Fraction(2, 3), 1, 1, 1]
    assert grads.weight[0, 0, 0] == sum(thirds)


@RANKS
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("wide", [False, True])
@given(data=st.data())
def test_16_bits_are_storage_around_float32(rank, dtype, wide, data):
    case = data.draw(deform_conv_cases(rank, "random"))
    narrow = case.astype(dtype, np.float32 if wide else None)
    same = narrow.astype(np.float32)
    for name, values in reference(same).items():
        stored = reference(narrow)[name]
        np.testing.assert_array_equal(stored, values.astype(stored.dtype), name)


@pytest.mark.skipif(
    np.finfo(np.longdouble).eps == np.finfo(np.float64).eps, reason="longdouble is float64 here"
)
def test_longdouble_is_computed_in_longdouble():
    """The last bit of longdouble, which a float64 on the way would lose, passes through."""
    last = np.longdouble(1) + np.finfo(np.longdouble).eps
    geometry, pad_end = make_geometry((3, 3), (1, 1))
    ones = deform_conv_case(geometry, pad_end, 0, "kinks", optional=("offset", "mask"))
    ones = ones.map(lambda array: np.ones(array.shape, np.longdouble))
    ones = ones.with_array("offset", 0 * ones.arrays["offset"])
    for name, results in (
        ("input", ("output", "grad_weight", "grad_mask")),
        ("weight", ("output", "grad_input", "grad_mask")),
        ("grad_output", ("grad_input", "grad_weight", "grad_mask")),
    ):
        changed = reference(ones.with_array(name, np.full_like(array_of(ones, name), last)))
        for result in results:
            assert changed[result].max() == (9 * last if result == "grad_weight" else last)


def array_of(case, name):
    return case.grad_output if name == "grad_output" else case.arrays[name]


@settings(max_examples=20)
@given(data=st.data())
def test_inputs_are_not_written(data):
    case = data.draw(deform_conv_cases(2, "random"))

    def locked(array):
        array = array.copy()
        array.flags.writeable = False
        return array

    reference(case.map(locked))
