"""The number of threads changes nothing but the time."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import pydeform

COUNTS = [1, 2, 3, 4, 7]
NAMES = ("input", "offset", "weight", "bias", "mask")


@pytest.fixture(autouse=True)
def same_number_after():
    before = pydeform.get_num_threads()
    yield
    pydeform.set_num_threads(before)


def arguments(rank, seed=0, batch=2, layout="channels_first"):
    """Large enough that every thread gets work; offsets reach beyond the edges."""
    rng = np.random.default_rng(seed)
    size, taps = {1: (700,), 2: (31, 33), 3: (9, 11, 13)}[rank], 3**rank
    shapes = {
        "input": (batch, 12, *size),
        "offset": (batch, 2 * taps * rank, *size),
        "weight": (8, 6, *(3,) * rank),
        "bias": (8,),
        "mask": (batch, 2 * taps, *size),
    }
    arrays = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    arrays["offset"] *= 3
    if layout == "channels_last":
        for name in ("input", "offset", "mask"):
            arrays[name] = np.ascontiguousarray(np.moveaxis(arrays[name], 1, -1))
    return {**arrays, "padding": 1, "layout": layout}


def everything(rank, args):
    """The output and every first and second derivative."""
    stem = f"deform_conv{rank}d"
    output = getattr(pydeform, stem)(**args)
    grads = getattr(pydeform, f"{stem}_backward")(output, **args)
    tangents = grads._asdict()
    jvp = getattr(pydeform, f"{stem}_jvp")(**args, tangents=tangents)
    double = getattr(pydeform, f"{stem}_double_backward")(tangents, output, **args)
    return [output, *grads, *jvp, *double]


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_same_bits_for_any_number_of_threads(rank, layout):
    args = arguments(rank, layout=layout)
    with pydeform.num_threads(1):
        expected = everything(rank, args)
    for count in COUNTS:
        with pydeform.num_threads(count):
            for _ in range(2):
                assert_same_bits(everything(rank, args), expected)


def test_the_same_bits_for_one_sample():
    """With one sample the work is divided inside the image."""
    args = arguments(2, batch=1)
    with pydeform.num_threads(1):
        expected = everything(2, args)
    for count in COUNTS:
        with pydeform.num_threads(count):
            assert_same_bits(everything(2, args), expected)


def test_the_number_is_set_and_restored():
    assert pydeform.get_num_threads() >= 1
    pydeform.set_num_threads(3)
    assert pydeform.get_num_threads() == 3
    with pydeform.num_threads(2):
        assert pydeform.get_num_threads() == 2
        assert pydeform.info().threads == pydeform.get_num_threads()
    assert pydeform.get_num_threads() == 3

    class StopError(Exception):
        pass

    with pytest.raises(StopError), pydeform.num_threads(1):
        raise StopError
    assert pydeform.get_num_threads() == 3


def ask(**environment):
    """Ask a fresh process for the number of threads it starts with."""
    unset = ("PYDEFORM_NUM_THREADS", "OMP_NUM_THREADS")
    env = {key: value for key, value in os.environ.items() if key not in unset}
    return subprocess.run(
        [sys.executable, "-c", "import pydeform; print(pydeform.get_num_threads())"],
        env={**env, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_environment_variables():
    assert ask(OMP_NUM_THREADS="3").stdout == "3\n"
    assert ask(PYDEFORM_NUM_THREADS="5").stdout == "5\n"
    assert ask(PYDEFORM_NUM_THREADS="2", OMP_NUM_THREADS="3").stdout == "2\n"
    assert int(ask().stdout) >= 1
    for nonsense in ("0", "-3", "many"):
        # One is ours, and what it says is checked; the other belongs to OpenMP.
        assert "expected a positive integer" in ask(PYDEFORM_NUM_THREADS=nonsense).stderr
        assert ask(OMP_NUM_THREADS=nonsense).stdout == ask().stdout


def test_many_python_threads_at_once():
    """Calls from several threads do not disturb each other, whatever each computes."""
    cases = [(rank, arguments(rank, seed)) for seed in range(2) for rank in (1, 2, 3)]
    expected = [everything(rank, args) for rank, args in cases]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            results = list(pool.map(lambda case: everything(*case), cases * 2))
            for found, other in zip(results, expected * 2, strict=True):
                assert_same_bits(found, other)


def share_without_a_turn(call):
    """The longest part of a call in which another thread, which only looks at the clock, waits."""
    looking, done = threading.Event(), threading.Event()
    taken = []

    def work():
        looking.wait()
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    last, longest = time.perf_counter(), 0.0
    looking.set()
    while not done.is_set():
        now = time.perf_counter()
        last, longest = now, max(longest, now - last)
    longest = max(longest, time.perf_counter() - last)
    worker.join()
    return longest / taken[0]


def test_other_threads_run_meanwhile():
    """The GIL is released: a thread goes on while another convolves."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 64, 128, 128)).astype(np.float32)
    w = rng.normal(size=(64, 64, 3, 3)).astype(np.float32)
    offset = rng.normal(size=(1, 18, 128, 128)).astype(np.float32)

    def convolve():
        pydeform.deform_conv2d(x, offset, w, padding=1)

    def hold():
        sum(range(2_000_000))  # one step of the interpreter, some 40 ms

    # A busy machine may let a thread wait at any time, but not in each of ten calls.
    assert min(share_without_a_turn(convolve) for _ in range(10)) < 0.5
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        assert min(share_without_a_turn(hold) for _ in range(10)) > 0.5  # what it would look like


def test_a_backend_chosen_in_one_thread_stays_there():
    seen = {}

    def look():
        x = np.ones((1, 1, 3), np.longdouble)  # which only the reference takes
        try:
            seen["other"] = pydeform.deform_conv1d(x, None, x)
        except TypeError as error:
            seen["other"] = error

    with pydeform.use_backend("ref"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        x = np.ones((1, 1, 3), np.longdouble)
        assert pydeform.deform_conv1d(x, None, x).dtype == np.longdouble
        with pydeform.use_backend("cpu"), pytest.raises(TypeError, match="longdouble"):
            pydeform.deform_conv1d(x, None, x)
        assert pydeform.deform_conv1d(x, None, x).dtype == np.longdouble
    assert isinstance(seen["other"], TypeError)


FORK = """
import os, signal, sys
import numpy as np
import pydeform

rng = np.random.default_rng(0)
x = rng.normal(size=(2, 8, 40, 40)).astype(np.float32)
w = rng.normal(size=(8, 8, 3, 3)).astype(np.float32)
offset = rng.normal(size=(2, 18, 40, 40)).astype(np.float32)


def everything():
    y = pydeform.deform_conv2d(x, offset, w, padding=1)
    grads = pydeform.deform_conv2d_backward(y, x, offset, w, padding=1)
    return b"".join(a.tobytes() for a in (y, *grads) if a is not None)


pydeform.set_num_threads(4)
expected = everything()
child = os.fork()
if child == 0:
    signal.alarm(60)  # a child that hangs is ended, which the parent sees
    pydeform.set_num_threads(4)  # stays 1: the threads are the parent's
    os._exit(0 if everything() == expected and pydeform.get_num_threads() == 1 else 3)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), everything() == expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork():
    """A child process computes, with the same bits, after its parent used threads."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["0", "True"], done.stderr
