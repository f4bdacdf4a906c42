"""The catalog of a folder of stores: which session is where. Rebuilt from the stores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

from catchment.arrays import layout, read
from catchment.arrays.flat import Flat
from catchment.arrays.foreign import kind_of
from catchment.arrays.model import Entry
from catchment.arrays.plan import present
from catchment.arrays.stack import Stack
from catchment.arrays.transform.sinks import SUFFIX, below
from catchment.core.errors import NotFound
from catchment.core.store import Mode, Store

NAME = "catalog.json"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session is."""

    session: str
    store: str  # key below the folder
    slot: int
    n_windows: int
    content_hash: str
    site: str
    start: float | None


@dataclass(frozen=True, slots=True)
class Partition:
    """One store of the folder, at a commit."""

    store: str
    commit: int
    fingerprint: str  # empty where it grows by positions
    sessions: int
    windows: int

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Sessions by store; the stores are the truth, and this is what they said."""

    stores: Sequence[Partition]
    sessions: Sequence[Place]

    @classmethod
    def build(cls, folder: Store, known: Iterable[str] = ()) -> Self:
        """Of all stores of a folder, in order of key; each is read at its present commit."""
        stores, sessions = [], []
        for key in keys(folder, known):
            commit, fingerprint, _, entries = look(below(folder, key))
            found = present(entries)
            for name, entry in found.items():
                row = entry.row
                start = None if row.start != row.start else row.start
                sessions.append(
                    Place(name, key, entry.slot, row.n_windows, row.content_hash, row.site, start)
                )
            stores.append(
                Partition(
                    key,
                    commit,
                    fingerprint,
                    len(found),
                    sum(entry.row.n_windows for entry in found.values()),
                )
            )
        return cls(stores, sessions)

    def dumps(self) -> bytes:
        """The one byte form."""
        data = {
            "stores": [store.to_json() for store in self.stores],
            "sessions": [asdict(place) for place in self.sessions],
        }
        return json.dumps(data, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The inverse of :meth:`dumps`."""
        told = json.loads(data)
        return cls(
            [Partition(**store) for store in told["stores"]],
            [Place(**place) for place in told["sessions"]],
        )

    def write(self, store: Store, prefix: str, *, mode: Mode = "create") -> dict[str, Any]:
        """Put the catalog below a prefix; its key, size and digest."""
        data, key = self.dumps(), f"{prefix}{NAME}"
        store.put(key, data, mode=mode)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        return {"role": "catalog", "key": key, "size": len(data), "digest": digest}


def look(store: Store) -> tuple[int, str, dict[str, int], list[Entry]]:
    """Commit, fingerprint and chunks of a store, and what stands in it.

    One that grows by positions has no fingerprint, and no chunks that all its arrays share.
    """
    if kind_of(store) == "group":
        flat = Flat(Stack(store))
        return flat.commit(), "", {}, flat.entries()
    document, entries = read.entries(store)
    return document.commit, document.schema.fingerprint, document.chunks, entries


def keys(folder: Store, known: Iterable[str] = ()) -> Iterator[str]:
    """Keys of the stores that readers can open, in order.

    Of those that lie deeper, as a transform may want it: what the catalog names, or is ``known``.
    To look into all folders would take long: each session may have one.
    """
    top = (name for name in folder.folders("") if name.endswith(SUFFIX))
    deeper = {key for key in (*known, *_told(folder)) if "/" in key}
    for key in sorted({*top, *deeper}):
        with suppress(NotFound):
            folder.head(f"{key}/{layout.ROOT}")
            yield key


def _told(folder: Store) -> list[str]:
    """Keys of the stores that the folder's catalog names."""
    with suppress(NotFound, ValueError, KeyError, TypeError):
        return [one.store for one in Catalog.parse(folder.read(NAME)).stores]
    return []
