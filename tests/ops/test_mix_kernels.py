"""Mixing kernels: its formula, what it is for, and what it refuses."""

import numpy as np
import pytest

import pydeform

SHAPE = (4, 3, 3, 3)


def whole(rng, *shape):
    return rng.integers(-8, 9, shape).astype(np.float64)


def test_it_is_its_formula():
    rng = np.random.default_rng(0)
    weights, experts = whole(rng, 3, 5), whole(rng, 5, *SHAPE)
    found = pydeform.mix_kernels(weights, experts)
    np.testing.assert_array_equal(found, np.einsum("ne,e...->n...", weights, experts))


def test_one_hot_weights_choose_an_expert():
    experts = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)
    found = pydeform.mix_kernels(np.eye(3, dtype=np.float32)[[2, 0]], experts)
    np.testing.assert_array_equal(found, experts[[2, 0]])


def test_mixing_kernels_is_mixing_outputs():
    rng = np.random.default_rng(2)
    x, weights, experts = whole(rng, 2, 3, 6, 7), whole(rng, 2, 3), whole(rng, 3, *SHAPE)
    mixed = pydeform.mix_kernels(weights, experts)
    found = pydeform.deform_conv2d(x, None, mixed, padding=1)
    outputs = [pydeform.deform_conv2d(x, None, expert, padding=1) for expert in experts]
    expected = sum(weights[:, e, None, None, None] * y for e, y in enumerate(outputs))
    np.testing.assert_array_equal(found, expected)


def test_the_gradients():
    rng = np.random.default_rng(3)
    weights, experts = whole(rng, 3, 5), whole(rng, 5, *SHAPE)
    grad = whole(rng, 3, *SHAPE)
    found = pydeform.mix_kernels_backward(grad, weights, experts)
    np.testing.assert_array_equal(found.weights, np.tensordot(grad, experts, ((1, 2, 3, 4),) * 2))
    np.testing.assert_array_equal(found.experts, np.einsum("ne,n...->e...", weights, grad))


def test_an_empty_batch():
    found = pydeform.mix_kernels(np.zeros((0, 2)), np.ones((2, 3)))
    assert found.shape == (0, 3)
    grads = pydeform.mix_kernels_backward(found, np.zeros((0, 2)), np.ones((2, 3)))
    assert grads.weights.shape == (0, 2)
    np.testing.assert_array_equal(grads.experts, np.zeros((2, 3)))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_16_bits_are_storage(name):
    """Sums in float32, rounded once: the same bits as converting there and back."""
    dtype = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(4)
    weights, experts = (rng.normal(size=s).astype(dtype) for s in ((2, 9), (9, 50)))
    found = pydeform.mix_kernels(weights, experts)
    single = [a.astype(np.float32) for a in (weights, experts)]
    np.testing.assert_array_equal(found, pydeform.mix_kernels(*single).astype(dtype))
    assert found.dtype == dtype
    grads = pydeform.mix_kernels_backward(found, weights, experts)
    expected = pydeform.mix_kernels_backward(found.astype(np.float32), *single)
    for grad, other in zip(grads, expected, strict=True):
        np.testing.assert_array_equal(grad, other.astype(dtype))


W, E = np.ones((2, 3)), np.ones((3, 4))
REFUSED = {
    "length": (np.ones((2, 4)), E, ValueError, "weights: expected shape (N, 3) | got (2, 4)"),
    "flat": (np.ones(3), E, ValueError, "weights: expected shape (N, 3) | got (3,)"),
    "no expert": (np.ones((2, 0)), np.ones((0, 4)), ValueError, "experts: | at least one expert"),
    "scalar": (W, np.ones(()), ValueError, "experts: expected shape (E, *kernel)"),
    "mixed": (W, E.astype(np.float32), TypeError, "weights float64, experts float32"),
    "int": (W.astype(int), E, TypeError, "weights: expected one of | got int64"),
    "list": (W, [1.0], TypeError, "experts: expected an array | got list"),
    "none": (None, E, TypeError, "weights: expected an array | got None"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    weights, experts, error, words = REFUSED[case]
    with pytest.raises(error) as caught:
        pydeform.mix_kernels(weights, experts)
    message = str(caught.value)
    assert [word for word in words.split(" | ") if word not in message] == [], message
