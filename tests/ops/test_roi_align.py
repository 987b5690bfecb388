"""RoIAlign: the published formula in plain loops and by grid_sample, torchvision where it loads."""

import math
import warnings

import numpy as np
import pytest

import pydeform

ROIS = np.array(
    [[1, 1.3, 2.1, 9.7, 7.9], [0, -3.1, -2.6, 4.4, 5.3], [0, 6.2, 3.3, 14.9, 12.7]]
)  # fmt: skip
OPTIONS = {
    "two samples": {"sampling_ratio": 2},
    "as many as pixels": {"sampling_ratio": 0},
    "scaled": {"spatial_scale": 0.55, "output_size": (2, 5)},
}
CASES = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def call(**options):
    x = np.random.default_rng(0).normal(size=(2, 3, 9, 11))
    return {"input": x}, {"rois": ROIS, "output_size": (3, 4)} | options


def read(image, y, x):
    """One bilinear sample, clamped as published."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    i, j = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    f, e = y - i, x - j
    top = (1 - e) * image[:, i, j] + e * image[:, i, j + 1]
    return (1 - f) * top + f * ((1 - e) * image[:, i + 1, j] + e * image[:, i + 1, j + 1])


def looped(input, rois, output_size, spatial_scale=1.0, sampling_ratio=0):
    """Bin by bin, sample by sample."""
    output = np.zeros((len(rois), input.shape[1], *output_size))
    for r, roi in enumerate(rois):
        x1, y1, x2, y2 = roi[1:] * spatial_scale - 0.5
        h, w = (y2 - y1) / output_size[0], (x2 - x1) / output_size[1]
        rows, columns = (sampling_ratio or math.ceil(size) for size in (h, w))
        for i, j in np.ndindex(*output_size):
            total = 0
            for a, b in np.ndindex(rows, columns):
                y, x = y1 + (i + (a + 0.5) / rows) * h, x1 + (j + (b + 0.5) / columns) * w
                total = total + read(input[int(roi[0])], y, x)
            output[r, :, i, j] = total / (rows * columns)
    return output


@CASES
def test_the_published_formula_in_loops(backend, close, options):
    arrays, constants = call(**options)
    close(pydeform.roi_align(**arrays, **constants), looped(**arrays, **constants), 1e-13)


def by_grid_sample(torch, x, output_size, spatial_scale=1.0, sampling_ratio=0):
    """RoI by RoI: samples clamped by grid_sample, 0 beyond one pixel outside, means of bins."""
    height, width = x.shape[2:]
    found = []
    for index, *box in ROIS:
        starts = [spatial_scale * v - 0.5 for v in (box[1], box[0])]
        ends = [spatial_scale * v - 0.5 for v in (box[3], box[2])]
        lines, counts = [], []
        for start, end, bins in zip(starts, ends, output_size, strict=True):
            size = (end - start) / bins
            counts.append(sampling_ratio or math.ceil(size))
            place = (torch.arange(bins * counts[-1], dtype=x.dtype) + 0.5) / counts[-1]
            lines.append(start + place * size)
        y, at = torch.meshgrid(*lines, indexing="ij")
        inside = (y >= -1) & (y <= height) & (at >= -1) & (at <= width)
        grid = torch.stack([2 * at / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)[None]
        sampled = torch.nn.functional.grid_sample(
            x[int(index)][None], grid, padding_mode="border", align_corners=True
        )
        found.append(torch.nn.functional.avg_pool2d(sampled * inside, counts)[0])
    return torch.stack(found)


@CASES
def test_a_composition_by_grid_sample(backend, close, options):
    torch = pytest.importorskip("torch")
    arrays, constants = call(**options)
    constants.pop("rois")
    x = torch.tensor(arrays["input"], requires_grad=True)
    expected = by_grid_sample(torch, x, **constants)
    close(pydeform.roi_align(**arrays, rois=ROIS, **constants), expected.detach(), 1e-12)
    y = np.random.default_rng(1).normal(size=expected.shape)
    (grad,) = torch.autograd.grad(expected, x, torch.tensor(y))
    found = pydeform.roi_align_backward(y, **arrays, rois=ROIS, **constants)
    close(found.input, grad, 1e-12)


def torchvision_that_loads():
    """Return the module; one that was built for another torch says so by a RuntimeError."""
    try:
        return pytest.importorskip("torchvision")
    except RuntimeError as error:
        return pytest.skip(f"torchvision does not load: {error}")


@CASES
def test_torchvision(backend, close, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
        torchvision = torchvision_that_loads()
    arrays, constants = call(**options)
    x = torch.tensor(arrays["input"], requires_grad=True)
    rois = torch.tensor(ROIS)
    constants.pop("rois")
    expected = torchvision.ops.roi_align(x, rois, **constants, aligned=True)
    close(pydeform.roi_align(**arrays, rois=ROIS, **constants), expected.detach(), 1e-12)
    expected.sum().backward()
    y = np.ones(expected.shape)
    found = pydeform.roi_align_backward(y, **arrays, rois=ROIS, **constants)
    close(found.input, x.grad, 1e-12)


@CASES
def test_derivatives_fit_together(backend, consistent, options):
    consistent("roi_align", *call(**options))


def test_an_image_of_ones_is_one_inside(backend):
    rois = np.array([[0, 1.0, 1.0, 8.0, 7.0]])
    output = pydeform.roi_align(np.ones((1, 2, 9, 11)), rois, 4)
    np.testing.assert_allclose(output, np.ones((1, 2, 4, 4)), rtol=0, atol=1e-15)


def test_bad_input(refused_by):
    arrays, constants = call()
    good = {**arrays, **constants, "out": np.full((3, 3, 3, 4), 7.0)}
    for change, error, words in (
        ({"rois": ROIS[:, ::-1]}, ValueError, "rois | batch indices 0 <= i < 2"),
        ({"rois": ROIS[:, [0, 3, 2, 1, 4]]}, ValueError, "rois | positive sizes | in row 0"),
        ({"output_size": (1, 2, 3)}, ValueError, "output_size | an int or 2"),
        ({"input": ROIS}, ValueError, "input | 4 dimensions"),
        ({"out": good["out"][:2]}, ValueError, "out | (3, 3, 3, 4)"),
    ):
        refused_by("roi_align", good, lambda a, change=change: change, error, words)
