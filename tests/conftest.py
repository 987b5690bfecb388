"""Hypothesis profiles, chosen by the environment variable HYPOTHESIS_PROFILE; shared fixtures."""

import os

import pytest
from hypothesis import HealthCheck, settings

import pydeform
from pydeform import _dispatch
from pydeform._gpu._loader import device_name
from pydeform.testing import deform_conv_case, make_geometry

DEVICE = device_name()

# No deadlines: the first example of a process pays for imports, and machines differ.
settings.register_profile("default", max_examples=10, deadline=None, print_blob=True)
settings.register_profile("ci", max_examples=30, deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "nightly",
    max_examples=20_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_report_header():
    """Say where the CUDA kernels run."""
    return f"CUDA kernels: {DEVICE or 'emulated, there is no GPU'}"


def pytest_terminal_summary(terminalreporter, config):
    """Say it at the end where no header was printed."""
    if config.get_verbosity() < 0:
        terminalreporter.write_line(pytest_report_header())


@pytest.fixture(autouse=True, scope="session")
def _kernels_on_the_gpu():
    """Where there is a GPU, the backend "emulated" is the device, by copies there and back."""
    if DEVICE is None:
        yield
        return
    import cupy

    if os.environ.get("PYDEFORM_NO_POOL"):  # see .ci/check-gpu
        cupy.cuda.set_allocator(None)
    import through_copies

    found, load = through_copies.backend(cupy), _dispatch.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_dispatch, "load", lambda n: found if n == "emulated" else load(n))
        yield


@pytest.fixture(params=["ref", "cpu"])
def backend(request):
    """Run the test on each backend."""
    with pydeform.use_backend(request.param):
        yield request.param


@pytest.fixture
def dyadic_case():
    """Make small cases with two groups, two offset groups and padding, exact in float64."""

    def make(rank, seed=0, kind="dyadic", **options):
        chosen = {
            "batch": 2,
            "channels": 4,
            "out_channels": 6,
            "groups": 2,
            "offset_groups": 2,
            "pad": ((1, 1),) * rank,
            **options,
        }
        size, kernel = {
            1: ((9,), (3,)),
            2: ((6, 5), (3, 2)),
            3: ((4, 3, 5), (2, 3, 2)),
        }[rank]
        geometry, pad_end = make_geometry(size, kernel, **chosen)
        return deform_conv_case(geometry, pad_end, seed, kind)

    return make
