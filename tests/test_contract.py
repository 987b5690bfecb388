"""What every operation promises on every backend.

Operations come from `pydeform.testing.operations`; a new one needs an entry there and nothing here.
"""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pydeform
from pydeform.testing import first_order, second_order
from pydeform.testing.operations import OPERATIONS

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}


def every(argument="", choices=None):
    """Run a test for every operation on each of its backends, and for each of its choices.

    `choices` is a function of an operation.
    """
    names = ["operation", "backend", *([argument] if argument else [])]
    rows = [
        pytest.param(
            *(operation, backend, *choice),
            id="-".join((operation.name, backend, *map(str, choice))),
        )
        for operation in OPERATIONS
        for backend in operation.backends
        for choice in ([(c,) for c in choices(operation)] if argument else [()])
    ]
    return pytest.mark.parametrize(names, rows)


every_dtype = every("dtype", lambda operation: operation.dtypes)
# A case that is not empty says that the exact kinds are drawn at all.
every_exact_dtype = every("dtype", lambda operation: operation.dtypes if operation.exact else ())
every_example = every(
    "example",
    lambda operation: [(n, d) for n in operation.examples for d in operation.dtypes],
)
every_exact_example = every(
    "example",
    lambda operation: [
        (n, d) for n in operation.examples for d in operation.dtypes if operation.exact
    ],
)


def evaluate(case, backend):
    with pydeform.use_backend(backend):
        return case.evaluate()


def rounded(case, dtype, data=None):
    """The case in a dtype; 16-bit ones sometimes with offset and mask in float32."""
    wide = data is not None and np.dtype(dtype).itemsize == 2 and data.draw(st.booleans())
    return case.astype(dtype, np.float32 if wide else None)


def assert_same_bits(computed, exact):
    """Equal after one rounding, with NaN equal to NaN; the sign of zero is left free."""
    assert computed.keys() == exact.keys()
    for name, value in exact.items():
        result = computed[name]
        # The exact value fits float32 (float64), so that only the storage type rounds.
        once = value.astype(np.float64 if result.dtype == np.float64 else np.float32)
        np.testing.assert_array_equal(
            result.astype(once.dtype), once.astype(result.dtype).astype(once.dtype), name
        )


def assert_within_bound(computed, expected):
    units = {name: expected[name].units(result) for name, result in computed.items()}
    assert computed.keys() == expected.keys()
    assert max(units.values()) <= 1, units


def check_exact(operation, backend, case):
    exact = operation.reference(case.map(lambda array: array.astype(np.longdouble)))
    results = evaluate(case, backend)
    for name, result in results.items():
        argument = name.removeprefix("grad_").removeprefix("second_")
        like = case.arrays.get(argument)
        assert result.dtype == (case.dtype if like is None else like.dtype), name
    assert_same_bits(results, exact)


@every_exact_dtype
@given(data=st.data())
def test_dyadic_cases_are_exact(operation, backend, dtype, data):
    kind = data.draw(st.sampled_from(operation.exact))
    case = rounded(data.draw(operation.cases(kind)), DTYPES[dtype], data)
    check_exact(operation, backend, case)


@every_exact_example
def test_dyadic_examples_are_exact(operation, backend, example):
    name, dtype = example
    case = operation.examples[name](operation.exact[0])
    check_exact(operation, backend, case.astype(DTYPES[dtype]))


@every_dtype
@given(data=st.data())
def test_random_cases_are_within_the_a_priori_bound(operation, backend, dtype, data):
    case = rounded(data.draw(operation.cases("random")), DTYPES[dtype], data)
    assert_within_bound(evaluate(case, backend), operation.expected_on(backend, case))


@every_example
def test_random_examples_are_within_the_a_priori_bound(operation, backend, example):
    name, dtype = example
    case = operation.examples[name]("random").astype(DTYPES[dtype])
    assert_within_bound(evaluate(case, backend), operation.expected_on(backend, case))


@every("kind", lambda operation: operation.differences)
@given(data=st.data())
def test_first_derivatives_are_finite_differences(operation, backend, kind, data):
    case = data.draw(operation.cases(kind))
    with pydeform.use_backend(backend):
        errors = first_order(case)
    assert max(errors.values()) <= operation.differences[kind], errors


@every("kind", lambda operation: operation.differences)
@given(data=st.data())
def test_second_derivatives_are_finite_differences(operation, backend, kind, data):
    case = data.draw(operation.cases(kind))
    with pydeform.use_backend(backend):
        errors = second_order(case)
    assert max(errors.values()) <= operation.differences[kind], errors


def pairing(one, other):
    """<one, other> over the names that both have, and its size; exact on dyadic values."""
    names = one.keys() & other.keys()
    products = [one[name] * other[name] for name in names]
    return sum(float(np.sum(p)) for p in products), sum(float(np.sum(np.abs(p))) for p in products)


def assert_alike(operation, one, other):
    """Two pairings that are the same number, to the bit where the operation is exact."""
    (value, size), (same, other_size) = one, other
    tolerance = 0.0 if operation.exact else operation.rounding * max(size, other_size)
    assert abs(value - same) <= tolerance


@every()
@given(data=st.data())
def test_backward_is_the_adjoint_of_jvp(operation, backend, data):
    kind = data.draw(st.sampled_from(operation.plain))
    case = data.draw(operation.cases(kind))
    results = evaluate(case, backend)
    forward = pairing({"": case.grad_output}, {"": results["output_tangent"]})
    gradients = {name: results[f"grad_{name}"] for name in case.tangents}
    assert_alike(operation, forward, pairing(gradients, case.tangents))


@every()
@given(data=st.data())
def test_second_derivatives_are_symmetric(operation, backend, data):
    kind = data.draw(st.sampled_from(operation.plain))
    case = data.draw(operation.cases(kind))
    flipped = {name: np.flip(tangent) for name, tangent in case.tangents.items()}
    other = replace(case, tangents=flipped)
    with pydeform.use_backend(backend):
        one, two = case.double_backward(), other.double_backward()
        tangent = case.jvp()[1]
    assert_alike(operation, pairing(one, other.tangents), pairing(two, case.tangents))
    scale = 0.0 if operation.exact else operation.rounding * np.max(np.abs(tangent), initial=0)
    assert np.max(np.abs(one["grad_output"] - tangent), initial=0) <= scale


def strided(array):
    """The same values, transposed in memory, with gaps, backwards, and not to be written."""
    room = np.zeros(tuple(2 * s for s in array.shape[::-1]), array.dtype).T
    view = room[tuple(slice(None, None, -2) for _ in array.shape)]
    view[...] = array
    view.flags.writeable = False
    return view


@every_dtype
@given(data=st.data())
def test_any_strides_and_read_only_memory(operation, backend, dtype, data):
    case = data.draw(operation.cases("random")).astype(DTYPES[dtype])
    results, again = evaluate(case, backend), evaluate(case.map(strided), backend)
    for name, result in results.items():
        np.testing.assert_array_equal(again[name], result, name)


@every()
@given(data=st.data())
def test_each_gradient_alone_is_the_same(operation, backend, data):
    case = data.draw(operation.cases(operation.plain[0]))
    with pydeform.use_backend(backend):
        everything = case.backward() | {"second": case.double_backward()}
        for name in case.names:
            alone = replace(case, options={**case.options, "needs": (name,)})
            for result, whole in (
                (alone.backward(), everything),
                (alone.double_backward(), everything["second"]),
            ):
                assert list(result) == [name]
                np.testing.assert_array_equal(result[name], whole[name], name)


def check_spoiled(operation, backend, case, defined):
    """Exact with NaN and infinities in the results that are `defined`; no stray ones in others.

    Where an infinity meets a zero, it depends on whether sums or products come first, and on
    whether samples that read nothing take part, if the result is NaN. Where the specification
    says a number, it is that number.
    """
    exact = operation.reference(case.map(lambda array: array.astype(np.longdouble)))
    results = evaluate(case, backend)
    strict = {name for name in exact if name.startswith(defined)}
    assert_same_bits(
        {name: results[name] for name in strict}, {name: exact[name] for name in strict}
    )
    for name in exact.keys() - strict:
        finite = np.isfinite(exact[name])
        number = exact[name][finite].astype(results[name].dtype)
        np.testing.assert_array_equal(results[name][finite], number, name)


@every(
    "kind", lambda operation: [(k, d) for k in operation.spoiled for d in ("float64", "float32")]
)
@given(data=st.data())
def test_nan_and_infinity(operation, backend, kind, data):
    kind, dtype = kind
    case = data.draw(operation.cases(kind)).astype(DTYPES[dtype])
    check_spoiled(operation, backend, case, operation.spoiled[kind])
    with pydeform.use_backend(backend):
        np.testing.assert_array_equal(case.output(), case.jvp()[0])
