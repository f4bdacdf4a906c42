"""Rewritten chunks: every value is cast without loss, or the file is refused by name."""

from __future__ import annotations

import datetime as dt
import gc
import io
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catchment.core.errors import Invalid
from catchment.core.store import open_store
from catchment.tables import decode
from catchment.tables.decode import Part
from catchment.tables.fill import constant, nulls
from catchment.tables.parquet import read_footer
from catchment.tables.rewrite import conform, uncollected, write
from catchment.testing.parquet import Writing
from tests.tables.merging import File, Merging

UTC = dt.UTC
DAY = dt.date(2020, 2, 29)


def merged(*sites: pa.Array, removed: tuple[int, ...] = ()) -> tuple[pa.DataType, list[Any]]:
    """One column of several sites, merged; rows leave the first."""
    files = [
        File(Writing().write(pa.table({"c": array})), list(removed) if not n else [], f"s{n}")
        for n, array in enumerate(sites)
    ]
    merging = Merging()
    result = merging.merge(files)
    column = pq.read_table(io.BytesIO(merging.read(result.table.key))).column("c")
    column.validate(full=True)
    return column.type, column.to_pylist()


def struct(*values: Any, **kinds: pa.DataType) -> pa.Array:
    return pa.array(values, pa.struct(list(kinds.items())))


@pytest.mark.parametrize(
    ("one", "other", "kind", "values"),
    [
        (pa.array([1, None], pa.int8()), pa.array([2**40]), pa.int64(), [1, None, 2**40]),
        (pa.array([255], pa.uint8()), pa.array([-1], pa.int8()), pa.int16(), [255, -1]),
        (pa.array([2**53, None]), pa.array([0.5]), pa.float64(), [float(2**53), None, 0.5]),
        (
            pa.array([2**64 - 1], pa.uint64()),
            pa.array([-1]),
            pa.decimal128(20, 0),
            [Decimal(2**64 - 1), Decimal(-1)],
        ),
        (
            pa.array([Decimal("1.25")]),
            pa.array([7], pa.int16()),
            pa.decimal128(7, 2),
            [Decimal("1.25"), Decimal("7.00")],
        ),
        (pa.array([1.5], pa.float16()), pa.array([0.1]), pa.float64(), [1.5, 0.1]),
        (pa.nulls(2), pa.array(["a"]), pa.string(), [None, None, "a"]),
        (
            pa.array([DAY]),
            pa.array([dt.datetime(2020, 1, 1, 3)], pa.timestamp("ms")),
            pa.timestamp("ms"),
            [dt.datetime(2020, 2, 29), dt.datetime(2020, 1, 1, 3)],
        ),
        (
            pa.array([1], pa.duration("s")),
            pa.array([1], pa.duration("ms")),
            pa.duration("ms"),
            [dt.timedelta(seconds=1), dt.timedelta(milliseconds=1)],
        ),
        (
            pa.array([[1, None], None, []], pa.list_(pa.int8())),
            pa.array([[2.5]]),
            pa.list_(pa.float64()),
            [[1.0, None], None, [], [2.5]],
        ),
        (
            struct({"a": 1}, None, a=pa.int8()),
            struct({"b": "x", "a": 2}, b=pa.string(), a=pa.int64()),
            pa.struct([("a", pa.int64()), ("b", pa.string())]),
            [{"a": 1, "b": None}, None, {"a": 2, "b": "x"}],
        ),
        (
            pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
            pa.array([[("m", None)]], pa.map_(pa.string(), pa.int64())),
            pa.map_(pa.string(), pa.int64()),
            [[("k", 1)], None, [("m", None)]],
        ),
        (
            pa.array([[None, None], None, [None]], pa.list_(pa.null())),
            pa.array([[1]]),
            pa.list_(pa.int64()),
            [[None, None], None, [None], [1]],
        ),
    ],
)
def test_values_of_wider_types(
    one: pa.Array, other: pa.Array, kind: pa.DataType, values: list
) -> None:
    found, seen = merged(one, other)
    assert found.equals(kind)
    assert seen == values
    found, seen = merged(one, other, removed=(0,))
    assert seen == values[1:]
    found, seen = merged(other, one)
    assert seen == values[len(one) :] + values[: len(one)]


@pytest.mark.parametrize(
    ("array", "texts"),
    [
        (pa.array([1, None, -2]), ["1", None, "-2"]),
        (pa.array([True, None]), ["true", None]),
        (pa.array([0.1, 1e300, float("nan")]), ["0.1", "1e+300", "nan"]),
        (pa.array([Decimal("1.50")]), ["1.50"]),
        (pa.array([DAY]), ["2020-02-29"]),
        (pa.array([b"abc"]), ["abc"]),
        (pa.array([3], pa.duration("s")), ["3 s"]),
        (pa.array([1], pa.timestamp("us", "UTC")), ["1970-01-01 00:00:00.000001Z"]),
        (pa.array([[1, None], None]), ["[1, null]", None]),
        (struct({"a": "é", "b": b"x"}, a=pa.string(), b=pa.binary()), ['{"a": "é", "b": "x"}']),
        (struct({"d": DAY}, d=pa.date32()), ['{"d": "2020-02-29"}']),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), ['[["k", 1]]']),
        (pa.array([bytes(range(16))], pa.uuid()), ["00010203-0405-0607-0809-0a0b0c0d0e0f"]),
    ],
)
def test_a_conflict_becomes_text(array: pa.Array, texts: list) -> None:
    kind, values = merged(array, pa.array(["text"]))
    assert kind == pa.string()
    assert values == [*texts, "text"]


def test_a_conflict_inside_becomes_text_inside() -> None:
    kind, values = merged(pa.array([[[1]], None]), pa.array([["a", None]]))
    assert kind.value_type == pa.string()
    assert values == [["[1]"], None, ["a", None]]
    one = struct(
        {"a": [1], "n": 1, "m": [("k", [2])]},
        a=pa.list_(pa.int8()),
        n=pa.int8(),
        m=pa.map_(pa.string(), pa.list_(pa.int8())),
    )
    other = struct(
        {"a": "x", "n": 2, "m": [("k", "y")]},
        a=pa.string(),
        n=pa.int64(),
        m=pa.map_(pa.string(), pa.string()),
    )
    _, values = merged(one, other)
    assert values == [
        {"a": "[1]", "n": 1, "m": [("k", "[2]")]},
        {"a": "x", "n": 2, "m": [("k", "y")]},
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([2**53 + 1]), pa.array([0.5])),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([0.5])),
        (pa.array([253_402_300_799_000], pa.timestamp("ms")), pa.array([1], pa.timestamp("ns"))),
        (pa.array([b"\xff"]), pa.array(["a"])),
        (pa.array([[b"\xff"]]), pa.array(["a"])),
        (pa.array([[2**53 + 1]]), pa.array([[0.5]])),
        (pa.array([dt.date(9999, 12, 31)]), pa.array([1], pa.timestamp("ns"))),
    ],
)
def test_what_would_be_lost_is_refused_by_name(one: pa.Array, other: pa.Array) -> None:
    """Where no statistics warned, so that the type had to be tried."""
    silent = Writing(write_statistics=False)
    files = [File(silent.write(pa.table({"c": array}))) for array in (other, one)]
    merging = Merging()
    with pytest.raises(Invalid) as caught:
        merging.merge(files)
    assert caught.value.kind == "lossy-cast"
    assert caught.value.index == 1
    assert "'1.parquet': column 'c'" in caught.value.message
    for value in ("9007199254740993", "253402300799000", "xff", "9999"):
        assert value not in caught.value.message


def test_lists_of_nulls_stay_sound() -> None:
    """pyarrow's own cast makes lists that point behind their values."""
    values = [{"l": [None] * 3, "n": 1}, {"l": [], "n": 2}]
    one = struct(*values, l=pa.list_(pa.null()), n=pa.int8())
    other = struct({"l": [None], "n": 3}, l=pa.list_(pa.null()), n=pa.int64())
    _, seen = merged(one, other)
    assert seen == [*values, {"l": [None], "n": 3}]
    wide = conform(one, other.type)
    wide.validate(full=True)
    assert wide.to_pylist() == values


def test_int96_is_read_to_the_microsecond() -> None:
    times = pa.array([1, None, 253_402_300_799_999_999], pa.timestamp("us"))
    sink = io.BytesIO()
    pq.write_table(pa.table({"c": times}), sink, use_deprecated_int96_timestamps=True)
    merging = Merging()
    result = merging.merge([File(sink.getvalue(), [0])])
    found = pq.read_table(io.BytesIO(merging.read(result.table.key))).column("c")
    assert found.type == pa.timestamp("us")
    assert found.cast(pa.int64()).to_pylist() == [None, 253_402_300_799_999_999]


@pytest.mark.parametrize("between", [0, 1])
def test_int96_between_microseconds_is_refused(between: int) -> None:
    times = pa.array([1000, None, 2000 + between, -5000], pa.timestamp("ns"))
    rows = range(4)
    table = pa.table(
        {
            "c": times,
            "l": pa.ListArray.from_arrays([0, 1, 1, 3, 4], times),
            "s": pa.StructArray.from_arrays([pa.array(rows), times], ["n", "t"]),
            "m": pa.MapArray.from_arrays([0, 1, 1, 3, 4], pa.array(rows), times),
        }
    )
    for name in table.column_names:
        sink = io.BytesIO()
        pq.write_table(table.select([name]), sink, use_deprecated_int96_timestamps=True)
        merging = Merging()
        file = File(sink.getvalue(), [0])
        if between:
            with pytest.raises(Invalid) as caught:
                merging.merge([file])
            assert caught.value.kind == "lossy-cast"
        else:
            assert merging.merge([file]).rows == 3


@pytest.mark.parametrize("compression", ["none", "snappy", "lz4", "gzip", "zstd", "brotli"])
def test_strong_codecs_are_not_replaced_by_a_fast_one(compression: str) -> None:
    merging = Merging()
    data = Writing(compression=compression).write(pa.table({"c": [1, 2, 3]}))
    result = merging.merge([File(data, [1])])
    chunk = pq.read_metadata(io.BytesIO(merging.read(result.table.key))).row_group(0).column(0)
    strong = compression in ("gzip", "zstd", "brotli")
    assert chunk.compression == ("ZSTD" if strong else "SNAPPY")


def test_nothing_is_left_of_rows_that_leave() -> None:
    """Not in dictionaries, not in statistics."""
    words = [f"canary-{n:03d}" for n in range(40)] * 3
    table = pa.table(
        {
            "dictionary": words,
            "plain": [f"{word} {n}" for n, word in enumerate(words)],
            "list": [[word] for word in words],
            "binary": pa.array(words, pa.binary()),
        }
    )
    removed = [
        n for n, word in enumerate(words) if word in ("canary-000", "canary-039", "canary-017")
    ]
    for writing in (Writing(compression="none"), Writing(compression="none", use_dictionary=False)):
        merging = Merging()
        result = merging.merge([File(writing.write(table), removed)])
        found = pq.read_table(io.BytesIO(merging.read(result.table.key)))
        raw = write(found, "none")[0].to_pybytes() + merging.read(result.table.key)
        assert b"canary-001" in raw
        for canary in (b"canary-000", b"canary-017", b"canary-039"):
            assert canary not in raw
        pages = pq.ParquetFile(
            io.BytesIO(merging.read(result.table.key)), read_dictionary=["dictionary"]
        )
        (chunk,) = pages.read().column("dictionary").chunks
        assert sorted(chunk.dictionary.to_pylist()) == sorted(
            set(words) - {"canary-000", "canary-017", "canary-039"}
        )
        gone = pq.ParquetFile(
            io.BytesIO(merging.read(result.removed.key)), read_dictionary=["dictionary"]
        )
        (chunk,) = gone.read().column("dictionary").chunks
        assert sorted(chunk.dictionary.to_pylist()) == ["canary-000", "canary-017", "canary-039"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.int64(),
        pa.string(),
        pa.bool_(),
        pa.uuid(),
        pa.json_(),
        pa.binary(3),
        pa.list_(pa.int8()),
        pa.map_(pa.string(), pa.int8()),
        pa.decimal128(5, 2),
        pa.list_(pa.field("element", pa.int8(), nullable=False)),
    ],
)
@pytest.mark.parametrize("rows", [1, 1 << 16, (1 << 16) + 5])
def test_nulls_of_every_type(kind: pa.DataType, rows: int) -> None:
    inside = pa.struct([pa.field("need", kind, nullable=False), pa.field("may", kind)])
    deep = pa.struct([pa.field("in", inside, nullable=False)])
    for some in (kind, inside, deep):
        column = nulls(some, rows)
        assert (len(column), column.null_count) == (rows, rows)
        data, group = write(pa.Table.from_arrays([column], names=["c"]))
        found = pq.ParquetFile(pa.BufferReader(data)).read()
        assert found.column(0).null_count == found.num_rows == group.rows == rows
        assert found.column(0).type.equals(some)


def test_a_constant_needs_few_bytes() -> None:
    data, _ = write(pa.Table.from_arrays([constant("20260102", 3_000_000)], names=["c"]))
    assert len(data) < 20_000
    column = pq.read_table(pa.BufferReader(data)).column("c")
    assert column.unique().to_pylist() == ["20260102"]
    assert len(column) == 3_000_000
    assert constant("é", 2).to_pylist() == ["é", "é"]
    assert np.asarray(nulls(pa.int8(), 0)).size == 0


# --- how chunks are read, and in which company -----------------------------------------------------


def part_of(data: bytes) -> Part:
    """All columns of the only row group of a file."""
    store = open_store("memory://rewrite")
    store.put("f.parquet", data, mode="overwrite")
    footer = read_footer(store, "f.parquet", len(data))
    return Part(store, "f.parquet", footer.columns, footer.groups[0])


@pytest.mark.parametrize("near", [0, 100, 1 << 16])
@pytest.mark.parametrize("chosen", [[0], [2, 1, 0], [5, 0, 3], [0, 1, 2, 4, 5]])
def test_chunks_are_read_in_their_order_however_they_lie(monkeypatch, near, chosen) -> None:
    monkeypatch.setattr(decode, "_NEAR", near)
    columns = {f"c{n}": pa.array([f"{n} {row}" for row in range(40)]) for n in range(6)}
    data = Writing(compression="none").write(pa.table(columns))
    part = part_of(data).only(chosen)
    ranges = zip(part.group.start.tolist(), part.group.length.tolist(), strict=True)
    assert part.read() == b"".join(data[start : start + length] for start, length in ranges)
    got = [column.to_pylist() for column in part.decode().columns]
    assert got == [columns[f"c{n}"].to_pylist() for n in chosen]


def test_chunks_that_lie_near_each_other_are_read_at_once(monkeypatch) -> None:
    part = part_of(Writing().write(pa.table({f"c{n}": [n] * 9 for n in range(6)})))
    reads: list[tuple[int, int]] = []
    real = type(part.store).read

    def counted(store, key, *, start=0, length=None):
        reads.append((start, length))
        return real(store, key, start=start, length=length)

    monkeypatch.setattr(type(part.store), "read", counted)
    part.only([5, 0, 2]).read()
    assert len(reads) == 1
    monkeypatch.setattr(decode, "_NEAR", 0)
    part.only([5, 0, 2]).read()
    assert len(reads) == 1 + 3


def test_columns_that_take_little_are_taken_many_at_once(monkeypatch) -> None:
    table = pa.table({f"c{n}": [n, n + 1] * 2000 for n in range(8)})
    part = part_of(Writing().write(table))
    monkeypatch.setattr(decode, "BATCH_BYTES", 4 * 4000 * 3 + 8 * 4000)

    def counts() -> list[int]:
        return [len(chosen) for chosen, _ in part.batches(range(8))]

    assert counts() == [6, 2]
    monkeypatch.setattr(decode, "_NARROW", 0)  # as what takes more
    assert counts() == [2, 2, 2, 2]
    monkeypatch.undo()
    assert counts() == [8]


@pytest.mark.parametrize("enabled", [True, False])
def test_cycles_are_looked_for_again_afterwards(enabled) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with pytest.raises(KeyError), uncollected():
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_much_text_in_a_delta_encoding_is_decoded(monkeypatch, encoding) -> None:
    """Large columns of text are read as dictionaries, which pyarrow cannot from these."""
    monkeypatch.setattr(decode, "BATCH_BYTES", 1)
    table = pa.table({"s": ["a", "b", None, "a"], "b": [b"x", b"", None, b"y"]})
    sink = io.BytesIO()
    how = dict.fromkeys(table.column_names, encoding)
    pq.write_table(table, sink, use_dictionary=False, column_encoding=how)
    assert part_of(sink.getvalue()).decode().equals(table)
