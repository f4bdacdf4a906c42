"""DuckDB files that tables are loaded into: opened alike, and told alike where they cannot be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from catchment.core.errors import Invalid, Unavailable

if TYPE_CHECKING:
    import duckdb

_PATIENCE = 5.0  # seconds that a file may be open elsewhere
_PAUSE = 0.1


@contextmanager
def patiently(path: Path, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """As :func:`opened`, as soon as those who have the file open let go of it."""
    end = time.monotonic() + _PATIENCE
    while True:
        file = opened(path, read_only=read_only)
        try:
            connection = file.__enter__()
            break
        except Unavailable:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE)
    try:
        yield connection
    finally:
        file.__exit__(None, None, None)


@contextmanager
def opened(path: Path, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for a block; whoever writes has the file for itself, among all processes.

    Raises:
        Unavailable: kind ``warehouse-locked`` while another program has it.
        Invalid: kind ``bad-warehouse`` if it is no database, or cannot be one.
    """
    import duckdb

    try:
        connection = duckdb.connect(str(path), read_only=read_only)
    except (duckdb.IOException, duckdb.ConnectionException) as error:
        # Of one process, a connection of another kind is the lock.
        if isinstance(error, duckdb.ConnectionException) or "lock" in str(error).lower():
            raise Unavailable(
                f"the warehouse {path.name} is open in another program",
                kind="warehouse-locked",
                hint="close it there, then run the same command again",
            ) from None
        raise Invalid(
            f"{path.name} is no DuckDB database that can be opened",
            kind="bad-warehouse",
            hint="name another file as the warehouse; it is made anew from the snapshot",
        ) from None
    try:
        connection.execute("SET autoinstall_known_extensions = false")
        yield connection
    finally:
        connection.close()
