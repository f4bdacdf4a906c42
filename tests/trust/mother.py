"""Makes runs in child processes that are to be hurt: ``python -m tests.trust.mother``.

It has all imports behind it, reads orders from standard input, a JSON object a line, and forks a
child for each, so that a child costs milliseconds and may die cheaply:

    {"id", "folder", "do": "run tables/main" | "gc" | "withdraw SITE", "settings": {...},
     "ttl": seconds of a lease, "clock": seconds that the clock is off,
     "fault": {"kind": "kill" | "fail" | "full" | "stop", "on": "store" | "ledger" | "disk",
               "at": number of the operation, "when": "before" | "after"},
     "answer": file for what the child has to say}

and tells ``{"id", "pid"}`` when it was born and ``{"id", "status"}`` when it ended.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import select
import signal
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

STORE = ("head", "read", "stream", "put", "list", "folders", "delete", "copy", "compose")
STUDY = "core"
LEDGER = (
    "receive_many", "move", "start_run", "finish_run", "record", "acquire", "release", "publish",
    "seal", "latest", "snapshots", "snapshot",
)  # fmt: skip
DISK = (
    "fsync",
    "link",
    "replace",
    "rename",
    "unlink",
    "mkdir",
    "rmdir",
    "write",
    "pwrite",
    "copy_file_range",
)
WRITES = frozenset({"write", "pwrite", "mkdir", "link", "copy_file_range"})


class Haunt:
    """Counts operations of a kind; what is ordered happens at one of them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.kind, self.at, self.when = order["kind"], order["at"], order["when"]
        self.count = 0
        self.fired = False
        self.commits = threading.RLock()
        self._lock = threading.Lock()

    def around(self, operation, name=""):
        from catchment.core.errors import Unavailable

        with self._lock:
            if self.kind == "full" and name not in WRITES:
                number = 0
            else:
                self.count += 1
                number = self.count
        if self.kind == "full" and number >= self.at:  # and it stays so
            self.fired = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        hit = number == self.at
        if hit and self.when == "before":
            self._hurt()
            if self.kind == "fail":
                raise Unavailable("a fault was injected here", kind="injected")
        try:
            result = operation()
        finally:
            if hit and self.when == "after":
                self._hurt()
        if hit and self.when == "after" and self.kind == "fail":
            raise Unavailable("it was done, and its answer is lost", kind="injected")
        return result

    def _hurt(self) -> None:
        self.fired = True
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "stop":
            # In the midst of another thread's commit to SQLite nobody could do anything until it
            # wakes, but to be told so (`ledger-locked`).
            with self.commits:
                os.kill(os.getpid(), signal.SIGSTOP)


def haunt(owner: Any, names: tuple[str, ...], what: Haunt) -> None:
    """Every call of these functions is counted, whoever makes it."""
    for name in names:
        if name not in vars(owner):
            continue
        real = getattr(owner, name)

        def stand_in(*args, _real=real, _name=name, **options):
            return what.around(lambda: _real(*args, **options), _name)

        setattr(owner, name, stand_in)


def jump(seconds: float) -> None:
    """The clock of this process is off by so much, wherever the program asks for the time."""

    class Asked(type):
        def __instancecheck__(cls, instance):
            return isinstance(instance, datetime)

    class Jumped(datetime, metaclass=Asked):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=seconds)

    for name, module in list(sys.modules.items()):
        if name.startswith("catchment.") and vars(module).get("datetime") is datetime:
            module.datetime = Jumped


def short_leases(ttl: float) -> None:
    """Leases of this process last that long; the dead need not be waited for."""
    from catchment.arrays import stack
    from catchment.arrays.transform import run as transforms
    from catchment.core import collection
    from catchment.exports import job as exports
    from catchment.imaging import job as imaging
    from catchment.studies import run as studies
    from catchment.tables import run as tables

    for module in (tables, studies, stack, collection):
        module.LEASE = timedelta(seconds=ttl)
    for house in (exports.House, imaging.House, transforms.House):
        assert is_dataclass(house)
        assert "lease" in {field.name for field in fields(house)}
        defaults = list(house.__init__.__defaults__)
        at = next(i for i, value in enumerate(defaults) if value == timedelta(seconds=60))
        defaults[at] = timedelta(seconds=ttl)
        house.__init__.__defaults__ = tuple(defaults)


def haunted(fault: dict[str, Any]) -> Haunt:
    """What is ordered happens from now on, at one of the operations that it is about."""
    from catchment.core import store_local, store_objects, store_s3
    from catchment.core.ledger import Ledger
    from catchment.core.ledger.database import Database

    what, write = Haunt(fault), Database.write

    def in_turn(*args, **options):
        with what.commits:
            return write(*args, **options)

    if what.kind == "stop":
        Database.write = in_turn
    stores = (store_local.LocalStore, store_objects.Objects, store_s3.S3Store)
    owners, names = {
        "store": (stores, STORE),
        "delete": (stores, ("delete",)),
        "ledger": ((Ledger,), LEDGER),
        "publish": ((Ledger,), ("publish",)),
        "disk": ((os,), DISK),
    }[fault["on"]]
    for owner in owners:
        haunt(owner, names, what)
    return what


def child(order: dict[str, Any]) -> dict[str, Any]:
    """Do what is ordered; what came of it."""
    from catchment.arrays.transform import base
    from catchment.core.errors import CatchmentError
    from catchment.core.workspace import Workspace

    base.SafePool = _Here  # these recordings are our own: a reader in a child takes a second
    short_leases(order["ttl"])
    if order.get("clock"):
        jump(order["clock"])
    what = haunted(order["fault"]) if "fault" in order else None
    said: dict[str, Any] = {}
    try:
        with Workspace.open(order["folder"], order["settings"]) as workspace:
            said = work(workspace, *order["do"].split())
    except CatchmentError as error:
        said = {"error": error.kind, "class": type(error).__name__, "message": error.message}
    if what:
        what.at = 1 << 60  # what is left to do is ours: the answer
    said["count"] = what.count if what else 0
    said["fired"] = bool(what and what.fired)
    return said


def work(workspace, what: str, *arguments: str) -> dict[str, Any]:
    """One command's work."""
    from catchment.core.capability import load
    from catchment.core.progress import silent
    from catchment.studies import actions, library

    if what == "run":
        kind, _, name = arguments[0].partition("/")
        done = load(kind).run(workspace, name, dry_run=False, progress=silent)
        done.account.check()
        return {"state": done.state, "number": done.snapshot}
    if what == "gc":
        from catchment.core.collection import collect

        return {"state": "collected", "number": len(collect(workspace, timedelta(0)).objects)}
    if what == "cancel":
        from catchment.exports.run import cancel

        record = cancel(workspace.store, workspace.ledger, arguments[0], patience=3)
        return {"state": record.state, "number": None}
    assert what == "withdraw"
    done = actions.withdraw(library.house(workspace), STUDY, *arguments)
    return {"state": done.state, "number": done.snapshot.number if done.snapshot else None}


class _Here:
    """Stands in for a pool of children where the bytes are known to be harmless."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, call, *arguments):
        from concurrent.futures import Future

        future = Future()
        try:
            future.set_result(call(*arguments))
        except Exception as error:  # noqa: BLE001 - as the pool does
            from catchment.core.errors import CatchmentError, Invalid

            known = isinstance(error, CatchmentError)
            future.set_exception(error if known else Invalid("unreadable", kind="unreadable"))
        return future


def bear(order: dict[str, Any]) -> int:
    """The process id of a child that does what is ordered."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with suppress(KeyError):
            os.setpgid(0, 0)
        try:
            said = child(order)
            status = 0
        except BaseException:  # noqa: BLE001 - a child must never go on as its parent
            said = {"traceback": traceback.format_exc()}
        beside = Path(order["answer"] + ".part")
        beside.write_text(json.dumps(said))
        beside.rename(order["answer"])
    finally:
        os._exit(status)


def tell(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    import tests.warm  # noqa: F401 - it has all imports behind it, for its children

    tell(ready=threading.active_count())
    children: dict[int, tuple[int, int]] = {}  # by the handle that tells of the end
    source = os.fdopen(0, "rb", buffering=0)
    pending = b""
    while True:
        ready, _, _ = select.select([0, *children], [], [])
        for handle in ready:
            if handle:
                number, pid = children.pop(handle)
                os.close(handle)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                tell(id=number, status=status)
                continue
            data = source.read(65536)
            if not data:
                for _, pid in children.values():
                    os.kill(pid, signal.SIGKILL)
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = bear(order)
                children[os.pidfd_open(pid)] = order["id"], pid
                tell(id=order["id"], pid=pid)


if __name__ == "__main__":
    main()
