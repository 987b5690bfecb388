"""Local convolutions on samples in any layout, unit and level: the seam below the operations.

Values are dyadic and small, so that every backend must give the reference's numbers to the bit; the
reference itself is compared with what a geometry's scale, start and levels stand for.
"""

from fractions import Fraction
from math import prod

import numpy as np
import pytest

import pydeform
from pydeform import _cpu, _gpu, _ref
from pydeform._shapes import ConvGeometry, Level

BACKENDS = {"cpu": _cpu, "emulated": _gpu}
LEVELS = (Level(0, (3, 5)), Level(15, (2, 2)), Level(19, (1, 6)))
UNTOUCHED = 55


def made(rank=2, levels=(), queries=70, **changes):
    """Two images, groups of channels that are not a register's, more taps than one row."""
    if levels:
        pixels = sum(prod(level.size) for level in levels)
        size, out, kernel, absolute = (1, pixels), (1, queries), (1, 2 * len(levels)), True
    else:
        size, kernel = (5, 4, 6)[:rank], (2, 3, 1)[:rank]
        out, absolute = (13, 5, 3)[:rank], False
    taps = prod(kernel)
    options = {
        "batch": 2,
        "channels": 6,
        "offset_groups": 2,
        "mode": "zeros",
        "kink": "right",
        "channels_last": True,
        "scale": tuple(tuple((t % 3 + 1) / 2 for _ in size) for t in range(taps)),
        "start": tuple(tuple(Fraction(t + a, 2) for a in range(len(size))) for t in range(taps)),
        **changes,
    }
    channels = options["channels"]
    return ConvGeometry(
        out_channels=channels,
        groups=channels,
        size=size,
        out_size=out,
        kernel=kernel,
        stride=(1,) * len(size),
        pad=(1,) * len(size),
        dilation=(1,) * len(size),
        absolute=absolute,
        levels=tuple(levels),
        **options,
    )


def packed(count, groups, taps, axes, dtype):
    """Of every group the offsets of all taps and then their factors, and padding: as in DCNv4."""
    memory = np.zeros((*count, groups * taps * (axes + 1) + 3), dtype)
    grouped = memory[..., :-3].reshape(*count, groups, taps * (axes + 1))
    offset = grouped[..., : taps * axes].reshape(*count, groups, taps, axes)[..., ::-1]
    return memory, offset, grouped[..., taps * axes :]


def first(count, groups, taps, axes, dtype):
    """Positions side by side, of a factor beside each axis."""
    memory = np.zeros((count[0], groups, taps, axes + 1, count[1]), dtype)
    seen = np.moveaxis(memory, -1, 1)
    return memory, seen[..., :axes], seen[..., axes]


def sparse(count, groups, taps, axes, dtype):
    """Backwards along every axis, with gaps."""
    memory = np.zeros((2 * count[0], count[1], groups, 2 * taps, 2 * axes + 2), dtype)
    seen = memory[::-2, ::-1, ::-1, ::-2, ::-2]
    return memory, seen[..., :axes], seen[..., axes]


LAYOUTS = {"packed": packed, "first": first, "sparse": sparse}


class Arrays:
    """What the functions take: drawn once, for any backend, layout and dtype."""

    def __init__(self, geometry, seed=0):
        g = self.geometry = geometry
        random = np.random.default_rng(seed)
        samples = (g.batch, prod(g.out_size), g.offset_groups, g.taps)
        last = g.channels_last
        image = (g.batch, *g.size, g.channels) if last else (g.batch, g.channels, *g.size)
        out = (g.batch, *g.out_size, g.channels) if last else (g.batch, g.channels, *g.out_size)

        def whole(shape, low=-3, high=4):
            return random.integers(low, high, shape).astype(float)

        self.image, self.tangent_image, self.ybar = whole(image), whole(image), whole(out)
        self.offset = whole((*samples, g.rank), -9, 20) / 2
        self.factor = whole(samples, 0, 3)
        self.moves, self.rises = whole((*samples, g.rank), -2, 3), whole(samples, -2, 3)

    def laid(self, layout, dtype, offset, factor, written=(1, 2)):
        """Memory, what of it is outside the views that are written, and the views."""
        g = self.geometry
        count = (g.batch, prod(g.out_size))
        parts = [layout(count, g.offset_groups, g.taps, g.rank, dtype) for _ in range(2)]
        (memory, *views), (marked, *marks) = parts
        for number in written:
            if number:
                marks[number - 1][...] = 1
        memory[...] = UNTOUCHED
        for view, values in zip(views, (offset, factor), strict=True):
            view[...] = values
        return memory, marked == 0, *views

    def results(self, backend, layout, dtype, needed=(0, 1, 2)):
        """All results of the four functions, and the gaps between the samples' gradients."""
        g = self.geometry
        zero = np.zeros_like
        image, ybar = self.image.astype(dtype), self.ybar.astype(dtype)
        u = self.tangent_image.astype(dtype)
        _, _, offset, factor = self.laid(layout, dtype, self.offset, self.factor)
        _, _, v, mu = self.laid(layout, dtype, self.moves, self.rises)
        found, gaps = {}, []

        def gradients():
            memory, gap, to_offset, to_factor = self.laid(
                layout, dtype, UNTOUCHED, UNTOUCHED, needed
            )
            gaps.append((memory, gap))
            grads = (zero(image), to_offset, to_factor)
            return tuple(grad if i in needed else None for i, grad in enumerate(grads))

        found["out"] = zero(ybar)
        backend.local_conv(g, image, offset, factor, found["out"])
        grads = gradients()
        backend.local_conv_backward(g, ybar, image, offset, factor, grads)
        found |= {f"grad {i}": grad for i, grad in enumerate(grads) if grad is not None}
        found["output"], found["tangent"] = zero(ybar), zero(ybar)
        backend.local_conv_jvp(
            g, image, offset, factor, (u, v, mu), found["output"], found["tangent"]
        )
        second = (zero(ybar), *gradients())
        backend.local_conv_double_backward(g, (u, v, mu), ybar, image, offset, factor, second)
        found |= {f"second {i}": grad for i, grad in enumerate(second) if grad is not None}
        return found, gaps


GEOMETRIES = {
    "units": {},
    "units, channels first": {"channels_last": False},
    "units, means at kinks": {"kink": "mean", "mode": "border"},
    "units, one axis": {"rank": 1},
    "units, three axes": {"rank": 3, "kink": "open"},
    "units, wide groups": {"channels": 40},
    "units, groups wider than a block": {"channels": 140},
    "units, many groups": {"channels": 64, "offset_groups": 32},
    "levels": {"levels": LEVELS},
    "levels, means at kinks": {"levels": LEVELS, "kink": "mean", "mode": "clip_zero"},
    "levels, wide groups": {"levels": LEVELS, "channels": 64, "kink": "open"},
    "levels, many positions": {"levels": LEVELS, "queries": 1100, "channels": 16, "batch": 1},
    "levels, bands side by side": {
        "levels": LEVELS,
        "queries": 130,
        "channels": 128,
        "offset_groups": 8,
        "batch": 4,
    },
    "levels, many groups": {"levels": LEVELS, "channels": 64, "offset_groups": 16},
    "levels, channels first": {"levels": LEVELS, "channels_last": False},
    "neither": {"scale": (), "start": ()},
}


def cases():
    """Every geometry in one layout and dtype, and every one of those with one geometry."""
    for number, geometry in enumerate(GEOMETRIES):
        yield geometry, list(LAYOUTS)[number % 3], ("float64", "float32")[number % 2], (0, 1, 2)
    for layout in LAYOUTS:
        for dtype in ("float64", "float32", "float16"):
            yield "levels, wide groups", layout, dtype, (0, 1, 2)
    for needed in ((0,), (1,), (2,), (1, 2)):
        yield "units", "packed", "float32", needed


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "layout", "dtype", "needed"), list(cases()))
def test_backends_read_and_write_samples_where_they_lie(backend, name, layout, dtype, needed):
    arrays = Arrays(made(**GEOMETRIES[name]))
    expected, _ = arrays.results(_ref, LAYOUTS[layout], dtype, needed)
    found, gaps = arrays.results(BACKENDS[backend], LAYOUTS[layout], dtype, needed)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
        assert len(np.unique(value.astype(float))) > 2, f"{key} says nothing"
    for memory, gap in gaps:
        assert (memory[gap] == UNTOUCHED).all()


@pytest.mark.parametrize("kink", ["right", "open", "mean"])
def test_units_are_a_change_of_variables(kink):
    """By what is stored: the derivative by the pixel, times the scale."""
    geometry = made(kink=kink)
    arrays = Arrays(geometry)
    found, _ = arrays.results(_ref, packed, "float64")
    scale = np.array(geometry.scale, float)
    plain = Arrays(geometry._replace(scale=(), start=()))
    plain.offset = arrays.offset * scale + np.array(geometry.start, float)
    plain.moves = arrays.moves * scale
    expected, _ = plain.results(_ref, packed, "float64")
    for name in ("grad 1", "second 2"):
        expected[name] = expected[name] * scale
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_levels_are_a_sum_of_images():
    """Every level by itself, on the taps that read it."""
    geometry = made(levels=LEVELS)
    arrays = Arrays(geometry)
    found, _ = arrays.results(_ref, packed, "float64")
    total = {name: np.zeros_like(value) for name, value in found.items()}
    for number, (start, size) in enumerate(LEVELS):
        taps = slice(2 * number, 2 * number + 2)
        one = Arrays(
            geometry._replace(
                size=size,
                kernel=(1, 2),
                levels=(),
                scale=geometry.scale[taps],
                start=geometry.start[taps],
            )
        )
        pixels = slice(start, start + prod(size))
        one.ybar = arrays.ybar
        for name in ("image", "tangent_image"):
            part = getattr(arrays, name)[:, 0, pixels]
            setattr(one, name, part.reshape(2, *size, geometry.channels))
        for name in ("offset", "factor", "moves", "rises"):
            setattr(one, name, getattr(arrays, name)[:, :, :, taps])
        results, _ = one.results(_ref, packed, "float64")
        for name, value in results.items():
            if name in ("grad 0", "second 1"):
                total[name][:, 0, pixels] += value.reshape(2, -1, geometry.channels)
            elif name in ("grad 1", "grad 2", "second 2", "second 3"):
                total[name][:, :, :, taps] += value
            else:
                total[name] += value
    for name, value in found.items():
        np.testing.assert_array_equal(value, total[name], err_msg=name)


def test_the_same_bits_for_any_number_of_threads():
    arrays = Arrays(made(levels=LEVELS, channels=64, offset_groups=4))
    random = np.random.default_rng(1)
    arrays.image = random.normal(size=arrays.image.shape)
    arrays.ybar = random.normal(size=arrays.ybar.shape)
    arrays.offset = random.normal(size=arrays.offset.shape) * 4
    before = pydeform.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3, 7):
            pydeform.set_num_threads(threads)
            runs.append(arrays.results(_cpu, packed, "float32")[0])
    finally:
        pydeform.set_num_threads(before)
    for run in runs[1:]:
        for name, value in runs[0].items():
            np.testing.assert_array_equal(run[name], value, err_msg=name)
