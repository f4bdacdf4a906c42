"""Snapshots as Apache Iceberg tables: Spark, Trino, Athena and Snowflake read the same objects.

No byte is written anew: a table's metadata names the Parquet objects of the snapshot; but for
tables with columns of types that Iceberg does not have (:mod:`catchment.core.iceberg_types`). A
table takes one commit for each snapshot that changes it. What is published is decided by the
ledger, as ever; these tables follow it, and may be thrown away and made again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment.core.errors import Conflict, Invalid, Unavailable
from catchment.core.finding import Finding, Severity
from catchment.core.iceberg_types import held, readable
from catchment.core.names import shown
from catchment.core.store import RESERVED
from catchment.core.warehouse.model import Relation, Source

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog import Catalog
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table, Transaction

    from catchment.core.workspace import Workspace

logger = logging.getLogger(__name__)

FOLDER = "iceberg"  # of the tables' metadata, below the store
_NUMBER, _OWNER = "catchment.snapshot", "catchment.aggregate"  # properties of a table
_CONVERTED = "catchment.converted"  # which columns have another type than the snapshot's, in JSON
_TRIES = 5


def follow(
    workspace: Workspace,
    aggregate: str,
    number: int,
    relations: Callable[[], Mapping[str, Relation]],
) -> list[Finding]:
    """After a publication: the Iceberg tables of the settings, if any, show this snapshot, too.

    Told is which columns have another type there. A table that Iceberg cannot hold exactly is not
    there, rather than old; it is told, too (and logged), and stops no other.
    """
    if workspace.settings.iceberg.catalog == "none":
        return []
    with told():
        shelf = Shelf(open_catalog(workspace), aggregate)
        wanted = relations()
        found: list[Finding] = []
        for name, relation in wanted.items():
            try:
                converted = shelf.show(name, number, relation)
            except Invalid as error:
                logger.warning("Iceberg: %s", error.message)
                hint = error.hint or ""
                found.append(
                    Finding(aggregate, Severity.ERROR, error.kind, name, error.message, hint)
                )
                shelf.drop(name)
                continue
            found += [_finding(aggregate, name, *one) for one in converted.items()]
        for name in sorted(shelf.tables() - wanted.keys()):
            shelf.drop(name)
        return found


def _finding(aggregate: str, table: str, column: str, how: str) -> Finding:
    return Finding(
        aggregate,
        Severity.NOTE,
        "iceberg-converted",
        f"{table}: {shown(column)}",
        f"Iceberg has no such type: {how} there, every value the same",
        "nothing is to be done; the snapshot itself has the type that it had",
    )


def open_catalog(workspace: Workspace) -> Catalog:
    """The catalog that the settings name.

    Raises:
        Invalid: kind ``missing-extra``; ``iceberg-store`` for a store that others cannot reach.
        Unavailable: kind ``iceberg-unavailable``.
    """
    try:
        from pyiceberg.catalog import load_catalog
    except ImportError:
        raise Invalid(
            "Iceberg tables need pyiceberg, which is not installed",
            kind="missing-extra",
            hint="pip install 'catchment[iceberg]'",
        ) from None
    settings, url = workspace.settings.iceberg, workspace.store.url
    if url.startswith("memory:"):
        raise Invalid(
            "a store in memory cannot hold Iceberg tables",
            kind="iceberg-store",
            hint="set workspace.store to a folder or a bucket, or iceberg.catalog to none",
        )
    properties = {"type": settings.catalog, "warehouse": settings.location or _url(url, FOLDER)}
    if settings.uri is not None:
        properties["uri"] = settings.uri
    elif settings.catalog == "sql":
        properties["uri"] = f"sqlite:///{_beside(workspace)}"
    if settings.token is not None:
        properties["token"] = settings.token.get_secret_value()
    given = workspace.settings.s3.options()
    for name, theirs in _S3.items():
        if name in given:
            properties[f"s3.{theirs}"] = given[name]
            if settings.catalog == "glue" and name not in _STORE_ONLY:
                properties[f"glue.{theirs}"] = given[name]
    return load_catalog("catchment", **(properties | dict(settings.properties)))


# Settings of [s3] as pyiceberg calls them.
_S3 = {
    "endpoint": "endpoint",
    "region": "region",
    "access_key_id": "access-key-id",
    "secret_access_key": "secret-access-key",
    "session_token": "session-token",
    "virtual_hosted_style": "force-virtual-addressing",
}
_STORE_ONLY = {"endpoint", "virtual_hosted_style"}


def _beside(workspace: Workspace) -> Path:
    base = Path.cwd() if workspace.file is None else workspace.file.absolute().parent
    folder = base / RESERVED
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "iceberg.db"


class Shelf:
    """The tables of one aggregate: a namespace of a catalog."""

    def __init__(self, catalog: Catalog, aggregate: str) -> None:
        self._catalog = catalog
        self._aggregate = aggregate
        self._space = aggregate.replace("/", "_").replace("-", "_").replace(".", "_")

    def tables(self) -> set[str]:
        """The tables that are ours."""
        return set(self.told())

    def told(self) -> dict[str, dict[str, str]]:
        """The tables that are ours, with their properties."""
        from pyiceberg.exceptions import NoSuchNamespaceError

        try:
            names = [identifier[-1] for identifier in self._catalog.list_tables(self._space)]
        except NoSuchNamespaceError:
            return {}
        found = {name: self._load(name) for name in names}
        return {name: dict(t.properties) for name, t in found.items() if t and self._ours(t)}

    def drop(self, name: str) -> None:
        """Remove a table of ours from the catalog; its objects are the snapshot's, and stay."""
        table = self._load(name)
        if self._ours(table):
            self._catalog.drop_table((self._space, name))

    def show(
        self,
        name: str,
        number: int | None,
        relation: Relation,
        told: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Make a table show the objects of a snapshot: one commit, or none where it does so.

        After a number none that is smaller is shown; without one, what is shown last stays.
        ``told`` are more properties of the table. Returns the columns that have another type than
        the relation's, each with its types; objects with these are written anew beside the table's
        metadata.

        Raises:
            Invalid: kind ``iceberg-type`` for a column that Iceberg cannot hold exactly.
            Conflict: kind ``warehouse-taken`` if the table is not ours; ``iceberg-busy`` while
                others commit to it all the time.
        """
        from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException

        relation, converted = readable(relation, f"{FOLDER}/{self._space}/{name}/converted/")
        told = {**(told or {}), _CONVERTED: json.dumps(converted, sort_keys=True)}
        schema = iceberg_schema(name, relation.schema)
        for _ in range(_TRIES):
            table = self._load(name) or self._create(name, schema)
            if not self._ours(table):
                raise Conflict(
                    f"{self._space} has an Iceberg table {name} that is not of this workspace",
                    kind="warehouse-taken",
                    hint="remove it there, or let the settings name another catalog",
                )
            try:
                _commit(table, number, schema, relation, told)
            except (CommitFailedException, CommitStateUnknownException):
                continue  # somebody else was faster, or it is done: the next look tells
            return converted
        raise Conflict(
            f"the Iceberg table {self._space}.{name} changes all the time",
            kind="iceberg-busy",
            hint="run the same command again",
        )

    def _load(self, name: str) -> Table | None:
        from pyiceberg.exceptions import NoSuchTableError

        try:
            return self._catalog.load_table((self._space, name))
        except NoSuchTableError:
            return None

    def _ours(self, table: Table | None) -> bool:
        return table is not None and table.properties.get(_OWNER) == self._aggregate

    def _create(self, name: str, schema: Schema) -> Table:
        from pyiceberg.exceptions import TableAlreadyExistsError

        self._catalog.create_namespace_if_not_exists(self._space)
        properties = {
            _OWNER: self._aggregate,
            "gc.enabled": "false",  # the objects are the snapshot's: nobody may delete them
            "commit.retry.num-retries": "0",  # over another's commit ours would say what is not so
        }
        try:
            return self._catalog.create_table((self._space, name), schema, properties=properties)
        except TableAlreadyExistsError:
            return self._catalog.load_table((self._space, name))


def _commit(
    table: Table, number: int | None, schema: Schema, relation: Relation, told: Mapping[str, str]
) -> None:
    from pyiceberg.table import _parquet_files_to_data_files

    if number is not None and int(table.properties.get(_NUMBER, "0")) >= number:
        return
    there = {task.file.file_path: task.file for task in table.scan().plan_files()}
    sources = chain.from_iterable(relation.parts.values())
    wanted = list(dict.fromkeys(map(_place, sources)))  # an object may have several parts
    new = [path for path in wanted if path not in there]
    gone = [file for path, file in there.items() if path not in set(wanted)]
    numbered = {} if number is None else {_NUMBER: str(number)}
    if number is None and not new and not gone and told.items() <= table.properties.items():
        return
    with table.transaction() as change:
        _evolve(change, schema)
        names = change.table_metadata.schema().name_mapping.model_dump_json()
        change.set_properties({**told, **numbered, "schema.name-mapping.default": names})
        # Also where no file changes: that alone asks for the table to be as it was looked at.
        with change.update_snapshot(snapshot_properties=numbered).overwrite() as files:
            for file in gone:
                files.delete_data_file(file)
            for file in _parquet_files_to_data_files(change.table_metadata, new, table.io):
                files.append_data_file(file)


def _evolve(change: Transaction, schema: Schema) -> None:
    """Give the table these columns. One of another type is another column of the same name."""
    now = {field.name: _text(field.field_type) for field in change.table_metadata.schema().fields}
    wanted = {field.name: _text(field.field_type) for field in schema.fields}
    gone = [name for name, kind in now.items() if wanted.get(name) != kind]
    if gone:
        with change.update_schema(allow_incompatible_changes=True) as update:
            for name in gone:
                update.delete_column((name,))
    if wanted.keys() - (now.keys() - set(gone)):
        with change.update_schema() as update:
            update.union_by_name(schema)


def _text(kind: Any) -> str:
    """A type without the numbers of the fields inside it."""
    from pyiceberg.types import ListType, MapType, StructType

    if isinstance(kind, StructType):
        inside = ",".join(f"{f.name}:{_text(f.field_type)}" for f in kind.fields)
        return f"struct<{inside}>"
    if isinstance(kind, ListType):
        return f"list<{_text(kind.element_type)}>"
    if isinstance(kind, MapType):
        return f"map<{_text(kind.key_type)},{_text(kind.value_type)}>"
    return str(kind)


def iceberg_schema(table: str, schema: pa.Schema) -> Schema:
    """The columns as Iceberg has them; Invalid (kind ``iceberg-type``) where it has no type."""
    import pyarrow as pa
    from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids
    from pyiceberg.schema import assign_fresh_schema_ids

    fields = []
    for field in schema:
        kind = held(field.type)
        if kind is None:
            raise Invalid(
                f"{table}: column {field.name[:64]!a} is {field.type}, which Iceberg cannot hold "
                "exactly; the table is not there",
                kind="iceberg-type",
                hint="have the sites send another type, or read this table from its snapshot",
            )
        fields.append(pa.field(field.name, kind))
    return assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(pa.schema(fields)))


def _place(source: Source) -> str:
    """Where others find an object."""
    path = source.store.path(source.key)
    return _url(source.store.url, source.key) if path is None else f"file://{path}"


def _url(base: str, key: str) -> str:
    return f"{base.rstrip('/')}/{key}"


@contextmanager
def told() -> Iterator[None]:
    """Errors of the catalog in our words."""
    try:
        from pyiceberg import exceptions as theirs
        from sqlalchemy import exc
    except ImportError:
        yield  # told where the catalog is opened
        return
    try:
        yield
    except (
        theirs.RESTError,
        theirs.DynamoDbError,
        theirs.WaitingForLockException,
        exc.OperationalError,
        OSError,
    ) as error:
        raise Unavailable(
            f"the Iceberg catalog or its store does not answer: {type(error).__name__}",
            kind="iceberg-unavailable",
            hint="run the same command again; or look at iceberg.uri",
        ) from None
