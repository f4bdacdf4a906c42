"""The seal: written after the ledger's row, the same bytes again after a crash, and read back."""

from __future__ import annotations

import contextlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core import provenance
from catchment.core.account import Account, Balance, Line
from catchment.core.errors import CatchmentError, Corrupt, Unavailable
from catchment.core.ledger import Ledger, Publication
from catchment.core.provenance import NAME, dumps, learn, manifest, read_all, seal, seal_all
from catchment.core.store import open_store
from catchment.testing.faults import Faults, every_fault, inject

AGGREGATE = "tables/nacc"
_NUMBERS = itertools.count()


@pytest.fixture
def store():
    return open_store(f"memory://provenance{next(_NUMBERS)}")


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


def published(ledger, number=1):
    account = Account({Line("alpha", "uds", "rows"): Balance(3, 3)})
    facts = {"manifest": manifest(), "note": "Zürich, 日本 \u2028"}
    return ledger.publish(Publication(AGGREGATE, f"key{number}", f"out/{number}/", facts, account))


def test_a_sealed_snapshot_describes_itself(store, ledger):
    snapshot = published(ledger)
    assert ledger.unsealed(AGGREGATE) == [snapshot]
    seal(store, ledger, snapshot)
    assert ledger.unsealed(AGGREGATE) == []
    assert json.loads(store.read(f"out/1/{NAME}")) == snapshot.provenance
    assert ledger.latest(AGGREGATE).sealed
    seal(store, ledger, snapshot)  # again: no change


def test_the_program_is_named():
    assert manifest()["name"] == "catchment"
    assert manifest()["version"].count(".") >= 1


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_one_value_has_one_byte_form(value):
    try:
        data = dumps(value)
    except UnicodeEncodeError:  # a lone surrogate is no text
        return
    assert json.loads(data) == value
    assert dumps(json.loads(data)) == data
    assert data.endswith(b"}\n")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_between_row_and_object_is_mended(tmp_path, when):
    """At each operation of the store and of the ledger."""
    rounds = 0
    for faults in every_fault(when=when):
        rounds += 1
        store = open_store(f"memory://provenance{next(_NUMBERS)}")
        with Ledger.open(f"sqlite:///{tmp_path}/{rounds}.db") as ledger:
            snapshots = [published(ledger, n) for n in (1, 2)]
            with contextlib.suppress(CatchmentError):
                seal_all(inject(store, faults), inject(ledger, faults), AGGREGATE)
            seal_all(store, ledger, AGGREGATE)
            assert ledger.unsealed(AGGREGATE) == []
            assert [store.read(f"out/{n}/{NAME}") for n in (1, 2)] == [dumps(s.provenance) for s in snapshots]  # fmt: skip
    assert rounds == 6  # unsealed; a put and a seal for each of two; and none


@pytest.mark.parametrize("at", [1, 2], ids=["store", "ledger"])
def test_who_cannot_write_it_says_that_the_snapshot_stands(store, ledger, at):
    snapshot = published(ledger)
    full = Faults(fail_at=at, error=Unavailable("no room", kind="disk-full", hint="make room"))
    with pytest.raises(
        Unavailable, match=r"snapshot 1 of .* is published, but .*: no room"
    ) as told:
        seal(inject(store, full), inject(ledger, full), snapshot)
    assert (told.value.kind, told.value.hint) == ("disk-full", "make room")
    assert ledger.unsealed(AGGREGATE) == [snapshot]
    seal_all(store, ledger, AGGREGATE)
    assert ledger.unsealed(AGGREGATE) == []


def test_another_object_in_its_place_is_left_alone(store, ledger):
    snapshot = published(ledger)
    store.put(f"out/1/{NAME}", b"{}")
    with pytest.raises(Corrupt) as caught:
        seal_all(store, ledger, AGGREGATE)
    assert caught.value.kind == "provenance-differs"
    assert store.read(f"out/1/{NAME}") == b"{}"
    assert ledger.unsealed(AGGREGATE) == [snapshot]


def test_that_of_an_expired_snapshot_is_written_anew(store, ledger):
    for number in (1, 2):
        seal(store, ledger, published(ledger, number))
    expired = ledger.expire(AGGREGATE, 1)
    seal_all(store, ledger, AGGREGATE)
    assert store.read(f"out/1/{NAME}") == dumps(expired.provenance)
    assert ledger.unsealed(AGGREGATE) == []
    (first, _) = read_all(store)
    assert first["catchment"]["expired_at"] is not None


def test_all_are_read_in_order_of_key_and_no_others(store, ledger):
    for number in (2, 1):
        seal(store, ledger, published(ledger, number))
    foreign = {
        f"foreign/{NAME}": b'{"manifest": {}}', f"list/{NAME}": b"[]", f"x{NAME}": b"broken",
        f"alpha/{NAME}/inside": b"broken",
    }  # fmt: skip
    for key, data in foreign.items():
        store.put(key, data)
    assert [p["catchment"]["number"] for p in read_all(store)] == [2, 1]
    assert [p["catchment"]["number"] for p in read_all(store, "out/1/")] == [2]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_one_that_cannot_be_read_is_corrupt(store, data):
    store.put(f"out/1/{NAME}", data)
    with pytest.raises(Corrupt) as caught:
        list(read_all(store))
    assert caught.value.kind == "provenance-unreadable"
    assert f"out/1/{NAME}" in caught.value.message


def test_one_that_is_too_large_is_not_read(store, ledger, monkeypatch):
    seal(store, ledger, published(ledger))
    monkeypatch.setattr(provenance, "MAX_BYTES", 10)
    with pytest.raises(Corrupt):
        list(read_all(store))


def test_a_ledger_is_rebuilt_from_them(store, ledger, tmp_path):
    for number in (1, 2, 3):
        seal(store, ledger, published(ledger, number))
    with Ledger.open(f"sqlite:///{tmp_path}/new.db") as new:
        assert new.restore(read_all(store)) == 3
        assert new.restore(read_all(store)) == 0
        assert new.snapshots(AGGREGATE, provenance=True) == ledger.snapshots(AGGREGATE, provenance=True)  # fmt: skip


@pytest.mark.parametrize("apart", [False, True])
def test_what_lacks_an_earlier_snapshot_is_learnt_by_nobody(
    store, ledger, tmp_path, caplog, *, apart
):
    """Where each snapshot stands by itself it keeps no new one away; elsewhere it is an error."""
    published(ledger)
    seal(store, ledger, published(ledger, 2))
    with Ledger.open(f"sqlite:///{tmp_path}/other.db") as other:
        if apart:
            learn(store, other, AGGREGATE, ["out/2/"], apart=True)
            assert "nothing is learnt from the store" in caplog.text
        else:
            with pytest.raises(Corrupt) as error:
                learn(store, other, AGGREGATE, ["out/2/"])
            assert error.value.kind == "snapshot-gap"
        assert other.snapshots(AGGREGATE) == []
