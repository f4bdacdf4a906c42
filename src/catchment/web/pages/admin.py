"""For operators: who may look, and who did what."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from catchment.core.ledger.access import Access
from catchment.web.pages.house import Asked
from catchment.web.pages.route import page

PAGE = 100


@page("/people", "people.html", role="operator")
def people(ask: Asked) -> dict[str, Any]:
    """Users of the workspace and of sites; they are made by ``catchment user`` and ``site``."""
    return {
        "people": [
            {
                "user": one.user,
                "role": one.role,
                "site": one.site,
                "created_at": one.created_at.isoformat(),
            }
            for one in ask.house.people.listed()
        ],
        "sites": [
            {"user": one.user, "site": one.site, "created_at": one.created_at.isoformat()}
            for one in Access(ask.workspace.ledger).users()
        ],
    }


@page("/audit", "audit.html", part="rows", role="operator")
def audit(
    ask: Asked, before: Annotated[int | None, Query(ge=0, lt=2**63)] = None
) -> dict[str, Any]:
    """The audit log, the latest first."""
    found = ask.house.people.deeds(before=before, limit=PAGE + 1)
    return {
        "deeds": [
            {k: v for k, v in one._asdict().items() if k != "at"} | {"at": one.at.isoformat()}
            for one in found[:PAGE]
        ],
        "next": found[PAGE - 1].id if len(found) > PAGE else None,
    }
