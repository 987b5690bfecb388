"""What is verified, on the whole picture and on a crop of it, and how near each result may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import DTypeLike

import pydeform
from pydeform._demo.lens import Array, Correction, Floats, coordinates
from pydeform.testing import (
    Case,
    deform_conv_call,
    expected,
    first_order,
    second_order,
    unit_roundoff,
)

#: Rows and columns of the crop on which derivatives are checked.
CROP = 32


@dataclass(frozen=True)
class Check:
    """One thing that was verified: `value` may be `limit` at most."""

    name: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether it holds; NaN does not."""
        return self.value <= self.limit


@dataclass(frozen=True)
class Derivative:
    """One result on the crop: its error in bounds, by dtype, and against finite differences."""

    name: str
    units: Mapping[str, float]
    difference: float | None  # None for what is no derivative

    @property
    def passed(self) -> bool:
        """Whether rounding explains every error and the differences agree to the bit."""
        return all(u <= 1 for u in self.units.values()) and self.difference in (None, 0.0)


def correct(picture: Floats, undo: Correction) -> Floats:
    """Correct a picture [1, 3, H, W]: the deformable convolution that all of this is about."""
    return pydeform.deform_conv2d(
        picture, undo.offset, undo.weight, undo.bias, padding=1, mask=undo.mask
    )


def gradients(
    picture: Floats, undo: Correction, grad_output: Floats, needs: Sequence[str] | None = None
) -> pydeform.DeformConvGrads[Floats]:
    """Return the gradients of `correct` with respect to its arguments."""
    return pydeform.deform_conv2d_backward(
        grad_output,
        picture,
        undo.offset,
        undo.weight,
        undo.bias,
        padding=1,
        mask=undo.mask,
        needs=needs,
    )


def by_scipy(picture: Floats, undo: Correction) -> Floats:
    """Correct a picture in float64 by ``scipy.ndimage.map_coordinates``, tap by tap."""
    where = coordinates(undo.offset)
    out = np.empty_like(picture)
    for colour, plane in enumerate(picture[0]):
        total = np.full(plane.shape, undo.bias[colour])
        for tap, factor in enumerate(undo.weight[colour].flat):
            sample = scipy.ndimage.map_coordinates(
                plane, where[:, tap], order=1, mode="grid-constant"
            )
            total += factor * undo.mask[0, tap] * sample
        out[0, colour] = total
    return out


def rounding(picture: Floats, undo: Correction, dtype: DTypeLike) -> Array:
    """Return how far from the truth rounding may take the corrected picture, a priori.

    The number of roundings on the way to a result times the unit roundoff times the same operation
    on absolute values. An interpolated sample has 2^2 + 2*2 - 1 of them, mask and bias add one
    each, and the sum runs over the taps of one channel.
    """
    roundings = 7 + 2 + 9
    absolute = Correction(undo.offset, np.abs(undo.weight), np.abs(undo.bias), np.abs(undo.mask))
    error = roundings * unit_roundoff(dtype)
    return np.asarray(error / (1 - error) * correct(np.abs(picture), absolute))


def _units(error: Floats, bound: Floats) -> float:
    """Return the largest error in bounds; an error where none is allowed is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        units = np.where(error == 0, 0, error / bound)
    return float(np.max(np.where(np.isnan(units), np.inf, units)))


def whole_picture(picture: Array, undo: Correction, result: Floats, peer: Floats) -> list[Check]:
    """Check the corrected picture `result` (float64) against SciPy's `peer` and against itself."""
    # Each of the two may be one bound away from the truth.
    checks = [
        Check(
            "float64 to scipy.ndimage.map_coordinates [bounds]",
            _units(np.abs(result - peer), rounding(picture, undo, np.float64)),
            2,
        )
    ]
    # The float32 call gets a rounded mask, so the truth is that of the rounded one.
    single, narrow = picture.astype(np.float32), undo.astype(np.float32)
    rounded = narrow.astype(np.float64)
    error = np.abs(correct(single, narrow) - correct(picture, rounded))
    checks.append(
        Check(
            "float32 to float64 [bounds]",
            _units(error, rounding(picture, rounded, np.float32)),
            1,
        )
    )
    changed = sum(
        not np.array_equal(one, two)
        for one, two in zip(*(_all_results(single, narrow, n) for n in (1, 2)), strict=True)
    )
    checks.append(Check("results whose bits differ between 1 thread and 2", changed, 0))
    return checks


def _all_results(picture: Floats, undo: Correction, threads: int) -> list[Floats]:
    """Return the corrected picture and all gradients of its squared error to black."""
    with pydeform.num_threads(threads):
        result = correct(picture, undo)
        grads = gradients(picture, undo, result)
    return [result, *(grad for grad in grads if grad is not None)]


def truth(photograph: Floats, undo: Correction) -> Floats:
    """Return what a lens without fault and the same kernel make of the photograph."""
    return pydeform.deform_conv2d(photograph, None, undo.weight, undo.bias, padding=1)


def nearer(taken: Floats, result: Floats, true: Floats, undo: Correction) -> Check:
    """Check that the corrected picture is nearer to the truth than the lens's picture is.

    What the lens did not see cannot be brought back: only outputs whose taps all read inside the
    picture count, and not the outermost ones, whose taps see the end of the scene.
    """
    where = coordinates(undo.offset)
    last = np.asarray(taken.shape[2:]).reshape(2, 1, 1, 1) - 1
    inside = np.all((where >= 0) & (where <= last), axis=(0, 1))
    inside[[0, 1, -2, -1]] = inside[:, [0, 1, -2, -1]] = False

    def rms(picture: Floats) -> float:
        return float(np.sqrt(np.mean((picture - true)[:, :, inside] ** 2)))

    before, after = rms(taken), rms(result)
    return Check("error to the true scene / that of the lens", after / before if after else 0, 1)


def crop(picture: Floats, undo: Correction) -> Case:
    """Cut the liveliest of a few windows out of a correction: a small case, in float64.

    The input is cut where the window's taps read, the offsets move by whole pixels to follow, and
    a tap that leaves the cut reads zeros.
    """
    size = np.asarray(picture.shape[2:])
    where = coordinates(undo.offset)
    best, chosen = -1.0, (0, 0, np.zeros(2, int))
    for share in np.ndindex(3, 4):
        y, x = ((size - CROP) * (np.asarray(share) + 0.5) / (3, 4)).astype(int)
        read = where[:, :, y : y + CROP, x : x + CROP].mean(axis=(1, 2, 3))
        corner = np.clip(np.round(read).astype(int) - CROP // 2, 0, size - CROP)
        liveliness = float(np.var(_cut(picture, *corner)))
        if liveliness > best:
            best, chosen = liveliness, (y, x, corner)
    y, x, corner = chosen
    offset = _cut(undo.offset, y, x).reshape(9, 2, CROP, CROP)
    offset = offset + (np.asarray((y, x)) - corner).reshape(2, 1, 1)
    arrays = {
        "input": _cut(picture, *corner),
        "offset": offset.reshape(1, 18, CROP, CROP),
        "weight": undo.weight,
        "bias": undo.bias,
        "mask": _cut(undo.mask, y, x),
    }
    random = np.random.default_rng(0)

    def draw(array: Floats, largest: int) -> Array:
        return random.integers(-largest, largest + 1, array.shape).astype(np.float64)

    return deform_conv_call(
        "deform_conv2d",
        arrays,
        {"padding": 1},
        grad_output=draw(arrays["input"], 2),
        tangents={name: draw(array, 1) for name, array in arrays.items()},
    )


def _cut(array: Floats, y: int, x: int) -> Floats:
    return np.ascontiguousarray(array[:, :, y : y + CROP, x : x + CROP])


def exact(case: Case) -> Case:
    """Move coordinates to eighths in the middle of their cells, and the mask to multiples of 1/64.

    There the operation is affine over a step of a quarter pixel, so a finite difference has no
    truncation error, and every intermediate is a short binary fraction, so it has no rounding
    error either: it must equal the derivative to the bit.
    """
    whole = np.floor(case.arrays["offset"])
    fraction = (3 + np.round(2 * (case.arrays["offset"] - whole))) / 8
    moved = case.with_array("offset", whole + fraction)
    return moved.with_array("mask", np.round(case.arrays["mask"] * 64) / 64)


def derivatives(case: Case) -> list[Derivative]:
    """Check every result of a case: rounding in every dtype, and finite differences in float64."""
    units: dict[str, dict[str, float]] = {}
    for dtype in (np.float64, np.float32, np.float16):
        rounded = case.astype(dtype, positions=np.float32 if dtype is np.float16 else None)
        bounds = expected(rounded)
        for name, result in rounded.evaluate().items():
            units.setdefault(name, {})[dtype.__name__] = bounds[name].units(result)
    short = exact(case)
    differences = {**first_order(short, count=64), **second_order(short, count=24)}
    jvps = [name for name in differences if name.startswith("jvp ")]
    seconds = [name for name in differences if name.startswith("second_")]

    def row(name: str, results: list[str], compared: list[str]) -> Derivative:
        worst = {dtype: max(units[r][dtype] for r in results) for dtype in units[results[0]]}
        difference = max((differences[c] for c in compared), default=None)
        return Derivative(name, worst, difference)

    return [
        row("output", ["output", "output of jvp"], []),
        *(row(f"gradient: {n}", [f"grad_{n}"], [f"grad_{n}"]) for n in case.names),
        row("directional derivative", ["output_tangent"], jvps),
        row("second derivatives", seconds, seconds),
    ]
