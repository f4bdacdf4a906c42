"""What is the same in every database: which tables and partitions are ours, and how they change.

Three tables of each schema remember it: ``catchment_snapshot``, ``catchment_tables`` and
``catchment_parts``. They change in the transaction that changes the rows they speak of.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from catchment.core.errors import Conflict, Corrupt, Invalid
from catchment.core.warehouse.model import PARTITION, Source, digest_of
from catchment.core.warehouse.types import Column, TypeOf, columns, quoted

if TYPE_CHECKING:
    import pyarrow as pa

SNAPSHOT, TABLES, PARTS = "catchment_snapshot", "catchment_tables", "catchment_parts"
RECORDS = (
    f"CREATE TABLE IF NOT EXISTS {SNAPSHOT} (number BIGINT)",
    (
        f"CREATE TABLE IF NOT EXISTS {TABLES} "
        "(name VARCHAR, place VARCHAR, retired VARCHAR, shape VARCHAR)"
    ),
    f"CREATE TABLE IF NOT EXISTS {PARTS} (name VARCHAR, part VARCHAR, digest VARCHAR)",
)


class Shape(NamedTuple):
    """What a table of ours is made of.

    Attributes:
        keys: what a merge knows a row by.
    """

    columns: Sequence[Column]
    keys: Sequence[str]
    partitioned: bool

    def dumps(self) -> str:
        """The same shape gives the same text."""
        return json.dumps(self)

    @classmethod
    def loads(cls, text: str) -> Shape:
        """The shape of a text."""
        found, keys, partitioned = json.loads(text)
        return cls([Column(*column) for column in found], keys, partitioned)

    def stored(self) -> list[Column]:
        """The columns, and that of the partition."""
        return [*self.columns, *([Column(PARTITION, "VARCHAR")] if self.partitioned else [])]


class Known(NamedTuple):
    """What is remembered of a table: where its rows are, and where they were before, if so."""

    place: str
    retired: str
    shape: Shape


class _File(NamedTuple):
    source: Source
    path: Path
    rows: int
    shape: Shape  # of the table, without columns that the file lacks


@contextmanager
def _checked(sources: Sequence[Source], shape: Shape, type_of: TypeOf) -> Iterator[list[_File]]:
    """The sources as files, when all are what the table was made for: before any row changes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = []
    with ExitStack() as stack:
        for source in sources:
            path = stack.enter_context(source.local())
            try:
                with pq.ParquetFile(path) as file:
                    schema, rows = file.schema_arrow, file.metadata.num_rows
            except (pa.ArrowException, OSError):
                raise Corrupt(
                    f"{source.key} is no Parquet file that can be read",
                    kind="warehouse-source",
                    hint="catchment doctor",
                ) from None
            found = columns(source.key, schema, type_of)
            wanted = shape.columns
            if source.may_lack:
                wanted = [column for column in wanted if column.name in schema.names]
            if dict(found) != dict(wanted):
                differ = sorted(name for name, _ in set(found) ^ set(wanted))
                raise Invalid(
                    f"{source.key}: {len(differ)} columns are not as the table's, "
                    f"{differ[0][:64]!a} first",
                    kind="warehouse-type",
                    hint="create the table with the columns of what is loaded",
                )
            files.append(_File(source, path, rows, shape._replace(columns=wanted)))
        yield files


class SqlChange(ABC):
    """A change in SQL; :class:`~.model.Change` says what its verbs do."""

    type_of: TypeOf
    ident: Callable[[str], str] = staticmethod(quoted)

    def __init__(self, where: str, number: int | None) -> None:
        self.where = where
        self.number = number
        self.begun = False

    @abstractmethod
    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement."""

    @abstractmethod
    def begin(self) -> None:
        """From here on one transaction."""

    @abstractmethod
    def make(self, table: str, known: Known | None, shape: Shape) -> None:
        """Make a table of this shape, in place of the known one; its rows are in the next place."""

    @abstractmethod
    def remove(self, table: str, known: Known) -> None:
        """Remove a table of ours."""

    @abstractmethod
    def insert(self, place: str, shape: Shape, partition: str, path: Path, source: Source) -> int:
        """Add the rows of a file, which has the columns of this shape; how many they were."""

    @abstractmethod
    def staged(self, place: str, shape: Shape) -> str:
        """An empty table of the same columns, for the rows that are merged."""

    def tables(self) -> set[str]:
        """See :class:`~.model.Change`."""
        query = f"SELECT name FROM {TABLES} WHERE place <> ''"  # noqa: S608 - ours
        return {row[0] for row in self.run(query)}

    def partitions(self, table: str) -> dict[str, str]:
        """See :class:`~.model.Change`."""
        query = f"SELECT part, digest FROM {PARTS} WHERE name = ?"  # noqa: S608 - ours
        return {row[0]: row[1] for row in self.run(query, [table])}

    def create(
        self,
        table: str,
        schema: pa.Schema,
        *,
        keys: Sequence[str] = (),
        partitioned: bool = False,
    ) -> None:
        """See :class:`~.model.Change`."""
        if self.begun:
            raise Invalid(f"{table}: tables are created before rows change", kind="late-create")
        shape = Shape(columns(table, schema, type(self).type_of), list(keys), partitioned)
        known = self.known(table)
        if known is None or known.shape.dumps() != shape.dumps():
            self.make(table, known, shape)

    def replace(self, table: str, partition: str, sources: Sequence[Source]) -> int:
        """See :class:`~.model.Change`."""
        self.start()
        known = self._ours(table)
        digest = digest_of(sources)
        query = f"SELECT digest FROM {PARTS} WHERE name = ? AND part = ?"  # noqa: S608 - ours
        if [(digest,)] == (self.run(query, [table, partition]) or [("",)]):
            return 0
        place = self.ident(known.place)
        with _checked(sources, known.shape, type(self).type_of) as files:
            if known.shape.partitioned:
                self.run(f"DELETE FROM {place} WHERE {self.ident(PARTITION)} = ?", [partition])  # noqa: S608
            else:
                self.run(f"DELETE FROM {place}")  # noqa: S608 - quoted
            self.run(f"DELETE FROM {PARTS} WHERE name = ? AND part = ?", [table, partition])  # noqa: S608
            rows = sum(self._load(known.place, partition, file) for file in files)
        if sources:
            self.run(f"INSERT INTO {PARTS} VALUES (?, ?, ?)", [table, partition, digest])  # noqa: S608
        return rows

    def assign(self, table: str, constants: Mapping[str, str]) -> None:
        """See :class:`~.model.Change`."""
        self.start()
        known = self._ours(table)
        for name, value in constants.items():
            column = self.ident(name)
            self.run(
                f"UPDATE {self.ident(known.place)} SET {column} = ? "  # noqa: S608 - quoted
                f"WHERE {column} IS DISTINCT FROM ?",
                [value, value],
            )

    def merge(self, table: str, sources: Sequence[Source]) -> int:
        """See :class:`~.model.Change`."""
        self.start()
        place, _, shape = self._ours(table)
        if not shape.keys or shape.partitioned:
            raise Invalid(
                f"{table} has no keys to merge by",
                kind="warehouse-keys",
                hint="create it with keys, and without partitions",
            )
        staged = self.staged(place, shape)
        with _checked(sources, shape, type(self).type_of) as files:
            rows = sum(self._load(staged, "", file) for file in files)
        keys = [self.ident(key) for key in shape.keys]
        none = " OR ".join(f"{key} IS NULL" for key in keys)
        twice = (
            f"SELECT 1 FROM {self.ident(staged)} GROUP BY {', '.join(keys)} "  # noqa: S608 - quoted
            f"HAVING count(*) > 1 OR {none} LIMIT 1"
        )
        if self.run(twice):
            raise Invalid(
                f"{table}: two rows that are merged have the same key, or one has none",
                kind="warehouse-keys",
                hint="merge one of them, or name other columns as keys",
            )
        self.run(self._merging(place, staged, shape))
        self.run(f"DELETE FROM {self.ident(staged)}")  # noqa: S608 - quoted
        return rows

    def drop(self, table: str) -> None:
        """See :class:`~.model.Change`."""
        self.start()
        known = self.known(table)
        if known is not None and known.place:
            self.forget(table)
            self.remove(table, known)

    def forget(self, table: str) -> None:
        """From now on no partition of a table is loaded."""
        self.run(f"DELETE FROM {PARTS} WHERE name = ?", [table])  # noqa: S608 - ours

    def start(self) -> None:
        """Begin the transaction, once, and say which snapshot it brings."""
        if self.begun:
            return
        self.begin()
        self.begun = True
        if self.number is None:
            return
        # The update comes first: it makes two loaders wait for each other.
        self.run(f"UPDATE {SNAPSHOT} SET number = ? WHERE number < ?", [self.number, self.number])  # noqa: S608
        shown = self.run(f"SELECT number FROM {SNAPSHOT}")  # noqa: S608 - ours
        if not shown:
            self.run(f"INSERT INTO {SNAPSHOT} VALUES (?)", [self.number])  # noqa: S608 - ours
        elif shown[0][0] > self.number:
            raise Conflict(
                f"{self.where} shows snapshot {shown[0][0]} already, which is newer than "
                f"{self.number}",
                kind="warehouse-newer",
                hint="nothing is to be done: the newer one holds all of the older",
            )

    def known(self, table: str) -> Known | None:
        """What is remembered of a table."""
        query = f"SELECT place, retired, shape FROM {TABLES} WHERE name = ?"  # noqa: S608
        rows = self.run(query, [table])
        return Known(rows[0][0], rows[0][1], Shape.loads(rows[0][2])) if rows else None

    def remember(self, table: str, known: Known | None) -> None:
        """Remember this of a table, and no more."""
        self.run(f"DELETE FROM {TABLES} WHERE name = ?", [table])  # noqa: S608 - ours
        if known is not None:
            row = [table, known.place, known.retired, known.shape.dumps()]
            self.run(f"INSERT INTO {TABLES} VALUES (?, ?, ?, ?)", row)  # noqa: S608 - ours

    def taken(self, table: str) -> Conflict:
        """The error of a table that somebody else has."""
        return Conflict(
            f"{self.where} has a table {table} that is not of this workspace",
            kind="warehouse-taken",
            hint="remove it there, or let the settings name another place",
        )

    def _ours(self, table: str) -> Known:
        known = self.known(table)
        if known is None or not known.place:
            raise Invalid(f"{table} was not created", kind="late-create")
        return known

    def _load(self, place: str, partition: str, file: _File) -> int:
        """Add the rows of a file, all of them."""
        loaded = self.insert(place, file.shape, partition, file.path, file.source)
        if loaded != file.rows:
            raise Corrupt(
                f"{file.source.key}: {file.rows} rows, the warehouse loaded {loaded}",
                kind="warehouse-rows",
                hint="nothing was changed there; call somebody",
            )
        return loaded

    def _merging(self, place: str, staged: str, shape: Shape) -> str:
        """The statement that merges staged rows."""
        names = [self.ident(c.name) for c in shape.columns]
        keys = [self.ident(key) for key in shape.keys]
        on = " AND ".join(f"t.{key} = s.{key}" for key in keys)
        change = ", ".join(f"{name} = s.{name}" for name in names if name not in keys)
        matched = f"WHEN MATCHED THEN UPDATE SET {change} " if change else ""
        return (
            f"MERGE INTO {self.ident(place)} AS t "  # noqa: S608 - quoted
            f"USING {self.ident(staged)} AS s ON {on} {matched}"
            f"WHEN NOT MATCHED THEN INSERT ({', '.join(names)}) "
            f"VALUES ({', '.join(f's.{name}' for name in names)})"
        )

    def definition(self, shape: Shape) -> str:
        """The columns as CREATE TABLE takes them."""
        return ", ".join(f"{self.ident(c.name)} {c.type}" for c in shape.stored())
