"""The site API: a form for an upload, the form's endpoint for local stores, and what became of it.

Wire compatible with the public upload client: ``POST /`` answers with a form, the form is sent with
the file, and 204 says that it has arrived.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import anyio
from anyio import from_thread, to_thread
from fastapi import APIRouter, Depends, Header, Path, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBasicCredentials

from catchment.core import strictjson
from catchment.core.errors import CatchmentError, Conflict, Invalid, Unavailable
from catchment.core.ledger.uploads import Uploads
from catchment.core.workspace import Workspace
from catchment.studies import arrivals, forms
from catchment.web.login import Failures, Login, Site, basic
from catchment.web.multipart import Form

FORM_PATH = "/uploads/form"
SILENCE = 60.0  # seconds without a byte, after which a sender is taken for dead
OVERHEAD = 1 << 20  # bytes of a form around its file
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


def told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides its result, for the OpenAPI document."""
    words = {
        400: "The request is malformed",
        401: "No good credentials",
        404: "Unknown",
        408: "No byte came for too long",
        409: "Used, expired, or busy",
        412: "A previous upload of the study is being processed",
        413: "Too large",
        415: "Something else than DICOM files",
        429: "Too many failed logins",
    }
    return {status: {"description": words[status]} for status in statuses}


class Sites:
    """What the routes share; the application holds it as ``state.sites``.

    Args:
        workspace: whose sites upload.
        arrived: called when an upload has arrived here, to have it processed.
        failures: logins that failed, here and elsewhere.
    """

    def __init__(
        self, workspace: Workspace, arrived: Callable[[], None], failures: Failures
    ) -> None:
        self.workspace = workspace
        self.arrived = arrived
        self.uploads = Uploads(workspace.ledger, workspace.settings.serve.idle)
        self.login = Login(workspace.ledger, failures)
        self.turns: anyio.CapacityLimiter | None = None  # belongs to the event loop

    def offer(
        self, request: Request, site: Site, body: bytes, transaction: str | None, network: str
    ) -> Response:
        """Answer a request for an upload."""
        settings = self.workspace.settings.serve
        base = settings.base_url or str(request.base_url)
        try:
            made = forms.offer(
                self.workspace.store,
                self.uploads,
                forms.read_request(_json(body)),
                forms.Sender(site.site, site.user, network),
                transaction=forms.transaction_of(transaction),
                url=f"{base.rstrip('/')}{FORM_PATH}",
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

    async def receive(self, request: Request) -> None:
        """Take in the file of a form of ours."""
        body = Incoming(request)
        form = Form(request.headers.get("content-type", ""), body.chunks())
        fields = await form.read_fields()
        entry = await to_thread.run_sync(forms.Entry, self.workspace.store, self.uploads, fields)
        if self.turns is None:
            self.turns = anyio.CapacityLimiter(AT_ONCE)
        try:
            if body.length > entry.max_bytes + OVERHEAD:
                raise forms.too_large(entry.max_bytes)
            await to_thread.run_sync(entry.receive, _pull(form), limiter=self.turns)
        except Invalid as error:
            end = entry.refuse if error.kind == forms.TOO_LARGE else entry.give_up
            await to_thread.run_sync(end, error)
            raise
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(entry.give_up, error)
            raise
        self.arrived()


def _sites(request: Request) -> Sites:
    found: Sites = request.app.state.sites
    return found


def _who(
    request: Request,
    sites: Annotated[Sites, Depends(_sites)],
    credentials: Annotated[HTTPBasicCredentials | None, Depends(basic)],
) -> Site:
    return sites.login.site(request, credentials)


async def _bytes(request: Request) -> bytes:
    return await request.body()


Shared = Annotated[Sites, Depends(_sites)]
Who = Annotated[Site, Depends(_who)]
Body = Annotated[bytes, Depends(_bytes)]
Transaction = Annotated[str | None, Header(alias="transaction-id")]

_ASKED = {"requestBody": {"content": {"application/json": {"schema": _FORM}}, "required": True}}
_SENDS = {"requestBody": {"content": {"multipart/form-data": {"schema": _SENT}}, "required": True}}
_TOLD = told(400, 401, 412, 429)

router = APIRouter(tags=["sites"])


@router.post("/", openapi_extra=_ASKED, responses=_TOLD, summary="Ask for a form to upload")
def ask(
    sites: Shared, request: Request, site: Who, body: Body, transaction: Transaction = None
) -> Response:
    """A form for one file of a study, good for an hour; takes the lock of site and study."""
    return sites.offer(request, site, body, transaction, "")


@router.post(
    FORM_PATH,
    status_code=204,
    openapi_extra=_SENDS,
    responses=told(400, 404, 408, 409, 413),
    summary="Send a file with its form",
)
async def receive(sites: Shared, request: Request) -> Response:
    """Send the fields of the form as they are, then the field ``file``."""
    await sites.receive(request)
    return Response(status_code=204)


@router.get(
    "/uploads/{transaction}",
    responses=told(400, 401, 404, 429),
    summary="What became of an upload",
)
def show(
    sites: Shared, site: Who, transaction: Annotated[str, Path(max_length=64)]
) -> JSONResponse:
    """Each file, accepted or refused, with findings that say why and what to do."""
    return JSONResponse(arrivals.show(sites.workspace, sites.uploads, transaction, site.site))


@router.post("/{network}", openapi_extra=_ASKED, responses=_TOLD, summary="The same, for a network")
def ask_by_network(  # noqa: PLR0917 - called by name
    sites: Shared,
    request: Request,
    site: Who,
    body: Body,
    network: str,
    transaction: Transaction = None,
) -> Response:
    """As ``POST /``; the network is recorded with the upload."""
    return sites.offer(request, site, body, transaction, network)


class Incoming:
    """The bytes of a request, as long as they keep coming."""

    def __init__(self, request: Request) -> None:
        self._request = request
        text = request.headers.get("content-length", "")
        self.length = int(text) if text.isdecimal() and len(text) < 19 else 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come; Silent if none come for too long."""
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


class Silent(Unavailable):
    """A sender that sends no more."""

    kind = "sender-silent"
    status_code = 408


def _pull(form: Form) -> Iterator[bytes]:
    """The chunks of the file, for a thread that stores them."""
    while chunk := from_thread.run(form.read_chunk):
        yield chunk


def _json(body: bytes) -> Any:
    try:
        return strictjson.loads(body)
    except ValueError:
        raise Invalid("expected JSON", kind="bad-request") from None


def _said(status: int, error: CatchmentError) -> JSONResponse:
    """The public client prints the JSON that it is given: a sentence is the best it can get."""
    return JSONResponse(error.message, status)
