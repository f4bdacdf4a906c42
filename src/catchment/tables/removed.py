"""The rows that leave a table, and the file that they go to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa

from catchment.core.errors import Corrupt
from catchment.core.parquet.thrift import Ints
from catchment.tables import fill
from catchment.tables.model import Removal

_FIELDS = (
    ("removed_from", pa.string()),
    ("removed_file", pa.string()),
    ("removed_row", pa.int64()),
    ("fate", pa.string()),
    ("reason", pa.string()),
)


def removed_fields(taken: Collection[str]) -> list[pa.Field]:
    """What the file says of each row: site, file, row there from 0, fate and reason.

    A name that a column of the table has already gets ``_`` before it.
    """
    found = []
    for name, kind in _FIELDS:
        free = name
        while free in taken:
            free = f"_{free}"
        found.append(pa.field(free, kind))
    return found


class Leaving(NamedTuple):
    """Rows of one input that leave, ascending, and for each which of the removals it is in."""

    removals: Sequence[Removal]
    rows: Ints
    removal: Ints

    @classmethod
    def of(cls, removals: Sequence[Removal], total: int, expected: int | None = None) -> Self:
        """Corrupt (kind ``bad-removals``) if a row is not in the file, or leaves twice.

        Or if they are not as many as expected.
        """
        rows = [np.asarray(removal.rows, np.int64) for removal in removals]
        which = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
        joined = np.concatenate([np.zeros(0, np.int64), *rows])
        order = np.argsort(joined, kind="stable")
        joined = joined[order]
        inside = not len(joined) or (joined[0] >= 0 and joined[-1] < total)
        right = expected in (None, len(joined))
        if not (inside and right) or (np.diff(joined) == 0).any():
            raise Corrupt(
                f"expected rows of 0 to {total - 1} to leave a file, each once, as many as before",
                kind="bad-removals",
                hint="report this with the run's id (catchment status)",
            )
        return cls(removals, joined, which[order])

    def between(self, first: int, after: int) -> Self:
        """Those of a range of rows."""
        low, high = np.searchsorted(self.rows, (first, after))
        return self.some(slice(low, high))

    def some(self, chosen: slice) -> Self:
        """A range of them."""
        return self._replace(rows=self.rows[chosen], removal=self.removal[chosen])

    def columns(self, site: str, name: str) -> list[pa.ChunkedArray | pa.Array]:
        """What :func:`removed_fields` names, for these rows."""
        count = len(self.rows)
        removal = fill.numbers(self.removal)
        fates = fill.strings([some.fate.value for some in self.removals])
        reasons = fill.strings([some.reason for some in self.removals])
        return [
            fill.constant(site, count),
            fill.constant(name, count),
            fill.numbers(self.rows),
            fates.take(removal),
            reasons.take(removal),
        ]
