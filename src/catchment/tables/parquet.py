"""The door for the sites' Parquet files: what must be known of one before it enters a table."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catchment.core.errors import Invalid
from catchment.core.names import shown
from catchment.core.parquet.footer import MAGIC, Columns, Group, columns_of, leaves_of
from catchment.core.parquet.parse import Encrypted, Raw, parse
from catchment.core.parquet.thrift import I32, Buffer, Ints
from catchment.core.store import Store
from catchment.tables import opinions
from catchment.tables.decode import Part, unreadable
from catchment.tables.types import plain_schema
from catchment.tables.unify import BOUNDS

_TAIL = 64 << 10  # bytes read for the footer at once
_HEAD = 32  # bytes that hold the kind and the sizes of any page
_I32 = 1 << 4 | I32  # head of the next Thrift field, an i32
_PAGES = (0, 2 << 1, 3 << 1)  # DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 as zigzag numbers
_ENCRYPTED = b"PARE"
_NONE = np.zeros(0, np.int64)


class Limits(NamedTuple):
    """What a file may say of itself.

    Attributes:
        footer: bytes.
        columns: stored columns, the leaves of nested ones.
        groups: row groups.
        rows: of the file.
        group_rows: of one row group.
        group_bytes: of one row group, uncompressed.
    """

    footer: int = 64 << 20
    columns: int = 20_000
    groups: int = 30_000
    rows: int = 1 << 32
    group_rows: int = 1 << 26
    group_bytes: int = 8 << 30


DEFAULT_LIMITS = Limits()


class Claims(NamedTuple):
    """What a footer says that only a look at the whole file can confirm.

    Attributes:
        footer: SHA-256 of its bytes.
        rows: of the file.
        start, length: of each column chunk, in bytes.
    """

    footer: bytes
    rows: int
    start: Ints
    length: Ints

    @classmethod
    def of(cls, footer: bytes, rows: int, groups: Sequence[Group]) -> Self:
        """Those of a footer's bytes."""
        start = np.concatenate([_NONE, *(group.start for group in groups)])
        length = np.concatenate([_NONE, *(group.length for group in groups)])
        return cls(hashlib.sha256(footer).digest(), rows, start, length)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file is: enough to merge it without reading its footer again.

    Attributes:
        rows: of the file.
        types: plain types, a serialized schema.
        bounds: of the leaves, of 64-bit integers (see ``unify``).
        elements: the list of ``SchemaElement`` structs.
        leaves: how each leaf is stored (:func:`.footer.leaves_of`).
        groups: its row groups that have rows.
        recode: leaves that are stored in a way that not every reader knows, so none is copied.
        claims: what :func:`vouch` is to confirm.
        digest: ``sha256:<hex>`` of the file's bytes; None before it is vouched for.
    """

    rows: int
    types: bytes
    bounds: bytes
    elements: bytes
    leaves: bytes
    groups: tuple[Group, ...]
    recode: tuple[int, ...]
    claims: Claims
    digest: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """Plain types; the metadata has the bounds."""
        return _schema(self.types).with_metadata({BOUNDS: self.bounds})

    @property
    def columns(self) -> Columns:
        """The columns of the schema as they are stored."""
        return columns_of(self.elements, self.leaves)


@lru_cache(maxsize=16)
def _schema(types: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.BufferReader(types))


def inspect(
    store: Store, key: str, size: int, *, limits: Limits = DEFAULT_LIMITS, deep: bool = False
) -> Footer:
    """Read a file's footer and digest. Its bytes are untrusted: call this in a child process.

    A file is accepted only if pyarrow can read its footer and agrees on its rows, and DuckDB agrees
    on the columns of its schema. Its column chunks must lie inside the file, without overlap, and
    each must begin with the header of a page that fits in. Pages are decoded only where a merge
    needs it, so a damaged page that is copied is copied as it is; ``deep`` decodes all of them, and
    looks whether strings are UTF-8.

    It is :func:`read_footer` and :func:`vouch` in one.

    Args:
        store: where the file is.
        key: of the file.
        size: its bytes, as a listing tells.
        limits: what the file may say of itself.
        deep: decode every page.

    Raises:
        Invalid: kind ``parquet-unreadable``, ``parquet-truncated``, ``parquet-encrypted``,
            ``parquet-too-large``, ``parquet-disagreement``.
        NotFound: there is no such file.
    """
    footer = read_footer(store, key, size, limits=limits)
    digest = vouch(store, key, size, footer.claims)
    if deep:
        columns = footer.columns
        for group in footer.groups:
            for _, batch in Part(store, key, columns, group).batches(range(len(columns))):
                batch.decode()
    return replace(footer, digest=digest)


def read_footer(store: Store, key: str, size: int, *, limits: Limits = DEFAULT_LIMITS) -> Footer:
    """Read a file's footer, and nothing else: enough to plan with it, not to trust it.

    No byte of the file may be copied before :func:`vouch` has confirmed what the footer claims.
    Arguments and errors are those of :func:`inspect`.
    """
    footer = _footer_bytes(store, key, size, limits)
    try:
        raw = parse(footer)
        layout = _layout(raw.schema, raw.key_values)
        columns = columns_of(raw.schema, layout.leaves)
        if raw.groups and raw.paths != tuple(path for c in columns for path in c.paths):
            raise ValueError("row groups with other columns than the schema")
    except Encrypted:
        raise _encrypted(key) from None
    except (pa.ArrowException, OSError, ValueError, IndexError, KeyError):
        raise unreadable(key, "its footer cannot be read") from None  # texts may show values
    if raw.rows != sum(group.rows for group in raw.groups):
        raise _disagreement(key, "on the number of rows")
    if len(columns) != layout.duckdb_columns:
        raise _disagreement(key, "on the number of columns")
    if layout.repeated is not None:
        raise _disagreement(key, f"about fields of one name: {shown(layout.repeated)}")
    _check_limits(key, raw, limits)
    _check_extents(key, raw, columns, size - len(footer) - 8)
    return Footer(
        raw.rows,
        layout.types,
        json.dumps(raw.bounds).encode(),
        raw.schema,
        layout.leaves,
        raw.groups,
        raw.rare,
        Claims.of(footer, raw.rows, raw.groups),
    )


def vouch(store: Store, key: str, size: int, claims: Claims) -> str:
    """``sha256:<hex>`` of a file of which pyarrow says what its footer claims.

    Reads all of it; it is untrusted as for :func:`inspect`, which names the errors. Invalid, too,
    where the footer is not the one that was read before.
    """
    footer = _footer_bytes(store, key, size)
    if hashlib.sha256(footer).digest() != claims.footer:
        raise unreadable(key, "its footer changed while it was read")
    try:
        rows = opinions.pyarrow_rows(footer)
    except (pa.ArrowException, OSError, ValueError):
        raise unreadable(key, "its footer cannot be read") from None  # texts may show values
    if rows != claims.rows:
        raise _disagreement(key, "on the number of rows")
    return _digest(store, key, size, claims)


class _Layout(NamedTuple):
    types: bytes  # a serialized schema
    leaves: bytes
    duckdb_columns: int
    repeated: str | None  # the path of fields of the same name


@lru_cache(maxsize=4)
def _layout(schema: bytes, key_values: bytes) -> _Layout:
    """The columns, from the parts of a footer that most files of a table share."""
    keys = b"\x19" + key_values if key_values else b""
    footer = b"\x15\x04\x19" + schema + b"\x16\x00\x19\x0c" + keys + b"\x00"  # no row groups
    source = pa.BufferReader(opinions.only_footer(footer))
    file = pq.ParquetFile(source, coerce_int96_timestamp_unit="us")
    leaves = leaves_of(file.schema)
    arrow = plain_schema(file.schema_arrow)
    paths = Counter(_paths(pa.struct(arrow)))
    twice = next((path for path, count in paths.items() if count > 1), None)
    types = arrow.serialize().to_pybytes()
    return _Layout(types, leaves, opinions.duckdb_columns(footer), twice)


def _footer_bytes(store: Store, key: str, size: int, limits: Limits = DEFAULT_LIMITS) -> bytes:
    if store.read(key, length=len(MAGIC)) not in (MAGIC, _ENCRYPTED):
        raise unreadable(key, "it does not begin as one")
    tail = store.read(key, start=-min(size, _TAIL))
    length = int.from_bytes(tail[-8:-4], "little")
    if tail.endswith(_ENCRYPTED):
        raise _encrypted(key)
    if not tail.endswith(MAGIC) or length + 12 > size:
        raise Invalid(
            f"{_name(key)}: expected a whole Parquet file, but its end is missing",
            kind="parquet-truncated",
            hint="send the file again",
        )
    if length > limits.footer:
        raise _too_large(key, "bytes of footer", limits.footer, length)
    if length + 8 > len(tail):
        tail = store.read(key, start=-length - 8)
    return tail[-length - 8 : -8]


def _paths(kind: pa.DataType, above: str = "") -> Iterator[str]:
    """The path of each field inside a type."""
    for number in range(kind.num_fields):
        field = kind.field(number)
        yield f"{above}/{field.name}"
        yield from _paths(field.type, f"{above}/{field.name}")


def _check_limits(key: str, raw: Raw, limits: Limits) -> None:
    for what, most, got in (
        ("columns", limits.columns, len(raw.paths)),
        ("row groups", limits.groups, len(raw.groups)),
        ("rows", limits.rows, raw.rows),
        ("rows in one row group", limits.group_rows, max((g.rows for g in raw.groups), default=0)),
        (
            "bytes in one row group, uncompressed",
            limits.group_bytes,
            max((sum(group.size.tolist()) for group in raw.groups), default=0),
        ),
    ):
        if got > most:
            raise _too_large(key, what, most, got)


def _check_extents(key: str, raw: Raw, columns: Columns, end: int) -> None:
    """Every chunk lies between the magic number and the footer, and none overlaps another."""
    if not raw.groups:
        return
    start = np.concatenate([group.start for group in raw.groups])
    length = np.concatenate([group.length for group in raw.groups])
    inside = (start >= len(MAGIC)) & (length > 0) & (start + length <= end)
    rows = np.array([[group.rows] for group in raw.groups])
    flat = np.array([not leaf.max_repetition_level for column in columns for leaf in column.leaves])
    values = np.where(flat, raw.values == rows, raw.values >= rows)
    order = np.argsort(start)
    apart = (start + length)[order][:-1] <= start[order][1:]
    if not (inside.all() and apart.all() and values.all() and (rows > 0).all()):
        raise unreadable(key, "its footer does not fit the file")


def _digest(store: Store, key: str, size: int, claims: Claims) -> str:
    """``sha256:<hex>`` of the file; on the way the first page of each chunk is looked at."""
    order = np.argsort(claims.start)
    start = claims.start[order]
    ordered = start.tolist()
    heads = np.zeros((len(start), _HEAD), np.uint8)
    digest = hashlib.sha256()
    total = 0
    end = b""  # of what came before: a head may begin there

    def look(at: int, data: bytes) -> None:
        first, after = bisect_left(ordered, at), bisect_right(ordered, at + len(data) - _HEAD)
        if first < after:
            places = (start[first:after] - at)[:, None] + np.arange(_HEAD)
            heads[order[first:after]] = np.frombuffer(data, np.uint8)[places]

    for chunk in chain(store.stream(key), [b""]):
        digest.update(chunk)
        look(total - len(end), end + (chunk[:_HEAD] or bytes(_HEAD)))
        look(total, chunk)
        total += len(chunk)
        end = (end + chunk[-_HEAD:])[1 - _HEAD :]
    if total != size:
        raise unreadable(key, f"its size changed from {size} bytes to {total}")
    _check_pages(key, Buffer(heads.tobytes()), claims.length)
    return f"sha256:{digest.hexdigest()}"


def _check_pages(key: str, heads: Buffer, length: Ints) -> None:
    """Each head begins a ``PageHeader``: a kind of page, its size, its compressed size."""
    at = np.arange(len(length)) * _HEAD
    kind = heads.byte(at + 1)
    size = heads.after_number(at + 3)
    good = (heads.byte(at) == _I32) & (heads.byte(at + 2) == _I32) & (heads.byte(size) == _I32)
    good &= np.isin(kind, _PAGES) & (heads.signed(size + 1) < length)
    if not good.all():
        raise unreadable(key, "a column does not begin with a page")


def _name(key: str) -> str:
    return shown(key.rpartition("/")[2])


def _encrypted(key: str) -> Invalid:
    return Invalid(
        f"{_name(key)}: expected a plain Parquet file, got an encrypted one",
        kind="parquet-encrypted",
        hint="send the file without Parquet's own encryption",
    )


def _too_large(key: str, what: str, most: int, got: int) -> Invalid:
    return Invalid(
        f"{_name(key)}: expected at most {most:,} {what}, got {got:,}",
        kind="parquet-too-large",
        hint="send the table in several files, or look whether the file is damaged",
    )


def _disagreement(key: str, what: str) -> Invalid:
    return Invalid(
        f"{_name(key)}: readers of Parquet disagree {what}",
        kind="parquet-disagreement",
        hint="write the file again with a current Parquet library",
    )
