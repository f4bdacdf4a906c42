"""A warehouse in a DuckDB file. Tables change in the transaction that fills them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment.core.duckdb_file import opened, patiently
from catchment.core.errors import Invalid
from catchment.core.warehouse.model import Change, Source
from catchment.core.warehouse.sql import RECORDS, SNAPSHOT, Known, Shape, SqlChange
from catchment.core.warehouse.types import duckdb_type, quoted

if TYPE_CHECKING:
    import duckdb

_turns = threading.Lock()  # connections of one process share the file


class DuckDBWarehouse:
    """A schema of a file. Readers open it on their own; while it changes, they wait."""

    name = "duckdb"

    def __init__(self, path: Path, schema: str = "main") -> None:
        self._path = path
        self._schema = schema

    def snapshot(self) -> int | None:
        """See :class:`~.model.Warehouse`."""
        with self._reading() as change:
            shown = change.run(f"SELECT number FROM {SNAPSHOT}") if change else []  # noqa: S608
            return int(shown[0][0]) if shown else None

    def tables(self) -> set[str]:
        """See :class:`~.model.Warehouse`."""
        with self._reading() as change:
            return change.tables() if change else set()

    @contextmanager
    def _reading(self) -> Iterator[_Change | None]:
        """Our records, to be asked; None where there are none."""
        if not self._path.exists():
            yield None
            return
        with patiently(self._path, read_only=True) as connection, _told(self._path):
            there = "SELECT 1 FROM duckdb_tables() WHERE schema_name = ? AND table_name = ?"
            if connection.execute(there, [self._schema, SNAPSHOT]).fetchone() is None:
                yield None
                return
            self._use(connection)
            yield _Change(connection, self._path.name, None)

    @contextmanager
    def change(self, number: int | None = None) -> Iterator[Change]:
        """See :class:`~.model.Warehouse`. It has the file for itself, among all processes."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _turns, patiently(self._path) as connection, _told(self._path):
            connection.execute("BEGIN")
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(self._schema)}")
            self._use(connection)
            for record in RECORDS:
                connection.execute(record)
            change = _Change(connection, self._path.name, number)
            yield change
            change.start()
            connection.execute("COMMIT")  # without it, closing takes all back

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """See :class:`~.model.Warehouse`; the connection only reads."""
        with opened(self._path, read_only=True) as connection:
            self._use(connection)
            return connection.execute(sql, list(parameters)).fetchall()

    def _use(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute(f"USE {quoted(self._schema)}")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the database in our words; its own may quote cells."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise Invalid(
            f"the warehouse {path.name} cannot be loaded: {type(error).__name__}",
            kind="bad-warehouse",
            hint="look at the disk; or name another file as the warehouse",
        ) from None


class _Change(SqlChange):
    type_of = staticmethod(duckdb_type)

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, where: str, number: int | None
    ) -> None:
        super().__init__(where, number)
        self._connection = connection

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, list(parameters)).fetchall()

    def begin(self) -> None:
        """It has begun when the file was opened."""

    def tables(self) -> set[str]:
        """Those that nobody dropped by hand."""
        there = "SELECT table_name FROM duckdb_tables() WHERE schema_name = current_schema()"
        return super().tables() & {row[0] for row in self.run(there)}

    def known(self, table: str) -> Known | None:
        there = "SELECT 1 FROM duckdb_tables() WHERE schema_name = current_schema() "
        if not self.run(there + "AND table_name = ?", [table]):
            return None
        return super().known(table)

    def make(self, table: str, known: Known | None, shape: Shape) -> None:
        self.forget(table)
        if known is not None:
            self.remove(table, known)
        there = "SELECT 1 FROM information_schema.tables WHERE table_schema = current_schema() "
        if self.run(there + "AND lower(table_name) = lower(?)", [table]):
            raise self.taken(table)
        self.run(f"CREATE TABLE {quoted(table)} ({self.definition(shape)})")
        self.remember(table, Known(table, "", shape))

    def remove(self, table: str, known: Known) -> None:
        self.run(f"DROP TABLE IF EXISTS {quoted(known.place)}")
        self.remember(table, None)

    def insert(self, place: str, shape: Shape, partition: str, path: Path, source: Source) -> int:  # noqa: ARG002
        names = ", ".join(quoted(c.name) for c in shape.stored())
        values = [f"CAST({quoted(c.name)} AS {c.type})" for c in shape.columns]
        given = [str(path)]
        if shape.partitioned:
            values.append("?")
            given.insert(0, partition)
        ((rows,),) = self.run(
            f"INSERT INTO {quoted(place)} ({names}) SELECT {', '.join(values)} "  # noqa: S608 - quoted
            "FROM read_parquet([?])",
            given,
        )
        return int(rows)

    def staged(self, place: str, shape: Shape) -> str:
        name = f"catchment_in_{place}"
        self.run(f"CREATE OR REPLACE TEMP TABLE {quoted(name)} ({self.definition(shape)})")
        return name
