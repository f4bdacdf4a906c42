"""The columns and types of every table of a snapshot."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from catchment.imaging.model import TABLES
from catchment.imaging.read import schema as raw_schema
from catchment.imaging.stage import SOURCE, columns_of

if TYPE_CHECKING:
    import pyarrow as pa

# Of the table of images, those that ``processed_images`` leaves to it.
_LEFT = frozenset({"odd_values", "attributes", "notes"})


@cache
def schema_of(table: str) -> pa.Schema:
    """The schema of a table."""
    import pyarrow as pa

    if table == "raw":
        return raw_schema()
    if table == "files":
        return files_schema()
    if table == "compressed_images":
        return compressed_schema()
    if table == "evidence":
        return evidence_schema()
    if table == "processed_images":
        images = [field for field in schema_of("images") if field.name not in _LEFT]
        own = [f for f in compressed_schema() if f.name not in (SOURCE, "SOPInstanceUID")]
        return pa.schema([*images, *own])
    if table not in TABLES:
        raise KeyError(table)
    return pa.schema([raw_schema().field(name) for name in columns_of(table)])


def files_schema() -> pa.Schema:
    """One row for each file that a provider showed."""
    import pyarrow as pa

    texts = ("site", "name", SOURCE, "etag", "state", "reason", "SOPInstanceUID", "delivery")
    return pa.schema(
        [
            *((name, pa.string()) for name in texts),
            ("size", pa.int64()),
            ("modified", pa.timestamp("us", "UTC")),
            ("seen", pa.timestamp("us", "UTC")),  # when a person said that they know of it
        ]
    )


def evidence_schema() -> pa.Schema:
    """One row for each file that was de-identified: what was done, in counts, never a value."""
    import pyarrow as pa

    texts = (SOURCE, "stage_sha256", "site", "SOPInstanceUID", "profile", "actions")
    return pa.schema([*((name, pa.string()) for name in texts), ("looked_for", pa.int64())])


def compressed_schema() -> pa.Schema:
    """One row for each frame that became a preview or a lossless copy."""
    import pyarrow as pa

    return pa.schema(
        [
            (SOURCE, pa.string()),
            ("SOPInstanceUID", pa.string()),
            ("frame", pa.int32()),
            ("format", pa.string()),
            ("object", pa.string()),
            ("object_size", pa.int64()),
            ("object_sha256", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("window_center", pa.float64()),
            ("window_width", pa.float64()),
            ("compress_error", pa.string()),
        ]
    )
