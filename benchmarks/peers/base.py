"""What a peer is: a name, what it can do, and one call ready to be timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple

from benchmarks.cases import Arrays, Case
from benchmarks.peers.check import Results, disagreement

__all__ = ["MOST_COLUMNS", "Peer", "Prepared", "Results"]

#: A method that writes all columns at once is left out where they are larger than this.
MOST_COLUMNS = 2 * 2**30


class Prepared(NamedTuple):
    """One call with all its arguments in the peer's own kind of array.

    Attributes
    ----------
    run
        What is timed. Returns whatever the peer returns.
    results
        Turns that into NumPy arrays; not timed.
    """

    run: Callable[[], Any]
    results: Callable[[Any], Results]


class Peer(ABC):
    """A library or a method that computes the operation, or a yardstick for it.

    An instance lives in a process of its own that was started for one number of threads.

    Attributes
    ----------
    name
        What tables and ``--peers`` call it.
    modules
        What must be installed.
    yardstick
        True where it computes the plain convolution instead of the deformable one.
    backward
        Whether it has gradients.
    on_request
        True where it takes part only if ``--peers`` names it.
    ranks
        Numbers of spatial axes that it knows.
    columns
        Whether it writes all columns at once.
    normalised
        Whether its coordinates are parts of the image's size, not pixels.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    yardstick: ClassVar[bool] = False
    backward: ClassVar[bool] = False
    on_request: ClassVar[bool] = False
    ranks: ClassVar[tuple[int, ...]] = (2,)
    columns: ClassVar[bool] = True
    normalised: ClassVar[bool] = False

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @classmethod
    def missing(cls) -> str:
        """Name the modules that are not installed; empty where it can be tried."""
        return ", ".join(m for m in cls.modules if find_spec(m) is None)

    def version(self) -> str:
        """Return the version of the library behind it."""
        return str(getattr(import_module(self.modules[0]), "__version__", "unknown"))

    @classmethod
    def refuses(cls, case: Case, direction: str) -> str:
        """Say why it cannot do this; empty where it can."""
        if case.rank not in cls.ranks:
            return f"no {case.rank}-D"
        if direction != "forward" and not cls.backward:
            return "no gradients"
        if cls.columns and case.column_bytes > MOST_COLUMNS:
            return f"columns of {case.column_bytes / 2**30:.1f} GiB"
        return ""

    @abstractmethod
    def prepare(self, case: Case, arrays: Arrays, direction: str) -> Prepared:
        """Convert the arguments, build what is built once, and keep no more than a call needs."""

    def wrong(self, case: Case, arrays: Arrays, direction: str, results: Results) -> str:
        """Say what is wrong with its results; empty where they can be trusted."""
        kind = {"yardstick": self.yardstick, "normalised": self.normalised}
        return disagreement(case, arrays, direction, results, **kind)
