"""The contract on DuckDB and Snowflake, and what only one of them can do wrong."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import signal
import sys
import uuid

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catchment.core.errors import Conflict, Corrupt, Invalid, Unavailable
from catchment.core.sections import WarehouseSettings
from catchment.core.settings import Settings
from catchment.core.warehouse import (
    Relation,
    Source,
    duck,
    load,
    open_warehouse,
    snow,
    types,
)
from catchment.core.warehouse.duck import DuckDBWarehouse
from catchment.core.warehouse.snow import SnowflakeWarehouse
from catchment.testing.s3 import moto  # noqa: F401 - a fixture
from catchment.testing.snowflake import VARIABLE, fakesnow, real_snowflake  # noqa: F401 - fixtures
from catchment.testing.warehouse import PEOPLE, WarehouseContract, people, shown


class TestDuckDB(WarehouseContract):
    examples = 20

    @pytest.fixture
    def file(self, tmp_path):
        return tmp_path / "folder" / "w.duckdb"

    @pytest.fixture(params=["main", "tables_nacc"])
    def warehouse(self, file, request):
        return DuckDBWarehouse(file, request.param)

    @pytest.fixture
    def another(self, tmp_path):
        numbers = itertools.count()
        return lambda: DuckDBWarehouse(tmp_path / f"{next(numbers)}.duckdb")

    def foreign(self, warehouse):
        with duckdb.connect(str(warehouse._path)) as connection:
            connection.execute(f"USE {warehouse._schema}")
            connection.execute("CREATE TABLE theirs AS SELECT 7 AS seven")

    def test_a_kill_leaves_the_snapshot_before(self, file, relation, source):
        warehouse = DuckDBWarehouse(file)
        load(warehouse, 1, lambda: {"people": relation(people(("a", 1)))})
        rows = source(people(("b", 2)))
        child = multiprocessing.get_context("fork").Process(target=_killed, args=(file, rows))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        assert (warehouse.snapshot(), shown(warehouse)) == (1, [("a", 1)])
        load(warehouse, 2, lambda: {"people": relation(people(("b", 2)))})
        assert shown(warehouse) == [("b", 2)]

    def test_a_file_that_is_none_is_said_so(self, file):
        file.parent.mkdir()
        file.write_bytes(b"no database" * 1000)
        with pytest.raises(Invalid) as caught:
            DuckDBWarehouse(file).snapshot()
        assert caught.value.kind == "bad-warehouse"

    def test_rows_that_get_lost_are_seen(self, file, relation, monkeypatch):
        real = duck._Change.insert
        monkeypatch.setattr(duck._Change, "insert", lambda *a: real(*a) - 1)
        with pytest.raises(Corrupt) as caught:
            load(DuckDBWarehouse(file), 1, lambda: {"people": relation(people(("a", 1)))})
        assert caught.value.kind == "warehouse-rows"
        assert DuckDBWarehouse(file).snapshot() is None

    def test_two_loaders_at_once(self, file, relation, monkeypatch):
        """The other was faster between our look and our transaction."""
        warehouse = DuckDBWarehouse(file)
        load(warehouse, 5, lambda: {"people": relation(people(("new", 5)))})
        monkeypatch.setattr(warehouse, "snapshot", lambda: None)
        assert load(warehouse, 4, lambda: {"people": relation(people(("old", 4)))}) == {}
        assert shown(warehouse) == [("new", 5)]
        self.foreign(warehouse)
        with pytest.raises(Conflict) as caught:
            load(warehouse, 6, lambda: {"theirs": relation(people())})
        assert caught.value.kind == "warehouse-taken"

    def test_objects_of_a_bucket_are_loaded(self, file, moto):  # noqa: F811
        store = moto.store()
        sink = io.BytesIO()
        pq.write_table(people(("a", 1)), sink)
        store.put("part.parquet", sink.getvalue())
        source = Source(store, "part.parquet", len(sink.getvalue()), "sha256:0")
        load(DuckDBWarehouse(file), 1, lambda: {"people": Relation.whole(PEOPLE, source)})
        assert shown(DuckDBWarehouse(file)) == [("a", 1)]


@pytest.mark.parametrize(
    ("kind", "duckdb_", "snowflake"),
    [
        (pa.uuid(), "UUID", "BINARY"),
        (pa.json_(), "VARCHAR", "VARCHAR"),
        (pa.map_(pa.string(), pa.int8()), "MAP(VARCHAR, TINYINT)", "VARIANT"),
        (pa.timestamp("ns", "UTC"), "TIMESTAMPTZ_NS", "TIMESTAMP_TZ(9)"),
        (pa.timestamp("ns"), "TIMESTAMP_NS", "TIMESTAMP_NTZ(9)"),
        (pa.time64("ns"), "TIME_NS", "TIME(9)"),
        (pa.duration("s"), "BIGINT", "NUMBER(19,0)"),
        (pa.float16(), "FLOAT", "FLOAT"),
        (pa.list_(pa.string(), 2), "VARCHAR[]", "ARRAY"),
        (pa.large_binary(), "BLOB", "BINARY"),
        (pa.struct([]), None, "OBJECT"),
        (pa.decimal128(5, -2), None, None),
    ],
    ids=str,
)
def test_types(kind, duckdb_, snowflake):
    assert types.duckdb_type(kind) == duckdb_
    assert types.snowflake_type(kind) == snowflake


def _killed(file, rows):
    with DuckDBWarehouse(file).change(2) as change:
        change.create("more", PEOPLE)
        change.replace("people", "", [rows])
        os.kill(os.getpid(), signal.SIGKILL)


class SnowflakeContract(WarehouseContract):
    @pytest.fixture(autouse=True)
    def _patience(self, monkeypatch):
        monkeypatch.setattr(snow, "_PATIENCE", 10)  # an error of the server is tried again

    @pytest.fixture
    def warehouse(self, another):
        return another()

    @pytest.fixture
    def another(self, account):
        return lambda: SnowflakeWarehouse(account, f"TEST_{uuid.uuid4().hex[:12]}")

    def foreign(self, warehouse):
        with warehouse._session() as connection:
            snow._run(connection, "CREATE TABLE THEIRS (SEVEN INTEGER)")
            snow._run(connection, "INSERT INTO THEIRS VALUES (7)")


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no account")
class TestSnowflake(SnowflakeContract):
    @pytest.fixture
    def account(self, real_snowflake):  # noqa: F811
        return real_snowflake


class TestFakesnow(SnowflakeContract):
    """It is not Snowflake: see :mod:`catchment.testing.snowflake`."""

    examples = 3
    odd = "Odd name x"  # a quote in a name is beyond it

    @pytest.fixture
    def account(self, fakesnow):  # noqa: F811
        return fakesnow

    @pytest.fixture
    def said(self, monkeypatch):
        """All statements."""
        found = []
        run = snow._run

        def listen(connection, sql, parameters=()):
            found.append(sql)
            return run(connection, sql, parameters)

        monkeypatch.setattr(snow, "_run", listen)
        return found

    def test_no_statement_ends_the_transaction(self, warehouse, relation, said):
        new = pa.table({"id": ["c"], "n": ["x"]})
        load(warehouse, 1, lambda: {"people": relation(people(("a", 1))), "b": relation(people())})
        load(warehouse, 2, lambda: {"people": relation(new), "c": relation(people())})
        inside, seen = False, set()
        for sql in said:
            word = sql.split()[0]
            if word in {"BEGIN", "COMMIT", "ROLLBACK"}:
                inside = word == "BEGIN"
            elif inside:
                seen.add(word)
        assert seen == {"INSERT", "UPDATE", "DELETE", "SELECT", "COPY", "PUT"}
        assert any("MATCH_BY_COLUMN_NAME" in sql for sql in said)

    def test_a_crash_after_the_commit_is_mended(self, warehouse, relation, monkeypatch):
        load(warehouse, 1, lambda: {"people": relation(people(("a", 1))), "b": relation(people())})
        new = pa.table({"id": ["c"], "n": ["x"]})
        with monkeypatch.context() as patch:
            settled = snow._Change.settle
            calls = itertools.count()

            def crash(change):
                if next(calls):
                    raise ZeroDivisionError
                settled(change)

            patch.setattr(snow._Change, "settle", crash)
            with pytest.raises(ZeroDivisionError):
                load(warehouse, 2, lambda: {"people": relation(new)})
        assert (warehouse.snapshot(), shown(warehouse)) == (2, [("c", "x")])
        load(warehouse, 3, lambda: {"people": relation(new), "b": relation(people(("d", 4)))})
        assert shown(warehouse, "b") == [("d", 4)]
        assert shown(warehouse) == [("c", "x")]

    def test_files_of_an_external_stage_are_loaded_where_they_lie(
        self, account, another, relation, store, said
    ):
        plain = another()
        with plain._session() as connection:
            snow._run(connection, f"CREATE SCHEMA IF NOT EXISTS {plain._schema}")
            snow._run(connection, f"CREATE STAGE {plain._schema}.LAKE URL = '{store.url}/'")
        beside = account.model_copy(update={"stage": f"{plain._schema}.LAKE"})
        warehouse = SnowflakeWarehouse(beside, plain._schema, store.url)
        said.clear()
        load(warehouse, 1, lambda: {"people": relation(people(("a", 1), ("b", 2)))})
        assert shown(warehouse) == [("a", 1), ("b", 2)]
        assert not [sql for sql in said if sql.startswith("PUT")]

    def test_a_key_that_a_stage_cannot_name_is_refused(self, account, another, store):
        plain = another()
        warehouse = SnowflakeWarehouse(
            account.model_copy(update={"stage": "S.LAKE"}), plain._schema, store.url
        )
        sink = io.BytesIO()
        pq.write_table(people(("a", 1)), sink)
        store.put("it's/part.parquet", sink.getvalue())
        odd = Source(store, "it's/part.parquet", len(sink.getvalue()), "sha256:0")
        with pytest.raises(Invalid) as caught:
            load(warehouse, 1, lambda: {"people": Relation.whole(PEOPLE, odd)})
        assert caught.value.kind == "bad-warehouse"

    def test_what_is_refused_for_another_reason_is_told(self, warehouse, monkeypatch):
        def refuse(connection, sql, parameters=()):
            if "number FROM" in sql or "LIMIT 0" in sql:
                raise Invalid("no right", kind="warehouse-refused")
            return run(connection, sql, parameters)

        run = snow._run
        monkeypatch.setattr(snow, "_run", refuse)
        with pytest.raises(Invalid, match="no right"):
            warehouse.snapshot()
        with pytest.raises(Invalid, match="no right"), warehouse.change() as change:
            change.create("people", PEOPLE)

    def test_what_it_does_not_understand_is_told_without_values(self, warehouse):
        with pytest.raises(Invalid) as caught:
            warehouse.query("SELECT 'secret value' FROM nowhere")
        assert caught.value.kind == "warehouse-refused"
        assert "secret" not in str(caught.value) + caught.value.hint


def test_no_server_is_a_clear_error(monkeypatch):
    pytest.importorskip("snowflake.connector")
    given = {
        "account": "a",
        "user": "u",
        "password": "p",
        "database": "D",
        "endpoint": "http://127.0.0.1:1",
    }
    warehouse = SnowflakeWarehouse(WarehouseSettings.model_validate(given), "S")
    options = warehouse._options() | {"login_timeout": 1}
    monkeypatch.setattr(warehouse, "_options", lambda: options)
    with pytest.raises(Unavailable) as caught:
        warehouse.snapshot()
    assert caught.value.kind == "warehouse-unavailable"


def test_the_settings_choose(tmp_path, monkeypatch):
    file = tmp_path / "catchment.toml"
    file.write_text('[warehouse]\nkind = "duckdb"\n')
    (tmp_path / "catchment.prod.toml").write_text(
        '[warehouse]\nkind = "snowflake"\naccount = "a"\nuser = "u"\ndatabase = "D"\n'
    )
    here = Settings.load(file, environment={}).warehouse
    assert here.file == str(tmp_path / "warehouse.duckdb")
    assert isinstance(open_warehouse(here, "s"), DuckDBWarehouse)
    prod = {"CATCHMENT_ENV": "prod", "CATCHMENT_WAREHOUSE__PASSWORD": "hush"}
    there = Settings.load(file, environment=prod)
    found = open_warehouse(there.warehouse, "tables_x-y")
    assert isinstance(found, SnowflakeWarehouse)
    assert (found._schema, found._options()["password"]) == ("TABLES_X_Y", "hush")
    assert "hush" not in str(list(there.shown()))
    assert open_warehouse(WarehouseSettings(), "s") is None
    with pytest.raises(Invalid) as caught:
        SnowflakeWarehouse(WarehouseSettings(kind="snowflake"), "s")
    assert caught.value.kind == "bad-warehouse"
    for name in ("snowflake.connector", "snowflake"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Invalid) as caught:
        found.snapshot()
    assert caught.value.kind == "missing-extra"
