"""Hosts that are not there: each process in a network, a host name and a home of its own.

``Host(name, folder, doors)`` runs ``catchment`` as on another machine: nothing of this network is
reached but the doors, which are ports of servers on this machine's loopback (PostgreSQL, S3), and
which :meth:`Doors.close` shuts as a broken cable would. Needs root and ``unshare``; elsewhere hosts
have homes of their own only (``isolated`` tells).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

_CHUNK = 1 << 16

type Connect = Callable[[], socket.socket]


def can_isolate() -> bool:
    """Whether this machine lets us make networks."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run(["unshare", "-nu", "true"], check=False).returncode == 0  # noqa: S607


class Doors:
    """Unix sockets in a folder, each of which leads to a port of this machine's loopback."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.folder = folder
        self.ports = tuple(ports)
        self._servers: list[socket.socket] = []
        self._open: set[socket.socket] = set()
        self._turn = threading.Lock()

    def open(self) -> None:
        """Let hosts through."""
        for port in self.ports:
            path = self.folder / f"{port}.sock"
            path.unlink(missing_ok=True)
            server = socket.socket(socket.AF_UNIX)
            server.bind(str(path))
            server.listen(128)
            self._servers.append(server)
            _serve(server, partial(self._through, port))

    def close(self) -> None:
        """Cut every connection, and take no other."""
        for server in self._servers:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        self._servers = []
        with self._turn:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._open = set()
        for port in self.ports:
            (self.folder / f"{port}.sock").unlink(missing_ok=True)

    def _through(self, port: int) -> socket.socket:
        found = socket.create_connection(("127.0.0.1", port))
        with self._turn:
            self._open.add(found)
        return found


@contextmanager
def doors(folder: Path, ports: Sequence[int]) -> Iterator[Doors]:
    """Open doors for a block."""
    made = Doors(folder, ports)
    made.open()
    try:
        yield made
    finally:
        made.close()


class Host:
    """One machine of its own, as far as a process can tell."""

    def __init__(self, name: str, folder: Path, through: Doors) -> None:
        self.name = name
        self.home = folder / name
        self.home.mkdir(parents=True)
        self._doors = through
        self.isolated = can_isolate()

    def start(
        self, *arguments: str, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """A ``catchment`` command on this host."""
        ports = ",".join(map(str, self._doors.ports))
        inside = [sys.executable, "-m", "catchment.testing.hosts", self.name]
        command = [*inside, str(self._doors.folder) if self.isolated else "", ports, *arguments]
        if self.isolated:
            command = ["unshare", "--net", "--uts", *command]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "CATCHMENT_"))}
        own = {"HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "state")}
        return subprocess.Popen(  # noqa: S603 - our own Python
            command,
            env=clean | own | {"NO_COLOR": "1"} | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
        )

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
        """The exit code and the output of a command."""
        with self.start(*arguments, environment=environment) as process:
            out, errors = process.communicate(timeout=120)
        return process.returncode, out or errors


def _serve(server: socket.socket, connect: Connect) -> None:
    """Accept in a thread; each connection is joined with one that ``connect`` makes."""

    def accept() -> None:
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=_join, args=(one, connect), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _join(one: socket.socket, connect: Connect) -> None:
    try:
        other = connect()
    except OSError:
        one.close()
        return
    with one, other, contextlib.suppress(OSError, ValueError):
        while True:
            ready, _, _ = select.select([one, other], [], [])
            for source in ready:
                data = source.recv(_CHUNK)
                if not data:
                    return
                (other if source is one else one).sendall(data)


def _inside(name: str, folder: str, ports: str, arguments: Sequence[str]) -> None:
    """What a process of a host does first: its name, its network, the doors; then the command."""
    if folder:
        socket.sethostname(name)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607
        for port in map(int, ports.split(",")):
            server = socket.create_server(("127.0.0.1", port), backlog=128)
            path = str(Path(folder) / f"{port}.sock")
            _serve(server, partial(_unix, path))
    # The program as an operator starts it, not a part of this package.
    import_module("catchment.cli.main").main(list(arguments))


def _unix(path: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    found.connect(path)
    return found


if __name__ == "__main__":
    _inside(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
