"""The download API of exports: status and file endpoints of FHIR Bulk Data Access.

``app(workspace, allow)`` is an ASGI application, to be mounted in a larger one or served alone::

    GET    /jobs/{job}          202 with X-Progress while it runs, then 200 with the manifest
    DELETE /jobs/{job}          cancels it
    GET    /jobs/{job}/{file}   an output: ranges, Accept-Encoding, If-None-Match
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from catchment.core.errors import CatchmentError, Conflict, NotFound, Unavailable
from catchment.core.workspace import Workspace
from catchment.exports import download, jobs, manifest
from catchment.exports import run as runs
from catchment.exports.jobs import Status
from catchment.exports.sources import issue_type, outcome

# May the bearer of this token see this job? Asked of none: where there is no such job.
Allow = Callable[[str, Status | None], bool]
Clock = Callable[[], datetime]

RETRY_SECONDS = 10  # between two questions of a client
DEFAULT_HOURS = 72  # of jobs whose settings are gone


def app(
    workspace: Workspace,
    allow: Allow,
    *,
    later_draft: bool = False,
    clock: Clock = lambda: datetime.now(UTC),
) -> Starlette:
    """The application.

    Args:
        workspace: whose jobs are served.
        allow: decides for a bearer token and a job; see :func:`by_digest`.
        later_draft: the manifest says ``outcome`` where STU 2 says ``error``.
        clock: the time, aware.
    """
    api = _Api(workspace, allow, later_draft=later_draft, clock=clock)
    return Starlette(
        routes=[
            Route("/jobs/{job}", api.show, methods=["GET"], name="job"),
            Route("/jobs/{job}", api.cancel, methods=["DELETE"]),
            Route("/jobs/{job}/{file}", api.file, methods=["GET"]),
        ],
        exception_handlers={
            CatchmentError: _failed,
            _Unauthorized: _unauthorized,
            HTTPException: _refused,
        },
    )


def by_digest(digests: Collection[str]) -> Allow:
    """Allows every job to tokens whose SHA-256 is among these, in hexadecimal.

    Tokens are random and long, so that a plain digest keeps them safe.
    """

    def allow(token: str, _: Status | None) -> bool:
        digest = hashlib.sha256(token.encode()).hexdigest()
        return any(hmac.compare_digest(digest, known) for known in digests)

    return allow


class _Unauthorized(Exception):
    pass


class _Api:
    def __init__(
        self, workspace: Workspace, allow: Allow, *, later_draft: bool, clock: Clock
    ) -> None:
        self._workspace = workspace
        self._allow = allow
        self._later_draft = later_draft
        self._clock = clock

    def show(self, request: Request) -> Response:
        status = self._status(request)
        if status.state == "running":
            progress = f"{status.done} of {status.members} members"
            headers = {"X-Progress": progress, "Retry-After": str(RETRY_SECONDS)}
            return Response(status_code=202, headers=headers)
        if status.state == "failed":
            return _told(500, "exception", (status.error or {}).get("message", "the job failed"))
        until = self._expires(status)
        if status.state == "cancelled" or self._clock() >= until:
            raise NotFound(f"job {status.job} is no more", kind="no-job")
        url = str(request.url_for("job", job=status.job))
        document = manifest.write(
            status.outputs,
            status.resource_type,
            status.started_at,
            base_url=f"{url}/",
            request=url,
            later_draft=self._later_draft,
        )
        return JSONResponse(document, headers={"Expires": format_datetime(until, usegmt=True)})

    def cancel(self, request: Request) -> Response:
        status, workspace = self._status(request), self._workspace
        if status.state == "published":
            raise Conflict(
                f"job {status.job} is published: its files are served until "
                f"{self._expires(status):%Y-%m-%d %H:%M}Z",
                kind="run-finished",
            )
        with suppress(Unavailable):  # its worker stops by itself, and tidies up
            runs.cancel(
                workspace.store, workspace.ledger, status.aggregate, job=status.job, patience=0
            )
        return Response(status_code=202)

    def file(self, request: Request) -> Response:
        status = self._status(request)
        until = self._expires(status)
        output = download.find(status, request.path_params["file"], until, self._clock())
        reply = download.serve(self._workspace.store, status, output, until, request.headers)
        body = () if request.method == "HEAD" else reply.body
        return StreamingResponse(iter(body), reply.status, dict(reply.headers))

    def _status(self, request: Request) -> Status:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _Unauthorized
        try:
            status = jobs.status(self._workspace.ledger, request.path_params["job"])
        except NotFound:
            if self._allow(token, None):
                raise
            raise _Unauthorized from None  # it is not told which jobs there are
        if not self._allow(token, status):
            raise _Unauthorized
        return status

    def _expires(self, status: Status) -> datetime:
        name = status.aggregate.removeprefix(jobs.AGGREGATES)
        settings = self._workspace.settings.exports.get(name)
        return download.expiry(status, settings.expires_hours if settings else DEFAULT_HOURS)


def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, CatchmentError)  # noqa: S101 - by its registration
    return _told(error.status_code, issue_type(error), error.message)


def _unauthorized(_: Request, __: Exception) -> Response:
    response = _told(401, "login", "expected a bearer token that is good for this job")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - by its registration
    code = "not-found" if error.status_code == HTTPStatus.NOT_FOUND else "not-supported"
    response = _told(error.status_code, code, error.detail)
    response.headers.update(error.headers or {})
    return response


def _told(status: int, code: str, text: str) -> Response:
    return Response(outcome(code, text), status, media_type="application/fhir+json")
