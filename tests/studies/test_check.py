"""What may enter a merge: each reason for which a file is refused, and hostile files in children."""

from __future__ import annotations

import pyarrow as pa
import pytest

from catchment.core.errors import CatchmentError
from catchment.core.store import open_store
from catchment.studies import check, library, parquet
from catchment.studies.check import Limits
from catchment.studies.columns import chart_type
from catchment.studies.model import Kind
from catchment.testing.studies import parquet as to_parquet
from catchment.testing.studies import study_zip
from tests.studies.studying import (
    CUBE,
    DATA,
    codes,
    model,
    package,
    published,
    send,
    send_cube,
    send_zip,
    stage,
    table,
    whole,
    workspace,
)


def refused(**columns):
    return pa.table(columns)


BAD = {
    "cube-empty": refused(cnt=pa.array([], pa.int64()), sex=pa.array([], pa.string())),
    "cube-columns": refused(cnt=[1]),
    "cube-columns ": refused(n=[1], sex=["f"]),
    "cube-site-column": refused(cnt=[1], site=["b"]),
    "cube-site-column ": refused(cnt=[1], Site=["b"]),
    "cube-index-column": refused(cnt=[1], sex=["f"], __index_level_0__=[0]),
    "cube-count-type": refused(cnt=["60"], sex=["f"]),
    "cube-count-type ": refused(cnt=[5.9], sex=["f"]),
    "cube-count-type  ": refused(cnt=[True], sex=["f"]),
    "cube-count-null": refused(cnt=[1, None], sex=["f", "m"]),
    "cube-count-range": refused(cnt=[-1], sex=["f"]),
    "cube-count-range ": refused(cnt=[10**15 + 1], sex=["f"]),
    "cube-count-range  ": refused(cnt=pa.array([2**64 - 1], pa.uint64()), sex=["f"]),
    "cube-nan": refused(cnt=[1], x=[float("nan")]),
    "cube-nan ": refused(cnt=[1, 2], x=[None, float("inf")]),
    "cube-date-range": refused(cnt=[1], x=pa.array([2932897], pa.int32()).cast(pa.date32())),
    "cube-date-range ": refused(cnt=[1], x=pa.array([-(2**62)]).cast(pa.timestamp("us"))),
    "cube-column-type": refused(cnt=[1], x=[[1, 2]]),
    "cube-column-type ": refused(cnt=[1], x=pa.array([2**64 - 1], pa.uint64())),
    "cube-column-type  ": refused(cnt=[1], x=[b"bytes"]),
    "cube-column-type   ": refused(cnt=[1], x=pa.array([b"x"]).dictionary_encode()),
    "cube-long-value": refused(cnt=[1], x=["x" * 5000]),
    "cube-duplicate-keys": refused(cnt=[1, 2], sex=["f", "f"]),
    "cube-duplicate-keys ": refused(cnt=[1, 2], x=[0.0, -0.0]),
}


@pytest.mark.parametrize("code", BAD)
def test_what_cannot_be_merged_is_refused_and_the_last_valid_one_stays(space, code):
    send_cube(space, "a", CUBE)
    done = send_cube(space, "a", BAD[code])
    assert codes(done) == [code.strip()]
    assert done.files[0].findings[0].hint
    assert published(space) == model({"a": CUBE})
    whole(space)


def test_another_sites_columns_and_types_are_the_measure(space):
    send_cube(space, "a", CUBE)
    assert codes(send_cube(space, "b", CUBE.slice(0, 3).drop_columns(["race"]))) == [
        "cube-columns-differ"
    ]
    other = pa.table({"cnt": [1], "sex": [True], "race": ["x"]})
    assert codes(send_cube(space, "b", other)) == ["cube-types-differ"]
    # A site that is alone may change its own mind.
    assert send_cube(space, "a", other).accepted
    assert send_cube(space, "b", other).accepted
    assert codes(send_cube(space, "b", CUBE)) == ["cube-types-differ"]
    assert published(space) == model({"a": other, "b": other})


def test_versions_never_mix(space):
    send_cube(space, "a", CUBE)
    send_cube(space, "b", table((7, "f"), names=("sex",)), version=2)
    assert published(space) == model({"a": CUBE})
    assert published(space, version=2) == model({"b": table((7, "f"), names=("sex",))})


def test_a_package_comes_once_in_an_upload(space):
    cube, other = (to_parquet(table((n, "f", None))) for n in (1, 2))
    done = send_zip(
        space, "a", {"core__count.cube.parquet": cube, "core__count.annotated_cube.parquet": other}
    )
    assert codes(done) == ["package-twice"]
    assert published(space)[0][0] == 1


def test_other_tables_are_checked_too(space):
    flat = pa.table({"resource": ["A", "B"], "percentage": [40.0, None], "n": [1, 1]})
    done = send_zip(space, "a", {
        "core__q.flat.parquet": to_parquet(flat),
        "core__broken.flat.parquet": b"PAR1",
        "core__meta_date.meta.parquet": to_parquet(pa.table({"day": [1]})),
        "core__meta_version.meta.parquet": to_parquet(pa.table({"data_package_version": [1.0]})),
        "manifest.toml": b"a = [",
    })  # fmt: skip
    assert [f.accepted for f in done.files] == [True, False, False, True, False]
    assert codes(done) == ["parquet-unreadable", "meta-date-columns", "manifest-unreadable"]
    (one,) = library.packages(space)
    assert (one.id, one.kind, one.site, one.rows) == ("core__q__a__000", "flat", "a", 2)
    assert {n: (c.type, c.distinct) for n, c in one.columns.items()} == {
        "resource": ("string", 2), "percentage": ("double", 1), "n": ("integer", 1),
    }  # fmt: skip
    assert one.key == "flat/core/core__q/a/000/core__q.flat.parquet"
    assert space.store.read(one.key) == to_parquet(flat)
    assert codes(send(space, "b", b"x" * (5 << 20), name="manifest.toml")) == [
        "manifest-unreadable"
    ]


def test_periods_are_read_however_dates_are_written(space):
    import datetime as dt

    for site, low, high in (
        ("a", ["2020-01-05"], ["2021-02-03"]),
        ("b", [dt.datetime(2020, 1, 5)], [dt.datetime(2021, 2, 3)]),
        ("c", [18266], [18661]),
        ("d", [dt.date(2020, 1, 5), None], [None, dt.date(2021, 2, 3)]),
    ):
        content = to_parquet(pa.table({"min_date": low, "max_date": high}))
        send(space, site, content, name="core__meta_date.meta.parquet")
    none = pa.table({"min_date": pa.nulls(1), "max_date": pa.nulls(1)})
    send(space, "e", to_parquet(none), name="core__meta_date.meta.parquet")
    found = {p.site: (p.earliest_date, p.latest_date) for p in library.periods(space)}
    assert found == dict.fromkeys("abcd", ("2020-01-05", "2021-02-03")) | {"e": ("", "")}


@pytest.mark.parametrize(
    "value",
    [
        *([1], {"a": 1}, 10**12, -(10**7), 1.5, float("nan"), True, b"2020-01-01", "<script>"),
        *(pa.scalar(2**62, pa.timestamp("us")), pa.scalar(2**31 - 1, pa.date32())),
    ],
)
def test_periods_are_of_dates_only(space, value):
    scalar = value if isinstance(value, pa.Scalar) else pa.scalar(value)
    column = pa.array([value.value if scalar is value else value], scalar.type)
    content = to_parquet(pa.table({"min_date": column, "max_date": column}))
    done = send(space, "a", content, name="core__meta_date.meta.parquet")
    assert codes(done) == ["meta-date-values"]
    assert library.periods(space) == []


def test_flat_tables_may_have_columns_of_any_type(space):
    flat = pa.table({
        "list": [[1], [1], [2]], "struct": [{"a": 1}, {"a": 2}, None], "none": pa.nulls(3),
        "text": pa.array(["x", "y", "x"]).dictionary_encode(),
    })  # fmt: skip
    done = send(space, "a", to_parquet(flat), name="core__q.flat.parquet")
    assert codes(done) == []
    (one,) = library.packages(space)
    assert {n: c.distinct for n, c in one.columns.items()} == {
        "list": 2, "struct": 2, "none": 0, "text": 2,
    }  # fmt: skip


def test_numbers_of_a_manifest_that_json_has_not_are_text(space):
    manifest = study_zip("core", {"count": CUBE}, manifest="a = inf\nb = [nan, -inf]\nc = 1.5")
    assert codes(send(space, "a", manifest)) == []
    (one,) = library.manifests(space)
    assert one.content == {"a": "Infinity", "b": ["NaN", "-Infinity"], "c": 1.5}


def test_a_folder_that_is_called_like_a_partition_adds_no_column(tmp_path):
    with workspace(tmp_path / "sex=f") as space:
        assert codes(send_cube(space, "a", CUBE)) == []
        assert published(space) == model({"a": CUBE})


def test_the_first_manifest_counts_and_a_conflict_is_told(space):
    def manifest(text):
        return study_zip("core", {"count": CUBE}, manifest=text)

    assert codes(send(space, "b", manifest("title = 'B'"))) == []
    assert codes(send(space, "a", manifest("title = 'A'"))) == ["manifest-conflict"]
    assert codes(send(space, "c", manifest("title='B'  # the same"))) == []
    (one,) = library.manifests(space)
    assert (one.owner, one.content, one.conflicts) == ("b", {"title": "B"}, ("a",))


def test_names_that_are_parts_of_others_are_others(space):
    cubes = {site: table((n, "f", None)) for n, site in enumerate(("a", "ab", "a_b", "b"), 2)}
    for site, cube in cubes.items():
        send_cube(space, site, cube)
    assert published(space) == model(cubes)
    cubes["a"] = table((50, "m", None))
    send_cube(space, "a", cubes["a"])
    assert published(space) == model(cubes)
    assert package(space).sites == ("a", "a_b", "ab", "b")


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("onset_month", "string", "month"), ("day", "string", "day"), ("dayroom", "string", "string"),
        ("birthday", "string", "string"), ("week", "int64", "week"), ("cnt_x", "string", "integer"),
        ("n", "uint8", "integer"), ("x", "double", "float"), ("ok", "bool", "boolean"),
        ("median", "string", "double"), ("std_dev", "double", "double"), ("s", "string", "string"),
    ],
)  # fmt: skip
def test_column_types_follow_the_reference(name, kind, expected):
    assert chart_type(name, kind) == expected


def test_limits_are_held_by_the_footer(tmp_path):
    store = open_store("memory://limits")
    store.put("x", to_parquet(CUBE), mode="overwrite")
    for limits in (Limits(rows=3), Limits(columns=2), Limits(decoded=10)):
        found = check.check(store, "x", "sha256:0", Kind.CUBE, "p", "l/", limits, "s")
        assert found.problems[0].code == "parquet-too-large"
    path = tmp_path / "x.parquet"
    path.write_bytes(to_parquet(pa.table([[1], [2]], names=["a", "A"])))
    with pytest.raises(CatchmentError) as error:
        parquet.read(path, 10, 10, 10**6)
    assert error.value.kind == "parquet-disagreement"


def test_two_readers_must_see_the_same(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    path.write_bytes(to_parquet(CUBE))

    class Other:
        columns = ("cnt", "sex")

    import duckdb

    real = duckdb.connect

    class Connection:
        def __init__(self):
            self.real = real()

        def __getattr__(self, name):
            return getattr(self.real, name)

        def read_parquet(self, *_, **__):
            return Other()

    monkeypatch.setattr(duckdb, "connect", Connection)
    with pytest.raises(CatchmentError, match="two readers"):
        parquet.read(path, 10, 10, 10**6)


@pytest.mark.skipif(not DATA.exists(), reason="the shared sample data is not here")
def test_hostile_files_hurt_nobody(tmp_path):
    """Each is refused with a finding, or is a table; the good file beside them is merged."""
    files = [*DATA.glob("hostile/made/*.parquet"), *DATA.glob("hostile/parquet/bad_data/*.parquet")]
    assert len(files) > 5
    with workspace(tmp_path, kind="processes", **{"executor.memory": 600}) as space:
        members = {f"core__bad{n}.cube.parquet": f.read_bytes() for n, f in enumerate(files)}
        flats = {f"core__bad{n}.flat.parquet": f.read_bytes() for n, f in enumerate(files)}
        good = {"core__count.cube.parquet": to_parquet(CUBE)}
        done = send_zip(space, "a", members | flats | good)
        assert done.files[-1].accepted
        cubes = done.files[: len(files)]
        assert not any(file.accepted for file in cubes)
        assert all(file.findings for file in cubes)
        assert published(space) == model({"a": CUBE})
        whole(space)


def test_an_upload_whose_reader_dies_is_refused(tmp_path, monkeypatch):
    from catchment.core.errors import Invalid
    from catchment.studies import intake

    def dies(*_, **__):
        raise Invalid("the reader used more than 1 MiB of memory", kind="reader-memory")

    with workspace(tmp_path) as space:
        monkeypatch.setattr(intake, "take_in", dies)
        done = send(space, "a", b"anything")
        assert codes(done) == ["reader-memory"]
        monkeypatch.undo()
        monkeypatch.setattr(check, "check", dies)
        assert codes(send_cube(space, "a", CUBE)) == ["reader-memory"]
        stage(space, "a", b"")
