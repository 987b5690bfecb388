"""Ways of the CUDA kernels that the contract does not take; without a GPU, executed on the CPU."""

import math

import numpy as np
import pytest

import pydeform
from pydeform._gpu import _host, _layout, _sampling
from pydeform.testing.operations import OPERATIONS

PRIMITIVES = ("deform_conv", "local_conv", "sample", "splat")
CASES = [
    pytest.param(make, kind, id=f"{operation.name}-{name}-{kind}")
    for operation in OPERATIONS
    if operation.name.startswith(PRIMITIVES)
    for name, make in operation.examples.items()
    for kind in ("dyadic", "kinks")
]


def evaluate(case):
    with pydeform.use_backend("emulated"):
        return case.evaluate()


def assert_same(results, expected):
    assert results.keys() == expected.keys()
    for name, result in results.items():
        np.testing.assert_array_equal(result, expected[name], name)


@pytest.mark.parametrize(("make", "kind"), CASES)
def test_exact_results_are_those_of_the_cpu(make, kind):
    case = make(kind).astype(np.float32)
    assert_same(evaluate(case), case.evaluate())


@pytest.mark.parametrize(("make", "kind"), CASES)
def test_any_schedule_gives_the_same_bits(make, kind):
    """On random values, where another order of additions shows."""
    case = make("random").astype(np.float32)
    expected = evaluate(case)
    for seed in (1, 20):  # last thread first; any order
        with _host.schedule(seed=seed, threads=2):
            assert_same(evaluate(case), expected)


@pytest.mark.parametrize(("make", "kind"), CASES)
def test_indices_of_64_bits(make, kind, monkeypatch):
    monkeypatch.setattr(_sampling, "_NARROW", 0)
    case = make(kind).astype(np.float32)
    assert_same(evaluate(case), case.evaluate())


@pytest.fixture
def tiny_workspace():
    before = pydeform.get_workspace_limit("cuda")
    pydeform.set_workspace_limit(0, "cuda")
    yield
    pydeform.set_workspace_limit(before, "cuda")


@pytest.mark.parametrize(("make", "kind"), CASES)
@pytest.mark.usefixtures("tiny_workspace")
def test_columns_in_small_chunks(make, kind):
    case = make(kind).astype(np.float64)
    assert_same(evaluate(case), case.evaluate())


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kink", ["right", "mean"])
def test_gradients_by_atomic_additions(rank, kink, dyadic_case, monkeypatch):
    """Exact values add up to the same in any order, and the sorted way is not taken."""
    monkeypatch.setattr(_sampling.Sampling, "_gather", None)
    case = dyadic_case(rank, kink=kink)
    case.options["deterministic"] = False
    with pydeform.use_backend("emulated"):
        found = case.backward()
    assert_same(found, case.backward())


def test_gradients_are_deterministic_unless_told_otherwise(dyadic_case, monkeypatch):
    monkeypatch.setattr(_sampling.Sampling, "_gather", None)
    with pydeform.use_backend("emulated"), pytest.raises(TypeError, match="NoneType"):
        dyadic_case(2).backward()


@pytest.mark.parametrize("shift", [0, 1])
def test_memory_at_any_address(shift):
    """16 bytes are read at once only where all addresses allow it."""
    rng = np.random.default_rng(0)
    room = rng.integers(-2, 3, 1 + 5 * 6 * 8).astype(np.float32)
    image = room[shift : shift + 5 * 6 * 8].reshape(1, 5, 6, 8)
    offset = rng.integers(-4, 5, (1, 5, 6, 18)).astype(np.float32) / 4
    weight = rng.integers(-2, 3, (4, 8, 3, 3)).astype(np.float32)
    arguments = (image, offset, weight, None, 1, 1)
    expected = pydeform.deform_conv2d(*arguments, layout="channels_last")
    with pydeform.use_backend("emulated"):
        found = pydeform.deform_conv2d(*arguments, layout="channels_last")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("fits", [True, False])
def test_half_the_columns_where_memory_is_short(fits, dyadic_case, monkeypatch):
    """A stand-in for a device: memory for so many numbers at a time."""
    case = dyadic_case(2)
    g, empty, tried = case.geometry, _layout.Layout.empty, []
    columns = g.batch * g.channels * g.taps * math.prod(g.out_size)

    def short(layout, *shape, dtype=None):
        size = int(np.prod(shape))
        tried.append(size)
        if size > (columns // 2 if fits else 0):
            raise MemoryError(f"{size} numbers")
        return empty(layout, *shape, dtype=dtype)

    expected = case.output()
    limit = pydeform.get_workspace_limit("cuda")
    pydeform.set_workspace_limit(8 * columns, "cuda")
    monkeypatch.setattr(_layout.Layout, "empty", short)
    try:
        with pydeform.use_backend("emulated"):
            if fits:
                np.testing.assert_array_equal(case.output(), expected)
                assert max(tried) == columns
            else:
                words = rf"deform_conv: no memory for {4 * columns} bytes .* numbers"
                with pytest.raises(MemoryError, match=words):
                    case.output()
    finally:
        pydeform.set_workspace_limit(limit, "cuda")
