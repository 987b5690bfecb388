"""Two experts, mixed by cosine and sine, are a filter for every angle: exactly.

The derivatives of a Gaussian along x and y are two kernels. Mixed with weights (cos, sin) of an
angle per sample they are the derivative along that direction, so one convolution with kernels from
`mix_kernels` finds edges of any orientation. The result is compared with kernels that are computed
for each angle from the formula, and with the mix of the two outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.experiments.descent import Array, Result, main, texture
from benchmarks.progress import Say
from pydeform import recipes

SIGMA, RADIUS = 1.5, 6


def derivative(angle: Array) -> Array:
    """Return the derivative of the Gaussian along each angle, from its formula: [N, 1, 1, k, k]."""
    y, x = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1].astype(np.float64)
    along = np.multiply.outer(np.cos(angle), x) + np.multiply.outer(np.sin(angle), y)
    kernel: Array = along * np.exp(-(x * x + y * y) / (2 * SIGMA**2)) / SIGMA**2
    return kernel[:, None, None]


def run(quick: bool = False, seed: int = 0, say: Say = lambda _text, _done: None) -> Result:
    """Steer by mixing, and compare with each angle's own kernel."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 12 if quick else 72, endpoint=False)
    image = texture(rng, (1, 1, 32, 32) if quick else (1, 1, 96, 96), 2)
    x = np.broadcast_to(image, (len(angles), *image.shape[1:]))
    experts = derivative(np.array([0, np.pi / 2]))
    routes = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def steer(routes: Any, experts: Any) -> Any:
        return recipes.deform_conv2d(x, None, recipes.mix_kernels(routes, experts), padding=RADIUS)

    steered, pullback = recipes.vjp(steer, routes, experts)
    say("steered", 0.5)
    expected = recipes.deform_conv2d(x, None, derivative(angles), padding=RADIUS)
    outputs = [recipes.deform_conv2d(x, None, expert, padding=RADIUS) for expert in experts]
    mixed = np.einsum("ne,encyx->ncyx", routes, np.array(outputs))
    scale = np.abs(expected).max()
    error = float(np.abs(steered - expected).max() / scale)
    apart = float(np.abs(steered - mixed).max() / scale)
    # The slope of the mean response by the angle, by the chain rule and from the formula.
    weights = rng.normal(size=steered.shape)
    grad_routes = pullback(weights)[0]
    turned = np.stack([-np.sin(angles), np.cos(angles)], axis=1)
    slope = np.sum(grad_routes * turned, axis=1)
    quarter = recipes.deform_conv2d(x, None, derivative(angles + np.pi / 2), padding=RADIUS)
    formula = np.sum(weights * quarter, axis=(1, 2, 3))
    slope_error = float(np.abs(slope - formula).max() / np.abs(formula).max())
    say("compared", 1.0)

    def picture(figure: Any) -> None:
        axes = figure.subplots(1, 6)
        axes[0].imshow(image[0, 0], cmap="gray")
        axes[0].set(title="image")
        for axis, index in zip(axes[1:], range(0, len(angles), -(-len(angles) // 5)), strict=False):
            axis.imshow(steered[index, 0], cmap="RdBu", vmin=-scale, vmax=scale)
            axis.set(title=f"{np.degrees(angles[index]):.0f} degrees")
        for axis in axes:
            axis.set(xticks=[], yticks=[])

    return Result(
        {
            "mixed kernels, from kernels of each angle: relative": error,
            "mixed kernels, from mixed outputs: relative": apart,
            "slope by the angle, from the formula: relative": slope_error,
        },
        {
            "mixed kernels are the steered filters, to rounding": error < 1e-13,
            "mixing kernels is mixing outputs, to rounding": apart < 1e-13,
            "and so are the derivatives by the angle": slope_error < 1e-13,
        },
        picture,
    )


if __name__ == "__main__":
    main("steerable", __doc__ or "", run)
