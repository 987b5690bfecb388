"""A teacher's kernel varies in size over the image; a student learns to predict the size.

The teacher convolves a texture with a 3 x 3 kernel whose taps lie `size` pixels apart, 0.6 to 3, a
function of a second image, the depth. The student sees texture, depth and the teacher's output. It
has a 3 x 3 kernel of its own and a network of one hidden layer from depth to size, and starts from
the ordinary convolution with random weights. It is compared, on images that it has not seen, with
the best plain 7 x 7 kernel there is, which reaches as far as the teacher does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.experiments.descent import Array, Result, best_plain_kernel, fit, main, texture
from benchmarks.progress import Say
from pydeform import recipes

FEATURES = 12


def convolve(texture: Any, log_size: Any, weight: Any) -> Any:
    """Convolve with taps exp(log_size) pixels apart."""
    offset = recipes.scale_taps(log_size, kernel_size=(3, 3), log=True)
    return recipes.deform_conv2d(texture, offset, weight, padding=1)


def predict(depth: Array, hidden: Any, shift: Any, head: Any, bias: Any) -> Any:
    """Return the logarithm of the size: depth [N, 1, H, W], hidden [F, 1], head [1, F]."""
    xp = hidden.__array_namespace__()
    n, _, h, w = depth.shape
    features = xp.tanh(hidden @ depth.reshape(n, 1, h * w) + xp.reshape(shift, (-1, 1)))
    return xp.reshape(head @ features, (n, 1, h, w)) + bias


def log_size_of(depth: Array) -> Array:
    """The teacher's rule: from 0.6 to 3 pixels, not linear in the depth."""
    middle, half = np.log(0.6 * 3) / 2, np.log(3 / 0.6) / 2
    return middle + half * np.sin(1.2 * depth) * np.exp(-0.05 * depth * depth)


def run(quick: bool = False, seed: int = 0, say: Say = lambda _text, _done: None) -> Result:
    """Plant the sizes, train the student, and compare."""
    rng = np.random.default_rng(seed)
    shape = (6, 1, 32, 32) if quick else (12, 1, 64, 64)
    x, depth = texture(rng, shape, 1.5), texture(rng, shape, 5)
    kernel = rng.choice([-1.0, 1.0], size=(1, 1, 3, 3)) * rng.uniform(0.5, 1.5, size=(1, 1, 3, 3))
    log_size = log_size_of(depth)
    y = convolve(x, log_size, kernel)
    half = shape[0] // 2  # to learn from; the rest to be judged by

    start = {
        "weight": 0.3 * rng.normal(size=(1, 1, 3, 3)),
        "hidden": rng.normal(size=(FEATURES, 1)),
        "shift": rng.normal(size=FEATURES),
        "head": np.zeros((1, FEATURES)),
        "bias": np.zeros(1),
    }

    def student(weight: Any, *network: Any) -> Any:
        return convolve(x[:half], predict(depth[:half], *network), weight)

    steps = 600 if quick else 1000
    found, errors = fit(student, start, y[:half], steps=steps, rate=0.03, say=say)
    weight, *network = found.values()
    predicted = predict(depth[half:], *network)
    rest = y[half:]
    error = np.mean((convolve(x[half:], predicted, weight) - rest) ** 2) / rest.var()
    plain = best_plain_kernel(x[:half], y[:half], 7)(x[half:])
    plain_error = np.mean((plain - rest) ** 2) / rest.var()
    sizes, truth = np.exp(predicted), np.exp(log_size[half:])
    correlation = np.corrcoef(sizes.ravel(), truth.ravel())[0, 1]

    def picture(figure: Any) -> None:
        axes = figure.subplots(1, 4)
        for axis, image, title in (
            (axes[0], x[half, 0], "texture"),
            (axes[1], truth[0, 0], "the teacher's size (pixels)"),
            (axes[2], sizes[0, 0], "the student's size"),
        ):
            limits = {} if title == "texture" else {"vmin": truth.min(), "vmax": truth.max()}
            shown = axis.imshow(image, cmap="viridis" if limits else "gray", **limits)
            axis.set(title=title, xticks=[], yticks=[])
            if limits:
                figure.colorbar(shown, ax=axis, shrink=0.7)
        axes[3].semilogy(errors)
        axes[3].axhline(plain_error, color="tab:red", label="best plain 7 x 7 kernel")
        axes[3].set(title="squared error / variance", xlabel="step")
        axes[3].legend()

    return Result(
        {
            "student: squared error / variance, new images": error,
            "best plain 7 x 7 kernel: the same": plain_error,
            "ratio": plain_error / error,
            "correlation of predicted and true size, new images": correlation,
        },
        {
            "the error is at least 30 times below the best plain kernel's": plain_error
            > 30 * error,
            "predicted and true sizes correlate above 0.99": correlation > 0.99,
        },
        picture,
    )


if __name__ == "__main__":
    main("varying_size", __doc__ or "", run)
