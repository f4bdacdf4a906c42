"""The door: what is accepted of a Parquet file, and what is said of it."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.core.errors import Invalid, NotFound, Unavailable
from catchment.core.parquet.footer import MAGIC
from catchment.core.parquet.thrift import binary, i64
from catchment.core.store import Store, open_store
from catchment.tables import opinions, parquet
from catchment.tables.parquet import Footer, Limits, inspect, vouch
from catchment.tables.types import plain, plain_schema
from catchment.tables.unify import BOUNDS
from catchment.testing.parquet import FLAT, Writing, schemas, table, tables, writings
from tests.tables.test_parquet_parse import footer_of

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"], "c": [[1], [], None]})


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://door{next(_NUMBERS)}")


_NUMBERS = iter(range(1 << 30))


def look(store: Store, data: bytes, **options) -> Footer:
    store.put("s/f.parquet", data, mode="overwrite")
    return inspect(store, "s/f.parquet", len(data), **options)


def refused(store: Store, data: bytes, kind: str, **options) -> Invalid:
    with pytest.raises(Invalid) as caught:
        look(store, data, **options)
    assert caught.value.kind == kind
    assert caught.value.message.startswith("'f.parquet': ")
    assert caught.value.hint
    return caught.value


def with_footer(data: bytes, footer: bytes) -> bytes:
    """The file with another footer."""
    end = len(footer).to_bytes(4, "little") + MAGIC
    return data[: -8 - len(footer_of(data))] + footer + end


def test_what_is_known_of_a_good_file(store: Store) -> None:
    data = Writing(row_group_size=2).write(TABLE)
    footer = look(store, data)
    assert footer.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert footer.rows == 3
    assert footer.schema.equals(plain_schema(TABLE.schema))
    assert json.loads(footer.schema.metadata[BOUNDS]) == [[1, 3], None, [1, 1]]
    assert [group.rows for group in footer.groups] == [2, 1]
    assert not footer.recode
    assert [len(column.leaves) for column in footer.columns] == [1, 1, 1]
    again = pickle.loads(pickle.dumps(footer))
    assert again.columns is footer.columns
    assert same_groups(again, footer)


def same_groups(one: Footer, other: Footer) -> bool:
    return all(
        np.array_equal(a, b)
        for left, right in zip(one.groups, other.groups, strict=True)
        for a, b in zip(left, right, strict=True)
    )


@settings(max_examples=60)
@given(st.data())
def test_every_file_of_pyarrow_is_accepted(drawn: st.DataObject) -> None:
    drawn_table = drawn.draw(schemas().flatmap(tables))
    data = drawn.draw(writings()).write(drawn_table)
    footer = look(open_store(f"memory://door{next(_NUMBERS)}"), data, deep=True)
    assert footer.rows == drawn_table.num_rows
    assert footer.schema.names == drawn_table.schema.names
    assert footer.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("kind", FLAT, ids=str)
def test_every_flat_type_is_accepted(store: Store, kind: pa.DataType) -> None:
    random = np.random.default_rng(1)
    sample = table(pa.schema([("c", kind)]), 40, random)
    footer = look(store, Writing(row_group_size=15).write(sample), deep=True)
    assert footer.schema.field("c").type.equals(plain(kind))
    assert footer.rows == 40


def test_a_footer_longer_than_the_first_read_is_read(store: Store) -> None:
    many = pa.table({f"column {n}": [n] for n in range(600)})
    data = Writing().write(many)
    assert len(footer_of(data)) > parquet._TAIL
    assert look(store, data).schema.names == many.column_names


def test_chunks_begin_in_any_block_of_the_stream(tmp_path: Path) -> None:
    # A local store streams in blocks of 1 MiB; the chunks lie around their borders.
    random = np.random.default_rng(1)
    numbers = pa.table({f"c{n}": random.random(130_000) for n in range(20)})
    writing = Writing(compression="none", use_dictionary=False, max_rows_per_page=1 << 20)
    data = writing.write(numbers)
    store = open_store(tmp_path.as_uri())
    assert look(store, data).digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    for group in pq.read_metadata(io.BytesIO(data)).to_dict()["row_groups"]:
        for chunk in group["columns"]:
            broken = bytearray(data)
            broken[chunk["data_page_offset"]] ^= 1
            refused(store, bytes(broken), "parquet-unreadable")


@pytest.mark.parametrize("size", [0, 1, 4, 8, 11])
def test_too_short_for_a_file(store: Store, size: int) -> None:
    data = Writing().write(TABLE)
    refused(store, data[:size], "parquet-unreadable" if size < 4 else "parquet-truncated")


def test_truncated_files(store: Store) -> None:
    data = Writing().write(TABLE)
    for end in (len(data) - 1, len(data) - 8, len(data) // 2, 20):
        refused(store, data[:end], "parquet-truncated")
    huge = data[:-8] + (1 << 30).to_bytes(4, "little") + MAGIC
    refused(store, huge, "parquet-truncated")


def test_other_files_are_unreadable(store: Store) -> None:
    refused(store, b"naccid,adcid\nNACC000001,3\n", "parquet-unreadable")
    refused(store, MAGIC + bytes(40) + (30).to_bytes(4, "little") + MAGIC, "parquet-unreadable")


def test_no_file(store: Store) -> None:
    with pytest.raises(NotFound):
        inspect(store, "s/f.parquet", 100)


def test_a_file_that_changed_since_the_listing(store: Store) -> None:
    data = Writing().write(TABLE)
    store.put("s/f.parquet", data)
    for size in (len(data) - 1, len(data) + 1):
        with pytest.raises(Invalid) as caught:
            inspect(store, "s/f.parquet", size)
        assert caught.value.kind == "parquet-unreadable"
    store.put("s/f.parquet", data + b"more", mode="overwrite")
    with pytest.raises(Invalid) as caught:
        inspect(store, "s/f.parquet", len(data))
    assert caught.value.kind == "parquet-truncated"


def test_encrypted_files(store: Store) -> None:
    data = Writing().write(TABLE)
    refused(store, b"PARE" + data[4:-4] + b"PARE", "parquet-encrypted")
    # A plain footer of encrypted columns: encryption_algorithm is its field 8.
    footer = footer_of(data)
    refused(store, with_footer(data, footer[:-1] + b"\x1c\x1c\x00\x00\x00"), "parquet-encrypted")


def test_encrypted_and_external_chunks(store: Store) -> None:
    data = Writing(write_statistics=False).write(pa.table({"a": [1]}))
    footer = footer_of(data)
    chunk = footer.index(b"\x26\x00\x1c\x15")
    end = footer.index(b"\x00\x00\x16", chunk)
    crypto = footer[: end + 1] + b"\x5c\x1c\x00\x00" + footer[end + 1 :]  # field 8 of ColumnChunk
    refused(store, with_footer(data, crypto), "parquet-encrypted")
    external = footer[:chunk] + b"\x18" + binary(b"other") + b"\x16" + footer[chunk + 1 :]
    refused(store, with_footer(data, external), "parquet-unreadable")


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (Limits(footer=100), "bytes of footer"),
        (Limits(columns=2), "columns"),
        (Limits(groups=2), "row groups"),
        (Limits(rows=2), "rows"),
        (Limits(group_rows=0), "rows in one row group"),
        (Limits(group_bytes=100), "bytes in one row group, uncompressed"),
    ],
)
def test_limits(store: Store, limits: Limits, what: str) -> None:
    data = Writing(row_group_size=1).write(TABLE)
    error = refused(store, data, "parquet-too-large", limits=limits)
    assert f" {what}, got " in error.message


def lying(store: Store, old: bytes, new: bytes, kind: str) -> None:
    """Replace a number in the footer of a file of one column of three rows."""
    data = Writing(write_statistics=False, use_dictionary=False).write(pa.table({"a": [1, 2, 3]}))
    footer = footer_of(data)
    assert footer.count(old) == 1
    refused(store, with_footer(data, footer.replace(old, new)), kind)


def test_lying_footers(store: Store) -> None:
    path = b"\x19\x18\x01a\x15\x02"  # path_in_schema, codec
    values = b"\x16\x06"
    lying(store, path + values, path + b"\x16\x08", "parquet-unreadable")  # 4 values in 3 rows
    size = len(Writing(write_statistics=False, use_dictionary=False).write(pa.table({"a": [1]})))
    offset = b"\x26\x08\x49"  # data_page_offset 4, then encoding_stats
    for place in (0, 2, 30, size, 1 << 40):
        lying(store, offset, b"\x26" + i64(place) + b"\x49", "parquet-unreadable")
    lying(store, offset, b"\x26\x07\x49", "parquet-unreadable")  # -4
    rows = b"\x16\x06\x19\x1c\x19\x1c"  # num_rows, then the row groups and their columns
    for count in (2, 4, 1 << 40):
        lying(store, rows, b"\x16" + i64(count) + rows[2:], "parquet-disagreement")


def test_overlapping_chunks(store: Store) -> None:
    data = Writing(write_statistics=False, use_dictionary=False).write(
        pa.table({"a": [1], "b": [2]})
    )
    metadata = pq.read_metadata(io.BytesIO(data)).to_dict()["row_groups"][0]["columns"]
    second = i64(metadata[1]["data_page_offset"])
    footer = footer_of(data)
    assert footer.count(b"\x26" + second) == 1
    broken = footer.replace(b"\x26" + second, b"\x26" + i64(4))
    refused(store, with_footer(data, broken), "parquet-unreadable")


def test_columns_of_one_name_are_refused(store: Store) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    refused(store, Writing().write(twice), "parquet-disagreement")
    nested = pa.table({"s": pa.array([None], pa.struct([("f", pa.int8()), ("f", pa.int8())]))})
    refused(store, Writing().write(nested), "parquet-disagreement")


def test_columns_that_differ_by_case_are_accepted(store: Store) -> None:
    twins = pa.table({"a": [1], "A": [2], "a_1": [3]})
    assert look(store, Writing().write(twins)).schema.names == ["a", "A", "a_1"]


def test_a_file_without_columns_is_refused(store: Store) -> None:
    refused(store, Writing().write(pa.table({})), "parquet-unreadable")


def test_zero_rows(store: Store) -> None:
    footer = look(store, Writing().write(TABLE.slice(0, 0)), deep=True)
    assert footer.rows == 0
    assert footer.groups == ()


def test_a_damaged_page_is_found_by_a_deep_look_only(store: Store) -> None:
    data = bytearray(
        Writing(compression="zstd").write(pa.table({"a": [f"value {n}" for n in range(99)]}))
    )
    chunk = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0)
    data[chunk.dictionary_page_offset + 40] ^= 0xFF
    assert look(store, bytes(data)).rows == 99
    refused(store, bytes(data), "parquet-unreadable", deep=True)


def test_strings_that_are_not_utf8_are_found_by_a_deep_look(store: Store) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    )
    data = Writing(write_statistics=False).write(pa.table({"s": bad}))
    refused(store, data, "parquet-unreadable", deep=True)


def test_old_lz4_is_read_but_not_copied(store: Store) -> None:
    data = Writing(compression="lz4", write_statistics=False).write(pa.table({"a": [1]}))
    footer = footer_of(data)
    codec = b"\x19\x18\x01a\x15\x0e"  # the path, then LZ4_RAW
    assert footer.count(codec) == 1
    old = with_footer(data, footer.replace(codec, codec[:-1] + b"\x0a"))
    assert look(store, old).recode


@pytest.mark.parametrize("of", ["duckdb_columns", "pyarrow_rows"])
def test_readers_that_disagree(store: Store, monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    data = Writing().write(TABLE)
    real = getattr(opinions, of)
    parquet._layout.cache_clear()
    monkeypatch.setattr(opinions, of, lambda footer: real(footer) + 1)
    refused(store, data, "parquet-disagreement")
    parquet._layout.cache_clear()


def test_no_room_to_ask_another_reader(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Writing().write(TABLE)
    look(store, data)
    parquet._layout.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(Unavailable) as caught:
        look(store, data)
    assert caught.value.kind == "no-scratch-space"


def test_a_footer_that_changed_is_not_vouched_for(store: Store) -> None:
    claims = look(store, Writing().write(TABLE)).claims
    other = Writing().write(TABLE.slice(1))
    store.put("s/f.parquet", other, mode="overwrite")
    with pytest.raises(Invalid) as caught:
        vouch(store, "s/f.parquet", len(other), claims)
    assert caught.value.kind == "parquet-unreadable"


def test_unknown_encodings_and_fields_out_of_order_are_refused(store: Store) -> None:
    data = Writing(write_statistics=False, use_dictionary=False).write(pa.table({"a": [1]}))
    footer = footer_of(data)
    encodings = b"\x19\x25\x06\x00\x19"  # RLE and PLAIN; then the path
    assert footer.count(encodings) == 1
    unknown = footer.replace(encodings, b"\x19\x25\x1c\x00\x19")
    refused(store, with_footer(data, unknown), "parquet-unreadable")
    values = b"a\x15\x02\x16\x02\x16"  # the path's end, codec, num_values
    assert footer.count(values) == 1
    order = footer.replace(values, b"a\x26\x02\x05\x08\x02\x26")  # num_values, then codec
    refused(store, with_footer(data, order), "parquet-unreadable")


def test_row_groups_of_other_columns_are_refused(store: Store) -> None:
    data = Writing(write_statistics=False).write(pa.table({"a": [1]}))
    footer = footer_of(data)
    path = b"\x19\x18\x01a\x15"
    assert footer.count(path) == 1
    refused(
        store, with_footer(data, footer.replace(path, b"\x19\x18\x01b\x15")), "parquet-unreadable"
    )
