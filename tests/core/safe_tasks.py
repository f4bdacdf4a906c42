"""What the tests run in child processes: importable there, unlike a test module."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path

from catchment.core.errors import Conflict, Invalid

CANARY = "NACC123456"
_held: list[bytearray] = []


class Torn(Conflict):
    """An error of ours with a constructor and an attribute of its own."""

    kind = "torn"

    def __init__(self, page: int) -> None:
        super().__init__(f"page {page} is torn", hint="send the page again")
        self.page = page


class Panic(BaseException):
    """As pyo3's PanicException: not an Exception."""


class OutOfMemoryException(Exception):
    """As DuckDB's: not a MemoryError."""


class Unloadable:
    def __reduce__(self):
        return _refuse, ()


def _refuse():
    if os.getpid() != int(os.environ["SAFE_TASKS_PARENT"]):
        return Unloadable()
    raise ValueError(CANARY)


def add(one, two=1):
    return one + two


def pid():
    return os.getpid()


def parent_pid():
    return os.getppid()


def modules():
    return set(sys.modules)


def note(path, text):
    """Leave a line that tells that this ran."""
    with Path(path).open("a") as file:
        file.write(f"{text}\n")
    return text


def note_and_die(path, text):
    note(path, text)
    os._exit(7)


def die(how):
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "closed":  # alive, but no answer can come any more
            os.closerange(3, 256)


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


def burn_in_c():
    return sum(range(10**15))  # holds the GIL


def grow():
    while True:
        _held.append(bytearray(b"x") * (1 << 22))


def hold(size):
    _held.append(bytearray(b"x") * size)


def fail(what):
    if what == "ours":
        raise Invalid("expected two columns, found three", kind="columns", hint="drop one")
    if what == "subclass":
        raise Torn(7)
    if what == "burdened":
        error = Torn(7)
        error.lock = lambda: None
        raise error
    raise {
        "value": ValueError,
        "panic": Panic,
        "exit": SystemExit,
        "interrupt": KeyboardInterrupt,
        "memory": MemoryError,
        "duckdb": OutOfMemoryException,
    }[what](CANARY)


def unpicklable():
    return lambda: None


def unloadable():
    return Unloadable()


def chatter():
    print(CANARY, flush=True)  # noqa: T201
    os.write(2, CANARY.encode())
    return "said"


def interrupt_self():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
    return "alive"


def lower_hard_cpu_limit(seconds):
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def cpu_limit():
    return resource.getrlimit(resource.RLIMIT_CPU)


def read_parquet(path):
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read().num_rows


def kill_worker_once(flag):
    """Kill the worker of the cluster that this child belongs to, the first time only."""
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return "done"


def kill_worker():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
