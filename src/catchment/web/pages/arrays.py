"""Arrays: stores, partitions, sessions, signals; withdrawal."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query

from catchment.arrays import browse
from catchment.arrays.stack import Stack, withdraw
from catchment.arrays.transform.sinks import below
from catchment.core.errors import NotFound
from catchment.core.store import Store
from catchment.web.pages.house import Asked
from catchment.web.pages.route import data, deed, page

PAGE = 50

Name = Annotated[str, Path(max_length=100)]
Key = Annotated[str, Path(max_length=255)]
Label = Annotated[str, Path(max_length=255)]
Share = Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)]


@page("/arrays", "arrays.html")
def arrays(ask: Asked) -> dict[str, Any]:
    """Every folder of stores: partitions, sessions, how long sessions are."""
    ledger, told = ask.workspace.ledger, []
    names = {n.partition("/")[2] for n in ledger.aggregates() if n.startswith("arrays/")}
    for name in sorted(names | set(ask.workspace.settings.arrays)):
        latest = ledger.latest(f"arrays/{name}")
        folder = browse.folder_of(ask.workspace, name)
        told.append(
            {
                "name": name,
                "snapshot": latest.number if latest else None,
                "published_at": latest.published_at.isoformat() if latest else None,
                "partitions": browse.partitions(folder),
            }
        )
    return {"aggregates": told}


@page("/arrays/{name}/{store}", "sessions.html", part="rows")
def sessions(
    ask: Asked, name: Name, store: Key, after: Annotated[int, Query(ge=-1, le=2**31)] = -1
) -> dict[str, Any]:
    """The sessions of a store."""
    return {"name": name} | browse.sessions(_folder(ask, name), store, after, PAGE)


@page("/arrays/{name}/{store}/sessions/{session}", "session.html", role="steward")
def session(ask: Asked, name: Name, store: Key, session: Label) -> dict[str, Any]:
    """One session, with what of it can be drawn."""
    told = browse.session(_folder(ask, name), store, session)
    ask.note("session looked at", f"arrays/{name}/{store}/{session}")
    return {"name": name, "may_withdraw": ask.visitor.may("operator")} | told


@data("/arrays/{name}/{store}/sessions/{session}/signal", role="steward")
def signal(  # noqa: PLR0917 - what is looked at
    ask: Asked,
    name: Name,
    store: Key,
    session: Label,
    variable: Annotated[str, Query(max_length=100)],
    start: Share = 0.0,
    stop: Share = 1.0,
    first: Annotated[int, Query(ge=0, le=100_000)] = 0,
    points: Annotated[int, Query(ge=10, le=browse.MOST_POINTS)] = 600,
) -> dict[str, Any]:
    """The least and the greatest of each stretch of a signal, channel by channel."""
    part = browse.Part(variable, start, stop, first, points)
    return browse.signal(_folder(ask, name), store, session, part)


@deed("/arrays/{name}/{store}/sessions/{session}/withdraw", role="operator")
def take_out(ask: Asked, name: Name, store: Key, session: Label) -> str:
    """Withdraw a session: its chunks are deleted, a tombstone stays."""
    folder = _folder(ask, name)
    browse.session(folder, store, session)  # NotFound before anything is written
    # With the lease that runs of the transform hold, so that neither meets the other's half.
    stack = Stack(below(folder, store), ask.workspace.ledger, f"arrays/{name}")
    _, chunks = withdraw(stack, session)
    ask.note("session withdrawn", f"arrays/{name}/{store}/{session}", chunks=chunks)
    return f"/arrays/{name}/{store}"


def _folder(ask: Asked, name: str) -> Store:
    known = name in ask.workspace.settings.arrays
    if not known and f"arrays/{name}" not in ask.workspace.ledger.aggregates():
        raise NotFound("there are no such arrays", kind="no-aggregate", hint="catchment status")
    return browse.folder_of(ask.workspace, name)
