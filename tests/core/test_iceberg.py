"""Iceberg tables over the objects of snapshots, read back by those who know nothing of us."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import sys
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catchment.core import iceberg
from catchment.core.errors import Conflict, Invalid, Unavailable
from catchment.core.iceberg import Shelf, follow, open_catalog
from catchment.core.warehouse import Relation, Source
from catchment.core.workspace import Workspace
from catchment.testing.s3 import moto  # noqa: F401 - a fixture
from catchment.testing.web import listening

pytest.importorskip("pyiceberg", reason="pip install 'catchment[iceberg]'")

from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException

AGGREGATE = "tables/main"
TABLE = ("tables_main", "people")


def rows(*values, kind=None):
    ids = pa.array([f"p{v}" for v in values], pa.string())
    return pa.table({"id": ids, "n": pa.array(values, kind or pa.int64())})


@pytest.fixture
def workspace(tmp_path):
    settings = {"workspace.store": f"{tmp_path}/a store", "iceberg.catalog": "sql"}
    settings["iceberg.uri"] = f"sqlite:///{tmp_path}/catalog.db"
    with Workspace.described(settings) as made:
        yield made


@pytest.fixture
def source(workspace):
    return lambda table: put(workspace.store, table)


def put(store, table):
    sink = io.BytesIO()
    pq.write_table(table, sink)
    data = sink.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    key = f"tables/main/{digest[:12]}.parquet"
    store.put(key, data, mode="overwrite")
    return Source(store, key, len(data), f"sha256:{digest}")


def show(workspace, number, **parts):
    """Publish a table of such parts as a snapshot."""
    relation = Relation(
        next(iter(parts.values()))[0], {k: [s] for k, (_, s) in parts.items()}, True
    )
    return follow(workspace, AGGREGATE, number, lambda: {"people": relation})


def part(source, table):
    return table.schema, source(table)


def read(workspace, name="people"):
    return open_catalog(workspace).load_table((TABLE[0], name))


def test_others_read_the_same_objects(workspace, source, tmp_path, monkeypatch):
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")  # it has another, to be installed
    schema, made = part(source, rows(1, 2, 3))
    before = {stat.key: stat.etag for stat in workspace.store.list("tables/")}
    assert show(workspace, 1, x=(schema, made)) == []
    # A catalog that is opened without us.
    catalog = load_catalog("catchment", type="sql", uri=f"sqlite:///{tmp_path}/catalog.db")
    table = catalog.load_table(TABLE)
    assert table.scan().to_arrow().sort_by("n").to_pylist() == rows(1, 2, 3).to_pylist()
    assert pl.scan_iceberg(table).filter(pl.col("n") > 1).collect().height == 2
    (task,) = table.scan().plan_files()
    assert task.file.file_path == f"file://{workspace.store.path(made.key)}"
    assert {stat.key: stat.etag for stat in workspace.store.list("tables/")} == before
    assert table.properties["gc.enabled"] == "false"


def test_one_commit_for_each_snapshot_and_none_for_the_same(workspace, source):
    x, y, z = (part(source, rows(*v)) for v in ([1], [2, 3], [4]))
    for _ in range(2):
        show(workspace, 1, x=x, y=y)
    assert len(read(workspace).snapshots()) == 1
    for _ in range(2):
        show(workspace, 2, x=x, z=z)
    table = read(workspace)
    assert [s.summary["catchment.snapshot"] for s in table.snapshots()] == ["1", "2"]
    assert sorted(table.scan().to_arrow()["n"].to_pylist()) == [1, 4]
    old = table.scan(snapshot_id=table.snapshots()[0].snapshot_id).to_arrow()
    assert sorted(old["n"].to_pylist()) == [1, 2, 3]
    show(workspace, 1, x=x, y=y)  # a slow one, late
    show(workspace, 3, x=x, z=z)  # the same objects
    show(workspace, 2, x=x, y=y)
    assert len(read(workspace).snapshots()) == 3
    assert sorted(read(workspace).scan().to_arrow()["n"].to_pylist()) == [1, 4]


def test_columns_may_come_go_and_change(workspace, source):
    show(workspace, 1, x=part(source, rows(1, 2)))
    new = pa.table({"id": ["a"], "n": ["text"], "came": [[1, 2]], "when": [{"day": 3}]})
    show(workspace, 2, x=part(source, new))
    table = read(workspace)
    assert table.scan().to_arrow().to_pylist() == new.to_pylist()
    assert len(table.snapshots()) == 2
    show(workspace, 3, x=part(source, rows(5)))
    assert read(workspace).scan().to_arrow().to_pylist() == rows(5).to_pylist()


def test_what_is_gone_is_dropped_and_its_objects_stay(workspace, source):
    made = part(source, rows(1))
    show(workspace, 1, x=made)
    assert follow(workspace, AGGREGATE, 2, dict) == []
    assert Shelf(open_catalog(workspace), AGGREGATE).tables() == set()
    assert workspace.store.head(made[1].key).size == made[1].size
    show(workspace, 3, x=made)
    assert read(workspace).scan().to_arrow().num_rows == 1


# Types that Iceberg does not have: what they become, and values with what is read of them.
_T = dt.datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=dt.UTC)
CONVERTED = [
    (pa.uint32(), "int64", [2**32 - 1], [2**32 - 1]),
    (pa.uint64(), "decimal128(20, 0)", [2**64 - 1], [Decimal(2**64 - 1)]),
    (pa.float16(), "float", [0.5], [0.5]),
    (pa.null(), "string", [None], [None]),
    (pa.timestamp("s"), "timestamp[us]", [_T.replace(microsecond=0, tzinfo=None)], None),
    (pa.timestamp("ns"), "timestamp[us]", [_T.replace(tzinfo=None)], None),
    (pa.timestamp("ns"), "string", [1], ["1970-01-01 00:00:00.000000001"]),
    (pa.timestamp("ns", "UTC"), "string", [1], ["1970-01-01 00:00:00.000000001Z"]),
    (pa.timestamp("us", "Europe/Berlin"), "timestamp[us, tz=UTC]", [_T], [_T]),
    (pa.time32("ms"), "time64[us]", [dt.time(1, 2, 3)], [dt.time(1, 2, 3)]),
    (pa.time64("ns"), "time64[us]", [dt.time(1, 2, 3, 4)], [dt.time(1, 2, 3, 4)]),
    (pa.time64("ns"), "string", [1], ["00:00:00.000000001"]),
    (pa.duration("ms"), "int64", [dt.timedelta(seconds=5)], [5000]),
    (pa.decimal256(50, 2), "string", [Decimal("1.25")], ["1.25"]),
    (pa.json_(), "string", ['{"a": 1}'], ['{"a": 1}']),
    (pa.list_(pa.uint64()), "", [[5, None], None], [[Decimal(5), None], None]),
    (pa.list_(pa.string(), 2), "", [["a", "b"]], [["a", "b"]]),
    (pa.struct([("x", pa.null()), ("y", pa.int8())]), "", [{"x": None, "y": 1}], None),
    (pa.map_(pa.string(), pa.uint64()), "", [[("k", 5)]], [[("k", Decimal(5))]]),
    (pa.list_(pa.struct([("t", pa.timestamp("ns"))])), "", [[{"t": 1}]], [[{"t": "1970-01-01 00:00:00.000000001"}]]),
]  # fmt: skip


@pytest.mark.parametrize("case", CONVERTED, ids=lambda c: f"{c[0]} {c[1]}")
def test_types_that_iceberg_does_not_have(workspace, source, case):
    kind, name, values, expected = case
    table = pa.table({"i": range(len(values) + 1), "odd": pa.array([*values, None], kind)})
    (found,) = show(workspace, 1, x=part(source, table))
    assert (found.code, found.where) == ("iceberg-converted", "people: 'odd'")
    assert str(kind) in found.message
    read_ = read(workspace)
    expected = [*(values if expected is None else expected), None]
    (task,) = read_.scan().plan_files()
    assert pq.read_table(task.file.file_path.removeprefix("file://"))["odd"].to_pylist() == expected
    shown = read_.scan().to_arrow().sort_by("i")["odd"].to_pylist()
    if "list<element: struct" in str(kind) or "list<item: struct" in str(kind):
        expected[-1] = []  # pyiceberg reads a list of structs that is null as an empty one
    assert shown == expected
    told = json.loads(read_.properties["catchment.converted"])
    assert told.keys() == {"odd"}
    assert name in told["odd"]
    # The same snapshot, and the next of the same object: nothing is written anew.
    before = {stat.key for stat in workspace.store.list("iceberg/") if "/converted/" in stat.key}
    show(workspace, 2, x=part(source, table))
    after = {stat.key for stat in workspace.store.list("iceberg/") if "/converted/" in stat.key}
    assert before == after
    assert len(after) == 1
    show(workspace, 3, x=part(source, rows(1)))
    assert read(workspace).scan().to_arrow().to_pylist() == rows(1).to_pylist()
    assert read(workspace).properties["catchment.converted"] == "{}"


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.time64("ns")])
def test_what_an_object_of_an_earlier_version_lacks_is_null(workspace, source, kind):
    new = pa.table({"id": ["b"], "n": pa.array([2000], pa.int64()).cast(kind)})
    old = source(pa.table({"id": ["a"]}))._replace(may_lack=True)
    show(workspace, 1, x=part(source, new), y=(new.schema, old))
    found = read(workspace).scan().to_arrow().sort_by("id")
    assert found["id"].to_pylist() == ["a", "b"]
    assert found["n"].is_null().to_pylist() == [True, False]


def test_nanoseconds_are_text_in_all_objects_if_in_one(workspace, source):
    def of(value):
        return part(source, pa.table({"t": pa.array([value], pa.timestamp("ns"))}))

    show(workspace, 1, x=of(1000))
    assert read(workspace).scan().to_arrow()["t"].to_pylist() == [
        dt.datetime(1970, 1, 1, 0, 0, 0, 1)
    ]
    show(workspace, 2, x=of(1000), y=of(1001))
    texts = [f"1970-01-01 00:00:00.00000100{n}" for n in (0, 1)]
    assert sorted(read(workspace).scan().to_arrow()["t"].to_pylist()) == texts


def test_row_groups_of_one_object_are_one_file(workspace, source):
    whole = source(rows(1, 2))
    parts = {n: [whole._replace(groups=(n, n + 1), digest=f"sha256:{n}")] for n in range(2)}
    for kind in ("plain", "odd"):
        if kind == "odd":
            table = pa.table({"n": pa.array([1, 2], pa.uint64())})
            whole = source(table)
            parts = {n: [whole._replace(groups=(n, n + 1))] for n in range(2)}
        relation = Relation(rows(1).schema if kind == "plain" else table.schema, parts, True)
        follow(workspace, AGGREGATE, 1 if kind == "plain" else 2, lambda r=relation: {"people": r})
        assert sorted(map(int, read(workspace).scan().to_arrow()["n"].to_pylist())) == [1, 2]


def test_what_iceberg_cannot_hold_is_not_there_rather_than_old(workspace, source, caplog):
    show(workspace, 1, x=part(source, rows(1)))
    good = Relation.whole(rows(7).schema, source(rows(7)))
    bad = good._replace(schema=pa.schema([("odd", pa.struct([]))]))
    (found,) = follow(workspace, AGGREGATE, 2, lambda: {"people": bad, "good": good})
    assert found.code == "iceberg-type"
    assert "odd" in caplog.text
    assert Shelf(open_catalog(workspace), AGGREGATE).tables() == {"good"}


TYPES = {
    "bool": [True],
    "int8": [-5],
    "uint16": [65535],
    "int64": [-(2**63)],
    "float": [0.5],
    "double": [0.1],
    "string": ["é"],
    "binary": [b"\x00"],
}


def test_types_come_back_as_they_are(workspace, source):
    from datetime import UTC, date, datetime
    from decimal import Decimal

    table = pa.table(
        {name: pa.array(v, pa.type_for_alias(name)) for name, v in TYPES.items()}
        | {
            "words": pa.array(["a"]).dictionary_encode(),
            "day": [date(2020, 2, 29)],
            "ms": pa.array([datetime(2020, 1, 1, 2, 3)], pa.timestamp("ms")),
            "zone": pa.array([datetime(2020, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC")),
            "money": pa.array([Decimal("1.25")], pa.decimal128(38, 2)),
            "fixed": pa.array([b"ab"], pa.binary(2)),
            "list": [[1, None]],
            "deep": [{"a": {"b": ["x"]}}],
            "pairs": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "odd.name 'x\"": [1],
        }
    )
    show(workspace, 1, x=part(source, table))
    assert read(workspace).scan().to_arrow().to_pylist() == table.to_pylist()


def test_a_table_of_somebody_else_is_left_alone(workspace, source):
    catalog = open_catalog(workspace)
    catalog.create_namespace(TABLE[0])
    catalog.create_table(TABLE, rows().schema)
    with pytest.raises(Conflict) as caught:
        show(workspace, 1, x=part(source, rows(1)))
    assert caught.value.kind == "warehouse-taken"
    assert follow(workspace, AGGREGATE, 2, dict) == []
    assert catalog.table_exists(TABLE)


def test_two_make_a_table_at_once(workspace, source, monkeypatch):
    real, calls = Shelf._load, []

    def late(self, name):
        calls.append(name)
        return None if len(calls) == 1 else real(self, name)

    first, second = part(source, rows(1)), part(source, rows(2))
    show(workspace, 1, x=first)
    monkeypatch.setattr(Shelf, "_load", late)  # we do not see the other's table, and make one
    show(workspace, 2, x=second)
    assert read(workspace).scan().to_arrow()["n"].to_pylist() == [2]


@pytest.mark.parametrize("error", [CommitFailedException, CommitStateUnknownException])
@pytest.mark.parametrize("done", [False, True])
def test_a_commit_that_fails_or_is_not_known_to_be_done(
    workspace, source, monkeypatch, error, done
):
    """Whether it was done is looked up: never twice, never not."""
    made = part(source, rows(1))
    real, calls = iceberg._commit, []

    def doubtful(*args):
        calls.append(args)
        if len(calls) == 1:
            if done:
                real(*args)
            raise error("who knows")
        return real(*args)

    monkeypatch.setattr(iceberg, "_commit", doubtful)
    show(workspace, 1, x=made)
    assert len(read(workspace).snapshots()) == 1
    monkeypatch.setattr(iceberg, "_commit", lambda *_: (_ for _ in ()).throw(error("no")))
    with pytest.raises(Conflict) as caught:
        show(workspace, 2, x=made)
    assert caught.value.kind == "iceberg-busy"


def test_two_publish_at_once(workspace, source, monkeypatch):
    """The other commits between our look and our commit; ours is made over its table."""
    first, second = part(source, rows(1)), part(source, rows(2))
    show(workspace, 1, x=first)
    real, inside = iceberg._evolve, []

    def meanwhile(*args):
        if not inside:
            inside.append(True)
            show(workspace, 2, x=second)
        return real(*args)

    monkeypatch.setattr(iceberg, "_evolve", meanwhile)
    show(workspace, 3, x=first)
    table = read(workspace)
    assert [s.summary["catchment.snapshot"] for s in table.snapshots()] == ["1", "2", "3"]
    assert table.scan().to_arrow()["n"].to_pylist() == [1]


def test_a_bucket_and_the_glue_catalog(moto, tmp_path):  # noqa: F811
    settings = {f"s3.{name}": value for name, value in moto.options.items()}
    settings |= {"workspace.store": f"s3://{moto.bucket}/lake", "iceberg.catalog": "glue"}
    settings["iceberg.properties"] = {"glue.endpoint": moto.endpoint}
    settings["workspace.ledger"] = f"sqlite:///{tmp_path}/ledger.db"
    with Workspace.described(settings) as space:
        made = put(space.store, rows(1, 2))
        for _ in range(2):
            relation = Relation.whole(rows().schema, made)
            follow(space, AGGREGATE, 1, lambda r=relation: {"people": r})
        table = read(space)
        assert len(table.snapshots()) == 1
        assert table.location().startswith(f"s3://{moto.bucket}/lake/iceberg")
        assert sorted(table.scan().to_arrow()["n"].to_pylist()) == [1, 2]


@pytest.fixture
def rest(tmp_path):  # noqa: C901 - each request has its answer
    """A REST catalog, as its protocol wants it, over one in SQLite."""
    from pyiceberg.exceptions import (
        NamespaceAlreadyExistsError,
        NoSuchNamespaceError,
        NoSuchTableError,
    )
    from pyiceberg.schema import Schema
    from pyiceberg.table import CommitTableRequest

    tables = load_catalog(
        "behind",
        type="sql",
        uri=f"sqlite:///{tmp_path}/behind.db",
        warehouse=f"file://{tmp_path}/wh",
    )
    turn, asked = threading.Lock(), []

    def shown(table):
        metadata = json.loads(table.metadata.model_dump_json())
        return {"metadata-location": table.metadata_location, "metadata": metadata, "config": {}}

    def answer(verb, path, body):
        parts = path.partition("?")[0].removeprefix("/v1/").split("/")
        match verb, parts:
            case "GET", ["config"]:
                return {"defaults": {}, "overrides": {}}
            case "POST", ["namespaces"]:
                tables.create_namespace(tuple(body["namespace"]))
                return body
            case "GET", ["namespaces", space, "tables"]:
                found = tables.list_tables(space)
                return {"identifiers": [{"namespace": [space], "name": one[-1]} for one in found]}
            case "POST", ["namespaces", space, "tables"]:
                schema = Schema.model_validate(body["schema"])
                return shown(
                    tables.create_table(
                        (space, body["name"]),
                        schema,
                        body.get("location"),
                        properties=body["properties"],
                    )
                )
            case "GET", ["namespaces", space, "tables", name]:
                return shown(tables.load_table((space, name)))
            case "POST", ["namespaces", space, "tables", name]:
                told = CommitTableRequest.model_validate(body)
                table = tables.load_table((space, name))
                tables.commit_table(table, told.requirements, told.updates)
                return shown(tables.load_table((space, name)))
            case "DELETE", ["namespaces", space, "tables", name]:
                assert "purgeRequested=True" not in path
                return tables.drop_table((space, name)) or {}
        raise AssertionError((verb, path))

    class Handler(BaseHTTPRequestHandler):
        def _any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(self.headers.get("Authorization"))
            try:
                with turn:
                    status, told = 200, answer(self.command, self.path, json.loads(body or b"{}"))
            except (NoSuchTableError, NoSuchNamespaceError, NamespaceAlreadyExistsError) as error:
                status = 409 if isinstance(error, NamespaceAlreadyExistsError) else 404
                kind = type(error).__name__.replace("Error", "Exception")
                told = {"error": {"message": "no", "type": kind, "code": status}}
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _any  # noqa: N815 - as the server calls them

        def log_message(self, *args):
            pass

    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url, asked


def test_a_rest_catalog(rest, tmp_path):
    url, asked = rest
    given = {"workspace.store": f"{tmp_path}/s", "iceberg.catalog": "rest", "iceberg.uri": url}
    with Workspace.described(given | {"iceberg.token": "hush"}) as space:
        first, second = put(space.store, rows(1, 2)), put(space.store, rows(3))
        for number, made in ((1, first), (1, first), (2, second), (1, first)):
            relation = Relation.whole(rows(1).schema, made)
            follow(space, AGGREGATE, number, lambda r=relation: {"people": r})
        table = read(space)
        assert len(table.snapshots()) == 2
        assert table.scan().to_arrow()["n"].to_pylist() == [3]
        follow(space, AGGREGATE, 3, dict)
        assert Shelf(open_catalog(space), AGGREGATE).tables() == set()
        assert space.store.head(second.key).size == second.size
    assert set(asked) == {"Bearer hush"}


def test_settings_choose_the_catalog(tmp_path, monkeypatch):
    given = {"workspace.store": f"{tmp_path}/s", "iceberg.catalog": "rest"}
    given |= {"iceberg.uri": "https://catalog.internal", "iceberg.token": "hush"}
    asked = {}
    monkeypatch.setattr("pyiceberg.catalog.load_catalog", lambda name, **p: asked.update(p, n=name))
    with Workspace.described(given) as space:
        open_catalog(space)
        assert (asked["type"], asked["uri"], asked["token"]) == (
            "rest",
            "https://catalog.internal",
            "hush",
        )
        assert "hush" not in str(list(space.settings.shown()))
    (tmp_path / "catchment.toml").write_text('[iceberg]\ncatalog = "sql"\n')
    with Workspace.open(tmp_path) as space:
        open_catalog(space)
        assert asked["uri"] == f"sqlite:///{tmp_path}/.catchment/iceberg.db"
    with Workspace.described({"iceberg.catalog": "none"}) as space:
        assert follow(space, AGGREGATE, 1, dict) == []


def test_what_cannot_be_is_told(tmp_path, monkeypatch):
    lost = {"workspace.store": f"{tmp_path}/s", "iceberg.catalog": "sql"}
    lost["iceberg.uri"] = f"sqlite:///{tmp_path}/no/such/folder.db"
    with Workspace.described(lost) as space, pytest.raises(Unavailable) as caught:
        follow(space, AGGREGATE, 1, dict)
    assert caught.value.kind == "iceberg-unavailable"
    nowhere = {"workspace.store": "memory://x", "iceberg.catalog": "sql"}
    with Workspace.described(nowhere) as space, pytest.raises(Invalid) as caught:
        follow(space, AGGREGATE, 1, dict)
    assert caught.value.kind == "iceberg-store"
    for name in ("pyiceberg.catalog", "pyiceberg"):
        monkeypatch.setitem(sys.modules, name, None)
    with Workspace.described(lost) as space, pytest.raises(Invalid) as caught:
        follow(space, AGGREGATE, 1, dict)
    assert caught.value.kind == "missing-extra"
