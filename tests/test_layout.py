"""One operation, one word: the same files, names and signatures on every floor."""

import ast
import inspect
import pkgutil
from importlib import import_module, resources
from pathlib import Path

import numpydoc.docscrape
import pytest

import pydeform
import pydeform.ops

STEMS = [m.name for m in pkgutil.iter_modules(pydeform.ops.__path__) if m.name[0] != "_"]
KINDS = ["", "_backward", "_jvp", "_double_backward"]
FUNCTIONS = [stem + kind for stem in STEMS for kind in KINDS]
RANKS = [1, 2, 3]
OPTIONS = ("groups", "offset_groups", "mode", "kink", "layout")
ARRAYS = ("input", "offset", "weight", "bias", "stride", "padding", "dilation", "mask")

ROOT = Path(__file__).parent.parent
in_a_source_tree = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="the tests of an installed package have no sources"
)


def stub():
    """The functions that _cpu.pyi declares, by name."""
    text = resources.files("pydeform").joinpath("_cpu.pyi").read_text(encoding="utf-8")
    return {n.name: n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}


def test_there_are_operations():
    assert "deform_conv" in STEMS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_floor_has_the_function(name):
    stem = next(s for s in STEMS if name.startswith(s))
    assert callable(getattr(import_module(f"pydeform.ops.{stem}"), name))
    for rank in RANKS:
        public = name.replace(stem, f"{stem}{rank}d")
        assert public in pydeform.__all__
        assert getattr(pydeform, public) is getattr(pydeform.ops, public)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_backends_have_the_same_signatures(name):
    reference = inspect.signature(getattr(import_module("pydeform._ref"), name))
    compiled = inspect.signature(getattr(import_module("pydeform._cpu"), name))
    declared = stub()[name].args
    assert not declared.defaults
    assert not declared.kwonlyargs
    names = list(reference.parameters)
    assert names[0] == "geometry"
    assert list(compiled.parameters) == names
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
        f"pydeform/ops/{stem}.py",
        f"pydeform/_ref/{stem}.py",
        f"pydeform/_cpu/{stem}.pxi",
        f"tests/ops/test_{stem}.py",
        f"docs/reference/{stem}.md",
    ):
        assert (ROOT / path).is_file(), path


@in_a_source_tree
def test_files_stay_short():
    for folder in ("pydeform", "tests", "docs", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".pyx", ".pxi", ".h", ".md"}:
                lines = len(path.read_text(encoding="utf-8").splitlines())
                assert lines < 400, f"{path}: {lines} lines"


def test_the_public_names():
    assert sorted(pydeform.__all__) == pydeform.__all__
    assert set(pydeform.ops.__all__) < set(pydeform.__all__)
    assert all(hasattr(pydeform, name) for name in pydeform.__all__)


def parameters(name):
    return inspect.signature(getattr(pydeform, name)).parameters


@pytest.mark.parametrize("rank", RANKS)
def test_the_public_signatures(rank):
    """The first eight arguments are torchvision's, and every function has the same options."""
    stem = f"deform_conv{rank}d"
    expected = {
        stem: (*ARRAYS, *OPTIONS, "out"),
        f"{stem}_backward": ("grad_output", *ARRAYS, *OPTIONS, "needs", "deterministic", "out"),
        f"{stem}_jvp": (*ARRAYS, "tangents", *OPTIONS, "out"),
        f"{stem}_double_backward": (
            "grad_grads",
            "grad_output",
            *ARRAYS,
            *OPTIONS,
            "needs",
            "out",
        ),
    }
    for name, names in expected.items():
        found = parameters(name)
        assert tuple(found) == names
        for parameter in found.values():
            by_name = parameter.name in (*OPTIONS, "tangents", "needs", "deterministic", "out")
            assert (parameter.kind is parameter.KEYWORD_ONLY) == by_name
        defaults = {n: p.default for n, p in found.items()}
        plain = {n: p.default for n, p in parameters("deform_conv2d").items()}
        assert all(defaults[n] == plain[n] for n in (*ARRAYS, *OPTIONS))


@pytest.mark.parametrize("kind", KINDS)
def test_the_ranks_are_documented_alike(kind):
    """What is said of one rank is said of all, but for names of axes."""

    def sections(rank):
        doc = inspect.getdoc(getattr(pydeform, f"deform_conv{rank}d{kind}"))
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
