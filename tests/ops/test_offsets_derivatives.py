"""Every function made of rules: its derivatives are those of what it computes.

The output is affine in the arguments named below, all at once where there is but one or they only
add up: there a central difference of any step, 1/4 here, is the derivative, and on dyadic values
every number is exact, so equality is to the bit. Elsewhere longdouble and the difference of fourth
order with step h = 2^-13: its truncation is h^4/30 times the fifth derivative, about 1e-17 of it,
and its rounding 2^-64/h, 4e-16 of the values; 1e-13 allows for derivatives of a few thousand. Where
longdouble is float64, h = 2^-10 gives 3e-14 and 1e-13, and the same allowance 3e-10.
"""

import inspect
import pickle

import numpy as np
import pytest

import pydeform
from pydeform import offsets
from pydeform.ops._composed import Formulas, positions_last

WIDE = np.finfo(np.longdouble).eps < 2.0**-60
H, TOLERANCE = (2.0**-13, 1e-13) if WIDE else (2.0**-10, 3e-10)


def dyadic(rng, shape):
    return rng.integers(-16, 17, shape) / 8


def positive(rng, shape):
    return rng.integers(4, 17, shape) / 8


FIRST, LAST = "channels_first", "channels_last"


def parameters(rng, form, layout=FIRST, shift=True, **options):
    """size and shift of a 3 x 2 kernel at 2 x 3 positions (of 3 x 5 in tiles of 2 x 2)."""
    tail = ((2,), (2, 2), (2, 2, 2))[form]
    place = (2, 3)
    sizes = (2, *place, *tail) if layout == LAST else (2, *tail, *place)
    shifts = (2, *place, 2, 2) if layout == LAST else (2, 2, 2, *place)
    arrays = {"size": positive(rng, sizes)}
    if shift:
        arrays["shift"] = dyadic(rng, shifts)
    return arrays, {"kernel_size": (3, 2), "layout": layout, **options}


def fields(rng, layout=FIRST, **options):
    """Offsets of 2 groups of a 3 x 2 kernel at 2 x 3 positions."""
    shape = (2, 2, 3, 24) if layout == LAST else (2, 24, 2, 3)
    return {"offset": dyadic(rng, shape)}, {"layout": layout, **options}


def cases():
    """Name of the case -> name of the function, arrays, options, and whether all is affine."""
    rng = np.random.default_rng(0)
    tiled = {"tile": 2, "output_size": (3, 5)}
    found = {}

    def add(name, arrays_options, label="", affine=False):
        found[f"{name} {label}".strip()] = (name, *arrays_options, affine)

    add("scale_taps", parameters(rng, 0), affine=True)
    add("scale_taps", parameters(rng, 0, shift=False), "without shift", affine=True)
    add("scale_taps", parameters(rng, 1, dilation=(2, 3)), "per axis", affine=True)
    add("scale_taps", parameters(rng, 1, LAST), "last", affine=True)
    add("scale_taps", parameters(rng, 2, dilation=2), "matrix", affine=True)
    add("scale_taps", parameters(rng, 2, LAST, **tiled), "matrix tiled last", affine=True)
    add("scale_taps", parameters(rng, 0, **tiled), "tiled", affine=True)
    add("scale_taps", parameters(rng, 0, log=True), "log")
    add("scale_taps", parameters(rng, 1, LAST, log=True, **tiled), "log tiled last")
    add("gaussian_window", parameters(rng, 0))
    add("gaussian_window", parameters(rng, 0, shift=False), "without shift")
    add("gaussian_window", parameters(rng, 1, LAST), "per axis last")
    add("gaussian_window", parameters(rng, 1, log=True, **tiled), "log tiled")
    add("box_window", parameters(rng, 1))
    box = [(0.75, 1.5), (1.25, 0.5)]
    for smooth in (False, True):
        label = "smooth" if smooth else ""
        add("project_box", fields(rng, bounds=box, smooth=smooth), label)
        add("project_ball", fields(rng, eps=1.3, smooth=smooth), label)
        moved = fields(rng, LAST, eps=1.3, center=(0.3, -0.2), smooth=smooth)
        add("project_ball", moved, f"{label} moved last")
        add("constrain", fields(rng, kernel_size=(2, 3), smooth=smooth), label)
    one_sided = fields(rng, bounds=[(0, 1), (np.inf, 1)], smooth=True)
    add("project_box", one_sided, "one-sided smooth")
    add("cumulative_taps", fields(rng, kernel_size=(3, 2), axis=0), affine=True)
    add("cumulative_taps", fields(rng, LAST, kernel_size=(2, 3)), "last", affine=True)
    spacing = ({"offset": dyadic(rng, (2, 3, 2))}, {"batch": 2, "output_size": (3, 2)})
    add("static_offsets", spacing, affine=True)
    long = ({"offset": dyadic(rng, (1, 28, 2, 1))}, {"kernel_size": (2, 7)})
    add("cumulative_taps", long, "long", affine=True)
    one = ({"offset": dyadic(rng, (1, 1))}, {"batch": 1, "output_size": 1})
    add("static_offsets", one, "one", affine=True)
    flat = ({"offset": dyadic(rng, (1, 1, 1))}, {"kernel_size": (1,)})
    add("sampling_locations", flat, "one axis", affine=True)
    last = ({"offset": dyadic(rng, (3, 1))}, {"batch": 2, "output_size": 3, "layout": LAST})
    add("static_offsets", last, "last", affine=True)
    place = {"kernel_size": (3, 2), "stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": 2}
    add("sampling_locations", fields(rng, **place), affine=True)
    add("sampling_locations", fields(rng, LAST, **place), "last", affine=True)
    lattice = {"matrix": dyadic(rng, (2, 2, 2)), "shift": dyadic(rng, (2, 2))}
    add("affine_lattice", (lattice, {"size": (3, 4), "output_size": (2, 5)}), affine=True)
    experts = {"weights": dyadic(rng, (2, 3)), "experts": dyadic(rng, (3, 2, 4))}
    add("mix_kernels", (experts, {}))
    return found


CASES = cases()
JUMPS = ("project_box", "project_ball", "constrain", "box_window")


@pytest.fixture(autouse=True)
def longdouble():
    """Have longdouble accepted."""
    with pydeform.use_backend("ref"):
        yield


@pytest.fixture(params=CASES)
def case(request):
    """Off the kinks: where a projection bends, no difference tells a derivative."""
    name, arrays, options, affine = CASES[request.param]
    arrays = {n: np.array(a, np.float64 if affine else np.longdouble) for n, a in arrays.items()}
    if name in JUMPS:
        for array in arrays.values():
            array += np.longdouble("0.0113")
    return name, arrays, options, affine


def functions(name):
    module = pydeform if hasattr(pydeform, name) else offsets
    return [getattr(module, name + kind) for kind in ("", "_backward", "_jvp", "_double_backward")]


def rules_of(function):
    """The rules that a public function hands on: the one object of that kind in its code."""
    module = inspect.getmodule(function)
    (rules,) = (
        found
        for found in map(vars(module).get, function.__code__.co_names)
        if isinstance(found, Formulas)
    )
    return rules


def difference(function, arrays, direction, affine):
    """The derivative of a function of arrays along a direction of some of them."""

    def moved(step):
        there = {n: a + step * direction[n] if n in direction else a for n, a in arrays.items()}
        return function(there)

    if affine:
        return (moved(0.25) - moved(-0.25)) / 0.5  # sizes are 1/2 at least
    return (8 * (moved(H) - moved(-H)) - (moved(2 * H) - moved(-2 * H))) / (12 * H)


def directions(arrays, seed):
    rng = np.random.default_rng(seed)
    return {n: rng.integers(-1, 2, a.shape).astype(a.dtype) for n, a in arrays.items()}


def agree(found, expected, affine):
    if affine:
        np.testing.assert_array_equal(found, expected)
    else:
        scale = 1 + np.max(np.abs(expected), initial=0)
        assert np.max(np.abs(found - expected), initial=0) <= TOLERANCE * scale


def test_the_jvp_is_the_derivative(case):
    name, arrays, options, affine = case
    function, _, jvp, _ = functions(name)
    for only in (*arrays, None):
        tangents = {n: d for n, d in directions(arrays, 1).items() if only in (None, n)}
        output, tangent = jvp(**arrays, **options, tangents=tangents)
        np.testing.assert_array_equal(output, function(**arrays, **options))
        expected = difference(lambda at: function(**at, **options), arrays, tangents, affine)
        agree(tangent, expected, affine)


def test_the_backward_function_is_the_adjoint(case):
    name, arrays, options, affine = case
    function, backward, jvp, _ = functions(name)
    output = function(**arrays, **options)
    grad_output = directions({"y": output}, 2)["y"]
    grads = backward(grad_output, **arrays, **options)
    for argument, array in arrays.items():
        grad = getattr(grads, argument)
        assert (grad.shape, grad.dtype) == (array.shape, array.dtype)
        tangents = {argument: directions(arrays, 3)[argument]}
        tangent = jvp(**arrays, **options, tangents=tangents)[1]
        expected = np.sum(grad_output * tangent)
        agree(np.sum(grad * tangents[argument]), expected, affine)


def test_the_double_backward_function_is_the_derivative_of_the_backward_function(case):
    name, arrays, options, affine = case
    function, backward, jvp, double_backward = functions(name)
    output = function(**arrays, **options)
    grad_output = directions({"y": output}, 4)["y"]
    grad_grads = directions(arrays, 5)
    found = double_backward(grad_grads, grad_output, **arrays, **options)
    tangent = jvp(**arrays, **options, tangents=grad_grads)[1]
    np.testing.assert_array_equal(found.grad_output, tangent)

    def paired(at):
        grads = backward(grad_output, **at, **options)
        return sum(np.sum(getattr(grads, n) * g) for n, g in grad_grads.items())

    for argument in arrays:
        direction = {argument: directions(arrays, 6)[argument]}
        expected = difference(paired, arrays, direction, affine)
        agree(np.sum(getattr(found, argument) * direction[argument]), expected, affine)


def test_the_derivatives_know_what_is_needed(case):
    name, arrays, options, _ = case
    function, backward, _, double_backward = functions(name)
    grad_output = np.ones_like(function(**arrays, **options))
    first = next(iter(arrays))
    grads = backward(grad_output, **arrays, **options, needs=(first,))
    assert [field for field in grads._fields if getattr(grads, field) is not None] == [first]
    pickle.loads(pickle.dumps(grads))
    found = double_backward({}, grad_output, **arrays, **options, needs=("grad_output",))
    assert not np.any(found.grad_output)
    assert all(getattr(found, n) is None for n in arrays)


def test_no_result_shares_memory_with_an_argument(case):
    name, arrays, options, _ = case
    function, backward, _, _ = functions(name)
    output = function(**arrays, **options)
    grad_output = np.ones_like(output)
    grads = backward(grad_output, **arrays, **options)
    for result in (output, *grads):
        if result is not None:
            assert result.flags.c_contiguous
            assert result.flags.writeable
            given = (grad_output, *arrays.values())
            assert not any(np.shares_memory(result, array) for array in given)


def test_strides_change_no_bits():
    """A sum along memory takes another order than one across it."""
    grad = np.random.default_rng(7).normal(size=(5, 18, 9, 11))
    place = {"batch": 5, "output_size": (9, 11)}
    spacing = np.zeros((9, 2))
    expected = offsets.static_offsets_backward(grad, spacing, **place)
    strided = np.asfortranarray(grad)[:, :, ::-1][:, :, ::-1]
    found = offsets.static_offsets_backward(strided, spacing, **place)
    np.testing.assert_array_equal(found.offset, expected.offset)


@pytest.mark.parametrize("label", [label for label in CASES if "box_window" not in label])
def test_float32_is_the_rounded_result(label):
    """40 units of float32 of the largest entry: a few operations, or a few dozen added up."""
    name, arrays, options, _ = CASES[label]
    function, backward, _, _ = functions(name)
    exact = function(**arrays, **options)
    single = {n: a.astype(np.float32) for n, a in arrays.items()}
    found = function(**single, **options)
    assert found.dtype == np.float32
    scale = 40 * 2.0**-24 * (1 + np.max(np.abs(exact)))
    np.testing.assert_allclose(found, exact, rtol=0, atol=scale)
    grads = backward(np.ones_like(found), **single, **options)
    assert all(g is None or g.dtype == np.float32 for g in grads)


@pytest.mark.parametrize("label", CASES)
def test_the_rules_keep_to_the_array_api(label):
    """They run on arrays that have nothing but the standard, and give the same."""
    strict = pytest.importorskip("array_api_strict")
    name, arrays, options, _ = CASES[label]
    rules = rules_of(functions(name)[0])
    full = inspect.signature(functions(name)[0]).parameters
    chosen = {n: p.default for n, p in full.items() if n not in rules.names} | options
    plan = rules.plan({n: np.array(a) for n, a in arrays.items()}, chosen)
    first = {
        n: positions_last(a, rules.rank(plan))
        if rules.last(plan) and n in rules.positional
        else np.array(a)
        for n, a in arrays.items()
    }
    grad = np.random.default_rng(8).normal(size=rules.shape(plan))

    def everything(of):
        at = {n: of(a) for n, a in first.items()}
        along = {n: of(np.ones_like(a)) for n, a in first.items()}
        return {
            "output": rules.forward(plan, at),
            "tangent": rules.jvp(plan, along, at),
            **{f"grad {n}": g for n, g in rules.backward(plan, of(grad), at).items()},
            **{f"second {n}": g for n, g in rules.second(plan, along, of(grad), at).items()},
        }

    expected = everything(np.array)
    for key, array in everything(strict.asarray).items():
        assert isinstance(array, type(strict.ones(1))), key
        np.testing.assert_array_equal(np.asarray(array), expected[key], key)


@pytest.mark.parametrize("label", CASES)
def test_torch_tensors_come_back_as_such(label):
    torch = pytest.importorskip("torch")
    name, arrays, options, _ = CASES[label]
    function, backward, _, _ = functions(name)
    tensors = {n: torch.from_numpy(np.array(a)) for n, a in arrays.items()}
    output = function(**tensors, **options)
    np.testing.assert_array_equal(output.numpy(), function(**arrays, **options))
    grads = backward(torch.ones_like(output), **tensors, **options)
    expected = backward(np.ones(tuple(output.shape)), **arrays, **options)
    for grad, other in zip(grads, expected, strict=True):
        assert (grad is None) == (other is None)
        if grad is not None:
            np.testing.assert_array_equal(grad.numpy(), other)
