"""Arrays of other libraries go in without a copy and come back as their own kind."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import pydeform

DTYPES = ["float32", "float64", "float16", "bfloat16"]


def arguments(dtype=np.float32):
    rng = np.random.default_rng(1)
    shapes = {
        "input": (2, 4, 5, 6),
        "offset": (2, 36, 5, 6),
        "weight": (2, 4, 3, 3),
        "bias": (2,),
        "mask": (2, 18, 5, 6),
    }
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def conv(arrays, **options):
    return pydeform.deform_conv2d(**arrays, padding=1, **options)


class OnlyDLPack:
    """An array of a library that nobody has heard of: memory and nothing else."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **kwargs):
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class OldDLPack(OnlyDLPack):
    """The first version of the protocol, whose capsules cannot say that memory may be written."""

    def __dlpack__(self, stream=None):
        return self._array.__dlpack__(stream=stream)


# NumPy


def test_read_only_arrays():
    arrays = arguments()
    expected = conv(arrays)
    for array in arrays.values():
        array.setflags(write=False)
    np.testing.assert_array_equal(conv(arrays), expected)
    grads = pydeform.deform_conv2d_backward(expected, **arrays, padding=1)
    assert all(grad.flags.writeable for grad in grads)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ml_dtypes.bfloat16])
def test_strided_arrays(dtype):
    arrays = arguments(dtype)
    expected = conv(arrays)
    grads = pydeform.deform_conv2d_backward(expected, **arrays, padding=1)
    strided = {
        "every second": {n: np.repeat(a, 2, axis=-1)[..., ::2] for n, a in arrays.items()},
        "backwards": {n: a[::-1].copy()[::-1] for n, a in arrays.items()},
        "column-major": {n: np.asfortranarray(a) for n, a in arrays.items()},
        "channels-last": {
            n: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if a.ndim > 1 else a
            for n, a in arrays.items()
        },
        "unaligned": {n: unaligned(a) for n, a in arrays.items()},
    }
    for case in strided.values():
        np.testing.assert_array_equal(conv(case), expected)
        again = pydeform.deform_conv2d_backward(np.asfortranarray(expected), **case, padding=1)
        for grad, other in zip(grads, again, strict=True):
            np.testing.assert_array_equal(grad, other)
            assert other.flags.c_contiguous


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def test_broadcast_array_is_no_other():
    arrays = arguments()
    arrays["mask"] = np.broadcast_to(np.float32(0.5), arrays["mask"].shape)
    expected = conv({**arrays, "mask": np.full(arrays["mask"].shape, 0.5, np.float32)})
    np.testing.assert_array_equal(conv(arrays), expected)


def test_subclasses_come_back_as_plain_arrays(tmp_path):
    arrays = arguments()
    path = tmp_path / "input"
    mapped = np.memmap(path, np.float32, "w+", shape=arrays["input"].shape)
    mapped[...] = arrays["input"]
    result = conv({**arrays, "input": mapped})
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, conv(arrays))


def test_no_argument_is_written():
    arrays = arguments()
    before = {name: array.copy() for name, array in arrays.items()}
    output = conv(arrays)
    grads = pydeform.deform_conv2d_backward(output, **arrays, padding=1)
    pydeform.deform_conv2d_jvp(**arrays, padding=1, tangents=grads._asdict())
    pydeform.deform_conv2d_double_backward(grads._asdict(), output, **arrays, padding=1)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])


def test_out_is_written_and_returned():
    arrays = arguments()
    expected = conv(arrays)
    out = np.full_like(expected, np.nan)
    assert conv(arrays, out=out) is out
    np.testing.assert_array_equal(out, expected)

    names = ("input", "offset", "weight", "bias", "mask")
    grads = pydeform.deform_conv2d_backward(expected, **arrays, padding=1)
    written = {name: np.full_like(arrays[name], np.nan) for name in names}
    again = pydeform.deform_conv2d_backward(expected, **arrays, padding=1, out=written)
    for name in names:
        assert getattr(again, name) is written[name]
        np.testing.assert_array_equal(written[name], getattr(grads, name))

    jvp = pydeform.deform_conv2d_jvp(**arrays, padding=1, tangents=grads._asdict())
    written = {name: np.full_like(out, np.nan) for name in ("output", "output_tangent")}
    again = pydeform.deform_conv2d_jvp(**arrays, padding=1, tangents=grads._asdict(), out=written)
    assert again[0] is written["output"]
    assert again[1] is written["output_tangent"]
    np.testing.assert_array_equal(again, jvp)

    args = (grads._asdict(), expected)
    double = pydeform.deform_conv2d_double_backward(*args, **arrays, padding=1)
    written = {n: np.full_like(getattr(double, n), np.nan) for n in double._fields}
    again = pydeform.deform_conv2d_double_backward(*args, **arrays, padding=1, out=written)
    for name, array in written.items():
        assert getattr(again, name) is array
        np.testing.assert_array_equal(array, getattr(double, name))
    assert not double.bias.any()


def test_needs_picks_results():
    arrays = arguments()
    output = conv(arrays)
    every = pydeform.deform_conv2d_backward(output, **arrays, padding=1)
    for name in every._fields:
        one = pydeform.deform_conv2d_backward(output, **arrays, padding=1, needs=[name])
        # Sums of weight and bias may run over other blocks: the bits may differ.
        close = {"rtol": 1e-4, "atol": 1e-4}
        np.testing.assert_allclose(getattr(one, name), getattr(every, name), **close)
        assert [n for n in one._fields if getattr(one, n) is not None] == [name]
    none = pydeform.deform_conv2d_backward(output, **arrays, padding=1, needs=())
    assert none == (None,) * 5
    fewer = pydeform.deform_conv2d_backward(
        output, arrays["input"], None, arrays["weight"], padding=1
    )
    assert [n for n in fewer._fields if getattr(fewer, n) is not None] == ["input", "weight"]


# DLPack


@pytest.mark.parametrize("kind", [OnlyDLPack, OldDLPack])
def test_dlpack_alone_is_enough(kind):
    arrays = arguments()
    result = conv({name: kind(array) for name, array in arrays.items()})
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, conv(arrays))


@pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.3.0",
    reason="before 2.3 NumPy takes all memory that DLPack describes for read-only",
)
def test_dlpack_memory_is_written_in_place():
    arrays = arguments()
    memory = np.zeros((2, 2, 5, 6), np.float32)
    out = OnlyDLPack(memory)
    assert conv(arrays, out=out) is out
    np.testing.assert_array_equal(memory, conv(arrays))
    inside = arrays["input"].reshape(-1)[:120].reshape(2, 2, 5, 6)
    with pytest.raises(ValueError, match=r"out: .*overlaps input"):
        conv({**arrays, "input": OnlyDLPack(arrays["input"])}, out=OnlyDLPack(inside))
    with pytest.raises(ValueError, match=r"out: .*read-only"):
        conv(arrays, out=OldDLPack(memory))


def test_memory_that_cannot_be_described_is_refused():
    arrays = arguments(ml_dtypes.bfloat16)
    with pytest.raises(TypeError, match=r"input: cannot take .*OnlyDLPack in"):
        conv({**arrays, "input": OnlyDLPack(arrays["input"])})


def test_bfloat16_of_others_comes_by_the_array_protocol():
    """NumPy's DLPack knows no bfloat16; jax offers both protocols."""

    class Both(OnlyDLPack):
        def __array__(self, dtype=None, copy=None):
            return self._array

    arrays = arguments(ml_dtypes.bfloat16)
    result = conv({name: Both(array) for name, array in arrays.items()})
    np.testing.assert_array_equal(result, conv(arrays))


def test_array_api_arrays_come_back_as_their_own():
    xp = pytest.importorskip("array_api_strict")
    arrays = arguments()
    result = conv({name: xp.asarray(array) for name, array in arrays.items()})
    assert isinstance(result, type(xp.asarray(arrays["bias"])))
    np.testing.assert_array_equal(np.from_dlpack(result), conv(arrays))


# torch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def tensors(torch, dtype):
    return {
        name: torch.from_numpy(array).to(getattr(torch, dtype))
        for name, array in arguments().items()
    }


def numpy_of(torch, tensor):
    """The same bits, as NumPy names them."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_in_torch_out(torch, dtype):
    values = tensors(torch, dtype)
    arrays = {name: numpy_of(torch, value) for name, value in values.items()}
    result, expected = conv(values), conv(arrays)
    assert isinstance(result, torch.Tensor)
    assert str(result.dtype) == f"torch.{dtype}"
    np.testing.assert_array_equal(numpy_of(torch, result), expected)

    grads = pydeform.deform_conv2d_backward(result, **values, padding=1)
    others = pydeform.deform_conv2d_backward(expected, **arrays, padding=1)
    for grad, other in zip(grads, others, strict=True):
        np.testing.assert_array_equal(numpy_of(torch, grad), other)

    output, tangent = pydeform.deform_conv2d_jvp(
        **values, padding=1, tangents={"input": values["input"]}
    )
    assert isinstance(tangent, torch.Tensor)
    assert torch.equal(output, result)
    double = pydeform.deform_conv2d_double_backward(
        {"input": values["input"]}, result, **values, padding=1
    )
    assert all(isinstance(grad, torch.Tensor) for grad in double)


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_memory_is_written_in_place(torch, dtype):
    values = tensors(torch, dtype)
    out = torch.full((2, 2, 5, 6), torch.nan, dtype=getattr(torch, dtype))
    where = out.data_ptr()
    assert conv(values, out=out) is out
    assert out.data_ptr() == where
    assert torch.equal(out, conv(values))
    with pytest.raises(ValueError, match=r"out: expected memory of its own.*overlaps input"):
        conv(values, out=values["input"].view(-1)[:120].view(2, 2, 5, 6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_memory_is_taken_without_a_copy(torch, dtype):
    from pydeform import _arrays

    tensor = torch.zeros(3, dtype=getattr(torch, dtype))
    taken = _arrays.take({"input": tensor}, like="input")
    taken.arrays["input"][1] = 5
    assert tensor.tolist() == [0, 5, 0]
    given = taken.give(taken.arrays["input"])
    assert given.data_ptr() == tensor.data_ptr()


def test_torch_channels_last_memory_format(torch):
    values = tensors(torch, "float32")
    expected = conv(values)
    for name in ("input", "offset", "weight", "mask"):
        values[name] = values[name].to(memory_format=torch.channels_last)
        assert not values[name].is_contiguous()
    assert torch.equal(conv(values), expected)


def test_torch_and_numpy_may_mix(torch):
    arrays = arguments()
    expected = conv(arrays)
    tensor = torch.from_numpy(arrays["input"])
    assert isinstance(conv({**arrays, "input": tensor}), torch.Tensor)
    other = conv({**arrays, "weight": torch.from_numpy(arrays["weight"])})
    np.testing.assert_array_equal(other, expected)
    assert type(other) is np.ndarray


def test_torch_tensors_that_require_grad_are_refused(torch):
    values = tensors(torch, "float32")
    values["weight"].requires_grad_()
    with pytest.raises(TypeError, match=r"weight: .*requires_grad=True; pass weight.detach\(\)"):
        conv(values)
    values["weight"] = torch.nn.Parameter(values["weight"].detach())
    with pytest.raises(TypeError, match=r"weight: .*requires_grad=True"):
        conv(values)
    values["weight"] = values["weight"].detach()
    out = torch.zeros((2, 2, 5, 6), requires_grad=True)
    with pytest.raises(TypeError, match=r"out: .*requires_grad=True"):
        conv(values, out=out)


def test_torch_tensors_without_numbers_are_refused(torch):
    values = tensors(torch, "float32")
    with pytest.raises(TypeError, match="one device, got input on meta, offset on cpu"):
        conv({**values, "input": values["input"].to("meta")})
    with pytest.raises(TypeError, match=r"weight: cannot take torch\.Tensor in without a copy"):
        conv({**values, "weight": values["weight"].to_sparse()})
    with pytest.raises(TypeError, match=r"input: expected one of .*float32.*, got int32"):
        conv({name: value.to(torch.int32) for name, value in values.items()})


def test_bfloat16_of_torch_without_ml_dtypes_says_what_to_install(torch):
    code = """
import sys, torch, pydeform
sys.modules["ml_dtypes"] = None
x = torch.zeros((1, 1, 3), dtype=torch.bfloat16)
try:
    pydeform.deform_conv1d(x, None, x)
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "pip install ml_dtypes" in done.stdout
