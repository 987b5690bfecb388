"""Tests that take a quiet machine run only where they are asked for: ``-m ratio``."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "ratio: compares times; only on a quiet machine, by -m ratio"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is timed, unless it was asked for."""
    if "ratio" in config.getoption("markexpr"):
        return
    timed = [item for item in items if item.get_closest_marker("ratio")]
    if timed:
        config.hook.pytest_deselected(items=timed)
        items[:] = [item for item in items if item not in timed]
