"""Fixtures that every area shares."""

from __future__ import annotations

import gc
import os
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path
from shutil import disk_usage, rmtree
from typing import Any

import pytest
from hypothesis import settings

# First imports and a busy machine are not what a test is about.
settings.register_profile("catchment", deadline=None)
settings.load_profile("catchment")

# What the shipped suites assert is told in full, too.
pytest.register_assert_rewrite("catchment.testing")

# Thousands of modules stay to the end: to look through them again and again is a tenth of all time.
gc.set_threshold(10_000, 10, 20)

REPOSITORY = Path(__file__).parents[1]
MEMORY = Path("/dev/shm")
FAILED = pytest.StashKey[int]()  # then what was written is kept, until the next run
ROOM = 3 << 30  # bytes; a whole run holds about a third of that at a time


def pytest_configure(config: pytest.Config) -> None:
    """What tests write stays in memory, where there is room and nobody named another place.

    They kill processes, not machines: what is synced to a disk they could not tell from what is
    not, and each sync is a wait. `make soak` works on the disk.
    """
    named = config.option.basetemp or {"TMPDIR", "PYTEST_DEBUG_TEMPROOT"} & os.environ.keys()
    if named or config.option.markexpr == "soak" or "PYTEST_XDIST_WORKER" in os.environ:
        return
    for left in MEMORY.glob("catchment-*-*"):
        number = left.name.split("-")[1]  # of the process that made it
        if not Path("/proc", number).exists():
            rmtree(left, ignore_errors=True)
    if MEMORY.is_dir() and disk_usage(MEMORY).free > ROOM:
        place = tempfile.mkdtemp(prefix=f"catchment-{os.getpid()}-", dir=MEMORY)
        Path(place).chmod(0o711)  # servers that are another account pass through
        # At the exit, after multiprocessing has removed what it has there.
        Finalize(
            None, lambda: config.stash.get(FAILED, 1) or rmtree(place, True), exitpriority=-200
        )
        tempfile.tempdir = os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = place


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Who hands out the tests of `make test`."""
    from tests.together import Together

    return Together(config, log) if config.option.dist == "loadscope" else None


def pytest_collection_finish() -> None:
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[FAILED] = int(exitstatus)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of cases and sample data that lies beside a checkout; skips where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside this checkout: its cases and sample data are needed")
    return folder
