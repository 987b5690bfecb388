"""The CUDA backend's Python on arrays that are CuPy's but for the memory; kernels run on the CPU.

What it does with them may not depend on their being NumPy's: no mixing, no turning into NumPy
arrays, nothing that waits for the device, no number read before it is written (new memory is NaN).
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import pydeform
import pydeform._gpu
from pydeform._gpu import _host, _loader
from pydeform.testing.operations import OPERATIONS


def _beside(name):
    """Import a file that no package has."""
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_beside", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


manners = _beside("test_manners")
fake = manners.fake

PRIMITIVES = ("deform_conv", "local_conv", "sample", "splat", "dcnv3")
CASES = [
    pytest.param(make, dtype, id=f"{operation.name}-{name}-{dtype}")
    for operation in OPERATIONS
    if operation.name.startswith(PRIMITIVES)
    for name, make in operation.examples.items()
    for dtype in ("float32", "float16")
]


def on_host(source, declared, instance, grid, block, args, shared):
    packed = _loader._packed(args, _loader._device_pointer)
    _host.launch(source, declared, instance, grid, block, packed, shared)


@pytest.mark.parametrize(("make", "dtype"), CASES)
def test_the_backend_computes_with_arrays_of_cupy(make, dtype, monkeypatch):
    monkeypatch.setattr(_loader, "_device_launch", on_host)
    case = make("dyadic").astype(np.dtype(dtype))
    with pydeform.use_backend("emulated"):
        expected = manners.evaluate(case)
    moved = manners.on_device(case)
    with fake.installed(pydeform._gpu):
        manners.evaluate(moved)  # constants are uploaded once
        fake.waits.clear()
        found = manners.evaluate(moved)
    assert fake.waits == []
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert type(found[name]) is fake.ndarray, name
        np.testing.assert_array_equal(found[name]._array, array, name)


def test_arrays_are_copied_to_a_device_and_back(monkeypatch):
    """How every other test here runs on a machine with a GPU."""
    monkeypatch.setattr(_loader, "_device_launch", on_host)
    here, _ = fake.conv()
    expected = pydeform.deform_conv2d(**here, padding=1)
    with fake.installed(pydeform._gpu) as cupy:
        through = _beside("through_copies").backend(cupy)
        load = pydeform._dispatch.load
        monkeypatch.setattr(
            pydeform._dispatch, "load", lambda name: through if name == "emulated" else load(name)
        )
        with pydeform.use_backend("emulated"):
            found = pydeform.deform_conv2d(**here, padding=1)
        assert "get" in fake.waits
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)  # float32, sums of 36
