"""The arrays of one dimension: what a store says of each of its sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from catchment.arrays import layout
from catchment.arrays.codec import decode, encode, fill_of
from catchment.arrays.document import FACTS, Document, corrupt
from catchment.arrays.model import Entry, Row, Status
from catchment.core.errors import CatchmentError, NotFound
from catchment.core.store import Store

if TYPE_CHECKING:
    from catchment.arrays.known import Known

Put = Callable[[str, bytes], None]
_FIELDS = tuple(name for name in FACTS if name != "status")


def read(store: Store, document: Document, start: int = 0) -> list[Entry]:
    """What stands in each slot from ``start`` on. Corrupt where rows are missing."""
    size = document.size
    if start >= size:
        return []
    names = document.rows()
    try:
        if store.path(layout.ROOT) is not None:
            read_all = [_column(store, document, name, start) for name in names]
        else:  # each request takes long
            with ThreadPoolExecutor(len(names)) as pool:
                read_all = list(pool.map(lambda n: _column(store, document, n, start), names))
    except CatchmentError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises
        raise corrupt(f"the rows cannot be decoded ({type(error).__name__})") from None
    columns = dict(zip(names, read_all, strict=True))
    return of_columns(columns, size, start)


def of_columns(columns: Mapping[str, Sequence[Any]], size: int, start: int = 0) -> list[Entry]:
    """Rows from what their arrays hold. Corrupt where rows are missing."""
    own = [name for name in columns if name not in FACTS]
    entries = []
    for position in range(size - start):
        facts = {name: columns[name][position] for name in _FIELDS}
        values = {name: columns[name][position] for name in own}
        status = Status(columns["status"][position])
        entries.append(Entry(start + position, status, Row(**facts, values=values)))
    check(entries)
    return entries


def check(entries: Iterable[Entry]) -> None:
    """Corrupt (kind ``store-contradicts``) if a session has no id or a tombstone has one."""
    for entry in entries:
        tombstone = entry.row.session == tomb(entry.slot)
        if not entry.row.session or tombstone != (entry.status is not Status.PRESENT):
            raise corrupt(f"the rows of slot {entry.slot} are not those of its commit")


def tomb(slot: int) -> str:
    """What stands in place of a session's id where there is no session any more."""
    return f"~{slot}"


def changes(record: Mapping[str, Any]) -> dict[int, Entry]:
    """The rows that a commit record writes."""
    made = {
        int(slot): Entry(int(slot), Status.PRESENT, Row.from_json(row))
        for slot, row in record.get("rows", {}).items()
    }
    for slot, status in record.get("tombstones", {}).items():
        made[int(slot)] = Entry(int(slot), Status(status), Row(tomb(int(slot)), 0, ""))
    return made


def write(put: Put, document: Document, known: Known, changed: Iterable[int]) -> None:
    """Write the chunks of rows that hold the slots, which no reader sees yet; others share them."""
    for number in sorted({slot // layout.ROWS for slot in changed}):
        for name, values in known.columns(document, number):
            data = encode(values, document.arrays[name], (layout.ROWS,))
            if data is not None:
                put(layout.row_key(name, number, document.family), data)


def write_all(
    put: Put, delete: Callable[[str], None], document: Document, entries: Sequence[Entry]
) -> None:
    """Write all rows anew, under the keys of the document's family, which nobody reads yet."""
    for name in document.rows():
        meta = document.arrays[name]
        for number in range(-(-len(entries) // layout.ROWS)):
            key = layout.row_key(name, number, document.family)
            data = _encoded(name, meta, document, entries, number)
            if data is None:  # the family's keys may be there from a time long past
                delete(key)
            else:
                put(key, data)


def _encoded(
    name: str, meta: Mapping[str, Any], document: Document, entries: Sequence[Entry], number: int
) -> bytes | None:
    """A chunk of rows; None where all of it is fill."""
    some = entries[number * layout.ROWS : (number + 1) * layout.ROWS]
    values = typed([value(name, entry, document) for entry in some], meta)
    return encode(values, meta, (layout.ROWS,))


def _column(store: Store, document: Document, name: str, start: int) -> list[Any]:
    """What an array of rows has from ``start`` on."""
    meta = document.arrays[name]
    first = start // layout.ROWS
    values: list[Any] = []
    for number in range(first, -(-document.size // layout.ROWS)):
        try:
            data = store.read(layout.row_key(name, number, document.family))
        except NotFound:
            values += [fill_of(meta)] * layout.ROWS
            continue
        values += decode(data, meta, (layout.ROWS,)).tolist()
    return values[start - first * layout.ROWS : document.size - first * layout.ROWS]


def value(name: str, entry: Entry, document: Document) -> Any:
    """What stands in one array's row."""
    if name == "status":
        return int(entry.status)
    found: Any = None
    if entry.status is Status.PRESENT or name in ("session", "n_windows"):
        found = getattr(entry.row, name) if name in FACTS else entry.row.values.get(name)
    return fill_of(document.arrays[name]) if found is None else found


def empty(meta: Mapping[str, Any]) -> np.ndarray:
    """A chunk of rows of no session."""
    dtype = object if meta["data_type"] == "string" else meta["data_type"]
    return np.full(layout.ROWS, fill_of(meta), dtype=dtype)


def typed(values: list[Any], meta: Mapping[str, Any]) -> np.ndarray:
    """Values of rows in the type of their array."""
    return np.array(values, dtype=object if meta["data_type"] == "string" else meta["data_type"])
