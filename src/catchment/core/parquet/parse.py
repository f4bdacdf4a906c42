"""Take a Parquet footer apart into templates of its row groups (see ``footer``)."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from catchment.core.parquet.footer import HEAD, TYPE_ORDER, Group
from catchment.core.parquet.thrift import (
    BINARY,
    I32,
    I64,
    LIST,
    OPEN,
    SLOT,
    STRUCT,
    Alike,
    Buffer,
    Ints,
    Path,
    Walk,
    signed,
    structs,
    unsigned,
)

Bounds = tuple[tuple[int, int] | None, ...]

_ENCODINGS = frozenset({0, 2, 3, 4, 5, 6, 7, 8, 9})
_CODECS = frozenset({0, 1, 2, 4, 5, 6, 7})  # all but LZO, which nobody reads
_FRAMED_LZ4 = 5
_FIXED = 7  # FIXED_LEN_BYTE_ARRAY
_RARE = frozenset({7 << 1, 9 << 1})  # DELTA_BYTE_ARRAY, BYTE_STREAM_SPLIT as zigzag: of fixed bytes
_INT64 = 2
_OLD_WRITERS = re.compile(rb"parquet-mr version 1\.[0-9]\.|parquet-cpp version (0|1\.[0-2])\.")
_REQUIRED = {1: I32, 2: LIST, 3: LIST, 4: I32, 5: I64, 6: I64, 7: I64, 9: I64}  # ColumnMetaData
_OPTIONAL = {12: STRUCT, 13: LIST, 16: STRUCT}  # statistics, of encodings, of sizes
_REFUSED = ((1,), (8,), (9,))  # of ColumnChunk: file_path, crypto_metadata, encrypted metadata
_DATA, _DICTIONARY = (3, 9), (3, 11)
_NULLS, _GREATEST, _LEAST = (3, 12, 3), (3, 12, 5), (3, 12, 6)
_recent: deque[bytes] = deque(maxlen=8)  # schemas: most files of a table have the same
_LIMIT = np.iinfo(np.int64)


class Encrypted(ValueError):
    """The footer, or a column that it names, is encrypted."""


class Raw(NamedTuple):
    """A footer as it is written.

    Attributes:
        rows: rows that the file says it has.
        schema: the list of ``SchemaElement`` structs.
        key_values: the list of ``KeyValue`` structs; empty if there is none.
        paths: of each leaf, as the row groups have it (a Thrift list of strings).
        groups: the row groups that have rows.
        bounds: for each leaf the least and greatest value of a 64-bit integer column, where the
            statistics tell; unsigned ones as signed.
        values: for each row group and leaf the number of values, nulls and empty lists included.
        rare: leaves of which a chunk is compressed or encoded in a way that not every reader knows.
    """

    rows: int
    schema: bytes
    key_values: bytes
    paths: tuple[bytes, ...]
    groups: tuple[Group, ...]
    bounds: Bounds
    values: Ints
    rare: tuple[int, ...]


def parse(footer: bytes) -> Raw:
    """Take a footer apart. ValueError or IndexError where it is not one that can be merged."""
    return _Parser(footer).raw()


def parse_file(data: bytes | pa.Buffer) -> Raw:
    """Take the footer of a whole file apart."""
    length = int.from_bytes(data[-8:-4], "little")
    return parse(bytes(data[-8 - length : -8]))


class _Parser:
    """Reads the outer structs one by one, the column chunks together."""

    def __init__(self, footer: bytes) -> None:
        self.footer = footer
        self.buffer = Buffer(footer)
        self.rows = 0
        self.schema = b""
        self.key_values = b""
        self.created_by = b""
        self.ordered = False
        self.groups: list[tuple[int, Ints]] = []  # rows, where the structs of the chunks start
        self.starts = self._likely_chunks()
        self.found = self.buffer.structs(self.starts)
        self.ends = np.full(len(self.starts), -1)
        for alike in self.found:
            self.ends[alike.lanes] = alike.at[-1]

    def raw(self) -> Raw:
        outer = {
            (2, LIST): self._schema,
            (3, I64): self._rows,
            (4, LIST): self._row_groups,
            (5, LIST): self._key_values,
            (6, BINARY): self._created_by,
            (7, LIST): self._column_orders,
            (8, STRUCT): self._encrypted,
        }
        self._struct(0, outer)
        groups = [(rows, starts) for rows, starts in self.groups if rows]
        starts = np.concatenate([self.starts[:0], *(starts for _, starts in groups)])
        if not np.array_equal(starts, self.starts):
            self.found = self.buffer.structs(starts)
        trusted = self.ordered and not _OLD_WRITERS.match(self.created_by)
        chunks = _Chunks(self.buffer, len(starts))
        for alike in self.found:
            chunks.add(alike, trusted=trusted)
        if len({len(starts) for _, starts in groups}) > 1:
            raise ValueError("row groups with different numbers of columns")
        width = len(groups[0][1]) if groups else 0
        paths = tuple(chunks.path[:width].tolist())
        if chunks.path.tolist() != [*paths] * len(groups):
            raise ValueError("row groups with different columns")
        return Raw(
            self.rows,
            self.schema,
            self.key_values,
            paths,
            tuple(chunks.group(rows, i * width, width) for i, (rows, _) in enumerate(groups)),
            chunks.bounds(len(groups)),
            chunks.values.reshape(len(groups), width),
            tuple(np.flatnonzero(chunks.rare.reshape(len(groups), width).any(axis=0)).tolist()),
        )

    def _likely_chunks(self) -> Ints:
        """Where a ``ColumnChunk`` seems to start: ``file_offset``, ``meta_data``, type, a list."""
        at = self.buffer.find(HEAD[0])
        meta = self.buffer.after_number(at + 1)
        kind = self.buffer.after_number(meta + 2)
        likely = (self.buffer.byte(meta) == HEAD[2]) & (self.buffer.byte(meta + 1) == HEAD[3])
        found: Ints = at[likely & (self.buffer.byte(kind) == 1 << 4 | LIST)]
        return found

    def _struct(self, at: int, handlers: Mapping[tuple[int, int], Callable[[int], int]]) -> int:
        last = 0
        while head := self.footer[at]:
            at += 1
            if head >> 4:
                last += head >> 4
            else:
                last, at = signed(self.footer, at)
            handle = handlers.get((last, head & 15))
            at = handle(at) if handle else Walk(self.footer, at, head & 15).end
        return at + 1

    def _encrypted(self, _: int) -> int:
        raise Encrypted("the columns are encrypted")

    def _rows(self, at: int) -> int:
        self.rows, at = self._count(at)
        return at

    def _count(self, at: int) -> tuple[int, int]:
        number, at = signed(self.footer, at)
        if not 0 <= number <= _LIMIT.max:
            raise ValueError("a number of rows that is none")
        return number, at

    def _created_by(self, at: int) -> int:
        length, at = unsigned(self.footer, at)
        self.created_by = self.footer[at : at + length]
        return at + length

    def _key_values(self, at: int) -> int:
        end = Walk(self.footer, at, LIST).end
        self.key_values = self.footer[at:end]
        return end

    def _schema(self, at: int) -> int:
        recent = tuple(_recent)  # other threads add to it
        self.schema = next((s for s in recent if self.footer.startswith(s, at)), b"")
        if not self.schema:
            self.schema = self.footer[at : Walk(self.footer, at, LIST).end]
            _recent.append(self.schema)
        return at + len(self.schema)

    def _column_orders(self, at: int) -> int:
        count, first = structs(self.footer, at)
        end = first + count * len(TYPE_ORDER)
        self.ordered = self.footer[first:end] == TYPE_ORDER * count
        return end if self.ordered else Walk(self.footer, at, LIST).end

    def _row_groups(self, at: int) -> int:
        count, at = structs(self.footer, at)
        for _ in range(count):
            self.groups.append((0, self.starts[:0]))
            at = self._struct(at, {(1, LIST): self._columns, (3, I64): self._group_rows})
        return at

    def _group_rows(self, at: int) -> int:
        rows, at = self._count(at)
        self.groups[-1] = (rows, self.groups[-1][1])
        return at

    def _columns(self, at: int) -> int:
        count, at = structs(self.footer, at)
        low = int(np.searchsorted(self.starts, at))
        starts, ends = self.starts[low : low + count], self.ends[low : low + count]
        chained = np.append(starts[1:], ends[-1:])
        if not (
            len(starts) == count > 0 and starts[0] == at < ends[-1] and (ends == chained).all()
        ):
            one_by_one = [at]
            for _ in range(count):
                one_by_one.append(Walk(self.footer, one_by_one[-1]).end)
            starts, ends = np.array(one_by_one[:-1], np.int64), np.array(one_by_one[1:])
        self.groups[-1] = (self.groups[-1][0], starts)
        return int(ends[-1]) if count else at


class _Chunks:
    """Column chunks of all row groups: one number, or one template, for each."""

    def __init__(self, buffer: Buffer, count: int) -> None:
        self.buffer = buffer
        self.body = np.full(count, None, object)
        self.path = np.full(count, None, object)
        self.slot = np.zeros(count, np.int64)  # the first open slot of the template
        self.codec = np.zeros(count, np.int64)
        self.rare = np.zeros(count, np.bool_)
        self.values = np.zeros(count, np.int64)
        self.size = np.zeros(count, np.int64)
        self.length = np.zeros(count, np.int64)
        self.data = np.zeros(count, np.int64)
        self.dictionary = np.zeros(count, np.int64)  # 0: none
        self.least = np.full(count, _LIMIT.max)
        self.greatest = np.full(count, _LIMIT.min)
        self.known = np.zeros(count, np.bool_)

    def add(self, alike: Alike, *, trusted: bool) -> None:
        """Take the values of these structs, and their templates."""
        _check(alike, self.buffer)
        lanes = alike.lanes
        self.path[lanes] = self.buffer.slices(alike.first((3, 3)), alike.after((3, 3)))
        for target, number in (
            (self.codec, 4),
            (self.values, 5),
            (self.size, 6),
            (self.length, 7),
            (self.data, 9),
        ):
            target[lanes] = self.buffer.signed(alike.first((3, number)))
        self.rare[lanes] = self.codec[lanes] == _FRAMED_LZ4
        fixed = self.buffer.signed(alike.first((3, 1))) == _FIXED
        if fixed.any():
            encodings = self.buffer.slices(alike.first((3, 2)), alike.after((3, 2)))
            known = np.array([_RARE.isdisjoint(some[1:]) for some in encodings])
            self.rare[lanes] |= fixed & ~known
        if _DICTIONARY in alike.fields:
            place = self.buffer.signed(alike.first(_DICTIONARY))
            self.dictionary[lanes] = np.where((place > 0) & (place < self.data[lanes]), place, 0)
        self.slot[lanes] = len(HEAD) + alike.after((3, 7)) - alike.first((3, 1)) + 1
        self._add_bounds(alike, trusted=trusted)
        for some, used in (
            (self.dictionary[lanes] > 0, True),
            (self.dictionary[lanes] == 0, False),
        ):
            parts = [
                repeat(part)
                if isinstance(part, bytes)
                else self.buffer.slices(part[0][some], part[1][some])
                for part in _template(alike, dictionary=used, trusted=trusted)
            ]
            self.body[lanes[some]] = list(map(b"".join, zip(*parts, strict=False)))

    def _add_bounds(self, alike: Alike, *, trusted: bool) -> None:
        lanes = alike.lanes
        whole = self.buffer.signed(alike.first((3, 1))) == _INT64
        if trusted and _GREATEST in alike.fields and _LEAST in alike.fields:
            for target, path in ((self.least, _LEAST), (self.greatest, _GREATEST)):
                at = alike.first(path)
                whole = whole & (self.buffer.byte(at) == 8)
                places = at[:, None] + np.arange(1, 9)
                target[lanes] = self.buffer.byte(places).view("<i8")[:, 0]
            self.known[lanes] = whole
        elif _NULLS in alike.fields:
            nulls = self.buffer.signed(alike.first(_NULLS))
            self.known[lanes] = whole & (nulls == self.values[lanes])

    def group(self, rows: int, first: int, width: int) -> Group:
        """The chunks from the first on as a row group."""
        some = slice(first, first + width)
        bodies = self.body[some].tolist()
        lengths = np.fromiter(map(len, bodies), np.int64, width)
        ends = np.cumsum(lengths)
        data, dictionary = self.data[some], self.dictionary[some]
        slots = (ends - lengths + self.slot[some])[:, None] + np.array([0, SLOT + 1])
        has = np.stack([np.ones(width, np.bool_), dictionary > 0], axis=1)
        return Group(
            rows,
            b"".join(bodies),
            ends,
            np.where(dictionary > 0, dictionary, data),
            self.length[some],
            self.size[some],
            slots[has],
            np.stack([data, dictionary], axis=1)[has],
        )

    def bounds(self, groups: int) -> Bounds:
        """Of each leaf over all row groups."""
        if not groups:
            return ()
        known = self.known.reshape(groups, -1).all(axis=0).tolist()
        least = self.least.reshape(groups, -1).min(axis=0).tolist()
        greatest = self.greatest.reshape(groups, -1).max(axis=0).tolist()
        return tuple(
            (a, b) if sure else None for sure, a, b in zip(known, least, greatest, strict=True)
        )


def _check(alike: Alike, buffer: Buffer) -> None:
    """ValueError unless the structs are column chunks whose parts stand in the usual order."""
    fields = alike.fields
    if any(path in fields for path in _REFUSED[1:]):
        raise Encrypted("a column is encrypted")
    if _REFUSED[0] in fields:
        raise ValueError("a column lies in another file")
    for number, kind in (_REQUIRED | _OPTIONAL | {11: I64}).items():
        field = fields.get((3, number))
        if field.kind != kind if field else number in _REQUIRED:
            raise ValueError(f"a column chunk without a proper field {number}")
    if any(fields[3, k].after + 1 != fields[3, k + 1].first for k in range(1, 7)):
        raise ValueError("a column chunk with its fields out of order")
    for encodings in set(buffer.slices(alike.first((3, 2)), alike.after((3, 2)))):
        known = all(code & 1 == 0 and code >> 1 in _ENCODINGS for code in encodings[1:])
        if not known or len(encodings) != 1 + (encodings[0] >> 4):
            raise ValueError("a column chunk in an unknown encoding")


def _template(
    alike: Alike, *, dictionary: bool, trusted: bool
) -> Iterable[bytes | tuple[Ints, Ints]]:
    """The canonical form of these structs: literal bytes, and ranges that are taken as they are.

    Statistics that cannot be trusted keep the count of nulls only.
    """
    yield HEAD
    yield alike.first((3, 1)), alike.after((3, 7))
    yield b"\x26" + OPEN
    last = 9
    if dictionary:
        yield b"\x26" + OPEN
        last = 11
    for number, kind in _OPTIONAL.items():
        path: Path = (3, number)
        cut = number == 12 and not trusted
        if path not in alike.fields or (cut and _NULLS not in alike.fields):
            continue
        yield bytes([(number - last) << 4 | kind])
        if cut:
            yield b"\x36"
            path = _NULLS
        yield alike.first(path), alike.after(path)
        if cut:
            yield b"\x00"
        last = number
    yield b"\x00\x00"
