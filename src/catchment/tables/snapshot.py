"""Reading what is published: a snapshot is a mapping of table names to tables."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from catchment.core.account import Account
from catchment.core.errors import Invalid, NotFound
from catchment.core.ledger import Ledger, Snapshot
from catchment.core.progress import Progress, silent
from catchment.core.provenance import verify
from catchment.core.store import Store
from catchment.core.store_file import StoreFile, seekable
from catchment.core.warehouse import Relation, Source
from catchment.tables.model import CONSTANTS

if TYPE_CHECKING:
    import duckdb
    import polars as pl
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a snapshot, opened where it lies; nothing is read before it is asked for."""

    store: Store
    key: str
    size: int  # bytes
    digest: str  # "sha256:<hex>"
    rows: int

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of the named columns (default: all), in the snapshot's order.

        NotFound (kind ``no-such-column``) for a name that is no column of the table.
        """
        import pyarrow.parquet as pq

        whole = columns is None
        with seekable(self.store, self.key, self.size, whole=whole) as source:
            local = isinstance(source, str)
            with pq.ParquetFile(source, pre_buffer=local) as file:
                known = set(file.schema_arrow.names)
                if unknown := [name for name in columns or () if name not in known]:
                    raise NotFound(
                        f"the table has no column {', '.join(map(repr, unknown))}",
                        kind="no-such-column",
                        hint="catchment tables show",
                    )
                return file.read(None if columns is None else list(columns), use_threads=local)

    def to_polars(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The same as a Polars frame. Invalid (kind ``missing-library``) without Polars."""
        try:
            import polars as pl
        except ImportError:
            raise Invalid(
                "Polars is not installed", kind="missing-library", hint="pip install polars"
            ) from None
        return pl.DataFrame(self.to_arrow(columns))

    def to_duckdb(
        self, connection: duckdb.DuckDBPyConnection | None = None
    ) -> duckdb.DuckDBPyRelation:
        """A relation over the table: read lazily by DuckDB from a folder, else through Arrow."""
        import duckdb

        connection = connection or duckdb.connect()
        path = self.store.path(self.key)
        if path is not None:
            return connection.read_parquet(glob.escape(str(path)))  # a path, not a pattern
        return connection.from_arrow(self.to_arrow())


class TableSnapshot(Mapping[str, Table]):
    """A published snapshot, pinned: later runs never change what it shows."""

    def __init__(self, store: Store, snapshot: Snapshot) -> None:
        self._store = store
        self.record = snapshot
        self._objects = {
            o["table"]: o for o in snapshot.provenance["objects"] if o["role"] == "table"
        }
        self._compositions = {
            o["table"]: o for o in snapshot.provenance["objects"] if o["role"] == "composition"
        }

    def __getitem__(self, table: str) -> Table:
        try:
            found = self._objects[table]
        except KeyError:
            raise NotFound(
                f"snapshot {self.record.number} has no table {table!r}, "
                f"only {', '.join(self) or 'none'}",
                kind="no-such-table",
                hint="catchment tables show",
            ) from None
        return Table(self._store, found["key"], found["size"], found["digest"], found["rows"])

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._objects))

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, table: object) -> bool:
        return table in self._objects

    def relations(self) -> dict[str, Relation]:
        """The tables as a warehouse takes them, a partition for each center.

        A partition is known by what its rows were made of, so that one whose center did not change
        is not loaded again. Where a snapshot does not say what stands where, for it was made by
        another version of the program, a table is one object.
        """
        import pyarrow.parquet as pq

        found = {}
        for name, table in self.items():
            with StoreFile(table.store, table.key, table.size) as file:
                opened = pq.ParquetFile(file)
                schema, groups = opened.schema_arrow, opened.num_row_groups
            source = Source(table.store, table.key, table.size, table.digest)
            parts = self._parts(name, source, groups)
            found[name] = (
                Relation.whole(schema, source)
                if parts is None
                else Relation(schema, parts, partitioned=True, constants=self._constants(schema))
            )
        return found

    def _parts(self, name: str, source: Source, groups: int) -> dict[str, list[Source]] | None:
        """The row groups of each center; None where that is not known."""
        from catchment.tables import composition
        from catchment.tables.placed import Placed

        told = self._compositions.get(name)
        composed = None if told is None else composition.load(self._store.read(told["key"]))
        if composed is None:
            return None
        parts: dict[str, list[Source]] = {}
        first = 0
        for entry, digest in zip(composed.entries, composed.digests(), strict=True):
            after = first + len(Placed.loads(entry.placed).groups)
            part = parts.setdefault(entry.center, [])
            if after > first:
                part.append(source._replace(digest=digest, groups=(first, after)))
            first = after
        return parts if first == groups else None

    def _constants(self, schema: pa.Schema) -> dict[str, str]:
        """The columns that the run wrote, with their values."""
        written = self.record.provenance["dataset_aggregator"]
        return {name: written[name] for name in CONSTANTS if name in schema.names}

    @property
    def account(self) -> Account:
        """Rows and files by center and table."""
        return Account.from_json(self.record.provenance["catchment"]["account"])

    def verify(self, progress: Progress = silent) -> list[str]:
        """What is wrong with the stored objects and the account; empty where all is well.

        Every object that the snapshot names must exist with its size and SHA-256, as must its
        provenance; the account must balance, and each table's rows must be the account's kept rows.
        """
        wrong, account = verify(self._store, self.record, progress), self.account
        for name, table in self.items():
            kept = account.total("rows", part=name).kept
            if kept != table.rows:
                wrong.append(f"{table.key}: {table.rows} rows, the account kept {kept}")
        return wrong


def open_snapshot(
    store: Store, ledger: Ledger, name: str, which: int | Literal["latest"] = "latest"
) -> TableSnapshot:
    """A published snapshot of ``tables/<name>``, by its number.

    NotFound (kind ``no-snapshot``) without one, Invalid (kind ``bad-snapshot``) for another word.
    """
    aggregate = f"tables/{name}"
    if which != "latest" and (isinstance(which, bool) or not isinstance(which, int)):
        raise Invalid(
            f"expected the number of a snapshot or 'latest', got {which!r}",
            kind="bad-snapshot",
            hint="catchment tables list",
        )
    found = ledger.latest(aggregate) if which == "latest" else ledger.snapshot(aggregate, which)
    if found is None:
        raise NotFound(
            f"{aggregate} has no snapshot yet", kind="no-snapshot", hint="catchment tables run"
        )
    return TableSnapshot(store, found)
