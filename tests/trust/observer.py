"""The observer of a soak: it reads what is public, remembers it, and finds every broken promise.

It asks the ledger and the store as any reader may, and each capability's own ``verify``; it knows
nothing of what was done to the workspace. Each line of :class:`Broken` begins with the invariant.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from catchment.core.account import Account
from catchment.core.capability import load
from catchment.core.errors import CatchmentError, NotFound
from catchment.core.ledger import Ledger, Snapshot
from catchment.core.provenance import NAME, dumps, read_all
from catchment.core.store import Store
from catchment.core.workspace import Workspace
from tests.meanwhile import meanwhile

RECENT = 3  # snapshots whose objects are looked at each time; of the others one by one


class Broken(AssertionError):
    """A promise that was not kept."""


def promise(kept: object, which: str, what: str) -> None:
    if not kept:
        raise Broken(f"{which}: {what}")


@dataclass
class Seen:
    """What was published of one aggregate, for it must never change."""

    provenances: dict[int, bytes] = field(default_factory=dict)  # digests, by number
    contributions: dict[int, str] = field(default_factory=dict)


@dataclass
class Observer:
    """Looks at a workspace."""

    workspace: Workspace
    seen: dict[str, Seen] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)  # etag of each that was read
    acknowledged: set[tuple[str, int]] = field(default_factory=set)
    looks: int = 0
    _older: int = 0

    @property
    def store(self) -> Store:
        return self.workspace.store

    @property
    def ledger(self) -> Ledger:
        return self.workspace.ledger

    def look(self) -> None:
        """Every aggregate is whole, unchanged, numbered on and accounted for."""
        acknowledged = tuple(self.acknowledged)  # more may be while this one looks
        for aggregate in self.ledger.aggregates():
            self._numbers(aggregate)
        for aggregate, number in acknowledged:
            known = self.seen.get(aggregate, Seen()).provenances
            promise(number in known, "I3", f"{aggregate} {number} was acknowledged and is gone")
        self.looks += 1

    def _numbers(self, aggregate: str) -> None:
        plain = self.ledger.snapshots(aggregate)
        numbers = [one.number for one in plain]
        promise(numbers == list(range(len(numbers), 0, -1)), "I7", f"{aggregate}: {numbers}")
        for one in plain:
            promise(one.parent == (one.number - 1 or None), "I7", f"{aggregate} {one.number}")
        places = {one.location for one in plain}
        promise(len(places) == len(plain), "I2", f"{aggregate}: two snapshots in one place")
        known = self.seen.setdefault(aggregate, Seen())
        gone = known.provenances.keys() - set(numbers)
        promise(not gone, "I3", f"{aggregate}: snapshots {sorted(gone)} are gone")
        self._older += 1
        chosen = (
            numbers[:RECENT] + numbers[RECENT:][self._older % max(1, len(numbers) - RECENT) :][:1]
        )
        new = [n for n in numbers if n not in known.provenances]
        for number in dict.fromkeys([*new, *chosen]):
            self._snapshot(known, self.ledger.snapshot(aggregate, number))

    def _snapshot(self, known: Seen, snapshot: Snapshot) -> None:
        told = dumps(snapshot.provenance)
        digest = hashlib.sha256(told).digest()
        name = f"{snapshot.aggregate} {snapshot.number}"
        first = known.provenances.setdefault(snapshot.number, digest)
        promise(first == digest or snapshot.expired_at, "I2", f"{name} says something else now")
        if snapshot.sealed:
            promise(self.store.read(snapshot.location + NAME) == told, "I6", f"{name}: its seal")
        if snapshot.expired_at is None:
            for item in snapshot.provenance["objects"]:
                self._object(name, item["key"], item["size"], item["digest"])
        Account.from_json(snapshot.provenance["catchment"]["account"]).check()

    def _object(self, name: str, key: str, size: int, digest: str) -> None:
        try:
            etag = self.store.head(key).etag
            if key not in self.objects:
                data = self.store.read(key)
                found = len(data), f"sha256:{hashlib.sha256(data).hexdigest()}"
                promise(found == (size, digest), "I6", f"{name}: {key} is not what it was")
                self.objects[key] = etag
        except NotFound:
            promise(False, "I6", f"{name}: {key} is missing")
        promise(self.objects[key] == etag, "I2", f"{name}: {key} was written again")

    def verify(self, aggregate: str) -> None:
        """What the program says itself, while nobody works on the aggregate."""
        kind, _, name = aggregate.partition("/")
        if self.ledger.latest(aggregate) is not None:
            wrong = load(kind).verify(self.workspace, name)
            promise(not wrong, "I6", f"{aggregate}: {wrong[:3]}")

    def all(self) -> None:
        """Besides, nothing in the store claims to be published that the ledger does not know."""
        self.look()
        known = {
            (one.aggregate, one.number, one.location)
            for aggregate in self.ledger.aggregates()
            for one in self.ledger.snapshots(aggregate)
        }
        for told in read_all(self.store):
            section = told["catchment"]
            found = section["aggregate"], section["number"], section["location"]
            promise(found in known, "I5", f"{found} has a seal and no row")

    def always(self) -> AbstractContextManager[None]:
        """Look again and again while a block goes on, as the readers of a busy day."""

        def look() -> None:
            try:
                self.look()
            except CatchmentError as error:
                if error.exit_code == 6:
                    raise

        return meanwhile(look, 0.02)
