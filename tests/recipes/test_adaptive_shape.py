"""Taps that move against scipy's interpolation, one position after the other."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

import pydeform
from pydeform import recipes
from pydeform.recipes._namespace import convolve

PLAIN = [((7,), (3,)), ((6, 5), (3, 3)), ((4, 3, 5), (3, 1, 3))]


def read(image, points, mode="grid-constant"):
    """Linear interpolation of one channel at points [n, ...], by scipy."""
    return map_coordinates(image, points, order=1, mode=mode)


def by_taps(x, weight, places, mode="grid-constant"):
    """places [N, K, n, *O], weight [Co, C, K] -> [N, Co, *O]."""
    samples = np.array(
        [
            [[read(c, p, mode) for p in taps] for c in image]
            for image, taps in zip(x, places, strict=True)
        ]
    )
    return np.einsum("ock,nck...->no...", weight, samples)


def layer(x, weight, bias, stride=1):
    """Of the size of x / stride, on windows."""
    k = weight.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), *((size // 2, size // 2) for size in k)])
    axes = tuple(range(2, x.ndim))
    seen = np.lib.stride_tricks.sliding_window_view(padded, k, axis=axes)
    seen = seen[(slice(None), slice(None), *(slice(None, None, stride) for _ in k))]
    rows = seen.reshape(*seen.shape[: x.ndim], -1)
    found = np.einsum("nc...k,ock->no...", rows, weight.reshape(*weight.shape[:2], -1))
    return found + bias.reshape(-1, *(1 for _ in k))


def grid(out, stride=1):
    """Positions [n, *O] in pixels."""
    return np.stack(np.meshgrid(*(np.arange(o) * stride for o in out), indexing="ij")) * 1.0


def steps(kernel):
    """Taps from the centre, [K, n]."""
    middle = np.array(kernel) // 2
    return np.array([np.array(tap) - middle for tap in np.ndindex(*kernel)])


@pytest.mark.parametrize(("size", "kernel"), PLAIN)
def test_scale_adaptive_conv(size, kernel, normal, check_gradients):
    ones = [1] * len(size)
    x, weight, regressor, log_size, bias = normal(
        (2, 2, *size), (3, 2, *kernel), (1, 2, *kernel), (1,), (3,)
    )
    regressor *= 0.1
    options = {"stride": 2, "dilation": 2}
    found = check_gradients(
        recipes.scale_adaptive_conv, x, weight, regressor, log_size, bias,
        kinks=True, affine=(1, 4), **options,
    )  # fmt: skip
    factor = 2 * np.exp(layer(x, regressor, log_size, 2))  # [N, 1, *O]
    out = factor.shape[2:]
    places = grid(out, 2) + steps(kernel).reshape(1, -1, len(size), *ones) * factor[:, None]
    expected = by_taps(x, weight.reshape(3, 2, -1), places) + bias.reshape(-1, *ones)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tile", [None, 2])
def test_adaptive_dck(tile, normal, check_gradients):
    x, weight, net, head, head_bias, bias = normal(
        (2, 2, 6, 4), (3, 2, 3, 3), (4, 2, 3, 3), (3, 4), (3,), (3,)
    )
    head *= 0.3
    found = check_gradients(
        recipes.adaptive_dck,
        x,
        weight,
        net,
        head,
        head_bias,
        bias,
        kinks=True,
        affine=(1, 5),
        tile=tile,
    )
    features = np.tanh(layer(x, net, np.zeros(4)))
    if tile:
        features = features.reshape(2, 4, 3, 2, 2, 2).mean(axis=(3, 5))
    chosen = np.einsum("mf,nf...->nm...", head, features) + head_bias[:, None, None]
    if tile:
        chosen = chosen.repeat(2, axis=2).repeat(2, axis=3)
    size, shift = np.exp(chosen[:, None, 2:]), chosen[:, None, :2]
    places = grid((6, 4)) + shift + steps((3, 3)).reshape(1, 9, 2, 1, 1) * size
    expected = by_taps(x, weight.reshape(3, 2, 9), places) + bias[:, None, None]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "kernel"), PLAIN)
def test_a_head_of_zeros_is_the_plain_convolution_to_the_bit(size, kernel, normal):
    x, weight, net = normal((2, 2, *size), (3, 2, *kernel), (4, 2, *kernel))
    padding = tuple(k // 2 for k in kernel)
    plain = convolve(x, weight, padding=padding)
    head = np.zeros((len(size) + 1, 4))
    np.testing.assert_array_equal(recipes.adaptive_dck(x, weight, net, head), plain)
    scaled = recipes.scale_adaptive_conv(x, weight, np.zeros((1, 2, *kernel)))
    np.testing.assert_array_equal(scaled, plain)


def test_deformable_kernels(normal, check_gradients):
    x, scope, shifts, bias = normal((2, 2, 5, 6), (2, 5, 4), (18, 2, 3, 3), (18,))
    shifts *= 0.1
    found = check_gradients(
        recipes.deformable_kernels, x, scope, shifts, bias, kinks=True, affine=(1,), stride=2
    )
    shift = layer(x, shifts, bias, 2).reshape(2, 9, 2, 3, 3)
    taps = np.array([(1 + i, 0.5 + j) for i, j in np.ndindex(3, 3)])  # the middle of 5 x 4
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    expected = np.empty((2, 2, 3, 3))
    for n, c, y, z in np.ndindex(*expected.shape):
        kernel = read(scope[c], (taps + shift[n, :, :, y, z]).T, "nearest")
        window = padded[n, c, 2 * y : 2 * y + 3, 2 * z : 2 * z + 3]
        expected[n, c, y, z] = np.sum(kernel * window.ravel())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_scope_without_shifts_is_a_depthwise_convolution(normal):
    x, scope = normal((2, 2, 5, 6), (2, 3, 3))
    found = recipes.deformable_kernels(x, scope, np.zeros((18, 2, 1, 1)))
    expected = pydeform.deform_conv2d(x, None, scope[:, None], padding=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("axis", [0, 1])
def test_dynamic_snake_conv(axis, normal, check_gradients):
    kernel = (1, 5) if axis else (5, 1)
    x, weight, shifts, shift_bias, bias = normal(
        (2, 2, 6, 7), (3, 2, *kernel), (5, 2, 3, 3), (5,), (3,)
    )
    shifts *= 0.3
    found = check_gradients(
        recipes.dynamic_snake_conv, x, weight, shifts, shift_bias, bias, kinks=True, affine=(1, 4)
    )
    step = np.tanh(layer(x, shifts, shift_bias))
    across = np.zeros_like(step)
    across[:, 3], across[:, 4] = step[:, 3], step[:, 3] + step[:, 4]
    across[:, 1], across[:, 0] = step[:, 1], step[:, 1] + step[:, 0]
    places = np.broadcast_to(grid((6, 7)), (2, 5, 2, 6, 7)).copy()
    places[:, :, 1 - axis] += across
    places[:, :, axis] += np.arange(-2, 3).reshape(5, 1, 1)
    expected = by_taps(x, weight.reshape(3, 2, 5), places) + bias[:, None, None]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_straight_snake_is_a_convolution(normal):
    x, weight = normal((2, 2, 6, 7), (3, 2, 1, 5))
    found = recipes.dynamic_snake_conv(x, weight, np.zeros((5, 2, 3, 3)))
    np.testing.assert_array_equal(found, pydeform.deform_conv2d(x, None, weight, padding=(0, 2)))


@pytest.mark.parametrize("taps", [1, 3, 5, 9])
def test_ldconv(taps, normal, check_gradients):
    x, weight, shifts, shift_bias, bias = normal(
        (2, 2, 5, 6), (3, 2, taps), (2 * taps, 2, 3, 3), (2 * taps,), (3,)
    )
    shifts *= 0.2
    found = check_gradients(
        recipes.ldconv, x, weight, shifts, shift_bias, bias, kinks=True, affine=(1, 4), stride=2
    )
    start = {1: [(0, 0)], 3: [(0, 0), (0, 1), (1, 0)],
             5: [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)], 9: list(np.ndindex(3, 3))}  # fmt: skip
    shift = layer(x, shifts, shift_bias, 2).reshape(2, taps, 2, 3, 3)
    places = grid((3, 3), 2) + np.array(start[taps]).reshape(1, taps, 2, 1, 1) + shift
    expected = by_taps(x, weight, places, "nearest") + bias[:, None, None]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_nine_taps_without_offsets_are_a_convolution(normal):
    x, weight = normal((2, 2, 5, 6), (3, 2, 9))
    found = recipes.ldconv(x, weight, np.zeros((18, 2, 1, 1)))
    square = weight.reshape(3, 2, 3, 3)
    options = {"padding": ((0, 2), (0, 2)), "mode": "border"}
    np.testing.assert_allclose(
        found, pydeform.deform_conv2d(x, None, square, **options), rtol=0, atol=1e-13
    )


def test_active_convolution(normal, check_gradients):
    x, weight, positions, bias = normal((2, 2, 5, 6), (3, 2, 4), (4, 2), (3,))
    found = check_gradients(
        recipes.active_convolution,
        x,
        weight,
        2 * positions,
        bias,
        kinks=True,
        affine=(0, 1, 3),
        stride=2,
    )
    places = grid((3, 3), 2) + np.broadcast_to(2 * positions[..., None, None], (2, 4, 2, 1, 1))
    expected = by_taps(x, weight, places) + bias[:, None, None]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_active_convolution_is_dilated_convolution_with_learnable_spacings(normal):
    """Reading between pixels is spreading weights over a dense kernel, then convolving."""
    x, weight, positions = normal((2, 2, 5, 6), (3, 2, 4), (4, 2))

    def spacings(x, weight, positions):
        xp = x.__array_namespace__()
        flat = xp.reshape(weight, (1, 6, 4))  # one image of 6 channels, a pixel per tap
        at = xp.reshape(positions + 4, (1, 1, 4, 2))
        dense = xp.reshape(recipes.splat(flat, at, size=(9, 9)), (3, 2, 9, 9))
        return recipes.deform_conv2d(x, None, dense, padding=4)

    active, pull_active = recipes.vjp(recipes.active_convolution, x, weight, positions)
    spaced, pull_spaced = recipes.vjp(spacings, x, weight, positions)
    np.testing.assert_allclose(active, spaced, rtol=0, atol=1e-12)
    gradient = normal(active.shape)
    for one, other in zip(pull_active(gradient), pull_spaced(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def zeros(*shape):
    return np.zeros(shape)


X, W = np.ones((2, 2, 6, 5)), np.ones((3, 2, 3, 3))
BAD = [
    (recipes.scale_adaptive_conv, (X, W[:, :, :2], zeros(1, 2, 1, 1)), "weight: expected a kernel"),
    (recipes.scale_adaptive_conv, (X, W, zeros(1, 2, 2, 1)), "regressor: expected a kernel of odd"),
    (recipes.adaptive_dck, (X, W, W, zeros(2, 3)), r"head: expected shape \(3, 3\)"),
    (recipes.deformable_kernels, (X, zeros(2, 4, 4), zeros(9, 2, 1, 1)), "layer: expected shape"),
    (recipes.deformable_kernels, (X, zeros(4, 4), zeros(18, 2, 1, 1)), "scope: expected 3 dim"),
    (recipes.dynamic_snake_conv, (X, W, zeros(3, 2, 1, 1)), "weight: expected a kernel of 1 x K"),
    (recipes.dynamic_snake_conv, (X, W[:, :, :1, :2], zeros(2, 2, 1, 1)), "weight: expected a ker"),
    (recipes.dynamic_snake_conv, (X, W[:, :, :1], zeros(2, 2, 1, 1)), "layer: expected shape"),
    (recipes.ldconv, (X, W, zeros(6, 2, 1, 1)), "weight: expected 3 dimensions"),
    (recipes.ldconv, (X, W[..., 0], zeros(5, 2, 1, 1)), "layer: expected shape"),
    (recipes.active_convolution, (X, W[..., 0], zeros(3, 3)), "positions: expected shape"),
    (recipes.active_convolution, (X[0], W[..., 0], zeros(3, 2)), "input: expected 4 dimensions"),
]


@pytest.mark.parametrize(("recipe", "args", "message"), BAD)
def test_bad_input_is_named(recipe, args, message):
    with pytest.raises(ValueError, match=message):
        recipe(*args)


@pytest.mark.parametrize("tile", [4, 0, -1])
def test_tiles_divide_the_size(tile):
    with pytest.raises(ValueError, match="tile: expected a divisor of the sizes"):
        recipes.adaptive_dck(X, W, W, zeros(3, 3), tile=tile)


def test_kernels_read_from_a_scope_are_odd():
    with pytest.raises(ValueError, match="kernel_size: expected an odd number, got 2"):
        recipes.deformable_kernels(X, zeros(2, 4, 4), zeros(8, 2, 1, 1), kernel_size=2)
