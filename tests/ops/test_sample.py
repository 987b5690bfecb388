"""Sampling and splatting: facts from outside, identities, and bad input with its messages."""

from itertools import product

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import pydeform
from pydeform.testing.sample import sample_cases

SIZES = {1: (5,), 2: (3, 4), 3: (2, 3, 3)}
RANKS = pytest.mark.parametrize("rank", [1, 2, 3])
MODES = pytest.mark.parametrize("mode", ["zeros", "clip_zero", "border"])


def positions(rank, seed=0, shape=(2, 2, 3, 4)):
    """In, around and on the image: quarters of pixels, some of them whole."""
    rng = np.random.default_rng(seed)
    high = 4 * np.array(SIZES[rank]) + 8
    return rng.integers(-8, high, (*shape, rank)) / 4


@RANKS
@MODES
@pytest.mark.parametrize("kink", ["right", "open", "mean"])
def test_splat_is_the_transpose_of_sample(backend, rank, mode, kink):
    """The dense matrix of each, column by column; equal to the bit, for every deriv."""
    size, p = SIZES[rank], positions(rank, shape=(1, 1, 1, 6))
    for deriv in product((0, 1), repeat=rank):
        options = {"deriv": deriv, "mode": mode, "kink": kink}
        pixels = np.eye(int(np.prod(size))).reshape(1, -1, *size)
        values = np.eye(6).reshape(1, 6, 1, 6)
        reads = pydeform.sample(pixels, p, **options)[0, :, 0]
        spreads = pydeform.splat(values, p, size, **options)[0].reshape(6, -1)
        np.testing.assert_array_equal(reads.T, spreads)


@RANKS
def test_scipy_reads_the_same(backend, rank):
    rng = np.random.default_rng(1)
    x, p = rng.normal(size=(2, 4, *SIZES[rank])), positions(rank)
    read = pydeform.sample(x, p, mode="border")
    for n, c in product(range(2), range(4)):
        at = np.moveaxis(p[n, c // 2], -1, 0)
        there = ndimage.map_coordinates(x[n, c], at, order=1, mode="nearest")
        np.testing.assert_allclose(read[n, c], there, rtol=0, atol=1e-14)


@pytest.mark.parametrize("output", [(), (5,), (2, 3), (1, 2, 2, 1)])
def test_the_output_has_any_number_of_axes(backend, output):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 2, 4, 4))
    p = rng.uniform(-1, 4, (2, 1, 3, *output, 2))
    read = pydeform.sample(x, p)
    assert read.shape == (2, 2, 3, *output)
    flat = pydeform.sample(x, p.reshape(2, 1, 3, -1, 2))
    np.testing.assert_array_equal(read.reshape(2, 2, 3, -1), flat)
    back = pydeform.splat(read, p, (4, 4))
    np.testing.assert_array_equal(back, pydeform.splat(flat, p.reshape(2, 1, 3, -1, 2), size=4))


def test_no_positions(backend):
    x, p = np.ones((2, 2, 4)), np.zeros((2, 1, 3, 0, 1))
    assert pydeform.sample(x, p).shape == (2, 2, 3, 0)
    np.testing.assert_array_equal(pydeform.splat(np.ones((2, 2, 3, 0)), p, 4), 0 * x)
    grads = pydeform.sample_backward(np.ones((2, 2, 3, 0)), x, p)
    np.testing.assert_array_equal(grads.input, 0 * x)


def test_whole_positions_read_pixels(backend):
    x = np.arange(12.0).reshape(1, 1, 3, 4)
    p = np.moveaxis(np.indices((3, 4)), 0, -1)[None, None, None].astype(float)
    np.testing.assert_array_equal(pydeform.sample(x, p)[:, :, 0], x)
    np.testing.assert_array_equal(pydeform.splat(x[:, :, None], p, (3, 4)), x)


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("zeros", [0, 0.25, 0.75, 3, 1, 0]),
        ("clip_zero", [0, 0, 0, 4, 4, 0]),
        ("border", [1, 1, 1, 4, 4, 4]),
    ],
)
def test_borders(backend, mode, values):
    x = np.array([[[1.0, 2, 3, 4]]])
    p = np.array([-1, -0.75, -0.25, 3.25, 3.75, 4]).reshape(1, 1, 1, 6, 1)
    np.testing.assert_array_equal(pydeform.sample(x, p, mode=mode)[0, 0, 0], values)


@RANKS
def test_deriv_is_the_derivative(backend, rank):
    """Along each axis, by the difference of two samples in one cell."""
    rng = np.random.default_rng(3)
    x = rng.integers(-4, 5, (2, 4, *SIZES[rank])).astype(float)
    p = np.floor(positions(rank)) + 0.25
    for axis in range(rank):
        step = np.eye(rank)[axis] / 2
        difference = 2 * (pydeform.sample(x, p + step) - pydeform.sample(x, p))
        deriv = tuple(int(d == axis) for d in range(rank))
        np.testing.assert_array_equal(pydeform.sample(x, p, deriv=deriv), difference)


def test_a_second_derivative_along_one_axis_is_zero(backend):
    x, p = np.arange(5.0).reshape(1, 1, 5) ** 2, np.full((1, 1, 1, 1, 1), 1.5)
    one = np.ones((1, 1, 1, 1))
    grads = pydeform.sample_backward(one, x, p, deriv=(1,))
    np.testing.assert_array_equal(grads.position, 0 * p)
    np.testing.assert_array_equal(grads.input[0, 0], [0, -1, 1, 0, 0])


@settings(max_examples=20)
@given(data=st.data())
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sample_is_a_deformable_convolution(dtype, data):
    """With one output at 0, offsets are positions: the same samples, to the bit."""
    case = data.draw(sample_cases("sample", "random"))
    options = {**case.options, "deriv": None}
    x, p = case.arrays["input"].astype(dtype), case.arrays["position"].astype(dtype)
    rank, channels, read = p.shape[-1], x.shape[1], pydeform.sample(x, p, **options)
    identity = np.eye(channels, dtype=dtype).reshape(channels, channels, *(1,) * rank)
    convolution = getattr(pydeform, f"deform_conv{rank}d")
    for index in np.ndindex(p.shape[2:-1]):
        here = p[(slice(None), slice(None), *index)]  # [N, G, n]
        offset = here.reshape(x.shape[0], here.shape[1] * rank, *(1,) * rank)
        y = convolution(x, offset, identity, stride=x.shape[2:], mode=options["mode"])
        np.testing.assert_array_equal(
            y.reshape(y.shape[:2]), read[(slice(None), slice(None), *index)]
        )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_wide_position_beside_16_bits(backend, dtype):
    """2049 and a half is a float32 position, but no float16 one."""
    x = np.zeros((1, 1, 2052), dtype)
    x[..., 2049] = 2
    p = np.full((1, 1, 1, 1, 1), 2049.5, np.float32)
    assert pydeform.sample(x, p).item() == 1
    grads = pydeform.sample_backward(np.ones((1, 1, 1, 1), dtype), x, p)
    assert grads.position.dtype == np.float32
    assert grads.position.item() == -2
    assert grads.input.dtype == dtype
    assert pydeform.splat(np.ones((1, 1, 1, 1), dtype), p, 2052)[0, 0, 2050] == 0.5


def test_torch_tensors(backend):
    torch = pytest.importorskip("torch")
    x = torch.arange(4.0).reshape(1, 1, 4)
    p = torch.full((1, 1, 1, 1), 0.5)
    assert isinstance(pydeform.sample(x, p), torch.Tensor)
    assert pydeform.splat(pydeform.sample(x, p), p, 4).tolist() == [[[0.25, 0.25, 0, 0]]]


def good(**changes):
    arguments = {"input": np.ones((2, 4, 5, 6)), "position": np.ones((2, 2, 3, 7, 2))}
    return {**arguments, **changes}


def splatted(**changes):
    arguments = {
        "values": np.ones((2, 4, 3, 7)),
        "position": np.ones((2, 2, 3, 7, 2)),
        "size": (5, 6),
    }
    return {**arguments, **changes}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"input": np.ones((4, 5))}, ValueError, "input: expected 3 to 5 dimensions | (4, 5)"),
        (
            {"input": np.ones((2, 4, 0, 6))},
            ValueError,
            "input: expected at least one | (2, 4, 0, 6)",
        ),
        ({"input": [1.0]}, TypeError, "input: expected an array | list"),
        ({"position": None}, TypeError, "position: expected an array | None"),
        (
            {"position": np.ones((2, 2, 3, 7, 3))},
            ValueError,
            "position: expected shape (batch 2, groups, taps, *output, 2) | (2, 2, 3, 7, 3)",
        ),
        ({"position": np.ones((1, 2, 3, 7, 2))}, ValueError, "position: | batch 2"),
        ({"position": np.ones((2, 7, 2))}, ValueError, "position: | position[:, None, None]"),
        (
            {"position": np.ones((2, 3, 3, 7, 2))},
            ValueError,
            "position: expected groups that divide the 4 channels, got 3",
        ),
        ({"position": np.ones((2, 0, 3, 7, 2))}, ValueError, "position: expected groups | got 0"),
        (
            {"position": np.ones((2, 2, 3, 7, 2), np.float32)},
            TypeError,
            "mixed dtypes | input float64, position float32",
        ),
        ({"input": np.ones((2, 4, 5, 6), int)}, TypeError, "input: expected one of | int64"),
        ({"deriv": (1,)}, ValueError, "deriv: expected 2 of 0 and 1 | (1,)"),
        ({"deriv": (0, 2)}, ValueError, "deriv: expected 2 of 0 and 1 | (0, 2)"),
        ({"deriv": 1}, TypeError, "deriv: expected 2 of 0 and 1 | got 1 (int)"),
        ({"deriv": (True, 0)}, TypeError, "deriv: expected | True (bool)"),
        ({"deriv": "yx"}, TypeError, "deriv: expected | 'yx' (str)"),
        ({"mode": "reflect"}, ValueError, "mode: expected one of | 'reflect'"),
        ({"kink": 1}, TypeError, "kink: expected one of | 1 (int)"),
        ({"out": np.ones((2, 4, 3, 6))}, ValueError, "out: expected shape (2, 4, 3, 7)"),
    ],
)
def test_bad_input_of_sample(backend, changes, error, words):
    refused(pydeform.sample, good(**changes), error, words)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"size": (5,)}, ValueError, "size: expected an int or 2 of them | (5,)"),
        ({"size": (5, 0)}, ValueError, "size: expected at least 1, got 0"),
        ({"size": (5, 2.0)}, TypeError, "size: | 2.0 (float)"),
        ({"size": 2**40}, ValueError, "output: expected fewer than 2^63 bytes"),
        ({"values": np.ones((2, 4))}, ValueError, "values: expected shape (batch, channels"),
        ({"values": np.ones((2, 0, 3, 7))}, ValueError, "values: | at least one channel"),
        (
            {"values": np.ones((2, 4, 3, 8))},
            ValueError,
            "values: expected shape (2, 4, 3, 7) | (2, 4, 3, 8)",
        ),
        ({"position": np.ones((2, 2, 3, 7, 4))}, ValueError, "position: expected a last axis of 1"),
        ({"position": np.ones((1, 2, 3, 7, 2))}, ValueError, "position: | batch 2"),
        ({"values": np.ones((2, 4, 3, 7), np.float32)}, TypeError, "mixed dtypes"),
        ({"deriv": (0, 0, 1)}, ValueError, "deriv: expected 2 of 0 and 1"),
        ({"out": np.ones((2, 4, 6, 5))}, ValueError, "out: expected shape (2, 4, 5, 6)"),
    ],
)
def test_bad_input_of_splat(backend, changes, error, words):
    refused(pydeform.splat, splatted(**changes), error, words)


@pytest.mark.parametrize("stem", ["sample", "splat"])
def test_bad_derivatives(backend, stem):
    arguments = good() if stem == "sample" else splatted()
    first = next(iter(arguments))
    output = getattr(pydeform, stem)(**arguments)
    backward = getattr(pydeform, f"{stem}_backward")
    refused(backward, {**arguments, "grad_output": output[:1]}, ValueError, "grad_output: expected")
    refused(
        backward,
        {**arguments, "grad_output": output, "needs": ("weight",)},
        ValueError,
        f"needs: | '{first}' | 'weight'",
    )
    jvp = getattr(pydeform, f"{stem}_jvp")
    refused(jvp, {**arguments, "tangents": {"mask": output}}, ValueError, "tangents: | 'mask'")
    refused(
        jvp,
        {**arguments, "tangents": {"position": output}},
        ValueError,
        "tangents['position']: expected shape (2, 2, 3, 7, 2)",
    )
    double = getattr(pydeform, f"{stem}_double_backward")
    extra = {"grad_output": output, "grad_grads": {first: arguments["position"]}}
    refused(double, {**arguments, **extra}, ValueError, f"grad_grads['{first}']: expected shape")


def refused(function, arguments, error, words):
    """The message has all the words (a | b), and `out` was not written."""
    with pytest.raises(error) as caught:
        function(**arguments)
    message = str(caught.value)
    assert [word for word in words.split(" | ") if word not in message] == [], message
    if "out" in arguments:
        assert (arguments["out"] == 1).all()
