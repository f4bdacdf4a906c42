"""Merge the files of a table into one, copying every column chunk that can be copied.

The table has the row groups of all inputs in their order. Each column chunk of it is

* *copied* where the input stores the column as the table does and no row of the row group leaves;
* *filled* where the input lacks the column or the run writes it: a few bytes of nulls or one value;
* *rewritten* otherwise, by workers, into staged objects from which it is copied then.

Rows that leave go by the same means to a second file beside the table. The merge returns what
stands where, so that the next one can copy from this table instead of the inputs.

The bytes depend on the inputs and :data:`ENGINE` only: not on the executor, and not on which inputs
were copied from an earlier table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa

from catchment.core.errors import CatchmentError, Corrupt, Invalid, NotFound
from catchment.core.progress import Event, Progress, silent
from catchment.core.store import Composed, Range, Segment, Store
from catchment.tables.blocks import Block, Source, Target
from catchment.tables.decode import Part
from catchment.tables.footer import Group
from catchment.tables.model import Removal
from catchment.tables.parquet import Footer
from catchment.tables.placed import ENGINE, Placed
from catchment.tables.rewrite import Task, rewrite
from catchment.tables.thrift import Ints
from catchment.tables.unify import Unified

__all__ = ["ENGINE", "Fresh", "InputFailed", "Kept", "Merged", "Placed", "merge_table"]


@dataclass(frozen=True, slots=True)
class Fresh:
    """An input that is merged from its source.

    Attributes:
        site: who sent it; a column of the removed rows.
        name: the file's name; a column of the removed rows.
        removals: the rows that leave; none is in two of them.
    """

    site: str
    name: str
    store: Store
    key: str
    footer: Footer
    removals: Sequence[Removal] = ()


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


def merge_table(
    inputs: Sequence[Input],
    unified: Unified,
    constants: Mapping[str, str],
    *,
    store: Store,
    table: str,
    removed: str,
    staging: str,
    executor: Executor,
    progress: Progress = silent,
) -> Merged:
    """Compose a table, and the file of rows that left it.

    The removed rows have the table's columns but the constants, and behind them ``removed_from``
    (the site), ``removed_file`` (its name), ``removed_row`` (its number there, from 0), ``fate`` and
    ``reason``; a name that a column of the table has already gets ``_`` before it.

    Args:
        inputs: in the order that their rows shall have.
        unified: the schema.
        constants: name and value of the columns that the run writes, behind all others.
        store: of everything that is written.
        table: key of the table; must not be taken.
        removed: key of the file of removed rows; written only if there are any.
        staging: prefix, ending in ``/``, of objects that the caller deletes afterwards.
        executor: runs the tasks that decode; they are small and can be pickled.
        progress: told of each task.

    Raises:
        InputFailed: an input cannot be read, or has values that its unified type cannot hold.
        Invalid: kind ``no-columns``; nothing was written.
        Corrupt: an input does not fit what is said of it.
    """
    merge = _Merge(unified.schema, constants, store, staging)
    for number, item in enumerate(inputs):
        if isinstance(item, Fresh):
            merge.add_fresh(number, item)
        else:
            merge.add_kept(item)
    merge.rewrite(executor, progress)
    return merge.compose(table, removed)


class _Match(NamedTuple):
    """How the columns of an input meet those of the table.

    Attributes:
        column: for each column of the table that of the input; -1: it has none.
        same: for each column of the table, whether the input's chunks can be copied.
        columns: how the input stores its columns.
        schema: the unified columns that the input has, serialized.
    """

    column: Ints
    same: NDArray[np.bool_]
    columns: Columns
    schema: bytes

    def present(self) -> Ints:
        """The table's columns that the input has."""
        return np.flatnonzero(self.column >= 0)


@dataclass(slots=True)
class _Rows:
    """What becomes of one input: its row groups in both files."""

    match: _Match
    stay: list[Block] = field(default_factory=list)
    leave: list[Block] = field(default_factory=list)


@dataclass(slots=True)
class _Job:
    """A task, and where its results belong.

    Attributes:
        input: number of the input.
        columns: the table's columns that it makes.
        blocks: the row groups of the rows that stay and of those that leave; None if not there.
    """

    task: Task
    input: int
    columns: Ints
    blocks: tuple[Block | None, Block | None]


class _Merge:
    """A merge at work: all is planned, then rewritten, then composed."""

    def __init__(
        self, unified: pa.Schema, constants: Mapping[str, str], store: Store, staging: str
    ) -> None:
        names = [pa.field(name, pa.string()) for name in constants]
        self.unified = unified
        self.constants = constants
        self.store = store
        self.staging = staging
        self.table = Target(pa.schema([*unified, *names]))
        self.rows: list[_Rows] = []
        self.jobs: list[_Job] = []
        self._matches: dict[tuple[object, ...], _Match] = {}
        self._fills: dict[tuple[bytes, int], Source] = {}

    @cached_property
    def removed(self) -> Target:
        """The file of removed rows; most merges need none."""
        return Target(pa.schema([*self.unified, *removed.fields(self.unified.names)]))

    def add_fresh(self, number: int, item: Fresh) -> None:
        """Plan an input that is read from its source."""
        match = self._match(item.footer.schema, item.footer.columns, recode=item.footer.recode)
        rows = _Rows(match)
        leaving = Leaving.of(item.removals, item.footer.rows)
        first = 0
        for group in item.footer.groups:
            gone = leaving.between(first, first + group.rows)
            part = Part(item.store, item.key, match.columns, group)
            source = Source((item.store, item.key), match.columns, group)
            stay = leave = None
            if len(gone.rows) < group.rows:
                stay = self._stay(match, source, group.rows - len(gone.rows))
                rows.stay.append(stay)
            if len(gone.rows):
                leave = self._leave(match, source, gone.columns(item.site, item.name))
                rows.leave.append(leave)
            copied = match.same if stay is None or leave is None else False
            anew = np.flatnonzero((match.column >= 0) & ~copied)
            self._plan(number, item.footer.schema, part, match.column[anew] ... )
            first += group.rows
        self.rows.append(rows)

    def add_kept(self, item: Kept) -> None:
        """Plan an input that is copied from an earlier table."""
        placed = item.placed
        schema = pa.ipc.read_schema(pa.BufferReader(placed.schema))
        columns = Columns(self.table.columns[self.unified.get_field_index(n)] for n in schema.names)
        match = ...
        rows = _Rows(match)
        for group in placed.groups:
            source = Source((item.store, item.table), match.columns, group)
            rows.stay.append(self._stay(match, source, group.rows))
        ends = np.cumsum([group.rows for group in placed.removed])
        leaving = Leaving.of(item.removals, ...)
        for group, end in zip(placed.removed, ends):
            source = Source((item.store, item.removed), match.columns, group)
            gone = leaving.some(slice(end - group.rows, end))
            rows.leave.append(self._leave(match, source, gone.columns(item.site, item.name)))
