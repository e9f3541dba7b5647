"""These tests want Helm, built once in minutes: only `make test-chart` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chart import programs

HERE = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave this directory out unless an argument of pytest is in it."""
    names = (argument.partition("::")[0] for argument in config.args)
    asked = any((config.invocation_params.dir / name).is_relative_to(HERE) for name in names)
    return None if asked else True


@pytest.fixture(autouse=True, scope="session")
def _helm() -> None:
    """Skip everything where there is no Helm."""
    if reason := programs.unavailable("helm"):
        pytest.skip(reason)
