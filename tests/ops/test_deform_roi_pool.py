"""Deformable pooling of regions: the published formula in torch, the clamp zone, bad input."""

import math
import warnings

import ml_dtypes
import numpy as np
import pytest

import pydeform

ROIS = np.array(
    [
        [1, 1.3, 2.1, 9.7, 7.9],
        [0, 0.4, 0.7, 5.2, 4.4],
        [1, -3.1, -2.6, 4.4, 5.3],  # reaches beyond the image, as do the next two
        [0, 6.2, 3.3, 14.9, 12.7],
        [1, -30.2, -25.3, 31.1, 29.7],
        [1, 3.2, 3.1, 3.9, 3.6],  # smaller than a pixel
    ]
)
OPTIONS = {
    "two samples": {"sampling_ratio": 2},
    "as many as pixels": {"sampling_ratio": 0},
    "scaled": {"spatial_scale": 0.55, "sampling_ratio": -1, "gamma": 0.7},
    "unequal bins": {"output_size": (2, 5), "sampling_ratio": 3, "gamma": -0.3},
}
CASES = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
MASKED = pytest.mark.parametrize("masked", [False, True], ids=["plain", "modulated"])


def call(masked=True, seed=0, dtype=np.float64, rois=ROIS, **options):
    """Arrays and constants of a call on two images of 9 x 11 with three channels."""
    rng = np.random.default_rng(seed)
    chosen = {"output_size": (3, 4), "gamma": 0.25} | options
    bins = chosen["output_size"]
    arrays = {
        "input": rng.normal(size=(2, 3, 9, 11)),
        "offset": rng.normal(size=(len(rois), 2, *bins)),
    }
    if masked:
        arrays["mask"] = rng.normal(size=(len(rois), 1, *bins))
    return {n: a.astype(dtype) for n, a in arrays.items()}, chosen | {"rois": rois.astype(dtype)}


def samples(roi, output_size, spatial_scale, sampling_ratio):
    """Starts, sizes and inner grids of a region's bins along (y, x), as published."""
    found = []
    for first, last, bins in zip(roi[[2, 1]], roi[[4, 3]], output_size, strict=True):
        start, end = first * spatial_scale - 0.5, last * spatial_scale - 0.5
        size = (end - start) / bins
        many = sampling_ratio if sampling_ratio > 0 else math.ceil(size)
        inner = (np.arange(many) + 0.5) * size / many
        found.append((start, end - start, start + size * np.arange(bins), inner))
    return found


def composition(torch):
    """The published formula: region by region, with grid_sample on clamped coordinates."""

    def pool(
        input, offset, rois, output_size, mask=None, spatial_scale=1.0, sampling_ratio=0, gamma=0.1
    ):
        height, width = input.shape[2:]
        outputs = []
        for r, roi in enumerate(rois):
            (_, h, tops, down), (_, w, lefts, right) = samples(
                roi, output_size, spatial_scale, sampling_ratio
            )
            moved_y = torch.from_numpy(tops)[:, None] + gamma * h * offset[r, 1]
            moved_x = torch.from_numpy(lefts)[None] + gamma * w * offset[r, 0]
            y = moved_y[:, :, None, None] + torch.from_numpy(down)[:, None]
            x = moved_x[:, :, None, None] + torch.from_numpy(right)[None]
            y, x = (a.expand(*output_size, len(down), len(right)) for a in (y, x))
            inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
            y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
            grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
            sampled = torch.nn.functional.grid_sample(
                input[int(roi[0])][None],
                grid.reshape(1, -1, 1, 2),
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            ).reshape(-1, *y.shape)
            outputs.append((sampled * inside).mean((-2, -1)))
        output = torch.stack(outputs)
        return output if mask is None else output * mask

    return pool


@CASES
@MASKED
def test_the_published_formula_in_torch(backend, composed, options, masked):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of when it is imported is its own
        torch = pytest.importorskip("torch")
    composed(torch, "deform_roi_pool", *call(masked, **options), composition(torch))


@CASES
@MASKED
def test_derivatives_fit_together(backend, consistent, options, masked):
    consistent("deform_roi_pool", *call(masked, **options))


@CASES
def test_offsets_of_zero_are_roi_align(backend, options):
    arrays, constants = call(masked=False, **options)
    arrays["offset"][:] = 0
    output = pydeform.deform_roi_pool(**arrays, **constants)
    y = np.random.default_rng(1).normal(size=output.shape)
    found = pydeform.deform_roi_pool_backward(y, **arrays, **constants)
    gamma = constants.pop("gamma")
    plain = {"input": arrays["input"], **constants}
    np.testing.assert_array_equal(output, pydeform.roi_align(**plain))
    np.testing.assert_array_equal(found.input, pydeform.roi_align_backward(y, **plain).input)
    without = pydeform.deform_roi_pool(**plain, offset=None, gamma=gamma)
    np.testing.assert_array_equal(output, without)


@CASES
def test_a_mask_is_a_factor_of_the_bins(backend, close, options):
    arrays, constants = call(**options)
    mask = arrays.pop("mask")
    plain = pydeform.deform_roi_pool(**arrays, **constants)
    found = pydeform.deform_roi_pool(**arrays, **constants, mask=mask)
    close(found, plain * mask, 1e-14)


def at(y, x):
    """A call with one region, one bin and one sample, which is at (y, x) for an offset of 0."""
    return {
        "rois": np.array([[0.0, x - 0.5, y - 0.5, x + 1.5, y + 1.5]]),
        "output_size": 1,
        "sampling_ratio": 1,
        "gamma": 0.5,  # of a region of 2 x 2: an offset of 1 is one pixel
    }


def test_the_gradient_in_the_clamp_zone(backend, close):
    """At y = -0.4 the coordinate is held at 0: no slope along y, row 0's own along x."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 2, 4, 5))
    y = rng.normal(size=(1, 2, 1, 1))
    offset = np.zeros((1, 2, 1, 1))
    held = {  # (y, x): slope along (y, x), by the pixels
        (-0.4, 2.4): (0, x[:, :, 0, 3] - x[:, :, 0, 2]),
        (-1.0, 2.4): (0, x[:, :, 0, 3] - x[:, :, 0, 2]),
        (3.7, 1.25): (0, x[:, :, 3, 2] - x[:, :, 3, 1]),
        (4.0, 1.25): (0, x[:, :, 3, 2] - x[:, :, 3, 1]),
        (1.5, -0.75): (x[:, :, 2, 0] - x[:, :, 1, 0], 0),
        (1.5, 4.5): (x[:, :, 2, 4] - x[:, :, 1, 4], 0),
        (-0.2, 4.2): (0, 0),
        (-1.1, 2.4): (0, 0),
        (4.1, 2.4): (0, 0),
    }
    for (row, column), (down, right) in held.items():
        grads = pydeform.deform_roi_pool_backward(y, x, offset=offset, **at(row, column))
        expected = [np.sum(y[:, :, 0, 0] * slope) for slope in (right, down)]
        np.testing.assert_allclose(grads.offset.ravel(), expected, rtol=0, atol=1e-13)


def test_samples_beyond_the_clamp_zone_read_nothing(backend):
    x = np.ones((1, 1, 4, 5))
    for row, column, value in (
        (-1, -1, 1), (4, 5, 1), (-1.01, 2, 0), (4.01, 2, 0), (2, -1.01, 0), (2, 5.01, 0),
    ):  # fmt: skip
        assert pydeform.deform_roi_pool(x, offset=None, **at(row, column)).item() == value
    x[:] = np.nan  # not even what would be multiplied by 0
    assert pydeform.deform_roi_pool(x, offset=None, **at(2, 7)).item() == 0


def test_regions_in_any_order_are_pooled_alike(backend):
    arrays, constants = call(sampling_ratio=0)
    output = pydeform.deform_roi_pool(**arrays, **constants)
    order = np.random.default_rng(1).permutation(len(ROIS))
    for name in ("offset", "mask"):
        arrays[name] = arrays[name][order]
    constants["rois"] = constants["rois"][order]
    np.testing.assert_array_equal(pydeform.deform_roi_pool(**arrays, **constants), output[order])


def test_regions_together_are_pooled_as_alone(backend):
    """Whatever numbers of samples those beside them have; equal but for the order of sums."""
    rng = np.random.default_rng(2)
    corner = rng.uniform(-2, 6, (20, 2))
    rois = np.column_stack((np.ones(20), corner, corner + rng.uniform(0.5, 14, (20, 2))))
    arrays, constants = call(rois=rois, sampling_ratio=0)
    output = pydeform.deform_roi_pool(**arrays, **constants)
    for r in range(20):
        some = {name: arrays[name][r : r + 1] for name in ("offset", "mask")}
        one = arrays | some, constants | {"rois": rois[r : r + 1]}
        alone = pydeform.deform_roi_pool(**one[0], **one[1])
        np.testing.assert_allclose(output[r], alone[0], rtol=0, atol=1e-13)


def test_no_regions(backend):
    arrays, constants = call(rois=ROIS[:0])
    output = pydeform.deform_roi_pool(**arrays, **constants)
    assert output.shape == (0, 3, 3, 4)
    grads = pydeform.deform_roi_pool_backward(output, **arrays, **constants)
    np.testing.assert_array_equal(grads.input, np.zeros((2, 3, 9, 11)))
    assert grads.offset.shape == (0, 2, 3, 4)
    assert grads.mask.shape == (0, 1, 3, 4)
    output, tangent = pydeform.deform_roi_pool_jvp(**arrays, **constants, tangents={})
    assert output.shape == tangent.shape == (0, 3, 3, 4)


def test_images_without_regions_have_no_gradient(backend):
    arrays, constants = call(rois=ROIS[[0, 2]])  # both of image 1
    y = np.ones((2, 3, 3, 4))
    out = {"input": np.full((2, 3, 9, 11), 7.0)}
    pydeform.deform_roi_pool_backward(y, **arrays, **constants, needs=("input",), out=out)
    assert not out["input"][0].any()
    assert out["input"][1].any()


@pytest.mark.parametrize("storage", [np.float16, ml_dtypes.bfloat16])
def test_16_bits_are_storage_around_float32(backend, storage):
    rois = ROIS.astype(storage).astype(float)
    arrays, constants = call(dtype=storage, rois=rois, sampling_ratio=2)
    wide = {name: array.astype(np.float32) for name, array in arrays.items()}
    output = pydeform.deform_roi_pool(**arrays, **constants)
    constants["rois"] = constants["rois"].astype(np.float32)
    expected = pydeform.deform_roi_pool(**wide, **constants)
    np.testing.assert_array_equal(output, expected.astype(storage))
    # Regions may be in float32, which 16 bits may not hold.
    np.testing.assert_array_equal(pydeform.deform_roi_pool(**arrays, **constants), output)


def with_roi(*roi):
    return lambda a: {"rois": np.array([*a["rois"][:-1].tolist(), roi], float)}


GOOD = {**call()[0], **call()[1], "out": np.full((6, 3, 3, 4), 7.0)}
BAD = {
    "batch index": (with_roi(2, 1, 1, 3, 3), ValueError, "rois | 0 <= i < 2 | got 2.0 in row 5"),
    "batch index below 0": (with_roi(-1, 1, 1, 3, 3), ValueError, "rois | got -1.0 in row 5"),
    "batch index between": (with_roi(0.5, 1, 1, 3, 3), ValueError, "rois | whole | got 0.5"),
    "no width": (with_roi(0, 1, 1, 1, 3), ValueError, "rois | positive sizes | in row 5"),
    "negative height": (
        with_roi(0, 1, 4, 3, 3), ValueError,
        "rois | y1 < y2 | got [0.0, 1.0, 4.0, 3.0, 3.0] in row 5",
    ),
    "NaN": (with_roi(0, 1, np.nan, 3, 3), ValueError, "rois | finite | nan | in row 5"),
    "infinite": (with_roi(0, 1, 1, np.inf, 3), ValueError, "rois | finite | inf | in row 5"),
    "columns of rois": (
        lambda a: {"rois": a["rois"][:, 1:]}, ValueError, "rois | (6, 5) | got (6, 4)",
    ),
    "axes of rois": (lambda a: {"rois": a["rois"][0]}, ValueError, "rois | 2 dimensions | got 1"),
    "no rois": (lambda a: {"rois": None}, TypeError, "rois"),
    "offset": (
        lambda a: {"offset": a["offset"][:, :1]}, ValueError,
        "offset | (6, 2, 3, 4) | got (6, 1, 3, 4)",
    ),
    "mask": (
        lambda a: {"mask": a["mask"][:5]}, ValueError, "mask | (6, 1, 3, 4) | got (5, 1, 3, 4)",
    ),
    "output_size": (lambda a: {"output_size": (3, 0)}, ValueError, "output_size | at least 1"),
    "output_size type": (lambda a: {"output_size": "3"}, TypeError, "output_size | got '3'"),
    "scale": (lambda a: {"spatial_scale": 0}, ValueError, "spatial_scale | positive | got 0"),
    "scale NaN": (lambda a: {"spatial_scale": np.nan}, ValueError, "spatial_scale | finite"),
    "ratio": (lambda a: {"sampling_ratio": -2}, ValueError, "sampling_ratio | at least -1"),
    "ratio type": (lambda a: {"sampling_ratio": 2.0}, TypeError, "sampling_ratio | an int | 2.0"),
    "gamma": (lambda a: {"gamma": np.inf}, ValueError, "gamma | finite | inf"),
    "axes": (lambda a: {"input": a["input"][0]}, ValueError, "input | 4 dimensions | got 3"),
    "no pixels": (
        lambda a: {"input": a["input"][..., :0]}, ValueError, "input | at least one element",
    ),
    "dtypes": (
        lambda a: {"rois": a["rois"].astype(int)}, TypeError,
        "rois | float32, float64 or the dtype of input | got int64",
    ),
    "out": (lambda a: {"out": a["out"][:1]}, ValueError, "out | (6, 3, 3, 4)"),
    "too many samples": (
        lambda a: {"sampling_ratio": 10**6}, MemoryError, "rois | 1000000000000 samples a bin",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input(refused_by, change, error, words):
    refused_by("deform_roi_pool", GOOD, change, error, words)
