"""Collection: what crashed or abandoned runs left behind is removed, and nothing else.

An object that nobody names may be named the next moment: keys that follow from the content are
used again by whoever has the same content. So an aggregate's orphans are found *and removed* while
its lease is held, and the lease is looked at again whenever some seconds have passed: a collector
that was paused stops where it was taken over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from catchment.core import scratch
from catchment.core.capability import NAMES, load
from catchment.core.errors import Conflict
from catchment.core.ledger import Ledger, leases
from catchment.core.store import Stat
from catchment.core.workspace import Workspace

LEASE = timedelta(seconds=60)
_LOOK = 5.0  # seconds from one look at the lease to the next


class Collected(NamedTuple):
    """What was removed, or would be: keys of objects, and how many interrupted writes."""

    objects: list[str]
    interrupted: int


def collect(workspace: Workspace, grace: timedelta, *, dry_run: bool = False) -> Collected:
    """Remove the orphans of all aggregates that are older than the grace time.

    An aggregate that a run is at work on is passed over. A dry run removes and writes nothing.
    """
    objects: list[str] = []
    for name in NAMES:
        for key in load(name).orphans(workspace, grace=grace, dry_run=dry_run):
            objects.append(key)
            if not dry_run:
                workspace.store.delete(key)
    left = scratch.sweep(dry_run=dry_run)
    return Collected(objects, workspace.store.sweep(grace, dry_run=dry_run) + left)


def under_lease(
    ledger: Ledger,
    aggregate: str,
    grace: timedelta,
    find: Callable[[], Iterable[Stat]],
    *,
    dry_run: bool = False,
) -> Iterator[str]:
    """Keys of what is found, and older than the grace time, one by one while the lease is held.

    Whoever removes them does so before asking for the next one. None while a run is at work. A dry
    run, which removes none, only looks whether the lease is free.
    """
    youngest = datetime.now(UTC) - grace
    if dry_run:
        lease = ledger.lease(aggregate)
        if lease is None or leases.is_dead(lease.holder):
            yield from (stat.key for stat in find() if stat.modified <= youngest)
        return
    try:
        with ledger.holding(aggregate, ttl=LEASE) as lease:
            found = list(find())
            looked = 0.0
            for stat in found:
                if stat.modified > youngest:
                    continue
                if time.monotonic() - looked > _LOOK:
                    ledger.renew(lease, LEASE)
                    looked = time.monotonic()
                yield stat.key
    except Conflict:
        return  # a run is at work, or took over: what is left is for the next collection
