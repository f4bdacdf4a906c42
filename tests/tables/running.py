"""What the tests of whole runs share: centers made by hand, a place to work, and the naive way."""

from __future__ import annotations

import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.ledger import Ledger
from catchment.core.store import Store, open_store
from catchment.tables import layout
from catchment.tables import run as runs
from catchment.tables.job import House, Job
from catchment.tables.model import Center, CriteriaRule, OnDuplicate, Options
from catchment.tables.snapshot import TableSnapshot, open_snapshot
from catchment.tables.sources import Place, Source, TemplateSource

NOW = datetime(2026, 2, 6, 10, 1, 29, tzinfo=UTC)
STAMP = "20260206-100129"
TODAY = {"freeze_date": "20260206", "etl_date": "20260206"}
THREADS = ThreadPoolExecutor(2)

Rows = Sequence[tuple[Any, ...]]  # naccid, adcid, visitdate, value
Columns = ("naccid", "adcid", "visitdate", "value")


def visits(*rows: tuple[Any, ...]) -> pa.Table:
    """A table of visits."""
    kinds = (pa.string(), pa.int32(), pa.string(), pa.int32())
    columns = [[row[i] for row in rows] for i in range(4)]
    return pa.table({n: pa.array(c, k) for n, c, k in zip(Columns, columns, kinds, strict=True)})


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


# --- sites ---------------------------------------------------------------------------------------


class Sites:
    """Centers and their datasets, made by hand."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.centers: list[Center] = []
        self.files: dict[str, dict[str, list[tuple[str, bytes]]]] = {}  # latest, by center

    def add(
        self,
        center: str,
        adcid: int,
        uds: pa.Table | bytes | Mapping[str, pa.Table | bytes] | None = None,
        *,
        version: str = "1",
        created: str = "2026-01-05T10:00:00Z",
        **tables: Mapping[str, pa.Table | bytes],
    ) -> None:
        """A version of a center's dataset: its table uds, and others by name."""
        if all(c.id != center for c in self.centers):
            self.centers.append(Center(center, adcid, center.title()))
        given: dict[str, Mapping[str, pa.Table | bytes]] = dict(tables)
        if uds is not None:
            given["uds"] = uds if isinstance(uds, Mapping) else {"data.parquet": uds}
        prefix = f"{center}/versions/{version}/"
        self.files[center] = {}
        for table, files in given.items():
            for name, content in files.items():
                data = content if isinstance(content, bytes) else parquet(content)
                self.store.put(f"{prefix}tables/{table}/{name}", data, mode="overwrite")
                self.files[center].setdefault(table, []).append((f"tables/{table}/{name}", data))
        description = {"id": version, "created": created, "tables": {key: {} for key in given}}
        key = f"{prefix}provenance/dataset_description.json"
        self.store.put(key, json.dumps(description).encode(), mode="overwrite")

    @property
    def source(self) -> Source:
        return TemplateSource(f"{self.store.url.rstrip('/')}/{{center}}")

    def sent(self, table: str = "uds", without: Iterable[str] = ()) -> list[Sent]:
        """What the model is made of: the files of a table in the order that they are merged in."""
        return [
            Sent(c.id, c.adcid, name, pq.read_table(io.BytesIO(data)))
            for c in sorted(self.centers, key=lambda c: c.adcid)
            if c.id not in without
            for name, data in sorted(self.files.get(c.id, {}).get(table, ()))
        ]


class Sent(NamedTuple):
    """A file as its center sent it."""

    center: str
    adcid: int
    name: str
    table: pa.Table


# --- a place to work -----------------------------------------------------------------------------


class People(dict[str, set[int]]):
    """Current centers of participants, and the questions that were asked."""

    asked: list[str]

    def current(self, naccids):
        self.__dict__.setdefault("asked", []).extend(sorted(naccids))
        return {n: frozenset(self[n]) for n in naccids if n in self}


@dataclass
class Work:
    """A store, a ledger and a clock, and runs in them."""

    folder: Path
    sites: Sites
    people: People | None = None
    store: Store = None  # a folder unless given
    source: Source = None
    executor: Any = THREADS
    now: datetime = NOW
    events: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = self.store or open_store((self.folder / "store").as_uri())

    @cached_property
    def ledger(self) -> Ledger:
        self.folder.mkdir(parents=True, exist_ok=True)
        return Ledger.open(f"sqlite:///{self.folder}/ledger.db", clock=lambda: self.now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.ledger.close()

    @property
    def house(self) -> House:
        return House(self.store, self.ledger, self.executor, lambda: self.now, self.events.append)

    def job(self, only: Iterable[str] | None = None, **options: Any) -> Job:
        centers = [c for c in self.sites.centers if only is None or c.id in only]
        return Job(
            name="nacc",
            output="out/",
            centers=sorted(centers, key=lambda c: c.adcid),
            source=self.source or self.sites.source,
            identifiers=self.people,
            options=Options(**options),
            config={"a": "setting"},
        )

    def run(self, only: Iterable[str] | None = None, *, full: bool = False, **options: Any):
        return runs.run(self.job(only, **options), self.house, full=full)

    def plan(self, only: Iterable[str] | None = None, *, full: bool = False, **options: Any):
        return runs.plan_only(self.job(only, **options), self.house, full=full)

    def snapshot(self, which: Any = "latest") -> TableSnapshot:
        return open_snapshot(self.store, self.ledger, "nacc", which)

    def table(self, table: str = "uds", which: Any = "latest") -> pa.Table:
        return self.snapshot(which)[table].to_arrow()

    def removed(self, table: str = "uds") -> pa.Table | None:
        """The removed rows of the latest snapshot; None where it names no such file."""
        items = self.snapshot().record.provenance["objects"]
        keys = [o["key"] for o in items if (o["table"], o["role"]) == (table, "removed")]
        return pq.read_table(io.BytesIO(self.store.read(keys[0]))) if keys else None

    def bytes(self, which: Any = "latest") -> dict[str, bytes]:
        """The bytes of all that readers see of a snapshot, by key below its prefix."""
        record = self.snapshot(which).record
        return {
            o["key"].removeprefix(record.location): self.store.read(o["key"])
            for o in record.provenance["objects"]
            if o["role"] in {"table", "removed"}
        }

    def __iter__(self):
        return iter(self.keys())

    def keys(self) -> list[str]:
        return [stat.key for stat in self.store.list()]


class Watched:
    """A store that remembers which objects' bytes were read."""

    def __init__(self, store: Store, read: list[str]) -> None:
        self._store, self._read = store, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, key, **options):
        self._read.append(key)
        return self._store.read(key, **options)

    def stream(self, key, **options):
        self._read.append(key)
        return self._store.stream(key, **options)

    def path(self, key):
        return None  # all reads go through here

    def parquet(self) -> set[str]:
        """The centers whose tables were read since the last question."""
        found = {key.split("/")[0] for key in self._read if key.endswith(".parquet")}
        self._read.clear()
        return found


@dataclass
class WatchedSource:
    """Another source's places, in watched stores."""

    source: Source
    read: list[str] = field(default_factory=list)
    one_bucket = False

    def locate(self, center: Center) -> Place:
        place = self.source.locate(center)
        return Place(Watched(place.store, self.read), place.prefix)

    def parquet(self) -> set[str]:
        return Watched(None, self.read).parquet()


# --- the naive way -------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of a file, with all columns of the table."""

    sent: Sent
    number: int
    values: dict[str, Any]

    @property
    def center(self) -> int:
        adcid = self.values.get("adcid")
        return self.sent.adcid if adcid is None else adcid


class Naive(NamedTuple):
    """A table made the naive way."""

    columns: list[str]
    kept: list[dict[str, Any]]
    removed: list[dict[str, Any]]
    account: dict[str, dict[str, Any]]  # rows by center
    files: Counter[str]


def naive(
    sent: Sequence[Sent],
    people: Mapping[str, set[int]] | None = None,
    rule: CriteriaRule | None = None,
    constants: Mapping[str, str] = TODAY,
) -> Naive:
    """Union of whole tables in Python, row by row; then the rule, by dictionaries."""
    columns = list(
        dict.fromkeys(n for s in sent for n in s.table.column_names if n not in constants)
    )
    texts = {name for name in columns if _is_conflict(name, sent)}
    rows = [
        Row(s, number, {n: _value(values.get(n), n in texts) for n in columns})
        for s in sent
        for number, values in enumerate(s.table.to_pylist())
    ]
    fates: dict[int, tuple[str, str]] = {}
    if rule is not None:
        fates = _by_criteria(rows, rule, people or {})
    elif people is not None and "naccid" in columns:
        fates = _by_transfer(rows, people)
    account: dict[str, dict[str, Any]] = {}
    for s in sent:
        one = account.setdefault(s.center, {"received": 0, "kept": 0, "dropped": Counter(), "quarantined": Counter()})  # fmt: skip
        one["received"] += s.table.num_rows
    kept, removed = [], []
    for index, row in enumerate(rows):
        if index in fates:
            fate, reason = fates[index]
            account[row.sent.center][fate][reason] += 1
            removed.append(row.values | {
                "removed_from": row.sent.center, "removed_file": row.sent.name,
                "removed_row": row.number, "fate": fate, "reason": reason,
            })  # fmt: skip
        else:
            account[row.sent.center]["kept"] += 1
            kept.append(row.values | constants)
    return Naive([*columns, *constants], kept, removed, account, Counter(s.center for s in sent))


def _is_conflict(name: str, sent: Sequence[Sent]) -> bool:
    """Whether a column is text at some centers and something else at others."""
    kinds = {s.table.schema.field(name).type for s in sent if name in s.table.column_names}
    texts = {k for k in kinds if pa.types.is_string(k) or pa.types.is_large_string(k)}
    return bool(texts) and any(not pa.types.is_null(k) for k in kinds - texts)


def _value(value: Any, text: bool) -> Any:
    # A double in words is Arrow's: 3.0 is "3".
    return pa.scalar(value).cast(pa.string()).as_py() if text and value is not None else value


def _by_transfer(rows: Sequence[Row], people: Mapping[str, set[int]]) -> dict[int, tuple[str, str]]:
    return _by_current(rows, [row.values["naccid"] for row in rows], people, "transferred")


def _by_criteria(
    rows: Sequence[Row], rule: CriteriaRule, people: Mapping[str, set[int]]
) -> dict[int, tuple[str, str]]:
    keys = [tuple(row.values[n] for n in rule.criteria) for row in rows]
    keys = [key if key and None not in key else None for key in keys]
    if rule.on_duplicate == OnDuplicate.ACTIVE_ONLY:
        return _by_current(rows, keys, people, "duplicate")
    if rule.on_duplicate == OnDuplicate.DROP_ALL:
        return dict.fromkeys(_apart(rows, keys), ("dropped", "duplicate"))
    return {}


def _apart(rows: Sequence[Row], keys: Sequence[Any]) -> list[int]:
    """Rows whose key is at several centers."""
    at: dict[Any, set[int]] = defaultdict(set)
    for key, row in zip(keys, rows, strict=True):
        at[key].add(row.center)
    return [i for i, key in enumerate(keys) if key is not None and len(at[key]) > 1]


def _by_current(
    rows: Sequence[Row], keys: Sequence[Any], people: Mapping[str, set[int]], slug: str
) -> dict[int, tuple[str, str]]:
    """Fates by the current centers of the participants of rows whose key is at several centers."""
    apart = _apart(rows, keys)
    verdicts = {i: _verdict(rows[i], people) for i in apart}
    remaining = {keys[i] for i in apart if verdicts[i] == "stays"}
    fates = {}
    for i, verdict in verdicts.items():
        if verdict == "goes":
            there = keys[i] in remaining
            fates[i] = ("dropped", slug) if there else ("quarantined", "current-center-absent")
        elif verdict != "stays":
            fates[i] = "quarantined", verdict
    return fates


def _verdict(row: Row, people: Mapping[str, set[int]]) -> str:
    naccid = row.values["naccid"]
    if naccid is None:
        return "missing-naccid"
    if not re.fullmatch(r"NACC\d{6}", naccid):
        return "malformed-naccid"
    homes = people[naccid]
    if len(homes) != 1:
        return "several-current-centers" if homes else "no-current-center"
    return "stays" if row.center in homes else "goes"


def check(work: Work, expected: Mapping[str, Naive]) -> None:
    """The latest snapshot is what the model says: every value, removed row and balance."""
    snapshot = work.snapshot()
    assert sorted(snapshot) == sorted(expected)
    skipped = snapshot.record.provenance["skipped"]
    balances = {}
    for name, model in expected.items():
        table = work.table(name)
        assert table.column_names == model.columns
        assert table.to_pylist() == model.kept
        assert snapshot[name].rows == len(model.kept)
        removed = work.removed(name)
        assert (removed.to_pylist() if removed else []) == model.removed
        balances |= {(center, name): b for center, b in model.account.items()}
    found = {
        (line.site, line.part): balance.to_json()
        for line, balance in snapshot.account
        if line.unit == "rows" and balance.received and line.site not in skipped
    }
    assert found == {key: balance for key, balance in balances.items() if balance["received"]}
    files = {
        (line.site, line.part): balance.received
        for line, balance in snapshot.account
        if line.unit == "files" and line.site not in skipped
    }
    assert files == {
        (c, name): n for name, model in expected.items() for c, n in model.files.items()
    }
    assert snapshot.verify() == []
    prefixes = layout.snapshot_prefixes(work.store, "out/")
    assert snapshot.record.location == prefixes[-1]
