"""CUDA arrays of any library as CuPy's and back, without a copy; where and on which stream to run.

CuPy is imported when the first CUDA array comes. It is what allocates, launches and names errors:
above the backends nothing else knows that there is a device. A CuPy built for ROCm calls AMD's
devices CUDA devices, as torch does, and so do we.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from threading import Lock
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

_OLDEST = 14  # the first CuPy with bfloat16, and with streams of other libraries
_INSTALL = "pip install cupy-cuda13x (or cupy-cuda12x, by the version of the driver)"
_DEVICES = (2, 13, 10)  # DLPack's numbers: CUDA, managed by it, ROCm

_checked: list[Any] = []  # the module that was found to work
_constants: dict[Any, Any] = {}
_MOST_CONSTANTS = 1024
_lock = Lock()


def cupy() -> Any:
    """Import CuPy; ImportError where it is missing or too old, RuntimeError without a device."""
    found: Any = sys.modules.get("cupy")
    if found is not None and _checked == [found]:
        return found
    try:
        found = import_module("cupy")
    except ImportError as error:
        raise ImportError(f"CUDA arrays need the package CuPy: {_INSTALL}") from error
    if int(found.__version__.partition(".")[0]) < _OLDEST:
        raise ImportError(
            f"CUDA arrays need CuPy {_OLDEST} or later, got {found.__version__}: {_INSTALL}"
        )
    try:
        count = found.cuda.runtime.getDeviceCount()
    except RuntimeError as error:  # no driver, or one too old
        raise RuntimeError(f"CuPy finds no CUDA device: {error}") from error
    if count == 0:
        raise RuntimeError("CuPy finds no CUDA device")
    _checked[:] = [found]
    return found


def is_cupy(value: object) -> bool:
    """Tell whether `value` is an array of CuPy, without importing CuPy."""
    array = getattr(sys.modules.get("cupy"), "ndarray", None)
    return array is not None and isinstance(value, array)


def is_torch(value: object) -> bool:
    """Tell whether `value` is a torch tensor, without importing torch."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def number_of(value: Any) -> str:
    """Return the device of an array with `__cuda_array_interface__` alone; "cuda" if unknown."""
    pointer = dict(value.__cuda_array_interface__).get("data", (0, False))[0]
    if not pointer:
        return "cuda"
    try:
        return f"cuda:{cupy().cuda.runtime.pointerGetAttributes(pointer).device}"
    except (ImportError, RuntimeError):
        return "cuda"


class _TorchStream:
    """A stream as the protocol `__cuda_stream__` has it; keeps torch's stream alive."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, int(self.stream.cuda_stream)


@contextmanager
def _on_torch_stream(device: Any) -> Iterator[None]:
    xp, torch = cupy(), sys.modules["torch"]
    stream = _TorchStream(torch.cuda.current_stream(device))
    with xp.cuda.Device(device.index), xp.cuda.Stream.from_external(stream):
        yield


def place(value: Any) -> AbstractContextManager[Any] | None:
    """Return what makes the device of a CUDA array current, and torch's stream for a tensor.

    None for everything that is no CUDA array, and where CuPy does not work: taking the array in
    says why.
    """
    number = _number(value)
    if number is None:
        return None
    try:
        xp = cupy()
    except (ImportError, RuntimeError):
        return None
    if is_torch(value):
        return _on_torch_stream(value.device)
    device: AbstractContextManager[Any] = xp.cuda.Device(number)
    return device


def _number(value: Any) -> int | None:
    """Return the number of the CUDA device that an array lies on."""
    if is_torch(value):
        return value.device.index if value.is_cuda else None
    if is_cupy(value):
        return int(value.device.id)
    if hasattr(value, "__dlpack_device__"):
        kind, number = value.__dlpack_device__()
        return int(number) if int(kind) in _DEVICES else None
    if hasattr(value, "__cuda_array_interface__"):
        number = number_of(value).partition(":")[2]
        return int(number) if number else None
    return None


def as_cupy(value: Any, bfloat16: Callable[[], np.dtype[Any]]) -> Any:
    """Return a CuPy array on the memory of a CUDA array; `bfloat16` makes NumPy's dtype of it."""
    if is_cupy(value):
        return value
    xp = cupy()
    if str(getattr(value, "dtype", "")).rpartition(".")[2] == "bfloat16":
        # CuPy computes with bfloat16, but its DLPack does not know it: pass the bits.
        bits = sys.modules["torch"].int16 if is_torch(value) else np.int16
        return xp.from_dlpack(value.view(bits)).view(bfloat16())
    if hasattr(value, "__dlpack__"):
        return xp.from_dlpack(value)
    return xp.asarray(value)


def giver(value: Any) -> Callable[[Any], Any]:
    """Return the function that makes a fresh CuPy array one of the kind of `value`."""
    if is_torch(value):
        torch = sys.modules["torch"]
        return _through(torch.from_dlpack, torch.bfloat16)
    if not is_cupy(value) and hasattr(value, "__array_namespace__"):
        namespace = value.__array_namespace__()
        return _through(namespace.from_dlpack, getattr(namespace, "bfloat16", "bfloat16"))
    return lambda array: array


def _through(from_dlpack: Callable[[Any], Any], bfloat16: Any) -> Callable[[Any], Any]:
    def give(array: Any) -> Any:
        if array.dtype.name == "bfloat16":
            return from_dlpack(array.view(np.int16)).view(bfloat16)
        return from_dlpack(array)

    return give


def is_writable(value: Any) -> bool:
    """Tell whether a CUDA array may be written; what cannot say so may not."""
    if is_cupy(value) or is_torch(value):
        return True
    interface = getattr(value, "__cuda_array_interface__", None)
    return interface is not None and not interface["data"][1]


def addresses(array: Any) -> NDArray[Any]:
    """Return a NumPy array with the addresses of a CuPy array: to be compared, never read."""
    interface = {
        "data": (array.data.ptr, True),
        "shape": array.shape,
        "strides": array.strides,
        "typestr": f"|V{array.itemsize}",
        "version": 3,
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def constant(host: NDArray[Any], device: int) -> NDArray[Any]:
    """Return a few numbers on the current device; uploaded once, and kept for later calls.

    The first upload waits until it is done, so that later calls may read it on any stream, and in a
    graph that is captured. Nothing is ever dropped, since a stream may still read it.
    """
    key = (device, host.dtype, host.shape, host.tobytes())
    with _lock:
        found = _constants.get(key)
        if found is None:
            xp = cupy()
            found = xp.asarray(host)
            if len(_constants) < _MOST_CONSTANTS:
                xp.cuda.get_current_stream().synchronize()
                _constants[key] = found
    return cast("NDArray[Any]", found)


def found() -> dict[str, object]:
    """Return what CuPy says about itself, the driver and the devices."""
    xp = cupy()
    runtime = xp.cuda.runtime
    devices = []
    for number in range(runtime.getDeviceCount()):
        facts = runtime.getDeviceProperties(number)
        name = facts["name"].decode() if isinstance(facts["name"], bytes) else facts["name"]
        memory = f"{facts['totalGlobalMem'] / 2**30:.0f} GiB"
        devices.append(f"{number}: {name} (sm_{facts['major']}{facts['minor']}, {memory})")
    return {
        "cupy": xp.__version__,
        "cuda_runtime": _dotted(runtime.runtimeGetVersion()),
        "cuda_driver": _dotted(runtime.driverGetVersion()),
        "cuda_devices": devices,
    }


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
