"""Data pages and dictionary pages of flat columns, put together and read many at once.

Format: ``parquet.thrift`` (PageHeader) and ``Encodings.md`` (RLE / bit-packing hybrid).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catchment.core.parquet.footer import HEAD, MAGIC, Column, Columns, Group, assemble
from catchment.core.parquet.thrift import OPEN, SLOT, i64, signed, varint
from catchment.tables.blocks import stored

CODECS = {0: "", 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
TYPES = {
    "INT32": 1,
    "INT64": 2,
    "FLOAT": 4,
    "DOUBLE": 5,
    "BYTE_ARRAY": 6,
    "FIXED_LEN_BYTE_ARRAY": 7,
}
_NAMES = {"": "none", "lz4_raw": "lz4"}  # that pyarrow's writer has for codecs
DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # kinds of pages
PLAIN, RLE, REFERENCES = 0, 3, 8  # encodings
PAGE_ROWS = 1 << 16

_ENCODINGS = b"\x19\x35" + i64(PLAIN) + i64(RLE) + i64(REFERENCES)
_PLAIN_ENCODINGS = b"\x19\x25" + i64(PLAIN) + i64(RLE)


def plain_pages(
    values: pa.Array, rows: int, codec: int, *, nullable: bool
) -> list[tuple[bytes, int]]:
    """Values in data pages of so many rows each; and the bytes of each page uncompressed.

    Many columns of one type are written at once: each page may become the chunk of another.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays([values], schema=pa.schema([pa.field("c", values.type, nullable)])),
        sink,
        row_group_size=len(values),
        compression=_NAMES.get(CODECS[codec], CODECS[codec]),
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
        write_batch_size=rows,
        max_rows_per_page=rows,
        data_page_size=1,
    )
    data = sink.getvalue().to_pybytes()
    found = []
    at = len(MAGIC)
    for _ in range(len(values) // rows):
        start = at
        figures = []
        for skipped in (1, 1, 1, 2, 1, 1, 1):  # heads of fields, and of the struct inside
            number, at = signed(data, at + skipped)
            figures.append(number)
        kind, size, length, count, *_ = figures
        if (kind, count) != (DATA, rows):
            raise ValueError(f"expected a data page of {rows} rows")
        at += 4 if data[at] else 2  # behind statistics without a field, and both structs
        found.append((data[start : at + length], at - start + size))
        at += length
    return found


def page(kind: int, codec: int, body: bytes, values: int, encoding: int) -> tuple[bytes, int]:
    """A page, and its bytes uncompressed; both with its header."""
    data = _codecs[codec].compress(body, asbytes=True) if CODECS[codec] else body
    head = page_head(kind, len(body), len(data), values, encoding)
    return head + data, len(head) + len(body)


class _Codecs(threading.local):
    """Of one thread: that of gzip has a buffer of its own, and two at once corrupt the heap."""

    def __init__(self) -> None:
        self._made: dict[int, pa.Codec] = {}

    def __getitem__(self, codec: int) -> pa.Codec:
        if codec not in self._made:
            self._made[codec] = pa.Codec(CODECS[codec])
        return self._made[codec]


_codecs = _Codecs()


def page_head(kind: int, size: int, length: int, values: int, encoding: int) -> bytes:
    """The ``PageHeader`` of a dictionary page, or of a data page of the first version."""
    sizes = b"\x15" + i64(kind) + b"\x15" + i64(size) + b"\x15" + i64(length)
    inner = b"\x15" + i64(values) + b"\x15" + i64(encoding)
    if kind == DICTIONARY:
        return sizes + b"\x4c" + inner + b"\x00\x00"
    return sizes + b"\x2c" + inner + b"\x15" + i64(RLE) + b"\x15" + i64(RLE) + b"\x00\x00"


def references(levels: bytes, count: int, bits: bytes, width: int) -> bytes:
    """The body of a data page of references.

    Args:
        levels: which rows have a value; empty for a column that always has.
        count: of those that have.
        bits: their references, packed.
        width: bits of a reference.
    """
    if not count:
        return levels + b"\x00"
    return b"".join((levels, bytes((width,)), varint(-(-count // 8) << 1 | 1), bits))


@lru_cache(maxsize=16)
def all_there(rows: int) -> bytes:
    """The definition levels of a data page all of whose rows have a value."""
    return _sized(varint(rows << 1) + b"\x01")


def some_there(there: NDArray[np.bool_]) -> list[bytes]:
    """The definition levels of data pages, one for each line, each of as many rows."""
    packed = np.packbits(there, axis=1, bitorder="little")
    head = varint(packed.shape[1] << 1 | 1)
    return [_sized(head + line.tobytes()) for line in packed]


def _sized(levels: bytes) -> bytes:
    return len(levels).to_bytes(4, "little") + levels


def packed_parts(codes: NDArray[Any], counts: Sequence[int], width: int) -> Iterator[bytes]:
    """Numbers packed in parts of so many each; a part begins with a byte of its own."""
    wholes = [-(-count // 8) * 8 for count in counts]
    padded = codes
    if sum(wholes) > len(codes):
        padded = np.zeros(sum(wholes), codes.dtype)
        start = first = 0
        for count, whole in zip(counts, wholes, strict=True):
            padded[first : first + count] = codes[start : start + count]
            start += count
            first += whole
    packed = packed_bits(padded, width)
    start = 0
    for whole in wholes:
        end = start + whole // 8 * width
        yield packed[start:end]
        start = end


def packed_bits(codes: NDArray[Any], width: int) -> bytes:
    """The lowest bits of each number, one behind the other; eight numbers take ``width`` bytes.

    The numbers have no bits above these.
    """
    count = -(-len(codes) // 8) * 8
    padded = codes
    if count > len(codes):
        padded = np.zeros(count, codes.dtype)
        padded[: len(codes)] = codes
    word: NDArray[Any] = np.ascontiguousarray(padded).view(np.uint64)
    bits = padded.itemsize * 8
    half = bits
    while half < 64:  # move neighbours together, then pairs, then fours
        used = width * half // bits  # bits of each half
        low = ((1 << used) - 1) * (((1 << 64) - 1) // ((1 << 2 * half) - 1))
        high = word & (low << half)
        high >>= half - used
        word = word & low
        word |= high
        half *= 2
    if bits == 8:
        return word.view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    used = 4 * width  # of each word, of which two make eight numbers
    both = np.empty((len(word) // 2, 2), np.uint64)
    both[:, 0] = word[::2] | word[1::2] << used if used < 64 else word[::2]
    both[:, 1] = word[1::2] >> (64 - used)
    return both.view(np.uint8).reshape(-1, 16)[:, :width].tobytes()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A column chunk: a dictionary page or none, then data pages.

    Attributes:
        column: what it is of.
        codec: of its pages.
        values: nulls included.
        size: bytes of all pages, uncompressed.
        dictionary: the page; empty if there is none.
        pages: the data pages.
        statistics: the struct; empty if there is none.
    """

    column: Column
    codec: int
    values: int
    size: int
    dictionary: bytes
    pages: Sequence[bytes]
    statistics: bytes = b""

    def struct(self, length: int) -> tuple[bytes, list[int]]:
        """Its ``ColumnChunk`` as a template of :class:`.footer.Group`; where its open slots are.

        What it tells of its pages holds for references, where there is a dictionary, or plain data.
        """
        leaf = self.column.leaves[0]
        encodings = _ENCODINGS if self.dictionary else _PLAIN_ENCODINGS
        pieces = [HEAD, i64(TYPES[leaf.physical_type]), encodings, b"\x19", self.column.paths[0]]
        pieces += [b"\x15", i64(self.codec)]
        for number in (self.values, self.size, length):
            pieces += [b"\x16", i64(number)]
        slots = [sum(map(len, pieces)) + 1]
        pieces += [b"\x26", OPEN]
        if self.dictionary:
            slots.append(slots[0] + SLOT + 1)
            pieces += [b"\x26", OPEN]
        if self.statistics:
            pieces += [b"\x1c", self.statistics]
        pieces.append(b"\x00\x00")
        return b"".join(pieces), slots


def together(chunks: Iterable[Chunk], rows: int) -> tuple[bytes, Group]:
    """The bytes of chunks, one behind the other, and the row group that they are."""
    pieces: list[bytes] = []
    structs: list[bytes] = []
    slots: list[int] = []
    offsets: list[int] = []
    figures = []
    position = end = 0
    for chunk in chunks:
        length = len(chunk.dictionary) + sum(map(len, chunk.pages))
        struct, places = chunk.struct(length)
        pieces += [chunk.dictionary, *chunk.pages]
        structs.append(struct)
        slots += [end + place for place in places]
        offsets += [position + len(chunk.dictionary), position][: len(places)]
        end += len(struct)
        figures.append((end, position, length, chunk.size))
        position += length
    arrays = [*np.array(figures).T, np.array(slots), np.array(offsets)]
    return b"".join(pieces), Group(rows, b"".join(structs), *arrays)


def read_pages(
    kind: pa.DataType,
    codec: int,
    pages: Sequence[bytes],
    values: int,
    *,
    nullable: bool = False,
    dictionary: bytes = b"",
) -> pa.Array:
    """The values of data pages, of whatever columns, as one column of a type.

    Raises ArrowException, OSError or ValueError where they are not as many, or not sound.
    """
    columns = _columns(kind, nullable)
    size = len(dictionary) + sum(map(len, pages))  # of which nobody takes note
    data, group = together([Chunk(columns[0], codec, values, size, dictionary, pages)], values)
    file = b"".join([MAGIC, data, assemble(columns, [group.moved(len(MAGIC))])])
    reader = pq.ParquetFile(pa.BufferReader(file), pre_buffer=False)
    array = reader.read(use_threads=False).column(0).combine_chunks()
    array.validate(full=True)
    if len(array) != values:
        raise ValueError(f"expected {values} values, got {len(array)}")
    return array


@lru_cache(maxsize=16)
def _columns(kind: pa.DataType, nullable: bool) -> Columns:  # noqa: FBT001 - a cache's key
    return stored(pa.schema([pa.field("c", kind, nullable)]))


@lru_cache(maxsize=64)
def identity(codec: int, width: int) -> bytes:
    """A dictionary page in which each reference of so many bits means itself."""
    values = np.arange(1 << width, dtype="<i4")
    return page(DICTIONARY, codec, values.tobytes(), len(values), PLAIN)[0]
