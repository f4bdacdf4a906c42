"""Merge: the parts of all sites become one table, of which only what changed is computed again.

Everything is written below a prefix that carries the fingerprint of what went in, so the same
contributions always give the same objects, whoever merges them, whenever, and from which state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa

from catchment.core.errors import NotFound
from catchment.core.store import Store
from catchment.studies import coded, layout, parquet
from catchment.studies import columns as types
from catchment.studies.check import local
from catchment.studies.model import COUNT, SITE, Column, Object

FORMAT = 1  # of merges: another one makes them anew
REPORTED = "sites"  # column of the totals: how many sites have the row


@dataclass(frozen=True, slots=True)
class Part:
    """What a site contributes to a package now."""

    site: str
    source: str  # digest of the member that it was made of
    key: str
    digest: str
    rows: int
    total: int
    columns: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "site": self.site,
            "source": self.source,
            "key": self.key,
            "digest": self.digest,
            "rows": self.rows,
            "total": self.total,
            "columns": dict(self.columns),
        }


@dataclass(frozen=True, slots=True)
class Policy:
    """What may leave the house: cells of at least so many, of at least so many sites."""

    min_cell: int
    min_sites: int

    @property
    def open(self) -> bool:
        """Everything may: the release is the merge itself."""
        return self.min_cell == 0 and self.min_sites <= 1


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
    marks: Object | None  # row by row of the release, where something may be hidden

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "min_cell": self.policy.min_cell,
            "min_sites": self.policy.min_sites,
            "parts": [part.to_json() for part in self.parts],
            "rows": self.rows,
            "total": self.total,
            "columns": {name: list(column) for name, column in self.columns.items()},
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
            Policy(data["min_cell"], data["min_sites"]),
            tuple(Part(**part) for part in data["parts"]),
            data["rows"],
            data["total"],
            {name: Column(*column) for name, column in data["columns"].items()},
            **({"marks": None} | objects),
        )


def fingerprint(parts: Iterable[Part]) -> str:
    """What a merge of these parts is known by."""
    facts = [FORMAT, [[p.site, p.digest] for p in sorted(parts, key=lambda p: p.site)]]
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
    are durable on return, and nobody reads them before a snapshot names them.
    """
    ordered = tuple(sorted(parts, key=lambda p: p.site))
    print_ = fingerprint(ordered)
    place = layout.merges(*prefix, print_)
    done = f"{place}entry-{policy.min_cell}-{policy.min_sites}.json"
    known = None if again else _known(store, done)
    if known is not None:
        return replace(known, parts=ordered)  # the same rows may have come in another file
    work = _Work(store, place, ordered)
    work.read(before)
    name = f"{place}released-{policy.min_cell}-{policy.min_sites}"
    with ThreadPoolExecutor(1) as other:
        text = other.submit(_put, store, f"{name}.csv", work.csv()) if policy.open else None
        merged, totals = work.merged(), work.totals()
        if text is not None:
            seen = work.seen(merged, text.result())
        else:
            del work
            seen = _release(store, name, merged, policy, len(ordered))
    result = Merged(
        print_,
        policy,
        ordered,
        seen.rows,
        seen.total,
        seen.columns,
        merged,
        totals,
        seen.released,
        seen.csv,
        seen.marks,
    )
    store.put(done, json.dumps(result.to_json()).encode(), mode="overwrite")
    return result


class _Seen(NamedTuple):
    """What leaves the house."""

    rows: int
    total: int
    columns: dict[str, Column]
    released: Object
    csv: Object
    marks: Object | None


def _known(store: Store, key: str) -> Merged | None:
    try:
        data = json.loads(store.read(key))
    except NotFound:
        return None
    return Merged.from_json(data) if data["format"] == FORMAT else None


def _release(store: Store, name: str, merged: Object, policy: Policy, sites: int) -> _Seen:
    """What may leave the house, as the policy says: the table and its marks."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from catchment.studies import disclosure

    with local(store, merged.key) as path:
        cube = pq.read_table(path)
    made = disclosure.release(
        cube, min_cell=policy.min_cell, min_sites=policy.min_sites, sites=sites
    )
    table = made.table
    released, marks = (
        Object(key, *parquet.write(store, key, one.to_batches(), one.schema))
        for key, one in ((f"{name}.parquet", table), (f"{name}-marks.parquet", made.marks))
    )

    # Of what is shown only: a category that is hidden everywhere is not counted.
    shown = table.filter(pc.is_valid(table[COUNT]))
    described = {
        column: Column(
            types.chart_type(column, str(table.schema.field(column).type)),
            pc.count_distinct(shown[column]).as_py(),
        )
        for column in table.column_names
    }
    total = int(pc.max(shown[COUNT]).as_py() or 0)
    csv = _put(store, f"{name}.csv", _lines(table))
    return _Seen(table.num_rows, total, described, released, csv, marks)


def _lines(table: pa.Table) -> Iterator[bytes]:
    """A table as CSV, its counts first."""
    import numpy as np

    columns = {
        name: table[name].combine_chunks().dictionary_encode()
        for name in table.column_names
        if name != COUNT
    }
    kinds = {name: str(column.type.value_type) for name, column in columns.items()}
    rows = coded.unify([{name: [column] for name, column in columns.items()}], kinds)
    counts = table[COUNT].combine_chunks()
    yield from coded.csv_lines(counts, rows, np.arange(table.num_rows))


def _put(store: Store, key: str, chunks: Iterable[bytes]) -> Object:
    """Write the chunks; what was written."""
    seen, size = hashlib.sha256(), 0

    def counted() -> Iterator[bytes]:
        nonlocal size
        for chunk in chunks:
            seen.update(chunk)
            size += len(chunk)
            yield chunk

    store.put(key, counted(), mode="overwrite")
    return Object(key, size, f"sha256:{seen.hexdigest()}")


class _Source(NamedTuple):
    """Rows that go into a merge.

    Attributes:
        columns: of categories, as dictionary arrays.
        counts: of each row.
        sites: place of each row's site among the parts; -1: the row is only summed.
        weights: how many sites the row adds to its total: 1 of a part that is new, -1 of one that
            leaves, 0 of a row that is there already.
    """

    columns: dict[str, list[pa.Array]]
    counts: coded.Ints
    sites: coded.Codes
    weights: coded.Codes


class _Work:
    """One merge at work, in memory: some fifty bytes for each row."""

    def __init__(self, store: Store, place: str, parts: tuple[Part, ...]) -> None:
        self.store = store
        self.place = place
        self.parts = parts
        self.types = unified(parts)

    def read(self, before: Merged | None) -> None:
        """Sum what changed, and bring all rows into one order."""
        import numpy as np

        usable = before is not None and unified(before.parts) == self.types
        sources = self._from_before(before) if before and usable else self._afresh()
        rows = coded.unify([source.columns for source in sources], self.types)
        counts = np.concatenate([source.counts for source in sources])
        sites = np.concatenate([source.sites for source in sources])
        weights = np.concatenate([source.weights for source in sources])
        del sources
        pa.default_memory_pool().release_unused()

        # What the sites had before, less what left, and what came.
        summed = np.flatnonzero(weights)
        keys = rows.take(summed).keys()
        by = np.argsort(keys)
        starts = np.flatnonzero(np.diff(keys[by], prepend=-1))
        summed = summed[by]
        reported = np.add.reduceat(weights[summed], starts)
        total = np.add.reduceat(counts[summed] * np.sign(weights[summed]), starts)
        there = reported > 0
        falling = np.argsort(-total[there], kind="stable")
        first = summed[starts[there]][falling]
        self.reported = reported[there][falling].astype(np.int32)
        self.summed = total[there][falling]

        kept = np.flatnonzero(sites >= 0)
        own, self.all = rows.take(kept).only_used(rows.take(first))
        every = {n: np.concatenate([self.all.codes[n], own.codes[n]]) for n in own.names}
        names = pa.array([part.site for part in self.parts], pa.string())
        every[SITE] = np.concatenate([np.full(len(first), -1, np.int32), sites[kept]])
        self.rows = coded.Coded({**own.values, SITE: names}, every)
        self.counts = np.concatenate([self.summed, counts[kept]])
        # All sites together come first, then the sites in falling order of name.
        ranks = np.where(every[SITE] < 0, 0, len(self.parts) - every[SITE]).astype(np.int32)
        self.order = coded.order(self.counts, ranks)

    def seen(self, merged: Object, csv: Object) -> _Seen:
        """All of it, where nothing is to be hidden."""
        described = {COUNT: Column("integer", len(set(self.summed.tolist())))}
        for name, values in self.all.values.items():
            described[name] = Column(types.chart_type(name, str(values.type)), len(values))
        described[SITE] = Column("string", len(self.parts))
        return _Seen(len(self.order), int(self.summed[0]), described, merged, csv, None)

    def merged(self) -> Object:
        """Write the merge."""
        numbers = {COUNT: self.counts}
        return self._write("merged", coded.batches(numbers, self.rows, self.order))

    def totals(self) -> Object:
        """Write the rows of all sites together, each with how many sites have it."""
        import numpy as np

        numbers = {COUNT: self.summed, REPORTED: self.reported}
        rows = np.arange(len(self.summed))
        return self._write("totals", coded.batches(numbers, self.all, rows))

    def csv(self) -> Iterator[bytes]:
        """The merge as CSV."""
        yield from coded.csv_lines(pa.array(self.counts), self.rows, self.order)

    def _write(self, name: str, batches: Iterator[pa.RecordBatch]) -> Object:
        first = next(batches)
        key = f"{self.place}{name}.parquet"
        size, digest = parquet.write(self.store, key, chain([first], batches), first.schema)
        return Object(key, size, digest)

    def _afresh(self) -> list[_Source]:
        return [self._part(part, place, 1) for place, part in enumerate(self.parts)]

    def _from_before(self, before: Merged) -> list[_Source]:
        """The former totals and rows, what leaves, and what comes."""
        import numpy as np

        place = {part.site: number for number, part in enumerate(self.parts)}
        stays = {p.site for p in before.parts} & place.keys()
        now, old = ({p.site: p for p in parts} for parts in (self.parts, before.parts))
        stays = {site for site in stays if now[site].digest == old[site].digest}
        leaving = [self._part(p, -1, -1) for p in before.parts if p.site not in stays]
        coming = [self._part(p, place[p.site], 1) for p in self.parts if p.site not in stays]

        with local(self.store, before.totals.key) as path:
            columns, numbers = coded.read(path, self.types, [COUNT, REPORTED])
        rows = len(numbers[COUNT])
        weights = numbers[REPORTED].astype(np.int32)
        totals = _Source(columns, numbers[COUNT], np.full(rows, -1, np.int32), weights)

        with local(self.store, before.merged.key) as path:
            columns, numbers = coded.read(path, {**self.types, SITE: "string"}, [COUNT])
        site = coded.unify([{SITE: columns.pop(SITE)}], {SITE: "string"})
        names = site.values[SITE].to_pylist()
        places = np.array([place[n] if n in stays else -1 for n in names] + [-1], np.int32)
        known = places[site.codes[SITE]]
        carried = _Source(columns, numbers[COUNT], known, np.zeros(len(known), np.int32))
        return [totals, *leaving, carried, *coming]

    def _part(self, part: Part, place: int, weight: int) -> _Source:
        import numpy as np

        with local(self.store, part.key) as path:
            columns, numbers = coded.read(path, self.types, [COUNT])
        rows = len(numbers[COUNT])
        sites = np.full(rows, place, np.int32)
        return _Source(columns, numbers[COUNT], sites, np.full(rows, weight, np.int32))
