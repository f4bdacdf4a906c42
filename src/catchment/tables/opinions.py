"""What other readers say of a Parquet footer, of a file that has nothing else.

DuckDB needs a temporary file: Unavailable (kind ``no-scratch-space``) where there is no room.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.errors import Unavailable
from catchment.core.parquet.footer import MAGIC

if TYPE_CHECKING:
    import duckdb


def only_footer(footer: bytes) -> bytes:
    """The file."""
    return b"".join([MAGIC, footer, len(footer).to_bytes(4, "little"), MAGIC])


def pyarrow_rows(footer: bytes) -> int:
    """The rows, by pyarrow. ArrowException, OSError or ValueError where it cannot read it."""
    reader = pq.ParquetReader()  # a ParquetFile would sort all names first
    reader.open(pa.BufferReader(only_footer(footer)))
    return int(reader.metadata.num_rows)


def duckdb_columns(footer: bytes) -> int:
    """How many columns there are, by DuckDB. ValueError where it cannot read it."""
    import duckdb  # here, for only the children that inspect need it

    query = "SELECT count(*) FROM (DESCRIBE SELECT * FROM read_parquet(?))"
    try:
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
            file.write(only_footer(footer))
            file.flush()
            (number,) = _connection().cursor().execute(query, [file.name]).fetchall()[0]
    except duckdb.Error:
        raise ValueError("DuckDB cannot read the footer") from None
    except OSError as error:  # our own trouble, not the file's
        raise Unavailable(
            f"no room for a footer in a temporary file: {error.strerror}",
            kind="no-scratch-space",
            hint="set TMPDIR to a folder with more room",
        ) from None
    return int(number)


@lru_cache(maxsize=1)
def _connection() -> duckdb.DuckDBPyConnection:
    import duckdb

    options: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "memory_limit": "256MB",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    return duckdb.connect(config=options)
