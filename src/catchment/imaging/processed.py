"""Staged images joined with what they were compressed to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catchment.imaging.schemas import compressed_schema, schema_of
from catchment.imaging.stage import SOURCE

if TYPE_CHECKING:
    import pyarrow as pa


def processed(rows: pa.Table, compressed: pa.Table) -> pa.Table:
    """A row for each image and each of its compressed frames; one without where it has none."""
    import pyarrow as pa

    places: dict[str, list[int | None]] = {}
    for index, digest in enumerate(compressed[SOURCE].to_pylist()):
        places.setdefault(digest, []).append(index)
    left: list[int] = []
    right: list[int | None] = []
    for index, digest in enumerate(rows[SOURCE].to_pylist()):
        for place in places.get(digest, [None]):
            left.append(index)
            right.append(place)
    schema = schema_of("processed_images")
    own = set(compressed_schema().names) - {SOURCE, "SOPInstanceUID"}
    frames = compressed.take(pa.array(right, pa.int64()))
    images = rows.take(pa.array(left, pa.int64()))
    columns = [(frames if f.name in own else images)[f.name] for f in schema]
    return pa.table(columns, schema=schema)
