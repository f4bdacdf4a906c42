"""Warehouses: where the tables of a snapshot are loaded, so that they are asked in SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from catchment.core.duckdb_file import opened as open_file
from catchment.imaging.entities import KEYS
from catchment.imaging.model import Part

if TYPE_CHECKING:
    import duckdb

Opened = Callable[[Part], Path]

REFERENCES = (
    ("studies", "patient_key", "patients", "patient_key"),
    ("series", "StudyInstanceUID", "studies", "StudyInstanceUID"),
    ("series", "device_key", "devices", "device_key"),
    ("images", "SeriesInstanceUID", "series", "SeriesInstanceUID"),
    ("images", "StudyInstanceUID", "studies", "StudyInstanceUID"),
)
PART = "ingest_part"  # column: which part a row came from


class Warehouse(Protocol):
    """A database that shows one snapshot at a time, whole."""

    def snapshot(self) -> int | None:
        """The number of the snapshot that it shows; None before the first."""
        ...

    def load(
        self, number: int, tables: Mapping[str, Sequence[Part]], opened: Opened
    ) -> dict[str, int]:
        """Show this snapshot from now on, or, if that fails, the one before.

        Only what changed is loaded. ``opened`` gives a part as a file that lasts while this runs.
        Returns the rows of each table.
        """
        ...

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a question."""
        ...


class DuckDBWarehouse:
    """A DuckDB file. Readers open it on their own; while it is loaded, they wait or are refused."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def snapshot(self) -> int | None:
        """The number of the snapshot that it shows; None before the first."""
        if not self._path.exists():
            return None
        with open_file(self._path) as connection:
            return _shown(connection)

    def load(
        self, number: int, tables: Mapping[str, Sequence[Part]], opened: Opened
    ) -> dict[str, int]:
        """One transaction: parts that are gone are deleted, new ones are added."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open_file(self._path) as connection:
            connection.begin()
            _prepare(connection)
            rows = {name: _load(connection, name, parts, opened) for name, parts in tables.items()}
            stale = "SELECT DISTINCT name FROM catchment_parts"
            for (name,) in connection.execute(stale).fetchall():
                if name not in tables:
                    _load(connection, name, (), opened)
            connection.execute("DELETE FROM catchment_snapshot")
            connection.execute("INSERT INTO catchment_snapshot VALUES (?)", [number])
            connection.commit()
            return rows

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a question; the connection only reads."""
        with open_file(self._path, read_only=True) as connection:
            return connection.execute(sql, list(parameters)).fetchall()


def _prepare(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS catchment_snapshot (number BIGINT)")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS catchment_parts (name VARCHAR, key VARCHAR, part INTEGER)"
    )


def _shown(connection: duckdb.DuckDBPyConnection) -> int | None:
    known = "SELECT 1 FROM information_schema.tables WHERE table_name = 'catchment_snapshot'"
    if connection.execute(known).fetchone() is None:
        return None
    row = connection.execute("SELECT number FROM catchment_snapshot").fetchone()
    return None if row is None else int(row[0])


def _load(
    connection: duckdb.DuckDBPyConnection, name: str, parts: Sequence[Part], opened: Opened
) -> int:
    """Make a table hold the rows of these parts. Names of tables are ours, never a site's."""
    found = connection.execute("SELECT key, part FROM catchment_parts WHERE name = ?", [name])
    known: dict[str, int] = dict(found.fetchall())
    wanted = {part.key for part in parts}
    for key, old in known.items():
        if key not in wanted:
            connection.execute(f'DELETE FROM "{name}" WHERE {PART} = ?', [old])  # noqa: S608
            connection.execute(
                "DELETE FROM catchment_parts WHERE name = ? AND key = ?", [name, key]
            )
    number = max(known.values(), default=0)
    for part in parts:
        if part.key in known:
            continue
        number += 1
        path = str(opened(part))
        source = f"SELECT *, CAST(? AS INTEGER) AS {PART} FROM read_parquet([?])"  # noqa: S608
        connection.execute(
            f'CREATE TABLE IF NOT EXISTS "{name}" AS {source} LIMIT 0',
            [number, path],
        )
        connection.execute(f'INSERT INTO "{name}" BY NAME {source}', [number, path])
        connection.execute("INSERT INTO catchment_parts VALUES (?, ?, ?)", [name, part.key, number])
    if not parts and not known:
        return 0
    row = connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()  # noqa: S608
    return int(row[0]) if row else 0


def broken_references(query: Callable[[str], list[tuple[Any, ...]]]) -> list[str]:
    """Keys that are not unique, and references that lead nowhere, of tables that SQL can ask."""
    wrong = []
    for table, key in KEYS.items():
        ((twice,),) = query(
            f'SELECT count(*) - count(DISTINCT "{key}") FROM "{table}"'  # noqa: S608
        )
        if twice:
            wrong.append(f"{table}: {twice} rows share a {key}, or have none")
    for table, column, other, key in REFERENCES:
        ((lost,),) = query(
            f'SELECT count(*) FROM "{table}" t WHERE t."{column}" IS NOT NULL AND NOT EXISTS '  # noqa: S608
            f'(SELECT 1 FROM "{other}" o WHERE o."{key}" = t."{column}")'
        )
        if lost:
            wrong.append(f"{table}: {lost} rows refer to {other} that are not there")
    return wrong
