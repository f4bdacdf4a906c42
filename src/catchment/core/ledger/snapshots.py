"""Statements about snapshots: the publication, its seal, its expiry, and the rebuild."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from catchment.core.errors import Conflict, Corrupt, NotFound
from catchment.core.ledger import contributions, counts, leases, provenance, runs
from catchment.core.ledger.counts import Change
from catchment.core.ledger.database import Again
from catchment.core.ledger.model import Lease, Publication, Run, Snapshot
from catchment.core.ledger.schema import snapshots

FIELDS = list(Snapshot.__dataclass_fields__)
_LASTING = ("number", "key", "run", "location", "published_at")


def publish(
    c: sa.Connection, publication: Publication, lease: Lease | None, new: Run, at: datetime
) -> Snapshot:
    """All of the publication, or the snapshot that its key made before.

    ``new`` is the run that it ends if it names none. Writers of an aggregate queue for its number,
    so that is taken last: the shorter they hold it, the more of them get through.
    """
    aggregate, key = publication.aggregate, publication.key
    run = runs.get(c, publication.run) if publication.run else new
    earlier, head = _standing(c, aggregate, key)
    if earlier is not None:
        return get(c, aggregate, earlier)
    if not head:  # else it is known: each question to a server is a way there and back
        contributions.declare(c, aggregate)
    told, change = _parts(c, publication, run, at)

    row = leases.lock(c, aggregate)
    earlier, head = _standing(c, aggregate, key)
    if earlier is not None:
        raise Again  # a twin was first: roll back, and find its snapshot
    if lease is not None:
        leases.check(row, lease)
    if publication.parent not in (None, head):
        raise Conflict(
            f"{aggregate}: expected snapshot {publication.parent} as the latest, got {head}",
            kind="snapshot-moved",
            hint="run the same command again: it plans against the latest",
        )
    snapshot = Snapshot(
        aggregate=aggregate,
        number=head + 1,
        parent=head or None,
        run=run.id,
        key=key,
        location=publication.location,
        published_at=at,
        provenance=provenance.describe(publication, head + 1, published_at=at, **told),
        sealed=False,
    )
    _insert(c, snapshot)
    counts.add(c, change)
    return snapshot


def _parts(
    c: sa.Connection, publication: Publication, run: Run, at: datetime
) -> tuple[dict[str, Any], Change]:
    """Write all but the snapshot and the counts; what its provenance tells, and their change."""
    aggregate, moves = publication.aggregate, publication.moves
    if run.aggregate != aggregate:
        raise NotFound(f"run {run.id} is not of {aggregate}", kind="no-run")
    run = replace(runs.running(run), state="published", finished_at=at)
    runs.put(c, run)
    runs.set_account(c, run.id, publication.account, anew=not publication.run)
    runs.add_findings(c, run.id, publication.findings)
    change = Change()
    if moves:
        change = contributions.move(c, moves, run=run.id, at=at, batch=run.id, aggregate=aggregate)
    moved = contributions.by_id(c, {m.contribution for m in moves})
    lines = contributions.history(c, [m.id for m in moved])
    own = list(dict.fromkeys(publication.findings))
    told = {
        "run": run,
        "findings": runs.listed(c, run=run.id) if publication.run else own,
        "contributions": [(one, lines[one.id]) for one in moved],
    }
    return told, change


def one(c: sa.Connection, aggregate: str, **where: str | int) -> Snapshot | None:
    """The snapshot with this number or key, if there is one."""
    query = _select(whole=True).filter_by(aggregate=aggregate, **where)
    return next(iter(_listed(c, query)), None)


def get(c: sa.Connection, aggregate: str, number: int) -> Snapshot:
    """The snapshot; NotFound if there is none."""
    found = one(c, aggregate, number=number)
    if found is None:
        raise NotFound(
            f"{aggregate} has no snapshot {number}",
            kind="no-snapshot",
            hint=f"catchment status {aggregate}",
        )
    return found


def latest(c: sa.Connection, aggregate: str) -> Snapshot | None:
    """The snapshot with the greatest number."""
    return next(iter(newest(c, aggregate, None, 1, whole=True)), None)


def newest(
    c: sa.Connection, aggregate: str, before: int | None, limit: int | None, *, whole: bool
) -> list[Snapshot]:
    """Snapshots in falling order of number; with their provenance if ``whole``."""
    query = _select(whole=whole).filter_by(aggregate=aggregate)
    if before is not None:
        query = query.where(snapshots.c.number < before)
    return _listed(c, query.order_by(snapshots.c.number.desc()).limit(limit))


def of_keys(c: sa.Connection, keys: Sequence[tuple[str, int]]) -> list[Snapshot]:
    """Snapshots by aggregate and number, without provenance."""
    wanted = sa.tuple_(snapshots.c.aggregate, snapshots.c.number).in_(keys)
    return _listed(c, _select(whole=False).where(wanted)) if keys else []


def unsealed(c: sa.Connection, aggregate: str) -> list[Snapshot]:
    """Snapshots whose provenance the store may lack, oldest first, whole."""
    query = _select(whole=True).filter_by(aggregate=aggregate).where(~snapshots.c.sealed)
    return _listed(c, query.order_by(snapshots.c.number))


def seal(c: sa.Connection, snapshot: Snapshot) -> None:
    """Remember that the store has this provenance of the snapshot, and not an older one."""
    leases.lock(c, snapshot.aggregate)
    now = get(c, snapshot.aggregate, snapshot.number)
    if now.expired_at != snapshot.expired_at:
        raise Conflict(
            f"{snapshot.aggregate}: snapshot {snapshot.number} has expired since it was read",
            kind="snapshot-expired",
            hint="write its provenance as the ledger has it now, then seal that",
        )
    _set(c, snapshot, sealed=True)


def expire(c: sa.Connection, aggregate: str, number: int, at: datetime) -> Snapshot:
    """Mark the snapshot, in its provenance too, which the store then lacks."""
    leases.lock(c, aggregate)
    snapshot = get(c, aggregate, number)
    if snapshot.expired_at is not None:
        return snapshot
    if number == _standing(c, aggregate)[1]:
        raise Conflict(
            f"{aggregate}: snapshot {number} is the latest, which cannot expire",
            kind="snapshot-latest",
            hint="publish a newer one first",
        )
    section = {**snapshot.provenance[provenance.SECTION], "expired_at": at.isoformat()}
    document = {**snapshot.provenance, provenance.SECTION: section}
    _set(c, snapshot, expired_at=at, sealed=False, provenance=document)
    return replace(snapshot, expired_at=at, sealed=False, provenance=document)


def restore(c: sa.Connection, documents: Iterable[Mapping[str, Any]]) -> int:
    """Add what the provenances tell and the ledger lacks; returns how many snapshots were new."""
    new = 0
    seen = set()
    for document in documents:
        record = provenance.read(document)
        seen.add(record.snapshot.aggregate)
        new += _restore(c, record)
    for aggregate in sorted(seen):
        numbers = sa.select(sa.func.count(), sa.func.max(snapshots.c.number))
        count, last = c.execute(numbers.where(snapshots.c.aggregate == aggregate)).one()
        if count != last:
            raise Corrupt(
                f"{aggregate}: expected snapshots 1 to {last} without a gap, got {count} of them",
                kind="snapshot-gap",
                hint="give every provenance.json of the aggregate, of expired snapshots too",
            )
    return new


def _restore(c: sa.Connection, record: provenance.Record) -> bool:
    told = record.snapshot
    leases.lock(c, told.aggregate)
    here = one(c, told.aggregate, number=told.number) or one(c, told.aggregate, key=told.key)
    if here is None:
        runs.put(c, record.run)
        runs.set_account(c, record.run.id, record.account)
        runs.add_findings(c, record.run.id, record.findings)
        change = contributions.rebuild(c, told.aggregate, record.contributions)
        _insert(c, told)
        counts.add(c, change)
        return True
    if any(getattr(here, name) != getattr(told, name) for name in _LASTING):
        raise Corrupt(
            f"{told.aggregate}: snapshot {told.number} of run {told.run} contradicts snapshot "
            f"{here.number} of run {here.run}, which the ledger has",
            kind="provenance-contradicts",
            hint="find out which of the two the store holds, and give only that one",
        )
    if told.expired_at is not None:
        _set(c, told, expired_at=told.expired_at, sealed=True, provenance=told.provenance)
    return False


def _standing(c: sa.Connection, aggregate: str, key: str | None = None) -> tuple[int | None, int]:
    """The number that the key has made, and the greatest number (0 before the first)."""
    t = snapshots.c
    ours = sa.select(t.number).where(t.aggregate == aggregate)
    made = ours.where(t.key == key).scalar_subquery()
    head = ours.order_by(t.number.desc()).limit(1).scalar_subquery()
    number, greatest = c.execute(sa.select(made, head)).one()
    return number, greatest or 0


def _select(*, whole: bool) -> sa.Select[Any]:
    names = FIELDS if whole else [name for name in FIELDS if name != "provenance"]
    return sa.select(*(snapshots.c[name] for name in names))


def _listed(c: sa.Connection, query: sa.Select[Any]) -> list[Snapshot]:
    return [Snapshot(**{"provenance": {}, **row._mapping}) for row in c.execute(query)]  # noqa: SLF001


def _insert(c: sa.Connection, snapshot: Snapshot) -> None:
    c.execute(sa.insert(snapshots), {name: getattr(snapshot, name) for name in FIELDS})


def _set(c: sa.Connection, snapshot: Snapshot, **values: Any) -> None:
    t = snapshots.c
    row = sa.update(snapshots).where(t.aggregate == snapshot.aggregate, t.number == snapshot.number)
    c.execute(row.values(values))
