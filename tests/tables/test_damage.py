"""Runs that are killed, or that fail, at any instant: the next one ends where it should have."""

from __future__ import annotations

import gc
import random
import signal
import time
from contextlib import suppress
from itertools import count

import pytest

from catchment.core.errors import Unavailable
from catchment.testing.faults import Faults
from catchment.testing.postgres import postgres
from tests.tables.damage import CHANGES, FEWER, SAMPLE, TWO, Grounds, Nursery, Observer
from tests.tables.damage_child import ALL, work

__all__ = ["postgres"]


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as opened:
        yield opened


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return Grounds.prepare(tmp_path_factory.mktemp("two"), TWO)


# --- kill -9 at random instants ------------------------------------------------------------------


def kill_at_random(grounds, nursery, kills, seed):
    """Kill children at random instants; how many died at work, and what was collected of them."""
    chance = random.Random(seed)
    with grounds.fresh("first") as place:
        begun = time.monotonic()
        assert nursery.ask(place, *CHANGES)["status"] == 0
        span = time.monotonic() - begun
    died = collected = 0
    while died < kills:
        with grounds.fresh(chance.choice(["first", "second"])) as place:
            observer = Observer(place)
            for _ in range(min(10, kills - died)):
                changes = chance.sample(CHANGES, 2)  # the first may be what is there already
                with observer.always():
                    begun = time.monotonic()
                    ended = nursery.ask(place, *changes, kill_after=chance.uniform(0, 0.5 * span))
                    took = time.monotonic() - begun
                died += ended["status"] == -signal.SIGKILL
                if ended["status"] == 0:  # two runs of three: the machine has become quicker
                    span = min(span, 1.5 * took)
                if chance.random() < 0.3:
                    collected += place.collect()
                    observer.look()
                if chance.random() < 0.15:
                    place.mend(grounds.wanted)
                    observer.look()
            place.mend(grounds.wanted)
            collected += place.collect()
            observer.look()
            assert place.run().state == "unchanged"
    return died, collected


def test_a_run_killed_at_random_instants(two, nursery):
    died, collected = kill_at_random(two, nursery, 24, seed=1)
    assert died >= 24
    assert collected, "no kill met a run at work: the test shows nothing"


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_at_many_random_instants(two, nursery, seed):
    died, collected = kill_at_random(two, nursery, 60, seed=100 + seed)
    assert died >= 60
    assert collected


# --- every operation -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return Grounds.prepare(tmp_path_factory.mktemp("one"), SAMPLE)


STEPS = {"store": 11, "ledger": 4}  # of the normal suite


def afterwards(grounds, place):
    """All that must hold after any fault."""
    observer = Observer(place)
    observer.look()
    place.mend(grounds.wanted)
    observer.look()
    place.collect()
    observer.look()


POINTS = [
    (which, on, when)
    for which in ("first", "second")
    for on in ("store", "ledger")
    for when in ("before", "after")
]


def fail(place, on, when, number):
    """A run whose operation of that number fails; whether it has one."""
    faults = Faults(fail_at=number, when=when)
    with suppress(Unavailable):
        work(place.folder, ALL, **{on: faults})
    return faults.fired


def fail_at_every(grounds, place_of, which, on, when, step=1):
    """Fail the 1st, 2nd, ... operation until none is left; how many failed."""
    for number in count(1, step):
        with place_of(which) as place:
            fired = fail(place, on, when, number)
            gc.collect()  # a context whose entry or exit failed was left open
            afterwards(grounds, place)
        if not fired:
            break
    return number // step


@pytest.mark.parametrize(("which", "on", "when"), POINTS)
def test_a_fault_at_some_operations(one, which, on, when):
    """Before the operation, or as a lost acknowledgement of it."""
    assert fail_at_every(one, one.fresh, which, on, when, step=STEPS[on]) > 2


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("which", "on", "when"), POINTS)
def test_a_fault_at_every_operation(one, which, on, when):
    assert fail_at_every(one, one.fresh, which, on, when) > 10


def kill_at_every(grounds, nursery, place_of, which, on, when, step=1):
    """Kill a child at the 1st, 2nd, ... operation until none is left; how many died."""
    for number in count(1, step):
        with place_of(which) as place:
            fault = {"on": on, "kill_at": number, "when": when}
            ended = nursery.ask(place, fault=fault)
            afterwards(grounds, place)
        if ended["status"] == 0:
            break
        assert ended["status"] == -signal.SIGKILL
    return number // step


@pytest.mark.parametrize(("which", "on", "when"), [p for p in POINTS if p[2] == "before"])
def test_a_kill_at_some_operations(one, nursery, which, on, when):
    """To die after an operation is to die before the next one."""
    assert kill_at_every(one, nursery, one.fresh, which, on, when, step=STEPS[on]) > 2


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("which", "on", "when"), POINTS)
def test_a_kill_at_every_operation(one, nursery, which, on, when):
    assert kill_at_every(one, nursery, one.fresh, which, on, when) > 10


# --- PostgreSQL ----------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(one, postgres):
    """Fresh places whose ledger is on a server."""

    def fresh(which):
        place = one.fresh("nothing", ledger=postgres.database())
        if which == "second":
            place.run(FEWER)
        return place

    return fresh


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_fault_with_the_ledger_on_a_server(one, elsewhere, when):
    assert fail_at_every(one, elsewhere, "second", "ledger", when, step=8) > 1


def test_a_kill_with_the_ledger_on_a_server(one, nursery, elsewhere):
    assert kill_at_every(one, nursery, elsewhere, "first", "ledger", "after", step=8) > 1
    assert kill_at_every(one, nursery, elsewhere, "first", "store", "before", step=25) > 1


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("which", "on", "when"), POINTS)
def test_a_fault_or_kill_anywhere_with_the_ledger_on_a_server(
    one, nursery, elsewhere, which, on, when
):
    assert fail_at_every(one, elsewhere, which, on, when, step=2) > 5
    assert kill_at_every(one, nursery, elsewhere, which, on, when, step=2) > 5
