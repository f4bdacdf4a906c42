"""What a table was composed of: the memory that makes a second run cost only what changed.

Beside each table lie two small Arrow IPC files, part of the snapshot as the table is:
``_composition.arrow`` has a row for each input file (identity, schema, what was removed, where its
row groups stand); ``_keys.arrow`` has a record batch for each input with its key columns.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from catchment.core.errors import Corrupt
from catchment.core.store import Store
from catchment.core.store_file import StoreFile
from catchment.tables import fill
from catchment.tables.model import Fate, Removal
from catchment.tables.placed import ENGINE

FORMAT = f"1, {ENGINE}"
_BLOB = pa.large_binary()
_REMOVAL = pa.struct(
    [("fate", pa.string()), ("reason", pa.string()), ("rows", pa.list_(pa.int64()))]
)
_ENTRIES = pa.schema(
    [
        ("center", pa.string()),
        ("name", pa.string()),
        ("url", pa.string()),
        ("key", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("digest", pa.string()),
        ("rows", pa.int64()),
        ("schema", _BLOB),
        ("removals", pa.list_(_REMOVAL)),
        ("placed", _BLOB),
    ]
)
_TEXTS = ("center", "name", "url", "key", "etag", "digest")  # the size stands between them
_KEYS = pa.schema([("keys", _BLOB)])


@dataclass(frozen=True, slots=True)
class Entry:
    """One input file of a composed table.

    Attributes:
        name: key of the file below its dataset's version.
        url, key, size, etag: as the listing showed it; unchanged ones mean that nothing moved.
        digest: ``sha256:<hex>`` of its bytes.
        placed: where its row groups stand in the table (:class:`catchment.tables.merge.Placed`).
    """

    center: str
    name: str
    url: str
    key: str
    size: int  # bytes
    etag: str
    digest: str
    rows: int
    schema: pa.Schema
    removals: tuple[Removal, ...]
    placed: bytes


@dataclass(frozen=True, slots=True)
class Composition:
    """All inputs of one table, in order, with what the table itself was."""

    entries: tuple[Entry, ...]
    schema: pa.Schema  # unified, without the constant columns
    key_types: Mapping[str, str]  # of the columns that the keys were read from

    def digests(self) -> Iterator[str]:
        """Of each entry what decides its rows in the table, but for the constant columns."""
        common = hashlib.sha256(FORMAT.encode() + b"\0" + self.schema.serialize().to_pybytes())
        for entry in self.entries:
            made = common.copy()
            left = [(r.fate.value, r.reason, list(map(int, r.rows))) for r in entry.removals]
            made.update(json.dumps([entry.digest, left]).encode())
            yield f"sha256:{made.hexdigest()}"


def dump(composition: Composition) -> bytes:
    """The stored form; equal compositions give equal bytes."""
    entries = composition.entries
    removals = [removal for entry in entries for removal in entry.removals]
    rows = [np.asarray(removal.rows, np.int64) for removal in removals]
    columns = [
        *(fill.strings([getattr(e, name) for e in entries]) for name in _TEXTS[:4]),
        fill.numbers(np.array([e.size for e in entries], np.int64)),
        *(fill.strings([getattr(e, name) for e in entries]) for name in _TEXTS[4:]),
        fill.numbers(np.array([e.rows for e in entries], np.int64)),
        fill.blobs([e.schema.serialize().to_pybytes() for e in entries]),
        fill.lists(
            [len(e.removals) for e in entries],
            pa.StructArray.from_arrays(
                [
                    fill.strings([r.fate.value for r in removals]),
                    fill.strings([r.reason for r in removals]),
                    fill.lists(
                        [len(some) for some in rows],
                        fill.numbers(np.concatenate([np.zeros(0, np.int64), *rows])),
                    ),
                ],
                fields=list(_REMOVAL),
            ),
        ),
        fill.blobs([e.placed for e in entries]),
    ]
    metadata = {
        b"format": FORMAT.encode(),
        b"schema": composition.schema.serialize().to_pybytes(),
    } | {b"key:" + name.encode(): kind.encode() for name, kind in composition.key_types.items()}
    return b"".join(_file(_ENTRIES.with_metadata(metadata), [columns]))


def load(data: bytes) -> Composition | None:
    """The inverse of :func:`dump`; None for the bytes of another version of the program."""
    try:
        with ipc.open_file(pa.BufferReader(data)) as reader:
            metadata = reader.schema.metadata or {}
            if metadata.get(b"format") != FORMAT.encode():
                return None
            table = reader.read_all()
    except (pa.ArrowException, OSError):
        return None
    entries = tuple(_entry(row) for row in table.to_pylist())
    types = {k[4:].decode(): v.decode() for k, v in metadata.items() if k.startswith(b"key:")}
    return Composition(entries, _schema(metadata[b"schema"]), types)


def dump_keys(blobs: Iterable[bytes]) -> Iterator[bytes]:
    """The stored form of key columns, streamed: a record batch for each input, in order."""
    # They are compressed already.
    return _file(_KEYS, ([fill.blobs([blob])] for blob in blobs), compression=None)


class Keys:
    """Key columns of the inputs of a stored composition, read one at a time.

    Corrupt (kind ``keys-unreadable``) where they cannot be.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._key = key
        with self._reading():
            self._reader = ipc.open_file(StoreFile(store, key))

    def __getitem__(self, index: int) -> bytes:
        with self._reading():
            blob: bytes = self._reader.get_batch(index).column(0)[0].as_py()
        return blob

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Corrupt(
                f"{self._key} cannot be read",
                kind="keys-unreadable",
                hint="catchment tables run --full",
            ) from error


def _entry(row: dict[str, Any]) -> Entry:
    removals = tuple(
        Removal(tuple(r["rows"]), Fate(r["fate"]), r["reason"]) for r in row["removals"]
    )
    return Entry(**row | {"schema": _schema(row["schema"]), "removals": removals})


@lru_cache(maxsize=64)
def _schema(data: bytes) -> pa.Schema:
    return ipc.read_schema(pa.BufferReader(data))


def _file(
    schema: pa.Schema,
    batches: Iterable[Sequence[pa.Array]],
    compression: str | None = "lz4",
) -> Iterator[bytes]:
    sink = io.BytesIO()
    options = ipc.IpcWriteOptions(compression=compression, use_threads=False)
    with ipc.new_file(sink, schema, options=options) as writer:
        for columns in batches:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            yield _take(sink)
    yield _take(sink)


def _take(sink: io.BytesIO) -> bytes:
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return data
