"""Fixtures that every area shares."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# First imports and a busy machine are not what a test is about.
settings.register_profile("catchment", deadline=None)
settings.load_profile("catchment")

# What the shipped suites assert is told in full, too.
pytest.register_assert_rewrite("catchment.testing")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of cases and sample data that lies beside a checkout; skips where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside this checkout: its cases and sample data are needed")
    return folder
