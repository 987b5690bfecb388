"""CUDA arrays above the kernels: they come back as their own kind, and nobody waits for the device.

CuPy and the kernels are stood in for (`fake_cupy`), so that this runs anywhere; what is computed is
compared with NumPy to the bit. Kernels themselves are tested elsewhere.
"""

import importlib.util
from operator import attrgetter
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import Phase, given, settings

import pydeform
from pydeform.testing.operations import OPERATIONS

_spec = importlib.util.spec_from_file_location(
    "fake_cupy", Path(__file__).with_name("fake_cupy.py")
)
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {name: np.dtype(name) for name in ("float64", "float32", "float16")}
DTYPES["bfloat16"] = BFLOAT16
DRAW = (Phase.generate,)  # a failure is told as it is found
# The numbers of regions decide how much there is to do: they are fetched, once a call.
FETCHED = {"deform_roi_pool": ["get"], "roi_align": ["get"]}


def evaluate(case):
    """Every result of the four functions, by name; whatever kind of arrays they are."""
    function, backward, jvp, double_backward = (
        attrgetter(case.operation + suffix)(pydeform)
        for suffix in ("", "_backward", "_jvp", "_double_backward")
    )
    found = {"output": function(**case.arrays, **case.options)}
    grads = backward(case.grad_output, **case.arrays, **case.options)
    found |= {f"grad_{name}": array for name, array in grads._asdict().items()}
    primal, tangent = jvp(**case.arrays, **case.options, tangents=case.tangents)
    found |= {"primal": primal, "tangent": tangent}
    second = double_backward(case.tangents, case.grad_output, **case.arrays, **case.options)
    found |= {f"second_{name}": array for name, array in second._asdict().items()}
    return {name: array for name, array in found.items() if array is not None}


def on_device(case, device=0, everything=True):
    """The case on a device, arrays without gradients too if `everything`."""
    moved = case.map(lambda array: fake.to_device(array, device))
    if everything:
        moved.options.update({k: fake.to_device(v, device) for k, v in case.options.items()})
    return moved


def check(case, waits=(), device=0, **how):
    with pydeform.use_backend("ref"):
        expected = evaluate(case)
    moved = on_device(case, device, **how)
    evaluate(moved)  # constants are uploaded once
    fake.waits.clear()
    found = evaluate(moved)
    assert set(fake.waits) == set(waits)
    assert len(fake.waits) == 4 * len(waits)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert type(found[name]) is fake.ndarray, name
        assert found[name].device.id == device
        assert found[name].flags.c_contiguous
        np.testing.assert_array_equal(found[name]._array, array, err_msg=name, strict=True)


def copied(case):
    """A case whose options may be changed."""
    from dataclasses import replace

    return replace(case, options=dict(case.options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation(operation, dtype):
    if dtype not in operation.dtypes:
        with fake.installed(), pytest.raises(TypeError, match=f"expected one of .*got {dtype}"):
            case = operation.cases(operation.plain[0])
            evaluate(on_device(copied(_drawn(case)).astype(DTYPES[dtype])))
        return

    @settings(max_examples=4, derandomize=True, deadline=None, database=None, phases=DRAW)
    @given(operation.cases(operation.plain[0]))
    def run(case):
        with fake.installed():
            check(copied(case).astype(DTYPES[dtype]), FETCHED.get(operation.name, ()))

    run()


def _drawn(strategy):
    """Some case of a strategy."""
    found = []

    @settings(max_examples=1, derandomize=True, deadline=None, database=None, phases=DRAW)
    @given(strategy)
    def draw(case):
        found.append(case)

    draw()
    return found[-1]


def examples():
    for operation in OPERATIONS:
        for name in operation.examples:
            yield pytest.param(operation, name, id=f"{operation.name}-{name}")


@pytest.mark.parametrize(("operation", "name"), list(examples()))
def test_cases_at_the_edges(operation, name):
    case = operation.examples[name](operation.plain[0])
    if sum(a.size for a in case.arrays.values() if a is not None) > 3000:
        case = operation.examples[next(iter(operation.examples))](operation.plain[0])
    with fake.installed():
        check(copied(case).astype(np.float32), FETCHED.get(operation.name, ()))
