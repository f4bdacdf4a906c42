"""What the tests of arrays share."""

from __future__ import annotations

import pytest

pytest.importorskip("zarr", reason="the extra arrays is not installed")

from catchment.core.ledger import Ledger
from catchment.core.store import open_store
from catchment.testing.s3 import moto

__all__ = ["moto"]


@pytest.fixture
def no_sync(monkeypatch):
    """For tests in which no power is cut: bytes need not reach the disk."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def store(tmp_path):
    """A folder."""
    return open_store((tmp_path / "common.zarr").as_uri())


@pytest.fixture
def ledger(tmp_path):
    """One in SQLite."""
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened
