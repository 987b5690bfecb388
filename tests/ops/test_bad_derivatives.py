"""The arguments that only derivatives have: which error, what it says, nothing written."""

import numpy as np
import pytest

import pydeform

ARGUMENTS = ("input", "offset", "weight", "bias", "mask")


@pytest.fixture
def args(good):
    arguments = {**good(), "grad_output": output()}
    del arguments["out"]
    return arguments


class OnDevice:
    """An array on another device, as far as anybody may ask before reading it."""

    def __init__(self, kind, number=0):
        self.device = (kind, number)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **kwargs):
        pytest.fail("the memory of another device was asked for")


def output(dtype=np.float32):
    return np.ones((2, 4, 6, 7), dtype)


RULES = {
    "grad_output None": ({"grad_output": None}, TypeError, "grad_output | None"),
    "grad_output smaller": (
        {"grad_output": output()[..., :-1]},
        ValueError,
        "grad_output | (2, 4, 6, 7) | (2, 4, 6, 6)",
    ),
    "grad_output larger": (
        {"grad_output": np.zeros((2, 4, 7, 7), np.float32)},
        ValueError,
        "grad_output | (2, 4, 6, 7) | (2, 4, 7, 7)",
    ),
    "grad_output flat": (
        {"grad_output": output().ravel()},
        ValueError,
        "grad_output | (2, 4, 6, 7) | (336,)",
    ),
    "grad_output dtype": (
        {"grad_output": output(dtype=np.float64)},
        TypeError,
        "grad_output | float32 | float64",
    ),
    "grad_output integers": (
        {"grad_output": output(dtype=np.int64)},
        TypeError,
        "grad_output | float32 | int64",
    ),
    "grad_output on a GPU": (
        {"grad_output": OnDevice(2)},
        TypeError,
        "grad_output on cuda:0 | input on cpu",
    ),
    "needs text": ({"needs": "input"}, TypeError, "needs | iterable | 'input'"),
    "needs number": ({"needs": 1}, TypeError, "needs | iterable | 1 (int)"),
    "needs unknown": ({"needs": ["inputs"]}, ValueError, "needs | 'input' | 'inputs'"),
    "needs absent": (
        {"needs": ["mask"], "mask": None},
        ValueError,
        "needs | ('input', 'offset', 'weight', 'bias') | 'mask'",
    ),
    "deterministic": ({"deterministic": 1}, TypeError, "deterministic | True or False | 1"),
    "out array": ({"out": output()}, TypeError, "out | mapping | numpy.ndarray"),
    "out unknown": ({"out": {"grad": output()}}, ValueError, "out | 'input' | 'grad'"),
    "out not needed": (
        {"needs": ["input"], "out": {"bias": np.zeros(4, np.float32)}},
        ValueError,
        "out | 'input' | 'bias'",
    ),
    "out shape": (
        {"out": {"bias": np.zeros(5, np.float32)}},
        ValueError,
        "out['bias'] | (4,) | (5,)",
    ),
    "stride 0": ({"stride": 0}, ValueError, "stride | at least 1 | got 0"),
    "input None": ({"input": None}, TypeError, "input | None"),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule_of_backward(rule, args):
    change, error, words = RULES[rule]
    written = {name: np.full_like(args[name], 7) for name in ARGUMENTS}
    with pytest.raises(error) as caught:
        pydeform.deform_conv2d_backward(**{**args, "out": written, **change})
    message = str(caught.value)
    assert [word for word in words.split(" | ") if word not in message] == [], message
    assert all((a == 7).all() for a in written.values())


def test_gradients_do_not_share_memory(args):
    shared = np.zeros_like(args["input"])
    weight = shared.ravel()[:108].reshape(args["weight"].shape)
    with pytest.raises(ValueError, match=r"out\['weight'\].*overlaps out\['input'\]"):
        pydeform.deform_conv2d_backward(**args, out={"input": shared, "weight": weight})


@pytest.mark.parametrize("name", ["deform_conv2d_jvp", "deform_conv2d_double_backward"])
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ([], TypeError, ["{}", "mapping", "list"]),
        (None, TypeError, ["{}", "mapping", "None"]),
        ({"x": output()}, ValueError, ["{}", "'input'", "'x'"]),
        ({"mask": output()}, ValueError, ["{}", "('input', 'offset', 'weight', 'bias')", "'mask'"]),
        ({"bias": np.zeros(3, np.float32)}, ValueError, ["{}['bias']", "(4,)", "(3,)"]),
        ({"bias": np.zeros(4)}, TypeError, ["{}['bias']", "float32", "float64"]),
        ({"bias": [0.0] * 4}, TypeError, ["{}['bias']", "array", "list"]),
        ({"bias": OnDevice(2)}, TypeError, ["{}['bias'] on cuda:0", "input on cpu"]),
    ],
)
def test_rule_of_directions(name, value, error, words, args):
    args["mask"] = None
    argument = "tangents" if name.endswith("jvp") else "grad_grads"
    if argument == "tangents":
        del args["grad_output"]
    with pytest.raises(error) as caught:
        getattr(pydeform, name)(**args, **{argument: value})
    message = str(caught.value)
    words = [word.format(argument) for word in words]
    assert [word for word in words if word not in message] == [], message


def test_double_backward_checks_grad_output(args):
    args.update(grad_output=output()[..., 1:], grad_grads={})
    with pytest.raises(ValueError, match=r"grad_output: expected shape \(2, 4, 6, 7\)"):
        pydeform.deform_conv2d_double_backward(**args)
