"""The compiled engine's own paths: widths of blocks, few and single channels, parts, wide indices.

`test_contract` holds every backend to the same promises; the sizes here are those at which the
compiled one takes another way, and every vector level runs them.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

import pydeform
from pydeform.testing.bounds import expected, reference
from pydeform.testing.values import deform_conv_case, make_geometry

SMALL, LONG = (13, 11), (29, 31)  # one tile of positions, and several
KERNEL = (2, 2)

GEOMETRIES = {
    "blocks that share an offset group": {"size": SMALL, "channels": 100, "out_channels": 20},
    "blocks, several tiles": {"size": LONG, "channels": 36, "out_channels": 70},
    "blocks, several images": {"size": SMALL, "channels": 65, "out_channels": 3, "batch": 11},
    "offset groups across blocks": {
        "size": SMALL,
        "channels": 144,
        "out_channels": 9,
        "offset_groups": 3,
        "kink": "mean",
        "mode": "border",
    },
    "groups wider than a block": {
        "size": SMALL,
        "channels": 140,
        "out_channels": 6,
        "groups": 2,
        "channels_last": True,
    },
    "products deeper than their blocks": {
        "size": (5, 4),
        "channels": 300,
        "out_channels": 270,
        "offset_groups": 2,
    },
    "several groups in a block": {
        "size": SMALL,
        "channels": 48,
        "out_channels": 32,
        "groups": 16,
        "kink": "open",
    },
    "single channels": {"size": LONG, "channels": 70, "out_channels": 70, "groups": 70},
    "single channels, three outputs": {
        "size": SMALL,
        "channels": 40,
        "out_channels": 120,
        "groups": 40,
        "offset_groups": 2,
        "batch": 3,
        "channels_last": True,
        "mode": "clip_zero",
    },
    "few channels, parts of an image": {"size": LONG, "channels": 8, "out_channels": 40},
    "few channels, several images a part": {
        "size": SMALL,
        "channels": 3,
        "out_channels": 40,
        "batch": 19,
        "kink": "mean",
    },
    "few channels, groups": {
        "size": SMALL,
        "channels": 12,
        "out_channels": 20,
        "groups": 2,
        "offset_groups": 4,
        "batch": 2,
        "channels_last": True,
        "mode": "border",
    },
    "64-bit indices": {
        "size": SMALL,
        "channels": 20,
        "out_channels": 4,
        "dilation": (2**30, 2**30),
        "pad": ((2**30, 1), (2**30 + 1, 0)),
    },
    "64-bit indices, few channels": {
        "size": SMALL,
        "channels": 2,
        "out_channels": 4,
        "dilation": (1, 2**40),
        "pad": ((1, 1), (2**40, 0)),
        "kink": "mean",
    },
}
every_geometry = pytest.mark.parametrize("name", GEOMETRIES)
DTYPES = ["float64", "float32", "float16"]


def case_of(name, kind, per_sample=False):
    chosen = {"kernel": KERNEL, **GEOMETRIES[name]}
    return deform_conv_case(*make_geometry(**chosen), seed=7, kind=kind, per_sample=per_sample)


def same_bits(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert np.array_equal(first[key], second[key], equal_nan=True), key


@every_geometry
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per sample"])
def test_dyadic_cases_are_exact(name, dtype, per_sample):
    case = case_of(name, "dyadic", per_sample)
    exact = reference(case.map(lambda array: array.astype(np.longdouble)))
    with pydeform.use_backend("cpu"):
        computed = case.astype(np.dtype(dtype)).evaluate()
    same_bits(computed, {key: value.astype(computed[key].dtype) for key, value in exact.items()})


@every_geometry
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_cases_are_within_the_bound(name, dtype):
    case = case_of(name, "random").astype(np.dtype(dtype))
    with pydeform.use_backend("cpu"):
        computed = case.evaluate()
    bounds = expected(case)
    units = {key: bounds[key].units(value) for key, value in computed.items()}
    assert max(units.values()) <= 1, units


@every_geometry
def test_bits_do_not_depend_on_threads(name):
    case = case_of(name, "random").astype(np.dtype(np.float32))
    with pydeform.use_backend("cpu"), pydeform.num_threads(1):
        alone = case.evaluate()
    for threads in (2, 3, 4, 7, 2):
        with pydeform.use_backend("cpu"), pydeform.num_threads(threads):
            same_bits(case.evaluate(), alone)


@pytest.mark.parametrize("width", [1, 2, 3, 17])
@pytest.mark.parametrize("rank", [1, 2])
def test_corners_side_by_side_are_read_as_others(rank, width):
    """Few channels in float32 take two corners at once, float64 each alone; values are exact."""
    rng = np.random.default_rng(width)
    size = (width,) if rank == 1 else (5, width)
    shape = (40, 2, *size)
    image = rng.integers(-8, 9, shape).astype(np.float64)
    offset = rng.integers(-2 * width - 4, 2 * width + 5, (40, rank, *size)) / 2
    image[3, 1, ..., -1] = np.inf  # reaches nobody whose weight for it is 0
    weight = np.ones((1, 2, *(1,) * rank))
    convolve = getattr(pydeform, f"deform_conv{rank}d")
    backward = getattr(pydeform, f"deform_conv{rank}d_backward")
    results = {}
    with pydeform.use_backend("cpu"):
        for dtype in (np.float32, np.float64):
            x, p, w = (array.astype(dtype) for array in (image, offset, weight))
            output = convolve(x, p, w)
            finite = np.where(np.isinf(x), dtype(4), x)
            gradients = backward(np.ones_like(output), finite, p, w)
            results[dtype] = [output, gradients.input, gradients.offset, gradients.weight]
    for single, double in zip(results[np.float32], results[np.float64], strict=True):
        assert np.array_equal(single, double.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_vector_level(level):
    """The rest of this file once more, with that vector code."""
    built = pydeform.info().build
    if level == built["vector_level"]:
        return  # this very process runs it
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "0"]
    result = subprocess.run(
        [*command, __file__, "-k", "not vector_level"],
        env={**os.environ, "PYDEFORM_CPU": level},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if level in built["vector_levels"]:
        assert result.returncode == 0, result.stdout[-3000:]
    else:  # said, not fallen back from in silence
        assert f"this processor runs {built['vector_levels'][-1]!r} at most" in (
            result.stdout + result.stderr
        )
