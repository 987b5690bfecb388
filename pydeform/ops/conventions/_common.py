"""What the converters share: arrays in and out, and the layout of this library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

from pydeform import _arrays, _shapes
from pydeform._arrays import NumpyArray, namespace
from pydeform.ops._checks import check_dtypes, check_like

_FLOATING = ("float16", "bfloat16", "float32", "float64", "longdouble")


class OffsetMask(NamedTuple):
    """An offset [N, Go*K*2, Ho, Wo] and its mask [N, Go*K, Ho, Wo]."""

    offset: Any
    mask: Any


P = ParamSpec("P")
R = TypeVar("R")


def where_it_lies(function: Callable[P, R]) -> Callable[P, R]:
    """Make the device of the first argument current, and the stream of its library."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        place = _arrays.place(next(iter((*args, *kwargs.values())), None))
        if place is None:
            return function(*args, **kwargs)
        with place:
            return function(*args, **kwargs)

    return call


def take(values: Mapping[str, Any]) -> tuple[dict[str, NumpyArray], Callable[[NumpyArray], Any]]:
    """Return the arrays of a call, all of one floating dtype, and how to give results back."""
    taken = _arrays.take(values, like=next(iter(values)))
    if not taken.arrays:
        raise TypeError(
            f"arrays on {taken.device}: expected arrays on the CPU or on a CUDA device; "
            "move them there first"
        )
    check_dtypes(taken.arrays, _FLOATING, next(iter(values)), wide=())

    def give(array: NumpyArray) -> Any:
        return taken.give(namespace(array).array(array, order="C", copy=True))

    return taken.arrays, give


def kernel_of(value: object) -> tuple[int, ...]:
    """Return rows and columns of a kernel."""
    return _shapes.per_axis("kernel_size", value, 2, 1)


def groups_of(name: str, array: NumpyArray, axis: int, unit: int, meaning: str) -> int:
    """Return how many groups of `unit` channels an array of 4 axes has."""
    if array.ndim != 4:
        raise ValueError(
            f"{name}: expected 4 dimensions {meaning}, got {array.ndim}, shape {array.shape}"
        )
    channels: int = array.shape[axis]
    if channels == 0 or channels % unit:
        raise ValueError(
            f"{name}: expected channels in multiples of {unit}, {meaning}, got {channels}, "
            f"shape {array.shape}"
        )
    return channels // unit


def split_ours(arrays: dict[str, NumpyArray], taps: int) -> tuple[NumpyArray, NumpyArray | None]:
    """Return offset [N, G, K, 2, H, W] and mask [N, G, K, H, W]."""
    offset = arrays["offset"]
    groups = groups_of("offset", offset, 1, 2 * taps, "(batch, G*K*2, H, W)")
    batch, _, height, width = offset.shape
    if "mask" in arrays:
        shape = (batch, groups * taps, height, width)
        check_like("mask", arrays["mask"], "the offset's positions", shape, offset.dtype)
    split = offset.reshape(batch, groups, taps, 2, height, width)
    mask = arrays.get("mask")
    return split, None if mask is None else mask.reshape(batch, groups, taps, height, width)
