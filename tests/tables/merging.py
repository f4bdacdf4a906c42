"""What the tests of the merge share: merge files in a store, and do it again the naive way."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from catchment.core.store import Store, open_store
from catchment.tables.merge import Fresh, Kept, Merged, Placed, merge_table
from catchment.tables.model import Fate, Removal
from catchment.tables.parquet import inspect
from catchment.tables.unify import unify
from catchment.testing.parquet import schemas, tables, writings

CONSTANTS = {"freeze_date": "20260102", "etl_date": "20260103"}
_NUMBERS = count()


class Inline(Executor):
    """Runs a task where it is submitted."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as executors do
            future.set_exception(error)
        return future


@dataclass
class File:
    """A file of a site, and the numbers of the rows that leave."""

    data: bytes = field(repr=False)
    removed: Sequence[int] = ()
    site: str = "alpha"

    @property
    def removals(self) -> tuple[Removal, ...]:
        some = (self.removed[::2], self.removed[1::2])
        kinds = ((Fate.DROPPED, "transferred"), (Fate.QUARANTINED, "no-current-center"))
        return tuple(Removal(r, *k) for r, k in zip(some, kinds, strict=True) if r)


@dataclass
class Merging:
    """A store in memory, and merges in it."""

    store: Store = field(default_factory=lambda: open_store(f"memory://merging{next(_NUMBERS)}"))
    constants: Mapping[str, str] = field(default_factory=lambda: CONSTANTS)
    executor: Executor = field(default_factory=Inline)
    runs: int = 0
    strict: bool = False

    def fresh(self, file: File, number: int) -> Fresh:
        key = f"in/{self.runs}/{number}.parquet"
        self.store.put(key, file.data)
        footer = inspect(self.store, key, len(file.data))
        return Fresh(file.site, f"{number}.parquet", self.store, key, footer, file.removals)

    def merge(
        self,
        files: Sequence[File],
        kept: Mapping[int, Kept] | None = None,
        schemas: Mapping[int, pa.Schema] | None = None,
    ) -> Merged:
        """Merge; inputs with a number in ``kept`` are copied from an earlier table."""
        self.runs += 1
        inputs = [
            (kept or {}).get(number) or self.fresh(file, number)
            for number, file in enumerate(files)
        ]
        self.schemas = [
            item.footer.schema if isinstance(item, Fresh) else schemas[number]
            for number, item in enumerate(inputs)
        ]
        self.unified = unify(
            list(zip([f.site for f in files], self.schemas, strict=True)),
            constants=self.constants,
            strict=self.strict,
        )
        prefix = f"out/{self.runs}"
        return merge_table(
            inputs,
            self.unified,
            self.constants,
            store=self.store,
            table=f"{prefix}/table.parquet",
            removed=f"{prefix}/removed.parquet",
            staging=f"staging/{self.runs}/",
            executor=self.executor,
        )

    def keep(self, merged: Merged, old: int, file: File, number: int) -> Kept:
        removed = merged.removed.key if merged.removed else None
        placed = Placed.loads(merged.placed[old].dumps())
        return Kept(
            file.site,
            f"{number}.parquet",
            self.store,
            merged.table.key,
            removed,
            placed,
            file.removals,
        )

    def read(self, key: str) -> bytes:
        return self.store.read(key)


@st.composite
def files(draw, schema: pa.Schema, told: bool) -> File:
    table = draw(tables(schema))
    rows = range(table.num_rows)
    removed = draw(
        st.one_of(
            st.just([]),
            st.just(list(rows)),
            st.sets(st.sampled_from(rows), max_size=3).map(sorted) if rows else st.just([]),
        )
    )
    # Without Arrow's own schema a zone is UTC and a duration is a number.
    writing = replace(draw(writings()), store_schema=told)
    return File(writing.write(table), removed, draw(st.sampled_from(["alpha", "beta"])))


@st.composite
def sets(draw, count: int = 1) -> list[list[File]]:
    """So many sets of files whose columns are some of those of one schema, in any order."""
    schema, told = draw(schemas()), draw(st.booleans())
    some = st.permutations(schema.names).flatmap(
        lambda names: st.integers(1, len(names)).map(lambda count: names[:count])
    )
    file = some.flatmap(lambda names: files(pa.schema(map(schema.field, names)), told))
    return [draw(st.lists(file, min_size=1, max_size=4)) for _ in range(count)]


def naive(merging: Merging, files: Sequence[File]) -> tuple[dict[str, list], dict[str, list]]:
    """Every value of the table and of the removed rows, by reading each file whole."""
    schema = merging.unified.schema
    stay: dict[str, list] = {name: [] for name in [*schema.names, *merging.constants]}
    leave: dict[str, list] = {name: [] for name in schema.names}
    for file in files:
        table = pq.read_table(io.BytesIO(file.data), coerce_int96_timestamp_unit="us")
        gone = set(file.removed)
        for name in schema.names:
            if name in table.column_names:
                column = cast(table.column(name), schema.field(name).type)
            else:
                column = [None] * table.num_rows
            for row, value in enumerate(column):
                (leave if row in gone else stay)[name].append(value)
        for name, value in merging.constants.items():
            stay[name] += [value] * (table.num_rows - len(gone))
    return stay, leave


def cast(column: pa.ChunkedArray, kind: pa.DataType) -> list:
    if pa.types.is_nested(kind):  # the random tests do not drift inside
        return values(column)
    return values(column.cast(kind))


def values(column: pa.ChunkedArray) -> list:
    """Values that compare: NaN equals itself, and times are numbers."""
    return [comparable(value) for value in plain(column).to_pylist()]


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind) or pa.types.is_time(kind):
        return column.cast(pa.int64()) if kind.bit_width == 64 else column.cast(pa.int32())
    return column


def comparable(value: Any) -> Any:
    if isinstance(value, float):
        return ("nan",) if math.isnan(value) else (value, math.copysign(1, value))
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [comparable(item) for item in value]
    return value


def table_values(table: pa.Table, names: Sequence[str]) -> dict[str, list]:
    return {name: values(table.column(name)) for name in names}
