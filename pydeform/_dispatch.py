"""From arrays to the module that computes on them; nothing is moved between devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from pydeform import _cuda

BACKENDS = ("ref", "cpu", "cuda", "emulated")
_FLOATS = ("float32", "float64", "float16", "bfloat16")
_NOT_BUILT = (
    "pydeform._cpu is not built: run `pip install -e .` in the source tree (with a C compiler), "
    'or compute with the slow reference inside `with pydeform.use_backend("ref"):`'
)

_forced: ContextVar[str | None] = ContextVar("pydeform_backend", default=None)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with one backend inside a `with` block, whatever the arrays would choose.

    The choice belongs to the current thread (to the current context, as `contextvars` has it):
    other threads and tasks that run meanwhile keep their own. Blocks nest. Data is never moved: the
    backend must be able to reach the arrays.

    Parameters
    ----------
    name : {"ref", "cpu", "cuda", "emulated"}
        "ref" is the executable specification in NumPy: slow, plain, and also for `numpy.longdouble`
        and for object arrays of `fractions.Fraction`. "cpu" is the compiled backend and the default
        for arrays on the CPU. "cuda" is the default for arrays on a CUDA device, and takes no
        others. "emulated" runs the very CUDA kernels on arrays on the CPU, compiled by a C++
        compiler, thread by thread: for tests, slow.

    Raises
    ------
    ValueError
        If there is no backend of that name.
    ImportError
        If the backend is "cpu" and its compiled module is missing, or "cuda" and CuPy is.
    RuntimeError
        If the backend is "cuda" and there is no CUDA device.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x = np.ones((1, 1, 4), np.float32)
    >>> w = np.ones((1, 1, 3), np.float32)
    >>> with pydeform.use_backend("ref"):
    ...     pydeform.deform_conv1d(x, None, w)
    array([[[3., 3.]]], dtype=float32)
    """
    if name not in BACKENDS:
        raise ValueError(f"name: expected one of {BACKENDS}, got {name!r}")
    load(name)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def load(name: str) -> Any:
    """Import the backend of this name: a module with the functions that every backend has."""
    if name == "ref":
        return import_module("pydeform._ref")
    if name != "cpu":
        if name == "cuda":
            _cuda.cupy()
        return import_module("pydeform._gpu")
    try:
        _cpu = import_module("pydeform._cpu")
    except ModuleNotFoundError as error:
        if error.name != "pydeform._cpu":
            raise
        raise ImportError(_NOT_BUILT) from error
    # In a source tree the folder of sources answers to the same name where nothing was built.
    if not hasattr(_cpu, "deform_conv"):
        raise ImportError(_NOT_BUILT)
    return _cpu


def backend_for(device: str) -> tuple[Any, tuple[str, ...]]:
    """Return the backend for arrays on this device and the names of the dtypes it takes."""
    kind = device.partition(":")[0]
    name = _forced.get() or kind
    if kind not in ("cpu", "cuda"):
        raise TypeError(
            f"arrays on {device}: expected arrays on the CPU or on a CUDA device; "
            "move them there first"
        )
    if name == "cuda" and kind == "cpu":
        raise TypeError(
            'arrays on cpu: expected CUDA arrays inside use_backend("cuda"); move them there '
            'first, or run the CUDA kernels on the CPU, slowly, inside use_backend("emulated")'
        )
    if kind == "cuda" and name != "cuda":
        raise TypeError(
            f"arrays on {device}: expected arrays on the CPU inside use_backend({name!r}); "
            "move them there, as in x.cpu() or x.get()"
        )
    return load(name), (*_FLOATS, "longdouble", "object") if name == "ref" else _FLOATS
