"""The SQL database below the ledger: connections, transactions, retries, and its errors as ours."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from catchment.core.errors import CatchmentError, Corrupt, Invalid, Unavailable

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

# Full sync on every commit; on macOS an fsync alone does not reach the disk.
_SQLITE = ("synchronous=FULL", "foreign_keys=ON", "fullfsync=ON", "checkpoint_fullfsync=ON")
# Durable whatever the server's default; and a stopped process does not block the others for ever.
_POSTGRES = (
    "synchronous_commit=on",
    "lock_timeout='60s'",
    "idle_in_transaction_session_timeout='60s'",
    "jit=off",  # compiling costs more than any question of ours
)
# A refused connection has no code, only a text.
_REFUSALS = ("password", "does not exist", "pg_hba.conf")
_MEND_URL = "check the user, the password and the database in the URL"
# A server that is gone without a word is found out in about 30 s (seconds, milliseconds).
_POSTGRES_CONNECT = {"connect_timeout": "10", "tcp_user_timeout": "30000"} | {
    "keepalives_idle": "10",
    "keepalives_interval": "10",
    "keepalives_count": "2",
}


_MAPPED = (sa.exc.SQLAlchemyError, sqlite3.Error, OverflowError, UnicodeEncodeError)


class Again(Exception):
    """Raised by work that is to be rolled back and called once more, at once."""


class Database:
    """One database by URL. Used from many threads, and on both sides of a fork.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user:password@host/database``.
        patience: seconds to go on trying while the database is locked or away.
    """

    def __init__(self, url: str, patience: float) -> None:
        self.patience = patience
        parsed = _parse(url)
        self.url = parsed.render_as_string(hide_password=False)  # for other processes: absolute
        self.sqlite = parsed.get_backend_name() == "sqlite"
        self.name = sa.URL.create(
            parsed.get_backend_name(),
            parsed.username,
            None,
            parsed.host,
            parsed.port,
            parsed.database,
        ).render_as_string()
        # SQLite waits with ever longer pauses, which starves those who wait longest: we wait.
        connect = {"timeout": 0, "isolation_level": None} if self.sqlite else {}
        # No column of ours is an hstore: the first connection need not look for one.
        more = {} if self.sqlite else {"use_native_hstore": False}
        try:
            self._engine = sa.create_engine(
                parsed, hide_parameters=True, connect_args=connect, **more
            )
        except ImportError as error:
            raise Invalid(
                "a PostgreSQL ledger needs psycopg, which is not installed",
                kind="postgres-missing",
                hint="pip install 'catchment[postgres]'",
            ) from error
        sa.event.listen(self._engine, "connect", self._connected)
        self._process = os.getpid()
        self._turn = threading.RLock()
        self._answered = False

    @property
    def engine(self) -> sa.Engine:
        """The engine; a forked child gets connections of its own."""
        if self._process != os.getpid():
            self._engine.dispose(close=False)
            self._process = os.getpid()
            self._turn = threading.RLock()  # another thread may have had its turn at the fork
        return self._engine

    def read[T](self, work: Callable[[sa.Connection], T]) -> T:
        """The result of work, done in one transaction that sees one state."""
        return self._persist(work, "BEGIN")

    def write[T](self, work: Callable[[sa.Connection], T], *, again: bool = True) -> T:
        """The result of work, all of it committed and durable, or nothing.

        A commit whose answer is lost may have been made, so ``work`` is called again: it must
        first read whether its change is there (by an idempotency key) and only then make it.
        If it cannot be called ``again``, that is the caller's to do.
        """
        if not self.sqlite:
            return self._persist(work, "BEGIN IMMEDIATE", again=again)
        _ = self.engine  # of this process
        # One writer at a time anyway: threads that queue here do not starve each other.
        with self._turn:
            return self._persist(work, "BEGIN IMMEDIATE", again=again)

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self.engine.dispose()

    def _persist[T](
        self, work: Callable[[sa.Connection], T], begin: str, *, again: bool = True
    ) -> T:
        deadline = time.monotonic() + self.patience
        pause = 0.01
        while True:
            try:
                return self._once(work, begin)
            except Again:
                continue
            except _MAPPED as error:
                mapped = self.translate(error)
                passing = mapped.kind == "ledger-locked" or (
                    mapped.kind == "ledger-down" and self._answered
                )
                if not (again and passing) or time.monotonic() + pause > deadline:
                    raise mapped from error
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, 2)

    def _once[T](self, work: Callable[[sa.Connection], T], begin: str) -> T:
        with self.engine.connect() as c, c.begin():
            if self.sqlite:
                _ask(c.connection.dbapi_connection, begin, self.patience)
            return work(c)

    def _connected(self, connection: DBAPIConnection, record: object) -> None:  # noqa: ARG002
        self._answered = True
        if not self.sqlite:
            connection.cursor().execute("; ".join(f"SET {setting}" for setting in _POSTGRES))
            connection.commit()
            return
        for setting in _SQLITE:
            _ask(connection, f"PRAGMA {setting}", self.patience)
        mode = _ask(connection, "PRAGMA journal_mode=WAL", self.patience)
        if mode != "wal":
            raise Invalid(
                f"{self.name}: expected a file system that can hold a write-ahead log, got {mode}",
                kind="ledger-no-wal",
                hint="put the file on a local disk, or use a postgresql:// ledger",
            )

    def translate(self, error: Exception) -> CatchmentError:
        """The error of our tree that a database's error means; it never holds values or secrets."""
        cause = getattr(error, "orig", None) or error
        if isinstance(cause, CatchmentError):
            return cause
        if isinstance(cause, sqlite3.Error):
            return self._from_sqlite(getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR))
        if isinstance(error, sa.exc.DBAPIError):
            return self._from_postgres(error, getattr(cause, "sqlstate", None) or "")
        if isinstance(error, sa.exc.TimeoutError):
            return self._locked("no connection became free")
        return Invalid(
            f"{self.name} cannot hold a value ({type(cause).__name__})", kind="ledger-bad-value"
        )

    def _from_sqlite(self, code: int) -> CatchmentError:
        name = sqlite_name(code)
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # the file beside the log could not grow
            return self._full(name)
        match code & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return self._locked(name)
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return Corrupt(
                    f"{self.name}: expected a ledger, got a malformed database file ({name})",
                    kind="ledger-malformed",
                    hint="restore the file from a backup, or rebuild the ledger from the store",
                )
            case sqlite3.SQLITE_FULL:
                return self._full(name)
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                return self._refused(
                    name, "check that the folder exists and that you may write to it"
                )
            case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_NOMEM | sqlite3.SQLITE_INTERRUPT:
                return self._unavailable(name)
        return self._contradiction(name)

    def _from_postgres(self, error: sa.exc.DBAPIError, state: str) -> CatchmentError:
        if state in ("40001", "40P01", "55P03"):  # serialization, deadlock, lock timeout
            return self._locked(state)
        if state == "53100":
            return self._full(state)
        if state[:2] in ("28", "3D", "42") and state not in ("42P01", "42703"):
            return self._refused(state, _MEND_URL)
        if state[:2] == "22" or isinstance(error, sa.exc.DataError):
            return Invalid(f"{self.name} cannot hold a value ({state})", kind="ledger-bad-value")
        if not state and any(sign in str(error.orig) for sign in _REFUSALS):
            return self._refused("the server refuses", _MEND_URL)
        # 08 connection, 53 resources, 57 operator, 58 system, 25 a standby or a timed-out session
        if state[:2] in ("", "08", "53", "57", "58", "25"):
            return self._unavailable(state or type(error.orig).__name__)
        return self._contradiction(state)

    def _locked(self, what: str) -> Unavailable:
        return Unavailable(
            f"{self.name} is locked by another process ({what})",
            kind="ledger-locked",
            hint="try again; if it stays locked, look for a stopped catchment process",
        )

    def _full(self, what: str) -> Unavailable:
        return Unavailable(
            f"{self.name}: the disk is full ({what}); nothing was changed",
            kind="disk-full",
            hint="make room on the ledger's disk, then run the same command again",
        )

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(
            f"{self.name} does not answer ({what})",
            kind="ledger-down",
            hint=f"{'look at its disk' if self.sqlite else 'start the database'}, then run the "
            "same command again: nothing is done twice",
        )

    def _refused(self, what: str, hint: str) -> Invalid:
        return Invalid(f"{self.name} cannot be opened ({what})", kind="ledger-refused", hint=hint)

    def _contradiction(self, what: str) -> Corrupt:
        return Corrupt(
            f"{self.name} contradicts what this version expects ({what})",
            kind="ledger-contradiction",
            hint="do not repair it by hand; report the code in brackets",
        )


def upsert(c: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ``on_conflict_do_nothing``; both databases spell it alike."""
    return sqlite.insert(table) if c.dialect.name == "sqlite" else postgresql.insert(table)


def sqlite_name(code: int) -> str:
    """The name of a result code of SQLite, which says more than its text."""
    names = (n for n in dir(sqlite3) if n.startswith("SQLITE_") and getattr(sqlite3, n) == code)
    return next(names, str(code))


def _ask(connection: Any, sql: str, patience: float) -> Any:
    """The first value that SQLite answers, tried at short random intervals while it is locked."""
    deadline = time.monotonic() + patience
    while True:
        try:
            row = connection.execute(sql).fetchone()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.0005, 0.003))  # noqa: S311
        else:
            return row and row[0]


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
        if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
            parsed = parsed.set(drivername="postgresql+psycopg")
            return parsed.set(query=_POSTGRES_CONNECT | dict(parsed.query))
        if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
            return parsed.set(database=str(Path(str(parsed.database)).absolute()))
    except (sa.exc.ArgumentError, ValueError):
        pass  # its message would repeat the URL, and a password in it
    raise Invalid(
        "expected a ledger URL such as sqlite:///folder/ledger.db or postgresql://host/database",
        kind="bad-ledger-url",
        hint="mend [workspace] ledger in catchment.toml",
    )
