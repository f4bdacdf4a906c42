"""Is a workspace sound? The checks of ``catchment doctor``, and what it can mend by itself.

A check changes nothing; a deep one takes each lease for a moment. Some of what it finds has a
remedy that cannot make it worse: that follows from the ledger (a seal, a count, a lease of a
process that is gone), from time (what was begun and never finished), or from a backup byte for
byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial

from catchment.core import doctor_clocks as clocks
from catchment.core.capability import NAMES, load
from catchment.core.doctor_check import Check, looked
from catchment.core.doctor_halves import halves
from catchment.core.errors import CatchmentError, Corrupt, NotFound
from catchment.core.ledger import Lease, Ledger, Snapshot, counts, leases, provenance
from catchment.core.names import counted
from catchment.core.provenance import NAME, compare, dumps, read_all, seal_all
from catchment.core.store import Store
from catchment.core.workspace import Workspace

GRACE = timedelta(hours=24)


def examine(
    workspace: Workspace, *, deep: bool = False, backup: Store | None = None
) -> Iterator[Check]:
    """Look at the store, the ledger, clocks, and each aggregate.

    Args:
        workspace: which.
        deep: read every object of every kept snapshot; otherwise those of the latest are only
            looked for.
        backup: a store of backups, to mend objects from.
    """
    store = looked("store", partial(_store, workspace))
    ledger = looked("ledger", partial(_ledger, workspace))
    yield store
    yield from clocks.of_store(workspace.store)
    yield ledger
    if not (store.well and ledger.well):
        return
    yield looked("clocks", partial(clocks.of_ledger, workspace.ledger))
    yield looked("ledger and store", partial(_lacking, workspace))
    yield _counted(workspace.ledger)
    yield from halves(workspace, GRACE)
    for aggregate in workspace.ledger.aggregates():
        yield from _seals(workspace, aggregate, deep=deep)
        yield from _work(workspace, aggregate)
        yield from _objects(workspace, aggregate, deep=deep, backup=backup)
    if deep and workspace.has_ledger:
        yield looked("left over", partial(_left_over, workspace))


def mend(checks: Sequence[Check]) -> list[str]:
    """Apply what remedies there are; what each of them did, or why it could not."""
    done = []
    for check in checks:
        if check.remedy is not None:
            try:
                done.append(f"{check.what}: {check.remedy()}")
            except CatchmentError as error:
                done.append(f"{check.what}: not mended: {error.message}")
    return done


def lacking(workspace: Workspace) -> int:
    """Snapshots that the store describes and the ledger does not know: what a rebuild adds."""
    return _unknown(workspace.store, workspace.ledger if workspace.has_ledger else None)


def _unknown(store: Store, ledger: Ledger | None) -> int:
    known: set[tuple[str, str]] = set()
    if ledger is not None:
        known = {(a, s.run) for a in ledger.aggregates() for s in ledger.snapshots(a)}
    told = (provenance.read(document).snapshot for document in read_all(store))
    return sum((s.aggregate, s.run) not in known for s in told)


def _store(workspace: Workspace) -> str:
    next(workspace.store.folders(), None)
    return f"{workspace.store.url} can be read"


def _ledger(workspace: Workspace) -> str:
    if workspace.refused is not None:
        raise workspace.refused
    return f"{counted(len(workspace.ledger.aggregates()), 'aggregates')}"


def _lacking(workspace: Workspace) -> str:
    if workspace.file is None:  # a copy of a store has no ledger
        missing = _unknown(workspace.store, workspace.ledger)
    else:
        missing = lacking(workspace)  # all of them where the ledger's file is gone
    if missing:
        raise Corrupt(
            f"the store describes {counted(missing, 'snapshots')} that the ledger does not know",
            kind="ledger-behind",
            hint="catchment doctor --rebuild-ledger",
        )
    return "the ledger knows every snapshot that the store describes"


def _counted(ledger: Ledger) -> Check:
    """Counts follow from the contributions; only what writes to the tables itself leaves them."""
    wrong = ledger._database.read(counts.wrong)  # noqa: SLF001 - no verb of the ledger needs it
    if not wrong:
        return Check("counts", well=True, found="they are those of the contributions")
    aggregate, site, state = wrong[0]
    return Check(
        "counts",
        well=False,
        found=f"{len(wrong):,} are not those of the contributions: {state} of {site} in "
        f"{aggregate}, for one",
        hint="an older version may still be running: end it, then catchment doctor --mend",
        remedy=partial(_recount, ledger),
    )


def _recount(ledger: Ledger) -> str:
    ledger.recount()
    return "they are counted again"


def _seals(workspace: Workspace, aggregate: str, *, deep: bool) -> Iterator[Check]:
    """The latest snapshot's provenance; of the other kept ones, if deep, what is wrong."""
    ledger = workspace.ledger
    latest = ledger.latest(aggregate)
    if latest is None:
        yield Check(aggregate, well=True, found="nothing is published yet")
        return
    yield _seal_check(workspace, aggregate, latest)
    for known in ledger.snapshots(aggregate) if deep else ():
        if known.number != latest.number and known.expired_at is None:
            snapshot = ledger.snapshot(aggregate, known.number)
            if not (check := _seal_check(workspace, aggregate, snapshot)).well:
                yield check


def _seal_check(workspace: Workspace, aggregate: str, snapshot: Snapshot) -> Check:
    """A snapshot's provenance is what the ledger says; it follows from the ledger."""
    store = workspace.store
    key = snapshot.location + NAME
    if not snapshot.sealed:
        return Check(
            aggregate,
            well=True,
            found=f"snapshot {snapshot.number}; the next run writes its provenance",
            remedy=partial(_seal, workspace, aggregate),
        )
    try:
        same = store.read(key) == dumps(snapshot.provenance)
    except NotFound:
        return Check(
            aggregate, well=False, found=f"{key} is missing", hint="catchment doctor --mend",
            remedy=partial(_write_seal, store, snapshot),
        )  # fmt: skip
    except CatchmentError as error:
        return Check(aggregate, well=False, found=error.message, hint=error.hint)
    if not same:
        return Check(
            aggregate,
            well=False,
            found=f"{key} is not what the ledger says of snapshot {snapshot.number}",
            hint="restore the object from a backup, or let `catchment doctor --mend` write it anew",
            remedy=partial(_write_seal, store, snapshot),
        )
    return Check(aggregate, well=True, found=f"snapshot {snapshot.number}, with its provenance")


def _seal(workspace: Workspace, aggregate: str) -> str:
    with workspace.ledger.holding(aggregate):
        seal_all(workspace.store, workspace.ledger, aggregate)
    return "its provenance is written"


def _write_seal(store: Store, snapshot: Snapshot) -> str:
    store.put(snapshot.location + NAME, dumps(snapshot.provenance), mode="overwrite")
    return "its provenance is written anew from the ledger"


def _work(workspace: Workspace, aggregate: str) -> Iterator[Check]:
    """Who is at work, and whether he lives."""
    ledger = workspace.ledger
    lease = ledger.lease(aggregate)
    if lease is not None:
        what = f"lease of {aggregate}"
        until = f"{lease.expires_at:%Y-%m-%d %H:%M:%SZ}"
        if not leases.is_dead(lease.holder):
            yield Check(what, well=True, found=f"held by {lease.holder} until {until}")
            return
        yield Check(
            what,
            well=True,
            found=f"{lease.holder} does not live any more; it lasts until {until}",
            hint="nothing to do here: a run on this machine takes it over at once; "
            "for other machines, catchment doctor --mend",
            remedy=partial(_release, ledger, lease),
        )
    dead = ledger.runs(aggregate, state="running")
    if dead:
        yield Check(
            f"runs of {aggregate}",
            well=True,
            found=f"{len(dead)} never came to an end; the next run takes up what they left",
            hint=f"catchment run {aggregate}",
        )


def _release(ledger: Ledger, lease: Lease) -> str:
    ledger.release(lease)
    return "it is given back"


def _objects(
    workspace: Workspace, aggregate: str, *, deep: bool, backup: Store | None
) -> Iterator[Check]:
    """Objects that snapshots name: of the latest if they are there, or of all what they are."""
    store, ledger = workspace.store, workspace.ledger
    latest = ledger.latest(aggregate)
    if latest is None:
        return
    numbers = [s.number for s in ledger.snapshots(aggregate) if s.expired_at is None]
    seen: set[str] = set()
    wrong = 0
    for number in numbers if deep else [latest.number]:
        for item in ledger.snapshot(aggregate, number).provenance.get("objects", ()):
            key, size, digest = item["key"], item["size"], item["digest"]
            if key in seen:
                continue
            seen.add(key)
            faults = compare(store, key, size, digest) if deep else _there(store, key, size)
            for fault in faults:
                wrong += 1
                yield Check(
                    f"object of {aggregate} {number}",
                    well=False,
                    found=fault,
                    hint="catchment doctor --deep --mend --from URL-OF-BACKUPS",
                    remedy=None if backup is None else partial(_bring, store, backup, key, digest),
                )
    if not wrong:
        how = "read, and are what they were" if deep else "there, with their sizes"
        yield Check(f"objects of {aggregate}", well=True, found=f"{len(seen)} are {how}")


def _there(store: Store, key: str, size: int) -> list[str]:
    try:
        found = store.head(key).size
    except NotFound:
        return [f"{key}: missing"]
    return [] if found == size else [f"{key}: {found} bytes, expected {size} bytes"]


def _bring(store: Store, backup: Store, key: str, digest: str) -> str:
    """The object as the snapshot names it, from a backup."""
    from catchment.core.backup_shelf import checked, key_of

    try:
        store.put(key, checked(backup.stream(key_of(digest)), digest), mode="overwrite")
    except NotFound:
        raise NotFound(
            f"no backup in {backup.url} has it", kind="no-backup", hint="try another store"
        ) from None
    return f"{key} is brought back from {backup.url}"


def _left_over(workspace: Workspace) -> str:
    """What a collection would remove; those that a run is at work on are not looked at."""
    found = (load(name).orphans(workspace, grace=GRACE, dry_run=True) for name in NAMES)
    count = sum(1 for keys in found for _ in keys)
    if count:
        return f"{count:,} objects that nobody needs take up space: catchment gc"
    return "nothing that is older than a day"
