"""Do the clocks agree? Leases, signed links and the grace of a collection are measured by them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from catchment.core.doctor_check import Check
from catchment.core.errors import CatchmentError, Corrupt
from catchment.core.ledger import Ledger
from catchment.core.store import Store

SKEW = timedelta(minutes=2)  # that clocks may differ by
REFUSED = timedelta(minutes=15)  # from when on S3 answers no signed request
_NTP = "set the clocks of all machines by NTP; nothing that was published is wrong"


def of_store(store: Store) -> Iterator[Check]:
    """The storage's clock; nothing where that is this machine's."""
    what = "clock of the store"
    before = datetime.now(UTC)
    try:
        told = store.clock()
    except CatchmentError as error:
        yield Check(what, well=True, found=f"it cannot be asked: {error.message}", hint=error.hint)
        return
    if told is None:
        return
    off = told - (before + (datetime.now(UTC) - before) / 2)
    if abs(off) <= SKEW:
        yield Check(what, well=True, found="it agrees with this machine's")
        return
    way = "ahead of" if off > timedelta(0) else "behind"
    ends = "sooner" if off > timedelta(0) else "later"
    found = f"it is {_seconds(abs(off))} {way} this machine's: "
    if abs(off) >= REFUSED:
        found += "S3 refuses all that is signed here"
    else:
        found += f"links and forms that are signed here end so much {ends}"
    yield Check(what, well=False, found=found, hint=_NTP)


def of_ledger(ledger: Ledger) -> str:
    """Leases are compared with clocks: one that is far off takes what another one holds."""
    now = datetime.now(UTC)
    off: list[str] = []
    asked = ledger._database.read(  # noqa: SLF001 - the server's clock is no verb of the ledger
        lambda c: c.scalar(sa.select(sa.func.now())) if c.dialect.name == "postgresql" else None
    )
    if asked is not None and abs(asked - now) > SKEW:
        off.append(f"the database's clock is {_seconds(asked - now)} from this machine's")
    off += [
        f"run {run.id} says that it starts in {_seconds(run.started_at - now)}"
        for run in ledger.runs(limit=1)
        if run.started_at - now > SKEW
    ]
    for aggregate in ledger.aggregates():
        lease = ledger.lease(aggregate)
        if lease is not None and lease.expires_at - now > timedelta(hours=1):
            off.append(f"the lease of {aggregate} ends in {_seconds(lease.expires_at - now)}")
    if off:
        raise Corrupt("; ".join(off), kind="clock-skew", hint=_NTP)
    return "they agree, as far as can be seen"


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():,.0f} s"
