"""A table that is begun before its plan is known ends in the bytes of one that was not."""

from __future__ import annotations

from concurrent.futures import CancelledError
from datetime import timedelta
from itertools import count

import pyarrow as pa
import pytest

from catchment.core.errors import Conflict, Unavailable
from catchment.core.store import Range, open_store
from catchment.core.store_local import LocalStore
from catchment.tables import ahead
from catchment.tables.ahead import Ahead
from tests.tables.running import People, Sites, Work, visits

LATER = "2026-02-01T00:00:00Z"
A, B, C = (
    visits((f"NACC0000{n}1", adcid, "2020-01-01", n), (f"NACC0000{n}2", adcid, "2020-01-02", -n))
    for n, adcid in ((1, 10), (2, 20), (3, 30))
)
MORE = visits(*((f"NACC0001{n:02}", 30, "2020-03-01", n) for n in range(50)))


@pytest.fixture
def work(tmp_path):
    """Published once, an hour ago."""
    sites = Sites(open_store((tmp_path / "sites").as_uri()))
    for name, adcid, table in (("alpha", 10, A), ("beta", 20, B), ("gamma", 30, C)):
        sites.add(name, adcid, table)
    with Work(tmp_path / "work", sites, People()) as opened:
        opened.run()
        opened.now += timedelta(hours=1)
        yield opened


@pytest.fixture
def begun(monkeypatch):
    """Whether what was begun was like the plan, of each table; each begins as far as it can."""
    found: list[bool] = []
    begins = Ahead._begins

    def noted(self, segments, seen):
        found.append(begins(self, segments, seen))
        return found[-1]

    def patient(self, foreseen):
        """Does not stop before all that is foreseen is written, so that tests are the same."""
        for segment in foreseen():
            self._given.append(segment)
            yield segment
        self._stands.set()
        yield from self._rest.result()

    monkeypatch.setattr(ahead, "LEAST", 0)
    monkeypatch.setattr(Ahead, "_begins", noted)
    monkeypatch.setattr(Ahead, "_segments", patient)
    return found


def same_as_afresh(work, tmp_path):
    with Work(tmp_path / "afresh", work.sites, work.people, now=work.now) as other:
        other.run(full=True)
        assert work.bytes() == other.bytes()
        assert work.snapshot().account == other.snapshot().account
    assert work.snapshot().verify() == []
    assert list((tmp_path / "work/store/.catchment/tmp").iterdir()) == []


def test_what_stands_before_a_change_is_written_before_the_plan(work, begun, tmp_path):
    work.sites.add("gamma", 30, MORE, version="2", created=LATER)
    assert work.run().state == "published"
    assert begun == [True]
    same_as_afresh(work, tmp_path)


def test_on_another_day(work, begun, tmp_path):
    work.now += timedelta(days=3)
    work.sites.add("delta", 40, MORE)
    work.run()
    assert begun == [True]
    same_as_afresh(work, tmp_path)


def test_a_type_that_changes_makes_it_begin_anew(work, begun, tmp_path):
    texts = C.set_column(3, "value", pa.array(["a", "b"]))
    work.sites.add("gamma", 30, texts, version="2", created=LATER)
    work.run()
    assert begun == [False]
    same_as_afresh(work, tmp_path)


def test_rows_that_leave_elsewhere_make_it_begin_anew(work, begun, tmp_path):
    rows = [*(tuple(r.values()) for r in C.to_pylist()), ("NACC000011", 30, "2020-05-01", 7)]
    work.people["NACC000011"] = {30}
    work.sites.add("gamma", 30, visits(*rows), version="2", created=LATER)
    work.run()
    assert begun == [False]
    assert work.removed().num_rows == 1
    same_as_afresh(work, tmp_path)


def test_a_table_that_ends_earlier(work, begun, tmp_path):
    work.run(only=["alpha", "beta"])
    assert begun == [True]
    same = [r for r in work.table().to_pylist() if r["adcid"] == 30]
    assert same == []


def test_a_file_that_is_bad(work, begun, tmp_path):
    work.sites.add("gamma", 30, b"PAR1 no", version="2", created=LATER)
    outcome = work.run()
    assert outcome.plan.skipped.keys() == {"gamma"}
    assert begun == [True]
    same_as_afresh(work, tmp_path)


def test_nothing_is_left_where_nothing_changed_after_all(work, begun, tmp_path):
    work.sites.add("gamma", 30, C)  # the same bytes, written again
    assert work.run().state == "unchanged"
    assert begun == []
    same_as_afresh(work, tmp_path)


def test_a_table_of_a_center_that_goes_first_is_not_begun(work, begun, tmp_path):
    work.sites.add("first", 5, MORE)
    work.run()
    assert begun == [True]  # with no input, but its first four bytes
    same_as_afresh(work, tmp_path)


@pytest.mark.parametrize("at", [1, 2])
def test_a_disk_that_is_full(work, begun, monkeypatch, tmp_path, at):
    """Ahead (1) it is tried again; else (2) nothing is published, and the next run does it."""
    compose, calls = LocalStore.compose, count(1)

    def full(self, target, segments, **options):
        if next(calls) == at:
            next(iter(segments))
            raise Unavailable("no space left", kind="disk-full")
        return compose(self, target, segments, **options)

    if at == 2:
        monkeypatch.setattr(Ahead, "_begins", lambda *_: False)
    monkeypatch.setattr(LocalStore, "compose", full)
    work.sites.add("gamma", 30, MORE, version="2", created=LATER)
    if at == 2:
        with pytest.raises(Unavailable, match="no space"):
            work.run()
        assert work.ledger.latest("tables/nacc").number == 1
        work.now += timedelta(hours=1)
    monkeypatch.undo() if at == 2 else None
    work.run()
    same_as_afresh(work, tmp_path)


# --- alone ---------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    made = open_store((tmp_path / "store").as_uri())
    made.put("old", b"0123456789")
    return made


def test_what_is_known_early_is_not_foreseen(store):
    made = Ahead(store, "new", lambda: (Range(store, "old", n, 1) for n in count()))
    composed = made.complete(iter([b"other"]))
    made.close()
    assert store.read("new") == b"other"
    assert composed.size == 5


def test_what_is_closed_leaves_nothing(store, tmp_path):
    made = Ahead(store, "new", lambda: [b"1", Range(store, "old", 0, 3)])
    made.close()
    made.close()
    assert [stat.key for stat in store.list()] == ["old"]
    assert list((tmp_path / "store/.catchment/tmp").iterdir()) == []


def test_what_is_closed_while_it_is_completed_stops(store):
    made = Ahead(store, "new", lambda: [b"1"])

    def endless():
        yield b"1"
        for _ in count():
            made._closed = True
            yield b"2"

    with pytest.raises(CancelledError):
        made.complete(endless())
    made.close()
    assert [stat.key for stat in store.list()] == ["old"]


def test_a_taken_key_is_a_conflict(store):
    made = Ahead(store, "old", lambda: [b"1"])
    with pytest.raises(Conflict):
        made.complete(iter([b"1", b"2"]))
    made.close()
    assert store.read("old") == b"0123456789"
