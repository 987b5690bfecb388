"""Deformable convolution, version 4: its packed array, version 3, torch, bad input."""

import itertools
import warnings

import ml_dtypes
import numpy as np
import pytest

import pydeform

OPTIONS = {
    "plain": {},
    "unequal padding": {"pad_h": 2, "pad_w": 0},
    "stride 2, batch 3": {"stride_h": 2, "stride_w": 2, "pad_w": 2, "batch": 3},
    "dilation and scale": {"dilation_h": 2, "dilation_w": 3, "pad_w": 4, "offset_scale": 1.75},
    "no centre": {"remove_center": True, "pad_w": 2, "offset_scale": 0.5},
    "no padding of channels": {"group": 4, "group_channels": 1, "remove_center": True},
}
CASES = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def call(seed=0, dtype=np.float64, batch=2, **options):
    """Arrays and constants of a call on images of 6 x 8."""
    chosen = {
        "kernel_h": 3, "kernel_w": 3, "stride_h": 1, "stride_w": 1, "pad_h": 1, "pad_w": 1,
        "dilation_h": 1, "dilation_w": 1, "group": 2, "group_channels": 2,
        "offset_scale": 1.0, "remove_center": False,
    } | options  # fmt: skip
    rng = np.random.default_rng(seed)
    out = [
        (s + 2 * chosen[f"pad_{a}"] - chosen[f"dilation_{a}"] * 2 - 1) // chosen[f"stride_{a}"] + 1
        for s, a in ((6, "h"), (8, "w"))
    ]
    taps = 9 - chosen["remove_center"]
    arrays = {
        "input": rng.normal(size=(batch, 6, 8, chosen["group"] * chosen["group_channels"])),
        "offset_mask": rng.normal(size=(batch, *out, -(-3 * taps * chosen["group"] // 8) * 8)),
    }
    return {name: array.astype(dtype) for name, array in arrays.items()}, chosen


def unpacked(packed, options):
    """Offset and mask in the layout of version 3: per group, offsets come first."""
    taps, groups = 9 - options["remove_center"], options["group"]
    space = packed.shape[:3]
    by_group = packed[..., : groups * taps * 3].reshape(*space, groups, 3 * taps)
    offset = by_group[..., : 2 * taps].reshape(*space, -1)
    return offset, by_group[..., 2 * taps :].reshape(*space, -1)


@CASES
def test_it_is_version_3_with_one_array(backend, options):
    arrays, constants = call(**options)
    offset, mask = unpacked(arrays["offset_mask"], constants)
    separate = {"input": arrays["input"], "offset": offset, "mask": mask}
    output = pydeform.dcnv4(**arrays, **constants)
    np.testing.assert_array_equal(output, pydeform.dcnv3(**separate, **constants))
    y = np.random.default_rng(1).normal(size=output.shape)
    found = pydeform.dcnv4_backward(y, **arrays, **constants)
    expected = pydeform.dcnv3_backward(y, **separate, **constants)
    np.testing.assert_array_equal(found.input, expected.input)
    grad_offset, grad_mask = unpacked(found.offset_mask, constants)
    np.testing.assert_array_equal(grad_offset, expected.offset)
    np.testing.assert_array_equal(grad_mask, expected.mask)


def test_channels_beyond_the_groups_are_not_read(backend):
    arrays, constants = call()
    used = 2 * 9 * 3
    assert arrays["offset_mask"].shape[-1] == 56 > used
    output = pydeform.dcnv4(**arrays, **constants)
    arrays["offset_mask"][..., used:] = np.nan
    np.testing.assert_array_equal(pydeform.dcnv4(**arrays, **constants), output)
    gradients = pydeform.dcnv4_backward(output, **arrays, **constants)
    assert not gradients.offset_mask[..., used:].any()


def composition(torch):
    """The published formula: tap by tap and group by group, with grid_sample."""

    def dcnv4(
        input, offset_mask, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w,
        dilation_h, dilation_w, group, group_channels, offset_scale, remove_center,
    ):  # fmt: skip
        height, width = input.shape[1:3]
        rows, columns = offset_mask.shape[1:3]
        taps = [
            (i, j)
            for i, j in itertools.product(range(kernel_w), range(kernel_h))
            if not (remove_center and i == kernel_w // 2 and j == kernel_h // 2)
        ]
        y0 = torch.arange(rows).double()[:, None] * stride_h - pad_h
        x0 = torch.arange(columns).double()[None] * stride_w - pad_w
        cy, cx = dilation_h * (kernel_h - 1) // 2, dilation_w * (kernel_w - 1) // 2
        total = [0] * group
        for g in range(group):
            image = input[..., g * group_channels : (g + 1) * group_channels].movedim(-1, 1)
            begin = g * 3 * len(taps)
            for t, (i, j) in enumerate(taps):
                shift = offset_mask[..., begin + 2 * t : begin + 2 * t + 2]
                factor = offset_mask[..., begin + 2 * len(taps) + t]
                x = x0 + cx + (i * dilation_w - cx + shift[..., 0]) * offset_scale
                y = y0 + cy + (j * dilation_h - cy + shift[..., 1]) * offset_scale
                grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
                sampled = torch.nn.functional.grid_sample(
                    image, grid, mode="bilinear", padding_mode="zeros", align_corners=False
                )
                total[g] = total[g] + sampled * factor[:, None]
        return torch.cat(total, 1).movedim(1, -1)

    return dcnv4


@CASES
def test_the_published_formula_in_torch(backend, composed, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of when it is imported is its own
        torch = pytest.importorskip("torch")
    composed(torch, "dcnv4", *call(**options), composition(torch))


@CASES
def test_derivatives_fit_together(backend, consistent, options):
    consistent("dcnv4", *call(**options))


@pytest.mark.parametrize("storage", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("positions", ["16 bits", "float32"])
def test_16_bits_are_storage_around_float32(backend, storage, positions):
    arrays, constants = call(dtype=storage)
    if positions == "float32":
        arrays["offset_mask"] = arrays["offset_mask"].astype(np.float32)
    wide = {name: array.astype(np.float32) for name, array in arrays.items()}
    output = pydeform.dcnv4(**arrays, **constants)
    np.testing.assert_array_equal(output, pydeform.dcnv4(**wide, **constants).astype(storage))


GOOD = {**call()[0], **call()[1], "out": np.full((2, 6, 8, 4), 7.0)}
BAD = {
    "not padded to 8": (
        lambda a: {"offset_mask": a["offset_mask"][..., :54]}, ValueError,
        "offset_mask | (2, 6, 8, 56) | 2 groups * 9 taps * 3 | multiple of 8 | got (2, 6, 8, 54)",
    ),
    "output size": (
        lambda a: {"stride_h": 2}, ValueError, "offset_mask | (2, 3, 8, 56) | got (2, 6, 8, 56)",
    ),
    "channels": (lambda a: {"group_channels": 3}, ValueError, "input | 2 * 3 = 6 | got 4"),
    "kernel": (lambda a: {"kernel_w": -1}, ValueError, "kernel_w | at least 1 | got -1"),
    "scale": (lambda a: {"offset_scale": np.inf}, ValueError, "offset_scale | finite | inf"),
    "dtypes": (
        lambda a: {"offset_mask": a["offset_mask"].astype(np.float32)}, TypeError,
        "mixed dtypes | offset_mask float32 | input float64",
    ),
    "no array": (lambda a: {"offset_mask": None}, TypeError, "offset_mask | an array | got None"),
    "out": (lambda a: {"out": a["input"]}, ValueError, "out | memory of its own | input"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input(refused_by, change, error, words):
    refused_by("dcnv4", GOOD, change, error, words)
