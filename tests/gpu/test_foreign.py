"""CUDA arrays of other libraries: taken in without a copy, and given back as their own kind.

CuPy, the kernels and torch are stood in for (`fake_cupy`).
"""

import inspect
import sys
import types

import fake_cupy as fake
import ml_dtypes
import numpy as np
import pytest
from fake_cupy import Exporter, conv

import pydeform
from pydeform import _arrays

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {name: np.dtype(name) for name in ("float64", "float32", "float16")}
DTYPES["bfloat16"] = BFLOAT16


@pytest.mark.parametrize("kind", [2, 13], ids=["device memory", "managed memory"])
def test_dlpack_goes_in_without_a_copy_and_comes_back_as_cupy(kind):
    host, arrays = conv()
    with fake.installed():
        expected = pydeform.deform_conv2d(**arrays, padding=1)
        given = {name: Exporter(array, 1, kind) for name, array in host.items()}
        found = pydeform.deform_conv2d(**given, padding=1)
        assert found.device.id == 1
        np.testing.assert_array_equal(found._array, expected._array)
        taken = _arrays.take(given, like="input").arrays["input"]
        assert taken._array is host["input"]


def test_a_library_with_a_namespace_gets_its_own_kind():
    class Theirs(Exporter):
        def __array_namespace__(self):
            return types.SimpleNamespace(from_dlpack=lambda array: ("theirs", array))

    host, arrays = conv()
    with fake.installed():
        given = {name: Theirs(array) for name, array in host.items()}
        mark, found = pydeform.deform_conv2d(**given, padding=1)
        assert mark == "theirs"
        expected = pydeform.deform_conv2d(**arrays, padding=1)
    np.testing.assert_array_equal(found._array, expected._array)


def test_arrays_with_cuda_array_interface_alone(monkeypatch):
    class Numba:
        def __init__(self, memory):
            self.memory = memory
            self.__cuda_array_interface__ = {**memory.__array_interface__, "version": 3}

    host, arrays = conv(device=1)
    with fake.installed() as cupy:
        expected = pydeform.deform_conv2d(**arrays, padding=1)
        plain = cupy.asarray
        monkeypatch.setattr(
            cupy,
            "asarray",
            lambda a, *args: fake.ndarray(a.memory) if isinstance(a, Numba) else plain(a, *args),
        )
        found = pydeform.deform_conv2d(**{n: Numba(a) for n, a in host.items()}, padding=1)
    assert found.device.id == 1  # by their pointers
    np.testing.assert_array_equal(found._array, expected._array)


class Place(types.SimpleNamespace):
    """torch.device."""

    def __init__(self, index):
        super().__init__(type="cuda", index=index)

    def __str__(self):
        return f"cuda:{self.index}"


class Tensor:
    """A torch tensor on a device, as far as anybody looks."""

    requires_grad, is_cuda = False, True

    def __init__(self, memory, index=1):
        self.memory = memory
        self.device = Place(index)
        self.dtype = f"torch.{memory.dtype.name}"

    def view(self, dtype):
        return Tensor(self.memory.view(dtype), self.device.index)

    def __dlpack_device__(self):
        return (2, self.device.index)

    def __dlpack__(self, **kwargs):
        return None


def torch_stand_in():
    torch = types.ModuleType("torch")
    torch.Tensor, torch.int16, torch.bfloat16 = Tensor, np.int16, BFLOAT16
    torch.from_dlpack = lambda array: Tensor(array._array, array.device.id)
    torch.version = types.SimpleNamespace(hip=None)
    torch.cuda = types.SimpleNamespace(
        current_stream=lambda device: types.SimpleNamespace(cuda_stream=1000 + device.index)
    )
    return torch


@pytest.fixture
def torch(monkeypatch):
    module = torch_stand_in()
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_runs_on_its_own_stream_and_gets_tensors(torch, dtype):
    host, arrays = conv(dtype=DTYPES[dtype])
    streams = []

    def look(arrays):
        streams.append((fake.Device().id, fake._streams[-1].ptr if fake._streams else None))

    with fake.installed(fake.backend(look)):
        expected = pydeform.deform_conv2d(**arrays, padding=1)
        given = {name: Tensor(array) for name, array in host.items()}
        found = pydeform.deform_conv2d(**given, padding=1)
        grads = pydeform.deform_conv2d_backward(found, **given, padding=1)
        out = Tensor(np.zeros_like(found.memory))
        assert pydeform.deform_conv2d(**given, padding=1, out=out) is out
        assert fake.Device().id == 0
        assert not fake.waits
    assert streams == [(0, None), (1, 1001), (1, 1001), (1, 1001)]
    assert {type(x) for x in (found, grads.input, grads.offset, grads.weight)} == {Tensor}
    for one in (found, out):
        np.testing.assert_array_equal(one.memory, expected._array, strict=True)


def test_tensors_that_require_gradients_are_refused(torch):
    host, _ = conv()
    given = {name: Tensor(array) for name, array in host.items()}
    with fake.installed():
        given["weight"].requires_grad = True
        with pytest.raises(TypeError, match=r"weight: .*requires_grad=True; pass weight.detach"):
            pydeform.deform_conv2d(**given, padding=1)


@pytest.mark.parametrize("kind", [10, 2])
def test_arrays_on_a_device_of_amd_or_nvidia(kind):
    """CuPy's and torch's words are the same for both; DLPack has numbers for each."""
    host, arrays = conv()
    with fake.installed():
        expected = pydeform.deform_conv2d(**arrays, padding=1)
        given = {name: Exporter(array, kind=kind) for name, array in host.items()}
        found = pydeform.deform_conv2d(**given, padding=1)
    np.testing.assert_array_equal(found._array, expected._array)


# The stand-in itself.


def parameters(function):
    return [(p.name, p.kind) for p in inspect.signature(function).parameters.values()]


def test_the_stand_in_has_nothing_that_cupy_lacks():
    cupy = pytest.importorskip("cupy", minversion="14.0")
    mine = {name for name in vars(fake.ndarray) if not name.startswith("_")}
    assert mine <= set(dir(cupy.ndarray))
    assert not hasattr(fake.ndarray, "__array_namespace__")
    assert not hasattr(cupy.ndarray, "__array_namespace__")
    made = {name for name in vars(fake.module()) if not name.startswith("_")} - {"runtime"}
    assert made <= set(dir(cupy))
    assert set(vars(fake.module().runtime)) <= set(dir(cupy.cuda.runtime))
    assert {"Device", "Stream", "get_current_stream"} <= set(dir(cupy.cuda))
    assert hasattr(cupy.cuda.Stream, "from_external")
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, RuntimeError)
    for function in fake.CREATION:
        assert parameters(function) == parameters(getattr(cupy, function.__name__))
    from cupy._core.flags import Flags

    assert vars(fake.ndarray(np.zeros(3)).flags).keys() <= set(dir(Flags))
    assert not {"writeable", "aligned"} & set(dir(Flags))


def test_the_stand_in_counts_what_waits_and_refuses_to_mix():
    with fake.installed() as cupy:
        x = cupy.asarray(np.arange(3.0))
        assert bool(cupy.any(x > 1))
        assert float(x[1]) == 1.0
        assert x.get().tolist() == [0, 1, 2]
        assert fake.waits == ["__bool__", "__float__", "get"]
        for mix in (
            lambda: x + np.ones(3),
            lambda: np.asarray(x),
            lambda: cupy.stack([x, np.ones(3)]),
            lambda: x[np.array([0])],
            lambda: x.__setitem__(0, np.ones(1)),
            lambda: np.add(x, x, out=np.ones(3)),
        ):
            with pytest.raises(TypeError, match=r"NumPy array"):
                mix()
        with cupy.cuda.Device(1), pytest.raises(RuntimeError, match="current is 1"):
            x + 1
