"""Tables: snapshots, shares, drift, differences; rows and files where the settings allow it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Path, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse

from catchment.core.errors import NotFound
from catchment.core.ledger import Snapshot
from catchment.core.ledger.views import of_snapshots
from catchment.tables import browse
from catchment.tables.snapshot import TableSnapshot
from catchment.web.pages.house import Asked, NotForYou
from catchment.web.pages.route import data, page
from catchment.web.pages.runs import totals

PAGE = 20

Name = Annotated[str, Path(max_length=100)]
Number = Annotated[int, Path(ge=1, lt=2**63)]


@page("/tables", "tables.html")
def tables(ask: Asked) -> dict[str, Any]:
    """Every aggregate of tables, with its latest snapshot."""
    ledger = ask.workspace.ledger
    names = {name for name in ledger.aggregates() if name.startswith("tables/")}
    names |= {f"tables/{name}" for name in ask.workspace.settings.tables}
    told = []
    for name in sorted(names):
        latest = ledger.latest(name)
        told.append(
            {
                "name": name.partition("/")[2],
                "snapshot": latest and of_snapshots([latest])[0],
                "tables": browse.tables_of(latest) if latest else [],
            }
        )
    return {"aggregates": told}


@page("/tables/{name}", "table.html", part="snapshots")
def aggregate(
    ask: Asked, name: Name, before: Annotated[int | None, Query(ge=1, lt=2**63)] = None
) -> dict[str, Any]:
    """The snapshots of an aggregate, and what the latest holds."""
    ledger, full = ask.workspace.ledger, f"tables/{name}"
    found = ledger.snapshots(full, before=before, limit=PAGE + 1)
    if not found and name not in ask.workspace.settings.tables:
        raise NotFound("there are no such tables", kind="no-aggregate", hint="catchment status")
    latest = ledger.latest(full)
    return {
        "name": name,
        "snapshots": of_snapshots(found[:PAGE]),
        "next": found[PAGE - 1].number if len(found) > PAGE else None,
        "latest": _snapshot(ask, latest) if latest else None,
    }


@page("/tables/{name}/{number}", "snapshot.html")
def snapshot(ask: Asked, name: Name, number: Number) -> dict[str, Any]:
    """A snapshot: tables, what each center gave, drift, provenance."""
    found = ask.workspace.ledger.snapshot(f"tables/{name}", number)
    return {"name": name} | _snapshot(ask, found)


@page("/tables/{name}/{number}/since/{old}", "difference.html")
def difference(ask: Asked, name: Name, number: Number, old: Number) -> dict[str, Any]:
    """What a snapshot has otherwise than an earlier one."""
    ledger, full = ask.workspace.ledger, f"tables/{name}"
    told = browse.difference(ledger.snapshot(full, old), ledger.snapshot(full, number))
    return {"name": name} | told


@page("/tables/{name}/{number}/rows/{table}", "preview.html", role="steward")
def preview(ask: Asked, name: Name, number: Number, table: Name) -> dict[str, Any]:
    """The first rows of a table, where the settings allow it."""
    most = _allowed(ask)
    found = _open(ask, name, number)[table]
    ask.note("rows looked at", f"tables/{name}/{number}/{table}", rows=most)
    told = {"name": name, "snapshot": number, "table": table}
    return told | browse.rows_of(found, most)


@data("/tables/{name}/{number}/files/{table}.parquet", role="steward")
def download(ask: Asked, name: Name, number: Number, table: Name) -> Response:
    """A table as it was published, where the settings allow it."""
    _allowed(ask)
    found = _open(ask, name, number)[table]
    ask.note("table downloaded", f"tables/{name}/{number}/{table}", bytes=found.size)
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{name}-{number}-{table}.parquet")
    headers = {
        "Content-Length": str(found.size),
        "Content-Disposition": f'attachment; filename="{plain}"',
        "ETag": f'"{found.digest.removeprefix("sha256:")}"',
    }
    kind = "application/vnd.apache.parquet"
    return StreamingResponse(found.store.stream(found.key), media_type=kind, headers=headers)


@data("/tables/{name}/{number}/provenance.json")
def provenance(ask: Asked, name: Name, number: Number) -> Response:
    """The provenance of a snapshot, without the configuration of its run."""
    found = ask.workspace.ledger.snapshot(f"tables/{name}", number)
    document = {k: v for k, v in found.provenance.items() if k != "config"}
    return JSONResponse(document)


def _snapshot(ask: Asked, found: Snapshot) -> dict[str, Any]:
    from catchment.core.account import Account

    account = Account.from_json(found.provenance["catchment"]["account"])
    return {
        "snapshot": of_snapshots([found])[0],
        "parent": found.parent,
        "tables": browse.tables_of(found),
        "totals": totals(account),
        "drift": browse.drift_of(found),
        "skipped": dict(found.provenance["skipped"]),
        "versions": dict(found.provenance["dataset_aggregator"]["latest_versions"]),
        "program": found.provenance["manifest"],
        "preview": ask.visitor.may("steward") and ask.workspace.settings.serve.preview_rows > 0,
    }


def _open(ask: Asked, name: str, number: int) -> TableSnapshot:
    return TableSnapshot(
        ask.workspace.store, ask.workspace.ledger.snapshot(f"tables/{name}", number)
    )


def _allowed(ask: Asked) -> int:
    most = ask.workspace.settings.serve.preview_rows
    if not most:
        raise NotForYou(
            "this workspace does not let its rows be looked at",
            kind="no-preview",
            hint="[serve] preview_rows in catchment.toml allows it",
        )
    return most
