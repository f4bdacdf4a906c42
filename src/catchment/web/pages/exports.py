"""Exports: jobs, live; files, manifest, cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from catchment.core.errors import Conflict, NotFound, Unavailable
from catchment.exports import download, jobs, manifest
from catchment.exports import run as runs
from catchment.exports.jobs import AGGREGATES, Status
from catchment.web.exports import DEFAULT_HOURS
from catchment.web.pages.house import Asked
from catchment.web.pages.route import data, deed, page
from catchment.web.pages.runs import of_run

PAGE = 20
LOOK_SECONDS = 0.5  # between two looks at a job that somebody watches
WATCH_SECONDS = 3600  # after which a page asks again by itself
BEAT_SECONDS = 15.0  # between two signs of life

Job = Annotated[str, Path(max_length=100)]


@page("/exports", "exports.html")
def exports(ask: Asked) -> dict[str, Any]:
    """Every export, with its newest jobs."""
    ledger = ask.workspace.ledger
    names = {name for name in ledger.aggregates() if name.startswith(AGGREGATES)}
    names |= {f"{AGGREGATES}{name}" for name in ask.workspace.settings.exports}
    told = []
    for name in sorted(names):
        found = ledger.runs(name, limit=PAGE)
        told.append({"name": name.partition("/")[2], "jobs": [of_run(one) for one in found]})
    return {"exports": told}


@page("/exports/{job}", "job.html")
def job(ask: Asked, job: Job) -> dict[str, Any]:
    """A job: how far it is, its files, its account."""
    found = jobs.status(ask.workspace.ledger, job)
    return _told(found) | {
        "account": ask.workspace.ledger.account(job).to_json(),
        "may_cancel": ask.visitor.may("operator") and found.state == "running",
        "may_download": ask.visitor.may("steward") and found.state == "published",
        "expires_at": _expires(ask, found).isoformat(),
    }


@data("/exports/{job}/events")
def events(
    ask: Asked,
    job: Job,
    seconds: Annotated[float, Query(gt=0, le=WATCH_SECONDS, allow_inf_nan=False)] = WATCH_SECONDS,
) -> Response:
    """Server-sent events: the job each time that something of it changed, until it ends."""
    first = jobs.status(ask.workspace.ledger, job)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    stream = _watched(ask, first, seconds)
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


@data("/exports/{job}/manifest.json")
def bulk_manifest(ask: Asked, job: Job) -> Response:
    """The manifest of a published job, as FHIR Bulk Data has it."""
    found = _published(ask, job)
    url = str(ask.request.url.replace(query="", fragment=""))
    document = manifest.write(
        found.outputs,
        found.resource_type,
        found.started_at,
        base_url=url.rpartition("/")[0] + "/files/",
        request=url,
    )
    return JSONResponse(document)


@data("/exports/{job}/files/{file}", role="steward")
def file(ask: Asked, job: Job, file: Annotated[str, Path(max_length=200)]) -> Response:
    """One output of a published job: ranges, encodings and expiry as the download API has them."""
    found = jobs.status(ask.workspace.ledger, job)
    until = _expires(ask, found)
    output = download.find(found, file, until, datetime.now(UTC))
    ask.note("export downloaded", f"{found.aggregate}/{output.name}", bytes=output.stored)
    reply = download.serve(ask.workspace.store, found, output, until, ask.request.headers)
    headers = dict(reply.headers) | {"Content-Disposition": f'attachment; filename="{output.name}"'}
    return StreamingResponse(iter(reply.body), reply.status, headers)


@deed("/exports/{job}/cancel", role="operator")
def cancel(ask: Asked, job: Job) -> str:
    """Cancel a job that runs: nothing of it stays."""
    found = jobs.status(ask.workspace.ledger, job)
    if found.state != "running":
        raise Conflict(f"job {found.job} is {found.state}", kind="run-finished")
    with suppress(Unavailable):  # its worker stops by itself, and tidies up
        runs.cancel(
            ask.workspace.store, ask.workspace.ledger, found.aggregate, job=found.job, patience=0
        )
    ask.note("export cancelled", f"{found.aggregate}/{found.job}")
    return f"/exports/{found.job}"


async def _watched(ask: Asked, found: Status, seconds: float) -> AsyncIterator[str]:
    """Events by polling the ledger: whoever works on the job may be another machine."""
    end = asyncio.get_running_loop().time() + seconds
    said, quiet = "", 0.0
    while True:
        text = json.dumps(_told(found))
        if text != said:
            yield f"event: job\ndata: {text}\n\n"
            said, quiet = text, 0.0
        elif quiet >= BEAT_SECONDS:
            yield ": still here\n\n"
            quiet = 0.0
        if found.state != "running" or asyncio.get_running_loop().time() >= end:
            yield "event: end\ndata: {}\n\n"
            return
        await asyncio.sleep(LOOK_SECONDS)
        quiet += LOOK_SECONDS
        visitor = await run_in_threadpool(ask.house.people.session, ask.visitor.token)
        if visitor is None and ask.visitor.token:
            return  # signed out meanwhile
        with suppress(Unavailable):
            found = await run_in_threadpool(jobs.status, ask.workspace.ledger, found.job)


def _told(found: Status) -> dict[str, Any]:
    told = found.to_json()
    return {k: v for k, v in told.items() if k != "location"}


def _published(ask: Asked, job: str) -> Status:
    found = jobs.status(ask.workspace.ledger, job)
    if found.state != "published":
        raise NotFound(f"job {found.job} is {found.state}", kind="not-published")
    return found


def _expires(ask: Asked, found: Status) -> datetime:
    settings = ask.workspace.settings.exports.get(found.aggregate.removeprefix(AGGREGATES))
    return download.expiry(found, settings.expires_hours if settings else DEFAULT_HOURS)
