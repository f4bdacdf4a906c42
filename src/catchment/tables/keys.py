"""The key columns of one file, reduced to what the duplicate rules compare.

:func:`scan` reads a Parquet file once, its key columns only, and returns a blob: small, the same
for the same file, rule and types, and independent of every other file, so that it can be kept.
:func:`read_pairs` and :func:`read_rows` read it, each only what it needs.

A blob is a header and two Arrow IPC streams:

* *pairs*, one for each distinct (participant, center) of the file: ``participant`` (string or
  null), ``center`` (int64; null where the rows give none: the center that sent the file) and
  ``hash`` (64 bits of the participant; ascending; null, and last, without a participant).
* *rows*: ``pair``, the number of each row's pair. For a transfer rule that is all, and every row is
  there in order. For a criteria rule only rows whose key has no null in it, in order of ``low``,
  with ``low`` and ``high`` (128 bits of the key) and ``row`` (its number in the file).

Keys are equal where all their values are, in the type of the table: a date of one site meets a
timestamp of another, an integer 3 meets a double 3.0. Strings are compared exactly, nothing is
trimmed. -0.0 equals 0.0; NaN is a null. What is compared is the hash: among 10**9 different keys,
two with the same 128 bits are met by chance once in 10**20 tables.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Buffer, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import ipc

from catchment.core.errors import Corrupt, Invalid
from catchment.core.names import shown
from catchment.core.parquet.footer import MAGIC, Columns, assemble
from catchment.core.store import Store
from catchment.tables import fill
from catchment.tables.decode import unreadable
from catchment.tables.model import CriteriaRule, Rule
from catchment.tables.parquet import Footer, read_footer
from catchment.tables.rewrite import conform
from catchment.tables.types import plain

FORMAT = b"keys-001"  # of blobs: a kept blob of another format must be made again
BATCH_ROWS = 1 << 17  # decoded at a time

_HEADER = struct.Struct("<8sQ")  # format, bytes of the first stream
_ROW_COLUMNS = ("pair", "low", "high", "row")

Hashes = NDArray[np.uint64]


def _lanes(first: int, second: int) -> Hashes:
    return np.array([[first], [second]], np.uint64)


# The finalizers of splitmix64 (Steele, Lea, Flood 2014) for the first lane and of MurmurHash3
# (Appleby) for the second: bijections, so that in one column different numbers never meet.
_INCREMENT = _lanes(0x9E3779B97F4A7C15, 1)
_ROUNDS = (
    (_lanes(30, 33), _lanes(0xBF58476D1CE4E5B9, 0xFF51AFD7ED558CCD)),
    (_lanes(27, 33), _lanes(0x94D049BB133111EB, 0xC4CEB9FE1A85EC53)),
)
_LAST_SHIFT = _lanes(31, 33)


class Pairs(NamedTuple):
    """The distinct (participant, center) of a file; ``hashes`` ends where participants do."""

    participants: pa.LargeStringArray
    centers: pa.Int64Array
    hashes: Hashes


def key_columns(rule: Rule) -> tuple[str, ...]:
    """The columns that a rule reads, each once."""
    return tuple(dict.fromkeys((rule.participant, rule.center, *_criteria(rule))))


def scan(
    store: Store,
    key: str,
    rule: Rule,
    types: Mapping[str, pa.DataType],
    footer: Footer | None = None,
) -> bytes:
    """The blob of one file.

    Args:
        store: where the file is.
        key: of the file.
        rule: whose columns are read; one that the file lacks is null in all its rows.
        types: of the table's columns, unified over its files; only the criteria are looked up.
        footer: of the file, if it is known.

    Raises Invalid: kinds of :func:`.parquet.read_footer`; kind ``bad-key-column`` where a key
    column cannot become the type it is compared in (a center: integers >= 0). NotFound if there is
    no file.
    """
    if footer is None:
        footer = read_footer(store, key, store.head(key).size)
    criteria = _criteria(rule)
    participants = [_codes(pa.nulls(0), pa.large_string(), rule.participant)]
    centers = [_codes(pa.nulls(0), pa.int64(), rule.center)]
    hashes, whole = [np.empty((2, 0), np.uint64)], [np.empty(0, np.bool_)]
    for batch in _batches(store, key, footer, key_columns(rule)):
        participants.append(
            _codes(_column(batch, rule.participant), pa.large_string(), rule.participant)
        )
        centers.append(_codes(_column(batch, rule.center), pa.int64(), rule.center))
        if criteria:
            hashed = _hash_rows(batch, criteria, types)
            hashes.append(hashed[0])
            whole.append(hashed[1])
    pairs, numbers = _pairs(_joined(participants), _center_numbers(_joined(centers), rule.center))
    if isinstance(rule, CriteriaRule):
        low, high = np.concatenate(hashes, axis=1)
        rows = np.flatnonzero(np.concatenate(whole))
        rows = rows[np.argsort(low[rows], kind="stable")]
        columns = numbers[rows], low[rows], high[rows], rows.astype(np.uint32)
        table = pa.table(dict(zip(_ROW_COLUMNS, columns, strict=True)))
    else:
        table = pa.table({"pair": numbers})
    first = _stream(pairs)
    blob = _HEADER.pack(FORMAT, len(first)) + first + _stream(table)
    pa.default_memory_pool().release_unused()  # two workers share a bounded memory
    return blob


def read_pairs(blob: Buffer) -> Pairs:
    """The pairs of a blob. Corrupt (kind ``keys-unreadable``) unless it is one of this format."""
    table = _read(blob, first=True)
    participants, centers, hashes = (c.combine_chunks() for c in table.columns)
    return Pairs(participants, centers, fill.values(hashes.drop_null()))


def read_hashes(blob: Buffer) -> Hashes:
    """Those of the pairs; the rest is not decoded. Corrupt as for the pairs."""
    table = _read(blob, first=True, fields=[Pairs._fields.index("hashes")])
    return fill.values(table.column("hash").drop_null())


def read_rows(blob: Buffer, name: str) -> NDArray[Any]:
    """One column of the rows of a blob; the others are not decoded. Corrupt as for the pairs."""
    table = _read(blob, first=False, fields=[_ROW_COLUMNS.index(name)])
    return fill.values(table.column(name))


def _criteria(rule: Rule) -> tuple[str, ...]:
    return rule.criteria if isinstance(rule, CriteriaRule) else ()


def _stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    options = ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _read(blob: Buffer, *, first: bool, fields: Sequence[int] | None = None) -> pa.Table:
    try:
        view = memoryview(blob)
        form, size = _HEADER.unpack_from(view)
        if form != FORMAT:
            raise ValueError(f"expected format {FORMAT!r}, got {form!r}")
        part = view[_HEADER.size :][:size] if first else view[_HEADER.size + size :]
        options = ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        return ipc.open_stream(pa.py_buffer(part), options=options).read_all()
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        raise Corrupt(
            "the kept keys of a file cannot be read",
            kind="keys-unreadable",
            hint="make them again from the file",
        ) from error


def _batches(
    store: Store, key: str, footer: Footer, names: Iterable[str]
) -> Iterator[pa.RecordBatch]:
    """The columns of these names that are there, in the site's types; strings may be codes."""
    schema, stored = footer.schema, footer.columns
    places = [place for name in names if (place := schema.get_field_index(name)) >= 0]
    fields = [schema.field(place) for place in places]
    columns = Columns(stored[place] for place in places)
    # Strings come as codes: their pages are dictionaries already, nothing is hashed twice.
    texts = [(f.name, at) for f, at in zip(fields, columns.first, strict=False) if _is_text(f.type)]
    for group in footer.groups:
        if not places:
            yield from _empty(group.rows)
            continue
        some = stored.choose(group, places)
        chunks = [store.read(key, start=a, length=b) for a, b in some.extents()]
        end = assemble(columns, [some.moved(len(MAGIC))])
        try:
            file = pq.ParquetFile(
                pa.BufferReader(b"".join([MAGIC, *chunks, end])),
                read_dictionary=[name for name, leaf in texts if some.can_be_codes(leaf)],
                coerce_int96_timestamp_unit="us",
                pre_buffer=False,
            )
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                arrays = [_as_sent(a, f.type) for a, f in zip(batch.columns, fields, strict=True)]
                yield pa.RecordBatch.from_arrays(arrays, [field.name for field in fields])
        except (pa.ArrowException, OSError, ValueError):  # their texts may show values
            raise unreadable(key, "its key columns cannot be decoded") from None


def _empty(rows: int) -> Iterator[pa.RecordBatch]:
    """Rows without key columns."""
    for first in range(0, rows, BATCH_ROWS):
        yield pa.record_batch([pa.nulls(min(BATCH_ROWS, rows - first))], [""])


def _as_sent(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Parquet does not know all types: a duration comes as a number of the site's unit."""
    return array if plain(array.type).equals(kind) else conform(array, kind)


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    tests = types.is_string, types.is_large_string, types.is_binary, types.is_large_binary
    return any(test(kind) for test in tests)


def _bad_column(name: str, problem: str) -> Invalid:
    return Invalid(
        f"key column {shown(name)}: {problem}",
        kind="bad-key-column",
        hint="send the column as the other sites do",
    )


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    # By its own name: a nested column is read where its path begins with the name asked for.
    return batch.column(name) if name in batch.schema.names else pa.nulls(batch.num_rows)


def _codes(array: pa.Array, kind: pa.DataType, name: str) -> pa.DictionaryArray:
    """The array in another type, as numbers of distinct values; null where it is null or NaN."""
    given = array.type
    try:
        if pa.types.is_null(given) or isinstance(given, pa.BaseExtensionType):
            array = _plain(conform(array, kind))
        if pa.types.is_float16(given):  # about which Arrow knows little
            array = array.cast(pa.float32())
        if not pa.types.is_dictionary(given):
            array = array.dictionary_encode()
        codes, values = array.indices.cast(pa.int32()), array.dictionary
        if pa.types.is_floating(values.type):
            codes = pc.if_else(pc.is_nan(values).take(codes), None, codes)
            values = pc.if_else(pc.is_nan(values), 0, values)
        return pa.DictionaryArray.from_arrays(codes, _plain(conform(values, kind)))
    except (pa.ArrowException, UnicodeError):
        got = given.value_type if pa.types.is_dictionary(given) else given
        raise _bad_column(name, f"expected {kind}, got {got} that cannot become it") from None


def _plain(array: pa.Array) -> pa.Array:
    """The bytes of a UUID, which Arrow can encode and compare; any other array as it is."""
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _joined(parts: Sequence[pa.DictionaryArray]) -> pa.DictionaryArray:
    """One array with one dictionary, in which each value is once."""
    return pa.chunked_array(parts).unify_dictionaries().combine_chunks()


def _center_numbers(centers: pa.DictionaryArray, name: str) -> pa.DictionaryArray:
    if (pc.min(centers.dictionary).as_py() or 0) < 0:
        raise _bad_column(name, "expected numbers of centers, >= 0, got a negative one")
    return centers


def _pairs(
    participants: pa.DictionaryArray, centers: pa.DictionaryArray
) -> tuple[pa.Table, NDArray[np.int32]]:
    """The distinct pairs in their order, and the number of each row's pair."""
    names, numbers = participants.dictionary, centers.dictionary
    width = len(numbers) + 1
    name = participants.indices.fill_null(len(names)).to_numpy().astype(np.int64)
    number = centers.indices.fill_null(width - 1).to_numpy()
    both = pa.array(name * width + number).dictionary_encode()
    name, number = np.divmod(both.dictionary.to_numpy(), width)
    hashes = np.pad(_blake2b(names, 8)[0], (0, 1))[name]
    order = np.lexsort((hashes, name == len(names)))
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    name, number, hashes = name[order], number[order], hashes[order]
    pairs = {
        "participant": names.take(pa.array(name, mask=name == len(names))),
        "center": numbers.take(pa.array(number, mask=number == width - 1)),
        "hash": pa.array(hashes, mask=name == len(names)),
    }
    return pa.table(pairs), rank[both.indices.to_numpy()]


def _hash_rows(
    batch: pa.RecordBatch, criteria: Sequence[str], types: Mapping[str, pa.DataType]
) -> tuple[Hashes, NDArray[np.bool_]]:
    """128 bits of each row's key, as two lanes, and whether the key has no null."""
    lanes = np.zeros((2, batch.num_rows), np.uint64)
    whole = np.ones(batch.num_rows, np.bool_)
    for name in criteria:
        # A column that no file has, or none has a value of, is null everywhere, in whatever type.
        kind = types.get(name, pa.null())
        kind = pa.string() if pa.types.is_null(kind) else kind
        column = _codes(_column(batch, name), kind, name)
        codes = column.indices.fill_null(len(column.dictionary)).to_numpy()
        whole &= codes < len(column.dictionary)
        values = np.pad(_hash_values(column.dictionary), ((0, 0), (0, 1)))
        lanes = _mix(lanes ^ values[:, codes])
    return lanes, whole


def _hash_values(values: pa.Array) -> Hashes:
    """128 bits of each value of an array without nulls, as two lanes."""
    kind = values.type
    if pa.types.is_floating(kind):
        bits = (values.cast(pa.float64()).to_numpy() + 0.0).view(np.uint64)  # -0.0 + 0.0 is 0.0
    elif pa.types.is_boolean(kind):
        bits = values.cast(pa.uint64()).to_numpy()
    elif pa.types.is_primitive(kind):
        signed = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[kind.bit_width]
        bits = values.view(signed).to_numpy().astype(np.int64).view(np.uint64)
    else:
        return _blake2b(values.cast(pa.string()) if pa.types.is_decimal(kind) else values, 16)
    return _mix(np.stack((bits, bits)))


def _blake2b(values: pa.Array, size: int) -> Hashes:
    """BLAKE2b (RFC 7693) of each value's bytes, ``size`` bytes of it, in lanes of 64 bits."""
    plain = values.cast(pa.large_binary()).to_pylist()
    digests = b"".join(hashlib.blake2b(v, digest_size=size).digest() for v in plain)
    return np.frombuffer(digests, "<u8").reshape(-1, size // 8).T


def _mix(lanes: Hashes) -> Hashes:
    """Spread each bit over its lane, each lane in its own way; no two values of a lane meet."""
    mixed = lanes + _INCREMENT
    for shift, factor in _ROUNDS:
        mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed ^ (mixed >> _LAST_SHIFT)
