"""The SQL types of Arrow's types: exact, or refused. One table for each database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from catchment.core.errors import Invalid
from catchment.core.warehouse.model import PARTITION

if TYPE_CHECKING:
    import pyarrow as pa

_DIGITS = 38  # of a decimal, in both databases

TypeOf = Callable[["pa.DataType"], str | None]

_DUCKDB = {
    "null": "VARCHAR",
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "uint32": "UINTEGER",
    "uint64": "UBIGINT",
    "halffloat": "FLOAT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "binary": "BLOB",
    "date": "DATE",
    "time": "TIME",
    "time[ns]": "TIME_NS",
    "timestamp": "TIMESTAMP",
    "timestamp[ns]": "TIMESTAMP_NS",
    "timestamp+zone": "TIMESTAMPTZ",
    "timestamp+zone[ns]": "TIMESTAMPTZ_NS",
    "duration": "BIGINT",  # in the column's unit, as Parquet has it
}
_SNOWFLAKE = {
    "null": "VARCHAR",
    "bool": "BOOLEAN",
    "int8": "NUMBER(3,0)",
    "int16": "NUMBER(5,0)",
    "int32": "NUMBER(10,0)",
    "int64": "NUMBER(19,0)",
    "uint8": "NUMBER(3,0)",
    "uint16": "NUMBER(5,0)",
    "uint32": "NUMBER(10,0)",
    "uint64": "NUMBER(20,0)",
    "halffloat": "FLOAT",
    "float": "FLOAT",
    "double": "FLOAT",
    "string": "VARCHAR",
    "binary": "BINARY",
    "date": "DATE",
    "time": "TIME(9)",
    "time[ns]": "TIME(9)",
    "timestamp": "TIMESTAMP_NTZ(9)",
    "timestamp[ns]": "TIMESTAMP_NTZ(9)",
    "timestamp+zone": "TIMESTAMP_TZ(9)",
    "timestamp+zone[ns]": "TIMESTAMP_TZ(9)",
    "duration": "NUMBER(19,0)",
}


class Column(NamedTuple):
    """A column of a table in a database."""

    name: str
    type: str


def columns(table: str, schema: pa.Schema, type_of: TypeOf) -> list[Column]:
    """The columns of a table, each with its type in a database.

    Invalid (kind ``warehouse-type``) for a column whose values it cannot hold exactly; Invalid
    (kind ``warehouse-columns``) for names that are alike but for case, or that we keep.
    """
    found: dict[str, Column] = {}
    for field in schema:
        kind, name = type_of(field.type), field.name
        if kind is None:
            raise Invalid(
                f"{table}: column {name[:64]!a} is {field.type}, which the warehouse cannot hold "
                "exactly",
                kind="warehouse-type",
                hint="have the sites send another type, or read this table from its snapshot",
            )
        if name.lower() in found or name.lower() == PARTITION:
            raise Invalid(
                f"{table}: column {name[:64]!a} is named like another, in lower case",
                kind="warehouse-columns",
                hint="a warehouse cannot tell them apart; read this table from its snapshot",
            )
        found[name.lower()] = Column(name, kind)
    if not found:
        raise Invalid(f"{table} has no columns", kind="warehouse-columns")
    return list(found.values())


def duckdb_type(kind: pa.DataType) -> str | None:
    """The type that DuckDB holds the values of an Arrow type in; None if there is none."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(kind, pa.UuidType):
        return "UUID"
    if inner := _inner(kind):
        return duckdb_type(inner)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        item = duckdb_type(kind.value_type)
        return None if item is None else f"{item}[]"
    if types.is_map(kind):
        key, item = duckdb_type(kind.key_type), duckdb_type(kind.item_type)
        return None if key is None or item is None else f"MAP({key}, {item})"
    if types.is_struct(kind):
        parts = []
        for field in kind:
            if (item := duckdb_type(field.type)) is None:
                return None
            parts.append(f"{quoted(field.name)} {item}")
        return f"STRUCT({', '.join(parts)})" if parts else None
    if types.is_decimal(kind):
        return _decimal(kind, "DECIMAL")
    return _plain(kind, _DUCKDB)


def snowflake_type(kind: pa.DataType) -> str | None:
    """The type that Snowflake holds the values of an Arrow type in; None if there is none.

    What is nested is an ARRAY, OBJECT or VARIANT, if all inside it can be held exactly.
    """
    from pyarrow import types

    if inner := _inner(kind):
        return snowflake_type(inner)
    if types.is_nested(kind):
        for index in range(kind.num_fields):
            if snowflake_type(kind.field(index).type) is None:
                return None
        if types.is_map(kind):
            return "VARIANT"
        return "OBJECT" if types.is_struct(kind) else "ARRAY"
    if types.is_decimal(kind):
        return _decimal(kind, "NUMBER")
    return _plain(kind, _SNOWFLAKE)


def quoted(name: str) -> str:
    """A name as an identifier of SQL, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def _inner(kind: pa.DataType) -> pa.DataType | None:
    """What stands behind a type that is a way of holding another."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return kind.value_type
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else None


def _decimal(kind: pa.DataType, word: str) -> str | None:
    if kind.precision > _DIGITS or not 0 <= kind.scale <= kind.precision:
        return None
    return f"{word}({kind.precision},{kind.scale})"


def _plain(kind: pa.DataType, names: Mapping[str, str]) -> str | None:
    from pyarrow import types

    unit = "[ns]" if str(getattr(kind, "unit", "")) == "ns" else ""
    if types.is_timestamp(kind):
        return names["timestamp" + ("" if kind.tz is None else "+zone") + unit]
    if types.is_time(kind):
        return names["time" + unit]
    if types.is_duration(kind):
        return names["duration"]
    if types.is_date(kind):
        return names["date"]
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return names["string"]
    if (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    ):
        return names["binary"]
    return names.get(str(kind))
