"""How long each kernel of our calls takes, by torch's profiler: to hold predictions against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu import contestants
from benchmarks.gpu.cases import Timed
from benchmarks.gpu.device import Device

#: Calls that are watched, and calls before.
WATCHED, WARM = 5, 2
#: Characters of a name: those of libraries have their template arguments in them.
LENGTH = 60


@dataclass(frozen=True)
class Part:
    """One kernel's part in a call.

    Attributes
    ----------
    case, dtype, direction
        What was called.
    kernel
        Its name.
    launches, seconds
        Of one call, on average.
    """

    case: str
    dtype: str
    direction: str
    kernel: str
    launches: float
    seconds: float


def watched(device: Device, timed: Timed) -> list[Part]:
    """Return the kernels of a call that finds no argument in a cache, in the order they begin."""
    from torch.profiler import ProfilerActivity, profile

    (entry, *_) = contestants.ours(device, timed, timed.arrays())
    with entry.context():
        for _ in range(WARM):
            entry.call()
        device.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(WATCHED):
                device.seconds(entry.call)
            device.synchronize()
    return parts(timed, profiler.events())


def parts(timed: Timed, events: Iterable[Any]) -> list[Part]:
    """Add up the events of a profile that took time on the device.

    Raises
    ------
    ValueError
        If the calls were not all alike. The first event of each is what empties the caches.
    """
    ran = sorted((e for e in events if e.device_time), key=lambda event: event.time_range.start)
    each, rest = divmod(len(ran), WATCHED)
    if rest:
        raise ValueError(f"events: expected a multiple of {WATCHED}, got {len(ran)}")
    found: dict[str, list[float]] = {}
    for number, event in enumerate(ran):
        if number % each:
            found.setdefault(event.name[:LENGTH], []).append(event.device_time / 1e6)
    return [
        Part(timed.shape.name, timed.dtype, timed.direction, name,
             len(times) / WATCHED, sum(times) / WATCHED)
        for name, times in found.items()
    ]  # fmt: skip
