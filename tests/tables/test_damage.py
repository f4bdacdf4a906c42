"""Runs that are killed, or that fail, at any instant: the next one ends where it should have."""

from __future__ import annotations

import random
import signal
import time

import pytest
from tests.tables.damage import ALL, BIG, CHANGES, SAMPLE, Grounds, Nursery, Observer


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as opened:
        yield opened


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    return Grounds.prepare(tmp_path_factory.mktemp("big"), BIG)


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
                changes = chance.sample(CHANGES, len(CHANGES))
                with observer.always():
                    ended = nursery.ask(place, *changes, kill_after=chance.uniform(0, span))
                died += ended["status"] == -signal.SIGKILL
                if chance.random() < 0.5:
                    collected += place.collect()
                    observer.look()
                if chance.random() < 0.5:
                    place.mend(grounds.wanted)
                    observer.look()
            place.mend(grounds.wanted)
            collected += place.collect()
            observer.look()
            assert place.run().state == "unchanged"
    return died, collected


def test_a_run_killed_at_random_instants(big, nursery):
    died, collected = kill_at_random(big, nursery, 24, seed=1)
    assert died >= 24
    assert collected, "no kill met a run at work: the test shows nothing"


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_at_many_random_instants(big, nursery, seed):
    died, collected = kill_at_random(big, nursery, 60, seed=100 + seed)
    assert died >= 60
    assert collected
