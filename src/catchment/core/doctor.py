"""Is a workspace sound? The checks of ``catchment doctor``; they change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from catchment.core.errors import CatchmentError, Corrupt
from catchment.core.ledger import provenance
from catchment.core.provenance import NAME, dumps, read_all
from catchment.core.workspace import Workspace


class Check(NamedTuple):
    """One thing that was looked at, whether it is well, what was found and what to do about it."""

    what: str
    well: bool
    found: str
    hint: str = ""


def examine(workspace: Workspace) -> Iterator[Check]:
    """Look at the store, the ledger, and the latest snapshot of each aggregate."""
    yield _check("store", partial(_store, workspace))
    ledger = _check("ledger", partial(_ledger, workspace))
    yield ledger
    for aggregate in workspace.ledger.aggregates() if ledger.well else ():
        yield _check(aggregate, partial(_latest, workspace, aggregate))


def lacking(workspace: Workspace) -> int:
    """Snapshots that the store describes and the ledger does not know: what a rebuild adds."""
    told = [provenance.read(document).snapshot for document in read_all(workspace.store)]
    if not workspace.has_ledger:
        return len(told)
    ledger = workspace.ledger
    known = {(a, s.number) for a in ledger.aggregates() for s in ledger.snapshots(a)}
    return sum((s.aggregate, s.number) not in known for s in told)


def _check(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, well=True, found=look())
    except CatchmentError as error:
        return Check(what, well=False, found=error.message, hint=error.hint)


def _store(workspace: Workspace) -> str:
    next(workspace.store.folders(), None)
    return f"{workspace.store.url} can be read"


def _ledger(workspace: Workspace) -> str:
    return f"{len(workspace.ledger.aggregates())} aggregates"


def _latest(workspace: Workspace, aggregate: str) -> str:
    snapshot = workspace.ledger.latest(aggregate)
    if snapshot is None:
        return "nothing is published yet"
    if not snapshot.sealed:
        return f"snapshot {snapshot.number}; the next run writes its provenance"
    if workspace.store.read(snapshot.location + NAME) != dumps(snapshot.provenance):
        raise Corrupt(
            f"{snapshot.location}{NAME} is not what the ledger says of snapshot {snapshot.number}",
            kind="provenance-differs",
            hint="restore the object from a backup",
        )
    return f"snapshot {snapshot.number}, with its provenance"
