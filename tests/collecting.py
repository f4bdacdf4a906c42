"""A collector of telemetry, for tests: what it is sent it keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from catchment.testing.web import listening


class Collector(HTTPServer):
    """Answers each POST with ``status``, ``pause`` seconds after it came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.pause = 0.0
        self.came = threading.Event()
        self.got: list[tuple[str | None, bytes]] = []  # authorization, body
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.headers.get("authorization"), body))
        self.server.came.set()
        time.sleep(self.server.pause)
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    server = Collector()
    with listening(server):
        yield server
