"""Mixed kernels against loops over samples and experts."""

import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import expit, softmax

from pydeform import recipes


def convolution(x, w):
    """Without padding, by scipy: x [C, *S], w [Co, C, *k]."""
    return np.stack([sum(correlate(a, b, "valid") for a, b in zip(x, k, strict=True)) for k in w])


def by_sample(x, kernels):
    return np.stack([convolution(a, w) for a, w in zip(x, kernels, strict=True)])


def pooled(x):
    return x.reshape(*x.shape[:2], -1).mean(axis=-1)


SIZES = [((9,), (3,)), ((6, 5), (3, 2)), ((4, 3, 5), (2, 3, 2))]


@pytest.mark.parametrize(("size", "kernel"), SIZES)
def test_dynamic_filter(size, kernel, normal, check_gradients):
    x, features, generator, bias = normal(
        (2, 3, *size), (2, 4), (4, 2, 3, *kernel), (2, 3, *kernel)
    )
    found = check_gradients(
        recipes.dynamic_filter, x, features, generator, bias, affine=(0, 1, 2, 3)
    )
    kernels = np.tensordot(features, generator, 1) + bias
    np.testing.assert_allclose(found, by_sample(x, kernels), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "kernel"), SIZES)
def test_cond_conv(size, kernel, normal, check_gradients):
    x, experts, routing, bias = normal((2, 3, *size), (4, 2, 3, *kernel), (4, 3), (4,))
    found = check_gradients(recipes.cond_conv, x, experts, routing, bias, affine=(1,))
    routes = expit(pooled(x) @ routing.T + bias)
    expected = sum(
        routes[:, e].reshape(-1, 1, *(1 for _ in size)) * by_sample(x, [experts[e]] * 2)
        for e in range(4)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_one_hot_routes_choose_an_expert(normal):
    x, experts = normal((2, 3, 6, 5), (4, 2, 3, 3, 2))
    chosen = np.where(np.arange(4) == 2, 1e3, -1e3)  # the sigmoid is exactly 1 and 0
    found = recipes.cond_conv(x, experts, np.zeros((4, 3)), chosen)
    expected = recipes.deform_conv2d(x, None, experts[2])
    np.testing.assert_array_equal(found, expected)
    found = recipes.dynamic_conv(x, experts, np.zeros((2, 3)), np.zeros((4, 2)), chosen)
    assert np.max(np.abs(found - expected)) < 1e-12


@pytest.mark.parametrize(("size", "kernel"), SIZES)
def test_dynamic_conv(size, kernel, normal, check_gradients):
    x, experts, squeeze, excite, excite_bias, biases = normal(
        (2, 3, *size), (4, 2, 3, *kernel), (5, 3), (4, 5), (4,), (4, 2)
    )
    x += 1  # so that the rectifier passes something
    found = check_gradients(
        recipes.dynamic_conv, x, experts, squeeze, excite, excite_bias, biases,
        affine=(1, 5), temperature=2.0,
    )  # fmt: skip
    hidden = np.maximum(pooled(x) @ squeeze.T, 0)
    attention = softmax((hidden @ excite.T + excite_bias) / 2, axis=1)
    expected = by_sample(x, np.einsum("ne,e...->n...", attention, experts))
    expected += (attention @ biases).reshape(2, 2, *(1 for _ in size))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "kernel"), SIZES)
def test_odconv(size, kernel, normal, check_gradients):
    taps = int(np.prod(kernel))
    x, experts, squeeze = normal((2, 3, *size), (4, 2, 3, *kernel), (5, 3))
    heads = normal((taps, 5), (3, 5), (2, 5), (4, 5))
    x += 1
    found = check_gradients(recipes.odconv, x, experts, squeeze, *heads, affine=(1,))
    hidden = np.maximum(pooled(x) @ squeeze.T, 0)
    spatial, channel, filters = (expit(hidden @ head.T) for head in heads[:3])
    mixing = softmax(hidden @ heads[3].T, axis=1)
    flat = experts.reshape(4, 2, 3, taps)
    kernels = np.einsum("ne,nk,nc,no,eock->nock", mixing, spatial, channel, filters, flat)
    expected = by_sample(x, kernels.reshape(2, 2, 3, *kernel))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_groups_and_strides_pass_through(normal, check_gradients):
    x, experts, routing = normal((2, 4, 6, 5), (3, 2, 2, 3, 3), (3, 4))
    options = {"stride": 2, "padding": 1, "groups": 2}
    found = check_gradients(recipes.cond_conv, x, experts, routing, affine=(1,), **options)
    assert found.shape == (2, 2, 3, 3)


def test_bad_input_is_named(normal):
    x, experts = normal((2, 3, 6, 5), (4, 2, 3, 3, 3))
    with pytest.raises(ValueError, match=r"routing: expected shape \(4, 3\) \(experts, channels\)"):
        recipes.cond_conv(x, experts, np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"excite: expected shape \(4, 2\)"):
        recipes.dynamic_conv(x, experts, np.zeros((2, 3)), np.zeros((3, 2)))
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature: expected a positive number"):
            recipes.dynamic_conv(
                x, experts, np.zeros((2, 3)), np.zeros((4, 2)), temperature=temperature
            )
    heads = [np.zeros(shape) for shape in [(9, 2), (3, 2), (2, 2), (4, 2)]]
    for i, name in enumerate(("spatial", "channel", "filter", "kernel")):
        wrong = list(heads)
        wrong[i] = np.zeros((7, 2))
        with pytest.raises(ValueError, match=f"{name}: expected shape"):
            recipes.odconv(x, experts, np.zeros((2, 3)), *wrong)
    with pytest.raises(TypeError, match=r"routing: expected an array with __array_namespace__"):
        recipes.cond_conv(x, experts, [[0.0]])
    with pytest.raises(ValueError, match="input: expected 3, 4 or 5 dimensions"):
        recipes.dynamic_filter(np.ones((2, 3)), np.ones((2, 1)), np.ones((1, 2, 3)))
