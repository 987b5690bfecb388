"""Calls that end the process or return nonsense in other libraries, and what they do here.

Those that are refused here (stride 0, offsets of the wrong size or channel count, gradients of the
wrong size) are in the tests of bad input; strided arrays are in test_interchange.py.
"""

import ml_dtypes
import numpy as np
import pytest

import pydeform

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30, 2.0**31, -(2.0**63)])
def test_one_wild_offset_in_an_odd_width(value, dtype, layout):
    """A single such offset ended torchvision, mmcv and paddle; here it touches its own sample."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (1, 2, 7, 7)).astype(dtype)
    w = rng.integers(1, 4, (3, 2, 3, 3)).astype(dtype)
    offset = np.zeros((1, 18, 7, 7), dtype)
    options = {"padding": 1, "layout": layout}
    if layout == "channels_last":
        x, offset = np.moveaxis(x, 1, -1), np.moveaxis(offset, 1, -1)
    plain = pydeform.deform_conv2d(x, offset, w, **options)
    wild = offset.copy()
    place = (0, 6, 3, 8) if layout == "channels_last" else (0, 8, 6, 3)
    with np.errstate(over="ignore"):  # 1e30 is infinite in float16
        wild[place] = value
    result = pydeform.deform_conv2d(x, wild, w, **options)
    if layout == "channels_last":
        result, plain = np.moveaxis(result, -1, 1), np.moveaxis(plain, -1, 1)
        x = np.moveaxis(x, -1, 1)
    expected = plain.astype(np.float64)
    # Tap 4, the middle one, at (6, 3): its sample is NaN, or outside and so 0.
    lost = w[:, :, 1, 1].astype(np.float64) @ x[0, :, 6, 3].astype(np.float64)
    expected[0, :, 6, 3] = np.nan if np.isnan(value) else expected[0, :, 6, 3] - lost
    np.testing.assert_array_equal(result.astype(np.float64), expected)

    if layout == "channels_first":
        grads = pydeform.deform_conv2d_backward(plain, x, wild, w, **options)
        assert np.isfinite(grads.input.astype(np.float64)).all()
        assert np.isnan(grads.offset.astype(np.float64)).sum() == 2 * np.isnan(value)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_all_offsets_wild(rank):
    """Every coordinate NaN, infinite or far outside, in every function: no stray value."""
    size = (5,) * rank
    x = np.ones((2, 3, *size), np.float32)
    w = np.ones((2, 3, *(3,) * rank), np.float32)
    stem = f"deform_conv{rank}d"
    for value in (np.nan, np.inf, -np.inf, 3e38, -3e38):
        offset = np.full((2, 3**rank * rank, *size), value, np.float32)
        for mode in ("zeros", "clip_zero", "border"):
            options = {"padding": 1, "mode": mode}
            output = getattr(pydeform, stem)(x, offset, w, **options)
            far = 3.0**rank * 3 if mode == "border" and np.isfinite(value) else 0.0
            assert np.isnan(output).all() if np.isnan(value) else (output == far).all()
            grad = np.ones_like(output)
            grads = getattr(pydeform, f"{stem}_backward")(grad, x, offset, w, **options)
            assert np.isfinite(grads.input).all()
            tangents = {"input": x, "offset": np.ones_like(offset), "weight": w}
            getattr(pydeform, f"{stem}_jvp")(x, offset, w, tangents=tangents, **options)
            getattr(pydeform, f"{stem}_double_backward")(tangents, grad, x, offset, w, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_more_than_2_to_31_columns(dtype):
    """torchvision and paddle index their columns with 32 bits; here they never exist at once."""
    rng = np.random.default_rng(0)
    channels, pad, size = 256, 500, 6
    x = rng.integers(-2, 3, (1, channels, size, size)).astype(dtype)
    w = rng.integers(-2, 3, (1, channels, 3, 3)).astype(dtype)
    out = size + 2 * pad - 2
    assert channels * 9 * out * out > 2**31
    offset = np.zeros((1, 18, out, out), dtype)
    y = pydeform.deform_conv2d(x, offset, w, padding=pad, mode="border")
    # Far outside every tap reads the nearest corner of the image.
    taps = w.sum((2, 3))[0]
    for row in (0, -1):
        for column in (0, -1):
            assert y[0, 0, row, column] == taps @ x[0, :, row, column]
    inside = pydeform.deform_conv2d(x, None, w)
    np.testing.assert_array_equal(y[..., pad:-pad, pad:-pad], inside)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_empty_batch(rank):
    size, taps = (5,) * rank, 3**rank
    args = {
        "input": np.ones((0, 4, *size), np.float32),
        "offset": np.ones((0, taps * rank, *size), np.float32),
        "weight": np.ones((2, 4, *(3,) * rank), np.float32),
        "bias": np.ones(2, np.float32),
        "mask": np.ones((0, taps, *size), np.float32),
        "padding": 1,
    }
    stem = f"deform_conv{rank}d"
    output = getattr(pydeform, stem)(**args)
    assert output.shape == (0, 2, *size)
    grads = getattr(pydeform, f"{stem}_backward")(output, **args)
    assert [g.shape for g in grads] == [args[n].shape for n in grads._fields]
    assert not grads.weight.any()
    assert not grads.bias.any()
    tangents = grads._asdict()
    assert getattr(pydeform, f"{stem}_jvp")(**args, tangents=tangents)[1].shape == output.shape
    double = getattr(pydeform, f"{stem}_double_backward")(tangents, output, **args)
    assert not double.weight.any()
    per_sample = {**args, "weight": np.ones((0, 2, 4, *(3,) * rank), np.float32)}
    assert getattr(pydeform, stem)(**per_sample).shape == output.shape


def test_steps_past_the_end():
    """Strides, paddings and dilations beyond 32 bits reach no further than the arrays."""
    x = np.arange(1.0, 8.0).reshape(1, 1, 7)
    w = np.ones((1, 1, 1))
    huge = 2**40
    assert pydeform.deform_conv1d(x, None, w, stride=huge).tolist() == [[[1.0]]]
    ends = pydeform.deform_conv1d(x, None, w, stride=huge, padding=((huge, huge),), mode="border")
    assert ends.tolist() == [[[1.0, 1.0, 7.0]]]
    two = np.ones((1, 1, 2))
    y = pydeform.deform_conv1d(
        x, None, two, stride=huge, dilation=huge, padding=((0, huge),), mode="border"
    )
    assert y.tolist() == [[[8.0]]]
    offset = np.full((1, 1, 1), 3.5)
    assert pydeform.deform_conv1d(x, offset, w, stride=huge).tolist() == [[[4.5]]]
    back = np.full((1, 2, 1), -float(huge))
    y = pydeform.deform_conv1d(x, back, two, stride=huge, dilation=huge, padding=((0, huge),))
    assert y.tolist() == [[[1.0]]]
