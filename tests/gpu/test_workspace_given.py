"""Memory that a caller gives to calls on a device, on the stand-ins for CuPy and cuBLAS."""

import contextlib

import fake_cublas as cublas
import fake_cupy as fake
import fake_memory
import numpy as np
import pytest
import test_on_stand_in as stand_in

import pydeform
import pydeform._gpu


@pytest.fixture
def cupy(monkeypatch):
    monkeypatch.setattr(stand_in._loader, "_device_launch", stand_in.on_host)
    with fake.installed(pydeform._gpu) as module, cublas.installed():
        yield module


def lies_in(array, memory):
    return np.shares_memory(array._array, memory._array)


def test_the_same_bits_and_nothing_from_the_pool(cupy, monkeypatch):
    arrays, here = fake.conv()
    grad = fake.to_device(np.ones_like(pydeform.deform_conv2d(**arrays, padding=1)))
    expected = pydeform.deform_conv2d(**here, padding=1)
    gradients = pydeform.deform_conv2d_backward(grad, **here, padding=1)
    memory = cupy.empty(1 << 20, np.uint8)
    outside = []
    malloc = fake_memory.allocated

    def counted(shape, dtype, order):
        outside.extend([shape] * (not fake_memory._allocators))
        return malloc(shape, dtype, order)

    out = cupy.empty(expected.shape, expected.dtype)
    into = {name: cupy.empty(array.shape, array.dtype) for name, array in here.items()}
    monkeypatch.setattr(fake_memory, "allocated", counted)
    with pydeform.workspace(memory) as given:
        assert (1 << 20) - 1024 < given.size <= 1 << 20
        assert given.peak == 0
        found = pydeform.deform_conv2d(**here, padding=1, out=out)
        used = given.peak
        back = pydeform.deform_conv2d_backward(grad, **here, padding=1, out=into)
        assert 0 < used < given.peak < given.size
        assert given.pool.used_bytes() == 0
    assert outside == []
    assert found is out
    np.testing.assert_array_equal(out._array, expected._array)
    for one, other in zip(back, gradients, strict=True):
        if one is not None:
            np.testing.assert_array_equal(one._array, other._array)
            assert not lies_in(one, memory)


def test_every_function_of_the_backend_takes_it(cupy, monkeypatch):
    """Called without arguments each fails, but only after it has asked for the allocator."""
    asked = []

    def using(allocator):
        asked.append(allocator)
        return contextlib.nullcontext()

    monkeypatch.setattr(cupy.cuda, "using_allocator", using)
    names = sorted(set(pydeform._gpu.__all__) & set(pydeform._ref.__all__))
    with pydeform.workspace(cupy.empty(4096, np.uint8)) as given:
        for name in names:
            with pytest.raises(TypeError, match="argument"):
                getattr(pydeform._gpu, name)()
    assert len(names) == 10
    assert asked == [given.malloc] * len(names)


def test_results_are_not_in_the_workspace(cupy):
    _, here = fake.conv()
    memory = cupy.empty(1 << 20, np.uint8)
    with pydeform.workspace(memory) as given:
        assert not lies_in(pydeform.deform_conv2d(**here, padding=1), memory)
        assert given.peak > 0


def test_too_small(cupy):
    _, here = fake.conv()
    with (
        pydeform.workspace(cupy.empty(700, np.uint8)),
        pytest.raises(MemoryError, match=r"workspace: expected memory for \d+ bytes more, got"),
    ):
        pydeform.deform_conv2d(**here, padding=1)
    pydeform.deform_conv2d(**here, padding=1)  # from the pool again


def test_streams_one_after_the_other(cupy):
    _, here = fake.conv()
    one, other = fake.Stream(), fake.Stream()
    one.ptr, other.ptr = 1, 2
    with pydeform.workspace(cupy.empty(1 << 20, np.uint8)) as given:
        for stream in (one, other, one):
            with stream:
                pydeform.deform_conv2d(**here, padding=1)
        with one:
            held = given.malloc(512)
        with other, pytest.raises(RuntimeError, match="one stream after the other"):
            pydeform.deform_conv2d(**here, padding=1)
        del held


def test_calls_on_the_cpu_take_nothing(cupy):
    arrays, _ = fake.conv()
    with pydeform.workspace(cupy.empty(1 << 20, np.uint8)) as given:
        pydeform.deform_conv2d(**arrays, padding=1)
        with pydeform.use_backend("emulated"):
            pydeform.deform_conv2d(**arrays, padding=1)
    assert given.peak == 0


def refused(memory):
    with pydeform.workspace(memory):
        pass


def test_what_is_no_workspace(cupy):
    with pytest.raises(TypeError, match="memory: expected a CUDA array, got one on cpu"):
        refused(np.zeros(8))
    with pytest.raises(TypeError, match="memory: "):
        refused(8)
    with pytest.raises(ValueError, match="memory: expected a contiguous array"):
        refused(cupy.empty((8, 8), np.uint8)[:, ::2])
