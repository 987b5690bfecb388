"""A stand-in for CuPy on the host, for the layers above the CUDA kernels on machines without a GPU.

Its arrays do what `cupy.ndarray` does and refuse what that refuses: they never turn into NumPy
arrays by themselves, never mix with them, and are used on their own device only. What makes the
host wait for a device is counted. `installed()` puts it in place of CuPy, and under it a backend
that computes by the executable specification.
"""

import contextlib
import importlib
import inspect
import sys
import types
from unittest import mock

import fake_memory
import numpy as np

from pydeform import _cuda, _ref

# What waited for the device, and what was moved to it, since `installed()`.
waits, uploads = [], []
_devices = [0]  # the last one is current
_streams = fake_memory.streams
NULL = object()


class Device:
    def __init__(self, device=None):
        self.id = _devices[-1] if device is None else device
        self.compute_capability, self.attributes = "90", {"MultiProcessorCount": 2}

    def __enter__(self):
        _devices.append(self.id)
        return self

    def __exit__(self, *args):
        _devices.pop()


class Stream:
    ptr = 0
    capturing = False

    def is_capturing(self):
        return self.capturing

    @classmethod
    def from_external(cls, obj):
        stream = cls()
        stream.version, stream.ptr = obj.__cuda_stream__()
        return stream

    def __enter__(self):
        _streams.append(self)
        return self

    def __exit__(self, *args):
        _streams.pop()

    def synchronize(self):
        waits.append("synchronize")


def _refuse(value):
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a NumPy array among CuPy's")
    return value


def _inner(value):
    """What NumPy computes with, for an argument of a function of CuPy."""
    if isinstance(value, ndarray):
        if value.device.id != _devices[-1]:
            raise RuntimeError(f"array on device {value.device.id}, current is {_devices[-1]}")
        return value._array
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(_inner(item) for item in value)
    if isinstance(value, dict):
        return {key: _inner(item) for key, item in value.items()}
    return _refuse(value)


def _outer(value):
    if isinstance(value, tuple | list):
        return type(value)(_outer(item) for item in value)
    return ndarray(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


class _Flags:
    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous = flags.c_contiguous, flags.f_contiguous
        self.owndata = flags.owndata


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):  # noqa: N801 - CuPy's name
    """As of CuPy 14.2; there is no `__array_namespace__`, and no writeable flag."""

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, array, device=None):
        self._array = array
        self.device = Device(device)

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    itemsize = property(lambda self: self._array.itemsize)
    nbytes = property(lambda self: self._array.nbytes)
    strides = property(lambda self: self._array.strides)
    flags = property(lambda self: _Flags(self._array.flags))
    T = property(lambda self: self._view(self._array.T))

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self._array.ctypes.data, device_id=self.device.id)

    @property
    def __cuda_array_interface__(self):
        return {**self._array.__array_interface__, "version": 3}

    def __dlpack_device__(self):
        return (2, self.device.id)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        raise BufferError("memory of a CUDA device")

    def __array__(self, dtype=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to "
            "construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return _outer(getattr(ufunc, method)(*map(_inner, inputs), **_inner(kwargs)))

    def __array_function__(self, function, kinds, args, kwargs):
        if not hasattr(sys.modules["cupy"], function.__name__):
            return NotImplemented
        return getattr(sys.modules["cupy"], function.__name__)(*args, **kwargs)

    def _view(self, array):
        return ndarray(array, self.device.id)

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        return _outer(self._array[_inner(key)]) if self._fancy(key) else self._basic(key)

    def _basic(self, key):
        return self._view(np.asarray(self._array[key]))

    def _fancy(self, key):
        keys = key if isinstance(key, tuple) else (key,)
        return any(isinstance(_refuse(k), ndarray | list) for k in keys)

    def __setitem__(self, key, value):
        self._array[_inner(key)] = _inner(value)

    def view(self, dtype=None, type=None):
        return self._view(self._array.view() if dtype is None else self._array.view(dtype))

    def get(self, stream=None, order="C", out=None, blocking=True):
        waits.append("get")
        return self._array.copy()

    def _scalar(name):  # noqa: N805 - makes methods, is none
        def method(self, *args):
            waits.append(name)
            return getattr(self._array, name)(*args)

        return method

    __bool__, __int__, __float__ = map(_scalar, ("__bool__", "__int__", "__float__"))
    __index__, item, tolist = map(_scalar, ("__index__", "item", "tolist"))

    def _method(name):  # noqa: N805 - makes methods, is none
        def method(self, *args, **kwargs):
            return _outer(getattr(_inner(self), name)(*_inner(args), **_inner(kwargs)))

        return method

    astype, reshape, transpose, swapaxes = map(
        _method, ("astype", "reshape", "transpose", "swapaxes")
    )
    copy, ravel, repeat, squeeze = map(_method, ("copy", "ravel", "repeat", "squeeze"))
    sum, max, min, mean = map(_method, ("sum", "max", "min", "mean"))
    all, any, fill = map(_method, ("all", "any", "fill"))


def _new(array):
    return ndarray(array, _devices[-1])


def empty(shape, dtype=float, order="C"):
    found = fake_memory.allocated(shape, dtype, order)
    found.reshape(-1).view(np.uint8)[...] = 0xFF  # NaN, until it is written
    return _new(found)


def zeros(shape, dtype=float, order="C"):
    found = fake_memory.allocated(shape, dtype, order)
    found[...] = 0
    return _new(found)


def ones(shape, dtype=float, order="C"):
    return _new(np.ones(shape, dtype, order))


def full(shape, fill_value, dtype=None, order="C"):
    return _new(np.full(shape, _inner(fill_value), dtype, order))


def eye(N, M=None, k=0, dtype=float, order="C"):
    return _new(np.eye(N, M, k, dtype, order))


def arange(start, stop=None, step=1, dtype=None):
    start, stop = (0, start) if stop is None else (start, stop)
    return _new(np.arange(start, stop, step, dtype))


def linspace(start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0):
    return _new(np.linspace(start, stop, num, endpoint, retstep, dtype, axis))


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if isinstance(obj, ndarray):
        return _new(np.array(_inner(obj), dtype, copy=copy, order=order, ndmin=ndmin))
    uploads.append(obj)
    return _new(np.array(obj, dtype, order=order, ndmin=ndmin))


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, copy, "K" if order is None else order)


def from_dlpack(array, *, device=None, copy=None):
    """Take arrays of this module, and whatever has `memory`: a NumPy array that plays a device."""
    if array.memory.dtype.name == "bfloat16":
        raise TypeError("CuPy's DLPack knows no bfloat16")
    return ndarray(array.memory, array.__dlpack_device__()[1])


# Functions of both libraries with the same arguments.
SAME = (
    "abs", "all", "any", "argsort", "ascontiguousarray", "astype", "broadcast_to", "concat",
    "concatenate", "copyto", "cos", "cumsum", "exp", "expand_dims", "flip", "floor", "isnan", "log",
    "matmul", "max", "maximum", "mean", "min", "minimum", "moveaxis", "ones_like", "permute_dims",
    "repeat", "reshape", "searchsorted", "sin", "sqrt", "squeeze", "stack", "sum", "tanh", "where",
    "zeros_like",
)  # fmt: skip
CREATION = (empty, zeros, ones, full, eye, arange, linspace, array, asarray)
PLAIN = ("finfo", "float16", "float32", "float64", "int16", "int64", "pi", "result_type")


class PointerError(RuntimeError):
    """As CUDARuntimeError."""


def module():
    """Return a fresh module that passes for CuPy."""
    made = types.ModuleType("cupy")

    def lifted(name):
        function = getattr(np, name)

        def call(*args, **kwargs):
            if not any(isinstance(a, ndarray) for a in _flat((args, tuple(kwargs.values())))):
                raise TypeError(f"{name}: expected an array of CuPy")
            return _outer(function(*_inner(args), **_inner(kwargs)))

        return call

    for name in SAME:
        setattr(made, name, lifted(name))
    for function in (*CREATION, from_dlpack):
        setattr(made, function.__name__, function)
    for name in PLAIN:
        setattr(made, name, getattr(np, name))
    made.__version__, made.ndarray = "14.2.0", ndarray
    made.runtime = types.SimpleNamespace(
        is_hip=False,
        getDevice=lambda: _devices[-1],
        getDeviceCount=lambda: 2,
        pointerGetAttributes=lambda pointer: types.SimpleNamespace(device=1),
        getDeviceProperties=lambda number: {
            "name": b"Stand-in", "major": 9, "minor": 0, "totalGlobalMem": 80 << 30,
        },
        runtimeGetVersion=lambda: 13000,
        driverGetVersion=lambda: 13010,
    )  # fmt: skip
    made.cuda = types.SimpleNamespace(
        runtime=made.runtime,
        Device=Device,
        Stream=Stream,
        get_current_stream=lambda: _streams[-1] if _streams else Stream(),
        MemoryPool=fake_memory.MemoryPool,
        MemoryPointer=fake_memory.MemoryPointer,
        UnownedMemory=fake_memory.UnownedMemory,
        using_allocator=fake_memory.using_allocator,
    )
    return made


def _flat(values):
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value


# What a local convolution reads and writes where it lies, of any strides.
SAMPLES = ("offset", "kernel", "tangents", "grads", "grad_grads")


def backend(check=lambda arrays: None):
    """Return a module that passes for `pydeform._gpu`; `check` sees the arrays of every call."""
    made = types.ModuleType("pydeform._gpu")

    def lifted(name):
        function = getattr(_ref, name)
        parameters = list(inspect.signature(function).parameters)

        def call(*args):
            assert len(args) == len(parameters)
            arrays = {}
            for key, value in zip(parameters, args, strict=True):
                for found in _flat([value]):
                    assert not isinstance(found, np.ndarray), f"{name}: {key} is on the host"
                    if isinstance(found, ndarray):
                        arrays.setdefault(key, found)
                        assert found.data.ptr % found.itemsize == 0
                        views = name.startswith("local_conv") and key in SAMPLES
                        assert views or found.flags.c_contiguous, f"{name}: {key}"
            check(arrays)
            function(*map(_inner, args))

        return call

    for name in _ref.__all__:
        setattr(made, name, lifted(name))
    return made


@contextlib.contextmanager
def installed(gpu=None):
    """Put the stand-ins in place of CuPy and of the CUDA backend."""
    package = importlib.import_module("pydeform")
    gpu = backend() if gpu is None else gpu
    waits.clear()
    uploads.clear()
    with (
        mock.patch.dict(sys.modules, {"cupy": module(), "pydeform._gpu": gpu}),
        mock.patch.object(_cuda, "_constants", {}),
        mock.patch.object(_cuda, "_checked", []),
        mock.patch.object(package, "_gpu", gpu, create=True),
    ):
        yield sys.modules["cupy"]


def to_device(value, device=0):
    """Return a copy of a NumPy array on a device; other things as they are."""
    return ndarray(value.copy(), device) if isinstance(value, np.ndarray) else value


def conv(device=0, dtype=np.float32):
    """Arguments of `deform_conv2d`, here and on a device."""
    rng = np.random.default_rng(0)
    shapes = {"input": (2, 4, 5, 6), "offset": (2, 18, 5, 6), "weight": (3, 4, 3, 3)}
    host = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    return host, {name: to_device(array, device) for name, array in host.items()}


class Exporter:
    """An array of a library that nobody has heard of, on a device: DLPack and nothing else."""

    def __init__(self, memory, device=0, kind=2):
        self.memory, self._where = memory, (kind, device)

    def __dlpack_device__(self):
        return self._where

    def __dlpack__(self, **kwargs):
        return None  # `from_dlpack` above reads `memory`
