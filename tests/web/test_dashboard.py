"""The dashboard API: what a key shows, and nothing else; never a fault of the program."""

from __future__ import annotations

import csv
import io
import json
import re

import duckdb
import pyarrow as pa
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance
from starlette.testclient import TestClient

from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.core.ledger.keys import Keys, scopes
from catchment.testing.studies import study_zip
from catchment.web.app import create_app
from tests.studies import studying
from tests.web.looking import Looker, add_people

NAMES = ("sex", "race")
MARKED = ("suppressed", "suppressed_")  # names that a site may use as well
CUBE = studying.table(
    (60, None, None),
    (40, "f", None),
    (20, "m", None),
    (60, None, "=1+1"),
    (40, "f", "=1+1"),
    (20, "m", "=1+1"),
)
CHART = "/data-packages/core__count__000/chart"
INJECTIONS = [
    "' OR 1=1 --",
    '"; DROP TABLE cells; --',
    "O'Brien",
    "%",
    "_",
    "a:b",
    "a,b",
    "\\",
    "(",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An application, its workspace, and keys that may read all, one study, one site."""
    with studying.workspace(tmp_path_factory.mktemp("world")) as space:
        studying.send_cube(space, "ucd", CUBE)
        studying.send_cube(space, "uw", CUBE)
        studying.send_cube(space, "ucd", CUBE, study="hidden")
        keys = Keys(space.ledger)
        for name, scope in (("every", "all"), ("core", "study:core"), ("uw", "site:uw")):
            keys.add(name, f"token of {name}", *scopes([scope]))
        yield space, create_app(space, process=False)


@pytest.fixture(scope="module")
def ask(world):
    client = TestClient(world[1], raise_server_exceptions=False)

    def ask(path, key="every", headers=(), **parameters):
        headers = {"x-api-key": f"token of {key}", **dict(headers)}
        return client.get(path, params=parameters, headers=headers)

    return ask


def test_without_a_key_nothing_is_told(world, ask):
    assert TestClient(world[1]).get("/metadata").status_code == 401
    assert ask("/metadata", key="nobody").json()["kind"] == "unauthorized"


def test_metadata_by_site_and_study(ask):
    told = ask("/metadata").json()
    assert set(told) == {"ucd", "uw"}
    one = ask("/metadata/uw/core/count/000").json()["uw"]["core"]["count"]["000"]
    assert one["transaction_format_version"] == "2"
    assert set(one) == {
        "transaction_format_version", "last_upload", "last_data_update", "last_aggregation",
        "last_error", "deleted",
    }  # fmt: skip
    assert ask("/metadata/nowhere").status_code == 404
    assert ask("/metadata/uw/nothing").status_code == 404
    assert ask("/study-periods").json() == {}
    assert ask("/study-periods/uw").status_code == 404


def test_data_packages(ask):
    found = ask("/data-packages")
    assert found.headers["X-Total-Count"] == "2"
    ids = [one["id"] for one in found.json()]
    assert ids == ["core__count__000", "hidden__count__000"]
    assert [one["id"] for one in ask("/data-packages", limit=1, offset=1).json()] == ids[1:]
    assert ask("/data-packages", name="other").json() == []
    one = ask(f"/data-packages/{ids[0]}").json()
    assert one["columns"]["sex"] == {"type": "string", "distinct_values_count": 2}
    assert (one["total"], one["version"], one["min_cell"]) == (120, "000", 0)
    assert ask("/data-packages/none").json()["kind"] == "no-package"
    assert ask("/aggregates").json()[0] == one["s3_path"]
    assert ask("/subscriptions").json() == ids


def test_a_chart_and_its_tag(ask):
    answer = ask(CHART, column="sex")
    assert answer.json() == {
        "column": "sex", "filters": [], "rowCount": 2, "totalCount": 120,
        "data": [{"rows": [["f", 80], ["m", 40]]}], "suppressed": [],
    }  # fmt: skip
    tag = {"If-None-Match": f'"other", W/{answer.headers["ETag"]}'}
    again = ask(CHART, column="sex", headers=tag)
    assert (again.status_code, again.content) == (304, b"")
    assert ask(CHART, column="race", headers=tag).status_code == 200
    assert (
        ask(CHART, column="sex", stratifier="", filter="").json()["data"] == answer.json()["data"]
    )
    split = ask(CHART, column="sex", stratifier="site").json()
    assert split["counts"] == {"ucd": 60, "uw": 60}
    either = ask(CHART, column="sex", filter=["sex:strEq:f", "race:isNotNone"]).json()
    assert either["totalCount"] == 120


def test_a_filter_as_json(ask):
    where = json.dumps({"any": [{"all": [["sex", "strEq", "f"]]}]})
    assert ask(CHART, column="sex", where=where).json()["totalCount"] == 80


def test_bad_charts_are_told(world, ask):
    assert ask(CHART).status_code == 400
    assert ask(CHART, column="nobody").json()["kind"] == "no-column"
    assert ask(CHART, column="sex", filter="sex:what:1").json()["kind"] == "bad-filter"


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_in_every_parameter_is_a_value(ask, text):
    for answer in (
        ask(CHART, column=text),
        ask(CHART, column="sex", stratifier=text),
        ask(CHART, column="sex", filter=f"sex:strEq:{text}"),
        ask(CHART, column="sex", filter=f"{text}:isNone"),
        ask(CHART, column="sex", filter=f"sex:matches:{text}"),
        ask(CHART, column="sex", where=text),
        ask("/from-parquet/", s3_path=text),
        ask("/data-packages", name=text),
    ):
        assert answer.status_code in {200, 400, 404}, answer.text
    assert ask(CHART, column="sex").json()["totalCount"] == 120


def test_scopes(ask):
    assert [one["id"] for one in ask("/data-packages", "core").json()] == ["core__count__000"]
    assert ask("/data-packages/hidden__count__000", "core").status_code == 404
    assert ask("/studies", "core").json() == ["core"]
    assert ask("/studies/hidden", "core").status_code == 404
    assert set(ask("/metadata", "uw").json()) == {"uw"}
    split = ask(CHART, "uw", column="site").json()
    assert split["data"] == [{"rows": [["uw", 60]]}]
    path = ask("/aggregates").json()[0]
    assert ask("/from-parquet/", "uw", s3_path=path).status_code == 403


def test_an_aggregate_as_text(ask):
    path = ask("/aggregates").json()[0]
    text = ask("/from-parquet/", s3_path=path, type="csv")
    rows = list(csv.reader(io.StringIO(text.text)))
    assert rows[0] == ["cnt", "sex", "race", "site"]
    assert len(rows) == 19
    assert {row[2] for row in rows[1:]} == {"", "'=1+1"}
    tabs = ask("/from-parquet/", s3_path=path, type="tsv").text
    assert tabs.splitlines()[0] == "cnt\tsex\trace\tsite"
    table = ask("/from-parquet/", s3_path=path, type="json").json()
    assert table[0] == {"cnt": 120, "sex": None, "race": None, "site": None}
    assert len(table) == 18
    for other in ("studies/", "last_valid/core/core__count/uw/000/x.parquet", "../x"):
        assert ask("/from-parquet/", s3_path=other).status_code == 404
    assert ask("/from-parquet/", s3_path=path, type="exe").status_code == 400
    marked = ask("/from-parquet/", s3_path=path, type="json", marks=True)
    assert marked.json() == [row | {"suppressed": False} for row in table]
    tag = {"If-None-Match": marked.headers["ETag"]}
    assert ask("/from-parquet/", s3_path=path, type="json", headers=tag).status_code == 200


def test_who_read_what_is_kept(world, ask):
    ask("/data-packages/none", "core")
    latest = Keys(world[0].ledger).reads("core")[0]
    assert (latest.path, latest.status) == ("/data-packages/none", 404)


def test_a_key_opens_nothing_once_it_is_removed(world, ask):
    keys = Keys(world[0].ledger)
    keys.add("short", "token of short", [], [])
    with pytest.raises(Conflict):
        keys.add("short", "another", [], [])
    assert ask("/studies", "short").status_code == 200
    keys.remove("short")
    assert ask("/studies", "short").status_code == 401
    with pytest.raises(NotFound):
        keys.remove("short")
    assert [key.name for key in keys.listed()] == ["core", "every", "uw"]


@pytest.mark.parametrize(
    "texts", [[], ["all", "study:a"], ["study"], ["study:"], ["other:a"], ["site:A"]]
)
def test_a_bad_scope_is_told(texts):
    with pytest.raises(Invalid):
        scopes(texts)


def test_no_question_breaks_the_dashboard_api(world):
    api = schemathesis.openapi.from_asgi("/openapi.json", world[1])
    asked = 0
    for found in api.get_all_operations():
        operation = found.ok()
        if "dashboard" not in operation.definition.raw.get("tags", []):
            continue

        @given(case=operation.as_strategy())
        @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
        def ask(case):
            case.call_and_validate(
                headers={"x-api-key": "token of every"},
                checks=[not_a_server_error, status_code_conformance],
            )

        ask()
        asked += 1
    assert asked == 20


def test_suppressed_cells_are_marked_on_every_way_out(tmp_path):
    settings_ = {"studies.core.min_cell": 11}
    with studying.workspace(tmp_path, **settings_) as space:
        small = pa.concat_tables([CUBE, studying.table((3, "x", None), (3, "x", "=1+1"))])
        small = small.set_column(0, "cnt", pa.array([63, 40, 20, 63, 40, 20, 3, 3]))
        studying.send_cube(space, "ucd", small)
        Keys(space.ledger).add("every", "t", [], [])
        client = TestClient(create_app(space, process=False), headers={"x-api-key": "t"})
        told = client.get(CHART, params={"column": "sex"}).json()
        rows = dict(told["data"][0]["rows"])
        assert rows["x"] is None
        assert rows["m"] is None  # or else a subtraction would tell
        path = client.get("/aggregates").json()[0]
        table = client.get("/from-parquet/", params={"s3_path": path, "type": "json"}).json()
        assert all(row["cnt"] is None or row["cnt"] >= 11 for row in table)
        asked = {"s3_path": path, "marks": True}
        marked = client.get("/from-parquet/", params=asked | {"type": "json"}).json()
        assert [{name: row[name] for name in table[0]} for row in marked] == table
        for row in marked:
            assert row["suppressed"] == (row["cnt"] is None)
            assert (row["sites_reported"], row["sites_absent"]) == (1, 0)
            assert row["sites_suppressed"] == int(row["suppressed"])
        lines = client.get("/from-parquet/", params=asked).text.splitlines()
        assert lines[0].endswith(",suppressed,sites_reported,sites_suppressed,sites_absent")
        assert lines[-1].endswith(",True,1,1,0")


def test_rounded_counts_are_rounded_on_every_way_out(tmp_path):
    exact = [63, 41, 22, 63, 41, 22]  # those alike are of the same people
    told = {63: {60, 65}, 41: {40, 45}, 22: {20, 25}}
    settings_ = {
        "studies.core.min_cell": 5,
        "studies.core.round_to": 5,
        "subscriptions.warehouse": str(tmp_path / "warehouse.duckdb"),
    }
    with studying.workspace(tmp_path, **settings_) as space:
        cube = CUBE.set_column(0, "cnt", pa.array(exact))
        studying.send_cube(space, "ucd", cube)
        one = studying.package(space)
        released = studying.read(space, one.key)
        assert studying.read(space, one.released.key).equals(released)
        assert released["rounded_to"].to_pylist() == [5] * 12
        seen = {row["sex"]: row["cnt"] for row in released.to_pylist()}
        assert all(seen[sex] in told[n] for sex, n in ((None, 63), ("f", 41), ("m", 22)))
        assert (one.round_to, one.total) == (5, seen[None])
        assert max(studying.read(space, one.merged.key)["cnt"].to_pylist()) == 63
        rows = [tuple(row.values()) for row in released.to_pylist()]
        counts = sorted(row[0] for row in rows)
        for key in (one.csv.key, next(s.key for s in space.store.list("csv_aggregates/"))):
            lines = list(csv.DictReader(io.StringIO(space.store.read(key).decode())))
            assert sorted(int(line["cnt"]) for line in lines) == counts
            assert {line["rounded_to"] for line in lines} == {"5"}
        with duckdb.connect(tmp_path / "warehouse.duckdb", read_only=True) as warehouse:
            assert warehouse.sql("FROM core__count__000").fetchall() == rows

        Keys(space.ledger).add("every", "t", [], [])
        client = TestClient(create_app(space, process=False), headers={"x-api-key": "t"})
        about = client.get("/data-packages/core__count__000").json()
        assert (about["round_to"], about["total"]) == (5, seen[None])
        chart = client.get(CHART, params={"column": "sex"}).json()
        assert dict(chart["data"][0]["rows"]) == {"f": seen["f"], "m": seen["m"]}
        assert (chart["round_to"], chart["totalCount"]) == (5, seen["f"] + seen["m"])
        asked = {"s3_path": client.get("/aggregates").json()[0], "type": "json"}
        plain = client.get("/from-parquet/", params=asked).json()
        assert sorted(row["cnt"] for row in plain) == counts
        marked = client.get("/from-parquet/", params=asked | {"marks": True}).json()
        assert all(row["rounded_to"] == 5 for row in marked)

        add_people(space)
        viewer = Looker(create_app(space, process=False))
        viewer.sign_in("viewer")
        page = viewer.get("/api/charts/core__count__000", params={"column": "sex"}).json()
        assert {row["value"]: row["count"] for row in page["rows"]} == {
            sex: seen[sex] for sex in ("f", "m")
        }
        text = viewer.get("/api/charts/core__count__000/chart.csv", params={"column": "sex"}).text
        assert [line.rpartition(",")[2] for line in text.splitlines()] == ["rounded to", "5", "5"]
        for path in ("/ui/charts/core__count__000", "/ui/studies", "/ui/studies/core"):
            assert re.search(
                r"ounded\b[^<]* to (a multiple|multiples)? ?(of )?5", viewer.get(path).text
            )


def test_marks_of_rows_have_names_of_their_own(tmp_path):
    with studying.workspace(tmp_path) as space:
        studying.send_cube(
            space, "ucd", studying.table((5, None, None), (2, "a", "b"), names=MARKED)
        )
        Keys(space.ledger).add("every", "t", [], [])
        client = TestClient(create_app(space, process=False), headers={"x-api-key": "t"})
        asked = {"s3_path": client.get("/aggregates").json()[0], "marks": True, "type": "json"}
        rows = client.get("/from-parquet/", params=asked).json()
        assert [row["suppressed__"] for row in rows] == [False] * 4
        assert [tuple(row[name] for name in MARKED) for row in rows[2:]] == [("a", "b")] * 2


def test_a_manifest_may_hold_numbers_that_json_has_not(tmp_path):
    with studying.workspace(tmp_path) as space:
        manifest = study_zip("core", {"count": CUBE}, manifest="a = inf\nb = nan")
        studying.send(space, "ucd", manifest)
        Keys(space.ledger).add("every", "t", [], [])
        client = TestClient(create_app(space, process=False), headers={"x-api-key": "t"})
        told = client.get("/studies/core/versions/@latest").raise_for_status().json()
        assert told["manifest"] == {"a": "Infinity", "b": "NaN"}


def test_marks_tell_how_many_sites_are_in_a_cell(tmp_path):
    """As an addition: what the chart says without them stays as it is."""
    one = studying.table(
        (60, None, None), (40, "f", None), (20, "m", None), (30, None, "x"), (30, "f", "x"),
        (30, None, "y"), (10, "f", "y"), (20, "m", "y"),
    )  # fmt: skip
    two = studying.table(
        (53, None, None), (50, "f", None), (3, "m", None), (53, None, "x"), (50, "f", "x"),
        (3, "m", "x"),
    )  # fmt: skip
    with studying.workspace(tmp_path, **{"studies.core.min_cell": 5}) as space:
        studying.send_cube(space, "ucd", one)
        studying.send_cube(space, "uw", two)
        Keys(space.ledger).add("k", "token", *scopes(["all"]))
        client = TestClient(create_app(space, process=False))

        def told(**params):
            headers = {"x-api-key": "token"}
            plain = client.get(CHART, params=params, headers=headers).raise_for_status()
            full = client.get(CHART, params=params | {"marks": "true"}, headers=headers).json()
            assert (
                plain.headers["etag"]
                != client.get(CHART, params=params | {"marks": "true"}, headers=headers).headers[
                    "etag"
                ]
            )
            marks = full.pop("marks")
            assert full.pop("sites") == 2
            assert full == plain.json()
            return marks

        by_site = {
            (r["sex"], r["race"], r["site"]): r["cnt"]
            for r in studying.read(space, studying.package(space).key).to_pylist()
        }
        hidden = [k for k, count in by_site.items() if k[2] and count is None]
        gone = sum(k[:2] == ("m", None) for k in hidden)
        assert gone
        assert told(column="sex") == [["f", 2, sum(k[:2] == ("f", None) for k in hidden), 0],
                                      ["m", 2, gone, 0]]  # fmt: skip
        assert [row[:3] + row[4:] for row in told(column="sex", stratifier="race")] == [
            ["x", "f", 2, 0], ["x", "m", 1, 1], ["y", "f", 1, 1], ["y", "m", 1, 1],
        ]  # fmt: skip
        assert [row[:2] for row in told(column="race", filter="site:isNull")] == [
            ["x", 2],
            ["y", 1],
        ]
        assert [row[:2] + row[3:] for row in told(column="race", filter="sex:strEq:m")] == [
            ["x", 1, 1], ["y", 1, 1],
        ]  # fmt: skip
        sites = told(column="site", stratifier="race")
        assert [row[:3] + row[4:] for row in sites] == [
            ["x", "ucd", 1, 0], ["x", "uw", 1, 0], ["y", "ucd", 1, 0],
        ]  # fmt: skip
        one_site = told(column="race", filter="site:strEq:uw")
        assert [row[:2] for row in one_site] == [["x", 1]]


@pytest.mark.parametrize("value", [[1], {}, [], {"a": 1}, 0, False, "x"])
@pytest.mark.parametrize("operator", ["isNull", "isNone", "isTrue"])
def test_an_operator_without_a_value_takes_none(ask, operator, value):
    answer = ask(CHART, column="sex", where=json.dumps({"any": [["race", operator, value]]}))
    assert (answer.status_code, answer.json()["kind"]) == (400, "bad-filter")


def test_the_latest_version_is_the_greatest_number(tmp_path):
    with studying.workspace(tmp_path) as space:
        for version in (2, 999, 1000):
            data = study_zip("core", {}, manifest=f'study_prefix = "core"\nv = {version}\n')
            studying.send(space, "ucd", data, version=version)
        Keys(space.ledger).add("every", "token", *scopes(["all"]))
        client = TestClient(create_app(space, process=False), headers={"x-api-key": "token"})
        assert client.get("/studies/core").json()["versions"] == ["002", "999", "1000"]
        latest = client.get("/studies/core/versions/@latest").json()
        assert (latest["version"], latest["manifest"]["v"]) == ("1000", 1000)


def test_a_package_that_is_told_otherwise_has_another_tag(tmp_path):
    with studying.workspace(tmp_path) as space:
        studying.send_cube(space, "ucd", CUBE)
        Keys(space.ledger).add("every", "token", *scopes(["all"]))
        client = TestClient(create_app(space, process=False), headers={"x-api-key": "token"})
        (one,) = client.get("/data-packages").json()
        path = f"/data-packages/{one['id']}"
        tag = client.get(path).headers["etag"]
        assert client.get(path, headers={"if-none-match": tag}).status_code == 304
        studying.send_cube(space, "ucd", studying.table((70, None, None), (70, "f", None)))
        studying.send_cube(space, "ucd", CUBE)  # the same bytes as before, at another time
        answer = client.get(path, headers={"if-none-match": tag})
        assert answer.status_code == 200
        assert answer.json()["last_data_update"] > one["last_data_update"]
