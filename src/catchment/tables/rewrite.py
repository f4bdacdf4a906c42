"""Rewrite the column chunks that cannot be copied: another type, or rows to remove."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from catchment.core.errors import Invalid
from catchment.core.names import shown
from catchment.core.parquet.footer import Group, join
from catchment.core.parquet.parse import parse_file
from catchment.core.parquet.thrift import Ints
from catchment.core.store import Store
from catchment.tables.decode import Part
from catchment.tables.fill import booleans, numbers
from catchment.tables.thin import Thinned, thin
from catchment.tables.types import leaves, plain

_STRONG = frozenset({2, 4, 6})  # gzip, brotli, zstd: who took their time shall not get snappy

_WIDTHS = {"INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}  # bytes of a value


@dataclass(frozen=True, slots=True)
class Task:
    """Work for one worker: some columns of one row group, written anew to staged objects.

    Attributes:
        part: where they are.
        have: their plain types at the site.
        want: their types in the table.
        same: which of them the table stores as the site does.
        removed: rows of the row group that leave the table.
        staging: where to write.
        stay: key for the rows that stay; None if they are not asked for.
        leave: key for the rows that leave; None if they are not asked for.
    """

    part: Part
    have: pa.Schema
    want: pa.Schema
    same: tuple[bool, ...]
    removed: Ints
    staging: Store
    stay: str | None
    leave: str | None


@contextmanager
def uncollected() -> Iterator[None]:
    """Within: nobody looks for cycles among many objects that have none: a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Made(NamedTuple):
    """Some columns, ascending; the bytes that their chunks are in, and the row group of these."""

    columns: Sequence[int]
    data: bytes | memoryview
    group: Group


def rewrite(task: Task) -> tuple[Group | None, Group | None]:
    """Filter, cast and encode; the row groups of the objects for both kinds of rows.

    Raises Invalid: kind ``parquet-unreadable``; ``lossy-cast`` where a value does not fit the
    table's type.
    """
    with uncollected():
        return _rewrite(task)


def _rewrite(task: Task) -> tuple[Group | None, Group | None]:
    stay: list[_Made] = []
    leave: list[_Made] = []
    thinned = _thinned(task)
    if thinned:
        stay.append(_Made(thinned.chosen, *thinned.stay))
        leave.append(_Made(thinned.chosen, *thinned.leave))
    rest = sorted(set(range(len(task.want))).difference(thinned.chosen if thinned else ()))
    if rest:
        table = _decoded(task, rest)
        stays = np.ones(table.num_rows, np.bool_)
        stays[task.removed] = False
        for key, rows, made in ((task.stay, stays, stay), (task.leave, ~stays, leave)):
            if key is not None:
                some = table if rows.all() else _only_used(table.filter(booleans(rows)))
                made.append(_encoded(task, rest, some))
    groups = _put(task, task.stay, stay), _put(task, task.leave, leave)
    pa.default_memory_pool().release_unused()  # two workers share a bounded memory
    return groups


def _thinned(task: Task) -> Thinned | None:
    """What needs no decoder: columns that only lose some rows."""
    if task.stay is None or task.leave is None:
        return None
    same = [number for number, is_same in enumerate(task.same) if is_same]
    try:
        return thin(task.part, same, task.want.types, task.removed)
    except (pa.ArrowException, OSError, ValueError):
        return None  # the decoder tells what is wrong


def _put(task: Task, key: str | None, made: Sequence[_Made]) -> Group | None:
    """Write the chunks of all columns, one behind the other: the row group that they are."""
    if key is None:
        return None
    owner = {column: number for number, one in enumerate(made) for column in one.columns}
    widths = [leaves(field.type) for field in task.want]
    taken = [0] * len(made)  # chunks
    pieces, groups = [], []
    for number, run in groupby(range(len(widths)), owner.__getitem__):
        _, data, group = made[number]
        first = taken[number]
        after = taken[number] = first + sum(widths[column] for column in run)
        end = int(group.start[after - 1] + group.length[after - 1])
        pieces.append(memoryview(data)[int(group.start[first]) : end])
        groups.append(group.pick(slice(first, after)))
    task.staging.put(key, pieces, mode="overwrite", durable=False)
    return join(groups).moved(0)


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


def _encoded(task: Task, chosen: Sequence[int], table: pa.Table) -> _Made:
    """Columns of a task, encoded."""
    part = task.part
    strong = part.group.codec() in _STRONG
    dictionaries = _repeating(part, chosen, table.column_names)
    data, group = write(table, "zstd" if strong else "snappy", dictionaries=dictionaries)
    return _Made(chosen, memoryview(data), group)


def _repeating(part: Part, chosen: Sequence[int], names: Sequence[str]) -> bool | list[str]:
    """Columns that shall be dictionaries: all but numbers that are no smaller as one."""
    found = []
    for name, number in zip(names, chosen, strict=True):
        column, first = part.columns[number], part.columns.first[number]
        if len(column.elements) > 1:
            return True  # names would have to be those of leaves
        kind, length, *_ = column.leaves[0]
        width = _WIDTHS.get(kind, length)
        if not width or part.group.size[first] < width * part.group.rows:
            found.append(name)
    return found


def write(
    table: pa.Table, compression: str = "snappy", *, dictionaries: bool | list[str] = True
) -> tuple[pa.Buffer, Group]:
    """A Parquet file with the rows, at least one, as a row group; and that row group."""
    data, (group,) = write_groups([table], compression, dictionaries=dictionaries)
    return data, group


def write_groups(
    tables: Sequence[pa.Table],
    compression: str = "snappy",
    *,
    dictionaries: bool | list[str] = True,
) -> tuple[pa.Buffer, tuple[Group, ...]]:
    """A Parquet file with tables of one schema, each a row group of its own; and those."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        tables[0].schema,
        compression=compression,
        use_dictionary=dictionaries,
        store_schema=False,
    ) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=table.num_rows)
    data = sink.getvalue()
    return data, parse_file(data).groups


def _decoded(task: Task, chosen: Sequence[int]) -> pa.Table:
    """All rows of some columns, in the types of the table."""
    fields, columns = [], []
    for number, column in zip(chosen, task.part.only(chosen).decode().columns, strict=True):
        want = task.want.field(number)
        columns.append(_conform(column, task.have.field(number), want, task.part.key))
        fields.append(pa.field(want.name, columns[-1].type, want.nullable))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


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
