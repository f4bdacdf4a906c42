"""Subscriptions in the AWS Glue catalog: Athena reads the released Parquet where it lies.

A table tells the prefix and the columns. Glue knows no transaction over tables: each is whole, and
a crawl that was cut off is finished by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from catchment.core.errors import CatchmentError, Invalid, Unavailable
from catchment.core.store_s3_config import service
from catchment.core.workspace import Workspace
from catchment.studies.check import local
from catchment.studies.model import Package
from catchment.studies.subscribe import Session, Table, table_of, taken

if TYPE_CHECKING:
    import pyarrow as pa

_OURS = "catchment_"  # of parameters of tables that are ours
_HIVE = "org.apache.hadoop.hive.ql.io.parquet"
_PLAIN = {
    "bool": "boolean",
    "int8": "tinyint",
    "int16": "smallint",
    "int32": "int",
    "int64": "bigint",
    "uint8": "smallint",
    "uint16": "int",
    "uint32": "bigint",
    "uint64": "decimal(20,0)",
    "float": "float",
    "double": "double",
    "string": "string",
    "large_string": "string",
    "string_view": "string",
    "binary": "binary",
    "large_binary": "binary",
    "date32[day]": "date",
    "null": "string",
}
_LATER = {"ThrottlingException", "InternalServiceException", "OperationTimeoutException"}


class GlueTarget:
    """External tables in one database of the catalog."""

    name = "glue"

    def __init__(self, workspace: Workspace, database: str) -> None:
        self._workspace = workspace
        self._database = database

    @contextmanager
    def session(self, *, dry_run: bool) -> Iterator[Session]:
        """The catalog; the database is made where there is none, unless it is a dry run.

        Invalid (kind ``glue-needs-s3``) where the store is no bucket, which Athena could not read.
        """
        if not self._workspace.settings.workspace.store.startswith("s3:"):
            raise Invalid(
                "Glue needs a store in a bucket: Athena cannot read another",
                kind="glue-needs-s3",
                hint="set workspace.store to s3://bucket/prefix, or unset subscriptions.glue",
            )
        yield _Registering(self._workspace, self._database, dry_run=dry_run)


class _Registering:
    def __init__(self, workspace: Workspace, database: str, *, dry_run: bool) -> None:
        self._workspace = workspace
        self._url = workspace.settings.workspace.store.rstrip("/")
        self._glue = service("glue", workspace.settings.s3.options())
        self._database = database
        look, make = self._glue.get_database, self._glue.create_database
        self._found = _code(lambda: look(Name=database), "EntityNotFoundException")
        if not self._found and not dry_run:
            about = {"Name": database, "Description": "What Catchment released of studies."}
            _code(lambda: make(DatabaseInput=about), "AlreadyExistsException")  # or as fast
            self._found = True

    def tables(self) -> dict[str, Table]:
        """Those of this workspace; a database may hold others, which are left alone."""
        if not self._found:
            return {}
        found: dict[str, Table] = {}

        def look() -> None:
            pages = self._glue.get_paginator("get_tables").paginate(DatabaseName=self._database)
            for page in pages:
                for one in page["TableList"]:
                    told = one.get("Parameters", {})
                    if told.get(f"{_OURS}store") == self._url:
                        found[one["Name"]] = _table(one["Name"], told)

        _code(look)
        return found

    def change(
        self, wanted: Mapping[str, Package], gone: Collection[str]
    ) -> dict[str, CatchmentError]:
        there = self.tables()
        failed: dict[str, CatchmentError] = {}
        for id_, one in wanted.items():
            try:
                self._put(one, there=id_ in there)
            except CatchmentError as error:
                failed[id_] = error
        for id_ in gone:
            try:
                self._drop(id_)
            except CatchmentError as error:
                failed[id_] = error
        return failed

    def _put(self, one: Package, *, there: bool) -> None:
        about = {"DatabaseName": self._database, "TableInput": self._input(one)}
        if there:
            _code(lambda: self._glue.update_table(**about))
        elif not _code(lambda: self._glue.create_table(**about), "AlreadyExistsException"):
            # Another crawl of ours has made it, or it is somebody else's.
            if one.id not in self.tables():
                raise taken(one.id, self._database, "subscriptions.glue")
            _code(lambda: self._glue.update_table(**about))

    def _drop(self, id_: str) -> None:
        about = {"DatabaseName": self._database, "Name": id_}
        _code(lambda: self._glue.delete_table(**about), "EntityNotFoundException")

    def _input(self, one: Package) -> dict[str, Any]:
        import pyarrow.parquet as pq

        with local(self._workspace.store, one.released.key) as path:
            columns = columns_of(one.id, pq.read_schema(path))
        return {
            "Name": one.id,
            "TableType": "EXTERNAL_TABLE",
            "Parameters": {
                "classification": "parquet",
                "EXTERNAL": "TRUE",
                f"{_OURS}store": self._url,
                **{f"{_OURS}{name}": str(v) for name, v in table_of(one)._asdict().items()},
            },
            "StorageDescriptor": {
                "Columns": columns,
                "Location": f"{self._url}/{one.key.rpartition('/')[0]}/",
                "InputFormat": f"{_HIVE}.MapredParquetInputFormat",
                "OutputFormat": f"{_HIVE}.MapredParquetOutputFormat",
                "SerdeInfo": {
                    "SerializationLibrary": f"{_HIVE}.serde.ParquetHiveSerDe",
                    "Parameters": {"serialization.format": "1"},
                },
            },
        }


def _table(id_: str, told: Mapping[str, str]) -> Table:
    def of(name: str) -> str:
        return told.get(_OURS + name, "")

    number = of("version")
    version = int(number) if number.isdecimal() else -1  # somebody's hand: it is told anew
    return Table(id_, of("kind"), of("study"), of("site"), version, of("digest"))


def columns_of(id_: str, schema: pa.Schema) -> list[dict[str, str]]:
    """The columns of a Parquet file as Hive calls them.

    Invalid (kind ``bad-subscription``) where it has no type for one, or cannot tell two apart.
    """
    found: dict[str, str] = {}
    for field in schema:
        name, kind = field.name.lower(), hive_type(field.type)
        if kind is None or name in found:
            reason = (
                "of a type that Hive has not" if kind is None else "like another, in lower case"
            )
            raise Invalid(
                f"{id_} cannot be a table of Glue: column {field.name[:64]!a} is {reason}",
                kind="bad-subscription",
                hint="have the site name, or cast, the column otherwise",
            )
        found[name] = kind
    return [{"Name": name, "Type": kind} for name, kind in found.items()]


def hive_type(kind: pa.DataType) -> str | None:
    """The type that Athena reads a Parquet column of an Arrow type as; None if there is none."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return hive_type(kind.value_type)
    if types.is_timestamp(kind):
        return "timestamp"
    if types.is_decimal128(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if types.is_list(kind) or types.is_large_list(kind):
        inner = hive_type(kind.value_type)
        return None if inner is None else f"array<{inner}>"
    return _PLAIN.get(str(kind))


def _code(call: Callable[[], object], expected: str = "") -> bool:
    """Whether a call went well; False if it gave the code that is expected.

    Raises:
        Unavailable: kind ``glue-unavailable``: it may go later.
        Invalid: kind ``glue-refused``: rights, or the catalog's rules.
    """
    from botocore import exceptions as aws

    try:
        call()
    except aws.ClientError as error:
        code = error.response["Error"]["Code"]
        if code == expected:
            return False
        if code in _LATER or error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            raise _unavailable(code) from None
        raise Invalid(
            f"the Glue catalog refused: {code}",
            kind="glue-refused",
            hint="the role needs glue:GetDatabase, GetTables, Create..., UpdateTable, DeleteTable",
        ) from None
    except aws.BotoCoreError as error:
        raise _unavailable(type(error).__name__) from None
    return True


def _unavailable(what: str) -> Unavailable:
    return Unavailable(
        f"the Glue catalog does not answer: {what}",
        kind="glue-unavailable",
        hint="catchment studies subscribe",
    )
