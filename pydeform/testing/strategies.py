"""Hypothesis strategies: shapes and options are drawn, values come from a drawn seed.

Shapes shrink to readable counterexamples; values need not, and drawing them one by one would cost
more than the operation under test. Needs the package ``hypothesis``.
"""

from __future__ import annotations

from math import lcm
from typing import Any

try:
    import hypothesis.strategies as st
except ImportError as error:
    raise ImportError(
        "pydeform.testing.strategies draws with hypothesis, which is not installed: "
        "pip install hypothesis"
    ) from error

from pydeform._shapes import ConvGeometry
from pydeform.ops._checks import ARGUMENTS, KINKS, MODES
from pydeform.testing.cases import Case
from pydeform.testing.values import SPOILED, deform_conv_case, make_geometry

# Largest size and kernel per rank: small enough for thousands of examples, large enough for
# samples inside, on every face, and outside.
_SIZE = {1: 9, 2: 6, 3: 4}
_KERNEL = {1: 5, 2: 3, 3: 3}


@st.composite
def geometries(
    draw: st.DrawFn,
    rank: int,
    *,
    modes: tuple[str, ...] = MODES,
    kinks: tuple[str, ...] = KINKS,
    sampled: bool = True,
) -> tuple[ConvGeometry, tuple[int, ...]]:
    """Draw the geometry of a convolution and its end padding.

    Parameters
    ----------
    rank : {1, 2, 3}
        Number of spatial axes.
    modes, kinks : tuple of str
        Options to choose from.
    sampled : bool
        False where neither offset nor mask says how many offset groups there are: then 1.

    Returns
    -------
    strategy for (ConvGeometry, tuple of int)
        Batches of 0 to 2, up to 3 groups and 3 offset groups that need not divide each other,
        axes down to size 1, asymmetric padding, stride up to 3, dilation up to 2.
    """
    groups = draw(st.integers(1, 3))
    offset_groups = draw(st.integers(1, 3)) if sampled else 1
    size, kernel, stride, dilation, pad = [], [], [], [], []
    for _ in range(rank):
        k, d = draw(st.integers(1, _KERNEL[rank])), draw(st.integers(1, 2))
        begin, end = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        smallest = max(1, (k - 1) * d + 1 - begin - end)
        size.append(draw(st.integers(smallest, max(smallest, _SIZE[rank]))))
        kernel.append(k)
        dilation.append(d)
        pad.append((begin, end))
        stride.append(draw(st.integers(1, 3)))
    return make_geometry(
        tuple(size),
        tuple(kernel),
        batch=draw(st.sampled_from((1, 2, 0))),
        channels=lcm(groups, offset_groups) * draw(st.integers(1, 2)),
        out_channels=groups * draw(st.integers(1, 2)),
        groups=groups,
        offset_groups=offset_groups,
        stride=tuple(stride),
        pad=tuple(pad),
        dilation=tuple(dilation),
        mode=draw(st.sampled_from(modes)),
        kink=draw(st.sampled_from(kinks)),
        channels_last=draw(st.booleans()),
    )


@st.composite
def deform_conv_cases(draw: st.DrawFn, /, rank: int, kind: str, **options: Any) -> Case:
    """Draw a case of deformable convolution; `options` are those of `geometries`.

    Parameters
    ----------
    rank : {1, 2, 3}
        Number of spatial axes.
    kind : str
        Kind of values, one of ``pydeform.testing.values.KINDS``.
    **options
        Passed on to `geometries`.

    Returns
    -------
    strategy for Case
        With and without offset, mask, bias and per-sample weights, and with any subset of the
        tangents. Cases with NaN or infinities have every array and tangent. Kinds "interior" leave
        out kink "open" with mode "border": its derivative is 0 by definition where the value's is
        not.
    """
    optional = {name for name in ("offset", "bias", "mask") if draw(st.integers(0, 4))}
    tangents = {name for name in ARGUMENTS if draw(st.integers(0, 4))}
    spoiled = ""
    if kind in SPOILED:
        optional, tangents = {"offset", "bias", "mask"}, set(ARGUMENTS)
        spoiled = draw(st.sampled_from(SPOILED[kind]))
    if "interior" in kind and draw(st.booleans()):
        options["kinks"] = ("right", "mean")
    elif "interior" in kind:
        options["modes"] = ("zeros", "clip_zero")
    geometry, pad_end = draw(
        geometries(rank, sampled=not optional.isdisjoint(("offset", "mask")), **options)
    )
    return deform_conv_case(
        geometry,
        pad_end,
        draw(st.integers(0, 2**32 - 1)),
        kind,
        optional=optional,
        per_sample=draw(st.booleans()),
        tangents=tangents,
        spoiled=spoiled,
    )
