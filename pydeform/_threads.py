"""How many threads the compiled backend uses."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import SupportsIndex

from pydeform import _dispatch, _shapes

# Far above any use, far below what makes a system refuse threads and an OpenMP runtime end the
# process.
MOST_THREADS = 1024

# A forked child inherits the OpenMP runtime without its threads, and would wait for them for ever.
_forked = False


def _one_thread_in_a_child() -> None:
    global _forked  # noqa: PLW0603  one fact about the process
    if "pydeform._cpu" in sys.modules:
        _forked = True
        sys.modules["pydeform._cpu"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_in_a_child)


def set_num_threads(n: SupportsIndex) -> None:
    """Set the number of threads of the compiled backend, for the whole process.

    At import it is PYDEFORM_NUM_THREADS, else OMP_NUM_THREADS, else what the machine has. Results
    have the same bits for any number. A build without OpenMP computes in the calling thread,
    whatever is set. In a process forked from one that has used the compiled backend the number
    is 1 and stays 1: the threads did not come along.

    Parameters
    ----------
    n : int
        From 1 to 1024; more than there are processors is slower.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is out of range.

    See Also
    --------
    num_threads : The same for the length of a `with` block.

    Examples
    --------
    >>> import pydeform
    >>> before = pydeform.get_num_threads()
    >>> pydeform.set_num_threads(1)
    >>> pydeform.get_num_threads()
    1
    >>> pydeform.set_num_threads(before)
    """
    count = _shapes.integer("n", n)
    if not 1 <= count <= MOST_THREADS:
        raise ValueError(f"n: expected 1 to {MOST_THREADS} threads, got {count}")
    _dispatch.load("cpu").set_num_threads(1 if _forked else count)


def get_num_threads() -> int:
    """Return the number of threads of the compiled backend.

    Returns
    -------
    int
        At least 1. A build without OpenMP computes in the calling thread, whatever this says.

    See Also
    --------
    set_num_threads : Change it.

    Examples
    --------
    >>> import pydeform
    >>> pydeform.get_num_threads() >= 1
    True
    """
    count: int = _dispatch.load("cpu").get_num_threads()
    return count


@contextmanager
def num_threads(n: SupportsIndex) -> Iterator[None]:
    """Use another number of threads inside a `with` block, and the former one after it.

    The number belongs to the process: blocks that overlap in several Python threads see each
    other's.

    Parameters
    ----------
    n : int
        From 1 to 1024.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is out of range.

    See Also
    --------
    set_num_threads : The same for good.

    Examples
    --------
    >>> import pydeform
    >>> with pydeform.num_threads(1):
    ...     pydeform.get_num_threads()
    1
    """
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)
