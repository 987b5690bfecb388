"""What the experiments share: smooth textures, Adam, and the loop that prints and draws."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.progress import Say, progress
from pydeform import recipes

Array = NDArray[np.float64]
#: From parameters by name to the output, as a function that `recipes.vjp` can follow.
Model = Callable[..., Any]

RESULTS = Path(__file__).parents[1] / "results"


class Result(NamedTuple):
    """What an experiment found: figures by name, whether they are as expected, what to draw."""

    figures: dict[str, float]
    passed: dict[str, bool]
    picture: Callable[[Any], None]


def texture(rng: np.random.Generator, shape: tuple[int, ...], length: float) -> Array:
    """Draw white noise smoothed by a Gaussian of `length` pixels, periodic, of variance 1."""
    noise = rng.normal(size=shape)
    fy, fx = np.fft.fftfreq(shape[-2])[:, None], np.fft.fftfreq(shape[-1])
    window = np.exp(-2 * (np.pi * length) ** 2 * (fx * fx + fy * fy))
    smooth: Array = np.fft.ifft2(np.fft.fft2(noise) * window).real
    return smooth / smooth.std()


def best_plain_kernel(x: Array, y: Array, size: int) -> Callable[[Array], Array]:
    """Return the plain convolution of `size` x `size` taps with the least squared error.

    No training can do better on these images: it is the solution of the normal equations.
    """

    def rows(images: Array) -> Array:
        margin = [(0, 0), (size // 2, size // 2), (size // 2, size // 2)]
        padded = np.pad(images[:, 0], margin)
        seen = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
        return seen.reshape(-1, size * size)

    kernel = np.linalg.lstsq(rows(x), y.ravel(), rcond=None)[0]
    return lambda images: (rows(images) @ kernel).reshape(images.shape)


def fit(
    model: Model,
    parameters: Mapping[str, Array],
    target: Array,
    *,
    steps: int,
    rate: float,
    say: Say,
) -> tuple[dict[str, Array], list[float]]:
    """Minimise the mean squared error by Adam, whose rate falls to 0 along a cosine.

    Returns the parameters and the error, relative to the variance of the target, at every step.
    """
    found = {name: value.copy() for name, value in parameters.items()}
    first = {name: np.zeros_like(value) for name, value in found.items()}
    second = {name: np.zeros_like(value) for name, value in found.items()}
    variance, errors = float(target.var()), []
    for step in range(1, steps + 1):
        output, pullback = recipes.vjp(model, *found.values())
        residual = output - target
        errors.append(float(np.mean(residual**2)) / variance)
        slope = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        grads = pullback(2 * residual / residual.size)
        for (name, value), grad in zip(found.items(), grads, strict=True):
            first[name] += 0.1 * (grad - first[name])
            second[name] += 0.01 * (grad * grad - second[name])
            mean = first[name] / (1 - 0.9**step)
            spread = np.sqrt(second[name] / (1 - 0.99**step))
            found[name] = value - slope * mean / (spread + 1e-12)
        if step % 10 == 0 or step == steps:
            power = int(np.ceil(np.log10(max(errors[-1], 1e-300))))
            say(f"error below 1e{power} of the variance", step / steps)
    return found, errors


def main(name: str, doc: str, run: Callable[..., Result]) -> None:
    """Run an experiment from the command line: print its figures, draw its picture."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.experiments.{name}")
    parser.description = doc.partition("\n")[0]
    parser.add_argument("--quick", action="store_true", help="small images and few steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=RESULTS / f"{name}.png")
    options = parser.parse_args()
    print(doc.strip(), end="\n\n")
    with progress() as say:
        result = run(quick=options.quick, seed=options.seed, say=say)
    for figure, value in result.figures.items():
        print(f"{figure:<60} {value:.3g}")
    for claim, passed in result.passed.items():
        print(f"{'yes' if passed else 'NO':<4}{claim}")
    draw(result, options.picture)
    sys.exit(not all(result.passed.values()))


def draw(result: Result, path: Path) -> None:
    """Write the picture where matplotlib is installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(12, 3.6), layout="constrained")
    result.picture(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"picture: {path}")
