"""Local convolutions on samples where they lie: what `test_samples` does not take of the kernels.

All types of numbers, indices of 64 bits, long tables, schedules, and cells of many samples. Numbers
are dyadic, so that every result is the specification's to the bit; memory between the numbers of a
view is watched.
"""

import ml_dtypes
import numpy as np
import pytest

from pydeform import _gpu, _ref
from pydeform._gpu import _host, _layout, _sampling
from pydeform._shapes import ConvGeometry, Level

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16}
DTYPES["bfloat16"] = ml_dtypes.bfloat16
GAP = 7.0  # what lies between


def geometry(taps, **changes):
    return ConvGeometry(
        **{
            "batch": 2,
            "channels": 16,
            "out_channels": 16,
            "groups": 16,
            "offset_groups": 2,
            "size": (4, 5),
            "out_size": (3, 7),
            "kernel": (1, taps),
            "stride": (1, 1),
            "pad": (1, 1),
            "dilation": (0, 0),
            "mode": "zeros",
            "kink": "right",
            "channels_last": True,
            **changes,
        }
    )


def units(taps):
    """Another scale and start for every tap and axis; rounded, they are what they are."""
    scale = tuple((0.5 * (1 + k % 3), 2.0 - k % 2) for k in range(taps))
    start = tuple((k % 4 / 4 - 1, 0.5 - k % 3) for k in range(taps))
    return {"scale": scale, "start": start}


def levels(points, **changes):
    """Attention: three images of different sizes after one another, of which one has one pixel."""
    sizes = ((3, 4), (1, 1), (2, 5))
    starts = (0, 12, 13)
    taps = 3 * points
    each = [size for size in sizes for _ in range(points)]
    return geometry(
        taps,
        size=(1, 23),
        absolute=True,
        levels=tuple(map(Level, starts, sizes)),
        scale=tuple(each),
        start=((-0.5, -0.5),) * taps,
        **{"out_size": (1, 9), **changes},
    )


GEOMETRIES = {
    "no units": geometry(6, kernel=(2, 3), dilation=(1, 2)),
    "units": geometry(5, **units(5)),
    "units, mean": geometry(5, kink="mean", mode="border", **units(5)),
    "units, open, three axes": geometry(
        4,
        size=(3, 2, 4),
        out_size=(2, 3, 2),
        kernel=(1, 2, 2),
        stride=(1, 1, 2),
        pad=(1, 0, 1),
        dilation=(1, 1, 1),
        kink="open",
        mode="clip_zero",
        scale=((1.0, 0.5, 2.0),) * 4,
        start=((0.25, -0.5, 0.0),) * 4,
    ),
    "channels first": geometry(5, channels_last=False, **units(5)),
    "levels": levels(2),
    "levels, mean": levels(2, kink="mean"),
    "levels, a long table": levels(60, out_size=(1, 3)),
    "one channel at a time": geometry(5, channels=6, out_channels=6, groups=6, **units(5)),
}


def packed(shape, dtype):
    """One number after the other."""
    return np.full(shape, GAP, dtype), lambda memory: memory


def turned(shape, dtype):
    """The last axis the other way round, and gaps behind the last two."""
    wide = (*shape[:-2], shape[-2] + 3, shape[-1] + 1)
    return np.full(wide, GAP, dtype), lambda m: m[..., 2 : 2 + shape[-2], shape[-1] - 1 :: -1]


def positions_last(shape, dtype):
    """As with channels first, and one position more."""
    wide = (shape[0], *shape[2:], shape[1] + 1)
    return np.full(wide, GAP, dtype), lambda m: np.moveaxis(m, -1, 1)[:, 1:]


def backwards(shape, dtype):
    """Every axis the other way round, every second number."""
    step = (slice(None, None, -2),) * len(shape)
    return np.full([2 * extent for extent in shape], GAP, dtype), lambda memory: memory[step]


VIEWS = (packed, turned, positions_last, backwards)


class Arrays:
    """Arguments of all four functions, and memory for their results."""

    def __init__(self, g, dtype, fields, view, dyadic=True):
        self.g, self.rng, self.view, self.dyadic = g, np.random.default_rng(0), view, dyadic
        self.dtype, self.fields = np.dtype(dtype), np.dtype(fields)
        samples = (g.batch, int(np.prod(g.out_size)), g.offset_groups, g.taps)
        space = {"input": g.size, "output": g.out_size}
        self.shapes = {"offset": (*samples, g.rank), "kernel": samples}
        for name, size in space.items():
            shape = (*size, g.channels) if g.channels_last else (g.channels, *size)
            self.shapes[name] = (g.batch, *shape)

    def of(self, name, values=True):
        """An array of its role: the memory and what the backend sees of it."""
        shape = self.shapes[name]
        if name in ("input", "output"):
            memory, see = packed(shape, self.dtype)
        else:
            memory, see = self.view(shape, self.fields)
        seen = see(memory)
        assert seen.shape == shape
        if values and self.dyadic:
            number = self.rng.integers(-6, 7, shape)
            seen[...] = number / 4 if name == "offset" else number % 5 - 2
        elif values:
            seen[...] = self.rng.normal(size=shape)
        return memory, seen

    def arguments(self):
        return [self.of(name)[1] for name in ("input", "offset", "kernel")]

    def results(self, *names):
        return [self.of(name, values=False) for name in names]


def calls(arrays):
    """Functions by name: from a backend to all the memory that it was given to write to."""
    given = arrays.arguments()
    tangents = arrays.arguments()
    cotangent = arrays.of("output")[1]
    g, names = arrays.g, ("input", "offset", "kernel")

    def run(function, before, *results):
        def call(backend):
            found = arrays.results(*results)
            getattr(backend, function)(g, *before(*(seen for _, seen in found)))
            return [memory for memory, _ in found]

        return call

    return {
        "forward": run("local_conv", lambda y: (*given, y), "output"),
        "backward": run("local_conv_backward", lambda *grads: (cotangent, *given, grads), *names),
        "jvp": run("local_conv_jvp", lambda y, dy: (*given, tangents, y, dy), "output", "output"),
        "double backward": run(
            "local_conv_double_backward",
            lambda *grads: (tangents, cotangent, *given, grads),
            "output",
            *names,
        ),
    }


def check(g, dtype="float32", fields=None, view=turned):
    for name, call in calls(Arrays(g, DTYPES[dtype], DTYPES[fields or dtype], view)).items():
        for found, expected in zip(call(_gpu), call(_ref), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(
                found.astype(float), expected.astype(float), f"{name}, {view.__name__}"
            )


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["one channel at a time", "levels, a long table", "no units"])
def test_any_strides(name, view):
    check(GEOMETRIES[name], view=view)


@pytest.mark.parametrize("dtypes", [(d, d) for d in DTYPES] + [("float16", "float32")])
@pytest.mark.parametrize("name", ["units", "units, mean", "levels", "channels first"])
def test_numbers_of_every_type(name, dtypes):
    check(GEOMETRIES[name], *dtypes)


@pytest.mark.parametrize("name", ["units", "units, open, three axes", "levels"])
def test_indices_of_64_bits(name, monkeypatch):
    monkeypatch.setattr(_sampling, "_NARROW", 0)
    check(GEOMETRIES[name], "float16", view=backwards)


def test_strides_that_pass_32_bits_take_indices_of_64():
    """Memory that nobody has: 2^31 numbers from image to image."""
    far = np.lib.stride_tricks.as_strided(
        np.zeros(1, np.float32), (1, 21, 2, 5), (2**33, 4, 4, 4), writeable=False
    )
    g, x = GEOMETRIES["units"], np.zeros((1, 4, 5, 16), np.float32)
    layout = _sampling.Layout(g._replace(batch=1), x)
    assert _sampling.Sampling(layout, None, [far]).index == "int64_t"
    assert _sampling.Sampling(layout, None, [far[:, :, :, :3].copy()]).index == "int"


@pytest.mark.parametrize("name", ["units, mean", "levels"])
def test_any_schedule_gives_the_same_bits(name):
    made = calls(Arrays(GEOMETRIES[name], np.float32, np.float32, turned, dyadic=False))
    expected = {key: [m.tobytes() for m in call(_gpu)] for key, call in made.items()}
    for seed in (1, 20):
        with _host.schedule(seed=seed, threads=2):
            for key, call in made.items():
                assert [m.tobytes() for m in call(_gpu)] == expected[key], key


# Sorted by a thread, by a warp, by the block in shared memory, and in the other.
@pytest.mark.parametrize("count", [2, 16, 17, 300, 700, 5000])
def test_many_samples_of_one_cell(count, monkeypatch):
    """Each adds to the same pixels: in the order of the samples, whoever was counted first."""
    g = geometry(1, batch=1, offset_groups=1, out_size=(1, count), absolute=True)
    rng = np.random.default_rng(0)
    offset = np.full((1, count, 1, 1, 2), 1.5, np.float32)
    offset[0, ::7] = 0.5  # and of another
    ybar = (rng.normal(size=(1, 1, count, 16)) * 10.0 ** rng.integers(-3, 4, 16)).astype(np.float32)
    x = np.zeros((1, 4, 5, 16), np.float32)
    expected = np.zeros_like(x[0])
    for at, value in zip(offset[0, :, 0, 0, 0], ybar[0, 0], strict=True):
        first = int(at - 0.5)
        expected[first : first + 2, first : first + 2] += np.float32(0.25) * value
    # A pixel adds the cells around it one after the other.
    both = np.zeros(16, np.float32)
    for at in (0.5, 1.5)[::-1]:
        for value in ybar[0, 0][offset[0, :, 0, 0, 0] == at]:
            both += np.float32(0.25) * value
    expected[1, 1] = both
    for seed in (0, 1, 20, 33):
        found = np.full_like(x, np.nan)
        with _host.schedule(seed=seed, threads=2):
            _gpu.local_conv_backward(g, ybar, x, offset, None, (found, None, None))
        np.testing.assert_array_equal(found[0], expected, f"schedule {seed}")


def test_one_block_after_another_sorts_its_cells(monkeypatch):
    """A block that takes all cells, of which two far apart have many samples."""
    monkeypatch.setattr(_layout, "BLOCKS", 1)
    g = geometry(1, batch=1, offset_groups=1, size=(20, 20), out_size=(1, 120), absolute=True)
    rng = np.random.default_rng(0)
    offset = np.full((1, 120, 1, 1, 2), 0.5, np.float32)
    offset[0, ::2] = 18.5
    ybar = rng.normal(size=(1, 1, 120, 16)).astype(np.float32)
    found = []
    for seed in (0, 1, 3, 4, 5, 6, 7, 8):
        into = np.zeros((1, 20, 20, 16), np.float32)
        with _host.schedule(seed=seed):
            _gpu.local_conv_backward(g, ybar, into * 0, offset, None, (into, None, None))
        found.append(into.tobytes())
    assert len(set(found)) == 1


@pytest.mark.parametrize("factors", [(1, 2, 1, 4, 3, 2), (1, 2, 1, np.inf, 0, 0)])
def test_infinite_numbers_go_by_the_formula(factors):
    """Where sums are not finite they are taken again: what is not read says nothing."""
    g = geometry(1, batch=1, offset_groups=1, out_size=(1, 6), absolute=True)
    x = np.ones((1, 4, 5, 16), np.float32)
    x[0, 0, 0], x[0, 3, 4] = np.inf, np.nan  # the pixel that stands for unread ones, and the last
    at = [(1, 1), (-0.5, -0.5), (2.5, 3.5), (1, 2), (3, 3), (0.5, 0.5)]
    offset = np.array(at, np.float32).reshape(1, 6, 1, 1, 2)
    factor = np.array(factors, np.float32).reshape(1, 6, 1, 1)
    found, expected = (np.zeros((1, 1, 6, 16), np.float32) for _ in range(2))
    _gpu.local_conv(g, x, offset, factor, found)
    _ref.local_conv(g, x, offset, factor, expected)
    np.testing.assert_array_equal(found, expected)
    assert expected[0, 0, :, 0].tolist()[:2] == [1, np.inf]
    assert np.isnan(expected[0, 0, 2, 0])
    assert np.isnan(expected[0, 0, 5, 0]) == (factors[5] == 0)


def test_products_that_vanish_are_not_made_of_weights():
    """A factor and a weight whose product is too small for float32, of a large number."""
    g = geometry(1, batch=1, offset_groups=1, out_size=(1, 1), absolute=True)
    x = np.full((1, 4, 5, 16), 2.0**100, np.float32)
    x[0, 1, 1] = 0
    offset = np.array([1, 1 + 2.0**-20], np.float32).reshape(1, 1, 1, 1, 2) - 1
    x = np.roll(x, (-1, -1), (1, 2))
    factor = np.full((1, 1, 1, 1), 2.0**-140, np.float32)
    found, expected = (np.zeros((1, 1, 1, 16), np.float32) for _ in range(2))
    _gpu.local_conv(g, x, offset, factor, found)
    _ref.local_conv(g, x, offset, factor, expected)
    np.testing.assert_array_equal(found, expected)
    assert (expected == 2.0**-60).all()
