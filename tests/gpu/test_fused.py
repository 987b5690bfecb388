"""The fused kernel: exact where sums are, within its bound elsewhere, and taken where it should."""

import ml_dtypes
import numpy as np
import pytest

from pydeform import _cpu, _gpu
from pydeform._gpu import _fused, _host
from pydeform._ref.deform_conv import Layer
from pydeform.testing.bounds import (
    AbsoluteSampling,
    expected,
    long,
    reference,
    smallest,
    unit_roundoff,
)
from pydeform.testing.values import deform_conv_case, make_geometry

HALVES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ONE = ((1, 1),)
#: Partial tiles of rows and of outputs, all blocks, both layouts, whole and odd runs.
SHAPES = {
    "1d": {"size": (150,), "kernel": (3,), "channels": 64, "out_channels": 20, "pad": ONE},
    "1d, both blocks": {
        "size": (300,),
        "kernel": (2,),
        "channels": 32,
        "out_channels": 150,
        "mode": "border",
        "channels_last": True,
    },
    "1d, taps in chunks": {
        "size": (60,),
        "kernel": (19,),
        "channels": 64,
        "out_channels": 8,
        "offset_groups": 2,
    },
    "2d": {
        "size": (9, 8),
        "kernel": (3, 3),
        "channels": 64,
        "out_channels": 24,
        "batch": 2,
        "pad": ONE * 2,
    },
    "2d last": {
        "size": (7, 9),
        "kernel": (3, 3),
        "channels": 64,
        "out_channels": 130,
        "offset_groups": 2,
        "batch": 3,
        "mode": "clip_zero",
        "kink": "open",
        "channels_last": True,
    },
    "2d, four offset groups": {
        "size": (6, 7),
        "kernel": (2, 3),
        "channels": 128,
        "out_channels": 7,
        "offset_groups": 4,
        "stride": (1, 2),
        "mode": "border",
        "kink": "mean",
    },
    "2d, groups across offset groups": {
        "size": (5, 6),
        "kernel": (2, 2),
        "channels": 192,
        "out_channels": 20,
        "groups": 2,
        "offset_groups": 3,
        "dilation": (2, 1),
    },
    "2d, taps in chunks": {
        "size": (8, 8),
        "kernel": (5, 3),
        "channels": 32,
        "out_channels": 33,
        "pad": ONE * 2,
    },
    "3d": {"size": (4, 5, 4), "kernel": (2, 3, 2), "channels": 32, "out_channels": 264},
    "3d last": {
        "size": (5, 4, 6),
        "kernel": (1, 2, 2),
        "channels": 64,
        "out_channels": 16,
        "groups": 2,
        "batch": 2,
        "mode": "clip_zero",
        "channels_last": True,
    },
}


def make(name, kind, dtype, **options):
    optional = options.pop("optional", ("offset", "bias", "mask"))
    seed = list(SHAPES).index(name)
    geometry = make_geometry(**{**SHAPES[name], **options})
    case = deform_conv_case(*geometry, seed=seed, kind=kind, optional=optional)
    return case.astype(dtype, np.float32)


def run(backend, case):
    out = np.full(case.grad_output.shape, np.nan, case.dtype)
    arrays = {n: None if a is None else np.ascontiguousarray(a) for n, a in case.arrays.items()}
    names = ("input", "offset", "weight", "bias", "mask")
    backend.deform_conv(case.geometry, *(arrays[name] for name in names), out)
    return out


@pytest.fixture
def launched(monkeypatch):
    """Launches of the fused kernel, as its template arguments."""
    found = []

    def launch(source, kernel, names, *args, **options):
        found.append((kernel, *names))
        return real(source, kernel, names, *args, **options)

    real = _fused.launch
    monkeypatch.setattr(_fused, "launch", launch)
    return found


def fused_bound(case, operand):
    """What the a-priori bound becomes where samples are rounded to the type of the operands.

    Lambda is of the operation on absolute values without the bias, which is not rounded. Tensor
    cores cut off where others round, which takes twice the roundoff of sums. A sample may underflow
    in 16 bits, by half the smallest number; the sum of absolute weights says how far that goes.
    """
    plain = expected(case)["output"]
    size = case.map(lambda array: np.abs(array.astype(np.float64)))
    offset = case.arrays["offset"].astype(np.float64)
    layer = Layer(
        case.geometry,
        size.arrays["input"],
        offset,
        size.arrays["weight"],
        size.arrays["mask"],
        lambda g, p: AbsoluteSampling(g, p, np.dtype(np.float32)),
    )
    once = unit_roundoff(operand) * (1 + unit_roundoff(case.dtype))
    weights = np.abs(case.arrays["weight"].astype(np.float64))
    least = smallest(np.dtype(operand)) / 2 * weights.sum(axis=tuple(range(1, weights.ndim))).max()
    return 2 * plain.bound + 1.001 * once * layer.output(None) + least


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", ["dyadic", "kinks"])
@pytest.mark.parametrize("name", SHAPES)
def test_dyadic_cases_are_exact(name, kind, dtype, launched):
    case = make(name, kind, HALVES[dtype])
    result = run(_gpu, case)
    assert any(kernel == "fused" for kernel, *_ in launched)
    np.testing.assert_array_equal(
        result.astype(np.float32), run(_cpu, case).astype(np.float32), strict=True
    )


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", SHAPES)
def test_random_cases_are_within_the_bound(name, dtype, launched):
    case = make(name, "random", HALVES[dtype])
    result = run(_gpu, case)
    assert any(kernel == "fused" for kernel, *_ in launched)
    truth = reference(case.map(long))["output"]
    units = np.abs(long(result) - truth) / fused_bound(case, case.dtype)
    assert np.max(units) <= 1
    assert np.max(units) > 0.01  # a bound that says something


@pytest.mark.parametrize("optional", [(), ("offset",), ("bias", "mask")])
def test_what_may_be_missing(optional):
    case = make("2d", "dyadic", np.float16, optional=optional)
    np.testing.assert_array_equal(run(_gpu, case), run(_cpu, case))


@pytest.mark.parametrize("spoiled", ["input", "offset", "mask"])
@pytest.mark.parametrize("name", ["1d", "2d last", "3d"])
def test_nan_and_infinity(name, spoiled):
    case = make(name, "dyadic", np.float16)
    array = case.arrays[spoiled].reshape(-1)
    array[[3, 40, 79]] = np.nan, np.inf, -np.inf
    result, same = run(_gpu, case), run(_cpu, case)
    assert not np.isfinite(same).all()
    assert np.isfinite(same).any()
    np.testing.assert_array_equal(result, same)


@pytest.mark.parametrize("name", ["1d, both blocks", "2d last", "2d, taps in chunks", "3d"])
def test_schedules_and_splits_give_the_same_bits(name, monkeypatch, launched):
    case = make(name, "random", np.float16)
    result = run(_gpu, case)
    for seed in (1, 7):
        with _host.schedule(seed=seed):
            np.testing.assert_array_equal(run(_gpu, case), result)
    launched.clear()
    monkeypatch.setattr(_fused, "machine", lambda xp: (90, 1))
    np.testing.assert_array_equal(run(_gpu, case), result)
    assert len([kernel for kernel, *_ in launched if kernel == "fused"]) == 1


@pytest.mark.parametrize(
    ("name", "rank", "blocks"),
    [
        ("1d", "1", [("128", "128")]),
        ("1d, both blocks", "1", [("128", "256"), ("64", "256")]),
        ("2d last", "2", [("64", "256")]),
        ("3d last", "3", [("128", "128")]),
    ],
)
def test_blocks_fit_the_outputs_and_the_rounds(name, rank, blocks, launched):
    run(_gpu, make(name, "random", np.float16))
    assert launched[1:] == [("fused", "half_t", rank, *block) for block in blocks]


def test_every_gpu_has_the_shared_memory():
    blocks = (_fused._FEW, _fused._WHOLE, _fused._LAST)
    needs = [_fused._shared(rank, *block) for rank in (1, 2, 3) for block in blocks]
    assert max(needs) <= 99 * 1024


@pytest.mark.parametrize(
    ("rows", "tiles", "launches"),
    [
        (25088, 1, [(0, 132 * 128, (128, 256)), (132 * 128, 25088, (64, 256))]),
        (30400, 1, [(0, 30400, (128, 256))]),
        (12544, 2, [(0, 66 * 128, (128, 256)), (66 * 128, 12544, (64, 256))]),
        (100, 1, [(0, 100, (64, 256))]),
        (5000, 0, [(0, 5000, (128, 128))]),
        (0, 1, []),
    ],
)
def test_rows_are_split_into_whole_rounds(rows, tiles, launches):
    assert _fused._split(rows, tiles, 132) == launches


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"offset_groups": 4}, np.float16),  # 16 channels an offset group
        ({"groups": 4}, np.float16),
        ({}, np.float32),
    ],
)
def test_other_convolutions_take_columns(options, dtype, launched):
    case = make("2d", "dyadic", dtype, **options)
    np.testing.assert_array_equal(run(_gpu, case), run(_cpu, case))
    assert not launched


def test_rank_3_of_float32_takes_columns(launched, monkeypatch):
    monkeypatch.setenv("PYDEFORM_TF32", "1")
    case = make("3d", "dyadic", np.float32)
    np.testing.assert_array_equal(run(_gpu, case), run(_cpu, case))
    assert not launched


def test_weights_per_sample_take_columns(launched):
    geometry = make_geometry(**SHAPES["2d"])
    case = deform_conv_case(*geometry, seed=0, kind="dyadic", per_sample=True).astype(np.float16)
    np.testing.assert_array_equal(run(_gpu, case), run(_cpu, case))
    assert not launched


@pytest.mark.parametrize("name", ["1d", "2d last"])
def test_float32_as_tf32_where_asked_for(name, monkeypatch, launched):
    monkeypatch.setenv("PYDEFORM_TF32", "1")
    case = make(name, "dyadic", np.float32)
    np.testing.assert_array_equal(run(_gpu, case), run(_cpu, case))
    case = make(name, "random", np.float32)
    result = run(_gpu, case)
    assert {names[0] for kernel, *names in launched if kernel == "fused"} == {"float"}
    truth = reference(case.map(long))["output"]
    # Samples and weights are both rounded: two units roundoff of 10 bits of fraction.
    units = np.abs(long(result) - truth) / fused_bound(case, np.float16)
    assert 0.01 < np.max(units) <= 2
