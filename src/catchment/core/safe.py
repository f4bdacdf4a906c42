"""Safe reading: untrusted bytes are parsed where a crash or a bomb hurts nobody.

A :class:`SafePool` is an executor whose tasks run in child processes with limits. It holds off
parsers that crash, hang or eat memory; it is no sandbox against code that a parser was made to run.

A watch in the parent holds memory to its limit, not RLIMIT_AS or RLIMIT_DATA: those count what
allocators reserve (Arrow's reserves 1 GiB at once), and make Rust code abort where the watch can
say what was exceeded. CPU time is held by the kernel, so it ends a child whose parent is busy.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from catchment.core.errors import Invalid, Unavailable
from catchment.core.safe_child import unpicklable

logger = logging.getLogger(__name__)

_TICK = 0.01  # seconds between two looks at a child at work
_STARTS = 3  # children to try before a task that did not begin is given up
_START_SECONDS = 60.0  # a child that has not begun by then never will
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Limits(NamedTuple):
    """What one task may use. Processes that it starts itself are not counted.

    Attributes:
        memory: bytes of the child's resident memory, files that it maps not counted; looked at
            every 10 ms, so a burst may pass it for that long. Held on Linux only.
        cpu: seconds of CPU time over all its threads, rounded up to whole seconds.
        wall: seconds from its start; waiting in the queue does not count.
    """

    memory: int = 1 << 30
    cpu: float = 300.0
    wall: float = 600.0


class SafePool(Executor):
    """Runs tasks in child processes under limits; a child that dies is replaced.

    A task is a function of an importable module with small arguments; task and result are pickled.
    Children start when first needed, are used again, and die with this process, even by kill -9.
    What they print is dropped, since it may hold values. A task runs once or, where no child could
    be started, not at all.

    A future's exception is an error of ours that the task raised, or else Invalid of kind
    ``reader-died``, ``reader-memory``, ``reader-cpu``, ``reader-wall``, ``unreadable`` (any other
    exception: its class is told, never its text) or ``unpicklable``, or Unavailable of kind
    ``reader-start``. Only the task that failed is hit.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        memory: int = Limits().memory,
        cpu: float = Limits().cpu,
        wall: float = Limits().wall,
    ) -> None:
        self._limits = Limits(memory, cpu, wall)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="catchment-safe")
        # A thread keeps to its own child: the kernel takes the thread that started it for parent.
        self._own = threading.local()
        self._children: set[_Child] = set()
        self._stopped = False
        self._closing = threading.Lock()

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue ``fn(*args, **kwargs)``. Invalid (kind ``unpicklable``) if it does not pickle."""
        return self._submit(self._limits, fn, args, kwargs)

    def limited(
        self, *, memory: int | None = None, cpu: float | None = None, wall: float | None = None
    ) -> Executor:
        """This pool with other limits for the tasks submitted there; None keeps the pool's."""
        own = self._limits
        limits = Limits(
            own.memory if memory is None else memory,
            own.cpu if cpu is None else cpu,
            own.wall if wall is None else wall,
        )
        return _Limited(self, limits)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in Executor
        """Take no more tasks; the children leave when the last one is done."""
        self._threads.shutdown(wait=False, cancel_futures=cancel_futures)
        if wait:
            self._close()
        else:
            threading.Thread(target=self._close).start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Wait for all tasks; after an exception (Ctrl-C) cancel them and kill those at work."""
        if exc_type is not None:
            self._stopped = True
            self._threads.shutdown(wait=False, cancel_futures=True)
            for child in list(self._children):
                child.process.kill()
        self.shutdown()

    def _submit(
        self, limits: Limits, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> Future[Any]:
        return self._threads.submit(self._run, limits, name_of(fn), pack(fn, args, kwargs))

    def _run(self, limits: Limits, name: str, task: bytes) -> Any:
        for _ in range(_STARTS):
            try:
                outcome = self._child(limits.memory).run(task, limits)
            except OSError:  # no process or no socket to be had
                continue
            except Invalid as error:
                if self._stopped:
                    raise CancelledError from None
                logger.debug("%s: %s", name, error)
                raise
            if outcome is not None:
                return take(outcome, name)
        raise Unavailable(
            f"a child process for readers did not start, tried {_STARTS} times",
            kind="reader-start",
            hint="look for a lack of memory or of processes (ulimit -a), then try again",
        )

    def _child(self, memory: int) -> _Child:
        """This thread's child; a fresh one where it died or holds half the memory already."""
        child: _Child | None = getattr(self._own, "child", None)
        if child and (child.connection.closed or child.resident() > memory / 2):
            child.kill()
            self._children.discard(child)
            child = None
        if child is None:
            child = self._own.child = _Child()
            self._children.add(child)
        if self._stopped:  # after the add: so either this line or __exit__ sees the other
            raise CancelledError
        return child

    def _close(self) -> None:
        self._threads.shutdown(wait=True)
        with self._closing:
            while self._children:
                self._children.pop().kill()  # idle: it has nothing to lose


class _Limited(Executor):
    """A pool seen through other limits. Leaving it does not shut the pool."""

    def __init__(self, pool: SafePool, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._pool._submit(self._limits, fn, args, kwargs)  # noqa: SLF001 - its other half


class _Child:
    """A child process and the socket to it."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        # Not multiprocessing's spawn: it would run the parent's main script again.
        boot = (
            f"import sys; sys.path[:] = {[str(entry) for entry in sys.path]!r}; "
            f"from catchment.core.safe_child import serve; serve({theirs.fileno()}, {os.getpid()})"
        )
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - our own code, no shell
                [sys.executable, "-P", "-c", boot],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def run(self, task: bytes, limits: Limits) -> bytes | None:
        """The outcome; None if the child died before the task began. Invalid if it died since."""
        try:
            self.connection.send((limits.cpu, task))
            if not self.connection.poll(_START_SECONDS):
                raise EOFError
            self.connection.recv_bytes()
        except (EOFError, OSError):
            self.kill()
            return None
        deadline = time.monotonic() + limits.wall
        try:
            while not self.connection.poll(_TICK):
                if self.resident() > limits.memory:
                    self.kill()
                    raise _exceeded("memory", f"{limits.memory / (1 << 20):,.0f} MiB of memory")
                if time.monotonic() > deadline:
                    self.kill()
                    raise _exceeded("wall", f"{limits.wall:,g} s")
            return self.connection.recv_bytes()
        except (EOFError, OSError):
            self.kill()
        code = self.process.returncode
        if code == -signal.SIGXCPU:
            raise _exceeded("cpu", f"{limits.cpu:,g} s of CPU time")
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise Invalid(
            f"the reader died ({cause})",
            kind="reader-died",
            hint="the file may be damaged or hostile: make it anew from its source and send it",
        )

    def resident(self) -> int:
        """Bytes of anonymous resident memory; 0 where the system does not tell."""
        try:
            _, resident, shared, *_ = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        except OSError:
            return 0
        return (int(resident) - int(shared)) * _PAGE

    def kill(self) -> None:
        with suppress(OSError):  # closed already, as the interpreter ends
            self.connection.close()
        self.process.kill()
        self.process.wait()


def pack(fn: Callable[..., Any], args: Any, kwargs: Any) -> bytes:
    """The pickled task. Invalid (kind ``unpicklable``) where that cannot be."""
    try:
        return pickle.dumps((fn, args, kwargs), pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 - whatever a __reduce__ raises
        raise unpicklable(f"the task {name_of(fn)} cannot be pickled", error) from None


def take(outcome: bytes, name: str) -> Any:
    """The value in a pickled outcome; raises the error in it, which is told to the log as well."""
    try:
        value, error = pickle.loads(outcome)  # noqa: S301 - our own child wrote it
    except Exception as problem:  # noqa: BLE001 - whatever a __setstate__ raises
        raise unpicklable(f"the result of {name} cannot be loaded", problem) from None
    if error is not None:
        logger.debug("%s: %s", name, error)
        raise error
    return value


def name_of(fn: Callable[..., Any]) -> str:
    """Module and name of a function, for the log."""
    return f"{fn.__module__}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def _exceeded(limit: str, amount: str) -> Invalid:
    return Invalid(
        f"the reader used more than {amount}",
        kind=f"reader-{limit}",
        hint="the file may be damaged or hostile; if it is sound, raise "
        + ("executor.memory in the settings" if limit == "memory" else "this limit of readers"),
    )
