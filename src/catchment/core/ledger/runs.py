"""Statements about runs, their accounts and their findings."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import batched
from typing import Any

import sqlalchemy as sa

from catchment.core.account import Account, Balance, Line
from catchment.core.errors import Conflict, NotFound
from catchment.core.finding import Finding, Severity
from catchment.core.ledger.contributions import BATCH, declare
from catchment.core.ledger.database import upsert
from catchment.core.ledger.model import Run
from catchment.core.ledger.schema import accounts, findings, runs

RUNNING = "running"
_FINDING = [findings.c[n] for n in ("site", "severity", "code", "where", "message", "hint")]


def new_id(at: datetime) -> str:
    """An id that sorts by time, is unique, and may be part of an object's key."""
    return f"{at:%Y%m%d-%H%M%S-%f}-{secrets.token_hex(4)}"


def start(c: sa.Connection, run: Run) -> Run:
    """The run as it stands: the new one, or the one that its key or id already started."""
    declare(c, run.aggregate)
    new = upsert(c, runs).on_conflict_do_nothing().returning(runs.c.id)
    if c.scalar(new, _row(run)) is not None:
        return run
    same = runs.c.id == run.id if run.key is None else runs.c.key == run.key
    there = sa.select(runs).where(runs.c.aggregate == run.aggregate, same)
    return to_run(c.execute(there).one())


def put(c: sa.Connection, run: Run) -> None:
    """Make the run what is given, whether it is there or not."""
    row = _row(run)
    c.execute(upsert(c, runs).on_conflict_do_update(index_elements=["id"], set_=row), row)


def get(c: sa.Connection, run: str) -> Run:
    """The run, held until the transaction ends; NotFound if there is none."""
    query = sa.select(runs).where(runs.c.id == run).with_for_update(key_share=True)
    row = c.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"run {run} is not in this ledger", kind="no-run", hint="catchment status")
    return to_run(row)


def running(run: Run) -> Run:
    """The run, if it may still be written to; Conflict if it is finished."""
    if run.state != RUNNING:
        raise Conflict(
            f"run {run.id} is {run.state}: expected one that is {RUNNING}",
            kind="run-finished",
            hint="start a new run",
        )
    return run


def finish(
    c: sa.Connection, run: str, state: str, error: Mapping[str, str] | None, at: datetime
) -> Run:
    """End the run; it is no error if it has ended in this state already."""
    ends = sa.update(runs).where(runs.c.id == run, runs.c.state == RUNNING)
    row = c.execute(
        ends.values(state=state, finished_at=at, error=error).returning(*runs.columns)
    ).one_or_none()
    if row is not None:
        return to_run(row)
    found = get(c, run)
    return found if found.state == state else running(found)


def newest(
    c: sa.Connection, aggregate: str | None, state: str | None, before: str | None, limit: int
) -> list[Run]:
    """Runs in falling order of id, which is the order of their starts."""
    query = sa.select(runs).order_by(runs.c.id.desc()).limit(limit)
    if aggregate is not None:
        query = query.where(runs.c.aggregate == aggregate)
    if state is not None:
        query = query.where(runs.c.state == state)
    if before is not None:
        query = query.where(runs.c.id < before)
    return [to_run(r) for r in c.execute(query)]


def set_account(c: sa.Connection, run: str, account: Account, *, anew: bool = False) -> None:
    """Make this the account of the run; one that is made ``anew`` has none yet."""
    if not anew:
        c.execute(sa.delete(accounts).where(accounts.c.run == run))
    rows = [{"run": run, **line} for line in account.to_json()]
    if rows:
        c.execute(sa.insert(accounts), rows)


def account(c: sa.Connection, run: str) -> Account:
    """The account of the run, empty if none was recorded."""
    balances = {
        Line(r.site, r.part, r.unit): Balance(
            r.received, r.kept, Counter(r.dropped), Counter(r.quarantined)
        )
        for r in c.execute(sa.select(accounts).where(accounts.c.run == run))
    }
    return Account(balances)


def add_findings(c: sa.Connection, run: str, new: Iterable[Finding]) -> None:
    """Add findings to the run; what it has said already is not said again."""
    rows = [{"run": run, "digest": _digest(data), **data} for data in (f.to_json() for f in new)]
    if rows:
        c.execute(upsert(c, findings).on_conflict_do_nothing(), rows)


def listed(
    c: sa.Connection,
    run: str | None = None,
    aggregate: str | None = None,
    site: str | None = None,
    limit: int | None = None,
) -> list[Finding]:
    """Findings, the newest run's first, each run's as recorded."""
    query = sa.select(*_FINDING).order_by(findings.c.run.desc(), findings.c.id).limit(limit)
    if run is not None:
        query = query.where(findings.c.run == run)
    if aggregate is not None:
        query = query.join(runs).where(runs.c.aggregate == aggregate)
    if site is not None:
        query = query.where(findings.c.site == site)
    return [Finding(r[0], Severity(r[1]), *r[2:]) for r in c.execute(query)]


def of_ids(c: sa.Connection, ids: Iterable[str]) -> list[Run]:
    """Runs by their ids, the newest first."""
    found = [
        to_run(row)
        for some in batched(ids, BATCH)
        for row in c.execute(sa.select(runs).where(runs.c.id.in_(some)))
    ]
    return sorted(found, key=lambda run: run.id, reverse=True)


def findings_of(c: sa.Connection, ids: Iterable[str]) -> Iterator[tuple[str, Finding]]:
    """Findings of many runs, each with its run, each run's as recorded."""
    query = sa.select(findings.c.run, *_FINDING).order_by(findings.c.run, findings.c.id)
    for some in batched(ids, BATCH):
        for run, site, severity, *more in c.execute(query.where(findings.c.run.in_(some))):
            yield run, Finding(site, Severity(severity), *more)


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _row(run: Run) -> dict[str, Any]:
    return {column.name: getattr(run, column.name) for column in runs.columns}


def to_run(row: Any) -> Run:
    """The record of a row."""
    return Run(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for a row as a mapping
