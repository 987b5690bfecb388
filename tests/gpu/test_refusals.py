"""What is refused of CUDA arrays and of devices, and what the errors say.

CuPy and the kernels are stood in for (`fake_cupy`).
"""

import sys

import fake_cupy as fake
import numpy as np
import pytest
from fake_cupy import Exporter, conv

import pydeform


def test_arrays_lie_on_one_device():
    host, arrays = conv()
    other = conv(device=1)[1]
    with fake.installed():
        for wrong, message in (
            ({"offset": other["offset"]}, "input on cuda:0, offset on cuda:1, weight on cuda:0"),
            ({"offset": host["offset"]}, "input on cuda:0, offset on cpu, weight on cuda:0"),
            ({"input": host["input"]}, "input on cpu, offset on cuda:0, weight on cuda:0"),
        ):
            with pytest.raises(
                TypeError, match=f"expected all arrays on one device, got {message}"
            ):
                pydeform.deform_conv2d(**{**arrays, **wrong}, padding=1)
        rois = np.array([[0, 1.0, 1, 3, 3]], np.float32)
        with pytest.raises(TypeError, match="input on cpu, rois on cuda:0"):
            pydeform.roi_align(host["input"], fake.to_device(rois), 2)
        with pytest.raises(TypeError, match="input on cuda:0, rois on cuda:1"):
            pydeform.roi_align(arrays["input"], fake.to_device(rois, 1), 2)


def test_out_is_checked():
    host, arrays = conv()
    shape = (2, 3, 5, 6)
    good = np.zeros(shape, np.float32)

    class ReadOnly(Exporter):
        __cuda_array_interface__ = {"version": 3, "data": (8, True)}  # noqa: RUF012

    memory = fake.ndarray(np.zeros(2000, np.float32))
    inside = memory[: host["input"].size].reshape(host["input"].shape)
    inside[...] = arrays["input"]
    with fake.installed():
        for out, error, message in (
            (good, TypeError, "got out on cpu, the others on cuda:0"),
            (fake.to_device(good, 1), TypeError, "got out on cuda:1, the others on cuda:0"),
            (fake.to_device(good[:1]), ValueError, r"expected shape \(2, 3, 5, 6\)"),
            (fake.to_device(good.astype(np.float64)), TypeError, "expected dtype float32"),
            (fake.to_device(good.swapaxes(2, 3)).swapaxes(2, 3), ValueError, "C-contiguous"),
            (ReadOnly(good), ValueError, "got a read-only one"),
            (Exporter(good), ValueError, "got a read-only one"),  # for all that it says
            (memory[100:280].reshape(shape), ValueError, "that overlaps input"),
        ):
            with pytest.raises(error, match=message):
                pydeform.deform_conv2d(**{**arrays, "input": inside}, padding=1, out=out)
        apart = memory[240:420].reshape(shape)
        assert pydeform.deform_conv2d(**{**arrays, "input": inside}, padding=1, out=apart) is apart
        out = {"input": host["input"]}
        with pytest.raises(TypeError, match=r"out\['input'\] on cpu, the others on cuda:0"):
            pydeform.deform_conv2d_backward(fake.to_device(good), **arrays, padding=1, out=out)
        with pytest.raises(TypeError, match=r"got out on cuda:0, the others on cpu"):
            pydeform.deform_conv2d(**host, padding=1, out=fake.to_device(good))


def test_interleaved_memory_does_not_overlap():
    _, arrays = conv()
    memory = fake.ndarray(np.zeros((2, 4, 4 * 5 * 6), np.float32))
    arrays["input"] = memory[:, 0].reshape((2, 4, 5, 6))
    between = memory[0, 1:].reshape(-1)[:180].reshape((2, 3, 5, 6))
    with fake.installed():
        assert not arrays["input"].flags.c_contiguous
        assert pydeform.deform_conv2d(**arrays, padding=1, out=between) is between
        across = memory[0].reshape(-1)[-180:].reshape((2, 3, 5, 6))
        assert pydeform.deform_conv2d(**arrays, padding=1, out=across) is across
        across = memory.reshape(-1)[320:500].reshape((2, 3, 5, 6))
        with pytest.raises(ValueError, match="overlaps input"):
            pydeform.deform_conv2d(**arrays, padding=1, out=across)


def test_what_lies_on_the_host_overlaps_nothing_on_a_device():
    image, rois = np.ones((1, 1, 4, 4)), np.array([[0.0, 0, 0, 2, 2]])
    with fake.installed():
        out = fake.to_device(np.zeros((1, 1, 2, 2)))
        assert pydeform.roi_align(fake.to_device(image), rois, 2, out=out) is out


def test_no_memory_is_told_with_names_and_sizes(monkeypatch):
    _, arrays = conv()

    class OutOfMemoryError(MemoryError):
        pass

    def empty(shape, dtype):
        raise OutOfMemoryError("Out of memory allocating 720 bytes (allocated so far: 0 bytes).")

    with fake.installed() as cupy:
        monkeypatch.setattr(cupy, "empty", empty)
        with pytest.raises(MemoryError, match=r"out: no memory for shape \(2, 3, 5, 6\): .*720 b"):
            pydeform.deform_conv2d(**arrays, padding=1)


def test_backends_and_arrays_fit():
    host, arrays = conv()
    with fake.installed():
        for name in ("ref", "cpu", "emulated"):
            with (
                pydeform.use_backend(name),
                pytest.raises(TypeError, match=f"cuda:0: expected arrays on the CPU .*'{name}'"),
            ):
                pydeform.deform_conv2d(**arrays, padding=1)
        with (
            pydeform.use_backend("cuda"),
            pytest.raises(
                TypeError, match=r'inside use_backend\("cuda"\).*use_backend\("emulated"\)'
            ),
        ):
            pydeform.deform_conv2d(**host, padding=1)
        with pydeform.use_backend("cuda"):
            assert type(pydeform.deform_conv2d(**arrays, padding=1)) is fake.ndarray


def test_emulation_gives_the_cuda_backend_numpy_arrays(monkeypatch):
    from pydeform import _ref

    host, _ = conv()
    monkeypatch.setitem(sys.modules, "pydeform._gpu", _ref)
    monkeypatch.setitem(sys.modules, "cupy", None)  # nobody asks for it
    with pydeform.use_backend("ref"):
        expected = pydeform.deform_conv2d(**host, padding=1)
    with pydeform.use_backend("emulated"):
        np.testing.assert_array_equal(pydeform.deform_conv2d(**host, padding=1), expected)
        longer = {name: array.astype(np.longdouble) for name, array in host.items()}
        with pytest.raises(TypeError, match=r"input: expected one of .*got longdouble"):
            pydeform.deform_conv2d(**longer, padding=1)


def test_without_cupy(monkeypatch):
    _, arrays = conv()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"need the package CuPy: pip install cupy-cuda13x"):
        pydeform.deform_conv2d(**dict.fromkeys(arrays, Exporter(np.zeros(3))))
    with pytest.raises(ImportError, match="pip install cupy"), pydeform.use_backend("cuda"):
        pass
    assert "pip install cupy" in pydeform.info(cuda=True).backends["cuda"]
    assert pydeform.info(cuda=True).cuda == {}


def test_cupy_that_does_not_work(monkeypatch):
    _, arrays = conv()

    def count():
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    for part, value, error, message in (
        ("getDeviceCount", count, RuntimeError, "no CUDA device: cudaErrorNoDevice"),
        ("getDeviceCount", lambda: 0, RuntimeError, "CuPy finds no CUDA device"),
        ("version", "13.6.0", ImportError, "need CuPy 14 or later, got 13.6.0"),
    ):
        with fake.installed() as cupy:
            if part == "version":
                cupy.__version__ = value
            else:
                setattr(cupy.cuda.runtime, part, value)
            with pytest.raises(error, match=message):
                pydeform.deform_conv2d(**arrays, padding=1)
            with pytest.raises(error, match=message), pydeform.use_backend("cuda"):
                pass
            assert pydeform.info().backends["cuda"].startswith("not available: ")
            assert pydeform.info().cuda == {}


def test_info_tells_of_devices():
    with fake.installed():
        info = pydeform.info()
    assert info.backends["cuda"] == "available"
    assert info.cuda["cuda_driver"] == "13.1"
    assert info.cuda["cuda_devices"][1] == "1: Stand-in (sm_90, 80 GiB)"
    assert "0: Stand-in (sm_90, 80 GiB), 1: " in str(info)
