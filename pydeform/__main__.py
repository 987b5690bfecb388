"""``python -m pydeform``: correct a lens on a photograph, and verify every step of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pydeform

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
# In pixels; the longest picture takes some 4 GB.
SMALLEST, LARGEST = 64, 2048

_ABOUT = """\
Correct a lens distortion by one deformable convolution, compare the result with SciPy, check every
derivative against exact finite differences, take the time, and draw one picture of it.

Without a picture it takes the photograph that scikit-learn ships and puts it behind a simulated
lens first. Exit status: 0, 1 when a check fails, 2 when it could not start."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pydeform",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "picture",
        nargs="?",
        help='a picture file to correct, or the word "info": print what was built and found',
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("pydeform.png"),
        metavar="FILE.png",
        help="where the drawing goes (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=640,
        metavar="N",
        help="longest side in pixels; larger pictures are scaled down (default: %(default)s)",
    )
    parser.add_argument(
        "--lens",
        type=float,
        nargs=3,
        default=(-0.2, 0.03, 0.3),
        metavar=("K1", "K2", "FALLOFF"),
        help="Brown's k1 and k2 for radii in half diagonals (barrel: k1 < 0), and the share of "
        "light lost in the corners (default: -0.2 0.03 0.3)",
    )
    parser.add_argument("--version", action="version", version=f"pydeform {pydeform.__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.picture == "info":
        print(pydeform.info(cuda=True))
        return 0
    if not SMALLEST <= options.size <= LARGEST:
        parser.error(f"--size: expected {SMALLEST} to {LARGEST} pixels, got {options.size}")
    source = None if options.picture is None else Path(options.picture)
    if options.output.suffix.lower() != ".png":
        parser.error(f"--output: expected a name that ends in .png, got {options.output}")
    if not options.output.absolute().parent.is_dir():
        parser.error(f"--output: no such folder: {options.output.absolute().parent}")
    if source is not None and source.resolve() == options.output.resolve():
        parser.error(f"--output: {options.output} is the picture itself")
    needed = ["matplotlib", "PIL", *(["sklearn"] if source is None else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        return _refuse(f'needs {", ".join(missing)}: run  pip install "pydeform[demo]"')

    from pydeform._demo.lens import Lens
    from pydeform._demo.photograph import BadPictureError
    from pydeform._demo.run import Job, run

    try:
        lens = Lens(*options.lens)
    except ValueError as error:
        parser.error(f"--lens: {error}")
    try:
        passed = run(Job(source, options.output, options.size, lens))
    except (BadPictureError, ImportError, MemoryError, OSError) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0 if passed else FAILED


def _refuse(message: str) -> int:
    print(f"python -m pydeform: {message}", file=sys.stderr)
    return MISUSED


if __name__ == "__main__":
    sys.exit(main())
