"""kill -9 at any step of a worker, and several workers at once: every upload counts once."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from datetime import timedelta

import pytest

from catchment.core.errors import CatchmentError
from catchment.studies import library, run, scan
from catchment.testing.faults import Faults, inject
from catchment.testing.studies import parquet
from tests.forking import CONTEXT
from tests.studies.studying import below, model, published, stage, state_of, table, whole, workspace

NAME = "core__count.cube.parquet"
QUICK, SOAK = 5, 80  # kills


def work(folder, kill_at, when):
    """One worker that looks once; its lease is short, so that the next one need not wait."""
    run.LEASE = timedelta(seconds=2)
    faults = Faults(kill_at=kill_at, when=when)
    with workspace(folder) as space:
        house = library.house(space)
        house = replace(
            house, store=inject(space.store, faults), ledger=inject(space.ledger, faults)
        )
        try:
            scan.scan(house)
        except CatchmentError:
            os._exit(9)


def cube(number):
    return table((number, None, None), (number, "f", "x"))


@pytest.mark.parametrize("kills", [QUICK, pytest.param(SOAK, marks=pytest.mark.soak)])
def test_workers_are_killed_and_every_upload_counts_once(tmp_path, kills):
    source = random.Random(kills)
    sites = {}
    killed = 0
    with workspace(tmp_path) as space:
        for number in range(1, kills + 1):
            site = source.choice(["a", "ab", "b"])
            sites[site] = cube(number)
            stage(space, site, parquet(sites[site]), name=NAME)
            arguments = (tmp_path, source.randint(1, 80), source.choice(["before", "after"]))
            children = [CONTEXT.Process(target=work, args=arguments)]
            if number % 3 == 0:
                children.append(CONTEXT.Process(target=work, args=(tmp_path, None, "before")))
            for child in children:
                child.start()
            for child in children:
                child.join(60)
                assert child.exitcode in {0, 9, -signal.SIGKILL}
            killed += children[0].exitcode == -signal.SIGKILL
            last = CONTEXT.Process(target=work, args=(tmp_path, None, "before"))
            for _ in range(40):
                last.start()
                last.join(60)
                if not below(space, "upload_staging/") and not {"latest", "site_upload"} & set(
                    state_of(space)
                ):
                    break
                last = CONTEXT.Process(target=work, args=(tmp_path, None, "before"))
            assert published(space) == model(sites)
        assert killed >= kills // 3
        assert below(space, "upload_staging/") == []
        assert state_of(space)["last_valid"] == len(sites)
        whole(space)
