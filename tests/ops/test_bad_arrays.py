"""What is no array, or the wrong one: which error, what it says, and that nothing was written."""

from fractions import Fraction

import numpy as np
import pytest

import pydeform

ARGUMENTS = ("input", "offset", "weight", "bias", "mask")


def given(**values):
    return lambda args: values


def retyped(*pairs):
    return lambda args: {name: args[name].astype(dtype) for name, dtype in pairs}


def overlapping(args):
    memory = np.zeros(1000, np.float32)
    return {"input": memory[:504].reshape(2, 6, 6, 7), "out": memory[500:836].reshape(2, 4, 6, 7)}


class OnDevice:
    """An array on another device, as far as anybody may ask before reading it."""

    def __init__(self, kind, number=0):
        self.device = (kind, number)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **kwargs):
        pytest.fail("the memory of another device was asked for")


class NumbaLike:
    """A CUDA array without DLPack."""

    __cuda_array_interface__ = {"version": 3}  # noqa: RUF012


# What is changed in good arguments of rank 2, the error, and what its message must say.
RULES = {
    "input None": (given(input=None), TypeError, "input | array | None"),
    "weight None": (given(weight=None), TypeError, "weight | array | None"),
    "input list": (given(input=[[[[1.0]]]]), TypeError, "input | list"),
    "offset number": (given(offset=0.5), TypeError, "offset | float"),
    "bias bool": (given(bias=False), TypeError, "bias | bool"),
    "mask text": (given(mask="mask"), TypeError, "mask | str"),
    "weight scalar": (given(weight=np.float32(1)), TypeError, "weight | numpy.float32"),
    "masked array": (
        lambda a: {"input": np.ma.masked_less(a["input"], 0)},
        TypeError,
        "input | MaskedArray | filled",
    ),
    "two devices": (
        given(weight=OnDevice(2, 1)),
        TypeError,
        "one device | input on cpu | weight on cuda:1",
    ),
    "numba beside cpu": (
        given(offset=NumbaLike()),
        TypeError,
        "one device | input on cpu | offset on cuda",
    ),
    "two GPUs": (
        lambda a: {n: OnDevice(2, i == 2) for i, n in enumerate(ARGUMENTS)},
        TypeError,
        "one device | input on cuda:0 | weight on cuda:1",
    ),
    "another device": (lambda a: dict.fromkeys(ARGUMENTS, OnDevice(8)), TypeError, "metal:0 | CPU"),
    "unknown device": (
        lambda a: dict.fromkeys(ARGUMENTS, OnDevice(99)),
        TypeError,
        "device type 99 | CPU",
    ),
    "integers": (
        retyped(*((n, np.int64) for n in ARGUMENTS)),
        TypeError,
        "input | int64 | float32",
    ),
    "one integer array": (retyped(("offset", np.int32)), TypeError, "offset | int32 | float32"),
    "booleans": (retyped(("mask", bool)), TypeError, "mask | bool | float32"),
    "complex": (retyped(("input", np.complex64)), TypeError, "input | complex64"),
    "longdouble": (
        retyped(*((n, np.longdouble) for n in ARGUMENTS)),
        TypeError,
        "input | longdouble",
    ),
    "objects": (retyped(*((n, object) for n in ARGUMENTS)), TypeError, "input | object"),
    "foreign byte order": (
        retyped(*((n, np.dtype(np.float32).newbyteorder()) for n in ARGUMENTS)),
        TypeError,
        "input | byte order",
    ),
    "mixed dtypes": (
        retyped(("weight", np.float64)),
        TypeError,
        "mixed dtypes | input float32 | offset float32 | weight float64 | bias float32",
    ),
    "wide offset": (
        retyped(("offset", np.float64), ("mask", np.float64)),
        TypeError,
        "mixed dtypes | offset float64 | mask float64",
    ),
    "narrow offset": (
        retyped(("offset", np.float16)),
        TypeError,
        "mixed dtypes | input float32 | offset float16",
    ),
    "16 bits, one of offset and mask wide": (
        retyped(*((n, np.float16) for n in ("input", "weight", "bias", "mask"))),
        TypeError,
        "mixed dtypes | offset float32 | mask float16 | both be float32",
    ),
    "16 bits, wide bias": (
        retyped(*((n, np.float16) for n in ("input", "weight", "offset", "mask"))),
        TypeError,
        "mixed dtypes | bias float32 | input float16",
    ),
    "out shape": (given(out=np.zeros((2, 4, 6, 8), np.float32)), ValueError, "out | (2, 4, 6, 7)"),
    "out dtype": (retyped(("out", np.float64)), TypeError, "out | float32 | float64"),
    "out list": (given(out=[0.0]), TypeError, "out | array | list"),
    "out on a GPU": (given(out=OnDevice(2)), TypeError, "out on cuda:0 | one device"),
    "out strided": (
        given(out=np.zeros((2, 4, 7, 6), np.float32).swapaxes(2, 3)),
        ValueError,
        "out | C-contiguous | strides",
    ),
    "out read-only": (
        given(out=np.broadcast_to(np.float32(0), (2, 4, 6, 7))),
        ValueError,
        "out | read-only",
    ),
    "out overlaps the input": (
        overlapping,
        ValueError,
        "out | overlaps input",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule, refused):
    refused(*RULES[rule])


def test_the_reference_takes_more_dtypes():
    with pydeform.use_backend("ref"):
        half = np.array([[[Fraction(1, 2)]]], object)
        exact = pydeform.deform_conv1d(half, None, half)
        assert exact[0, 0, 0] == Fraction(1, 4)
        long = np.ones((1, 1, 3), np.longdouble)
        assert pydeform.deform_conv1d(long, None, long).dtype == np.longdouble
