"""What a run found: kept as JSON, shown as tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import DIRECTIONS, SETS, Case
from benchmarks.peers import PEERS
from benchmarks.timing import YARDSTICK, Contest, Measurement

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- latest:begin -->", "<!-- latest:end -->"
#: Contestants whose speed-up with threads is shown: ours, and what it is held against.
SCALING = ("pydeform", YARDSTICK, "sgemm")


@dataclass
class Saved:
    """What a run found, as a file."""

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


@dataclass
class Report(Saved):
    """Everything that a run measured.

    Attributes
    ----------
    facts
        Machine, versions, command.
    cases
        The problems, in the order of the tables.
    measurements
        All times.
    absent
        Why a peer took no part, by peer.
    refused, failed
        Of one contest each: case, direction, threads, peer, reason.
    sweeps
        Points of the pictures against size and channels.
    """

    facts: dict[str, Any]
    cases: list[Case] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    sweeps: list[dict[str, Any]] = field(default_factory=list)

    def add(self, contest: Contest, case: Case, direction: str, threads: int) -> None:
        """Take in the outcome of one contest."""
        if case not in self.cases:
            self.cases.append(case)
        self.measurements += contest.measurements
        for name, into in (("refused", self.refused), ("failed", self.failed)):
            into += [
                {
                    "case": case.name,
                    "direction": direction,
                    "threads": threads,
                    "peer": peer,
                    "reason": reason,
                }
                for peer, reason in getattr(contest, name).items()
            ]

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read what `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        data["cases"] = [Case.from_json(c) for c in data["cases"]]
        data["measurements"] = [
            Measurement(**m | {"rounds": tuple(m["rounds"])}) for m in data["measurements"]
        ]
        return cls(**data)

    def found(self, case: str, direction: str, threads: int) -> dict[str, Measurement]:
        """Return the measurements of one contest by peer."""
        return {
            m.peer: m
            for m in self.measurements
            if (m.case, m.direction, m.threads) == (case, direction, threads)
        }

    @property
    def threads(self) -> list[int]:
        """Return the numbers of threads that were measured."""
        return sorted({m.threads for m in self.measurements})

    def peers(self, direction: str) -> list[str]:
        """Return who was measured in a direction, in the order of the tables."""
        seen = {m.peer for m in self.measurements if m.direction == direction}
        return [name for name in PEERS if name in seen]


def together(parts: Sequence[Report]) -> Report:
    """Return one report of runs that were made in parts; where two have one contest, the later.

    Raises
    ------
    ValueError
        If the parts are of different machines, vector code or versions of one library.
    """
    whole = Report(dict(parts[0].facts) | {"versions": {}})
    for part in parts:
        for key in ("machine", "build"):
            one, other = ({k: v for k, v in r.facts[key].items() if k != "load"}
                          for r in (whole, part))  # fmt: skip
            if one != other:
                raise ValueError(f"reports: expected one {key}, got {one} and {other}")
        for name, version in part.facts["versions"].items():
            if whole.facts["versions"].setdefault(name, version) != version:
                raise ValueError(
                    f"reports: expected one version of {name}, got "
                    f"{whole.facts['versions'][name]} and {version}"
                )
        held = {(m.case, m.direction, m.threads) for m in part.measurements}
        whole.measurements = [
            m for m in whole.measurements if (m.case, m.direction, m.threads) not in held
        ] + part.measurements
        for ours, theirs in ((whole.refused, part.refused), (whole.failed, part.failed)):
            ours[:] = [f for f in ours if (f["case"], f["direction"], f["threads"]) not in held]
            ours += theirs
        whole.cases += [case for case in part.cases if case not in whole.cases]
        whole.absent |= part.absent
        whole.sweeps = part.sweeps or whole.sweeps
    listed = dict.fromkeys(case.name for cases in SETS.values() for case in cases)
    order = {name: number for number, name in enumerate(listed)}
    whole.cases.sort(key=lambda case: order.get(case.name, len(order)))
    measured = {m.peer for m in whole.measurements}
    whole.absent = {name: why for name, why in whole.absent.items() if name not in measured}
    loads = [load for part in parts if (load := part.facts["machine"].get("load")) is not None]
    if loads:
        whole.facts["machine"] = whole.facts["machine"] | {"load": max(loads)}
    if len(parts) > 1:
        commands = dict.fromkeys(part.facts["command"] for part in parts)
        whole.facts["command"] = "`, `".join(commands)
    return whole


def grid(rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return rows as an aligned Markdown table.

    Parameters
    ----------
    rows : sequence of sequences of str
        The first one is the head.
    words : int
        How many columns at the left hold words; the others hold numbers.
    """
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Iterable[str]) -> str:
        sides = [str.ljust] * words + [str.rjust] * (len(widths) - words)
        cells = (side(text, width) for side, text, width in zip(sides, row, widths, strict=True))
        return f"| {' | '.join(cells)} |"

    ends = ["-"] * words + [":"] * (len(widths) - words)
    rule = "|".join("-" * (width + 1) + end for width, end in zip(widths, ends, strict=True))
    return "\n".join([line(rows[0]), f"|{rule}|", *map(line, rows[1:])])


def ratio_text(measured: Measurement | None, failed: bool, *, best: bool) -> str:
    """Return one cell: the ratio to the yardstick, or milliseconds where there is no yardstick."""
    if measured is None:
        return "fails" if failed else "-"
    text = f"{measured.seconds * 1e3:.1f} ms" if measured.ratio is None else f"{measured.ratio:.2f}"
    return f"**{text}**" if best else text


def ratio_table(report: Report, direction: str) -> str:
    """Return the table of one direction: a row for each case and number of threads."""
    peers = [p for p in report.peers(direction) if p != YARDSTICK]
    rows = [["case", "threads", "dense ms", "pydeform ms", *peers]]
    failed = {(f["case"], f["threads"], f["peer"]) for f in report.failed
              if f["direction"] == direction}  # fmt: skip
    for case in report.cases:
        for threads in report.threads:
            found = report.found(case.name, direction, threads)
            if not found:
                continue
            real = [m for m in found.values() if not PEERS[m.peer].yardstick]
            best = min(real, key=lambda m: m.ratio or m.seconds, default=None)
            times = [
                f"{found[p].seconds * 1e3:.1f}" if p in found else "-"
                for p in (YARDSTICK, "pydeform")
            ]
            cells = [
                ratio_text(
                    found.get(p),
                    (case.name, threads, p) in failed,
                    best=best is not None and best.peer == p,
                )
                for p in peers
            ]
            rows.append([case.name, str(threads), *times, *cells])
    return grid(rows)


def scaling_table(report: Report) -> str:
    """Return how many times faster more threads are than the fewest; empty for one number only."""
    if len(report.threads) < 2:
        return ""
    fewest, *more = report.threads
    rows = [["case", "direction", "threads", *SCALING]]
    for case in report.cases:
        for direction in DIRECTIONS:
            one = report.found(case.name, direction, fewest)
            for threads in more:
                many = report.found(case.name, direction, threads)
                cells = [
                    f"{one[p].seconds / many[p].seconds:.2f}" if p in one and p in many else "-"
                    for p in SCALING
                ]
                if many:
                    rows.append([case.name, direction, str(threads), *cells])
    return grid(rows, words=2)


def facts_text(facts: Mapping[str, Any]) -> str:
    """Return the circumstances as a list."""
    machine, versions = facts["machine"], facts["versions"]
    level = facts["build"].get("vector_level", "")
    lines = {
        "Command": f"`{facts['command']}`, {facts['date']}",
        "Machine": f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['vectors'])}), "
        f"{machine['memory_gib']} GiB, {machine['system']}",
        "Versions": ", ".join(f"{k} {v}" for k, v in versions.items() if v),
    }
    if machine.get("load"):
        lines["Load average before"] = f"{machine['load']} (above 0.3 others were running)"
    if level:
        lines["Vector code"] = str(level)
    return "\n".join(f"- {key}: {value}" for key, value in lines.items())


def as_markdown(report: Report) -> str:
    """Return the whole report as text: for the terminal and for the README."""
    parts = [facts_text(report.facts)]
    cases = [[c.name, c.describe()] for c in report.cases]
    parts.append(grid([["case", "what it is"], *cases], words=2))
    for direction in DIRECTIONS:
        if report.peers(direction):
            title = f"**{direction.capitalize()}**, times the dense convolution (median of ratios)"
            parts += [title, ratio_table(report, direction)]
    if scaling := scaling_table(report):
        parts += ["**Speed-up with threads**, times the fewest", scaling]
    reasons = dict.fromkeys(report.absent.values())
    absent = {r: ", ".join(p for p, why in report.absent.items() if why == r) for r in reasons}
    notes = [f"- took no part: {peers} ({reason})" for reason, peers in absent.items()]
    notes += [
        f"- {f['peer']}, {f['case']}, {f['direction']}, {f['threads']} threads: {f['reason']}"
        for f in report.failed
    ]
    return "\n\n".join([*parts, "\n".join(notes)] if notes else parts)


def write_section(words: str, path: Path, begin: str, end: str) -> None:
    """Put words between two comments of a file.

    Raises
    ------
    ValueError
        If the comments are not there.
    """
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    section = f"{begin}\n\n{words}\n\n{end}"
    changed, count = pattern.subn(lambda _: section, text)
    if count != 1:
        raise ValueError(f"{path.name}: expected one pair {begin} ... {end}, got {count}")
    path.write_text(changed, encoding="utf-8")


def write_readme(report: Report, path: Path = README) -> None:
    """Put the report between the two comments of the README.

    Raises
    ------
    ValueError
        If the comments are not there.
    """
    write_section(as_markdown(report), path, BEGIN, END)
