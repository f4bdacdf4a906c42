"""What runs in a child process of :class:`catchment.core.safe.SafePool`: one task after another.

Imports little, so that a child starts fast; a task's own module is imported with the task.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import pickle
import resource
import signal
import sys
import time
from importlib.abc import MetaPathFinder
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from catchment.core.errors import CatchmentError, Invalid

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def serve(descriptor: int, parent: int) -> None:
    """Run the tasks that come over a socket until it closes.

    A message is ``(CPU seconds, pickled task)``. The answers are an empty message as the task
    begins, so that the parent knows whether it ran and when its time started, then its outcome.
    """
    _prepare(parent)
    connection: Connection[Any, Any] = Connection(descriptor)
    with connection, contextlib.suppress(EOFError, OSError):
        while True:
            _serve_one(connection, *connection.recv())


def _serve_one(connection: Connection[Any, Any], cpu: float, task: bytes) -> None:
    connection.send_bytes(b"")
    _limit_cpu(time.process_time() + cpu)
    outcome = call(task)
    _limit_cpu(math.inf)
    connection.send_bytes(outcome)


def call(task: bytes) -> bytes:
    """The pickled ``(value, error)`` of a pickled ``(function, args, kwargs)``; never raises."""
    try:
        function, args, kwargs = pickle.loads(task)  # noqa: S301 - our own parent wrote it
    except BaseException as error:  # noqa: BLE001 - whatever an import raises
        return failure(unpicklable("a task cannot be loaded where it shall run", error))
    try:
        value = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - a panic of Rust is a BaseException
        return failure(translate(error))
    try:
        return pickle.dumps((value, None), pickle.HIGHEST_PROTOCOL)
    except BaseException as error:  # noqa: BLE001 - whatever a __reduce__ raises
        return failure(unpicklable("a task's result cannot be pickled", error))


def failure(error: CatchmentError) -> bytes:
    """The pickled outcome of a task that failed."""
    try:
        return pickle.dumps((None, error), pickle.HIGHEST_PROTOCOL)
    except Exception as problem:  # noqa: BLE001 - whatever an attribute of the error raises
        return failure(unpicklable("a task's error cannot be pickled", problem))


def translate(error: BaseException) -> CatchmentError:
    """Our own error as it is; any other as Invalid with its class only: its text may hold values.

    The kind is ``reader-memory`` where memory ran out, else ``unreadable``.
    """
    name = type(error).__name__
    if isinstance(error, CatchmentError):
        return error
    if isinstance(error, MemoryError) or "OutOfMemory" in name:
        return Invalid(
            f"the reader got no more memory ({name})",
            kind="reader-memory",
            hint="the file may be damaged or hostile; if it is sound, raise executor.memory in the "
            "settings",
        )
    return Invalid(
        f"the reader failed with {name}",
        kind="unreadable",
        hint="check that the file is whole and of the expected format, then send it again",
    )


def unpicklable(what: str, error: BaseException) -> Invalid:
    """The Invalid (kind ``unpicklable``) of a task, result or error that does not pickle."""
    return Invalid(
        f"{what}: {type(error).__name__}",
        kind="unpicklable",
        hint="use functions and classes of importable modules (not of a script) and plain values",
    )


def _prepare(parent: int) -> None:
    """Die with the parent, before it for want of memory, silently and without a core dump."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    if os.getppid() != parent:  # it died before the line above could bind us to it
        sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold patients' values
    sys.meta_path.insert(0, _WithoutPandas())


class _WithoutPandas(MetaPathFinder):
    """Hides pandas, which pyarrow loads where it is installed, used or not: 0.3 s a child."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


def with_pandas() -> None:
    """Let this process load pandas, for tasks whose libraries need it, as xarray does."""
    sys.meta_path[:] = [one for one in sys.meta_path if not isinstance(one, _WithoutPandas)]


def _limit_cpu(seconds: float) -> None:
    """Let SIGXCPU end this process once it has used so many seconds, rounded up."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    most = math.inf if hard == resource.RLIM_INFINITY else hard
    soft = min(seconds, most)
    resource.setrlimit(
        resource.RLIMIT_CPU, (resource.RLIM_INFINITY if soft == math.inf else math.ceil(soft), hard)
    )
