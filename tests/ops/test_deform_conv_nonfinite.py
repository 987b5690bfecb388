"""NaN, infinities and coordinates without a pixel, in deformable convolution."""

import numpy as np
import pytest

import pydeform

RANKS = (1, 2, 3)
SIZE = (6, 4, 5)

pytestmark = pytest.mark.usefixtures("backend")


def function(rank, suffix=""):
    return getattr(pydeform, f"deform_conv{rank}d{suffix}")


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("mode", ["zeros", "clip_zero", "border"])
def test_nan_coordinate_spoils_its_own_position_only(dyadic_case, rank, mode):
    case = dyadic_case(rank, mode=mode)
    clean = case.evaluate()
    offset = case.arrays["offset"].copy()
    channel = 1 * rank + rank - 1  # tap 1 of offset group 0, last axis
    here = (1, channel, *(1,) * rank)
    offset[here] = np.nan
    if rank > 1:  # NaN wins over an infinity on another axis
        offset[(1, channel - 1, *(1,) * rank)] = np.inf
    results = case.with_array("offset", offset).evaluate()
    for name in ("output", "output_tangent"):
        spoiled = np.zeros(clean[name].shape, bool)
        spoiled[(1, slice(0, 3), *(1,) * rank)] = True  # group 0 of the output channels
        np.testing.assert_array_equal(np.isnan(results[name]), spoiled, name)
        np.testing.assert_array_equal(results[name][~spoiled], clean[name][~spoiled], name)
    spoiled = np.zeros(offset.shape, bool)
    spoiled[(1, slice(rank, 2 * rank), *(1,) * rank)] = True
    np.testing.assert_array_equal(np.isnan(results["grad_offset"]), spoiled)
    spoiled = np.zeros(clean["grad_mask"].shape, bool)
    spoiled[(1, 1, *(1,) * rank)] = True
    np.testing.assert_array_equal(np.isnan(results["grad_mask"]), spoiled)
    spoiled = np.zeros(clean["grad_weight"].shape, bool)
    spoiled.reshape(6, 2, -1)[:3, :, 1] = True
    np.testing.assert_array_equal(np.isnan(results["grad_weight"]), spoiled)
    # What is scattered to the input is what a masked tap scatters: nothing from this sample.
    mask = case.arrays["mask"].copy()
    mask[(1, 1, *(1,) * rank)] = 0
    masked = case.with_array("mask", mask).backward()
    np.testing.assert_array_equal(results["grad_input"], masked["input"])


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("mode", ["zeros", "clip_zero", "border"])
@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinite_coordinate_reads_nothing(dyadic_case, rank, mode, infinity):
    case = dyadic_case(rank, mode=mode)
    offset, mask = case.arrays["offset"].copy(), case.arrays["mask"].copy()
    offset[(0, 2 * rank, *(1,) * rank)] = infinity  # tap 2 of offset group 0, first axis
    mask[(0, 2, *(1,) * rank)] = 0
    masked = case.with_array("mask", mask).backward()
    results = case.with_array("offset", offset).backward()
    np.testing.assert_array_equal(results["input"], masked["input"])
    np.testing.assert_array_equal(results["weight"], masked["weight"])
    assert results["mask"][(0, 2, *(1,) * rank)] == 0
    assert not results["offset"][(0, slice(2 * rank, 3 * rank), *(1,) * rank)].any()
    np.testing.assert_array_equal(
        case.with_array("offset", offset).output(), case.with_array("mask", mask).output()
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("mode", "ends"), [("zeros", (0, 0)), ("clip_zero", (0, 0)), ("border", (1, 4))]
)
def test_offsets_beyond_every_integer(dtype, mode, ends):
    """The largest numbers of a type do not fit an index; they are outside like any other."""
    largest = np.finfo(dtype).max
    offset = np.array([-largest, largest, -1e10, 1e10], dtype)[None, None]
    x, one = np.array([1, 2, 3, 4], dtype)[None, None], np.ones((1, 1, 1), dtype)
    output = pydeform.deform_conv1d(x, offset, one, mode=mode)
    np.testing.assert_array_equal(output[0, 0], ends * 2)
    grads = pydeform.deform_conv1d_backward(np.ones_like(output), x, offset, one, mode=mode)
    assert not grads.offset.any()


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_corner_of_weight_zero_is_not_read(rank, bad):
    """Zero offsets: an infinity in a pixel reaches what a plain convolution lets it reach."""
    x, w = np.ones((1, 1, *SIZE[:rank])), np.ones((1, 1, *(2,) * rank))
    x[(0, 0, *(2,) * rank)] = bad
    plain = function(rank)(x, None, w)
    first = np.indices(plain.shape[2:])  # the window of an output is [first, first + 1]
    touched = ((first == 1) | (first == 2)).all(axis=0)
    np.testing.assert_array_equal(np.isfinite(plain[0, 0]), ~touched)
    zero = np.zeros((1, w.size * rank, *plain.shape[2:]))
    np.testing.assert_array_equal(function(rank)(x, zero, w), plain)


@pytest.mark.parametrize("rank", RANKS)
def test_infinite_gradient_reaches_the_pixels_that_were_read(rank):
    """Scattered at whole coordinates it lands on one pixel, not as 0 * Inf on its neighbours."""
    size = SIZE[:rank]
    x, one = np.ones((1, 1, *size)), np.ones((1, 1) + (1,) * rank)
    grad = np.ones_like(x)
    grad[(0, 0, *(1,) * rank)] = np.inf
    zero = np.zeros((1, rank, *size))
    result = function(rank, "_backward")(grad, x, zero, one).input
    np.testing.assert_array_equal(result, grad)
