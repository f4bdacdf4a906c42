"""Some row groups of a Parquet object as a file: bytes are copied, no page is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.errors import Corrupt
from catchment.core.parquet.footer import MAGIC, Columns, Group, assemble, columns_of, leaves_of
from catchment.core.parquet.parse import parse
from catchment.core.store import Store
from catchment.core.store_file import StoreFile

_TAIL = 64 << 10  # bytes read for the footer at once


class _Footer(NamedTuple):
    schema: pa.Schema
    columns: Columns
    groups: tuple[Group, ...]


def cut(store: Store, key: str, size: int, first: int, after: int) -> Iterator[bytes]:
    """The bytes of a file that has the row groups from the first to the one before ``after``.

    Corrupt (kind ``warehouse-source``) for an object that is no file of ours.
    """
    footer = _footer(store, key, size)
    yield MAGIC
    position, moved = len(MAGIC), []
    for group in footer.groups[first:after]:
        for start, length in group.extents():
            yield from store.stream(key, start=start, length=length)
        moved.append(group.moved(position))
        position += int(group.length.sum())
    yield assemble(footer.columns, moved, footer.schema)


_latest: dict[tuple[str, str, int], _Footer] = {}  # of one object: its parts come one by one


def _footer(store: Store, key: str, size: int) -> _Footer:
    place = store.url, key, size
    found = _latest.get(place)
    if found is None:
        found = _read(store, key, size)
        _latest.clear()
        _latest[place] = found
    return found


def _read(store: Store, key: str, size: int) -> _Footer:
    try:
        tail = store.read(key, start=-min(size, _TAIL))
        length = int.from_bytes(tail[-8:-4], "little")
        if length + 8 > len(tail):
            tail = store.read(key, start=-min(size, length + 8))
        raw = parse(tail[-length - 8 : -8])
        with StoreFile(store, key, size) as file:
            opened = pq.ParquetFile(file)
            return _Footer(
                opened.schema_arrow, columns_of(raw.schema, leaves_of(opened.schema)), raw.groups
            )
    except (pa.ArrowException, OSError, ValueError, IndexError):
        raise Corrupt(
            f"{key} is no Parquet file that can be read",
            kind="warehouse-source",
            hint="catchment doctor",
        ) from None
