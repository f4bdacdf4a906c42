"""A stacked store at work: it stages sessions, commits them one after another, withdraws them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from catchment.arrays import chunks as chunking
from catchment.arrays import document as documenting
from catchment.arrays import journal, layout, plan, read, rows
from catchment.arrays.chunks import Written
from catchment.arrays.decide import Asked, planned
from catchment.arrays.document import Document
from catchment.arrays.journal import Claim, Holder
from catchment.arrays.known import Known
from catchment.arrays.model import Entry, Outcome, Row, Status, Step
from catchment.arrays.prepare import Prepared
from catchment.core.errors import Conflict, Corrupt, NotFound
from catchment.core.ledger import Lease, Ledger
from catchment.core.progress import Progress, silent
from catchment.core.store import Store

if TYPE_CHECKING:
    import xarray as xr

    from catchment.arrays.union import Part
    from catchment.arrays.verify import Verdict

LEASE = timedelta(seconds=60)
PATIENCE = 120.0  # seconds to wait for another writer
ATTEMPTS = 20  # commits lost to writers that our ledger does not know
FEW = 8  # commits that are read one by one: a look at all rows costs about as much


@dataclass(frozen=True, slots=True)
class Staged:
    """A session whose chunks are written, and which no reader sees yet.

    Attributes:
        earlier: the slot that it takes the place of.
        generation: of the store's chunks, as the writer saw it.
    """

    claim: Claim
    row: Row
    ragged: Mapping[str, int]
    written: Written
    earlier: int | None = None
    generation: int = 0


class Stack:
    """One store of sessions: a Zarr group that only grows.

    Args:
        store: the store, opened at the group itself.
        ledger: holds the lease of writers; None: commits alone keep writers apart, which is as
            safe, and slower where many write.
        name: of the lease's aggregate.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger | None = None,
        name: str = "",
        *,
        lease: timedelta = LEASE,
        patience: float = PATIENCE,
        progress: Progress = silent,
    ) -> None:
        self.store = store
        self.progress = progress
        self._ledger = ledger
        self._name = name or f"arrays@{store.url}"
        self._ttl = lease
        self.patience = patience
        self._held: Lease | None = None
        self._known = Known()

    @property
    def queues(self) -> bool:
        """Writers that share our ledger wait for each other, and nobody waits for us."""
        return self._ledger is not None and self._held is None

    # Looking

    def published(self) -> Document | None:
        """The document that readers see; None where there is no store."""
        try:
            return Document.parse(self.store.read(layout.ROOT))
        except NotFound:
            return None

    def look(self) -> tuple[Document | None, list[dict[str, Any]]]:
        """The document of the last commit, and the records that the root does not show yet."""
        document = self.published()
        behind = list(journal.since(self.store, document.commit if document else -1))
        for record in behind:
            document = journal.after(document, record)
        return document, behind

    def known(self, document: Document) -> Known:
        """What stands in every slot of a published document.

        It is told by the commits since we last looked, if they are few, else by the rows; and by
        all commits where the rows are not right.
        """
        if self._known.commit != document.commit and not self._follow(document):
            try:
                entries = rows.read(self.store, document)
            except Corrupt:
                entries = self.replay(document.commit)
            self._known = Known(document.commit, entries)
        return self._known

    def _follow(self, document: Document) -> bool:
        """Whether the commits since we last looked told all."""
        behind = document.commit - self._known.commit
        if not 0 < behind <= FEW:
            return False
        with suppress(Corrupt):
            for record in islice(journal.since(self.store, self._known.commit), behind):
                self._known.apply(record)
        return self._known.commit == document.commit

    def part(self) -> Part:
        """What readers see now. NotFound (kind ``no-store``) where there is no store."""
        from catchment.arrays.union import Part

        return Part(self.store, *read.entries(self.store))

    def dataset(self, *, tombstones: bool = False) -> xr.Dataset:
        """The sessions, lazily, as they are now."""
        return read.dataset(self.store, tombstones=tombstones)

    def verify(self, *, repair: bool = False, quick: bool = False) -> Verdict:
        """Compare root, rows and sessions with the commits."""
        from catchment.arrays.verify import verify

        return verify(self, repair=repair, quick=quick)

    def withdraw(self, session: str) -> tuple[Entry, int]:
        """Delete a session's chunks and leave a tombstone; see :func:`withdraw`."""
        from catchment.arrays.flat import Flat
        from catchment.arrays.foreign import kind_of

        if kind_of(self.store) == "group":
            return Flat(self).withdraw(session)
        return withdraw(self, session)

    # Writing

    @contextmanager
    def writing(self) -> Iterator[Self]:
        """Hold the store's lease over many writes; waits for another writer's end."""
        with ExitStack() as stack:
            if self._ledger is not None and self._held is None:
                self._held = self._acquire(stack, self._ledger)
                stack.callback(setattr, self, "_held", None)
            yield self

    def _acquire(self, stack: ExitStack, ledger: Ledger) -> Lease:
        end = time.monotonic() + self.patience
        while True:
            try:
                return stack.enter_context(ledger.holding(self._name, ttl=self._ttl))
            except Conflict as error:
                if error.kind != "lease-held" or time.monotonic() > end:
                    raise
            time.sleep(random.uniform(0.02, 0.1))  # noqa: S311 - only spreads writers out

    def append(self, asked: Asked) -> Outcome:
        """Append the sessions: all of them are visible afterwards, or none.

        Chunks are written while others write theirs; commits go through the lease, in the order
        of slots.

        Raises:
            Conflict: kind ``session-differs``; ``lease-held`` while another writer is at work;
                ``commits-lost`` where writers that our ledger does not know are always first.
            Invalid: kind ``chunks-fixed`` or ``bad-chunks``.
        """
        from catchment.arrays.appending import append

        return append(self, asked)

    def make(self, sample: Prepared, chunks: Mapping[str, int] | None = None) -> Document:
        """Make a store for sessions like this one; or the one that another made first."""
        document, objects = documenting.first(sample, chunks)
        record = {"kind": journal.CREATE, "document": document.root, "objects": objects,
                  "size": 0, "ragged": {}}  # fmt: skip
        journal.commit(self.store, 0, record)
        found = self.heal()
        assert found is not None  # noqa: S101 - it stands there now
        return found

    def stage(
        self,
        document: Document,
        prepared: Prepared,
        holder: Holder,
        *,
        avoid: frozenset[int] = frozenset(),
        earlier: int | None = None,
    ) -> Staged:
        """Claim a slot and write all chunks of a session there; nobody sees them yet."""
        claim = journal.take(self.store, document, prepared.row, holder, avoid=avoid)
        written = chunking.write(self.store, document, claim, prepared, self.progress)
        return Staged(
            claim, prepared.row, prepared.ragged_sizes, written, earlier, document.generation
        )

    def commit(self, document: Document, staged: Sequence[Staged]) -> Document | None:
        """Make staged sessions visible, in one step; None where another writer was first.

        Slots below them that nobody committed are given up: their writers died, or will find out.
        """
        if any(s.claim.slot < document.size or s.generation != document.generation for s in staged):
            return None
        ours = {s.claim.slot: s for s in staged}
        size = max(ours) + 1
        tombstones = {
            slot: Status.ABANDONED for slot in range(document.size, size) if slot not in ours
        } | {s.earlier: Status.REPLACED for s in staged if s.earlier is not None}
        ragged: dict[str, int] = {}
        for one in staged:
            for dim, length in one.ragged.items():
                ragged[dim] = max(length, ragged.get(dim, 0))
        record = {
            "kind": "append",
            "rows": {str(slot): s.row.to_json() for slot, s in sorted(ours.items())},
            "tombstones": {str(slot): int(status) for slot, status in sorted(tombstones.items())},
            "size": size,
            "ragged": ragged,
        }
        return self._record(document, record)

    def tombstone(self, document: Document, slots: Iterable[int], kind: str) -> Document | None:
        """Put tombstones where sessions were; None where another writer was first."""
        record = {
            "kind": kind,
            "tombstones": {str(slot): int(Status.WITHDRAWN) for slot in sorted(slots)},
            "size": document.size,
            "ragged": {},
        }
        return self._record(document, record)

    def rechunk(self, document: Document, rechunked: Mapping[str, Any]) -> Document | None:
        """Show the chunks of another generation; None where another writer was first."""
        record = {
            "kind": "rechunk",
            "rechunked": dict(rechunked),
            "tombstones": {},
            "size": document.size,
            "ragged": {},
        }
        return self._record(document, record)

    def heal(self) -> Document | None:
        """Show in the root what was committed and not shown; the document that readers now see."""
        document = self.published()
        for record in journal.since(self.store, document.commit if document else -1):
            document = self._show(document, record)
        return document

    def _record(self, document: Document, record: dict[str, Any]) -> Document | None:
        fence = self._held.fence if self._held else None
        shown = any(int(slot) < document.size for slot in record["tombstones"])
        if shown:  # rows that readers see change: all rows are written anew, under other keys
            record["family"] = (document.family + 1) % layout.FAMILIES
        if not journal.commit(self.store, document.commit + 1, {"fence": fence, **record}):
            return None
        record["number"] = document.commit + 1
        done = self._show(document, record)
        # A writer that slept since may have put an older root over ours, or we over a newer one.
        latest = done
        for later in journal.since(self.store, done.commit):
            latest = self._show(latest, later)
        return done

    def _show(self, document: Document | None, record: Mapping[str, Any]) -> Document:
        """Write what a commit record says into the arrays of rows, then into the root."""
        made = journal.after(document, record)
        if record["kind"] == journal.CREATE:
            for key, data in documenting.objects(record):
                self.store.put(key, data, mode="overwrite")
            return made
        assert document is not None  # noqa: S101 - after() looked
        known = self.known(document)
        changed = known.apply(record)
        with chunking.puts(self.store) as (put, delete):
            if record.get("family") is None:
                rows.write(put, made, known, changed)
            else:
                rows.write_all(put, delete, made, known.entries)
        self.store.put(layout.ROOT, made.dumps(), mode="overwrite")
        return made

    def restore(self) -> Document:
        """Write all rows and the root anew, from the records of all commits. Hold the lease."""
        document: Document | None = None
        for record in journal.since(self.store, -1):
            document = journal.after(document, record)
        if document is None:
            raise Corrupt(
                f"{self.store.url} has no commits", kind="store-contradicts",
                hint="restore the store from a backup",
            )  # fmt: skip
        entries = self.replay(document.commit)
        with chunking.puts(self.store) as (put, delete):
            rows.write_all(put, delete, document, entries)
        self.store.put(layout.ROOT, document.dumps(), mode="overwrite")
        self._known = Known(document.commit, entries)
        return document

    def replay(self, until: int) -> list[Entry]:
        """The rows after a commit, from the records of all commits up to it."""
        known = Known()
        for record in islice(journal.since(self.store, -1), until + 1):
            known.apply(record)
        return known.entries

    def planned(
        self, document: Document | None, asked: Asked
    ) -> tuple[Outcome, list[tuple[Prepared, Step]]]:
        """What an append comes to, and the sessions that it puts into the store."""
        present = {} if document is None else self.known(document).present
        return planned(self.store.url, document, present, asked)


def withdraw(stack: Stack, session: str) -> tuple[Entry, int]:
    """Delete a session's chunks and leave a tombstone; its entry, and how many chunks there were.

    NotFound (kind ``no-session``) if the store has no such session. Content that it had before a
    replacement is deleted too, and what a withdrawal left that was killed.
    """
    with stack.writing():
        for _ in range(ATTEMPTS):
            document = stack.heal()
            known = stack.known(document) if document else Known()
            entry = known.present.get(session)
            if entry is None or document is None:
                if (left := _left(stack, document, known.entries, session)) is not None:
                    return left
                raise plan.no_session(stack.store.url, session)
            gone = sorted({entry.slot, *_earlier(stack, session)})
            if (made := stack.tombstone(document, gone, "withdraw")) is not None:
                return entry, sum(chunking.clear(stack.store, made, slot) for slot in gone)
        raise Conflict(
            f"{stack.store.url}: other writers were first {ATTEMPTS} times", kind="commits-lost"
        )


def _left(
    stack: Stack, document: Document | None, entries: Sequence[Entry], session: str
) -> tuple[Entry, int] | None:
    """The tombstone of a session of which chunks were left, and how many; they are deleted."""
    if document is None:
        return None
    gone = [
        entries[slot]
        for slot in _earlier(stack, session)
        if entries[slot].status is Status.WITHDRAWN
    ]
    count = sum(chunking.clear(stack.store, document, entry.slot) for entry in gone)
    return (gone[-1], count) if count else None


def _earlier(stack: Stack, session: str) -> Iterator[int]:
    """Slots that the session had before it was replaced."""
    for record in journal.since(stack.store, -1):
        for slot, row in record.get("rows", {}).items():
            if row["session"] == session:
                yield int(slot)
