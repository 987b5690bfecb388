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
