"""Subscriptions: targets hold what is published, whole, and nothing else."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import signal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from catchment.cli.main import run
from catchment.core import duckdb_file
from catchment.core.errors import Invalid, Unavailable
from catchment.core.ledger.keys import Keys, scopes
from catchment.core.store_s3_config import service
from catchment.core.warehouse.sql import SqlChange
from catchment.studies import actions, library, subscribe, subscribe_glue
from catchment.studies.marks import NAMES
from catchment.testing.s3 import moto  # noqa: F401 - a fixture
from catchment.web.app import create_app
from tests.studies.studying import (
    CUBE,
    package,
    published,
    read,
    rows_of,
    send,
    send_cube,
    table,
    workspace,
)

OTHER = table((9, None, None), (5, "f", None), (4, None, "y"))
ID = "core__count__000"
FLAT = pa.table({"name": ["x", "y"], "n": pa.array([1, 2], pa.int64())})
PARQUET_INPUT = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat"


def send_flat(space, site, flat=FLAT, *, package="listing"):
    sink = io.BytesIO()
    pq.write_table(flat, sink)
    return send(space, site, sink.getvalue(), name=f"core__{package}.flat.parquet")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "warehouse" / "studies.duckdb"


@pytest.fixture
def subscribed(tmp_path, file):
    with workspace(tmp_path, **{"subscriptions.warehouse": str(file)}) as made:
        yield made


def shown(file, id_=ID):
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.execute(f'FROM "{id_}"').fetchall()


def names(file):
    query = "SELECT table_name FROM information_schema.tables WHERE NOT table_name LIKE 'catchment%' ORDER BY 1"
    with duckdb.connect(str(file), read_only=True) as connection:
        return [row[0] for row in connection.execute(query).fetchall()]


def only(done):
    (one,) = done
    return one


def test_what_is_published_is_registered_at_once(subscribed, file):
    assert subscribe.registered(subscribed) == []
    assert send_cube(subscribed, "a", CUBE).accepted
    assert shown(file) == published(subscribed)
    assert send_cube(subscribed, "b", OTHER).accepted
    assert shown(file) == published(subscribed)
    assert send_flat(subscribed, "a").accepted
    assert shown(file, "core__listing__a__000") == rows_of(FLAT)
    assert names(file) == [ID, "core__listing__a__000"]
    assert [one.id for one in subscribe.registered(subscribed)] == names(file)
    done = only(subscribe.crawl(subscribed))
    assert done == subscribe.Crawl("duckdb", unchanged=2)
    actions.withdraw(library.house(subscribed), "core")
    assert names(file) == []
    assert subscribe.registered(subscribed) == []


def test_only_what_is_released_leaves(tmp_path, file):
    settings = {"subscriptions.warehouse": str(file), "studies.core.min_cell": 11}
    with workspace(tmp_path, **settings) as space:
        cube = table((100, None, None), (95, "f", None), (5, "m", None), (100, None, "x"))
        assert send_cube(space, "a", cube).accepted
        found = shown(file)
        assert found == published(space)
        assert all(count is None or count >= 11 for count, *_ in found)
        names = read(space, package(space).key).column_names
        assert names == ["cnt", "sex", "race", "site", *NAMES[:-1]]
        assert {row[4] for row in found} == {True, False}
        assert all(row[4] == (row[0] is None) for row in found)
        assert {row[5:] for row in found if row[3] is None} <= {(1, 0, 0), (1, 1, 0)}


def test_a_crawl_finds_what_is_new_changed_and_gone(tmp_path, file):
    with workspace(tmp_path) as plain:
        send_cube(plain, "a", CUBE)
        send_flat(plain, "a")
        with pytest.raises(Invalid) as caught:
            subscribe.crawl(plain)
        assert caught.value.kind == "no-subscriptions"
        assert subscribe.registered(plain) is None
    with workspace(tmp_path, **{"subscriptions.warehouse": str(file)}) as space:
        ids = [ID, "core__listing__a__000"]
        assert only(subscribe.crawl(space, dry_run=True)).new == ids
        assert not file.parent.exists()
        assert only(subscribe.crawl(space)).new == ids
    with workspace(tmp_path) as plain:
        send_cube(plain, "b", OTHER)
        send_cube(plain, "a", CUBE, package="second")
        actions.withdraw(library.house(plain), "core", "a")
        send_cube(plain, "a", CUBE, study="upload")
    with workspace(tmp_path, **{"subscriptions.warehouse": str(file)}) as space:
        before = shown(file)
        planned = only(subscribe.crawl(space, dry_run=True))
        assert (planned.new, planned.changed, planned.removed) == (
            ["upload__count__000"],
            [ID],
            ["core__listing__a__000"],
        )
        assert shown(file) == before
        assert only(subscribe.crawl(space, "upload")).removed == []
        done = only(subscribe.crawl(space))
        assert (done.new, done.changed, done.removed) == ([], planned.changed, planned.removed)
        assert done.unchanged == 1
        assert shown(file) == published(space)


def test_a_table_that_somebody_dropped_comes_back(subscribed, file):
    send_cube(subscribed, "a", CUBE)
    with duckdb.connect(str(file)) as connection:
        connection.execute(f'DROP TABLE "{ID}"')
    assert only(subscribe.crawl(subscribed)).new == [ID]
    assert shown(file) == published(subscribed)


def test_a_table_of_somebody_else_is_left_alone(subscribed, file):
    file.parent.mkdir()
    with duckdb.connect(str(file)) as connection:
        connection.execute(f'CREATE TABLE "{ID}" AS SELECT 1')
    send_cube(subscribed, "a", CUBE)
    send_cube(subscribed, "a", CUBE, package="second")
    done = only(subscribe.crawl(subscribed))
    assert (done.failed[ID].kind, done.unchanged) == ("subscription-taken", 1)
    assert shown(file) == [(1,)]
    actions.withdraw(library.house(subscribed), "core")
    assert names(file) == [ID]


def test_a_crawl_that_fails_in_the_middle_changes_nothing(subscribed, file, monkeypatch):
    send_cube(subscribed, "a", CUBE)
    before = shown(file)
    real = SqlChange._load

    def fail(*args):
        real(*args)
        raise MemoryError

    monkeypatch.setattr(SqlChange, "_load", fail)
    assert send_cube(subscribed, "b", OTHER).accepted  # the publication stands
    assert shown(file) == before != published(subscribed)
    monkeypatch.undo()
    assert only(subscribe.crawl(subscribed)).changed == [ID]
    assert shown(file) == published(subscribed)


def _crawl_and_die(folder, file):
    """A child that is killed after the last table was loaded, before the transaction's end."""
    real = SqlChange._load

    def die(self, place, *args):
        rows = real(self, place, *args)
        if place == "core__second__000":
            os.kill(os.getpid(), signal.SIGKILL)
        return rows

    SqlChange._load = die
    with workspace(folder, **{"subscriptions.warehouse": str(file)}) as space:
        subscribe.crawl(space)


def test_a_killed_crawl_leaves_the_former_tables(tmp_path, file):
    with workspace(tmp_path, **{"subscriptions.warehouse": str(file)}) as space:
        send_cube(space, "a", CUBE)
    with workspace(tmp_path) as plain:
        send_cube(plain, "b", OTHER)
        send_cube(plain, "b", OTHER, package="second")
    before = shown(file)
    child = multiprocessing.get_context("spawn").Process(
        target=_crawl_and_die, args=(tmp_path, file)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert shown(file) == before
    assert names(file) == [ID]
    with workspace(tmp_path, **{"subscriptions.warehouse": str(file)}) as space:
        assert only(subscribe.crawl(space)).new == ["core__second__000"]
        assert shown(file) == published(space)


def test_what_is_published_meanwhile_is_seen(subscribed, file, monkeypatch):
    """Another worker publishes after our look at the catalogs, and leaves before our last."""
    send_cube(subscribed, "a", CUBE)
    other = workspace(file.parents[1])
    real = subscribe._compare
    sent = []

    def late(*args, **more):
        if not sent:
            sent.append(send_cube(other, "b", OTHER))
        real(*args, **more)

    monkeypatch.setattr(subscribe, "_compare", late)
    assert only(subscribe.crawl(subscribed)).changed == [ID]
    other.close()
    assert shown(file) == published(subscribed)


def test_a_file_that_is_in_use_does_not_hold_a_publication(subscribed, file, monkeypatch, caplog):
    monkeypatch.setattr(duckdb_file, "_PATIENCE", 0.2)
    file.parent.mkdir()
    with duckdb.connect(str(file), config={"threads": 1}), caplog.at_level(logging.WARNING):
        assert send_cube(subscribed, "a", CUBE).accepted
    assert "is open in another program" in caplog.text
    assert published(subscribed)
    failed = only(subscribe.crawl(subscribed)).failed
    assert failed == {}
    file.unlink()
    file.write_bytes(b"no database" * 1000)
    failed = only(subscribe.crawl(subscribed)).failed
    assert failed["duckdb"].kind == "bad-warehouse"


def test_a_fault_of_ours_does_not_hold_a_publication(subscribed, monkeypatch, caplog):
    monkeypatch.setattr(subscribe, "crawl", lambda *_: 1 / 0)
    with caplog.at_level(logging.WARNING):
        assert send_cube(subscribed, "a", CUBE).accepted
    assert "subscriptions of core: ZeroDivisionError" in caplog.text


def test_a_table_that_cannot_be_read_stops_no_other(subscribed, file):
    send_cube(subscribed, "a", CUBE)
    send_cube(subscribed, "a", CUBE, package="second")
    good = library.packages(subscribed)
    before = shown(file)
    bad = next(one for one in good if one.id == ID)
    subscribed.store.put(bad.released.key, b"damaged", mode="overwrite")
    file.unlink()
    done = only(subscribe.crawl(subscribed))
    assert done.new == ["core__second__000"]
    assert done.failed[ID].kind == "bad-subscription"
    assert shown(file, "core__second__000") == before


def test_a_load_that_fails_is_told(subscribed, file, monkeypatch):
    send_cube(subscribed, "a", CUBE)
    before = shown(file)

    monkeypatch.setattr(SqlChange, "_load", lambda self, *_: self.run("SELECT 1 / 'x'"))
    send_cube(subscribed, "b", OTHER)
    failed = only(subscribe.crawl(subscribed)).failed
    assert failed["duckdb"].kind == "bad-warehouse"
    assert shown(file) == before


def test_the_command(tmp_path, file, monkeypatch, capsys):
    (tmp_path / "catchment.toml").write_text(
        '[workspace]\nstore = "data"\nledger = "ledger.db"\n[executor]\nkind = "threads"\n'
        '[studies.core]\nmin_cell = 0\n[subscriptions]\nwarehouse = "warehouse/studies.duckdb"\n'
    )
    monkeypatch.setenv("CATCHMENT_WORKSPACE", str(tmp_path))

    def call(*arguments, code=0):
        assert run(["studies", "subscribe", *arguments]) == code
        return capsys.readouterr().out

    with workspace(tmp_path) as plain:
        send_cube(plain, "a", CUBE)
    (told,) = json.loads(call("--dry-run", "--json"))
    assert (told["new"], told["unchanged"]) == ([ID], 0)
    assert not file.exists()
    assert f"duckdb: {ID} is new" in call()
    assert "duckdb: 1 tables are as they were" in call()
    file.write_bytes(b"no database" * 1000)
    assert "duckdb failed: studies.duckdb is no DuckDB database" in call(code=2)


def test_the_dashboard_lists_what_is_registered(tmp_path, subscribed):
    send_cube(subscribed, "a", CUBE)
    send_flat(subscribed, "a")
    send_flat(subscribed, "b")
    with workspace(tmp_path) as plain:  # published, and not registered
        send_cube(plain, "a", CUBE, package="second")
    keys = Keys(subscribed.ledger)
    for name, scope in (("every", "all"), ("other", "study:other"), ("b", "site:b")):
        keys.add(name, f"token of {name}", *scopes([scope]))
    client = TestClient(create_app(subscribed, process=False))

    def ask(name):
        return client.get("/subscriptions", headers={"x-api-key": f"token of {name}"}).json()

    assert ask("every") == [ID, "core__listing__a__000", "core__listing__b__000"]
    assert ask("other") == []
    assert ask("b") == [ID, "core__listing__b__000"]


@pytest.mark.parametrize("kind", ["duckdb", "iceberg"])
def test_the_workspaces_warehouse_and_iceberg_hold_the_same(tmp_path, kind):
    given = {"warehouse.kind": "duckdb", "warehouse.file": f"{tmp_path}/all.duckdb"}
    if kind == "iceberg":
        pytest.importorskip("pyiceberg")
        given = {"iceberg.catalog": "sql", "iceberg.uri": f"sqlite:///{tmp_path}/ice.db"}
    with workspace(tmp_path, **given) as space:
        assert only(subscribe.crawl(space, dry_run=True)).new == []
        assert send_cube(space, "a", CUBE).accepted
        assert send_flat(space, "a").accepted
        flat = "core__listing__a__000"

        def found(id_):
            if kind == "duckdb":
                with duckdb.connect(f"{tmp_path}/all.duckdb", read_only=True) as connection:
                    return connection.execute(f'FROM studies."{id_}"').fetchall()
            from catchment.core.iceberg import open_catalog

            return rows_of(open_catalog(space).load_table(("studies", id_)).scan().to_arrow())

        assert found(ID) == published(space)
        assert found(flat) == rows_of(FLAT)
        assert only(subscribe.crawl(space)).unchanged == 2
        assert send_cube(space, "b", OTHER).accepted
        assert found(ID) == published(space)
        assert [one.id for one in subscribe.registered(space)] == [ID, flat]
        actions.withdraw(library.house(space), "core", "a")
        assert only(subscribe.crawl(space)).unchanged == 1
        assert [one.id for one in subscribe.registered(space)] == [ID]


def test_iceberg_leaves_others_alone_and_tells_what_it_cannot_show(tmp_path):
    pytest.importorskip("pyiceberg")
    from catchment.core.iceberg import open_catalog

    given = {"iceberg.catalog": "sql", "iceberg.uri": f"sqlite:///{tmp_path}/ice.db"}
    with workspace(tmp_path, **given) as space:
        catalog = open_catalog(space)
        catalog.create_namespace("studies")
        catalog.create_table(("studies", ID), FLAT.schema)
        send_cube(space, "a", CUBE)
        send_flat(space, "a", pa.table({"n": pa.array([1], pa.uint64())}))
        send_cube(space, "a", CUBE, package="second")
        done = only(subscribe.crawl(space))
        assert done.failed[ID].kind == "subscription-taken"
        assert set(done.failed) == {ID}  # a type that Iceberg lacks is converted
        assert done.unchanged == 2


# --- Glue --------------------------------------------------------------------------------------


@pytest.fixture
def aws(moto, tmp_path, monkeypatch):  # noqa: F811
    """Settings of a workspace in a bucket, and a client of the catalog that it tells."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_GLUE", moto.endpoint)
    database = f"d{tmp_path.name.replace('-', '_')}".lower()
    url = f"s3://{moto.bucket}/{database}"
    settings = {f"s3.{name}": value for name, value in moto.options.items()}
    settings |= {"workspace.store": url, "subscriptions.glue": database}
    return settings, service("glue", moto.options), database, url


def tables(glue, database):
    found = glue.get_tables(DatabaseName=database)["TableList"]
    return {one["Name"]: one for one in found}


def test_glue_tells_athena_of_the_released_files(aws, tmp_path):
    settings, glue, database, url = aws
    with workspace(tmp_path, **settings) as space:
        assert only(subscribe.crawl(space, dry_run=True)) == subscribe.Crawl("glue")
        with pytest.raises(glue.exceptions.EntityNotFoundException):
            glue.get_database(Name=database)
        assert send_cube(space, "a", CUBE).accepted
        assert send_flat(space, "a").accepted
        found = tables(glue, database)
        assert sorted(found) == [ID, "core__listing__a__000"]
        storage = found[ID]["StorageDescriptor"]
        assert storage["InputFormat"] == PARQUET_INPUT
        assert [(c["Name"], c["Type"]) for c in storage["Columns"]] == [
            ("cnt", "bigint"),
            ("sex", "string"),
            ("race", "string"),
            ("site", "string"),
        ]
        # The prefix holds the released table and no other file.
        prefix = storage["Location"].removeprefix(f"{url}/")
        (key,) = (stat.key for stat in space.store.list(prefix))
        assert rows_of(read(space, key)) == published(space)
        flat = found["core__listing__a__000"]["StorageDescriptor"]["Location"]
        (key,) = (stat.key for stat in space.store.list(flat.removeprefix(f"{url}/")))
        assert read(space, key).equals(FLAT)
        digest = found[ID]["Parameters"]["catchment_digest"]
        assert send_cube(space, "b", OTHER).accepted
        after = tables(glue, database)[ID]["Parameters"]
        assert after["catchment_digest"] != digest
        assert only(subscribe.crawl(space)) == subscribe.Crawl("glue", unchanged=2)
        assert [one.id for one in subscribe.registered(space)] == sorted(found)
        actions.withdraw(library.house(space), "core", "a")
        assert sorted(tables(glue, database)) == [ID]


def test_glue_leaves_tables_of_others_alone(aws, tmp_path):
    settings, glue, database, _ = aws
    glue.create_database(DatabaseInput={"Name": database})
    for name in (ID, "of_others"):
        glue.create_table(DatabaseName=database, TableInput={"Name": name})
    with workspace(tmp_path, **settings) as space:
        send_cube(space, "a", CUBE)
        send_cube(space, "a", CUBE, package="second")
        done = only(subscribe.crawl(space))
        assert done.failed[ID].kind == "subscription-taken"
        assert done.unchanged == 1
        assert sorted(tables(glue, database)) == [ID, "core__second__000", "of_others"]
        assert "catchment_store" not in tables(glue, database)[ID].get("Parameters", {})
        actions.withdraw(library.house(space), "core")
        assert sorted(tables(glue, database)) == [ID, "of_others"]


def test_two_crawls_of_glue_meet(aws, tmp_path, monkeypatch):
    settings, glue, database, _ = aws
    with workspace(tmp_path, **settings) as space:
        send_cube(space, "a", CUBE)
        (one,) = library.packages(space)
        session = subscribe_glue._Registering(space, database, dry_run=False)
        session._put(one, there=False)  # the other has made it after our look
        assert session.tables() == {ID: subscribe.table_of(one)}
        session._drop(ID)
        session._drop(ID)
        assert session.tables() == {}
        about = session._input(one)
        about["Parameters"]["catchment_version"] = "by hand"
        glue.create_table(DatabaseName=database, TableInput=about)
        assert only(subscribe.crawl(space)).changed == [ID]

        def refuse(*_, **__):
            raise Unavailable("not now", kind="glue-unavailable")

        glue.update_table(DatabaseName=database, TableInput=about)
        monkeypatch.setattr(subscribe_glue._Registering, "_put", refuse)
        monkeypatch.setattr(subscribe_glue._Registering, "_drop", refuse)
        assert only(subscribe.crawl(space)).failed[ID].kind == "glue-unavailable"
        actions.withdraw(library.house(space), "core")
        done = only(subscribe.crawl(space))
        assert (done.removed, done.failed[ID].kind) == ([], "glue-unavailable")


def test_what_glue_answers_is_told(tmp_path):
    from botocore import exceptions

    with workspace(tmp_path, **{"subscriptions.glue": "studies"}) as space:
        assert only(subscribe.crawl(space)).failed["glue"].kind == "glue-needs-s3"

    def answer(code, status):
        meta = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise exceptions.ClientError(meta, "CreateTable")

    def silence():
        raise exceptions.EndpointConnectionError(endpoint_url="x")

    for call, kind in (
        (lambda: answer("AccessDeniedException", 400), "glue-refused"),
        (lambda: answer("ThrottlingException", 400), "glue-unavailable"),
        (lambda: answer("Other", 500), "glue-unavailable"),
        (silence, "glue-unavailable"),
    ):
        with pytest.raises((Invalid, Unavailable)) as caught:
            subscribe_glue._code(call)
        assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.int8(), "tinyint"),
        (pa.uint64(), "decimal(20,0)"),
        (pa.large_string(), "string"),
        (pa.dictionary(pa.int32(), pa.string()), "string"),
        (pa.timestamp("us", "UTC"), "timestamp"),
        (pa.date32(), "date"),
        (pa.decimal128(9, 2), "decimal(9,2)"),
        (pa.list_(pa.int64()), "array<bigint>"),
        (pa.list_(pa.duration("s")), None),
        (pa.time32("s"), None),
        (pa.null(), "string"),
    ],
)
def test_types_of_hive(kind, expected):
    assert subscribe_glue.hive_type(kind) == expected


def test_columns_that_hive_cannot_tell_are_refused():
    for schema in (
        pa.schema([("a", pa.int8()), ("A", pa.int8())]),
        pa.schema([("a", pa.time32("s"))]),
    ):
        with pytest.raises(Invalid) as caught:
            subscribe_glue.columns_of(ID, schema)
        assert caught.value.kind == "bad-subscription"
