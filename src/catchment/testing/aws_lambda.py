"""A server that answers POST requests as a test says, and the API of AWS Lambda made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from catchment.core.errors import CatchmentError
from catchment.testing.web import listening

Reply = tuple[int, Mapping[str, str], bytes]  # status, headers, body


@contextmanager
def answering(reply: Callable[[str, Mapping[str, str], bytes], Reply]) -> Iterator[str]:
    """The URL of a server; ``reply(path, headers, body)`` answers each POST."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, data = reply(self.path, dict(self.headers), body)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | dict(headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def account(url: str) -> dict[str, str]:
    """The environment in which the Lambda API is at this URL."""
    return {
        "AWS_ENDPOINT_URL_LAMBDA": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }


class Function:
    """A function that is invoked by events: runs the handler for each, as often as told.

    Attributes:
        invoked: path and type of each invocation.
        failures: answers to give first.
        times: how often each event runs the handler, for AWS may do it twice.
        loses: events that come to nothing.
    """

    def __init__(self, handler: Callable[[Any], object]) -> None:
        self._handler = handler
        self.invoked: list[tuple[str, str]] = []
        self.failures: list[tuple[int, bytes]] = []
        self.times = 1
        self.loses = 0
        self.work = ThreadPoolExecutor(4)

    def reply(self, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """What the API says to an invocation."""
        self.invoked.append((path, headers["X-Amz-Invocation-Type"]))
        if self.failures:
            status, data = self.failures.pop(0)
            return status, {}, data
        if self.loses:
            self.loses -= 1
            return 202, {}, b""
        for _ in range(self.times):
            self.work.submit(self._invoke, json.loads(body))
        return 202, {}, b""

    def _invoke(self, event: Any) -> None:
        with suppress(CatchmentError):
            self._handler(event)


@contextmanager
def function(handler: Callable[[Any], object]) -> Iterator[tuple[Function, dict[str, str]]]:
    """A function behind the Lambda API, and the environment that leads to it."""
    made = Function(handler)
    with answering(made.reply) as url:
        try:
            yield made, account(url)
        finally:
            made.work.shutdown()
