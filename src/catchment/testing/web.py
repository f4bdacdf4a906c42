"""Real HTTP servers for tests and benchmarks, each on a free port in a thread."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from catchment.core.errors import Unavailable

_PATIENCE = 30.0  # seconds


@contextmanager
def listening(server: socketserver.TCPServer) -> Iterator[str]:
    """Let a server of the standard library serve on loopback; gives its URL, closes it after."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an ASGI application on a free loopback port, in a thread; gives its URL."""
    import uvicorn

    config = uvicorn.Config(
        app, port=0, log_config=None, access_log=False, ws="none", timeout_keep_alive=75
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + _PATIENCE
    while not server.started:
        if time.monotonic() > deadline:
            raise Unavailable("the server did not start")
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
