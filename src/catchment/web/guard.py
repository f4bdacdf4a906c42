"""What holds for every answer: no stack to clients, headers for browsers, bounded bodies, a log."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable
from http import HTTPStatus

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from catchment.core.errors import CatchmentError

MAX_BODY = 64 << 10  # bytes of a request that is no upload

HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
_HSTS = b"max-age=31536000"

# What a browser shows at a path instead of JSON: by status, kind and message; None for no page.
Page = Callable[[str, int, str, str], Response | None]

log = logging.getLogger(__name__)


class Guard:
    """The outermost layer of the application.

    Args:
        app: what it guards.
        unbounded: paths whose requests may be of any size, because they count for themselves; of
            one that ends in ``/``, all below it.
        page: what browsers are shown of what no route answers.
        secret: beginnings of paths that end in a secret; the log has only the beginning.
    """

    def __init__(
        self,
        app: ASGIApp,
        unbounded: Iterable[str] = (),
        page: Page = lambda *_: None,
        secret: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._page = page
        self._secret = tuple(secret)
        self._unbounded = frozenset(unbounded)
        self._below = tuple(path for path in self._unbounded if path.endswith("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "HEAD":  # as GET, without the body (RFC 9110, section 9.3.2)
            await self._serve({**scope, "method": "GET"}, receive, _without_body(send), "HEAD")
        else:
            await self._serve(scope, receive, send, scope["method"])

    async def _serve(self, scope: Scope, receive: Receive, send: Send, method: str) -> None:
        path, began, status = scope["path"], time.monotonic(), 0
        secure = scope.get("scheme") == "https"

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_headers(message["headers"], secure=secure)
            await send(message)

        async def answer(status: int, kind: str, message: str) -> None:
            told = {"kind": kind, "message": message, "hint": ""}
            made = self._page(path, status, kind, message) or JSONResponse(told, status)
            await made(scope, receive, sent)

        try:
            if path in self._unbounded or path.startswith(self._below):
                await self._app(scope, receive, sent)
            else:
                await self._app(scope, _bounded(scope, receive), sent)
        except _TooLong:
            if not status:
                await answer(413, "body-too-large", f"expected at most {MAX_BODY:,} bytes")
        except ClientDisconnect:  # in the middle of what it sent: nobody is there to be answered
            status = status or 499
        except Exception as error:  # noqa: BLE001 - nothing may reach the client, or the log, as it is
            log.error("fault of the program: %s", _places(error))  # noqa: TRY400 - no values
            if not status:
                await answer(500, "unexpected", "a fault of the program itself")
        finally:
            millis = (time.monotonic() - began) * 1000
            told = next((f"{part}..." for part in self._secret if path.startswith(part)), path)
            log.info("%s %s %d %.0f ms", method, told, status, millis)


class _TooLong(Exception):
    pass


def _bounded(scope: Scope, receive: Receive) -> Receive:
    left = MAX_BODY
    for name, value in scope["headers"]:
        if name == b"content-length" and (
            not value.isdigit() or len(value) > 18 or int(value) > MAX_BODY
        ):
            raise _TooLong

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _TooLong
        return message

    return counted


def _without_body(send: Send) -> Send:
    """The answer ends where its body would begin."""
    over = False

    async def bare(message: Message) -> None:
        nonlocal over
        if message["type"] == "http.response.start":
            await send(message)
        elif not over:
            over = True
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return bare


def _with_headers(
    headers: Iterable[tuple[bytes, bytes]], *, secure: bool
) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, and ours where it says nothing itself."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    more = [(name, value) for name, value in HEADERS.items() if name not in names]
    if secure:
        more.append((b"strict-transport-security", _HSTS))
    return given + more


def _places(error: BaseException) -> str:
    """Type and places of an exception; its message may quote what a log must not hold."""
    frames = traceback.extract_tb(error.__traceback__)
    told = error.kind if isinstance(error, CatchmentError) else type(error).__qualname__
    return " < ".join([told, *(f"{f.filename}:{f.lineno}" for f in reversed(frames))])


_STATUS = {"upload-too-large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE}


def status_of(error: CatchmentError) -> int:
    """The status of an answer; what a client sent wrong is 400, as its contract says, not 422."""
    if error.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
        return _STATUS.get(error.kind, HTTPStatus.BAD_REQUEST)
    return error.status_code
