"""Whole runs on real files: every value, every removed row and every balance, by a naive model."""

from __future__ import annotations

import contextlib
import csv
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catchment.core import provenance
from catchment.core.account import Line
from catchment.core.errors import CatchmentError, Conflict, Corrupt, Invalid, Unavailable
from catchment.core.finding import Finding, Severity
from catchment.core.safe import SafePool
from catchment.core.store import open_store
from catchment.tables import run as runs
from catchment.tables.model import NEXT, Center, CriteriaRule, OnDuplicate
from catchment.tables.sources import MappingSource, Place, TemplateSource
from catchment.testing.centers import make_centers
from catchment.testing.faults import Faults, every_fault, inject
from catchment.testing.s3 import moto  # noqa: F401 - a fixture
from tests.tables.running import (
    NOW,
    THREADS,
    TODAY,
    People,
    Sent,
    Sites,
    Watched,
    Work,
    check,
    naive,
    parquet,
    visits,
)

MOVED = "NACC000001"
STAYS = "NACC000002"


@pytest.fixture
def sites(tmp_path):
    return Sites(open_store((tmp_path / "sites").as_uri()))


@pytest.fixture
def work(tmp_path, sites):
    """Two centers; a participant of alpha is now at beta."""
    sites.add("alpha", 10, visits((MOVED, 10, "2020-01-01", 1), (STAYS, 10, "2021-01-01", 2)))
    sites.add("beta", 20, visits((MOVED, 20, "2021-01-01", 3), ("NACC000003", 20, "2021-01-01", 4)))
    with Work(tmp_path / "work", sites, People({MOVED: {20}})) as opened:
        yield opened


def codes(outcome, site=None) -> list[str]:
    return [f.code for f in outcome.plan.findings if site in (None, f.site)]


# --- samples as the maker makes them -------------------------------------------------------------

SAMPLE = {
    "centers": 7, "columns": 14, "rows": (30, 60), "transfers": 0.1, "tables": ("uds", "mds"),
    "row_group_rows": 25,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Seven centers with every kind of drift, transfers, an ADCID 0 and a broken file."""
    return make_centers(tmp_path_factory.mktemp("made"), **SAMPLE)


def made_work(folder, made, **more) -> Work:
    sites = Sites(made.sample.store)
    sites.centers = [Center(id_, made.sample.adcid(k), id_) for k, id_ in enumerate(made.ids)]
    people = People()
    with made.identifiers.open() as file:
        for row in csv.DictReader(file):
            homes = people.setdefault(row["naccid"], set())
            if row["active"] == "true":
                homes.add(int(row["adcid"]))
    return Work(folder, sites, people, **more)


def made_models(made, people, version=10):
    def sent(id_, k, table):
        key = f"{id_}/versions/{version}/tables/{table}/data.parquet"
        name = f"tables/{table}/data.parquet"
        data = made.sample.store.read(key)
        return Sent(id_, made.sample.adcid(k), name, pq.read_table(io.BytesIO(data)))

    sound = [(k, id_) for k, id_ in enumerate(made.ids) if id_ not in made.broken]
    return {
        table: naive([sent(id_, k, table) for k, id_ in sound], people)
        for table in made.sample.tables
    }


@pytest.fixture(scope="module")
def processes():
    """Child processes, as most runs use them; the other tests use threads."""
    with SafePool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def first(tmp_path_factory, made, processes):
    """The first run over the sample."""
    with made_work(tmp_path_factory.mktemp("first"), made, executor=processes) as work:
        work.outcome = work.run()
        yield work


def test_a_first_run_is_the_naive_union_without_transferred_rows(first, made):
    models = made_models(made, first.people)
    assert sum(len(m.removed) for m in models.values()) >= 2 * made.transferred
    assert first.outcome.state == "published"
    check(first, models)


def test_the_broken_center_is_left_out_whole_and_accounted_for(first, made):
    (broken,) = made.broken
    account = first.snapshot().account
    for table, reason in (("uds", "parquet-truncated"), ("mds", "center-quarantined")):
        files = account[Line(broken, table, "files")]
        assert (files.received, files.kept, files.quarantined) == (1, 0, {reason: 1})
    rows = account[Line(broken, "mds", "rows")]
    assert (rows.received, rows.quarantined) == (made.rows[broken], {"center-quarantined": made.rows[broken]})  # fmt: skip
    assert first.snapshot().record.provenance["skipped"] == {broken: "parquet-truncated"}
    (finding,) = (f for f in first.outcome.plan.findings if f.site == broken)
    assert (finding.code, finding.severity) == ("parquet-truncated", Severity.ERROR)
    assert finding.where == "uds/tables/uds/data.parquet"


def test_each_kind_of_drift_is_reported(first):
    facts = first.snapshot().record.provenance["tables"]["uds"]
    actions = {d["action"] for d in facts["drift"]}
    assert actions == {"widened", "filled", "conflict"}
    kinds = {d["column"]: d["type"] for d in facts["drift"] if d["action"] != "filled"}
    assert sorted(kinds.values()) == ["double", "int32", "int64", "string"]
    assert facts["columns"] == {f.name: str(f.type) for f in first.table().schema if f.name not in TODAY}  # fmt: skip
    told = {f.code for f in first.outcome.plan.findings}
    assert {"column-widened", "column-conflict", "columns-missing", "columns-extra"} <= told


def test_the_same_input_elsewhere_gives_the_same_bytes(first, made, tmp_path):
    """In threads, with the centers in another order, in another workspace."""
    with made_work(tmp_path, made) as other:
        other.sites.centers.reverse()
        other.run()
        assert other.bytes() == first.bytes()
        assert len(other.bytes()) == 4


def test_a_run_on_s3_gives_the_same_bytes(first, made, tmp_path, moto):  # noqa: F811
    """Datasets, tables and staged parts in S3; only the ledger lies here."""
    url = f"s3://{moto.bucket}/sites"
    remote = make_centers(tmp_path / "made", datasets=url, options=moto.options, **SAMPLE)
    store = open_store(f"s3://{moto.bucket}/snapshots", **moto.options)
    source = TemplateSource(remote.datasets, options=moto.options)
    with made_work(tmp_path, remote, store=store, source=source) as work:
        assert work.run().state == "published"
        assert work.bytes() == first.bytes()
        assert work.snapshot().verify() == []
        assert work.run().state == "unchanged"
        assert [k for k in work if "_staging" in k] == []


def test_each_step_of_the_work_is_told(first):
    by_work = {}
    for event in first.events:
        by_work.setdefault(event.work, []).append(event)
    assert set(by_work) == {
        "tables: find datasets",
        "tables: check files",
        "tables: rewrite columns",
    }
    for events in by_work.values():
        assert (events[0].state, events[-1].state) == ("start", "done")
        assert events[-1].done == events[-1].total


# --- values --------------------------------------------------------------------------------------


def test_rows_stand_in_order_of_adcid_then_key(sites, work):
    sites.add("zero", 0, visits(("NACC000009", 0, "2020-01-01", 9)))
    sites.add(
        "big", 100, uds={"b.parquet": visits(("NACC000008", 100, "2020-01-01", 8)),
                         "a.parquet": visits(("NACC000007", 100, "2020-01-01", 7)),
                         "a-.parquet": visits(("NACC000006", 100, "2020-01-01", 6))},
    )  # fmt: skip
    sites.add("small", 9, visits(("NACC000005", 9, "2020-01-01", 5)))
    work.run()
    check(work, {"uds": naive(sites.sent(), work.people)})
    assert work.table().column("value").to_pylist() == [9, 5, 2, 3, 4, 6, 7, 8]
    rows = work.snapshot().account[Line("big", "uds", "files")]
    assert (rows.received, rows.kept) == (3, 3)


def test_an_adcid_of_zero_is_a_center_like_any_other(sites, tmp_path):
    sites.add("zero", 0, visits((MOVED, 0, "2020-01-01", 1), (STAYS, 0, "2020-01-01", 2)))
    sites.add("alpha", 10, visits((MOVED, 10, "2020-01-01", 3), (STAYS, 10, "2020-01-01", 4)))
    with Work(tmp_path / "w", sites, People({MOVED: {0}, STAYS: {10}})) as work:
        work.run()
        check(work, {"uds": naive(sites.sent(), work.people)})
        assert work.table().column("value").to_pylist() == [1, 4]


@pytest.mark.parametrize("options", [{}, {"freeze_date": "20251231"}])
def test_the_runs_dates_win_over_a_sites_own(sites, work, options):
    own = visits(("NACC000009", 30, "2020-01-01", 9))
    own = own.append_column("freeze_date", pa.array(["1999"])).append_column(
        "etl_date", pa.array([7])
    )
    sites.add("gamma", 30, own)
    outcome = work.run(**options)
    constants = TODAY | options
    check(work, {"uds": naive(sites.sent(), work.people, constants=constants)})
    assert work.snapshot().record.provenance["dataset_aggregator"] | constants == work.snapshot().record.provenance["dataset_aggregator"]  # fmt: skip
    assert codes(outcome, "gamma").count("column-overridden") == 2
    assert work.table().schema.field("freeze_date").type == pa.string()


def test_a_center_whose_participants_have_another_name_is_told(sites, work):
    own = visits(("NACC000009", 30, "2020-01-01", 9))
    sites.add("gamma", 30, own.rename_columns(["NACCID", *own.column_names[1:]]))
    assert "participant-misspelt" in codes(work.run(), "gamma")
    assert "participant-misspelt" not in codes(work.run(transfers=False), "gamma")
    both = own.append_column("NaccId", own.column("naccid"))
    sites.add("gamma", 30, both, version="2", created="2026-02-01T00:00:00Z")
    assert "participant-misspelt" not in codes(work.run(), "gamma")


def test_a_run_at_night_has_the_date_of_utc(work):
    work.now = datetime(2026, 2, 6, 23, 30, tzinfo=timezone(-timedelta(hours=5)))
    outcome = work.run()
    assert outcome.plan.constants == {"freeze_date": "20260207", "etl_date": "20260207"}
    assert outcome.snapshot.location == "out/20260207-043000/"


def test_lists_structs_and_zero_rows(sites, work):
    nested = pa.table(
        {
            "naccid": ["NACC000009", None],
            "drugs": pa.array([["a", None, "b"], None], pa.list_(pa.string())),
            "score": pa.array([{"x": 1, "y": None}, None], pa.struct([("x", pa.int32()), ("y", pa.string())])),
        }
    )  # fmt: skip
    sites.add("gamma", 30, nested)
    sites.add("empty", 40, visits().append_column("value2", pa.array([], pa.float64())))
    work.run()
    check(work, {"uds": naive(sites.sent(), work.people)})
    files = work.snapshot().account[Line("empty", "uds", "files")]
    assert (files.received, files.kept) == (1, 1)


def test_a_table_without_rows_is_a_table(sites, tmp_path):
    sites.add("alpha", 10, visits())
    with Work(tmp_path / "w", sites, People()) as work:
        work.run()
        check(work, {"uds": naive(sites.sent(), work.people)})
        assert work.removed() is None


@pytest.mark.parametrize(
    ("mine", "others", "becomes"),
    [
        (pa.array([5, None], pa.int64()), pa.int32(), pa.int64()),
        (pa.array([0.5, None]), pa.int32(), pa.float64()),
        (pa.nulls(2), pa.int32(), pa.int32()),
        (pa.array([5, None], pa.int16()), pa.null(), pa.int16()),
        (pa.array(["x", None], pa.large_string()), pa.string(), pa.string()),
        (pa.array(["x", None]).dictionary_encode(), pa.large_string(), pa.string()),
        (pa.array([datetime(2020, 1, 1), None], pa.timestamp("us")), pa.timestamp("ms"), pa.timestamp("us")),
        (pa.array([True, None]), pa.bool_(), pa.bool_()),
    ],
)  # fmt: skip
def test_types_that_go_together(sites, work, mine, others, becomes):
    """Also under --strict, and whichever comes first."""
    drifted = visits(("NACC000009", 5, "2020-01-01", 1), (None, 5, "2020-01-01", 2))
    sites.add("before", 5, drifted.append_column("drift", mine))
    some = visits(("NACC000008", 30, "2020-01-01", 1))
    sites.add("after", 30, some.append_column("drift", pa.nulls(1, others)))
    work.run(strict=True)
    check(work, {"uds": naive(sites.sent(), work.people)})
    assert work.table().schema.field("drift").type == becomes


def test_a_conflict_of_types_becomes_text_or_an_error(sites, work):
    some = visits(("NACC000009", 30, "2020-01-01", 1), (None, 30, "2020-01-01", None))
    sites.add("gamma", 30, some.set_column(3, "value", pa.array(["a", None])))
    with pytest.raises(Invalid) as caught:
        work.run(strict=True)
    assert caught.value.kind == "type-conflict"
    assert "gamma" in caught.value.message
    assert work.keys() == []
    (failed,) = work.ledger.runs("tables/nacc")
    assert (failed.state, failed.error["kind"]) == ("failed", "type-conflict")
    outcome = work.run()
    check(work, {"uds": naive(sites.sent(), work.people)})
    assert work.table().schema.field("value").type == pa.string()
    assert set(codes(outcome)) == {"column-conflict"}


def test_columns_in_another_order_missing_and_extra(sites, work):
    some = visits(("NACC000009", 30, "2020-01-01", 1)).select(["value", "naccid"])
    sites.add("gamma", 30, some.append_column("more", pa.array([b"\xff"])))
    work.run()
    check(work, {"uds": naive(sites.sent(), work.people)})
    assert work.table().column("more").to_pylist() == [None, None, None, b"\xff"]


def test_tables_and_prefixes_that_begin_alike_are_strangers(sites, tmp_path):
    some = {n: visits((f"NACC00000{n}", None, "2020-01-01", n)) for n in range(1, 9)}
    sites.add("ucd", 10, some[1], uds_ext={"data.parquet": some[2]})
    sites.add("ucdavis", 20, some[3], ud={"data.parquet": some[4]})
    sites.add("uc", 30, uds_ext={"data.parquet": some[5]})
    with Work(tmp_path / "w", sites, People()) as work:
        work.run()
        tables = ("uds", "uds_ext", "ud")
        check(work, {t: naive(sites.sent(t), work.people) for t in tables})
        assert [work.table(t).column("value").to_pylist() for t in tables] == [[1, 3], [2, 5], [4]]


# --- rules ---------------------------------------------------------------------------------------

ODD = (
    (None, 10, "2021-01-01", 1), (None, 10, None, 2), ("", 10, "2020-01-01", 3),
    ("nacc000001", 10, "2020-01-01", 4), ("NACC000005", None, "2020-01-01", 5),
    ("NACC000006", 10, "2020-01-01", 6), ("NACC000007", 10, "2020-01-01", 7),
    ("NACC000008", 10, "2020-01-01", 8), ("NACC000008", 10, "2020-01-01", 9),
    ("NACC000009", 99, "2020-01-01", 10), ("NACC000004", 10, None, 11),
)  # fmt: skip
BETA = {10: 20, 99: 98}  # ADCIDs in the rows that beta sends
HOMES = {MOVED: {20}, STAYS: {10}, "NACC000004": {20}, "NACC000005": {10}, "NACC000006": set(),
         "NACC000007": {10, 20}, "NACC000008": {20}, "NACC000009": {42}}  # fmt: skip


@pytest.mark.parametrize(
    "rule",
    [
        None,
        *(CriteriaRule(("naccid", "visitdate"), mode) for mode in OnDuplicate),
        CriteriaRule(("visitdate",), OnDuplicate.ACTIVE_ONLY),
        CriteriaRule((), OnDuplicate.DROP_ALL),
    ],
)
def test_every_rule_on_every_odd_row(sites, work, rule):
    """NULL, empty and malformed NACCIDs, no, several and absent current centers, NULL in a key."""
    sites.add("alpha", 10, visits(*ODD))
    sites.add("beta", 20, visits(*((n, BETA.get(a), d, -v) for n, a, d, v in ODD)))
    work.people.update(HOMES)
    criteria = {} if rule is None else {"uds": rule}
    outcome = work.run(criteria=criteria)
    model = naive(sites.sent(), work.people, rule)
    check(work, {"uds": model})
    quarantined = {r["reason"] for r in model.removed if r["fate"] == "quarantined"}
    assert quarantined <= set(codes(outcome))
    if rule is None:
        assert quarantined == {"no-current-center", "several-current-centers", "malformed-naccid", "current-center-absent"}  # fmt: skip
        assert len(model.removed) > 8


def test_transfers_may_be_kept(sites, work):
    work.run(transfers=False)
    check(work, {"uds": naive(sites.sent())})
    assert work.people == {MOVED: {20}}
    assert not hasattr(work.people, "asked")


def test_each_table_has_its_own_rule_and_participants_are_asked_once(sites, work):
    again = {t: {"data.parquet": visits((MOVED, 20, "2021-01-01", 5))} for t in ("mds", "ftld")}
    sites.add("beta", 20, visits((MOVED, 20, "2020-01-01", 3)), **again)
    other = {t: {"data.parquet": visits((MOVED, 10, "2020-01-01", 6))} for t in ("mds", "ftld")}
    sites.add("alpha", 10, visits((MOVED, 10, "2020-01-01", 1)), **other)
    rule = CriteriaRule(("naccid", "visitdate"))
    work.run(criteria={"uds": rule})
    models = {t: naive(sites.sent(t), work.people) for t in ("mds", "ftld")}
    check(work, models | {"uds": naive(sites.sent(), work.people, rule)})
    assert work.people.asked == [MOVED]


def test_nobody_is_asked_twice_though_the_plan_is_made_again(sites, work):
    """A center fails in the merge: what is known of participants is still known."""
    data = bytearray(parquet(visits(*[("NACC000007", 30, "x", n) for n in range(2000)]), compression="none", use_dictionary=False))  # fmt: skip
    footer = pq.read_metadata(io.BytesIO(data))
    chunk = footer.row_group(0).column(0)
    data[chunk.data_page_offset + 40 : chunk.data_page_offset + 4000] = b"\xff" * 3960
    sites.add("gamma", 30, bytes(data).replace(b"", b""))
    outcome = work.run()
    assert work.people.asked == [MOVED]
    assert outcome.plan.skipped == {"gamma": codes(outcome, "gamma")[0]}


def test_criteria_for_a_column_that_nobody_sends(work):
    with pytest.raises(Invalid) as caught:
        work.run(criteria={"uds": CriteriaRule(("visitdat",))})
    assert caught.value.kind == "unknown-criteria"


def test_moves_without_anybody_to_ask(work):
    work.people = None
    with pytest.raises(Invalid) as caught:
        work.run()
    assert caught.value.kind == "no-identifiers"
    assert work.run(transfers=False).state == "published"


class Failing:
    def __init__(self, error):
        self.error = error

    def current(self, naccids):
        raise self.error


@pytest.mark.parametrize(
    "people", [Failing(Unavailable("away", kind="identifiers-unavailable")), People(), Failing(RuntimeError("x"))]
)  # fmt: skip
def test_nothing_is_published_while_current_centers_are_unknown(work, people):
    work.run(only=["alpha"])
    before = {key: work.store.read(key) for key in work}
    work.people, work.now = people, NOW + timedelta(days=1)
    with pytest.raises((CatchmentError, RuntimeError)) as caught:
        work.run()
    assert {key: work.store.read(key) for key in work} == before
    assert work.snapshot().record.number == 1
    kind = getattr(caught.value, "kind", None)
    newest = work.ledger.runs("tables/nacc")[0]
    if kind is None:  # a fault of the program, or Ctrl-C
        assert (newest.state, newest.error) == ("cancelled", None)
    else:
        assert (newest.state, newest.error["kind"]) == ("failed", kind)
        assert kind in {"identifiers-unavailable", "unknown-naccid"}
    assert work.ledger.lease("tables/nacc") is None


# --- centers that bring nothing ------------------------------------------------------------------


def test_the_latest_version_counts(sites, work):
    old = visits(("NACC000009", 30, "2020-01-01", 0))
    for version, created in (("9", "2026-03-01T09:00:00+09:00"), ("old", "2026-02-28T23:00:00Z")):
        sites.add("gamma", 30, old, version=version, created=created)
    sites.add("gamma", 30, visits(("NACC000009", 30, "2020-01-01", 1)), version="10", created="2026-03-01T00:30:00.25Z")  # fmt: skip
    work.run()
    check(work, {"uds": naive(sites.sent(), work.people)})
    facts = work.snapshot().record.provenance["dataset_aggregator"]["latest_versions"]
    assert facts["gamma"] == "gamma/versions/10/"


def test_a_center_without_a_dataset_is_skipped_and_reported(work):
    work.sites.centers.append(Center("gamma", 30, "Gamma"))
    outcome = work.run()
    assert outcome.plan.skipped == {"gamma": "dataset-missing"}
    assert codes(outcome, "gamma") == ["dataset-missing"]
    provenance = work.snapshot().record.provenance
    assert provenance["skipped"] == {"gamma": "dataset-missing"}
    assert "gamma" not in provenance["dataset_aggregator"]["latest_versions"]
    check(work, {"uds": naive(work.sites.sent(), work.people)})


def test_fall_back_to_the_version_before(sites, work):
    good = visits(("NACC000009", 30, "2020-01-01", 1))
    sites.add("gamma", 30, good, version="1")
    files = sites.files["gamma"]
    sites.add("gamma", 30, version="2", created="2026-02-01T00:00:00Z")
    outcome = work.run()
    assert outcome.plan.skipped == {"gamma": "version-empty"}
    outcome = work.run(fall_back=True)
    sites.files["gamma"] = files
    check(work, {"uds": naive(sites.sent(), work.people)})
    (finding,) = (f for f in outcome.plan.findings if f.site == "gamma")
    assert (finding.code, finding.severity) == ("version-empty", Severity.WARNING)


@pytest.mark.parametrize("broken", [b"", b"not parquet at all", b"PAR1"])
def test_a_broken_file_costs_its_center_only(sites, work, broken):
    good = visits(("NACC000009", 30, "2020-01-01", 1), (MOVED, 30, "2020-01-01", 2))
    sites.add("gamma", 30, broken, mds={"a.parquet": good, "b.parquet": good})
    outcome = work.run()
    check(work, {"uds": naive(sites.sent(without=["gamma"]), work.people)})
    (finding,) = (f for f in outcome.plan.findings if f.site == "gamma")
    assert finding.severity == Severity.ERROR
    account = outcome.plan.account
    assert account[Line("gamma", "uds", "files")].quarantined == {finding.code: 1}
    assert account[Line("gamma", "mds", "files")].quarantined == {"center-quarantined": 2}
    assert account[Line("gamma", "mds", "rows")].quarantined == {"center-quarantined": 4}
    assert outcome.plan.skipped == {"gamma": finding.code}
    assert [c.site for c in work.ledger.contributions("tables/nacc", state="quarantined")] == [
        "gamma"
    ]
    sites.add("gamma", 30, good, version="2", created="2026-02-01T00:00:00Z")
    assert work.run().state == "published"
    check(work, {"uds": naive(sites.sent(), work.people)})


def test_require_all_makes_an_absent_center_an_error(sites, work):
    sites.add("gamma", 30, b"broken")
    sites.centers.append(Center("delta", 40, "Delta"))
    with pytest.raises(Invalid) as caught:
        work.run(require_all=True)
    assert caught.value.kind == "centers-missing"
    assert "delta (dataset-missing)" in caught.value.message
    assert "gamma (parquet-unreadable)" in caught.value.message
    assert work.keys() == []
    assert work.run(only=["alpha", "beta"], require_all=True).state == "published"


def test_require_all_is_also_about_malformed_entries_of_the_mapping(work):
    finding = Finding("gamma", Severity.ERROR, "center-malformed", "centers.json", "no adcid")
    note = Finding("delta", Severity.NOTE, "center-inactive", "centers", "inactive")
    job = work.job(require_all=True)
    with pytest.raises(Invalid) as caught:
        runs.run(replace(job, findings=[finding]), work.house)
    assert "gamma (center-malformed)" in caught.value.message
    assert runs.run(replace(job, findings=[note]), work.house).state == "published"


def test_a_run_over_nothing_says_why(sites, tmp_path):
    sites.add("gamma", 30, b"broken")
    sites.centers.append(Center("delta", 40, "Delta"))
    with Work(tmp_path / "w", sites, People()) as work:
        for call in (work.run, work.plan):
            with pytest.raises(Invalid) as caught:
                call()
            assert caught.value.kind == "nothing-to-do"
            assert "delta (dataset-missing), gamma (parquet-unreadable)" in caught.value.message
        assert work.keys() == []


@pytest.mark.parametrize("error", [Invalid("no"), Unavailable("away", kind="store-down")])
def test_a_place_that_fails_is_that_centers_matter(work, error):
    class Refusing:
        url = "file:///refused"

        def folders(self, prefix):
            raise error

    class Partly:
        one_bucket = False

        def locate(self, center):
            return Place(Refusing(), "x/") if center.id == "beta" else inner.locate(center)

    inner = work.sites.source
    work.source = Partly()
    outcome = work.run()
    assert outcome.plan.skipped == {"beta": error.kind}
    check(work, {"uds": naive(work.sites.sent(without=["beta"]), work.people)})


def test_a_center_without_a_place(work):
    url = work.sites.store.url.rstrip("/")
    work.source = MappingSource({"alpha": f"{url}/alpha"})
    assert work.run().plan.skipped == {"beta": "no-place"}


# --- damage that shows late ----------------------------------------------------------------------


def deep_damage(column: str) -> bytes:
    """A file whose footer and page headers are sound, and one of whose pages is not."""
    table = visits(*[(f"NACC{n:06d}", 30, f"2020-{n:05d}", n * 7919) for n in range(500, 3000)])
    data = bytearray(parquet(table, compression="gzip", use_dictionary=False))
    group = pq.read_metadata(io.BytesIO(data)).row_group(0)
    (chunk,) = (c for c in map(group.column, range(4)) if c.path_in_schema == column)
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 200] = b"\xff" * 200
    with pytest.raises(OSError, match="GZip"):
        pq.read_table(io.BytesIO(data), columns=[column])
    return bytes(data)


@pytest.mark.parametrize("where", ["threads", "processes"])
@pytest.mark.parametrize("column", ["naccid", "value"])
def test_damage_deep_inside_costs_its_center_only(sites, work, processes, column, where):
    """Found by the scan of keys, or by the rewrite: the table's type is wider than the file's."""
    sites.add("gamma", 30, deep_damage(column), mds={"a.parquet": visits((STAYS, 30, "x", 1))})
    wide = visits(("NACC000009", 40, "2020-01-01", 1)).set_column(3, "value", pa.array([0.5]))
    sites.add("delta", 40, wide)
    work.executor = THREADS if where == "threads" else processes
    outcome = work.run()
    check(work, {"uds": naive(sites.sent(without=["gamma"]), work.people)})
    (finding,) = (f for f in outcome.plan.findings if f.site == "gamma")
    rows = work.snapshot().account[Line("gamma", "uds", "rows")]
    assert (rows.received, rows.quarantined) == (2500, {finding.code: 2500})
    assert work.run().state == "unchanged"
    assert [k for k in work if "_staging" in k or "/mds/" in k] == []


def test_a_file_that_nobody_vouches_for_costs_its_center_only(sites, work):
    """The plan has it, and rows of it; the look at the whole file comes later, and refuses it."""
    data = bytearray(parquet(visits(*[(f"NACC{n:06d}", 30, "x", n) for n in range(500, 900)])))
    start = pq.read_metadata(io.BytesIO(data)).row_group(0).column(3).dictionary_page_offset
    data[start : start + 4] = b"\xff" * 4
    sites.add("gamma", 30, bytes(data))
    outcome = work.run()
    check(work, {"uds": naive(sites.sent(without=["gamma"]), work.people)})
    (finding,) = (f for f in outcome.plan.findings if f.site == "gamma")
    assert finding.code == "parquet-unreadable"
    # What a file says of its rows counts only once all of it was looked at.
    account = work.snapshot().account
    assert Line("gamma", "uds", "rows") not in dict(account)
    files = account[Line("gamma", "uds", "files")]
    assert (files.received, files.quarantined) == (1, {"parquet-unreadable": 1})


def test_the_last_center_to_fail_in_the_merge_is_an_error(sites, tmp_path):
    sites.add("gamma", 30, deep_damage("naccid"))
    with Work(tmp_path / "w", sites, People()) as work:
        with pytest.raises(Invalid) as caught:
            work.run()
        assert caught.value.kind == "nothing-to-do"
        assert work.keys() == []


class Restless(Watched):
    """A store whose tables go, or change, before or after they were first read whole."""

    def __init__(self, store, what, when):
        super().__init__(store, [])
        self.what, self.when = what, when

    def stream(self, key, **options):
        if self.when == "before":
            self._act(key)
        data = b"".join(super().stream(key, **options))
        if self.when == "after":
            self._act(key)
        return iter([data])

    def _act(self, key):
        if self.what == "gone":
            self.delete(key)
        else:
            self.put(key, parquet(visits(*[("NACC000009", 20, "x", 1)] * 50)), mode="overwrite")


@pytest.mark.parametrize(
    ("what", "when", "code"),
    [
        ("gone", "before", "not-found"),
        ("gone", "after", "not-found"),
        ("changed", "before", "file-changed"),
        ("changed", "after", "file-changed"),
    ],
)
def test_a_file_that_moves_while_it_is_read(work, what, when, code):
    class Partly:
        one_bucket = False

        def locate(self, center):
            place = inner.locate(center)
            if center.id != "beta":
                return place
            return Place(Restless(place.store, what, when), place.prefix)

    inner = work.sites.source
    work.source = Partly()
    outcome = work.run()
    assert outcome.plan.skipped == {"beta": code}
    check(work, {"uds": naive(work.sites.sent(without=["beta"]), work.people)})


# --- publication ---------------------------------------------------------------------------------


def test_the_ledger_tells_of_the_run(work):
    outcome = work.run()
    (run,) = work.ledger.runs("tables/nacc")
    assert (run.id, run.state, run.config) == (outcome.snapshot.run, "published", {"a": "setting"})
    assert work.ledger.account(run.id) == outcome.plan.account
    assert set(work.ledger.findings(run=run.id)) == set(outcome.plan.findings)


def test_states_change_as_the_table_of_moves_allows(sites, work):
    """A new version takes the place of the old one; one that is taken back makes it current."""
    work.run()
    sites.add("beta", 20, b"broken", version="2", created="2026-02-01T00:00:00Z")
    work.now += timedelta(hours=1)
    work.run()
    sites.add("beta", 20, visits((STAYS, 20, "x", 8)), version="3", created="2026-02-02T00:00:00Z")
    work.people[STAYS] = {10}
    work.now += timedelta(hours=1)
    work.run()
    for key in [s.key for s in sites.store.list("beta/") if "/versions/1/" not in s.key]:
        sites.store.delete(key)
    work.now += timedelta(hours=1)
    work.run()
    states = {(c.site, c.name): c for c in work.ledger.contributions("tables/nacc")}
    assert {key: c.state for key, c in states.items()} == {
        ("alpha", "alpha/versions/1/"): "published",
        ("beta", "beta/versions/1/"): "published",
        ("beta", "beta/versions/2/"): "quarantined",
        ("beta", "beta/versions/3/"): "superseded",
    }
    for contribution in states.values():
        for line in work.ledger.history(contribution.id)[1:]:
            assert line.to in NEXT[line.was]


def test_a_quarantined_version_is_known_though_nothing_is_published(sites, work):
    work.run()
    sites.centers.append(Center("gamma", 30, "Gamma"))
    sites.add("gamma", 30, b"broken")
    work.now += timedelta(minutes=1)
    assert work.run().state == "unchanged"
    (contribution,) = work.ledger.contributions("tables/nacc", site="gamma")
    assert contribution.state == "quarantined"
    run = work.ledger.runs("tables/nacc")[0]
    assert run.state == "unchanged"
    assert [f.code for f in work.ledger.findings(run=run.id)] == ["parquet-unreadable"]
    assert work.run().state == "unchanged"


def test_provenance_is_written_last_and_is_the_ledgers(work):
    log = []

    class Logged(Watched):
        def put(self, key, *args, **options):
            log.append(key)
            return self._store.put(key, *args, **options)

        def compose(self, key, *args, **options):
            log.append(key)
            return self._store.compose(key, *args, **options)

    work.store = Logged(work.store, [])
    snapshot = work.run().snapshot
    assert log[-1] == f"{snapshot.location}provenance.json"
    assert work.store.read(log[-1]) == provenance.dumps(snapshot.provenance)
    assert {k for k in log if "_staging" not in k} == set(work.keys())


def test_two_runs_in_one_second_have_two_folders(sites, work):
    work.run()
    sites.add("beta", 20, visits((STAYS, 20, "x", 8)))
    work.people[STAYS] = {10}
    assert work.run().snapshot.location == "out/20260206-100130/"
    assert [s.number for s in work.ledger.snapshots("tables/nacc")] == [2, 1]


def test_a_second_run_at_once_is_refused(work):
    inside = []

    class Asked(People):
        def current(self, naccids):
            with pytest.raises(Conflict) as caught:
                work.run()
            inside.append(caught.value.kind)
            return super().current(naccids)

    people, work.people = work.people, Asked(work.people)
    assert work.run().state == "published"
    assert inside == ["lease-held"]
    check(work, {"uds": naive(work.sites.sent(), people)})


def test_a_run_whose_lease_was_taken_publishes_nothing(work):
    class Slow(People):
        def current(self, naccids):
            lease = work.ledger.lease("tables/nacc")
            work.ledger.release(lease)
            work.ledger.acquire("tables/nacc", "somebody", timedelta(hours=1))
            return super().current(naccids)

    work.people = Slow(work.people)
    with pytest.raises(Conflict) as caught:
        work.run()
    assert caught.value.kind == "lease-lost"
    assert work.ledger.latest("tables/nacc") is None
    assert not any(k.endswith("provenance.json") for k in work)


class Killed(BaseException):
    """What no handler of ours may swallow."""


@pytest.mark.parametrize(
    ("when", "error"),
    [pytest.param("before", None, marks=pytest.mark.soak), ("after", Killed())],
)
def test_a_fault_at_any_operation_of_the_store_is_mended_by_the_next_run(
    sites, tmp_path, when, error
):
    """Fail the 1st, 2nd, ... operation; the next run ends in the bytes of an undisturbed one."""
    sites.add("alpha", 10, visits((MOVED, 10, "2020-01-01", 1), (STAYS, 10, "2021-01-01", 2)))
    sites.add("beta", 20, visits((MOVED, 20, "2021-01-01", 3)))
    people = People({MOVED: {20}})
    with Work(tmp_path / "calm", sites, people) as calm:
        calm.run()
        wanted = calm.bytes()
    count = 0
    for faults in every_fault(when=when, error=error):
        count += 1
        with Work(tmp_path / f"{count}", sites, people, executor=ThreadPoolExecutor(1)) as work:
            plain, work.store = work.store, inject(work.store, faults)
            with contextlib.suppress(CatchmentError, Killed):
                work.run()
            work.store = plain
            record = work.ledger.latest("tables/nacc")
            if record is None:  # nothing of it is visible
                assert not any(k.endswith("provenance.json") for k in work)
            work.run()
            assert work.bytes() == wanted
            assert work.snapshot().verify() == []
            assert work.snapshot().record.number == 1
            work.executor.shutdown()
    assert count > 10


def test_a_run_that_died_is_told_so_by_the_next(work):
    dead = work.ledger.start_run("tables/nacc", {})
    work.run()
    assert work.ledger.run(dead.id).state == "cancelled"


def test_what_another_ledger_published_is_learnt(sites, work, tmp_path):
    """The store is shared, the ledgers are not: snapshots are numbered on, none is made again."""
    work.run()
    with Work(tmp_path / "other", sites, work.people, store=work.store) as other:
        assert other.run().state == "unchanged"
        sites.add("beta", 20, visits((STAYS, 20, "x", 8)))
        other.people[STAYS] = {10}
        other.now += timedelta(days=1)
        assert other.run().snapshot.number == 2
        check(other, {"uds": naive(sites.sent(), other.people, constants=dict.fromkeys(TODAY, "20260207"))})  # fmt: skip
    work.now += timedelta(days=2)
    assert work.run().state == "unchanged"
    assert work.snapshot().record.number == 2


def test_stamps_follow_clocks_and_numbers_do_not(sites, work, tmp_path):
    """The second snapshot's clock was behind: a lost ledger is learnt all the same."""
    work.run()
    sites.add("beta", 20, visits((STAYS, 20, "x", 8)))
    work.people[STAYS] = {10}
    work.now -= timedelta(days=1)
    assert work.run().snapshot.number == 2
    with Work(tmp_path / "other", sites, work.people, store=work.store) as other:
        assert other.run().state == "unchanged"
        assert other.snapshot().record.number == 2


def test_another_runs_objects_in_our_folder_are_not_deleted(work):
    """Its ledger is not ours, and its clock said the same second."""
    theirs = "out/20260206-100129/uds/aggregate_result.parquet"

    class Late(People):
        def current(self, naccids):
            work.store.put(theirs, b"theirs")
            return super().current(naccids)

    work.people = Late(work.people)
    with pytest.raises(Conflict) as caught:
        work.run()
    assert caught.value.kind == "key-taken"
    assert work.store.read(theirs) == b"theirs"
    work.people = People(work.people)
    assert work.run().snapshot.location == "out/20260206-100130/"


def test_a_foreign_snapshot_is_left_alone(work):
    """The first system's, of another aggregate, or a folder that is no snapshot."""
    foreign = ("out/20250101-000000/provenance.json", "out/20250102-000000/uds/a", "out/readme/x")
    for key in foreign:
        work.store.put(key, b'{"manifest": {}}')
    assert work.run().snapshot.number == 1
    job = replace(work.job(), name="other")
    assert runs.run(job, work.house).snapshot.number == 1
    assert work.run().state == "unchanged"
    assert set(foreign) <= set(work.keys())


def test_a_provenance_that_is_not_ours_in_our_place_is_corrupt(work):
    class Late(Watched):
        def put(self, key, data, **options):
            if key.endswith("provenance.json"):
                self._store.put(key, b"{}")
            return self._store.put(key, data, **options)

    plain, work.store = work.store, Late(work.store, [])
    with pytest.raises(Corrupt) as caught:
        work.run()
    assert caught.value.kind == "provenance-differs"
    work.store = plain
    with pytest.raises(Corrupt):
        work.run()
    plain.delete("out/20260206-100129/provenance.json")
    assert work.run().state == "unchanged"
    assert work.snapshot().verify() == []


def test_two_threads_run_at_once_and_one_snapshot_comes_of_it(work):
    barrier = threading.Barrier(2)

    def attempt(_):
        barrier.wait()
        try:
            return work.run().state
        except Conflict as error:
            return error.kind

    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(attempt, range(2)))
    assert results in (["lease-held", "published"], ["published", "unchanged"])
    check(work, {"uds": naive(work.sites.sent(), work.people)})
    assert work.snapshot().record.number == 1


def test_faults_are_counted_over_the_whole_run(work):
    """The undisturbed round of the fault test did its work through the stand-in."""
    faults = Faults()
    work.store = inject(work.store, faults)
    work.run()
    assert faults.count > 10
