"""Everything the functions of pydeform.offsets refuse, and what they say."""

import numpy as np
import pytest

from pydeform import offsets

SIZE = np.ones((1, 1, 4, 4))
OFFSET = np.zeros((1, 18, 4, 4))
K = (3, 3)


def scale(size=SIZE, shift=None, kernel_size=K, **options):
    return offsets.scale_taps(size, shift, kernel_size=kernel_size, **options)


def window(size=SIZE, **options):
    return offsets.gaussian_window(size, kernel_size=K, **options)


def changed(value):
    size = np.ones((1, 1, 4, 4))
    size[0, 0, 1, 2] = value
    return size


def ball(eps, **options):
    return offsets.project_ball(OFFSET, eps, **options)


def box(bounds, **options):
    return offsets.project_box(OFFSET, bounds, **options)


def resolve(constraint, kernel_size=K):
    return offsets.resolve_constraint(constraint, kernel_size=kernel_size)


def static(offset, batch=1, output_size=3):
    return offsets.static_offsets(offset, batch=batch, output_size=output_size)


EYE = np.eye(2)[None]


def lattice(matrix=EYE, shift=None, size=(2, 2), **options):
    return offsets.affine_lattice(matrix, shift, size=size, **options)


def locations(offset=OFFSET, **options):
    return offsets.sampling_locations(offset, **{"kernel_size": K, **options})


REFUSED = {
    # sizes
    "nan size": (lambda: scale(changed(np.nan)), ValueError, "size: expected positive | nan at"),
    "negative size": (lambda: scale(changed(-1)), ValueError, "size: | got -1.0 at (0, 0, 1, 2)"),
    "size 0": (lambda: scale(changed(0)), ValueError, "size: expected positive numbers, got 0.0"),
    "infinite size": (lambda: scale(changed(np.inf)), ValueError, "size: expected positive | inf"),
    "nan log": (lambda: scale(changed(np.nan), log=True), ValueError, "size: | logarithms | nan"),
    "large log": (lambda: scale(changed(800), log=True), ValueError, "size: | 709.783, got 800.0"),
    "small log": (lambda: window(changed(-800), log=True), ValueError, "size: | -708.396 | -800.0"),
    "nan matrix": (
        lambda: scale(np.full((1, 1, 2, 2, 4, 4), np.nan)),
        ValueError,
        "size: | finite",
    ),
    "negative deviation": (lambda: window(changed(-2)), ValueError, "size: expected positive"),
    "log of matrices": (
        lambda: scale(np.ones((1, 1, 2, 2, 4, 4)), log=True),
        ValueError,
        "log: expected False | got True",
    ),
    "log is a number": (lambda: scale(log=1), TypeError, "log: expected True or False, got 1"),
    "matrix window": (
        lambda: window(np.ones((1, 1, 2, 2, 4, 4))),
        ValueError,
        "size: expected 4 to 5 dimensions ([N, G, *O], [N, G, n, *O]) | got 6",
    ),
    "flat size": (lambda: scale(np.ones((4, 4))), ValueError, "size: expected 4 to 6 | got 2"),
    "three axes": (lambda: scale(np.ones((1, 1, 3, 4, 4))), ValueError, "[N, G, n, *O] with n = 2"),
    "no group": (lambda: scale(np.ones((1, 0, 4, 4))), ValueError, "at least one group"),
    "shift": (
        lambda: scale(shift=np.ones((1, 2, 4, 4))),
        ValueError,
        "shift: expected shape (1, 1, 2, 4, 4) | got (1, 2, 4, 4)",
    ),
    # tiles
    "no output size": (lambda: scale(tile=2), ValueError, "output_size: | beside a tile, got None"),
    "no tile": (lambda: scale(output_size=8), ValueError, "output_size: expected (4, 4) | (8, 8)"),
    "other tiles": (
        lambda: scale(tile=2, output_size=9),
        ValueError,
        "size: expected (5, 5) tiles | got (4, 4)",
    ),
    "tile of 0": (lambda: scale(tile=0, output_size=9), ValueError, "tile: expected at least 1"),
    # kernels and layouts
    "kernel an int": (
        lambda: scale(kernel_size=3),
        TypeError,
        "kernel_size: expected | got 3 (int)",
    ),
    "kernel of 4 axes": (lambda: scale(kernel_size=(1,) * 4), ValueError, "kernel_size: | 1 to 3"),
    "empty kernel": (lambda: scale(kernel_size=(3, 0)), ValueError, "kernel_size: | 1, got 0"),
    "layout": (lambda: scale(layout="NHWC"), ValueError, "layout: expected one of | 'NHWC'"),
    "dilation": (lambda: scale(dilation=0), ValueError, "dilation: expected at least 1, got 0"),
    # arrays
    "half": (
        lambda: scale(SIZE.astype(np.float16)),
        TypeError,
        "size: expected one of ('float32', 'float64'), got float16; convert it first, as in size.",
    ),
    "int": (lambda: scale(SIZE.astype(int)), TypeError, "size: expected one of | got int64"),
    "mixed": (
        lambda: scale(shift=np.ones((1, 1, 2, 4, 4), np.float32)),
        TypeError,
        "mixed dtypes: | size float64, shift float32",
    ),
    "list": (lambda: scale([[1.0]]), TypeError, "size: expected an array | got list"),
    "none": (lambda: scale(None), TypeError, "size: expected an array | got None"),
    # balls and boxes
    "eps 0": (lambda: ball(0), ValueError, "eps: expected a positive, finite radius | got 0"),
    "eps negative": (lambda: ball(-1.0), ValueError, "eps: expected a positive | got -1.0"),
    "eps nan": (lambda: ball(np.nan), ValueError, "eps: expected a positive | got nan"),
    "eps text": (lambda: ball("1"), TypeError, "eps: expected a number, got '1' (str)"),
    "eps true": (lambda: ball(True), TypeError, "eps: expected a number, got True (bool)"),
    "center": (lambda: ball(1, center=(1, 2, 3)), ValueError, "center: | 2 of them | (1, 2, 3)"),
    "center nan": (lambda: ball(1, center=np.nan), ValueError, "center: expected finite numbers"),
    "smooth": (lambda: ball(1, smooth=1), TypeError, "smooth: expected True or False, got 1"),
    "pairs": (lambda: box([(1, 1)]), ValueError, "bounds: expected 2 pairs | got 1: [(1, 1)]"),
    "triples": (
        lambda: box([(1, 1), (1, 1, 1)]),
        ValueError,
        "bounds: expected 2 pairs | (1, 1, 1)",
    ),
    "numbers": (lambda: box([1, 1]), TypeError, "bounds: expected 2 pairs | got 1 in [1, 1]"),
    "one number": (lambda: box(1.0), TypeError, "bounds: expected 2 pairs | got 1.0 (float)"),
    "negative": (lambda: box([(1, 1), (-1, 1)]), ValueError, "bounds: | at least 0, got -1.0"),
    "nan bound": (lambda: box([(1, 1), (1, np.nan)]), ValueError, "bounds: | got nan"),
    "channels": (
        lambda: offsets.project_ball(np.zeros((1, 5, 4, 4)), 1.0),
        ValueError,
        "offset: expected channels in multiples of 2 (2 axes) | got 5",
    ),
    "no channels": (
        lambda: offsets.project_ball(np.zeros((1, 0, 4, 4)), 1.0),
        ValueError,
        "offset: expected channels in multiples of 2",
    ),
    # constraints
    "list of 1": (lambda: resolve([(2, 2)]), ValueError, "center_constraint: expected 2 pairs"),
    "list of 3": (lambda: resolve([(2, 2)] * 3), ValueError, "center_constraint: expected 2 pairs"),
    "empty list": (lambda: resolve([]), ValueError, "center_constraint: expected 2 pairs"),
    "radius 0": (lambda: resolve(0.0), ValueError, "center_constraint: expected a positive"),
    "radius -1": (lambda: resolve(-1), ValueError, "center_constraint: expected a positive"),
    "radius inf": (lambda: resolve(np.inf), ValueError, "center_constraint: expected a positive"),
    "bool": (lambda: resolve(True), TypeError, "center_constraint: expected a number, got True"),
    "word": (lambda: resolve("ball"), TypeError, "center_constraint: expected None, a radius"),
    "other word": (
        lambda: resolve(("box", 0, 1)),
        ValueError,
        "(\"ball\", center, eps), got ('box'",
    ),
    "short ball": (lambda: resolve(("ball", 1)), ValueError, 'expected ("ball", center, eps)'),
    "ball of 0": (lambda: resolve(("ball", 0, 0)), ValueError, "center_constraint: | positive"),
    "far ball": (lambda: resolve(("ball", (1,), 1)), ValueError, "center_constraint: | 2 of them"),
    "constrain": (
        lambda: offsets.constrain(OFFSET, [(1, 1)], kernel_size=K),
        ValueError,
        "center_constraint: expected 2 pairs",
    ),
    "constrained rank": (
        lambda: offsets.constrain(OFFSET, kernel_size=(3,)),
        ValueError,
        "offset: expected 3 dimensions (batch, Go*K*n, *output) for 1 axes, got 4",
    ),
    # snakes and spacings
    "even snake": (
        lambda: offsets.cumulative_taps(OFFSET, kernel_size=(3, 2)),
        ValueError,
        "kernel_size: expected an odd number of taps along axis 1 | got (3, 2)",
    ),
    "axis": (
        lambda: offsets.cumulative_taps(OFFSET, kernel_size=K, axis=2),
        ValueError,
        "axis: expected one of the 2 axes | got 2",
    ),
    "snake's channels": (
        lambda: offsets.cumulative_taps(OFFSET, kernel_size=(5, 5)),
        ValueError,
        "offset: expected channels in multiples of 50 (25 taps times 2 axes) | got 18",
    ),
    "spacing": (lambda: static(np.zeros((9, 4))), ValueError, "offset: expected shape (K, n) or"),
    "no spacing": (lambda: static(np.zeros((0, 2))), ValueError, "offset: | got (0, 2)"),
    "flat spacing": (lambda: static(np.zeros(9)), ValueError, "offset: expected shape | got (9,)"),
    "batch": (lambda: static(np.zeros((9, 2)), batch=-1), ValueError, "batch: expected at least 0"),
    "outputs": (
        lambda: static(np.zeros((9, 2)), output_size=(1, 2, 3)),
        ValueError,
        "output_size: expected an int or 2 of them",
    ),
    # lattices and locations
    "matrix": (lambda: lattice(np.eye(2)), ValueError, "matrix: expected shape (N, n, n) | (2, 2)"),
    "oblong": (lambda: lattice(np.ones((1, 2, 3))), ValueError, "matrix: | got (1, 2, 3)"),
    "lattice shift": (
        lambda: lattice(shift=np.ones(2)),
        ValueError,
        "shift: expected shape (1, 2)",
    ),
    "lattice size": (lambda: lattice(size=(1, 0)), ValueError, "size: expected at least 1, got 0"),
    "turn": (lambda: offsets.turn_matrix(1.5), TypeError, "quarters: expected an int, got 1.5"),
    "plane": (
        lambda: offsets.turn_matrix(1, axes=(0, 0)),
        ValueError,
        "axes: expected 2 different",
    ),
    "rank": (lambda: offsets.flip_matrix((0,), rank=4), ValueError, "rank: expected 1, 2 or 3"),
    "flip": (lambda: offsets.flip_matrix((2,)), ValueError, "axes: expected some different axes"),
    "flip int": (lambda: offsets.flip_matrix(0), TypeError, "axes: expected | got 0 (int)"),
    "angle": (lambda: offsets.rotation_matrix(np.inf), ValueError, "degrees: expected a finite"),
    "resize": (lambda: offsets.resize_matrix(3, (4,)), ValueError, "size: expected 1 to 3 ints"),
    "corners": (
        lambda: offsets.resize_matrix((3,), (4,), align_corners=None),
        TypeError,
        "align_corners: expected True or False",
    ),
    "same": (lambda: locations(padding="same"), ValueError, "size: | got None"),
    "other outputs": (lambda: locations(size=9), ValueError, "offset: expected positions (7, 7)"),
    "padding": (
        lambda: offsets.same_padding((4,), kernel_size=K),
        ValueError,
        "size: expected an int or 2 of them",
    ),
    # derivatives
    "grad_output": (
        lambda: offsets.project_ball_backward(np.zeros((1, 18, 4)), OFFSET, 1.0),
        ValueError,
        "grad_output: expected shape (1, 18, 4, 4), that of the output, got (1, 18, 4)",
    ),
    "grad dtype": (
        lambda: offsets.project_ball_backward(OFFSET.astype(np.float32), OFFSET, 1.0),
        TypeError,
        "grad_output: expected dtype float64",
    ),
    "needs": (
        lambda: offsets.project_ball_backward(OFFSET, OFFSET, 1.0, needs=("eps",)),
        ValueError,
        "needs: expected names among ('offset',) | 'eps'",
    ),
    "absent": (
        lambda: offsets.scale_taps_backward(OFFSET, SIZE, kernel_size=K, needs=("shift",)),
        ValueError,
        "needs: expected names among ('size',)",
    ),
    "tangents": (
        lambda: offsets.project_ball_jvp(OFFSET, 1.0, tangents={"offset": np.zeros(3)}),
        ValueError,
        "tangents['offset']: expected shape (1, 18, 4, 4), that of offset, got (3,)",
    ),
    "tangent names": (
        lambda: offsets.project_ball_jvp(OFFSET, 1.0, tangents={"eps": OFFSET}),
        ValueError,
        "tangents: expected | 'eps'",
    ),
    "grad_grads": (
        lambda: offsets.project_ball_double_backward(OFFSET, OFFSET, OFFSET, 1.0),
        TypeError,
        "grad_grads: expected a mapping",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, error, words = REFUSED[case]
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert [word for word in words.split(" | ") if word not in message] == [], message
