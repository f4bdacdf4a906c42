"""What is published can be read by its readers' libraries, and is checked against its digests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from catchment.core.errors import Invalid, NotFound
from catchment.core.ledger import Ledger
from catchment.core.store import open_store
from catchment.tables.snapshot import TableSnapshot, open_snapshot
from tests.tables.running import NOW, TODAY, People, Sites, Work, naive, visits

UDS = visits(("NACC000001", 10, "2020-01-01", 1), ("NACC000002", None, None, None))
MDS = pa.table(
    {
        "naccid": ["NACC000001", "NACC000002"],
        "drugs": pa.array([["a", None], None], pa.list_(pa.string())),
        "seen": pa.array([NOW, None], pa.timestamp("us", "UTC")),
    }
)
AGAIN = visits(("NACC000001", 20, "2020-01-02", 3))  # of a participant who is at beta now


@pytest.fixture(scope="module", params=["file", "memory"])
def work(request, tmp_path_factory):
    """A snapshot in a folder whose name DuckDB would take for a pattern, and one in memory."""
    folder = tmp_path_factory.mktemp("snapshots")
    sites = Sites(open_store((folder / "sites").as_uri()))
    sites.add("alpha", 10, UDS, mds={"1.parquet": MDS})
    sites.add("beta", 20, AGAIN)
    place = folder / "a*[1]?"
    url = place.as_uri() if request.param == "file" else "memory://snapshots"
    people = People({"NACC000001": {20}})
    with Work(folder, sites, people, store=open_store(url)) as opened:
        opened.run()
        if request.param == "file":
            shutil.copytree(place, folder / "ab1c")  # what the pattern would find
        yield opened


def test_it_is_a_mapping_of_tables(work):
    snapshot = work.snapshot()
    assert isinstance(snapshot, Mapping)
    assert list(snapshot) == ["mds", "uds"]
    assert len(snapshot) == 2
    assert "uds" in snapshot
    assert "ud" not in snapshot
    assert snapshot.get("uds").rows == 2
    with pytest.raises(NotFound) as caught:
        snapshot["nothing"]
    assert caught.value.kind == "no-such-table"
    assert "only mds, uds" in caught.value.message


def test_every_library_reads_the_same_values(work):
    snapshot = work.snapshot()
    for table in ("uds", "mds"):
        model = naive(work.sites.sent(table), work.people)
        assert snapshot[table].to_arrow().to_pylist() == model.kept
        assert snapshot[table].to_polars().to_dicts() == model.kept
        assert snapshot[table].to_duckdb().to_arrow_table().to_pylist() == model.kept


def test_some_columns_only(work):
    table = work.snapshot()["mds"]
    assert table.to_arrow(["drugs", "etl_date"]).to_pylist() == [
        {"drugs": drugs, "etl_date": TODAY["etl_date"]} for drugs in (["a", None], None)
    ]
    assert table.to_arrow([]).num_columns == 0
    assert table.to_polars(("naccid",)).columns == ["naccid"]
    with pytest.raises(NotFound) as caught:
        table.to_arrow(["naccid", "nacid"])
    assert caught.value.kind == "no-such-column"
    assert "'nacid'" in caught.value.message


def test_a_connection_of_the_readers_own(work):
    with duckdb.connect() as connection:
        relation = work.snapshot()["uds"].to_duckdb(connection)
        assert relation.aggregate("count(*), sum(value)").fetchall() == [(2, 3)]
        relation.create("uds")
        assert connection.execute("SELECT max(value) FROM uds").fetchone() == (3,)


def test_polars_is_optional(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(Invalid) as caught:
        work.snapshot()["uds"].to_polars()
    assert caught.value.kind == "missing-library"
    assert isinstance(pl.DataFrame(), pl.DataFrame)


def test_one_is_opened_by_number(work):
    assert open_snapshot(work.store, work.ledger, "nacc", 1).record.number == 1
    for name, which in (("nacc", 2), ("other", "latest"), ("other", 1)):
        with pytest.raises(NotFound) as caught:
            open_snapshot(work.store, work.ledger, name, which)
        assert caught.value.kind == "no-snapshot"


@pytest.mark.parametrize("part", ["table", "removed", "composition", "keys", "provenance"])
@pytest.mark.parametrize("damage", ["changed", "longer", "shorter", "missing"])
def test_verify_finds_every_damage(work, part, damage):
    snapshot = work.snapshot()
    assert snapshot.verify() == []
    items = [o for o in snapshot.record.provenance["objects"] if o["table"] == "uds"]
    keys = {o["role"]: o["key"] for o in items}
    key = keys.get(part, f"{snapshot.record.location}provenance.json")
    data = work.store.read(key)
    middle = len(data) // 2
    changed = {
        "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "longer": data + b"\n",
        "shorter": data[:-1],
    }
    if damage == "missing":
        work.store.delete(key)
    else:
        work.store.put(key, changed[damage], mode="overwrite")
    try:
        (wrong,) = snapshot.verify()
        assert wrong.startswith(f"{key}: ")
        assert ("missing" in wrong) == (damage == "missing")
    finally:
        work.store.put(key, data, mode="overwrite")


def test_a_snapshot_without_its_seal_is_whole(work):
    record = work.snapshot().record
    assert TableSnapshot(work.store, replace(record, sealed=False)).verify() == []


def test_verify_tells_how_far_it_is(work):
    events = []
    snapshot = work.snapshot()
    assert snapshot.verify(events.append) == []
    objects = snapshot.record.provenance["objects"]
    total = sum(item["size"] for item in objects)
    assert [e.state for e in events] == ["start", *["step"] * len(objects), "done"]
    assert [e.done for e in events[-2:]] == [total, total]
    assert {(e.work, e.total, e.unit) for e in events} == {("tables/nacc: verify", total, "bytes")}


def test_verify_looks_at_the_account(work):
    record = work.snapshot().record
    sound = record.provenance
    section = sound["catchment"]

    def told(index, **changes):
        lines = [dict(line) for line in section["account"]]
        lines[index] |= changes
        provenance = {**sound, "catchment": {**section, "account": lines}}
        return TableSnapshot(
            work.store, replace(record, provenance=provenance, sealed=False)
        ).verify()

    rows = next(i for i, x in enumerate(section["account"]) if (x["part"], x["unit"], x["site"]) == ("uds", "rows", "alpha"))  # fmt: skip
    assert section["account"][rows]["kept"] == 1
    (unbalanced,) = told(rows, received=99)
    assert "alpha/uds: 97 rows" in unbalanced
    (other,) = told(rows, received=99, kept=98)
    assert "2 rows, the account kept 99" in other


def test_a_snapshot_of_a_ledger_that_is_opened_elsewhere(work):
    with Ledger.open(f"sqlite:///{work.folder}/ledger.db") as other:
        snapshot = open_snapshot(work.store, other, "nacc")
        assert snapshot["uds"].to_arrow().equals(work.table())
        assert snapshot.account == work.snapshot().account
