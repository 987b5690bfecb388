"""Photographs in, as [1, 3, H, W] arrays of brightness in [0, 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pydeform._demo.lens import Array, Floats, Pixels

#: The shortest side that leaves room for the crop on which derivatives are checked.
SMALLEST = 64
EXAMPLE = "china.jpg"


class BadPictureError(Exception):
    """A picture that cannot be read or used; the message is for the person who named it."""


def example(longest: int) -> Pixels:
    """Return the photograph that scikit-learn ships: [H, W, 3]."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    return _fitted(Image.fromarray(load_sample_image(EXAMPLE)), EXAMPLE, longest)


def load(path: Path, longest: int) -> Pixels:
    """Return the picture in a file, turned upright: [H, W, 3].

    Raises
    ------
    BadPictureError
        If there is no such file, or it is not a picture, or too small.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except FileNotFoundError:
        raise BadPictureError(f"{path}: no such file") from None
    # Broken files raise whatever their decoder trips over.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadPictureError(f"{path}: not a readable picture ({error})") from error
    return _fitted(upright, str(path), longest)


def _fitted(picture: Any, name: str, longest: int) -> Pixels:
    """Scale down to `longest` pixels on the longer side."""
    if max(picture.size) > longest:
        factor = longest / max(picture.size)
        picture = picture.resize(tuple(max(1, round(side * factor)) for side in picture.size))
    width, height = picture.size
    if min(width, height) < SMALLEST:
        raise BadPictureError(
            f"{name}: {width} x {height} pixels at a longest side of {longest}; "
            f"expected at least {SMALLEST} on the shorter side"
        )
    return np.asarray(picture, np.uint8)


def brightness(pixels: Pixels) -> Array:
    """Return [1, 3, H, W] in multiples of 1/256: exact in every dtype, and so are products."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None] / 256)


def exposed(picture: Floats) -> Pixels:
    """Return the 8-bit picture [H, W, 3] of brightness [1, 3, H, W]: rounded and clipped."""
    levels = np.clip(np.round(picture[0].astype(np.float64) * 256), 0, 255)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))
