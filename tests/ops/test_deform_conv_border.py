"""How deformable convolution reads the border, and its slope at whole coordinates.

Values are small integers and positions dyadic, so that equality means equality; where a comparison
rounds, its tolerance says why.
"""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage

import pydeform

RANKS = (1, 2, 3)

pytestmark = pytest.mark.usefixtures("backend")

MODE_EXAMPLES = {
    "zeros": [0, 0.25, 0.75, 3, 1, 0],
    "clip_zero": [0, 0, 0, 4, 4, 0],
    "border": [1, 1, 1, 4, 4, 4],
}


def sample(positions, x=(1, 2, 3, 4), **options):
    """Read a row at positions, by a kernel of one tap: values and slopes there."""
    count = len(positions)
    outputs = max(len(x), count)  # of which the first are asked for
    offset = np.zeros((1, 1, outputs))
    offset[0, 0, :count] = positions - np.arange(count)
    row, one = np.asarray(x, np.float64)[None, None], np.ones((1, 1, 1))
    options["padding"] = ((0, outputs - len(x)),)
    output = pydeform.deform_conv1d(row, offset, one, **options)
    grads = pydeform.deform_conv1d_backward(np.ones_like(output), row, offset, one, **options)
    return output[0, 0, :count], grads.offset[0, 0, :count]


@pytest.mark.parametrize("mode", MODE_EXAMPLES)
def test_modes_on_the_example_of_the_definition(mode):
    output, _ = sample([-1, -0.75, -0.25, 3.25, 3.75, 4], mode=mode)
    np.testing.assert_array_equal(output, MODE_EXAMPLES[mode])


def test_a_quarter_of_a_pixel():
    output, slope = sample([0.25, 1.25, 2.25, 3.25])
    np.testing.assert_array_equal(output, [1.25, 2.25, 3.25, 3.0])
    np.testing.assert_array_equal(slope, [1, 1, 1, -4])


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(
    ("mode", "scipy_mode"), [("zeros", "grid-constant"), ("border", "nearest")]
)
def test_one_tap_is_scipys_linear_interpolation(rank, mode, scipy_mode):
    rng = np.random.default_rng(rank)
    size = (6, 4, 5)[:rank]
    x, offset = rng.normal(size=(1, 1, *size)), rng.normal(scale=2, size=(1, rank, *size))
    output = getattr(pydeform, f"deform_conv{rank}d")(
        x, offset, np.ones((1, 1) + (1,) * rank), mode=mode
    )
    positions = np.indices(size) + offset[0]
    interpolated = scipy.ndimage.map_coordinates(x[0, 0], positions, order=1, mode=scipy_mode)
    # scipy rounds base + offset once per axis, an error of 2^-53 * 8 in a coordinate, times a slope
    # of at most some 10.
    np.testing.assert_allclose(output[0, 0], interpolated, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coordinates_keep_every_bit_far_from_the_origin(dtype):
    """At position 2000 the sum base + offset would lose what a small offset says."""
    x = np.zeros((1, 1, 2001), dtype)
    x[..., 2000] = 1
    offset = np.zeros((1, 1, 2001), dtype)
    small = dtype(2.0 ** (-20 if dtype == np.float32 else -50))
    offset[..., 1999] = small
    output = pydeform.deform_conv1d(x, offset, np.ones((1, 1, 1), dtype))
    assert output[0, 0, 1999] == small


# The derivative at whole coordinates, where it jumps.


@pytest.mark.parametrize("mode", ["zeros", "clip_zero", "border"])
@pytest.mark.parametrize("x", [(3, 5, 4, 9), (7,)], ids=["row", "pixel"])
def test_right_is_the_slope_to_the_right(mode, x):
    positions = np.arange(-3.0, len(x) + 3)
    here, slope = sample(positions, x, mode=mode)
    ahead, _ = sample(positions + 0.25, x, mode=mode)
    np.testing.assert_array_equal(slope, (ahead - here) / 0.25)


@pytest.mark.parametrize("mode", ["zeros", "clip_zero", "border"])
@pytest.mark.parametrize("x", [(3, 5, 4, 9), (7,)], ids=["row", "pixel"])
def test_mean_is_the_central_difference(mode, x):
    positions = np.arange(-3.0, len(x) + 3)
    if mode == "clip_zero":  # the value jumps at 0 and at the size, and has no difference there
        positions = positions[(positions != 0) & (positions != len(x))]
    _, slope = sample(positions, x, mode=mode, kink="mean")
    ahead, _ = sample(positions + 0.25, x, mode=mode)
    behind, _ = sample(positions - 0.25, x, mode=mode)
    np.testing.assert_array_equal(slope, (ahead - behind) / 0.5)


def test_mean_where_clip_zero_jumps():
    """Half the slope of either side: at 0 the left is flat, at the size both are."""
    _, slope = sample([0, 4], (3, 5, 4, 9), mode="clip_zero", kink="mean")
    np.testing.assert_array_equal(slope, [1, 0])


@pytest.mark.parametrize("mode", ["zeros", "border"])
@pytest.mark.parametrize("rank", RANKS)
def test_mean_is_the_central_difference_along_every_axis(dyadic_case, rank, mode):
    case = dyadic_case(rank, kind="kinks", mode=mode, kink="mean")
    g = case.geometry
    gradient = case.backward()["offset"].reshape(-1, rank)
    direction = np.zeros_like(case.arrays["offset"])
    rng = np.random.default_rng(rank)
    for flat in rng.choice(direction.size, 40, replace=False):
        index = np.unravel_index(flat, direction.shape)
        direction[...] = 0
        direction[index] = 0.25
        ahead = case.with_array("offset", case.arrays["offset"] + direction).output()
        behind = case.with_array("offset", case.arrays["offset"] - direction).output()
        difference = np.sum(case.grad_output * (ahead - behind)) / 0.5
        assert gradient.reshape(case.arrays["offset"].shape)[index] == difference, (index, g)


def test_open_is_flat_at_and_beyond_one_pixel_outside():
    positions = [-2, -1.5, -1, -0.5, 0, 3, 3.5, 4, 5]
    output, right = sample(positions)
    again, slope = sample(positions, kink="open")
    np.testing.assert_array_equal(again, output)
    np.testing.assert_array_equal(right, [0, 0, 1, 1, 1, -4, -4, 0, 0])
    np.testing.assert_array_equal(slope, [0, 0, 0, 1, 1, -4, -4, 0, 0])


@pytest.mark.parametrize("mode", ["zeros", "border"])
@pytest.mark.parametrize("y", [-1.0, -0.5, 0.5, 3.0])
def test_open_on_one_axis_is_flat_on_all(y, mode):
    """A sample at y <= -1 or y >= 3 of three rows has no slope along x either."""
    x = np.arange(1.0, 10).reshape(1, 1, 3, 3)
    offset = np.zeros((1, 2, 3, 3))
    offset[0, 0, 0, 0], offset[0, 1, 0, 0] = y, 0.5
    one = np.ones((1, 1, 1, 1))
    arguments = (np.ones((1, 1, 3, 3)), x, offset, one)
    right, open_ = (
        pydeform.deform_conv2d_backward(*arguments, mode=mode, kink=kink)
        for kink in ("right", "open")
    )
    np.testing.assert_array_equal(open_.input, right.input)
    inside = -1 < y < 3
    np.testing.assert_array_equal(open_.offset[0, :, 0, 0], right.offset[0, :, 0, 0] * inside)
    assert inside or mode == "zeros" or right.offset[0, 1, 0, 0] == 1


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("mode", ["zeros", "border"])
def test_mean_treats_flips_alike(dyadic_case, rank, mode):
    case = dyadic_case(rank, kind="kinks", mode=mode, kink="mean", offset_groups=1)
    g, spatial = case.geometry, tuple(range(2, 2 + rank))

    def flip_taps(array, *more):
        split = array.reshape(g.batch, g.taps, *more, *g.out_size)
        return np.flip(split, (1, *range(-rank, 0))).reshape(array.shape)

    flipped = replace(
        case,
        arrays={
            "input": np.flip(case.arrays["input"], spatial),
            "offset": -flip_taps(case.arrays["offset"], rank),
            "weight": np.flip(case.arrays["weight"], spatial),
            "bias": case.arrays["bias"],
            "mask": flip_taps(case.arrays["mask"]),
        },
        grad_output=np.flip(case.grad_output, spatial),
    )
    grads, mirrored = case.backward(), flipped.backward()
    np.testing.assert_array_equal(np.flip(mirrored["input"], spatial), grads["input"])
    np.testing.assert_array_equal(-flip_taps(mirrored["offset"], rank), grads["offset"])
