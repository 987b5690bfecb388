"""Where results are written: new memory, or arrays that the caller gave as `out`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pydeform import _cuda
from pydeform._arrays import NumpyArray, as_array, device_of, is_ready, namespace
from pydeform.ops._checks import check_like

# Below this nothing is asked of the operating system: 256 MiB come and go with any process.
_SMALL = 2**28


class Wanted(NamedTuple):
    """One array to be written."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def available_bytes() -> int | None:
    """Return the bytes that new arrays can have on this machine, or None where it does not say."""
    limits = []
    with suppress(OSError, KeyError, ValueError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        sizes = {
            key: value for key, _, value in (line.partition(":") for line in text.splitlines())
        }
        limits.append(
            sum(int(sizes[key].split()[0]) * 1024 for key in ("MemAvailable", "SwapFree"))
        )
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or the word "max"
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits) if limits else None


def _check_memory(wanted: Mapping[str, Wanted], copies: Mapping[str, NumpyArray]) -> None:
    """Raise MemoryError where new arrays cannot fit; a lazy system gives them and kills later."""
    sizes = {name: prod(shape) * dtype.itemsize for name, (shape, dtype) in wanted.items()}
    total = sum(sizes.values()) + sum(array.nbytes for array in copies.values())
    if total < _SMALL:
        return
    available = available_bytes()
    if available is not None and total > available:
        parts = [
            f"{name} of shape {wanted[name].shape} ({size} bytes)" for name, size in sizes.items()
        ]
        parts += [
            f"a contiguous copy of {name} of shape {array.shape} ({array.nbytes} bytes)"
            for name, array in copies.items()
        ]
        raise MemoryError(
            f"expected at most {available} bytes, which are available, got {', '.join(parts)}"
        )


def _overlap(one: NumpyArray, other: NumpyArray) -> bool:
    if (xp := namespace(one)) is not np:
        if namespace(other) is not xp:
            return False
        one, other = _cuda.addresses(one), _cuda.addresses(other)
    try:
        # The stubs know two limits only, the function takes any.
        return np.shares_memory(one, other, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _given(
    name: str, value: Any, want: Wanted, inputs: Mapping[str, NumpyArray], place: str
) -> NumpyArray:
    """Return the array that a caller gave to be written, checked."""
    device = device_of(name, value)
    if device != place:
        raise TypeError(
            f"devices: expected all arrays on one device, got {name} on {device}, "
            f"the others on {place}"
        )
    array = as_array(name, value, device)
    check_like(name, array, "the result", *want)
    host = isinstance(array, np.ndarray)
    if not (array.flags.writeable if host else _cuda.is_writable(value)):
        raise ValueError(f"{name}: expected an array that can be written, got a read-only one")
    if not is_ready(array):
        raise ValueError(
            f"{name}: expected a C-contiguous, aligned array, got strides {array.strides}"
        )
    for other, taken in inputs.items():
        if _overlap(array, taken):
            raise ValueError(
                f"{name}: expected memory of its own, got an array that overlaps {other}"
            )
    return array


def prepare(
    wanted: Mapping[str, Wanted],
    out: Mapping[str, Any],
    inputs: Mapping[str, NumpyArray],
    copies: Mapping[str, NumpyArray],
    empty: Callable[[tuple[int, ...], np.dtype[Any]], NumpyArray] | None = None,
) -> dict[str, NumpyArray]:
    """Return an array for every result in `wanted`: that in `out`, or a new one, unset.

    `out` has names of results, written as the caller knows them in messages. `copies` are the
    inputs that will have to be copied too; their bytes count. `empty` makes new arrays
    where a backend has its own way to.
    """
    xp = namespace(main := next(iter(inputs.values())))
    given: dict[str, NumpyArray] = {}
    for name, value in out.items():
        place = "cpu" if xp is np else device_of("", main)
        given[name] = _given(name, value, wanted[name], {**inputs, **given}, place)
    if xp is np:  # a device has no more than it has, and says so itself
        new = {name: want for name, want in wanted.items() if name not in given}
        _check_memory(new, copies)
    results = {}
    for name, want in wanted.items():
        try:
            results[name] = given[name] if name in given else (empty or xp.empty)(*want)
        except MemoryError as error:
            raise MemoryError(f"{name}: no memory for shape {want.shape}: {error}") from error
    return results
