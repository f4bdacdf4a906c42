"""Claims and commits of a store: create-only objects, so that of two writers one is first.

A claim says whose a slot is before its chunks are written; a commit record says what became
visible. Both are written once and never changed or deleted.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from catchment.arrays import layout
from catchment.arrays.document import Document, corrupt
from catchment.arrays.model import Row
from catchment.core import process
from catchment.core.errors import CatchmentError, Conflict, NotFound
from catchment.core.store import Store

CREATE = "create"

_active: set[str] = set()  # tokens of appends that this process is at


@dataclass(frozen=True, slots=True)
class Holder:
    """Who claims slots: a process, and one append or run of it.

    Attributes:
        boot: tells the table of processes that this one stands in.
        started: when the process began, in ticks since the machine did.
        active: tokens of what else the process was at, when this began.
        since: when it began.
    """

    host: str
    boot: str
    pid: int
    started: str
    token: str
    active: frozenset[str] = frozenset()
    since: str = ""

    def to_json(self) -> dict[str, Any]:
        """What a claim says of its holder."""
        return {name: getattr(self, name) for name in ("host", "boot", "pid", "started", "token")}


@dataclass(frozen=True, slots=True)
class Claim:
    """A slot of ours.

    Attributes:
        resumed: an earlier writer of the same session and content began it; what it wrote stays.
        taken: an earlier writer of something else died at it; what it wrote is in the way.
    """

    slot: int
    attempt: int
    resumed: bool = False
    taken: bool = False


@contextmanager
def holding() -> Iterator[Holder]:
    """A holder for the length of a block. Afterwards its claims that came to nothing are free."""
    token, pid = secrets.token_hex(8), os.getpid()
    active = frozenset(_active)
    _active.add(token)
    try:
        yield Holder(
            socket.gethostname(), process.table(), pid, process.started(pid), token, active, _now()
        )
    finally:
        _active.discard(token)


def take(
    store: Store, document: Document, row: Row, holder: Holder, *, avoid: frozenset[int]
) -> Claim:
    """Claim the first slot behind the visible ones that is free, ours already, or a dead one's.

    ``avoid`` are slots that the same commit fills with other sessions. Whoever had the slot before
    is gone, but may have committed it since the document was read: then it is no one's to take.
    """
    slot = document.size
    while True:
        while slot in avoid or (made := claim(store, slot, row, holder)) is None:
            slot += 1
        size = max((record["size"] for record in since(store, document.commit)), default=0)
        if slot >= size:
            return made
        release(store, made, row, holder)
        slot = size


def next_slot(store: Store, document: Document) -> int:
    """The first slot that nobody has claimed."""
    slot = document.size
    while read(store, layout.claim(slot, 0)) is not None:
        slot += 1
    return slot


def claim(store: Store, slot: int, row: Row, holder: Holder) -> Claim | None:
    """Claim one slot; None while somebody else has it."""
    earlier, attempt = None, 0
    while (found := read(store, layout.claim(slot, attempt))) is not None:
        earlier, attempt = found, attempt + 1
    same = False
    if earlier is not None:
        theirs = earlier["row"]
        same = (theirs["session"], theirs["content_hash"]) == (row.session, row.content_hash)
        ours = earlier["holder"]["token"] == holder.token
        free = earlier.get("released") or is_dead(earlier, holder)
        if not (same if ours else free):
            return None
    record = {"slot": slot, "holder": holder.to_json(), "row": row.to_json(), "at": _now()}
    try:
        store.put(layout.claim(slot, attempt), _dumps(record))
    except Conflict:
        return None
    return Claim(slot, attempt, resumed=same, taken=earlier is not None and not same)


def row_of(store: Store, slot: int, row: Row) -> Row:
    """The row as its claim has it: with the dataset's attributes, which arrays of rows have not."""
    attempt = 0
    while (found := read(store, layout.claim(slot, attempt))) is not None:
        told, attempt = Row.from_json(found["row"]), attempt + 1
        if (told.session, told.content_hash) == (row.session, row.content_hash):
            return replace(row, attributes=told.attributes)
    return row


def is_claimed(store: Store, slot: int, holder: Holder) -> bool:
    """Whether a living writer has a slot."""
    last, attempt = None, 0
    while (found := read(store, layout.claim(slot, attempt))) is not None:
        last, attempt = found, attempt + 1
    return last is not None and not last.get("released") and not is_dead(last, holder)


def release(store: Store, made: Claim, row: Row, holder: Holder) -> None:
    """Say that a claim came to its end, whatever it was."""
    record = {"slot": made.slot, "holder": holder.to_json(), "row": row.to_json(), "at": _now()}
    with suppress(CatchmentError):  # if it cannot be said now, the holder's death says it
        key = layout.claim(made.slot, made.attempt + 1)
        store.put(key, _dumps(record | {"released": True}))


def release_all(store: Store, slot: int, holder: Holder) -> None:
    """Free a slot, whoever claimed it: its writer is known to be gone."""
    attempt, row = 0, Row("", 0, "")
    while (found := read(store, layout.claim(slot, attempt))) is not None:
        row, attempt = Row.from_json(found["row"]), attempt + 1
    if attempt:
        release(store, Claim(slot, attempt - 1), row, holder)


def commit(store: Store, number: int, record: Mapping[str, Any]) -> bool:
    """Make commit ``number``, if nobody was first."""
    try:
        store.put(layout.log(number), _dumps({"number": number, "at": _now(), **record}))
    except Conflict:
        return False
    return True


def since(store: Store, number: int) -> Iterator[dict[str, Any]]:
    """The records after a commit, in order."""
    while (record := read(store, layout.log(number + 1))) is not None:
        number += 1
        if record.get("number") != number:
            raise corrupt(f"{layout.log(number)} says that it is commit {record.get('number')}")
        yield record


def after(document: Document | None, record: Mapping[str, Any]) -> Document:
    """The document once a record is applied."""
    if record["kind"] == CREATE:
        return Document(record["document"]).grown(commit=0, size=0, ragged={})
    if document is None:
        raise corrupt(f"commit {record['number']} stands before the one that makes the store")
    return document.grown(
        commit=record["number"],
        size=record["size"],
        ragged=record["ragged"],
        family=record.get("family"),
        rechunked=record.get("rechunked"),
    )


def read(store: Store, key: str) -> dict[str, Any] | None:
    """A record; None if there is none."""
    try:
        data = store.read(key)
    except NotFound:
        return None
    try:
        return json.loads(data)  # type: ignore[no-any-return]
    except ValueError:
        raise corrupt(f"{key} cannot be read") from None


def _dumps(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat()


def is_dead(record: Mapping[str, Any], us: Holder) -> bool:
    """Whoever made a record was a process of our machine, and is no more.

    Of other machines nobody knows: they are alive.
    """
    them = record["holder"]
    if (them["host"], them["boot"]) != (us.host, us.boot) or not us.boot:
        return False
    if (them["pid"], them["started"]) == (us.pid, us.started):  # an append of it may have failed
        if os.getpid() == us.pid:
            return them["token"] not in _active
        return them["token"] not in us.active and record.get("at", "") < us.since
    gone: bool = process.started(them["pid"]) != them["started"]
    return gone
