"""Taking arrays in and giving results back as the caller's own kind; no data moves between devices.

NumPy arrays pass as they are. A torch tensor and any other object with `__dlpack__` become NumPy
arrays that look at the same memory, or CuPy arrays where it is on a CUDA device (`_cuda`). Nothing
optional is imported here: who passes a torch tensor has imported torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from pydeform import _cuda

NumpyArray: TypeAlias = NDArray[Any]  # or CuPy's array, which does the same: see `namespace`
is_torch = _cuda.is_torch


class Array(Protocol):
    """Any array that speaks DLPack: numpy.ndarray, torch.Tensor, jax.Array, ..."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        """Return a capsule that describes the memory."""

    def __dlpack_device__(self) -> tuple[Any, Any]:
        """Return the device as (type, number)."""


class Taken(NamedTuple):
    """The arrays of one call, where they lie, and how results are given back."""

    arrays: dict[str, NumpyArray]
    device: str
    give: Callable[[NumpyArray], Any]


# Devices by their DLPack numbers; memory of the first three is the CPU's to read and write.
_DEVICES = {
    1: "cpu",
    3: "cpu",  # pinned for CUDA
    11: "cpu",  # pinned for ROCm
    2: "cuda",
    4: "opencl",
    7: "vulkan",
    8: "metal",
    9: "vpi",
    10: "cuda",  # ROCm, which CuPy and torch call so
    13: "cuda",  # managed: the devices share it, one is its own
    14: "oneapi",
    15: "webgpu",
    16: "hexagon",
    17: "maia",
}


def describe(value: object) -> str:
    """Return the name of the type of `value`, with its module unless that is builtins."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def device_of(name: str, value: Any) -> str:
    """Return the device `value` lies on, or raise TypeError where it is not an array."""
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(
                f"{name}: expected an array without a mask of its own, got numpy.ma.MaskedArray; "
                f"fill it first, as in {name}.filled(0)"
            )
        return "cpu"
    if is_torch(value):
        if value.requires_grad:
            raise TypeError(
                f"{name}: expected an array outside automatic differentiation, got a torch.Tensor "
                f"with requires_grad=True; pass {name}.detach() and take gradients from the "
                "_backward function"
            )
        return str(value.device)
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        kind, number = value.__dlpack_device__()
        device = _DEVICES.get(int(kind), f"device type {int(kind)}")
        return device if device == "cpu" else f"{device}:{int(number)}"
    if hasattr(value, "__cuda_array_interface__"):
        return _cuda.number_of(value)
    got = "None" if value is None else describe(value)
    raise TypeError(
        f"{name}: expected an array (numpy.ndarray, torch.Tensor or any object with __dlpack__), "
        f"got {got}"
    )


def namespace(array: Any) -> Any:
    """Return the module whose functions take an array that was taken in: NumPy, or CuPy."""
    return np if isinstance(array, np.ndarray) else sys.modules["cupy"]


def place(value: Any) -> AbstractContextManager[Any] | None:
    """Return what has to be entered around a call on an array like this; None for nothing."""
    return None if isinstance(value, np.ndarray) else _cuda.place(value)


def on_host(array: Any) -> NumpyArray:
    """Return the numbers of an array in NumPy; of one on a device a copy, which waits for it."""
    return cast("NumpyArray", array if isinstance(array, np.ndarray) else array.get())


def constant(host: NumpyArray, like: Any) -> NumpyArray:
    """Return a few numbers from the host where `like` lies."""
    return host if isinstance(like, np.ndarray) else _cuda.constant(host, like.device.id)


def as_array(name: str, value: Any, device: str = "cpu") -> NumpyArray:
    """Return a NumPy or CuPy array on the memory of `value`, which lies on that device."""
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray) if type(value) is not np.ndarray else value
    try:
        if device.startswith("cuda"):
            return cast("NumpyArray", _cuda.as_cupy(value, _bfloat16))
        if is_torch(value):
            return _from_torch(value)
        return _from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: cannot take {describe(value)} in without a copy: {error}"
        ) from error


def _bfloat16() -> np.dtype[Any]:
    """Return NumPy's dtype for bfloat16, which the package ml_dtypes defines."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("bfloat16 needs the package ml_dtypes: pip install ml_dtypes") from error
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _from_torch(value: Any) -> NumpyArray:
    torch = sys.modules["torch"]
    if value.dtype == torch.bfloat16:  # NumPy has no name for it: pass the bits, then name them
        bits: NumpyArray = value.view(torch.int16).numpy()
        return bits.view(_bfloat16())
    array: NumpyArray = value.numpy()
    return array


def _from_dlpack(value: Any) -> NumpyArray:
    try:
        array: NumpyArray = np.from_dlpack(value)
    except (BufferError, RuntimeError):
        # NumPy does not import bfloat16; producers of it (jax) offer the array protocol, too.
        array = np.asarray(value)
        if array.dtype.name != "bfloat16":
            raise
    return array


def _to_torch(array: NumpyArray) -> Any:
    torch = sys.modules["torch"]
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _itself(array: NumpyArray) -> NumpyArray:
    return array


def giver(value: Any) -> Callable[[NumpyArray], Any]:
    """Return the function that makes a fresh NumPy array one of the kind of `value`."""
    if isinstance(value, np.ndarray):
        return _itself
    if is_torch(value):
        return _to_torch
    if hasattr(value, "__array_namespace__"):
        namespace = value.__array_namespace__()

        def give(array: NumpyArray) -> Any:
            # DLPack leaves NumPy without bfloat16; asarray may copy, which is all that is left.
            return (namespace.asarray if array.dtype.name == "bfloat16" else namespace.from_dlpack)(
                array
            )

        return give
    return _itself  # DLPack alone says how to read an array, not how to make one


def take(values: Mapping[str, Any], like: str, host: Sequence[str] = ()) -> Taken:
    """Return NumPy or CuPy arrays on the memory of `values`; results will be of the kind of `like`.

    Those named in `host` may lie on the CPU beside others on a device.
    """
    if all(type(value) is np.ndarray for value in values.values()):
        return Taken(dict(values), "cpu", _itself)
    devices = {name: device_of(name, value) for name, value in values.items()}
    if len(set(devices.values())) > 1:
        free = {name for name in host if devices.get(name) == "cpu"}
        if len({device for name, device in devices.items() if name not in free}) > 1:
            got = ", ".join(f"{name} on {device}" for name, device in devices.items())
            raise TypeError(f"devices: expected all arrays on one device, got {got}")
    device = devices[like]
    if device == "cpu":
        give = giver(values[like])
    elif device.startswith("cuda"):
        _cuda.cupy()  # what is missing is said before any memory is asked for
        give = _cuda.giver(values[like])
    else:
        return Taken({}, device, _itself)
    arrays = {name: as_array(name, value, devices[name]) for name, value in values.items()}
    return Taken(arrays, device, give)


def is_ready(array: Any) -> bool:
    """Tell whether a backend can take the array as it lies: C-contiguous and aligned."""
    flags = array.flags
    if isinstance(array, np.ndarray):
        return bool(flags.c_contiguous and flags.aligned)
    return bool(flags.c_contiguous and array.data.ptr % array.itemsize == 0)


def ready(array: NumpyArray) -> NumpyArray:
    """Return the array itself where a backend can take it as it lies, else a C-contiguous copy."""
    if is_ready(array):
        return array
    return cast("NumpyArray", namespace(array).array(array, order="C", copy=True))
