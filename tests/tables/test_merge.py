"""The merge against the naive way, value by value, on random tables."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings

from tests.tables.merging import CONSTANTS, File, Merging, naive, sets, table_values


@settings(max_examples=150, deadline=None)
@given(sets())
def test_every_value_is_that_of_the_naive_merge(drawn: list[list[File]]) -> None:
    (some,) = drawn
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
