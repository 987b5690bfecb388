"""The CUDA backend's Python on arrays that are CuPy's but for the memory; kernels run on the CPU.

What it does with them may not depend on their being NumPy's: no mixing, no turning into NumPy
arrays, nothing that waits for the device, no number read before it is written (new memory is NaN).
"""

import fake_cublas as cublas
import fake_cupy as fake
import ml_dtypes
import numpy as np
import pytest
import test_manners as manners
import through_copies

import pydeform
import pydeform._gpu
from pydeform._gpu import _host, _layout, _loader, _product
from pydeform._gpu._product import product
from pydeform.testing.operations import OPERATIONS

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
    with fake.installed(pydeform._gpu), cublas.installed():
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
    with fake.installed(pydeform._gpu) as cupy, cublas.installed():
        through = through_copies.backend(cupy)
        load = pydeform._dispatch.load
        monkeypatch.setattr(
            pydeform._dispatch, "load", lambda name: through if name == "emulated" else load(name)
        )
        with pydeform.use_backend("emulated"):
            found = pydeform.deform_conv2d(**here, padding=1)
        assert "get" in fake.waits
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)  # float32, sums of 36


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("groups", "captured"), [(1, False), (3, False), (3, True)])
def test_products_as_cublas_is_told_of_them(dtype, turned, add, groups, captured, monkeypatch):
    """Integers, so that every type is exact; an operand and the result seen through strides."""
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    rng = np.random.default_rng(0)
    m, k, n = 5, 4, 3
    working = np.promote_types(dtype, np.float32) if dtype.itemsize > 2 else np.dtype(np.float32)
    a, b = (rng.integers(-2, 3, shape).astype(dtype) for shape in ((groups, m, k), (groups, k, n)))
    flat = rng.integers(-2, 3, (m, groups, n)).astype(working)  # as rows of an output lie
    expected = np.matmul(a.astype(working), b.astype(working))
    expected += flat.transpose(1, 0, 2) if add else 0
    a, b = (
        np.ascontiguousarray(x.swapaxes(1, 2)) if turn else x
        for x, turn in zip((a, b), turned, strict=True)
    )
    # While a graph is captured CuPy's function refuses, and the library's own is called.
    library = cublas.Library()
    monkeypatch.setattr(fake.Stream, "capturing", captured)
    monkeypatch.setattr(_product, "_cublas", lambda: library)
    with fake.installed(pydeform._gpu), cublas.installed():
        out = fake.to_device(flat)
        target = out.transpose(1, 0, 2)
        product(fake.to_device(a), fake.to_device(b), target, *turned, add=add)
    np.testing.assert_array_equal(target._array, expected)
    np.testing.assert_array_equal(out._array, expected.transpose(1, 0, 2))
    assert cublas.calls == [70 if working == np.float64 else 68]
    assert library.streams == [0] * captured


def test_tf32_is_asked_for_by_name(monkeypatch):
    one = np.ones((1, 2, 2), np.float32)
    monkeypatch.setenv("PYDEFORM_TF32", "1")
    with fake.installed(pydeform._gpu), cublas.installed():
        arrays = [fake.to_device(one) for _ in range(3)]
        product(*arrays)
        product(*(a.astype(np.float64) for a in arrays))
    assert cublas.calls == [77, 70]


# Of each operation with kernels of its own.
AMD = [case for case in CASES if "wide" in case.id or "attn" in case.id]


def many_channels():
    """A convolution in 16 bits that tensor cores would take."""
    rng = np.random.default_rng(0)
    shapes = {"input": (1, 32, 4, 5), "offset": (1, 8, 3, 4), "weight": (6, 32, 2, 2)}
    return {name: rng.integers(-2, 3, s).astype(np.float16) for name, s in shapes.items()}


@pytest.mark.parametrize(("make", "dtype"), AMD)
def test_a_cupy_built_for_rocm_takes_columns_and_matmul(make, dtype, monkeypatch):
    """What it has not: cuBLAS, capabilities, tensor cores as NVIDIA's."""
    launched = set()

    def watching(source, declared, *rest):
        launched.add(declared.name)
        on_host(source, declared, *rest)

    monkeypatch.setattr(_loader, "_device_launch", watching)
    # Which keeps what it found.
    monkeypatch.setattr(_layout, "_device", _layout._device.__wrapped__)
    case, conv = make("dyadic").astype(np.dtype(dtype)), many_channels()
    with pydeform.use_backend("ref"):
        expected = manners.evaluate(case)
        product = pydeform.deform_conv2d(**conv)
    moved = manners.on_device(case)
    with fake.installed(pydeform._gpu) as cupy:
        cupy.cuda.runtime.is_hip = True
        assert pydeform.info().backends["cuda"] == "available"
        found = manners.evaluate(moved)
        on_amd = pydeform.deform_conv2d(**{n: fake.to_device(a) for n, a in conv.items()})
    np.testing.assert_array_equal(on_amd._array, product)
    assert "blend" in launched
    assert not launched & {"fused", "pack_weights"}
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name]._array, array, name)
