"""Suppression at release: an attacker who knows how cubes are made finds out no hidden cell."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv

from catchment.studies.disclosure import release
from tests.studies import attacker

DATA = Path(__file__).parents[3] / "shared" / "data" / "studies"
CUBES = [
    "core__count_patient.cube.csv",
    "core__count_condition_month.cube.csv",
    "core__count_medicationrequest_month.cube.csv",
    "count_synthea_patient.parquet",
    "mock_cube_col_types.parquet",
    "cube_strings_with_commas.parquet",
    "other_schema.parquet",
]


def read(name: str) -> pa.Table:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no sample data: {path}")
    if name.endswith(".parquet"):
        return pq.read_table(path)
    names = path.read_text().partition("\n")[0].split(",")
    kinds = {n: pa.int64() if n == "cnt" else pa.string() for n in names}
    convert = csv.ConvertOptions(column_types=kinds, strings_can_be_null=True)
    return csv.read_csv(path, convert_options=convert)


def merged(*parts: pa.Table) -> pa.Table:
    """As the merge does: each site's rows once under its name, and all sites' together."""
    names = [n for n in parts[0].column_names if n != "cnt"]
    named = [
        p.append_column("site", pa.array([f"s{n}"] * p.num_rows, pa.string()))
        for n, p in enumerate(parts)
    ]
    every = pa.concat_tables(parts).group_by(names).aggregate([("cnt", "sum")])
    every = every.rename_columns([*names, "cnt"]).select(["cnt", *names])
    every = every.append_column("site", pa.nulls(every.num_rows, pa.string()))
    return pa.concat_tables([every, *named])


def cube(people: list[list[tuple[str, ...]]], least: int, names: list[str]) -> pa.Table:
    """The cube of people, each of whom may have several combinations of values."""
    counts: Counter[tuple[str | None, ...]] = Counter()
    for combinations in people:
        counts.update(
            {
                tuple(v if keep else None for v, keep in zip(one, kept, strict=True))
                for one in combinations
                for kept in itertools.product([True, False], repeat=len(names))
            }
        )
    rows = sorted(((c, *k) for k, c in counts.items() if c >= least), key=repr)
    columns = list(zip(*rows, strict=True)) or [()] * (len(names) + 1)
    kinds = [pa.int64(), *[pa.string()] * len(names)]
    return pa.table(
        {n: pa.array(c, t) for n, c, t in zip(["cnt", *names], columns, kinds, strict=True)}
    )


@st.composite
def cubes(draw, columns: int = 3, values: int = 3, most: int = 1):
    """A merged cube, a minimum cell size, and the values that people have in each column.

    ``most``: so many combinations of values may a person have.
    """
    width = draw(st.integers(1, columns))
    names = [f"c{n}" for n in range(width)]
    sizes = [draw(st.integers(1, values)) for _ in names]
    combination = st.tuples(*(st.sampled_from([f"v{n}" for n in range(s)]) for s in sizes))
    least = draw(st.sampled_from([0, 0, 2, 3]))
    sites, seen = [], [set() for _ in names]
    for _ in range(draw(st.integers(0, 2)) or 1):
        kinds = draw(st.lists(st.lists(combination, min_size=1, max_size=most), max_size=8))
        often = st.sampled_from([1, 1, 2, 3, 5, 9])
        for combination_ in itertools.chain(*kinds):
            for known, value in zip(seen, combination_, strict=True):
                known.add(value)
        people = [kind for kind in kinds for _ in range(draw(often))]
        sites.append(cube(people, least, names))
    table = merged(*sites) if len(sites) > 1 or draw(st.booleans()) else sites[0]
    return table, draw(st.sampled_from([2, 3, 4, 6])), seen


@settings(max_examples=30, deadline=None)
@given(cubes())
def test_of_people_nothing_is_found_out(drawn):
    table, size, _ = drawn
    truth, seen = attacker.cells(table), attacker.cells(release(table, min_cell=size).table)
    assert seen.keys() == truth.keys()
    assert all(count is None or count == truth[c] for c, count in seen.items())
    assert not any(count is not None and 0 < count < size for count in seen.values())
    assert attacker.solve(truth, seen) == {}


@settings(max_examples=20, deadline=None)
@given(cubes(most=3))
def test_of_people_with_several_values_nothing_is_found_out(drawn):
    table, size, _ = drawn
    truth, seen = attacker.cells(table), attacker.cells(release(table, min_cell=size).table)
    assert attacker.solve(truth, seen) == {}


def held_back(table, size, known):
    """What an attacker finds out who knows all values, and that sites may hold back any cell."""
    truth, seen = attacker.cells(table), attacker.cells(release(table, min_cell=size).table)
    site = table.column_names.index("site") - 1 if "site" in table.column_names else None
    found = attacker.solve(truth, seen, site=site, absent=known)
    return {c: n for c, n in found.items() if c in truth or n < size}


@settings(max_examples=40, deadline=None)
@given(cubes(values=4))
def test_neither_is_what_a_site_held_back_nor_what_it_would_tell(drawn):
    assert held_back(*drawn) == {}


def people(*counts: tuple[str, str, int]) -> list[list[tuple[str, ...]]]:
    return [[(one, other)] for one, other, count in counts for _ in range(count)]


def test_a_cell_that_one_site_held_back_and_another_sent():
    """The sum over all sites is of what was sent: it does not tell that the other has none."""
    one = people(("a", "b", 12), ("a", "a", 1), ("b", "a", 15), ("b", "b", 2))
    two = people(("a", "a", 6), ("a", "b", 19), ("b", "b", 9))
    table = merged(*(cube(them, 3, ["c0", "c1"]) for them in (one, two)))
    assert held_back(table, 3, [["a", "b"], ["a", "b"]]) == {}


def test_a_value_that_no_site_sent():
    one = people(("a", "b", 5), ("a", "c", 5), ("a", "x", 3), ("x", "c", 3), ("x", "x", 1))
    table = cube(one, 5, ["c0", "c1"])
    assert held_back(table, 5, [["a", "x"], ["b", "c", "x"]]) == {}


def test_cells_that_are_part_of_no_sum():
    table = pa.table({"cnt": [1, 9], "c": ["a", "b"]})
    assert release(table, min_cell=3).table.to_pylist() == [
        {"cnt": 9, "c": "b"},
        {"cnt": None, "c": "a"},
    ]


def test_cells_that_few_sites_reported_are_not_shown():
    alone, both = people(("a", "a", 40)), people(("b", "a", 30), ("b", "b", 50))
    table = merged(cube(alone + both, 0, ["c0", "c1"]), cube(both, 0, ["c0", "c1"]))
    free = attacker.cells(release(table, min_cell=5).table)
    assert None not in free.values()
    made = release(table, min_cell=5, min_sites=2)
    truth, seen = attacker.cells(table), attacker.cells(made.table)
    for cell in (("a", None, None), ("a", "a", None), ("a", None, "s0"), ("a", "a", "s0")):
        assert seen[cell] is None
    assert seen[None, None, None] == truth[None, None, None] == 200
    assert attacker.solve(truth, seen, site=2, absent=[["a", "b"], ["a", "b"]]) == {}


def test_marks_tell_how_many_sites_are_in_a_cell():
    one = people(("a", "a", 20), ("b", "a", 2), ("b", "b", 30), ("a", "b", 40))
    two = people(("a", "a", 25), ("b", "b", 30), ("a", "b", 30))
    table = merged(*(cube(them, 0, ["c0", "c1"]) for them in (one, two)))
    made = release(table, min_cell=5, sites=3)
    cells_ = list(attacker.cells(made.table).items())
    for (cell, count), mark in zip(cells_, made.marks.to_pylist(), strict=True):
        parts = [n for c, n in cells_ if c[:2] == cell[:2] and c[2] is not None]
        assert mark == {
            "suppressed": count is None,
            "reported": 1 if cell[2] else len(parts),
            "withheld": int(count is None) if cell[2] else parts.count(None),
            "absent": 0 if cell[2] else 3 - len(parts),
        }
    assert made.suppressed == sum(mark["suppressed"] for mark in made.marks.to_pylist()) > 0


def test_marks_without_sites_tell_only_what_is_suppressed():
    made = release(cube(people(("a", "a", 2), ("b", "b", 9)), 0, ["c0", "c1"]), min_cell=5)
    assert made.marks.column_names == ["suppressed"]


@pytest.mark.parametrize("sites", [False, True])
@pytest.mark.parametrize("name", CUBES)
@pytest.mark.parametrize("size", [11])
def test_of_real_cubes_nothing_is_found_out(name, size, sites):
    table = merged(read(name)) if sites else read(name)
    made = release(table, min_cell=size)
    truth, seen = attacker.cells(table), attacker.cells(made.table)
    assert seen.keys() == truth.keys()
    assert made.suppressed == sum(count is None for count in seen.values())
    assert all(count is None or count == truth[c] for c, count in seen.items())
    assert not any(count is not None and count < size for count in seen.values())
    found = attacker.subtract(truth, seen)
    assert not [c for c, count in found.items() if truth.get(c, min(count, size - 1)) == count]
    if made.suppressed < 40:
        assert attacker.solve(truth, seen) == {}


@pytest.mark.parametrize(
    ("name", "known"),
    [("core__count_patient.cube.csv", 7), ("core__count_medicationrequest_month.cube.csv", 328)],
)
def test_the_attacker_is_one(name, known):
    """Unprotected, the cubes give away what their sites held back."""
    truth = attacker.cells(read(name))
    found = attacker.subtract(truth, truth)
    assert sum(count < 10 for count in found.values()) >= known


def test_in_the_real_cubes_little_more_is_hidden_than_is_small():
    small = hidden = 0
    for name in CUBES[:3]:
        table = read(name)
        small += sum(count < 11 for count in table["cnt"].to_pylist())
        hidden += release(table, min_cell=11).suppressed
    assert (small, hidden) == (927, 2443)


def test_as_many_hidden_cells_as_what_remains_would_be_one_each():
    """They are listed, so each has at least one: then a shown sum of as many tells them all."""
    listed = ["a", "b", "c", "d"]
    table = pa.table({"cnt": [53, 50, 1, 1, 1], "zip": [None, *listed]})
    shown = attacker.cells(release(table, min_cell=3).table)
    assert shown == {(None,): 53, ("a",): None, ("b",): None, ("c",): None, ("d",): None}
    table = pa.table({"cnt": [54, 50, 2, 1, 1], "zip": [None, *listed]})  # which is two?
    shown = attacker.cells(release(table, min_cell=3).table)
    assert shown == {(None,): 54, ("a",): 50, ("b",): None, ("c",): None, ("d",): None}
    table = pa.table({"cnt": [3, 1, 1, 1], "zip": [None, *listed[:3]]})
    assert set(attacker.cells(release(table, min_cell=3).table).values()) == {None}


def test_two_releases_tell_their_difference():
    """A limit that is known: what one person's arrival changes is seen by who kept the former one."""
    before = pa.table({"cnt": [60, 40, 20], "sex": [None, "f", "m"]})
    after = pa.table({"cnt": [62, 42, 20], "sex": [None, "f", "m"]})
    shown = [attacker.cells(release(one, min_cell=11).table) for one in (before, after)]
    difference = {cell: shown[1][cell] - shown[0][cell] for cell in shown[0]}
    assert difference == {(None,): 2, ("f",): 2, ("m",): 0}
