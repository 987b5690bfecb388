"""Who is timed: pydeform, compositions of grid_sample, torchvision, published operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pydeform
from benchmarks import sampling
from benchmarks.cases import Case
from benchmarks.gpu.cases import Timed
from benchmarks.gpu.device import Call, Device
from benchmarks.problems import Problem

Arrays = Mapping[str, NDArray[Any]]


@dataclass
class Entry:
    """One contestant with all its arguments.

    Attributes
    ----------
    name
        What the tables call it.
    call
        What is timed.
    results
        From what `call` returns to NumPy arrays by name: "output", or the gradients.
    context
        Of the device, in which it has to be called.
    """

    name: str
    call: Call
    results: Callable[[Any], dict[str, NDArray[Any]]]
    context: Callable[[], Any]


def function(timed: Timed) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Return the public function's name, and its options by position and by name."""
    shape = timed.shape
    if isinstance(shape, Problem):
        return shape.operation, (), {}
    return f"deform_conv{shape.rank}d", (shape.stride, shape.padding, shape.dilation), {}


def arguments(timed: Timed, arrays: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the arguments of the public function in its order."""
    shape = timed.shape
    if isinstance(shape, Problem):
        return shape.arguments(arrays)
    options = (shape.stride, shape.padding, shape.dilation)
    given = (arrays[name] for name in ("input", "offset", "weight", "bias"))
    return (*given, *options, arrays.get("mask"))


def ours(device: Device, timed: Timed, arrays: Arrays) -> list[Entry]:
    """Return pydeform's entries: memory for results is allocated in each call, or given."""
    name = function(timed)[0]
    given = {key: device.array(array) for key, array in arrays.items()}
    values = arguments(timed, given)
    backward = getattr(pydeform, name + "_backward")

    def output(found: Any) -> dict[str, NDArray[Any]]:
        return {"output": device.numpy(found)}

    def gradients(found: Any) -> dict[str, NDArray[Any]]:
        named = found._asdict().items()
        return {key: device.numpy(array) for key, array in named if array is not None}

    if timed.direction == "forward":
        operation = getattr(pydeform, name)
        return [Entry("pydeform", lambda: operation(*values), output, device.backend)]
    entries = [
        Entry(
            "pydeform", lambda: backward(given["grad_output"], *values), gradients, device.backend
        )
    ]
    if timed.convolves:
        entries.append(
            Entry(
                "pydeform, atomics",
                lambda: backward(given["grad_output"], *values, deterministic=False),
                gradients,
                device.backend,
            )
        )
    return entries


def replayed(device: Device, timed: Timed, arrays: Arrays) -> Entry:
    """Return pydeform's kernels alone, from a graph: no time of Python or CuPy in it.

    Raises
    ------
    RuntimeError
        If the call cannot be captured.
    """
    name = function(timed)[0]
    given = {key: device.array(array) for key, array in arrays.items()}
    values = arguments(timed, given)
    with device.backend():
        if timed.direction == "forward":
            operation = getattr(pydeform, name)
            out = operation(*values)
            replay = device.capture(lambda: operation(*values, out=out))
            results = {"output": out}
        else:
            backward = getattr(pydeform, name + "_backward")
            found = backward(given["grad_output"], *values)._asdict()
            results = {key: array for key, array in found.items() if array is not None}
            replay = device.capture(lambda: backward(given["grad_output"], *values, out=results))

    def converted(_: Any) -> dict[str, NDArray[Any]]:
        return {key: device.numpy(array) for key, array in results.items()}

    return Entry("pydeform, graph", replay, converted, device.backend)


def on_torch(
    device: Device,
    timed: Timed,
    arrays: Arrays,
    name: str,
    make: Callable[[], Callable[..., Any]],
    tf32: bool = False,
) -> Entry:
    """Return an entry for a function of tensors, in the order of `Timed.names`."""
    import torch

    def moved(array: NDArray[Any]) -> Any:
        return torch.from_numpy(array.copy()).to(device.torch_device)

    with device.torch(creating=True):
        tensors = [moved(arrays[key]) for key in timed.names]
        inner = make()

    def precise(call: Call) -> Call:
        def wrapped() -> Any:
            # Of the whole process, so it is said anew in each call.
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = tf32
            return call()

        return wrapped

    if timed.direction == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return inner(*tensors)

        return Entry(
            name, precise(forward), lambda found: {"output": to_numpy(found)}, device.torch
        )
    leaves = [tensor.requires_grad_() for tensor in tensors]
    with device.torch():
        cotangent = moved(arrays["grad_output"])
        output = precise(lambda: inner(*leaves))()

    def gradients() -> Any:
        return torch.autograd.grad(output, leaves, cotangent, retain_graph=True)

    def results(found: Any) -> dict[str, NDArray[Any]]:
        return {key: to_numpy(t) for key, t in zip(timed.names, found, strict=True)}

    return Entry(name, precise(gradients), results, device.torch)


def to_numpy(tensor: Any) -> NDArray[Any]:
    """Return a tensor of any device as an array."""
    return tensor.detach().cpu().numpy()  # type: ignore[no-any-return]


def torchvision(timed: Timed) -> Callable[..., Any]:
    """Return torchvision's operator."""
    from torchvision.ops import deform_conv2d

    shape = timed.shape
    assert isinstance(shape, Case)
    options = (shape.stride, shape.padding, shape.dilation)
    return lambda x, offset, weight, bias, mask=None: deform_conv2d(
        x, offset, weight, bias, *options, mask
    )


def dense(timed: Timed) -> Callable[..., Any]:
    """Return the plain convolution of this shape; offsets and masks have gradients of 0."""
    from torch.nn import functional

    shape = timed.shape
    assert isinstance(shape, Case)
    options = (shape.stride, shape.padding, shape.dilation, shape.groups)
    return lambda x, _, weight, bias, *__: functional.conv2d(x, weight, bias, *options)


def dcnv4(problem: Problem) -> Callable[..., Any]:
    """Return the published extension's function."""
    from DCNv4.functions.dcnv4_func import DCNv4Function

    side, pad = problem.points, (problem.points - 1) // 2
    options = (side, side, 1, 1, pad, pad, 1, 1, problem.groups, problem.depth, 1.0, 256, False)
    return lambda x, offset_mask: DCNv4Function.apply(x, offset_mask, *options)


def peers(
    timed: Timed, have: Callable[[str], bool] = lambda module: find_spec(module) is not None
) -> dict[str, tuple[Callable[[], Callable[..., Any]], bool]]:
    """Return who else computes this: by name, what makes its function, and whether in TF32."""
    if not have("torch"):
        return {}
    shape, single = timed.shape, timed.dtype == "float32"
    found: dict[str, tuple[Callable[[], Callable[..., Any]], bool]] = {}
    if isinstance(shape, Case):
        if have("torchvision") and shape.rank == 2:
            found["torchvision"] = (lambda: torchvision(timed), False)
            if single:
                found["torchvision, TF32"] = (lambda: torchvision(timed), True)
        if timed.direction == "forward" and shape.rank == 2:
            found["dense"] = (lambda: dense(timed), False)
        return found
    if single:  # grid_sample wants positions in the image's type, and half holds no positions
        make = sampling.attention if shape.attends else sampling.lattice
        found["grid_sample"] = (lambda: make(shape), False)
        if shape.attends and have("torch_ms_deform_attn"):
            native = sampling.Native.function
            found["native"] = (lambda: native(None, shape), False)  # type: ignore[arg-type]
    if shape.operation == "dcnv4" and have("DCNv4"):
        found["DCNv4"] = (lambda: dcnv4(shape), False)
    return found


def difference(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Return the root mean square of the difference, as a part of that of what is expected."""
    if got.shape != want.shape:
        raise ValueError(f"shape {got.shape}, expected {want.shape}")
    scale = float(np.sqrt(np.mean(np.square(want, dtype=np.float64)))) if want.size else 0.0
    delta = np.subtract(got, want, dtype=np.float64)
    size = float(np.sqrt(np.mean(np.square(delta)))) if want.size else 0.0
    return size / scale if scale else size
