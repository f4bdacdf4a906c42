"""Footers taken apart and put together keep what readers see in them."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.core.parquet import thrift
from catchment.core.parquet.footer import MAGIC, Columns, assemble, columns_of, join, leaves_of
from catchment.core.parquet.parse import Raw, parse, parse_file
from catchment.core.parquet.thrift import Buffer, Walk
from catchment.testing.parquet import Writing, schemas, tables, writings

# What a template leaves out or sets itself.
CHANGED = {
    "file_offset",
    "data_page_offset",
    "dictionary_page_offset",
    "has_offset_index",
    "has_column_index",
    "bloom_filter_offset",
    "bloom_filter_length",
}


def footer_of(data: bytes) -> bytes:
    return data[-8 - int.from_bytes(data[-8:-4], "little") : -8]


def described(metadata: pq.FileMetaData, group: int) -> list[dict[str, Any]]:
    """What pyarrow says of the chunks of a row group."""
    found = metadata.row_group(group)
    chunks = [found.column(number).to_dict() for number in range(found.num_columns)]
    return [{k: v for k, v in chunk.items() if k not in CHANGED} for chunk in chunks]


def columns(data: bytes, raw: Raw) -> Columns:
    return columns_of(raw.schema, leaves_of(pq.ParquetFile(io.BytesIO(data)).schema))


def rebuilt(data: bytes) -> bytes:
    """The same file, its chunks moved together behind a few other bytes, its footer made anew."""
    raw = parse_file(data)
    parts = [MAGIC, b"moved"]
    groups = []
    for group in raw.groups:
        groups.append(group.moved(sum(map(len, parts))))
        parts += [data[start : start + length] for start, length in group.extents()]
    return b"".join([*parts, assemble(columns(data, raw), groups)])


@settings(max_examples=100)
@given(st.data())
def test_a_rebuilt_file_is_the_same_to_readers(drawn: st.DataObject) -> None:
    table = drawn.draw(schemas().flatmap(tables))
    data = drawn.draw(writings()).write(table)
    again = rebuilt(data)

    before, after = pq.read_metadata(io.BytesIO(data)), pq.read_metadata(io.BytesIO(again))
    full = [g for g in range(before.num_row_groups) if before.row_group(g).num_rows]
    assert after.num_row_groups == len(full)
    for new, old in enumerate(full):
        assert described(after, new) == described(before, old)
    plain = pq.ParquetFile(io.BytesIO(rebuilt(again))).read()
    assert plain.num_rows == table.num_rows
    assert rebuilt(again) == again  # canonical: nothing more to change


def test_files_of_other_writers_are_rebuilt(tmp_path) -> None:
    table = pa.table(
        {"n": [1, None, 3] * 50, "s": ["a", "b", None] * 50, "l": [[1], [], None] * 50}
    )
    polars, duck = tmp_path / "polars", tmp_path / "duck"
    pl.from_arrow(table).write_parquet(polars, row_group_size=40)
    duckdb.from_arrow(table).write_parquet(str(duck))
    for path in (polars, duck):
        again = rebuilt(path.read_bytes())
        assert pl.read_parquet(io.BytesIO(again)).to_arrow().to_pylist() == table.to_pylist()
        assert pq.read_table(io.BytesIO(again)).to_pylist() == table.to_pylist()


def wide(count: int = 100) -> bytes:
    """Columns whose chunks are written in many shapes."""
    kinds = {
        "whole": pa.array([1, 2, 3] * 10),
        "empty": pa.nulls(30, pa.int64()),
        "text": pa.array(["x" * 200, "", None] * 10),
        "flag": pa.array([True, False, None] * 10),
        "list": pa.array([[1], [], None] * 10),
    }
    chosen = list(kinds.items())
    table = pa.table(
        {f"{name}{n}": array for n in range(count) for name, array in [chosen[n % len(chosen)]]}
    )
    return Writing(row_group_size=11, write_page_index=True).write(table)


def same(one: Raw, other: Raw) -> bool:
    pairs = zip(one.groups, other.groups, strict=True)
    return one._replace(groups=(), values=()) == other._replace(groups=(), values=()) and all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for left, right in pairs
        for a, b in zip(left, right, strict=True)
    )


def test_structs_read_together_are_those_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    footer = footer_of(wide())
    together = parse(footer)
    monkeypatch.setattr(thrift, "_FEW", 1 << 30)
    assert same(parse(footer), together)


def test_chunks_are_found_where_their_beginning_also_stands_elsewhere() -> None:
    # A column's name looks like the beginning of a column chunk.
    name = b"\x26\x00\x1c\x15\x02\x19" + b"x" * 30
    table = pa.table(
        {name.decode("latin1"): [1, 2], "b": [3, 4], "\x26\x00\x1c\x15\x02\x19": [5, 6]}
    )
    data = Writing().write(table)
    assert pq.read_table(io.BytesIO(rebuilt(data))).equals(table)


def test_bounds_are_those_of_all_row_groups() -> None:
    table = pa.table(
        {
            "i": [1, 2, -5, None],
            "n": pa.nulls(4, pa.int64()),
            "s": ["a"] * 4,
            "t": pa.array([7] * 4, pa.timestamp("us")),
        }
    )
    bounds = parse_file(Writing(row_group_size=2).write(table)).bounds
    assert bounds[0] == (-5, 2)
    assert bounds[1][0] > bounds[1][1]  # no value at all
    assert bounds[2:] == (None, (7, 7))
    assert parse_file(Writing(write_statistics=False).write(table)).bounds == (None,) * 4
    assert parse_file(Writing().write(table.slice(0, 0))).bounds == ()


@pytest.mark.parametrize(
    ("writer", "trusted"),
    [
        (b"parquet-mr version 1.8.1 (build x)", False),
        (b"parquet-mr version 1.10.0 (build x)", True),
        (b"parquet-cpp version 1.2.1-SNAPSHOT", False),
        (b"impala version 4.0.0-RELEASE", True),
    ],
)
def test_bounds_of_writers_that_got_them_wrong_are_left_out(writer: bytes, trusted: bool) -> None:
    data = Writing().write(pa.table({"s": ["b", None], "i": [1, 2]}))
    footer = footer_of(data)
    at = footer.index(b"parquet-cpp-arrow")
    old = footer[at - 1 : at + footer[at - 1]]
    new = footer.replace(old, thrift.binary(writer))
    again = data[: -8 - len(footer)] + new + len(new).to_bytes(4, "little") + MAGIC
    metadata = pq.read_metadata(io.BytesIO(rebuilt(again)))
    for column in range(2):
        statistics = metadata.row_group(0).column(column).statistics
        assert statistics.has_min_max == trusted
        assert statistics.null_count == 1 - column
    assert parse_file(again).bounds[1] == ((1, 2) if trusted else None)


def test_without_an_order_of_columns_bounds_are_left_out() -> None:
    data = Writing().write(pa.table({"a": [1, 2], "b": [None, None]}))
    footer = footer_of(data)
    at = footer.rindex(b"\x19\x2c\x1c\x00\x00\x1c\x00\x00\x00")
    for orders in (b"", b"\x19\x2c\x2c\x00\x00\x2c\x00\x00"):  # none; of a kind not known yet
        raw = parse(footer[:at] + orders + b"\x00")
        assert raw.bounds[0] is None
        assert b"\x18\x08" not in raw.groups[0].body


def test_a_chunk_that_is_cut_off_is_refused() -> None:
    footer = footer_of(Writing(write_statistics=False).write(pa.table({"a": [1]})))
    for end in range(footer.index(b"\x26\x00\x1c\x15"), len(footer)):
        with pytest.raises((ValueError, IndexError)):
            parse(footer[:end])
        with pytest.raises((ValueError, IndexError)):
            parse(footer[:end] + b"\x80")


def test_row_groups_with_other_numbers_of_columns_are_refused() -> None:
    table = pa.table({"a": [1, 2], "b": [3, 4]})
    footer = footer_of(Writing(row_group_size=1, write_statistics=False).write(table))
    one = footer_of(Writing(write_statistics=False).write(pa.table({"a": [1]})))
    first = footer.index(b"\x19\x2c\x19\x2c") + 2  # two row groups, two columns
    other = one.index(b"\x19\x1c\x19\x1c") + 2
    mixed = footer[:first] + one[other : one.index(b"\x00\x19", other)] + footer[first:]
    with pytest.raises(ValueError, match="different"):
        parse(mixed)


def test_a_schema_that_is_no_tree_is_refused() -> None:
    data = Writing().write(pa.table({"l": [[1]], "a": [2]}))
    schema = parse_file(data).schema
    leaves = leaves_of(pq.ParquetFile(io.BytesIO(data)).schema)
    with pytest.raises(ValueError, match="tree"):
        columns_of(schema, b"[]")
    more = schema.replace(b"\x15\x04\x00", b"\x15\x06\x00")  # the root's children
    assert more != schema
    with pytest.raises((ValueError, IndexError)):
        columns_of(more, leaves)
    with pytest.raises((ValueError, IndexError)):
        columns_of(schema.replace(b"\x15\x04\x00", b"\x15\x02\x00"), leaves)
    with pytest.raises(ValueError, match="structs"):
        columns_of(b"\x15\x02", leaves)


def test_groups_are_cut_and_joined() -> None:
    data = wide()
    raw = parse_file(data)
    group = raw.groups[0]
    parts = [group.pick(slice(a, a + 10)) for a in range(0, 100, 10)]
    whole = join(parts)
    assert all(np.array_equal(a, b) for a, b in zip(whole, group, strict=True) if a is not b)
    assert join([group]) is group
    stored = columns(data, raw)
    picked = stored.choose(group, [5, 6, 2])
    assert picked.start.tolist() == [group.start[5], group.start[6], group.start[2]]
    assert list(group.pick(slice(3, 3)).extents()) == []
    assert group.codec() == 1


def test_renamed_chunks_have_another_path() -> None:
    data = Writing(use_compliant_nested_type=False).write(
        pa.table({"l": [[1], [2, 3]], "n": [4, 5]})
    )
    raw = parse_file(data)
    assert raw.paths[0] == b"\x38\x01l\x04list\x04item"
    group = raw.groups[0].renamed([b"\x38\x01l\x04list\x07element", raw.paths[1]])
    old = columns(data, raw)
    new = parse_file(Writing().write(pa.table({"l": [[1]], "n": [4]})))
    named = columns(Writing().write(pa.table({"l": [[1]], "n": [4]})), new)
    again = data[: -8 - len(footer_of(data))] + assemble(named, [group])
    assert pq.read_table(io.BytesIO(again)).to_pylist() == [
        {"l": [1], "n": 4},
        {"l": [2, 3], "n": 5},
    ]
    assert (
        pq.read_metadata(io.BytesIO(again)).row_group(0).column(0).path_in_schema
        == "l.list.element"
    )
    assert old.paths == list(raw.paths)
    assert group.renamed(raw.paths).body == raw.groups[0].body


@given(st.lists(st.integers(0, 2**55 - 1), min_size=1, max_size=20))
def test_slots_are_filled_with_the_shortest_numbers(numbers: list[int]) -> None:
    pieces, slots = [], []
    for _number in numbers:
        slots.append(sum(map(len, pieces)) + 2)
        pieces += [b"ab", thrift.OPEN]
    filled = thrift.fill_slots(b"".join(pieces), np.array(slots), np.array(numbers))
    assert filled == b"".join(b"ab" + thrift.i64(number) for number in numbers)


@given(st.lists(st.integers(-(2**62), 2**62 - 1), min_size=1, max_size=20))
def test_numbers_read_together_are_those_read_one_by_one(numbers: list[int]) -> None:
    data = b"".join(thrift.varint(n << 1 if n >= 0 else (-n << 1) - 1) for n in numbers)
    places, at = [], 0
    for number in numbers:
        places.append(at)
        value, at = thrift.signed(data, at)
        assert value == number
    buffer = Buffer(data)
    assert buffer.signed(np.array(places)).tolist() == numbers
    assert buffer.after_number(np.array(places)).tolist() == [*places[1:], at]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x15",  # ends in a field
        b"\x15\x80",  # ends in a number
        b"\x15" + b"\xff" * 10 + b"\x00",  # a number of 70 bits
        b"\x18\x7fabc\x00",  # a string behind the end
        b"\x1e\x00",  # no such type
        b"\x19\xf5\xff\xff\xff\xff\x07\x00",  # a list of 2**31 numbers
        b"\x1c" * 40,  # structs in structs
    ],
)
def test_what_is_no_struct_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        Walk(data, 0)
    with pytest.raises((ValueError, IndexError)):
        parse(data)
    assert Buffer(data).structs(np.array([0])) == []


def test_all_types_are_walked() -> None:
    data = (
        b"\x11"  # field 1: true
        b"\x12"  # field 2: false
        b"\x13\x07"  # field 3: a byte
        b"\x15\x04"  # field 4: 2
        b"\x17"
        + bytes(8)  # field 5: a double
        + b"\x19\x21\x01\x02"  # field 6: list of booleans
        b"\x1a\x15\x02"  # field 7: set of one number
        b"\x08\x2a\x01x"  # field 21, by its long form: a string
        b"\x00"
    )
    walk = Walk(data, 0)
    assert walk.end == len(data)
    assert walk.number((4,)) == 2
    assert walk.bytes((21,)) == b"\x01x"
    with pytest.raises(ValueError, match="no integer"):
        walk.number((21,))
    many = Buffer(data * 50).structs(np.arange(50) * len(data))
    assert [alike.at[-1].tolist() for alike in many] == [[len(data) * n for n in range(1, 51)]]


@pytest.mark.parametrize(
    ("number", "taken"),
    [
        (b"\x85\x00", True),  # longer than it need be
        (b"\x85" + b"\x80" * 8 + b"\x00", True),  # ten bytes: 64 bits
        (b"\x85" + b"\x80" * 9 + b"\x00", False),
        (b"\x85" + b"\x80" * 8 + b"\x01", None),  # as a number, not as a length
    ],
)
@pytest.mark.parametrize("text", [False, True])
def test_structs_read_together_are_refused_as_one_by_one_is(number, taken, text) -> None:
    taken = not text if taken is None else taken
    content = b"abcde" if text else b""
    kind, length = (b"\x18", b"\x05") if text else (b"\x15", b"\x0a")
    good = kind + length + content + b"\x00"
    odd = kind + number + content + b"\x00"
    data = good * 40 + odd + good * 40
    starts = np.cumsum([0, *[len(good)] * 40, len(odd), *[len(good)] * 39])
    found = Buffer(data).structs(starts)
    lanes = {int(lane) for alike in found for lane in alike.lanes}
    assert (40 in lanes) == taken
    assert lanes | {40} == set(range(81))
    cut = Buffer(data[:-1]).structs(starts)  # the last does not end
    assert 80 not in {int(lane) for alike in cut for lane in alike.lanes}


def test_a_negative_number_of_rows_is_refused() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    footer = footer_of(sink.getvalue())
    assert footer.count(b"\x16\x02") >= 2
    with pytest.raises(ValueError, match="rows"):
        parse(footer.replace(b"\x16\x02", b"\x16\x01"))


def test_footers_of_many_schemas_are_parsed_in_threads_at_once():
    """Schemas are remembered between files, by all threads."""
    files = []
    for number in range(24):
        out = io.BytesIO()
        pq.write_table(pa.table({f"c{number}": [number]}), out)
        files.append(out.getvalue())

    def schemas_from(start: int) -> list[bytes]:
        return [parse_file(data).schema for data in (files[start:] + files[:start]) * 10]

    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(schemas_from, range(0, 24, 6)))
    finally:
        sys.setswitchinterval(often)
    wanted = [parse_file(data).schema for data in files]
    for start, schemas_found in zip(range(0, 24, 6), found, strict=True):
        assert schemas_found == (wanted[start:] + wanted[:start]) * 10
