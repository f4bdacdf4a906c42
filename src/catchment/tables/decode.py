"""Decode the pages of some columns of one row group, without the rest of their file.

The chunks are read by range and get a small footer of their own, so that a task needs neither the
file's footer nor the columns' names. Types are those of Parquet, not those that a site says it had
in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.errors import Invalid
from catchment.core.names import shown
from catchment.core.store import Store
from catchment.tables.footer import MAGIC, Columns, Group, assemble

BATCH_BYTES = 32 << 20  # decoded at a time by one worker; a single column may have more


class Part(NamedTuple):
    """Columns of one row group, and where their chunks are."""

    store: Store
    key: str
    columns: Columns
    group: Group

    def batches(self, chosen: Sequence[int]) -> Iterator[tuple[Sequence[int], Part]]:
        """The chosen columns, ascending, in batches that are small when decoded."""
        if not chosen:
            return
        # Strings stay dictionaries, so 8 bytes a row are enough for all but a few.
        decoded = self.group.rows * 8 + 2 * self.group.size
        needs = np.add.reduceat(decoded, self.columns.first[:-1]).tolist()
        batch: list[int] = []
        room = BATCH_BYTES
        for index in chosen:
            if batch and needs[index] > room:
                yield batch, self._only(batch)
                batch, room = [], BATCH_BYTES
            batch.append(index)
            room -= needs[index]
        yield batch, self._only(batch)

    def _only(self, chosen: Sequence[int]) -> Part:
        columns = Columns(self.columns[index] for index in chosen)
        return self._replace(columns=columns, group=self.columns.choose(self.group, chosen))

    def decode(self) -> pa.Table:
        """The rows; strings are UTF-8. Invalid (kind ``parquet-unreadable``) otherwise."""
        group = self.group
        data = [
            self.store.read(self.key, start=start, length=length)
            for start, length in group.extents()
        ]
        footer = assemble(self.columns, [group.moved(len(MAGIC))])
        source = pa.BufferReader(b"".join([MAGIC, *data, footer]))
        try:
            table = pq.ParquetFile(
                source,
                read_dictionary=self._dictionaries(),
                coerce_int96_timestamp_unit="us",
                pre_buffer=False,
            ).read(use_threads=False)
            table.validate(full=True)  # pyarrow believes what a damaged page says of a dictionary
        except (pa.ArrowException, OSError, ValueError):  # their texts may show values
            raise unreadable(self.key, "its pages cannot be decoded") from None
        if table.num_rows != group.rows:
            raise unreadable(self.key, f"expected {group.rows} rows, got {table.num_rows}")
        return table

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
        ]


def unreadable(key: str, what: str) -> Invalid:
    """The error for a file that cannot be read."""
    return Invalid(
        f"{shown(key.rpartition('/')[2])}: expected a Parquet file, but {what}",
        kind="parquet-unreadable",
        hint="write the file again from its source and send it anew",
    )
