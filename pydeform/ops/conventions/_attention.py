"""Multi-scale deformable attention: normalised (x, y) per query, in levels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pydeform import _shapes
from pydeform._arrays import Array, NumpyArray, as_array, constant, device_of, on_host
from pydeform.ops._checks import check_like
from pydeform.ops.conventions._common import take, where_it_lies


class PositionWeight(NamedTuple):
    """Positions [L, N, M, P, Lq, 2] and weights [L, N, M, P, Lq], one entry per level."""

    position: Any
    weight: Any


def _sizes(spatial_shapes: Any, levels: int) -> list[tuple[int, int]]:
    """Return (height, width) of every level."""
    expected = f"{levels} pairs (height, width), one per level"
    if hasattr(spatial_shapes, "__cuda_array_interface__"):
        device = device_of("spatial_shapes", spatial_shapes)
        spatial_shapes = on_host(as_array("spatial_shapes", spatial_shapes, device))
    try:
        rows = [tuple(_shapes.integer("spatial_shapes", v) for v in row) for row in spatial_shapes]
    except TypeError as error:
        raise TypeError(f"spatial_shapes: expected {expected}, got {spatial_shapes!r}") from error
    if len(rows) != levels or any(len(row) != 2 for row in rows):
        raise ValueError(f"spatial_shapes: expected {expected}, got {rows}")
    for row in rows:
        if min(row) < 1:
            raise ValueError(f"spatial_shapes: expected sizes of at least 1, got {row}")
    return [(height, width) for height, width in rows]


def _scale(sizes: list[tuple[int, int]], dtype: np.dtype[Any]) -> NumpyArray:
    """(height, width) of every level beside [L, N, M, P, Lq, 2]."""
    if dtype.itemsize < 4:
        raise TypeError(
            f"normalized: expected False beside {dtype.name}, whose positions would lose bits, "
            "got True"
        )
    return np.asarray(sizes, dtype).reshape(-1, 1, 1, 1, 1, 2)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return value


@where_it_lies
def from_msda(
    sampling_locations: Array,
    attention_weights: Array,
    spatial_shapes: Any,
    *,
    normalized: bool = True,
) -> PositionWeight:
    """Return the locations and weights of multi-scale deformable attention, level by level.

    Entry l is what `pydeform.sample` and `pydeform.local_conv1d` take for the map of level l, with
    heads as groups, points as taps and queries as positions.

    Parameters
    ----------
    sampling_locations : array, shape (N, Lq, M, L, P, 2)
        (x, y), 0 and 1 at the outer edges of the first and last pixels.
    attention_weights : array, shape (N, Lq, M, L, P)
        After the softmax over levels and points that the published layer takes outside.
    spatial_shapes : array or sequence of L pairs
        (height, width) of every level.
    normalized : bool
        Turn locations into pixels, location*size - 0.5; False leaves the numbers as they are.

    Returns
    -------
    PositionWeight
        Positions (L, N, M, P, Lq, 2) with (y, x) last, and weights (L, N, M, P, Lq).

    Raises
    ------
    TypeError
        If an argument is not of its type, or 16-bit locations would be scaled.
    ValueError
        If the shapes do not fit.

    See Also
    --------
    to_msda : The way back.

    Notes
    -----
    There and back moves numbers exactly. Turning them into pixels is exact where a level's sizes
    are powers of two and the location has bits to spare; else each way rounds twice.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> locations = np.array([0.25, 0.5]).reshape(1, 1, 1, 1, 1, 2)
    >>> weights = np.ones((1, 1, 1, 1, 1))
    >>> pydeform.conventions.from_msda(locations, weights, [(4, 8)]).position.ravel()
    array([1.5, 1.5])
    """
    arrays, give = take(
        {"sampling_locations": sampling_locations, "attention_weights": attention_weights}
    )
    locations, weights = arrays["sampling_locations"], arrays["attention_weights"]
    if locations.ndim != 6 or locations.shape[5] != 2:
        raise ValueError(
            "sampling_locations: expected shape (N, queries, heads, levels, points, 2), "
            f"got {locations.shape}"
        )
    check_like("attention_weights", weights, "the locations", locations.shape[:5], locations.dtype)
    sizes = _sizes(spatial_shapes, locations.shape[3])
    position = locations[..., ::-1].transpose(3, 0, 2, 4, 1, 5)
    if _flag("normalized", normalized):
        half = locations.dtype.type(0.5)
        position = position * constant(_scale(sizes, locations.dtype), locations) - half
    return PositionWeight(give(position), give(weights.transpose(3, 0, 2, 4, 1)))


@where_it_lies
def to_msda(
    position: Array, weight: Array, spatial_shapes: Any, *, normalized: bool = True
) -> tuple[Any, Any]:
    """Return positions and weights per level as multi-scale deformable attention lays them out.

    Parameters
    ----------
    position : array, shape (L, N, M, P, Lq, 2)
        (y, x) in pixels.
    weight : array, shape (L, N, M, P, Lq)
        Factors.
    spatial_shapes : array or sequence of L pairs
        (height, width) of every level.
    normalized : bool
        Turn pixels into locations, (pixel + 0.5)/size; False leaves the numbers as they are.

    Returns
    -------
    tuple of two arrays
        Locations (N, Lq, M, L, P, 2) with (x, y) last, and weights (N, Lq, M, L, P).

    Raises
    ------
    TypeError
        If an argument is not of its type, or 16-bit positions would be scaled.
    ValueError
        If the shapes do not fit.

    See Also
    --------
    from_msda : The way back.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> position, weight = np.full((1, 1, 1, 1, 1, 2), 1.5), np.ones((1, 1, 1, 1, 1))
    >>> locations, weights = pydeform.conventions.to_msda(position, weight, [(4, 8)])
    >>> locations.ravel()
    array([0.25, 0.5 ])
    """
    arrays, give = take({"position": position, "weight": weight})
    places, weights = arrays["position"], arrays["weight"]
    if places.ndim != 6 or places.shape[5] != 2:
        raise ValueError(
            f"position: expected shape (levels, N, heads, points, queries, 2), got {places.shape}"
        )
    check_like("weight", weights, "the positions", places.shape[:5], places.dtype)
    sizes = _sizes(spatial_shapes, places.shape[0])
    if _flag("normalized", normalized):
        half = places.dtype.type(0.5)
        places = (places + half) / constant(_scale(sizes, places.dtype), places)
    locations = places[..., ::-1].transpose(1, 4, 2, 0, 3, 5)
    return give(locations), give(weights.transpose(1, 4, 2, 0, 3))
