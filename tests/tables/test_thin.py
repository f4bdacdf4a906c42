"""Rows taken out of references to a dictionary: as if every value had been decoded."""

from __future__ import annotations

import io
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from catchment.core.errors import Invalid
from catchment.core.parquet.parse import parse_file
from catchment.tables import pages, rewrite, thin
from catchment.testing import parquet
from catchment.testing.parquet import FLAT, Writing
from tests.tables.merging import CONSTANTS, File, Merging, naive, table_values, values
from tests.tables.test_merge_readers import FLAT as COMMON
from tests.tables.test_merge_readers import sample

CODES = pa.table(
    {
        "code": pa.array([3, 1, None, 3, 7, 1, 3] * 40, pa.int32()),
        "need": pa.array([1.5, 2.5] * 140),
        "text": ["a", "b", "b", None] * 70,
        "none": pa.nulls(280, pa.int64()),
        "l": [[1], [], None, [1, 1]] * 70,
    },
    schema=pa.schema(
        [
            ("code", pa.int32()),
            pa.field("need", pa.float64(), nullable=False),
            ("text", pa.string()),
            ("none", pa.int64()),
            ("l", pa.list_(pa.int64())),
        ]
    ),
)
THIN = ["code", "need", "text", "none"]


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many columns each task did not decode."""
    found: list[int] = []
    real = thin.thin

    def counting(*arguments):
        thinned = real(*arguments)
        found.append(len(thinned.chosen) if thinned else 0)
        return thinned

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite, "thin", counting)
        yield found


@contextmanager
def decoding() -> Iterator[None]:
    """Every value is decoded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite, "thin", lambda *_: None)
        yield


def read(merging: Merging, key: str) -> pa.Table:
    return pq.read_table(io.BytesIO(merging.read(key)))


def merged(data: bytes, removed: Sequence[int]) -> tuple[bytes, bytes]:
    """The table, and the rows that left."""
    merging = Merging(constants={})
    result = merging.merge([File(data, removed)])
    assert result.removed
    return merging.read(result.table.key), merging.read(result.removed.key)


def by_duckdb(data: bytes) -> pa.Table:
    """What DuckDB reads."""
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file, duckdb.connect() as connection:
        file.write(data)
        file.flush()
        connection.execute("SET TimeZone = 'UTC'")
        return connection.read_parquet(file.name).to_arrow_table()


def statistics(data: bytes) -> list[list[object]]:
    """What the footer says of values: for each row group and column least, greatest, nulls."""
    metadata = pq.read_metadata(io.BytesIO(data))
    chunks = [
        metadata.row_group(g).column(c)
        for g in range(metadata.num_row_groups)
        for c in range(metadata.num_columns)
    ]
    return [
        [chunk.path_in_schema, chunk.num_values]
        + ([s.null_count, s.has_min_max and (s.min, s.max)] if (s := chunk.statistics) else [])
        for chunk in chunks
    ]


@st.composite
def repeating(draw) -> File:
    """Columns of few values, written in any way; some rows leave."""
    schema = draw(parquet.schemas(depth=draw(st.sampled_from([0, 0, 0, 1]))))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    empty = draw(st.sampled_from([0.0, 0.2, 1.0]))
    few = parquet.table(schema, draw(st.integers(1, 5)), random, empty=empty)
    rows = draw(st.lists(st.integers(0, few.num_rows - 1), min_size=2, max_size=60))
    table = few.take(rows)
    told = draw(st.booleans())
    removed = st.sets(st.sampled_from(range(len(rows))), min_size=1, max_size=len(rows) - 1)
    writing = replace(draw(parquet.writings()), store_schema=told)
    if draw(st.booleans()):
        writing = replace(writing, use_dictionary=True, row_group_size=1 << 20)
    data = writing.write(table)
    return File(data, sorted(draw(removed)))


@settings(max_examples=60)
@given(repeating())
def test_every_value_is_that_of_the_naive_merge(file: File) -> None:
    check_values(file)


@pytest.mark.soak
@settings(max_examples=5000)
@given(repeating())
def test_every_value_of_many_tables(file: File) -> None:
    check_values(file)


def check_values(file: File) -> None:
    merging = Merging()
    with counted() as found:
        result = merging.merge([file])
    event(f"columns that were not decoded: {sum(found)}")
    stay, leave = naive(merging, [file])
    names = merging.unified.schema.names
    assert table_values(read(merging, result.table.key), [*names, *CONSTANTS]) == stay
    assert table_values(read(merging, result.removed.key), names) == leave


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_only_what_is_no_dictionary_is_decoded(compression, version) -> None:
    for nullable in (True, False):
        kinds = [kind for kind in FLAT if nullable or not pa.types.is_null(kind)]
        fields = [pa.field(f"c{n}", kind, nullable) for n, kind in enumerate(kinds)]
        few = parquet.table(pa.schema(fields), 5, np.random.default_rng(0))
        table = few.take([*range(5)] * 8)
        writing = Writing(compression=compression, data_page_version=version)
        with counted() as found:
            stay, leave = merged(writing.write(table), [3, 11, 12, 30])
        flags = sum(pa.types.is_boolean(kind) for kind in kinds)
        assert found == [len(kinds) - flags]
        rows = np.ones(40, bool)
        rows[[3, 11, 12, 30]] = False
        for data, some in ((stay, rows), (leave, ~rows)):
            seen = pq.read_table(io.BytesIO(data))
            for name in table.column_names:
                expected = table.column(name).filter(pa.array(some))
                if pa.types.is_dictionary(expected.type):
                    expected = expected.cast(pa.string())
                if pa.types.is_large_string(expected.type):
                    expected = expected.cast(pa.string())
                assert values(seen.column(name)) == values(expected)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_other_readers_see_the_same(drawn: st.DataObject) -> None:
    few = sample(drawn.draw(st.integers(0, 3)), COMMON, drawn.draw(st.sampled_from([0, 0.2])))
    count = drawn.draw(st.integers(2, 40))
    rows = drawn.draw(st.lists(st.integers(0, 7), min_size=count, max_size=count))
    removed = drawn.draw(st.sets(st.sampled_from(range(count)), min_size=1, max_size=count - 1))
    writing = drawn.draw(parquet.writings())
    data = replace(writing, use_dictionary=True, store_schema=True).write(few.take(rows))
    stays = np.ones(count, bool)
    stays[sorted(removed)] = False
    for got, some in zip(merged(data, sorted(removed)), (stays, ~stays), strict=True):
        expected = few.take(rows).filter(pa.array(some))
        names = expected.column_names
        told = table_values(expected, names)
        for found in (pl.read_parquet(io.BytesIO(got)).to_arrow(), by_duckdb(got)):
            assert table_values(found.select(names).cast(expected.schema), names) == told


def test_statistics_are_those_of_the_decoder() -> None:
    removed = [0, 2, 5, 100, 279]
    for writing in (Writing(), Writing(row_group_size=100), Writing(write_statistics=False)):
        data = writing.write(CODES)
        with counted() as found:
            ours, _ = merged(data, removed)
        assert set(found) == {len(THIN)}
        with decoding():
            expected, _ = merged(data, removed)
        flat = len(THIN)
        got = [one for one in statistics(ours) if one[0] in THIN]
        told = [one for one in statistics(expected) if one[0] in THIN]
        if writing.write_statistics:
            assert got == told
        else:
            assert [one[:2] for one in got] == [one[:2] for one in told]
            assert all(len(one) == 2 for one in got)
        assert len(got) % flat == 0


def test_bundles_and_pages_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    removed = list(range(0, 280, 9))
    data = Writing(max_rows_per_page=30).write(CODES)
    expected = merged(data, removed)
    with monkeypatch.context() as patch:
        patch.setattr(thin, "_TOGETHER", 1)
        assert merged(data, removed) == expected
    monkeypatch.setattr(thin, "PAGE_ROWS", 50)
    with counted() as found:
        stay, leave = merged(data, removed)
    assert found == [len(THIN)]
    assert leave == expected[1]
    assert stay != expected[0]
    for one, other in zip((stay, leave), expected, strict=True):
        assert pq.read_table(io.BytesIO(one)).equals(pq.read_table(io.BytesIO(other)))
        assert by_duckdb(one).equals(by_duckdb(other))
        assert pl.read_parquet(io.BytesIO(one)).equals(pl.read_parquet(io.BytesIO(other)))


def test_many_values_have_wide_references() -> None:
    words = [f"word {n % 700}" for n in range(3000)]
    table = pa.table({"w": words, "n": [n % 257 for n in range(3000)]})
    with counted() as found:
        stay, leave = merged(Writing().write(table), [5, 2999])
    assert found == [2]
    assert pq.read_table(io.BytesIO(stay)).equals(table.take([*range(5), *range(6, 2999)]))
    assert pq.read_table(io.BytesIO(leave)).select(["w", "n"]).equals(table.take([5, 2999]))


def test_a_value_that_only_leaves_is_not_kept_in_the_dictionary() -> None:
    for repeats in (4, 100):
        words = ["stays", "leaves"] + ["stays"] * repeats
        numbers = [n % 300 for n in range(600)] + [300]
        for column, gone in ((words, [1]), (numbers, [600]), (numbers, [7, 307])):
            with counted() as found:
                stay, _ = merged(Writing(compression="none").write(pa.table({"c": column})), gone)
            assert found == [0]
            assert b"leaves" not in stay
            greatest = pq.read_metadata(io.BytesIO(stay)).row_group(0).column(0).statistics.max
            assert greatest in ("stays", 300 if gone != [600] else 299)


@pytest.mark.parametrize("width", range(1, 17))
def test_bits_are_packed(width: int) -> None:
    random = np.random.default_rng(width)
    for count in (1, 7, 8, 9, 1000):
        codes = random.integers(0, 1 << width, count).astype(np.uint8 if width < 9 else np.uint16)
        packed = np.frombuffer(pages.packed_bits(codes, width), np.uint8)
        assert len(packed) == width * -(-count // 8)
        bits = np.unpackbits(packed, bitorder="little").reshape(-1, width)
        assert (bits @ (1 << np.arange(width)))[:count].tolist() == codes.tolist()


def test_a_writer_that_makes_other_pages_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then all is decoded."""
    data = Writing().write(CODES)
    with decoding():
        expected = merged(data, [1, 2, 3])
    real = pq.write_table

    def other(*arguments, **options):
        if "max_rows_per_page" in options:
            options |= {"max_rows_per_page": 2}
        real(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", other)
    assert merged(data, [1, 2, 3]) == expected


PLAIN = Writing(compression="none", use_dictionary=True).write(CODES.select(THIN))


def outcome(data: bytes, removed: Sequence[int]) -> tuple[list[dict[str, list]], str]:
    """The values of both files, or why there are none."""
    try:
        tables = [pq.read_table(io.BytesIO(one)) for one in merged(data, removed)]
    except Invalid as error:
        return [], error.kind
    return [table_values(table, table.column_names) for table in tables], ""


@pytest.mark.parametrize("codec", ["none", "snappy"])
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_pages_end_as_with_the_decoder(codec: str, drawn: st.DataObject) -> None:
    """The same values, or the same refusal."""
    kind = Writing(
        compression=codec,
        data_page_version=drawn.draw(st.sampled_from(["1.0", "2.0"])),
        max_rows_per_page=drawn.draw(st.sampled_from([20_000, 100])),
    )
    data = bytearray(kind.write(CODES.select(THIN)))
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for _ in range(drawn.draw(st.integers(1, 3))):
        data[drawn.draw(st.integers(4, end - 1))] = drawn.draw(st.integers(0, 255))
    removed = sorted(drawn.draw(st.sets(st.integers(0, 279), min_size=1, max_size=9)))
    found, why = outcome(bytes(data), removed)
    with decoding():
        expected, reason = outcome(bytes(data), removed)
    event(why or "read")
    assert why == reason
    assert found == expected


def patched(column: int, behind: int, old: int, new: int) -> bytes:
    """A byte in the header of a column's dictionary page replaced."""
    data = bytearray(PLAIN)
    at = int(parse_file(PLAIN).groups[0].start[column]) + behind
    assert data[at] == old
    data[at] = new
    return bytes(data)


def test_references_behind_the_dictionary_are_refused() -> None:
    """Also where they fit into the bits of a reference: three values, of which two are told."""
    head = PLAIN[4:24].hex(" ")
    assert head.startswith("15 04 15 18 15 18 4c 15 06 15 00")
    for told in (2 << 1, 1 << 1, 0):
        assert outcome(patched(0, 8, 3 << 1, told), [0]) == ([], "parquet-unreadable")


def test_a_dictionary_that_ends_early_is_refused() -> None:
    assert outcome(patched(0, 8, 3 << 1, 4 << 1), [0]) == ([], "parquet-unreadable")


def test_fewer_values_than_expected_are_refused() -> None:
    page, _ = pages.page(pages.DATA, 0, np.arange(3, dtype="<i4").tobytes(), 3, pages.PLAIN)
    assert pages.read_pages(pa.int32(), 0, [page], 3).to_pylist() == [0, 1, 2]
    with pytest.raises((ValueError, OSError)):
        pages.read_pages(pa.int32(), 0, [page], 4)


def test_merged_is_merged_again() -> None:
    """What we have made is copied, and made again, like any file."""
    first, _ = merged(Writing().write(CODES), [0, 1])
    second, left = merged(first, [0, 277])
    rows = [n for n in range(2, 280) if n not in (2, 279)]
    assert pq.read_table(io.BytesIO(second)).equals(CODES.take(rows))
    assert pq.read_table(io.BytesIO(left)).select(CODES.column_names).equals(CODES.take([2, 279]))


@pytest.mark.parametrize("codec", sorted(pages.CODECS))
def test_threads_write_pages_at_the_same_time(codec: int) -> None:
    """A codec that two threads share corrupts the heap: gzip's works in a buffer of its own."""
    first, second = (np.random.default_rng(n).integers(0, 99, 4000) for n in (1, 2))
    bodies = [numbers.astype("<i4").tobytes() for numbers in (first, second)]
    alone = [pages.page(pages.DICTIONARY, codec, body, 4000, pages.PLAIN) for body in bodies]
    start = threading.Barrier(2)

    def write(body: bytes) -> tuple[set[tuple[bytes, int]], int]:
        start.wait()
        made = {pages.page(pages.DICTIONARY, codec, body, 4000, pages.PLAIN) for _ in range(50)}
        start.wait()  # both are alive, so that neither has the other's identity
        return made, id(pages._codecs[codec]) if codec else id(body)

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(write, bodies))
    assert [made for made, _ in found] == [{one} for one in alone]
    assert found[0][1] != found[1][1]
