"""Parquet footers taken apart and put together, without decoding a page.

A :class:`Group` is a row group as a template: its ``ColumnChunk`` structs in one canonical form,
with the file offsets left open. Groups are cut, joined and moved as arrays; :func:`assemble`
writes a footer of them. What a template keeps of a chunk: type, encodings, path, codec, counts and
sizes, page offsets, statistics, encoding statistics and size statistics (parquet-format 2.12,
``parquet.thrift``). What it leaves out: page indexes and Bloom filters, which hold file offsets of
their own, and key-value metadata, which may hold anything.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.parquet.thrift import (
    BINARY,
    LIST,
    STRUCT,
    Ints,
    Walk,
    binary,
    fill_slots,
    i64,
    list_of,
    structs,
)

MAGIC = b"PAR1"
CREATED_BY = b"catchment version 0.1.0"
HEAD = b"\x26\x00\x1c\x15"  # how a template begins: file_offset = 0; meta_data; type
TYPE_ORDER = b"\x1c\x00\x00"  # ColumnOrder{TYPE_ORDER}
_DATA_PAGES = frozenset({0, 3})
_REFERENCES = frozenset({2, 8})  # PLAIN_DICTIONARY, RLE_DICTIONARY
_DELTA_BYTES = frozenset({6 << 1, 7 << 1})  # DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY, as zigzag
_NONE = np.zeros(0, np.int64)


def path_at(chunk: bytes) -> int:
    """Where the path stands in a template: behind the type and a list of one-byte encodings."""
    return len(HEAD) + 4 + (chunk[len(HEAD) + 2] >> 4)


class Group(NamedTuple):
    """Column chunks of one row group, in order; arrays hold one number for each chunk.

    Attributes:
        rows: rows of the row group.
        body: the ``ColumnChunk`` structs, with open slots for file offsets.
        ends: where each struct ends in the body.
        start: first byte of the chunk in its file.
        length: bytes of the chunk in its file.
        size: bytes of its pages uncompressed, still encoded.
        slots: where the open slots are in the body.
        offsets: the file offset that belongs into each slot.
    """

    rows: int
    body: bytes
    ends: Ints
    start: Ints
    length: Ints
    size: Ints
    slots: Ints
    offsets: Ints

    def pick(self, chunks: slice) -> Group:
        """A range of the chunks."""
        first, after = chunks.start, chunks.stop
        if first == 0 and after == len(self.ends):
            return self
        start = int(self.ends[first - 1]) if first else 0
        end = int(self.ends[after - 1]) if after > first else start
        low, high = np.searchsorted(self.slots, (start, end))
        return Group(
            self.rows,
            self.body[start:end],
            self.ends[chunks] - start,
            self.start[chunks],
            self.length[chunks],
            self.size[chunks],
            self.slots[low:high] - start,
            self.offsets[low:high],
        )

    def moved(self, position: int) -> Group:
        """The same chunks, one behind the other from a position of a file."""
        start = position + np.cumsum(self.length) - self.length
        shift = (start - self.start)[np.searchsorted(self.ends, self.slots, side="right")]
        return self._replace(start=start, offsets=self.offsets + shift)

    def extents(self) -> Iterator[tuple[int, int]]:
        """The chunks' bytes in their file as few ``(start, length)`` as possible, in order."""
        if len(self.start):
            gaps = np.flatnonzero(self.start[1:] != (self.start + self.length)[:-1]) + 1
            firsts = np.concatenate(([0], gaps))
            yield from zip(
                self.start[firsts].tolist(),
                np.add.reduceat(self.length, firsts).tolist(),
                strict=True,
            )

    def codec(self) -> int:
        """The ``CompressionCodec`` of the first chunk."""
        return self._walk(0).number((3, 4))

    def can_be_codes(self, chunk: int) -> bool:
        """Whether pyarrow decodes strings of a chunk as a dictionary: not from all encodings."""
        return _DELTA_BYTES.isdisjoint(self._walk(chunk).bytes((3, 2))[1:])

    def only_dictionary(self, chunk: int) -> bool:
        """Whether a chunk is known to have no data page but of references to its dictionary."""
        walk = self._walk(chunk)
        if (3, 11) not in walk.fields or (3, 13) not in walk.fields:
            return False
        pages = walk.bytes((3, 13))  # list<PageEncodingStats>
        count, at = structs(pages, 0)
        for _ in range(count):
            page = Walk(pages, at)
            at = page.end
            if page.number((1,)) in _DATA_PAGES and page.number((2,)) not in _REFERENCES:
                return False
        return True

    def _walk(self, chunk: int) -> Walk:
        return Walk(self.body, int(self.ends[chunk - 1]) if chunk else 0)

    def renamed(self, paths: Sequence[bytes]) -> Group:
        """The same chunks with other paths (Thrift lists of strings)."""
        bodies = []
        begin = 0
        for end, path in zip(self.ends.tolist(), paths, strict=True):
            chunk = self.body[begin:end]
            at = path_at(chunk)
            bodies += [chunk[:at], path, chunk[Walk(chunk, at, LIST).end :]]
            begin = end
        lengths = np.fromiter(map(len, bodies), np.int64).reshape(-1, 3).sum(axis=1)
        ends = np.cumsum(lengths)
        shift = (ends - self.ends)[np.searchsorted(self.ends, self.slots, side="right")]
        return self._replace(body=b"".join(bodies), ends=ends, slots=self.slots + shift)


def join(groups: Sequence[Group]) -> Group:
    """The chunks of all groups, which have the same rows, as one group."""
    if len(groups) == 1:
        return groups[0]
    base = np.cumsum([0] + [len(g.body) for g in groups])
    return Group(
        groups[0].rows,
        b"".join(g.body for g in groups),
        np.concatenate([g.ends + b for g, b in zip(groups, base, strict=False)]),
        np.concatenate([g.start for g in groups]),
        np.concatenate([g.length for g in groups]),
        np.concatenate([g.size for g in groups]),
        np.concatenate([g.slots + b for g, b in zip(groups, base, strict=False)]),
        np.concatenate([g.offsets for g in groups]),
    )


class Leaf(NamedTuple):
    """How values are stored. Columns of one Arrow type and these hold interchangeable pages."""

    physical_type: str
    length: int  # bytes of a value of fixed length; 0 for other types
    max_definition_level: int
    max_repetition_level: int


class Column(NamedTuple):
    """One top-level column as it stands in a file.

    Attributes:
        elements: its ``SchemaElement`` structs.
        paths: for each leaf its path (a Thrift list of strings).
        leaves: how each leaf is stored.
    """

    elements: tuple[bytes, ...]
    paths: tuple[bytes, ...]
    leaves: tuple[Leaf, ...]


class Columns(tuple[Column, ...]):  # noqa: SLOT001 - it caches
    """The top-level columns of a file. Chunks of a row group stand in the order of the leaves."""

    @cached_property
    def first(self) -> list[int]:
        """The first leaf of each column; one more, the count of all leaves."""
        return [0, *accumulate(len(column.paths) for column in self)]

    @cached_property
    def paths(self) -> list[bytes]:
        """The path of each leaf."""
        return [path for column in self for path in column.paths]

    def leaves(self, first: int, after: int) -> slice:
        """The leaves of the columns ``[first, after)``."""
        return slice(self.first[first], self.first[after])

    def choose(self, group: Group, chosen: Iterable[int]) -> Group:
        """The chunks of some columns, in the order given."""
        runs = [[0, 0]]
        for index in chosen:
            if runs[-1][1] == index:
                runs[-1][1] += 1
            else:
                runs.append([index, index + 1])
        return join([group.pick(self.leaves(*run)) for run in runs])


@lru_cache(maxsize=8)
def columns_of(schema: bytes, leaves: bytes) -> Columns:
    """The top-level columns of a list of ``SchemaElement`` structs. ValueError if it is no tree.

    Args:
        schema: the list.
        leaves: how they are stored, from :func:`leaves_of`.
    """
    stored = [Leaf(*leaf) for leaf in json.loads(leaves)]
    count, at = structs(schema, 0)
    found: list[tuple[list[bytes], list[bytes]]] = []  # elements and paths of each column
    left: list[int] = []  # children to come, of each group that is open
    names: list[bytes] = []  # of the open groups below the root
    for number in range(count):
        walk = Walk(schema, at)
        children = walk.number((5,)) if (5,) in walk.fields else 0
        if number:
            while not left[-1]:
                left.pop()
                names.pop()
            left[-1] -= 1
            if len(left) == 1:
                found.append(([], []))
            name = walk.bytes((4,))
            found[-1][0].append(schema[at : walk.end])
            if children:
                names.append(name)
            else:
                path = list_of(BINARY, len(names) + 1) + b"".join([*names, name])
                found[-1][1].append(path)
        if children or not number:
            left.append(children)
        at = walk.end
    if any(left) or sum(len(paths) for _, paths in found) != len(stored):
        raise ValueError("a schema that is no tree")
    some = iter(stored)
    return Columns(
        Column(tuple(elements), tuple(paths), tuple(islice(some, len(paths))))
        for elements, paths in found
    )


def leaves_of(schema: pq.ParquetSchema) -> bytes:
    """How each leaf is stored, as pyarrow reads a schema: JSON, quick to pickle and to compare."""
    leaves = [
        Leaf(
            c.physical_type,
            c.length if c.physical_type == "FIXED_LEN_BYTE_ARRAY" else 0,
            c.max_definition_level,
            c.max_repetition_level,
        )
        for c in map(schema.column, range(len(schema)))
    ]
    return json.dumps(leaves).encode()


def assemble(
    columns: Sequence[Column], groups: Sequence[Group], schema: pa.Schema | None = None
) -> bytes:
    """The end of a Parquet file, from the footer to the last byte.

    The schema becomes the ``ARROW:schema`` key; without one readers see Parquet's own types.
    """
    elements = [element for column in columns for element in column.elements]
    leaves = sum(len(column.paths) for column in columns)
    root = b"\x48" + binary(b"schema") + b"\x15" + i64(len(columns)) + b"\x00"
    pieces = [b"\x15\x04\x19", list_of(STRUCT, 1 + len(elements)), root, *elements]
    pieces += [b"\x16", i64(sum(g.rows for g in groups)), b"\x19", list_of(STRUCT, len(groups))]
    bodies = []
    for group in groups:
        pieces += [b"\x19", list_of(STRUCT, len(group.ends))]
        bodies.append(len(pieces))
        start = int(group.start[0])
        pieces += [group.body, b"\x16", i64(int(group.size.sum())), b"\x16", i64(group.rows)]
        pieces += [b"\x26", i64(start), b"\x16", i64(int(group.length.sum())), b"\x00"]
    if schema is not None:
        value = base64.b64encode(schema.serialize())
        pieces += [b"\x19\x1c\x18", binary(b"ARROW:schema"), b"\x18", binary(value), b"\x00\x18"]
    else:
        pieces.append(b"\x28")
    pieces += [binary(CREATED_BY), b"\x19", list_of(STRUCT, leaves), TYPE_ORDER * leaves, b"\x00"]
    places = np.cumsum([0, *map(len, pieces)])[bodies]
    footer = fill_slots(
        b"".join(pieces),
        np.concatenate([_NONE, *(g.slots + p for g, p in zip(groups, places, strict=True))]),
        np.concatenate([_NONE, *(g.offsets for g in groups)]),
    )
    return footer + len(footer).to_bytes(4, "little") + MAGIC
