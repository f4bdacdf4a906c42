"""Verification: a store says of itself what its commits say, and holds what its sessions had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from catchment.arrays import journal, layout, read, rows
from catchment.arrays.content import digest
from catchment.arrays.document import Document
from catchment.arrays.flat import Flat
from catchment.arrays.foreign import kind_of
from catchment.arrays.model import Entry, Status
from catchment.arrays.stack import Stack
from catchment.core.errors import CatchmentError, Corrupt
from catchment.core.progress import Event, Progress


@dataclass
class Verdict:
    """What was found.

    Attributes:
        wrong: faults, a sentence each; none where all is well.
        notes: what is no fault: appends that were interrupted, and space that they hold.
        repaired: root and rows were written anew from the commits.
    """

    sessions: int = 0
    windows: int = 0
    commit: int | None = None
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    repaired: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return vars(self)


def verify(
    stack: Stack, *, repair: bool = False, quick: bool = False, progress: Progress | None = None
) -> Verdict:
    """Compare the root and the rows with the commits, and every session with its digest.

    Args:
        repair: write root and rows anew where they are not what the commits say.
        quick: do not read the sessions' values.
        stack: the store.
        progress: told of every session; the store's if None.
    """
    progress = progress or stack.progress
    verdict = Verdict()
    if kind_of(stack.store) == "group":
        found = Flat(stack).verify(quick=quick, repair=repair)
        verdict.sessions, verdict.windows, verdict.wrong = found
        return verdict
    document, behind = stack.look()
    if document is None or not document.commit:
        read.published(stack.store)  # raises: there is none
    assert document is not None  # noqa: S101 - the line above
    told = stack.replay(document.commit)
    verdict.wrong += list(_state(stack, document, behind, told))
    if verdict.wrong and repair:
        with stack.writing():
            document = stack.restore()
        verdict.wrong, verdict.repaired = list(_state(stack, document, [], told)), True
    verdict.commit = document.commit
    for number, entry in enumerate(told):
        if entry.status is Status.PRESENT:
            verdict.sessions += 1
            verdict.windows += entry.row.n_windows
        verdict.wrong += list(_slot(stack, document, entry, quick=quick))
        progress(Event("verify", "step", number + 1, len(told), "sessions"))
    pending = _pending(stack, document)
    if pending:
        verdict.notes.append(f"{pending} interrupted appends wait for their session to come again")
    return verdict


def _state(
    stack: Stack, document: Document, behind: list[dict[str, Any]], told: list[Entry]
) -> Iterator[str]:
    if behind:
        yield f"{len(behind)} commits are not shown by the root (the next append shows them)"
        return
    published = stack.published()
    expected: Document | None = None
    for record in journal.since(stack.store, -1):
        expected = journal.after(expected, record)
    if published is None or expected is None or published.root != expected.root:
        yield "the root is not what the commits say"
    try:
        found = rows.read(stack.store, document)
    except Corrupt as error:
        yield error.message
        return
    for entry, wanted in zip(found, told, strict=False):
        if not _same(entry, wanted):
            yield f"the rows of slot {entry.slot} are not those of its commit"


def _same(entry: Entry, told: Entry) -> bool:
    return (entry.status, entry.row.session, entry.row.n_windows, entry.row.content_hash) == (
        told.status,
        told.row.session,
        told.row.n_windows,
        told.row.content_hash,
    )


def _slot(stack: Stack, document: Document, entry: Entry, *, quick: bool) -> Iterator[str]:
    if entry.status is Status.WITHDRAWN:
        for name in document.slotted():
            for generation in (0, 1):
                for stat in stack.store.list(layout.slot_prefix(name, entry.slot, generation)):
                    yield f"{stat.key} is left of a session that was withdrawn"
    if entry.status is not Status.PRESENT or quick:
        return
    try:
        found = content(stack, document, entry)
    except CatchmentError as error:
        yield f"slot {entry.slot} cannot be read: {error.message}"
        return
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises
        yield f"slot {entry.slot} cannot be decoded ({type(error).__name__})"
        return
    if found != entry.row.content_hash:
        yield f"slot {entry.slot} does not hold what was appended: its digest differs"


def content(stack: Stack, document: Document, entry: Entry) -> str:
    """The digest of what a slot holds."""
    return digest(read.slot(stack.store, document, entry), entry.row.values)[0]


def _pending(stack: Stack, document: Document) -> int:
    """Claims of slots that are not visible."""
    found = set()
    for stat in stack.store.list(layout.claims()):
        parsed = layout.parse_claim(stat.key.rpartition("/")[2])
        if parsed and parsed[0] >= document.size:
            found.add(parsed[0])
    return len(found)


def orphans(stack: Stack, document: Document) -> Iterator[str]:
    """Keys of chunks that no session needs: of writers that never came back, of former chunks.

    While the store is rechunked, what will be its chunks is left alone.
    """
    entries = stack.replay(document.commit)
    needed = {e.slot for e in entries if e.status in (Status.PRESENT, Status.REPLACED)}
    for name in document.slotted():
        for slot in _slots(stack, name, document.generation):
            if slot < document.size and slot not in needed:
                prefix = layout.slot_prefix(name, slot, document.generation)
                yield from (stat.key for stat in stack.store.list(prefix))
    if next(iter(stack.store.list(layout.rechunk(document.generation + 1))), None) is None:
        yield from former(stack, document)


def former(stack: Stack, document: Document) -> Iterator[str]:
    """Keys of the chunks as they were before the store was rechunked."""
    other = document.generation + 1
    for name in document.slotted():
        for slot in _slots(stack, name, other):
            prefix = layout.slot_prefix(name, slot, other)
            yield from (stat.key for stat in stack.store.list(prefix))


def _slots(stack: Stack, name: str, generation: int) -> list[int]:
    folders = stack.store.folders(layout.slots_prefix(name, generation))
    return [int(folder) for folder in folders if folder.isdigit()]
