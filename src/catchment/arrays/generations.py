"""Other chunks for a store: every session is copied to new keys, then one commit shows them all.

Readers see the store with its former chunks or with the new ones, never a mixture. The former
chunks stay, for readers that have the store open, until somebody drops them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from catchment.arrays import chunks as chunking
from catchment.arrays import document as documenting
from catchment.arrays import journal, layout, read
from catchment.arrays.content import digest
from catchment.arrays.document import Document
from catchment.arrays.journal import Claim, Holder
from catchment.arrays.model import Entry, Status
from catchment.arrays.prepare import Prepared
from catchment.arrays.stack import ATTEMPTS, Stack
from catchment.arrays.verify import former
from catchment.core.errors import Conflict, Corrupt
from catchment.core.progress import Event


@dataclass(frozen=True, slots=True)
class Rechunked:
    """What a rechunk did, or with ``dry_run`` would do.

    Attributes:
        state: ``rechunked``, ``unchanged`` or ``planned``.
        before, chunks: sizes by dimension.
        written_bytes: of the new chunks, as stored.
        resumed: sessions that an earlier, interrupted rechunk had copied already.
        former_chunks: objects of the former chunks, which readers may still read.
    """

    store: str
    state: Literal["rechunked", "unchanged", "planned"]
    commit: int
    before: Mapping[str, int]
    chunks: Mapping[str, int]
    sessions: int = 0
    windows: int = 0
    written_bytes: int = 0
    resumed: int = 0
    former_chunks: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return asdict(self)


def rechunk(
    stack: Stack, chunks: Mapping[str, int], *, dry_run: bool = False, take_over: bool = False
) -> Rechunked:
    """Give a store other chunks. Memory holds a block of one session at a time.

    Interrupted, it goes on where it was when it is asked for again. Others may append meanwhile.

    Args:
        stack: the store.
        chunks: sizes by dimension; dimensions that are not named keep theirs.
        dry_run: say what would be done; write nothing.
        take_over: from a rechunk on another machine, which is known to be gone.

    Raises:
        Invalid: kind ``bad-chunks``.
        Conflict: kind ``rechunk-under-way``; ``former-chunks`` where those of the rechunk before
            were not dropped; ``commits-lost`` where another rechunk was first.
        Corrupt: a session is not what was appended: nothing changes.
    """
    document = stack.look()[0] if dry_run else stack.heal()
    if document is None or not document.commit:
        document = read.published(stack.store)  # raises: there is none
    chosen = documenting.chosen_chunks(document.schema, chunks)
    sizes = {**document.schema.sizes, **document.chunks}
    if all(sizes.get(dim) == size for dim, size in chosen.items()):
        return _told(stack, document, "unchanged", document.chunks)
    wanted = {**document.chunks, **chosen}
    if dry_run:
        return _told(stack, document, "planned", wanted)
    with journal.holding() as holder:
        return _Copy(stack, document, wanted, holder, take_over=take_over).carry_out()


def drop_former(stack: Stack, *, dry_run: bool = False) -> int:
    """Delete the chunks that a store had before it was rechunked; how many there were.

    Conflict (kind ``rechunk-under-way``) while it is being rechunked.
    """
    document = read.published(stack.store)
    following = document.generation + 1
    if next(iter(stack.store.list(layout.rechunk(following))), None) is not None:
        raise Conflict(
            f"{stack.store.url} is being rechunked, or was until it was interrupted",
            kind="rechunk-under-way",
            hint="let it end first: run the same catchment arrays rechunk again",
        )
    keys = list(former(stack, document))
    for key in keys if not dry_run else ():
        stack.store.delete(key)
    return len(keys)


def _told(
    stack: Stack, document: Document, state: Any, chunks: Mapping[str, int], **more: int
) -> Rechunked:
    entries = [e for e in stack.known(document).entries if e.status is Status.PRESENT]
    return Rechunked(
        stack.store.url, state, document.commit, document.chunks, dict(chunks), len(entries),
        sum(e.row.n_windows for e in entries), **more,
    )  # fmt: skip


class _Copy:
    """One rechunk at work."""

    def __init__(
        self,
        stack: Stack,
        document: Document,
        wanted: Mapping[str, int],
        holder: Holder,
        *,
        take_over: bool,
    ) -> None:
        self.stack = stack
        self.store = stack.store
        self.holder = holder
        self.first = document
        self.generation = document.generation + 1
        self.rechunked = {"generation": self.generation, "chunks": dict(wanted)}
        self.work = self._claim(take_over=take_over)
        self.done: set[int] = set()
        self.written = 0
        self.resumed = 0

    def carry_out(self) -> Rechunked:
        self._ready()
        self._copy(self._healed())  # others append meanwhile
        with self.stack.writing():
            for _ in range(ATTEMPTS):
                document = self._healed()
                present = self._copy(document)
                for slot in sorted(self.done - present):  # withdrawn since
                    chunking.clear_slot(self.store, document, slot, self.generation)
                made = self.stack.rechunk(document, self.rechunked)
                if made is not None:
                    told = _told(
                        self.stack, made, "rechunked", made.chunks, written_bytes=self.written,
                        resumed=self.resumed, former_chunks=len(list(former(self.stack, made))),
                    )  # fmt: skip
                    return Rechunked(**{**told.to_json(), "before": self.first.chunks})
        raise self._lost()

    def _claim(self, *, take_over: bool) -> int:
        """The number of the work that we do: our own, or that of a dead one who wanted the same."""
        earlier: dict[str, Any] | None = None
        attempt = 0
        while found := journal.read(self.store, layout.rechunk_plan(self.generation, attempt)):
            earlier, attempt = found, attempt + 1
        work = attempt
        if earlier is None:
            if next(former(self.stack, self.first), None) is not None:
                raise Conflict(
                    "the chunks of before the last rechunk are still there, for readers of then",
                    kind="former-chunks",
                    hint="when nobody reads them: "
                    f"catchment arrays rechunk {self.store.url} --drop-former",
                )
        else:
            if not (take_over or journal.is_dead(earlier, self.holder)):
                raise self._under_way(earlier)
            if earlier["rechunked"] == self.rechunked:
                work = earlier["work"]
        record = {"rechunked": self.rechunked, "holder": self.holder.to_json(), "work": work}
        try:
            self.store.put(
                layout.rechunk_plan(self.generation, attempt), json.dumps(record).encode()
            )
        except Conflict:
            raise self._under_way(record) from None
        return work

    def _ready(self) -> None:
        """Nothing of others stands where we write; what an earlier attempt did is known."""
        prefix = layout.rechunk_work(self.generation, self.work)
        marks = {stat.key[len(prefix) :].removesuffix(".json") for stat in self.store.list(prefix)}
        if "cleared" not in marks:
            for key in list(former(self.stack, self.first)):
                self.store.delete(key)
            self._mark("cleared")
        self.done = {int(mark) for mark in marks if mark.isdigit()}
        self.resumed = len(self.done)

    def _mark(self, what: int | str) -> None:
        key = f"{layout.rechunk_work(self.generation, self.work)}{what}.json"
        self.store.put(key, b"{}", mode="overwrite")

    def _healed(self) -> Document:
        document = self.stack.heal()
        if document is None or document.generation != self.generation - 1:
            raise self._lost()
        return document

    def _copy(self, document: Document) -> set[int]:
        """Copy every session that is not copied; the slots of all."""
        target = document.grown(
            commit=document.commit, size=document.size, ragged={}, rechunked=self.rechunked
        )
        entries = [e for e in self.stack.known(document).entries if e.status is Status.PRESENT]
        for number, entry in enumerate(entries):
            if entry.slot not in self.done:
                self._session(document, target, entry)
            self.stack.progress(Event("rechunk", "step", number + 1, len(entries), "sessions"))
        return {entry.slot for entry in entries}

    def _session(self, document: Document, target: Document, entry: Entry) -> None:
        variables = read.slot(self.store, document, entry)
        whole = Prepared(entry.row, document.schema, variables, {}, 0)
        claim = Claim(entry.slot, 0, resumed=True)
        self.written += chunking.write(self.store, target, claim, whole).stored
        copied = read.slot(self.store, target, entry)
        if digest(copied, entry.row.values)[0] != entry.row.content_hash:
            raise Corrupt(
                f"slot {entry.slot} does not hold what was appended: its digest differs",
                kind="store-contradicts",
                hint="catchment arrays verify STORE",
            )
        self._mark(entry.slot)
        self.done.add(entry.slot)

    def _under_way(self, record: Mapping[str, Any]) -> Conflict:
        sizes: Sequence[str] = [f"{d}={n}" for d, n in record["rechunked"]["chunks"].items()]
        return Conflict(
            f"{self.store.url} is being rechunked to {', '.join(sizes)}",
            kind="rechunk-under-way",
            hint="wait; if its machine is gone for good: the same with --take-over",
        )

    def _lost(self) -> Conflict:
        return Conflict(
            f"{self.store.url}: other writers were first",
            kind="commits-lost",
            hint="run the same command again",
        )
