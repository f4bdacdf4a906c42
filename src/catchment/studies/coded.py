"""Tables of categories as numbers: each column a sorted list of values and a code for each row.

Codes make a merge cheap: a key is one integer, rows are put in order by integers, and a value is
escaped for CSV once, not once for each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catchment.core.textfile import guarded, line
from catchment.studies.model import COUNT

Codes = npt.NDArray[Any]  # whole numbers of two or four bytes; -1: NULL
Ints = npt.NDArray[np.int64]

TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "int32": pa.int32(),  # of our own marks only
    "double": pa.float64(),
    "bool": pa.bool_(),
    "date32[day]": pa.date32(),
    "timestamp[us]": pa.timestamp("us"),
}
CHUNK = 1 << 16  # rows that are in memory as text at once
_WIDE = 1 << 62  # what a key or a rank must stay below
_SMALL = 1 << 14  # values whose places two bytes can hold
_TEXTS = 1 << 16  # combinations of values whose text is made once


@dataclass(frozen=True, slots=True)
class Coded:
    """Columns of equal length: values in order, without NULL, and codes that are places in them."""

    values: Mapping[str, pa.Array]
    codes: Mapping[str, Codes]

    @property
    def names(self) -> list[str]:
        """Of the columns, in order."""
        return list(self.values)

    def take(self, rows: Any) -> Coded:
        """Some of the rows, in another order; or a slice of them."""
        return Coded(self.values, {name: codes[rows] for name, codes in self.codes.items()})

    def only_used(self, by: Coded) -> tuple[Coded, Coded]:
        """This and another one of the same values, without values that the other does not use."""
        values: dict[str, pa.Array] = {}
        mine: dict[str, Codes] = {}
        other: dict[str, Codes] = {}
        for name, known in self.values.items():
            used = np.bincount(by.codes[name] + 1, minlength=len(known) + 1)[1:] > 0
            values[name], mine[name], other[name] = known, self.codes[name], by.codes[name]
            if not used.all():
                values[name] = known.filter(pa.array(used))
                places = np.append(np.cumsum(used) - 1, -1).astype(by.codes[name].dtype)
                mine[name], other[name] = places[mine[name]], places[other[name]]
        return Coded(values, mine), Coded(values, other)

    def keys(self) -> Ints:
        """A number for each row: equal for equal rows, and in the order of the columns."""
        rows = len(next(iter(self.codes.values())))
        keys, size = np.zeros(rows, np.int64), 1
        for name, values in self.values.items():
            many = len(values) + 1
            if size * many >= _WIDE:
                known, keys = np.unique(keys, return_inverse=True)
                size = len(known)
            keys = keys * many + (self.codes[name] + 1)
            size *= many
        return keys


def plain(kinds: Mapping[str, str]) -> dict[str, str]:
    """The types that columns are stored as: what no row has is text."""
    return {name: "string" if kind == "null" else kind for name, kind in kinds.items()}


def read(
    file: pq.ParquetFile,
    types: Mapping[str, str],
    numbers: Sequence[str],
    groups: Sequence[int] | None = None,
) -> tuple[dict[str, list[pa.Array]], dict[str, npt.NDArray[Any]]]:
    """Columns of one of our own files: categories as dictionary arrays, numbers as they are.

    Of all row groups, or of some.
    """
    chosen = range(file.num_row_groups) if groups is None else groups
    table = file.read_row_groups(list(chosen), columns=[*numbers, *types])
    columns: dict[str, list[pa.Array]] = {}
    for name, kind in types.items():
        column = table[name]
        if not pa.types.is_dictionary(column.type):
            column = column.cast(TYPES[kind]).dictionary_encode()
        columns[name] = column.chunks
    return columns, {name: table[name].to_numpy() for name in numbers}


def unify(sources: Sequence[Mapping[str, list[pa.Array]]], types: Mapping[str, str]) -> Coded:
    """The rows of all sources, one after the other, with one list of values for each column."""
    values: dict[str, pa.Array] = {}
    codes: dict[str, Codes] = {}
    for name, kind in types.items():
        chunks = [chunk for source in sources for chunk in source[name]]
        every = pa.chunked_array([chunk.dictionary for chunk in chunks], TYPES[kind])
        distinct = pc.drop_null(pc.unique(every))
        small = np.int16 if len(distinct) < _SMALL else np.int32
        values[name] = distinct.take(pc.sort_indices(distinct))
        parts = []
        for chunk in chunks:
            places = pc.index_in(chunk.dictionary, value_set=values[name]).fill_null(-1)
            places = np.append(places.to_numpy(zero_copy_only=False), -1).astype(small)
            parts.append(places[chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False)])
        codes[name] = np.concatenate(parts) if parts else np.empty(0, np.int32)
    return Coded(values, codes)


def order(counts: Ints, ranks: npt.NDArray[np.int32]) -> Ints:
    """Rows by falling count, then rising rank, else as they are; fast where they come in runs."""
    many = int(ranks.max(initial=0)) + 1
    if int(counts.max(initial=0)) < _WIDE // many:
        return np.argsort(ranks - counts * many, kind="stable")
    return np.lexsort((ranks, -counts))


def batch(
    numbers: Mapping[str, npt.NDArray[Any]], coded: Coded, rows: Any, *, last: str = ""
) -> pa.RecordBatch:
    """These rows, in this order: numbers first, but for the ``last`` column.

    It depends on its rows only: values that none of them has are not in its dictionaries.
    """
    columns: dict[str, pa.Array] = {n: pa.array(column[rows]) for n, column in numbers.items()}
    for name, values in coded.values.items():
        codes = coded.codes[name][rows]
        if pa.types.is_string(values.type):
            used = np.bincount(codes + 1, minlength=len(values) + 1)[1:] > 0
            places = np.append(np.cumsum(used, dtype=np.int32) - 1, -1).astype(np.int32)
            indices = pa.array(places[codes], mask=codes < 0)
            columns[name] = pa.DictionaryArray.from_arrays(indices, values.filter(pa.array(used)))
        else:
            columns[name] = values.take(pa.array(codes, mask=codes < 0))
    names = [*numbers, *(name for name in coded.names if name != last), *([last] if last else [])]
    return pa.record_batch([columns[name] for name in names], names=names)


class Lines:
    """Rows as CSV, the counts first, NULL as nothing.

    Text that a spreadsheet would take for a formula is quoted.
    """

    def __init__(self, coded: Coded) -> None:
        self.header = line([COUNT, *map(guarded, coded.names)]).encode()
        self._groups = [*_groups(coded)]

    def of(self, counts: pa.Array, rows: Ints) -> Iterator[bytes]:
        """The rows in this order."""
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            cells = counts.take(pa.array(some)).dictionary_encode()  # in order: few of them
            texts = pc.fill_null(cells.dictionary.cast(pa.string()), "")
            pieces = [pc.fill_null(texts.take(cells.indices), "")]
            for text, group in self._groups:
                place = np.zeros(len(some), np.int32)
                for codes, many in group:
                    place = place * many + (codes[some] + 1)
                pieces.append(text.take(pa.array(place)))
            lines = pc.binary_join_element_wise(*pieces, "")
            _, offsets, data = lines.buffers()
            ends = np.frombuffer(offsets, np.int32)[lines.offset : lines.offset + len(lines) + 1]
            yield memoryview(data)[ends[0] : ends[-1]].tobytes()


def _groups(coded: Coded) -> Iterator[tuple[pa.Array, list[tuple[Codes, int]]]]:
    """Columns side by side whose values together are few: the text of each combination."""
    texts = [""]
    group: list[tuple[Codes, int]] = []
    for number, (name, values) in enumerate(coded.values.items(), 1):
        own = ["", *_texts(values)]
        if group and len(texts) * len(own) > _TEXTS:
            yield pa.array(texts, pa.string()), group
            texts, group = [""], []
        end = "\n" if number == len(coded.values) else ""
        texts = [f"{before},{one}{end}" for before in texts for one in own]
        group.append((coded.codes[name], len(own)))
    yield pa.array(texts, pa.string()), group


def _texts(values: pa.Array) -> list[str]:
    """Each value as a CSV cell."""
    text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    shown = values.to_pylist() if text else values.cast(pa.string()).to_pylist()
    if text:
        shown = [guarded(one) for one in shown]
    return [line([one]).removesuffix("\n") for one in shown]
