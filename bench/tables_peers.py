"""Other ways to bring center tables together; each is run in a process of its own.

All read the same files in the same order and write one Parquet file, compressed with Snappy as
its inputs are. All but :func:`cat` unify the types, append the two constant columns and keep the
rows of participants who moved at their current center only, so all have the same rows and columns.
None of them writes an account, digests, provenance or the removed rows, and only :func:`cat` waits
for the disk: they do less than ``catchment tables run`` does.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench._common import timed

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 100_000  # rows that the original takes at a time
DATES = {"freeze_date": "20260105", "etl_date": "20260105"}
KEYS = ["naccid", "adcid"]


class Task(NamedTuple):
    """Paths; the schema is the unified one, so that nobody has to spend time on finding it."""

    files: Sequence[str]
    identifiers: str
    schema: str
    output: str


def cat(task: Task) -> None:
    """The bytes of all files in one, on disk: what no way of merging can beat."""
    with timed(), Path(task.output).open("wb") as target:
        for file in task.files:
            with Path(file).open("rb") as source:
                while os.sendfile(target.fileno(), source.fileno(), None, 1 << 30):
                    pass
        os.fsync(target.fileno())


def original(task: Task) -> None:
    """The gear that this program follows, step by step, without its storage and its service.

    1. Each center's file is read whole, the dates are appended, and the table is written into one
       local file. It takes the first file's schema and fails at any other; here it is given the
       unified one, and casts to it.
    2. That file is streamed in batches of 100,000 rows, with all columns, and a Python dict
       collects the ADCIDs of each NACCID.
    3. It is streamed again, filtered, and written into the final file, also where nobody moved: two
       passes that decode and encode every byte. The gear asks the identifiers service for each
       NACCID at several ADCIDs, here a file is read; its mask compares with the current ADCIDs of
       the whole batch, here row by row, as it is meant.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = read_schema(task.schema)
    whole, final = Path(task.output).with_suffix(".tmp"), Path(task.output)
    with timed():
        with pq.ParquetWriter(whole, wanted) as writer:
            for file in task.files:
                writer.write_table(_aligned(pq.read_table(file), wanted))
        adcids: defaultdict[str, set[int]] = defaultdict(set)
        moved: set[str] = set()
        for batch in pq.ParquetFile(whole).iter_batches(BATCH):
            for naccid, adcid in zip(*(batch[key].to_pylist() for key in KEYS), strict=True):
                adcids[naccid].add(adcid)
                if len(adcids[naccid]) > 1:
                    moved.add(naccid)
        current = _current(task.identifiers, pa.array(moved, pa.string()))
        with pq.ParquetWriter(final, wanted) as writer:
            for batch in pq.ParquetFile(whole).iter_batches(BATCH):
                writer.write_table(_kept(pa.table(batch), current))
        whole.unlink()


def pyarrow(task: Task) -> None:
    """The key columns first, then one streaming pass."""
    import pyarrow.parquet as pq

    wanted = read_schema(task.schema)
    with timed():
        current = moved(task.files, task.identifiers)
        with pq.ParquetWriter(task.output, wanted) as writer:
            for table in _batches(task.files):
                writer.write_table(_kept(_aligned(table, wanted), current))


def pandas(task: Task) -> None:
    """All files in memory, concatenated. Columns of mixed types become text."""
    import pandas as pd

    with timed():
        whole = pd.concat([pd.read_parquet(file) for file in task.files], ignore_index=True)
        pairs = whole[KEYS].drop_duplicates()
        several = pairs["naccid"][pairs["naccid"].duplicated()]
        told = pd.read_csv(task.identifiers)
        known = told[told["active"] & told["naccid"].isin(several)].set_index("naccid")["adcid"]
        current = whole["naccid"].map(known)
        keep = current.isna() | (current == whole["adcid"])
        if not keep.all():
            whole = whole[keep]
        mixed = whole.select_dtypes("object").columns
        dates = pd.DataFrame(DATES, index=whole.index)
        whole = pd.concat([whole.astype(dict.fromkeys(mixed, "string")), dates], axis=1)
        whole.to_parquet(task.output, index=False)


def duckdb(task: Task) -> None:
    """``union_by_name``, an anti-join, and COPY."""
    import duckdb as db

    with timed(), db.connect() as connection:
        connection.execute(f"SET temp_directory = '{task.output}.spill'")
        connection.read_parquet(list(task.files), union_by_name=True).create_view("rows")
        connection.read_csv(task.identifiers).create_view("known")
        connection.execute("""
            CREATE TEMP TABLE gone AS
            WITH pairs AS (SELECT DISTINCT naccid, adcid FROM rows),
            several AS (SELECT naccid FROM pairs GROUP BY naccid HAVING count(*) > 1)
            SELECT pairs.naccid, pairs.adcid
            FROM pairs JOIN several USING (naccid) JOIN known USING (naccid)
            WHERE known.active AND known.adcid <> pairs.adcid
        """)
        dates = ", ".join(f"'{value}' AS {name}" for name, value in DATES.items())
        connection.execute(f"""
            COPY (SELECT *, {dates} FROM rows ANTI JOIN gone USING (naccid, adcid))
            TO '{task.output}' (FORMAT parquet, COMPRESSION snappy)
        """)  # noqa: S608 - our own names


def polars(task: Task) -> None:
    """A lazy concatenation with common supertypes, an anti-join, and a streaming sink."""
    import polars as pl

    with timed():
        whole = pl.concat([pl.scan_parquet(file) for file in task.files], how="diagonal_relaxed")
        pairs = whole.select(KEYS).unique().collect(engine="streaming")
        several = pairs.filter(pl.col("naccid").is_duplicated())
        known = pl.scan_csv(task.identifiers, schema_overrides={"adcid": pl.Int32})
        current = known.filter("active").select("naccid", current="adcid").collect()
        gone = several.join(current, on="naccid").filter(pl.col("adcid") != pl.col("current"))
        kept = whole.join(gone.lazy(), on=KEYS, how="anti", maintain_order="left")
        kept.with_columns(**{name: pl.lit(value) for name, value in DATES.items()}).sink_parquet(
            task.output, compression="snappy"
        )


def unified_schema(files: Sequence[str]) -> pa.Schema:
    """One schema for all files, dates included; what cannot be unified becomes a string."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: dict[str, set[pa.DataType]] = {}
    for file in files:
        for field in pq.read_schema(file):
            types.setdefault(field.name, set()).add(field.type)
    columns = {name: _wider(found) for name, found in types.items()}
    return pa.schema(columns | dict.fromkeys(DATES, pa.string()))


def moved(files: Sequence[str], identifiers: str) -> pa.Table:
    """``naccid`` and current ``adcid`` of the participants whom the files have at several."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    seen = [pq.read_table(file, columns=KEYS).group_by(KEYS).aggregate([]) for file in files]
    pairs = pa.concat_tables(seen).group_by("naccid").aggregate([("adcid", "count_distinct")])
    several = pairs.filter(pc.field("adcid_count_distinct") > 1)["naccid"]
    return _current(identifiers, several.combine_chunks())


def kept_rows(files: Sequence[str], identifiers: str) -> int:
    """Rows that every way of merging must have, from the key columns alone."""
    current = moved(files, identifiers)
    return sum(_kept(table, current).num_rows for table in _batches(files, KEYS))


def _wider(types: set[pa.DataType]) -> pa.DataType:
    import pyarrow as pa

    try:
        each = [pa.schema({"column": one}) for one in types]
        return pa.unify_schemas(each, promote_options="permissive").field("column").type
    except pa.ArrowTypeError:
        return pa.string()


def read_schema(path: str) -> pa.Schema:
    """The schema that a task names."""
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(Path(path).read_bytes()))


def _batches(files: Sequence[str], columns: list[str] | None = None) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=columns):
            yield pa.table(batch)


def _aligned(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with all columns of the schema, the dates among them."""
    import pyarrow as pa

    rows, have = table.num_rows, set(table.schema.names)
    columns = {name: pa.repeat(value, rows) for name, value in DATES.items()}
    for field in schema:
        if field.name in have:
            columns[field.name] = table[field.name].cast(field.type)
        elif field.name not in DATES:
            columns[field.name] = pa.nulls(rows, field.type)
    return pa.table({name: columns[name] for name in schema.names})


def _current(identifiers: str, naccids: pa.Array) -> pa.Table:
    import pyarrow.compute as pc
    from pyarrow import csv

    known = csv.read_csv(identifiers)
    return known.filter(pc.field("active") & pc.field("naccid").isin(naccids)).select(KEYS)


def _kept(table: pa.Table, current: pa.Table) -> pa.Table:
    """The rows of participants who did not move, or who are at their current center there."""
    import pyarrow.compute as pc

    index = pc.index_in(table["naccid"], current["naccid"])
    here = pc.equal(pc.take(current["adcid"], index), table["adcid"])
    return table.filter(pc.fill_null(here, fill_value=True))
