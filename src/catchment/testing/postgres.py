"""A real PostgreSQL server for tests, thrown away afterwards.

Import the fixture where it is needed: ``from catchment.testing.postgres import postgres``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from catchment.core.errors import NotFound, Unavailable

PASSWORD = "not-a-secret"  # noqa: S105 - but a test can look for it where no password may be
_PATIENCE = 30  # seconds


class Postgres:
    """A server on a loopback port; it ends with the process that started it."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._binaries = binaries
        self._names = count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the server's data folder. It asks for a password, and sorts as people do.

        Needs PostgreSQL 15 or newer, built with ICU as all distributions do.
        """
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:  # the server refuses to be root
            account = _unprivileged()
            for path in (self.folder, password):
                os.chown(path, account.pw_uid, account.pw_gid)
        options = ["--username=catchment", f"--pwfile={password}", "--auth=scram-sha-256"]
        locale = ["--encoding=UTF8", "--locale-provider=icu", "--icu-locale=en"]
        command = ["initdb", *options, *locale, "--no-sync", "-D", str(self.folder / "data")]
        subprocess.run(  # noqa: S603
            self._command(*command), check=True, stdout=subprocess.DEVNULL, **self._as()
        )

    def start(self) -> None:
        """Start the server, with fsync as in production; returns when it answers."""
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "max_connections=200"]
        options = [part for setting in settings for part in ("-c", setting)]
        command = ["postgres", "-D", str(self.folder / "data"), "-k", str(self.folder), *options]
        # The shell ends the server when our end of its input is closed, by a kill -9 of us too.
        watched = ["sh", "-c", '"$@" & cat >/dev/null; kill -QUIT $!; wait', "sh"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                watched + self._command(*command),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                **self._as(),
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if time.monotonic() > deadline:
                said = (self.folder / "log").read_text(errors="replace")
                raise Unavailable(f"the PostgreSQL server did not start: {said[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as a crash would: it recovers at the next start."""
        if self._process is not None:
            self._process.communicate(timeout=_PATIENCE)  # closes its input
            self._process = None

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """The URL of a database of this server."""
        return f"postgresql://catchment:{password}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._names)}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def end_sessions(self) -> None:
        """End every other session of the server, as an administrator would."""
        with self._connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(self.url(), autocommit=True, connect_timeout=5)

    def _answers(self) -> bool:
        import psycopg

        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _command(self, name: str, *arguments: str) -> list[str]:
        return [str(self._binaries / name), *arguments]

    def _as(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {"cwd": self.folder}
        account = _unprivileged()
        return {
            "cwd": self.folder,
            "user": account.pw_uid,
            "group": account.pw_gid,
            "extra_groups": [],
        }


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A server, stopped and removed when the block ends.

    NotFound (kind ``no-postgres``) where the machine has no server's binaries.
    """
    binaries = find()
    if binaries is None:
        raise NotFound(
            "no PostgreSQL server on this machine: neither on the PATH nor by pg_config",
            kind="no-postgres",
            hint="apt-get install postgresql",
        )
    # Directly below /tmp: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="catchment-pg-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), binaries)
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.stop()


def find() -> Path | None:
    """The folder of the server's binaries: on the PATH, by ``pg_config``, or Debian's newest."""
    candidates = []
    if found := shutil.which("initdb"):
        candidates.append(Path(found).resolve().parent)
    if config := shutil.which("pg_config"):
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)  # noqa: S603
        candidates.append(Path(said.stdout.strip()))
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(debian, key=lambda p: float(p.parent.name), reverse=True)
    return next(
        (p for p in candidates if (p / "initdb").exists() and (p / "postgres").exists()), None
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a session; skips where there are no binaries."""
    pytest.importorskip(
        "psycopg", reason="psycopg is not installed: pip install 'catchment[postgres]'"
    )
    try:
        with running() as server:
            yield server
    except NotFound as error:
        pytest.skip(f"{error.message}; {error.hint}")


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NotFound("no account 'postgres' or 'nobody' to run the server as", kind="no-postgres")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
