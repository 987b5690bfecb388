"""Shapes that do not fit: which error, what its message names, and that nothing was written.

Options are in test_bad_options.py, arrays of the wrong kind in test_bad_arrays.py, the arguments of
derivatives in test_bad_derivatives.py.
"""

import numpy as np
import pytest

import pydeform


def given(**values):
    return lambda args: values


def resized(name, *shape):
    """Replace an argument by one of another shape; -1 keeps the length of an axis."""

    def change(args):
        old = args[name].shape
        new = tuple(o if n == -1 else n for o, n in zip(old, shape, strict=True))
        return {name: np.zeros(new, args[name].dtype)}

    return change


def channels_last(*names):
    return lambda args: {name: np.moveaxis(args[name], 1, -1) for name in names}


# What is changed in good arguments of rank 2, the error, and what its message must say.
RULES = {
    "unbatched input": (
        lambda a: {"input": a["input"][0]},
        ValueError,
        "input | 4 dimensions | got 3 | (6, 6, 7) | input[None]",
    ),
    "input of rank 3": (
        lambda a: {"input": a["input"][..., None]},
        ValueError,
        "input | 4 dimensions | got 5",
    ),
    "flat offset": (
        lambda a: {"offset": a["offset"].reshape(-1)},
        ValueError,
        "offset | 4 dimensions | got 1",
    ),
    "mask of rank 3": (
        lambda a: {"mask": a["mask"][None]},
        ValueError,
        "mask | 4 dimensions | got 5",
    ),
    "weight of rank 1": (
        lambda a: {"weight": a["weight"][..., 0]},
        ValueError,
        "weight | 4 or 5 dimensions | got 3",
    ),
    "bias of rank 2": (
        lambda a: {"bias": a["bias"][None]},
        ValueError,
        "bias | 1 dimensions | got 2 | (out_channels,)",
    ),
    "no channels": (resized("input", 2, 0, -1, -1), ValueError, "input | at least one | 0"),
    "no rows": (resized("input", 2, -1, 0, -1), ValueError, "input | at least one | 0"),
    "no taps": (resized("weight", -1, -1, 0, -1), ValueError, "weight | at least one | 0"),
    "no outputs": (resized("weight", 0, -1, -1, -1), ValueError, "weight | at least one | 0"),
    "channels that do not divide": (
        resized("weight", -1, 4, -1, -1),
        ValueError,
        "weight | divide the 6 input channels | got 4 | (2, 6, 6, 7)",
    ),
    "more channels per group than channels": (
        resized("weight", -1, 12, -1, -1),
        ValueError,
        "weight | divide the 6 input channels | got 12",
    ),
    "outputs that do not divide": (
        resized("weight", 5, -1, -1, -1),
        ValueError,
        "weight | 2 groups | divide | got 5",
    ),
    "groups that do not divide": (given(groups=4), ValueError, "groups | 6 input | got 4"),
    "groups that do not fit": (
        given(groups=3),
        ValueError,
        "weight | 2 channels per group | 3 groups | got 3",
    ),
    "groups 0": (given(groups=0), ValueError, "groups | at least 1 | got 0"),
    "groups float": (given(groups=2.0), TypeError, "groups | int | 2.0 (float)"),
    "groups bool": (given(groups=True), TypeError, "groups | int | True (bool)"),
    "bias length": (resized("bias", 3), ValueError, "bias | (4,) | out_channels | (3,)"),
    "one bias for all": (resized("bias", 1), ValueError, "bias | (4,) | (1,)"),
    "per-sample weight of another batch": (
        lambda a: {"weight": np.stack([a["weight"]] * 3)},
        ValueError,
        "weight | (2, 4, 3, 3, 3) | per sample | (3, 4, 3, 3, 3)",
    ),
    "offset of half the channels": (
        resized("offset", -1, 27, -1, -1),
        ValueError,
        "offset | (2, 54, 6, 7) | offset_groups*9*2, *output | (2, 27, 6, 7) | one offset a tap",
    ),
    "offset of half the given groups": (
        lambda a: {**resized("offset", -1, 27, -1, -1)(a), "offset_groups": 3, "mask": None},
        ValueError,
        "offset | (2, 54, 6, 7) (batch, 3*9*2, *output) | (2, 27, 6, 7)",
    ),
    "half the channels": (
        lambda a: {**resized("offset", -1, 18, -1, -1)(a), "offset_groups": 2, "mask": None},
        ValueError,
        "offset | (2, 36, 6, 7) | (2, 18, 6, 7) | half the channels of 2 offset groups",
    ),
    "twice the channels": (
        resized("offset", -1, 108, -1, -1),
        ValueError,
        "mask | (2, 54, 6, 7) | (2, 27, 6, 7) | half the channels of 6 offset groups",
    ),
    "twice the channels of the given groups": (
        lambda a: {**resized("offset", -1, 108, -1, -1)(a), "offset_groups": 3, "mask": None},
        ValueError,
        "offset | (2, 54, 6, 7) | (2, 108, 6, 7) | twice the channels of 3",
    ),
    "twice the mask": (
        resized("mask", -1, 54, -1, -1),
        ValueError,
        "mask | (2, 27, 6, 7) | (2, 54, 6, 7) | twice the channels of 3 offset groups",
    ),
    "offset and mask in one": (
        lambda a: {**resized("offset", -1, 27, -1, -1)(a), "mask": None},
        ValueError,
        "offset | (2, 18, 6, 7) | (2, 27, 6, 7) | split them after channel 18",
    ),
    "no offset channels": (
        resized("offset", -1, 0, -1, -1),
        ValueError,
        "offset | (2, 54, 6, 7) | (2, 0, 6, 7)",
    ),
    "offset groups that do not divide": (
        lambda a: {**resized("offset", -1, 4 * 18, -1, -1)(a), "mask": None},
        ValueError,
        "offset | divide the 6 input channels | got 4 (72 channels / 18",
    ),
    "mask groups that do not divide": (
        lambda a: {**resized("mask", -1, 36, -1, -1)(a), "offset": None},
        ValueError,
        "mask | divide the 6 input channels | got 4 (36 channels / 9",
    ),
    "given offset groups that do not divide": (
        given(offset_groups=4),
        ValueError,
        "offset_groups | 6 input channels | got 4",
    ),
    "offset groups 0": (given(offset_groups=0), ValueError, "offset_groups | at least 1 | 0"),
    "offset groups bool": (given(offset_groups=True), TypeError, "offset_groups | bool"),
    "offset map smaller than the output": (
        resized("offset", -1, -1, 4, 5),
        ValueError,
        "offset | (2, 54, 6, 7) | (2, 54, 4, 5) | smaller than the output (6, 7)",
    ),
    "offset map larger than the output": (
        resized("offset", -1, -1, 8, 9),
        ValueError,
        "offset | (2, 54, 6, 7) | (2, 54, 8, 9) | not the output (6, 7)",
    ),
    "mask smaller than the output": (
        resized("mask", -1, -1, 6, 6),
        ValueError,
        "mask | (2, 27, 6, 7) | (2, 27, 6, 6) | smaller than the output (6, 7)",
    ),
    "offset of one sample for all": (
        resized("offset", 1, -1, -1, -1),
        ValueError,
        "offset | (2, 54, 6, 7) | (1, 54, 6, 7)",
    ),
    "transposed offset": (
        lambda a: {"offset": a["offset"].swapaxes(2, 3)},
        ValueError,
        "offset | (2, 54, 6, 7) | (2, 54, 7, 6)",
    ),
    "input channels-last": (
        lambda a: {"input": np.zeros((2, 5, 5, 6), np.float32), "offset": None, "mask": None},
        ValueError,
        "weight | channels_last",
    ),
    "offset channels-last": (
        channels_last("offset"),
        ValueError,
        "offset | (2, 54, 6, 7) | (2, 6, 7, 54) | layout='channels_last'",
    ),
    "mask channels-last": (
        channels_last("mask"),
        ValueError,
        "mask | (2, 27, 6, 7) | (2, 6, 7, 27) | layout='channels_last'",
    ),
    "offset channels-first": (
        lambda a: {**channels_last("input", "mask")(a), "layout": "channels_last"},
        ValueError,
        "offset | (2, 6, 7, 54) | (batch, *output, offset_groups*9*2) | 'channels_first'",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule, refused):
    refused(*RULES[rule])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_arguments_that_rules_change_are_good(rank, good):
    args = good(rank)
    result = getattr(pydeform, f"deform_conv{rank}d")(**args)
    assert result is args["out"]
    assert not (result == 7).any()


def test_the_example_of_the_manual():
    args = {
        "input": np.zeros((2, 4, 56, 56)),
        "offset": np.zeros((2, 9, 56, 56)),
        "weight": np.zeros((4, 4, 3, 3)),
    }
    with pytest.raises(ValueError) as caught:
        pydeform.deform_conv2d(**args, padding=1)
    assert str(caught.value).startswith(
        "offset: expected shape (2, 18, 56, 56) (batch, offset_groups*9*2, *output), "
        "got (2, 9, 56, 56)"
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_checks_know_the_rank(rank, good):
    args = good(rank)
    batch, channels, *size = args["offset"].shape
    args["offset"] = args["offset"][:, :-1]
    with pytest.raises(ValueError) as caught:
        getattr(pydeform, f"deform_conv{rank}d")(**args)
    expected = f"{(batch, channels, *size)} (batch, offset_groups*{3**rank}*{rank}, *output)"
    got = (batch, channels - 1, *size)
    assert str(caught.value) == f"offset: expected shape {expected}, got {got}"
