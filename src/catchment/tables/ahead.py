"""A table that is begun before its plan is known, as far as it will be like the last one.

After a small change most of a table is copied from the last snapshot. While one core reads what is
new and decides, another copies what stands before the first change. What was foreseen is then
compared with the plan, segment by segment: a table that was foreseen wrongly is begun anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import chain, islice
from threading import Event
from typing import Self

from catchment.core.store import Composed, Segment, Store
from catchment.tables import layout
from catchment.tables.check import Memory, same_place
from catchment.tables.composition import Entry
from catchment.tables.inputs import Kept
from catchment.tables.merge import foresee
from catchment.tables.placed import Placed
from catchment.tables.plan import Listed

LEAST = 32 << 20  # bytes of files that still stand; below, it is not worth while


class Ahead:
    """An object that is composed of segments foreseen, then of what is really to be there.

    Args:
        store: where it shall be.
        key: of it.
        foreseen: the segments that it probably begins with; called in another thread.
    """

    def __init__(self, store: Store, key: str, foreseen: Callable[[], Iterable[Segment]]) -> None:
        self._store = store
        self._key = key
        self._given: list[Segment] = []
        self._closed = False
        self._known = Event()  # what is to be there
        self._stands = Event()  # all that was given
        self._rest: Future[Iterator[Segment]] = Future()
        self._thread = ThreadPoolExecutor(1, "ahead")
        segments = self._segments(foreseen)
        self._composed = self._thread.submit(store.compose, key, segments, digest=True)
        self._composed.add_done_callback(lambda _: self._stands.set())

    def _segments(self, foreseen: Callable[[], Iterable[Segment]]) -> Iterator[Segment]:
        for segment in foreseen():
            if self._known.is_set():
                break
            self._given.append(segment)
            yield segment
        self._stands.set()
        for segment in self._rest.result():
            if self._closed:
                raise CancelledError
            yield segment

    def complete(self, segments: Iterator[Segment]) -> Composed:
        """The object made of these segments; those that it begins with may be written already."""
        self._known.set()
        self._stands.wait()
        seen: list[Segment] = []
        if not self._composed.done() and self._begins(segments, seen):
            self._rest.set_result(segments)
            return self._composed.result()
        self.close()
        return self._store.compose(self._key, chain(seen, segments), digest=True)

    def _begins(self, segments: Iterator[Segment], seen: list[Segment]) -> bool:
        """Whether the segments begin with what was given; those that were looked at are noted."""
        for given in self._given:
            seen += islice(segments, 1)
            if seen[-1:] != [given]:
                return False
        return True

    def close(self) -> None:
        """Give up what is not complete; nothing of it is left."""
        self._closed = True
        self._known.set()
        self._rest.cancel()
        self._thread.shutdown()


class Foresight:
    """Begins the largest table of a run, if the last one began with files that still stand.

    Args:
        store: of the tables.
        prefix: of the snapshot that the run will make.
        constants: name and value of the columns that the run writes.
    """

    def __init__(self, store: Store, prefix: str, constants: Mapping[str, str]) -> None:
        self._store = store
        self._prefix = prefix
        self._constants = constants
        self._begun: dict[str, Ahead] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for ahead in self._begun.values():
            ahead.close()

    def take(self, table: str) -> Ahead | None:
        """What was begun of a table; the caller completes or closes it. None the next time."""
        return self._begun.pop(table, None)

    def begin(self, memory: Memory, files: Iterable[Listed]) -> None:
        """Begin, now that it is known which files there are."""
        if memory.snapshot is None or not memory.tables:
            return
        listed = list(files)
        sizes = {
            item["table"]: item["size"]
            for item in memory.snapshot.provenance["objects"]
            if item["role"] == "table"
        }
        table = max(memory.tables, key=lambda name: sizes.get(name, 0))
        composed = memory.tables[table]
        mine = [one for one in listed if one.table == table]
        entries: list[Entry] = []
        for entry, one in zip(composed.entries, mine, strict=False):
            if not same_place(entry, one):
                break
            entries.append(entry)
        key = layout.result_key(memory.snapshot.location, table)
        unchanged = len(entries) == len(composed.entries) == len(mine)
        if unchanged or self._store.path(key) is None:
            return
        if sum(entry.size for entry in entries) < LEAST:
            return

        def foreseen() -> Iterator[Segment]:
            inputs = [
                Kept(e.center, e.name, self._store, key, None, Placed.loads(e.placed))
                for e in entries
            ]
            return foresee(inputs, composed.schema, self._constants, store=self._store)

        target = layout.result_key(self._prefix, table)
        self._begun[table] = Ahead(self._store, target, foreseen)
