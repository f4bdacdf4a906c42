"""Files made to break readers: each is refused, or read right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.core.errors import Invalid
from catchment.core.safe import SafePool
from catchment.core.store import open_store
from catchment.tables.merge import Fresh, InputFailed, merge_table
from catchment.tables.parquet import inspect
from catchment.tables.unify import unify
from catchment.testing.parquet import Writing
from tests.tables.merging import File, Merging
from tests.tables.test_parquet_parse import footer_of

KINDS = {
    "parquet-unreadable",
    "parquet-truncated",
    "parquet-encrypted",
    "parquet-too-large",
    "parquet-disagreement",
}
READABLE = {  # in a deep look; what pyarrow alone reads of them
    "ARROW-GH-43605.parquet",
    "parquet_bomb_dict_1500x1MiB_str.parquet",
    "parquet_hostile_names.parquet",
}


@pytest.fixture(scope="module")
def pool():
    with SafePool(1, memory=600 << 20, cpu=60) as pool:
        yield pool


def files(shared: Path) -> list[Path]:
    folder = shared / "data" / "hostile"
    found = sorted([*folder.glob("made/*.parquet"), *folder.glob("parquet/bad_data/*.parquet")])
    assert len(found) > 10
    return found


def test_hostile_files_are_refused_or_read(shared: Path, pool: SafePool) -> None:
    accepted = set()
    for path in files(shared):
        store = open_store(path.parent.as_uri())
        for deep in (False, True):
            future = pool.submit(inspect, store, path.name, path.stat().st_size, deep=deep)
            try:
                footer = future.result()
            except Invalid as error:
                assert error.kind in KINDS, path.name
                continue
            assert footer.rows == pq.read_metadata(path).num_rows
            if deep:
                accepted.add(path.name)
    assert accepted == READABLE


def test_what_was_accepted_merges_or_names_the_input(
    shared: Path, pool: SafePool, tmp_path: Path
) -> None:
    out = open_store(tmp_path.as_uri())
    merged = set()
    for number, path in enumerate(files(shared)):
        store = open_store(path.parent.as_uri())
        try:
            footer = pool.submit(inspect, store, path.name, path.stat().st_size).result()
        except Invalid:
            continue
        footer = replace(
            footer, recode=tuple(range(len(footer.columns.paths)))
        )  # so that every page is decoded
        item = Fresh("alpha", path.name, store, path.name, footer)
        unified = unify([("alpha", footer.schema)])
        prefix = f"{number}/"
        try:
            result = merge_table(
                [item],
                unified,
                {"freeze_date": "20260101"},
                store=out,
                table=f"{prefix}t.parquet",
                removed=f"{prefix}r.parquet",
                staging=f"{prefix}staging/",
                executor=pool,
            )
        except InputFailed as failed:
            assert failed.index == 0
            assert failed.kind == "parquet-unreadable"
            continue
        merged.add(path.name)
        expected = pq.read_table(path, read_dictionary=["s"])
        found = pq.read_table(tmp_path / prefix / "t.parquet", read_dictionary=["s"])
        assert found.num_rows == result.rows == expected.num_rows
        for index in range(expected.num_columns):
            assert found.column(index).equals(expected.column(index))
    assert merged == READABLE


SAMPLE = Writing(row_group_size=4, write_page_index=True).write(
    pa.table(
        {
            "n": [1, 2, None] * 3,
            "s": ["a", None, "c"] * 3,
            "l": [[1], [], None] * 3,
            "d": pa.array([1.5, None, 2.5] * 3),
        }
    )
)


@settings(max_examples=300)
@given(st.data())
def test_damaged_files_are_refused_or_read(drawn: st.DataObject) -> None:
    """Bytes changed anywhere, the footer more often: no other exception, and no wrong value."""
    footer = len(SAMPLE) - len(footer_of(SAMPLE)) - 8
    data = bytearray(SAMPLE)
    for _ in range(drawn.draw(st.integers(1, 3))):
        low = drawn.draw(st.sampled_from([0, footer, footer]))
        data[drawn.draw(st.integers(low, len(data) - 1))] = drawn.draw(st.integers(0, 255))
    merging = Merging()
    try:
        merging.merge([File(bytes(data), [0])])
    except Invalid as error:
        assert error.kind in KINDS
