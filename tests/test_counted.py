"""Numbers that carry their own bound, and what the kit knows of sampling and local convolution."""

import math
from fractions import Fraction
from operator import attrgetter

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pydeform
from pydeform.testing import Case, Move, bounds, counted, deform_conv_case, make_geometry
from pydeform.testing.differences import difference, directions, tangent
from pydeform.testing.local_conv import LOCAL_CONV, as_deform_conv, local_conv_cases
from pydeform.testing.operations import OPERATIONS
from pydeform.testing.sample import SAMPLE, sample_case, sample_cases
from pydeform.testing.values import FRACTION_BITS

RANKS = pytest.mark.parametrize("rank", [1, 2, 3])


def numbers(values, dtype="float32"):
    return counted.counted(np.array(values), dtype)


def parts(number):
    return number.value, number.size, number.count


def test_sums_count_the_same_in_any_order():
    x = numbers([3.0, -2.0, 0.5, 1.0])
    forwards, backwards = x[0] + x[1] + x[2] + x[3], x[3] + (x[2] + (x[1] + x[0]))
    pairs = (x[0] + x[2]) + (x[1] + x[3])
    assert parts(forwards) == parts(backwards) == parts(pairs) == (2.5, 6.5, 3)
    product = x[0] * x[1]
    late, early = x[2] + x[3] + product, product + x[2] + x[3]
    assert parts(late) == parts(early) == (-4.5, 7.5, 3)


def test_what_is_exact_is_not_counted():
    (x,) = numbers([0.3125])
    for exact in (-x, 2 * x, x * Fraction(1, 4), x + 0, 0 + x, 1 - x, x - 1, abs(-x), x * 1):
        assert exact.count == 0, parts(exact)
    assert x * 0 == 0
    assert type(x * 0) is Fraction
    (tiny,) = numbers([-1e-9])
    assert (tiny + 1).count == 1  # 1 - 1e-9 is no float32
    assert parts(1 - (tiny + 1))[1:] == (pytest.approx(2), 2)
    (wide,) = numbers([-1e-9], "float64")
    assert (wide + 1).count == 1
    assert (x * 3).count == 1
    assert (x * Fraction(1, 3)).count == 2  # a third is rounded too
    assert (x * x * 2 + 1).count == 2


def test_comparisons_go_by_the_value():
    x, y = numbers([1.5, -0.5])
    assert y < x
    assert x >= 1.5
    assert x == Fraction(3, 2)
    assert x != y
    assert np.maximum(numbers([1.5]), numbers([2.0]))[0].value == 2
    assert math.floor(x) == 1
    assert math.ceil(y) == 0


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sin", "cos", "sqrt"])
@given(value=st.floats(0.125, 8, width=32), other=st.floats(0.125, 8, width=32))
def test_functions_are_within_their_bound(name, value, other):
    function = getattr(np, name)
    x, y = numbers([value, other])
    result = function(np.array([x * y + x], object))[0]
    v, w = np.float32(value), np.float32(other)
    exact = function(np.float64(v) * np.float64(w) + np.float64(v))
    u = 2.0**-24
    assert abs(function(v * w + v) - exact) <= result.count * u * result.size * 1.01


@given(value=st.floats(0.125, 8, width=32), other=st.floats(0.125, 8, width=32))
def test_quotients_and_powers_are_within_their_bound(value, other):
    x, y = numbers([value, other])
    v, w = np.float32(value), np.float32(other)
    u = 2.0**-24
    for result, computed, exact in (
        (x / y, v / w, np.float64(v) / np.float64(w)),
        ((x + 1) / (y + 1), (v + 1) / (w + 1), (np.float64(v) + 1) / (np.float64(w) + 1)),
        (3 / x, 3 / v, 3 / np.float64(v)),
        (x / 3, v / 3, np.float64(v) / 3),
        (x**3, v * v * v, np.float64(v) ** 3),
    ):
        assert abs(np.float64(computed) - exact) <= result.count * u * result.size * 1.01


@RANKS
def test_it_counts_what_was_counted_by_hand(rank):
    """On coordinates whose fractions are exact, never more than the bound of deform_conv.

    Where samples are added that are sums themselves (tangents, second order), any order of all
    additions is allowed here, there only any order within a sum: up to twice as many.
    """
    shape = ((6,), (4, 3), (3, 2, 2))[rank - 1]
    geometry = make_geometry(
        shape, (2,) * rank, channels=2, out_channels=2, pad=((1, 1),) * rank, offset_groups=2
    )
    case = deform_conv_case(*geometry, 1, "interior")
    offset = np.round(case.arrays["offset"] * 2**16) / 2**16
    case = case.with_array("offset", offset).astype(np.float32)
    by_hand, by_itself = bounds.expected(case), counted.expected(case)
    assert by_hand.keys() == by_itself.keys()
    for name, bound in by_hand.items():
        np.testing.assert_array_equal(by_itself[name].value, bound.value)
        most = 1 if name.startswith(("output of", "grad_")) or name == "output" else 2
        assert (by_itself[name].bound <= most * bound.bound).all(), name
        if bound.bound.any():
            assert by_itself[name].bound.sum() > 0.3 * bound.bound.sum(), name


@pytest.mark.parametrize("operation", ["sample", "splat"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_one_wrong_position_is_outside_the_bound(operation, dtype):
    case = sample_case(operation, (5, 6), 2, share=2, output=(4,)).astype(dtype)
    position = case.arrays["position"].copy()
    steepest = np.argmax(np.abs(counted.reference(case)["grad_position"].astype(np.float64)))
    position.flat[steepest] += 2.0 ** (-3 if np.dtype(dtype).itemsize == 2 else -6)
    moved = counted.reference(case.with_array("position", position))
    judged = {n: result.units(moved[n]) for n, result in counted.expected(case).items()}
    first = "input" if operation == "sample" else "values"
    assert judged["output"] > 1
    assert judged[f"grad_{first}"] > 1
    assert judged["second_grad_output"] > 1


def test_bounds_of_sampling_are_not_loose():
    worst = {}
    for seed, operation in enumerate(["sample", "splat"] * 3):
        case = sample_case(operation, (4, 5), seed, share=2).astype(np.float32)
        computed = counted.reference(case)
        for name, result in counted.expected(case).items():
            key = operation, name
            worst[key] = max(worst.get(key, 0), result.units(computed[name]))
    assert all(0.02 < units <= 1 for units in worst.values()), worst


@pytest.mark.parametrize("operation", SAMPLE, ids=lambda operation: operation.name)
@pytest.mark.parametrize("kind", ["dyadic", "kinks", "dyadic interior"])
@given(data=st.data())
def test_dyadic_samples_are_exact_in_any_order(operation, kind, data):
    fits(data.draw(operation.cases(kind)), kind)


@pytest.mark.parametrize("operation", SAMPLE, ids=lambda operation: operation.name)
def test_dyadic_examples_of_sampling_are_exact_in_any_order(operation):
    for make in operation.examples.values():
        fits(make("dyadic"), "dyadic")


def fits(case, kind):
    """Sums of absolute values, in units of the smallest fraction, fit the significand."""
    rank = case.arrays["position"].shape[-1]
    bits = {"dyadic": FRACTION_BITS[rank], "kinks": 0, "dyadic interior": 3}[kind]
    smallest = 2.0 ** -(rank * (bits + 1))  # a fraction and half a slope per axis
    significand = 2.0 ** (53 if kind == "dyadic interior" else 24)
    results = counted.reference(case.map(lambda array: counted.counted(array, np.float64)))
    for name, (size, _) in counted.sizes_and_counts(results).items():
        assert np.max(size, initial=0) / smallest <= significand, name


@pytest.mark.parametrize("operation", LOCAL_CONV, ids=lambda operation: operation.name)
@given(data=st.data())
def test_dyadic_local_convolutions_are_exact_in_any_order(operation, data):
    fits_as_deform_conv(data.draw(operation.cases("dyadic")))


@pytest.mark.parametrize("operation", LOCAL_CONV, ids=lambda operation: operation.name)
def test_dyadic_examples_of_local_convolution_are_exact_in_any_order(operation):
    for make in operation.examples.values():
        fits_as_deform_conv(make("dyadic"))


def fits_as_deform_conv(case):
    rank = case.geometry.rank
    sizes = bounds.sizes_and_counts(as_deform_conv(case))[0]
    smallest = 2.0 ** -(rank * (FRACTION_BITS[rank] + 1) + 1)
    assert all(np.max(s, initial=0) / smallest <= 2.0**24 for s in sizes.values())


def census(cases, features):
    seen = {}

    @settings(max_examples=200, derandomize=True, database=None)
    @given(case=cases)
    def count(case):
        for feature, present in features(case).items():
            seen[feature] = seen.get(feature, 0) + bool(present)

    count()
    assert all(seen.values()), seen


def test_census_of_samples():
    def features(case):
        p, deriv = case.arrays["position"], case.options["deriv"]
        return {
            **{f"rank {n}": p.shape[-1] == n for n in (1, 2, 3)},
            "empty batch": p.shape[0] == 0,
            "groups": p.shape[1] > 1,
            "groups of channels": case.arrays["input"].shape[1] > p.shape[1],
            "taps": p.shape[2] > 1,
            "no output axis": p.ndim == 4,
            "two output axes": p.ndim == 6,
            "no positions": 0 in p.shape[1:],
            "some deriv": deriv is not None and any(deriv),
            "all deriv": deriv is not None and all(deriv),
            "a zero tangent": len(case.tangents) < 2,
            "outside": (p < -1).any(),
            **{m: case.options["mode"] == m for m in ("zeros", "clip_zero", "border")},
            **{k: case.options["kink"] == k for k in ("right", "open", "mean")},
        }

    census(sample_cases("sample", "dyadic"), features)


def test_census_of_local_convolutions():
    def features(case):
        g = case.geometry
        kernel = case.arrays["kernel"].shape[-2 if g.channels_last else 1]
        offset = case.arrays["offset"]
        channels = 0 if offset is None else offset.shape[-1 if g.channels_last else 1]
        groups = channels // (g.taps * 2)
        return {
            "empty batch": g.batch == 0,
            "plain": offset is None,
            "kernel groups": kernel > 1,
            "offset groups": groups > 1,
            "groups that do not divide each other": {kernel, groups} == {2, 3},
            "upscaled": max(g.upscale) > 1,
            "channels last": g.channels_last,
            "kernel_size inferred": case.options["kernel_size"] is None,
            "asymmetric kernel": len(set(g.kernel)) > 1,
            "a zero tangent": len(case.tangents) < len(case.names),
        }

    census(local_conv_cases(2, "dyadic"), features)


def plain(array, move):
    return Case(
        operation="",
        arrays={"a": array},
        options={},
        grad_output=array,
        tangents={},
        moves={"a": move},
    )


def test_smooth_differences_are_of_eighth_order():
    """Exact for polynomials of degree 8, where a central difference is not."""
    case = plain(np.array([0.5, -1.25]), Move(2.0**-3, smooth=True))
    ones = np.ones(2)
    for power in range(1, 9):
        derivative = difference(lambda c, n=power: c.arrays["a"] ** n, case, "a", ones)
        exact = power * case.arrays["a"] ** (power - 1)
        np.testing.assert_allclose(derivative, exact, rtol=1e-12, atol=1e-13)
    ninth = difference(lambda c: c.arrays["a"] ** 9, case, "a", ones)
    assert np.abs(ninth - 9 * case.arrays["a"] ** 8).max() > 1e-8


def test_steps_of_their_own_per_entry():
    step = np.array([0.25, 0.0625])
    case = plain(np.array([2.0, 3.0]), Move(step))
    direction = np.array([1.0, -1.0])
    derivative = difference(lambda c: c.arrays["a"] * [5, 7], case, "a", direction)
    np.testing.assert_array_equal(derivative, tangent(case, "a", direction) * [5, 7])
    np.testing.assert_array_equal(tangent(case, "a", direction), [1, -0.25])


def test_directions_keep_to_one_part():
    case = plain(np.zeros((4, 6)), Move(0.25, np.arange(6) % 3))
    found = list(directions(case, "a", seed=0))
    assert len(found) == 3
    for label, direction in enumerate(found):
        assert set(np.nonzero(direction.any(axis=0))[0] % 3) <= {label}
    assert sum(np.abs(direction) for direction in found).max() == 1


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_entries_of_the_contract_are_complete(operation):
    """Every one is public, is drawn from, and names all that it does not try."""
    for kind in ("", "_backward", "_jvp", "_double_backward"):
        assert callable(attrgetter(operation.name + kind)(pydeform))
    assert "random" not in operation.exact
    assert {"float64", "float32"} <= set(operation.dtypes)
    assert set(operation.backends) == {"ref", "cpu", "emulated"}
    assert operation.differences
