"""Blended convolutions against scipy, and what they are where one branch has all the weight."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from scipy.signal import correlate2d
from scipy.special import softmax

import pydeform
from pydeform import parts, recipes


def convolution(x, weight, dilation=1):
    """Of the size of x, by scipy: x [N, C, H, W], weight [Co, C, k, k] spread out by zeros."""
    k = weight.shape[-1]
    spread = np.zeros((*weight.shape[:2], (k - 1) * dilation + 1, (k - 1) * dilation + 1))
    spread[..., ::dilation, ::dilation] = weight
    return np.array(
        [
            [sum(correlate2d(a, b, "same") for a, b in zip(image, w, strict=True)) for w in spread]
            for image in x
        ]
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_switchable_atrous_conv(stride, normal, check_gradients):
    x, weight, delta, switch, switch_bias, bias = normal(
        (2, 3, 8, 7), (2, 3, 3, 3), (2, 3, 3, 3), (1, 3), (1,), (2,)
    )
    found = check_gradients(
        recipes.switchable_atrous_conv, x, weight, delta, switch, switch_bias, bias,
        affine=(1, 2, 3, 4, 5), stride=stride,
    )  # fmt: skip
    means = uniform_filter(x, size=(1, 1, 5, 5), mode="nearest")
    s = np.einsum("oc,ncyx->noyx", switch, means) + switch_bias
    expected = s * convolution(x, weight) + (1 - s) * convolution(x, weight + delta, 3)
    expected = (expected + bias[:, None, None])[:, :, ::stride, ::stride]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_switch_of_one_is_the_plain_convolution(normal):
    x, weight, delta = normal((2, 3, 8, 7), (2, 3, 3, 3), (2, 3, 3, 3))
    one = recipes.switchable_atrous_conv(x, weight, delta, np.zeros((1, 3)), np.ones(1))
    np.testing.assert_array_equal(one, pydeform.deform_conv2d(x, None, weight, padding=1))
    none = recipes.switchable_atrous_conv(x, weight, delta, np.zeros((1, 3)))
    far = pydeform.deform_conv2d(x, None, weight + delta, padding=3, dilation=3)
    np.testing.assert_array_equal(none, far)


def test_selective_kernels(normal, check_gradients):
    x, small, wide, squeeze, excite = normal(
        (2, 3, 7, 8), (4, 3, 3, 3), (4, 3, 3, 3), (5, 4), (8, 5)
    )
    x += 1
    found = check_gradients(
        recipes.selective_kernels, x, (small, wide), squeeze, excite, kinks=True, dilations=(1, 2)
    )
    u = np.stack([convolution(x, small), convolution(x, wide, 2)], axis=1)
    hidden = np.maximum(u.sum(axis=1).mean(axis=(2, 3)) @ squeeze.T, 0)
    attention = softmax((hidden @ excite.T).reshape(2, 2, 4), axis=1)
    expected = np.einsum("nbc,nbcyx->ncyx", attention, u)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_one_branch_is_a_convolution(normal):
    x, weight = normal((2, 3, 9), (4, 3, 5))
    found = recipes.selective_kernels(x, [weight], np.ones((2, 4)), np.ones((4, 2)))
    np.testing.assert_array_equal(found, pydeform.deform_conv1d(x, None, weight, padding="same"))


def test_global_context_is_added_to_every_position(normal, check_gradients):
    x, weight, bias = normal((2, 3, 4, 5), (3, 3), (3,))
    found = check_gradients(parts.global_context_residual, x, weight, bias, affine=(0, 1, 2))
    added = x.mean(axis=(2, 3)) @ weight.T + bias
    np.testing.assert_allclose(found - x, np.broadcast_to(added[..., None, None], x.shape),
                               rtol=0, atol=1e-12)  # fmt: skip


def test_bad_input_is_named(normal):
    x, weight = normal((2, 3, 8, 7), (2, 3, 3, 3))
    sac = recipes.switchable_atrous_conv
    with pytest.raises(ValueError, match=r"switch: expected shape \(1, 3\)"):
        sac(x, weight, weight, np.zeros((2, 3)))
    for kernel in [(2, 2), (3, 5)]:
        wrong = np.zeros((2, 3, *kernel))
        with pytest.raises(ValueError, match="weight: expected a square kernel of odd size"):
            sac(x, wrong, wrong, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="input: expected 4 dimensions"):
        sac(x[0], weight, weight, np.zeros((1, 3)))
    sk = recipes.selective_kernels
    with pytest.raises(ValueError, match="weights: expected at least one kernel, got none"):
        sk(x, [], np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="dilations: expected 1, one per kernel, got 2"):
        sk(x, [weight], np.zeros((2, 2)), np.zeros((2, 2)), dilations=(1, 2))
    with pytest.raises(ValueError, match=r"excite: expected shape \(2, 2\)"):
        sk(x, [weight], np.zeros((2, 2)), np.zeros((4, 2)))
