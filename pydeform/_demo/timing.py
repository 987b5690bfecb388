"""How long a deformable convolution takes beside a plain one of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import scipy.ndimage

import pydeform
from pydeform._demo.checks import correct, gradients
from pydeform._demo.lens import Correction, Floats

Contender = Callable[[], object]

_ROUNDS, _FEWEST, _SECONDS = 7, 3, 1.0  # per shape
# A layer as networks have them, which a picture of three colours is not.
_CHANNELS, _SIDE = 64, 64


@dataclass(frozen=True)
class Times:
    """Median milliseconds of each contender on one shape."""

    name: str
    shape: str
    rounds: int
    milliseconds: Mapping[str, float]


def interleaved(
    contenders: Mapping[str, Contender],
) -> tuple[int, dict[str, float]]:
    """Return the number of rounds and median milliseconds, contenders taking turns.

    Taking turns, whatever else the machine does in between slows all of them alike.
    """
    for contender in contenders.values():
        contender()
    start = perf_counter()
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    rounds = 0
    while rounds < _FEWEST or (rounds < _ROUNDS and perf_counter() - start < _SECONDS):
        for name, contender in contenders.items():
            before = perf_counter()
            contender()
            taken[name].append(1e3 * (perf_counter() - before))
        rounds += 1
    return rounds, {name: median(times) for name, times in taken.items()}


def torch() -> Any:
    """Return PyTorch, computing with as many threads as we do; None where it is not installed."""
    if find_spec("torch") is None:
        return None
    module = import_module("torch")
    module.set_num_threads(pydeform.get_num_threads())
    return module


def on_picture(picture: Floats, undo: Correction, torch: Any) -> Times:
    """Time the correction of a picture, in float32."""
    x, undo = picture.astype(np.float32), undo.astype(np.float32)

    def by_scipy() -> object:
        planes = zip(x[0], undo.weight[:, 0], strict=True)
        return [scipy.ndimage.correlate(plane, w, mode="constant") for plane, w in planes]

    contenders = _contenders(x, undo, torch) | {"plain: scipy.ndimage.correlate": by_scipy}
    shape = f"{x.shape[1]} channels one by one, {x.shape[2]} x {x.shape[3]}"
    return Times("picture", shape, *interleaved(contenders))


def on_layer(torch: Any) -> Times:
    """Time a layer of a network, in float32."""
    random = np.random.default_rng(0)

    def draw(*shape: int) -> Floats:
        return random.standard_normal(shape, np.float32)

    layer = Correction(
        offset=draw(1, 18, _SIDE, _SIDE),
        weight=draw(_CHANNELS, _CHANNELS, 3, 3),
        bias=draw(_CHANNELS),
        mask=draw(1, 9, _SIDE, _SIDE),
    )
    shape = f"{_CHANNELS} to {_CHANNELS} channels, {_SIDE} x {_SIDE}"
    contenders = _contenders(draw(1, _CHANNELS, _SIDE, _SIDE), layer, torch)
    return Times("layer", shape, *interleaved(contenders))


def _contenders(x: Floats, undo: Correction, torch: Any) -> dict[str, Contender]:
    """Return what takes turns on one shape; padding 1, as many outputs as inputs."""
    grad = np.ones_like(x)
    found: dict[str, Contender] = {
        "deformable: forward": lambda: correct(x, undo),
        "deformable: all gradients": lambda: gradients(x, undo, grad),
        "plain: pydeform, offset=None": lambda: pydeform.deform_conv2d(
            x, None, undo.weight, undo.bias, padding=1
        ),
    }
    if torch is not None:
        image, weight, bias = (torch.from_numpy(a) for a in (x, undo.weight, undo.bias))
        groups = x.shape[1] // undo.weight.shape[1]

        def by_torch() -> object:
            return torch.nn.functional.conv2d(image, weight, bias, padding=1, groups=groups)

        found["plain: torch conv2d"] = by_torch
    return found
