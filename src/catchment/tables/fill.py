"""Columns that no input has: nulls, and values that the run itself writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

_BLOCK = 1 << 16  # rows made at once, and repeated


def nulls(kind: pa.DataType, rows: int) -> pa.ChunkedArray:
    """A column of nulls that needs the memory of a few rows only."""
    return _repeated(_blank(kind, min(rows, _BLOCK), null=True), rows)


def constant(value: str, rows: int) -> pa.ChunkedArray:
    """A column of one string, as a dictionary."""
    indices = numbers(np.zeros(min(rows, _BLOCK), np.int8))
    return _repeated(pa.DictionaryArray.from_arrays(indices, strings([value])), rows)


# pa.array and to_numpy import pandas, if it is there, only to see that it is not needed.
def values(array: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Integers of an array without nulls; not copied."""
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    numbers = np.frombuffer(array.buffers()[1] or b"", str(array.type))
    return numbers[array.offset : array.offset + len(array)]


def numbers(values: NDArray[np.integer[Any]]) -> pa.Array:
    """Integers as an array."""
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def booleans(values: NDArray[np.bool_]) -> pa.Array:
    """Booleans as an array."""
    packed = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(packed)])


def truths(array: pa.Array) -> NDArray[np.bool_]:
    """Which values of an array, that has nulls, are none."""
    bits = np.frombuffer(array.buffers()[0], np.uint8)
    all_bits = np.unpackbits(bits, count=array.offset + len(array), bitorder="little")
    return all_bits[array.offset :].view(np.bool_)


def strings(values: Sequence[str]) -> pa.Array:
    """A few strings as an array."""
    return _joined([value.encode() for value in values], pa.string(), np.int32)


def blobs(values: Sequence[bytes]) -> pa.Array:
    """Bytes as an array of large binaries."""
    return _joined(values, pa.large_binary(), np.int64)


def lists(parts: Sequence[int], values: pa.Array) -> pa.Array:
    """Lists of so many of the values, one behind the other."""
    return pa.ListArray.from_arrays(numbers(np.cumsum([0, *parts], dtype=np.int32)), values)


def _joined(
    values: Sequence[bytes], kind: pa.DataType, offset: type[np.signedinteger[Any]]
) -> pa.Array:
    ends = np.cumsum([0, *map(len, values)], dtype=offset)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _repeated(block: pa.Array, rows: int) -> pa.ChunkedArray:
    whole, rest = divmod(rows, _BLOCK)
    return pa.chunked_array([block] * whole + [block.slice(0, rest)] * bool(rest), block.type)


def _blank(kind: pa.DataType, rows: int, *, null: bool) -> pa.Array:
    """Nulls, in which a field that is ``not null`` has values; or such values (0, '', [])."""
    if types.is_struct(kind):
        children = [_blank(field.type, rows, null=field.nullable) for field in kind]
        mask = booleans(np.full(rows, null))
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)
    blank = pa.nulls(rows, kind)
    if null:
        return blank
    if isinstance(kind, pa.BaseExtensionType):
        storage = _blank(kind.storage_type, rows, null=False)
        return pa.ExtensionArray.from_storage(kind, storage)
    children = []
    if types.is_list(kind):
        children = [blank.values]
    elif types.is_map(kind):
        pair = [kind.key_field, kind.item_field]
        children = [pa.StructArray.from_arrays([blank.keys, blank.items], fields=pair)]
    buffers = [None, *blank.buffers()[1 : kind.num_buffers]]
    return pa.Array.from_buffers(kind, rows, buffers, children=children)
