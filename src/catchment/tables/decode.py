"""Decode the pages of some columns of one row group, without the rest of their file.

The chunks are read by range and get a small footer of their own, so that a task needs neither the
file's footer nor the columns' names. Types are those of Parquet, not those that a site says it had
in memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catchment.core.errors import Invalid
from catchment.core.names import shown
from catchment.core.parquet.footer import MAGIC, Columns, Group, assemble
from catchment.core.store import Store

BATCH_BYTES = 32 << 20  # decoded at a time by one worker; a single column may have more


_NARROW = 2  # bytes of a value
_SHORT = 1 << 16  # rows
_NEAR = 1 << 16  # bytes between two ranges that are read along with them
_NS_REACH = (2**63 - 1) // 1000  # microseconds from the epoch that nanoseconds can tell, too


class Part(NamedTuple):
    """Columns of one row group, and where their chunks are."""

    store: Store
    key: str
    columns: Columns
    group: Group

    def batches(self, chosen: Sequence[int]) -> Iterator[tuple[Sequence[int], Part]]:
        """The chosen columns in batches that are small when decoded."""
        if not chosen:
            return
        # Strings stay dictionaries, so 8 bytes a row are enough for all but a few. What takes few
        # as it is stored is mostly not decoded (see ``thin``), and quicker done many at once.
        rows, size = self.group.rows, self.group.size
        few = (size <= _NARROW * rows) & (rows <= _SHORT)
        decoded = rows * np.where(few, 3, 8) + 2 * size
        needs = np.add.reduceat(decoded, self.columns.first[:-1]).tolist()
        batch: list[int] = []
        room = BATCH_BYTES
        for index in chosen:
            if batch and needs[index] > room:
                yield batch, self.only(batch)
                batch, room = [], BATCH_BYTES
            batch.append(index)
            room -= needs[index]
        yield batch, self.only(batch)

    def only(self, chosen: Sequence[int]) -> Part:
        """Some of the columns."""
        columns = Columns(self.columns[index] for index in chosen)
        return self._replace(columns=columns, group=self.columns.choose(self.group, chosen))

    def read(self) -> bytes:
        """The chunks, one behind the other. Those that lie near each other are read at once."""
        extents = list(self.group.extents())
        ranges: list[list[int]] = []  # where each starts and ends, apart from each other
        for start, length in sorted(extents):
            if ranges and start <= ranges[-1][1] + _NEAR:
                ranges[-1][1] = max(ranges[-1][1], start + length)
            else:
                ranges.append([start, start + length])
        starts = [start for start, _ in ranges]
        found = [self.store.read(self.key, start=a, length=b - a) for a, b in ranges]
        if len(extents) == 1:
            return found[0]
        pieces = []
        for start, length in extents:
            at = bisect_right(starts, start) - 1
            pieces.append(memoryview(found[at])[start - starts[at] :][:length])
        return b"".join(pieces)

    def decode(self) -> pa.Table:
        """The rows.

        INT96, which Parquet gave up for other timestamps, is read to the microsecond, so that the
        year 9999 can be told.

        Raises Invalid: kind ``parquet-unreadable``, also for strings that are not UTF-8;
        ``lossy-cast`` for an INT96 between two microseconds.
        """
        group = self.group
        footer = assemble(self.columns, [group.moved(len(MAGIC))])
        file = b"".join([MAGIC, self.read(), footer])
        try:
            table = self._read(file, "us")
            table.validate(full=True)  # pyarrow believes what a damaged page says of a dictionary
            if any(
                leaf.physical_type == "INT96" for column in self.columns for leaf in column.leaves
            ):
                _check_int96(self.key, table, self._read(file, "ns"))
        except (pa.ArrowException, OSError, ValueError):  # their texts may show values
            raise unreadable(self.key, "its pages cannot be decoded") from None
        if table.num_rows != group.rows:
            raise unreadable(self.key, f"expected {group.rows} rows, got {table.num_rows}")
        return table

    def _read(self, file: bytes, int96: str) -> pa.Table:
        return pq.ParquetFile(
            pa.BufferReader(file),
            read_dictionary=self._dictionaries(),
            coerce_int96_timestamp_unit=int96,
            pre_buffer=False,
        ).read(use_threads=False)

    def _dictionaries(self) -> list[int]:
        """Leaves of flat byte columns that are decoded as dictionaries.

        Those whose values are all in one already; and large ones, which often repeat themselves.
        """
        return [
            leaf
            for column, leaf in zip(self.columns, self.columns.first, strict=False)
            if len(column.elements) == 1
            and column.leaves[0].physical_type == "BYTE_ARRAY"
            and (self.group.size[leaf] > BATCH_BYTES or self.group.only_dictionary(leaf))
            and self.group.can_be_codes(leaf)
        ]


def _check_int96(key: str, table: pa.Table, exact: pa.Table) -> None:
    """Compare timestamps read to microseconds and to nanoseconds, where those reach."""
    for rounded, column in zip(table.columns, exact.columns, strict=True):
        for us, ns in zip(_flat(rounded), _flat(column), strict=True):
            if pa.types.is_timestamp(ns.type) and ns.type.unit == "ns":
                whole, parts = us.drop_null().cast(pa.int64()), ns.drop_null().cast(pa.int64())
                micros, nanos = whole.to_numpy(), parts.to_numpy()
                near = np.abs(micros) < _NS_REACH
                if (micros[near] * 1000 != nanos[near]).any():
                    raise Invalid(
                        f"{shown(key.rpartition('/')[2])}: INT96 timestamps between microseconds",
                        kind="lossy-cast",
                        hint="write timestamps of nanoseconds, not of the deprecated INT96",
                    )


def _flat(array: pa.ChunkedArray) -> Iterator[pa.ChunkedArray]:
    """The leaves of a column, without the values that no row shows."""
    kind = array.type
    if pa.types.is_struct(kind):
        for child in array.flatten():
            yield from _flat(child)
    elif pa.types.is_map(kind):
        entries = array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field])))
        yield from _flat(pc.list_flatten(entries))
    elif pa.types.is_list(kind):
        yield from _flat(pc.list_flatten(array))
    else:
        yield array


def unreadable(key: str, what: str) -> Invalid:
    """The error for a file that cannot be read."""
    return Invalid(
        f"{shown(key.rpartition('/')[2])}: expected a Parquet file, but {what}",
        kind="parquet-unreadable",
        hint="write the file again from its source and send it anew",
    )
