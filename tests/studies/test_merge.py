"""The merge is the model's, whatever was there before; and its bytes depend on its content only."""

from __future__ import annotations

import csv
import io
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.core.store import open_store
from catchment.studies import assembly, blocks, capability, check, coded, library, values
from catchment.studies.marks import NAMES
from catchment.studies.merge import Merged, Policy, merge, unified
from catchment.studies.model import Kind, Part
from catchment.testing.studies import cube, make_people, parquet, wide_cube
from tests.studies.studying import (
    CUBE,
    DATA,
    model,
    package,
    published,
    read,
    rows_of,
    send_cube,
    table,
    workspace,
)

OPEN = Policy(0, 1)
EXACT = NAMES[:-1]  # of counts that are not rounded
PLACE = ("core", "count", 0)


def part(store, site, content, number=0) -> Part:
    """The part of a cube, by the door that every cube takes."""
    data = parquet(content)
    key = f"in/{site}-{number}"
    store.put(key, data, mode="overwrite")
    digest = f"sha256:{abs(hash((site, number, data))):064x}"
    checked = check.check(
        store, key, digest, Kind.CUBE, "count", f"parts/{site}/", check.DEFAULT_LIMITS, site
    )
    assert checked.facts is not None, checked.problems
    facts = checked.facts
    return Part(site, digest, facts.part, facts.part_digest, facts.rows, facts.total, facts.columns)


def content(store, made: Merged) -> list[tuple]:
    import pyarrow.parquet as pq

    return rows_of(pq.read_table(io.BytesIO(store.read(made.merged.key))))


WORDS = st.one_of(
    st.none(), st.sampled_from(["f", "m", "", "=1+1", "a,b", 'q"q', "é", "cumulus__none"])
)
COUNTS = st.integers(0, 40) | st.integers(1, 3)
ROWS = st.dictionaries(st.tuples(WORDS, WORDS), COUNTS, min_size=1, max_size=16)
SITES = st.sampled_from(["a", "ab", "a_b", "b"])


@settings(max_examples=80, deadline=None)
@given(
    first=st.dictionaries(SITES, ROWS, min_size=1),
    then=st.lists(st.tuples(SITES, st.none() | ROWS), max_size=3),
    sizes=st.sampled_from([(4096, 1 << 18), (2, 3), (1, 1), (3, 100)]),
)
def test_a_merge_is_the_model_and_how_it_came_about_does_not_matter(first, then, sizes):
    """Whichever rows are blocks that are copied."""
    least, most = sizes
    with patch.multiple(blocks, LEAST=least, MOST=most):
        merges_are_the_model(first, then)


def merges_are_the_model(first, then):
    store = open_store("memory://merge")
    for stat in list(store.list()):
        store.delete(stat.key)
    cubes = {site: as_table(rows) for site, rows in first.items()}
    parts = {site: part(store, site, cube) for site, cube in cubes.items()}
    before = merge(store, PLACE, parts.values(), OPEN)
    assert content(store, before) == model(cubes)
    for number, (site, rows) in enumerate(then, 1):
        if rows is None:
            if len(cubes) > 1:
                cubes.pop(site, None)
                parts.pop(site, None)
        else:
            cubes[site] = as_table(rows)
            parts[site] = part(store, site, cubes[site], number)
        before = merge(store, PLACE, parts.values(), OPEN, before)
        assert content(store, before) == model(cubes)
    again = merge(store, PLACE, parts.values(), OPEN, again=True)
    assert again == before
    assert again.total == max(row[0] for row in model(cubes))
    assert again.rows == len(model(cubes))
    lines = list(csv.reader(io.StringIO(store.read(again.csv.key).decode())))
    assert lines[0] == ["cnt", "sex", "race", "site"]
    assert lines[1:] == [[guarded(cell) for cell in row] for row in model(cubes)]


def as_table(rows) -> pa.Table:
    return table(*((count, *key) for key, count in rows.items()))


def guarded(cell) -> str:
    if isinstance(cell, str) and cell[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return f"'{cell}"
    return "" if cell is None else str(cell)


def test_every_plain_type_goes_through():
    import datetime as dt

    store = open_store("memory://types")
    day = dt.date(2024, 5, 1)
    content_ = pa.table(
        {
            "cnt": pa.array([9, 4, 3, 2], pa.int32()),
            "n": pa.array([None, 1, -2, None], pa.int16()),
            "x": pa.array([None, 0.5, -0.0, None], pa.float32()),
            "b": pa.array([None, True, False, None]),
            "d": pa.array([None, day, None, day], pa.date32()),
            "t": pa.array(
                [None, dt.datetime(2024, 5, 1, 8, tzinfo=dt.UTC), None, None],
                pa.timestamp("ms", "UTC"),
            ),
            "s": pa.array([None, "x", "y", None]).dictionary_encode(),
            "l": pa.array([None, "x", "y", None], pa.large_string()),
            "e": pa.nulls(4),
        }
    )
    made = merge(store, PLACE, [part(store, "a", content_), part(store, "b", content_)], OPEN)
    found = content(store, made)
    assert found[0] == (18, *[None] * 8, None)
    assert (8, 1, 0.5, True, day, dt.datetime(2024, 5, 1, 8), "x", "x", None, None) in found
    assert len(found) == 12
    assert {name: column.type for name, column in made.columns.items()} == {
        "cnt": "integer", "n": "integer", "x": "float", "b": "boolean", "d": "string",
        "t": "string", "s": "string", "l": "string", "e": "string", "site": "string",
    }  # fmt: skip
    assert made.columns["n"].distinct == 2
    text = store.read(made.csv.key).decode().splitlines()
    assert text[0] == "cnt,n,x,b,d,t,s,l,e,site"
    assert text[1] == "18,,,,,,,,,"


def test_a_column_that_one_site_never_filled_takes_the_others_type():
    store = open_store("memory://empty-column")
    full = pa.table({"cnt": [2, 1], "sex": [None, "f"], "age": [None, 7]})
    bare = pa.table({"cnt": [3], "sex": pa.nulls(1), "age": pa.nulls(1)})
    parts = [part(store, "a", bare), part(store, "b", full)]
    assert unified(parts) == {"sex": "string", "age": "int64"}
    made = merge(store, PLACE, parts, OPEN)
    assert content(store, made)[:2] == [(5, None, None, None), (3, None, None, "a")]


def test_many_columns_of_many_values_still_have_keys():
    """The product of their sizes is beyond 64 bits."""
    store = open_store("memory://wide")
    names = [f"c{n}" for n in range(30)]
    rows = [(n + 1, *(f"{n}-{c}" for c in range(30))) for n in range(40)]
    one = table(*rows, names=names)
    made = merge(store, PLACE, [part(store, "a", one), part(store, "b", one)], OPEN)
    assert made.rows == 120
    assert content(store, made)[0][0] == 80


@pytest.mark.parametrize("least", [1, 4096])
def test_columns_may_come_in_any_order(monkeypatch, least):
    """And when the first site leaves, the order is that of the next."""
    monkeypatch.setattr(blocks, "LEAST", least)
    store = open_store("memory://order")
    one = cube([{"sex": p["gender"], "race": p["race"]} for p in make_people(3, 30)])
    other = cube([{"race": p["race"], "sex": p["gender"]} for p in make_people(4, 30)])
    parts = [part(store, "b", other), part(store, "a", one)]
    same = other.select(["cnt", "sex", "race"])
    for _ in range(2):  # the second time, the part in another order is there
        made = merge(store, PLACE, parts, OPEN, again=True)
        assert content(store, made) == model({"a": one, "b": same})
        assert len(store.read(made.csv.key).splitlines()) == made.rows + 1
    last = merge(store, PLACE, parts[:1], OPEN, made)
    assert content(store, last) == model({"b": other})


def test_blocks_are_copied_and_every_reader_reads_the_merge(tmp_path, monkeypatch):
    """A site that did not change is not encoded again."""
    import duckdb
    import polars as pl

    store = open_store(tmp_path.as_uri())
    cubes = {site: wide_cube(number, 30_000) for number, site in enumerate(("a", "b", "c"))}
    parts = {site: part(store, site, cube) for site, cube in cubes.items()}
    before = merge(store, PLACE, parts.values(), OPEN)
    cubes["b"] = wide_cube(7, 20_000)
    parts["b"] = part(store, "b", cubes["b"], 1)
    written = []
    real = coded.batch
    monkeypatch.setattr(
        coded, "batch", lambda *a, **k: written.append(made := real(*a, **k)) or made
    )
    made = merge(store, PLACE, parts.values(), OPEN, before)
    known = model(cubes)
    assert 3 * sum(batch.num_rows for batch in written) < 2 * 2 * len(known)
    assert content(store, made) == known
    path = str(store.path(made.merged.key))
    assert pl.read_parquet(path).rows() == known
    assert duckdb.connect().read_parquet(path).fetchall() == known
    read = pl.read_csv(store.path(made.csv.key), schema_overrides={"site": pl.String})
    assert read["cnt"].to_list() == [row[0] for row in known]
    assert read["site"].to_list() == [row[-1] for row in known]


def test_a_package_that_becomes_open_gets_its_text(tmp_path):
    """The CSV of a part that was checked for a release of its own is made when it is wanted."""
    with workspace(tmp_path, **{"studies.core.min_cell": 5}) as space:
        send_cube(space, "a", CUBE)
    with workspace(tmp_path) as space:
        capability.run(space, "core")
        assert published(space) == model({"a": CUBE})
        text = list(csv.reader(io.StringIO(space.store.read(package(space).csv.key).decode())))
        assert len(text) == len(model({"a": CUBE})) + 1


def test_counts_near_the_limit_do_not_run_over():
    store = open_store("memory://large")
    most = table((values.MAX_COUNT, None, None), (1, "f", None))
    made = merge(store, PLACE, [part(store, s, most) for s in ("a", "b", "c")], OPEN)
    assert made.total == 3 * values.MAX_COUNT
    assert coded.order(
        *map(__import__("numpy").array, ([1 << 61, 5, 1 << 61], [1, 0, 0]))
    ).tolist() == [2, 0, 1]


def test_two_large_sites_are_the_model():
    store = open_store("memory://two")
    cubes = {site: wide_cube(number, 2000) for number, site in enumerate(("a", "b"))}
    made = merge(store, PLACE, [part(store, s, c) for s, c in cubes.items()], OPEN)
    assert content(store, made) == model(cubes)


def test_what_is_below_the_smallest_cell_is_not_released(tmp_path):
    """The merge stays inside; what people find, and the CSV, are the release."""
    with workspace(tmp_path, **{"studies.core.min_cell": 11}) as space:
        people = make_people(1, 60)
        send_cube(space, "a", cube(people))
        (one,) = library.packages(space)
        seen = read(space, one.key)
        assert one.min_cell == 11
        assert one.released.key != one.merged.key
        assert all(count is None or count >= 11 for count in seen["cnt"].to_pylist())
        assert min(read(space, one.merged.key)["cnt"].to_pylist()) < 11
        text = list(csv.reader(io.StringIO(space.store.read(one.csv.key).decode())))
        assert len(text) == seen.num_rows + 1
        assert (*one.marked,) == EXACT
        assert one.marks is None
        assert text[0] == seen.column_names == ["cnt", *list(one.columns)[1:], *EXACT]
        marks = seen.select(EXACT)
        assert [row[-4:] for row in text[1:]] == [
            [str(flag).lower(), *map(str, numbers)]
            for flag, *numbers in zip(*marks.to_pydict().values(), strict=True)
        ]
        assert seen["suppressed"].to_pylist() == [n is None for n in seen["cnt"].to_pylist()]
        assert [row[0] == "" for row in text[1:]] == marks["suppressed"].to_pylist()


def test_another_smallest_cell_merges_nothing_again(tmp_path, monkeypatch):
    for size in (5, 11, 5):
        with workspace(tmp_path, **{"studies.core.min_cell": size}) as space:
            if size == 5 and not library.packages(space):
                send_cube(space, "a", cube(make_people(1, 60)))
                merged = package(space).merged
                monkeypatch.setattr(assembly.Work, "read", None)  # it would be called to merge
            capability.run(space, "core")
            assert package(space).merged == merged
            assert package(space).min_cell == size
            shown = [n for n in read(space, package(space).key)["cnt"].to_pylist() if n is not None]
            assert min(n for n in shown if n) >= size


@pytest.mark.skipif(not DATA.exists(), reason="the shared sample data is not here")
def test_a_merge_of_the_sample_is_what_the_public_system_made():
    import pyarrow.parquet as pq

    folder = DATA / "studies"
    store = open_store("memory://sample")
    known = pq.read_table(folder / "count_synthea_patient_agg.parquet")
    source = pq.read_table(folder / "count_synthea_patient.parquet")
    made = merge(
        store, PLACE, [part(store, "princeton_plainsboro_teaching_hospital", source)], OPEN
    )
    assert sorted(map(str, content(store, made))) == sorted(map(str, rows_of(known)))
    assert [row[0] for row in content(store, made)] == known["cnt"].to_pylist()
    assert made.total == 1103
