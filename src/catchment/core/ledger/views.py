"""What pages ask the ledger: lists by key, the newest of many, sums by day. Only reads.

Each question is answered from an index, so that a first page costs the same however long the
ledger has been kept. Lists go from the newest to the oldest; a page goes on behind a key.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from catchment.core.finding import Finding, Severity
from catchment.core.ledger import runs as run_rows
from catchment.core.ledger import standing
from catchment.core.ledger.ledger import Ledger
from catchment.core.ledger.model import Run, Snapshot, Transition
from catchment.core.ledger.schema import (
    accounts,
    contributions,
    findings,
    runs,
    snapshots,
    transitions,
    uploads,
)
from catchment.core.ledger.standing import Cell, Standing, Whole

SEARCHED = 20_000  # findings that one search looks at, from the newest on

_F = findings.c
_SHOWN = (_F.id, _F.run, *(_F[n] for n in ("site", "severity", "code", "where", "message", "hint")))


class Told(NamedTuple):
    """A finding with its place in the list, and the aggregate that it is about."""

    id: int
    run: str
    aggregate: str
    finding: Finding


class Found(NamedTuple):
    """A page of findings. ``next``: the id to go on behind; None at the end.

    With a text that is searched, ``next`` may be given although nothing was found so far.
    """

    findings: Sequence[Told]
    next: int | None


class Day(NamedTuple):
    """What the runs that were published on one day received and kept, by unit."""

    day: str
    capability: str
    unit: str
    received: int
    kept: int


class Views:
    """The questions, on one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._database = ledger._database  # noqa: SLF001 - of one package
        self.now = ledger._now  # noqa: SLF001 - the same

    def findings(
        self,
        *,
        site: str | None = None,
        code: str | None = None,
        severity: str | None = None,
        aggregate: str | None = None,
        run: str | None = None,
        text: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Found:
        """Findings, the newest first. A text is looked for in places, messages and codes."""
        query = sa.select(*_SHOWN).order_by(_F.id.desc())
        for column, value in ((_F.site, site), (_F.code, code), (_F.severity, severity)):
            if value is not None:
                query = query.where(column == value)
        if run is not None:
            query = query.where(_F.run == run)
        if before is not None:
            query = query.where(_F.id < before)
        if aggregate is not None:
            one = sa.select(runs.c.id).where(runs.c.aggregate == aggregate, runs.c.id == _F.run)
            query = query.where(one.exists())
        if text is None:
            query = query.limit(limit + 1)
            return self._database.read(lambda c: _found(c, query, limit))
        scanned = query.limit(SEARCHED).subquery()
        like = f"%{_escaped(text)}%"
        hit = sa.or_(
            *(scanned.c[n].ilike(like, escape="\\") for n in ("code", "where", "message", "site"))
        )
        found = sa.select(scanned).where(hit).order_by(scanned.c.id.desc()).limit(limit + 1)

        def search(c: sa.Connection) -> Found:
            page = _found(c, found, limit)
            if page.next is not None:
                return page
            count, last = c.execute(sa.select(sa.func.count(), sa.func.min(scanned.c.id))).one()
            return Found(page.findings, last if count == SEARCHED else None)

        return self._database.read(search)

    def codes(self) -> list[str]:
        """Every code of a finding, each found by one step through the index."""
        return self._database.read(lambda c: _distinct(c, _F.code))

    def sites(self) -> list[str]:
        """Every site that contributed, or that anything was found about."""

        def work(c: sa.Connection) -> list[str]:
            return sorted({*_distinct(c, contributions.c.site), *_distinct(c, _F.site)} - {""})

        return self._database.read(work)

    def standings(self) -> list[Standing]:
        """How each aggregate stands, by name."""
        return self._database.read(standing.standings)

    def cells(self, names: Collection[str], site: str | None = None) -> list[Cell]:
        """What each site, or one, gave to some aggregates, or was told about them."""
        return self._database.read(lambda c: standing.cells(c, names, site))

    def wholes(self, names: Collection[str], runs: int) -> dict[str, Whole]:
        """All that is told of some aggregates, with so many of their newest runs each."""
        now = self.now()
        return self._database.read(lambda c: standing.wholes(c, names, runs, now))

    def days(self, days: int) -> list[Day]:
        """What runs published on each of the last days: tables as a whole, others what was new."""
        since = f"{self.now() - timedelta(days=days - 1):%Y%m%d}"
        day = sa.func.substr(runs.c.id, 1, 8)
        capability = sa.func.substr(runs.c.aggregate, 1, 4)  # tabl, expo, stud, imag, arra
        sums = (sa.func.sum(accounts.c.received), sa.func.sum(accounts.c.kept))
        query = (
            sa.select(day, capability, accounts.c.unit, *sums)
            .select_from(runs.join(accounts, accounts.c.run == runs.c.id))
            .where(runs.c.id >= since, runs.c.state == "published")
            .group_by(day, capability, accounts.c.unit)
            .order_by(day, capability, accounts.c.unit)
        )
        return self._database.read(
            lambda c: [Day(d, k, u, int(r), int(n)) for d, k, u, r, n in c.execute(query)]
        )

    def site_runs(self, site: str, limit: int = 20) -> list[tuple[Run, dict[str, Any]]]:
        """The newest ended runs that have an account of the site, each with its own lines."""
        a = accounts.c
        names = ("part", "unit", "received", "kept", "dropped", "quarantined")

        def work(c: sa.Connection) -> list[tuple[Run, dict[str, Any]]]:
            newest = sa.select(a.run).where(a.site == site).distinct().order_by(a.run.desc())
            ids = list(c.scalars(newest.limit(limit)))
            rows = c.execute(
                sa.select(a.run, *(a[name] for name in names))
                .where(a.run.in_(ids), a.site == site)
                .order_by(a.part, a.unit)
            )
            lines: dict[str, list[dict[str, Any]]] = {}
            for run, *values in rows:
                lines.setdefault(run, []).append(dict(zip(names, values, strict=True)))
            wanted = sa.select(runs).where(runs.c.id.in_(ids), runs.c.finished_at.is_not(None))
            return [
                (run_rows.to_run(row), {"lines": lines[row.id]})
                for row in c.execute(wanted.order_by(runs.c.id.desc()))
            ]

        return self._database.read(work)

    def uploads(self, site: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """The newest uploads that were asked for, of one site or of all."""
        u = uploads.c
        query = sa.select(uploads).order_by(u.opened_at.desc()).limit(limit)
        if site is not None:
            query = query.where(u.site == site)
        return self._database.read(
            lambda c: [dict(row._mapping) for row in c.execute(query)]  # noqa: SLF001 - public name
        )

    def moves(self, run: str, limit: int = 100) -> list[tuple[str, str, Transition]]:
        """What the run's publication made of contributions: site, name and transition."""
        t = transitions.c

        def work(c: sa.Connection) -> list[tuple[str, str, Transition]]:
            row = c.execute(sa.select(runs).where(runs.c.id == run)).first()
            if row is None or row.finished_at is None:
                return []
            joined = transitions.join(contributions, contributions.c.id == t.contribution)
            query = (
                sa.select(contributions.c.site, contributions.c.name, transitions)
                .select_from(joined)
                .where(contributions.c.aggregate == row.aggregate, t.run == run)
                .order_by(t.id)
                .limit(limit)
            )
            return [
                (r.site, r.name, Transition(r.contribution, r.at, r.was, r.to, r.reason, r.run))
                for r in c.execute(query)
            ]

        return self._database.read(work)

    def snapshot_of_run(self, run: Run) -> int | None:
        """The number of the snapshot that the run published."""
        s = snapshots.c
        query = sa.select(s.number).where(s.aggregate == run.aggregate, s.run == run.id)
        return self._database.read(lambda c: c.scalar(query))


def of_snapshots(found: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Snapshots as lists show them."""
    return [
        {
            "number": one.number,
            "run": one.run,
            "published_at": one.published_at.isoformat(),
            "expired_at": one.expired_at.isoformat() if one.expired_at else None,
            "sealed": one.sealed,
            "location": one.location,
        }
        for one in found
    ]


def _found(c: sa.Connection, query: sa.Select[Any], limit: int) -> Found:
    rows = c.execute(query).all()
    names = {row.run for row in rows}
    of = sa.select(runs.c.id, runs.c.aggregate).where(runs.c.id.in_(names))
    where = {run: aggregate for run, aggregate in c.execute(of)}  # noqa: C416 - rows are no pairs
    told = [
        Told(
            row.id,
            row.run,
            where[row.run],
            Finding(row.site, Severity(row.severity), row.code, row[5], row.message, row.hint),
        )
        for row in rows
    ]
    return Found(told[:limit], told[limit - 1].id if len(told) > limit else None)


def _distinct(c: sa.Connection, column: Any) -> list[str]:
    """The values of an indexed column, each by one step behind the one before."""
    least = sa.select(sa.func.min(column)).scalar_subquery()
    steps = sa.select(least.label("value")).cte("steps", recursive=True)
    after = sa.select(sa.func.min(column)).where(column > steps.c.value).scalar_subquery()
    steps = steps.union_all(sa.select(after).where(steps.c.value.is_not(None)))
    return [value for value in c.scalars(sa.select(steps.c.value)) if value is not None]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
