"""Published tables as text: CSV, TSV and JSON, with marks where they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from catchment.core.textfile import guarded, line
from catchment.core.workspace import Workspace
from catchment.studies.check import local
from catchment.studies.marks import named
from catchment.studies.model import Package

Kind = Literal["csv", "tsv", "json"]
_ROWS = 20_000  # of a table, turned into text at a time


def written(workspace: Workspace, one: Package, kind: Kind, *, marks: bool) -> Iterator[str]:
    """The table as text, a part at a time; no cell of it is a formula to a spreadsheet."""
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        path = stack.enter_context(local(workspace.store, one.released.key))
        file = stack.enter_context(pq.ParquetFile(path))
        own = [name for name in file.schema_arrow.names if name not in one.marked]
        names = own
        told: pq.ParquetFile | None = None
        if marks:
            if one.marks is not None:
                path = stack.enter_context(local(workspace.store, one.marks.key))
                told = stack.enter_context(pq.ParquetFile(path))
            more = one.marked or named(own, 1 if told is None else told.metadata.num_columns)
            names, own = [*own, *more], [*own, *one.marked]
        yield "[" if kind == "json" else _lines([[guarded(name) for name in names]], kind)
        first = True
        for rows in _rows(file, own, told, marked=marks and not one.marked):
            if kind == "json":
                cells = (dict(zip(names, row, strict=False)) for row in rows)
                texts = [json.dumps(row, default=str) for row in cells]
                yield ("" if first else ",\n") + ",\n".join(texts)
                first = False
            else:
                yield _lines([[guarded(cell) for cell in row] for row in rows], kind)
        if kind == "json":
            yield "]"


def _rows(
    file: Any, columns: list[str], told: Any, *, marked: bool
) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of a table, some at a time; those that are ``marked`` with marks that are not in it."""
    more = (row for batch in told.iter_batches(_ROWS) for row in _cells(batch)) if told else None
    for batch in file.iter_batches(_ROWS):
        rows = _cells(batch.select(columns))
        if more is not None:
            rows = [(*row, *mark) for row, mark in zip(rows, more, strict=False)]
        elif marked:
            rows = [(*row, False) for row in rows]  # all is shown
        yield rows


def _cells(batch: Any) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _lines(rows: Iterable[Sequence[object]], kind: Kind) -> str:
    return "".join(line(row, "\t" if kind == "tsv" else ",") for row in rows)
