"""What the tests of exports share: the sample of the first system, and a house to work in."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from catchment.core.ledger import Ledger
from catchment.core.store import open_store
from catchment.exports.job import House
from catchment.testing.fhir import by_member


@pytest.fixture(scope="session")
def claims(shared):
    """The 500 lines of the sample, and the same by patient."""
    lines = gzip.decompress((shared / "data/exports/EOB-500.ndjson.gz").read_bytes()).splitlines()
    return lines, by_member(
        lines, lambda line: json.loads(line)["patient"]["reference"].removeprefix("Patient/")
    )


@pytest.fixture
def house(tmp_path):
    """A local store, a ledger in SQLite and two threads."""
    with (
        Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger,
        ThreadPoolExecutor(2) as executor,
    ):
        store = open_store((tmp_path / "store").as_uri())
        yield House(store, ledger, executor, lease=timedelta(seconds=2))


@pytest.fixture
def without(house):
    """The house with other parts."""
    return lambda **parts: replace(house, **parts)
