"""A second run costs what changed, and ends in the bytes that a full run would have made."""

from __future__ import annotations

import itertools
import os
import tempfile
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from catchment.core.errors import Conflict, Corrupt
from catchment.core.store import open_store
from catchment.tables import composition
from catchment.tables import run as runs
from catchment.tables.model import CriteriaRule, OnDuplicate
from tests.tables.running import (
    TODAY,
    People,
    Sites,
    WatchedSource,
    Work,
    check,
    naive,
    visits,
)

LATER = "2026-02-01T00:00:00Z"
A, B, C = (
    visits((f"NACC0000{n}1", adcid, "2020-01-01", n), (f"NACC0000{n}2", adcid, "2020-01-02", -n))
    for n, adcid in ((1, 10), (2, 20), (3, 30))
)
MOVED = "NACC000011"  # of alpha; its rows elsewhere make it a transfer


@pytest.fixture
def sites(tmp_path):
    made = Sites(open_store((tmp_path / "sites").as_uri()))
    made.add("alpha", 10, A, mds={"data.parquet": A})
    made.add("beta", 20, B)
    made.add("gamma", 30, {"1.parquet": C, "2.parquet": C.slice(1)})
    return made


@pytest.fixture
def work(tmp_path, sites):
    """Published once; the sources' reads are watched from then on."""
    with Work(tmp_path / "work", sites, People()) as opened:
        opened.source = WatchedSource(sites.source)
        opened.run()
        assert opened.source.parquet() == {"alpha", "beta", "gamma"}
        opened.now += timedelta(hours=1)
        yield opened


@contextmanager
def afresh(work, **options):
    """The same sites, run for the first time in another workspace."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Work(Path(folder), work.sites, work.people, now=work.now) as other,
    ):
        other.run(full=True, **options)
        yield other


def same_as_afresh(work, **options) -> None:
    with afresh(work, **options) as other:
        assert work.bytes() == other.bytes()
        assert work.snapshot().account == other.snapshot().account
        facts, wanted = (w.snapshot().record.provenance for w in (work, other))
        for key in ("tables", "skipped", "dataset_aggregator", "fingerprint"):
            assert facts[key] == wanted[key]


def models(work, rule=None, without=(), **constants):
    tables = {t for c, of in work.sites.files.items() if c not in without for t in of}
    return {
        t: naive(work.sites.sent(t, without), work.people, rule, TODAY | constants) for t in tables
    }


# --- nothing changed -----------------------------------------------------------------------------


def test_unchanged_input_makes_no_snapshot_and_reads_no_table(work):
    before = work.keys()
    outcome = work.run()
    assert (outcome.state, outcome.snapshot.number) == ("unchanged", 1)
    assert work.source.parquet() == set()
    assert work.keys() == before
    assert work.ledger.latest("tables/nacc").number == 1
    assert outcome.plan.account == work.snapshot().account


def test_another_day_makes_no_snapshot_but_another_freeze_date_does(work):
    work.now += timedelta(days=1)
    assert work.run().state == "unchanged"
    assert work.source.parquet() == set()
    assert work.run(freeze_date="20251231").state == "published"
    assert work.source.parquet() == set()  # the constants are made, all else is copied
    dates = {"freeze_date": "20251231", "etl_date": "20260207"}
    check(work, models(work, **dates))
    same_as_afresh(work, freeze_date="20251231")
    assert work.run(freeze_date="20251231").state == "unchanged"


def test_a_full_run_reads_all_and_publishes_nothing_that_is_there(work):
    outcome = work.run(full=True)
    assert outcome.state == "unchanged"
    assert work.source.parquet() == {"alpha", "beta", "gamma"}


def test_a_new_version_of_the_same_bytes_is_copied(sites, work):
    """Its prefix is told in the provenance, so there is a snapshot; its rows are not decoded."""
    sites.add("beta", 20, B, version="2", created=LATER)
    assert work.run().state == "published"
    facts = work.snapshot().record.provenance["dataset_aggregator"]["latest_versions"]
    assert facts["beta"] == "beta/versions/2/"
    assert work.bytes() == work.bytes(1)
    same_as_afresh(work)


def test_files_that_were_touched_are_read_and_found_to_be_the_same(sites, work, tmp_path):
    path = tmp_path / "sites/beta/versions/1/tables/uds/data.parquet"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert work.run().state == "unchanged"
    assert work.source.parquet() == {"beta"}


# --- something changed ---------------------------------------------------------------------------


def changed_beta(sites):
    sites.add("beta", 20, visits(("NACC000029", 20, "2020-01-09", 29)), version="2", created=LATER)
    return {"beta"}


def added(sites):
    sites.add("delta", 5, visits(("NACC000040", 5, "2020-01-01", 4)))  # the first in order
    return {"delta"}


def removed(sites):
    sites.centers = [c for c in sites.centers if c.id != "beta"]
    del sites.files["beta"]
    return set()


def another_file(sites):
    files = dict(sites.files["gamma"]["uds"])
    data = {name.rsplit("/", 1)[1]: data for name, data in files.items()}
    sites.add("gamma", 30, {"0.parquet": B.slice(1), **data})
    return {"gamma"}


def one_file_less(sites):
    sites.add("gamma", 30, {"2.parquet": C.slice(1)}, version="2", created=LATER)
    return {"gamma"}


def another_table(sites):
    sites.add("beta", 20, B, version="2", created=LATER, ftld={"data.parquet": B})
    return {"beta"}


def fewer_tables(sites):
    sites.add("alpha", 10, A, version="2", created=LATER)
    return {"alpha"}


def an_extra_column(sites):
    more = B.append_column("more", pa.array([[1], None], pa.list_(pa.int8())))
    sites.add("beta", 20, more, version="2", created=LATER)
    return {"beta"}


def another_order_of_columns(sites):
    sites.add("alpha", 10, A.select(A.column_names[::-1]), version="2", created=LATER, mds={"data.parquet": A})  # fmt: skip
    return {"alpha"}


@pytest.mark.parametrize(
    "change",
    [changed_beta, added, removed, another_file, one_file_less, another_table, fewer_tables,
     an_extra_column, another_order_of_columns],
)  # fmt: skip
def test_only_what_changed_is_read(sites, work, change):
    read = change(sites)
    assert work.run().state == "published"
    assert work.source.parquet() == read
    check(work, models(work))
    same_as_afresh(work)
    assert work.run().state == "unchanged"
    assert work.source.parquet() == set()


def test_a_wider_type_costs_those_who_have_the_column(sites, work):
    """The others' files did not move, but their chunks are of another type now."""
    sites.add("alpha", 10, A.drop_columns(["value"]), version="2", created=LATER)
    work.run()
    work.source.parquet()
    wide = B.set_column(3, "value", pa.array([0.5, None]))
    sites.add("beta", 20, wide, version="2", created=LATER)
    assert work.run().state == "published"
    assert work.source.parquet() == {"beta", "gamma"}
    check(work, models(work))
    same_as_afresh(work)


def test_a_type_that_narrows_again(sites, work):
    wide = B.set_column(3, "value", pa.array(["text", None]))
    sites.add("beta", 20, wide, version="2", created=LATER)
    work.run()
    removed(sites)
    assert work.run().state == "published"
    check(work, models(work))
    same_as_afresh(work)


def test_a_transfer_changes_the_rows_of_centers_that_did_not_move(sites, work):
    """A participant of alpha comes to beta: alpha's rows leave the table though alpha is as it was."""
    moved = visits((MOVED, 20, "2021-01-01", 7))
    sites.add("beta", 20, pa.concat_tables([B, moved]), version="2", created=LATER)
    work.people[MOVED] = {20}
    assert work.run().state == "published"
    assert work.source.parquet() == {"alpha", "beta"}
    assert work.people.asked == [MOVED]
    check(work, models(work))
    same_as_afresh(work)
    assert work.removed().num_rows == 1
    # Removed rows are copied, too.
    sites.add("gamma", 30, C, version="2", created=LATER)
    work.source.parquet()
    assert work.run().state == "published"
    assert work.source.parquet() == {"gamma"}
    check(work, models(work))
    same_as_afresh(work)
    # The participant goes back.
    work.people[MOVED] = {10}
    assert work.run().state == "published"
    assert work.source.parquet() == {"alpha", "beta"}
    check(work, models(work))
    same_as_afresh(work)
    # And was never away: nothing is removed any more.
    sites.add("beta", 20, B, version="3", created="2026-03-01T00:00:00Z")
    assert work.run().state == "published"
    assert work.removed() is None
    check(work, models(work))
    same_as_afresh(work)


def test_other_rules_are_another_result(sites, work):
    twice = visits((MOVED, 20, "2020-01-01", 7))
    sites.add("beta", 20, twice, version="2", created=LATER)
    work.people[MOVED] = {20}
    for mode in (OnDuplicate.DROP_ALL, OnDuplicate.ACTIVE_ONLY, OnDuplicate.KEEP_ALL):
        rule = CriteriaRule(("naccid", "visitdate"), mode)
        options = {"criteria": dict.fromkeys(("uds", "mds"), rule)}
        assert work.run(**options).state == "published"
        check(work, models(work, rule))
        same_as_afresh(work, **options)
        assert work.run(**options).state == "unchanged"


def test_a_center_that_fails_is_left_out_and_comes_back(sites, work):
    good = sites.files["beta"]
    sites.add("beta", 20, b"broken", version="2", created=LATER)
    outcome = work.run()
    assert outcome.plan.skipped == {"beta": "parquet-unreadable"}
    assert work.source.parquet() == {"beta"}
    check(work, models(work, without=["beta"]))
    same_as_afresh(work)
    assert work.run().state == "unchanged"
    work.source.parquet()
    sites.add("beta", 20, good["uds"][0][1], version="2", created=LATER)
    assert work.run().state == "published"
    assert work.source.parquet() == {"beta"}
    check(work, models(work))
    same_as_afresh(work)


def test_a_center_whose_dataset_is_gone(sites, work):
    for stat in list(sites.store.list("beta/")):
        sites.store.delete(stat.key)
    outcome = work.run()
    assert outcome.plan.skipped == {"beta": "dataset-missing"}
    assert work.source.parquet() == set()
    check(work, models(work, without=["beta"]))
    same_as_afresh(work)


def test_two_centers_with_the_same_bytes_change_places(sites, work):
    some = visits(("NACC000077", None, "2020-01-01", 7))
    for center, adcid in (("beta", 20), ("gamma", 30)):
        sites.add(center, adcid, some, version="2", created=LATER)
    work.people["NACC000077"] = {30}
    work.run()
    check(work, models(work))
    work.people["NACC000077"] = {20}
    work.run()
    check(work, models(work))
    same_as_afresh(work)


def test_readers_of_an_earlier_snapshot_are_not_disturbed(sites, work):
    pinned, data = work.snapshot(), work.bytes()
    changed_beta(sites)
    work.run()
    assert pinned["uds"].to_arrow().equals(work.table(which=1))
    assert pinned.verify() == []
    assert work.bytes(1) == data


# --- random histories ----------------------------------------------------------------------------

PARTICIPANTS = [f"NACC00000{n}" for n in range(1, 5)]
rows = st.lists(
    st.tuples(
        st.sampled_from([*PARTICIPANTS, None]),
        st.sampled_from([0, 10, 20, None]),
        st.sampled_from(["2020-01-01", "2020-01-02", None]),
        st.integers(0, 9),
    ),
    max_size=5,
)
drifts = st.sampled_from(["none", "double", "string", "missing", "extra", "order"])
edits = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(["a", "b", "c"]), rows, drifts),
    st.tuples(st.just("send"), st.sampled_from(["a", "b", "c"]), rows, drifts),
    st.tuples(st.just("break"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("move"), st.sampled_from(PARTICIPANTS), st.sets(st.sampled_from([0, 10, 20]), max_size=2)),
    st.just(("tomorrow",)),
)  # fmt: skip


def drifted(table: pa.Table, drift: str) -> pa.Table:
    match drift:
        case "double" | "string":
            return table.set_column(3, "value", table.column("value").cast(drift))
        case "missing":
            return table.drop_columns(["value"])
        case "extra":
            return table.append_column("extra", pa.array([[n] for n in range(table.num_rows)], pa.list_(pa.int32())))  # fmt: skip
        case "order":
            return table.select(table.column_names[::-1])
        case _:
            return table


@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink would take minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(edits, min_size=1, max_size=7))
def test_any_history_ends_as_a_fresh_start_would(history):
    """After each run: the model's values; at the end: the bytes of a first run over the same."""
    adcids = {"a": 0, "b": 10, "c": 20}
    with tempfile.TemporaryDirectory() as folder:
        sites = Sites(open_store((Path(folder) / "sites").as_uri()))
        with Work(Path(folder) / "work", sites, People.fromkeys(PARTICIPANTS, {10})) as work:
            versions = itertools.count(1)

            def send(center, content):
                number = next(versions)
                created = f"2026-01-01T00:00:{number:02d}Z"
                sites.add(center, adcids[center], content, version=str(number), created=created)

            for center, one in zip("abc", PARTICIPANTS, strict=False):
                send(center, visits((one, adcids[center], "2020-01-01", 1), (None, None, None, 2)))
            broken = set()
            for edit in [("run",), *history]:
                match edit:
                    case ("send", center, sent, drift):
                        send(center, drifted(visits(*sent), drift))
                        broken.discard(center)
                    case ("break", center) if len(broken | {center}) < 3:
                        send(center, b"broken")
                        broken.add(center)
                    case ("move", participant, homes):
                        work.people[participant] = homes
                    case ("tomorrow",):
                        work.now += timedelta(days=1)
                work.now += timedelta(minutes=1)
                published = work.run().state == "published"
                day = dict.fromkeys(TODAY, work.now.strftime("%Y%m%d"))
                dates = (
                    day if published else work.snapshot().record.provenance["dataset_aggregator"]
                )
                dates = {key: dates[key] for key in TODAY}
                check(work, {"uds": naive(sites.sent(without=broken), work.people, None, dates)})
            work.now = work.snapshot().record.published_at
            same_as_afresh(work)


# --- memory that cannot be trusted ---------------------------------------------------------------


def test_tables_of_another_version_of_the_program_are_read_again(sites, work, monkeypatch):
    changed_beta(sites)
    monkeypatch.setattr(composition, "FORMAT", "another")
    assert work.run().state == "published"
    assert work.source.parquet() == {"alpha", "beta", "gamma"}
    check(work, models(work))
    monkeypatch.undo()
    same_as_afresh(work)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("aggregate_result.parquet", "missing"),
        ("aggregate_result.parquet", "shorter"),
        ("_keys.arrow", "missing"),
        ("_composition.arrow", "missing"),
        ("_composition.arrow", "changed"),
    ],
)
def test_a_damaged_snapshot_is_not_copied_from_and_a_full_run_mends_it(
    work, tmp_path, name, damage
):
    path = tmp_path / f"work/store/out/20260206-100129/uds/{name}"
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "shorter":
        path.write_bytes(data[:-1])
    elif damage == "changed":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    for call in (work.run, work.plan):
        with pytest.raises(Corrupt) as caught:
            call()
        assert caught.value.kind == "snapshot-damaged"
        assert "--full" in caught.value.hint
    assert len(work.snapshot().verify()) == 1
    assert work.run(full=True).state == "published"
    check(work, models(work))
    same_as_afresh(work)
    assert work.run().state == "unchanged"
    assert [s.number for s in work.ledger.snapshots("tables/nacc")] == [2, 1]


@pytest.mark.parametrize("sealed", [True, False])
def test_a_ledger_of_another_store_is_told(sites, work, tmp_path, monkeypatch, sealed):
    """Two stores with one ledger: the second one gets nothing, not even what a crash left out."""
    changed_beta(sites)
    if not sealed:
        monkeypatch.setattr(runs, "seal", lambda *_: None)
    work.run()
    monkeypatch.undo()
    work.now += timedelta(hours=1)
    other = Work(tmp_path / "other", sites, People(), now=work.now)
    vars(other)["ledger"] = work.ledger
    for call in (other.run, other.plan):
        with pytest.raises(Conflict) as caught:
            call()
        assert caught.value.kind == "ledger-of-another-store"
    assert other.keys() == []
    assert [s.number for s in work.ledger.snapshots("tables/nacc")] == [2, 1]
    assert len(work.ledger.unsealed("tables/nacc")) == (not sealed)
    assert work.run().state == "unchanged"
    assert not work.ledger.unsealed("tables/nacc")


def test_kept_keys_that_cannot_be_read_are_an_error_of_ours(sites, work, tmp_path):
    path = tmp_path / "work/store/out/20260206-100129/uds/_keys.arrow"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(bytes(len(data)))
    changed_beta(sites)
    with pytest.raises(Corrupt) as caught:
        work.run()
    assert caught.value.kind == "keys-unreadable"
    assert work.run(full=True).state == "published"


def test_a_file_that_did_not_move_may_turn_out_bad_when_it_is_needed(sites, work, tmp_path):
    """Its listing is as it was, and its bytes are not: its center is left out."""
    path = tmp_path / "sites/gamma/versions/1/tables/uds/1.parquet"
    seen = path.stat()
    data = bytearray(path.read_bytes())
    data[-12:] = b"\0" * 12
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    wide = B.set_column(3, "value", pa.array([0.5, None]))
    sites.add("beta", 20, wide, version="2", created=LATER)
    outcome = work.run()
    assert list(outcome.plan.skipped) == ["gamma"]
    check(work, models(work, without=["gamma"]))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("naccid", "visitdate"), ("visitdate",)),
        (("visitdate",), ("naccid", "visitdate")),
        (("visitdate", "value"), ("value", "visitdate")),
    ],
)
def test_other_criteria_are_not_compared_by_the_keys_of_earlier_ones(sites, work, before, after):
    """Participant and center are key columns of every rule, so the columns alone say nothing."""
    sites.add("beta", 20, visits(("NACC000011", 20, "2020-01-01", 1)), version="2", created=LATER)
    work.people = People(NACC000011={10})
    work.run(criteria={"uds": CriteriaRule(before)})
    # A further center's keys are read anew, and meet kept ones.
    sites.add("gamma", 30, visits(("NACC000011", 30, "2020-01-01", 1)), version="2", created=LATER)
    rule = CriteriaRule(after)
    work.run(criteria={"uds": rule})
    check(work, models(work) | {"uds": naive(sites.sent(), work.people, rule)})
    same_as_afresh(work, criteria={"uds": rule})
