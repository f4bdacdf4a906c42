"""Published tables as text: CSV, tab-separated or JSON, with no cell that is a formula."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from catchment.core.textfile import guarded, line
from catchment.core.workspace import Workspace
from catchment.studies.check import local

Kind = Literal["csv", "tsv", "json"]
_ROWS = 20_000  # of a table, turned into text at a time


def written(workspace: Workspace, key: str, kind: Kind) -> Iterator[str]:
    """The table as text, a part at a time; no cell of it is a formula to a spreadsheet."""
    import pyarrow.parquet as pq

    with local(workspace.store, key) as path, pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        yield "[" if kind == "json" else _lines([[guarded(name) for name in names]], kind)
        first = True
        for batch in file.iter_batches(_ROWS):
            if kind == "json":
                texts = [json.dumps(row, default=str) for row in batch.to_pylist()]
                yield ("" if first else ",\n") + ",\n".join(texts)
                first = False
            else:
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                yield _lines([[guarded(cell) for cell in row] for row in rows], kind)
        if kind == "json":
            yield "]"


def _lines(rows: Iterable[Sequence[object]], kind: Kind) -> str:
    return "".join(line(row, "\t" if kind == "tsv" else ",") for row in rows)
