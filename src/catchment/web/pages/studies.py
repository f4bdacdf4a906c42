"""Studies: packages, uploads, subscriptions, and charts of what was released."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from fastapi.responses import Response

from catchment.core.errors import Invalid, NotFound
from catchment.core.textfile import guarded, line
from catchment.studies import library, subscribe
from catchment.studies.charts.filters import DEEPEST, OPERATORS, parse
from catchment.studies.check import local
from catchment.studies.model import Package
from catchment.web.guard import status_of
from catchment.web.pages.house import Asked, is_page
from catchment.web.pages.route import data, deed, page

UPLOADS = 20
FINDINGS = 20
_MARKS = {
    "cells": "suppressed cells",
    "sites": "sites that reported",
    "hidden": "sites suppressed",
    "absent": "sites absent",
}

Name = Annotated[str, Path(max_length=100)]
Id = Annotated[str, Path(max_length=255)]
Column = Annotated[str, Query(max_length=200)]
Where = Annotated[str, Query(max_length=20_000, description="Filters as JSON.")]


@page("/studies", "studies.html")
def studies(ask: Asked) -> dict[str, Any]:
    """Studies with their packages, and the uploads of late."""
    found = library.packages(ask.workspace)
    names = sorted({*library.studies(ask.workspace), *ask.workspace.settings.studies})
    return {
        "studies": [
            {
                "study": name,
                "packages": [_package(one) for one in found if one.study == name],
                "min_cell": rules.min_cell,
                "round_to": rules.round_to,
            }
            for name in names
            for rules in [library.settings_of(ask.workspace, name)]
        ],
        "uploads": _uploads(ask),
        "subscriptions": _subscriptions(ask, found),
    }


@page("/studies/{study}", "study.html")
def study(ask: Asked, study: Name) -> dict[str, Any]:
    """One study: packages, who uploaded when, periods, manifests, findings."""
    if study not in {*library.studies(ask.workspace), *ask.workspace.settings.studies}:
        raise NotFound("there is no such study", kind="no-study", hint="/ui/studies")
    catalog = library.catalog(ask.workspace, study)
    told = ask.views.findings(aggregate=f"studies/{study}", limit=FINDINGS)
    return {
        "study": study,
        "snapshot": catalog.snapshot,
        "packages": [_package(one) for one in catalog.packages()],
        "times": [
            {
                "site": one.site,
                "package": one.package,
                "version": f"{one.version:03d}",
                "last_upload": _iso(one.last_upload),
                "last_data_update": _iso(one.last_data_update),
                "last_aggregation": _iso(one.last_aggregation),
                "last_error": _iso(one.last_error),
                "deleted": _iso(one.deleted),
            }
            for _, one in sorted(catalog.times.items())
        ],
        "periods": [
            {
                "site": one.site,
                "version": f"{one.version:03d}",
                "earliest_date": one.earliest_date,
                "latest_date": one.latest_date,
            }
            for one in catalog.periods()
        ],
        "findings": [
            {"id": one.id, "run": one.run} | one.finding.to_json() for one in told.findings
        ],
    }


@page("/charts/{package}", "chart.html")
def chart(  # noqa: PLR0917 - what is charted
    ask: Asked,
    package: Id,
    column: Column = "",
    stratifier: Column = "",
    where: Where = "",
    kind: Annotated[str, Query(pattern="^(bar|line|map)$")] = "bar",
) -> dict[str, Any]:
    """The chart builder: a chart, as its address says; the address makes it again."""
    one = _find(ask, package)
    columns = {name: value.type for name, value in one.columns.items() if not _counts(name)}
    chosen = column or next((name for name in columns if name != "site"), "site")
    told = {
        "package": _package(one),
        "columns": columns,
        "operators": {name: needs for name, (needs, _) in OPERATORS.items()},
        "deepest": DEEPEST,
        "column": chosen,
        "stratifier": stratifier,
        "where": where,
        "kind": kind,
    }
    try:
        made = _chart(ask, one, chosen, stratifier, where)
    except Invalid as error:
        if error.kind == "not-a-cube" or not is_page(ask.request):
            raise
        ask.status = status_of(error)  # of a page that keeps what was asked, to be mended there
        refused = {"message": error.message, "hint": error.hint, "kind": error.kind}
        return told | {"chart": None, "rows": [], "refused": refused}
    return told | {"chart": made, "rows": _rows(made), "refused": None}


@data("/charts/{package}/chart.csv")
def chart_csv(
    ask: Asked, package: Id, column: Column, stratifier: Column = "", where: Where = ""
) -> Response:
    """The same chart as CSV; suppressed cells are empty, and marked; so are rounded ones."""
    one = _find(ask, package)
    told = _chart(ask, one, column, stratifier, where)
    parts = {"part": stratifier} if stratifier else {}
    names = parts | {"value": column, "count": "count"} | _MARKS
    if one.round_to:
        names["round_to"] = "rounded to"
    rows = (row | {"round_to": one.round_to} for row in _rows(told))
    lines = [line([guarded(name) for name in names.values()])]
    lines += [line([guarded(row[name]) for name in names]) for row in rows]
    headers = {"Content-Disposition": 'attachment; filename="chart.csv"'}
    return Response("".join(lines), media_type="text/csv; charset=utf-8", headers=headers)


@deed("/studies/subscriptions/crawl", role="operator")
def crawl(ask: Asked) -> str:
    """Make every target show what is published now."""
    done = subscribe.crawl(ask.workspace)
    ask.note("subscriptions crawled", "", targets=[one.target for one in done])
    return "/studies"


def _chart(ask: Asked, one: Package, column: str, stratifier: str, where: str) -> dict[str, Any]:
    if one.kind != "cube":
        raise Invalid("expected a merged cube to chart, got a flat table", kind="not-a-cube")
    held = ask.house.cache.get(
        one.released.digest,
        lambda: local(ask.workspace.store, one.released.key),
        one.marked,
    )
    filters = parse([], where or None)
    return held.chart(column, stratifier or None, filters, sites=len(one.sites))


def _rows(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Each value of a chart with its own marks: what is hidden of it, and who is in it."""
    gone = {tuple(row[:-1]): row[-1] for row in told["suppressed"]}
    marks = {tuple(row[:-3]): row[-3:] for row in told["marks"]}
    rows = []
    for group in told["data"]:
        part = [group["stratifier"]] if "stratifier" in group else []
        for value, count in group["rows"]:
            place = (*part, value)
            reported, hidden, absent = marks.get(place, (0, 0, told["sites"]))
            row = {"part": part[0] if part else None, "value": value, "count": count}
            row |= {"cells": gone.get(place, 0), "sites": reported, "hidden": hidden}
            rows.append(row | {"absent": absent})
    return rows


def _find(ask: Asked, package: str) -> Package:
    one = library.package(ask.workspace, package)
    if one is not None:
        return one
    raise NotFound("there is no such data package", kind="no-package", hint="/ui/studies")


def _counts(name: str) -> bool:
    return name == "cnt" or name.startswith("cnt_")


def _package(one: Package) -> dict[str, Any]:
    return {
        "id": one.id,
        "study": one.study,
        "name": one.name,
        "version": f"{one.version:03d}",
        "kind": one.kind,
        "site": one.site,
        "sites": list(one.sites),
        "rows": one.rows,
        "total": one.total,
        "min_cell": one.min_cell,
        "round_to": one.round_to,
        "columns": {name: column.type for name, column in one.columns.items()},
        "updated_at": one.updated_at.isoformat(),
    }


def _uploads(ask: Asked) -> list[dict[str, Any]]:
    return [
        {k: row[k] for k in ("site", "user", "study", "network")}
        | {"transaction": row["id"], "opened_at": row["opened_at"].isoformat()}
        for row in ask.views.uploads(limit=UPLOADS)
    ]


def _subscriptions(ask: Asked, found: list[Package]) -> dict[str, Any]:
    targets = [one.name for one in subscribe.targets(ask.workspace)]
    tables = subscribe.registered(ask.workspace) if targets else []
    ids = sorted(one.id for one in tables or [])
    missing = sorted({one.id for one in found} - set(ids)) if targets else []
    return {"targets": targets, "tables": ids, "missing": missing}


def _iso(at: Any) -> str | None:
    return at.isoformat() if at else None
