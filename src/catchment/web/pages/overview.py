"""Overview: sites by aggregates, what needs attention, what was published day by day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query

from catchment.core import capability
from catchment.core.ledger.standing import Cell, Standing
from catchment.web.pages.house import Asked
from catchment.web.pages.route import data, page

ROWS = 20  # aggregates of a page, at most
CELLS = 800  # of the matrix, about: each is a look into the ledger
DAYS = 30
_NAMES = {name[:4]: name for name in capability.NAMES}


@page("/", "overview.html")
def overview(
    ask: Asked,
    after: Annotated[int, Query(ge=0, le=100_000, description="Aggregates to pass over.")] = 0,
    only: Annotated[str, Query(max_length=20, description="A capability.")] = "",
) -> dict[str, Any]:
    """Sites by aggregates; those that need attention come first."""
    known = {one.aggregate: one for one in ask.views.standings() if "/" in one.aggregate}
    for name in capability.aggregates(ask.workspace):
        known.setdefault(name, Standing(name, None, None, 0, None, 0, 0))
    shown = [one for one in known.values() if not only or one.aggregate.startswith(f"{only}/")]
    ordered = sorted(shown, key=_urgency)
    rows = max(5, min(ROWS, CELLS // max(1, len(ask.views.sites()))))
    part = ordered[after : after + rows]
    cells = ask.views.cells([one.aggregate for one in part])
    sites = sorted({cell.site for cell in cells})
    return {
        "attention": [_standing(one) for one in ordered if _urgency(one)[0] < _CALM][:10],
        "counts": {
            "aggregates": len(shown),
            "running": sum(1 for one in shown if one.run and one.run.finished_at is None),
            "failed": sum(1 for one in shown if one.ended and one.ended.state == "failed"),
            "errors": sum(one.errors for one in shown),
            "warnings": sum(one.warnings for one in shown),
        },
        "capabilities": sorted({name.partition("/")[0] for name in known}),
        "only": only,
        "sites": sites,
        "aggregates": [_standing(one) for one in part],
        "cells": _table(cells),
        "next": after + rows if len(ordered) > after + rows else None,
        "after": after,
    }


@data("/throughput")
def throughput(ask: Asked, days: Annotated[int, Query(ge=1, le=366)] = DAYS) -> dict[str, Any]:
    """What published runs received and kept, day by day, in each capability's finest unit."""
    found = ask.views.days(days)
    return {
        "days": days,
        "series": [
            one._asdict() | {"capability": _NAMES.get(one.capability, one.capability)}
            for one in found
        ],
    }


_BROKEN, _LATE, _CALM = 0, 1, 2


def _urgency(one: Standing) -> tuple[int, int, int, str]:
    """Failed runs, then errors, then warnings; the rest by name."""
    failed = one.ended is not None and one.ended.state == "failed"
    told = _BROKEN if failed or one.errors else _LATE if one.warnings else _CALM
    return told, -one.errors, -one.warnings, one.aggregate


def _standing(one: Standing) -> dict[str, Any]:
    run = one.run
    return {
        "aggregate": one.aggregate,
        "snapshot": one.snapshot,
        "published_at": one.published_at and one.published_at.isoformat(),
        "run": run and run.id,
        "state": run.state if run else "",
        "started_at": run and run.started_at.isoformat(),
        "error": dict(one.ended.error) if one.ended and one.ended.error else None,
        "ended": one.ended and one.ended.id,
        "errors": one.errors,
        "warnings": one.warnings,
    }


def _table(cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """By aggregate and site."""
    made: dict[str, dict[str, Any]] = {}
    for cell in cells:
        told = cell._asdict() | {"received_at": cell.received_at and cell.received_at.isoformat()}
        made.setdefault(cell.aggregate, {})[cell.site] = {
            k: v for k, v in told.items() if k not in {"aggregate", "site"}
        }
    return made
