"""Signing in and out: users of the workspace, users of sites, one-time links."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from catchment.core import passwords
from catchment.core.errors import CatchmentError, Invalid
from catchment.core.ledger.access import SITE
from catchment.core.ledger.people import LINK as ONCE
from catchment.web.guard import status_of
from catchment.web.login import Unauthorized, address_of
from catchment.web.pages import render
from catchment.web.pages.house import (
    BEFORE,
    COOKIE,
    UI,
    House,
    NotForYou,
    Visitor,
    cookie_name,
    csrf_fits,
    csrf_of,
    house_of,
    own_origin,
    safe_next,
    set_cookie,
)

LINK = f"{UI}/link/"  # before the token of a link

router = APIRouter(prefix=UI, include_in_schema=False)


def check_password(house: House, request: Request, user: str, secret: str) -> tuple[Visitor, str]:
    """Whose user and password these are: of a person here, or of a site; and which of the two.

    Costs the same whether there is such a user or not. Unauthorized, or TooMany.
    """
    address = address_of(request)
    user, secret = user[:200], secret if len(secret) <= passwords.MAX_LENGTH else ""
    with house.failures.turn(address, user):
        found = house.people.find(user)
        if found is not None:
            person, hashed = found
            if passwords.match(secret, [hashed]):
                return Visitor(user, person.role, person.site, ""), "user"
        elif site := house.login.check(user, secret):
            return Visitor(user, SITE, site, ""), SITE
        house.failures.count(address, user)
    house.people.note(user, "", "sign-in refused", address)
    raise Unauthorized(
        "expected a user and the password",
        hint="look at both again; whoever runs this service can give you a new password",
    )


def let_in(request: Request, who: Visitor, kind: str, to: str) -> Response:
    """Begin a session for somebody who proved to be this, and go on."""
    house, token = house_of(request), secrets.token_urlsafe(32)
    hours = house.workspace.settings.serve.session_hours
    house.people.begin(token, kind, who.user, who.role, who.site, lasts=timedelta(hours=hours))
    house.people.note(who.user, who.role, "sign-in", kind)
    response = RedirectResponse(home(who) if to == f"{UI}/" else to, 303)
    set_cookie(request, response, token, seconds=hours * 3600)
    response.delete_cookie(cookie_name(request, BEFORE), path="/")
    return response


def home(who: Visitor) -> str:
    """The first page of a visitor."""
    return f"{UI}/site" if who.role == SITE else f"{UI}/"


def form(
    request: Request, template: str, status: int = 200, error: str = "", **facts: Any
) -> Response:
    """A form for somebody who is not signed in; it can be sent from this browser only."""
    before = request.cookies.get(cookie_name(request, BEFORE)) or secrets.token_urlsafe(32)
    oidc = house_of(request).workspace.settings.oidc
    given = render.common(request) | {
        "csrf": csrf_of(before),
        "workspace": house_of(request).workspace.settings.workspace.name,
        "error": error,
        "oidc": oidc.name if oidc.issuer else "",
        "f": facts,
    }
    made = render.html(render.environment().get_template(template).render(given), status)
    set_cookie(request, made, before, name=BEFORE)
    return made


async def sent(request: Request) -> dict[str, str]:
    """The fields of such a form; NotForYou if it comes from elsewhere."""
    found = {k: str(v) for k, v in (await request.form(max_files=0, max_fields=10)).items()}
    before = request.cookies.get(cookie_name(request, BEFORE), "")
    if not csrf_fits(before, found.get("csrf", "")) or not own_origin(request):
        raise NotForYou(
            "the form does not come from a page of ours",
            kind="bad-csrf",
            hint="load the page again, and let the browser keep cookies of this service",
        )
    return found


@router.get("/sign-in")
def show(request: Request, next: str = f"{UI}/") -> Response:  # noqa: A002 - the parameter's name
    """Ask who it is."""
    who = house_of(request).visitor(request)
    if who is not None:
        return RedirectResponse(home(who), 303)
    return form(request, "signin.html", next=safe_next(next), user="")


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """User and password."""
    try:
        given = await sent(request)
    except NotForYou as error:
        return form(
            request, "signin.html", 403, f"{error.message}: {error.hint}", next=f"{UI}/", user=""
        )
    to = safe_next(given.get("next", ""))
    house, user = house_of(request), given.get("user", "")
    try:
        who, kind = await run_in_threadpool(
            check_password, house, request, user, given.get("password", "")
        )
    except CatchmentError as error:
        text = f"{error.message}: {error.hint}"
        return form(request, "signin.html", status_of(error), text, next=to, user=user)
    return await run_in_threadpool(let_in, request, who, kind, to)


@router.get("/link/{token}")
def show_link(request: Request, token: str) -> Response:
    """A link that signs in once: asks, so that who only looks at links does not use it up."""
    if not house_of(request).people.peek(token, ONCE):
        raise _used()
    return form(request, "link.html", token=token)


@router.post("/link/{token}")
async def use_link(request: Request, token: str) -> Response:
    """Sign in by a link; it is used up."""
    await sent(request)
    found = await run_in_threadpool(house_of(request).people.take, token, ONCE)
    if found is None:
        raise _used()
    who = Visitor(found.user, found.role, found.site, "")
    return await run_in_threadpool(let_in, request, who, "link-session", f"{UI}/")


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """End the session."""
    house = house_of(request)
    who = await run_in_threadpool(house.visitor, request)
    given = await request.form(max_files=0, max_fields=10)
    if who is not None:
        if not csrf_fits(who.token, str(given.get("csrf", ""))):
            raise NotForYou("the form does not come from a page of this session", kind="bad-csrf")
        await run_in_threadpool(house.people.end, who.token)
        await run_in_threadpool(house.people.note, who.user, who.role, "sign-out")
    response = RedirectResponse(f"{UI}/sign-in", 303)
    response.delete_cookie(cookie_name(request, COOKIE), path="/")
    return response


def _used() -> Invalid:
    return Unauthorized(
        "the link was used already, or its hour is over",
        kind="link-used",
        hint="make another one with: catchment user link",
    )
