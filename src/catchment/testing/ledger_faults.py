"""Faults to put into a ledger: answers that are lost, crashes at any statement, kill -9."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, Literal

import sqlalchemy as sa

from catchment.core.ledger import Ledger
from catchment.testing.ledger_samples import prepare, publication, step


class Crash(BaseException):
    """The end of a process, without ending it."""


@dataclass
class Fault:
    """What happens to one transaction that writes; ``done`` once it has happened.

    Attributes:
        kind: ``lost``: the commit is made and its answer lost. ``undone``: the commit is not made,
            and its answer is lost as well. ``crash``: the process ends before a statement.
            ``crash-after``: it ends after the commit.
        statement: the statement that a crash comes before, from 1.
    """

    kind: Literal["lost", "undone", "crash", "crash-after"]
    statement: int = 1
    done: bool = False


@contextmanager
def faulty(ledger: Ledger, fault: Fault) -> Iterator[Fault]:
    """Let the fault happen once, inside the block."""
    engine = ledger._database.engine  # noqa: SLF001 - a fault comes from behind the door

    def commit(connection: Any, real: Callable[[Any], None]) -> None:
        if fault.done or fault.kind == "crash":
            return real(connection)
        fault.done = True
        if fault.kind == "undone":
            connection.rollback()
        else:
            real(connection)
        raise Crash if fault.kind == "crash-after" else _lost(engine, connection)

    seen = 0

    def statement() -> None:
        nonlocal seen
        seen += 1
        if fault.kind == "crash" and seen == fault.statement:
            fault.done = True
            raise Crash

    with _watched(engine, statement, commit):
        yield fault


@contextmanager
def _watched(
    engine: sa.Engine,
    statement: Callable[[], None],
    commit: Callable[[Any, Callable[[Any], None]], None],
) -> Iterator[None]:
    def before(*_: object) -> None:
        statement()

    dialect: Any = engine.dialect
    real = dialect.do_commit
    sa.event.listen(engine, "before_cursor_execute", before)
    dialect.do_commit = lambda connection: commit(connection, real)
    try:
        yield
    finally:
        dialect.do_commit = real
        sa.event.remove(engine, "before_cursor_execute", before)


def _lost(engine: sa.Engine, connection: Any) -> Exception:
    """What the driver raises when the connection breaks under a commit."""
    if engine.dialect.name == "sqlite":
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        return error
    connection.dbapi_connection.close()
    driver: Any = engine.dialect.loaded_dbapi
    broken: Exception = driver.OperationalError("server closed the connection unexpectedly")
    return broken


# The rest runs in processes of its own.


def open_and_close(url: str) -> None:
    """Open a ledger, as the first of many or as the last."""
    with Ledger.open(url) as ledger:
        ledger.aggregates()


def publish_many(ledger: Ledger, worker: int, times: int) -> list[int]:
    """Publish under keys of this worker; the numbers that were acknowledged."""
    return [step(ledger, f"{worker}-{i}").number for i in range(times)]


def publish_rapidly(ledger: Ledger, worker: int, times: int) -> float:
    """Publish small things; gives the seconds that the slowest one took."""
    slowest = 0.0
    for i in range(times):
        start = time.monotonic()
        ledger.publish(publication(f"{worker}-{i}", provenance={"text": "x" * 2000}))
        slowest = max(slowest, time.monotonic() - start)
    return slowest


def publish_until_killed(ledger: Ledger, worker: int, acknowledged: Pipe) -> None:
    """Publish on and on, and send key and number of each acknowledged snapshot."""
    for i in range(1_000_000):
        snapshot = step(ledger, f"{worker}-{i}")
        acknowledged.send((snapshot.key, snapshot.number))


def publish_killed_at(ledger: Ledger, key: str, instant: int) -> None:
    """Publish once, and die by kill -9 at an instant: before a statement, or around a commit."""
    seen = 0

    def instant_passes() -> None:
        nonlocal seen
        seen += 1
        if seen == instant:
            os.kill(os.getpid(), signal.SIGKILL)

    def commit(connection: Any, real: Callable[[Any], None]) -> None:
        instant_passes()
        real(connection)
        instant_passes()

    made = prepare(ledger, key)
    with _watched(ledger._database.engine, instant_passes, commit):  # noqa: SLF001
        ledger.publish(made)
