"""From rows as they were read to the rows of the five entities, each with its key."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from catchment.imaging.entities import ENTITIES, KEYS
from catchment.imaging.model import TABLES, State
from catchment.imaging.shelf import Shelf

if TYPE_CHECKING:
    import pyarrow as pa

# What stands before the columns of an entity: its key, where that is ours, and what it refers to.
_BEFORE = {
    "devices": ("device_key", "site"),
    "patients": ("patient_key", "site"),
    "studies": ("patient_key", "site"),
    "series": ("device_key", "patient_key", "site"),
    "images": ("site", "size", "stage_sha256", "patient_key", "TransferSyntaxUID"),
}
_BEHIND = {"images": ("odd_values", "attributes", "notes")}
IMAGE_TABLES = ("images", "compressed_images", "processed_images")
SOURCE = "sha256"  # of the file that a row was made from


@cache
def columns_of(table: str) -> tuple[str, ...]:
    """The columns of an entity's table, in order."""
    names = (*_BEFORE[table], *ENTITIES[table], *_BEHIND.get(table, ()), SOURCE)
    return tuple(dict.fromkeys(names))


def add_images(shelf: Shelf, rows: pa.Table) -> None:
    """The rows' images, and those devices, patients, studies and series that are new.

    An entity is described by the first of its files; all of them are in the table ``raw``.
    """
    for table in TABLES:
        key = KEYS[table]
        found = shelf.find(table, key, rows[key].combine_chunks().unique(), [key])
        known = set() if found is None else set(found[key].to_pylist())
        shelf.add(table, firsts(rows, table, known))


def firsts(rows: pa.Table, table: str, known: Collection[str]) -> pa.Table:
    """For each key that is not known, the entity as the first row with it describes it."""
    seen = {None, *known}
    picked = []
    for index, value in enumerate(rows[KEYS[table]].to_pylist()):
        if value not in seen:
            seen.add(value)
            picked.append(index)
    import pyarrow as pa

    return rows.take(pa.array(picked, pa.int64())).select(columns_of(table))


def withdraw(shelf: Shelf, digests: Collection[str]) -> None:
    """Take the files' images out; what they described is described by another file, or goes.

    The table ``files`` says already that they are not ingested any more.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    gone = pa.array(sorted(digests), pa.string())
    for table in IMAGE_TABLES:
        shelf.amend(
            table, SOURCE, gone, lambda t: t.filter(pc.invert(pc.is_in(t[SOURCE], value_set=gone)))
        )
    for table in TABLES[:-1]:
        key = KEYS[table]
        lost = shelf.find(table, SOURCE, gone, [key])
        if lost is not None:
            keys = lost[key].combine_chunks()
            shelf.amend(table, key, keys, _Heirs(table, key, keys, _heirs(shelf, table, keys)))


def _heirs(shelf: Shelf, table: str, keys: pa.Array) -> pa.Table | None:
    """The rows of the entities as the first of their ingested files describe them."""
    import pyarrow.compute as pc

    others = shelf.find("raw", KEYS[table], keys)
    if others is None:
        return None
    files = shelf.find("files", SOURCE, others[SOURCE].combine_chunks(), [SOURCE, "state"])
    if files is None:
        return None
    stay = files.filter(pc.equal(files["state"], State.INGESTED))[SOURCE].combine_chunks()
    return firsts(others.filter(pc.is_in(others[SOURCE], value_set=stay)), table, ())


@dataclass(frozen=True)
class _Heirs:
    """Puts new rows in the place of those with certain keys, part by part."""

    table: str
    key: str
    keys: pa.Array
    heirs: pa.Table | None

    def __call__(self, rows: pa.Table) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        kept = rows.filter(pc.invert(pc.is_in(rows[self.key], value_set=self.keys)))
        if self.heirs is None:
            return kept
        mine = pc.is_in(self.heirs[self.key], value_set=rows[self.key].combine_chunks())
        return pa.concat_tables([kept, self.heirs.filter(mine)])
