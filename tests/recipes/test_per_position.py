"""Kernels per position against loops over positions."""

import numpy as np
import pytest
from scipy.special import softmax

from pydeform import recipes
from pydeform.recipes._namespace import convolve


def windows(x, kernel, stride=1, pad=0):
    """What each tap reads: x [N, C, H, W] -> [N, C, Ho, Wo, *kernel]."""
    padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    found = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
    return found[:, :, ::stride, ::stride]


def layer(x, weight):
    """A 1 x 1 convolution: x [N, C, *S], weight [M, C]."""
    return np.einsum("mc,nc...->nm...", weight, x)


def filtered(x, kernels, stride=1, pad=0):
    """kernels [N, G, ky, kx, Ho, Wo], each group for C/G channels in a row."""
    kernels = np.repeat(kernels, x.shape[1] // kernels.shape[1], axis=1)
    read = windows(x, kernels.shape[2:4], stride, pad)
    return np.einsum("ncyxij,ncijyx->ncyx", read, kernels)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_dynamic_local_filter(normal, check_gradients):
    x, features, generator, bias = normal((2, 4, 6, 5), (2, 3, 4, 3), (18, 3), (18,))
    for normalise in (False, True):
        found = check_gradients(
            recipes.dynamic_local_filter, x, features, generator, bias,
            affine=(0,) if normalise else (0, 1, 2, 3), groups=2, normalise=normalise,
        )  # fmt: skip
        kernels = (layer(features, generator) + bias[:, None, None]).reshape(2, 2, 9, 4, 3)
        if normalise:
            kernels = softmax(kernels, axis=2)
        close(found, filtered(x, kernels.reshape(2, 2, 3, 3, 4, 3)))


@pytest.mark.parametrize("stride", [1, 2])
def test_involution(stride, normal, check_gradients):
    x, reduce, span = normal((2, 4, 6, 4), (3, 4), (18, 3))
    options = {"kernel_size": 3, "groups": 2, "stride": stride}
    found = check_gradients(recipes.involution, x, reduce, span, affine=(2,), **options)
    cells = x.reshape(2, 4, 6 // stride, stride, 4 // stride, stride).mean(axis=(3, 5))
    kernels = layer(np.maximum(layer(cells, reduce), 0), span)
    kernels = kernels.reshape(2, 2, 3, 3, 6 // stride, 4 // stride)
    close(found, filtered(x, kernels, stride, 1))


def test_carafe(normal, check_gradients):
    x, compress, encode, bias = normal((2, 3, 4, 3), (2, 3), (36, 2, 3, 3), (36,))
    found = check_gradients(recipes.carafe, x, compress, encode, bias, affine=())
    logits = np.einsum("ncyxij,ocij->noyx", windows(layer(x, compress), (3, 3), 1, 1), encode)
    logits += bias[:, None, None]
    read = windows(x, (3, 3), 1, 1).reshape(2, 3, 4, 3, 9)
    expected = np.empty((2, 3, 8, 6))
    for y, z in np.ndindex(8, 6):
        within = (y % 2) * 2 + z % 2  # the new pixel's place within the old one
        kernel = softmax(logits[:, within::4, y // 2, z // 2], axis=1)
        expected[:, :, y, z] = np.einsum("nk,nck->nc", kernel, read[:, :, y // 2, z // 2])
    close(found, expected)


def test_kernel_prediction(normal, check_gradients):
    burst, kernels = normal((2, 3, 5, 4), (2, 3, 9, 5, 4))
    found = check_gradients(recipes.kernel_prediction, burst, kernels, affine=(0, 1))
    frames = filtered(burst, kernels.reshape(2, 3, 3, 3, 5, 4), pad=1)
    close(found, frames.mean(axis=1, keepdims=True))


def test_separable_adaptive_conv(normal, check_gradients):
    x, vertical, horizontal = normal((2, 3, 6, 7), (2, 3, 4, 3), (2, 5, 4, 3))
    found = check_gradients(
        recipes.separable_adaptive_conv, x, vertical, horizontal, affine=(0, 1, 2)
    )
    close(found, np.einsum("nihw,njhw,nchwij->nchw", vertical, horizontal, windows(x, (3, 5))))


def test_pixel_adaptive_conv(normal, check_gradients):
    x, guide, weight, bias = normal((2, 3, 6, 5), (2, 2, 6, 5), (4, 3, 3, 3), (4,))
    found = check_gradients(
        recipes.pixel_adaptive_conv, x, guide, weight, bias, affine=(0, 2, 3), padding=1, stride=2
    )
    around = windows(guide, (3, 3), 2, 1)
    distance = ((around - around[..., 1:2, 1:2]) ** 2).sum(axis=1)
    read = windows(x, (3, 3), 2, 1)
    expected = np.einsum("nyxij,ncyxij,ocij->noyx", np.exp(-distance / 2), read, weight)
    close(found, expected + bias[:, None, None])


@pytest.mark.parametrize("size", [(7,), (5, 6), (4, 3, 5)])
def test_a_constant_guide_is_a_convolution(size, normal):
    x, weight = normal((2, 4, *size), (6, 2, *(3 for _ in size)))
    options = {"stride": 2, "dilation": 1, "groups": 2}
    guide = np.full((2, 2, *size), 0.7)
    found = recipes.pixel_adaptive_conv(x, guide, weight, **options)
    np.testing.assert_array_equal(found, convolve(x, weight, **options))


def test_a_constant_guide_is_a_convolution_with_padding(normal):
    """Samples beside the image count 0 whatever the guide's factor is there."""
    x, weight = normal((2, 3, 5, 6), (4, 3, 3, 3))
    found = recipes.pixel_adaptive_conv(x, np.full((2, 2, 5, 6), 0.7), weight, padding=1)
    np.testing.assert_array_equal(found, recipes.deform_conv2d(x, None, weight, padding=1))


def test_lightweight_conv(normal, check_gradients):
    x, weight, bias = normal((2, 6, 8), (3, 3), (6,))
    for padding, before in (("same", 1), (((2, 0),), 2)):
        found = check_gradients(
            recipes.lightweight_conv, x, weight, bias, affine=(0, 2), padding=padding
        )
        padded = np.pad(x, [(0, 0), (0, 0), (before, 2 - before)])
        kernels = softmax(weight, axis=1)
        expected = np.empty_like(x)
        for c, t in np.ndindex(6, 8):
            expected[:, c, t] = padded[:, c, t : t + 3] @ kernels[c // 2] + bias[c]
        close(found, expected)


def test_dynamic_conv1d(normal, check_gradients):
    x, projection = normal((2, 6, 7), (9, 6))
    for padding, before in (("same", 1), (((2, 0),), 2)):
        found = check_gradients(recipes.dynamic_conv1d, x, projection, heads=3, padding=padding)
        padded = np.pad(x, [(0, 0), (0, 0), (before, 2 - before)])
        expected = np.empty_like(x)
        for n, c, t in np.ndindex(2, 6, 7):
            scores = (projection @ x[n, :, t]).reshape(3, 3)[c // 2]
            expected[n, c, t] = padded[n, c, t : t + 3] @ softmax(scores)
        close(found, expected)


def test_kernels_that_depend_on_nothing_are_lightweight(normal):
    """A dynamic convolution whose projection sees a constant channel only."""
    x, weight = normal((2, 4, 7), (2, 3))
    ones = np.concat([np.ones((2, 1, 7)), x[:, 1:]], axis=1)
    projection = np.zeros((6, 4))
    projection[:, 0] = weight.ravel()
    close(recipes.dynamic_conv1d(ones, projection, heads=2), recipes.lightweight_conv(ones, weight))


def zeros(*shape):
    return np.zeros(shape)


X = np.ones((2, 4, 6, 5))
BAD = [
    (recipes.involution, (X, zeros(2, 4), zeros(8, 2)), {"kernel_size": 3}, "span: expected shape"),
    (recipes.involution, (X, zeros(2, 4), zeros(4, 2)), {"kernel_size": 2}, "an odd number, got 2"),
    (
        recipes.involution,
        (X, zeros(2, 4), zeros(9, 2)),
        {"kernel_size": 3, "stride": 4},
        "stride: expected a divisor of 6 and 5, got 4",
    ),
    (recipes.carafe, (X, zeros(2, 4), zeros(16, 2, 3, 3)), {}, "encode: expected k"),
    (recipes.carafe, (X, zeros(2, 4), zeros(37, 2, 3, 3)), {}, "encode: expected k"),
    (recipes.pixel_adaptive_conv, (X, X[:1], zeros(1, 4, 3, 3)), {}, "guide: expected shape"),
    (
        recipes.pixel_adaptive_conv,
        (X, X, zeros(1, 4, 2, 3)),
        {},
        "weight: expected a kernel of odd",
    ),
    (recipes.lightweight_conv, (X[0], zeros(4, 3)), {}, "weight: expected heads that divide the 6"),
    (recipes.dynamic_conv1d, (X[0], zeros(7, 6)), {"heads": 2}, "projection: expected a multiple"),
    (recipes.dynamic_conv1d, (X, zeros(6, 6)), {"heads": 2}, "input: expected 3 dimensions"),
    (recipes.kernel_prediction, (X, X), {}, "kernels: expected 5 dimensions"),
    (recipes.separable_adaptive_conv, (X, X[0], X), {}, "vertical: expected 4 dimensions"),
    (recipes.dynamic_local_filter, (X, X[0], X), {}, "features: expected 4 dimensions"),
]


@pytest.mark.parametrize(("recipe", "args", "options", "message"), BAD)
def test_bad_input_is_named(recipe, args, options, message):
    with pytest.raises(ValueError, match=message):
        recipe(*args, **options)
