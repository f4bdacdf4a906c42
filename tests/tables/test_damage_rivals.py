"""Two runs at once, a holder that was paused, and readers while others publish."""

from __future__ import annotations

import random
import threading
import time

import pytest

from catchment.core.errors import Conflict
from catchment.tables.snapshot import open_snapshot
from tests.tables.damage import CHANGES, SAMPLE, Grounds, Nursery, Observer
from tests.tables.damage_child import AGGREGATE, ALL, work


@pytest.fixture(scope="module")
def grounds(tmp_path_factory):
    return Grounds.prepare(tmp_path_factory.mktemp("grounds"), SAMPLE)


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as opened:
        yield opened


@pytest.fixture(scope="module")
def rival():
    with Nursery() as opened:
        yield opened


def test_two_processes_at_once(grounds, nursery, rival):
    """Each state is published once; who comes second is told so, with exit code 4."""
    chance = random.Random(3)
    refused = 0
    with grounds.fresh("first") as place:
        observer = Observer(place)
        with observer.always():
            for turn in range(4):
                wanted = CHANGES[turn % len(CHANGES)]
                nursery.send(place, wanted, wanted)
                time.sleep(chance.uniform(0, 0.02))
                rival.send(place, wanted, wanted)
                said = [s for n in (nursery, rival) for s in n.reply()["said"]]
                assert len(said) == 4
                states = [s["state"] for s in said if "state" in s]
                assert states.count("published") == 1
                assert set(states) <= {"published", "unchanged"}
                lost = [s for s in said if "error" in s]
                assert all((s["error"], s["code"]) == ("lease-held", 4) for s in lost)
                refused += len(lost)
                assert place.ledger.latest(AGGREGATE).number == turn + 1
        assert place.collect() == 0
        place.mend(grounds.wanted)
    assert refused, "the two never met: the test shows nothing"


def overtaken(grounds, nursery, fault, which):
    """A holder stops at an operation; another run publishes; then it wakes. What it says."""
    with grounds.fresh(which) as place:
        observer = Observer(place)
        ended = nursery.ask(place, fault=fault)
        if "stopped" not in ended:
            return None
        place.outlive()
        work(place.folder, CHANGES[1])
        observer.look()
        before = len(observer.snapshots)
        (said,) = nursery.go_on()["said"]
        observer.look()
        if "error" in said:
            assert said["code"] == 4, said
            assert len(observer.snapshots) == before
        place.mend(grounds.wanted)
        place.collect()
        observer.look()
        return said


POINTS = [(w, on, when) for w in ("first", "second") for on in ("store", "ledger") for when in ("before", "after")]  # fmt: skip


STEPS = {"store": 9, "ledger": 4}  # of the normal suite
REFUSED = {"lease-lost", "key-taken"}  # the latter where the other took the same folder


def overtake_at_every(grounds, nursery, which, on, when, step):
    said, number = [], 1
    while ended := overtaken(grounds, nursery, {"on": on, "stop_at": number, "when": when}, which):
        said.append(ended.get("error") or ended["state"])
        number += step
    return said


@pytest.mark.parametrize(("which", "on", "when"), [p for p in POINTS if p[2] == "before"])
def test_a_paused_holder_that_wakes_publishes_nothing(grounds, nursery, which, on, when):
    said = overtake_at_every(grounds, nursery, which, on, when, step=STEPS[on])
    assert REFUSED & set(said)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("which", "on", "when"), POINTS)
def test_a_paused_holder_at_every_operation(grounds, nursery, which, on, when):
    said = overtake_at_every(grounds, nursery, which, on, when, step=1)
    assert REFUSED & set(said)


def test_a_holder_that_sleeps_past_its_lease(grounds, nursery):
    """In real time: the lease expires by itself, and is taken over."""
    with grounds.fresh("first") as place:
        # The last of the table's objects: the folder is taken since the first has its name.
        fault = {"on": "store", "stop_at": 14, "when": "before"}
        assert nursery.ask(place, fault=fault, ttl=2) == {"stopped": True}
        with pytest.raises(Conflict) as caught:
            work(place.folder, ALL)
        assert caught.value.kind == "lease-held"
        deadline = time.monotonic() + 30
        while place.ledger.lease(AGGREGATE) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert work(place.folder, ALL).state == "published"
        (said,) = nursery.go_on()["said"]
        # It made the very same state, so its commit's key gives it the other's snapshot.
        assert said["state"] == "published"
        assert said["number"] == 1
        Observer(place).look()
        assert place.ledger.latest(AGGREGATE).number == 1
        assert place.bytes() == grounds.wanted
        place.collect()


def test_readers_are_never_disturbed(grounds, nursery):
    """A reader pins the latest snapshot and reads it, slowly, while others take its place."""
    with grounds.fresh("second") as place:
        pinned, wrong, done = [], [], threading.Event()

        def read() -> None:
            while not done.is_set():
                try:
                    snapshot = open_snapshot(place.store, place.ledger, "main")
                    first = snapshot["uds"].to_arrow()
                    assert first.num_rows == snapshot["uds"].rows
                    pinned.append((snapshot, first))
                    old, table = random.choice(pinned)
                    assert old["uds"].to_arrow().equals(table)
                    assert old.verify() == []
                except BaseException as error:  # noqa: BLE001 - raised below
                    wrong.append(error)
                    return

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(3):
            assert nursery.ask(place, *CHANGES)["status"] == 0
            place.collect()
        done.set()
        reader.join()
        assert not wrong, wrong
        assert len({snapshot.record.number for snapshot, _ in pinned}) > 2
