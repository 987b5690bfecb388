"""Deformable convolution against what it must equal: other operations, and itself.

Values are small integers and offsets dyadic, so that equality means equality.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.signal

import pydeform
from pydeform.testing import deform_conv_case, make_geometry

SIZES = {1: (9,), 2: (6, 5), 3: (4, 3, 5)}
KERNELS = {1: (3,), 2: (3, 2), 3: (2, 3, 2)}
RANKS = (1, 2, 3)

pytestmark = pytest.mark.usefixtures("backend")


def function(rank, suffix=""):
    return getattr(pydeform, f"deform_conv{rank}d{suffix}")


def integers(rng, *shape):
    return rng.integers(-3, 4, shape).astype(np.float64)


def correlate(x, w, stride, pad, dilation):
    """Plain convolution by scipy, one pair of channels at a time."""
    rank = w.ndim - 2
    x = np.pad(x, ((0, 0), (0, 0), *pad))
    spread = tuple((k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True))
    kernel = np.zeros(w.shape[:2] + spread)
    kernel[(..., *(slice(None, None, d) for d in dilation))] = w
    out = [
        [
            sum(
                scipy.signal.correlate(image[c], taps[c], mode="valid", method="direct")
                for c in range(len(image))
            )
            for taps in kernel
        ]
        for image in x
    ]
    return np.array(out)[(..., *(slice(None, None, s) for s in stride[:rank]))]


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("given", [True, False], ids=["zero offset", "no offset"])
def test_zero_offset_is_convolution(rank, given):
    rng = np.random.default_rng(rank)
    stride, dilation, pad = (2, 1, 2)[:rank], (1, 2, 1)[:rank], ((1, 2), (1, 1), (2, 0))[:rank]
    x, w = integers(rng, 2, 3, *SIZES[rank]), integers(rng, 4, 3, *KERNELS[rank])
    plain = correlate(x, w, stride, pad, dilation)
    offset = np.zeros((2, w[0, 0].size * rank, *plain.shape[2:])) if given else None
    options = {"stride": stride, "padding": pad, "dilation": dilation}
    np.testing.assert_array_equal(function(rank)(x, offset, w, **options), plain)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("mode", ["zeros", "clip_zero", "border"])
def test_no_offset_is_zero_offset(dyadic_case, rank, mode):
    with_zeros = dyadic_case(rank, mode=mode)
    zero = np.zeros_like(with_zeros.arrays["offset"])
    with_zeros = replace(
        with_zeros.with_array("offset", zero),
        tangents={name: t for name, t in with_zeros.tangents.items() if name != "offset"},
    )
    without = with_zeros.with_array("offset", None)
    zeros, none = with_zeros.evaluate(), without.evaluate()
    assert zeros.keys() - none.keys() == {"grad_offset", "second_offset"}
    for name, result in none.items():
        np.testing.assert_array_equal(result, zeros[name], name)


@pytest.mark.parametrize("rank", RANKS)
def test_whole_offset_is_a_shift(rank):
    rng = np.random.default_rng(rank)
    x = integers(rng, 1, 1, *SIZES[rank])
    for shift in itertools.product((-2, 0, 1), repeat=rank):
        offset = np.ones((1, rank, *SIZES[rank])) * np.reshape(shift, (rank,) + (1,) * rank)
        shifted = function(rank)(x, offset, np.ones((1, 1) + (1,) * rank))
        inside = np.pad(x, ((0, 0), (0, 0), *((2, 2),) * rank))
        window = tuple(slice(2 + d, 2 + d + s) for d, s in zip(shift, SIZES[rank], strict=True))
        np.testing.assert_array_equal(shifted, inside[(..., *window)])


def lifted(case, axis):
    """The same case one rank up, with a new spatial axis of size 1 before `axis`."""
    g = case.geometry

    def insert(values, value):
        return (*values[:axis], value, *values[axis:])

    pad = tuple(zip(g.pad, g.pad, strict=True))
    geometry, pad_end = make_geometry(
        insert(g.size, 1),
        insert(g.kernel, 1),
        batch=g.batch,
        channels=g.channels,
        out_channels=g.out_channels,
        groups=g.groups,
        offset_groups=g.offset_groups,
        stride=insert(g.stride, 1),
        pad=insert(pad, (0, 0)),
        dilation=insert(g.dilation, 1),
        mode=g.mode,
        kink=g.kink,
    )
    like = deform_conv_case(geometry, pad_end, 0, "dyadic")

    def lift(name, array):
        if name == "bias":
            return array
        if name != "offset":
            return np.expand_dims(array, 2 + axis)
        channels = array.reshape(g.batch, -1, g.rank, *g.out_size)
        still = np.zeros_like(channels[:, :, :1])
        split = np.concatenate([channels[:, :, :axis], still, channels[:, :, axis:]], axis=2)
        return split.reshape(g.batch, -1, *geometry.out_size)

    return replace(
        like,
        arrays={name: lift(name, array) for name, array in case.arrays.items()},
        tangents={name: lift(name, array) for name, array in case.tangents.items()},
        grad_output=np.expand_dims(case.grad_output, 2 + axis),
    )


@pytest.mark.parametrize(("rank", "axis"), [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("kink", ["right", "open", "mean"])
def test_an_axis_of_size_one_changes_nothing(dyadic_case, rank, axis, kink):
    flat = dyadic_case(rank, kink=kink)
    results, above = flat.evaluate(), lifted(flat, axis).evaluate()
    for name, result in results.items():
        lifted_result = above[name]
        if name.endswith("offset"):
            shape = flat.arrays["offset"].shape
            split = lifted_result.reshape(shape[0], -1, rank + 1, *shape[2:])
            lifted_result = np.delete(split, axis, axis=2)
        np.testing.assert_array_equal(lifted_result.reshape(result.shape), result, name)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("name", ["input", "weight", "mask"])
def test_linear_in_each_array(dyadic_case, rank, name):
    one, other = dyadic_case(rank, 1), dyadic_case(rank, 2)
    other = replace(one, arrays={**one.arrays, name: other.arrays[name]})
    both = one.with_array(name, 2 * one.arrays[name] - other.arrays[name])
    np.testing.assert_array_equal(both.output(), 2 * one.output() - other.output())


@pytest.mark.parametrize("rank", RANKS)
def test_order_of_taps_does_not_matter(dyadic_case, rank):
    """Any permutation of the taps, when each is sent by its offset to where it was."""
    case = dyadic_case(rank)
    g = case.geometry
    order = np.random.default_rng(rank).permutation(g.taps)
    place = np.indices(g.kernel).reshape(rank, g.taps)  # [n, K]
    back = (place[:, order] - place).T.reshape(1, 1, g.taps, rank, *(1,) * rank)

    def taps(array, *more):
        return array.reshape(g.batch, g.offset_groups, g.taps, *more, *g.out_size)

    offset, mask = case.arrays["offset"], case.arrays["mask"]
    weight = case.arrays["weight"]
    permuted = replace(
        case,
        arrays={
            **case.arrays,
            "offset": (taps(offset, rank)[:, :, order] + back).reshape(offset.shape),
            "mask": taps(mask)[:, :, order].reshape(mask.shape),
            "weight": weight.reshape(*weight.shape[:2], -1)[:, :, order].reshape(weight.shape),
        },
    )
    np.testing.assert_array_equal(permuted.output(), case.output())
    results, whole = permuted.backward(), case.backward()
    np.testing.assert_array_equal(results["input"], whole["input"])
    np.testing.assert_array_equal(
        taps(results["offset"], rank), taps(whole["offset"], rank)[:, :, order]
    )


@pytest.mark.parametrize("rank", RANKS)
def test_groups_are_a_block_diagonal_weight(dyadic_case, rank):
    case = dyadic_case(rank)
    weight = case.arrays["weight"]
    blocks = np.zeros((6, 4, *weight.shape[2:]))
    blocks[:3, :2], blocks[3:, 2:] = weight[:3], weight[3:]
    dense = case.with_array("weight", blocks)
    np.testing.assert_array_equal(dense.output(), case.output())
    for name in ("input", "offset", "bias", "mask"):
        np.testing.assert_array_equal(dense.backward()[name], case.backward()[name], name)


@pytest.mark.parametrize("rank", RANKS)
def test_offset_groups_are_separate_convolutions(dyadic_case, rank):
    """Each offset group with its own channels and taps; the outputs add up."""
    case = dyadic_case(rank, groups=1, offset_groups=2)
    arrays = case.arrays
    halves = [
        {
            name: np.split(arrays[name], 2, axis=1)[g]
            for name in ("input", "offset", "weight", "mask")
        }
        for g in (0, 1)
    ]
    parts = [function(rank)(bias=None, **half, **case.options) for half in halves]
    total = parts[0] + parts[1] + arrays["bias"].reshape(-1, *(1,) * rank)
    np.testing.assert_array_equal(case.output(), total)


@pytest.mark.parametrize("rank", RANKS)
def test_per_sample_weights_are_one_convolution_per_sample(dyadic_case, rank):
    case = dyadic_case(rank)
    geometry, pad_end = case.geometry, case.geometry.pad
    several = deform_conv_case(geometry, pad_end, 5, "dyadic", per_sample=True)
    output, weights = several.output(), several.backward()["weight"]
    for n in range(geometry.batch):
        single = {
            name: array if name == "bias" else array[n : n + 1]
            for name, array in several.arrays.items()
        }
        single["weight"] = several.arrays["weight"][n]
        np.testing.assert_array_equal(
            function(rank)(**single, **several.options), output[n : n + 1]
        )
        grads = function(rank, "_backward")(
            several.grad_output[n : n + 1], **single, **several.options
        )
        np.testing.assert_array_equal(grads.weight, weights[n])


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("kink", ["right", "open", "mean"])
def test_layouts_hold_the_same_numbers(dyadic_case, rank, kink):
    first = dyadic_case(rank, kink=kink)

    def moved(arrays):
        return {
            name: array if name in ("weight", "bias") else np.moveaxis(array, 1, -1)
            for name, array in arrays.items()
        }

    last = replace(
        first,
        arrays=moved(first.arrays),
        tangents=moved(first.tangents),
        grad_output=np.moveaxis(first.grad_output, 1, -1),
        options={**first.options, "layout": "channels_last"},
    )
    above, below = first.evaluate(), last.evaluate()
    for name, result in above.items():
        if not name.endswith(("weight", "bias")):
            result = np.moveaxis(result, 1, -1)
        np.testing.assert_array_equal(below[name], result, name)
