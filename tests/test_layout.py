"""One operation, one word: the same files, names and signatures on every floor.

A primitive has kernels: its file stands on every floor. What is composed of primitives needs none
below `ops`. Which is which is said by what the specification has.
"""

import ast
import inspect
import pkgutil
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType

import numpydoc.docscrape
import pytest

import pydeform
import pydeform._ref
import pydeform.ops

STEMS = [m.name for m in pkgutil.iter_modules(pydeform.ops.__path__) if m.name[0] != "_"]
SPECIFIED = {m.name for m in pkgutil.iter_modules(pydeform._ref.__path__)}
PRIMITIVES = [stem for stem in STEMS if stem in SPECIFIED]
KINDS = ["", "_backward", "_jvp", "_double_backward"]
RANKS = [1, 2, 3]
RANKED = ["deform_conv", "local_conv"]


def public(module):
    """The functions that a module exports, by name."""
    found = {name: getattr(module, name) for name in module.__all__}
    return {name: f for name, f in found.items() if inspect.isfunction(f)}


# Functions of `pydeform`, and those of the modules that it exports as they are.
OPERATIONS = {
    **public(pydeform.ops),
    **{
        f"{stem}.{name}": function
        for stem in STEMS
        if isinstance(getattr(pydeform.ops, stem, None), ModuleType) and stem in pydeform.__all__
        for name, function in public(getattr(pydeform.ops, stem)).items()
    },
}
DIFFERENTIABLE = [name for name in OPERATIONS if f"{name}_backward" in OPERATIONS]

ROOT = Path(__file__).parent.parent
in_a_source_tree = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="the tests of an installed package have no sources"
)


def stub():
    """The functions that _cpu.pyi declares, by name."""
    text = resources.files("pydeform").joinpath("_cpu.pyi").read_text(encoding="utf-8")
    return {n.name: n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}


def test_there_are_operations():
    assert {"deform_conv", "local_conv", "sample"} == set(PRIMITIVES)
    assert set(PRIMITIVES) <= set(pydeform._ref.__all__)
    assert len(STEMS) > len(PRIMITIVES)


@pytest.mark.parametrize("stem", RANKED)
@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_has_the_function(stem, kind):
    assert callable(getattr(import_module(f"pydeform.ops.{stem}"), stem + kind))
    for rank in RANKS:
        name = f"{stem}{rank}d{kind}"
        assert name in pydeform.__all__
        assert getattr(pydeform, name) is getattr(pydeform.ops, name)
        assert getattr(pydeform, name).__name__ == name


@pytest.mark.parametrize("name", pydeform._ref.__all__)
def test_backends_have_the_same_signatures(name):
    reference = inspect.signature(getattr(import_module("pydeform._ref"), name))
    compiled = inspect.signature(getattr(import_module("pydeform._cpu"), name))
    device = inspect.signature(getattr(import_module("pydeform._gpu"), name))
    declared = stub()[name].args
    assert not declared.defaults
    assert not declared.kwonlyargs
    names = list(reference.parameters)
    assert names[0] == "geometry"
    assert list(compiled.parameters) == names
    assert list(device.parameters) == names
    assert [a.arg for a in (*declared.posonlyargs, *declared.args)] == names


def test_the_stub_declares_what_is_compiled():
    module = import_module("pydeform._cpu")
    public = {n for n, f in vars(module).items() if callable(f) and not isinstance(f, type)}
    public = {name for name in public if not name.startswith("_")}
    assert public == set(stub())


@in_a_source_tree
@pytest.mark.parametrize("stem", STEMS)
def test_every_floor_has_the_file(stem):
    for path in (
        f"pydeform/ops/{stem}",
        f"tests/ops/test_{stem}",
        f"docs/reference/{stem}",
        *([f"pydeform/_ref/{stem}", f"pydeform/_cpu/{stem}"] * (stem in PRIMITIVES)),
        *([f"pydeform/_gpu/{stem}"] * (stem in PRIMITIVES)),
    ):
        found = [path + end for end in (".py", "/__init__.py", ".md", ".pxi")]
        assert any((ROOT / name).is_file() for name in found), path


def test_the_gpu_has_every_function():
    """Of the other backends; what is beside them on the CPU concerns threads and its build."""
    device = import_module("pydeform._gpu")
    assert set(pydeform._ref.__all__) <= set(device.__all__)
    assert set(stub()) - set(device.__all__) == {
        "build_info",
        "empty",
        "get_num_threads",
        "max_threads",
        "set_num_threads",
    }


@in_a_source_tree
def test_files_stay_short():
    for folder in ("pydeform", "tests", "docs", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".pyx", ".pxi", ".h", ".md", ".cu", ".cuh", ".cpp"}:
                lines = len(path.read_text(encoding="utf-8").splitlines())
                assert lines < 400, f"{path}: {lines} lines"


def test_the_public_names():
    assert sorted(pydeform.__all__) == pydeform.__all__
    assert set(pydeform.ops.__all__) < set(pydeform.__all__)
    assert all(hasattr(pydeform, name) for name in pydeform.__all__)


def signature(name):
    """Names of the positional and of the keyword-only parameters."""
    found = inspect.signature(OPERATIONS[name]).parameters.values()
    return (
        [p.name for p in found if p.kind is not p.KEYWORD_ONLY],
        {p.name for p in found if p.kind is p.KEYWORD_ONLY},
    )


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_four_functions_take_the_same(name):
    """The derivatives take what the operation takes, in its order, and what they are for."""
    arguments, options = signature(name)
    extra = ["deterministic"] if name.startswith("deform_conv") else []
    assert signature(f"{name}_backward") == (
        ["grad_output", *arguments],
        {*options, "needs", *extra},
    )
    assert signature(f"{name}_jvp") == (arguments, {*options, "tangents"})
    assert signature(f"{name}_double_backward") == (
        ["grad_grads", "grad_output", *arguments],
        {*options, "needs"},
    )
    plain = inspect.signature(OPERATIONS[name]).parameters
    for kind in KINDS[1:]:
        for parameter in inspect.signature(OPERATIONS[name + kind]).parameters.values():
            if parameter.name in plain:
                assert parameter.default == plain[parameter.name].default


@pytest.mark.parametrize("rank", RANKS)
def test_deform_conv_begins_like_torchvision(rank):
    assert signature(f"deform_conv{rank}d") == (
        ["input", "offset", "weight", "bias", "stride", "padding", "dilation", "mask"],
        {"groups", "offset_groups", "mode", "kink", "layout", "out"},
    )


@pytest.mark.parametrize("stem", RANKED)
@pytest.mark.parametrize("kind", KINDS)
def test_the_ranks_are_documented_alike(stem, kind):
    """What is said of one rank is said of all, but for names of axes."""

    def sections(rank):
        doc = inspect.getdoc(getattr(pydeform, f"{stem}{rank}d{kind}"))
        doc = numpydoc.docscrape.NumpyDocString(doc)
        names = [p.name for p in doc["Parameters"]]
        errors = [(p.type, p.desc) for p in doc["Raises"]]
        return (
            names,
            str(errors).replace(f"{rank}d", "nd"),
            len(doc["Notes"]),
            bool(doc["Examples"]),
        )

    assert sections(1) == sections(2) == sections(3)
