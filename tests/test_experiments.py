"""What is planted in the experiments of benchmarks/experiments is found: their reduced versions."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(
    not (ROOT / "benchmarks").exists(), reason="the tests of an installed package have no sources"
)
@pytest.mark.parametrize(
    ("name", "claims"),
    [
        (
            "varying_size",
            [
                "the error is at least 30 times below the best plain kernel's",
                "predicted and true sizes correlate above 0.99",
            ],
        ),
        (
            "tap_positions",
            [
                "the error is below 1e-3 of the variance",
                "every planted tap is found within 0.01 pixel",
            ],
        ),
        (
            "steerable",
            [
                "mixed kernels are the steered filters, to rounding",
                "mixing kernels is mixing outputs, to rounding",
                "and so are the derivatives by the angle",
            ],
        ),
    ],
)
def test_what_is_planted_is_found(name, claims, tmp_path):
    picture = tmp_path / "picture.png"
    command = ["-m", f"benchmarks.experiments.{name}", "--quick", "--picture", str(picture)]
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("yes ", "NO "))]
    assert lines == [f"yes {claim}" for claim in claims]
    assert picture.stat().st_size > 10_000
