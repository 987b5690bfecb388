"""Lattices of sampling positions under an affine map, and the matrices of the usual ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, isfinite, radians, sin
from typing import Any, ClassVar, NamedTuple, SupportsIndex, TypeVar

import numpy as np

from pydeform import _shapes
from pydeform._arrays import Array, NumpyArray
from pydeform.ops._checks import PerAxis
from pydeform.ops._composed import Formulas, Terms, derivatives, namespace, run

A = TypeVar("A", bound=Array)


class _Plan(NamedTuple):
    batch: int
    size: tuple[int, ...]
    out_size: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)


class _AffineLattice(Formulas):
    """p = (S-1)/2 + shift + A (q - (O-1)/2), summed in this order: halves, exact for turns."""

    names: ClassVar[tuple[str, ...]] = ("matrix", "shift")
    optional: ClassVar[tuple[str, ...]] = ("shift",)

    def plan(self, arrays: Terms, options: Any) -> _Plan:
        matrix = arrays["matrix"]
        rank = matrix.shape[-1] if matrix.ndim == 3 else 0
        if rank not in _shapes.AXES or matrix.shape[1] != rank:
            raise ValueError(
                "matrix: expected shape (N, n, n), a matrix per sample for n from 1 to 3 axes, "
                f"got {matrix.shape}"
            )
        if "shift" in arrays and arrays["shift"].shape != matrix.shape[:2]:
            raise ValueError(
                f"shift: expected shape {matrix.shape[:2]} (N, n), got {arrays['shift'].shape}"
            )
        size = _shapes.per_axis("size", options["size"], rank, 1)
        out = options["output_size"]
        out = size if out is None else _shapes.per_axis("output_size", out, rank, 1)
        return _Plan(matrix.shape[0], size, out)

    def shape(self, plan: _Plan) -> tuple[int, ...]:
        return (plan.batch, 1, 1, *plan.out_size, plan.rank)

    def _steps(self, plan: _Plan, like: Any) -> list[Any]:
        """q - (O-1)/2 per axis: [O_d] along its own axis of [N, *O]."""
        xp, found = namespace(like), []
        for axis, size in enumerate(plan.out_size):
            shape = [1] * (plan.rank + 1)
            shape[axis + 1] = size
            steps = xp.arange(size, dtype=like.dtype) - (size - 1) / 2
            found.append(xp.reshape(steps, tuple(shape)))
        return found

    def _linear(self, plan: _Plan, arrays: Terms, start: Sequence[float]) -> Any:
        matrix = arrays["matrix"]
        xp, n = namespace(matrix), plan.rank
        steps, flat = self._steps(plan, matrix), (plan.batch, *(1,) * n)
        columns = []
        for a in range(n):
            p = xp.reshape(xp.zeros_like(matrix[:, a, 0]) + start[a], flat)
            if "shift" in arrays:
                p = p + xp.reshape(arrays["shift"][:, a], flat)
            for b in range(n):
                p = p + xp.reshape(matrix[:, a, b], flat) * steps[b]
            columns.append(xp.broadcast_to(p, (plan.batch, *plan.out_size)))
        return xp.reshape(xp.stack(columns, axis=-1), self.shape(plan))

    def forward(self, plan: _Plan, arrays: Terms) -> Any:
        return self._linear(plan, arrays, [(s - 1) / 2 for s in plan.size])

    def jvp(self, plan: _Plan, tangents: Terms, arrays: Terms) -> Any:
        del arrays
        return self._linear(plan, tangents, (0.0,) * plan.rank)

    def backward(self, plan: _Plan, grad_output: Any, arrays: Terms) -> Terms:
        xp, n = namespace(grad_output), plan.rank
        grad = xp.reshape(grad_output, (plan.batch, *plan.out_size, n))
        axes, steps = tuple(range(1, n + 1)), self._steps(plan, grad)
        columns = [xp.sum(grad * steps[b][..., None], axis=axes) for b in range(n)]
        found = {"matrix": xp.stack(columns, axis=2)}
        if "shift" in arrays:
            found["shift"] = xp.sum(grad, axis=axes)
        return found


_RULES = _AffineLattice()


def affine_lattice(
    matrix: A,
    shift: Array | None = None,
    *,
    size: PerAxis,
    output_size: PerAxis | None = None,
) -> A:
    """Return where an affine map of an image reads it, about the centres of input and output.

    Output pixel q reads at ``(S - 1)/2 + shift + matrix @ (q - (O - 1)/2)``: the matrix says where
    an output step goes in the input. `flip_matrix`, `turn_matrix`, `rotation_matrix` and
    `resize_matrix` make the usual ones.

    Parameters
    ----------
    matrix : array, shape (N, n, n)
        From output to input, axes (y, x), one per sample.
    shift : array, shape (N, n), optional
        Pixels of the input.
    size : int or n of them
        S, the input size.
    output_size : int or n of them, optional
        O, the output size; that of the input by default.

    Returns
    -------
    array, shape (N, 1, 1, *O, n)
        Positions for `pydeform.sample`, in pixels.

    Raises
    ------
    TypeError
        If an argument is not of its type, or arrays are not all float32 or all float64.
    ValueError
        If shapes do not fit, or a size is not positive.

    See Also
    --------
    turn_matrix : Turns by right angles, which are exact.

    Notes
    -----
    Flips and turns by right angles read whole pixels, and nothing is rounded: four quarter turns
    give an image back to the bit.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> matrix = pydeform.offsets.flip_matrix((0,), rank=1)[None]
    >>> pydeform.offsets.affine_lattice(matrix, size=4).ravel()
    array([3., 2., 1., 0.])
    """
    options = {"size": size, "output_size": output_size}
    return run(_RULES, {"matrix": matrix, "shift": shift}, options)  # type: ignore[no-any-return]


(
    affine_lattice_backward,
    affine_lattice_jvp,
    affine_lattice_double_backward,
) = derivatives(_RULES, affine_lattice, ("np.eye(2)[None]", "matrix, size=(3, 4)"))


def _rank(rank: object) -> int:
    found = _shapes.integer("rank", rank)
    if found not in _shapes.AXES:
        raise ValueError(f"rank: expected 1, 2 or 3, got {found}")
    return found


def _axes(axes: object, rank: int, count: int | None) -> tuple[int, ...]:
    expected = f"{count or 'some'} different axes of {rank}"
    if not isinstance(axes, list | tuple):
        raise TypeError(f"axes: expected {expected}, got {axes!r} ({type(axes).__name__})")
    found = [_shapes.integer("axes", axis) for axis in axes]
    if any(not -rank <= axis < rank for axis in found):
        raise ValueError(f"axes: expected {expected}, got {axes!r}")
    plain = tuple(axis % rank for axis in found)
    if len(set(plain)) != len(plain) or (count is not None and len(plain) != count):
        raise ValueError(f"axes: expected {expected}, got {axes!r}")
    return plain


def flip_matrix(axes: Sequence[SupportsIndex], *, rank: SupportsIndex = 2) -> NumpyArray:
    """Return the matrix of a flip for `affine_lattice`.

    Parameters
    ----------
    axes : sequence of int
        Axes to flip.
    rank : int
        Number n of axes.

    Returns
    -------
    numpy.ndarray, shape (n, n)
        Of float64.

    Raises
    ------
    TypeError
        If an argument is not of its type.
    ValueError
        If axes are not different axes of that many.

    See Also
    --------
    affine_lattice : What it is for.

    Examples
    --------
    >>> import pydeform
    >>> pydeform.offsets.flip_matrix((1,))
    array([[ 1.,  0.],
           [ 0., -1.]])
    """
    n = _rank(rank)
    matrix = np.eye(n)
    for axis in _axes(axes, n, None):
        matrix[axis, axis] = -1.0
    return matrix


def turn_matrix(
    quarters: SupportsIndex, *, axes: Sequence[SupportsIndex] = (-2, -1), rank: SupportsIndex = 2
) -> NumpyArray:
    """Return the matrix of a turn by right angles for `affine_lattice`, of whole numbers.

    Parameters
    ----------
    quarters : int
        Quarter turns, from the first of `axes` towards the second, as `numpy.rot90` counts them.
        For an odd number the output size has the two axes' sizes swapped.
    axes : two int
        The plane to turn in.
    rank : int
        Number n of axes, 2 or 3.

    Returns
    -------
    numpy.ndarray, shape (n, n)
        Of float64.

    Raises
    ------
    TypeError
        If an argument is not of its type.
    ValueError
        If axes are not two different axes of that many.

    See Also
    --------
    rotation_matrix : Any angle.

    Examples
    --------
    >>> import pydeform
    >>> pydeform.offsets.turn_matrix(1) + 0
    array([[ 0.,  1.],
           [-1.,  0.]])
    """
    n = _rank(rank)
    first, second = _axes(axes, n, 2)
    turns = _shapes.integer("quarters", quarters) % 4
    return _rotation(n, first, second, (1.0, 0.0, -1.0, 0.0)[turns], (0.0, 1.0, 0.0, -1.0)[turns])


def rotation_matrix(
    degrees: float, *, axes: Sequence[SupportsIndex] = (-2, -1), rank: SupportsIndex = 2
) -> NumpyArray:
    """Return the matrix of a rotation for `affine_lattice`; multiples of 90 degrees are exact.

    Parameters
    ----------
    degrees : float
        Angle, from the first of `axes` towards the second, as `numpy.rot90` turns.
    axes : two int
        The plane to turn in.
    rank : int
        Number n of axes, 2 or 3.

    Returns
    -------
    numpy.ndarray, shape (n, n)
        Of float64.

    Raises
    ------
    TypeError
        If an argument is not of its type.
    ValueError
        If the angle is not finite, or axes are not two different axes of that many.

    See Also
    --------
    turn_matrix : Turns by right angles.

    Examples
    --------
    >>> import pydeform
    >>> pydeform.offsets.rotation_matrix(60.0).round(3)
    array([[ 0.5  ,  0.866],
           [-0.866,  0.5  ]])
    """
    n = _rank(rank)
    first, second = _axes(axes, n, 2)
    angle = float(degrees)
    if not isfinite(angle):
        raise ValueError(f"degrees: expected a finite number, got {degrees!r}")
    quarters, rest = divmod(angle, 90.0)
    if rest == 0:
        return turn_matrix(int(quarters), axes=(first, second), rank=n)
    return _rotation(n, first, second, cos(radians(angle)), sin(radians(angle)))


def _rotation(n: int, first: int, second: int, c: float, s: float) -> NumpyArray:
    matrix = np.eye(n)
    matrix[first, first] = matrix[second, second] = c
    matrix[first, second], matrix[second, first] = s, -s
    return matrix


def resize_matrix(
    size: Sequence[SupportsIndex],
    output_size: Sequence[SupportsIndex],
    *,
    align_corners: bool = False,
) -> NumpyArray:
    """Return the matrix of a change of size for `affine_lattice`.

    Parameters
    ----------
    size : sequence of n int
        The input size S.
    output_size : sequence of n int
        The output size O.
    align_corners : bool
        Step by (S-1)/(O-1), which reads the corner pixels, and not by S/O, which keeps the image's
        outer edges. An axis of one output pixel reads the middle.

    Returns
    -------
    numpy.ndarray, shape (n, n)
        Of float64.

    Raises
    ------
    TypeError
        If an argument is not of its type.
    ValueError
        If the sizes are not of as many axes, or not positive.

    See Also
    --------
    affine_lattice : What it is for.

    Examples
    --------
    >>> import pydeform
    >>> pydeform.offsets.resize_matrix((4, 6), (8, 3))
    array([[0.5, 0. ],
           [0. , 2. ]])
    """
    if not isinstance(size, list | tuple) or len(size) not in _shapes.AXES:
        raise ValueError(f"size: expected 1 to 3 ints, one per axis, got {size!r}")
    rank = len(size)
    inner = _shapes.per_axis("size", size, rank, 1)
    outer = _shapes.per_axis("output_size", output_size, rank, 1)
    if not isinstance(align_corners, bool):
        raise TypeError(f"align_corners: expected True or False, got {align_corners!r}")
    pairs = zip(inner, outer, strict=True)
    if align_corners:
        return np.diag([(s - 1) / (o - 1) if o > 1 else 0.0 for s, o in pairs])
    return np.diag([s / o for s, o in pairs])
