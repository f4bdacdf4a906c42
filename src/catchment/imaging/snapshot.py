"""Reading what is published: a snapshot's tables, in Arrow or in SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from catchment.core.account import Account
from catchment.core.errors import NotFound
from catchment.core.ledger import Ledger, Snapshot
from catchment.core.provenance import compare, verify
from catchment.core.store import Store
from catchment.core.warehouse import Relation, Source
from catchment.imaging import layout
from catchment.imaging.model import TABLES, Part, State
from catchment.imaging.references import broken_references
from catchment.imaging.shelf import Shelf, parts_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import duckdb
    import pyarrow as pa

    from catchment.imaging.one_series import Series

ALL = (*TABLES, "compressed_images", "processed_images", "evidence", "files", "raw")


class ImagingSnapshot(Mapping[str, "pa.Table"]):
    """A published snapshot, pinned: later runs never change what it shows."""

    def __init__(self, store: Store, name: str, record: Snapshot) -> None:
        self.store = store
        self.name = name
        self.record = record
        self._shelf = Shelf(store, name, record.run, "", parts_of(record.provenance))

    def __getitem__(self, table: str) -> pa.Table:
        import pyarrow as pa

        if table not in ALL:
            raise KeyError(table)
        parts = self._shelf.of(table)
        if not parts:
            return _empty(table)
        return pa.concat_tables([self._shelf.read(part) for part in parts])

    def __iter__(self) -> Iterator[str]:
        return iter(ALL)

    def __len__(self) -> int:
        return len(ALL)

    def parts(self) -> dict[str, list[Part]]:
        """The objects of each table."""
        return {table: self._shelf.of(table) for table in ALL}

    def relations(self) -> dict[str, Relation]:
        """The tables as a warehouse takes them, a partition for each object."""
        from catchment.imaging.schemas import schema_of

        def source(part: Part) -> Source:
            return Source(self.store, part.key, part.size, part.digest, may_lack=True)

        return {
            table: Relation(
                schema_of(table), {part.key: [source(part)] for part in parts}, partitioned=True
            )
            for table, parts in self.parts().items()
        }

    def rows(self) -> dict[str, int]:
        """How many rows each table has."""
        return {table: sum(p.rows for p in self._shelf.of(table)) for table in ALL}

    def find(
        self, table: str, column: str, values: Sequence[str], columns: Sequence[str] | None = None
    ) -> pa.Table:
        """The rows of a table whose column has one of the values."""
        import pyarrow as pa

        found = self._shelf.find(table, column, pa.array(values, pa.string()), columns)
        return _empty(table) if found is None else found

    def with_names(self, files: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Rows of the table ``files``, with providers' names where a profile keeps them out."""
        return _with_names(self.store, self.name, files)

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with a view of each table, read where it lies."""
        import duckdb

        connection = duckdb.connect()
        connection.execute("SET autoinstall_known_extensions = false")
        for table in ALL:
            parts = self._shelf.of(table)
            paths = [self.store.path(part.key) for part in parts]
            if parts and all(paths):
                names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
                connection.execute(
                    f'CREATE VIEW "{table}" AS '  # noqa: S608 - our own names
                    f"SELECT * FROM read_parquet([{names}], union_by_name = true)"
                )
            else:
                connection.register(table, self[table])
        return connection

    def series(self, uid: str, executor: Executor | None = None) -> Series:
        """One series; NotFound (kind ``no-series``). Its files are decoded in the executor."""
        from catchment.imaging.one_series import Series

        return Series(self, uid, executor)

    def account(self) -> Account:
        """Files by provider, of the run that made the snapshot."""
        return Account.from_json(self.record.provenance["catchment"]["account"])

    def states(self) -> dict[str, dict[str, int]]:
        """How many files of each site are in each state."""
        counts: dict[str, Counter[str]] = {}
        for part in self._shelf.of("files"):
            rows = self._shelf.read(part, ["site", "state", "reason"])
            for site, state, reason in zip(
                *(rows[n].to_pylist() for n in rows.column_names), strict=True
            ):
                label = f"{state} ({reason})" if reason else state
                counts.setdefault(site, Counter())[label] += 1
        return {site: dict(sorted(c.items())) for site, c in sorted(counts.items())}

    def verify(self, *, sources: bool = False) -> list[str]:
        """What is wrong with the snapshot; empty where all is well.

        Every object that it names must exist with its size and SHA-256, as must its provenance;
        each file must be in one state, each ingested one have its image, each reference lead to a
        row; with ``sources``, the files as received and as de-identified must be what they were.
        """
        wrong = verify(self.store, self.record)
        if wrong:
            return wrong
        with self.connect() as connection:
            wrong += broken_references(lambda sql: connection.execute(sql).fetchall())
        wrong += self._unaccounted()
        for row in self["compressed_images"].to_pylist():
            if row["object"]:
                digest = f"sha256:{row['object_sha256']}"
                wrong += compare(self.store, row["object"], row["object_size"], digest)
        if sources:
            for digest, size in self._digests("files", "sha256", "size"):
                key = layout.object_key(self.name, digest)
                wrong += compare(self.store, key, size, f"sha256:{digest}")
            for digest, size in self._digests("raw", "stage_sha256", "stage_size"):
                key = layout.clean_key(self.name, digest)
                wrong += compare(self.store, key, size, f"sha256:{digest}")
        return wrong

    def _unaccounted(self) -> list[str]:
        files = self["files"]
        states = [State(state) for state in files["state"].to_pylist()]
        pairs = zip(files["sha256"].to_pylist(), states, strict=True)
        ingested = {digest for digest, state in pairs if state == State.INGESTED}
        images = set(self["images"]["sha256"].to_pylist())
        if images != ingested:
            return [f"{len(images ^ ingested)} files are ingested without an image, or the reverse"]
        return []

    def _digests(self, table: str, digest: str, size: str) -> list[tuple[str, int]]:
        files = self[table]
        pairs = zip(files[digest].to_pylist(), files[size].to_pylist(), strict=True)
        return sorted({(one, length) for one, length in pairs if one})


def open_snapshot(
    store: Store, ledger: Ledger, name: str, which: int | Literal["latest"] = "latest"
) -> ImagingSnapshot:
    """A published snapshot of ``imaging/<name>``; NotFound (kind ``no-snapshot``) without one."""
    aggregate = f"imaging/{name}"
    found = ledger.latest(aggregate) if which == "latest" else ledger.snapshot(aggregate, which)
    if found is None:
        raise NotFound(
            f"{aggregate} has no snapshot yet", kind="no-snapshot", hint="catchment imaging run"
        )
    return ImagingSnapshot(store, name, found)


def _empty(table: str) -> Any:
    from catchment.imaging import schemas

    return schemas.schema_of(table).empty_table()


def _with_names(
    store: Store, name: str, files: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of the table ``files``; a name that is not there is taken from the delivery's list."""
    lists: dict[tuple[str, str], dict[tuple[Any, ...], str]] = {}
    told = []
    for row in files:
        if row["name"] is None:
            place = row["site"], row["delivery"]
            if place not in lists:
                lists[place] = _names(store, name, *place)
            row = {**row, "name": lists[place].get((row["sha256"], row["size"], row["etag"]))}  # noqa: PLW2901
        told.append(dict(row))
    return told


def _names(store: Store, name: str, site: str, delivery: str) -> dict[tuple[Any, ...], str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    prefix = f"{layout.deliveries(name, site)}{delivery.rpartition('/')[2]}"
    key = next(s.key for s in store.list(layout.deliveries(name, site)) if s.key.startswith(prefix))
    rows = pq.ParquetFile(pa.BufferReader(store.read(key))).read().to_pylist()
    return {(row["digest"], row["size"], row["etag"]): row["name"] for row in reversed(rows)}
