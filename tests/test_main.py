"""The main job: what it writes, what it says, and that it notices when something is wrong."""

import inspect
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pydeform
from pydeform import _cpu
from pydeform.__main__ import main
from pydeform._demo import checks, lens, photograph, picture, report, run, timing

WORK = ["--size", "96"]
# Where a process of its own finds the package that is under test, installed or not.
HOME = Path(pydeform.__file__).parent.parent


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Work in an empty folder, on little: torch alone takes seconds to import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "torch", lambda: None)
    monkeypatch.setattr(timing, "_SIDE", 8)
    monkeypatch.setattr(timing, "_SECONDS", 0.0)
    monkeypatch.setattr(picture, "_DPI", 55)
    monkeypatch.setattr(checks, "CROP", 12)
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the drawing, which takes most of the time."""
    monkeypatch.setattr(picture, "draw", lambda scene, path: None)


def photo(height, width, seed=0):
    """Smooth noise in three colours."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height))


def plant(monkeypatch, function, spoil):
    """Let a function of the compiled backend spoil what it wrote: `grads`, or its last argument."""
    right = getattr(_cpu, function)
    names = list(inspect.signature(right).parameters)
    written = names.index("grads") if "grads" in names else -1

    def wrong(*arguments):
        right(*arguments)
        spoil(arguments[written])

    monkeypatch.setattr(_cpu, function, wrong)


def off(array):
    """An error in one entry that no eye would see."""
    array.flat[array.size // 2] += np.abs(array).max() * 2.0**-9


def is_drawn(path):
    """Whether a file is a PNG of a picture: large, and with much to see in each quarter."""
    with Image.open(path) as drawn:
        assert drawn.format == "PNG"
        pixels = np.asarray(drawn.convert("L"), float)
    assert min(pixels.shape) > 350
    quarters = [half for rows in np.array_split(pixels, 2) for half in np.array_split(rows, 2, 1)]
    return all(np.std(quarter) > 10 for quarter in quarters)


# Without arguments


def test_main_job(quick, capsys):
    assert main(WORK) == 0
    out, progress = capsys.readouterr()
    assert is_drawn(quick / "pydeform.png")
    assert "PASS 12 of 12 checks passed" in out
    assert "FAIL" not in out
    for name in ("input", "offset", "weight", "bias", "mask"):
        assert f"gradient: {name}" in out
    for expected in ("map_coordinates", "deformable: forward", "plain: ", "backend cpu", "threads"):
        assert expected in out
    tables = out.partition("\npydeform ")[0]
    assert max(map(len, tables.splitlines())) <= 80
    steps = [line for line in progress.splitlines() if line.startswith("[")]
    assert [step.split()[0] for step in steps] == [f"[{i}/7]" for i in range(1, 8)]


def test_from_the_shell(quick):
    """Its own process, all of it, with nothing replaced."""
    done = subprocess.run(
        [sys.executable, "-m", "pydeform", *WORK, "--output", str(quick / "shown.png")],
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "picture: " in done.stdout
    assert is_drawn(quick / "shown.png")


def test_tables_need_no_rich(monkeypatch, capsys, undrawn):
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(WORK) == 0
    out = capsys.readouterr().out
    assert "PASS 12 of 12 checks passed" in out
    assert out.isascii()


def test_progress_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with report.Report(2) as shown:
        shown.step("looking")
        shown.step("thinking")
    assert "thinking" in terminal.getvalue()
    assert "[1/2]" not in terminal.getvalue()


# With a picture


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("wide.jpg", (96, 160)),
        ("tall.png", (300, 72)),
        ("grey.png", (96, 96)),
        ("a$b.png", (72, 72)),
    ],
)
def test_given_picture(quick, capsys, name, size):
    picture = photo(*size)
    (picture.convert("L") if name == "grey.png" else picture).save(quick / name)
    assert main([name, "--output", "corrected.png", "--size", "300"]) == 0
    assert "PASS 11 of 11 checks passed" in capsys.readouterr().out
    assert is_drawn(quick / "corrected.png")


def test_flat_picture(quick, capsys):
    """Nothing to see, no gradient: no division by zero."""
    Image.new("RGB", (80, 70), "black").save(quick / "black.png")
    assert main(["black.png"]) == 0
    assert (quick / "pydeform.png").exists()


@pytest.mark.parametrize("values", [("0", "0", "0"), ("0.3", "0", "0.5"), ("4", "0", "0.9")])
def test_other_lenses(quick, values):
    assert main([*WORK, "--lens", *values]) == 0


def test_pictures_are_turned_and_scaled(quick):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    photo(80, 200).save(quick / "turned.jpg", exif=exif)
    assert photograph.load(quick / "turned.jpg", 640).shape == (200, 80, 3)
    assert photograph.load(quick / "turned.jpg", 160).shape == (160, 64, 3)


def test_brightness_is_exact():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(photograph.exposed(photograph.brightness(levels)), levels)


# What cannot be done: status 2, one line, nothing written


def refused(capsys, *arguments):
    try:
        status = main(list(arguments))
    except SystemExit as error:
        status = error.code
    assert status == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("python -m pydeform: ")
    return last


def test_missing_picture(quick, capsys):
    assert "nowhere.jpg: no such file" in refused(capsys, "nowhere.jpg")
    assert not (quick / "pydeform.png").exists()


def test_unreadable_picture(quick, capsys):
    (quick / "text.png").write_text("not a picture")
    assert "text.png: not a readable picture" in refused(capsys, "text.png")
    photo(96, 96).save(quick / "cut.png")
    (quick / "cut.png").write_bytes((quick / "cut.png").read_bytes()[:2000])
    assert "cut.png: not a readable picture" in refused(capsys, "cut.png")
    (quick / "folder").mkdir()
    assert "folder: not a readable picture" in refused(capsys, "folder")


@pytest.mark.parametrize("size", ["640", "100"])
def test_small_picture(quick, capsys, size):
    photo(56, 200).save(quick / "small.png")
    assert "expected at least 64" in refused(capsys, "small.png", "--size", size)


def test_bad_options(quick, capsys):
    photo(96, 96).save(quick / "here.png")
    assert ".png, got x.jpg" in refused(capsys, "--output", "x.jpg")
    assert "no such folder" in refused(capsys, "--output", "nowhere/x.png")
    assert "is the picture itself" in refused(capsys, "here.png", "--output", "./here.png")
    assert "fold the picture" in refused(capsys, "--lens", "-0.5", "0", "0")
    assert "fall-off" in refused(capsys, "--lens", "0", "0", "1")
    assert "--size: expected 64 to 2048 pixels, got 0" in refused(capsys, "--size", "0")
    assert "--size: " in refused(capsys, "--size", "2049")
    assert "finite" in refused(capsys, "--lens", "nan", "0", "0")
    (quick / "taken.png").mkdir()
    assert "taken.png" in refused(capsys, *WORK, "--output", "taken.png")


@pytest.mark.parametrize("name", ["matplotlib", "PIL", "sklearn"])
def test_extra_is_missing(monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, name, None)
    message = refused(capsys)
    assert f"needs {name}" in message
    assert 'pip install "pydeform[demo]"' in message


def test_a_given_picture_needs_no_example(monkeypatch, quick, undrawn):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    photo(72, 72).save(quick / "own.png")
    assert main(["own.png"]) == 0


def test_nothing_was_compiled(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pydeform._cpu", None)
    assert "pydeform._cpu is not built" in refused(capsys, *WORK)


def test_interrupted(monkeypatch, capsys):
    def stop(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", stop)
    assert main([]) == 130
    assert "interrupted" in capsys.readouterr().err


# Other uses


def test_info(capsys):
    assert main(["info"]) == 0
    assert capsys.readouterr().out == f"{pydeform.info(cuda=True)}\n"


def test_version_loads_nothing_optional():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['pydeform', '--version']\n"
        "try: runpy.run_module('pydeform', run_name='__main__')\n"
        "except SystemExit as error: assert not error.code\n"
        "assert not {'matplotlib', 'PIL', 'rich', 'sklearn', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"pydeform {pydeform.__version__}\n"


# Errors are noticed


def test_failed_check_is_status_1(monkeypatch, capsys, undrawn):
    plant(monkeypatch, "deform_conv", off)
    assert main(WORK) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "of 12 checks passed" in out


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_fail(monkeypatch, value):
    plant(monkeypatch, "deform_conv", lambda out: out.__setitem__((..., 0), value))
    assert main(WORK) == 1


@pytest.fixture
def case():
    undo = lens.correction(lens.Lens(), (64, 80))
    return checks.crop(photograph.brightness(np.asarray(photo(64, 80))), undo)


def failed(case):
    return {row.name for row in checks.derivatives(case) if not row.passed}


def test_derivatives_are_right(case):
    rows = checks.derivatives(case)
    assert failed(case) == set()
    assert all(row.difference == 0 for row in rows if row.name != "output")


@pytest.mark.parametrize("place", range(5), ids=["input", "offset", "weight", "bias", "mask"])
def test_wrong_gradient_is_noticed(monkeypatch, case, place):
    plant(monkeypatch, "deform_conv_backward", lambda grads: off(grads[place]))
    assert f"gradient: {case.names[place]}" in failed(case)


def test_wrong_derivatives_are_noticed(monkeypatch, case):
    plant(monkeypatch, "deform_conv_jvp", off)
    plant(monkeypatch, "deform_conv_double_backward", lambda results: off(results[1]))
    assert failed(case) == {"directional derivative", "second derivatives"}


def test_differences_alone_would_notice(monkeypatch, case):
    """They know nothing of the specification, which might err alike.

    Second derivatives are compared with differences of gradients.
    """
    plant(monkeypatch, "deform_conv_backward", lambda grads: np.multiply(grads[1], 1.5, grads[1]))
    differences = {row.name: row.difference for row in checks.derivatives(case)}
    assert [name for name, error in differences.items() if error] == [
        "gradient: offset",
        "second derivatives",
    ]


def test_bits_that_depend_on_threads_are_noticed(monkeypatch, capsys, undrawn):
    def spoil(grads):
        if grads[2] is not None and pydeform.get_num_threads() == 2:
            grads[2].flat[0] = np.nextafter(grads[2].flat[0], np.inf)

    plant(monkeypatch, "deform_conv_backward", spoil)
    assert main(WORK) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if "bits differ" in line]
    assert ["FAIL" in row for row in rows] == [True]


# The lens


@pytest.mark.parametrize("values", [(-0.2, 0.03), (0.3, 0.0), (-0.33, 0.0)])
def test_lens_is_undone(values):
    bent, size = lens.Lens(*values, falloff=0), (65, 97)
    points = np.mgrid[:65, :97].astype(float)
    scene = bent.straighten(points, size)
    seen = bent.bend(scene, size)
    # What the lens did not see has no scene, and lies outside the picture.
    r = np.hypot(scene[0] - 32, scene[1] - 48) / np.hypot(32, 48)
    known = r < 1
    assert known.mean() > 0.5
    np.testing.assert_allclose(seen[:, known], points[:, known], atol=1e-4)


def test_correction_shape_and_step():
    undo = lens.correction(lens.Lens(), (20, 30))
    assert undo.offset.shape == (1, 18, 20, 30)
    assert undo.mask.shape == (1, 9, 20, 30)
    assert np.array_equal(undo.offset, undo.offset.astype(np.float32))
    # The centre lies between pixels; the corners move the most, towards it.
    assert np.abs(undo.offset[0, 8:10, 9:11, 14:16]).max() < 0.01
    assert undo.offset[0, 8, 0, 0] > 1
    assert undo.offset[0, 9, 0, 0] > 1
    assert undo.mask.max() <= 1 / 0.7 + 1e-12
