"""What the tests of exports share: the sample of the first system, and houses to work in."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from catchment.core.ledger import Ledger
from catchment.core.store import open_store
from catchment.exports.job import House
from catchment.testing.fhir import by_member
from catchment.testing.s3 import moto

__all__ = ["moto"]


@pytest.fixture(scope="session")
def claims(shared):
    """The 500 lines of the sample, and the same by patient."""
    lines = gzip.decompress((shared / "data/exports/EOB-500.ndjson.gz").read_bytes()).splitlines()
    return lines, by_member(
        lines, lambda line: json.loads(line)["patient"]["reference"].removeprefix("Patient/")
    )


@pytest.fixture
def store(tmp_path):
    """A folder."""
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def house(tmp_path, store):
    """A store, a ledger in SQLite and two threads."""
    with (
        Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger,
        ThreadPoolExecutor(2) as executor,
    ):
        yield House(store, ledger, executor, lease=timedelta(seconds=2))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Second tries come soon."""
    monkeypatch.setattr("catchment.exports.fhir.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("catchment.exports.run.BEAT_SECONDS", 0.05)


@pytest.fixture
def no_sync(monkeypatch):
    """For tests in which no power is cut: bytes need not reach the disk."""
    monkeypatch.setattr("os.fsync", lambda _: None)
