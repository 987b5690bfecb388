"""What `import pydeform` costs and loads, and which module may import which."""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import pydeform

ROOT = Path(__file__).parent.parent

# NumPy comes first: what it costs and loads is its own.
IMPORT = """
import json, sys, time
import numpy
before = set(sys.modules)
start = time.perf_counter()
import pydeform
seconds = time.perf_counter() - start
{then}
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""

USE = """
x = numpy.ones((1, 1, 3), numpy.float32)
pydeform.deform_conv1d(x, None, x)
with pydeform.use_backend("ref"):
    pydeform.deform_conv1d(x, None, x)
str(pydeform.info())
"""


def fresh(then=""):
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.format(then=then)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    seconds, modules = json.loads(done.stdout)
    return seconds, {name.partition(".")[0] for name in modules}


def test_import_is_quick():
    # The best of five, for a busy machine.
    assert min(fresh()[0] for _ in range(5)) < 0.3


@pytest.mark.parametrize("then", ["", USE], ids=["import", "use"])
def test_nothing_optional_is_imported(then):
    _, modules = fresh(then)
    ours = {"pydeform", "numpy"}
    # Cython puts modules of its own beside the one it compiled.
    foreign = {
        name
        for name in modules - ours - sys.stdlib_module_names
        if not name.startswith(("_cython", "cython_runtime"))
    }
    assert foreign == set()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            types.ModuleType("the folder of sources"),
            r"pydeform\._cpu is not built: run `pip install",
        ),
        (
            ModuleNotFoundError(name="pydeform._cpu"),
            r"pydeform\._cpu is not built: run `pip install",
        ),
        (ModuleNotFoundError("no such part", name="part"), "no such part"),
    ],
)
def test_a_missing_backend_says_how_to_build_it(monkeypatch, found, message):
    def import_module(name):
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr("pydeform._dispatch.import_module", import_module)
    x = np.ones((1, 1, 3))
    with pytest.raises(ImportError, match=message):
        pydeform.deform_conv1d(x, None, x)


def test_modules_know_their_own_names():
    for module in ("pydeform.ops", "pydeform.testing"):
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True, timeout=120)


def test_imports_run_one_way():
    """The contracts in pyproject.toml hold."""
    config = ROOT / "pyproject.toml"
    assert config.is_file(), "the contracts are in pyproject.toml, beside the folder of the tests"
    command = "from importlinter.cli import lint_imports_command as lint; lint()"
    options = ["--config", str(config), "--no-cache", "--no-logo"]
    done = subprocess.run(
        [sys.executable, "-c", command, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
