"""The merge: every value is that of the naive way, and chunks are copied wherever they can be."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from catchment.core.errors import Corrupt, Invalid, NotFound
from catchment.core.parquet.parse import parse_file
from catchment.core.progress import Event
from catchment.core.safe import SafePool
from catchment.core.store import open_store
from catchment.tables import decode
from catchment.tables.merge import Fresh, InputFailed, Merged, merge_table
from catchment.tables.model import Fate, Removal
from catchment.tables.unify import unify
from catchment.testing.parquet import Writing
from tests.tables.merging import CONSTANTS, File, Inline, Merging, naive, sets, table_values

TABLE = pa.table(
    {
        "id": [f"N{n}" for n in range(100)],
        "n": [n if n % 7 else None for n in range(100)],
        "l": [[n] * (n % 3) for n in range(100)],
    }
)


class NoTask(Executor):
    """Proves that nothing is decoded."""

    def submit(self, fn, /, *args, **kwargs):
        raise AssertionError("a task was submitted")


def read(merging: Merging, key: str) -> pa.Table:
    return pq.read_table(io.BytesIO(merging.read(key)))


def chunks(data: bytes) -> list[list[bytes]]:
    """The bytes of each chunk of each row group."""
    return [
        [data[s : s + n] for s, n in zip(g.start.tolist(), g.length.tolist(), strict=True)]
        for g in parse_file(data).groups
    ]


@settings(max_examples=60)
@given(sets())
def test_every_value_is_that_of_the_naive_merge(drawn: list[list[File]]) -> None:
    check_values(*drawn)


@pytest.mark.soak
@settings(max_examples=3000)
@given(sets())
def test_every_value_of_many_tables(drawn: list[list[File]]) -> None:
    check_values(*drawn)


def check_values(some: list[File]) -> None:
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


def test_equal_files_are_copied_chunk_by_chunk() -> None:
    writing = Writing(row_group_size=30, compression="zstd", write_page_index=True)
    files = [File(writing.write(TABLE)), File(writing.write(TABLE.slice(10, 50)))]
    merging = Merging(executor=NoTask())
    merged = merging.merge(files)
    data = merging.read(merged.table.key)
    sources = [group for file in files for group in chunks(file.data)]
    assert [group[: len(TABLE.column_names)] for group in chunks(data)] == sources
    assert merged.removed is None
    assert merged.table.size == len(data)
    assert b"ColumnIndex" not in data
    metadata = pq.read_metadata(io.BytesIO(data))
    assert metadata.created_by.startswith("catchment version ")
    assert set(metadata.metadata) == {b"ARROW:schema"}
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            assert chunk.statistics.null_count is not None
            assert not chunk.has_offset_index
            assert not chunk.has_column_index


def test_only_what_drifted_is_decoded() -> None:
    drifted = TABLE.set_column(1, "n", TABLE.column("n").cast(pa.int32()))
    files = [File(Writing().write(table)) for table in (TABLE, drifted.drop_columns("l"))]
    merging = Merging()
    merged = merging.merge(files)
    first, second = chunks(merging.read(merged.table.key))
    assert first[:3] == chunks(files[0].data)[0]
    own = chunks(files[1].data)[0]
    assert second[0] == own[0]
    assert second[1] != own[1]
    assert [stat.key for stat in merging.store.list("staging/")] == ["staging/1/000000.stay"]
    assert read(merging, merged.table.key).column("l").null_count == 100


def test_row_groups_that_lose_no_row_are_copied() -> None:
    file = File(Writing(row_group_size=25).write(TABLE), [30, 31, *range(75, 100)])
    merging = Merging()
    merged = merging.merge([file])
    data = chunks(merging.read(merged.table.key))
    own = chunks(file.data)
    assert [group[:3] == own[number] for number, group in enumerate(data)] == [True, False, True]
    # The last row group leaves as a whole, so it is copied too.
    assert chunks(merging.read(merged.removed.key))[1][:3] == own[3]


def test_columns_that_are_not_null_are_copied_only_among_their_like() -> None:
    """The pages of a required column have no definition levels."""
    fields = [pa.field("i", pa.int64(), nullable=False), pa.field("t", pa.string())]
    table = pa.table({"i": range(50), "t": ["x"] * 50}, schema=pa.schema(fields))
    required = File(Writing().write(table))
    merging = Merging(executor=NoTask())
    found = read(merging, merging.merge([required, required]).table.key)
    assert not found.schema.field("i").nullable
    assert found.column("i").to_pylist() == [*range(50), *range(50)]

    optional = File(Writing().write(pa.table({"i": [1, None], "t": [None, "y"]})))
    merging = Merging()
    merged = merging.merge([required, optional, required])
    found = read(merging, merged.table.key)
    assert found.schema.field("i").nullable
    assert found.column("i").to_pylist() == [*range(50), 1, None, *range(50)]
    copied = chunks(merging.read(merged.table.key))
    assert copied[0][1] == chunks(required.data)[0][1]
    assert copied[1][:2] == chunks(optional.data)[0]


def test_names_inside_lists_are_those_of_the_table() -> None:
    old = Writing(use_compliant_nested_type=False)
    merging = Merging(executor=NoTask())
    merged = merging.merge([File(old.write(TABLE)), File(Writing().write(TABLE))])
    metadata = pq.read_metadata(io.BytesIO(merging.read(merged.table.key)))
    paths = {metadata.row_group(g).column(2).path_in_schema for g in range(2)}
    assert paths == {"l.list.element"}


def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "BATCH_BYTES", 1)


@pytest.fixture(scope="module")
def drifting() -> list[File]:
    wide = pa.table(
        {f"c{n}": [n, None, n + 1] * 20 for n in range(12)} | {"s": ["a", "b", None] * 20}
    )
    other = wide.set_column(3, "c3", wide.column("c3").cast(pa.float64())).drop_columns(["c5"])
    return [
        File(Writing(row_group_size=25).write(wide), [1, 2, 59], "alpha"),
        File(Writing().write(other.select(other.column_names[::-1])), [0], "beta"),
        File(Writing().write(wide.slice(0, 0)), [], "gamma"),
        File(Writing(compression="zstd").write(wide), list(range(60)), "delta"),
    ]


def outcome(merging: Merging, merged: Merged) -> tuple[bytes, bytes, list[bytes]]:
    removed = merging.read(merged.removed.key)
    return merging.read(merged.table.key), removed, [p.dumps() for p in merged.placed]


def test_the_same_bytes_whoever_does_the_work(
    drifting: list[File], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = Merging()
    expected = outcome(inline, inline.merge(drifting))
    again = Merging()
    assert outcome(again, again.merge(drifting)) == expected
    store = open_store(tmp_path.as_uri())
    with SafePool(2) as pool:
        children = Merging(store, executor=pool)
        assert outcome(children, children.merge(drifting)) == expected
    with ThreadPoolExecutor(4) as threads, monkeypatch.context() as patch:
        small_batches(patch)
        parallel = Merging(executor=threads)
        assert outcome(parallel, parallel.merge(drifting)) == expected
        assert len(list(parallel.store.list("staging/"))) > 30


def test_a_dask_cluster_does_the_work(drifting: list[File], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    inline = Merging()
    expected = outcome(inline, inline.merge(drifting))
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        merging = Merging(open_store(tmp_path.as_uri()), executor=client.get_executor())
        assert outcome(merging, merging.merge(drifting)) == expected


def test_constants_win_over_a_sites_own_columns() -> None:
    table = TABLE.append_column("freeze_date", pa.array(["old"] * 100))
    merging = Merging()
    found = read(merging, merging.merge([File(Writing().write(table), [0])]).table.key)
    assert found.column_names == ["id", "n", "l", *CONSTANTS]
    assert found.column("freeze_date").unique().to_pylist() == ["20260102"]
    only = File(Writing().write(table.select(["freeze_date"])), [0, 1])
    merged = merging.merge([only])
    assert read(merging, merged.table.key).to_pylist() == [CONSTANTS] * 98
    assert read(merging, merged.removed.key).num_rows == 2


def test_no_rows() -> None:
    empty = File(Writing().write(TABLE.slice(0, 0)))
    all_gone = File(Writing().write(TABLE), list(range(100)))
    merging = Merging()
    for files, gone in (([empty], 0), ([empty, all_gone, empty], 100)):
        merged = merging.merge(files)
        found = read(merging, merged.table.key)
        assert merged.rows == found.num_rows == 0
        assert found.column_names == ["id", "n", "l", *CONSTANTS]
        assert (merged.removed is not None) == bool(gone)
        assert duckdb.from_arrow(found).count("*").fetchall() == [(0,)]


def test_no_inputs_and_no_columns() -> None:
    merging = Merging()
    found = read(merging, merging.merge([]).table.key)
    assert (found.num_rows, found.column_names) == (0, list(CONSTANTS))
    with pytest.raises(Invalid) as caught:
        Merging(constants={}).merge([])
    assert caught.value.kind == "no-columns"


def test_columns_of_the_removed_rows_give_way_to_those_of_the_table() -> None:
    table = pa.table({"fate": [1, 2], "_fate": [3, 4], "removed_row": ["a", "b"]})
    merging = Merging()
    merged = merging.merge([File(Writing().write(table), [1], "alpha")])
    assert read(merging, merged.removed.key).to_pylist() == [
        {
            "fate": 2,
            "_fate": 4,
            "removed_row": "b",
            "removed_from": "alpha",
            "removed_file": "0.parquet",
            "_removed_row": 1,
            "__fate": "dropped",
            "reason": "transferred",
        }
    ]


def test_fates_and_reasons_of_removed_rows() -> None:
    merging = Merging()
    item = merging.fresh(File(Writing(row_group_size=40).write(TABLE)), 0)
    removals = (
        Removal([50, 3], Fate.QUARANTINED, "no-current-center"),
        Removal([99], Fate.DROPPED, "duplicate"),
        Removal([], Fate.DROPPED, "nothing"),
    )
    merged = merge(merging, [replace(item, removals=removals)])
    found = read(merging, merged.removed.key).select(["id", "removed_row", "fate", "reason"])
    assert found.to_pylist() == [
        {"id": "N3", "removed_row": 3, "fate": "quarantined", "reason": "no-current-center"},
        {"id": "N50", "removed_row": 50, "fate": "quarantined", "reason": "no-current-center"},
        {"id": "N99", "removed_row": 99, "fate": "dropped", "reason": "duplicate"},
    ]


def merge(merging: Merging, items: list[Fresh], **options) -> Merged:
    return merge_table(
        items,
        unify([(item.site, item.footer.schema) for item in items]),
        {},
        store=merging.store,
        table="t.parquet",
        removed="r.parquet",
        staging="staging/",
        executor=merging.executor,
        **options,
    )


@pytest.mark.parametrize("rows", [([100],), ([-1],), ([5, 5],), ([5], [5])])
def test_rows_that_cannot_leave(rows: tuple[list[int], ...]) -> None:
    merging = Merging()
    item = merging.fresh(File(Writing().write(TABLE)), 0)
    removals = tuple(Removal(some, Fate.DROPPED, "x") for some in rows)
    with pytest.raises(Corrupt) as caught:
        merge(merging, [replace(item, removals=removals)])
    assert caught.value.kind == "bad-removals"


def test_strings_without_a_known_dictionary_are_read_too() -> None:
    table = pa.table({"s": ["a", "b", None] * 20, "t": [f"{n}" for n in range(60)]})
    sink = io.BytesIO()
    pl.from_arrow(table).write_parquet(sink)
    plain = Writing(use_dictionary=False).write(table)
    mixed = io.BytesIO()
    pq.write_table(table, mixed, dictionary_pagesize_limit=8, write_batch_size=4)
    for data in (sink.getvalue(), plain, mixed.getvalue()):
        merging = Merging()
        found = read(merging, merging.merge([File(data, [1])]).table.key)
        assert (
            found.drop_columns(list(CONSTANTS)).to_pylist()
            == table.take([0, *range(2, 60)]).to_pylist()
        )


def test_a_row_group_without_its_rows_is_refused() -> None:
    merging = Merging()
    item = merging.fresh(File(Writing().write(pa.table({"n": [1, 2, 3]}))), 0)
    (group,) = item.footer.groups
    part = decode.Part(item.store, item.key, item.footer.columns, group)
    assert part.decode().num_rows == 3
    with pytest.raises(Invalid) as caught:
        part._replace(group=group._replace(rows=4)).decode()
    assert caught.value.kind == "parquet-unreadable"


def damaged() -> File:
    data = bytearray(Writing(compression="zstd").write(TABLE))
    chunk = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0)
    data[chunk.dictionary_page_offset + 30] ^= 0xFF
    return File(bytes(data), [1])


def test_a_damaged_input_is_named() -> None:
    good = File(Writing().write(TABLE), [1])
    for executor in (Inline(), ThreadPoolExecutor(2)):
        merging = Merging(executor=executor)
        with pytest.raises(InputFailed) as caught:
            merging.merge([good, good, damaged(), good])
        again = pickle.loads(pickle.dumps(caught.value))
        for error in (caught.value, again):
            assert error.index == 2
            assert error.kind == error.error.kind == "parquet-unreadable"
            assert "'2.parquet'" in error.message
            assert error.hint
        assert not list(merging.store.list("out/"))


def test_an_input_that_vanished_is_named() -> None:
    merging = Merging()
    items = [merging.fresh(File(Writing().write(TABLE), [1]), n) for n in range(2)]
    merging.store.delete(items[1].key)
    with pytest.raises(InputFailed) as caught:
        merge(merging, items)
    assert caught.value.index == 1
    assert isinstance(caught.value.error, NotFound)


def test_progress_is_told() -> None:
    merging = Merging()
    events: list[Event] = []
    merge(
        merging,
        [merging.fresh(File(Writing(row_group_size=50).write(TABLE), [1, 70]), 0)],
        progress=events.append,
    )
    assert [(e.state, e.done, e.total) for e in events] == [
        ("start", 0, 2),
        ("step", 1, 2),
        ("step", 2, 2),
        ("done", 2, 2),
    ]
