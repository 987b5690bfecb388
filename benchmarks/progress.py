"""A progress bar on a terminal, a line for each contest elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

#: Called with what is being measured and how much of everything is done, from 0 to 1.
Say = Callable[[str, float], None]


@contextmanager
def progress() -> Iterator[Say]:
    """Show progress on standard error for the length of a `with` block."""
    if not (sys.stderr.isatty() and find_spec("rich")):
        last = ""

        def line(text: str, done: float) -> None:
            nonlocal last
            if text != last:
                print(f"{done:4.0%}  {text}", file=sys.stderr, flush=True)
            last = text

        yield line
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<40}"), BarColumn(), TimeElapsedColumn())
    # Two frames a second: drawing takes time from what is measured.
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda text, done: bar.update(task, description=text, completed=done)
