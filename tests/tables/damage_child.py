"""Makes runs in child processes that may be killed: ``python -m tests.tables.damage_child``.

It reads orders from standard input, a JSON object a line, and forks a child for each:

    {"folder", "overrides": [settings of each run], "ttl": seconds of a lease, "full": false,
     "kill_after": seconds until SIGKILL, "fault": {"on": "store" | "ledger", and what Faults takes,
     or "stop_at": the number of the operation at which the child stops until it is told to go on}}

and answers, when the child has ended, with its status and with what its runs said.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from catchment.core.errors import CatchmentError
from catchment.core.ledger import Ledger
from catchment.core.workspace import Workspace
from catchment.tables import capability
from catchment.tables import run as runs
from catchment.tables.job import House
from catchment.testing.faults import Faults, inject

AGGREGATE = "tables/main"
ALL: dict[str, Any] = {}  # settings of the run that all others are compared with
NOW = datetime(2026, 2, 6, 10, 1, 29, tzinfo=UTC)
THREADS = {"executor.kind": "threads", "executor.workers": 1}


class Stops(Faults):
    """The process stops at an operation, before it or after it, as a paused machine does."""

    def __init__(self, *, stop_at: int, when: str = "before") -> None:
        super().__init__()
        self._stop = stop_at, when

    def around(self, operation):
        self.count += 1
        number = self.count
        if (number, "before") == self._stop:
            os.kill(os.getpid(), signal.SIGSTOP)
        result = operation()
        if (number, "after") == self._stop:
            os.kill(os.getpid(), signal.SIGSTOP)
        return result


@contextmanager
def leases(seconds: float):
    """Leases of this process are that short."""
    before, runs.LEASE = runs.LEASE, timedelta(seconds=seconds)
    try:
        yield
    finally:
        runs.LEASE = before


def work(
    folder: Path,
    overrides: Any,
    *,
    store: Faults | None = None,
    ledger: Faults | None = None,
    full: bool = False,
    ttl: float = 60,
    change=lambda job: job,
):
    """One run of a workspace, in threads, at a fixed time; faults are injected where given."""
    with ExitStack() as stack:
        stack.enter_context(leases(ttl))
        workspace = stack.enter_context(Workspace.open(folder, {**THREADS, **overrides}))
        house = House(
            inject(workspace.store, store) if store else workspace.store,
            inject(workspace.ledger, ledger) if ledger else workspace.ledger,
            workspace.executor,
            clock=lambda: NOW,
        )
        return runs.run(change(capability.job(workspace, "main")), house, full=full)


def child(order: dict[str, Any], say: int) -> None:
    """Make the runs that are ordered; say of each how it ended."""
    faults = dict(order.get("fault") or {})
    where = {}
    if faults:
        on = faults.pop("on")
        where[on] = Stops(**faults) if "stop_at" in faults else Faults(**faults)
    for overrides in order["overrides"]:
        options = {"ttl": order.get("ttl", 60), "full": order.get("full", False), **where}
        try:
            outcome = work(Path(order["folder"]), overrides, **options)
            said = {"state": outcome.state, "number": outcome.snapshot.number}
        except CatchmentError as error:
            said = {"error": error.kind, "code": error.exit_code}
        said["count"] = [faults.count for faults in where.values()]
        os.write(say, json.dumps(said).encode() + b"\n")


def nurse(order: dict[str, Any]) -> None:
    """Fork a child, end it when it is time, and tell how it ended."""
    hear, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hear)
        try:
            child(order, say)
        except BaseException as error:  # noqa: BLE001 - a child must never go on as its parent
            sys.stderr.write(f"{error!r}\n")
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    os.close(say)
    if "kill_after" in order:
        handle = os.pidfd_open(pid)
        if not select.select([handle], [], [], order["kill_after"])[0]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
    status = os.waitpid(pid, os.WUNTRACED)[1]
    if os.WIFSTOPPED(status):
        tell({"stopped": True})
        sys.stdin.readline()
        os.kill(pid, signal.SIGCONT)
        status = os.waitpid(pid, 0)[1]
    with os.fdopen(hear) as lines:
        said = [json.loads(line) for line in lines]
    tell({"status": os.waitstatus_to_exitcode(status), "said": said})


def tell(answer: dict[str, Any]) -> None:
    """One line to who gave the order."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def warm() -> None:
    """Import here what every child would import late; no thread may be started for it."""
    import duckdb  # noqa: F401
    import pandas as pd  # noqa: F401
    import pyarrow.csv  # noqa: F401

    with TemporaryDirectory() as folder:
        Ledger.open(f"sqlite:///{folder}/ledger.db").close()
    gc.collect()
    gc.freeze()  # else a child that collects garbage gets a copy of every page


if __name__ == "__main__":
    warm()
    for line in iter(sys.stdin.readline, ""):
        nurse(json.loads(line))
