"""Every recipe and part runs on arrays of any library, and is documented with an example."""

import doctest
from pathlib import Path

import array_api_strict
import numpy as np
import numpydoc.validate
import pytest

from pydeform import parts, recipes
from pydeform.recipes._vjp import _walk

# What is not asked for: extended summaries, punctuation of descriptions, names of what is returned.
IGNORED = {"ES01", "GL01", "GL02", "GL03", "PR06", "RT02", "SA01", "SA04", "YD01"}
PRIMITIVES = {
    "cumulative_taps", "deform_conv1d", "deform_conv2d", "deform_conv3d", "local_conv1d",
    "local_conv2d", "local_conv3d", "mix_kernels", "sample", "scale_taps", "splat",
    "static_offsets",
}  # fmt: skip
NAMES = [f"recipes.{name}" for name in recipes.__all__ if name not in PRIMITIVES]
NAMES += [f"parts.{name}" for name in parts.__all__]


def lookup(name):
    module, _, function = name.partition(".")
    return getattr({"recipes": recipes, "parts": parts}[module], function)


X, W = (2, 4, 6, 8), (3, 4, 3, 3)
CALLS = {
    "recipes.active_convolution": ([X, (3, 4, 5), (5, 2), (3,)], {}),
    "recipes.adaptive_dck": ([X, W, (5, 4, 3, 3), (3, 5), (3,), (3,)], {"tile": 2}),
    "recipes.carafe": ([X, (2, 4), (36, 2, 3, 3), (36,)], {}),
    "recipes.cond_conv": ([X, (2, *W), (2, 4), (2,)], {"padding": 1}),
    "recipes.deformable_kernels": ([X, (4, 4, 4), (18, 4, 3, 3), (18,)], {}),
    "recipes.dynamic_conv": ([X, (2, *W), (3, 4), (2, 3), (2,), (2, 3)], {}),
    "recipes.dynamic_conv1d": ([(2, 4, 7), (6, 4)], {"heads": 2}),
    "recipes.dynamic_filter": ([X, (2, 5), (5, *W), W], {}),
    "recipes.dynamic_local_filter": ([X, (2, 3, 4, 6), (9, 3), (9,)], {"normalise": True}),
    "recipes.dynamic_snake_conv": ([X, (3, 4, 1, 5), (5, 4, 3, 3), (5,), (3,)], {}),
    "recipes.involution": ([X, (3, 4), (18, 3)], {"kernel_size": 3, "groups": 2, "stride": 2}),
    "recipes.kernel_prediction": ([X, (2, 4, 9, 6, 8)], {}),
    "recipes.ldconv": ([X, (3, 4, 5), (10, 4, 3, 3), (10,), (3,)], {}),
    "recipes.lightweight_conv": ([(2, 4, 7), (2, 3), (4,)], {}),
    "recipes.odconv": ([X, (2, *W), (5, 4), (9, 5), (4, 5), (3, 5), (2, 5)], {}),
    "recipes.pixel_adaptive_conv": ([X, (2, 3, 6, 8), W, (3,)], {"padding": 1}),
    "recipes.scale_adaptive_conv": ([X, W, (1, 4, 3, 3), (1,), (3,)], {"stride": 2}),
    "recipes.selective_kernels": ([X, [W, (3, 4, 5, 5)], (2, 3), (6, 2)], {}),
    "recipes.separable_adaptive_conv": ([X, (2, 3, 4, 6), (2, 3, 4, 6)], {}),
    "recipes.switchable_atrous_conv": ([X, W, W, (1, 4), (1,), (3,)], {}),
    "parts.context_aggregate": ([(2, 3, 4), (4,)], {}),
    "parts.context_extract": ([[(2, 4, 1, 1), (2, 4, 2, 2)], [(3, 4), (3, 4)]], {}),
    "parts.context_pyramid": ([X], {"levels": (1, 2)}),
    "parts.dilated_conv": ([X, W, 2], {}),
    "parts.distillation_loss": ([(2, 5), (2, 5), "labels"], {"hard": 0.3}),
    "parts.drop_block": ([X, "mask"], {}),
    "parts.feature_reuse": ([X, W, (3, 4, 6)], {}),
    "parts.global_context_residual": ([X, (4, 4), (4,)], {}),
    "parts.label_smoothing_loss": ([(2, 5), "labels"], {}),
    "parts.per_position_head": ([X, (3, 4), (3,)], {"average": "probabilities"}),
    "parts.spatial_pyramid_map": ([X], {"windows": (3,)}),
    "parts.spatial_pyramid_pool": ([X], {"levels": (1, 4)}),
}


def arguments(shapes, rng):
    """NumPy arrays of these shapes; lists of shapes become lists."""
    if isinstance(shapes, list):
        return [arguments(shape, rng) for shape in shapes]
    if shapes == "labels":
        return np.array([3, 0])
    if shapes == "mask":
        return (rng.random(X) < 0.8) * 1.0
    return rng.normal(size=shapes) if isinstance(shapes, tuple) else shapes


def libraries():
    yield pytest.param(array_api_strict.asarray, id="array_api_strict")
    try:
        import torch
    except ImportError:
        return
    yield pytest.param(torch.asarray, id="torch")


def test_every_function_is_called():
    assert set(CALLS) == set(NAMES) - {"recipes.vjp", "parts.drop_block_mask"}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("convert", list(libraries()))
def test_arrays_of_any_library_give_the_same_bits(name, convert):
    shapes, options = CALLS[name]
    args = arguments(shapes, np.random.default_rng(3))
    expected = lookup(name)(*args, **options)
    given = _walk(args, lambda x: convert(x) if isinstance(x, np.ndarray) else x)
    found = lookup(name)(*given, **options)
    if not isinstance(expected, tuple):
        expected, found = (expected,), (found,)
    for one, other in zip(expected, found, strict=True):
        assert type(other) is type(convert(np.ones(1)))
        # Sums and exponentials of another library round elsewhere.
        np.testing.assert_allclose(np.from_dlpack(other), one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["recipes.cond_conv", "recipes.adaptive_dck", "recipes.carafe"])
def test_float32_stays_float32(name):
    shapes, options = CALLS[name]
    args = [a.astype(np.float32) for a in arguments(shapes, np.random.default_rng(3))]
    output, pullback = recipes.vjp(lookup(name), *args, **options)
    assert output.dtype == np.float32
    assert {grad.dtype for grad in pullback(output)} == {np.dtype(np.float32)}


def test_libraries_are_not_mixed():
    x, w = np.ones((1, 2, 4)), array_api_strict.ones((2, 2))
    with pytest.raises(TypeError, match=r"mixed arrays: .* got input numpy.ndarray, weight array_"):
        parts.global_context_residual(x, w)
    with pytest.raises(TypeError, match=r"weight: expected an array with __array_namespace__"):
        parts.global_context_residual(x, 2.0)


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name):
    function = lookup(name)
    examples = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert sum(len(e.examples) for e in examples) > 0
    for example in examples:
        result = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(example)
        assert result.failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_follow_numpydoc(name):
    found = numpydoc.validate.validate(f"pydeform.{name}")["errors"]
    assert [error for error in found if error[0] not in IGNORED] == []


DOCS = Path(__file__).parents[2] / "docs"
with_docs = pytest.mark.skipif(
    not DOCS.exists(), reason="the tests of an installed package have no documentation"
)


@with_docs
@pytest.mark.parametrize("name", NAMES)
def test_every_function_has_its_line(name):
    module, _, function = name.partition(".")
    text = (DOCS / "reference" / f"{module}.md").read_text(encoding="utf-8")
    assert f"| `{function}` |" in text or name == "recipes.vjp"


@with_docs
def test_the_page_runs():
    page = DOCS / "reference" / "recipes.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0
