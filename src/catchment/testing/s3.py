"""Real S3 servers for tests, on free loopback ports, thrown away afterwards.

Import the fixtures where they are needed: ``from catchment.testing.s3 import moto, ministack``.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from catchment.core.store import Store, open_store
from catchment.core.store_s3_config import client

VARIABLE = "CATCHMENT_TEST_S3_ENDPOINT"
_PATIENCE = 60  # seconds


class S3Server(NamedTuple):
    """A server with one bucket of its own; :meth:`store` opens an empty store in it."""

    endpoint: str
    bucket: str

    @property
    def options(self) -> dict[str, str]:
        """The options of :func:`catchment.core.store.open_store` for this server."""
        return {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": os.environ.get("CATCHMENT_TEST_S3_KEY", "test"),
            "secret_access_key": os.environ.get("CATCHMENT_TEST_S3_SECRET", "test"),
            "allow_http": "true",
        }

    def store(self) -> Store:
        """A store below a prefix that nobody else uses."""
        return open_store(f"s3://{self.bucket}/{uuid.uuid4().hex}/below", **self.options)


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """A server of moto's, in threads of this process; it believes every signature."""
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    try:
        yield _with_bucket(f"http://{host}:{port}")
    finally:
        running.stop()


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of ministack's, in a process of its own."""
    program = Path(sys.executable).with_name("ministack")
    if not program.exists():
        pytest.skip("ministack is not installed (pip install ministack)")
    port = _free_port()
    environment = {
        **os.environ,
        "AUTH": "true",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",  # a port that is the same for all
    }
    log = tmp_path_factory.mktemp("ministack") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the program beside this Python
            [program], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        endpoint = f"http://127.0.0.1:{port}"
        if not _answers(f"{endpoint}/_ministack/health", process):
            pytest.fail(f"ministack did not start in {_PATIENCE} s")
        yield _with_bucket(endpoint)
    finally:
        process.kill()  # it would wait for open connections, and keeps nothing
        process.wait()


@pytest.fixture(scope="session")
def any_s3() -> S3Server:
    """The server that ``CATCHMENT_TEST_S3_ENDPOINT`` names, with ``..._KEY`` and ``..._SECRET``."""
    return _with_bucket(os.environ[VARIABLE])


def _with_bucket(endpoint: str) -> S3Server:
    server = S3Server(endpoint, f"catchment-{uuid.uuid4().hex}")
    client(server.options).create_bucket(Bucket=server.bucket)
    return server


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310 - our own server
                return True
        except OSError:
            time.sleep(0.05)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
