"""What all pages share: who looks, what they may, and where the facts are."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

from fastapi import Depends, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from starlette.responses import Response

from catchment.core.errors import Invalid
from catchment.core.ledger.access import SITE
from catchment.core.ledger.people import STAFF, People, Session
from catchment.core.ledger.views import Views
from catchment.core.workspace import Workspace
from catchment.studies.charts.query import Cache
from catchment.web.login import Failures, Login, Unauthorized

UI, API = "/ui", "/api"
COOKIE, BEFORE = "catchment-session", "catchment-before"
_SECURE = "__Host-"  # browsers keep such a cookie to this host, and to TLS

_basic = HTTPBasic(realm="catchment", description="User and password, to read.", auto_error=False)


class NotForYou(Invalid):
    """Signed in, but not for this."""

    kind = "forbidden"
    status_code = 403


class Visitor(NamedTuple):
    """Who looks. ``token`` is the session's own; empty for a single question by HTTP Basic."""

    user: str
    role: str
    site: str
    token: str

    def may(self, role: str) -> bool:
        """Whether the role is the visitor's own or below it; sites are beside the others."""
        if SITE in {role, self.role}:
            return role == self.role
        return STAFF.index(self.role) >= STAFF.index(role)


class House:
    """One for each application: it holds what must not be opened for each request."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.failures = Failures(workspace.ledger)
        self.cache = Cache()

    @cached_property
    def people(self) -> People:
        """Users, sessions, audit."""
        return People(self.workspace.ledger)

    @cached_property
    def login(self) -> Login:
        """Credentials of sites."""
        return Login(self.workspace.ledger, self.failures)

    @cached_property
    def views(self) -> Views:
        """Lists of the ledger."""
        return Views(self.workspace.ledger)

    def visitor(self, request: Request) -> Visitor | None:
        """Who is signed in by the request's cookie."""
        token = request.cookies.get(cookie_name(request), "")
        session = self.people.session(token) if token else None
        return None if session is None else visitor_of(session, token)

    def basic(self, request: Request, given: HTTPBasicCredentials) -> Visitor:
        """Who gave user and password with a request; Unauthorized or TooMany."""
        from catchment.web.pages.signin import check_password

        return check_password(self, request, given.username, given.password)[0]


def visitor_of(session: Session, token: str) -> Visitor:
    """The visitor of a session."""
    return Visitor(session.user, session.role, session.site, token)


def cookie_name(request: Request, name: str = COOKIE) -> str:
    """With TLS, a name that no other host and no plain connection can set."""
    return f"{_SECURE}{name}" if request.url.scheme == "https" else name


def set_cookie(
    request: Request, response: Response, value: str, *, name: str = COOKIE, seconds: int = 3600
) -> None:
    """Keep a secret in the browser: no script reads it, no other site's form sends it."""
    response.set_cookie(
        cookie_name(request, name),
        value,
        max_age=seconds,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",  # a sign-in elsewhere comes back by a link
    )


def csrf_of(token: str) -> str:
    """A token for the forms of one page: another one each time, so that compression tells none."""
    salt = secrets.token_hex(8)
    return f"{salt}.{_signed(token, salt)}"


def csrf_fits(token: str, given: str) -> bool:
    """Whether a form's token was made for this session."""
    salt, _, signed = given.partition(".")
    return bool(token) and hmac.compare_digest(signed.encode(), _signed(token, salt).encode())


def _signed(token: str, salt: str) -> str:
    return hmac.new(token.encode(), f"form {salt}".encode(), hashlib.sha256).hexdigest()


def safe_next(path: str) -> str:
    """A path of ours to go on to, or the first page: never another host."""
    ours = path.startswith(f"{UI}/") and "\\" not in path and path.isprintable()
    return path if ours else f"{UI}/"


def own_origin(request: Request) -> bool:
    """Whether a form was sent from a page of ours, as far as the browser says."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    told = origin.partition("://")[2] if origin else request.headers.get("host", "")
    return site in {"same-origin", "none"} and told == request.headers.get("host", "")


class Asked:
    """One question: the request, who asks, and where the answer is."""

    def __init__(self, request: Request, house: House, visitor: Visitor) -> None:
        self.request = request
        self.status = 200  # of the page that answers
        self.house = house
        self.visitor = visitor
        self.workspace = house.workspace
        self.views = house.views

    def note(self, action: str, target: str = "", **detail: Any) -> None:
        """Put a deed into the audit log."""
        self.house.people.note(self.visitor.user, self.visitor.role, action, target, detail)


def is_page(request: Request) -> bool:
    """Whether a browser shows the answer."""
    return request.url.path.startswith(f"{UI}/")


def house_of(request: Request) -> House:
    """The application's."""
    found: House = request.app.state.pages
    return found


def asking(role: str) -> Callable[..., Asked]:
    """A dependency: the visitor, if the role is theirs. 401 without one, 403 for another role."""

    def asked(
        request: Request, given: Annotated[HTTPBasicCredentials | None, Depends(_basic)]
    ) -> Asked:
        house = house_of(request)
        visitor = house.visitor(request)
        reads = request.method in {"GET", "HEAD"} and request.url.path.startswith(API)
        if visitor is None and given is not None and reads:
            visitor = house.basic(request, given)
        if visitor is None:
            raise Unauthorized("expected somebody who is signed in", hint=f"{UI}/sign-in")
        if not visitor.may(role):
            raise NotForYou(
                f"this is for the role {role}, and you are {visitor.role}",
                hint="ask whoever runs this service for another role",
            )
        return Asked(request, house, visitor)

    return asked


def doing(role: str) -> Callable[..., Awaitable[Asked]]:
    """The same for what changes something: the form must come from a page of this session."""
    asked = asking(role)

    async def checked(
        request: Request, given: Annotated[HTTPBasicCredentials | None, Depends(_basic)]
    ) -> Asked:
        from starlette.concurrency import run_in_threadpool

        ask = await run_in_threadpool(asked, request, given)
        form = await request.form(max_files=0, max_fields=50)
        token = request.headers.get("x-csrf-token") or str(form.get("csrf", ""))
        if not csrf_fits(ask.visitor.token, token) or not own_origin(request):
            raise NotForYou(
                "the form does not come from a page of this session",
                kind="bad-csrf",
                hint="load the page again, then send it",
            )
        ask.request.state.form = form
        return ask

    return checked


def sign_in_url(request: Request) -> str:
    """Where to sign in, and come back from to where one was going."""
    path = request.url.path
    if request.url.query:
        path += f"?{request.url.query}"
    return f"{UI}/sign-in?next={quote(path, safe='')}"
