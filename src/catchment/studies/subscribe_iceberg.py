"""Subscriptions as Apache Iceberg tables over the released Parquet where it lies.

A catalog knows no transaction over tables: each is whole, and a crawl that was cut off is finished
by the next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from catchment.core.errors import CatchmentError, Conflict
from catchment.core.iceberg import Shelf, open_catalog, told
from catchment.core.warehouse import Relation, Source
from catchment.core.workspace import Workspace
from catchment.studies.model import Package
from catchment.studies.subscribe import SCHEMA, Session, Table, table_of, taken
from catchment.studies.subscribe_warehouse import schema_of

_OURS = "catchment.subscription."  # of properties of a table


class IcebergTarget:
    """Tables in one namespace of the catalog of the settings."""

    name = "iceberg"

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @contextmanager
    def session(self, *, dry_run: bool) -> Iterator[Session]:  # noqa: ARG002 - it only asks then
        """The catalog; a namespace is made with its first table."""
        with told():
            yield _Registering(self._workspace)


class _Registering:
    def __init__(self, workspace: Workspace) -> None:
        self._store = workspace.store
        self._shelf = Shelf(open_catalog(workspace), SCHEMA)

    def tables(self) -> dict[str, Table]:
        return {id_: _table(id_, properties) for id_, properties in self._shelf.told().items()}

    def change(
        self, wanted: Mapping[str, Package], gone: Collection[str]
    ) -> dict[str, CatchmentError]:
        failed: dict[str, CatchmentError] = {}
        for id_, one in wanted.items():
            about = {f"{_OURS}{k}": str(v) for k, v in table_of(one)._asdict().items()}
            released = one.released
            try:
                source = Source(self._store, released.key, released.size, released.digest)
                relation = Relation.whole(schema_of(self._store, one), source)
                self._shelf.show(id_, None, relation, about)
            except Conflict:
                failed[id_] = taken(id_, "the Iceberg catalog", "iceberg.uri")
            except CatchmentError as error:
                failed[id_] = error
        for id_ in gone:
            self._shelf.drop(id_)
        return failed


def _table(id_: str, properties: Mapping[str, str]) -> Table:
    def of(name: str) -> str:
        return properties.get(_OURS + name, "")

    version = int(of("version")) if of("version").isdecimal() else -1
    return Table(id_, of("kind"), of("study"), of("site"), version, of("digest"))
