"""Deformable convolution, version 3: the published formula in torch, identities, bad input."""

import itertools
import warnings

import ml_dtypes
import numpy as np
import pytest

import pydeform

OPTIONS = {
    "plain": {},
    "unequal padding": {"pad_h": 2, "pad_w": 0},
    "stride": {"stride_h": 2, "stride_w": 1, "pad_h": 1, "pad_w": 3},
    "stride 2, batch 3": {"stride_h": 2, "stride_w": 2, "pad_h": 1, "pad_w": 1, "batch": 3},
    "dilation and scale": {
        "dilation_h": 2, "dilation_w": 3, "pad_h": 2, "pad_w": 4, "offset_scale": 1.75,
    },
    "no centre": {"pad_h": 1, "pad_w": 2, "remove_center": True, "offset_scale": 0.5},
    "flat kernel": {"kernel_h": 1, "kernel_w": 5, "pad_w": 2, "remove_center": True},
    "even kernel": {"kernel_h": 2, "kernel_w": 4, "dilation_h": 3, "offset_scale": 2.0},
}  # fmt: skip
CASES = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def call(seed=0, dtype=np.float64, batch=2, **options):
    """Arrays and constants of a call on images of 7 x 9 with two groups of three channels."""
    chosen = {
        "kernel_h": 3, "kernel_w": 3, "stride_h": 1, "stride_w": 1, "pad_h": 1, "pad_w": 1,
        "dilation_h": 1, "dilation_w": 1, "group": 2, "group_channels": 3,
        "offset_scale": 1.0, "remove_center": False,
    } | options  # fmt: skip
    rng = np.random.default_rng(seed)
    out = [
        (s + 2 * chosen[f"pad_{a}"] - chosen[f"dilation_{a}"] * (chosen[f"kernel_{a}"] - 1) - 1)
        // chosen[f"stride_{a}"]
        + 1
        for s, a in ((7, "h"), (9, "w"))
    ]
    taps = chosen["kernel_h"] * chosen["kernel_w"] - chosen["remove_center"]
    arrays = {
        "input": rng.normal(size=(batch, 7, 9, 6)),
        "offset": rng.normal(size=(batch, *out, 2 * taps * 2)),
        "mask": rng.normal(size=(batch, *out, 2 * taps)),
    }
    return {name: array.astype(dtype) for name, array in arrays.items()}, chosen


def lattice(kernel_h, kernel_w, remove_center):
    """Taps (column, row) in their published order."""
    centre = (kernel_w // 2, kernel_h // 2)
    taps = itertools.product(range(kernel_w), range(kernel_h))
    return [tap for tap in taps if not (remove_center and tap == centre)]


def composition(torch):
    """The published formula: tap by tap and group by group, with grid_sample."""

    def dcnv3(
        input, offset, mask, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w,
        dilation_h, dilation_w, group, group_channels, offset_scale, remove_center,
    ):  # fmt: skip
        height, width = input.shape[1:3]
        rows, columns = offset.shape[1:3]
        taps = lattice(kernel_h, kernel_w, remove_center)
        y0 = torch.arange(rows).double()[:, None] * stride_h - pad_h
        x0 = torch.arange(columns).double()[None] * stride_w - pad_w
        cy, cx = dilation_h * (kernel_h - 1) // 2, dilation_w * (kernel_w - 1) // 2
        outputs = []
        for g in range(group):
            image = input[..., g * group_channels : (g + 1) * group_channels].movedim(-1, 1)
            total = 0
            for t, (i, j) in enumerate(taps):
                at = g * len(taps) + t
                x = x0 + cx + (i * dilation_w - cx + offset[..., 2 * at]) * offset_scale
                y = y0 + cy + (j * dilation_h - cy + offset[..., 2 * at + 1]) * offset_scale
                grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
                sampled = torch.nn.functional.grid_sample(
                    image, grid, mode="bilinear", padding_mode="zeros", align_corners=False
                )
                total = total + sampled * mask[..., at][:, None]
            outputs.append(total.movedim(1, -1))
        return torch.cat(outputs, -1)

    return dcnv3


@CASES
def test_the_published_formula_in_torch(backend, composed, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of when it is imported is its own
        torch = pytest.importorskip("torch")
    composed(torch, "dcnv3", *call(**options), composition(torch))


@CASES
def test_derivatives_fit_together(backend, consistent, options):
    consistent("dcnv3", *call(**options))


@CASES
def test_it_is_a_depthwise_deformable_convolution(backend, close, options):
    """The same taps row by row, with (y, x), and the stretched lattice in the offsets."""
    arrays, o = call(**options)
    kernel = o["kernel_h"], o["kernel_w"]
    batch, rows, columns = arrays["offset"].shape[:3]
    taps = lattice(*kernel, o["remove_center"])
    given = arrays["offset"].reshape(batch, rows, columns, 2, len(taps), 2)
    offset = np.zeros((batch, 2, *kernel, 2, rows, columns))
    mask = np.zeros((batch, 2, *kernel, rows, columns))
    centre = [o[f"dilation_{a}"] * (o[f"kernel_{a}"] - 1) // 2 for a in "hw"]
    for t, (i, j) in enumerate(taps):
        mask[:, :, j, i] = np.moveaxis(arrays["mask"].reshape(given.shape[:-1])[..., t], 3, 1)
        for axis, (tap, a) in enumerate(((j, "h"), (i, "w"))):
            stretch = (o["offset_scale"] - 1) * (tap * o[f"dilation_{a}"] - centre[axis])
            moved = given[..., t, 1 - axis] * o["offset_scale"] + stretch
            offset[:, :, j, i, axis] = np.moveaxis(moved, 3, 1)
    expected = pydeform.deform_conv2d(
        np.ascontiguousarray(np.moveaxis(arrays["input"], -1, 1)),
        offset.reshape(batch, -1, rows, columns),
        np.ones((6, 1, *kernel)),
        stride=(o["stride_h"], o["stride_w"]),
        padding=(o["pad_h"], o["pad_w"]),
        dilation=(o["dilation_h"], o["dilation_w"]),
        mask=mask.reshape(batch, -1, rows, columns),
    )
    close(pydeform.dcnv3(**arrays, **o), np.moveaxis(expected, 1, -1), 1e-14)


@pytest.mark.parametrize("storage", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("positions", ["16 bits", "float32"])
def test_16_bits_are_storage_around_float32(backend, storage, positions):
    arrays, constants = call(dtype=storage, offset_scale=1.5)
    if positions == "float32":
        arrays |= {name: arrays[name].astype(np.float32) for name in ("offset", "mask")}
    wide = {name: array.astype(np.float32) for name, array in arrays.items()}
    output = pydeform.dcnv3(**arrays, **constants)
    expected = pydeform.dcnv3(**wide, **constants)
    assert output.dtype == storage
    np.testing.assert_array_equal(output, expected.astype(storage))
    gradients = pydeform.dcnv3_backward(output, **arrays, **constants)
    expected = pydeform.dcnv3_backward(output.astype(np.float32), **wide, **constants)
    for name, gradient in gradients._asdict().items():
        assert gradient.dtype == arrays[name].dtype
        np.testing.assert_array_equal(gradient, getattr(expected, name).astype(gradient.dtype))


def test_wide_images_lose_no_bits(backend):
    """The sample is a blend of two pixels with the weights that a small image gives."""
    width = 2**20
    x = np.zeros((1, 1, width, 1), np.float32)
    x[0, 0, -2:, 0] = 1, 2
    offset = np.full((1, 1, width, 2), np.float32(-0.3))
    offset[..., 1] = 0
    mask = np.ones((1, 1, width, 1), np.float32)
    output = pydeform.dcnv3(x, offset, mask, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1)
    f = np.float64(np.float32(-0.3)) + 1
    assert abs(output[0, 0, -1, 0] - ((1 - f) * 1 + f * 2)) <= 3 * 2.0**-24 * 2


def test_an_empty_batch(backend):
    arrays, constants = call(batch=0)
    assert pydeform.dcnv3(**arrays, **constants).shape == (0, 7, 9, 6)
    gradients = pydeform.dcnv3_backward(np.zeros((0, 7, 9, 6)), **arrays, **constants)
    assert [g.shape for g in gradients] == [a.shape for a in arrays.values()]


def test_strided_arguments_and_memory_for_results(backend):
    arrays, constants = call()
    expected = pydeform.dcnv3_backward(np.ones((2, 7, 9, 6)), **arrays, **constants)
    strided = {name: np.flip(np.flip(a).copy()) for name, a in arrays.items()}
    out = {name: np.full(a.shape, 7.0) for name, a in arrays.items()}
    found = pydeform.dcnv3_backward(np.ones((2, 7, 9, 6)), **strided, **constants, out=out)
    for name in arrays:
        assert getattr(found, name) is out[name]
        np.testing.assert_array_equal(out[name], getattr(expected, name))


GOOD = {**call()[0], **call()[1], "out": np.full((2, 7, 9, 6), 7.0)}
BAD = {
    "axes": (lambda a: {"input": a["input"][0]}, ValueError, "input | 4 dimensions | got 3"),
    "channels": (lambda a: {"group": 3}, ValueError, "input | 3 * 3 = 9 | got 6"),
    "no pixels": (
        lambda a: {"input": np.zeros((2, 0, 9, 6))}, ValueError, "input | at least one element",
    ),
    "offset": (
        lambda a: {"offset": a["offset"][..., :-2]}, ValueError,
        "offset | (2, 7, 9, 36) | 2 groups * 9 taps * 2 | got (2, 7, 9, 34)",
    ),
    "mask": (
        lambda a: {"mask": a["mask"][:, :-1]}, ValueError,
        "mask | (2, 7, 9, 18) | 2 groups * 9 taps | got (2, 6, 9, 18)",
    ),
    "taps without the centre": (
        lambda a: {"remove_center": True}, ValueError, "offset | 2 groups * 8 taps",
    ),
    "kernel": (lambda a: {"kernel_h": 0}, ValueError, "kernel_h | at least 1 | got 0"),
    "kernel that does not fit": (
        lambda a: {"dilation_w": 9}, ValueError, "kernel_w | 9 + 2 * pad_w 1 = 11 | span 19",
    ),
    "kernel type": (lambda a: {"kernel_w": 3.0}, TypeError, "kernel_w | an int | 3.0 (float)"),
    "stride": (lambda a: {"stride_w": 0}, ValueError, "stride_w | at least 1 | got 0"),
    "pad": (lambda a: {"pad_h": -1}, ValueError, "pad_h | at least 0 | got -1"),
    "dilation": (lambda a: {"dilation_h": 0}, ValueError, "dilation_h | at least 1 | got 0"),
    "group": (lambda a: {"group": 0}, ValueError, "group | at least 1 | got 0"),
    "group_channels": (lambda a: {"group_channels": True}, TypeError, "group_channels | True"),
    "scale": (lambda a: {"offset_scale": "1"}, TypeError, "offset_scale | a number | '1' (str)"),
    "scale NaN": (lambda a: {"offset_scale": np.nan}, ValueError, "offset_scale | finite | nan"),
    "remove_center": (lambda a: {"remove_center": 2}, TypeError, "remove_center | True or False"),
    "no centre to remove": (
        lambda a: {"remove_center": True, "kernel_h": 2}, ValueError,
        "remove_center | odd kernel_h and kernel_w | 2 x 3",
    ),
    "no tap left": (
        lambda a: {"remove_center": 1, "kernel_h": 1, "kernel_w": 1}, ValueError,
        "remove_center | leave other taps | 1 x 1",
    ),
    "kink": (lambda a: {"kink": "left"}, ValueError, "kink | right | got 'left'"),
    "dtypes": (
        lambda a: {"mask": a["mask"].astype(np.float32)}, TypeError,
        "mixed dtypes | mask float32 | input float64",
    ),
    "integers": (
        lambda a: {"input": a["input"].astype(int)}, TypeError, "input | float32 | got int64",
    ),
    "no array": (lambda a: {"mask": None}, TypeError, "mask | expected an array | got None"),
    "out": (lambda a: {"out": np.zeros((2, 7, 9, 5))}, ValueError, "out | (2, 7, 9, 6)"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input(refused_by, change, error, words):
    refused_by("dcnv3", GOOD, change, error, words)


def test_bad_derivatives():
    arrays, constants = call()
    y = np.ones((2, 7, 9, 6))
    with pytest.raises(ValueError, match=r"grad_output: expected shape \(2, 7, 9, 6\)"):
        pydeform.dcnv3_backward(y[:1], **arrays, **constants)
    with pytest.raises(ValueError, match=r"needs: expected names among .* got 'weight'"):
        pydeform.dcnv3_backward(y, **arrays, **constants, needs=("weight",))
    with pytest.raises(ValueError, match=r"tangents\['mask'\]: expected shape"):
        pydeform.dcnv3_jvp(**arrays, **constants, tangents={"mask": arrays["offset"]})
    wrong = {"input": arrays["input"].astype(np.float32)}
    with pytest.raises(TypeError, match=r"grad_grads\['input'\]: expected dtype float64"):
        pydeform.dcnv3_double_backward(wrong, y, **arrays, **constants)


@pytest.mark.parametrize("scale", [1.7e308, -1.7e308, 1e-300])
def test_any_finite_scale(backend, scale):
    """Taps beyond all numbers read nothing, whatever the image."""
    arrays, constants = call(offset_scale=scale, kernel_h=7, kernel_w=7, pad_h=3, pad_w=3)
    arrays["offset"][...] = 0
    output = pydeform.dcnv3(**arrays, **constants)
    assert np.isfinite(output).all()
    with pydeform.use_backend("ref"):
        expected = pydeform.dcnv3(**arrays, **constants)
    np.testing.assert_allclose(output, expected, rtol=1e-12)  # float64, sums of 49 taps
