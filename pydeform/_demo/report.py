"""Progress while it works and tables at the end: with rich where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

PASS, FAIL = "PASS", "FAIL"


@dataclass(frozen=True)
class Table:
    """A table: every column but the first is aligned right; `note` stands below it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def verdict(passed: bool) -> str:
    """Return the word for it."""
    return PASS if passed else FAIL


def number(value: float) -> str:
    """Return a number as tables show it."""
    return "0" if value == 0 else f"{value:.2g}" if value < 100 else f"{value:.3g}"


class Report:
    """Writes results to standard output, and progress to standard error.

    Progress is a bar where standard error is a terminal and rich is installed, else a line per
    step.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.done = 0
        self._bar: Any = None
        self._task: Any = None
        self._console: Any = None
        if find_spec("rich") is not None:
            from rich.console import Console

            self._console = Console(highlight=False)
            if sys.stderr.isatty():
                self._bar = _bar(Console(stderr=True))
                self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> Self:
        """Start the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def step(self, text: str) -> None:
        """Say what is done next."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=text)
        else:
            print(f"[{self.done + 1}/{self.steps}] {text}", file=sys.stderr, flush=True)
        self.done += 1

    def table(self, table: Table) -> None:
        """Print a table."""
        if self._console is None:
            print(_plain(table))
            return
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(title=Text(table.title, "bold"), title_justify="left")
        for index, column in enumerate(table.columns):
            drawn.add_column(Text(column), justify="right" if index else "left", no_wrap=not index)
        for row in table.rows:
            drawn.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
        self._console.print()
        self._console.print(drawn)
        if table.note:
            self._console.print(Text(table.note, "dim"))

    def line(self, text: str, passed: bool | None = None) -> None:
        """Print a line; with a verdict it stands in front."""
        word = "" if passed is None else verdict(passed)
        if self._console is None:
            print(f"{word} {text}".lstrip())
            return
        from rich.text import Text

        parts = Text.assemble((word, _STYLES.get(word, "")), " " if word else "", text)
        self._console.print(parts, soft_wrap=True)


_STYLES = {PASS: "green", FAIL: "bold red"}


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn("line"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    )


def _plain(table: Table) -> str:
    """Return a table as text."""
    lines = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in lines) for column in range(len(table.columns))]

    def laid_out(row: tuple[str, ...]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    parts = ["", table.title, rule, laid_out(table.columns), rule]
    parts += [laid_out(row) for row in table.rows]
    return "\n".join([*parts, rule, *([table.note] if table.note else [])])
