"""Zarr's view of a store: reads and writes go through our door, metadata come from memory."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    SuffixByteRequest,
)
from zarr.abc.store import (
    Store as ZarrStore,
)
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from catchment.core.errors import NotFound
from catchment.core.store import Store

Put = Callable[[str, bytes], None]
DOCUMENTS = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


class CoreStore(ZarrStore):
    """A store of ours as Zarr wants one.

    Args:
        store: where chunks are; None: nowhere, there are only documents and what is written.
        documents: metadata by key, which win over the store's; with them, no other is looked for.
        put: takes the chunks that are written; without it the store is for reading.
        delete: takes the keys of chunks that became empty.
    """

    def __init__(
        self,
        store: Store | None,
        documents: Mapping[str, bytes] | None = None,
        *,
        put: Put | None = None,
        delete: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(read_only=put is None)
        self._store = store
        self._documents = documents
        self._put = put
        self._delete = delete
        self.requests = 0  # reads of the store
        self._lock = threading.Lock()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __str__(self) -> str:
        return self._store.url if self._store else "memory"

    def __reduce__(self) -> tuple[Any, ...]:
        return CoreStore, (self._store, self._documents)

    def with_read_only(self, read_only: bool = False) -> CoreStore:  # noqa: FBT001, FBT002 - Zarr's
        """The same store for reading."""
        put = None if read_only else self._put
        return CoreStore(self._store, self._documents, put=put, delete=self._delete)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of a key; None where there is none."""
        if self._documents is not None:
            found = self._documents.get(key)
            if found is not None:
                return prototype.buffer.from_bytes(found)
            if key.rpartition("/")[2] in DOCUMENTS:
                return None
        if self._store is None:
            return None
        data = await asyncio.to_thread(self._read, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        assert self._store is not None  # noqa: S101 - get looked
        with self._lock:
            self.requests += 1
        start, length = 0, None
        match byte_range:
            case RangeByteRequest(start, end):
                length = end - start
            case OffsetByteRequest(start):
                pass
            case SuffixByteRequest(suffix):
                start = -suffix
        try:
            return self._store.read(key, start=start, length=length)
        except NotFound:
            return None

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """The bytes of several keys."""
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is something."""
        return await self.get(key, default_buffer_prototype()) is not None

    @property
    def supports_writes(self) -> bool:
        """Chunks can be written where somebody takes them."""
        return self._put is not None

    @property
    def supports_deletes(self) -> bool:
        """The same as for writes."""
        return self._put is not None

    @property
    def supports_listing(self) -> bool:
        """Metadata say what there is."""
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """Hand a chunk on."""
        self._check_writable()
        assert self._put is not None  # noqa: S101 - it is writable
        await asyncio.to_thread(self._put, key, value.to_bytes())

    async def delete(self, key: str) -> None:
        """Hand on that a chunk is empty."""
        self._check_writable()
        if self._delete is not None:
            await asyncio.to_thread(self._delete, key)

    async def list(self) -> AsyncIterator[str]:
        """All keys of the store."""
        if self._store is not None:
            for stat in await asyncio.to_thread(lambda: list(self._store.list())):  # type: ignore[union-attr]
                yield stat.key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin so."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The next parts below a folder."""
        below = prefix and prefix.rstrip("/") + "/"
        seen = set()
        async for key in self.list_prefix(below):
            part = key[len(below) :].partition("/")[0]
            if part not in seen:
                seen.add(part)
                yield part


def document(meta: Mapping[str, Any]) -> bytes:
    """An array's metadata as bytes."""
    return json.dumps(meta).encode()


def documents(arrays: Mapping[str, Any]) -> dict[str, bytes]:
    """Metadata of a group and its arrays, by key."""
    root = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}).encode()
    return {"zarr.json": root} | {f"{n}/zarr.json": document(meta) for n, meta in arrays.items()}


def open_array(store: CoreStore, name: str) -> zarr.Array[Any]:
    """An array, for reading or for writing as the store is."""
    mode: Any = "r" if store.read_only else "r+"
    return zarr.open_array(store=store, path=name, mode=mode, zarr_format=3)


def encode(name: str, meta: Mapping[str, Any], values: np.ndarray) -> dict[str, bytes]:
    """The objects of a whole array, made in memory."""
    made: dict[str, bytes] = {}
    store = CoreStore(None, documents({name: meta}), put=made.__setitem__)
    open_array(store, name)[...] = values
    return made
