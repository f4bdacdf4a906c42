"""What the tests of imaging share: the sample files, and pydicom's own."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest

from catchment.core.ledger import Ledger
from catchment.core.store import open_store
from catchment.imaging.job import House
from catchment.imaging.model import Job, Options, Provider
from catchment.imaging.snapshot import open_snapshot

PASSED_OVER = {".py", ".pyc", ".csv", ".json", ".txt", ".md", ".ods"}


def own_files():
    """The files that pydicom and pydicom-data bring."""
    site = Path(pydicom.__file__).parents[1]
    folders = [site / "pydicom" / "data", site / "data_store"]
    return [p for folder in folders for p in sorted(folder.rglob("*")) if wanted(p)]


def wanted(path):
    return path.is_file() and path.suffix not in PASSED_OVER


@pytest.fixture(scope="session")
def corpus(request):
    """Every sample file: pydicom's, and those beside the checkout where they are."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "imaging"
    return own_files() + [p for p in sorted(folder.rglob("*")) if wanted(p)]


@pytest.fixture(scope="session")
def damaged(shared):
    """The broken files that were made from sound ones, by name."""
    folder = shared / "data" / "imaging" / "derived_corrupt"
    return {p.name: p for p in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def _quiet():
    """Odd files make pydicom talk."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@pytest.fixture
def sites(tmp_path):
    """Puts files below the folders of providers: ``sites(alpha={"a.dcm": b"..."})``."""

    def put(**files):
        for site, named in files.items():
            for name, data in named.items():
                path = tmp_path / "sites" / site / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    put(alpha={}, beta={})
    for site in ("alpha", "beta"):
        (tmp_path / "sites" / site).mkdir(parents=True, exist_ok=True)
    return put


@pytest.fixture
def house(tmp_path):
    """A store, a ledger in SQLite, two threads and a clock that stands."""
    with (
        Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger,
        ThreadPoolExecutor(2) as executor,
    ):
        store = open_store((tmp_path / "store").as_uri())
        yield House(
            store, ledger, executor, open_store, clock=lambda: datetime(2026, 11, 21, tzinfo=UTC)
        )


@pytest.fixture
def job(tmp_path):
    """Two providers."""
    urls = {site: (tmp_path / "sites" / site).as_uri() for site in ("alpha", "beta")}
    return Job(
        "ct", tuple(Provider(site, url) for site, url in urls.items()), Options(key=b"secret")
    )


@pytest.fixture
def opened(house):
    """The latest snapshot."""
    return lambda: open_snapshot(house.store, house.ledger, "ct")


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    """No power is cut here: bytes need not reach the disk."""
    monkeypatch.setattr("os.fsync", lambda _: None)
