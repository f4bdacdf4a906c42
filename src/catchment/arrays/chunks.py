"""A session's chunks: written once, under a slot of their own, before anybody looks there."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catchment.arrays import layout
from catchment.arrays.codec import encode
from catchment.arrays.content import blocks
from catchment.arrays.document import Document
from catchment.arrays.journal import Claim
from catchment.arrays.prepare import Prepared
from catchment.core.errors import NotFound
from catchment.core.progress import Event, Progress, silent
from catchment.core.store import Store

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

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
        pending: deque[Future[None]] = deque()
        for name, variable in prepared.variables.items():
            meta = document.arrays[name]
            prefix = layout.slot_prefix(name, claim.slot, document.generation)
            for key, part, shape in _parts(variable, meta, prefix):
                pending.append(pool.submit(_place, store, key, part, meta, shape, claim, written))
                while len(pending) > 2 * THREADS:  # memory does not grow with the session
                    pending.popleft().result()
                progress(Event(work, "step", written.chunks, total, "chunks"))
        for future in pending:
            future.result()
    progress(Event(work, "done", written.chunks, total, "chunks"))
    return written


def _parts(
    variable: xr.Variable, meta: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, np.ndarray, tuple[int, ...]]]:
    """Key, values and whole shape of each chunk of a slot."""
    grid = meta["chunk_grid"]["configuration"]["chunk_shape"][1:]
    step = variable.shape[0]
    if variable.nbytes > _AT_ONCE:
        rows = _AT_ONCE // max(1, variable.nbytes // variable.shape[0])
        step = max(grid[0], rows // grid[0] * grid[0])
    for start, block in blocks(variable, max(1, step)):
        first = start // grid[0]
        counts = (range(-(-size // chunk)) for size, chunk in zip(block.shape, grid, strict=True))
        for place in itertools.product(*counts):
            index = (first + place[0], *place[1:])
            part = block[tuple(slice(n * c, (n + 1) * c) for n, c in zip(place, grid, strict=True))]
            yield prefix + "/".join(map(str, index)), part, (1, *grid)


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


def _place(  # noqa: PLR0917 - all that makes a chunk
    store: Store,
    key: str,
    part: np.ndarray,
    meta: Mapping[str, Any],
    shape: tuple[int, ...],
    claim: Claim,
    written: Written,
) -> None:
    data = encode(part[None], meta, shape)
    if data is None:
        return
    there = claim.resumed and _there(store, key) == data
    if not there:
        store.put(key, data, mode="overwrite")
    written.count(len(data), resumed=there)


def _there(store: Store, key: str) -> bytes | None:
    with suppress(NotFound):
        return store.read(key)
    return None
