"""Provenance: the object by which a snapshot describes itself, written last and read first.

The ledger's row decides that a snapshot exists; its provenance object, derived from that row byte
for byte, tells readers of the store. A crash between the two is mended by :func:`seal_all` at the
next start; a lost ledger is rebuilt from what :func:`read_all` finds, for one aggregate by
:func:`learn` before its next run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import chain
from typing import Any

from catchment.core.account import Account
from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from catchment.core.ledger import Ledger, Snapshot
from catchment.core.ledger.provenance import SECTION
from catchment.core.progress import Event, Progress, silent
from catchment.core.store import Store

logger = logging.getLogger(__name__)

NAME = "provenance.json"
MAX_BYTES = 256 * 1024 * 1024


def manifest() -> dict[str, str]:
    """Which program made it."""
    return {"name": "catchment", "version": version("catchment")}


def dumps(provenance: Mapping[str, Any]) -> bytes:
    """The one byte form of a provenance: the same value gives the same bytes."""
    return json.dumps(provenance, indent=1, ensure_ascii=False).encode() + b"\n"


def seal(store: Store, ledger: Ledger, snapshot: Snapshot) -> None:
    """Write the provenance object of a published snapshot, then say so in the ledger.

    That of an expired one takes the place of what was written before it expired.

    Raises:
        Corrupt: kind ``provenance-differs`` if another object already stands in its place.
        Unavailable: the snapshot stands; the next run on its aggregate seals it.
    """
    try:
        _seal(store, ledger, snapshot)
    except Unavailable as error:
        raise Unavailable(
            f"snapshot {snapshot.number} of {snapshot.aggregate} is published, but its provenance"
            f" is not written: {error.message}",
            kind=error.kind,
            hint=error.hint,
        ) from error


def _seal(store: Store, ledger: Ledger, snapshot: Snapshot) -> None:
    key, data = snapshot.location + NAME, dumps(snapshot.provenance)
    try:
        store.put(key, data, mode="create" if snapshot.expired_at is None else "overwrite")
    except Conflict:
        if store.read(key) != data:
            raise Corrupt(
                f"{key} is not that of snapshot {snapshot.number} of {snapshot.aggregate}",
                kind="provenance-differs",
                hint="move the object away, then run again",
            ) from None
    ledger.seal(snapshot)


def seal_all(store: Store, ledger: Ledger, aggregate: str) -> None:
    """Finish what a crash left between the ledger's row and the provenance object."""
    for snapshot in ledger.unsealed(aggregate):
        seal(store, ledger, snapshot)


def learn(
    store: Store, ledger: Ledger, aggregate: str, prefixes: Iterable[str], *, apart: bool = False
) -> None:
    """Take in what another ledger published, or this one before it was lost; hold the lease.

    Else the numbers of those snapshots would be given a second time, and no ledger could be rebuilt
    any more. ``prefixes`` are the folders of the aggregate's snapshots, and perhaps others.

    Corrupt as :func:`read_all` and :meth:`Ledger.restore` raise it; but ``apart``, no snapshot
    needs an earlier one: that some were deleted, or have the same number, is only logged.
    """
    known = {snapshot.location for snapshot in ledger.snapshots(aggregate)}
    if unknown := [prefix for prefix in prefixes if prefix not in known]:
        # All at once: names follow clocks, numbers do not.
        found = chain.from_iterable(read_all(store, prefix) for prefix in unknown)
        try:
            ledger.restore(told for told in found if told[SECTION]["aggregate"] == aggregate)
        except Corrupt as error:
            if not apart or error.kind not in {"snapshot-gap", "provenance-contradicts"}:
                raise
            logger.warning("nothing is learnt from the store: %s", error.message)


def check_store(store: Store, snapshot: Snapshot, again: str) -> None:
    """Conflict (kind ``ledger-of-another-store``) if nothing of the snapshot is in the store.

    ``again`` is the command that makes what it held once more.
    """
    if next(store.list(snapshot.location), None) is None:
        raise Conflict(
            f"the ledger knows {snapshot.location}, and the store has nothing there",
            kind="ledger-of-another-store",
            hint="give each store a ledger of its own (workspace.ledger); if the snapshot was "
            f"deleted by hand, {again}",
        )


def read_all(store: Store, prefix: str = "") -> Iterator[dict[str, Any]]:
    """Every provenance below a prefix that carries our section, in order of key.

    Corrupt (kind ``provenance-unreadable``) for one of ours that cannot be read.
    """
    for stat in store.list(prefix):
        if not stat.key.endswith("/" + NAME) or stat.key.startswith(".catchment/"):
            continue
        try:
            if stat.size > MAX_BYTES:
                raise Invalid(f"{stat.size} bytes, expected at most {MAX_BYTES}")
            data = json.loads(store.read(stat.key))
        except (ValueError, RecursionError, Invalid) as error:
            raise Corrupt(
                f"{stat.key} cannot be read as a provenance",
                kind="provenance-unreadable",
                hint="restore the object from a backup, or move its folder away",
            ) from error
        if isinstance(data, dict) and "catchment" in data:
            yield data


def verify(store: Store, snapshot: Snapshot, progress: Progress = silent) -> list[str]:
    """What is wrong with what a snapshot names; empty where all is well.

    Every object must exist with its size and SHA-256, as must the provenance, where it is written
    already; the account must balance. Reads all of them.
    """
    told, data = snapshot.provenance, dumps(snapshot.provenance)
    wrong: list[str] = []
    work = f"{snapshot.aggregate}: verify"
    done, total = 0, sum(item["size"] for item in told["objects"])
    progress(Event(work, "start", 0, total, "bytes"))
    for item in told["objects"]:
        wrong += compare(store, item["key"], item["size"], item["digest"])
        done += item["size"]
        progress(Event(work, "step", done, total, "bytes"))
    progress(Event(work, "done", total, total, "bytes"))
    if snapshot.sealed:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        wrong += compare(store, snapshot.location + NAME, len(data), digest)
    try:
        Account.from_json(told[SECTION]["account"]).check()
    except Corrupt as error:
        wrong.append(error.message)
    return wrong


def compare(store: Store, key: str, size: int, digest: str) -> list[str]:
    """What is wrong with one object, of which size and ``sha256:`` digest are known; reads it."""
    made, length = hashlib.sha256(), 0
    try:
        for chunk in store.stream(key):
            made.update(chunk)
            length += len(chunk)
    except NotFound:
        return [f"{key}: missing"]
    found = f"sha256:{made.hexdigest()}"
    if (length, found) != (size, digest):
        return [f"{key}: {length} bytes, {found}; expected {size} bytes, {digest}"]
    return []
