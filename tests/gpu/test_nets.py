"""The nets that kernels are tested with catch what they are for, and nothing else.

Each kernel of faults.cu exists with its mistake and without. A race shows as a difference between
two schedules, a mistake that the host execution knows of as its error, an access outside an array
as the abort of a build with sanitizers.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pydeform._gpu import _declared
from pydeform._gpu._host import schedule
from pydeform._gpu._loader import launch

FAULTS = str(Path(__file__).parent / "faults.cu")
RACES = [
    "missing_barrier",
    "missing_second_barrier",
    "missing_warp_barrier",
    "racing_blocks",
    "unordered_sum",
    "unwritten_shared",
    "unwritten_array",
]
ERRORS = {
    "barrier_in_branch": "divergent barrier: some threads|warp deadlock|barrier deadlock",
    "barrier_after_return": "divergent barrier: some threads of the block have returned",
    "two_barriers": "divergent barrier: threads wait at two of them",
    "lane_outside_its_mask": "a lane is not in the mask that it names",
    "different_masks": "lanes of a warp name different masks|warp deadlock",
    "shuffle_from_outside": "a shuffle reads a lane that is not in its mask",
    "lane_never_arrives": "warp deadlock: a lane named in a mask never arrives",
    "different_operations": "lanes of a warp are at different operations",
    "past_shared": "write past the end of shared memory",
    "past_an_array": "write past the end of shared memory",
    "misaligned_pack": "misaligned pack",
}
SANITIZED = {
    "read_past_the_end": "heap-buffer-overflow",
    "write_before_the_start": "heap-buffer-overflow",
    "past_shared": "heap-buffer-overflow",
    "past_an_array": "heap-buffer-overflow",
    "misaligned_cast": "misaligned address",
    "overflow": "signed integer overflow",
}


def run(kernel, fault, seed=0, threads=1):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(128) * 10 ** rng.uniform(-3, 3, 128)).astype(np.float32)
    y = np.zeros(512, np.float32)
    with schedule(seed, threads):
        launch(FAULTS, kernel, (str(fault),), (4,), (128,), [x, y, 128], shared=512)
    return y


def test_every_fault_has_its_net():
    assert set(_declared.kernels(FAULTS)) == {*RACES, *ERRORS, *SANITIZED}


@pytest.mark.parametrize("seeds", [(0, 1), (0, 2), (3, 4)])
@pytest.mark.parametrize("kernel", RACES)
def test_a_race_shows_between_two_schedules(kernel, seeds):
    def bits(fault):
        return [run(kernel, fault, seed).tobytes() for seed in seeds]

    right, wrong = bits(0), bits(1)
    assert right[0] == right[1]
    assert wrong[0] != wrong[1]


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("kernel", ERRORS)
def test_the_host_execution_knows_the_mistake(kernel, seed):
    right = run(kernel, 0, seed)
    with pytest.raises(RuntimeError, match=rf"^{kernel}<1>: ({ERRORS[kernel]}).* \(block \d,0,0"):
        run(kernel, 1, seed)
    # A launch that failed leaves nothing behind.
    assert (run(kernel, 0, seed) == right).all()


def test_an_error_in_one_of_many_blocks_on_many_threads():
    for _ in range(20):
        with pytest.raises(RuntimeError, match="divergent barrier"):
            run("barrier_after_return", 1, threads=3)
        assert (run("missing_barrier", 0, threads=3) == run("missing_barrier", 0)).all()


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from tests.gpu.test_nets import run
print(sum(run({kernel!r}, 0)))
print("sound", flush=True)
run({kernel!r}, 1)
print("unseen")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers are those of GCC on Linux")
@pytest.mark.parametrize("kernel", SANITIZED)
def test_the_sanitizers_stop_it(kernel):
    compiler = shutil.which("g++")
    assert compiler, "g++ builds the host execution"
    library = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "CXX": compiler,
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYDEFORM_HOST_SANITIZE": "address,undefined",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(kernel=kernel, path=[str(Path(FAULTS).parents[2])])],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )
    assert "sound" in done.stdout, done.stderr
    assert "unseen" not in done.stdout
    assert SANITIZED[kernel] in done.stderr
    assert done.returncode != 0
