"""The tables of a snapshot, each in parts: Parquet objects that are written once.

A change of rows makes new objects of the parts that hold them; all others stay as they are.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from catchment.core.store import Store
from catchment.core.store_file import StoreFile
from catchment.imaging import layout
from catchment.imaging.model import Part

if TYPE_CHECKING:
    import pyarrow as pa

COMPACT = 16  # small parts of a month, from which on they are brought together
SMALL = 8 << 20  # bytes of a part that is small
ROWS = 1 << 16  # of a part that was brought together: all of it is in memory when it is changed
WIDE = dict.fromkeys(("raw", "images", "processed_images"), 4000)  # fewer where rows are long


class Shelf:
    """Parts by table: those of the latest snapshot, and what a run adds and changes."""

    def __init__(
        self, store: Store, name: str, run: str, month: str, parts: Iterable[Part] = ()
    ) -> None:
        self._store = store
        self._name = name
        self._run = run
        self._month = month
        self._count = 0
        self.replaced: list[str] = []  # keys that this run wrote and does not need any more
        self.parts: list[Part] = list(parts)

    def of(self, table: str) -> list[Part]:
        """The parts of a table, in order of their writing."""
        return [part for part in self.parts if part.table == table]

    def add(self, table: str, rows: pa.Table, month: str | None = None) -> None:
        """Rows that are new; nothing for none."""
        if rows.num_rows:
            self.parts.append(self._write(table, rows, month or self._month))

    def find(
        self, table: str, column: str, wanted: pa.Array, columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """Rows whose column has one of the values; None where no part has any."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = []
        for part in self.of(table) if len(wanted) else ():
            keys = self.read(part, [column])[column]
            hits = pc.is_in(keys, value_set=wanted)
            if pc.any(hits).as_py():
                found.append(self.read(part, columns).filter(hits))
        return pa.concat_tables(found).combine_chunks() if found else None

    def amend(
        self, table: str, column: str, wanted: pa.Array, change: Callable[[pa.Table], pa.Table]
    ) -> None:
        """Write anew the parts that have rows with one of the values, as ``change`` makes them."""
        import pyarrow.compute as pc

        for index, part in enumerate(self.parts):
            if part.table != table:
                continue
            keys = self.read(part, [column])[column]
            if pc.any(pc.is_in(keys, value_set=wanted)).as_py():
                self.parts[index] = self._write(table, change(self.read(part)), part.month)
                self._drop(part)
        for part in [part for part in self.parts if not part.rows]:
            self.parts.remove(part)
            self._drop(part)

    def read(self, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one part, not by ``read_table``: that imports pandas, which takes 0.3 s."""
        import pyarrow.parquet as pq

        path = self._store.path(part.key)
        names = None if columns is None else list(columns)
        if path is not None:
            with path.open("rb") as file:
                return as_now(part.table, pq.ParquetFile(file).read(names), names)
        with StoreFile(self._store, part.key, part.size) as opened:
            return as_now(part.table, pq.ParquetFile(opened).read(names), names)

    def compact(self) -> None:
        """Bring together small parts of the same table and month, where they are many.

        As many of them as memory has room for, however many files there are.
        """
        import pyarrow as pa

        for (table, month), many in self._small().items():
            for some in _together(many, most_rows(table)) if len(many) >= COMPACT else ():
                rows = pa.concat_tables([self.read(part) for part in some])
                place = self.parts.index(some[0])
                self.parts[place] = self._write(table, rows, month)
                self.parts = [part for part in self.parts if part not in some[1:]]
                for part in some:
                    self._drop(part)

    def _drop(self, part: Part) -> None:
        if f"/{self._run}-" in part.key:  # an earlier run's may be named by its snapshot
            self.replaced.append(part.key)

    def _small(self) -> Mapping[tuple[str, str], list[Part]]:
        groups: dict[tuple[str, str], list[Part]] = {}
        for part in self.parts:
            if part.size < SMALL and part.rows <= most_rows(part.table) // 2:
                groups.setdefault((part.table, part.month), []).append(part)
        return groups

    def _write(self, table: str, rows: pa.Table, month: str) -> Part:
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(rows.combine_chunks(), sink, compression="zstd", row_group_size=1 << 16)
        data = sink.getvalue()  # not getbuffer(): CPython crashes on it in a cycle of garbage
        self._count += 1
        key = layout.part_key(self._name, table, month, self._run, self._count)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._store.put(key, data)
        return Part(table, month, key, len(data), digest, rows.num_rows)


def most_rows(table: str) -> int:
    """Rows of a part that was brought together, at most."""
    return WIDE.get(table, ROWS)


def _together(parts: Sequence[Part], most: int) -> Iterator[list[Part]]:
    """Neighbours that have so many rows at most, two of them or more."""
    some: list[Part] = []
    for part in parts:
        if some and sum(one.rows for one in some) + part.rows > most:
            if len(some) > 1:
                yield some
            some = []
        some.append(part)
    if len(some) > 1:
        yield some


def as_now(table: str, rows: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """Rows of an earlier version with the columns of today: what it did not have is null."""
    import pyarrow as pa

    from catchment.imaging.schemas import schema_of

    schema = schema_of(table)
    names = schema.names if columns is None else columns
    if rows.column_names == list(names):
        return rows
    made = [
        rows[name]
        if name in rows.column_names
        else pa.nulls(rows.num_rows, schema.field(name).type)
        for name in names
    ]
    return pa.table(made, names=list(names))


def parts_of(provenance: Mapping[str, Any]) -> Iterator[Part]:
    """The parts that a snapshot names."""
    for item in provenance["objects"]:
        yield Part(**{name: item[name] for name in Part._fields})
