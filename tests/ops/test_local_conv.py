"""Convolution with a kernel per position: identities, an explicit loop, and bad input."""

from itertools import product

import ml_dtypes
import numpy as np
import pytest

import pydeform

RANKS = pytest.mark.parametrize("rank", [1, 2, 3])
LAYOUTS = pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
SIZES = {1: (7,), 2: (4, 5), 3: (3, 4, 3)}


def of(rank, kind=""):
    return getattr(pydeform, f"local_conv{rank}d{kind}")


def integers(shape, seed=0):
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(float)


def last(array, count=1):
    """Channels first to channels last; a kernel has two axes that go."""
    return np.moveaxis(array, range(1, 1 + count), range(-count, 0))


@RANKS
@LAYOUTS
def test_one_constant_kernel_is_a_depthwise_convolution(backend, rank, layout):
    """To the bit on integers, with and without offsets, with all gradients."""
    size, taps = SIZES[rank], 3**rank
    x, w = integers((2, 4, *size)), integers((2, taps), 1)  # two groups of channels
    weight = np.repeat(w, 2, axis=0).reshape(4, 1, *(3,) * rank)
    kernel = np.broadcast_to(w.reshape(1, 2, taps, *(1,) * rank), (2, 2, taps, *size)).copy()
    offset = np.random.default_rng(2).integers(-4, 5, (2, 2 * taps * rank, *size)) / 2
    ybar = integers(x.shape, 3)
    options = {"padding": 1, "layout": layout}
    if layout == "channels_last":
        x, offset, ybar, kernel = last(x), last(offset), last(ybar), last(kernel, 2)
    convolution = getattr(pydeform, f"deform_conv{rank}d")
    gradients = getattr(pydeform, f"deform_conv{rank}d_backward")
    for p in (None, offset):
        y = of(rank)(x, kernel, p, **options)
        np.testing.assert_array_equal(y, convolution(x, p, weight, **options))
        grads = of(rank, "_backward")(ybar, x, kernel, p, **options)
        same = gradients(ybar, x, p, weight, **options)
        np.testing.assert_array_equal(grads.input, same.input)
        if p is not None:
            np.testing.assert_array_equal(grads.offset, same.offset)
        to_kernel = grads.kernel if layout == "channels_first" else last(grads.kernel, rank)
        if layout == "channels_last":  # [N, *O, G, K] -> [N, G, K, *O]
            to_kernel = np.moveaxis(grads.kernel, (-2, -1), (1, 2))
        summed = to_kernel.reshape(2, 2, taps, -1).sum(axis=(0, 3))
        shared = same.weight.reshape(2, 2, taps).sum(axis=1)
        np.testing.assert_array_equal(summed, shared)


def loop(x, kernel, k, stride, pad, dilation, upscale):
    """The definition without offsets, an output at a time."""
    n, c, *size = x.shape
    groups, out = kernel.shape[1], kernel.shape[3:]
    y = np.zeros((n, c, *out))
    for i, channel, q in product(range(n), range(c), np.ndindex(*out)):
        for tap, t in enumerate(np.ndindex(*k)):
            at = [
                qd // u * s - p + td * d
                for qd, u, s, p, td, d in zip(q, upscale, stride, pad, t, dilation, strict=True)
            ]
            if all(0 <= a < s for a, s in zip(at, size, strict=True)):
                factor = kernel[(i, channel * groups // c, tap, *q)]
                y[(i, channel, *q)] += factor * x[(i, channel, *at)]
    return y


@RANKS
@LAYOUTS
@pytest.mark.parametrize("upscaled", [False, True])
def test_the_definition_as_a_loop(backend, rank, layout, upscaled):
    size = SIZES[rank]
    k, stride, dilation = ((2, 1, 3), (3, 2, 2), (2, 1, 3))[rank - 1][:rank], (2, 1, 1), (1, 2, 1)
    k, stride, dilation, pad = k[:rank], stride[:rank], dilation[:rank], (1, 2, 0)[:rank]
    upscale = (2, 3, 1)[:rank] if upscaled else (1,) * rank
    steps = [
        (s + 2 * p - d * (e - 1) - 1) // t + 1
        for s, p, d, e, t in zip(size, pad, dilation, k, stride, strict=True)
    ]
    out = tuple(u * s for u, s in zip(upscale, steps, strict=True))
    x, kernel = integers((2, 6, *size)), integers((2, 3, int(np.prod(k)), *out), 1)
    y = loop(x, kernel, k, stride, pad, dilation, upscale)
    options = {
        "stride": stride,
        "padding": pad,
        "dilation": dilation,
        "kernel_size": k,
        "upscale": upscale,
        "layout": layout,
    }
    if layout == "channels_last":
        x, kernel, y = last(x), last(kernel, 2), last(y)
    np.testing.assert_array_equal(of(rank)(x, kernel, **options), y)


@RANKS
def test_zero_offsets_change_nothing(backend, rank):
    size, taps = SIZES[rank], 3**rank
    x, kernel = integers((2, 6, *size)), integers((2, 2, taps, *size), 1)
    zero = np.zeros((2, 3 * taps * rank, *size))  # three offset groups beside two of the kernel
    y = of(rank)(x, kernel, padding=1)
    np.testing.assert_array_equal(of(rank)(x, kernel, zero, padding=1), y)


def test_whole_offsets_shift_upscaled_reads(backend):
    """Each of the two outputs a step reads where its own offset says."""
    x = np.arange(4.0).reshape(1, 1, 4)
    kernel = np.ones((1, 1, 1, 8))
    offset = np.tile([0.0, 1.0], 4).reshape(1, 1, 8)
    y = pydeform.local_conv1d(x, kernel, offset, upscale=2)
    np.testing.assert_array_equal(y[0, 0], [0, 1, 1, 2, 2, 3, 3, 0])


@RANKS
@LAYOUTS
def test_groups_of_kernel_and_offset_need_not_be_equal(backend, rank, layout):
    """As with both repeated for every channel, gradients summed; to the bit on halves."""
    size, taps = SIZES[rank], 2**rank
    out = tuple(s - 1 for s in size)
    random = np.random.default_rng(4)
    x, ybar = integers((2, 6, *size)), integers((2, 6, *out), 5)
    kernel = integers((2, 2, taps, *out), 1)
    offset = random.integers(-4, 5, (2, 3, taps * rank, *out)) / 2
    each_kernel = np.repeat(kernel, 3, axis=1)
    each_offset = np.repeat(offset, 2, axis=1).reshape(2, 6 * taps * rank, *out)
    flat = offset.reshape(2, 3 * taps * rank, *out)
    arrays, each = [x, kernel, flat], [x, each_kernel, each_offset]
    if layout == "channels_last":
        ybar = last(ybar)
        arrays = [last(x), last(kernel, 2), last(flat)]
        each = [last(x), last(each_kernel, 2), last(each_offset)]
    y = of(rank)(*arrays, layout=layout)
    np.testing.assert_array_equal(y, of(rank)(*each, layout=layout))
    grads = of(rank, "_backward")(ybar, *arrays, layout=layout)
    apart = of(rank, "_backward")(ybar, *each, layout=layout)
    np.testing.assert_array_equal(grads.input, apart.input)
    if layout == "channels_last":
        kernels = apart.kernel.reshape(2, *out, 2, 3, taps).sum(axis=-2)
        offsets = apart.offset.reshape(2, *out, 3, 2, taps * rank).sum(axis=-2)
    else:
        kernels = apart.kernel.reshape(2, 2, 3, taps, *out).sum(axis=2)
        offsets = apart.offset.reshape(2, 3, 2, taps * rank, *out).sum(axis=2)
    np.testing.assert_array_equal(grads.kernel, kernels)
    np.testing.assert_array_equal(grads.offset, offsets.reshape(arrays[2].shape))


def test_a_volume_of_depth_one_is_an_image(backend):
    x, kernel = integers((2, 4, 5, 6)), integers((2, 2, 9, 5, 6), 1)
    offset = np.random.default_rng(2).integers(-4, 5, (2, 9, 2, 5, 6)) / 2
    y = pydeform.local_conv2d(x, kernel, offset.reshape(2, 18, 5, 6), padding=1)
    deep = np.concatenate([np.zeros((2, 9, 1, 5, 6)), offset], axis=2).reshape(2, 27, 1, 5, 6)
    volume = pydeform.local_conv3d(
        x[:, :, None],
        kernel[:, :, :, None],
        deep,
        padding=(0, 1, 1),
        kernel_size=(1, 3, 3),
    )
    np.testing.assert_array_equal(volume[:, :, 0], y)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("wide", [False, True])
def test_16_bits_with_groups_to_sum_over_round_once(backend, dtype, wide):
    """Gradients of a shared kernel are summed in float32."""
    rng = np.random.default_rng(6)
    x, ybar = (rng.normal(size=(1, 6, 9)).astype(dtype) for _ in range(2))
    other = np.float32 if wide else dtype
    kernel = rng.normal(size=(1, 2, 3, 9)).astype(dtype).astype(other)
    offset = rng.normal(size=(1, 9, 9)).astype(dtype).astype(other)
    narrow = pydeform.local_conv1d_backward(ybar, x, kernel, offset, padding=1)
    arrays = [array.astype(np.float32) for array in (ybar, x, kernel, offset)]
    exact = pydeform.local_conv1d_backward(*arrays, padding=1)
    for name in ("input", "kernel", "offset"):
        once = getattr(exact, name).astype(getattr(narrow, name).dtype)
        np.testing.assert_array_equal(getattr(narrow, name), once, name)
    assert narrow.input.dtype == dtype
    assert narrow.kernel.dtype == other


def good(**changes):
    arguments = {
        "input": np.ones((2, 6, 5, 6), np.float32),
        "kernel": np.ones((2, 2, 9, 5, 6), np.float32),
        "offset": np.ones((2, 54, 5, 6), np.float32),
        "padding": 1,
        "out": np.full((2, 6, 5, 6), 7, np.float32),
    }
    return {**arguments, **changes}


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"input": ones(6, 5, 6)}, ValueError, "input: expected 4 dimensions | a single sample"),
        ({"input": ones(2, 6, 0, 6)}, ValueError, "input: expected at least one element"),
        ({"input": ones(2, 6, 5, 6, dtype=int)}, TypeError, "input: expected one of | int64"),
        ({"kernel": None}, TypeError, "kernel: expected an array | None"),
        ({"kernel": ones(2, 9, 5, 6)}, ValueError, "kernel: expected 5 dimensions | one group"),
        (
            {"kernel": ones(2, 2, 8, 5, 6)},
            ValueError,
            "kernel: expected k**2 taps | got 8 | kernel_size",
        ),
        ({"kernel": ones(2, 2, 0, 5, 6)}, ValueError, "kernel: expected k**2 taps | got 0"),
        (
            {"kernel": ones(2, 4, 9, 5, 6)},
            ValueError,
            "kernel: | divide the 6 input channels, got 4",
        ),
        ({"kernel": ones(2, 0, 9, 5, 6)}, ValueError, "kernel: expected groups | got 0"),
        ({"kernel": ones(2, 2, 9, 5, 5)}, ValueError, "kernel: expected shape (2, 2, 9, 5, 6)"),
        ({"kernel": ones(1, 2, 9, 5, 6)}, ValueError, "kernel: expected shape (2, 2, 9, 5, 6)"),
        (
            {"kernel": ones(2, 2, 9, 5, 6, dtype=float)},
            TypeError,
            "mixed dtypes | input float32, kernel float64, offset float32",
        ),
        ({"offset": ones(2, 53, 5, 6)}, ValueError, "offset: expected a multiple of 9*2 | got 53"),
        ({"offset": ones(2, 72, 5, 6)}, ValueError, "offset: expected groups that divide | got 4"),
        ({"offset": ones(2, 54, 10, 6)}, ValueError, "offset: expected shape (2, 54, 5, 6)"),
        ({"kernel_size": 2}, ValueError, "kernel: expected 4 taps | kernel_size (2, 2), got 9"),
        ({"kernel_size": 0}, ValueError, "kernel_size: expected at least 1, got 0"),
        (
            {"kernel_size": (9, 1), "padding": 0},
            ValueError,
            "kernel_size: expected a kernel that fits | along y",
        ),
        ({"upscale": 2}, ValueError, "kernel: expected shape (2, 2, 9, 10, 12) | upscale"),
        ({"upscale": 0}, ValueError, "upscale: expected at least 1, got 0"),
        ({"upscale": 1.5}, TypeError, "upscale: expected an int or 2 of them | 1.5 (float)"),
        ({"upscale": 2**61}, ValueError, "upscale: expected less than 2^62"),
        ({"groups": 3}, ValueError, "kernel: expected 3 groups, got 2"),
        ({"groups": 4}, ValueError, "groups: expected a divisor of the 6 input channels, got 4"),
        ({"groups": True}, TypeError, "groups: expected an int or None | True"),
        ({"offset_groups": 2}, ValueError, "offset: expected 2 groups, got 3"),
        ({"offset_groups": 3, "offset": None}, ValueError, "offset_groups: expected None"),
        ({"stride": 0}, ValueError, "stride: expected at least 1, got 0"),
        ({"dilation": (1, 1, 1)}, ValueError, "dilation: expected an int or 2 of them"),
        ({"padding": -1}, ValueError, "padding: expected at least 0, got -1"),
        ({"mode": "wrap"}, ValueError, "mode: expected one of | 'wrap'"),
        ({"kink": "left"}, ValueError, "kink: expected one of | 'left'"),
        ({"layout": "last"}, ValueError, "layout: expected one of | 'last'"),
        ({"layout": "channels_last"}, ValueError, "kernel: | k**2 taps"),
        ({"out": ones(2, 6, 5, 5)}, ValueError, "out: expected shape (2, 6, 5, 6)"),
    ],
)
def test_bad_input(backend, changes, error, words):
    refused(pydeform.local_conv2d, good(**changes), error, words)


def refused(function, arguments, error, words):
    """The message has all the words (a | b), and `out` was not written."""
    with pytest.raises(error) as caught:
        function(**arguments)
    message = str(caught.value)
    assert [word for word in words.split(" | ") if word not in message] == [], message
    if isinstance(arguments.get("out"), np.ndarray) and arguments["out"].shape[-1] == 6:
        assert (arguments["out"] == 7).all()


def test_bad_derivatives(backend):
    arguments = good()
    output = arguments.pop("out")
    backward = {**arguments, "grad_output": output[:, :3]}
    refused(
        pydeform.local_conv2d_backward, backward, ValueError, "grad_output: expected | (2, 3, 5, 6)"
    )
    backward = {**arguments, "grad_output": output, "offset": None, "needs": ("offset",)}
    refused(pydeform.local_conv2d_backward, backward, ValueError, "needs: | which were given")
    tangents = {**arguments, "tangents": {"kernel": output}}
    refused(pydeform.local_conv2d_jvp, tangents, ValueError, "tangents['kernel']: expected shape")
    second = {**arguments, "grad_output": output, "grad_grads": {"bias": output}}
    refused(pydeform.local_conv2d_double_backward, second, ValueError, "grad_grads: | 'bias'")


def test_results_are_written_where_the_caller_says(backend):
    arguments = good()
    out = arguments["out"]
    assert pydeform.local_conv2d(**arguments) is out
    assert out[0, 0, 2, 2] != 7
    memory = {"kernel": np.empty_like(arguments["kernel"])}
    arguments["out"] = memory
    grads = pydeform.local_conv2d_backward(np.ones_like(out), **arguments, needs=("kernel",))
    assert grads.kernel is memory["kernel"]
    assert grads.input is None
