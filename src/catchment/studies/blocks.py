"""Blocks: a site's rows of one count, in a form that a merge copies without looking into it.

Rows of a merge stand by falling count, and within a count by site. So a site's rows of one count
stand together in every merge that the site is part of, whatever other sites send. Where they are
many, they are a *block*: a row group of the site's part, and a range of its CSV. All other rows
are *loose*, and are brought into one order by each merge.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from io import BufferedReader
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.errors import NotFound
from catchment.core.parquet.footer import Columns, Group, columns_of, leaves_of
from catchment.core.parquet.parse import parse
from catchment.core.store import Range, Store
from catchment.core.store_file import StoreFile
from catchment.studies import coded, once, parquet
from catchment.studies.model import COUNT, SITE, Object

LEAST = 4096  # rows of a site with one count, to be a block
MOST = 1 << 18  # rows of a block, and of a row group of loose rows
LOOSE = -1  # instead of the count, of pieces that are no block
_PIECES = b"pieces"  # in the footer of a part: the count and the rows of each row group


class Piece(NamedTuple):
    """Rows ``[start, stop)`` of a part: all of one count, or LOOSE."""

    start: int
    stop: int
    cnt: int


def cut(counts: coded.Ints) -> list[Piece]:
    """The pieces of rows with these counts, which fall."""
    starts = np.flatnonzero(np.diff(counts, prepend=counts[:1] + 1))
    stops = np.append(starts[1:], len(counts))
    pieces: list[Piece] = []
    done = 0
    for one in np.flatnonzero(stops - starts >= LEAST):
        start, stop = int(starts[one]), int(stops[one])
        pieces += even(done, start, LOOSE)
        pieces += even(start, stop, int(counts[start]))
        done = stop
    return [*pieces, *even(done, len(counts), LOOSE)]


def even(start: int, stop: int, count: int = LOOSE) -> list[Piece]:
    """The rows in as few pieces as may be, of nearly the same length."""
    many = -(-(stop - start) // MOST)
    ends = [start + (stop - start) * n // many for n in range(many + 1)] if many else [start]
    return [Piece(low, high, count) for low, high in pairwise(ends)]


def with_site(rows: coded.Coded, site: str) -> coded.Coded:
    """The same rows, with a last column that names the site."""
    many = len(next(iter(rows.codes.values())))
    values = {**rows.values, SITE: pa.array([site], pa.string())}
    return coded.Coded(values, {**rows.codes, SITE: np.zeros(many, np.int16)})


def write(
    store: Store, key: str, counts: coded.Ints, rows: coded.Coded, site: str, *, text: bool
) -> Object:
    """Write a part of these rows, whose counts fall; with ``text``, its CSV beside it."""
    pieces = cut(counts)
    named = with_site(rows, site)
    numbers = {COUNT: counts}
    told = json.dumps([[piece.cnt, piece.stop - piece.start] for piece in pieces])
    schema = coded.batch(numbers, named, slice(0, 0)).schema
    with ThreadPoolExecutor(1) as beside:
        lines = beside.submit(_write_lines, store, key, pieces, counts, named) if text else None
        made = parquet.write(
            store,
            key,
            lambda: (coded.batch(numbers, named, slice(one.start, one.stop)) for one in pieces),
            schema.with_metadata({_PIECES: told.encode()}),
            groups=True,
            mend=True,
        )
        if lines is not None:
            lines.result()
    return made


def lines_of(key: str) -> tuple[str, str]:
    """Where the CSV of a part is, and where the lengths of its pieces are."""
    name = key.removesuffix(".parquet")
    return f"{name}.csv", f"{name}-csv.json"


def _write_lines(
    store: Store, key: str, pieces: Sequence[Piece], counts: coded.Ints, rows: coded.Coded
) -> None:
    lengths: list[int] = []
    lines = coded.Lines(rows)
    known = pa.array(counts)

    def chunks() -> Iterator[bytes]:
        lengths.clear()
        for piece in pieces:
            lengths.append(0)
            for chunk in lines.of(known, np.arange(piece.start, piece.stop)):
                lengths[-1] += len(chunk)
                yield chunk

    csv, told = lines_of(key)
    once.put(store, csv, chunks, mend=True)
    once.put(store, told, lambda: [json.dumps(lengths).encode()], mend=True)


class Stored(NamedTuple):
    """What a part's footer tells."""

    pieces: tuple[Piece, ...]
    groups: tuple[Group, ...]
    columns: Columns


class Blocks:
    """A part as it is stored."""

    def __init__(self, store: Store, key: str) -> None:
        self.store = store
        self.key = key

    @cached_property
    def _told(self) -> tuple[bytes | None, bytes]:
        """What the footer says of pieces, and how its leaves are stored."""
        with opened(self.store, self.key) as file:
            return (file.metadata.metadata or {}).get(_PIECES), leaves_of(file.schema)

    @property
    def cut(self) -> bool:
        """Whether it is in pieces: parts of the first format are not."""
        return self._told[0] is not None

    @cached_property
    def stored(self) -> Stored:
        """The pieces, and the row group that each one is."""
        cut, leaves = self._told
        told = json.loads(cut or b"[]")
        raw = parse(_footer(self.store, self.key))
        ends = np.cumsum([0, *(rows for _, rows in told)]).tolist()
        pieces = tuple(
            Piece(start, stop, count)
            for (count, _), start, stop in zip(told, ends, ends[1:], strict=False)
        )
        return Stored(pieces, raw.groups, columns_of(raw.schema, leaves))

    @cached_property
    def lines(self) -> list[Range]:
        """The CSV of each piece; it is written now where it was not before."""
        csv, told = lines_of(self.key)
        try:
            lengths = json.loads(self.store.read(told))
        except NotFound:
            self._write_lines()
            lengths = json.loads(self.store.read(told))
        ends = np.cumsum([0, *lengths]).tolist()
        return [
            Range(self.store, csv, start, length)
            for start, length in zip(ends, lengths, strict=False)
        ]

    def ranges(self, group: Group) -> Iterator[Range]:
        """The bytes of a row group."""
        return (Range(self.store, self.key, at, length) for at, length in group.extents())

    def read(self, types: Mapping[str, str]) -> tuple[dict[str, list[pa.Array]], coded.Ints]:
        """The categories and the counts of all rows."""
        with opened(self.store, self.key, types) as file:
            columns, numbers = coded.read(file, types, [COUNT])
        return columns, numbers[COUNT]

    def _write_lines(self) -> None:
        with opened(self.store, self.key) as file:
            schema = file.schema_arrow
        types = {name: str(schema.field(name).type) for name in schema.names if name != COUNT}
        columns, counts = self.read(types)
        rows = coded.unify([columns], types)
        _write_lines(self.store, self.key, self.stored.pieces, counts, rows)


@contextmanager
def opened(
    store: Store, key: str, types: Mapping[str, str] | None = None
) -> Iterator[pq.ParquetFile]:
    """One of our own files, read by ranges; columns that the types call text, as dictionaries."""
    path = store.path(key)
    source = BufferedReader(StoreFile(store, key), 1 << 20) if path is None else path
    texts = [name for name, kind in (types or {}).items() if kind == "string"]
    with pq.ParquetFile(source, read_dictionary=texts) as file:
        yield file


def _footer(store: Store, key: str) -> bytes:
    tail = store.read(key, start=-(1 << 16))
    length = int.from_bytes(tail[-8:-4], "little")
    if length + 8 > len(tail):
        tail = store.read(key, start=-(length + 8))
    return tail[-8 - length : -8]
