"""Statements about leases. The row of an aggregate holds its lease and is the queue of writers."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa

from catchment.core import process
from catchment.core.errors import CatchmentError, Conflict, Unavailable
from catchment.core.ledger.contributions import declare
from catchment.core.ledger.model import Lease
from catchment.core.ledger.schema import aggregates


def this_process() -> str:
    """A new name of a holder: host, process and its start, and what no other holder has."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{process.started(pid)}@{_table()}:{secrets.token_hex(4)}"


def is_dead(holder: str) -> bool:
    """Whether the holder was a process of this machine, and is no more."""
    match holder.split(":"):
        case [_, pid, start, _] if _table() and start.endswith("@" + _table()):
            return start != f"{process.started(int(pid))}@{_table()}"
    return False


@cache
def _table() -> str:
    return process.table() and hashlib.sha256(process.table().encode()).hexdigest()[:12]


@contextmanager
def renewing(renew: Callable[[], object], aggregate: str, every: timedelta) -> Iterator[None]:
    """Renew a lease from a thread while the block runs, unless it is lost."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(every.total_seconds()):
            try:
                renew()
            except Unavailable:
                continue
            except CatchmentError:
                return  # whoever publishes meets it too, and can say so

    thread = threading.Thread(target=keep, name=f"lease of {aggregate}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def lock(c: sa.Connection, aggregate: str) -> Any:
    """The aggregate's row, held until the transaction ends (SQLite holds the whole file anyway)."""
    query = sa.select(aggregates).where(aggregates.c.name == aggregate)
    query = query.with_for_update(key_share=True)
    row = c.execute(query).one_or_none()
    if row is None:
        declare(c, aggregate)
        row = c.execute(query).one()
    return row


def acquire(
    c: sa.Connection,
    aggregate: str,
    holder: str,
    *,
    ttl: timedelta,
    now: datetime,
    ours: Collection[int],
) -> Lease:
    """The lease with the next fence, unless somebody's is still good, who is not seen to be dead.

    A fence in ``ours`` was asked for by this very call, whose answer was lost.
    """
    row = lock(c, aggregate)
    if row.holder == holder and row.fence in ours:
        return Lease(aggregate, holder, row.fence, row.expires_at)
    if row.holder is not None and row.expires_at > now and not is_dead(row.holder):
        raise Conflict(
            f"{aggregate}: {row.holder} holds the lease until {row.expires_at:%Y-%m-%d %H:%M:%SZ}",
            kind="lease-held",
            hint=f"catchment status {aggregate}",
        )
    lease = Lease(aggregate, holder, row.fence + 1, now + ttl)
    _set(c, aggregate, holder=holder, fence=lease.fence, expires_at=lease.expires_at)
    return lease


def current(c: sa.Connection, aggregate: str, now: datetime) -> Lease | None:
    """The lease that is good now."""
    query = sa.select(aggregates).where(
        aggregates.c.name == aggregate, aggregates.c.expires_at > now
    )
    row = c.execute(query).one_or_none()
    return Lease(aggregate, row.holder, row.fence, row.expires_at) if row else None


def check(row: Any, lease: Lease) -> None:
    """Conflict unless the lease is the aggregate's last; expired but not taken over is good."""
    if (row.holder, row.fence) != (lease.holder, lease.fence):
        raise Conflict(
            f"{lease.aggregate}: the lease of {lease.holder} with fence {lease.fence} is lost, "
            f"got {row.holder or 'no holder'} with fence {row.fence}",
            kind="lease-lost",
            hint="nothing was published; run the same command again",
        )


def renew(c: sa.Connection, lease: Lease, expires_at: datetime) -> Lease:
    """The same lease with a later end."""
    check(lock(c, lease.aggregate), lease)
    _set(c, lease.aggregate, expires_at=expires_at)
    return replace(lease, expires_at=expires_at)


def release(c: sa.Connection, lease: Lease) -> None:
    """Give it back, if it is still ours; the fence stays, so that the next one is greater."""
    row = lock(c, lease.aggregate)
    if (row.holder, row.fence) == (lease.holder, lease.fence):
        _set(c, lease.aggregate, holder=None, expires_at=None)


def _set(c: sa.Connection, aggregate: str, **values: Any) -> None:
    c.execute(sa.update(aggregates).where(aggregates.c.name == aggregate).values(values))
