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

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from queue import SimpleQueue
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from catchment.core.errors import CatchmentError, Invalid, NotFound
from catchment.core.parquet.footer import Columns, Group
from catchment.core.progress import Event, Progress, silent
from catchment.core.store import Composed, Store
from catchment.tables import fill
from catchment.tables.blocks import Block, Source, Target, stored
from catchment.tables.decode import Part
from catchment.tables.inputs import Fresh, Input, InputFailed, Kept, Merged
from catchment.tables.match import Match, Matcher
from catchment.tables.placed import ENGINE, Placed
from catchment.tables.removed import Leaving, removed_fields
from catchment.tables.rewrite import Task, rewrite, write_groups
from catchment.tables.unify import Unified

Beside = Callable[[Sequence[Placed], Future[Composed]], object]

__all__ = ["ENGINE", "Fresh", "InputFailed", "Kept", "Merged", "Placed", "merge_table"]


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
    beside: Beside | None = None,
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
        beside: called once it is known where all inputs stand (``Merged.placed``), in a thread,
            while the table becomes durable; nothing may get a name below its folder before the
            table has its own (the future; it fails where the table does).

    Raises:
        InputFailed: an input cannot be read, or has values that its unified type cannot hold.
        Invalid: kind ``no-columns``; nothing was written.
        Corrupt: an input does not fit what is said of it.
    """
    if not len(unified.schema) + len(constants):
        raise Invalid("expected a table with columns, got none", kind="no-columns")
    merge = _Merge(inputs, unified.schema, constants, store, staging)
    with merge.rewriting(executor, progress):
        return merge.compose(table, removed, beside)


class _Gap(NamedTuple):
    """A row group that lacks columns.

    Attributes:
        values: of the columns behind the unified ones.
    """

    block: Block
    match: Match
    values: Sequence[pa.ChunkedArray | pa.Array]


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
    """A merge at work: all inputs are composed, while those that need it are rewritten."""

    def __init__(
        self,
        inputs: Sequence[Input],
        unified: pa.Schema,
        constants: Mapping[str, str],
        store: Store,
        staging: str,
    ) -> None:
        self.inputs = inputs
        self.unified = unified
        self.constants = constants
        self.store = store
        self.staging = staging
        self._columns = stored(unified)
        names = [pa.field(name, pa.string()) for name in constants]
        self.table = self._target(names)
        self.rows: dict[int, _Rows] = {}  # by the place of the input
        self._futures: deque[Future[tuple[Group | None, Group | None]]] = deque()  # of the jobs
        self._tasks = 0
        self._progress: Progress = silent
        self._matcher = Matcher(unified, self.table.columns)
        # Of the rows that stay and of those that leave, by the schemas of inputs.
        self._gaps: tuple[defaultdict[bytes, list[_Gap]], ...] = (
            defaultdict(list),
            defaultdict(list),
        )

    @cached_property
    def removed(self) -> Target:
        """The file of removed rows; most merges need none."""
        return self._target(removed_fields(self.unified.names))

    def _target(self, more: Sequence[pa.Field]) -> Target:
        """A file of the unified columns and some more."""
        columns = Columns((*self._columns, *stored(pa.schema(more))))
        return Target(pa.schema([*self.unified, *more]), columns)

    def _fresh(self, item: Fresh) -> _Rows:
        """Plan an input that is read from its source."""
        footer, schema = item.footer, item.footer.schema
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
                    have=pa.schema([schema.field(column) for column in chosen]),
                    want=pa.schema([self.unified.field(column) for column in columns]),
                    same=tuple(match.same[columns].tolist()),
                    removed=gone.rows - first,
                    staging=self.store,
                    stay=f"{name}.stay" if stay else None,
                    leave=f"{name}.leave" if leave else None,
                )
                rows.jobs.append(_Job(task, columns, stay, leave))
                self._tasks += 1
            first += group.rows
        return rows

    def _kept(self, item: Kept) -> _Rows:
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
        return rows

    @contextmanager
    def rewriting(self, executor: Executor, progress: Progress) -> Iterator[None]:
        """Within: all tasks are at work, and :meth:`_done` waits for those of each input."""
        self._progress = progress
        try:
            for number, item in enumerate(self.inputs):
                if isinstance(item, Fresh):
                    self.rows[number] = self._fresh(item)
                    jobs = self.rows[number].jobs
                    self._futures.extend(executor.submit(rewrite, job.task) for job in jobs)
            for number, item in enumerate(self.inputs):
                if isinstance(item, Kept):
                    self.rows[number] = self._kept(item)
            self._fill(leaves=False)
            self._tell("start")
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

    def _done(self) -> Iterator[_Rows]:
        """The inputs in order, each once its row groups may be composed."""
        for number in range(len(self.inputs)):
            rows = self.rows[number]
            try:
                for job in rows.jobs:
                    self._put(job, self._futures[0].result())
                    self._futures.popleft()
                    self._tell("step")
                if rows.vouched is not None:
                    rows.vouched.result()
            except (Invalid, NotFound) as error:
                raise InputFailed(number, error) from None
            yield rows

    def _put(self, job: _Job, groups: tuple[Group | None, Group | None]) -> None:
        """Let the row groups have the columns that a job has made."""
        keys = (job.task.stay, job.task.leave)
        for block, key, group in zip((job.stay, job.leave), keys, groups, strict=True):
            if block and key and group:
                columns = Columns(self.table.columns[column] for column in job.columns)
                block.put(Source((self.store, key), columns, group), job.columns)

    def compose(self, table: str, removed: str, beside: Beside | None) -> Merged:
        """Write both files at once; an input that stands in them is noted while others are copied.

        The table is the first to get its name: who wrote it has the folder.
        """
        groups: list[Group] = []
        gone_groups: list[Group] = []
        placed: list[Placed] = []
        noted: list[Future[object]] = []
        stands: SimpleQueue[_Rows | None] = SimpleQueue()  # inputs that stand in the table
        named: Future[Composed] = Future()

        def staying() -> Iterator[Block]:
            for rows in self._done():
                yield from rows.stay
                stands.put(rows)
            stands.put(None)

        def leaving() -> Iterator[Block]:
            self._fill(leaves=True)
            left, gone_left = iter(groups), iter(gone_groups)
            while (rows := stands.get()) is not None:
                yield from rows.leave
                kept = islice(left, len(rows.stay))
                placed.append(self._placed(rows, kept, islice(gone_left, len(rows.leave))))
                placed[-1].dumps()  # while others are copied: nothing is left to do at the end
            if beside is not None and len(placed) == len(self.inputs):
                noted.append(threads.submit(beside, placed, named))
            named.result()

        with ThreadPoolExecutor(2) as threads:
            left: Future[Composed] | Future[None]
            if any(rows.leave for rows in self.rows.values()):
                compose = self.removed.compose
                left = threads.submit(compose, self.store, removed, leaving(), gone_groups)
            else:
                left = threads.submit(lambda: deque(leaving(), 0).clear())
            try:
                composed = self.table.compose(self.store, table, staying(), groups)
            except BaseException as error:
                named.set_exception(error)
                stands.put(None)
                raise
            named.set_result(composed)
            gone = left.result()
            for future in noted:
                future.result()
            return Merged(composed, gone, sum(g.rows for g in groups), tuple(placed))

    def _placed(self, rows: _Rows, groups: Iterable[Group], gone_groups: Iterable[Group]) -> Placed:
        """Where an input stands in both files."""
        present = rows.match.present()
        kept = tuple(self.table.columns.choose(group, present) for group in groups)
        went = tuple(self.removed.columns.choose(group, present) for group in gone_groups)
        return Placed(rows.match.schema, kept, went)

    def _stay(self, match: Match, source: Source, rows: int) -> Block:
        """A row group of the table."""
        values = [fill.constant(value, rows) for value in self.constants.values()]
        return self._block(match, source, rows, values, leaves=False)

    def _leave(self, match: Match, source: Source, item: Fresh | Kept, gone: Leaving) -> Block:
        """A row group of the removed rows."""
        values = gone.columns(item.site, item.name)
        return self._block(match, source, len(gone.rows), values, leaves=True)

    def _block(
        self,
        match: Match,
        source: Source,
        rows: int,
        values: Sequence[pa.ChunkedArray | pa.Array],
        *,
        leaves: bool,
    ) -> Block:
        """A row group with the columns that the input has; the others are filled in later."""
        column = np.concatenate([match.column, np.full(len(values), -1)])
        lacks = column < 0
        column[lacks] = np.arange(lacks.sum())
        block = Block(rows, [source], lacks.astype(np.int64), column)
        if lacks.any():
            block.sources.append(source)  # in place of one that is to come
            self._gaps[leaves][match.schema].append(_Gap(block, match, values))
        return block

    def _fill(self, *, leaves: bool) -> None:
        """Chunks for the columns that inputs lack, and behind them the values.

        Those of inputs alike are made in one go, and those of equal ones once. Jobs may put theirs
        into the same row groups meanwhile.
        """
        for gaps in self._gaps[leaves].values():
            target = self.removed if leaves else self.table
            numbers: list[int] = np.flatnonzero(gaps[0].match.column < 0).tolist()
            kinds = [self.unified.field(number).type for number in numbers]
            numbers += range(len(self.unified), len(target.schema))
            columns = Columns(target.columns[number] for number in numbers)
            fields = [target.schema.field(number) for number in numbers]
            alike: dict[object, list[_Gap]] = {}
            for gap in gaps:
                alike.setdefault(id(gap) if leaves else gap.block.rows, []).append(gap)
            tables = []
            for gap, *_ in alike.values():
                arrays = [*(fill.nulls(kind, gap.block.rows) for kind in kinds), *gap.values]
                schema = [f.with_type(a.type) for f, a in zip(fields, arrays, strict=True)]
                tables.append(pa.Table.from_arrays(arrays, schema=pa.schema(schema)))
            buffer, groups = write_groups(tables)
            data = buffer.to_pybytes()
            for group, some in zip(groups, alike.values(), strict=True):
                for gap in some:
                    gap.block.sources[1] = Source(data, columns, group)
        self._gaps[leaves].clear()
