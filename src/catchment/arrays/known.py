"""What stands in each slot of a store, kept up with its commits: one more costs what it changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from catchment.arrays import layout, plan, rows
from catchment.arrays.model import Entry, Status

if TYPE_CHECKING:
    import numpy as np

    from catchment.arrays.document import Document


class Known:
    """Entries of all slots at one commit, and the sessions among them by id.

    Attributes:
        commit: that they are of; 0 is the commit that makes a store, of no session yet.
        present: the sessions that readers see.
    """

    def __init__(self, commit: int = 0, entries: list[Entry] | None = None) -> None:
        self.commit = commit
        self.entries = entries or []
        self.present = plan.present(self.entries)
        self._columns: dict[str, tuple[int, int, np.ndarray]] = {}  # chunk, rows in it, values

    def apply(self, record: Mapping[str, Any]) -> dict[int, Entry]:
        """Take the next commit in; the rows that it writes."""
        changed, size = rows.changes(record), len(self.entries)
        for slot in [slot for slot in changed if slot < size]:
            former = self.entries[slot]
            if self.present.get(former.row.session) is former:
                del self.present[former.row.session]
            self.entries[slot] = changed[slot]
            self._columns.clear()
        self.entries += [changed[slot] for slot in range(size, record["size"])]
        for _, entry in sorted(changed.items()):
            if entry.status is Status.PRESENT:
                self.present[entry.row.session] = entry
        self.commit = record["number"]
        return changed

    def columns(self, document: Document, number: int) -> Iterator[tuple[str, np.ndarray]]:
        """The values of a chunk of rows, array by array; those of the last chunk are kept."""
        first = number * layout.ROWS
        end = min(len(self.entries), first + layout.ROWS)
        for name in document.rows():
            kept, done, values = self._columns.get(name, (-1, 0, None))
            if kept != number or values is None:
                done, values = 0, rows.empty(document.arrays[name])
            for slot in range(first + done, end):
                values[slot - first] = rows.value(name, self.entries[slot], document)
            self._columns[name] = number, end - first, values
            yield name, values[: end - first]
