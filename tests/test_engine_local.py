"""The compiled engine's own paths of weighted sums: fans of taps, groups loaded at once, planes.

As in `test_engine`, the sizes are those at which it takes another way.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pydeform
from pydeform import _cpu, _ref
from pydeform._shapes import ConvGeometry
from pydeform.testing import counted
from pydeform.testing.local_conv import expected, local_conv_case, reference
from pydeform.testing.sample import sample_case
from pydeform.testing.values import make_geometry

SEAM = str(Path(__file__).with_name("test_samples.py"))
SMALL, LONG = (13, 11), (29, 31)  # few tiles of positions, and many

GEOMETRIES = {
    "groups loaded together, several tiles": {
        "size": LONG,
        "channels": 96,
        "groups": 6,
        "offset_groups": 6,
        "channels_last": True,
    },
    "groups of odd widths, several images": {
        "size": SMALL,
        "channels": 57,
        "groups": 3,
        "offset_groups": 3,
        "batch": 3,
        "kink": "mean",
        "mode": "border",
    },
    "groups wider than a block": {
        "size": SMALL,
        "channels": 150,
        "batch": 2,
        "channels_last": True,
        "kink": "open",
    },
    "kernel and offset in other groups": {
        "size": SMALL,
        "channels": 108,
        "groups": 4,
        "offset_groups": 6,
        "mode": "clip_zero",
    },
    "more taps than a fan": {
        "size": SMALL,
        "kernel": (10, 9),
        "pad": ((5, 4), (4, 4)),
        "channels": 20,
    },
    "more taps than a fan, groups": {
        "size": SMALL,
        "kernel": (8, 8),
        "pad": ((4, 3), (4, 3)),
        "channels": 24,
        "groups": 2,
        "offset_groups": 2,
        "kink": "mean",
        "channels_last": True,
    },
    "planes": {"size": LONG, "channels": 40, "groups": 4, "offset": False, "kernel": (3, 3)},
    "planes, upscaled": {
        "size": SMALL,
        "channels": 80,
        "offset": False,
        "upscale": (2, 3),
        "channels_last": True,
        "mode": "border",
    },
    "few channels": {"size": LONG, "channels": 8, "groups": 2, "offset_groups": 4, "batch": 2},
    "few channels, upscaled": {
        "size": SMALL,
        "channels": 6,
        "groups": 6,
        "upscale": (1, 2),
        "channels_last": True,
        "kink": "mean",
    },
    "a line": {"size": (400,), "kernel": (5,), "channels": 33, "kink": "mean"},
    "a volume": {"size": (5, 6, 7), "kernel": (2, 2, 2), "channels": 18, "groups": 2},
    "a volume, on its kinks": {
        "size": (5, 6, 4),
        "kernel": (2, 2, 2),
        "channels": 17,
        "kink": "mean",
        "channels_last": True,
    },
    "64-bit indices": {
        "size": SMALL,
        "channels": 20,
        "dilation": (2**30, 2**30),
        "pad": ((2**30, 1), (2**30 + 1, 0)),
    },
}
every_geometry = pytest.mark.parametrize("name", GEOMETRIES)
DTYPES = ["float64", "float32", "float16"]

SAMPLES = {
    "sample": {"size": LONG, "share": 20, "groups": 3, "output": (300,)},
    "sample, differentiated": {
        "size": SMALL,
        "share": 17,
        "groups": 2,
        "output": (200,),
        "deriv": (1, 0),
        "kink": "mean",
    },
    "sample, differentiated twice, few channels": {
        "size": SMALL,
        "share": 2,
        "output": (500,),
        "deriv": (1, 1),
    },
    "splat": {"size": LONG, "share": 150, "output": (300,), "batch": 2},
    "splat, differentiated": {
        "size": SMALL,
        "share": 16,
        "groups": 5,
        "output": (200,),
        "deriv": (1, 1),
        "kink": "open",
    },
    "splat, few channels": {"size": (4, 5, 6), "output": (400,), "deriv": (0, 1, 0)},
}


def case_of(name, kind):
    chosen = {"kernel": (2, 2), **GEOMETRIES[name]}
    options = {key: chosen.pop(key) for key in ("offset", "upscale") if key in chosen}
    chosen["out_channels"] = chosen["channels"]
    return local_conv_case(*make_geometry(**chosen), seed=7, kind=kind, **options)


def sampling_of(name, kind):
    return sample_case(name.split(",")[0], seed=7, kind=kind, **SAMPLES[name])


def computed(case, threads=None):
    with pydeform.use_backend("cpu"), pydeform.num_threads(threads or pydeform.get_num_threads()):
        return case.evaluate()


def same_bits(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert np.array_equal(first[key], second[key], equal_nan=True), key


def check_exact(case, dtype, reference):
    exact = reference(case.map(lambda array: array.astype(np.longdouble)))
    results = computed(case.astype(np.dtype(dtype)))
    same_bits(results, {key: value.astype(results[key].dtype) for key, value in exact.items()})


@every_geometry
@pytest.mark.parametrize("dtype", DTYPES)
def test_dyadic_cases_are_exact(name, dtype):
    check_exact(case_of(name, "dyadic"), dtype, reference)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dyadic_samples_are_exact(name, dtype):
    check_exact(sampling_of(name, "dyadic"), dtype, counted.reference)


@every_geometry
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_cases_are_within_the_bound(name, dtype):
    case = case_of(name, "random").astype(np.dtype(dtype))
    bounds = expected(case)
    units = {key: bounds[key].units(value) for key, value in computed(case).items()}
    assert max(units.values()) <= 1, units


@pytest.mark.parametrize("name", [*GEOMETRIES, *SAMPLES])
def test_bits_do_not_depend_on_threads(name):
    make = case_of if name in GEOMETRIES else sampling_of
    case = make(name, "random").astype(np.dtype(np.float32))
    alone = computed(case, 1)
    for threads in (2, 3, 4, 7, 2):
        same_bits(computed(case, threads), alone)


@pytest.mark.parametrize("channels", [3, 16, 32, 80])
@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
@pytest.mark.parametrize("needed", [(0, 1, 2), (0,), (1,), (2,), (1, 2)])
def test_positions_that_are_absolute(channels, last, needed):
    """The way of multi-scale attention, and every choice of gradients."""
    random = np.random.default_rng(5)
    groups, taps, positions, size = 2, 4, 150, (9, 14)

    def shaped(count, spatial):
        return (2, *spatial, count) if last else (2, count, *spatial)

    def whole(shape, low, high):
        return random.integers(low, high, shape).astype(float)

    grid, total = (1, positions), groups * channels
    input = whole(shaped(total, size), -8, 9)
    offset = whole(shaped(groups * taps * 2, grid), -8, 8 * 15) / 8
    kernel = whole(shaped(groups * taps, grid), 0, 9)
    grad_output = whole(shaped(total, grid), -8, 9)
    geometry = ConvGeometry(
        *(2, total, total, total, groups, size, grid, (1, taps), (1, 1), (0, 0), (1, 1)),
        *("zeros", "right", last, (), True),
    )
    shares = (None, (groups, taps, 2), (groups, taps))  # of an offset and a kernel

    def seen(arrays):
        """As a backend reads and writes them: [N, P, G, K, n] and [N, P, G, K]."""
        for array, share in zip(arrays, shares, strict=True):
            if array is None or share is None:
                yield array
            elif last:
                yield array.reshape(2, positions, *share, copy=False)
            else:
                yield np.moveaxis(array.reshape(2, *share, positions, copy=False), -1, 1)

    results = []
    for backend in (_cpu, _ref):
        output = np.full_like(grad_output, 7)
        arrays = (input, offset, kernel)
        backend.local_conv(geometry, *seen(arrays), output)
        grads = tuple(np.full_like(a, 7) if i in needed else None for i, a in enumerate(arrays))
        backend.local_conv_backward(geometry, grad_output, *seen(arrays), tuple(seen(grads)))
        results.append([output, *(grads[i] for i in needed)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_vector_level(level):
    """The rest of this file and the seam's once more, with that vector code."""
    built = pydeform.info().build
    if level == built["vector_level"] or level not in built["vector_levels"]:
        return  # this very process runs it; or nothing here does, which `test_engine` checks
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "0"]
    result = subprocess.run(
        [*command, __file__, SEAM, "-k", "not vector_level and not emulated"],
        env={**os.environ, "PYDEFORM_CPU": level},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
