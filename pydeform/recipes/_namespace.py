"""Which library's functions belong to some arrays, and the few functions that every recipe uses."""

from __future__ import annotations

from math import prod
from typing import Any, TypeAlias

from pydeform._arrays import describe, is_torch
from pydeform._cuda import is_cupy
from pydeform.recipes._primitives import deform_conv1d, deform_conv2d, deform_conv3d
from pydeform.recipes._tape import Traced

#: An array of any library that has the array API's namespace, or a torch tensor.
Array: TypeAlias = Any


def namespace(**arrays: Array) -> Any:
    """Return the array API's namespace of the arrays; None among them is passed over.

    Raises
    ------
    TypeError
        If an argument is no array, or arrays of two libraries are mixed.
    """
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        if array is None:
            continue
        if is_torch(array):
            from pydeform.recipes import _torch

            found[name] = _torch
        elif is_cupy(array):
            from pydeform.recipes import _cupy

            found[name] = _cupy
        elif hasattr(array, "__array_namespace__"):
            found[name] = array.__array_namespace__()
        else:
            raise TypeError(
                f"{name}: expected an array with __array_namespace__ or a torch.Tensor, "
                f"got {describe(array)}"
            )
    traced = [found[name] for name in found if isinstance(arrays[name], Traced)]
    if traced:  # its functions take NumPy arrays as constants
        return traced[0]
    if len({id(xp) for xp in found.values()}) > 1:
        got = ", ".join(f"{name} {describe(arrays[name])}" for name in found)
        raise TypeError(f"mixed arrays: expected arrays of one library, got {got}")
    return next(iter(found.values()))


def axes_of(name: str, array: Array, meaning: str) -> None:
    """Check how many axes an array has; `meaning` names them, as in "(N, C, H, W)"."""
    expected = meaning.count(",") + 1 - meaning.count(",)")
    if array.ndim != expected:
        raise ValueError(
            f"{name}: expected {expected} dimensions {meaning}, got shape {tuple(array.shape)}"
        )


def shape_of(name: str, array: Array, expected: tuple[int, ...], meaning: str) -> None:
    """Check the shape of an array; `meaning` names its axes."""
    if tuple(array.shape) != expected:
        raise ValueError(f"{name}: expected shape {expected} {meaning}, got {tuple(array.shape)}")


def relu(xp: Any, x: Array) -> Array:
    """Return max(x, 0), with derivative 0 at 0."""
    return xp.where(x > 0, x, xp.zeros_like(x))


def sigmoid(xp: Any, x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), by tanh so that nothing overflows."""
    return xp.tanh(x * 0.5) * 0.5 + 0.5


def softmax(xp: Any, x: Array, axis: int = -1) -> Array:
    """Return exp(x) over its sum along an axis, shifted so that nothing overflows."""
    e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


def log_softmax(xp: Any, x: Array, axis: int = -1) -> Array:
    """Return the logarithm of `softmax`, without its underflow."""
    x = x - xp.max(x, axis=axis, keepdims=True)
    return x - xp.log(xp.sum(xp.exp(x), axis=axis, keepdims=True))


def linear(xp: Any, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return ``x weight^T + bias`` for x [N, F], weight [M, F] and bias [M]."""
    y = x @ xp.permute_dims(weight, (1, 0))
    return y if bias is None else y + bias


def pool(xp: Any, x: Array) -> Array:
    """Return the mean over all spatial axes: [N, C, *S] -> [N, C]."""
    return xp.mean(x, axis=tuple(range(2, x.ndim)))


def pointwise(xp: Any, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return the 1 x 1 convolution ``weight x + bias`` of [N, C, *S] by [M, C]: [N, M, *S]."""
    n, c, *size = x.shape
    y = xp.reshape(weight @ xp.reshape(x, (n, c, -1)), (n, weight.shape[0], *size))
    return y if bias is None else y + xp.reshape(bias, (-1, *(1,) * len(size)))


def indices(xp: Any, count: int, like: Array) -> Array:
    """Return 0, 1, ... count-1 as an array like another: of its dtype, where it lies."""
    return xp.arange(count, dtype=like.dtype, device=like.device)


def positive(name: str, value: float) -> float:
    """Return a number, checked to be positive."""
    if not value > 0:
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return value


def convolve(input: Array, weight: Array, *, offset: Array | None = None, **options: Any) -> Array:
    """Call the deformable convolution of the rank that the input has."""
    by_axes = {3: deform_conv1d, 4: deform_conv2d, 5: deform_conv3d}
    if input.ndim not in by_axes:
        raise ValueError(
            "input: expected 3, 4 or 5 dimensions (N, C, *S), "
            f"got {input.ndim}, shape {tuple(input.shape)}"
        )
    return by_axes[input.ndim](input, offset, weight, **options)


def neighbours(xp: Any, x: Array, kernel: tuple[int, ...], **options: Any) -> Array:
    """Return what each tap of a kernel reads: [N, C, *S] -> [N, C, K, *O].

    It is a convolution of each channel by itself, each of whose K filters is one at its tap.
    """
    channels, taps = x.shape[1], prod(kernel)
    one_hot = xp.reshape(xp.eye(taps, dtype=x.dtype, device=x.device), (1, taps, 1, *kernel))
    weight = xp.broadcast_to(one_hot, (channels, taps, 1, *kernel))
    weight = xp.reshape(weight, (channels * taps, 1, *kernel))
    read = convolve(x, weight, **options)
    return xp.reshape(read, (x.shape[0], channels, taps, *read.shape[2:]))


def half(name: str, weight: Array) -> tuple[int, ...]:
    """Return the padding that keeps the size: half of each kernel size, which are odd."""
    kernel = tuple(weight.shape[2:])
    if any(size % 2 == 0 for size in kernel):
        raise ValueError(f"{name}: expected a kernel of odd sizes, got {kernel}")
    return tuple(size // 2 for size in kernel)
