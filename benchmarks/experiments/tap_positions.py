"""Taps were moved off their grid; where to, and what they weigh, is found from the output alone.

The teacher is a 3 x 3 kernel with dilation 3 whose taps were moved by up to a pixel along each
axis, the same at every position. The student starts from the unmoved taps with the best weights
for them, and learns positions and weights together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.experiments.descent import Array, Result, fit, main, texture
from benchmarks.progress import Say
from pydeform import recipes

GRID = 3.0 * (np.array(list(np.ndindex(3, 3))) - 1)


def best_weights(x: Array, y: Array, positions: Array) -> Array:
    """Return the weights of taps at given positions with the least squared error."""
    one = np.ones((1, 1, 1))
    columns = [recipes.active_convolution(x, one, place[None]).ravel() for place in positions]
    found: Array = np.linalg.lstsq(np.stack(columns, axis=1), y.ravel(), rcond=None)[0]
    return found.reshape(1, 1, -1)


def run(quick: bool = False, seed: int = 0, say: Say = lambda _text, _done: None) -> Result:
    """Move the taps, and find them again."""
    rng = np.random.default_rng(seed)
    x = texture(rng, (2, 1, 48, 48) if quick else (4, 1, 128, 128), 1.2)
    truth = GRID + rng.uniform(-1, 1, size=GRID.shape)
    weight = rng.choice([-1.0, 1.0], size=(1, 1, 9)) * rng.uniform(0.5, 1.5, size=(1, 1, 9))
    y = recipes.active_convolution(x, weight, truth)
    start = {"weight": best_weights(x, y, GRID), "positions": GRID}

    def student(weight: Any, positions: Any) -> Any:
        return recipes.active_convolution(x, weight, positions)

    found, errors = fit(student, start, y, steps=500, rate=0.05, say=say)
    apart = np.linalg.norm(found["positions"] - truth, axis=1)

    def picture(figure: Any) -> None:
        places, curve = figure.subplots(1, 2)
        for positions, style, label in (
            (truth, "o", "planted"),
            (GRID, ".", "start"),
            (found["positions"], "x", "found"),
        ):
            places.plot(*positions.T[::-1], style, label=label, markersize=9)
        places.set(title="tap positions (pixels)", aspect="equal", xlim=(-5, 5), ylim=(5, -5))
        places.grid(True, alpha=0.3)
        places.legend(loc="upper left", bbox_to_anchor=(1, 1))
        curve.semilogy(errors)
        curve.axhline(errors[0], color="tab:red", label="best weights at the unmoved taps")
        curve.set(title="squared error / variance", xlabel="step")
        curve.legend()

    return Result(
        {
            "best weights at the unmoved taps: squared error / variance": errors[0],
            "positions and weights learned: the same": errors[-1],
            "distance of moved and unmoved taps, largest (pixels)": float(
                np.linalg.norm(GRID - truth, axis=1).max()
            ),
            "distance of planted and found taps, largest (pixels)": float(apart.max()),
        },
        {
            "the error is below 1e-3 of the variance": errors[-1] < 1e-3,
            "every planted tap is found within 0.01 pixel": bool(apart.max() < 0.01),
        },
        picture,
    )


if __name__ == "__main__":
    main("tap_positions", __doc__ or "", run)
