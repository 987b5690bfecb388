"""Every adjoint of the tape against finite differences, and what traced arrays do and refuse."""

import gc
import inspect
import weakref

import array_api_strict
import numpy as np
import pytest

import pydeform
from pydeform import recipes
from pydeform.recipes import _adjoints, _traced
from pydeform.recipes._tape import Traced

CASES = {
    "add": (lambda xp, x, y: xp.add(x, y), (2, 3), (3,)),
    "subtract": (lambda xp, x, y: xp.subtract(x, y), (2, 3), (2, 1)),
    "multiply": (lambda xp, x, y: xp.multiply(x, y), (2, 1, 3), (4, 1)),
    "divide": (lambda xp, x, y: xp.divide(x, y * y + 1), (3,), (2, 3)),
    "maximum": (lambda xp, x, y: xp.maximum(x, y), (2, 3), (3,)),
    "minimum": (lambda xp, x, y: xp.minimum(x, y), (2, 3), (1, 3)),
    "where": (lambda xp, x, y: xp.where(x > y, x * y, y), (2, 3), (3,)),
    "pow": (lambda xp, x: xp.pow(x, 3), (4,)),
    "negative": (lambda xp, x: xp.negative(x), (4,)),
    "exp": (lambda xp, x: xp.exp(x), (4,)),
    "log": (lambda xp, x: xp.log(x * x + 1), (4,)),
    "sqrt": (lambda xp, x: xp.sqrt(x * x + 1), (4,)),
    "tanh": (lambda xp, x: xp.tanh(x), (4,)),
    "sin": (lambda xp, x: xp.sin(x), (4,)),
    "cos": (lambda xp, x: xp.cos(x), (4,)),
    "abs": (lambda xp, x: xp.abs(x), (4,)),
    "square": (lambda xp, x: xp.square(x), (4,)),
    "sum": (lambda xp, x: xp.sum(x * x), (2, 3)),
    "sum over axes": (lambda xp, x: xp.sum(x * x, axis=(0, 2)), (2, 3, 2)),
    "sum kept": (lambda xp, x: xp.sum(x, axis=1, keepdims=True) * x, (2, 3)),
    "mean": (lambda xp, x: xp.mean(x * x, axis=-1), (2, 3)),
    "mean of all": (lambda xp, x: xp.mean(x * x, keepdims=True), (2, 3)),
    "max": (lambda xp, x: xp.max(x, axis=0) * x, (4, 3)),
    "max of all": (lambda xp, x: xp.max(x) * x, (4, 3)),
    "matmul": (lambda xp, x, y: xp.matmul(x, y), (2, 3), (4, 3, 5)),
    "reshape": (lambda xp, x: xp.reshape(x, (3, -1)) ** 2, (2, 3)),
    "permute_dims": (lambda xp, x: xp.permute_dims(x, (2, 0, 1)) ** 2, (2, 3, 4)),
    "broadcast_to": (lambda xp, x: xp.broadcast_to(x, (2, 3, 4)) ** 2, (3, 1)),
    "expand_dims": (lambda xp, x: xp.expand_dims(x, axis=1) * x, (3, 3)),
    "squeeze": (lambda xp, x: xp.squeeze(x, 1) ** 2, (3, 1)),
    "flip": (lambda xp, x: xp.flip(x, axis=1) * x, (2, 3)),
    "concat": (lambda xp, x, y: xp.concat([x, y, x], axis=1) ** 2, (2, 3), (2, 1)),
    "stack": (lambda xp, x, y: xp.stack([x, y], axis=1) ** 2, (2, 3), (2, 3)),
    "getitem": (lambda _, x: x[1:, None, ..., ::2] ** 2, (3, 2, 4)),
    "getitem, one element": (lambda _, x: x[1] * x[-1], (3,)),
    "getitem, twice the same": (lambda _, x: x[np.array([0, 2, 0])] ** 2, (3, 2)),
    "operators": (lambda _, x, y: (2 - x) * 3 / (1 + y * y) + (-x) @ y - abs(y), (3, 3), (3, 3)),
    "arrays on the left": (lambda _, x: np.ones(3) + np.full(3, 2.0) * x, (3,)),
    "twice": (lambda _, x: x * x + x, (3,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_adjoints_are_derivatives(name, check_gradients, normal):
    function, *shapes = CASES[name]

    def recipe(*arrays):
        return function(arrays[0].__array_namespace__(), *arrays)

    check_gradients(recipe, *(normal(shape) for shape in shapes))


def test_every_adjoint_is_tested():
    rules = {
        name
        for name, value in vars(_adjoints).items()
        if inspect.isfunction(value) and value.__annotations__.get("return") == "Ruled"
    }
    other = {"power": "pow"}
    assert {other.get(name, name) for name in rules} <= {name.partition(",")[0] for name in CASES}


def test_the_namespace_has_the_names_of_the_array_api():
    for name in _traced.__all__:
        assert hasattr(array_api_strict, name), name


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda xp, x: xp.maximum(x, 0.0), [0, 1, 1]),  # the first of two equal ones takes it
        (lambda xp, x: xp.minimum(x, 0.0), [1, 1, 0]),
        (lambda xp, x: xp.abs(x), [-1, 0, 1]),
        (recipes._namespace.relu, [0, 0, 1]),
        (lambda xp, x: xp.max(xp.abs(x), axis=0), [-0.5, 0, 0.5]),
    ],
)
def test_kinks_have_one_derivative(function, expected):
    x = np.array([-1.0, 0.0, 1.0])
    output, pullback = recipes.vjp(lambda x: function(x.__array_namespace__(), x), x)
    np.testing.assert_array_equal(pullback(np.ones(output.shape))[0], expected)


def test_where_keeps_nan_on_its_side():
    def chosen(x, y):
        xp = x.__array_namespace__()
        return xp.where(np.array([True, False]), x, y)

    _, pullback = recipes.vjp(chosen, np.ones(2), np.ones(2))
    grad_x, grad_y = pullback(np.array([np.nan, 1.0]))
    np.testing.assert_array_equal(grad_x, [np.nan, 0])
    np.testing.assert_array_equal(grad_y, [0, 1])


def test_arguments_may_be_nested_and_anything():
    def recipe(arrays, power, indices, scale):
        return arrays[0][indices] ** power * arrays[1][0] * scale

    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 5.0])
    indices = np.array([2, 0])
    output, pullback = recipes.vjp(recipe, (x, [y]), 2, indices, scale=10)
    np.testing.assert_array_equal(output, [180, 50])
    (grad_x, (grad_y,)), *rest = pullback(np.ones(2))
    np.testing.assert_array_equal(grad_x, [100, 0, 120])
    np.testing.assert_array_equal(grad_y, [90, 10])
    assert rest == [None, None]


def test_an_argument_without_part_in_the_output_has_gradient_zero():
    _, pullback = recipes.vjp(lambda x, y: x + 0 * x, np.ones(2), np.ones(3))
    np.testing.assert_array_equal(pullback(np.ones(2))[1], np.zeros(3))


def test_pullbacks_can_be_called_again_and_keep_no_state():
    _, pullback = recipes.vjp(lambda x: x * x, np.array([3.0]))
    for factor in (1.0, 2.0, 1.0):
        np.testing.assert_array_equal(pullback(np.array([factor]))[0], [6 * factor])


def test_arguments_are_not_written_to():
    x = np.ones((1, 1, 4))
    x.setflags(write=False)
    recipes.vjp(lambda x: x * 2, x)[1](x)


@pytest.mark.parametrize("dtype", ["float32", "float16", "longdouble"])
def test_gradients_have_the_dtype_of_their_argument(dtype):
    x = np.ones(3, dtype)
    output, pullback = recipes.vjp(lambda x: x * 0.5 + 1, x)
    assert output.dtype == pullback(output)[0].dtype == dtype


def test_arrays_of_other_libraries_come_back_as_their_kind():
    x = array_api_strict.asarray([1.0, 2.0])
    output, pullback = recipes.vjp(lambda x: x * x, x)
    assert type(output) is type(x)
    np.testing.assert_array_equal(np.from_dlpack(pullback(output)[0]), [2, 16])


def test_primitives_compute_only_what_is_traced(monkeypatch):
    asked = []
    backward = pydeform.ops.deform_conv1d_backward

    def spy(*args, **options):
        asked.append(options["needs"])
        return backward(*args, **options)

    monkeypatch.setattr(pydeform.ops, "deform_conv1d_backward", spy)
    w = np.ones((1, 1, 3))
    _, pullback = recipes.vjp(lambda x: recipes.deform_conv1d(x, None, w), np.ones((1, 1, 5)))
    pullback(np.ones((1, 1, 3)))
    assert asked == [("input",)]


def test_primitives_of_plain_arrays_are_the_public_functions():
    x, w = np.ones((1, 1, 5)), np.ones((1, 1, 3))
    found = recipes.deform_conv1d(x, None, w, padding=1)
    np.testing.assert_array_equal(found, pydeform.deform_conv1d(x, None, w, padding=1))


def test_a_tape_is_freed_with_its_pullback():
    _, pullback = recipes.vjp(lambda x: x * 2, np.ones(3))
    tape = weakref.ref(pullback)
    del pullback
    gc.collect()
    assert tape() is None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (np.asarray, "a traced array cannot become a numpy.ndarray"),
        (np.exp, "Traced"),
        (lambda x: pydeform.deform_conv1d(x, None, x), "input: expected an array"),
        (lambda _: 3.0, "recipe: expected a function that returns one array made of its arguments"),
        (lambda x: (x, x), "recipe: expected a function that returns one array"),
    ],
)
def test_what_would_lose_the_gradient_is_refused(function, message):
    with pytest.raises(TypeError, match=message):
        recipes.vjp(function, np.ones((1, 1, 3)))


def test_bad_arguments_of_vjp_are_named():
    def double(x, **_):
        return x * 2

    with pytest.raises(TypeError, match="args: expected at least one array of floating point"):
        recipes.vjp(double, np.arange(3))
    with pytest.raises(TypeError, match=r"scale: expected an option that is no array, got numpy"):
        recipes.vjp(double, np.ones(3), scale=np.ones(3))
    _, pullback = recipes.vjp(double, np.ones(3))
    with pytest.raises(ValueError, match=r"cotangent: expected shape \(3,\), that of the output"):
        pullback(np.ones(4))
    with pytest.raises(TypeError, match="cotangent: expected dtype float64"):
        pullback(np.ones(3, np.float32))
    with pytest.raises(TypeError, match="cotangent: expected an array"):
        pullback([1, 1, 1])


def test_products_of_vectors_are_refused():
    with pytest.raises(ValueError, match="matmul: expected matrices"):
        recipes.vjp(lambda x: x @ x, np.ones(3))


def test_traced_arrays_say_what_they_hold():
    x = Traced(np.ones((2, 3)))
    assert (x.shape, x.ndim, x.size, x.dtype, len(x)) == ((2, 3), 2, 6, np.float64, 2)
    assert repr(x).startswith("Traced(array(")
    assert (x == 1).all()
    assert not (x != 1).any()
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)
