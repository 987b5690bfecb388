"""Times: every contestant once a round, in rotating order, on one stream; medians of rounds."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from benchmarks.gpu import contestants
from benchmarks.gpu.cases import Timed
from benchmarks.gpu.contestants import Arrays, Entry
from benchmarks.gpu.device import Device

#: Calls before the first round: compiling, caches of libraries, clocks.
WARM = 3


@dataclass(frozen=True)
class Measured:
    """The times of one contestant.

    Attributes
    ----------
    case, dtype, direction, contestant
        What was measured.
    seconds
        Median over the rounds.
    error
        Largest root mean square, over the results, of the difference to pydeform's float32 results
        from the same numbers, as a part of theirs.
    rounds
        Seconds of each.
    """

    case: str
    dtype: str
    direction: str
    contestant: str
    seconds: float
    error: float
    rounds: tuple[float, ...]


def entries(device: Device, timed: Timed, arrays: Arrays, failed: dict[str, str]) -> list[Entry]:
    """Return who takes part; who cannot be prepared is named in `failed`."""
    made = contestants.ours(device, timed, arrays)
    try:
        made.append(contestants.replayed(device, timed, arrays))
    except Exception as error:  # noqa: BLE001  (one contestant does not end the others' contest)
        failed["pydeform, graph"] = short(error)
    for name, (make, tf32) in contestants.peers(timed).items():
        try:
            made.append(contestants.on_torch(device, timed, arrays, name, make, tf32))
        except Exception as error:  # noqa: BLE001  (a peer may refuse in its own way)
            failed[name] = short(error)
    return made


def short(error: BaseException) -> str:
    """Return the first line of a message, with what kind of error it is."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def expected(device: Device, timed: Timed, arrays: Arrays) -> dict[str, object]:
    """Return pydeform's float32 results from the same numbers."""
    wide = {name: array.astype("float32") for name, array in arrays.items()}
    (entry, *_) = contestants.ours(device, timed, wide)
    with entry.context():
        return dict(entry.results(entry.call()))


def hold(device: Device, timed: Timed, rounds: int) -> tuple[list[Measured], dict[str, str]]:
    """Time all who can do this; returns times, and why others failed, by contestant."""
    failed: dict[str, str] = {}
    arrays = timed.arrays()
    want = expected(device, timed, arrays)
    ready, errors = [], {}
    for entry in entries(device, timed, arrays, failed):
        try:
            with entry.context():
                found = entry.results(entry.call())
                for _ in range(WARM):
                    device.seconds(entry.call)
        except Exception as error:  # noqa: BLE001
            failed[entry.name] = short(error)
            continue
        common = [name for name in want if name in found]
        pairs = ((found[name], want[name]) for name in common)
        errors[entry.name] = (
            float("nan") if entry.name == "dense"
            else max(contestants.difference(a, b) for a, b in pairs)  # type: ignore[arg-type]
        )  # fmt: skip
        ready.append(entry)
    times: dict[str, list[float]] = {entry.name: [] for entry in ready}
    for number in range(rounds):
        start = number % max(1, len(ready))
        for entry in ready[start:] + ready[:start]:
            with entry.context():
                times[entry.name].append(device.seconds(entry.call))
    return [
        Measured(
            timed.shape.name, timed.dtype, timed.direction, entry.name,
            median(times[entry.name]), errors[entry.name], tuple(times[entry.name]),
        )
        for entry in ready
    ], failed  # fmt: skip
