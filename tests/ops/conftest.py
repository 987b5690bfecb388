"""Arguments of a deformable convolution that fit, and how a refusal is checked."""

import numpy as np
import pytest

import pydeform

SIZES = {1: (7,), 2: (6, 7), 3: (5, 6, 7)}


def good_arguments(rank=2, dtype=np.float32):
    """Two samples, six channels in two groups and three offset groups, four outputs."""
    rng = np.random.default_rng(0)
    size, taps = SIZES[rank], 3**rank
    shapes = {
        "input": (2, 6, *size),
        "offset": (2, 3 * taps * rank, *size),
        "weight": (4, 3, *(3,) * rank),
        "bias": (4,),
        "mask": (2, 3 * taps, *size),
    }
    arrays = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    return {**arrays, "padding": 1, "out": np.full((2, 4, *size), 7, dtype)}


@pytest.fixture
def good():
    return good_arguments


@pytest.fixture
def refused():
    """Check one rule: `change` makes good arguments bad, `words` (a | b) are in the message."""

    def check(change, error, words):
        args = good_arguments()
        args.update(change(args))
        before = np.array(args["out"]) if isinstance(args["out"], np.ndarray) else None
        with pytest.raises(error) as caught:
            pydeform.deform_conv2d(**args)
        message = str(caught.value)
        assert [word for word in words.split(" | ") if word not in message] == [], message
        if before is not None:
            np.testing.assert_array_equal(args["out"], before, err_msg="out was written")

    return check


def largest(array):
    return float(np.max(np.abs(array), initial=0))


@pytest.fixture
def close():
    """Check one array against another, in units of the largest entry of the latter."""

    def check(computed, expected, tolerance, name=""):
        computed, expected = np.asarray(computed), np.asarray(expected)
        assert computed.shape == expected.shape, name
        assert largest(computed - expected) <= tolerance * max(largest(expected), 1e-300), name

    return check


@pytest.fixture
def consistent(close):
    """Check the four functions of an operation against each other and against differences.

    All in float64. The output of jvp is that of the operation to the bit; jvp and backward are
    adjoint, and so is the second derivative to itself, up to rounding of sums of some thousand
    products (1e-12). Differences along a direction have an error of h^2 = 1e-10 from third
    derivatives and 1e-16/h = 1e-11 from rounding, times their size (1e-7 is what they agree to).
    """

    def check(name, arrays, constants, seed=0):
        rng = np.random.default_rng(seed)
        function = getattr(pydeform, name)
        backward, jvp, second = (
            getattr(pydeform, name + kind) for kind in ("_backward", "_jvp", "_double_backward")
        )
        output = function(**arrays, **constants)
        y = rng.normal(size=output.shape)
        one, two = ({n: rng.normal(size=a.shape) for n, a in arrays.items()} for _ in range(2))

        def moved(h):
            return {n: a + h * one[n] for n, a in arrays.items()}

        def pair(results, tangents):
            return sum(np.sum(a * tangents[n]) for n, a in results.items())

        h = 1e-5
        primal, tangent = jvp(**arrays, **constants, tangents=one)
        np.testing.assert_array_equal(primal, output)
        ahead, behind = (function(**moved(s), **constants) for s in (h, -h))
        close(tangent, (ahead - behind) / (2 * h), 1e-7, "jvp")

        gradients = backward(y, **arrays, **constants)._asdict()
        gradients = {n: a for n, a in gradients.items() if n in arrays}
        close(pair(gradients, one), np.sum(y * tangent), 1e-12 * y.size, "adjoint")

        results = second(two, y, **arrays, **constants)._asdict()
        results = {n: a for n, a in results.items() if a is not None}
        close(results.pop("grad_output"), jvp(**arrays, **constants, tangents=two)[1], 1e-13)

        def paired(s):
            found = backward(y, **moved(s), **constants)._asdict()
            return pair({n: found[n] for n in arrays}, two)

        difference = (paired(h) - paired(-h)) / (2 * h)
        close(pair(results, one), difference, 1e-6, "second order")
        other = second(one, y, **arrays, **constants)._asdict()
        other = {n: other[n] for n in arrays}
        close(pair(other, two), pair(results, one), 1e-10, "symmetry")

        for needed in arrays:  # alone, each is the same
            alone = backward(y, **arrays, **constants, needs=(needed,))._asdict()
            np.testing.assert_array_equal(alone.pop(needed), gradients[needed])
            assert set(alone.values()) <= {None}

    return check


@pytest.fixture
def composed(close):
    """Check values and gradients against a composition in torch, in float64."""

    def check(torch, name, arrays, constants, composition, tolerance=1e-12, seed=0):
        rng = np.random.default_rng(seed)
        tensors = {n: torch.tensor(a, requires_grad=True) for n, a in arrays.items()}
        output = composition(**tensors, **constants)
        y = rng.normal(size=tuple(output.shape))
        expected = torch.autograd.grad(output, list(tensors.values()), torch.from_numpy(y))
        close(getattr(pydeform, name)(**arrays, **constants), output.detach(), tolerance, "output")
        gradients = getattr(pydeform, name + "_backward")(y, **arrays, **constants)
        for argument, gradient in zip(tensors, expected, strict=True):
            close(getattr(gradients, argument), gradient, tolerance, argument)

    return check


@pytest.fixture
def refused_by():
    """Check a refusal by an operation: `words` (a | b) are in the message, nothing is written."""

    def check(name, arguments, change, error, words):
        arguments = {**arguments, **change(arguments)}
        output = getattr(pydeform, name)
        out = arguments.get("out")
        before = np.array(out) if isinstance(out, np.ndarray) else None
        with pytest.raises(error) as caught:
            output(**arguments)
        message = str(caught.value)
        assert [word for word in words.split(" | ") if word not in message] == [], message
        if before is not None:
            np.testing.assert_array_equal(out, before, err_msg="out was written")

    return check
