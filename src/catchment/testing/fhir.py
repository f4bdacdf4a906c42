"""A small FHIR server: real HTTP on this machine; answers searches with pages, fails on demand."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlencode, urlsplit

Answer = tuple[int, Mapping[str, str], bytes]  # status, headers, body


class FhirServer:
    """Serves resources by member: ``GET /fhir/<type>?patient=<member>&_count=<n>``.

    ::

        with FhirServer({"123": [b'{"resourceType":"Patient"}']}) as server:
            httpx.get(server.url + "/Patient?patient=123")

    Args:
        resources: each member's, as lines of JSON, which stand in the answer byte for byte.
        page: resources in a page at most, whatever is asked for.
        token: bearer token that is wanted; None: none.
        delay: seconds before each answer.

    Attributes:
        requests: how often each member was asked for.
        plan: answers to be given instead, first come, first served; then it serves again.
        broken: members that get such an answer each time.
    """

    def __init__(
        self,
        resources: Mapping[str, Sequence[bytes]],
        *,
        page: int = 1000,
        token: str | None = None,
        delay: float = 0.0,
    ) -> None:
        self.requests: Counter[str] = Counter()
        self.plan: deque[Answer] = deque()
        self.broken: dict[str, Answer] = {}
        self.delay = delay
        self._resources = resources
        self._page = page
        self._token = token
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        """Base of the server, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_port}/fhir"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, target: str, headers: Mapping[str, str]) -> Answer:
        """What a GET of the target (path and query) is answered with."""
        parts = urlsplit(target)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        member = query.get("patient", "")
        with self._lock:
            self.requests[member] += 1
            planned = self.plan.popleft() if self.plan else None
        if planned or member in self.broken:
            return planned or self.broken[member]
        if self._token and headers.get("Authorization") != f"Bearer {self._token}":
            return 401, {}, b"{}"
        lines = self._resources.get(member, [])
        start = int(query.get("startIndex", 0))
        end = start + min(int(query.get("_count", self._page)), self._page)
        links = [("self", target)]
        if end < len(lines):
            links.append(("next", f"{parts.path}?{urlencode({**query, 'startIndex': end})}"))
        return 200, {}, bundle(lines[start:end], links, self.url.removesuffix("/fhir"))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Handler", (_Handler,), {"fhir": self})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fhir: FhirServer

    def do_GET(self) -> None:
        time.sleep(self.fhir.delay)
        status, headers, body = self.fhir.answer(self.path, dict(self.headers))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/fhir+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the library
        """Say nothing."""


def bundle(lines: Iterable[bytes], links: Iterable[tuple[str, str]], origin: str) -> bytes:
    """A search's Bundle, with the resources byte for byte and links below an origin."""
    entries = b",".join(b'{"resource":' + line.strip() + b"}" for line in lines)
    told = ",".join(f'{{"relation":"{relation}","url":"{origin}{to}"}}' for relation, to in links)
    return (
        b'{"resourceType":"Bundle","type":"searchset","link":['
        + told.encode()
        + b'],"entry":['
        + entries
        + b"]}"
    )


def by_member(lines: Iterable[bytes], member: Callable[[bytes], str]) -> dict[str, list[bytes]]:
    """The lines by member, in order."""
    found: dict[str, list[bytes]] = {}
    for line in lines:
        found.setdefault(member(line), []).append(line)
    return found
