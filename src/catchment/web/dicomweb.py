"""Sites send DICOM by DICOMweb: STOW-RS (PS3.18, 10.5). What is kept waits for the next run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import anyio
from anyio import from_thread, to_thread
from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse

from catchment.imaging.model import UID
from catchment.imaging.stow import Inbox, response
from catchment.web.related import Parts
from catchment.web.sites import Incoming, Shared, Who, told

PREFIX = "/dicomweb/"
MEDIA = "application/dicom+json"
AT_ONCE = 16  # requests whose bytes come in; more of them wait for their turn

_SENDS = {
    "requestBody": {
        "required": True,
        "content": {"multipart/related": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_TOLD = told(400, 401, 404, 408, 415, 429) | {
    202: {"description": "Some instances are kept; the answer says of each"},
    409: {"description": "No instance is kept; the answer says why"},
}

router = APIRouter(prefix=PREFIX.rstrip("/"), tags=["dicomweb"])
Name = Annotated[str, Path(max_length=64)]
Study = Annotated[str, Path(pattern=f"^{UID.pattern}$")]


@router.post(
    "/{name}/studies", openapi_extra=_SENDS, responses=_TOLD, summary="Store instances (STOW-RS)"
)
async def store(sites: Shared, request: Request, site: Who, name: Name) -> JSONResponse:
    """Each part is a DICOM file. 200: all are kept; they are published by a later run."""
    return await _store(sites, request, site.site, name, "")


@router.post(
    "/{name}/studies/{study}",
    openapi_extra=_SENDS,
    responses=_TOLD,
    summary="Store instances of one study",
)
async def store_study(
    sites: Shared, request: Request, site: Who, name: Name, study: Study
) -> JSONResponse:
    """The same; instances of other studies fail."""
    return await _store(sites, request, site.site, name, study)


async def _store(sites: Shared, request: Request, site: str, name: str, study: str) -> JSONResponse:
    inbox = await to_thread.run_sync(Inbox, sites.workspace, name, site)
    parts = Parts(request.headers.get("content-type", ""), Incoming(request).chunks())
    state = request.app.state
    if not hasattr(state, "dicomweb_turns"):  # it belongs to the event loop
        state.dicomweb_turns = anyio.CapacityLimiter(AT_ONCE)
    sent = await to_thread.run_sync(inbox.keep, _pull(parts), study, limiter=state.dicomweb_turns)
    status, body = response(sent)
    return JSONResponse(body, status, media_type=MEDIA)


def _pull(parts: Parts) -> Iterator[Iterator[bytes]]:
    """The parts, for a thread that stores them."""
    while from_thread.run(parts.another):
        yield _chunks(parts)


def _chunks(parts: Parts) -> Iterator[bytes]:
    while chunk := from_thread.run(parts.read_chunk):
        yield chunk
