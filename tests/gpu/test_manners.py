"""CUDA arrays above the kernels: they come back as their own kind, and nobody waits for the device.

CuPy and the kernels are stood in for (`fake_cupy`), so that this runs anywhere; what is computed is
compared with NumPy to the bit. Kernels themselves are tested elsewhere.
"""

import inspect
from dataclasses import replace
from operator import attrgetter

import fake_cupy as fake
import ml_dtypes
import numpy as np
import pytest
import test_libraries as libraries
from fake_cupy import conv
from hypothesis import Phase, given, settings

import pydeform
import pydeform.recipes
from pydeform.testing.operations import OPERATIONS

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
    if not everything:
        return moved
    options = {name: fake.to_device(value, device) for name, value in case.options.items()}
    return replace(moved, options=options)


def check(case, waits=(), device=0, **how):
    with pydeform.use_backend("ref"):
        expected = evaluate(case)
    moved = on_device(case, device, **how)
    evaluate(moved)  # constants are uploaded once
    fake.waits.clear()
    fake.uploads.clear()
    found = evaluate(moved)
    assert not fake.uploads or case.operation in FETCHED
    assert set(fake.waits) == set(waits)
    assert len(fake.waits) == 4 * len(waits)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert type(found[name]) is fake.ndarray, name
        assert found[name].device.id == device
        assert found[name].flags.c_contiguous
        np.testing.assert_array_equal(found[name]._array, array, err_msg=name, strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation(operation, dtype):
    if dtype not in operation.dtypes:
        case = _drawn(operation.cases(operation.plain[0])).astype(DTYPES[dtype])
        with fake.installed(), pytest.raises(TypeError, match=f"expected one of .*got {dtype}"):
            evaluate(on_device(case))
        return

    @settings(max_examples=4, derandomize=True, deadline=None, database=None, phases=DRAW)
    @given(operation.cases(operation.plain[0]))
    def run(case):
        with fake.installed():
            check(case.astype(DTYPES[dtype]), FETCHED.get(operation.name, ()))

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
        check(case.astype(np.float32), FETCHED.get(operation.name, ()))


# Where a call runs, and what it may not do there.


@pytest.mark.parametrize("name", ["deform_conv2d", "dcnv3", "ms_deform_attn", "deform_roi_pool"])
def test_a_call_runs_on_the_device_of_its_arrays(name):
    (operation,) = (o for o in OPERATIONS if o.name == name)
    case = operation.examples["size one"]("dyadic")
    with fake.installed():
        check(case, FETCHED.get(name, ()), device=1)
        assert fake.Device().id == 0


@pytest.mark.parametrize("name", ["deform_roi_pool", "roi_align"])
def test_regions_may_stay_on_the_host(name):
    (operation,) = (o for o in OPERATIONS if o.name == name)
    case = operation.examples["wide"]("dyadic")
    with fake.installed():
        check(case, (), everything=False)  # nothing waits


def test_tables_of_levels_are_fetched_where_they_lie_on_the_device():
    (operation,) = (o for o in OPERATIONS if o.name == "ms_deform_attn")
    case = operation.examples["wide"]("dyadic")
    tables = {n: np.array(case.options[n]) for n in ("spatial_shapes", "level_start_index")}
    case = replace(case, options={**case.options, **tables})
    with fake.installed():
        check(case, ("get",) * 2, everything=True)
        check(case, (), everything=False)


def test_nothing_is_allocated_or_uploaded_where_out_is_given(monkeypatch):
    host, arrays = conv()
    with pydeform.use_backend("ref"):
        expected = pydeform.deform_conv2d(**host, padding=1)
        grads = pydeform.deform_conv2d_backward(expected, **host, padding=1)
    with fake.installed() as cupy:
        out = fake.to_device(np.zeros_like(expected))
        outs = {name: fake.to_device(np.zeros_like(array)) for name, array in host.items()}
        cotangent = fake.to_device(expected)
        for name in ("empty", "zeros", "full", "array", "asarray", "ascontiguousarray"):
            monkeypatch.delattr(cupy, name)
        assert pydeform.deform_conv2d(**arrays, padding=1, out=out) is out
        found = pydeform.deform_conv2d_backward(cotangent, **arrays, padding=1, out=outs)
        assert not fake.waits
        assert not fake.uploads
    np.testing.assert_array_equal(out._array, expected)
    for name, array in outs.items():
        assert getattr(found, name) is array
        np.testing.assert_array_equal(array._array, getattr(grads, name))


@pytest.mark.parametrize("name", ["dcnv3", "dcnv4", "ms_deform_attn", "sample", "local_conv2d"])
def test_nothing_is_uploaded(name):
    (operation,) = (o for o in OPERATIONS if o.name == name)
    case = on_device(operation.examples["size one"]("dyadic"))
    with fake.installed():
        evaluate(case)
        assert not fake.waits
        assert not fake.uploads


def test_constants_are_uploaded_once():
    with fake.installed():
        offset = fake.to_device(np.zeros((1, 18, 2, 2), np.float32))
        fake.uploads.clear()
        pydeform.conventions.to_dcnv3(offset, kernel_size=3, offset_scale=2.0)
        assert len(fake.waits) == len(fake.uploads) > 0
        fake.waits.clear()
        fake.uploads.clear()
        pydeform.conventions.to_dcnv3(offset, kernel_size=3, offset_scale=2.0)
        assert not fake.waits
        assert not fake.uploads


def test_strided_arrays_are_copied_on_the_device():
    host, _ = conv()
    with pydeform.use_backend("ref"):
        expected = pydeform.deform_conv2d(**host, padding=1)
    with fake.installed():
        arrays = {n: fake.ndarray(np.asfortranarray(a), 0) for n, a in host.items()}
        wide = np.zeros((2, 4, 5, 12), np.float32)
        wide[..., ::2] = host["input"]
        for case in (arrays, {**arrays, "input": fake.ndarray(wide)[..., ::2]}):
            found = pydeform.deform_conv2d(**case, padding=1)
            np.testing.assert_array_equal(found._array, expected)


def test_kernels_never_see_half_an_element():
    host, arrays = conv()
    memory = np.zeros(host["input"].nbytes + 2, np.uint8)
    shifted = memory[2:].view(np.float32).reshape(host["input"].shape)
    shifted[...] = host["input"]
    with fake.installed():  # whose kernels look at the addresses
        found = pydeform.deform_conv2d(**{**arrays, "input": fake.ndarray(shifted)}, padding=1)
        expected = pydeform.deform_conv2d(**arrays, padding=1)
    np.testing.assert_array_equal(found._array, expected._array)


# Functions outside of the contract's list.

T = np.linspace(-2, 2, 2 * 18 * 3).reshape(2, 18, 3, 1)
MORE = {
    "offsets.project_ball": ((T, 1.5), {"center": (0.5, 0.0)}),
    "offsets.constrain": ((T,), {"kernel_size": (3, 3), "smooth": True}),
    "offsets.box_window": ((abs(T[:, :1, 0]) + 1,), {"kernel_size": (3,)}),
    "conventions.from_chainer": ((T,), {"kernel_size": 3}),
    "conventions.to_chainer": ((T,), {"kernel_size": 3}),
    "conventions.from_mindspore": ((T,), {"kernel_size": (2, 3)}),
    "conventions.to_mindspore": ((T,), {"kernel_size": 3}),
    "conventions.from_dcnv3": (
        (T.transpose(0, 2, 3, 1), T.transpose(0, 2, 3, 1)[..., ::2]),
        {"kernel_size": 3, "offset_scale": 2.0},
    ),
    "conventions.to_dcnv3": ((T,), {"kernel_size": 3, "offset_scale": 2.0}),
    "conventions.from_dcnv4": (
        (np.linspace(0, 1, 2 * 32).reshape(2, 1, 1, 32),),
        {"kernel_size": 3, "group": 1, "offset_scale": 2.0},
    ),
    "conventions.to_dcnv4": ((T, T[:, ::2] * 0), {"kernel_size": 3, "remove_center": True}),
    "conventions.from_msda": (
        (T.reshape(2, 3, 1, 1, 9, 2), T[:, ::2].reshape(2, 3, 1, 1, 9), np.array([[4, 5]])),
        {},
    ),
    "conventions.to_msda": (
        (T.reshape(1, 2, 3, 1, 9, 2), T[:, ::2].reshape(1, 2, 3, 1, 9), np.array([[4, 5]])),
        {},
    ),
}


@pytest.mark.parametrize("name", MORE)
def test_more_functions(name):
    function = attrgetter(name)(pydeform)
    args, options = MORE[name]
    expected = function(*args, **options)
    with fake.installed():
        moved = [fake.to_device(arg, 1) for arg in args]
        if name.endswith("dcnv4"):  # also by name
            first = next(iter(inspect.signature(function).parameters))
            function(**{first: moved[0]}, **options)
        function(*moved, **options)  # constants are uploaded once
        fake.waits.clear()
        found = function(*moved, **options)
        assert fake.waits == ["get"] * name.endswith("msda")
    if not isinstance(expected, tuple):
        expected, found = (expected,), (found,)
    for one, other in zip(expected, found, strict=True):
        assert type(other) is fake.ndarray
        assert other.device.id == 1
        np.testing.assert_array_equal(other._array, one, strict=True)


@pytest.mark.parametrize("name", libraries.CALLS)
def test_recipes_and_parts(name):
    shapes, options = libraries.CALLS[name]
    args = libraries.arguments(shapes, np.random.default_rng(3))
    with pydeform.use_backend("ref"):
        expected = libraries.lookup(name)(*args, **options)
    with fake.installed():
        given = libraries._walk(args, fake.to_device)
        found = libraries.lookup(name)(*given, **options)
        assert set(fake.waits) <= {"synchronize"}
    if not isinstance(expected, tuple):
        expected, found = (expected,), (found,)
    for one, other in zip(expected, found, strict=True):
        assert type(other) is fake.ndarray
        np.testing.assert_array_equal(other._array, one)


def test_vjp_says_that_it_computes_on_the_host():
    _, arrays = conv()
    with fake.installed(), pytest.raises(TypeError, match=r"args: .*where vjp computes, .* cuda:0"):
        pydeform.recipes.vjp(lambda x: x, arrays["input"])


# Values on a device that a check would wait for are not looked at.


def test_sizes_are_not_looked_at():
    size = fake.to_device(np.full((1, 1, 3), -1.0))
    with fake.installed():
        pydeform.offsets.scale_taps(-size, kernel_size=(3,))
        fake.waits.clear()
        found = pydeform.offsets.scale_taps(size, kernel_size=(3,))
        assert not fake.waits
    assert found._array[0, :, 0].tolist() == [2, 0, -2]


def test_the_centre_of_a_mask_is_not_looked_at():
    offset = np.zeros((1, 18, 2, 2))
    with fake.installed():
        options = {"kernel_size": 3, "remove_center": True}
        found = pydeform.conventions.to_dcnv3(fake.to_device(offset), **options)
        assert not fake.waits
    assert found.mask.shape == (1, 2, 2, 8)


def test_regions_outside_of_the_batch_are_an_error_on_a_device_too():
    image = fake.to_device(np.ones((1, 1, 4, 4)))
    rois = fake.to_device(np.array([[1.0, 0, 0, 2, 2]]))
    with fake.installed(), pytest.raises(ValueError, match="batch indices 0 <= i < 1"):
        pydeform.roi_align(image, rois, 2)
