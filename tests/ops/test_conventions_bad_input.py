"""Everything the converters of pydeform.conventions refuse, and what they say."""

import numpy as np
import pytest

from pydeform import conventions

MASK = np.ones((1, 1, 4, 4))
OFFSET = np.zeros((1, 18, 4, 4))

REFUSED = {
    "chainer groups": (
        lambda: conventions.from_chainer(np.zeros((1, 36, 4, 4)), kernel_size=3),
        ValueError,
        "offset: expected 18 channels, one offset group, got 36",
    ),
    "chainer channels": (
        lambda: conventions.to_chainer(np.zeros((1, 17, 4, 4)), kernel_size=3),
        ValueError,
        "offset: expected channels in multiples of 18",
    ),
    "chainer axes": (
        lambda: conventions.to_chainer(np.zeros((18, 4, 4)), kernel_size=3),
        ValueError,
        "offset: expected 4 dimensions",
    ),
    "mindspore": (
        lambda: conventions.from_mindspore(OFFSET, kernel_size=3),
        ValueError,
        "offsets: expected channels in multiples of 27 | got 18",
    ),
    "mask": (
        lambda: conventions.to_mindspore(OFFSET, np.ones((1, 8, 4, 4)), kernel_size=3),
        ValueError,
        "mask: expected shape (1, 9, 4, 4)",
    ),
    "integers": (
        lambda: conventions.to_mindspore(OFFSET.astype(int), kernel_size=3),
        TypeError,
        "offset: expected one of | got int64",
    ),
    "mixed conventions": (
        lambda: conventions.to_dcnv3(OFFSET, np.ones((1, 9, 4, 4), np.float32), kernel_size=3),
        TypeError,
        "mixed dtypes: | offset float64, mask float32",
    ),
    "dcnv3": (
        lambda: conventions.from_dcnv3(np.zeros((1, 4, 4, 18)), MASK, kernel_size=3),
        ValueError,
        "mask: expected shape (1, 4, 4, 9)",
    ),
    "kept centre": (
        lambda: conventions.to_dcnv3(OFFSET, kernel_size=3, remove_center=True),
        ValueError,
        "remove_center: expected a mask of 0 at the centre tap",
    ),
    "even centre": (
        lambda: conventions.to_dcnv4(np.zeros((1, 8, 4, 4)), kernel_size=2, remove_center=True),
        ValueError,
        "remove_center: expected odd kernel sizes",
    ),
    "only a centre": (
        lambda: conventions.to_dcnv4(np.zeros((1, 2, 4, 4)), kernel_size=1, remove_center=True),
        ValueError,
        "remove_center: expected a kernel of more than its centre",
    ),
    "remove": (
        lambda: conventions.to_dcnv4(OFFSET, kernel_size=3, remove_center="no"),
        TypeError,
        "remove_center: expected True or False",
    ),
    "packed": (
        lambda: conventions.from_dcnv4(np.zeros((1, 4, 4, 27)), kernel_size=3, group=1),
        ValueError,
        "offset_mask: expected shape (batch, H, W, 32)",
    ),
    "group": (
        lambda: conventions.from_dcnv4(np.zeros((1, 4, 4, 32)), kernel_size=3, group=0),
        ValueError,
        "group: expected at least 1, got 0",
    ),
    "scale 0": (
        lambda: conventions.to_dcnv3(OFFSET, kernel_size=3, offset_scale=0),
        ValueError,
        "offset_scale: expected a finite number but 0",
    ),
    "scale text": (
        lambda: conventions.to_dcnv3(OFFSET, kernel_size=3, offset_scale="1"),
        TypeError,
        "offset_scale: expected a number",
    ),
    "scaled half": (
        lambda: conventions.to_dcnv3(OFFSET.astype(np.float16), kernel_size=3, offset_scale=2),
        TypeError,
        "offset_scale: expected 1 beside float16",
    ),
    "locations": (
        lambda: conventions.from_msda(np.zeros((1, 2, 2)), MASK, [(1, 1)]),
        ValueError,
        "sampling_locations: expected shape (N, queries, heads, levels, points, 2)",
    ),
    "positions": (
        lambda: conventions.to_msda(np.zeros((1, 2, 2)), MASK, [(1, 1)]),
        ValueError,
        "position: expected shape (levels, N, heads, points, queries, 2)",
    ),
    "levels": (
        lambda: conventions.from_msda(
            np.zeros((1, 1, 1, 2, 1, 2)), np.zeros((1, 1, 1, 2, 1)), [(1, 1)]
        ),
        ValueError,
        "spatial_shapes: expected 2 pairs",
    ),
    "level sizes": (
        lambda: conventions.from_msda(
            np.zeros((1, 1, 1, 1, 1, 2)), np.zeros((1, 1, 1, 1, 1)), [(1, 0)]
        ),
        ValueError,
        "spatial_shapes: expected sizes of at least 1, got (1, 0)",
    ),
    "level numbers": (
        lambda: conventions.from_msda(
            np.zeros((1, 1, 1, 1, 1, 2)), np.zeros((1, 1, 1, 1, 1)), [(1.5, 2)]
        ),
        TypeError,
        "spatial_shapes: expected 1 pairs",
    ),
    "normalized": (
        lambda: conventions.from_msda(
            np.zeros((1, 1, 1, 1, 1, 2)), np.zeros((1, 1, 1, 1, 1)), [(1, 2)], normalized=None
        ),
        TypeError,
        "normalized: expected True or False",
    ),
    "normalized half": (
        lambda: conventions.from_msda(
            np.zeros((1, 1, 1, 1, 1, 2), np.float16),
            np.zeros((1, 1, 1, 1, 1), np.float16),
            [(1, 2)],
        ),
        TypeError,
        "normalized: expected False beside float16",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, error, words = REFUSED[case]
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert [word for word in words.split(" | ") if word not in message] == [], message
