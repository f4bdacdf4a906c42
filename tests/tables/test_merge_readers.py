"""What other readers see in a merged table, whoever wrote its inputs."""

from __future__ import annotations

import datetime as dt
import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import fastparquet
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.tables.merging import CONSTANTS, File, Merging, comparable

FLAT = {
    "i64": pa.int64(),
    "i32": pa.int32(),
    "u8": pa.uint8(),
    "f64": pa.float64(),
    "f32": pa.float32(),
    "text": pa.string(),
    "flag": pa.bool_(),
    "day": pa.date32(),
    "at": pa.timestamp("us"),
    "utc": pa.timestamp("us", "UTC"),
    "money": pa.decimal128(9, 2),
    "raw": pa.binary(),
}
NESTED = {
    "many": pa.list_(pa.int32()),
    "pair": pa.struct([("a", pa.int64()), ("b", pa.string())]),
    "deep": pa.list_(pa.struct([("x", pa.list_(pa.string()))])),
}
ROWS = 200


def sample(seed: int, kinds: dict[str, pa.DataType], nulls: float = 0.1) -> pa.Table:
    random = np.random.default_rng(seed)

    def value(kind: pa.DataType) -> Any:
        number = int(random.integers(0, 50)) + 100 * seed  # so that statistics differ by file
        if random.random() < nulls:
            return None
        if pa.types.is_list(kind):
            return [value(kind.value_type) for _ in range(random.integers(3))]
        if pa.types.is_struct(kind):
            return {field.name: value(field.type) for field in kind}
        return {
            pa.string(): f"t{number}",
            pa.binary(): bytes([number % 256, 0, 255]),
            pa.bool_(): bool(number % 2),
            pa.date32(): dt.date(2020, 1, 1) + dt.timedelta(number),
            pa.timestamp("us"): dt.datetime(2020, 1, 1) + dt.timedelta(seconds=number),
            pa.timestamp("us", "UTC"): dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
            + dt.timedelta(hours=number),
            pa.decimal128(9, 2): Decimal(number).scaleb(-2),
            pa.uint8(): number % 256,
            pa.float32(): number / 2,
            pa.float64(): number / 3,
        }.get(kind, number)

    return pa.table({n: pa.array([value(k) for _ in range(ROWS)], k) for n, k in kinds.items()})


def by_pyarrow(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=64, write_page_index=True)


def by_pyarrow_2(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, data_page_version="2.0", compression="zstd", version="1.0")


def by_polars(table: pa.Table, path: Path) -> None:
    pl.from_arrow(table).write_parquet(path, row_group_size=64)


def by_duckdb(table: pa.Table, path: Path) -> None:
    duckdb.from_arrow(table).write_parquet(str(path))


WRITERS = [by_pyarrow, by_pyarrow_2, by_polars, by_duckdb]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """A table from files of all writers, and what is to be in it."""
    folder = tmp_path_factory.mktemp("readers")
    files, expected = [], []
    for seed, write in enumerate(WRITERS):
        table = sample(seed, FLAT | NESTED)
        path = folder / f"{seed}.parquet"
        write(table, path)
        removed = [3, 4, 150] if seed % 2 else []
        files.append(File(path.read_bytes(), removed))
        stays = np.ones(ROWS, bool)
        stays[removed] = False
        expected.append(table.filter(pa.array(stays)))
    merging = Merging()
    result = merging.merge(files)
    path = folder / "merged.parquet"
    path.write_bytes(merging.read(result.table.key))
    table = pa.concat_tables(expected)
    for name, text in CONSTANTS.items():
        table = table.append_column(name, pa.array([text] * table.num_rows))
    assert merging.unified.schema.types == [*FLAT.values(), *NESTED.values()]
    return path, table


def listed(table: pa.Table) -> dict[str, list]:
    return {name: comparable(table.column(name).to_pylist()) for name in table.column_names}


def test_pyarrow_and_duckdb_and_polars_see_every_value(merged: tuple[Path, pa.Table]) -> None:
    path, expected = merged
    names = expected.column_names
    assert listed(pq.read_table(path)) == listed(expected)
    assert listed(pl.read_parquet(path).to_arrow().select(names)) == listed(expected)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.read_parquet(str(path)).to_arrow_table()
        assert listed(found) == listed(expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:fastparquet", "ignore::ResourceWarning")
def test_fastparquet_sees_every_value(merged: tuple[Path, pa.Table]) -> None:
    path, expected = merged
    frame = fastparquet.ParquetFile(str(path)).to_pandas(columns=[*FLAT, *CONSTANTS])
    for name, column in frame.items():
        found = [None if pd.isna(value) else value for value in column]
        wanted = expected.column(name).to_pylist()
        if name == "money":
            found = [None if value is None else Decimal(f"{value:.2f}") for value in found]
        if name == "day":
            found = [None if value is None else value.date() for value in found]
        if name == "utc":
            found = [None if value is None else value.tz_localize(dt.UTC) for value in found]
        assert found == wanted, name


@pytest.mark.filterwarnings("ignore::DeprecationWarning:fastparquet", "ignore::ResourceWarning")
def test_a_file_of_fastparquet_is_merged(tmp_path: Path) -> None:
    table = sample(1, {name: FLAT[name] for name in ("i64", "f64", "text", "at")}, nulls=0)
    path = tmp_path / "f.parquet"
    fastparquet.write(str(path), table.to_pandas(), compression="GZIP", row_group_offsets=[0, 90])
    merging = Merging()
    merged = merging.merge([File(path.read_bytes(), [1]), File(path.read_bytes())])
    found = pq.read_table(io.BytesIO(merging.read(merged.table.key)))
    rows = [*range(1), *range(2, ROWS), *range(ROWS)]
    assert listed(found.select(table.column_names)) == listed(table.take(rows))
    # It says nothing of the order that its bounds are in, so they are left out.
    metadata = pq.read_metadata(io.BytesIO(merging.read(merged.table.key)))
    copied = metadata.row_group(metadata.num_row_groups - 1).column(0).statistics
    assert not copied.has_min_max
    assert copied.null_count == 0


@pytest.mark.parametrize("name", [*FLAT, *CONSTANTS])
def test_filters_find_what_a_full_read_finds(merged: tuple[Path, pa.Table], name: str) -> None:
    path, expected = merged
    column = expected.column(name)
    some = column.drop_null().unique()
    for value in [some[0], some[len(some) // 2], some[-1]]:
        condition = pc.field(name) == value
        count = pc.sum(pc.equal(column, value)).as_py()
        assert count
        assert ds.dataset(path).count_rows(filter=condition) == count
        assert pl.scan_parquet(path).filter(pl.col(name) == value.as_py()).collect().height == count
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            query = f'SELECT count(*) FROM read_parquet(?) WHERE "{name}" = ?'
            assert connection.execute(query, [str(path), value.as_py()]).fetchone() == (count,)
    assert ds.dataset(path).count_rows(filter=pc.field(name).is_null()) == column.null_count


def test_filters_skip_row_groups(merged: tuple[Path, pa.Table]) -> None:
    path, expected = merged
    metadata = pq.read_metadata(path)
    place = expected.column_names.index("i64")
    bounds = [
        metadata.row_group(g).column(place).statistics for g in range(metadata.num_row_groups)
    ]
    assert all(b.has_min_max for b in bounds)
    assert len({(b.min // 100, b.max // 100) for b in bounds}) == len(WRITERS)


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "BYTE_STREAM_SPLIT"])
def test_encodings_that_few_readers_know_are_not_copied(encoding: str, tmp_path: Path) -> None:
    """DuckDB reads no split bytes of fixed length, Polars neither these nor differences of them."""
    table = pa.table(
        {
            "before": pa.array([1.5, None, 2.5]),
            "rows": pa.array([[1], None, [2, 3]]),
            "digits": pa.array([Decimal(1), None, Decimal(-3)], pa.decimal128(30, 0)),
            "half": pa.array([1.5, None, 0.5], pa.float16()),
            "after": ["a", "b", None],
        }
    )
    how = {"digits": encoding, "half": encoding}
    sink = io.BytesIO()
    pq.write_table(table, sink, use_dictionary=False, column_encoding=how)
    merging = Merging()
    result = merging.merge([File(sink.getvalue())])
    path = tmp_path / "merged.parquet"
    path.write_bytes(merging.read(result.table.key))
    columns = [pq.read_metadata(path).row_group(0).column(n) for n in range(5)]
    assert all(encoding not in column.encodings for column in columns)
    others = [columns[n] for n in (0, 1, 4)]  # as they were: these have no dictionary
    assert not any("RLE_DICTIONARY" in column.encodings for column in others)
    assert pq.read_table(path).select(table.column_names).equals(table)
    assert pl.read_parquet(path, columns=["digits", "half"])["digits"].to_list()[0] == 1
    with duckdb.connect() as connection:
        rows = connection.execute("SELECT digits, half FROM read_parquet(?)", [str(path)])
        assert rows.fetchall() == [(Decimal(1), 1.5), (None, None), (Decimal(-3), 0.5)]
