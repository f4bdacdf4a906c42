"""How the columns of an input meet those of the table."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catchment.core.errors import Corrupt
from catchment.core.parquet.footer import Columns
from catchment.core.parquet.thrift import Ints
from catchment.tables.parquet import Footer


class Match(NamedTuple):
    """The meeting of one input, or of several that store the same columns alike.

    Attributes:
        columns: how the input stores its columns.
        column: for each column of the table that of the input; -1: it has none.
        same: for each column of the table, whether the input's chunks can be copied.
        schema: the unified columns that the input has, serialized.
    """

    columns: Columns
    column: Ints
    same: NDArray[np.bool_]
    schema: bytes

    def present(self) -> list[int]:
        """The table's columns that the input has."""
        found: list[int] = np.flatnonzero(self.column >= 0).tolist()
        return found


class Matcher:
    """Matches inputs with the columns of a table."""

    def __init__(self, unified: pa.Schema, stored: Columns) -> None:
        self._unified = list(unified)
        self._at = {name: number for number, name in enumerate(unified.names)}
        self._stored = stored
        self._known: dict[object, Match] = {}

    def fresh(self, footer: Footer) -> Match:
        """Of a file: what is stored as the table stores it can be copied."""
        schema = footer.schema.remove_metadata()
        key = (schema.serialize().to_pybytes(), footer.elements, footer.leaves, footer.recode)
        if key not in self._known:
            columns = footer.columns
            at = {name: number for number, name in enumerate(schema.names)}
            rare = {bisect_right(columns.first, leaf) - 1 for leaf in footer.recode}
            column = np.full(len(self._unified), -1)
            same = np.zeros(len(self._unified), np.bool_)
            for target, field in enumerate(self._unified):
                number = at.get(field.name)
                if number is None:
                    continue
                equal = schema.field(number).type.equals(field.type)
                if equal or not pa.types.is_null(schema.field(number).type):
                    column[target] = number
                    leaves = columns[number].leaves
                    alike = leaves == self._stored[target].leaves
                    same[target] = equal and alike and number not in rare
            self._known[key] = self._match(columns, column, same)
        return self._known[key]

    def kept(self, placed: bytes) -> Match:
        """Of an input that stands in an earlier table, all of whose columns can be copied.

        Corrupt (kind ``placed-mismatch``) unless they are columns of the table.
        """
        if placed not in self._known:
            schema = pa.ipc.read_schema(pa.BufferReader(placed))
            targets = [self._at.get(name, -1) for name in schema.names]
            column = np.full(len(self._unified), -1)
            column[targets] = np.arange(len(targets))
            for target, field in zip(targets, schema, strict=True):
                if target < 0 or not self._unified[target].equals(field):
                    raise Corrupt(
                        "an input that was to be copied has columns of another type in the table",
                        kind="placed-mismatch",
                        hint="run with --full",
                    )
            columns = Columns(self._stored[target] for target in targets)
            self._known[placed] = self._match(columns, column, column >= 0)
        return self._known[placed]

    def _match(self, columns: Columns, column: Ints, same: NDArray[np.bool_]) -> Match:
        present = pa.schema([self._unified[n] for n in np.flatnonzero(column >= 0)])
        return Match(columns, column, same, present.serialize().to_pybytes())
