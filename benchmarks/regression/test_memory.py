# ruff: noqa: D103  (the name of a test says what it shows)
"""The measuring of `benchmarks.memory`."""

import pytest

from benchmarks.growth import OPERATIONS, Call, arguments, output_shape
from benchmarks.memory import MIB, main, measured


def test_a_copy_shows_and_a_limit_takes_it_away() -> None:
    call = Call("deform_conv2d", "forward", side=256, channels=64, limit=1 << 30)
    copied = measured(call)
    assert 15 < copied["beside"] / MIB < 24  # the image, channels side by side
    read = measured(Call("deform_conv2d", "forward", side=256, channels=64, limit=1 << 20))
    assert read["beside"] / MIB < 6
    assert copied["arguments"] == read["arguments"] > 16 * MIB
    assert copied["results"] == read["results"] == 16 * MIB


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_can_be_called(operation: str) -> None:
    import pydeform

    call = Call(operation, "forward", side=32, channels=32)
    arrays, options = arguments(call)
    assert getattr(pydeform, operation)(**arrays, **options).shape == output_shape(call)


def test_the_command_says_what_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [
        "--operation",
        "local_conv2d",
        "--way",
        "jvp",
        "--dtype",
        "float16",
        "--channels",
        "8",
    ]
    assert main([*chosen, "--sides", "64,128", "--limit", "3"]) == 0
    assert main([*chosen, "--sides", "64,128", "--limit", "0.5"]) == 1
    table = capsys.readouterr().out
    assert "| local_conv2d | jvp | float16" in " ".join(table.split())
    assert "yes" in table


@pytest.mark.parametrize("option", ["operation", "way", "dtype", "layout"])
def test_an_unknown_choice_is_named(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--operation", "local_conv2d", f"--{option}", "none of them"])
    assert f"{option}: expected some of" in capsys.readouterr().err
