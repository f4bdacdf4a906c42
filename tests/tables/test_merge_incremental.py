"""A merge that copies from an earlier table gives the bytes of a merge from the sources."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from catchment.core.errors import Corrupt
from catchment.tables.merge import Kept, Merged, Placed
from catchment.testing.parquet import Writing
from tests.tables.merging import CONSTANTS, File, Merging, sets


def both(merging: Merging, merged: Merged) -> tuple[bytes, bytes | None]:
    removed = merged.removed and merging.read(merged.removed.key)
    return merging.read(merged.table.key), removed


class Runs:
    """Merges of changing files; each copies what it can from the one before."""

    def __init__(self) -> None:
        self.merging = Merging()
        self.files: Sequence[File] = []
        self.merged: Merged | None = None
        self.copied = 0

    def next(self, files: Sequence[File]) -> None:
        full = Merging()
        expected = full.merge(files)
        fields = {field.name: field for field in full.unified.schema}
        kept: dict[int, Kept] = {}
        for number, file in enumerate(files):
            old = next((n for n, f in enumerate(self.files) if f is file), None)
            if old is not None and all(
                fields[name].equals(self.fields[name]) for name in self.schemas[old].names
            ):
                kept[number] = self.merging.keep(self.merged, old, file, number)
        self.copied += len(kept)
        merged = self.merging.merge(files, kept, full.schemas)
        assert both(self.merging, merged) == both(full, expected)
        assert [p.dumps() for p in merged.placed] == [p.dumps() for p in expected.placed]
        self.files, self.schemas, self.fields, self.merged = files, full.schemas, fields, merged


@settings(max_examples=20)
@given(sets(3))
def test_copied_and_fresh_inputs_give_the_same_bytes(drawn: list[list[File]]) -> None:
    check_runs(*drawn)


@pytest.mark.soak
@settings(max_examples=1000)
@given(sets(3))
def test_many_copied_and_fresh_inputs(drawn: list[list[File]]) -> None:
    check_runs(*drawn)


def check_runs(first: list[File], second: list[File], third: list[File]) -> None:
    runs = Runs()
    runs.next(first)
    runs.next([*second, *first])
    runs.next([*first, *third])
    last = [*first[1:], *third]
    runs.next(last)
    before = runs.copied
    runs.next(last)
    assert runs.copied == before + len(last)


TABLE = pa.table({"id": [f"N{n}" for n in range(40)], "v": [n / 2 for n in range(40)]})


def test_nothing_is_read_of_an_input_that_is_copied() -> None:
    files = [File(Writing(row_group_size=15).write(TABLE), [3, 20], site) for site in ("a", "b")]
    merging = Merging()
    merged = merging.merge(files)
    sources = [stat.key for stat in merging.store.list("in/")]
    for key in sources:
        merging.store.delete(key)
    kept = {n: merging.keep(merged, n, file, n) for n, file in enumerate(files)}

    class NoTask(Executor):
        def submit(self, fn, /, *args, **kwargs):
            raise AssertionError("a task was submitted")

    merging.executor = NoTask()
    again = merging.merge(files, kept, merging.schemas)
    assert both(merging, again) == both(merging, merged)
    assert again.table.digest == merged.table.digest


def test_other_constants_and_names_are_written_anew() -> None:
    """An unchanged file may come in a later version, on a later day."""
    file = File(Writing().write(TABLE), [7])
    merging = Merging()
    merged = merging.merge([file])
    merging.constants = {"freeze_date": "20270101", "etl_date": "20270102"}
    kept = replace(merging.keep(merged, 0, file, 0), name="new/name.parquet")
    again = merging.merge([file], {0: kept}, merging.schemas)
    table = pq.read_table(io.BytesIO(merging.read(again.table.key)))
    assert table.column("freeze_date").unique().to_pylist() == ["20270101"]
    removed = pq.read_table(io.BytesIO(merging.read(again.removed.key)))
    assert removed.column("removed_file").to_pylist() == ["new/name.parquet"]
    assert removed.column("id").to_pylist() == ["N7"]


def test_new_columns_of_others_are_filled_without_reading() -> None:
    file = File(Writing().write(TABLE))
    merging = Merging()
    merged = merging.merge([file])
    kept = merging.keep(merged, 0, file, 1)
    other = File(Writing().write(pa.table({"new": [1], "v": [0.5]})))
    again = merging.merge([other, file], {1: kept}, {1: merging.schemas[0]})
    found = pq.read_table(io.BytesIO(merging.read(again.table.key)))
    assert found.column_names == ["new", "v", "id", *CONSTANTS]
    assert found.column("new").to_pylist() == [1] + [None] * 40
    assert found.column("id").to_pylist() == [None, *TABLE.column("id").to_pylist()]


def test_a_column_that_became_another_type_cannot_be_copied() -> None:
    file = File(Writing().write(TABLE))
    merging = Merging()
    merged = merging.merge([file])
    kept = merging.keep(merged, 0, file, 0)
    files = [file, File(Writing().write(pa.table({"v": ["text"]})))]
    with pytest.raises(Corrupt) as caught:
        merging.merge(files, {0: kept}, merging.schemas)
    assert caught.value.kind == "placed-mismatch"


def test_other_removals_than_those_of_then_are_noticed() -> None:
    file = File(Writing().write(TABLE), [7])
    merging = Merging()
    kept = merging.keep(merging.merge([file]), 0, file, 0)
    for removed in ([], [7, 8], [40]):
        wrong = replace(kept, removals=File(b"", removed).removals)
        with pytest.raises(Corrupt) as caught:
            merging.merge([file], {0: wrong}, merging.schemas)
        assert caught.value.kind == "bad-removals"


@pytest.mark.parametrize("data", [b"", b"{}\\n", b"no json\\n", b'{"engine": "0"}\\n'])
def test_places_of_another_engine_are_refused(data: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        Placed.loads(data)
    assert caught.value.kind == "placed-unreadable"


def test_places_that_were_cut_short_are_refused() -> None:
    merging = Merging()
    data = merging.merge([File(Writing().write(TABLE))]).placed[0].dumps()
    for end in (len(data) - 1, len(data) // 2):
        with pytest.raises(Corrupt):
            Placed.loads(data[:end])
