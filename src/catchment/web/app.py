"""The application that ``catchment serve`` runs: site API, dashboard API, downloads, health."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from catchment.core.errors import CatchmentError, Invalid, Unavailable
from catchment.core.workspace import Workspace
from catchment.studies.arrivals import Worker
from catchment.web import dashboard, dicomweb, exports, pages, sites, watching
from catchment.web.guard import Guard, status_of
from catchment.web.login import Unauthorized
from catchment.web.pages import signin
from catchment.web.pages.house import is_page

DESCRIPTION = (
    "Sites upload data packages of studies (`sites`) and DICOM (`dicomweb`), dashboards read what "
    "they became, and what people see in the pages is JSON, too (`pages`)."
)
FACTORY = "catchment.web.app:from_environment"
_RETRY = {"Retry-After": "60"}


def create_app(workspace: Workspace, *, process: bool = True) -> FastAPI:
    """The application of a workspace, to be served by any ASGI server.

    Args:
        workspace: stays open; it is closed by whoever opened it.
        process: process uploads here, and listen to the bucket's queue; else
            ``catchment studies process --watch`` must.
    """
    worker = Worker(workspace)

    @asynccontextmanager
    async def life(served: FastAPI) -> AsyncIterator[None]:
        if process:
            await run_in_threadpool(worker.__enter__)
        try:
            yield
        finally:
            if process:
                await run_in_threadpool(worker.__exit__)
            await run_in_threadpool(watching.end, served)

    app = FastAPI(
        title="Catchment",
        version=version("catchment"),
        description=DESCRIPTION,
        lifespan=life,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        responses={503: {"description": "Try again later"}},
    )
    app.add_exception_handler(CatchmentError, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)

    @app.get("/health", tags=["service"], summary="Whether the service works")
    def health() -> dict[str, str]:
        workspace.ledger.counts("studies/")  # a short question: does it answer?
        return {"status": "ok", "version": version("catchment")}

    watching.add(app, workspace)
    # Before the site API, which takes any single word as the name of a network.
    pages.add(app, workspace)
    tokens = workspace.settings.serve.export_tokens
    if tokens:
        app.mount("/exports", exports.app(workspace, exports.by_digest(tokens)))
    app.state.sites = sites.Sites(workspace, worker.notify, app.state.pages.failures)
    app.include_router(sites.router)
    app.state.dashboard = dashboard.Dashboard(workspace)
    app.include_router(dashboard.router)
    app.include_router(dicomweb.router)
    # The last: else a single word, which may be the name of a network, is a method that is wrong.
    app.router.add_route("/{name}", _nothing, include_in_schema=False)
    unbounded = [sites.FORM_PATH, dicomweb.PREFIX]
    app.add_middleware(Guard, unbounded=unbounded, page=pages.fault, secret=[signin.LINK])
    return app


def from_environment() -> FastAPI:
    """The application of the workspace that ``CATCHMENT_WORKSPACE`` names, for worker processes."""
    if not logging.root.handlers:  # a process of its own
        level = os.environ.get("CATCHMENT_LOG", "WARNING")
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
        for handler in logging.root.handlers:
            handler.addFilter(logging.Filter("catchment"))
    return create_app(Workspace.open())


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, CatchmentError)  # noqa: S101 - by its registration
    if is_page(request):
        return pages.failed(request, status_of(error), error)
    headers = {}
    if error.status_code == HTTPStatus.UNAUTHORIZED:
        headers = {"WWW-Authenticate": _challenge(request, error)}
    elif isinstance(error, Unavailable):
        headers = _RETRY
    return _told(status_of(error), error.kind, error.message, error.hint, headers)


def _nothing(_: Request) -> Response:
    raise HTTPException(HTTPStatus.NOT_FOUND)


def _challenge(request: Request, error: CatchmentError) -> str:
    """How to log in; nothing that a browser asks its user for where a script of a page asked."""
    if request.headers.get("Sec-Fetch-Dest") == "empty":
        return 'Session realm="catchment"'
    return str(getattr(error, "challenge", Unauthorized.challenge))


def _invalid(request: Request, error: Exception) -> Response:
    """What FastAPI finds wrong with parameters: where, never the value."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - by its registration
    told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    if is_page(request):
        return pages.failed(request, HTTPStatus.BAD_REQUEST, Invalid(told, kind="bad-request"))
    return _told(HTTPStatus.BAD_REQUEST, "bad-request", told, "see /openapi.json", {})


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - by its registration
    headers = dict(error.headers or {})
    if is_page(request):
        kind = _KINDS.get(error.status_code, "refused")
        answer = pages.failed(request, error.status_code, Invalid(error.detail, kind=kind))
        answer.headers.update(headers)
        return answer
    return _told(
        error.status_code, _KINDS.get(error.status_code, "refused"), error.detail, "", headers
    )


_KINDS = {404: "not-found", 405: "method-not-allowed", 401: "unauthorized"}


def _told(status: int, kind: str, message: str, hint: str, headers: dict[str, str]) -> Response:
    content = {"kind": kind, "message": message, "hint": hint}
    return JSONResponse(content, status, headers=headers)
