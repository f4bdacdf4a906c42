"""Subscriptions in a warehouse: tables are copies; what a crawl changes is one transaction."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from catchment.core.errors import CatchmentError, Conflict, Corrupt, Invalid
from catchment.core.scratch import scratch_folder
from catchment.core.store import Store, open_store
from catchment.core.store_file import StoreFile
from catchment.core.warehouse import Change, Source, Warehouse
from catchment.studies.model import Package
from catchment.studies.subscribe import Session, Table, table_of, taken

if TYPE_CHECKING:
    import pyarrow as pa

RECORD = "catchment_subscriptions"  # a table: which tables are subscriptions, and of what


class WarehouseTarget:
    """Tables of one schema of a warehouse."""

    def __init__(self, store: Store, warehouse: Warehouse, name: str = "") -> None:
        self.name = name or warehouse.name
        self._store = store
        self._warehouse = warehouse

    @contextmanager
    def session(self, *, dry_run: bool) -> Iterator[Session]:  # noqa: ARG002 - it only asks then
        """The schema; each change of it is a transaction."""
        yield _Loading(self._store, self._warehouse)


class _Loading:
    def __init__(self, store: Store, warehouse: Warehouse) -> None:
        self._store = store
        self._warehouse = warehouse

    def tables(self) -> dict[str, Table]:
        there = self._warehouse.tables()
        if RECORD not in there:
            return {}
        query = f"SELECT id, kind, study, site, version, digest FROM {RECORD}"  # noqa: S608 - ours
        rows = [(*row[:4], int(row[4]), row[5]) for row in self._warehouse.query(query)]
        return {row[0]: Table(*row) for row in rows if row[0] in there}  # somebody may drop one

    def change(
        self, wanted: Mapping[str, Package], gone: Collection[str]
    ) -> dict[str, CatchmentError]:
        failed: dict[str, CatchmentError] = {}
        known = self.tables()
        with self._warehouse.change() as change:
            change.create(RECORD, _schema())
            ready: dict[str, Source] = {}
            for id_, one in wanted.items():
                try:
                    ready[id_] = self._create(change, one)
                except CatchmentError as error:
                    failed[id_] = error
            for id_, source in ready.items():
                change.replace(id_, "", [source])
                known[id_] = table_of(wanted[id_])
            for id_ in gone:
                change.drop(id_)
                known.pop(id_, None)
            with _written(known) as rows:
                change.replace(RECORD, "", [rows])
        return failed

    def _create(self, change: Change, one: Package) -> Source:
        released = one.released
        try:
            change.create(one.id, schema_of(self._store, one))
        except Conflict:
            raise taken(one.id, "the warehouse", "the settings") from None
        return Source(self._store, released.key, released.size, released.digest)


def schema_of(store: Store, one: Package) -> pa.Schema:
    """The columns of what is released; Invalid (kind ``bad-subscription``) if it is no Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with StoreFile(store, one.released.key, one.released.size) as file:
            return pq.read_schema(file)
    except (pa.ArrowException, OSError, Corrupt) as error:
        raise Invalid(
            f"{one.id} cannot be a table: {type(error).__name__}",
            kind="bad-subscription",
            hint=f"catchment studies reprocess {one.study}",
        ) from None


def _schema() -> pa.Schema:
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("id", "kind", "study", "site")]
    return pa.schema([*texts, ("version", pa.int64()), ("digest", pa.string())])


@contextmanager
def _written(tables: Mapping[str, Table]) -> Iterator[Source]:
    """The record as an object, for as long as the block lasts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [tables[id_]._asdict() for id_ in sorted(tables)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), sink)
    data = sink.getvalue()
    with scratch_folder() as folder:
        store = open_store(folder.as_uri())
        store.put("record.parquet", data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        yield Source(store, "record.parquet", len(data), digest)
