"""Tables in a warehouse: a partition for each center, of which only those that changed are loaded."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pytest

from catchment.core.warehouse import load
from catchment.core.warehouse.duck import DuckDBWarehouse, _Change
from catchment.core.workspace import Workspace
from catchment.tables import capability, composition
from catchment.tables import run as runs
from catchment.tables.snapshot import TableSnapshot
from catchment.testing.centers import change_center, make_centers


@pytest.fixture
def made(tmp_path):
    return make_centers(
        tmp_path / "sites", centers=5, columns=12, rows=(40, 80), row_group_rows=20, transfers=0.1
    )


@pytest.fixture
def workspace(made, tmp_path, monkeypatch):
    monkeypatch.setenv("CATCHMENT_EXECUTOR__KIND", "threads")
    (tmp_path / "catchment.toml").write_text(
        f"[tables.main]\ncenters = {json.dumps(str(made.centers))}\n"
        f"datasets = {json.dumps(str(made.datasets))}\n"
        f"identifiers = {json.dumps(str(made.identifiers))}\n"
        '[warehouse]\nkind = "duckdb"\nfile = "w.duckdb"\n'
    )
    with Workspace.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def inserted(monkeypatch):
    """Partitions whose rows were inserted, in order."""
    seen = []
    real = _Change.insert

    def insert(self, place, shape, partition, path, source):
        seen.append(partition)
        return real(self, place, shape, partition, path, source)

    monkeypatch.setattr(_Change, "insert", insert)
    return seen


def latest(workspace):
    return TableSnapshot(workspace.store, workspace.ledger.latest("tables/main"))


def shown(folder, columns):
    """What the warehouse has, as the snapshot's rows are told."""
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as connection:
        names = ", ".join(f'"{name}"' for name in columns)
        found = connection.execute(f"SELECT {names} FROM tables_main.uds").fetchall()
    return sorted(map(repr, found))


def told(workspace):
    table = latest(workspace)["uds"].to_arrow()
    return sorted(repr(tuple(row.values())) for row in table.to_pylist()), table.column_names


def same(workspace, folder):
    rows, names = told(workspace)
    assert shown(folder, names) == rows
    assert rows


def test_a_run_loads_the_centers_that_changed(workspace, made, tmp_path, inserted):
    capability.run(workspace, "main")
    same(workspace, tmp_path)
    assert set(inserted) == set(latest(workspace).relations()["uds"].parts)
    inserted.clear()
    assert capability.run(workspace, "main").state == "unchanged"
    assert inserted == []
    changed = made.ids[2]
    change_center(made, changed)
    capability.run(workspace, "main")
    assert set(inserted) == {changed}
    same(workspace, tmp_path)
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as connection:
        by_center = connection.execute(
            "SELECT catchment_partition, count(*) FROM tables_main.uds GROUP BY 1 ORDER BY 1"
        ).fetchall()
    account = latest(workspace).account
    assert by_center == [
        (site, account.total("rows", site=site).kept)
        for site in sorted(made.ids)
        if account.total("rows", site=site).kept
    ]


def test_the_days_of_a_run_change_in_all_rows_and_load_none(workspace, made, tmp_path, inserted):
    def on(day):
        clocked = capability.house(workspace)
        done = runs.run(
            capability.job(workspace, "main"),
            type(clocked)(
                **{name: getattr(clocked, name) for name in clocked.__dataclass_fields__}
                | {"clock": lambda: datetime(2026, 11, day, tzinfo=UTC)}
            ),
        )
        snapshot = TableSnapshot(workspace.store, done.snapshot)
        warehouse = DuckDBWarehouse(tmp_path / "w.duckdb", "tables_main")
        load(warehouse, done.snapshot.number, snapshot.relations)

    on(1)
    inserted.clear()
    change_center(made, made.ids[0])
    on(2)
    assert set(inserted) == {made.ids[0]}
    same(workspace, tmp_path)
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as connection:
        query = "SELECT DISTINCT etl_date, freeze_date FROM tables_main.uds"
        assert connection.execute(query).fetchall() == [("20261102", "20261102")]


def test_a_load_that_is_killed_is_done_again(workspace, made, tmp_path):
    capability.run(workspace, "main")
    rows, names = told(workspace)
    change_center(made, made.ids[1])
    runs.run(capability.job(workspace, "main"), capability.house(workspace))
    child = multiprocessing.get_context("fork").Process(
        target=_killed, args=(latest(workspace), tmp_path)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert shown(tmp_path, names) == rows
    assert capability.run(workspace, "main").state == "unchanged"
    same(workspace, tmp_path)


def _killed(snapshot, folder):
    """In the middle of a load: rows are deleted and inserted, the constants not yet."""
    _Change.assign = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    load(
        DuckDBWarehouse(folder / "w.duckdb", "tables_main"),
        snapshot.record.number,
        snapshot.relations,
    )


def test_a_center_that_goes_takes_its_rows_with_it(workspace, made, tmp_path, inserted):
    capability.run(workspace, "main")
    inserted.clear()
    text = (tmp_path / "catchment.toml").read_text()
    gone = made.ids[3]
    (tmp_path / "catchment.toml").write_text(
        text.replace(
            "[tables.main]\n",
            f"[tables.main]\ninclude_centers = {json.dumps([c for c in made.ids if c != gone])}\n",
        )
    )
    with Workspace.open(tmp_path) as opened:
        capability.run(opened, "main")
        same(opened, tmp_path)
        assert gone not in latest(opened).relations()["uds"].parts


def test_what_another_version_made_is_loaded_whole(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(composition, "load", lambda _: None)
    capability.run(workspace, "main")
    assert set(latest(workspace).relations()["uds"].parts) == {""}
    same(workspace, tmp_path)
    monkeypatch.undo()
    warehouse = DuckDBWarehouse(tmp_path / "w.duckdb", "tables_main")
    snapshot = latest(workspace)
    load(warehouse, snapshot.record.number + 1, snapshot.relations)
    same(workspace, tmp_path)
    assert pa.schema(snapshot.relations()["uds"].schema).names[-2:] == ["freeze_date", "etl_date"]
