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
def cubes(draw, columns: int = 3, values: int = 3, most: int = 1) -> tuple[pa.Table, int]:
    """A merged cube, and a minimum cell size; ``most`` combinations of values for each person."""
    width = draw(st.integers(1, columns))
    names = [f"c{n}" for n in range(width)]
    sizes = [draw(st.integers(1, values)) for _ in names]
    combination = st.tuples(*(st.sampled_from([f"v{n}" for n in range(s)]) for s in sizes))
    least = draw(st.sampled_from([0, 0, 2, 3]))
    sites = []
    for _ in range(draw(st.integers(0, 2)) or 1):
        kinds = draw(st.lists(st.lists(combination, min_size=1, max_size=most), max_size=8))
        often = st.sampled_from([1, 1, 2, 3, 5, 9])
        people = [kind for kind in kinds for _ in range(draw(often))]
        sites.append(cube(people, least, names))
    table = merged(*sites) if len(sites) > 1 or draw(st.booleans()) else sites[0]
    return table, draw(st.sampled_from([2, 3, 4, 6]))


@settings(max_examples=30, deadline=None)
@given(cubes())
def test_of_people_nothing_is_found_out(drawn):
    table, size = drawn
    truth, seen = attacker.cells(table), attacker.cells(release(table, min_cell=size).table)
    assert seen.keys() == truth.keys()
    assert all(count is None or count == truth[c] for c, count in seen.items())
    assert not any(count is not None and 0 < count < size for count in seen.values())
    assert attacker.solve(truth, seen) == {}


@settings(max_examples=20, deadline=None)
@given(cubes(most=3))
def test_of_people_with_several_values_nothing_is_found_out(drawn):
    table, size = drawn
    truth, seen = attacker.cells(table), attacker.cells(release(table, min_cell=size).table)
    assert attacker.solve(truth, seen) == {}


@settings(max_examples=40, deadline=None)
@given(cubes(values=4))
def test_what_a_site_held_back_is_not_what_one_sum_leaves(drawn):
    table, size = drawn
    truth, seen = attacker.cells(table), attacker.cells(release(table, min_cell=size).table)
    for (parent, column), children in attacker.groups(seen).items():
        left = attacker.rests(truth)[parent, column]
        if seen[parent] is not None and left >= 0:
            shown = sum(seen[child] or 0 for child in children)
            assert not 0 < seen[parent] - shown < size


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
