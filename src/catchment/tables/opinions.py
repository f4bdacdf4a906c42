"""What other readers say of a Parquet footer, of a file that has nothing else.

DuckDB needs a temporary file: Unavailable where there can be none.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.parquet.footer import MAGIC
from catchment.core.scratch import scratch_folder

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
        with scratch_folder() as folder:
            file = folder / "footer.parquet"
            file.write_bytes(only_footer(footer))
            (number,) = _connection().cursor().execute(query, [str(file)]).fetchall()[0]
    except duckdb.Error:
        raise ValueError("DuckDB cannot read the footer") from None
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
