"""A lens that bends straight lines and darkens corners, and the convolution that undoes it.

Brown's radial model says where a lens puts a point of the scene: at radius r from the centre, in
units of half the diagonal of the picture,

    r' = r (1 + k1 r^2 + k2 r^4)                    barrel: k1 < 0

The corrected picture at q is the lens's picture at that place, so the displacement is the offset of
a deformable convolution. With a kernel of several taps each one follows the field on its own, and
the kernel keeps its shape in the scene while its taps bend in the picture. What the lens took from
the light at the place where a tap reads is given back by the mask.

    J. P. Brown and D. C. Brown, "Decentering distortion of lenses",
    Photogrammetric Engineering 32(3), 1966.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[np.float64]
Floats = NDArray[np.floating]
Pixels = NDArray[np.uint8]

#: The most light that a lens may lose: a mask that returned more would need too many bits for
#: differences that are exact.
DARKEST = 0.9
# Radii for which the model is inverted; a picture ends at 1.
_FARTHEST = 3.0
# Sharpen by half the detail, then a little contrast: short binary fractions, so that checks can be
# exact.
_SMOOTH = np.outer((1, 2, 1), (1, 2, 1)) / 16
_CONTRAST = 17 / 16
#: Offsets are multiples of this part of a pixel: base + offset is then exact, for us and for others
#: who add the two, and the same field serves float64 and float32.
FIELD_STEP = 2.0**-16


@dataclass(frozen=True)
class Lens:
    """Brown's radial coefficients and the share of light that is lost in the corners."""

    k1: float = -0.2
    k2: float = 0.03
    falloff: float = 0.3

    def __post_init__(self) -> None:
        """Refuse what cannot be corrected."""
        if not np.all(np.isfinite((self.k1, self.k2, self.falloff))):
            raise ValueError("expected finite numbers")
        if not 0 <= self.falloff <= DARKEST:
            raise ValueError(f"expected a fall-off from 0 to {DARKEST}, got {self.falloff:g}")
        if np.any(np.diff(self._bent(np.linspace(0, 1, 1025))) <= 0):
            raise ValueError(
                f"k1 = {self.k1:g} and k2 = {self.k2:g} fold the picture: expected "
                "r (1 + k1 r^2 + k2 r^4) to grow with r up to the corners"
            )

    def weaker(self, share: float) -> Lens:
        """Return a lens that bends less, by this share."""
        return Lens(self.k1 * (1 - share), self.k2 * (1 - share), self.falloff)

    def _bent(self, r: Array) -> Array:
        return np.asarray(r * (1 + self.k1 * r**2 + self.k2 * r**4))

    def bend(self, points: Array, size: tuple[int, int]) -> Array:
        """Return where the lens puts points [2, ...] (y, x) of the scene, in pixels."""
        away, r = _from_centre(points, size)
        return points + away * (self.k1 * r**2 + self.k2 * r**4)

    def straighten(self, points: Array, size: tuple[int, int]) -> Array:
        """Return which points of the scene the lens put at `points` [2, ...] (y, x), in pixels."""
        away, bent = _from_centre(points, size)
        table = np.linspace(0, _FARTHEST, 8193)
        held = self._bent(table)
        # Beyond the first turn nothing of the scene arrives; the turn lies outside the picture.
        turn = int(np.argmax(np.diff(held) <= 0)) or table.size - 1
        r = np.interp(bent, held[: turn + 1], table[: turn + 1])
        factor = np.divide(r, bent, out=np.ones_like(r), where=bent > 0)
        return np.asarray(points + away * (factor - 1))

    def light(self, points: Array, size: tuple[int, int]) -> Array:
        """Return the share of light that arrives at `points` [2, ...] of the lens's picture."""
        _, r = _from_centre(points, size)
        return np.asarray(1 - self.falloff * np.minimum(r, 1) ** 2)


@dataclass(frozen=True)
class Correction:
    """The arguments of the deformable convolution that undoes a lens; padding is 1."""

    offset: Floats  # [1, 18, H, W], channel = tap*2 + axis
    weight: Floats  # [3, 1, 3, 3], each colour on its own
    bias: Floats  # [3]
    mask: Floats  # [1, 9, H, W]

    def astype(self, dtype: DTypeLike) -> Correction:
        """Round every argument to a dtype."""
        return Correction(**{name: array.astype(dtype) for name, array in vars(self).items()})


def correction(lens: Lens, size: tuple[int, int]) -> Correction:
    """Return what undoes a lens on pictures of this size (height, width), and sharpens them."""
    height, width = size
    taps = np.mgrid[-1:2, -1:2].reshape(2, 9, 1, 1)
    grid = np.mgrid[:height, :width].reshape(2, 1, height, width)
    scene = (grid + taps).astype(np.float64)  # [2, 9, H, W], the plain convolution's points
    seen = lens.bend(scene, size)
    offset = np.round((seen - scene) / FIELD_STEP) * FIELD_STEP
    weight = np.zeros((3, 3))
    weight[1, 1] = 1.5
    weight = (weight - _SMOOTH / 2) * _CONTRAST
    return Correction(
        offset=np.ascontiguousarray(offset.swapaxes(0, 1).reshape(1, 18, height, width)),
        weight=np.ascontiguousarray(np.broadcast_to(weight, (3, 1, 3, 3))),
        bias=np.full(3, (1 - _CONTRAST) / 2),
        mask=(1 / lens.light(seen, size))[None],
    )


def coordinates(offset: Floats) -> Array:
    """Return where the taps read, in pixels: [2, 9, H, W] from offsets [1, 18, H, W]."""
    height, width = offset.shape[2:]
    taps = np.mgrid[-1:2, -1:2].reshape(2, 9, 1, 1)
    grid = np.mgrid[:height, :width].reshape(2, 1, height, width)
    return np.asarray(grid + taps + offset.reshape(9, 2, height, width).swapaxes(0, 1))


def _from_centre(points: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Return the vector from the centre in pixels and its length in half diagonals."""
    half = (np.asarray(size, np.float64) - 1) / 2
    away = points - half.reshape(2, *(1,) * (points.ndim - 1))
    return away, np.hypot(*away) / np.hypot(*half)
