"""A session's chunks: written once, under a slot of their own, before anybody looks there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from catchment.arrays import layout
from catchment.arrays.content import blocks
from catchment.arrays.document import Document
from catchment.arrays.journal import Claim
from catchment.arrays.prepare import Prepared
from catchment.arrays.zarr_store import CoreStore, documents, open_array
from catchment.core.errors import NotFound
from catchment.core.progress import Event, Progress, silent
from catchment.core.store import Store

THREADS = 8  # puts at a time


@dataclass
class Written:
    """How much was written."""

    chunks: int = 0
    stored: int = 0  # bytes
    resumed: int = 0  # chunks that were there already, byte for byte

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, int]:
        return {"chunks": self.chunks, "stored": self.stored, "resumed": self.resumed}

    def count(self, size: int, *, resumed: bool) -> None:
        """One chunk more; from any thread."""
        with self._lock:
            self.chunks += 1
            self.stored += size
            self.resumed += resumed


def count(document: Document, prepared: Prepared) -> int:
    """Chunks that a session has at most; those of padding only are not written."""
    total = 0
    for name, variable in prepared.variables.items():
        grid = document.arrays[name]["chunk_grid"]["configuration"]["chunk_shape"][1:]
        number = 1
        for length, chunk in zip(variable.shape, grid, strict=True):
            number *= -(-length // chunk)
        total += number
    return total


def write(
    store: Store,
    document: Document,
    claim: Claim,
    prepared: Prepared,
    progress: Progress = silent,
) -> Written:
    """Write every chunk of the session, durable on return.

    What a dead writer of another session left in the slot is removed first; what one of this
    session left is compared and kept.
    """
    if claim.taken:
        clear(store, document, claim.slot)
    written, total = Written(), count(document, prepared)
    work = f"append {prepared.row.session}"
    with ThreadPoolExecutor(THREADS) as pool:
        pending = []

        def put(key: str, data: bytes) -> None:
            pending.append(pool.submit(_place, store, key, data, claim, written))
            while len(pending) > 2 * THREADS:  # memory does not grow with the session
                pending.pop(0).result()
            progress(Event(work, "step", written.chunks, total, "chunks"))

        view = _view(document, claim.slot, prepared, put)
        for name, variable in prepared.variables.items():
            array = open_array(view, name)
            grid = document.arrays[name]["chunk_grid"]["configuration"]["chunk_shape"]
            rows = grid[1] if len(grid) > 1 else 1
            step = None
            if variable.ndim and variable.nbytes > _AT_ONCE:
                step = max(rows, _AT_ONCE // max(1, variable.nbytes // variable.shape[0])
                           // rows * rows)  # fmt: skip
            for start, block in blocks(variable, step or (variable.shape or (None,))[0]):
                place: Any = (
                    claim.slot,
                    slice(start, start + block.shape[0]),
                    *(slice(0, size) for size in block.shape[1:]),
                )
                array[place] = block
        for future in pending:
            future.result()
    progress(Event(work, "done", written.chunks, total, "chunks"))
    return written


_AT_ONCE = 64 << 20  # bytes that are compressed together


def clear(store: Store, document: Document, slot: int) -> int:
    """Delete every chunk of a slot, in this generation and its neighbours; how many there were."""
    return sum(clear_slot(store, document, slot, generation) for generation in (0, 1))


def clear_slot(store: Store, document: Document, slot: int, generation: int) -> int:
    """Delete the chunks of a slot in one generation; how many there were."""
    removed = 0
    for name in document.slotted():
        for stat in list(store.list(layout.slot_prefix(name, slot, generation))):
            store.delete(stat.key)
            removed += 1
    return removed


@contextmanager
def puts(store: Store) -> Iterator[tuple[Callable[[str, bytes], None], Callable[[str], None]]]:
    """A put and a delete that go on in the background; at the end all of them are done."""
    with ThreadPoolExecutor(THREADS) as pool:
        pending: list[Future[object]] = []

        def put(key: str, data: bytes) -> None:
            pending.append(pool.submit(store.put, key, data, mode="overwrite"))

        def delete(key: str) -> None:
            pending.append(pool.submit(store.delete, key))

        yield put, delete
        for future in pending:
            future.result()


def _view(
    document: Document, slot: int, prepared: Prepared, put: Callable[[str, bytes], None]
) -> CoreStore:
    """Arrays large enough for the session, in which nothing stands yet."""
    large = document.grown(
        commit=document.commit,
        size=max(document.size, slot + 1),
        ragged=prepared.ragged_sizes,
    )
    return CoreStore(None, documents(large.arrays), put=put)


def _place(store: Store, key: str, data: bytes, claim: Claim, written: Written) -> None:
    there = claim.resumed and _there(store, key) == data
    if not there:
        store.put(key, data, mode="overwrite")
    written.count(len(data), resumed=there)


def _there(store: Store, key: str) -> bytes | None:
    with suppress(NotFound):
        return store.read(key)
    return None
