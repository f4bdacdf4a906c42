"""Pages as functions that give facts: each is a page below ``/ui`` and JSON below ``/api``.

A page's function takes ``ask`` and the parameters of its URL, and returns plain JSON. What it shows
is what a program gets. Its role is checked before anything else is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from catchment.web.pages import render
from catchment.web.pages.house import API, UI, Asked, asking, doing

_TOLD: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is malformed"},
    401: {"description": "Nobody is signed in"},
    403: {"description": "Not for this role"},
    404: {"description": "Unknown"},
    409: {"description": "It has changed meanwhile"},
    429: {"description": "Too many failed logins"},
}
_CLICKED: dict[int | str, dict[str, Any]] = {303: {"description": "Done; go on there"}}


class Place(NamedTuple):
    """One route of the pages, for the test that goes over all of them."""

    method: str
    path: str
    role: str
    part: str = ""  # the module that registers it
    told: str = ""


PLACES: list[Place] = []
ui = APIRouter(prefix=UI, include_in_schema=False)
api = APIRouter(prefix=API, tags=["pages"], responses=_TOLD)


def page(
    path: str, template: str, *, role: str = "viewer", part: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of facts as a page, and as JSON of the same path.

    Args:
        path: below ``/ui`` and ``/api``.
        template: what shows the facts.
        role: who may see it, and all roles above.
        part: a block of the template, for requests that want only that (lists that go on).
    """

    def register(work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def shown(*args: Any, **named: Any) -> Response:
            ask: Asked = named["ask"]
            facts = work(*args, **named)
            wanted = part if part and ask.request.headers.get("hx-request") else ""
            return HTMLResponse(render.page(ask, template, facts, part=wanted), ask.status)

        @wraps(work)
        def told(*args: Any, **named: Any) -> Response:
            return JSONResponse(work(*args, **named))

        _typed(shown, work, asking(role))
        _typed(told, work, asking(role))
        ui.add_api_route(path, shown, methods=["GET"], response_class=HTMLResponse)
        api.add_api_route(path, told, methods=["GET"], summary=_summary(work))
        _add("GET", f"{UI}{path}", role, work)
        _add("GET", f"{API}{path}", role, work)
        return work

    return register


def data(path: str, *, role: str = "viewer") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that answers by itself: a picture, a file, JSON for a chart."""

    def register(work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def told(*args: Any, **named: Any) -> Response:
            found = work(*args, **named)
            return found if isinstance(found, Response) else JSONResponse(found)

        _typed(told, work, asking(role))
        api.add_api_route(path, told, methods=["GET"], summary=_summary(work))
        _add("GET", f"{API}{path}", role, work)
        return work

    return register


def deed(path: str, *, role: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register what a form does; it returns the page to go on to."""

    def register(work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def done(*args: Any, **named: Any) -> Response:
            return RedirectResponse(f"{UI}{work(*args, **named)}", 303)

        _typed(done, work, doing(role))
        ui.add_api_route(path, done, methods=["POST"], response_class=Response, responses=_CLICKED)
        _add("POST", f"{UI}{path}", role, work)
        return work

    return register


def _add(method: str, path: str, role: str, work: Callable[..., Any]) -> None:
    part = work.__module__.rpartition(".")[2]
    PLACES.append(Place(method, path, role, part, (work.__doc__ or "").partition("\n")[0]))


def _summary(work: Callable[..., Any]) -> str:
    return (work.__doc__ or "").partition("\n")[0].rstrip(".")


def _typed(made: Any, work: Callable[..., Any], who: Callable[..., Any]) -> None:
    """Give a wrapper the signature of its work, with the visitor resolved and the role checked."""
    import inspect
    import typing

    hints = typing.get_type_hints(work, include_extras=True)
    parameters = [
        one.replace(
            annotation=Annotated[Asked, Depends(who)] if one.name == "ask" else hints[one.name]
        )
        for one in inspect.signature(work).parameters.values()
    ]
    made.__signature__ = inspect.Signature(parameters, return_annotation=Response)
    made.__annotations__ = {}
    del made.__wrapped__
