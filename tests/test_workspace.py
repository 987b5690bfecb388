"""Images too large for the workspace are read where they lie."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

import pydeform
from pydeform.testing.operations import OPERATIONS
from pydeform.testing.strategies import deform_conv_cases
from pydeform.testing.values import deform_conv_case, make_geometry

CONVOLUTIONS = [o for o in OPERATIONS if o.name in ("deform_conv2d", "local_conv3d")]


@pytest.fixture(autouse=True)
def same_limit_after():
    before = pydeform.get_workspace_limit()
    yield
    pydeform.set_workspace_limit(before)


@pytest.mark.parametrize(
    ("limit", "dtype"),
    [(0, np.float32), (16000, np.float64), (0, np.float16), (16000, ml_dtypes.bfloat16)],
)
@pytest.mark.parametrize("operation", CONVOLUTIONS, ids=lambda operation: operation.name)
def test_no_copies_and_narrow_blocks_are_within_the_bound(operation, dtype, limit):
    pydeform.set_workspace_limit(limit)
    for name, make in operation.examples.items():
        case = make("random").astype(dtype)
        expected = operation.expected(case)
        for result, value in case.evaluate().items():
            assert expected[result].units(value) <= 1, (name, result)


def large(name):
    """A case that is cut under a small limit: into strips of pixels, or windows of positions."""
    rank_2 = {"kernel": (3, 3), "pad": ((1, 1),) * 2}
    options = {
        "strips": {"size": (80, 120), "channels": 3, "out_channels": 2, "batch": 2},
        "strips last": {"size": (80, 120), "channels": 12, "channels_last": True},
        "windows": {"size": (48, 48), "channels": 128},
        "windows last": {"size": (48, 48), "channels": 128, "channels_last": True},
        "own weights": {"size": (80, 120), "channels": 3, "batch": 2},
        "many images": {"size": (20, 60), "channels": 3, "batch": 10},
    }
    geometry = make_geometry(**rank_2, **options[name])
    return deform_conv_case(*geometry, seed=0, kind="dyadic", per_sample=name == "own weights")


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("strips", 0),
        ("strips last", 0),
        ("windows", 300 << 10),  # blocks of 16 channels fit, their sums for offsets do not
        ("windows last", 300 << 10),
        ("own weights", 0),
        ("many images", 0),
    ],
)
def test_cutting_changes_no_bit(name, limit, dtype):
    """On dyadic values every order gives the same bits; and so does any number of threads."""
    case = large(name).astype(dtype, np.float32)
    whole = case.evaluate()
    pydeform.set_workspace_limit(limit)
    for threads in (1, 3):
        with pydeform.num_threads(threads):
            for result, value in case.evaluate().items():
                np.testing.assert_array_equal(value, whole[result], f"{result}, {threads} threads")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_bits_of_strips_do_not_depend_on_threads(dtype):
    case = large("strips").map(
        lambda a: a * np.float64(1.1)  # no longer dyadic: every order has bits of its own
    )
    case = case.astype(dtype, np.float32)
    pydeform.set_workspace_limit(0)
    with pydeform.num_threads(1):
        alone = case.evaluate()
    for threads in (2, 7):
        with pydeform.num_threads(threads):
            for name, value in case.evaluate().items():
                np.testing.assert_array_equal(value, alone[name], f"{name}, {threads} threads")


def test_the_limit_changes_nothing_but_the_order_of_sums():
    """On dyadic values every order gives the same bits."""
    operation = next(o for o in OPERATIONS if o.name == "deform_conv2d")
    case = operation.examples["wide"]("dyadic").astype(np.float32)
    whole = case.evaluate()
    pydeform.set_workspace_limit(0)
    for name, result in case.evaluate().items():
        np.testing.assert_array_equal(result, whole[name], name)


MEASURE = """
import sys
import ml_dtypes, numpy as np, pydeform
way, name, own, limit, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
dtype = np.dtype(getattr(np, name, None) or getattr(ml_dtypes, name))
rng = np.random.default_rng(0)
CHANNELS = 32 if way == "copies" else 8
def call(side):
    def draw(*shape):
        made = np.empty(shape, dtype)
        for row in made.reshape(shape[0] * shape[1], -1):
            row[...] = rng.standard_normal(row.size, dtype=np.float32)
        return made
    x, y, offset = draw(1, CHANNELS, side, side), draw(1, 2, side, side), draw(1, 8, side, side)
    w, mask = draw(*(1,) * own, 2, CHANNELS, 2, 2), draw(1, 4, side, side)
    given = {"input": x, "offset": offset, "weight": w, "mask": mask, "padding": ((1, 0), (1, 0))}
    like = {name: array for name, array in given.items() if name != "padding"}
    if way in ("backward", "copies"):
        return lambda: pydeform.deform_conv2d_backward(y, **given)
    if way == "jvp":
        return lambda: pydeform.deform_conv2d_jvp(**given, tangents=like)
    if way == "double_backward":
        return lambda: pydeform.deform_conv2d_double_backward(like, y, **given)
    return lambda: pydeform.deform_conv2d(**given)
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024
pydeform.set_num_threads(threads)
call(20)()
pydeform.set_workspace_limit(limit << 20)
run = call(600)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts from here
before = status("VmRSS")
results = run()
results = results if isinstance(results, tuple) else (results,)
size = sum(array.nbytes for array in results if array is not None)
print(status("VmHWM") - before - size / 2**20)
"""


def grown(way, dtype="float32", own=0, limit=1, threads=1):
    """MiB that a call takes at its peak beside arguments and results."""
    arguments = map(str, (way, dtype, own, limit, threads))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="Linux alone tells the peak of one call, in /proc: elsewhere it is that of the process",
)


@on_linux
@pytest.mark.parametrize("own", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("way", ["forward", "backward", "jvp", "double_backward"])
def test_the_limit_bounds_the_memory(way, dtype, own):
    # Two threads of 1 MiB, and 3 MiB each for tiles and plans, whatever the image: one copy of that
    # takes 11 MiB in float32.
    assert grown(way, dtype, own, threads=2) < 8


@on_linux
def test_copies_are_made_where_they_fit():
    # 600 x 600 pixels of 16 channels and of their gradient are 44 MiB, all 32 channels are as much.
    assert grown("copies", limit=64) > 35
    assert grown("copies", limit=8) < 20


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (-1, ValueError, "size: expected 0 to"),
        (1 << 63, ValueError, "size: expected 0 to"),
        (1.5, TypeError, "size"),
    ],
)
def test_bad_limits(size, error, message):
    with pytest.raises(error, match=message):
        pydeform.set_workspace_limit(size)


def test_an_unknown_backend():
    with pytest.raises(ValueError, match="backend: expected 'cpu' or 'cuda', got 'gpu'"):
        pydeform.set_workspace_limit(1, "gpu")


@pytest.mark.parametrize(
    ("backend", "variable"),
    [("cpu", "PYDEFORM_WORKSPACE_MIB"), ("cuda", "PYDEFORM_GPU_WORKSPACE_MIB")],
)
def test_the_environment_sets_the_limit(backend, variable):
    code = f"import pydeform; print(pydeform.get_workspace_limit({backend!r}))"

    def start(value):
        return subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, variable: value},
        )

    assert start("3").stdout.strip() == str(3 << 20)
    assert f"{variable}='some'" in start("some").stderr


def test_drawn_cases_are_exact_without_copies():
    operation = next(o for o in OPERATIONS if o.name == "deform_conv2d")
    pydeform.set_workspace_limit(0)

    @given(case=deform_conv_cases(2, "dyadic"))
    def check(case):
        case = case.astype(np.float32)
        exact = operation.reference(case.map(lambda a: a.astype(np.longdouble)))
        for name, result in case.evaluate().items():
            np.testing.assert_array_equal(result, exact[name].astype(np.float32), name)

    check()
