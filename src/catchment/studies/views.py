"""Views: what people see below the prefixes of the states, written after a commit.

The list of writes is made before the commit and is part of the snapshot's provenance, so that
whoever comes next can finish what a crash left. Each write may be done twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from catchment.core.ledger import Contribution, Ledger, Snapshot
from catchment.core.store import Store
from catchment.studies import layout
from catchment.studies.model import Kind, State


@dataclass(slots=True)
class Views:
    """Writes to do: a key and the object that it shows, the text that it holds, or nothing."""

    writes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def show(self, key: str, source: str) -> None:
        """A copy of an object."""
        self.writes.pop(key, None)
        self.writes[key] = {"key": key, "source": source}

    def say(self, key: str, content: Mapping[str, Any]) -> None:
        """A JSON object of its own."""
        self.writes[key] = {"key": key, "content": dict(content)}

    def hide(self, key: str) -> None:
        """Nothing any more."""
        self.writes.setdefault(key, {"key": key})

    def move(
        self,
        one: Contribution,
        was: State,
        to: State,
        at: datetime,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        """A contribution from the prefix of a state to that of another."""
        if was not in {State.ARCHIVED, State.ERROR}:  # these are history: they stay
            self.hide(_key(one, was, at))
        key = _key(one, to, at)
        if one.meta["key"] is not None:
            self.show(key, one.meta["key"])
        if told is not None:
            self.say(f"{key}.json", told)

    def to_json(self) -> list[dict[str, Any]]:
        """What to do, as plain types."""
        return list(self.writes.values())


def carry_out(store: Store, writes: Iterable[Mapping[str, Any]]) -> None:
    """Do all of it; doing it again changes nothing."""
    for write in writes:
        key = write["key"]
        if "source" in write:
            store.copy(write["source"], key, mode="overwrite")
        elif "content" in write:
            data = json.dumps(write["content"], indent=1).encode() + b"\n"
            store.put(key, data, mode="overwrite")
        else:
            store.delete(key)


def finish(store: Store, snapshot: Snapshot) -> None:
    """The views of a snapshot."""
    carry_out(store, snapshot.provenance["views"])


def finish_last(store: Store, ledger: Ledger, snapshot: Snapshot) -> None:
    """The views of a snapshot, and of those that were published meanwhile, so that these win.

    A worker that was paused may come here after its successor has published and written.
    """
    finish(store, snapshot)
    number = snapshot.number
    while newer := [s.number for s in ledger.snapshots(snapshot.aggregate) if s.number > number]:
        for later in sorted(newer):
            finish(store, ledger.snapshot(snapshot.aggregate, later))
            number = later


def _key(one: Contribution, state: State, at: datetime) -> str:
    meta = one.meta
    return layout.view(
        state,
        Kind(meta["kind"]),
        study=meta["study"],
        package=meta["package"],
        site=one.site,
        version=meta["version"],
        file=meta["file"],
        at=at,
    )
