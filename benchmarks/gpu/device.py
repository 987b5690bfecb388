"""Where a run takes place: on a GPU through CuPy, or in the host execution of the same kernels."""

from __future__ import annotations

import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import pydeform

Call = Callable[[], Any]
#: What is written between calls, so that none finds its arguments in a cache.
FLUSH_TIMES_L2 = 3


class Device(ABC):
    """Arrays, clocks and facts of one place.

    Attributes
    ----------
    name
        "cuda" or "emulated".
    torch_device
        What torch calls it.
    """

    name: ClassVar[str]
    torch_device: ClassVar[str]

    @abstractmethod
    def array(self, values: NDArray[Any]) -> Any:
        """Return a copy of an array that the backend takes."""

    @abstractmethod
    def numpy(self, array: Any) -> NDArray[Any]:
        """Return an array as NumPy's."""

    @abstractmethod
    def backend(self) -> Any:
        """Return a context in which the public functions run the CUDA kernels."""

    @abstractmethod
    def torch(self, creating: bool = False) -> Any:
        """Return a context in which torch computes here, in the order of our own kernels.

        With `creating` also new tensors lie here; this costs time in every call of torch.
        """

    @abstractmethod
    def seconds(self, call: Call) -> float:
        """Return how long one call takes, with cold caches."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything that was started."""

    @abstractmethod
    def capture(self, call: Call) -> Call:
        """Return a function that replays the kernels of a call, or raise RuntimeError.

        What the call refers to lives as long as that function.
        """

    @abstractmethod
    def free_bytes(self) -> int:
        """Return how much memory can be taken."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Return what a report says about it."""


class Emulated(Device):
    """The host execution: for tests of this script; its times say nothing about a GPU."""

    name: ClassVar[str] = "emulated"
    torch_device: ClassVar[str] = "cpu"
    xp: Any = np

    def array(self, values: NDArray[Any]) -> Any:
        """Copy."""
        return values.copy()

    def numpy(self, array: Any) -> NDArray[Any]:
        """Return it as it is."""
        return np.asarray(array)

    def backend(self) -> Any:
        """Use the kernels on the CPU."""
        return pydeform.use_backend("emulated")

    @contextmanager
    def torch(self, creating: bool = False) -> Iterator[None]:  # noqa: ARG002
        """Nothing to do."""
        yield

    def seconds(self, call: Call) -> float:
        """Take the wall clock."""
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def capture(self, call: Call) -> Call:  # noqa: ARG002
        """Refuse: there are no graphs here."""
        raise RuntimeError("the host execution has no graphs")

    def free_bytes(self) -> int:
        """Enough for a test."""
        return 1 << 26

    def facts(self) -> dict[str, str]:
        """Say that this is no GPU."""
        return {"device": f"none: kernels emulated on {platform.machine()}"}


class Cuda(Device):
    """The current CUDA device, through CuPy, on a stream of its own."""

    name: ClassVar[str] = "cuda"
    torch_device: ClassVar[str] = "cuda"

    def __init__(self) -> None:
        import cupy

        self.xp = self.cupy = cupy
        self.properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
        # Capturing wants a stream that is not the default one; made the current one for good.
        self.stream = cupy.cuda.Stream(non_blocking=False)
        self.stream.use()
        self.start, self.stop = cupy.cuda.Event(), cupy.cuda.Event()
        self.lines = cupy.empty(FLUSH_TIMES_L2 * int(self.properties["l2CacheSize"]), np.uint8)
        self.pools: list[Any] = []

    def array(self, values: NDArray[Any]) -> Any:
        """Copy to the device."""
        return self.cupy.asarray(values)

    def numpy(self, array: Any) -> NDArray[Any]:
        """Copy from the device."""
        return self.cupy.asnumpy(array)  # type: ignore[no-any-return]

    @contextmanager
    def backend(self) -> Iterator[None]:
        """CuPy arrays choose it by themselves."""
        yield

    @contextmanager
    def torch(self, creating: bool = False) -> Iterator[None]:
        """Put torch on our stream, so that events of one order measure both."""
        import torch

        stream = torch.cuda.ExternalStream(self.stream.ptr)
        place = torch.device("cuda") if creating else nullcontext()
        with place, torch.cuda.stream(stream):
            yield

    def seconds(self, call: Call) -> float:
        """Take events around a call; the flush keeps the device busy while the call is started."""
        self.lines.fill(1)
        self.start.record(self.stream)
        call()
        self.stop.record(self.stream)
        self.stop.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(self.start, self.stop)) / 1e3

    def synchronize(self) -> None:
        """Wait for the stream."""
        self.stream.synchronize()

    def capture(self, call: Call) -> Call:
        """Capture the call into a graph; its memory stays taken as long as this object lives."""
        pool = self.cupy.cuda.MemoryPool()
        self.pools.append(pool)
        with self.cupy.cuda.using_allocator(pool.malloc):
            call()  # compiles, and fills the pool
            call()
            self.stream.synchronize()
            self.stream.begin_capture()
            try:
                call()
                graph = self.stream.end_capture()
            except Exception as error:
                self._leave_capture()
                raise RuntimeError(f"not captured: {error}") from error
        return partial(_launch, graph, self.stream, call)

    def _leave_capture(self) -> None:
        """End a capture that failed, so that the stream can be used again."""
        errors = (RuntimeError, self.cupy.cuda.runtime.CUDARuntimeError)
        if self.stream.is_capturing():
            try:
                self.stream.end_capture()
            except errors:
                return  # an invalid capture ends with an error, and has ended

    def free_bytes(self) -> int:
        """Give what is kept for later back, and ask the device."""
        self.cupy.get_default_memory_pool().free_all_blocks()
        return int(self.cupy.cuda.runtime.memGetInfo()[0])

    def facts(self) -> dict[str, str]:
        """Device, driver and versions; no host or user."""
        runtime = self.cupy.cuda.runtime
        properties = self.properties
        name = properties["name"]
        return {
            "device": name.decode() if isinstance(name, bytes) else str(name),
            "memory": f"{int(properties['totalGlobalMem']) / 2**30:.0f} GiB",
            "multiprocessors": str(properties["multiProcessorCount"]),
            "second-level cache": f"{int(properties['l2CacheSize']) / 2**20:.0f} MiB",
            "compute capability": f"{properties['major']}.{properties['minor']}",
            "driver (CUDA)": str(runtime.driverGetVersion()),
            "runtime (CUDA)": str(runtime.runtimeGetVersion()),
        }


def _launch(graph: Any, stream: Any, _call: Call) -> Any:
    """Replay; the call is here so that its arrays are not freed, since the graph has addresses."""
    return graph.launch(stream)


def versions() -> dict[str, str]:
    """Return the versions of what takes part; nothing is imported."""
    found = {}
    for module, packages in {
        "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
        "torch": ("torch",),
        "torchvision": ("torchvision",),
        "DCNv4": ("DCNv4",),
        "torch_ms_deform_attn": ("torch-ms-deform-attn",),
    }.items():
        if find_spec(module) is None:
            continue
        found[module] = "unknown"
        for package in packages:
            try:
                found[module] = version(package)
                break
            except PackageNotFoundError:
                continue
    return found


def absent() -> str:
    """Say why there is no GPU to run on; empty where there is one."""
    if find_spec("cupy") is None:
        return "CuPy is not installed"
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # noqa: BLE001  (a driver may be missing in many ways)
        return f"no CUDA device: {error}"
    return "" if count else "no CUDA device"
