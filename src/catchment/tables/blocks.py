"""Row groups under construction: which column comes from where, and the file made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.parquet.footer import (
    MAGIC,
    Columns,
    Group,
    assemble,
    columns_of,
    join,
    leaves_of,
)
from catchment.core.parquet.parse import parse_file
from catchment.core.parquet.thrift import Ints
from catchment.core.store import Composed, Range, Segment, Store


class Source(NamedTuple):
    """A row group from which chunks are taken: of a stored object, or of a file in memory."""

    place: tuple[Store, str] | bytes
    columns: Columns
    group: Group

    def segments(self, group: Group) -> Iterator[Segment]:
        """The bytes of some of its chunks."""
        for start, length in group.extents():
            if isinstance(self.place, bytes):
                yield self.place[start : start + length]
            else:
                yield Range(*self.place, start, length)


@dataclass(slots=True)
class Block:
    """A row group of the result. For each of its columns, which source and which column of it."""

    rows: int
    sources: list[Source]
    source: Ints
    column: Ints

    def put(self, source: Source, columns: Sequence[int]) -> None:
        """Take these columns from all of another source."""
        self.source[columns] = len(self.sources)
        self.column[columns] = np.arange(len(columns))
        self.sources.append(source)

    def runs(self, columns: Columns) -> Iterator[tuple[Source, Group]]:
        """The sources' chunks in the order of the result, under the names that they have there."""
        breaks = np.flatnonzero((np.diff(self.source) != 0) | (np.diff(self.column) != 1)) + 1
        for first, after in pairwise([0, *breaks.tolist(), len(columns)]):
            source = self.sources[self.source[first]]
            start = int(self.column[first])
            leaves = source.columns.leaves(start, start + after - first)
            group = source.group.pick(leaves)
            paths = columns.paths[columns.leaves(first, after)]
            if paths != source.columns.paths[leaves]:  # the inside of lists and maps has many names
                group = group.renamed(paths)
            yield source, group


class Target(NamedTuple):
    """A file to be composed.

    Attributes:
        schema: of the file.
        columns: how it stores them.
    """

    schema: pa.Schema
    columns: Columns

    def compose(
        self, store: Store, key: str, blocks: Iterable[Block], groups: list[Group]
    ) -> Composed:
        """Write the file as its blocks come; ``groups`` gets each row group once it has a place."""
        return store.compose(key, self._segments(blocks, groups), digest=True)

    def _segments(self, blocks: Iterable[Block], groups: list[Group]) -> Iterator[Segment]:
        """The bytes of the file; its row groups are told on the way."""
        yield MAGIC
        position = len(MAGIC)
        for block in blocks:
            chunks = []
            for source, group in block.runs(self.columns):
                yield from source.segments(group)
                chunks.append(group)
            groups.append(join(chunks)._replace(rows=block.rows).moved(position))
            position += int(groups[-1].length.sum())
        yield assemble(self.columns, groups, self.schema)


def stored(schema: pa.Schema) -> Columns:
    """How our own files store a schema; of each column, whatever the others are."""
    return _stored(schema.serialize().to_pybytes())


@lru_cache(maxsize=8)
def _stored(schema: bytes) -> Columns:
    kept = pa.ipc.read_schema(pa.BufferReader(schema))
    if not len(kept):
        return Columns()
    sink = pa.BufferOutputStream()
    empty = pa.Table.from_arrays([pa.nulls(0, kind) for kind in kept.types], schema=kept)
    pq.write_table(empty, sink, store_schema=False)
    data = sink.getvalue()
    leaves = leaves_of(pq.ParquetFile(pa.BufferReader(data)).schema)
    return columns_of(parse_file(data).schema, leaves)
