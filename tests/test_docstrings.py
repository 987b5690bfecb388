"""What the documentation shows is what happens."""

import doctest
from operator import attrgetter
from pathlib import Path

import numpydoc.validate
import pytest

import pydeform
import pydeform.testing

NAMESPACES = ("conventions", "offsets")
FUNCTIONS = [n for n in pydeform.__all__ if n[0].islower() and n not in NAMESPACES]
FUNCTIONS += [
    f"{n}.{f}" for n in NAMESPACES for f in getattr(pydeform, n).__all__ if f[0].islower()
]
README = Path(__file__).parent.parent / "README.md"

# What is not asked for: extended summaries, punctuation of descriptions, names of what is returned.
IGNORED = {"ES01", "GL01", "GL02", "GL03", "PR06", "RT02", "SA01", "SA04", "YD01"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples_run(name):
    function = attrgetter(name)(pydeform)
    examples = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert sum(len(e.examples) for e in examples) > 0
    for example in examples:
        result = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(example)
        assert result.failed == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_follow_numpydoc(name):
    found = numpydoc.validate.validate(f"pydeform.{name}")["errors"]
    assert [error for error in found if error[0] not in IGNORED] == []


@pytest.mark.skipif(not README.exists(), reason="the tests of an installed package have no README")
def test_the_readme_runs():
    result = doctest.testfile(
        str(README), module_relative=False, optionflags=doctest.IGNORE_EXCEPTION_DETAIL
    )
    assert result.attempted > 5
    assert result.failed == 0
