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

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from catchment.core.errors import CatchmentError, Invalid, NotFound
from catchment.core.progress import Event, Progress, silent
from catchment.core.store import Composed, Store
from catchment.tables import fill
from catchment.tables.blocks import Block, Source, Target
from catchment.tables.decode import Part
from catchment.tables.footer import Columns, Group
from catchment.tables.match import Match, Matcher
from catchment.tables.model import Removal
from catchment.tables.parquet import Footer
from catchment.tables.placed import ENGINE, Placed
from catchment.tables.removed import Leaving, removed_fields
from catchment.tables.rewrite import Task, rewrite, write
from catchment.tables.unify import Unified

__all__ = ["ENGINE", "Fresh", "InputFailed", "Kept", "Merged", "Placed", "merge_table"]


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

    The removed rows have the table's columns but the constants, and behind them those of
    :func:`.removed.removed_fields`.

    Args:
        inputs: in the order that their rows shall have.
        unified: the schema.
        constants: name and value of the columns that the run writes, behind all others.
        store: of everything that is written.
        table: key of the table; must not be taken.
        removed: key of the file of removed rows; written only if there are any.
        staging: prefix, ending in ``/``, of objects that the caller deletes afterwards.
        executor: runs the tasks that decode; they are small and can be pickled. What is done is
            composed while others are at work.
        progress: told of each task.

    Raises:
        InputFailed: an input cannot be read, or has values that its unified type cannot hold.
        Invalid: kind ``no-columns``; nothing was written.
        Corrupt: an input does not fit what is said of it.
    """
    if not len(unified.schema) + len(constants):
        raise Invalid("expected a table with columns, got none", kind="no-columns")
    merge = _Merge(unified.schema, constants, store, staging, executor)
    with merge.rewriting(progress):
        for item in inputs:
            if isinstance(item, Fresh):
                merge.add_fresh(item)
            else:
                merge.add_kept(item)
        return merge.compose(table, removed)


class _Job(NamedTuple):
    """A task, and the columns of two row groups that it makes."""

    task: Task
    columns: list[int]
    stay: Block | None
    leave: Block | None


@dataclass(slots=True)
class _Rows:
    """The row groups of one input, of the rows that stay and of those that leave.

    Attributes:
        vouched: what must be done before its bytes may be composed, besides its jobs.
        jobs: what makes columns of its row groups.
    """

    match: Match
    vouched: Future[str] | None = None
    jobs: list[_Job] = field(default_factory=list)
    stay: list[Block] = field(default_factory=list)
    leave: list[Block] = field(default_factory=list)


class _Merge:
    """A merge at work: all is planned, rewritten meanwhile, and composed as it is done."""

    def __init__(
        self,
        unified: pa.Schema,
        constants: Mapping[str, str],
        store: Store,
        staging: str,
        executor: Executor,
    ) -> None:
        self.unified = unified
        self.constants = constants
        self.store = store
        self.staging = staging
        self.executor = executor
        names = [pa.field(name, pa.string()) for name in constants]
        self.table = Target(pa.schema([*unified, *names]))
        self.rows: list[_Rows] = []
        self._futures: deque[Future[tuple[Group | None, Group | None]]] = deque()  # of the jobs
        self._tasks = 0
        self._progress: Progress = silent
        self._matcher = Matcher(unified, self.table.columns)
        self._filled: dict[tuple[bytes, int], Source | None] = {}

    @cached_property
    def removed(self) -> Target:
        """The file of removed rows; most merges need none."""
        return Target(pa.schema([*self.unified, *removed_fields(self.unified.names)]))

    def add_fresh(self, item: Fresh) -> None:
        """Plan an input that is read from its source, and begin to rewrite it."""
        footer = item.footer
        match = self._matcher.fresh(footer)
        rows = _Rows(match, item.vouched)
        leaving = Leaving.of(item.removals, footer.rows)
        first = 0
        for group in footer.groups:
            gone = leaving.between(first, first + group.rows)
            source = Source((item.store, item.key), match.columns, group)
            stay = leave = None
            if len(gone.rows) < group.rows:
                stay = self._stay(match, source, group.rows - len(gone.rows))
                rows.stay.append(stay)
            if len(gone.rows):
                leave = self._leave(match, source, item, gone)
                rows.leave.append(leave)
            copied = match.same if stay is None or leave is None else np.zeros_like(match.same)
            anew = np.flatnonzero((match.column >= 0) & ~copied).tolist()
            part = Part(item.store, item.key, match.columns, group)
            for chosen, batch in part.batches(match.column[anew].tolist()):
                columns, anew = anew[: len(chosen)], anew[len(chosen) :]
                name = f"{self.staging}{self._tasks:06d}"
                task = Task(
                    part=batch,
                    have=pa.schema([footer.schema.field(column) for column in chosen]),
                    want=pa.schema([self.unified.field(column) for column in columns]),
                    same=tuple(match.same[columns].tolist()),
                    removed=gone.rows - first,
                    staging=self.store,
                    stay=f"{name}.stay" if stay else None,
                    leave=f"{name}.leave" if leave else None,
                )
                rows.jobs.append(_Job(task, columns, stay, leave))
                self._futures.append(self.executor.submit(rewrite, task))
                self._tasks += 1
            first += group.rows
        self.rows.append(rows)

    def add_kept(self, item: Kept) -> None:
        """Plan an input that is copied from an earlier table."""
        match = self._matcher.kept(item.placed.schema)
        rows = _Rows(match)
        for group in item.placed.groups:
            source = Source((item.store, item.table), match.columns, group)
            rows.stay.append(self._stay(match, source, group.rows))
        went = sum(group.rows for group in item.placed.removed)
        total = sum(group.rows for group in item.placed.groups) + went
        leaving = Leaving.of(item.removals, total, expected=went)
        for group in item.placed.removed:
            gone, leaving = leaving.some(slice(group.rows)), leaving.some(slice(group.rows, None))
            source = Source((item.store, item.removed or ""), match.columns, group)
            rows.leave.append(self._leave(match, source, item, gone))
        self.rows.append(rows)

    @contextmanager
    def rewriting(self, progress: Progress) -> Iterator[None]:
        """Within: tasks are at work, and :meth:`_done` waits for those of each input."""
        self._progress = progress
        try:
            yield
        except BaseException as error:
            running = [future for future in self._futures if not future.cancel()]
            if isinstance(error, CatchmentError):
                wait(running)  # or they write after the caller has cleaned up
            raise
        self._tell("done")

    def _tell(self, state: Literal["start", "step", "done"]) -> None:
        done = self._tasks - len(self._futures)
        self._progress(Event("tables: rewrite columns", state, done, self._tasks, "parts"))

    def _done(self) -> Iterator[Block]:
        """The row groups of the table, each once it may be composed; those that leave, too."""
        for number, rows in enumerate(self.rows):
            try:
                for job in rows.jobs:
                    self._put(job, self._futures[0].result())
                    self._futures.popleft()
                    self._tell("step")
                if rows.vouched is not None:
                    rows.vouched.result()
            except (Invalid, NotFound) as error:
                raise InputFailed(number, error) from None
            yield from rows.stay

    def _put(self, job: _Job, groups: tuple[Group | None, Group | None]) -> None:
        """Let the row groups have the columns that a job has made."""
        keys = (job.task.stay, job.task.leave)
        for block, key, group in zip((job.stay, job.leave), keys, groups, strict=True):
            if block and key and group:
                columns = Columns(self.table.columns[column] for column in job.columns)
                block.put(Source((self.store, key), columns, group), job.columns)

    def compose(self, table: str, removed: str) -> Merged:
        """Write both files."""
        self._tell("start")
        composed, groups = self.table.compose(self.store, table, self._done())
        leave = [block for rows in self.rows for block in rows.leave]
        gone: Composed | None = None
        gone_groups: list[Group] = []
        if leave:
            gone, gone_groups = self.removed.compose(self.store, removed, leave)
        left, gone_left = iter(groups), iter(gone_groups)
        placed = []
        for rows in self.rows:
            present = rows.match.present()
            kept = [self.table.columns.choose(g, present) for g in islice(left, len(rows.stay))]
            went = [
                self.removed.columns.choose(g, present) for g in islice(gone_left, len(rows.leave))
            ]
            placed.append(Placed(rows.match.schema, tuple(kept), tuple(went)))
        return Merged(composed, gone, sum(group.rows for group in groups), tuple(placed))

    def _stay(self, match: Match, source: Source, rows: int) -> Block:
        """A row group of the table; nulls and constants are made once for all alike."""
        key = (match.schema, rows)
        if key not in self._filled:
            values = [fill.constant(value, rows) for value in self.constants.values()]
            self._filled[key] = self._fill(self.table, match, values, rows)
        return _block(match, source, self._filled[key], rows)

    def _leave(self, match: Match, source: Source, item: Fresh | Kept, gone: Leaving) -> Block:
        """A row group of the removed rows."""
        rows = len(gone.rows)
        filled = self._fill(self.removed, match, gone.columns(item.site, item.name), rows)
        return _block(match, source, filled, rows)

    def _fill(
        self, target: Target, match: Match, values: Sequence[pa.ChunkedArray | pa.Array], rows: int
    ) -> Source | None:
        """Chunks for the columns that the input lacks, and behind them the values."""
        numbers = np.flatnonzero(match.column < 0).tolist()
        columns = [fill.nulls(self.unified.field(number).type, rows) for number in numbers]
        numbers += range(len(self.unified), len(target.schema))
        columns += values
        if not numbers:
            return None
        fields = [
            target.schema.field(number).with_type(column.type)
            for number, column in zip(numbers, columns, strict=True)
        ]
        data, group = write(pa.Table.from_arrays(columns, schema=pa.schema(fields)))
        return Source(bytes(data), Columns(target.columns[number] for number in numbers), group)


def _block(match: Match, source: Source, filled: Source | None, rows: int) -> Block:
    """A row group with the columns that the input has, and the others from what is filled."""
    own = len(filled.columns) - int((match.column < 0).sum()) if filled else 0
    column = np.concatenate([match.column, np.full(own, -1)])
    lacks = column < 0
    column[lacks] = np.arange(lacks.sum())
    return Block(rows, [source, *([filled] if filled else [])], lacks.astype(np.int64), column)
