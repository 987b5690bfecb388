"""The one picture: what the lens saw, where the taps read, the result, and where offsets should go.

Colours are those of Okabe and Ito and of cividis, which keep apart with every kind of colour
vision, and nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pydeform._demo.lens import Array, Floats, Pixels

_ORANGE, _BLUE, _INK, _GREY = "#E69F00", "#0072B2", "#1a1a1a", "#595959"
# Output positions whose taps are drawn, as shares of height and width, in rows of two or three.
_WIDE = ((0.38, 0.06), (0.20, 0.48), (0.42, 0.94), (0.91, 0.08), (0.62, 0.55), (0.91, 0.93))
_TALL = ((0.09, 0.10), (0.16, 0.84), (0.46, 0.12), (0.56, 0.55), (0.91, 0.10), (0.90, 0.90))
_LINES = 9  # lines of the grid along the longer side
_ARROWS = 15  # along the longer side
_ZOOM = 5.0  # pixels along the shorter side of a close-up
_DPI = 110
# In inches: the longer side of a panel, its least width and height, what lies around it.
_PANEL, _LEAST, _GAP, _MARGIN = 6.2, (5.0, 3.2), 0.35, 0.35
_HEAD, _STRIP, _TOP, _FOOT = 0.62, 0.5, 0.6, 0.45


@dataclass(frozen=True)
class Scene:
    """All that is drawn; coordinates are (y, x) in pixels."""

    seen: Pixels  # [H, W, 3], what the lens made of the scene
    corrected: Pixels  # [H, W, 3]
    taps: Array  # [2, 9, H, W], where the taps read
    weight: Array  # [3, 3]
    descent: Floats  # [2, H, W], minus the gradient, summed over the taps
    bend: Callable[[Array], Array]  # from points of the scene to points of the lens's picture
    source: str  # what A shows
    loss: str  # what D is the gradient of
    footer: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.seen.shape[0], self.seen.shape[1]

    @property
    def tall(self) -> bool:
        """Whether close-ups go in three rows of two."""
        return self.size[0] > self.size[1]

    def positions(self) -> list[tuple[int, int]]:
        """Return the output positions whose taps are drawn: lively ones, well apart."""
        plane = self.corrected.astype(float).sum(2)
        edges = np.hypot(*np.gradient(plane))
        edges[[0, 1, -2, -1]] = edges[:, [0, 1, -2, -1]] = 0
        reach = max(1, round(0.06 * min(self.size)))
        found = []
        for share in _TALL if self.tall else _WIDE:
            y, x = (round(s * (length - 1)) for s, length in zip(share, self.size, strict=True))
            top, left = max(0, y - reach), max(0, x - reach)
            near = edges[top : y + reach + 1, left : x + reach + 1]
            down, right = np.unravel_index(int(np.argmax(near)), near.shape)
            found.append((top + int(down), left + int(right)))
        return found


def draw(scene: Scene, path: Path) -> None:
    """Write the picture as a PNG file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    height, width = scene.size
    scale = _PANEL / max(height, width)
    panel_width, panel_height = max(width * scale, _LEAST[0]), max(height * scale, _LEAST[1])
    page = (
        2 * panel_width + _GAP + 2 * _MARGIN,
        2 * (panel_height + _HEAD + _STRIP) + _TOP + _FOOT,
    )
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"font.size": 9, "text.color": _INK})
        figure = Figure(figsize=page, dpi=_DPI, facecolor="white")
        sheet = _Sheet(figure, page)
        sheet.text(
            _MARGIN,
            page[1] - 0.42,
            "A lens corrected by one deformable convolution",
            fontsize=16,
            weight="bold",
        )
        sheet.text(_MARGIN, 0.2, scene.footer, color=_GREY)
        for row, drawers in enumerate(((_seen, _close_ups), (_corrected, _gradient))):
            bottom = page[1] - _TOP - (row + 1) * (panel_height + _HEAD + _STRIP) + _STRIP
            for column, drawer in enumerate(drawers):
                left = _MARGIN + column * (panel_width + _GAP)
                drawer(sheet, (left, bottom, panel_width, panel_height), scene)
        figure.savefig(path, format="png")


Box = tuple[float, float, float, float]  # left, bottom, width, height in inches


@dataclass(frozen=True)
class _Sheet:
    """A figure that is laid out in inches."""

    figure: Any
    page: tuple[float, float]

    def axes(self, box: Box) -> Any:
        """Return bare axes in a box."""
        (width, height), (left, bottom, wide, high) = self.page, box
        axes = self.figure.add_axes((left / width, bottom / height, wide / width, high / height))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_anchor("NW")
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write text at a place."""
        self.figure.text(x / self.page[0], y / self.page[1], text, **style)

    def head(self, box: Box, title: str, about: str) -> None:
        """Write the two lines above a panel."""
        left, top = box[0], box[1] + box[3]
        self.text(left, top + 0.29, title, fontsize=11.5, weight="bold")
        self.text(left, top + 0.09, about, color=_GREY)


def _stroke(width: float, colour: str) -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground=colour)]


def _frame(axes: Any, size: tuple[int, int], margin: int = 2) -> None:
    """Leave out the outermost pixels, whose taps read beyond the picture."""
    axes.set_xlim(margin - 0.5, size[1] - margin - 0.5)
    axes.set_ylim(size[0] - margin - 0.5, margin - 0.5)


def _badge(axes: Any, y: float, x: float, number: int) -> None:
    """Mark a place, and write its number beside it on the side of the centre."""
    axes.plot(x, y, "o", ms=6, mfc=_ORANGE, mec="white", mew=1.2, zorder=4)
    inwards = -1 if x > np.mean(axes.get_xlim()) else 1
    axes.annotate(
        str(number),
        (x, y),
        xytext=(12 * inwards, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        weight="bold",
        bbox={"boxstyle": "circle,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.9},
        zorder=5,
    )


def _lines(axes: Any, size: tuple[int, int], bend: Callable[[Array], Array]) -> None:
    """Draw lines that are straight in the scene."""
    step = max(size) / (_LINES - 1)
    for axis, (length, other) in enumerate((size, size[::-1])):
        along = np.linspace(0, other - 1, 200)
        for at in np.arange(length / 2 % step, length, step):
            line = np.stack((np.full_like(along, at), along))
            y, x = bend(line if axis == 0 else line[::-1])
            axes.plot(x, y, color="white", lw=0.8, alpha=0.6)


def _seen(sheet: _Sheet, box: Box, scene: Scene) -> None:
    axes = sheet.axes(box)
    axes.imshow(scene.seen)
    _frame(axes, scene.size)
    _lines(axes, scene.size, scene.bend)
    for number, (y, x) in enumerate(scene.positions(), 1):
        to = scene.taps[:, 4, y, x]
        axes.plot((x, to[1]), (y, to[0]), color=_ORANGE, lw=1.6, path_effects=_stroke(3, "white"))
        _badge(axes, to[0], to[1], number)
    about = "Thin lines are straight in the scene. Orange: output to sampling point."
    sheet.head(box, f"A   {scene.source}", about)


def _corrected(sheet: _Sheet, box: Box, scene: Scene) -> None:
    axes = sheet.axes(box)
    axes.imshow(scene.corrected)
    _frame(axes, scene.size)
    _lines(axes, scene.size, lambda points: points)
    for number, (y, x) in enumerate(scene.positions(), 1):
        _badge(axes, y, x, number)
    about = "Offsets straighten, the mask returns the light, the kernel sharpens: in one pass."
    sheet.head(box, "C   The result", about)


def _close_ups(sheet: _Sheet, box: Box, scene: Scene) -> None:
    """Draw the pixels around a few positions, and the taps on them."""
    rows, columns = (3, 2) if scene.tall else (2, 3)
    gap = 0.1
    wide, high = (box[2] - (columns - 1) * gap) / columns, (box[3] - (rows - 1) * gap) / rows
    weight = scene.weight.ravel()
    size = 30 + 170 * np.abs(weight) / np.abs(weight).max()
    colour = np.where(weight > 0, _ORANGE, _BLUE)
    for number, (y, x) in enumerate(scene.positions(), 1):
        row, column = divmod(number - 1, columns)
        left = box[0] + column * (wide + gap)
        axes = sheet.axes((left, box[1] + (rows - 1 - row) * (high + gap), wide, high))
        axes.imshow(scene.seen, interpolation="nearest", aspect="auto")
        taps = scene.taps[:, :, y, x].reshape(2, 3, 3)
        middle = taps[:, 1, 1]
        for line in (*taps.transpose(1, 0, 2), *taps.transpose(2, 0, 1)):
            axes.plot(line[1], line[0], color=_INK, lw=1.3, path_effects=_stroke(3, "white"))
        plain = middle[:, None] + [[-1, -1, 1, 1, -1], [-1, 1, 1, -1, -1]]
        axes.plot(plain[1], plain[0], "--", color=_INK, lw=1, path_effects=_stroke(2.5, "white"))
        axes.scatter(taps[1], taps[0], s=size, c=colour, edgecolors="white", lw=1.2, zorder=3)
        half = np.array((high, wide)) / min(wide, high) * _ZOOM / 2
        axes.set_xlim(middle[1] - half[1], middle[1] + half[1])
        axes.set_ylim(middle[0] + half[0], middle[0] - half[0])
        axes.text(
            0.04,
            0.95,
            f"{number}   moved {np.hypot(*(middle - (y, x))):.1f} px",
            transform=axes.transAxes,
            va="top",
            weight="bold",
            bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": "none", "alpha": 0.9},
        )
    strip = sheet.axes((box[0], box[1] - _STRIP, box[2], _STRIP))
    handles = [
        strip.scatter([], [], s=size[tap], c=colour[tap], label=f"{name} {weight[tap]:+.2f}")
        for tap, name in ((4, "centre"), (1, "edges"), (0, "corners"))
    ]
    handles += strip.plot([], [], "--", color=_INK, lw=1, label="plain kernel")
    strip.legend(handles=handles, loc="center", ncols=4, frameon=False, columnspacing=1.2)
    about = "Close-ups of A, one square per pixel. The kernel bends with the lens."
    sheet.head(box, "B   Where the nine taps read", about)


def _gradient(sheet: _Sheet, box: Box, scene: Scene) -> None:
    """Draw the size of the gradient, and arrows of what it sums to per block."""
    axes = sheet.axes(box)
    size = np.hypot(*scene.descent)
    top = float(np.quantile(size, 0.99)) or 1.0
    # The square root shows what is small beside the strongest edges.
    image = axes.imshow(np.sqrt(size / top), cmap="cividis", vmin=0, vmax=1)
    block = max(1, max(scene.size) // _ARROWS)
    rows, columns = (length // block for length in scene.size)
    start = [(length % block) // 2 for length in scene.size]
    cut = scene.descent[:, start[0] :, start[1] :][:, : rows * block, : columns * block]
    arrows = cut.reshape(2, rows, block, columns, block).sum((2, 4))
    length = np.hypot(*arrows)
    shown = length > 1e-3 * length.max()
    arrows = (arrows / np.sqrt(np.maximum(length, 1e-30) * (length.max() or 1.0)))[:, shown]
    y, x = np.mgrid[:rows, :columns][:, shown] + 0.5
    axes.quiver(
        start[1] + x * block,
        start[0] + y * block,
        *arrows[::-1],
        angles="xy",
        scale_units="xy",
        scale=1 / block,
        pivot="mid",
        units="inches",
        width=0.022,
        color="white",
        path_effects=_stroke(2.2, _INK),
    )
    _frame(axes, scene.size)
    bar = sheet.axes((box[0] + 0.55 * box[2], box[1] - 0.2, 0.45 * box[2], 0.1))
    sheet.figure.colorbar(image, cax=bar, orientation="horizontal", ticks=[])
    for at, label in ((0.0, "0"), (0.5, "1/4"), (1.0, "1")):
        bar.text(at, -0.6, label, transform=bar.transAxes, ha="center", va="top")
    sheet.text(box[0], box[1] - 0.2, "Size of the gradient / its 99th percentile")
    about = f"{scene.loss}; arrows: minus its sum per block."
    sheet.head(box, "D   Gradient with respect to the offsets", about)
