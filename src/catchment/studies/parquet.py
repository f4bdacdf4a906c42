"""Parquet of studies: reading what a site sent, strictly, and writing our own, always alike."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment.core.errors import Invalid
from catchment.core.store import Store
from catchment.studies import once
from catchment.studies.model import Object

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 1 << 20


def read(path: Path, rows: int, columns: int, decoded: int) -> pa.Table:
    """The whole table of an untrusted file: call this in a child process.

    Raises:
        Invalid: kind ``parquet-unreadable``, ``parquet-too-large`` or ``parquet-disagreement``.
    """
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            meta, schema = file.metadata, file.schema_arrow
            names = list(schema.names)
            groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
            size = sum(
                g.column(c).total_uncompressed_size for g in groups for c in range(g.num_columns)
            )
            if meta.num_rows > rows or len(names) > columns or size > decoded:
                raise Invalid(
                    f"expected at most {rows:,} rows, {columns:,} columns and {decoded:,} bytes, "
                    f"got {meta.num_rows:,}, {len(names):,} and {size:,}",
                    kind="parquet-too-large",
                    hint="split the package, or leave columns out",
                )
            if len({name.casefold() for name in names}) != len(names) or "" in names:
                raise _disagreement("two columns have the same name, or one has none")
            with ThreadPoolExecutor(1) as beside:
                other = beside.submit(_seen_by_duckdb, path)
                table = file.read()
                table.validate(full=True)
                listed, counted = other.result()
    except (pa.ArrowException, duckdb.Error, OSError, ValueError) as error:
        raise Invalid(
            f"expected a Parquet file, got one that cannot be read ({type(error).__name__})",
            kind="parquet-unreadable",
            hint="check that the file is whole, then send it again",
        ) from None
    if listed != names or counted != [table.num_rows] or table.num_rows != meta.num_rows:
        raise _disagreement("two readers see different rows or columns")
    return table


def _seen_by_duckdb(path: Path) -> tuple[list[str], list[int]]:
    """The columns and the number of rows that another reader sees."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    # A folder's name may look like a partition, whose column is none of the file's.
    listed = connection.read_parquet(literal(path), hive_partitioning=False)
    told = connection.execute(
        "SELECT count(*) FROM read_parquet(?, hive_partitioning = false)", [literal(path)]
    ).fetchone()
    return listed.columns, [int(told[0])] if told else []


@cache
def writer() -> str:
    """What writes our files. Another one writes other bytes, so it belongs in a key."""
    return f"arrow-{version('pyarrow')}"


def write(
    store: Store,
    key: str,
    batches: Callable[[], Iterable[pa.RecordBatch]],
    schema: pa.Schema,
    *,
    groups: bool = False,
    mend: bool = False,
) -> Object:
    """Write our own table, whose bytes depend on its rows only, once: see :func:`.once.put`.

    With ``groups``, each batch becomes a row group.
    """
    return once.put(store, key, lambda: encoded(batches(), schema, groups=groups), mend=mend)


def encoded(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, groups: bool = False
) -> Iterator[bytes]:
    """The file's bytes, a row group at a time; with ``groups``, each batch is one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = _Sink()
    waiting: list[Any] = []
    count = 0
    with pq.ParquetWriter(
        sink, schema, compression="zstd", write_statistics=True, store_schema=False
    ) as writer:
        if schema.metadata:
            writer.add_key_value_metadata(schema.metadata)
        for batch in batches:
            waiting.append(batch)
            count += batch.num_rows
            most = batch.num_rows if groups else ROW_GROUP
            while count >= most:
                table = pa.Table.from_batches(waiting, schema)
                writer.write_table(table.slice(0, most), row_group_size=most)
                rest = table.slice(most)
                waiting, count = rest.to_batches(), rest.num_rows
                yield from sink.take()
        if count:
            writer.write_table(pa.Table.from_batches(waiting, schema), row_group_size=ROW_GROUP)
    yield from sink.take()


class _Sink(io.RawIOBase):
    """Holds what a writer wrote until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        chunk = bytes(data)
        self._chunks.append(chunk)
        return len(chunk)

    def take(self) -> list[bytes]:
        chunks, self._chunks = self._chunks, []
        return chunks


def literal(path: Path) -> str:
    """A path, not a pattern."""
    import glob

    return glob.escape(str(path))


def _disagreement(what: str) -> Invalid:
    return Invalid(
        f"expected a table that all readers read alike: {what}",
        kind="parquet-disagreement",
        hint="write the file again with a current library",
    )
