"""Merge: the parts of all sites become one table, of which only what changed is computed again.

Everything is written below a prefix that carries the fingerprint of what went in, so the same
contributions always give the same objects, whoever merges them, whenever, and from which state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa

from catchment.core.errors import NotFound
from catchment.core.passwords import kept_key
from catchment.core.store import Store
from catchment.studies import assembly, coded, layout, once, parquet
from catchment.studies import columns as types
from catchment.studies.check import local
from catchment.studies.memory import roomy
from catchment.studies.model import COUNT, Column, Object, Part

FORMAT = 3  # of merges: another one makes them anew


@dataclass(frozen=True, slots=True)
class Policy:
    """What may leave the house: cells of at least so many, of at least so many sites; rounded."""

    min_cell: int
    min_sites: int
    round_to: int = 0  # counts are multiples of it; 0: they are what they are

    @property
    def open(self) -> bool:
        """Everything may: the release is the merge itself."""
        return self.min_cell == 0 and self.min_sites <= 1 and not self.round_to

    @property
    def label(self) -> str:
        """What keys tell of it."""
        return "-".join(map(str, self.to_json().values()))

    def to_json(self) -> dict[str, int]:
        """Plain types; what was not known before stands there only where it is used."""
        told = {"min_cell": self.min_cell, "min_sites": self.min_sites}
        return told | {"round_to": self.round_to} if self.round_to else told

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Policy:
        """The inverse of :meth:`to_json`."""
        return cls(data["min_cell"], data["min_sites"], data.get("round_to", 0))


@dataclass(frozen=True, slots=True)
class Merged:
    """A package as merged and released."""

    fingerprint: str
    policy: Policy
    parts: tuple[Part, ...]  # in order of site
    rows: int  # of the release
    total: int
    columns: Mapping[str, Column]
    merged: Object
    totals: Object
    released: Object
    csv: Object
    marked: tuple[str, ...] = ()  # columns of the release that are marks: where something is hidden
    marks: Object | None = None  # instead, row by row of the release, of one that is older

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "fingerprint": self.fingerprint,
            **self.policy.to_json(),
            "parts": [part.to_json() for part in self.parts],
            "rows": self.rows,
            "total": self.total,
            "columns": {name: list(column) for name, column in self.columns.items()},
            "marked": list(self.marked),
            "objects": {name: list(one) for name, one in self.objects.items()},
        }

    @property
    def objects(self) -> dict[str, Object]:
        """What it is stored as, by role."""
        roles = ("merged", "totals", "released", "csv", "marks")
        return {name: one for name in roles if (one := getattr(self, name)) is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Merged:
        """The inverse of :meth:`to_json`."""
        objects: dict[str, Any] = {n: Object(*value) for n, value in data["objects"].items()}
        return cls(
            data["fingerprint"],
            Policy.from_json(data),
            tuple(Part(**part) for part in data["parts"]),
            data["rows"],
            data["total"],
            {name: Column(*column) for name, column in data["columns"].items()},
            **objects,
            marked=tuple(data.get("marked", ())),
        )


def fingerprint(parts: Iterable[Part]) -> str:
    """What a merge of these parts is known by."""
    told = [[p.site, p.digest] for p in sorted(parts, key=lambda p: p.site)]
    facts = [FORMAT, parquet.writer(), told]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def unified(parts: Iterable[Part]) -> dict[str, str]:
    """The columns of a merge in the order of its first site; a type that no site knows is text."""
    ordered = sorted(parts, key=lambda p: p.site)
    known = {n: t for p in reversed(ordered) for n, t in p.columns.items() if t != "null"}
    return {name: known.get(name, "string") for name in ordered[0].columns}


def merge(
    store: Store,
    prefix: tuple[str, str, int],
    parts: Iterable[Part],
    policy: Policy,
    before: Merged | None = None,
    *,
    again: bool = False,
) -> Merged:
    """The merge of the parts, from what the one ``before`` has computed where that helps.

    Nothing is computed where its result stands already, unless it shall be ``again``. The objects
    are durable on return, and nobody reads them before a snapshot names them. None that stands is
    changed, be it computed ``again``: see :mod:`.once`.
    """
    ordered = tuple(sorted(parts, key=lambda p: p.site))
    print_ = fingerprint(ordered)
    place = layout.merges(*prefix, print_)
    name = f"{place}released-{policy.label}"
    done = f"{place}entry-{policy.label}.json"
    there = None if again else _known(store, done)
    if there is not None:
        return replace(there, parts=ordered)  # the same rows may have come in another file
    stands = before is not None and before.fingerprint == print_ and not again
    if before is not None and stands and not policy.open:  # the same, under another policy
        seen = _release(store, name, before.merged, policy, len(ordered))
        return _written(store, done, print_, policy, ordered, before.merged, before.totals, seen)
    work = assembly.Work(store, place, ordered, unified(ordered))
    known = None
    if before is not None and list(unified(before.parts).items()) == list(work.types.items()):
        known = assembly.Before(before.parts, before.merged.key, before.totals.key)
    with roomy() if known else nullcontext():  # of the first merge, memory is what counts
        work.read(known)
    with ThreadPoolExecutor(2) as others:
        text = others.submit(work.csv, f"{name}.csv") if policy.open else None
        summed = others.submit(work.totals)
        merged = work.merged()
        totals = summed.result()
        if text is not None:
            seen = _Seen(work.many, work.total, work.described(), merged, text.result(), ())
        else:
            del work
            seen = _release(store, name, merged, policy, len(ordered))
    return _written(store, done, print_, policy, ordered, merged, totals, seen)


def _written(  # noqa: PLR0917 - all that a merge is
    store: Store,
    key: str,
    print_: str,
    policy: Policy,
    parts: tuple[Part, ...],
    merged: Object,
    totals: Object,
    seen: _Seen,
) -> Merged:
    """The entry by which a merge is found done."""
    result = Merged(
        print_,
        policy,
        parts,
        seen.rows,
        seen.total,
        seen.columns,
        merged,
        totals,
        seen.released,
        seen.csv,
        seen.marked,
    )
    told = {"format": FORMAT} | result.to_json()
    store.put(key, json.dumps(told).encode(), mode="overwrite")
    return result


class _Seen(NamedTuple):
    """What leaves the house."""

    rows: int
    total: int
    columns: dict[str, Column]
    released: Object
    csv: Object
    marked: tuple[str, ...]


def _known(store: Store, key: str) -> Merged | None:
    try:
        data = json.loads(store.read(key))
    except NotFound:
        return None
    if data["format"] != FORMAT:
        return None
    found = Merged.from_json(data)
    # Of a merge that no snapshot names a collection may have taken some, and not the entry.
    return found if all(_stands(store, one) for one in found.objects.values()) else None


def _stands(store: Store, one: Object) -> bool:
    try:
        return store.head(one.key).size == one.size
    except NotFound:
        return False


def _release(store: Store, name: str, merged: Object, policy: Policy, sites: int) -> _Seen:
    """What may leave the house, as the policy says: the table, each row with its marks.

    The keys tell what is hidden: whoever decides otherwise, as other libraries may, writes others.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from catchment.studies import disclosure
    from catchment.studies.marks import named
    from catchment.studies.rounding import Rounding

    base = policy.round_to
    rounding = Rounding(base, kept_key(store, layout.ROUNDING)) if base else None
    with local(store, merged.key) as path:
        schema = pq.read_schema(path)
        texts = [name for name in schema.names if pa.types.is_string(schema.field(name).type)]
        made = disclosure.release(
            lambda: pq.read_table(path, read_dictionary=texts),
            min_cell=policy.min_cell,
            min_sites=policy.min_sites,
            sites=sites,
            rounding=rounding,
        )
    table, marks, name = made.table, made.marks, f"{name}-{made.told}"
    del made
    if base:  # row by row: that counts are no sums goes wherever they go
        marks = marks.append_column(
            "rounded_to", pa.repeat(pa.scalar(base, pa.int32()), marks.num_rows)
        )
    marked = tuple(named(table.column_names, marks.num_columns))
    told = table
    for mark, column in zip(marked, marks.columns, strict=True):
        told = told.append_column(mark, column)
    released = parquet.write(store, f"{name}.parquet", told.to_batches, told.schema)

    # Of what is shown only: a category that is hidden everywhere is not counted.
    shown = pc.is_valid(table[COUNT])
    described = {
        column: Column(
            types.chart_type(column, str(schema.field(column).type)),
            len(pc.drop_null(pc.unique(table[column].filter(shown)))),
        )
        for column in table.column_names
    }
    total = int(pc.max(table[COUNT]).as_py() or 0)
    del table, marks, shown
    csv = once.put(store, f"{name}.csv", lambda: _lines(told))
    return _Seen(told.num_rows, total, described, released, csv, marked)


def _lines(table: pa.Table) -> Iterator[bytes]:
    """A table as CSV, its counts first."""
    import numpy as np

    columns = {
        name: (
            table[name]
            if pa.types.is_dictionary(table[name].type)
            else table[name].dictionary_encode()
        )
        for name in table.column_names
        if name != COUNT
    }
    kinds = {name: str(column.type.value_type) for name, column in columns.items()}
    rows = coded.unify([{name: column.chunks for name, column in columns.items()}], kinds)
    counts = table[COUNT].combine_chunks()
    lines = coded.Lines(rows)
    yield lines.header
    yield from lines.of(counts, np.arange(table.num_rows))
