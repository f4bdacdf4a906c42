"""Values that a site sent: columns get a plain type, or it is told why they have none."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from catchment.core.names import shown
from catchment.studies.model import COUNT, NONE, Problem

if TYPE_CHECKING:
    import pyarrow as pa

MAX_COUNT = 10**15  # so that no sum over sites can leave 64 bits
CATEGORIES = 1000  # values of a column that the facts remember
LONGEST = 4096  # bytes of a category
# What a date of Python, and so of most readers, can be.
_DAYS = (date.min - date(1970, 1, 1)).days, (date.max - date(1970, 1, 1)).days
_DATE = re.compile(r"[0-9]{4}(?:-[0-9]{2}){0,2}")


class Refused(Exception):
    """The member cannot be accepted."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(code)
        self.problem = Problem(code, message, hint)


def counts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The counts of a cube as whole numbers, or why they are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_integer(column.type):
        raise Refused(
            "cube-count-type",
            f"expected whole numbers in {COUNT}, got {column.type}",
            f"export {COUNT} as an integer",
        )
    if column.null_count:
        raise Refused(
            "cube-count-null",
            f"expected a count in each row, got {column.null_count} without",
            "leave rows without a count out",
        )
    bounds = pc.min_max(column).as_py()
    if bounds["min"] < 0 or bounds["max"] > MAX_COUNT:
        raise Refused(
            "cube-count-range",
            f"expected counts of 0 to {MAX_COUNT:,}, got others",
            "look at the query that counts",
        )
    return column.cast(pa.int64())


def column(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with its plain type, or why it has none."""
    import pyarrow as pa

    if name.startswith("__index_level_"):
        raise Refused(
            "cube-index-column",
            "expected data columns only, got the index of a data frame",
            "write the file with index=False",
        )
    kind = column.type
    with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
            column = column.cast(kind)
        if str(kind) in {"string", "large_string", "string_view"}:
            return _text(name, column.cast(pa.string()))
        if pa.types.is_floating(kind):
            return _floats(name, column.cast(pa.float64()))
        if pa.types.is_integer(kind):
            return column.cast(pa.int64())
        if pa.types.is_timestamp(kind):
            plain = column.cast(pa.timestamp("us", tz=kind.tz))
            return _times(name, plain.cast(pa.timestamp("us")), 86_400_000_000)  # in UTC
        if pa.types.is_date(kind):
            return _times(name, column.cast(pa.date32()).cast(pa.int32()), 1).cast(pa.date32())
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return column
    raise Refused(
        "cube-column-type",
        f"column {shown(name)}: expected text, numbers, booleans, dates or times, got {kind}",
        "convert the column before it is exported",
    )


def _text(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    if (pc.max(pc.binary_length(column)).as_py() or 0) > LONGEST:
        raise Refused(
            "cube-long-value",
            f"column {shown(name)}: expected values of at most {LONGEST:,} bytes, got longer ones",
            "send categories, not free text",
        )
    return column


def _floats(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    if not pc.all(pc.is_finite(column)).as_py() and column.null_count < len(column):
        raise Refused(
            "cube-nan",
            f"column {shown(name)}: expected numbers or NULL, got NaN or infinity",
            f"write missing values as NULL (rolled up) or as {NONE}",
        )
    return pc.add(column, 0.0)  # -0.0 is 0.0


def _times(name: str, column: pa.ChunkedArray, day: int) -> pa.ChunkedArray:
    """Dates or times as they are, if all are of the years 1 to 9999; so many units are a day."""
    import pyarrow as pa
    import pyarrow.compute as pc

    bounds = pc.min_max(column.cast(pa.int64())).as_py()
    low, high = bounds["min"] or 0, bounds["max"] or 0
    if low < _DAYS[0] * day or high >= (_DAYS[1] + 1) * day:
        raise Refused(
            "cube-date-range",
            f"column {shown(name)}: expected dates of the years 1 to 9999, got others",
            f"write unknown dates as NULL (rolled up) or as text {NONE}",
        )
    return column


def distinct(column: pa.ChunkedArray) -> int:
    """How many values a column has, of whatever type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        found = pc.count_distinct(column).as_py()
    except pa.ArrowNotImplementedError:  # lists, dictionaries, NULL only
        import duckdb

        connection = duckdb.connect()
        connection.register("told", pa.table({"value": column}))
        found = connection.sql("SELECT count(DISTINCT value) FROM told").fetchall()[0][0]
    return int(found)


def categories(values: pa.Array) -> dict[str, Any]:
    """How many distinct values there are and, while they are few, which."""
    import pyarrow as pa

    known: dict[str, Any] = {"distinct": len(values)}
    if len(values) <= CATEGORIES:
        known["values"] = sorted(values.cast(pa.string()).to_pylist())
    return known


def day(value: Any) -> str:
    """The day of a date, however it is written; ValueError or OverflowError if it is none."""
    match value:
        case None:
            return ""
        case bool():
            raise ValueError
        case int():  # as some engines write dates
            return (date(1970, 1, 1) + timedelta(days=value)).isoformat()
        case date():  # or a datetime
            return value.isoformat()[:10]
        case str() if found := _DATE.match(value):
            return found[0]
    raise ValueError
