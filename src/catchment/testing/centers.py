"""Makes sample centers: datasets as real ones are, with drift, transfers and damage, from a seed.

The data are invented. Columns are mostly coded small integers that mostly have one value, some
numbers and short texts, and many that are mostly or wholly null, as in forms of cohort studies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.errors import NotFound
from catchment.core.store import Store, open_store

KEYS = ("naccid", "adcid", "visitdate")
FORMS = ("a1", "a2", "a5", "b1", "b4", "b5", "b6", "b7", "b8", "b9", "c1", "c2", "d1", "d2", "e1")
# One period of column kinds; the share of each is what makes a file of realistic size.
KINDS = ("code",) * 6 + ("number", "text") + ("code",) * 6 + ("rare", "rare", "none")
MEASURE = "measure"  # values that hardly repeat
DRIFTS = ("int64", "double", "null", "missing", "string")
VARIANTS = 4  # columns of values per kind; what is written are windows on these
WINDOWS = 4096  # of each, by the row where they begin
FIRST = 10  # number of the version that counts; its predecessor 9 sorts after it as text
SPARE = 64  # participants of a center that only later versions have
SPAN = 6000  # days on which a first visit may fall
CREATED = datetime(2026, 1, 5, 10, tzinfo=UTC)
# The same instant, as different releases write it.
SPELLINGS = (
    "2026-01-05T10:00:00Z",
    "2026-01-05T10:00:00.000000+00:00",
    "2026-01-05T15:30:00+05:30",
    "2026-01-05T02:00:00.0-08:00",
)
EARLIER = "2026-01-05T18:00:00+09:00"  # an hour before, though greater as text


@dataclass(frozen=True)
class Made:
    """Where the sample lies, and what it was made with.

    Attributes:
        centers: the center mapping, JSON.
        identifiers: CSV of ``naccid, adcid, active``: each participant's centers, and the current.
        datasets: URL template of the datasets, with ``{center}``.
        ids: center ids, in order of ADCID.
        rows: rows of each table of a center's first version, by center id, broken files included.
        transferred: participants who have rows at two centers.
        broken: ids of the centers whose first table is a truncated file.
    """

    centers: Path
    identifiers: Path
    datasets: str
    ids: tuple[str, ...]
    rows: Mapping[str, int]
    transferred: int
    broken: tuple[str, ...]
    sample: Sample


def make_centers(
    folder: Path | str,
    *,
    datasets: str | None = None,
    centers: int = 40,
    columns: int = 60,
    rows: tuple[int, int] = (200, 800),
    transfers: float = 0.005,
    drift_columns: int = 5,
    adcid_zero: bool = True,
    broken: int = 1,
    tables: Sequence[str] = ("uds",),
    row_group_rows: int | None = None,
    measures: int = 0,
    seed: int = 0,
    options: Mapping[str, str] | None = None,
) -> Made:
    """Write centers, identifiers and datasets; the same arguments give the same bytes.

    Args:
        folder: for ``centers.json`` and ``identifiers.csv``, and for ``datasets/{center}``.
        datasets: URL of a store that takes the datasets instead.
        centers: how many.
        columns: of each table, keys (``naccid``, ``adcid``, ``visitdate``) included.
        rows: of each table of a center, at least and at most.
        transfers: share of participants, at most 0.2, who moved on to another center: there they
            have a copy of their second visit and one more visit.
        drift_columns: columns whose type, or presence, differs at every third center; with any,
            some centers also have another order of columns, or one more.
        adcid_zero: the first center has ADCID 0.
        broken: how many centers, the last ones, have a truncated file as their first table.
        tables: their names.
        row_group_rows: rows of a row group; None: pyarrow's default.
        measures: of so many columns one has measured values, which hardly compress; 0: none has.
        seed: of everything that is drawn.
        options: of :func:`catchment.core.store.open_store`, for ``datasets``.
    """
    home = Path(folder).absolute()
    home.mkdir(parents=True, exist_ok=True)
    store = open_store(datasets or (home / "datasets").as_uri(), **(options or {}))
    sample = Sample(
        store, centers, columns, rows, transfers, drift_columns, adcid_zero, broken, tuple(tables),
        row_group_rows, measures, seed,
    )  # fmt: skip
    for k in range(centers):
        sample.write_older(k)
        sample.write(k, FIRST)
    sample.forget()
    (home / "centers.json").write_text(json.dumps({"centers": sample.mapping()}, indent=1))
    with (home / "identifiers.csv").open("w", newline="") as file:
        file.write("naccid,adcid,active\n")
        file.writelines(sample.identifiers())
    return Made(
        centers=home / "centers.json",
        identifiers=home / "identifiers.csv",
        datasets=store.url.rstrip("/") + "/{center}",
        ids=tuple(sample.ids),
        rows={id_: len(sample.people(k, FIRST)[0]) for k, id_ in enumerate(sample.ids)},
        transferred=len(sample.moves),
        broken=tuple(sample.ids[centers - broken :]),
        sample=sample,
    )


def change_center(made: Made, center: str) -> str:
    """Write a new version of a center's dataset, of other values and seven more rows; its id."""
    store = made.sample.store
    version = 1 + max(int(name) for name in store.folders(f"{center}/versions/"))
    made.sample.write(made.sample.ids.index(center), version)
    made.sample.forget()
    return str(version)


@dataclass(frozen=True, eq=False)
class Sample:
    """The plan of a sample; all that is drawn comes from its seed."""

    store: Store
    centers: int
    columns: int
    row_limits: tuple[int, int]
    transfers: float
    drift_columns: int
    adcid_zero: bool
    broken: int
    tables: tuple[str, ...]
    row_group_rows: int | None
    measures: int
    seed: int
    _pool: dict[tuple[str, int], pa.Array] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.transfers <= 0.2 or self.columns < len(KEYS) or self.centers < 1:
            raise ValueError("expected transfers of 0 to 0.2, at least 3 columns and 1 center")

    @cached_property
    def ids(self) -> list[str]:
        """Center ids, in order of ADCID."""
        return [f"center{k:02d}" for k in range(self.centers)]

    def adcid(self, k: int) -> int:
        """The ADCID of the k-th center."""
        return 0 if self.adcid_zero and k == 0 else 10 + k

    def mapping(self) -> dict[str, Any]:
        """The centers of the center mapping, in both spellings of their fields."""
        return {
            str(self.adcid(k)): {
                "adcid": self.adcid(k),
                "name": f"Sample Center {k}",
                "center-id" if k % 2 else "center_id": id_,
                "is-active" if k % 2 else "active": True,
                "tags": "sample,odd" if k % 2 else ["sample"],
            }
            for k, id_ in enumerate(self.ids)
        }

    def identifiers(self) -> Iterable[str]:
        """Lines of the identifiers file."""
        for k, (start, count) in enumerate(self._blocks):
            for person in range(start, start + count):
                now = self.moves.get(person, k)
                if now != k:
                    yield f"NACC{person:06d},{self.adcid(k)},false\n"
                yield f"NACC{person:06d},{self.adcid(now)},true\n"

    @cached_property
    def rows(self) -> list[int]:
        """Rows that each center aims at."""
        low, high = self.row_limits
        return [int(n) for n in self._draw(0).integers(low, high, self.centers, endpoint=True)]

    @cached_property
    def visits(self) -> int:
        """Visits of a participant: as many as it takes for all to have six digits."""
        return max(3, -(-sum(self.rows) // 900_000))

    @cached_property
    def moves(self) -> dict[int, int]:
        """Transferred participants, each with the number of the center where they are now."""
        draw, moves = self._draw(1), {}
        if self.centers > 1:
            for k, (start, count) in enumerate(self._blocks):
                # Not the last ones, who may lose their rows to those who come in.
                people = max(1, (count - SPARE) * 4 // 5)
                share = round(self.transfers * (count - SPARE))
                leaving = min(people, share or int(self.transfers > 0))
                for j, i in enumerate(sorted(draw.choice(people, leaving, replace=False))):
                    moves[start + int(i)] = (k + 1 + j % (self.centers - 1)) % self.centers
        return moves

    def people(self, k: int, version: int) -> tuple[np.ndarray, np.ndarray]:
        """Participant's and visit's number of each row of a center, in this order."""
        coming = np.array([p for p, now in self.moves.items() if now == k], dtype=np.int64)
        wanted = self.rows[k] + 7 * (version - FIRST)
        own = np.arange(max(wanted - 2 * len(coming), 1))
        person = np.concatenate([self._blocks[k][0] + own // self.visits, coming, coming])
        again = np.full(len(coming), 1)
        visit = np.concatenate([own % self.visits, again, again + self.visits - 1])
        order = np.lexsort((visit, person))
        return person[order], visit[order]

    def write(self, k: int, version: int) -> None:
        """Write one version of the k-th center: one file a table, then the description."""
        prefix = f"{self.ids[k]}/versions/{version}/"
        keys = self._keys(k, *self.people(k, version))
        for t, name in enumerate(self.tables):
            data = self._parquet(self._table(k, t, version, keys))
            if not t and k >= self.centers - self.broken:
                data = data[: len(data) // 2]
            self._put(f"{prefix}tables/{name}/data.parquet", data)
        spelled = SPELLINGS[k % len(SPELLINGS)]
        if version != FIRST:
            spelled = (CREATED + timedelta(days=version)).isoformat()
        self._describe(prefix, str(version), spelled)

    def write_older(self, k: int) -> None:
        """Write what must lose: an earlier version and, at some centers, an older release's."""
        person, visit = self.people(k, FIRST)
        data = self._parquet(pa.table(self._keys(k, person[:5], visit[:5])))
        older = [f"{self.ids[k]}/versions/{FIRST - 1}/"]
        if k % 4 == 1:
            older.append(f"{self.ids[k]}/latest/")
        for prefix in older:
            for name in self.tables:
                self._put(f"{prefix}tables/{name}/data.parquet", data)
            self._describe(prefix, str(FIRST - 1), EARLIER)

    def forget(self) -> None:
        """Give the memory of all drawn columns back; they can be drawn again."""
        self._pool.clear()

    def _put(self, key: str, data: bytes | memoryview) -> None:
        """What is there already stays: written again, it would be another delivery."""
        with suppress(NotFound):
            if self.store.read(key) == bytes(data):
                return
        self.store.put(key, data, mode="overwrite")

    def _describe(self, prefix: str, version: str, created: str) -> None:
        description = {
            "id": prefix.strip("/").replace("/", "-"),
            "name": "sample",
            "version": version,
            "version_label": f"v{version}",
            "created": created,
            "description": "invented data",
            "dataset_info": {},
            "tables": {name: {"path": f"tables/{name}"} for name in self.tables},
            "paths": {"tables": "tables"},
            "errors": [],
        }
        data = json.dumps(description, indent=1).encode()
        self._put(f"{prefix}provenance/dataset_description.json", data)

    def _draw(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *what])

    @cached_property
    def _blocks(self) -> list[tuple[int, int]]:
        """First participant's number and count of participants of each center."""
        blocks, start = [], 1
        for rows in self.rows:
            count = -(-rows // self.visits) + SPARE
            blocks.append((start, count))
            start += count
        return blocks

    def _values(self, kind: str, variant: int) -> pa.Array:
        """A column longer than any file: files are windows on it, not copies."""
        if (kind, variant) not in self._pool:
            self._pool[kind, variant] = self._drawn(kind, variant)
        return self._pool[kind, variant]

    def _drawn(self, kind: str, variant: int) -> pa.Array:
        draw = self._draw(2, [*KINDS, MEASURE].index(kind), variant)
        length = max(self.rows) + WINDOWS + SPARE * self.visits
        if kind == "none":
            return pa.nulls(length, pa.int32())
        if kind == "number":
            number = (draw.normal(25, 4, length) * 10).round() / 10
            return pa.array(number, mask=draw.random(length) < 0.2)
        if kind == MEASURE:
            return pa.array(draw.normal(1500, 150, length).round(4))
        if kind == "text":
            words = pa.array(["A", "B1", "N/A", "see note", "unknown"])
            return words.take(pa.array(draw.integers(0, 5, length)))
        share = (0.97, 0.9, 0.8, 0.6)[variant]  # of the usual code
        codes = np.array([-4 if variant % 3 == 0 else 0, 1, 8, 9, 88], dtype=np.int32)
        code = draw.choice(codes, length, p=[share, *[(1 - share) / 4] * 4])
        return pa.array(code, mask=draw.random(length) < 0.98 if kind == "rare" else None)

    @cached_property
    def _dates(self) -> pa.Array:
        days = np.datetime64("2005-01-01") + np.arange(SPAN + 365 * 4)
        return pa.array(np.datetime_as_string(days))

    def _keys(self, k: int, person: np.ndarray, visit: np.ndarray) -> dict[str, pa.Array]:
        people, which = np.unique(person, return_inverse=True)
        days = person * 37 % SPAN + visit * (365 * 3 // self.visits)
        return {
            "naccid": pa.array([f"NACC{p:06d}" for p in people]).take(pa.array(which)),
            "adcid": pa.array(np.full(len(person), self.adcid(k), dtype=np.int32)),
            "visitdate": self._dates.take(pa.array(days)),
        }

    def _table(self, k: int, t: int, version: int, keys: dict[str, pa.Array]) -> pa.Table:
        """The t-th table: columns are the same at all centers, but for those that drift."""
        draw, rows = self._draw(3, k, t, version), len(keys["adcid"])
        columns, drifting = dict(keys), 0
        for i in range(self.columns - len(KEYS)):
            kind = KINDS[i % len(KINDS)]
            if self.measures and i % self.measures == 0:
                kind = MEASURE
            name = f"{FORMS[i * len(FORMS) // self.columns]}_{t}{i:04d}"
            offset = int(draw.integers(WINDOWS))
            column = self._values(kind, i % VARIANTS).slice(offset, rows)
            if kind == "code" and drifting < self.drift_columns:
                if k % 3 == 1:
                    column = _drifted(column, DRIFTS[drifting % len(DRIFTS)])
                drifting += 1
            if column is not None:
                columns[name] = column
        if drifting and k % 5 == 2:
            columns = dict(reversed(columns.items()))
        if drifting and k % 5 == 3:
            columns["site_note"] = pa.array([f"note {i % 7}" for i in range(rows)])
        return pa.table(columns)

    def _parquet(self, table: pa.Table) -> memoryview:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=self.row_group_rows)
        return memoryview(sink.getvalue())


def _drifted(column: pa.Array, drift: str) -> pa.Array | None:
    match drift:
        case "missing":
            return None
        case "null":
            return pa.nulls(len(column))
        case _:
            return column.cast(drift)
