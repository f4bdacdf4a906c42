"""The pages of ``catchment serve``: what is published and what the ledger says, in a browser."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from catchment.core.errors import CatchmentError, Invalid
from catchment.core.workspace import Workspace
from catchment.web.pages import (
    admin,
    arrays,
    exports,
    imaging,
    oidc,
    overview,
    render,
    route,
    runs,
    signin,
    site,
    studies,
    tables,
)
from catchment.web.pages.house import UI, House, csrf_of, house_of, sign_in_url

# In the order of the menu; each registers its pages when it is loaded.
PARTS = (overview, tables, studies, imaging, exports, arrays, runs, site, admin)

_TITLES: dict[int, str] = {
    400: "This cannot be asked",
    403: "Not for you",
    404: "There is nothing here",
    409: "It has changed meanwhile",
    413: "This is too large",
    429: "Too many failed attempts",
    503: "Not now",
}


def add(app: FastAPI, workspace: Workspace) -> None:
    """Put the pages, and their JSON, into an application."""
    app.state.pages = House(workspace)
    app.include_router(render.static)
    app.include_router(signin.router)
    app.include_router(oidc.router)
    app.include_router(route.ui)
    app.include_router(route.api)

    @app.get("/", include_in_schema=False)
    @app.get(UI, include_in_schema=False)
    def first() -> Response:
        return RedirectResponse(f"{UI}/", 303)

    app.add_middleware(_Browsers)


def failed(request: Request, status: int, error: CatchmentError) -> Response:
    """What a browser shows instead of a page; who is not signed in is asked to."""
    if status == HTTPStatus.UNAUTHORIZED and error.kind == "unauthorized":
        to = sign_in_url(request)
        if request.headers.get("hx-request"):
            return Response(status_code=204, headers={"HX-Redirect": to})
        return RedirectResponse(to, 303)
    try:
        who: Any = house_of(request).visitor(request)
    except CatchmentError:  # the ledger may be what failed
        who = None
    given = render.common(request) | {
        "me": who,
        "csrf": csrf_of(who.token) if who else "",
        "workspace": house_of(request).workspace.settings.workspace.name,
    }
    return _error(given, status, error)


def fault(path: str, status: int, kind: str, message: str) -> Response | None:
    """The same for what no route answers, below ``/ui``; elsewhere None."""
    if not path.startswith(f"{UI}/"):
        return None
    given: dict[str, Any] = dict.fromkeys(("me", "csrf", "workspace"), "")
    given |= {"path": path, "asked": {}}
    response = _error(given, status, Invalid(message, kind=kind))
    response.headers.update(render.POLICIES)
    return response


def _error(given: dict[str, Any], status: int, error: CatchmentError) -> Response:
    facts = {
        "title": _TITLES.get(status, "Something went wrong"),
        "message": error.message,
        "hint": error.hint,
        "kind": error.kind,
    }
    text = render.environment().get_template("error.html").render(given | {"f": facts})
    return render.html(text, status)


class _Browsers:
    """For pages only: their policy, and less bytes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._small = GZipMiddleware(app, minimum_size=1000, compresslevel=5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith((f"{UI}/", "/api/")):
            await self._app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start" and path.startswith(f"{UI}/"):
                more = [(k.lower().encode(), v.encode()) for k, v in render.POLICIES.items()]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        # Events must go out as they come, and parts of files stay as they are.
        plain = path.endswith("/events") or "/files/" in path
        await (self._app if plain else self._small)(scope, receive, sent)
