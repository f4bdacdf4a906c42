"""A bad line to S3: while it is told to, requests are refused, answered late, cut off, or done and
answered as if they were not. It stands between real clients and a real server."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

# What happens, and whether the server gets the request.
KINDS = {
    "500": False,  # Internal Error, nothing done
    "503": False,  # Slow Down
    "done-500": True,  # applied, and answered 500
    "done-cut": True,  # applied, and the connection breaks before the answer
    "half": True,  # the answer breaks off in the middle
    "slow": True,  # the answer takes its time
    "refused": False,  # the connection breaks before anything is done
}


class BadLine(ThreadingHTTPServer):
    """A reverse proxy; ``rate`` is the share of requests that something happens to."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, endpoint: str, draw: random.Random) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(endpoint).netloc
        self.draw = draw
        self.rate = 0.0
        self.kinds: tuple[str, ...] = tuple(KINDS)
        self.done: Counter[str] = Counter()
        self._turn = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next_fault(self) -> str | None:
        with self._turn:
            if self.draw.random() >= self.rate:
                return None
            kind = self.draw.choice(self.kinds)
            self.done[kind] += 1
            return kind

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # a client that was killed is what it is for


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BadLine

    def serve(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = self.server.next_fault()
        if fault is not None and not KINDS[fault]:
            self._broken(fault)
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if fault in {"done-500", "done-cut"}:
            self._broken(fault.removeprefix("done-"))
            return
        if fault == "slow":
            time.sleep(self.server.draw.uniform(0.05, 0.4))
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"connection", "server"}:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if fault == "half" else content)
        if fault == "half":
            self.close_connection = True

    def _broken(self, fault: str) -> None:
        self.close_connection = fault not in {"500", "503"}
        if self.close_connection:
            return
        code = {"500": "InternalError", "503": "SlowDown"}[fault]
        content = f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response_only(int(fault))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve  # noqa: N815 - the base's names

    def log_message(self, *_):
        pass
