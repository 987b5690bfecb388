"""Identities of offsets, masks and positions, and each against an explicit loop."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import pydeform
from pydeform import offsets

SIZES = {1: (9,), 2: (8, 7), 3: (6, 5, 7)}
CONVOLUTIONS = {1: pydeform.deform_conv1d, 2: pydeform.deform_conv2d, 3: pydeform.deform_conv3d}


def whole(rng, *shape):
    """Whole numbers: with dyadic coordinates every product and sum is exact."""
    return rng.integers(-8, 9, shape).astype(np.float64)


def image_and_kernel(rank, kernel, seed=0):
    rng = np.random.default_rng(seed)
    return whole(rng, 2, 4, *SIZES[rank]), whole(rng, 3, 4, *kernel)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("size", [2, 3])
def test_a_size_d_is_a_dilation_d(rank, size):
    """To the bit: the same centres are (d - 1)*(k - 1)/2 further from the padded edge."""
    kernel = (3, 3, 3)[:rank]
    x, w = image_and_kernel(rank, kernel)
    field = np.full((2, 2, *SIZES[rank]), float(size))
    offset = offsets.scale_taps(field, kernel_size=kernel)
    found = CONVOLUTIONS[rank](x, offset, w, padding=1)
    expected = CONVOLUTIONS[rank](x, None, w, padding=size, dilation=size)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_size_of_the_kernel_itself_is_a_convolution(form, dilation):
    x, w = image_and_kernel(2, (3, 2))
    size = np.full((2, 1, 8, 7), float(dilation))
    if form:
        size = np.stack([size] * 2, axis=2)
    if form == 2:
        size = size[:, :, None] * np.eye(2)[:, :, None, None]
    plain = CONVOLUTIONS[2](x, None, w, padding=((dilation,) * 2, (0, dilation)), dilation=dilation)
    assert plain.shape[2:] == (8, 7)
    offset = offsets.scale_taps(
        size, np.zeros((2, 1, 2, 8, 7)), kernel_size=(3, 2), dilation=dilation
    )
    assert not offset.any()
    found = CONVOLUTIONS[2](
        x, offset, w, padding=((dilation,) * 2, (0, dilation)), dilation=dilation
    )
    np.testing.assert_array_equal(found, plain)


def test_a_shift_of_whole_pixels_moves_the_output():
    x, w = image_and_kernel(2, (3, 3))
    shift = np.zeros((2, 1, 2, 8, 7))
    shift[:, :, 1] = 1
    offset = offsets.scale_taps(np.ones((2, 1, 8, 7)), shift, kernel_size=(3, 3))
    found = CONVOLUTIONS[2](x, offset, w, padding=1)
    expected = CONVOLUTIONS[2](x, None, w, padding=((1, 1), (0, 2)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kernel", [(3, 3), (2, 4)])
def test_scale_taps_is_its_formula(kernel):
    rng = np.random.default_rng(1)
    matrix, shift = whole(rng, 2, 2, 2, 2, 3, 2) / 4, whole(rng, 2, 2, 2, 3, 2) / 4
    found = offsets.scale_taps(matrix, shift, kernel_size=kernel, dilation=(2, 1))
    found = found.reshape(2, 2, *kernel, 2, 3, 2)
    for n, g, u, v, y, x in np.ndindex(2, 2, *kernel, 3, 2):
        tap = np.array([u - (kernel[0] - 1) / 2, v - (kernel[1] - 1) / 2])
        reads = shift[n, g, :, y, x] + matrix[n, g, :, :, y, x] @ tap
        np.testing.assert_array_equal(found[n, g, u, v, :, y, x], reads - np.array([2, 1]) * tap)


def test_a_tile_is_its_value_at_every_position():
    rng = np.random.default_rng(2)
    size = np.abs(whole(rng, 1, 1, 2, 3)) + 1
    shift = whole(rng, 1, 1, 2, 2, 3)
    out, tile = (3, 7), (2, 3)
    found = offsets.scale_taps(size, shift, kernel_size=(3, 3), tile=tile, output_size=out)
    y, x = np.arange(3)[:, None] // 2, np.arange(7) // 3
    expected = offsets.scale_taps(size[..., y, x], shift[..., y, x], kernel_size=(3, 3))
    np.testing.assert_array_equal(found, expected)
    grad = whole(rng, *found.shape)
    tiled = offsets.scale_taps_backward(
        grad, size, shift, kernel_size=(3, 3), tile=tile, output_size=out
    )
    full = offsets.scale_taps_backward(grad, size[..., y, x], shift[..., y, x], kernel_size=(3, 3))
    for one, other in zip(tiled, full, strict=True):
        sums = np.zeros_like(one)
        for i, j in np.ndindex(3, 7):
            sums[..., i // 2, j // 3] += other[..., i, j]
        np.testing.assert_array_equal(one, sums)


LAYOUTS = {
    "scale_taps": ({"size": (2, 3, 2, 4, 5), "shift": (2, 3, 2, 4, 5)}, {"kernel_size": (3, 2)}),
    "gaussian_window": ({"size": (2, 3, 4, 5)}, {"kernel_size": (3, 2)}),
    "box_window": ({"size": (2, 3, 4, 5)}, {"kernel_size": (3, 2)}),
    "project_box": ({"offset": (2, 12, 4, 5)}, {"bounds": [(1, 1), (2, 2)]}),
    "project_ball": ({"offset": (2, 12, 4, 5)}, {"eps": 1.0}),
    "constrain": ({"offset": (2, 12, 4, 5)}, {"kernel_size": (3, 2)}),
    "cumulative_taps": ({"offset": (2, 12, 4, 5)}, {"kernel_size": (2, 3)}),
    "sampling_locations": ({"offset": (2, 12, 4, 5)}, {"kernel_size": (2, 3)}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_channels_last_is_the_same_moved(name):
    shapes, options = LAYOUTS[name]
    function, backward = getattr(offsets, name), getattr(offsets, f"{name}_backward")
    rng = np.random.default_rng(3)
    first = {n: np.abs(whole(rng, *shape)) + 1 for n, shape in shapes.items()}

    def moved(array):
        return np.moveaxis(array, (-2, -1), (1, 2))

    last = {n: moved(a) for n, a in first.items()}
    output = function(**first, **options)
    found = function(**last, **options, layout="channels_last")
    expected = output if name == "sampling_locations" else moved(output)
    np.testing.assert_array_equal(found, expected)
    grads = backward(output, **first, **options)
    grads_last = backward(found, **last, **options, layout="channels_last")
    for argument in first:
        grad = moved(getattr(grads, argument))
        np.testing.assert_array_equal(getattr(grads_last, argument), grad)


def test_windows_are_their_formulas():
    rng = np.random.default_rng(4)
    size, shift = np.abs(whole(rng, 1, 2, 2, 2, 3)) / 4 + 1, whole(rng, 1, 2, 2, 2, 3) / 4
    soft = offsets.gaussian_window(size, shift, kernel_size=(3, 4)).reshape(1, 2, 3, 4, 2, 3)
    hard = offsets.box_window(size, shift, kernel_size=(3, 4)).reshape(1, 2, 3, 4, 2, 3)
    for g, u, v, y, x in np.ndindex(2, 3, 4, 2, 3):
        gap = np.array([u - 1, v - 1.5]) - shift[0, g, :, y, x]
        away = gap / size[0, g, :, y, x]
        # One exponential, within an unit of the last place in either library.
        assert soft[0, g, u, v, y, x] == pytest.approx(math.exp(-0.5 * away @ away), rel=1e-15)
        assert hard[0, g, u, v, y, x] == np.all(np.abs(away) <= 0.5)
    assert 0 < hard.mean() < 1


def test_a_wide_window_is_no_window():
    x, w = image_and_kernel(2, (3, 3))
    mask = offsets.box_window(np.full((2, 1, 6, 5), 2.0), kernel_size=(3, 3))  # edges in
    plain = pydeform.deform_conv2d(x, None, w)
    np.testing.assert_array_equal(pydeform.deform_conv2d(x, None, w, mask=mask), plain)


def test_nan_stays_nan():
    nan = np.full((1, 1, 1, 1), np.nan)
    for window in (offsets.gaussian_window, offsets.box_window):
        assert np.isnan(window(np.ones((1, 1, 1)), nan, kernel_size=(3,))).all()
    offset = np.array([[[[np.nan]], [[1.0]]]])
    assert np.isnan(offsets.project_ball(offset, 2.0)).all()
    box = offsets.project_box(offset, [(1, 1), (1, 1)])
    np.testing.assert_array_equal(box.ravel(), [np.nan, 1])


@pytest.mark.parametrize("axis", [0, 1])
def test_a_snake_adds_up_from_its_centre(axis):
    rng = np.random.default_rng(5)
    kernel = [2, 2]
    kernel[axis] = 5
    steps = whole(rng, 1, 2 * 10 * 2, 3, 2)
    found = offsets.cumulative_taps(steps, kernel_size=tuple(kernel), axis=axis)
    taps = np.moveaxis(steps.reshape(1, 2, *kernel, 2, 3, 2), 2 + axis, 0)
    sums = np.moveaxis(found.reshape(1, 2, *kernel, 2, 3, 2), 2 + axis, 0)
    expected = [taps[1] + taps[0], taps[1], 0 * taps[2], taps[3], taps[3] + taps[4]]
    np.testing.assert_array_equal(sums, np.stack(expected))


def test_learnable_spacings_are_a_dense_kernel():
    """The active convolution unit is a dilated convolution with learnable spacings.

    There each tap adds to the four cells around it in a dense kernel, with the weights of bilinear
    interpolation. All numbers are dyadic, and both sides equal to the bit.
    """
    rng = np.random.default_rng(6)
    x, w = whole(rng, 1, 2, 12, 11), whole(rng, 3, 2, 2, 2)
    spacing = rng.integers(-8, 9, (4, 2)) / 4  # up to 2 pixels
    dense = np.zeros((3, 2, 7, 7))  # covers -2 .. 4
    for tap, (y, v) in enumerate(itertools.product(range(2), range(2))):
        place = np.array([y, v]) + spacing[tap] + 2
        cell = np.floor(place).astype(int)
        part = place - cell
        for corner in itertools.product((0, 1), (0, 1)):
            weight = math.prod(f if c else 1 - f for c, f in zip(corner, part, strict=True))
            dense[:, :, cell[0] + corner[0], cell[1] + corner[1]] += weight * w[:, :, y, v]
    expected = pydeform.deform_conv2d(x, None, dense, padding=((2, 4), (2, 4)))
    offset = offsets.static_offsets(spacing, batch=1, output_size=(12, 11))
    found = pydeform.deform_conv2d(x, offset, w, padding=((0, 1), (0, 1)))
    np.testing.assert_array_equal(found, expected)


def test_static_offsets_of_groups_are_laid_out_as_offsets():
    spacing = np.arange(12.0).reshape(2, 3, 2)
    found = offsets.static_offsets(spacing, batch=2, output_size=(2, 2))
    assert found.shape == (2, 12, 2, 2)
    np.testing.assert_array_equal(found[1, :, 0, 1], np.arange(12.0))
    assert offsets.static_offsets(spacing, batch=0, output_size=2).shape == (0, 12, 2, 2)


def test_sampling_locations_are_what_is_read():
    """A tap that reads the ramp y + 16 x returns its own coordinates."""
    rng = np.random.default_rng(7)
    y, x = np.arange(8.0)[:, None], np.arange(9.0)
    ramp = np.stack([y + 0 * x, 0 * y + x])[:, None]  # two samples: y and x themselves
    options = {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2)}
    out = (4, 9 + 2 - 2)
    offset = np.repeat(rng.integers(0, 8, (1, 2 * 4 * 2, *out)) / 8, 2, axis=0)[:, :8]
    found = offsets.sampling_locations(offset, kernel_size=(2, 2), size=(8, 9), **options)
    assert found.shape == (2, 1, 4, *out, 2)
    for tap in range(4):
        w = np.zeros((1, 1, 2, 2))
        w.flat[tap] = 1
        read = pydeform.deform_conv2d(ramp, offset, w, mode="border", **options)[:, 0]
        clamped = np.clip(found[0, 0, tap], 0, [7, 8])
        np.testing.assert_array_equal(read, np.moveaxis(clamped, -1, 0))


def test_same_padding_keeps_sizes():
    for size, kernel, stride, dilation in itertools.product((5, 8), (1, 2, 3), (1, 2, 3), (1, 2)):
        ((begin, end),) = offsets.same_padding(
            (size,), kernel_size=(kernel,), stride=stride, dilation=dilation
        )
        assert end - begin in (0, 1)
        padded = size + begin + end - (kernel - 1) * dilation - 1
        if padded >= 0 and (begin or end):
            assert padded // stride + 1 == -(-size // stride)


def read(image, positions):
    """An image [H, W] at whole positions [1, 1, 1, *O, 2], by plain indexing."""
    whole_positions = positions[0, 0, 0].astype(int)
    np.testing.assert_array_equal(whole_positions, positions[0, 0, 0])
    return image[whole_positions[..., 0], whole_positions[..., 1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quarter_turns_and_flips_are_exact(dtype, backend):
    image = np.random.default_rng(8).normal(size=(4, 7)).astype(dtype)
    turned = image
    for quarters in (1, 2, 3, 4):
        matrix = offsets.turn_matrix(1).astype(dtype)[None]
        size = turned.shape
        lattice = offsets.affine_lattice(matrix, size=size, output_size=size[::-1])
        assert lattice.dtype == dtype
        turned = pydeform.sample(turned[None, None], lattice)[0, 0, 0]
        np.testing.assert_array_equal(turned, np.rot90(image, quarters))
        at_once = offsets.turn_matrix(quarters)[None]
        out = image.shape if quarters % 2 == 0 else image.shape[::-1]
        lattice = offsets.affine_lattice(at_once, size=image.shape, output_size=out)
        np.testing.assert_array_equal(read(image, lattice), np.rot90(image, quarters))
        by_degrees = offsets.rotation_matrix(90.0 * quarters - 360)
        np.testing.assert_array_equal(by_degrees, at_once[0])
    np.testing.assert_array_equal(turned, image)
    for axes in ((0,), (1,), (0, 1)):
        lattice = offsets.affine_lattice(offsets.flip_matrix(axes)[None], size=image.shape)
        np.testing.assert_array_equal(read(image, lattice), np.flip(image, axes))


def test_rotations_turn_by_their_angle():
    matrix = offsets.rotation_matrix(30.0)
    np.testing.assert_allclose(matrix, [[3**0.5 / 2, 0.5], [-0.5, 3**0.5 / 2]], rtol=1e-15)
    third = offsets.rotation_matrix(120.0, axes=(0, 2), rank=3)
    np.testing.assert_allclose(np.linalg.matrix_power(third, 3), np.eye(3), atol=1e-15)
    np.testing.assert_array_equal(third[1], [0, 1, 0])


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_change_of_size_reads_where_torch_reads(align_corners, backend):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(9).normal(size=(1, 1, 5, 6))
    out = (8, 4)
    matrix = offsets.resize_matrix((5, 6), out, align_corners=align_corners)[None]
    lattice = offsets.affine_lattice(matrix, size=(5, 6), output_size=out)
    found = pydeform.sample(image, lattice, mode="border")[0, 0]
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image), out, mode="bilinear", align_corners=align_corners
    )[0].numpy()
    # Coordinates up to 8 are rounded twice on either side, weights once: a few 1e-15.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_a_shift_is_in_pixels_of_the_input():
    shift = np.array([[0.5, -1.0]])
    lattice = offsets.affine_lattice(np.eye(2)[None], shift, size=(2, 2))
    expected = np.stack(np.meshgrid([0.5, 1.5], [-1.0, 0.0], indexing="ij"), axis=-1)
    np.testing.assert_array_equal(lattice[0, 0, 0], expected)


REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "offsets.md"


@pytest.mark.skipif(not REFERENCE.exists(), reason="the tests of an installed package have no docs")
def test_the_example_of_the_reference_runs():
    blocks = REFERENCE.read_text(encoding="utf-8").split("```python\n")[1:]
    assert len(blocks) == 2
    found = {}
    for block in blocks:
        exec(block.partition("```")[0], found)
    assert found["grads"].size.shape == found["log_size"].shape
    assert found["grads"].size.any()
