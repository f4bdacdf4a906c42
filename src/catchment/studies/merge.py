"""Merge: the parts of all sites become one table, of which only what changed is computed again.

Everything is written below a prefix that carries the fingerprint of what went in, so the same
contributions always give the same objects, whoever merges them, whenever, and from which state.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment.core.errors import NotFound, Unavailable
from catchment.core.store import Store
from catchment.studies import columns as types
from catchment.studies import layout, parquet
from catchment.studies.check import local
from catchment.studies.model import COUNT, SITE, Column, Object

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1  # of merges: another one makes them anew
MEMORY = "400MiB"  # that the engine may hold; above it, it spills to scratch files
REPORTED = "sites"  # column of the totals: how many sites have the row
_SQL = {
    "string": "VARCHAR",
    "int64": "BIGINT",
    "double": "DOUBLE",
    "bool": "BOOLEAN",
    "date32[day]": "DATE",
    "timestamp[us]": "TIMESTAMP",
}


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
        return known
    with tempfile.TemporaryDirectory(prefix="catchment-") as folder, ExitStack() as stack:
        work = _Work(store, place, ordered, Path(folder), stack)
        merged, totals, path = work.merged(before)
        released, marks = merged, None
        rows, total, described = work.rows, work.total, work.columns()
        if not policy.open:
            path, released, marks, rows, total, described = work.release(path, policy)
        csv = work.csv(path, policy)
    result = Merged(
        print_, policy, ordered, rows, total, described, merged, totals, released, csv, marks
    )
    store.put(done, json.dumps(result.to_json()).encode(), mode="overwrite")
    return result


def _known(store: Store, key: str) -> Merged | None:
    try:
        data = json.loads(store.read(key))
    except NotFound:
        return None
    return Merged.from_json(data) if data["format"] == FORMAT else None


class _Work:
    """One merge at work, in scratch files."""

    def __init__(
        self, store: Store, place: str, parts: tuple[Part, ...], folder: Path, stack: ExitStack
    ) -> None:
        import duckdb

        self.store = store
        self.place = place
        self.parts = parts
        self.folder = folder
        self.stack = stack
        self.types = unified(parts)
        self.names = list(self.types)
        self.rows = 0
        self.total = 0
        self.db = stack.enter_context(duckdb.connect())
        self.db.execute(f"SET memory_limit = '{MEMORY}'")
        self.db.execute("SET temp_directory = $folder", {"folder": str(folder / "spill")})

    def merged(self, before: Merged | None) -> tuple[Object, Object, Path]:
        """The merge and its totals, as objects, and the merge as a file."""
        if before is not None and unified(before.parts) == self.types:
            rest = self._from_before(before)
        else:
            rest = self._afresh()
        keys = ", ".join(_quoted(name) for name in self.names)
        order = ", ".join(f"{_quoted(name)} NULLS FIRST" for name in self.names)
        totals = self._write("totals", f"SELECT {COUNT}, {REPORTED}, {keys} FROM totals", REPORTED)
        query = (
            f"SELECT {COUNT}, {keys}, NULL::VARCHAR AS {SITE} FROM totals UNION ALL {rest} "
            f"ORDER BY {COUNT} DESC, {SITE} DESC NULLS FIRST, {order}"
        )
        merged = self._write("merged", query, SITE)
        path = self.stack.enter_context(local(self.store, merged.key))
        row = self.db.execute("SELECT max(cnt) FROM totals").fetchone()
        self.total = int(row[0]) if row else 0
        return merged, totals, path

    def columns(self) -> dict[str, Column]:
        """Types for charts, with the distinct values of the merge."""
        return self._described("totals") | {SITE: Column("string", len(self.parts))}

    def release(
        self, path: Path, policy: Policy
    ) -> tuple[Path, Object, Object, int, int, dict[str, Column]]:
        """What may leave the house, as the policy says: the table and its marks."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        try:
            disclosure = import_module("catchment.studies.disclosure")
        except ModuleNotFoundError:
            raise Unavailable(
                "small cells cannot be suppressed yet: nothing is published"
            ) from None
        made = disclosure.release(
            pq.read_table(path),
            min_cell=policy.min_cell,
            min_sites=policy.min_sites,
            sites=len(self.parts),
        )
        table = made.table
        name = f"{self.place}released-{policy.min_cell}-{policy.min_sites}"
        released, marks = (
            Object(key, *parquet.write(self.store, key, one.to_batches(), one.schema))
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
        path = self.stack.enter_context(local(self.store, released.key))
        total = int(pc.max(shown[COUNT]).as_py() or 0)
        return path, released, marks, table.num_rows, total, described

    def csv(self, path: Path, policy: Policy) -> Object:
        """The release as CSV; a cell that a spreadsheet would take for a formula is quoted."""
        source = self._file(path)
        listed = []
        for name, kind, *_ in self.db.execute(f"DESCRIBE SELECT * FROM {source}").fetchall():
            column = _quoted(name)
            if kind == "VARCHAR":
                column = (
                    f"CASE WHEN regexp_matches({column}, '^[=+@\t\r-]') "
                    f"THEN '''' || {column} ELSE {column} END AS {column}"
                )
            listed.append(column)
        made = self.folder / "release.csv"
        target = str(made).replace("'", "''")
        self.db.execute(
            f"COPY (SELECT {', '.join(listed)} FROM {source}) TO '{target}' (FORMAT csv, HEADER)"
        )
        key = f"{self.place}released-{policy.min_cell}-{policy.min_sites}.csv"
        seen, size = hashlib.sha256(), 0

        def chunks() -> Iterator[bytes]:
            nonlocal size
            with made.open("rb") as file:
                while chunk := file.read(1 << 20):
                    seen.update(chunk)
                    size += len(chunk)
                    yield chunk

        self.store.put(key, chunks(), mode="overwrite")
        return Object(key, size, f"sha256:{seen.hexdigest()}")

    def _afresh(self) -> str:
        every = " UNION ALL ".join(self._part(p, "1") for p in self.parts)
        self._sum(every)
        return " UNION ALL ".join(self._part(p, _literal(p.site), SITE) for p in self.parts)

    def _from_before(self, before: Merged) -> str:
        """Totals by subtraction, and the rows of the other sites as they stand in order."""
        now = {p.site: p for p in self.parts}
        old = {p.site: p for p in before.parts}
        changed = [s for s in {**old, **now} if _digest(old.get(s)) != _digest(now.get(s))]
        keys = ", ".join(_quoted(name) for name in self.names)
        totals, merged = (self._object(o) for o in (before.totals, before.merged))
        terms = [f"SELECT {COUNT}, {keys}, {REPORTED} FROM {totals}"]
        terms += [self._part(old[s], "-1", sign="-") for s in changed if s in old]
        terms += [self._part(now[s], "1") for s in changed if s in now]
        self._sum(" UNION ALL ".join(terms))
        out = ", ".join(_literal(site) for site in changed)
        kept = (
            f"SELECT {COUNT}, {keys}, {SITE} FROM {merged} "
            f"WHERE {SITE} IS NOT NULL AND {SITE} NOT IN ({out})"
        )
        rest = [kept, *(self._part(now[s], _literal(s), SITE) for s in changed if s in now)]
        return " UNION ALL ".join(rest)

    def _sum(self, query: str) -> None:
        keys = ", ".join(_quoted(name) for name in self.names)
        self.db.execute(
            f"CREATE TEMP TABLE totals AS SELECT sum({COUNT})::BIGINT AS {COUNT}, {keys}, "
            f"sum({REPORTED})::INTEGER AS {REPORTED} FROM ({query}) "
            f"GROUP BY {keys} HAVING sum({REPORTED}) > 0"
        )

    def _part(self, part: Part, last: str, name: str = REPORTED, sign: str = "") -> str:
        """The rows of a part, with one more column."""
        listed = ", ".join(
            f"{_quoted(n)}::{_SQL[self.types[n]]} AS {_quoted(n)}" for n in self.names
        )
        source = self._object(Object(part.key, 0, part.digest))
        return f"SELECT {sign}{COUNT} AS {COUNT}, {listed}, {last} AS {name} FROM {source}"

    def _object(self, one: Object) -> str:
        return self._file(self.stack.enter_context(local(self.store, one.key)))

    def _file(self, path: Path) -> str:
        return f"read_parquet({_literal(parquet.literal(path))})"

    def _write(self, name: str, query: str, last: str) -> Object:
        import pyarrow as pa

        kinds = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64()}
        kinds |= {"bool": pa.bool_(), "date32[day]": pa.date32()}
        kinds["timestamp[us]"] = pa.timestamp("us")
        keys = [(n, kinds[t]) for n, t in self.types.items()]
        ends = (
            [(COUNT, pa.int64()), *keys, (SITE, pa.string())]
            if last == SITE
            else [(COUNT, pa.int64()), (REPORTED, pa.int32()), *keys]
        )
        schema = pa.schema(ends)
        reader = self.db.sql(query).to_arrow_reader(parquet.ROW_GROUP)
        rows = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for batch in reader:
                rows += batch.num_rows
                yield batch.cast(schema)

        key = f"{self.place}{name}.parquet"
        made = Object(key, *parquet.write(self.store, key, batches(), schema))
        self.rows = rows
        return made

    def _described(self, table: str) -> dict[str, Column]:
        counts = ", ".join(f"count(DISTINCT {_quoted(name)})" for name in [COUNT, *self.names])
        found = self.db.execute(f"SELECT {counts} FROM {table}").fetchone() or ()
        kinds = {COUNT: "int64"} | self.types
        return {
            name: Column(types.chart_type(name, kinds[name]), int(distinct))
            for name, distinct in zip([COUNT, *self.names], found, strict=True)
        }


def _digest(part: Part | None) -> str:
    return part.digest if part else ""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
