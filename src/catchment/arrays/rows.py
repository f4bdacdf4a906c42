"""The arrays of one dimension: what a store says of each of its sessions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from catchment.arrays import layout
from catchment.arrays.document import FACTS, Document, corrupt
from catchment.arrays.model import Entry, Row, Status
from catchment.arrays.zarr_store import CoreStore, documents, open_array
from catchment.core.errors import CatchmentError
from catchment.core.store import Store

Put = Callable[[str, bytes], None]
_FIELDS = tuple(name for name in FACTS if name != "status")


def read(store: Store, document: Document, start: int = 0) -> list[Entry]:
    """What stands in each slot from ``start`` on. Corrupt where rows are missing."""
    size = document.size
    if start >= size:
        return []
    view = CoreStore(store, documents(document.arrays))
    try:
        columns = {name: _values(view, name, start) for name in document.rows()}
    except CatchmentError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises
        raise corrupt(f"the rows cannot be decoded ({type(error).__name__})") from None
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


def write(put: Put, store: Store, document: Document, entries: Mapping[int, Entry]) -> None:
    """Write rows of slots that no reader sees yet, into the chunks that they share with others."""
    first = min(entries, default=0)
    view = CoreStore(store, documents(document.arrays), put=put, fresh=_beyond(document, first))
    for name in document.rows():
        meta = document.arrays[name]
        wanted = {
            slot: told
            for slot, entry in entries.items()
            if not _is_fill(told := value(name, entry, document), meta["fill_value"])
        }
        if wanted:
            array = open_array(view, name)
            slots = np.array(sorted(wanted))
            values = typed([wanted[slot] for slot in slots], meta)
            if slots[-1] - slots[0] + 1 == len(slots):
                array[slots[0] : slots[-1] + 1] = values
            else:
                array.oindex[slots] = values


def write_all(
    put: Put, delete: Callable[[str], None], document: Document, entries: Sequence[Entry]
) -> None:
    """Write all rows anew, under the keys of the document's family, which nobody reads yet."""
    view = CoreStore(None, documents(document.arrays), put=put, delete=delete)
    for name in document.rows():
        meta = document.arrays[name]
        values = [value(name, entry, document) for entry in entries]
        # What is empty is deleted: the family's keys may be there from a time long past.
        open_array(view, name)[:] = typed(values, meta)


def _beyond(document: Document, first: int) -> Callable[[str], bool]:
    """Chunks of rows that begin behind every visible slot need not be asked for."""
    chunk = -(-first // layout.ROWS)
    keys = {
        layout.row_key(name, number, document.family)
        for name in document.rows()
        for number in range(chunk, document.size // layout.ROWS + 1)
    }
    return keys.__contains__


def _values(view: CoreStore, name: str, start: int) -> list[Any]:
    values: Any = open_array(view, name)[start:]
    return np.asarray(values).tolist()  # type: ignore[no-any-return]


def value(name: str, entry: Entry, document: Document) -> Any:
    """What stands in one array's row."""
    if name == "status":
        return int(entry.status)
    if entry.status is not Status.PRESENT and name not in ("session", "n_windows"):
        return document.arrays[name]["fill_value"]
    if name in FACTS:
        return getattr(entry.row, name)
    return entry.row.values.get(name, document.arrays[name]["fill_value"])


def _is_fill(value: Any, fill: Any) -> bool:
    if isinstance(value, float) and math.isnan(value):
        value = "NaN"
    same: bool = value == fill
    return same


def typed(values: list[Any], meta: Mapping[str, Any]) -> np.ndarray:
    """Values of rows in the type of their array."""
    if meta["data_type"] == "string":
        return np.array(values, dtype=object)
    return np.array([math.nan if v == "NaN" else v for v in values], dtype=meta["data_type"])
