"""What only a GPU can show: equal bits over many runs, more than 2^31 elements, graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import pydeform
from benchmarks.cases import case
from benchmarks.gpu import contestants
from benchmarks.gpu.cases import CONVOLUTIONS, SAMPLED, Timed, tiny
from benchmarks.gpu.contest import short
from benchmarks.gpu.device import Device

#: Rows of a strip that is computed by itself, and how far its samples reach beyond.
STRIP, REACH = 32, 4


@dataclass(frozen=True)
class Shown:
    """One thing that was to be shown.

    Attributes
    ----------
    what
        In words.
    outcome
        "right", "wrong", or "not run".
    detail
        Numbers, or the reason.
    """

    what: str
    outcome: str
    detail: str


def equal_bits(device: Device, runs: int, small: bool) -> list[Shown]:
    """Call forward and backward many times and compare every bit with the first call's."""
    shown = []
    for shape in (CONVOLUTIONS[2], CONVOLUTIONS[3], SAMPLED[2], SAMPLED[3]):
        for direction in ("forward", "backward"):
            timed = Timed(tiny(shape) if small else shape, "float16", direction)
            (entry, *_) = contestants.ours(device, timed, timed.arrays())
            with entry.context():
                first = [a.view(np.uint16) for a in arrays_of(entry.call())]
                differing = 0
                for _ in range(runs - 1):
                    again = [a.view(np.uint16) for a in arrays_of(entry.call())]
                    differing += any(
                        bool((a != b).any()) for a, b in zip(first, again, strict=True)
                    )
            outcome = "wrong" if differing else "right"
            detail = f"{differing} of {runs} runs differ from the first"
            shown.append(Shown(f"equal bits: {timed.words}", outcome, detail))
    return shown


def arrays_of(found: Any) -> list[Any]:
    """Return what a call gave back as a list of arrays."""
    if isinstance(found, tuple):
        return [array for array in found if array is not None]
    return [found]


def large(device: Device, side: int, channels: int) -> list[Shown]:
    """Convolve an image of `channels` x `side` x `side`; compare strips computed by themselves.

    All numbers are small multiples of powers of two and every sum is exact, so that strips are
    equal to the bit whichever kernels compute them.
    """
    elements = channels * side * side
    what = f"an input of {elements:,} elements"
    # Input, a copy with its axes turned, offsets in 16 bits and wide, output, chunks and keys.
    need = elements * 2 * 3 + side * side * 24 + (2 << 30)
    if (free := device.free_bytes()) < need and device.name == "cuda":
        reason = f"{need / 2**30:.0f} GiB wanted, {free / 2**30:.0f} GiB free"
        return [Shown(what, "not run", reason)]
    xp: Any = device.xp  # type: ignore[attr-defined]
    with device.backend():
        rows = xp.arange(side, dtype=np.int64)[:, None]
        columns = xp.arange(side, dtype=np.int64)[None]
        mixed = rows * 31 + columns * 17
        x = xp.empty((1, channels, side, side), np.float16)
        for number in range(channels):
            x[0, number] = (mixed + number * 5) % 13 - 6
        offset = xp.empty((1, 2, side, side), np.float16)
        offset[0, 0] = (mixed % 23 - 11) / 4
        offset[0, 1] = (mixed % 19 - 9) / 4
        weight = device.array((np.arange(channels) % 3 - 1).astype(np.float16))
        weight = weight.reshape(1, channels, 1, 1)
        y = pydeform.deform_conv2d(x, offset, weight)
        wrong, strips = [], starts(side)
        for first in strips:
            low, high = max(0, first - REACH), min(side, first + STRIP + REACH)
            part = pydeform.deform_conv2d(
                xp.ascontiguousarray(x[:, :, low:high]),
                xp.ascontiguousarray(offset[:, :, low:high]),
                weight,
            )
            inner = part[:, :, first - low : first - low + STRIP]
            if not bool((inner == y[:, :, first : first + STRIP]).all()):
                wrong.append(first)
        nothing = not bool((y != 0).any())
    if nothing:
        return [Shown(what, "wrong", "all of the output is 0")]
    detail = f"rows {wrong} differ" if wrong else f"{len(strips)} strips of {STRIP} rows are equal"
    return [Shown(what, "wrong" if wrong else "right", detail)]


def starts(side: int) -> list[int]:
    """Return where strips begin: at both ends, and along the whole image."""
    last = max(0, side - STRIP)
    return sorted({round(part * last / 16) for part in range(17)})


def graph(device: Device) -> list[Shown]:
    """Capture a forward call with out=, change its input in place, replay, compare with a call."""
    what = "a forward call in a CUDA graph"
    timed = Timed(case("graph", (2, 64, 28, 28), 64, 3), "float16", "forward")
    arrays = timed.arrays()
    given = {name: device.array(array) for name, array in arrays.items()}
    values = contestants.arguments(timed, given)
    try:
        with device.backend():
            out = pydeform.deform_conv2d(*values)
            replay = device.capture(lambda: pydeform.deform_conv2d(*values, out=out))
            given["input"] *= np.float16(2)
            replay()
            device.synchronize()
            replayed = device.numpy(out).copy()
            want = device.numpy(pydeform.deform_conv2d(*values))
    except RuntimeError as error:
        outcome = "not run" if device.name == "emulated" else "wrong"
        return [Shown(what, outcome, short(error))]
    equal = np.array_equal(replayed, want) and not np.array_equal(want, np.zeros_like(want))
    return [Shown(what, "right" if equal else "wrong", "replayed on a changed input")]


def run(device: Device, runs: int, small: bool) -> list[Shown]:
    """Show everything; what fails is said and does not end the others."""
    side, channels = (96, 2) if small else (16384, 8)
    parts: list[tuple[str, Callable[[], list[Shown]]]] = [
        ("equal bits", lambda: equal_bits(device, runs, small)),
        ("a large input", lambda: large(device, side, channels)),
        ("graphs", lambda: graph(device)),
    ]
    shown: list[Shown] = []
    for what, part in parts:
        try:
            shown += part()
        except Exception as error:  # noqa: BLE001
            shown.append(Shown(what, "wrong", short(error)))
    return shown
