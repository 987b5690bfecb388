"""Sizes, padding and groups: pure integers. A leaf: it imports nothing of this package."""

from __future__ import annotations

from math import prod
from typing import NamedTuple


class ConvGeometry(NamedTuple):
    """Everything about one convolution that is not an array; per-axis tuples are (y, x) or (z, y, x)."""

    batch: int
    channels: int
    out_channels: int
    groups: int
    offset_groups: int
    size: tuple[int, ...]
    out_size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]  # before the first element of each axis; the end is implied by out_size
    dilation: tuple[int, ...]
    mode: str
    kink: str
    channels_last: bool

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def taps(self) -> int:
        """Number of kernel taps, K = prod(k)."""
        return prod(self.kernel)
