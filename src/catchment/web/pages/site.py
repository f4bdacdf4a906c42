"""The view of one site: its own contributions, accounts, findings and uploads, nobody else's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query

from catchment.core.errors import NotFound
from catchment.core.ledger.access import SITE
from catchment.core.ledger.uploads import Uploads
from catchment.studies import arrivals, quality
from catchment.web.pages.house import Asked
from catchment.web.pages.route import page
from catchment.web.pages.runs import of_finding, of_run

PAGE = 50

Before = Annotated[int | None, Query(ge=0, lt=2**63)]


@page("/site", "site.html", role=SITE)
def own(ask: Asked, before: Before = None) -> dict[str, Any]:
    """What the site that is signed in gave, and what became of it."""
    return _of(ask, ask.visitor.site, before)


@page("/site/uploads/{transaction}", "upload.html", role=SITE)
def upload(ask: Asked, transaction: Annotated[str, Path(max_length=64)]) -> dict[str, Any]:
    """What became of an upload of this site, file by file."""
    uploads = Uploads(ask.workspace.ledger, ask.workspace.settings.serve.idle)
    told = dict(arrivals.show(ask.workspace, uploads, transaction, ask.visitor.site))
    for part in told["uploads"]:
        part["files"] = [
            one | {"differences": quality.words(one["quality"])} for one in part["files"]
        ]
    return told


@page("/sites", "sites.html")
def sites(ask: Asked) -> dict[str, Any]:
    """Every site that gave anything."""
    return {"sites": ask.views.sites()}


@page("/sites/{site}", "site.html")
def any_site(
    ask: Asked, site: Annotated[str, Path(max_length=100)], before: Before = None
) -> dict[str, Any]:
    """The same for the people of the workspace, for any site."""
    if site not in ask.views.sites():
        raise NotFound("there is no such site", kind="no-site", hint="/ui/sites")
    return _of(ask, site, before)


def _of(ask: Asked, site: str, before: int | None) -> dict[str, Any]:
    found = ask.views.findings(site=site, before=before, limit=PAGE)
    names = [one for one in ask.workspace.ledger.aggregates() if "/" in one]
    cells = ask.views.cells(names, site)
    return {
        "site": site,
        "own": ask.visitor.role == SITE,
        "aggregates": [
            one._asdict() | {"received_at": one.received_at and one.received_at.isoformat()}
            for one in cells
        ],
        "runs": [of_run(run) | told for run, told in ask.views.site_runs(site)],
        "findings": [of_finding(one) for one in found.findings],
        "next": found.next,
        "uploads": [
            {"transaction": row["id"], "study": row["study"], "user": row["user"]}
            | {"opened_at": row["opened_at"].isoformat()}
            for row in ask.views.uploads(site)
        ],
    }
