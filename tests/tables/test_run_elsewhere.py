"""Runs whose workers are on a cluster, or whose store is in S3, under damage: the same bytes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from catchment.core.errors import CatchmentError
from catchment.core.executor import open_executor
from catchment.core.safe import Limits
from catchment.core.store import open_store
from catchment.testing.cluster import cluster
from catchment.testing.faults import Faults, inject
from catchment.testing.s3 import moto  # noqa: F401 - a fixture
from tests.tables.running import People, Sites, Work, visits

MOVED = "NACC000001"
LIMITS = Limits(memory=1 << 30, cpu=60, wall=120)


def sites_of(folder, centers=6):
    """Each center sends many rows; one participant of the first is now at the last."""
    sites = Sites(open_store(folder.as_uri()))
    for k in range(centers):
        rows = [(f"NACC{k:03}{n:03}", 10 + k, "2020-01-01", n) for n in range(300)]
        sites.add(f"center-{k}", 10 + k, visits((MOVED, 10 + k, "2021-01-01", k), *rows))
    return sites, People({MOVED: {10 + centers - 1}})


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """Sites, and the bytes of an undisturbed run over them."""
    folder = tmp_path_factory.mktemp("elsewhere")
    sites, people = sites_of(folder / "sites")
    with Work(folder / "here", sites, people) as work:
        work.run()
        return sites, people, work.bytes()


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
            patch.delenv(name, raising=False)  # a child that is killed has no coverage to tell
        with cluster(tmp_path_factory.mktemp("dask"), 2) as found:
            yield found


def test_a_run_on_a_cluster_gives_the_same_bytes(wanted, dask, tmp_path):
    sites, people, expected = wanted
    with (
        open_executor(dask.address, limits=LIMITS) as executor,
        Work(tmp_path, sites, people, executor=executor) as work,
    ):
        assert work.run().state == "published"
        assert work.bytes() == expected
        assert work.run().state == "unchanged"


def test_a_worker_that_dies_changes_nothing(wanted, dask, tmp_path):
    """Killed with -9 again and again while runs are at work; nannies start others."""
    sites, people, expected = wanted
    killed = []
    over = threading.Event()

    def kill():
        while not over.wait(0.4):
            workers = psutil.Process(dask.nanny.pid).children()
            busy = [w for w in workers if "spawn_main" in " ".join(w.cmdline())]
            if busy:
                os.kill(busy[0].pid, signal.SIGKILL)
                killed.append(busy[0].pid)
            over.wait(2)

    killer = threading.Thread(target=kill)
    with (
        open_executor(dask.address, limits=LIMITS) as executor,
        Work(tmp_path, sites, people, executor=executor) as work,
    ):
        killer.start()
        try:
            end = time.monotonic() + 60
            while len(killed) < 2 or work.ledger.latest("tables/nacc") is None:
                assert time.monotonic() < end
                try:
                    work.run(full=True)
                except CatchmentError as error:  # a task whose workers died is no task to repeat
                    assert error.hint
        finally:
            over.set()
            killer.join()
        work.run(full=True)
        assert work.bytes() == expected
        assert work.snapshot().verify() == []


@pytest.mark.parametrize("points", [8, pytest.param(200, marks=pytest.mark.soak)])
def test_faults_of_s3_at_many_points(wanted, tmp_path, moto, points):  # noqa: F811
    """Each leaves what was published whole, and the next run ends in the same bytes."""
    sites, people, expected = wanted
    counted = Faults()
    store = moto.store()
    with Work(tmp_path / "count", sites, people, store=inject(store, counted)) as work:
        work.run()
    fired, both = 0, ("before", "after")
    for turn, number in enumerate(range(1, counted.count + 1, max(1, counted.count // points))):
        for when in both if points > 8 else both[turn % 2 :][:1]:
            bare = moto.store()
            faults = Faults(fail_at=number, when=when)
            folder = Path(tmp_path / f"{number}-{when}")
            with Work(folder, sites, people, store=inject(bare, faults)) as work:
                try:
                    work.run()
                except CatchmentError:
                    assert work.ledger.latest("tables/nacc") is None or work.bytes() == expected
                else:  # it met what tidies up after the commit
                    assert work.bytes() == expected
                fired += faults.fired
            with Work(folder, sites, people, store=bare) as again:
                assert again.run().state in {"published", "unchanged"}
                assert again.bytes() == expected
                assert again.snapshot().verify() == []
    assert fired >= min(points, counted.count) - 2  # threads do not always do equally many
