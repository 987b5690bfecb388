"""Finite differences for every argument of a recipe."""

import numpy as np
import pytest

from pydeform import recipes

ENTRIES = 24  # at most so many entries of an array are moved one by one; all move together besides


def leaves(value):
    """The floating-point arrays among arguments, in order; tuples and lists are walked."""
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if isinstance(value, np.ndarray) and value.dtype.kind == "f" else []


def replaced(value, old, new):
    """The arguments with one array, the very object, replaced."""
    if isinstance(value, tuple | list):
        return type(value)(replaced(item, old, new) for item in value)
    return new if value is old else value


def difference(function, x, direction, affine, kinks):
    """The derivative along a direction, and how far it may be off, relative to what is added up.

    Affine functions: a central difference with step 1 is the derivative itself. Smooth ones: the
    difference of fourth order with step h = 2^-10, whose truncation is h^4/30 = 3e-14 of the fifth
    derivative and whose rounding is u/h = 1e-13. With kinks, which a rectifier and the cells of
    linear interpolation have, the step is 2^-20 so that none of the samples passes one: truncation
    h^2/6 = 2e-13 of the third derivative, rounding u/h = 1e-10.
    """
    if affine:
        return (function(x + direction) - function(x - direction)) / 2, 2e-13
    if kinks:
        h = 2.0**-20
        return (function(x + h * direction) - function(x - h * direction)) / (2 * h), 1e-9
    h = 2.0**-10
    one = function(x + h * direction) - function(x - h * direction)
    two = function(x + 2 * h * direction) - function(x - 2 * h * direction)
    return (8 * one - two) / (12 * h), 2e-10


def check(recipe, *args, affine=(), kinks=False, seed=0, **options):
    """Compare each gradient that `vjp` gives with differences.

    `affine` numbers the leaves that the output is affine in; `kinks`: derivatives jump.
    """
    rng = np.random.default_rng(seed)
    output, pullback = recipes.vjp(recipe, *args, **options)
    np.testing.assert_array_equal(output, recipe(*args, **options))
    grad_output = rng.normal(size=output.shape)
    grads = pullback(grad_output)
    for number, (x, grad) in enumerate(zip(leaves(args), leaves(grads), strict=True)):
        assert (grad.shape, grad.dtype) == (x.shape, x.dtype)

        def loss(value, x=x):
            return np.sum(grad_output * recipe(*replaced(args, x, value), **options))

        directions = [np.ones_like(x)]
        for index in rng.permutation(x.size)[:ENTRIES]:
            directions.append(np.zeros_like(x))
            directions[-1].flat[index] = 1
        for direction in directions:
            expected, relative = difference(loss, x, direction, number in affine, kinks)
            size = np.sum(np.abs(grad_output * output)) + np.sum(np.abs(grad)) + 1
            error = abs(np.sum(grad * direction) - expected)
            assert error <= relative * size, (number, error / size)
    return output


@pytest.fixture
def check_gradients():
    return check


@pytest.fixture
def normal():
    """Make arrays of normal numbers, one per shape."""
    rng = np.random.default_rng(5)

    def make(*shapes):
        arrays = [rng.normal(size=shape) for shape in shapes]
        return arrays[0] if len(arrays) == 1 else arrays

    return make
