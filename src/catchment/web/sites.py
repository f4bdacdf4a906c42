"""The site API: a form for an upload, the form's endpoint for local stores, and what became of it.

Wire compatible with the public upload client: ``POST /`` answers with a form, the form is sent with
the file, and 204 says that it has arrived.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any

import anyio
from anyio import from_thread, to_thread
from fastapi import APIRouter, Depends, Header, Path, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBasicCredentials

from catchment.core import strictjson
from catchment.core.errors import CatchmentError, Conflict, Invalid
from catchment.core.ledger.uploads import Uploads
from catchment.core.workspace import Workspace
from catchment.studies import arrivals, forms
from catchment.web.login import Login, Site, basic
from catchment.web.multipart import Form, bad

FORM_PATH = "/uploads/form"
SILENCE = 60.0  # seconds without a byte, after which a sender is taken for dead
AT_ONCE = 200  # uploads whose bytes come in; more of them wait for their turn

_FORM = {
    "type": "object",
    "required": ["study", "filename"],
    "properties": {
        "study": {"type": "string"},
        "filename": {"type": "string"},
        "data_package_version": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    },
}
_SENT = {
    "type": "object",
    "required": ["key", "policy", "signature", "file"],
    "properties": {
        "key": {"type": "string"},
        "policy": {"type": "string"},
        "signature": {"type": "string"},
        "file": {"type": "string", "format": "binary"},
    },
}


def _told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides its result, for the OpenAPI document."""
    words = {
        400: "The request is malformed",
        401: "No good credentials",
        404: "Unknown",
        408: "No byte came for too long",
        409: "Used, expired, or busy",
        412: "A previous upload of the study is being processed",
        413: "Too large",
        429: "Too many failed logins",
        503: "Try again later",
    }
    return {status: {"description": words[status]} for status in statuses}


def router(workspace: Workspace, login: Login, arrived: Callable[[], None]) -> APIRouter:
    """The routes.

    Args:
        workspace: whose sites upload.
        login: tells who asks.
        arrived: called when an upload has arrived here, to have it processed.
    """
    settings = workspace.settings.serve
    uploads = Uploads(workspace.ledger, settings.idle)
    limiter: list[anyio.CapacityLimiter] = []  # one for each event loop, of which there is one
    api = APIRouter(tags=["sites"])

    def who(
        request: Request, credentials: Annotated[HTTPBasicCredentials | None, Depends(basic)]
    ) -> Site:
        return login.site(request, credentials)

    Who = Annotated[Site, Depends(who)]  # noqa: N806 - a type
    Transaction = Annotated[str | None, Header(alias="transaction-id")]  # noqa: N806 - the same

    async def body(request: Request) -> bytes:
        return await request.body()

    Body = Annotated[bytes, Depends(body)]  # noqa: N806 - the same

    def offer(
        request: Request, site: Site, body: bytes, transaction: str | None, network: str
    ) -> Response:
        try:
            wanted = forms.read_request(_json(body))
            made = forms.offer(
                workspace.store,
                uploads,
                wanted,
                site=site.site,
                user=site.user,
                transaction=forms.check_transaction(transaction),
                network=network,
                url=f"{settings.base_url.rstrip('/') or str(request.base_url)[:-1]}{FORM_PATH}",
                max_bytes=settings.max_upload << 20,
            )
        except Invalid as error:
            return _said(400, error)
        except Conflict as error:
            return _said(412, error)
        return JSONResponse(
            {"url": made.form.url, "fields": made.form.fields},
            headers={"transaction-id": made.transaction},
        )

    extra = {"requestBody": {"content": {"application/json": {"schema": _FORM}}, "required": True}}
    statuses = _told(400, 401, 412, 429, 503)

    @api.post("/", openapi_extra=extra, responses=statuses, summary="Ask for a form to upload")
    def ask(request: Request, site: Who, body: Body, transaction: Transaction = None) -> Response:
        return offer(request, site, body, transaction, "")

    sent = {"requestBody": {"content": {"multipart/form-data": {"schema": _SENT}}}}

    @api.post(
        FORM_PATH,
        status_code=204,
        openapi_extra=sent,
        responses=_told(400, 404, 408, 409, 413, 503),
        summary="Send a file with its form",
    )
    async def receive(request: Request) -> Response:
        if not limiter:
            limiter.append(anyio.CapacityLimiter(AT_ONCE))
        body = _Body(request)
        form = Form(request.headers.get("content-type", ""), body.chunks())
        fields = await form.read_fields()
        entry = await to_thread.run_sync(forms.Entry, workspace.store, uploads, fields)
        try:
            if body.length > entry.max_bytes + _overhead():
                raise forms.too_large(entry.max_bytes)
            await to_thread.run_sync(entry.receive, _pull(form), limiter=limiter[0])
        except CatchmentError as error:
            end = entry.refuse if error.kind == "upload-too-large" else lambda _: entry.give_up()
            await to_thread.run_sync(end, error)
            raise
        except BaseException:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(entry.give_up)
            raise
        arrived()
        return Response(status_code=204)

    @api.get(
        "/uploads/{transaction}",
        responses=_told(401, 404, 429, 503),
        summary="What became of an upload: each file, accepted or refused, and why",
    )
    def show(site: Who, transaction: Annotated[str, Path(max_length=64)]) -> JSONResponse:
        return JSONResponse(arrivals.show(workspace, uploads, transaction, site.site))

    @api.post("/{network}", openapi_extra=extra, responses=statuses, summary="The same, by network")
    def ask_by_network(
        request: Request, site: Who, body: Body, network: str, transaction: Transaction = None
    ) -> Response:
        return offer(request, site, body, transaction, network)

    return api


class _Body:
    """The bytes of a request, as long as they keep coming."""

    def __init__(self, request: Request) -> None:
        self._request = request
        text = request.headers.get("content-length", "")
        self.length = int(text) if text.isdecimal() and len(text) < 19 else 0

    async def chunks(self) -> AsyncIterator[bytes]:
        stream = self._request.stream()
        while True:
            try:
                with anyio.fail_after(SILENCE):
                    chunk = await anext(stream, None)
            except TimeoutError:
                raise Silent(
                    f"no byte came for {SILENCE:.0f} s", hint="ask again, and send it again"
                ) from None
            if chunk is None:
                return
            if chunk:
                yield chunk


class Silent(CatchmentError):
    """A sender that sends no more."""

    kind = "sender-silent"
    status_code = 408


def _pull(form: Form) -> Iterator[bytes]:
    """The chunks of the file, for a thread that stores them."""
    while chunk := from_thread.run(form.read_chunk):
        yield chunk


def _overhead() -> int:
    return 1 << 20  # of a form around its file


def _json(body: bytes) -> Any:
    try:
        return strictjson.loads(body)
    except ValueError:
        raise Invalid("expected JSON", kind="bad-request") from None


def _said(status: int, error: CatchmentError) -> JSONResponse:
    """The public client prints the JSON that it is given: a sentence is the best it can get."""
    return JSONResponse(error.message, status)
