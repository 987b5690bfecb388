"""Options and sizes that cannot be: which error, what it says, and that nothing was written."""

import numpy as np
import pytest

import pydeform

HUGE = 2**40


def given(**values):
    return lambda args: values


# What is changed in good arguments of rank 2, the error, and what its message must say.
RULES = {
    "layout in letters": (
        given(layout="NHWC"),
        ValueError,
        "layout | channels_first | channels_last | NHWC",
    ),
    "layout None": (given(layout=None), TypeError, "layout | channels_first | None"),
    "mode": (given(mode="reflect"), ValueError, "mode | clip_zero | border | reflect"),
    "mode number": (given(mode=0), TypeError, "mode | zeros | 0 (int)"),
    "kink": (given(kink="left"), ValueError, "kink | right | open | mean | left"),
    "stride 0": (given(stride=0), ValueError, "stride | at least 1 | got 0"),
    "stride negative": (given(stride=(1, -1)), ValueError, "stride | at least 1 | got -1"),
    "stride float": (given(stride=1.5), TypeError, "stride | int | 1.5 (float)"),
    "stride bool": (given(stride=True), TypeError, "stride | int | True (bool)"),
    "stride bools": (given(stride=(1, True)), TypeError, "stride | int | True (bool)"),
    "stride None": (given(stride=None), TypeError, "stride | int | None"),
    "stride of three": (given(stride=(1, 1, 1)), ValueError, "stride | 2 of them | (1, 1, 1)"),
    "stride text": (given(stride="11"), TypeError, "stride | int | '11'"),
    "stride set": (given(stride={1, 2}), TypeError, "stride | int | {1, 2} (set)"),
    "stride mapping": (given(stride={1: 1, 2: 2}), TypeError, "stride | int | (dict)"),
    "stride array without axes": (
        given(stride=np.array(1)),
        TypeError,
        "stride | int | array(1) (ndarray)",
    ),
    "stride past 2^62": (given(stride=2**62), ValueError, f"stride | 2^62 | {2**62}"),
    "dilation 0": (given(dilation=0), ValueError, "dilation | at least 1 | got 0"),
    "dilation negative": (given(dilation=-2), ValueError, "dilation | at least 1 | got -2"),
    "dilation of one": (given(dilation=(1,)), ValueError, "dilation | 2 of them | (1,)"),
    "padding negative": (given(padding=-1), ValueError, "padding | at least 0 | got -1"),
    "padding end negative": (
        given(padding=((1, 1), (1, -1))),
        ValueError,
        "padding | at least 0 | got -1",
    ),
    "padding float": (given(padding=0.5), TypeError, "padding | int | 0.5 (float)"),
    "padding bool": (given(padding=True), TypeError, "padding | int | True (bool)"),
    "padding of three": (given(padding=(1, 1, 1)), ValueError, "padding | 2 ints | (1, 1, 1)"),
    "padding of triples": (
        given(padding=((1, 1, 1), (1, 1, 1))),
        ValueError,
        "padding | 2 pairs | ((1, 1, 1)",
    ),
    "padding None": (given(padding=None), TypeError, "padding | int | None"),
    "padding word": (given(padding="full"), ValueError, "padding | same | valid | full"),
    "kernel larger than the padded input": (
        lambda a: {"weight": np.zeros((4, 3, 3, 10), np.float32)},
        ValueError,
        "weight | along x | size 7 + padding 1 + 1 = 9 | 10 taps",
    ),
    "dilated kernel larger than the padded input": (
        given(dilation=(4, 1)),
        ValueError,
        "weight | along y | size 6 + padding 1 + 1 = 8 | dilation 4 | span 9",
    ),
    "output past 2^63": (
        given(padding=HUGE, offset=None, mask=None),
        ValueError,
        f"output | 2^63 | {6 + 2 * HUGE - 2}",
    ),
    "output past 2^63 with an offset": (
        given(padding=HUGE),
        ValueError,
        f"output | 2^63 | {6 + 2 * HUGE - 2}",
    ),
    "axis past 2^62": (given(padding=2**62 - 1), ValueError, "padding | 2^62 | along y"),
    "padding past 2^63": (given(padding=2**70), ValueError, f"padding | 2^62 | {2**70}"),
    "output larger than memory": (
        given(padding=2**22, offset=None, mask=None, out=None),
        MemoryError,
        f"out | {(2, 4, 6 + 2**23 - 2, 7 + 2**23 - 2)} | bytes",
    ),
    "copy larger than memory": (
        lambda a: {
            "input": np.broadcast_to(np.float32(1), (2, 6, 2**21, 2**21)),
            "stride": 2**20,
            "offset": None,
            "mask": None,
            "out": None,
        },
        MemoryError,
        f"input | copy | {(2, 6, 2**21, 2**21)} | bytes",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule, refused):
    refused(*RULES[rule])


def test_memory_that_the_system_refuses(monkeypatch):
    """Where the system does not say what is available, NumPy's own error says what was asked."""
    monkeypatch.setattr("pydeform.ops._outputs.available_bytes", lambda: None)
    x = np.ones((1, 1, 1, 1), np.float32)
    with pytest.raises(MemoryError, match=r"out: no memory for shape \(1, 1, 33554433, 33554433\)"):
        pydeform.deform_conv2d(x, None, x, padding=2**24)


def test_one_axis_wants_a_pair_in_a_tuple(good):
    with pytest.raises(ValueError, match=r"padding: .*\(\(begin, end\),\)"):
        pydeform.deform_conv1d(**{**good(1), "padding": (0, 1)})


def test_threads_and_backends_are_checked():
    for bad in (0, -1, 1025):
        with pytest.raises(ValueError, match="n: expected 1 to 1024"):
            pydeform.set_num_threads(bad)
    for bad in (True, 1.0, None, "2"):
        with pytest.raises(TypeError, match="n: expected an int"):
            pydeform.set_num_threads(bad)
    with pytest.raises(ValueError, match="'ref', 'cpu', 'cuda'"), pydeform.use_backend("gpu"):
        pass
    names = r"\('ref', 'cpu', 'cuda', 'emulated'\)"
    with pytest.raises(ValueError, match=names), pydeform.use_backend("numpy"):
        pass


def test_numpy_integers_are_integers(good):
    args = good()
    del args["out"]
    args.update(offset=None, mask=None)
    plain = pydeform.deform_conv2d(**args, stride=2, dilation=(1, 2), groups=2, offset_groups=3)
    own = pydeform.deform_conv2d(
        **{**args, "padding": np.int8(1)},
        stride=np.int64(2),
        dilation=np.array([1, 2]),
        groups=np.uint8(2),
        offset_groups=np.int32(3),
    )
    np.testing.assert_array_equal(plain, own)
