"""Small things that tests of ledgers are made of: a clock, accounts, publications."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from catchment.core.account import Account, Line
from catchment.core.errors import CatchmentError, Conflict
from catchment.core.finding import Finding, Severity
from catchment.core.ledger import Delivery, Ledger, Move, Publication, Snapshot

AGGREGATE = "tables/nacc"


class ManualClock:
    """A clock that moves when it is told to; in a zone that is not UTC."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 29, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))

    def __call__(self) -> datetime:
        """The time that was set."""
        return self.now

    def advance(self, **by: float) -> None:
        """Let time pass: ``advance(minutes=5)``."""
        self.now += timedelta(**by)


def account(rows: int, *, missing: int = 0) -> Account:
    """An account that balances, but for the missing rows."""
    made = Account()
    balance = made[Line("alpha", "uds", "rows")]
    balance.received, balance.kept = rows + 1 + missing, rows
    balance.dropped["transferred"] = 1
    return made


def finding(site: str = "alpha", where: str = "uds") -> Finding:
    """A finding of a site."""
    return Finding(site, Severity.WARNING, "missing-column", where, "no such column", "add it")


def publication(key: str, **more: Any) -> Publication:
    """A publication with the least that it needs."""
    facts: dict[str, Any] = {
        "aggregate": AGGREGATE,
        "key": key,
        "location": f"{AGGREGATE}/{key}/",
        "provenance": {"tables": {"uds": 3}},
        "account": account(3),
    }
    return Publication(**facts | more)


def prepare(ledger: Ledger, key: str) -> Publication:
    """All that a publication can carry: a run, two new contributions, account, findings."""
    deliveries = [Delivery("alpha", f"{key}/{i}", f"sha256:{i}", 1) for i in (1, 2)]
    run = ledger.start_run(AGGREGATE, {"process": os.getpid()}, key=key)
    found = ledger.receive_many(AGGREGATE, deliveries)
    moves = [Move(one.id, "received", "latest", key) for one in found]
    findings = [finding(where=key)]
    return publication(key, moves=moves, findings=findings, run=run.id)


def step(ledger: Ledger, key: str) -> Snapshot:
    """Prepare and publish; with the same key again, what is left to do of it."""
    return ledger.publish(prepare(ledger, key))


def whole(ledger: Ledger, snapshot: Snapshot) -> bool:
    """Whether every part of a snapshot made by :func:`step` is there."""
    told = ledger.snapshot(AGGREGATE, snapshot.number).provenance["catchment"]["contributions"]
    names = [data["name"] for data in told]
    states = [
        one.state
        for name in names
        for one in ledger.contributions(AGGREGATE, site="alpha", name=name)
    ]
    return (
        names == [f"{snapshot.key}/1", f"{snapshot.key}/2"]
        and states == ["latest", "latest"]
        and ledger.run(snapshot.run).state == "published"
        and ledger.account(snapshot.run) == account(3)
        and ledger.findings(run=snapshot.run) == [finding(where=snapshot.key)]
    )


def unbroken(ledger: Ledger, acknowledged: dict[str, int]) -> list[Snapshot]:
    """Check that snapshots have no gap, one parent, all their parts; and that none was lost."""
    snapshots = ledger.snapshots(AGGREGATE)[::-1]
    assert [s.number for s in snapshots] == list(range(1, len(snapshots) + 1))
    assert [s.parent for s in snapshots] == [None, *range(1, len(snapshots))][: len(snapshots)]
    assert acknowledged.items() <= {s.key: s.number for s in snapshots}.items()
    assert all(whole(ledger, s) for s in snapshots)
    done = {s.run for s in snapshots}
    for run in ledger.runs(limit=100_000):
        half = ledger.account(run.id) != Account() or ledger.findings(run=run.id)
        assert (run.state == "published") == (run.id in done) == bool(half)
    moved = 2 * len(snapshots)
    assert moved == sum(c.contributions for c in ledger.counts(AGGREGATE) if c.state == "latest")
    return snapshots


def everything(ledger: Ledger) -> list[Any]:
    """All that a ledger says."""
    said: list[Any] = [ledger.aggregates(), ledger.counts(), ledger.runs(limit=100_000)]
    for aggregate in ledger.aggregates():
        said += ledger.snapshots(aggregate, provenance=True)
        for one in ledger.contributions(aggregate):
            said.append((one, ledger.history(one.id)))
    for run in ledger.runs(limit=100_000):
        said.append((run.id, list(ledger.account(run.id)), ledger.findings(run=run.id)))
    return said


@contextmanager
def refused(
    kind: str, error: type[CatchmentError] = Conflict, match: str | None = None
) -> Iterator[None]:
    """Expect an error of our tree, of this kind."""
    with pytest.raises(error, match=match) as caught:
        yield
    assert caught.value.kind == kind
