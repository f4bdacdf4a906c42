"""Rewrite the column chunks that cannot be copied: another type, or rows to remove."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from catchment.core.errors import Invalid
from catchment.core.names import shown
from catchment.core.store import Store
from catchment.tables.decode import Part
from catchment.tables.fill import booleans, numbers
from catchment.tables.footer import Group
from catchment.tables.parse import parse_file
from catchment.tables.thrift import Ints
from catchment.tables.types import plain

_STRONG = frozenset({2, 4, 6})  # gzip, brotli, zstd: who took their time shall not get snappy


@dataclass(frozen=True, slots=True)
class Task:
    """Work for one worker: some columns of one row group, written anew to staged objects.

    Attributes:
        part: where they are.
        have: their plain types at the site.
        want: their types in the table.
        removed: rows of the row group that leave the table.
        staging: where to write.
        stay: key for the rows that stay; None if they are not asked for.
        leave: key for the rows that leave; None if they are not asked for.
    """

    part: Part
    have: pa.Schema
    want: pa.Schema
    removed: Ints
    staging: Store
    stay: str | None
    leave: str | None


def rewrite(task: Task) -> tuple[Group | None, Group | None]:
    """Decode, filter, cast and encode; the row groups of the objects for both kinds of rows.

    Raises Invalid: kind ``parquet-unreadable``; ``lossy-cast`` where a value does not fit the
    table's type.
    """
    table = task.part.decode()
    columns = [
        _conform(column, have, want, task.part.key)
        for column, have, want in zip(table.columns, task.have, task.want, strict=True)
    ]
    fields = [
        pa.field(want.name, column.type, want.nullable)
        for column, want in zip(columns, task.want, strict=True)
    ]
    table = pa.Table.from_arrays(columns, schema=pa.schema(fields))
    compression = "zstd" if task.part.group.codec() in _STRONG else "snappy"
    stays = np.ones(table.num_rows, np.bool_)
    stays[task.removed] = False
    groups: list[Group | None] = []
    for key, rows in ((task.stay, stays), (task.leave, ~stays)):
        if key is None:
            groups.append(None)
            continue
        some = table if rows.all() else _only_used(table.filter(booleans(rows)))
        data, group = write(some, compression)
        task.staging.put(key, memoryview(data), mode="overwrite", durable=False)
        groups.append(group)
    pa.default_memory_pool().release_unused()  # two workers share a bounded memory
    return groups[0], groups[1]


def _only_used(table: pa.Table) -> pa.Table:
    """The table without those values of its dictionaries that no row has any more."""
    for number, column in enumerate(table.columns):
        if not types.is_dictionary(column.type):
            continue
        array = column.combine_chunks()
        used = np.zeros(len(array.dictionary), np.bool_)
        used[array.indices.drop_null().to_numpy()] = True
        if not used.all():
            codes = numbers(np.cumsum(used, dtype=np.int32) - 1).take(array.indices)
            values = array.dictionary.filter(booleans(used))
            array = pa.DictionaryArray.from_arrays(codes, values)
            field = table.schema.field(number).with_type(array.type)
            table = table.set_column(number, field, array)
    return table


def write(table: pa.Table, compression: str = "snappy") -> tuple[pa.Buffer, Group]:
    """A Parquet file with the rows, at least one, as a row group; and that row group."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, row_group_size=table.num_rows, compression=compression, store_schema=False
    )
    data = sink.getvalue()
    (group,) = parse_file(data).groups
    return data, group


def _conform(column: pa.ChunkedArray, have: pa.Field, want: pa.Field, key: str) -> pa.ChunkedArray:
    """The column in the type of the table; a dictionary of it may stay one."""
    if plain(column.type).equals(want.type):
        return column
    try:
        # Parquet does not know all types: a duration comes as a number of the site's unit.
        array = conform(conform(column.combine_chunks(), have.type), want.type)
    except (pa.ArrowException, UnicodeError):  # its text shows the value
        raise Invalid(
            f"{shown(key.rpartition('/')[2])}: column {shown(want.name)} has values that "
            f"{shown(str(want.type))} cannot hold",
            kind="lossy-cast",
            hint="send the column with the type that the other sites use",
        ) from None
    return pa.chunked_array([array])


def conform(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values in a type of ``CommonType``. ArrowException or UnicodeError where one is lost."""
    if array.type.equals(kind):
        return array
    if types.is_duration(array.type) and types.is_string(kind):
        return pc.binary_join_element_wise(array.cast(pa.int64()).cast(kind), array.type.unit, " ")
    try:
        if not isinstance(array.type, pa.UuidType):
            cast = array.cast(kind)
            if not types.is_nested(kind) or _is_sound(cast):
                return cast
    except pa.ArrowNotImplementedError:
        pass  # a conflict of nested types, or inside one
    return pa.array([_as(value, kind) for value in array.to_pylist()], kind)


def _is_sound(array: pa.Array) -> bool:
    """Whether a cast went well: pyarrow makes lists of nulls that point behind their values."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _as(value: Any, kind: pa.DataType) -> Any:
    """A value of Python in a type that Arrow does not cast it to; nested values as JSON."""
    if value is None:
        return None
    if types.is_string(kind):
        nested = isinstance(value, (dict, list, tuple))
        return json.dumps(value, default=_text, ensure_ascii=False) if nested else _text(value)
    if types.is_struct(kind):
        return {field.name: _as(value.get(field.name), field.type) for field in kind}
    if types.is_list(kind):
        return [_as(item, kind.value_type) for item in value]
    if types.is_map(kind):
        return [(_as(k, kind.key_type), _as(v, kind.item_type)) for k, v in value]
    return value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
