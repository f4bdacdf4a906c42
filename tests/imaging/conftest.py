"""What the tests of imaging share: the sample files, and pydicom's own."""

from __future__ import annotations

import logging
from pathlib import Path

import pydicom
import pytest

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
