"""How aggregates stand: statements that tell of many of them at once. Only reads.

Each is answered from indexes: the newest of each by one look, sites by steps. Contributions are
counted as they come and go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import batched
from typing import Any, NamedTuple

import sqlalchemy as sa

from catchment.core.finding import WAY, Finding
from catchment.core.ledger import counts as count_rows
from catchment.core.ledger import leases
from catchment.core.ledger import runs as run_rows
from catchment.core.ledger import snapshots as snapshot_rows
from catchment.core.ledger.contributions import BATCH
from catchment.core.ledger.model import Lease, Run, Snapshot
from catchment.core.ledger.schema import (
    accounts,
    aggregates,
    contributions,
    findings,
    runs,
    snapshots,
)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an aggregate stands: its latest run, the latest that ended, its latest snapshot."""

    aggregate: str
    run: Run | None
    ended: Run | None
    snapshot: int
    published_at: datetime | None
    errors: int
    warnings: int


class Cell(NamedTuple):
    """What one site has given to one aggregate.

    ``received`` and ``kept`` are of the account of the aggregate's last publication, in the unit
    of which there are most.
    """

    aggregate: str
    site: str
    state: str  # of the last contribution; empty: there is none
    received_at: datetime | None
    errors: int
    warnings: int
    unit: str
    received: int
    kept: int


@dataclass(slots=True)
class Whole:
    """All that is told of an aggregate.

    ``states`` counts its contributions; ``findings`` are those of its newest finished run, and
    where that one had nothing to look at, those of the run that made the latest snapshot, too.
    """

    snapshot: Snapshot | None = None  # without its provenance
    lease: Lease | None = None
    runs: list[Run] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def wholes(
    c: sa.Connection, names: Collection[str], newest: int, now: datetime
) -> dict[str, Whole]:
    """All that is told of aggregates that are known, by five statements however many they are."""
    made: dict[str, Whole] = {}
    for some in batched(sorted(names), BATCH):
        made |= _wholes(c, some, newest, now)
    return made


def _wholes(c: sa.Connection, names: Sequence[str], newest: int, now: datetime) -> dict[str, Whole]:
    name = aggregates.c.name
    ended = _last(name, runs.c.finished_at.is_not(None))
    number = sa.select(sa.func.max(snapshots.c.number)).where(snapshots.c.aggregate == name)
    query = sa.select(
        aggregates,
        number.scalar_subquery().label("number"),
        ended.label("ended"),
        _idle(ended).label("idle"),
        *(_last(name, skip=n).label(f"run{n}") for n in range(newest)),
    )
    made: dict[str, Whole] = {}
    latest, ids, ended_of = [], set(), {}
    rows = c.execute(query.where(name.in_(names))).all()
    idle = {row.name for row in rows if row.idle}
    for row in rows:
        made[row.name] = one = Whole()
        if row.expires_at is not None and row.expires_at > now and not leases.is_dead(row.holder):
            one.lease = Lease(row.name, row.holder, row.fence, row.expires_at)
        if row.number is not None:
            latest.append((row.name, row.number))
        if row.ended is not None:
            ended_of[row.ended] = row.name
        ids |= {run for run in row[-newest:] if run is not None}
    for snapshot in snapshot_rows.of_keys(c, latest):
        made[snapshot.aggregate].snapshot = snapshot
    earlier = {w.snapshot.run: name for name, w in made.items() if name in idle and w.snapshot}
    ended_of |= earlier
    for run in run_rows.of_ids(c, ids):
        made[run.aggregate].runs.append(run)
    for run_id, finding in run_rows.findings_of(c, ended_of):
        if finding.where != WAY or run_id not in earlier:
            made[ended_of[run_id]].findings.append(finding)
    for aggregate, state, count in count_rows.states(c, names):
        made[aggregate].states[state] = count
    return made


def _given(names: Collection[str]) -> Any:
    """Aggregate and site of everything that was contributed, by steps through the index."""
    t, name = contributions.c, aggregates.c.name
    least = sa.select(sa.func.min(t.site)).where(t.aggregate == name).scalar_subquery()
    first = sa.select(name.label("aggregate"), least.label("site")).where(name.in_(names))
    steps = first.cte("steps", recursive=True)
    here = (t.aggregate == steps.c.aggregate) & (t.site > steps.c.site)
    after = sa.select(sa.func.min(t.site)).where(here).scalar_subquery()
    return steps.union_all(sa.select(steps.c.aggregate, after).where(steps.c.site.is_not(None)))


def _last(where: Any, *more: Any, skip: int = 0) -> Any:
    """The id of the newest run of an aggregate, or of one before, for each row of a query."""
    newest = sa.select(runs.c.id).where(runs.c.aggregate == where, *more)
    newest = newest.correlate(aggregates)  # however deep it stands in the query
    return newest.order_by(runs.c.id.desc()).limit(1).offset(skip).scalar_subquery()


def _idle(run: Any) -> Any:
    """Whether a run found nothing new to look at: what was told before still stands."""
    r = runs.alias()
    looked = sa.exists().where(accounts.c.run == r.c.id)
    return sa.exists().where(r.c.id == run, r.c.state == "unchanged", ~looked)


def standings(c: sa.Connection) -> list[Standing]:
    """How each aggregate stands, by name."""
    name, s = aggregates.c.name, snapshots.c
    number = sa.select(sa.func.max(s.number)).where(s.aggregate == name).scalar_subquery()
    ended_run = _last(name, runs.c.finished_at.is_not(None))
    ids = sa.select(name, _last(name), ended_run, number, _idle(ended_run))
    rows = c.execute(ids.order_by(name)).all()
    wanted = {run for _, last, ended, *_ in rows for run in (last, ended) if run}
    known = {run.id: run for run in run_rows.of_ids(c, wanted)}
    latest = sa.tuple_(s.aggregate, s.number).in_([(n, k) for n, _, _, k, _ in rows if k])
    at = sa.select(s.aggregate, s.published_at, s.run).where(latest)
    published, made_by = {}, {}
    for one, when, run in c.execute(at):
        published[one], made_by[one] = when, run
    told_of = {ended: one for one, _, ended, _, _ in rows if ended}
    earlier = {made_by[one]: one for one, *_, idle in rows if idle and one in made_by}
    told_of |= earlier
    counts: Counter[tuple[str, str]] = Counter()
    for (run, _, severity), n in _counts(c, told_of, earlier).items():
        counts[told_of[run], severity] += n
    return [
        Standing(
            one,
            known.get(last),
            known.get(ended),
            count or 0,
            published.get(one),
            counts[one, "error"],
            counts[one, "warning"],
        )
        for one, last, ended, count, _ in rows
    ]


def _counts(
    c: sa.Connection, ids: Collection[str], earlier: Collection[str], only: str | None = None
) -> dict[tuple[str, str, str], int]:
    """How many findings of each severity runs have about each site, or about one.

    After those that are ``earlier``, somebody looked at the way to the sites again.
    """
    f = findings.c
    by = (findings.c.run, findings.c.site, findings.c.severity)
    query = sa.select(findings.c.run, findings.c.site, findings.c.severity, sa.func.count()).where(
        f.run.in_(ids), sa.not_(f.run.in_(earlier) & (f.where == WAY))
    )
    if only is not None:
        query = query.where(findings.c.site == only)
    grouped = query.group_by(*by)
    return {(run, site, severity): n for run, site, severity, n in c.execute(grouped)}


def cells(c: sa.Connection, names: Collection[str], only: str | None) -> list[Cell]:
    """By the newest contribution of each site, the findings and the account of the last runs."""
    t, a, s, name = contributions.c, accounts.c, snapshots.c, aggregates.c.name
    if only is None:
        steps = _given(names)
        here = (t.aggregate == steps.c.aggregate) & (t.site == steps.c.site)
        newest = sa.select(sa.func.max(t.id)).where(here).scalar_subquery()
        ids = sa.select(newest).where(steps.c.site.is_not(None))
    else:
        here = (t.aggregate == name) & (t.site == only)
        ids = sa.select(sa.select(sa.func.max(t.id)).where(here).scalar_subquery())
        ids = ids.select_from(aggregates).where(name.in_(names))
    columns = sa.select(t.aggregate, t.site, t.state, t.received_at)
    given = {
        (r.aggregate, r.site): (r.state, r.received_at)
        # Ids as values: a database that guesses how many there are would read the whole table.
        for some in batched([one for one in c.scalars(ids) if one], BATCH)
        for r in c.execute(columns.where(t.id.in_(some)))
    }

    published = sa.select(s.run).where(s.aggregate == name).order_by(s.number.desc()).limit(1)
    ended = _last(name, runs.c.finished_at.is_not(None))
    last = sa.select(name, ended, published.scalar_subquery(), _idle(ended))
    ended_of, published_of, earlier = {}, {}, set()
    for one, finished, run, idle in c.execute(last.where(name.in_(names))):
        ended_of[finished], published_of[run] = one, one
        if idle:
            ended_of[run] = one
            earlier.add(run)
    counted = _counts(c, [r for r in ended_of if r], [r for r in earlier if r], only).items()
    told: dict[tuple[str, str], Counter[str]] = {}
    for (run, site, severity), count in counted:
        told.setdefault((ended_of[run], site), Counter())[severity] += count
    sums = sa.select(a.run, a.site, a.unit, sa.func.sum(a.received), sa.func.sum(a.kept))
    wanted = sums.where(a.run.in_([r for r in published_of if r]), a.unit != "bytes")
    if only is not None:
        wanted = wanted.where(a.site == only)
    kept: dict[tuple[str, str], tuple[str, int, int]] = {}
    for run, site, unit, received, count in c.execute(wanted.group_by(a.run, a.site, a.unit)):
        place = published_of[run], site
        if place not in kept or received > kept[place][1]:  # the finest unit tells most
            kept[place] = unit, int(received), int(count)
    cells = []
    for place in sorted({*given, *told, *kept}):
        if place[1]:
            counts = told.get(place, Counter())
            state, at = given.get(place, ("", None))
            unit, received, count = kept.get(place, ("", 0, 0))
            errors, warnings = counts["error"], counts["warning"]
            cells.append(Cell(*place, state, at, errors, warnings, unit, received, count))
    return cells
