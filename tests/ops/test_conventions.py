"""Converters: each against a loop over the other library's formula, and there and back."""

import numpy as np
import pytest

import pydeform
from pydeform import conventions

G, KH, KW, N, H, W = 2, 3, 2, 2, 3, 4
K = KH * KW


def ours(groups=G, kernel=(KH, KW), dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    taps = kernel[0] * kernel[1]
    offset = rng.normal(size=(N, groups * taps * 2, H, W)).astype(dtype)
    return offset, rng.normal(size=(N, groups * taps, H, W)).astype(dtype)


def bits(found, expected):
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_chainer():
    """Channel tap is x, channel K + tap is y."""
    offset, _ = ours(groups=1)
    theirs = conventions.to_chainer(offset, kernel_size=(KH, KW))
    for n, tap, i, j in np.ndindex(N, K, H, W):
        assert theirs[n, tap, i, j] == offset[n, 2 * tap + 1, i, j]
        assert theirs[n, K + tap, i, j] == offset[n, 2 * tap, i, j]
    bits(conventions.from_chainer(theirs, kernel_size=(KH, KW)), offset)
    bits(
        conventions.to_chainer(
            conventions.from_chainer(offset, kernel_size=(KH, KW)), kernel_size=(KH, KW)
        ),
        offset,
    )


def test_mindspore():
    """Channel ((component*G + g)*kH + row)*kW + column, components x, y and mask."""
    offset, mask = ours()
    theirs = conventions.to_mindspore(offset, mask, kernel_size=(KH, KW))
    assert theirs.shape == (N, 3 * G * K, H, W)
    for n, g, row, col, i, j in np.ndindex(N, G, KH, KW, H, W):
        tap = (g * KH + row) * KW + col
        assert theirs[n, tap, i, j] == offset[n, 2 * tap + 1, i, j]
        assert theirs[n, G * K + tap, i, j] == offset[n, 2 * tap, i, j]
        assert theirs[n, 2 * G * K + tap, i, j] == mask[n, tap, i, j]
    back = conventions.from_mindspore(theirs, kernel_size=(KH, KW))
    bits(back.offset, offset)
    bits(back.mask, mask)
    bits(conventions.to_mindspore(*back, kernel_size=(KH, KW)), theirs)
    unmasked = conventions.to_mindspore(offset, kernel_size=(KH, KW))
    bits(unmasked[:, : 2 * G * K], theirs[:, : 2 * G * K])
    assert (unmasked[:, 2 * G * K :] == 1).all()


def walk(kernel, removed):
    """Taps of versions 3 and 4 in their order: their number, row and column."""
    found = []
    for col in range(kernel[1]):
        for row in range(kernel[0]):
            if not (removed and (row, col) == (kernel[0] // 2, kernel[1] // 2)):
                found.append((len(found), row, col))
    return found


@pytest.mark.parametrize("kernel", [(3, 2), (3, 5)])
@pytest.mark.parametrize("removed", [False, True])
def test_dcnv3_and_dcnv4(kernel, removed):
    if removed and kernel == (3, 2):
        kernel = (1, 3)
    offset, mask = ours(kernel=kernel)
    height, width = kernel
    if removed:
        center = (height // 2) * width + width // 2
        mask.reshape(N, G, -1, H, W)[:, :, center] = 0
        offset.reshape(N, G, -1, 2, H, W)[:, :, center] = 0
    options = {"kernel_size": kernel, "remove_center": removed}
    three = conventions.to_dcnv3(offset, mask, **options)
    four = conventions.to_dcnv4(offset, mask, **options)
    taps = height * width - removed
    assert three.offset.shape == (N, H, W, G * taps * 2)
    assert four.shape == (N, H, W, -(-G * taps * 3 // 8) * 8)
    for n, g, i, j in np.ndindex(N, G, H, W):
        pointer = g * taps * 3
        for tap, row, col in walk(kernel, removed):
            number = g * height * width + row * width + col
            y, x = offset[n, 2 * number, i, j], offset[n, 2 * number + 1, i, j]
            factor = mask[n, number, i, j]
            assert tuple(three.offset[n, i, j, (g * taps + tap) * 2 :][:2]) == (x, y)
            assert three.mask[n, i, j, g * taps + tap] == factor
            assert tuple(four[n, i, j, pointer + 2 * tap :][:2]) == (x, y)
            assert four[n, i, j, pointer + 2 * taps + tap] == factor
    assert not four[..., G * taps * 3 :].any()
    for back in (
        conventions.from_dcnv3(*three, **options),
        conventions.from_dcnv4(four, group=G, **options),
    ):
        bits(back.offset, offset)
        bits(back.mask, mask)
    bits(conventions.to_dcnv4(*conventions.from_dcnv3(*three, **options), **options), four)
    ones = conventions.to_dcnv3(offset, kernel_size=kernel).mask
    assert (ones == 1).all()


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5])
def test_converted_arguments_read_what_dcnv3_reads(scale, removed):
    """Dyadic offsets and a scale that is a power of two: equal to the bit, and there and back."""
    rng = np.random.default_rng(1)
    kernel = (3, 5)
    taps = 15 - removed
    offset = rng.integers(-16, 17, (N, 8, 6, G * taps * 2)) / 8
    mask = rng.integers(-4, 5, (N, 8, 6, G * taps)) / 4
    options = {
        "kernel_size": kernel,
        "dilation": (2, 1),
        "remove_center": removed,
        "offset_scale": scale,
    }
    found = conventions.from_dcnv3(offset, mask, **options)
    back = conventions.to_dcnv3(*found, **options)
    bits(back.offset, offset)
    bits(back.mask, mask)
    place = pydeform.offsets.sampling_locations(
        found.offset, kernel_size=kernel, stride=(2, 1), padding=(2, 3), dilation=(2, 1)
    )
    c = [d * (k - 1) // 2 for d, k in zip((2, 1), kernel, strict=True)]
    for n, g, i, j in np.ndindex(N, G, 8, 6):
        for tap, row, col in walk(kernel, removed):
            x, y = offset[n, i, j, (g * taps + tap) * 2 :][:2]
            reads_y = i * 2 - 2 + c[0] + (row * 2 - c[0] + y) * scale
            reads_x = j - 3 + c[1] + (col - c[1] + x) * scale
            assert tuple(place[n, g, row * 5 + col, i, j]) == (reads_y, reads_x)


def test_any_scale_is_rounded_only():
    """Three roundings each way, of numbers up to about 10: 1e-14."""
    offset, mask = ours(groups=1, kernel=(3, 3), dtype=np.float64)
    options = {"kernel_size": 3, "offset_scale": 0.7}
    back = conventions.from_dcnv3(*conventions.to_dcnv3(offset, mask, **options), **options)
    np.testing.assert_allclose(back.offset, offset, rtol=0, atol=1e-14)
    bits(back.mask, mask)


def test_msda():
    """pixel = location*size - 0.5 on the level's map; sizes are powers of two here, so exact."""
    rng = np.random.default_rng(2)
    queries, heads, shapes, points = 5, 3, [(4, 8), (2, 16)], 2
    locations = rng.integers(-8, 40, (N, queries, heads, 2, points, 2)) / 32
    weights = rng.normal(size=locations.shape[:5])
    position, weight = conventions.from_msda(locations, weights, shapes)
    assert position.shape == (2, N, heads, points, queries, 2)
    for n, q, m, level, p in np.ndindex(weights.shape):
        x, y = locations[n, q, m, level, p]
        height, width = shapes[level]
        expected = (y * height - 0.5, x * width - 0.5)
        assert tuple(position[level, n, m, p, q]) == expected
        assert weight[level, n, m, p, q] == weights[n, q, m, level, p]
    back = conventions.to_msda(position, weight, np.array(shapes))
    bits(back[0], locations)
    bits(back[1], weights)
    moved = conventions.from_msda(locations, weights, shapes, normalized=False)
    bits(conventions.to_msda(*moved, shapes, normalized=False)[0], locations)


def test_msda_in_sizes_of_any_kind_rounds_twice():
    """A product or quotient and a sum each way, of positions up to 7: 4 units of them."""
    locations = np.random.default_rng(3).random((1, 4, 1, 1, 2, 2))
    weights = np.ones((1, 4, 1, 1, 2))
    there = conventions.from_msda(locations, weights, [(5, 7)])
    back, _ = conventions.to_msda(*there, [(5, 7)])
    np.testing.assert_allclose(back, locations, rtol=0, atol=4 * 2.0**-53)


def test_the_other_way_takes_gradients_back():
    """A converter only moves numbers, so its adjoint is its inverse."""
    offset, mask = ours()
    theirs = conventions.to_mindspore(offset, mask, kernel_size=(KH, KW))
    cotangent = np.random.default_rng(4).normal(size=theirs.shape).astype(np.float32)
    back = conventions.from_mindspore(cotangent, kernel_size=(KH, KW))
    forward = np.sum(theirs.astype(np.float64) * cotangent)
    adjoint = sum(
        np.sum(a.astype(np.float64) * b) for a, b in zip((offset, mask), back, strict=True)
    )
    assert forward == pytest.approx(adjoint, rel=1e-13)  # the same numbers, added in another order


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_any_dtype_keeps_its_bits(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    offset, mask = ours(dtype=dtype)
    theirs = conventions.to_dcnv4(offset, mask, kernel_size=(KH, KW))
    back = conventions.from_dcnv4(theirs, kernel_size=(KH, KW), group=G)
    bits(back.offset, offset)
    bits(back.mask, mask)


def test_torch_tensors_come_back_as_such():
    torch = pytest.importorskip("torch")
    offset, mask = (torch.from_numpy(a) for a in ours())
    packed = conventions.to_mindspore(offset, mask, kernel_size=(KH, KW))
    assert isinstance(packed, torch.Tensor)
    back = conventions.from_mindspore(packed, kernel_size=(KH, KW))
    assert torch.equal(back.offset, offset)
    assert torch.equal(back.mask, mask)


def test_results_have_memory_of_their_own():
    offset, _ = ours(groups=1, kernel=(1, 1))
    before = offset.copy()
    conventions.to_chainer(offset, kernel_size=1)[...] = 7
    conventions.from_msda(np.ones((1, 1, 1, 1, 1, 2)), np.ones((1,) * 5), [(1, 1)])[1][...] = 7
    np.testing.assert_array_equal(offset, before)
