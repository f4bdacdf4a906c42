"""Types that Iceberg does not have, as types that it has: no value changes.

=========================================  ========================================================
``uint32``; ``uint64``                     ``long``; ``decimal(20, 0)``
half floats                                ``float``
timestamps in seconds, or of another zone  ``timestamp`` or ``timestamptz``: the same instant
times and timestamps in nanoseconds        in microseconds if all are whole ones, else text
columns without a value                    ``string``
durations                                  ``long``, in the unit that they had
decimals of more digits than 38            ``string``
JSON                                       ``string``
=========================================  ========================================================

Objects with such columns are written anew for Iceberg's readers, once, under a key that says what
of and as what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING

from catchment.core.errors import Conflict, NotFound
from catchment.core.scratch import scratch_folder
from catchment.core.store_file import seekable
from catchment.core.warehouse.model import Relation, Source

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_CHUNK = 1 << 20  # bytes
_PLAIN = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "float", "double"}
    | {"string", "large_string", "binary", "large_binary", "date32[day]", "time64[us]"}
)


def held(kind: pa.DataType) -> pa.DataType | None:
    """The plain form of a type that Iceberg has; None where it has none.

    Unsigned integers of 32 and 64 bits and nanoseconds would not read back as they are everywhere.
    """
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(kind):
        return held(kind.value_type)
    if types.is_timestamp(kind):
        exact = kind.unit in {"ms", "us"} and kind.tz in {None, "UTC", "+00:00", "Etc/UTC"}
        return pa.timestamp("us", kind.tz) if exact else None
    if types.is_decimal(kind):
        return kind if kind.precision <= 38 and 0 <= kind.scale <= kind.precision else None
    if types.is_nested(kind):
        return _nested(kind)
    return kind if str(kind) in _PLAIN or types.is_fixed_size_binary(kind) else None


def _nested(kind: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa
    from pyarrow import types

    inside = [kind.field(index) for index in range(kind.num_fields)]
    kinds = [held(field.type) for field in inside]
    if types.is_map(kind):
        key, item = held(kind.key_type), held(kind.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if not kinds or any(one is None for one in kinds):
        return None
    if types.is_struct(kind):
        return pa.struct([(field.name, one) for field, one in zip(inside, kinds, strict=True)])
    return pa.list_(kinds[0]) if types.is_list(kind) or types.is_large_list(kind) else None


def readable(relation: Relation, prefix: str) -> tuple[Relation, dict[str, str]]:
    """The relation in types that Iceberg has, and what is of another type there, by column.

    Where there is such a column, objects below the prefix take the place of the relation's. Where
    a column cannot be held at all, the relation is as it was.
    """
    schema = relation.schema
    odd = [n for n, field in enumerate(schema) if held(field.type) is None]
    if not odd:
        return relation, {}
    # An object of which several parts are known is written whole.
    sources = {s.key: s for s in chain.from_iterable(relation.parts.values())}
    wanted = schema
    for number in odd:
        field = schema.field(number)
        kind = _exact(field.type, text=False)
        if _fine(field.type) and not _all_whole(list(sources.values()), field.name, kind):
            kind = _exact(field.type, text=True)
        wanted = wanted.set(number, field.with_type(kind))
    if any(held(field.type) is None for field in wanted):
        return relation, {}  # there is no way to hold it
    made = [_converted(source, wanted, prefix) for source in sources.values()]
    names = {schema.field(n).name: f"{schema.field(n).type} is {wanted.field(n).type}" for n in odd}
    return Relation(wanted, {"": made}), names


def _exact(kind: pa.DataType, *, text: bool) -> pa.DataType:
    """A type that Iceberg has for the values of another; ``text``: for nanoseconds, text."""
    import pyarrow as pa
    from pyarrow import types

    if held(kind) is not None:
        return kind
    if types.is_struct(kind):
        return pa.struct([field.with_type(_exact(field.type, text=text)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_exact(kind.key_type, text=text), _exact(kind.item_type, text=text))
    if types.is_nested(kind):
        return pa.list_(kind.value_field.with_type(_exact(kind.value_type, text=text)))
    if types.is_time(kind):
        return pa.string() if text and kind.unit == "ns" else pa.time64("us")
    if types.is_timestamp(kind):
        zone = None if kind.tz is None else "UTC"
        return pa.string() if text and kind.unit == "ns" else pa.timestamp("us", zone)
    simple = {"uint32": pa.int64(), "uint64": pa.decimal128(20, 0), "halffloat": pa.float32()}
    if types.is_duration(kind):
        return pa.int64()
    return pa.date32() if types.is_date(kind) else simple.get(str(kind), pa.string())


def _fine(kind: pa.DataType) -> bool:
    """Whether there are nanoseconds in it."""
    inside = [kind.field(index).type for index in range(kind.num_fields)]
    return str(getattr(kind, "unit", "")) == "ns" or any(map(_fine, inside))


def _all_whole(sources: list[Source], name: str, kind: pa.DataType) -> bool:
    """Whether all values of a column are whole microseconds."""
    import pyarrow as pa

    for source in sources:
        with _opened(source) as file:
            if source.may_lack and name not in file.schema_arrow.names:
                continue
            for group in range(file.num_row_groups):
                try:
                    file.read_row_group(group, [name], use_threads=False)[name].cast(kind)
                except pa.ArrowInvalid:
                    return False
    return True


@contextmanager
def _opened(source: Source, *, whole: bool = False) -> Iterator[pq.ParquetFile]:
    import pyarrow.parquet as pq

    with seekable(source.store, source.key, source.size, whole=whole) as file:
        yield pq.ParquetFile(file)


def _converted(source: Source, schema: pa.Schema, prefix: str) -> Source:
    """The object with these types; written where it is not there yet."""
    import pyarrow.parquet as pq

    made = hashlib.sha256(f"1\0{source.key}\0{source.size}\0{schema}".encode())
    key = f"{prefix}{made.hexdigest()}.parquet"
    with suppress(NotFound):
        return source._replace(key=key, size=source.store.head(key).size, groups=None)
    with scratch_folder() as folder:
        path = folder / "object.parquet"
        with (
            _opened(source, whole=True) as file,
            pq.ParquetWriter(path, schema, compression="zstd") as writer,
        ):
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                writer.write_table((_whole(rows, schema) if source.may_lack else rows).cast(schema))
        with suppress(Conflict), path.open("rb") as data:  # another one wrote the same
            source.store.put(key, iter(lambda: data.read(_CHUNK), b""))
        return source._replace(key=key, size=path.stat().st_size, groups=None)


def _whole(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with all columns, in order; those that they lack are null."""
    import pyarrow as pa

    made = {
        field.name: rows[field.name]
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    }
    return pa.table(made)
