"""A real dask cluster on this machine, as people start one: a scheduler, and workers with nannies.

``with cluster(folder, 2) as found: open_executor(found.address)``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_PATIENCE = 30  # seconds


class Cluster(NamedTuple):
    """Where the scheduler listens, and the processes; ``nanny`` is None without workers."""

    address: str
    scheduler: subprocess.Popen[bytes]
    nanny: subprocess.Popen[bytes] | None


def _address(information: Path) -> str | None:
    """Where the scheduler listens; None while it has not written all of it."""
    with suppress(FileNotFoundError, ValueError):
        return str(json.loads(information.read_text())["address"])
    return None


@contextmanager
def cluster(folder: Path, workers: int, path: str = "") -> Iterator[Cluster]:
    """A scheduler on a free loopback port and as many workers of one thread each.

    Args:
        folder: for logs and what is spilt.
        workers: 0 leaves the scheduler alone.
        path: more folders that the workers import from, as in ``PYTHONPATH``.
    """
    environment = os.environ | {
        "PYTHONPATH": path,
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false",  # nobody looks at it
        "DASK_TEMPORARY_DIRECTORY": str(folder),
    }
    information = folder / "scheduler.json"
    everywhere = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(information)]

    def start(what: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (folder / f"{what}.log").open("ab") as log:
            command = [sys.executable, "-m", f"distributed.cli.dask_{what}"]
            return subprocess.Popen(  # noqa: S603 - our own Python
                [*command, *arguments, *everywhere], stdout=log, stderr=log, env=environment
            )

    scheduler = start("scheduler", "--port", "0")
    nanny = start("worker", "--nworkers", str(workers), "--nthreads", "1") if workers else None
    try:
        end = time.monotonic() + _PATIENCE
        while (address := _address(information)) is None:
            assert time.monotonic() < end, (folder / "scheduler.log").read_text()
            time.sleep(0.05)
        yield Cluster(address, scheduler, nanny)
    finally:
        # Workers first: without a scheduler their nannies wait long.
        for process in (nanny, scheduler):
            if process is not None:
                process.terminate()
                process.wait(_PATIENCE)
