"""The verification kit: its bounds hold, are not loose, and its checks see what they must see."""

import doctest
from dataclasses import replace
from importlib import import_module

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pydeform
from pydeform.testing import (
    Case,
    deform_conv_call,
    deform_conv_case,
    expected,
    first_order,
    make_geometry,
    reference,
    second_order,
    unit_roundoff,
)
from pydeform.testing.bounds import sizes_and_counts
from pydeform.testing.operations import DEFORM_CONV
from pydeform.testing.strategies import deform_conv_cases
from pydeform.testing.values import FRACTION_BITS, KINDS

RANKS = pytest.mark.parametrize("rank", [1, 2, 3])


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [(np.float64, -53), (np.float32, -24), (np.float16, -11), (ml_dtypes.bfloat16, -8)],
)
def test_unit_roundoff_is_where_one_plus_it_is_one(dtype, exponent):
    u = unit_roundoff(dtype)
    assert u == 2.0**exponent
    one = np.ones((), np.longdouble)
    assert (one + u).astype(dtype) == 1  # a tie, to even
    assert (one + u * 1.001).astype(dtype) > 1


@RANKS
@pytest.mark.parametrize("kind", ["dyadic", "kinks", "dyadic interior"])
@given(data=st.data())
def test_dyadic_cases_are_exact_in_any_order(rank, kind, data):
    """Every sum of absolute values, in units of the smallest fraction, fits the significand.

    Then every partial sum does, in whatever order: float32 for dyadic cases, float64 for those
    whose coordinates move by finite differences.
    """
    case = data.draw(deform_conv_cases(rank, kind))
    bits = {"dyadic": FRACTION_BITS[rank], "kinks": 0, "dyadic interior": 3}[kind]
    # A fraction per axis, a half of the mask, a half per axis whose slope is a mean.
    smallest = 2.0 ** -(rank * bits + 1 + 2)
    significand = 2.0 ** (53 if kind == "dyadic interior" else 24)
    for name, size in sizes_and_counts(case)[0].items():
        assert np.max(size, initial=0) / smallest <= significand, name


@pytest.mark.parametrize("operation", DEFORM_CONV, ids=lambda operation: operation.name)
def test_dyadic_examples_are_exact_in_any_order(operation):
    for example, make in operation.examples.items():
        case = make("dyadic")
        rank = case.geometry.rank
        smallest = 2.0 ** -(rank * FRACTION_BITS[rank] + 1 + 2)
        for name, size in sizes_and_counts(case)[0].items():
            assert np.max(size, initial=0) / smallest <= 2.0**24, (example, name)


@RANKS
def test_bounds_are_not_loose(rank):
    """The worst float32 error of many entries is a visible part of its bound.

    Errors add like a random walk, and numpy sums in pairs, where the bound adds absolute values one
    by one: for a sum over 150 positions a hundredth of the bound is what is found.
    """
    worst = {}
    for seed in range(10):
        case = deform_conv_case(*small(rank), seed).astype(np.float32)
        computed = reference(case)
        for name, result in expected(case).items():
            worst[name] = max(worst.get(name, 0), result.units(computed[name]))
    del worst["second_bias"]
    assert all(0.002 < units <= 1 for units in worst.values()), worst


def small(rank, **options):
    return make_geometry(
        (5, 4, 3)[:rank],
        (3, 2, 2)[:rank],
        **{"channels": 2, "out_channels": 2, "pad": ((1, 1),) * rank, **options},
    )


@RANKS
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_one_wrong_weight_is_outside_the_bound(rank, dtype):
    """One fraction off by 2^-6 (2^-3 beside the coarse 16-bit types), in one sample of one tap."""
    case = deform_conv_case(*small(rank), 3).astype(dtype)
    offset = case.arrays["offset"].copy()
    steepest = np.argmax(np.abs(reference(case)["grad_offset"]))
    offset.flat[steepest] += 2.0 ** (-3 if np.dtype(dtype).itemsize == 2 else -6)
    moved = reference(case.with_array("offset", offset))
    judged = {name: result.units(moved[name]) for name, result in expected(case).items()}
    assert judged["output"] > 1
    assert judged["grad_input"] > 1
    assert judged["second_input"] > 1


def test_units_of_the_bound():
    case = deform_conv_case(*small(1), 0).astype(np.float32)
    result = expected(case)["output"]
    assert result.units(result.value) == 0
    assert result.units(result.value + 2 * result.bound) == pytest.approx(2)
    assert result.units(np.full_like(result.value, np.nan)) == np.inf
    with pytest.raises(ValueError, match="computed: expected shape"):
        result.units(result.value[0])


def test_split_coordinates_need_their_slack():
    """A tiny negative offset: 1 - |offset| is rounded, and the far neighbour's weight with it."""
    geometry, _ = make_geometry((2,), (1,))
    case = deform_conv_call(
        "deform_conv1d",
        {
            "input": np.array([[[0.0, 1.0]]], np.float32),
            "offset": np.array([[[0.0, -1e-9]]], np.float32),
            "weight": np.ones((1, 1, 1), np.float32),
        },
        grad_output=np.ones((1, 1, 2), np.float32),
    )
    assert case.geometry == geometry
    swapped = case.with_array("input", np.array([[[1.0, 0.0]]], np.float32))
    value = expected(swapped)["output"]
    assert 0 < value.value[0, 0, 1] < 2e-9
    assert value.units(reference(swapped)["output"]) <= 1
    assert value.bound[0, 0, 1] < 1e-7


@RANKS
def test_differences_see_a_wrong_derivative(rank, monkeypatch):
    """Each result is made wrong in turn, and its own check says so, at zero tolerance."""
    case = deform_conv_case(*small(rank), 1, "dyadic interior")
    with pydeform.use_backend("ref"):
        assert max((first_order(case) | second_order(case)).values()) == 0
        backward, double_backward = Case.backward, Case.double_backward
        for name in case.names:

            def wrong(case, method, broken=name):
                results = method(case)
                return {**results, broken: results[broken] + 2.0**-12}

            with monkeypatch.context() as patched:
                patched.setattr(Case, "backward", lambda case, w=wrong: w(case, backward))
                errors = first_order(case, count=1)
                assert errors[f"grad_{name}"] > 0
                assert sum(error > 0 for error in errors.values()) == 1
            with monkeypatch.context() as patched:
                patched.setattr(
                    Case, "double_backward", lambda case, w=wrong: w(case, double_backward)
                )
                assert second_order(case, count=1)[f"second_{name}"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_what_their_kind_says(kind):
    spoiled = {"nonfinite offset": "offset", "nonfinite input": "input"}.get(kind, "weight")
    geometry, pad_end = small(2, batch=4)
    case = deform_conv_case(geometry, pad_end, 0, kind, spoiled=spoiled)
    arrays = {**case.arrays, "grad_output": case.grad_output}
    for name, array in arrays.items():
        finite = np.isfinite(array).all()
        assert finite == ("nonfinite" not in kind or name != spoiled), name
    offset = case.arrays["offset"][np.isfinite(case.arrays["offset"])]
    fractions = offset - np.floor(offset)
    if "interior" in kind:
        assert fractions.min() >= 0.375
        assert fractions.max() <= 0.625
    if kind == "kinks":
        assert not fractions.any()
    if kind == "dyadic":
        assert set(np.unique(fractions)) == {0, 0.25, 0.5, 0.75}
    again = deform_conv_case(geometry, pad_end, 0, kind, spoiled=spoiled)
    for name, array in arrays.items():
        same = again.grad_output if name == "grad_output" else again.arrays[name]
        np.testing.assert_array_equal(same, array)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind: expected one of"):
        deform_conv_case(*small(1), 0, "exact")


def test_a_kernel_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        make_geometry((2,), (3,))


def test_census_of_draws():
    """Nothing that the strategies are for is impossible to draw."""
    seen = {}

    @settings(max_examples=200, derandomize=True, database=None)
    @given(case=deform_conv_cases(2, "dyadic"))
    def count(case):
        g = case.geometry
        for feature, present in {
            "empty batch": g.batch == 0,
            "size 1": 1 in g.size,
            "groups": g.groups > 1,
            "offset groups": g.offset_groups > 1,
            "groups that do not divide each other": {g.groups, g.offset_groups} == {2, 3},
            "asymmetric padding": any(b != e for b, e in case.options["padding"]),
            "channels last": g.channels_last,
            "plain convolution": case.arrays["offset"] is None,
            "no mask": case.arrays["mask"] is None,
            "no bias": case.arrays["bias"] is None,
            "per sample": case.arrays["weight"].ndim == 5,
            "a zero tangent": len(case.tangents) < len(case.names),
            **{mode: g.mode == mode for mode in ("zeros", "clip_zero", "border")},
            **{kink: g.kink == kink for kink in ("right", "open", "mean")},
        }.items():
            seen[feature] = seen.get(feature, 0) + present

    count()
    assert all(seen.values()), seen


def test_case_of_a_call_is_the_case_it_came_from():
    case = deform_conv_case(*small(2, batch=2), 0)
    again = deform_conv_call(
        case.operation,
        case.arrays,
        case.options,
        grad_output=case.grad_output,
        tangents=case.tangents,
    )
    assert again.geometry == case.geometry
    with pydeform.use_backend("ref"):
        results, same = case.evaluate(), again.evaluate()
    for name, result in results.items():
        np.testing.assert_array_equal(same[name], result)
    assert replace(again, options=case.options).names == case.names


@pytest.mark.parametrize("name", ["bounds", "counted", "differences", "values"])
def test_examples_in_docstrings(name):
    outcome = doctest.testmod(import_module(f"pydeform.testing.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
