"""What goes into a merge, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from catchment.core.errors import CatchmentError, Invalid
from catchment.core.store import Composed, Store
from catchment.tables.model import Removal
from catchment.tables.parquet import Footer
from catchment.tables.placed import Placed


@dataclass(frozen=True, slots=True)
class Fresh:
    """An input that is merged from its source.

    Attributes:
        site: who sent it; a column of the removed rows.
        name: the file's name; a column of the removed rows.
        removals: the rows that leave; none is in two of them.
        vouched: what is still looked at: no byte of the file is composed before it is done. What
            it raises is the file's failure.
    """

    site: str
    name: str
    store: Store
    key: str
    footer: Footer
    removals: Sequence[Removal] = ()
    vouched: Future[str] | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """An input that is copied from an earlier table.

    Its bytes and removals, and the unified types of its columns, must be what they were then.

    Attributes:
        table: key of the earlier table.
        removed: key of the file of rows that left it; None if there was none.
        placed: where the input stands in them.
    """

    site: str
    name: str
    store: Store
    table: str
    removed: str | None
    placed: Placed
    removals: Sequence[Removal] = ()


Input = Fresh | Kept


class InputFailed(Invalid):
    """An input turned out bad while it was merged; a merge without it may succeed.

    Attributes:
        index: its place among the inputs.
        error: what is wrong with it.
    """

    def __init__(self, index: int, error: CatchmentError) -> None:
        super().__init__(error.message, kind=error.kind, hint=error.hint)
        self.index = index
        self.error = error


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge has made.

    Attributes:
        table: the object; ``removed``: the one with the rows that left, None if there are none.
        rows: of the table.
        placed: for each input, what a later merge needs to copy it from here.
    """

    table: Composed
    removed: Composed | None
    rows: int
    placed: tuple[Placed, ...]
