"""What a run on a GPU found: kept as JSON, shown as tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import floors
from benchmarks.gpu.cases import SHAPES, Timed
from benchmarks.gpu.checks import Check
from benchmarks.gpu.contest import Measured
from benchmarks.gpu.floors import Ceilings
from benchmarks.gpu.kernels import Part
from benchmarks.gpu.only_gpu import Shown
from benchmarks.gpu.predictions import host_seconds, predictions, seconds
from benchmarks.report import Saved, grid

BEGIN, END = "<!-- gpu:begin -->", "<!-- gpu:end -->"


@dataclass
class Found(Saved):
    """Everything that a run found.

    Attributes
    ----------
    facts
        Machine, device, versions, command.
    ceilings
        Measured, or assumed where there is no GPU.
    checks
        Against the specification.
    shown
        What only a GPU can show.
    measured
        All times.
    kernels
        Of our calls.
    floors
        Seconds, by `Timed.words`.
    absent, failed
        Why something was left out; why a contestant failed: case and reason, by contestant.
    """

    facts: dict[str, Any]
    ceilings: Ceilings
    checks: list[Check] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    kernels: list[Part] = field(default_factory=list)
    floors: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Found:
        """Read what `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        data["ceilings"] = Ceilings(**data["ceilings"])
        for name, kind in (("checks", Check), ("shown", Shown), ("kernels", Part)):
            data[name] = [kind(**one) for one in data.get(name, [])]
        data["measured"] = [
            Measured(**one | {"rounds": tuple(one["rounds"])}) for one in data["measured"]
        ]
        return cls(**data)

    @property
    def wrong(self) -> int:
        """How many checks and things to be shown went wrong."""
        return sum(bool(c.wrong) for c in self.checks) + sum(
            s.outcome == "wrong" for s in self.shown
        )


def micro(value: float) -> str:
    """Return microseconds as text."""
    return f"{value * 1e6:.1f}" if value < 1e-3 else f"{value * 1e6:,.0f}"


def times_table(found: Found) -> str:
    """Return every time with its floor, how many floors it takes, and how it compares with ours."""
    rows = [["case", "direction", "type", "who", "µs", "floor µs", "floors", "of ours", "error"]]
    ours = {
        (m.case, m.dtype, m.direction): m.seconds
        for m in found.measured
        if m.contestant == "pydeform"
    }
    for m in found.measured:
        floor = found.floors[f"{m.case}, {m.dtype}, {m.direction}"]
        own = ours.get((m.case, m.dtype, m.direction))
        rows.append([
            m.case, m.direction, m.dtype, m.contestant, micro(m.seconds), micro(floor),
            f"{m.seconds / floor:.2f}", f"{m.seconds / own:.2f}" if own else "-",
            "-" if m.error != m.error else f"{m.error:.0e}",
        ])  # fmt: skip
    return grid(rows, words=4)


def kernels_table(found: Found) -> str:
    """Return every kernel of every call."""
    rows = [["case", "direction", "type", "kernel", "launches", "µs"]]
    rows += [
        [k.case, k.direction, k.dtype, k.kernel, f"{k.launches:g}", micro(k.seconds)]
        for k in found.kernels
    ]
    return grid(rows, words=4)


def predicted_table(plan: list[Timed], ceilings: Ceilings) -> str:
    """Return floors and predictions, which need no device."""
    rows = [["case", "direction", "type", "way", "floor µs", "predicted µs", "launches", "host µs"]]
    for timed in plan:
        floor = micro(floors.floor(timed, ceilings))
        head = [timed.shape.name, timed.direction, timed.dtype]
        for way, passes in predictions(timed).items():
            launches = sum(one.launches for one in passes)
            rows.append([
                *head, way, floor, micro(seconds(passes, ceilings)), str(launches),
                micro(host_seconds(passes, ceilings)),
            ])  # fmt: skip
    return grid(rows, words=4)


def passes_table(timed: Timed, way: str, ceilings: Ceilings) -> str:
    """Return the passes of one prediction."""
    rows = [["pass", "MB", "Gflop", "launches", "µs"]]
    rows += [
        [one.name, f"{one.moved / 1e6:.1f}", f"{one.flops / 1e9:.1f}", str(one.launches),
         micro(one.seconds(ceilings))]
        for one in predictions(timed)[way]
    ]  # fmt: skip
    return grid(rows)


def ceilings_text(ceilings: Ceilings) -> str:
    """Return the ceilings in a line."""
    return (
        f"{ceilings.name}: copy {ceilings.copy / 1e12:.2f} TB/s; matrix product "
        f"{ceilings.single / 1e12:.1f} Tflop/s in float32, {ceilings.tf32 / 1e12:.1f} in TF32, "
        f"{ceilings.half / 1e12:.1f} in float16"
    )


def facts_text(found: Found) -> str:
    """Return the circumstances as a list."""
    facts = found.facts
    lines = {
        "Command": f"`{facts['command']}`, {facts['date']}",
        **{key.capitalize(): value for key, value in facts["device"].items()},
        "Versions": ", ".join(f"{k} {v}" for k, v in facts["versions"].items() if v),
        "Ceilings": ceilings_text(found.ceilings),
    }
    return "\n".join(f"- {key}: {value}" for key, value in lines.items())


def as_markdown(found: Found) -> str:
    """Return everything as text: for the terminal and for the README."""
    parts = [facts_text(found)]
    if found.facts["device"]["device"].startswith("none"):
        parts.append("**Emulated: the times say nothing about a GPU.**")
    if found.checks:
        right = sum(not check.wrong for check in found.checks)
        parts.append(f"Against the specification: {right} of {len(found.checks)} checks agree.")
        wrong = [f"- {c.operation}, {c.example}, {c.dtype}, {c.compared}: {c.wrong}"
                 for c in found.checks if c.wrong]  # fmt: skip
        if wrong:
            parts.append("\n".join(wrong))
    if found.shown:
        rows = [
            ["what", "outcome", "detail"],
            *([s.what, s.outcome, s.detail] for s in found.shown),
        ]
        parts.append(grid(rows, words=3))
    if found.measured:
        names = dict.fromkeys(m.case for m in found.measured)
        cases = [[name, SHAPES[name].describe()] for name in names if name in SHAPES]
        parts += [grid([["case", "what it is"], *cases], words=2), times_table(found)]
    if found.kernels:
        parts.append(kernels_table(found))
    notes = [f"- left out: {what} ({reason})" for what, reason in found.absent.items()]
    notes += [f"- {f['contestant']}, {f['case']}: {f['reason']}" for f in found.failed]
    return "\n\n".join([*parts, "\n".join(notes)] if notes else parts)
