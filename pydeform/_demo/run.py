"""The main job, from a photograph to tables, one picture and a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

import pydeform
from pydeform._demo import checks, lens, photograph, picture, timing
from pydeform._demo.checks import Check, Derivative
from pydeform._demo.lens import Array, Correction, Floats, Lens
from pydeform._demo.report import Report, Table, number, verdict

STEPS = 7
# How much too weak the lens is taken whose offsets get a gradient.
_WEAKER = 0.05
_DTYPES = ("float64", "float32", "float16")


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    picture: Path | None
    output: Path
    longest: int
    lens: Lens


def run(job: Job) -> bool:
    """Do the main job and report it; return whether every check passed.

    Raises
    ------
    BadPictureError
        If the picture cannot be used.
    OSError
        If the result cannot be written.
    """
    start = perf_counter()
    # Results that are no numbers are for the checks to notice.
    with Report(STEPS) as report, np.errstate(invalid="ignore", over="ignore"):
        report.step("reading the photograph")
        source, taken, scene = _photograph(job)
        size = (taken.shape[2], taken.shape[3])

        report.step("correcting the lens")
        undo = lens.correction(job.lens, size)
        result = checks.correct(taken, undo)

        report.step("correcting it by scipy.ndimage.map_coordinates")
        whole = checks.whole_picture(taken, undo, result, checks.by_scipy(taken, undo))
        if scene is not None:
            whole.append(checks.nearer(taken, result, checks.truth(scene, undo), undo))

        report.step("checking every derivative against exact finite differences")
        derivatives = checks.derivatives(checks.crop(taken, undo))

        report.step("taking the time")
        torch = timing.torch()
        times = [timing.on_picture(taken, undo, torch), timing.on_layer(torch)]

        report.step("differentiating with respect to the offsets")
        descent = _descent(taken, result, undo, job.lens)

        report.step(f"drawing {job.output}")
        passed = [c.passed for c in whole] + [d.passed for d in derivatives]
        drawn = picture.Scene(
            seen=photograph.exposed(taken),
            corrected=photograph.exposed(result),
            taps=lens.coordinates(undo.offset),
            weight=undo.weight[0, 0],
            descent=descent,
            bend=lambda points: job.lens.bend(points, size),
            source=source,
            loss=f"Squared error to C, lens {100 * _WEAKER:.0f} % too weak",
            footer=_footer(whole, derivatives, passed),
        )
        picture.draw(drawn, job.output)

    report.table(_checks_table(whole, size))
    report.table(_derivatives_table(derivatives))
    report.table(_times_table(times))
    report.line("")
    report.line(str(pydeform.info()))
    report.line("")
    report.line(f"{sum(passed)} of {len(passed)} checks passed", all(passed))
    report.line(f"picture: {job.output}   ({perf_counter() - start:.1f} s)")
    return all(passed)


def _photograph(job: Job) -> tuple[str, Array, Array | None]:
    """Return what is shown, the lens's picture, and the true scene where it is known."""
    if job.picture is not None:
        taken = photograph.brightness(photograph.load(job.picture, job.longest))
        return "The given picture", taken, None
    scene = photograph.brightness(photograph.example(job.longest))
    size = (scene.shape[2], scene.shape[3])
    return "A photograph through a simulated lens", through(job.lens, scene, size), scene


def through(bent: Lens, scene: Array, size: tuple[int, int]) -> Array:
    """Take a picture of a scene through a lens, in 8 bits: a deformable convolution of one tap."""
    grid = np.mgrid[: size[0], : size[1]].astype(np.float64)
    offset = bent.straighten(grid, size) - grid
    light = bent.light(grid, size)
    taken = pydeform.deform_conv2d(
        scene, offset[None], np.ones((3, 1, 1, 1)), mask=light[None, None]
    )
    return photograph.brightness(photograph.exposed(taken))


def _descent(taken: Floats, target: Floats, undo: Correction, bent: Lens) -> Floats:
    """Return minus the gradient of the squared error of a weaker lens: [2, H, W], all taps."""
    size = (taken.shape[2], taken.shape[3])
    weaker = lens.correction(bent.weaker(_WEAKER), size)
    # At the rim the weaker lens reads beyond the scene, an error that outshines all others.
    rim = 3 + 2 * int(np.max(np.abs(weaker.offset - undo.offset)))
    inner = (slice(None), slice(None), *(slice(rim, length - rim) for length in size))
    picture, weaker = taken.astype(np.float32), weaker.astype(np.float32)
    error = np.zeros_like(picture)
    error[inner] = (checks.correct(picture, weaker) - target)[inner]
    gradient = np.asarray(checks.gradients(picture, weaker, error, ["offset"]).offset)
    return np.asarray(-gradient.reshape(9, 2, *size).sum(0))


def _checks_table(whole: list[Check], size: tuple[int, int]) -> Table:
    rows = [(c.name, number(c.value), number(c.limit), verdict(c.passed)) for c in whole]
    return Table(
        f"The whole picture, {size[1]} x {size[0]} pixels, 3 x 3 taps",
        ("check", "found", "limit", ""),
        rows,
        "[bounds]: largest error in units of the a-priori rounding bound",
    )


def _derivatives_table(derivatives: list[Derivative]) -> Table:
    rows = [
        (
            d.name,
            *(number(d.units[dtype]) for dtype in _DTYPES),
            "-" if d.difference is None else number(d.difference),
            verdict(d.passed),
        )
        for d in derivatives
    ]
    return Table(
        f"Results and derivatives on a crop of {checks.CROP} x {checks.CROP} pixels",
        ("result", *_DTYPES, "differences", ""),
        rows,
        "dtypes: largest error in units of the a-priori rounding bound, limit 1\n"
        "differences: relative error to exact finite differences in float64, limit 0",
    )


def _times_table(times: list[timing.Times]) -> Table:
    names = list(dict.fromkeys(name for t in times for name in t.milliseconds))
    rows = [
        (name, *(f"{t.milliseconds[name]:.2f}" if name in t.milliseconds else "-" for t in times))
        for name in names
    ]
    rounds = min(t.rounds for t in times)
    return Table(
        "Milliseconds in float32, 3 x 3 taps",
        ("convolution", *(t.name for t in times)),
        rows,
        "".join(f"{t.name}: {t.shape}\n" for t in times)
        + f"{pydeform.get_num_threads()} threads (scipy: 1); medians of {rounds} or more rounds, "
        "taking turns",
    )


def _footer(whole: list[Check], derivatives: list[Derivative], passed: list[bool]) -> str:
    exact = all(d.difference in (None, 0.0) for d in derivatives)
    differences = "equal to the bit" if exact else "NOT equal"
    worst = max(units for d in derivatives for units in d.units.values())
    return (
        f"pydeform {pydeform.__version__}:  {sum(passed)} of {len(passed)} checks passed.  "
        f"Difference to SciPy {number(whole[0].value)} bounds;  derivatives and finite "
        f"differences {differences};  worst rounding {number(worst)} bounds."
    )
