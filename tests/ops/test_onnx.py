"""Deformable convolution against the ONNX specification: its own cases and its evaluator."""

import warnings

import numpy as np
import pytest

import pydeform
from pydeform.testing import expected

# What onnx and its dependencies warn of when they are imported is theirs.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper
    from onnx.backend.test.case.node import deformconv
    from onnx.reference import ReferenceEvaluator

pytestmark = pytest.mark.usefixtures("backend")


def by_node(node, inputs):
    """Evaluate a DeformConv node: X, W, offset, and B and mask where they are given."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    rank = inputs[0].ndim - 2
    function = getattr(pydeform, f"deform_conv{rank}d")
    x, w, offset, b, mask = [*inputs, None, None][:5]
    pads = attributes.get("pads", [0] * 2 * rank)
    return function(
        x,
        offset,
        w,
        b,
        attributes.get("strides", 1),
        tuple(zip(pads[:rank], pads[rank:], strict=True)),
        attributes.get("dilations", 1),
        mask,
        groups=attributes.get("group", 1),
        offset_groups=attributes.get("offset_group", 1),
    )


@pytest.fixture
def specification(monkeypatch):
    """The cases that the specification shows: name to node, inputs, outputs."""
    shown = {}

    def record(node, inputs, outputs, name):
        shown[name] = node, inputs, outputs

    monkeypatch.setattr(deformconv, "expect", record)
    for export in ("export", *(name for name in vars(deformconv.DeformConv) if "export_" in name)):
        getattr(deformconv.DeformConv, export)()
    return shown


def test_cases_of_the_specification(specification):
    assert len(specification) >= 4
    for name, (node, inputs, (output,)) in specification.items():
        # The outputs are printed to one decimal of float32; sums of four to eight terms below 40.
        np.testing.assert_allclose(by_node(node, inputs), output, rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("opset", [19, 22])
@pytest.mark.parametrize("seed", range(4))
def test_evaluator_of_the_specification(dyadic_case, opset, seed):
    """Random cases in float32, which the evaluator interpolates in whatever it is given.

    It goes through normalised coordinates and back.
    """
    groups, offset_groups = [(1, 1), (2, 1), (1, 2), (2, 4)][seed]
    case = dyadic_case(
        2,
        seed,
        "random",
        batch=1,
        groups=groups,
        offset_groups=offset_groups,
        stride=(1, 2),
        dilation=(2, 1),
        pad=((1, 2), (0, 1)),
    ).astype(np.float32)
    g, names = case.geometry, ("input", "weight", "offset", "bias", "mask")
    node = helper.make_node(
        "DeformConv",
        names,
        ["output"],
        kernel_shape=g.kernel,
        strides=g.stride,
        dilations=g.dilation,
        pads=[1, 0, 2, 1],
        group=g.groups,
        offset_group=g.offset_groups,
    )
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "case",
        [helper.make_tensor_value_info(name, kind, case.arrays[name].shape) for name in names],
        [helper.make_tensor_value_info("output", kind, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    inputs = {name: case.arrays[name] for name in names}
    (output,) = ReferenceEvaluator(model).run(None, inputs)
    # Its coordinates pass (p/(S-1)*2 - 1 + 1)/2*(S-1), some 8 roundings of numbers up to 10, and
    # move each sample by at most the largest slope. Its sums are within a bound like ours on top.
    coordinate = 8 * 10 * 2.0**-24
    slope = 2 * 2 * np.abs(case.arrays["input"]).max()  # per axis, of two
    weights = np.abs(case.arrays["weight"]).sum(axis=(1, 2, 3)).max()
    slopes = slope * weights * np.abs(case.arrays["mask"]).max()
    bound = expected(case)["output"].bound.max()
    computed = case.output()
    np.testing.assert_allclose(computed, output, rtol=0, atol=2 * bound + coordinate * slopes)
    np.testing.assert_array_equal(by_node(node, [inputs[name] for name in names]), computed)
