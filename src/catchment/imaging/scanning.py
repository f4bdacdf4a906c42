"""Many files are read in child processes; one that kills its reader hurts itself only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from itertools import batched

from catchment.core.errors import Invalid

CHUNK = 64  # files of a task
WINDOW = 8  # tasks under way or waiting

# What a file did to its reader; other kinds are about the machine or the settings.
KILLERS = frozenset({"reader-died", "reader-memory", "reader-cpu", "reader-wall", "unreadable"})


def in_children[Item, Result](
    executor: Executor,
    work: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    *,
    chunk: int = CHUNK,
) -> Iterator[Result | tuple[Item, str]]:
    """The results of ``work`` over chunks of the items, in order.

    A chunk that kills its reader is read again item by item; the item that does it again is given
    with the kind of its error instead of a result.
    """
    pending: deque[tuple[Sequence[Item], Future[Result]]] = deque()
    chunks = iter(list(batched(items, chunk)))
    try:
        while True:
            while len(pending) < WINDOW and (one := next(chunks, None)) is not None:
                pending.append((one, executor.submit(work, one)))
            if not pending:
                return
            these, future = pending.popleft()
            try:
                yield future.result()
                continue
            except Invalid as error:
                if error.kind not in KILLERS:
                    raise
                kind = error.kind
            if len(these) == 1:
                yield these[0], kind
            else:
                yield from in_children(executor, work, these, chunk=1)
    finally:
        for _, future in pending:
            future.cancel()
