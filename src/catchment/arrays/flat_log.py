"""What was appended along positions: its records, who stands where, how a record becomes visible.

A record holds all metadata of the group as they are after it. Replacing the one object that
readers take them from shows it; whoever looks next does that for a writer that died before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from catchment.arrays import flat_splice, flat_write, journal, layout
from catchment.arrays.foreign import Group
from catchment.arrays.journal import Holder
from catchment.arrays.model import Row
from catchment.core.errors import Corrupt
from catchment.core.store import Store

GROWTH = "positions"  # kinds of records: behind all that is there
SPLICE = "splice"  # in place of other positions, or of nothing any more


@dataclass(frozen=True, slots=True)
class Piece:
    """What one append brought, where it stands now.

    Attributes:
        number: of the commit that brought it.
        stored_hash: digest of what stands there; empty where a part of it was taken out.
    """

    number: int
    dim: str
    row: Row
    start: int
    stop: int
    stored_hash: str


def pieces(records: Iterable[Mapping[str, Any]]) -> list[Piece]:
    """Who stands where after some records, in order of position."""
    found: list[Piece] = []
    for record in records:
        new = brought(record)
        if record["kind"] == SPLICE:
            by = new.stop - record["stop"]
            moved = (_moved(piece, record["start"], record["stop"], by) for piece in found)
            found = [piece for piece in moved if piece is not None]
        if new.stop > new.start:
            found.append(new)
    return sorted(found, key=lambda piece: piece.start)


def brought(record: Mapping[str, Any]) -> Piece:
    """What a record put where it says; a withdrawal put nothing there."""
    start, row = record["start"], Row.from_json(record["row"])
    stop = start + record["length"] if record["kind"] == SPLICE else record["stop"]
    return Piece(record["number"], record["dim"], row, start, stop, record["stored_hash"])


def _moved(piece: Piece, start: int, stop: int, by: int) -> Piece | None:
    """A piece once the positions from start to stop became longer by so many; None: it is gone."""
    if piece.stop <= start:
        return piece
    if piece.start >= stop:
        return replace(piece, start=piece.start + by, stop=piece.stop + by)
    if start <= piece.start and piece.stop <= stop:
        return None
    return replace(piece, stop=piece.stop + by, stored_hash="")


class FlatLog:
    """The records of a group that grows by positions."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def records(self) -> Iterator[dict[str, Any]]:
        """All of them, in order."""
        return journal.since(self.store, 0)

    def heal(self) -> tuple[Group | None, int]:
        """Show what was committed and not shown; the group that readers see, and its commit."""
        group, number, pending = self.state()
        for record in pending:
            group, number = self.show(record), record["number"]
        if group is not None:
            self._clean(group)
        return group, number

    def state(self) -> tuple[Group | None, int, list[dict[str, Any]]]:
        """The group that readers see, our last commit in it, and those that it does not show."""
        group = Group.of(self.store)
        number = group.commit if group else 0
        behind = list(journal.since(self.store, number))
        if not behind or behind[0]["before"] == (group.digest if group else ""):
            return group, number, behind
        # Somebody else wrote the root, and may have left our number out.
        there = pieces(self.records())
        held = group is not None and all(_spelt(group, record) for record in behind)
        if not (held and group and there and self.holds(group, there[-1])):
            raise _changed(self.store.url)
        return group, behind[-1]["number"], []

    def holds(self, group: Group, piece: Piece) -> bool:
        """Whether what was appended stands where it shall."""
        return self.stored_or_none(group, piece) == piece.stored_hash

    def stored_or_none(self, group: Group, piece: Piece) -> str | None:
        """The digest of what stands in place of a piece; None where it cannot be read."""
        try:
            return flat_write.stored(self.store, group, piece.dim, piece.start, piece.stop)
        except Exception:  # noqa: BLE001 - whatever a decoder raises
            return None

    def record_of(self, session: str) -> dict[str, Any] | None:
        """The last record about a session.

        Its marker is written before the record, and names the one before, in case there is none.
        """
        marker = journal.read(self.store, layout.marker(session)) or {}
        for number in (marker.get("number"), marker.get("earlier")):
            record = journal.read(self.store, layout.log(number)) if number else None
            if record is not None and record["row"]["session"] == session:
                return record
        return None

    def decide(
        self,
        number: int,
        row: Row,
        holder: Holder,
        make: Callable[[], dict[str, Any] | None],
    ) -> dict[str, Any] | None:
        """Claim a commit, make its record, commit it and show it.

        None where another writer is at it, or was first; empty where no record was made.
        """
        claim = journal.claim(self.store, number, row, holder)
        if claim is None:
            return None
        committed = False
        try:
            if journal.read(self.store, layout.log(number)) is not None:
                return None  # it ended since we looked
            record = make()
            if record is None:
                return {}
            earlier = self.record_of(row.session)
            marker = {"number": number, "earlier": earlier["number"] if earlier else None}
            self.store.put(
                layout.marker(row.session), json.dumps(marker).encode(), mode="overwrite"
            )
            committed = journal.commit(self.store, number, record)
        finally:
            if not committed:
                journal.release(self.store, claim, row, holder)
        if not committed:
            return None
        self._clean(self.show(record | {"number": number}))
        return record

    def show(self, record: Mapping[str, Any]) -> Group:
        """Put the root that a record says, then the arrays' own metadata."""
        documents = {
            key: json.dumps(told, ensure_ascii=False).encode()
            for key, told in record["documents"].items()
        }
        group = Group(record["version"], documents)
        key, data = group.together()
        self.store.put(key, data, mode="overwrite")
        for name, content in documents.items():
            if name != key:
                self.store.put(name, content, mode="overwrite")
        return replace(group, digest=hashlib.sha256(data).hexdigest())

    def uncleaned(self, group: Group) -> dict[str, Any] | None:
        """The record of a withdrawal that may have left values in the former chunks."""
        if not group.spliced or journal.read(self.store, layout.cleaned(group.spliced)) is not None:
            return None
        record = journal.read(self.store, layout.log(group.spliced))
        return record if record is not None and not record["length"] else None

    def _clean(self, group: Group) -> None:
        """Take what was withdrawn out of the former chunks, too; once."""
        record = self.uncleaned(group)
        if record is None:
            return
        former = {key: json.dumps(told).encode() for key, told in record["former"].items()}
        flat_splice.blank(
            self.store, Group(record["version"], former), record["dim"], record["start"],
            record["stop"],
        )  # fmt: skip
        self.store.put(layout.cleaned(group.spliced), b"{}", mode="overwrite")


def _spelt(group: Group, record: Mapping[str, Any]) -> bool:
    """Whether the keys of a group's chunks are spelt as a record of a splice says."""
    return record["kind"] != SPLICE or all(
        json.loads(group.documents.get(key, b"{}")).get("chunk_key_encoding")
        == meta.get("chunk_key_encoding")
        for key, meta in record["documents"].items()
    )


def _changed(url: str) -> Corrupt:
    return Corrupt(
        f"{url}: somebody else wrote to the store while an append of ours was interrupted",
        kind="store-changed",
        hint="compare the store with a backup",
    )
