"""The only place that spells the paths of tables.

Below the output prefix, as readers of the first system know it::

    20260206-100129/provenance.json                  the mark of completion, written last
    20260206-100129/uds/aggregate_result.parquet
    20260206-100129/uds/_removed_rows.parquet        rows dropped or quarantined, with reasons
    20260206-100129/uds/_composition.arrow           what stands where, for the next run
    20260206-100129/uds/_keys.arrow                  key columns, for the next run

Names that begin with ``_`` are passed over by readers that open a folder as one table.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from catchment.core.store import Store

STAGING = "_staging/"  # of all aggregates
STAMP = "%Y%m%d-%H%M%S"
STAMP_PATTERN = re.compile(r"[0-9]{8}-[0-9]{6}")


def snapshot_prefix(output: str, at: datetime, taken: set[str]) -> str:
    """The first free prefix from the instant on, in UTC; ``taken`` holds the stamps in use."""
    at = at.astimezone(UTC)
    while (stamp := at.strftime(STAMP)) in taken:
        at += timedelta(seconds=1)
    return f"{output}{stamp}/"


def snapshot_prefixes(store: Store, output: str) -> list[str]:
    """Folders below the output prefix that are named as snapshots are, oldest first."""
    return [f"{output}{name}/" for name in store.folders(output) if STAMP_PATTERN.fullmatch(name)]


def output_of(location: str) -> str:
    """The output prefix that a snapshot's own lies below."""
    return "".join(location.removesuffix("/").rpartition("/")[:2])


def result_key(prefix: str, table: str) -> str:
    """The table itself."""
    return f"{prefix}{table}/aggregate_result.parquet"


def removed_key(prefix: str, table: str) -> str:
    """The rows that did not reach the table."""
    return f"{prefix}{table}/_removed_rows.parquet"


def composition_key(prefix: str, table: str) -> str:
    """What the next run needs to copy unchanged centers without reading them again."""
    return f"{prefix}{table}/_composition.arrow"


def staging_prefix(aggregate: str, run: str = "") -> str:
    """Objects that are parts of others, of one run or of all; no reader looks here."""
    return f"{STAGING}{aggregate}/" + (run and f"{run}/")


def keys_key(prefix: str, table: str) -> str:
    """The key columns of a table's inputs."""
    return f"{prefix}{table}/_keys.arrow"
