"""What was built, what is found, which vector code runs."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from shutil import which

from pydeform import _cuda, _dispatch, _threads
from pydeform._version import __version__

# Packages that pydeform can work with or be compared to, and the distributions that have them.
_PEERS = {
    **{name: (name,) for name in ("scipy", "ml_dtypes", "torch", "torchvision", "mmcv", "jax")},
    **{name: (name,) for name in ("keras", "onnx", "dask")},
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy-rocm-7-0", "cupy"),
}


@dataclass(frozen=True)
class Info:
    """What `pydeform.info` found; `str()` of it is a readable table.

    Attributes
    ----------
    versions : dict of str to str
        Of pydeform, Python and NumPy.
    platform : str
        System and machine.
    backends : dict of str to str
        Of each backend, "available" or why it is not.
    build : dict of str to object
        How the compiled backend was built: compiler, openmp, vector_levels (compiled in) and
        vector_level (which one this processor runs); empty where it is missing.
    threads : int
        Threads of the compiled backend; 0 where it is missing.
    peers : dict of str to str
        Versions of the optional packages that are installed.
    cuda : dict of str to object
        Versions of CuPy, of the CUDA runtime and of what the driver supports, and the devices;
        empty where CuPy was not asked or does not work.
    """

    versions: dict[str, str]
    platform: str
    backends: dict[str, str]
    build: dict[str, object]
    threads: int
    peers: dict[str, str]
    cuda: dict[str, object]

    def __str__(self) -> str:
        """Return a table, one fact a line."""
        rows = [*self.versions.items(), ("platform", self.platform)]
        rows += [(f"backend {name}", state) for name, state in self.backends.items()]
        rows += [(key.replace("_", " "), _text(value)) for key, value in self.build.items()]
        rows += [("threads", str(self.threads))] if self.threads else []
        rows += [(key.replace("_", " "), _text(value)) for key, value in self.cuda.items()]
        rows.append(
            ("found", ", ".join(f"{k} {v}" for k, v in self.peers.items()) or "no optional package")
        )
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _version(*distributions: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # a fifth of our import time

    for distribution in distributions:
        with suppress(PackageNotFoundError):
            return version(distribution)
    return "(version unknown)"


def _state(name: str, cuda: bool) -> str:
    """Return "available", or why a backend is not."""
    if name == "cuda" and not cuda and "cupy" not in sys.modules and _found("cupy"):
        return "not asked: CuPy is installed; info(cuda=True) imports it and looks for devices"
    if name == "emulated" and which((os.environ.get("CXX") or "g++").split()[0]) is None:
        return "not available: no C++ compiler found (CXX names another than g++)"
    try:
        _dispatch.load(name)
    except (ImportError, RuntimeError) as error:
        return f"not available: {error}"
    return "available"


def _found(name: str) -> bool:
    return sys.modules.get(name) is not None or find_spec(name) is not None


def info(*, cuda: bool = False) -> Info:
    """Tell what was built, what is found and which vector code runs.

    Parameters
    ----------
    cuda : bool
        Import CuPy, where it is installed, and ask it for devices and driver. Otherwise it is asked
        if it has been imported already.

    Returns
    -------
    Info
        A frozen dataclass; `print` shows it as a table. Nothing optional is imported but what
        `cuda` says.

    Examples
    --------
    >>> import pydeform
    >>> pydeform.info().backends["ref"]
    'available'
    """
    backends = {name: _state(name, cuda) for name in _dispatch.BACKENDS}
    built = backends["cpu"] == "available"
    return Info(
        versions={
            "pydeform": __version__,
            "python": platform.python_version(),
            "numpy": _version("numpy"),
        },
        platform=f"{platform.system()} {platform.machine()}",
        backends=backends,
        build=dict(_dispatch.load("cpu").build_info()) if built else {},
        threads=_threads.get_num_threads() if built else 0,
        peers={name: _version(*dists) for name, dists in _PEERS.items() if _found(name)},
        cuda=_cuda.found() if backends["cuda"] == "available" else {},
    )
