"""What was built, what is found, which vector code runs."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.util import find_spec

from pydeform import _dispatch, _threads
from pydeform._version import __version__

# Packages that pydeform can work with or be compared to, as import name: distribution name.
_PEERS = {
    "scipy": "scipy",
    "ml_dtypes": "ml_dtypes",
    "torch": "torch",
    "torchvision": "torchvision",
    "mmcv": "mmcv",
    "jax": "jax",
    "keras": "keras",
    "onnx": "onnx",
    "cupy": "cupy",
    "dask": "dask",
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
        Versions of the optional packages that are installed; none of them was imported.
    """

    versions: dict[str, str]
    platform: str
    backends: dict[str, str]
    build: dict[str, object]
    threads: int
    peers: dict[str, str]

    def __str__(self) -> str:
        """Return a table, one fact a line."""
        rows = [*self.versions.items(), ("platform", self.platform)]
        rows += [(f"backend {name}", state) for name, state in self.backends.items()]
        rows += [(key.replace("_", " "), _text(value)) for key, value in self.build.items()]
        rows += [("threads", str(self.threads))] if self.threads else []
        rows.append(
            ("found", ", ".join(f"{k} {v}" for k, v in self.peers.items()) or "no optional package")
        )
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # a fifth of our import time

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(version unknown)"


def info() -> Info:
    """Tell what was built, what is found and which vector code runs.

    Returns
    -------
    Info
        A frozen dataclass; `print` shows it as a table. Nothing is imported but the compiled
        backend.

    Examples
    --------
    >>> import pydeform
    >>> pydeform.info().backends["ref"]
    'available'
    """
    backends = {}
    for name in _dispatch.BACKENDS:
        try:
            _dispatch.load(name)
            backends[name] = "available"
        except (ImportError, NotImplementedError) as error:
            backends[name] = f"not available: {error}"
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
        peers={
            name: _version(dist) for name, dist in _PEERS.items() if find_spec(name) is not None
        },
    )
