"""Multi-scale deformable attention: the published formula in torch, identities, bad input."""

import warnings

import ml_dtypes
import numpy as np
import pytest

import pydeform

LEVELS = {
    "four levels": [(5, 7), (3, 4), (2, 2), (1, 1)],
    "two levels": [(4, 9), (6, 3)],
    "one level": [(6, 8)],
}
CASES = pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)


def call(levels, seed=0, dtype=np.float64, batch=2, queries=11, points=3):
    """Arrays and constants of a call with two heads of three channels."""
    rng = np.random.default_rng(seed)
    sizes = [h * w for h, w in levels]
    shape = (batch, queries, 2, len(levels), points)
    arrays = {
        "value": rng.normal(size=(batch, sum(sizes), 2, 3)),
        "sampling_locations": rng.uniform(-0.3, 1.3, size=(*shape, 2)),
        "attention_weights": rng.normal(size=shape),
    }
    starts = [0, *np.cumsum(sizes)[:-1].tolist()]
    constants = {"spatial_shapes": levels, "level_start_index": starts}
    return {name: array.astype(dtype) for name, array in arrays.items()}, constants


def composition(torch):
    """The published formula: level by level, with grid_sample."""

    def attention(value, sampling_locations, attention_weights, spatial_shapes, level_start_index):
        batch, _, heads, channels = value.shape
        queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
        total = torch.zeros(batch, heads, channels, queries).double()
        for level, ((h, w), start) in enumerate(
            zip(spatial_shapes, level_start_index, strict=True)
        ):
            maps = value[:, start : start + h * w].permute(0, 2, 3, 1)
            grid = 2 * sampling_locations[:, :, :, level].transpose(1, 2) - 1
            sampled = torch.nn.functional.grid_sample(
                maps.reshape(batch * heads, channels, h, w),
                grid.reshape(batch * heads, queries, points, 2),
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            ).reshape(batch, heads, channels, queries, points)
            weights = attention_weights[:, :, :, level].transpose(1, 2)[:, :, None]
            total = total + (sampled * weights).sum(-1)
        return total.permute(0, 3, 1, 2).flatten(2)

    return attention


@CASES
def test_the_published_formula_in_torch(backend, composed, levels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of when it is imported is its own
        torch = pytest.importorskip("torch")
    composed(torch, "ms_deform_attn", *call(levels), composition(torch))


@CASES
@pytest.mark.parametrize("batch", [1, 2])
def test_derivatives_fit_together(backend, consistent, levels, batch):
    consistent("ms_deform_attn", *call(levels, batch=batch))


def test_one_level_is_a_local_convolution(backend, close):
    """A query per pixel, nine points as the taps of a 3 x 3 kernel: offsets are what is left."""
    h, w = 6, 8
    arrays, constants = call([(h, w)], queries=h * w, points=9)
    image = np.moveaxis(arrays["value"].reshape(2, h, w, 6), -1, 1)
    pixels = arrays["sampling_locations"][:, :, :, 0, :, ::-1] * (h, w) - 0.5  # (y, x)
    offset = np.moveaxis(pixels.reshape(2, h, w, 2, 3, 3, 2), (1, 2), (-2, -1))
    offset = offset - np.indices((3, 3)).transpose(1, 2, 0)[..., None, None] + 1
    offset = offset - np.indices((h, w))
    weights = arrays["attention_weights"].reshape(2, h, w, 2, 9)
    expected = pydeform.local_conv2d(
        np.ascontiguousarray(image),
        np.ascontiguousarray(np.moveaxis(weights, (1, 2), (-2, -1))),
        offset.reshape(2, 2 * 9 * 2, h, w),
        padding=1,
    )
    output = pydeform.ms_deform_attn(**arrays, **constants)
    close(output.reshape(2, h, w, 6), np.moveaxis(expected, 1, -1), 1e-13)


@CASES
def test_a_point_at_a_pixel_reads_it(backend, levels):
    """Query by query, the centre of every pixel of every level, weighted 1 in that level only."""
    arrays, constants = call(levels, batch=1, points=1, queries=sum(h * w for h, w in levels))
    locations = np.full_like(arrays["sampling_locations"], 0.5)
    weights = np.zeros_like(arrays["attention_weights"])
    starts = constants["level_start_index"]
    for level, ((h, w), start) in enumerate(zip(levels, starts, strict=True)):
        y, x = np.divmod(np.arange(h * w), w)
        here = slice(start, start + h * w)
        locations[0, here, :, level, 0, 0] = ((x + 0.5) / w)[:, None]
        locations[0, here, :, level, 0, 1] = ((y + 0.5) / h)[:, None]
        weights[0, here, :, level] = 1
    output = pydeform.ms_deform_attn(arrays["value"], levels, starts, locations, weights)
    np.testing.assert_allclose(output, arrays["value"].reshape(1, -1, 6), rtol=0, atol=1e-14)


def test_tables_may_be_arrays(backend):
    arrays, constants = call(LEVELS["two levels"])
    expected = pydeform.ms_deform_attn(**arrays, **constants)
    for dtype in (np.int32, np.int64):
        tables = {name: np.array(table, dtype) for name, table in constants.items()}
        np.testing.assert_array_equal(pydeform.ms_deform_attn(**arrays, **tables), expected)


def test_tensors_of_torch(backend):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
    arrays, constants = call(LEVELS["two levels"])
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tables = {name: torch.tensor(table) for name, table in constants.items()}
    output = pydeform.ms_deform_attn(**tensors, **tables)
    assert isinstance(output, torch.Tensor)
    np.testing.assert_array_equal(output, pydeform.ms_deform_attn(**arrays, **constants))


@pytest.mark.parametrize("storage", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("positions", ["16 bits", "float32"])
def test_16_bits_are_storage_around_float32(backend, storage, positions):
    """Levels are summed in float32, so that the output is rounded once."""
    arrays, constants = call(LEVELS["four levels"], dtype=storage)
    if positions == "float32":
        for name in ("sampling_locations", "attention_weights"):
            arrays[name] = arrays[name].astype(np.float32)
    wide = {name: array.astype(np.float32) for name, array in arrays.items()}
    output = pydeform.ms_deform_attn(**arrays, **constants)
    expected = pydeform.ms_deform_attn(**wide, **constants)
    np.testing.assert_array_equal(output, expected.astype(storage))
    gradients = pydeform.ms_deform_attn_backward(output, **arrays, **constants)
    expected = pydeform.ms_deform_attn_backward(output.astype(np.float32), **wide, **constants)
    for name, gradient in gradients._asdict().items():
        assert gradient.dtype == arrays[name].dtype
        np.testing.assert_array_equal(gradient, getattr(expected, name).astype(gradient.dtype))


@pytest.mark.parametrize(("batch", "queries"), [(0, 5), (2, 0)])
def test_nothing_to_attend_to(backend, batch, queries):
    arrays, constants = call(LEVELS["two levels"], batch=batch, queries=queries)
    output = pydeform.ms_deform_attn(**arrays, **constants)
    assert output.shape == (batch, queries, 6)
    gradients = pydeform.ms_deform_attn_backward(output, **arrays, **constants)
    for name, gradient in gradients._asdict().items():
        np.testing.assert_array_equal(gradient, np.zeros(arrays[name].shape))


GOOD = {**call([(4, 9), (6, 3)])[0], **call([(4, 9), (6, 3)])[1]}
GOOD["out"] = np.full((2, 11, 6), 7.0)
BAD = {
    "levels do not add up": (
        lambda a: {"spatial_shapes": [(4, 9), (6, 4)]}, ValueError,
        "spatial_shapes | add up to the length of value, 54 | [(4, 9), (6, 4)], 60 in all",
    ),
    "starts": (
        lambda a: {"level_start_index": [0, 18]}, ValueError,
        "level_start_index | expected [0, 36] | got [0, 18]",
    ),
    "number of starts": (
        lambda a: {"level_start_index": [0]}, ValueError, "level_start_index | [0, 36] | got [0]",
    ),
    "sizes of 0": (
        lambda a: {"spatial_shapes": [(6, 9), (0, 3)]}, ValueError,
        "spatial_shapes | at least 1 | got (0, 3)",
    ),
    "sizes below 0": (
        lambda a: {"spatial_shapes": [(-4, -9), (6, 3)]}, ValueError, "spatial_shapes | (-4, -9)",
    ),
    "no levels": (lambda a: {"spatial_shapes": []}, ValueError, "spatial_shapes | (levels, 2)"),
    "ragged table": (
        lambda a: {"spatial_shapes": [(4, 9), (6,)]}, ValueError, "spatial_shapes | (levels, 2)",
    ),
    "sizes that are no integers": (
        lambda a: {"spatial_shapes": np.array([(4.0, 9.0), (6.0, 3.0)])}, TypeError,
        "spatial_shapes | integers | got dtype float64",
    ),
    "axes of value": (
        lambda a: {"value": a["value"].reshape(2, 54, 6)}, ValueError, "value | 4 dimensions",
    ),
    "no channels": (
        lambda a: {"value": a["value"][..., :0]}, ValueError, "value | at least one element",
    ),
    "axes of locations": (
        lambda a: {"sampling_locations": a["sampling_locations"][..., 0]}, ValueError,
        "sampling_locations | 6 dimensions | got 5",
    ),
    "levels of locations": (
        lambda a: {"sampling_locations": a["sampling_locations"][:, :, :, :1]}, ValueError,
        "sampling_locations | (2, 11, 2, 2, 3, 2) | got (2, 11, 2, 1, 3, 2)",
    ),
    "weights": (
        lambda a: {"attention_weights": a["attention_weights"][:, :5]}, ValueError,
        "attention_weights | (2, 11, 2, 2, 3) | got (2, 5, 2, 2, 3)",
    ),
    "no points": (
        lambda a: {
            "sampling_locations": a["sampling_locations"][..., :0, :],
            "attention_weights": a["attention_weights"][..., :0],
        }, ValueError, "sampling_locations | at least one point",
    ),
    "dtypes": (
        lambda a: {"value": a["value"].astype(np.float32)}, TypeError, "mixed dtypes | value",
    ),
    "no array": (lambda a: {"value": [1.0]}, TypeError, "value | expected an array | got list"),
    "kink": (lambda a: {"kink": 1}, TypeError, "kink | got 1 (int)"),
    "out": (lambda a: {"out": a["out"][:1]}, ValueError, "out | (2, 11, 6) | got (1, 11, 6)"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input(refused_by, change, error, words):
    refused_by("ms_deform_attn", GOOD, change, error, words)
