"""Deformable convolution against PyTorch: its convolutions, and autograd on a plain composition.

The composition reads corners by indexing and nothing else; autograd differentiates it to first and
second order. Neither knows the formulas that are tested. Offsets are random, so that no coordinate
is whole, where derivatives are a matter of definition.
"""

import itertools
import warnings
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pydeform
from pydeform.testing.strategies import deform_conv_cases

# What torch warns of when it is imported is its own.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")

RANKS = pytest.mark.parametrize("rank", [1, 2, 3])
BACKENDS = pytest.mark.parametrize("name", ["ref", "cpu"])
# Of the largest entry of each array: what the package promises. Both sides sum up to a few hundred
# products in float64, so that some 1e-14 is what is seen.
TOLERANCE = 1e-10


def sampled(geometry, x, offset):
    """Columns [N, C, K, P] of x [N, C, *S] at offset [N, Go*K*n, *O], by indexing."""
    g, n = geometry, geometry.rank
    per_group = g.channels // g.offset_groups
    offset = offset.reshape(g.batch, g.offset_groups, g.taps, n, prod(g.out_size))
    cells, fractions = torch.floor(offset).long(), offset - torch.floor(offset)
    taps = itertools.product(*(range(k) for k in g.kernel))
    outputs = itertools.product(*(range(o) for o in g.out_size))
    grid = np.array(list(taps))[:, :, None] * np.reshape(g.dilation, (n, 1)) + (
        np.array(list(outputs)).T * np.reshape(g.stride, (n, 1)) - np.reshape(g.pad, (n, 1))
    )
    cells = cells + torch.from_numpy(grid)
    alive = torch.ones_like(cells[:, :, :, 0], dtype=torch.bool)
    if g.mode != "zeros":
        size = torch.tensor(g.size)[:, None]
        edge = (cells < 0) | (cells >= size - 1)
        if g.mode == "clip_zero":
            alive = ((cells >= 0) & (cells < size)).all(dim=3)
        fractions = torch.where(edge, 0.0, fractions)
        cells = torch.minimum(cells.clamp(min=0), size - 1)
    groups = x.reshape(g.batch, g.offset_groups, per_group, prod(g.size))
    columns = torch.zeros(g.batch, g.offset_groups, per_group, g.taps, offset.shape[-1]).double()
    for corner in itertools.product((0, 1), repeat=n):
        weight, flat, inside = torch.ones(()).double(), 0, alive
        for d, b in enumerate(corner):
            at, f = cells[:, :, :, d] + b, fractions[:, :, :, d]
            weight = weight * (f if b else 1 - f)
            inside = inside & (at >= 0) & (at < g.size[d])
            flat = flat * g.size[d] + at.clamp(0, g.size[d] - 1)
        where = flat.flatten(2)[:, :, None].expand(-1, -1, per_group, -1)
        read = torch.gather(groups, 3, where).reshape(columns.shape)
        columns = columns + torch.where(inside, weight, 0.0)[:, :, None] * read
    return columns.flatten(1, 2)


def composed(case, tensors):
    """The output from torch tensors by name."""
    g = case.geometry

    def first(name):
        tensor = tensors.get(name)
        return tensor.movedim(-1, 1) if tensor is not None and g.channels_last else tensor

    offset, mask = first("offset"), first("mask")
    if offset is None:
        offset = torch.zeros(g.batch, g.offset_groups * g.taps * g.rank, *g.out_size).double()
    columns = sampled(g, first("input"), offset)
    if mask is not None:
        mask = mask.reshape(g.batch, g.offset_groups, *columns.shape[2:])
        columns = columns * mask.repeat_interleave(g.channels // g.offset_groups, dim=1)
    per_group = g.channels // g.groups
    columns = columns.reshape(g.batch, g.groups, per_group, *columns.shape[2:])
    weight = tensors["weight"]
    lead = weight.shape[: weight.ndim - g.rank - 2]
    weight = weight.reshape(*lead, g.groups, g.out_channels // g.groups, per_group, g.taps)
    weight = weight.expand(g.batch, *weight.shape[-4:])
    out = torch.einsum("ngock,ngckp->ngop", weight, columns)
    out = out.reshape(g.batch, g.out_channels, *g.out_size)
    if "bias" in tensors:
        out = out + tensors["bias"].reshape(-1, *(1,) * g.rank)
    return out.movedim(1, -1) if g.channels_last else out


def differentiated(case, function):
    """Every result of a case by autograd on a function of named tensors."""
    tensors = {k: torch.from_numpy(case.arrays[k]).requires_grad_() for k in case.names}
    grad_output = torch.from_numpy(case.grad_output).requires_grad_()
    output = function(tensors)

    def grad(value, wanted):
        if not value.requires_grad:
            return [torch.zeros_like(tensor) for tensor in wanted]
        options = {"create_graph": True, "materialize_grads": True, "allow_unused": True}
        return torch.autograd.grad(value, wanted, **options)

    gradients = grad((output * grad_output).sum(), list(tensors.values()))
    gradients = dict(zip(tensors, gradients, strict=True))
    tangents = {name: torch.from_numpy(tangent) for name, tangent in case.tangents.items()}
    pairing = sum((gradients[k] * t).sum() for k, t in tangents.items()) + 0 * grad_output.sum()
    seconds = grad(pairing, [grad_output, *tensors.values()])
    results = {
        "output": output,
        "output of jvp": output,
        "output_tangent": seconds[0],
        **{f"grad_{name}": gradient for name, gradient in gradients.items()},
        **{f"second_{k}": s for k, s in zip(("grad_output", *tensors), seconds, strict=True)},
    }
    return {name: tensor.detach().numpy() for name, tensor in results.items()}


def assert_close(case, results):
    computed = case.evaluate()
    assert computed.keys() == results.keys()
    for name, value in results.items():
        scale = np.max(np.abs(value), initial=0)
        np.testing.assert_allclose(
            computed[name], value, rtol=0, atol=TOLERANCE * scale, err_msg=name
        )


@RANKS
@BACKENDS
@given(data=st.data())
def test_autograd_on_a_composition(rank, name, data):
    case = data.draw(deform_conv_cases(rank, "random", kinks=("right",)))
    with pydeform.use_backend(name):
        assert_close(case, differentiated(case, lambda tensors: composed(case, tensors)))


@RANKS
@pytest.mark.parametrize("seed", range(4))
def test_convolution(rank, seed, backend, dyadic_case):
    """Without offset and mask it is torch's own convolution, to second order."""
    groups = (1, 2)[seed % 2]
    case = dyadic_case(rank, seed, "random", groups=groups, offset_groups=1)
    stride, dilation, pad = (2, 1, 2)[:rank], (1, 2, 1)[:rank], ((1, 2), (2, 1), (0, 2))[:rank]
    if seed > 1:
        case = dyadic_case(
            rank, seed, "random", groups=groups, offset_groups=1,
            stride=stride, dilation=dilation, pad=pad,
        )  # fmt: skip
    case = without_positions(case)
    function = getattr(torch.nn.functional, f"conv{rank}d")
    pads = [size for pair in reversed(case.options["padding"]) for size in pair]

    def convolution(tensors):
        padded = torch.nn.functional.pad(tensors["input"], pads)
        options = {"stride": case.geometry.stride, "dilation": case.geometry.dilation}
        return function(padded, tensors["weight"], tensors["bias"], groups=groups, **options)

    assert_close(case, differentiated(case, convolution))


def without_positions(case):
    return replace(
        case,
        arrays={**case.arrays, "offset": None, "mask": None},
        tangents={name: case.tangents[name] for name in ("input", "weight", "bias")},
    )
