"""Projections: idempotent, no longer than what they project, inside; and the forms to ask for them.

Boxes are exact. A ball rounds: components of a result carry a few units of rounding, u = 2^-53 or
2^-24, of eps (and of the center, where it is not 0).
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pydeform import offsets

FLOATS = st.sampled_from([np.float32, np.float64])
RANK = st.integers(1, 3)


@st.composite
def fields(draw):
    """Two offsets of equal shape, and their rank."""
    rank, dtype = draw(RANK), draw(FLOATS)
    shape = (1, 2 * rank, *(2,) * rank)
    width = 8 * np.dtype(dtype).itemsize
    bound = 2.0**60
    numbers = st.floats(-bound, bound, width=width, allow_subnormal=False)
    near = st.floats(-4, 4, width=width)
    elements = draw(st.sampled_from([numbers, near]))
    array = hnp.arrays(dtype, shape, elements=elements)
    return draw(array), draw(array), rank


def lengths(offset, rank):
    """Lengths of offsets [N, K*n, ...] as vectors, in longdouble."""
    split = offset.astype(np.longdouble).reshape(1, 2, rank, *offset.shape[2:])
    return np.sqrt(np.sum(split * split, axis=2))


sides = st.floats(0, 8, width=16)


@given(fields(), st.lists(st.tuples(sides, sides), min_size=3, max_size=3))
def test_a_box_is_a_projection(drawn, bounds):
    one, other, rank = drawn
    bounds = bounds[:rank]
    found = offsets.project_box(one, bounds)
    low, high = (
        np.array([pair[i] for pair in bounds] * 2).reshape(1, -1, *(1,) * rank) for i in (0, 1)
    )
    assert np.all(-low <= found)
    assert np.all(found <= high)
    np.testing.assert_array_equal(offsets.project_box(found, bounds), found)
    inside = (one >= -low) & (one <= high)
    np.testing.assert_array_equal(found[inside], one[inside])
    gap = np.abs(found - offsets.project_box(other, bounds))
    assert np.all(gap <= np.abs(one - other))  # rounding is monotonic


@given(fields(), st.lists(st.tuples(sides, sides), min_size=3, max_size=3))
def test_a_smooth_box_stays_inside_and_shortens(drawn, bounds):
    one, other, rank = drawn
    bounds = bounds[:rank]
    found, second = (offsets.project_box(a, bounds, smooth=True) for a in (one, other))
    low, high = (
        np.array([pair[i] for pair in bounds] * 2).reshape(1, -1, *(1,) * rank) for i in (0, 1)
    )
    assert np.all(-low <= found)
    assert np.all(found <= high)
    # v/bound, tanh and the product are each rounded: a few units of the results, and of the
    # smallest normal number below it.
    limit = np.finfo(one.dtype)
    assert np.all(np.abs(found) <= np.abs(one) * (1 + 4 * limit.eps) + limit.tiny)
    slack = 4 * limit.eps * (np.abs(found) + np.abs(second)) + limit.tiny
    assert np.all(np.abs(found - second) <= np.abs(one - other) + slack)


@given(fields(), st.floats(2.0**-8, 64, width=16), st.booleans())
def test_a_ball_around_zero_holds_exactly(drawn, eps, smooth):
    """The computed length, by any rounding of the sum, is eps at most; inside nothing changes."""
    one, other, rank = drawn
    found, second = (offsets.project_ball(a, eps, smooth=smooth) for a in (one, other))
    assert np.all(lengths(found, rank) <= eps)
    split = found.reshape(1, 2, rank, *found.shape[2:])
    assert np.all(np.linalg.norm(split, axis=2) <= eps)
    if not smooth:
        np.testing.assert_array_equal(offsets.project_ball(found, eps), found)
        before = lengths(one, rank)
        inside = np.repeat(before <= eps * (1 - 1e-6), rank, axis=1).reshape(one.shape)
        np.testing.assert_array_equal(found[inside], one[inside])
    # Results are rounded to 16 units of eps: 8 inwards for two vectors of length eps at most.
    slack = 64 * np.finfo(one.dtype).eps * (lengths(found, rank) + lengths(second, rank))
    slack = slack + np.finfo(one.dtype).tiny
    gap = lengths(found.astype(np.longdouble) - second, rank)
    assert np.all(gap <= lengths(one.astype(np.longdouble) - other, rank) + slack)


@given(fields(), st.floats(0.25, 64, width=16), st.floats(-8, 8, width=16))
def test_a_ball_around_a_center_is_a_projection(drawn, eps, center):
    one, _, rank = drawn
    found = offsets.project_ball(one, eps, center=center)
    slack = 8 * np.finfo(one.dtype).eps * (eps + abs(center))
    assert np.all(lengths(found.astype(np.longdouble) - center, rank) <= eps + slack)
    again = offsets.project_ball(found, eps, center=center)
    assert np.max(np.abs(again - found)) <= 2 * slack


def test_the_nearest_point_of_a_ball():
    offset = np.array([3.0, 4.0, 0.3, 0.4, -3.0, 0.0]).reshape(1, 6, 1, 1)
    found = offsets.project_ball(offset, 1.0).ravel()
    np.testing.assert_allclose(found, [0.6, 0.8, 0.3, 0.4, -1.0, 0.0], rtol=1e-14)
    moved = offsets.project_ball(offset + 1.5, 1.0, center=1.5).ravel()
    np.testing.assert_allclose(moved, np.array([2.1, 2.3, 1.8, 1.9, 0.5, 1.5]), rtol=1e-14)


def test_large_and_small_offsets_do_not_overflow():
    offset = np.array([3e38, -3e38, 1e-44, 0.0], np.float32).reshape(1, 4, 1, 1)
    found = offsets.project_ball(offset, 1.0).ravel()
    np.testing.assert_allclose(found[:2], [0.5**0.5, -(0.5**0.5)], rtol=1e-6)
    np.testing.assert_array_equal(found[2:], offset.ravel()[2:])


def test_the_gradients_of_a_ball():
    """Outside: (eps/r)(g - u (u.g)); inside and on the edge of a box, g itself."""
    offset = np.array([3.0, 4.0, 0.3, 0.4]).reshape(1, 4, 1, 1)
    grad = np.array([1.0, 2.0, 1.0, 2.0]).reshape(1, 4, 1, 1)
    found = offsets.project_ball_backward(grad, offset, 2.0).offset.ravel()
    unit, g = np.array([0.6, 0.8]), np.array([1.0, 2.0])
    expected = [*(2 / 5 * (g - unit * (unit @ g))), 1.0, 2.0]
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    edge = np.array([1.0, 1.5, -2.0, -2.5]).reshape(1, 4, 1, 1)
    found = offsets.project_box_backward(grad, edge, [(2, 1), (2, 1)]).offset
    np.testing.assert_array_equal(found.ravel(), [1, 0, 1, 0])


def test_smooth_projections_leave_zero_alone():
    zero = np.zeros((1, 2, 1, 1))
    grad = np.ones((1, 2, 1, 1))
    for name, how in (("project_box", {"bounds": [(1, 2)] * 2}), ("project_ball", {"eps": 1.5})):
        options = {**how, "smooth": True}
        assert not getattr(offsets, name)(zero, **options).any()
        found = getattr(offsets, f"{name}_backward")(grad, zero, **options)
        np.testing.assert_array_equal(found.offset, grad)
        second = getattr(offsets, f"{name}_double_backward")(
            {"offset": grad}, grad, zero, **options
        )
        assert not second.offset.any()


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (None, offsets.Box((1.5, 2.0), (1.5, 2.0))),
        (2, offsets.Ball((0.0, 0.0), 2.0)),
        (np.float32(0.5), offsets.Ball((0.0, 0.0), 0.5)),
        (("ball", 1, 2.0), offsets.Ball((1.0, 1.0), 2.0)),
        (("ball", (1, -2), 2.0), offsets.Ball((1.0, -2.0), 2.0)),
        ([(2, 3), (0, np.inf)], offsets.Box((2.0, 0.0), (3.0, np.inf))),
    ],
)
def test_the_forms_of_a_constraint(constraint, expected):
    assert offsets.resolve_constraint(constraint, kernel_size=(3, 4)) == expected
    offset = np.random.default_rng(0).normal(size=(1, 24, 2, 2)) * 3
    found = offsets.constrain(offset, constraint, kernel_size=(3, 4))
    if isinstance(expected, offsets.Ball):
        plain = offsets.project_ball(offset, expected.eps, center=expected.center)
    else:
        plain = offsets.project_box(offset, list(zip(*expected, strict=True)))
    np.testing.assert_array_equal(found, plain)
    assert not np.array_equal(found, offset)
