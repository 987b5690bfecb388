"""Images too large for the workspace are read where they lie."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given

import pydeform
from pydeform.testing.operations import OPERATIONS
from pydeform.testing.strategies import deform_conv_cases

CONVOLUTIONS = [o for o in OPERATIONS if o.name in ("deform_conv2d", "local_conv3d")]


@pytest.fixture(autouse=True)
def same_limit_after():
    before = pydeform.get_workspace_limit()
    yield
    pydeform.set_workspace_limit(before)


@pytest.mark.parametrize(("limit", "dtype"), [(0, np.float32), (16000, np.float64)])
@pytest.mark.parametrize("operation", CONVOLUTIONS, ids=lambda operation: operation.name)
def test_no_copies_and_narrow_blocks_are_within_the_bound(operation, dtype, limit):
    pydeform.set_workspace_limit(limit)
    for name, make in operation.examples.items():
        case = make("random").astype(dtype)
        for result, value in case.evaluate().items():
            assert operation.expected(case)[result].units(value) <= 1, (name, result)


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
import numpy as np, pydeform
rng = np.random.default_rng(0)
x = rng.standard_normal((1, 32, 700, 700), dtype=np.float32)  # 60 MiB
offset = rng.standard_normal((1, 2, 700, 700), dtype=np.float32)
w = np.ones((1, 32, 1, 1), np.float32)
out = {name: np.ones_like(a) for name, a in (("input", x), ("offset", offset))}
y = np.ones((1, 1, 700, 700), np.float32)
pydeform.set_num_threads(1)
small = [a[..., :20, :20].copy() for a in (x, offset, y)]
def run(x, offset, y, **out):
    pydeform.deform_conv2d(x, offset, w, out=out.get("output"))
    needs = ("input", "offset")
    pydeform.deform_conv2d_backward(y, x, offset, w, needs=needs, out=out.get("grads"))
run(*small)
pydeform.set_workspace_limit(int(sys.argv[1]) << 20)
def peak():
    with open("/proc/self/status") as file:  # unlike ru_maxrss, without what the parent had
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
before = peak()
run(x, offset, y, output=np.ones_like(y), grads=out)
print((peak() - before) / 1024)
"""


def grown(limit):
    """MiB by which the peak grows over arguments and results."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(limit)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_limit_bounds_the_memory():
    # 700 x 700 pixels of 16 channels and of their gradient are 60 MiB, all 32 channels are as much.
    assert grown(64) > 50
    assert grown(8) < 20


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
