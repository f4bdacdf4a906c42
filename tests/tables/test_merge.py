"""The merge against the naive way, value by value, on random tables."""

from __future__ import annotations

import io
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tables.merging import CONSTANTS, File, Merging, naive, table_values

from catchment.testing.parquet import schemas, tables, writings


@st.composite
def files(draw, schema: pa.Schema, told: bool) -> File:
    table = draw(tables(schema))
    rows = range(table.num_rows)
    removed = draw(
        st.one_of(
            st.just([]),
            st.just(list(rows)),
            st.sets(st.sampled_from(rows), max_size=3).map(sorted) if rows else st.just([]),
        )
    )
    # Without Arrow's own schema a zone is UTC and a duration is a number.
    writing = replace(draw(writings()), store_schema=told)
    return File(writing.write(table), removed, draw(st.sampled_from(["alpha", "beta"])))


@st.composite
def sites(draw) -> list[File]:
    """Files whose columns are some of those of one schema, in any order."""
    schema = draw(schemas())
    told = draw(st.booleans())
    found = []
    for _ in range(draw(st.integers(1, 4))):
        names = draw(st.permutations(schema.names))[: draw(st.integers(1, len(schema)))]
        found.append(draw(files(pa.schema([schema.field(name) for name in names]), told)))
    return found


@settings(max_examples=150, deadline=None)
@given(sites())
def test_every_value_is_that_of_the_naive_merge(some: list[File]) -> None:
    merging = Merging()
    merged = merging.merge(some)
    stay, leave = naive(merging, some)
    names = merging.unified.schema.names

    table = pq.read_table(io.BytesIO(merging.read(merged.table.key)))
    assert table.schema.names == [*names, *CONSTANTS]
    assert table.schema.equals(
        pa.schema([*merging.unified.schema, *(pa.field(n, pa.string()) for n in CONSTANTS)])
    )
    assert table_values(table, table.schema.names) == stay
    assert merged.rows == table.num_rows

    gone = [(f, number, r) for number, f in enumerate(some) for r in sorted(f.removed)]
    assert (merged.removed is None) == (not gone)
    if merged.removed:
        removed = pq.read_table(io.BytesIO(merging.read(merged.removed.key)))
        assert table_values(removed, names) == leave
        assert removed.column("removed_from").to_pylist() == [f.site for f, _, _ in gone]
        assert removed.column("removed_file").to_pylist() == [f"{n}.parquet" for _, n, _ in gone]
        assert removed.column("removed_row").to_pylist() == [r for _, _, r in gone]
