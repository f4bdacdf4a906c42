"""Positions in place of others, or taken out: the arrays are written anew under other keys.

Zarr lets the keys of an array's chunks be spelt in several ways, and its metadata say in which.
Chunks before the place are copied by the storage itself, what lies behind is moved as it is stored,
without decoding what it means. One root then names the new keys of all arrays. The former chunks
stay for readers of the state before, until the next splice.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from catchment.arrays import flat_write, layout
from catchment.arrays.chunks import THREADS
from catchment.arrays.flat_prepare import Sent
from catchment.arrays.foreign import Group, Overlay
from catchment.core.errors import Corrupt, NotFound
from catchment.core.store import Store


class Splice:
    """A group about to be written anew from a position on.

    Args:
        start, stop: the positions that are taken out.

    Attributes:
        chunks: how many were copied or written so far.
    """

    def __init__(self, store: Store, group: Group, dim: str, start: int, stop: int) -> None:
        self.store = store
        self.group = group
        self.dim = dim
        self.start = start
        self.stop = stop
        self.former = {name: (meta, axis) for name, meta, axis in arrays_along(group, dim)}
        self.size = max(meta["shape"][axis] for meta, axis in self.former.values())
        self.documents = dict(group.documents)
        self.chunks = 0

    def carry_out(self, sent: Sent | None) -> int:
        """Write everything under the new keys; how many bytes that takes, copies not counted."""
        self._clear()
        for name, (meta, axis) in self.former.items():
            spelt = meta | {"chunk_key_encoding": layout.respelt(meta["chunk_key_encoding"])}
            self._describe(name, spelt, axis, self.start)
        length, size = 0, 0
        for name in self.former:
            self._copy(name)
            size += self._move(name, self._edge(name), self._edge(name), self.start)
        if sent is not None:
            length = sent.dataset.sizes[self.dim]
            group = Group(self.group.version, dict(self.documents))
            size += flat_write.grow(self.store, self.documents, sent.dataset, self.dim, group, None)
        for name, (_, axis) in self.former.items():
            total = self.size - (self.stop - self.start) + length
            self._describe(name, json.loads(self.documents[_key(name)]), axis, total)
            size += self._move(name, self.start + length, self.stop, self.size)
        return size

    def _describe(self, name: str, meta: dict[str, Any], axis: int, size: int) -> None:
        shape = [*meta["shape"]]
        shape[axis] = size
        self.documents[_key(name)] = json.dumps(meta | {"shape": shape}).encode()

    def _clear(self) -> None:
        """Delete what stands under all keys but the present ones."""
        with ThreadPoolExecutor(THREADS) as pool:
            for name, (meta, _) in self.former.items():
                kept = layout.spelling(meta["chunk_key_encoding"])
                keys = [
                    stat.key
                    for stat in self.store.list(f"{name}/")
                    if layout.spelling_of_key(stat.key.removeprefix(f"{name}/")) not in (None, kept)
                ]
                list(pool.map(self.store.delete, keys))

    def _edge(self, name: str) -> int:
        """Where the chunk begins that the first changed position is in."""
        meta, axis = self.former[name]
        return self.start - self.start % _chunk(meta)[axis]

    def _copy(self, name: str) -> None:
        """Chunks before the place, by the storage itself; absent ones are nothing but fill."""
        meta, axis = self.former[name]
        shape = list(meta["shape"])
        shape[axis] = self._edge(name)
        new = json.loads(self.documents[_key(name)])["chunk_key_encoding"]

        def copy(index: tuple[int, ...]) -> int:
            with suppress(NotFound):
                self.store.copy(
                    layout.chunk_key(name, index, meta["chunk_key_encoding"]),
                    layout.chunk_key(name, index, new),
                    mode="overwrite",
                )
                return 1
            return 0

        with ThreadPoolExecutor(THREADS) as pool:
            self.chunks += sum(pool.map(copy, _indices(shape, _chunk(meta))))

    def _move(self, name: str, to: int, start: int, stop: int) -> int:
        """Write positions of the former array into the new one, and read them back."""
        if start >= stop:
            return 0
        from catchment.arrays.zarr_store import open_array

        meta, axis = self.former[name]
        view = Overlay(self.store, self.documents, writes=True)
        source = open_array(Overlay(self.store, dict(self.group.documents)), name)
        target = open_array(view, name)
        step, chunk = _rows(meta, axis), _chunk(meta)[axis]
        while start < stop:
            count = min(step - to % chunk, stop - start)
            block = source[_at(meta, axis, start, start + count)]
            there = _at(meta, axis, to, to + count)
            target[there] = block
            if not _equal(target[there], block):
                raise Corrupt(
                    f"{name}: what was moved is not what was there",
                    kind="store-contradicts",
                    hint=f"catchment arrays verify {self.store.url}",
                )
            start, to = start + count, to + count
        self.chunks += len(view.sizes)
        return sum(view.sizes.values())


def blank(store: Store, group: Group, dim: str, start: int, stop: int) -> None:
    """Put fill in place of the values between two positions; of other positions none changes."""
    from catchment.arrays.zarr_store import open_array

    view = Overlay(store, dict(group.documents), writes=True)
    for name, meta, axis in arrays_along(group, dim):
        array = open_array(view, name)
        step, chunk, at = _rows(meta, axis), _chunk(meta)[axis], start
        while at < stop:
            end = min(at - at % chunk + step, stop)
            array[_at(meta, axis, at, end)] = array.fill_value
            at = end


def arrays_along(group: Group, dim: str) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Name, metadata and axis of each array with a dimension; of a group of format 3."""
    for key, data in group.documents.items():
        meta = json.loads(data)
        dims = meta.get("dimension_names") or []
        if meta["node_type"] == "array" and dim in dims:
            yield key.rpartition("/")[0], meta, dims.index(dim)


def _key(name: str) -> str:
    return f"{name}/{layout.ROOT}"


def _chunk(meta: dict[str, Any]) -> list[int]:
    found: list[int] = meta["chunk_grid"]["configuration"]["chunk_shape"]
    return found


def _rows(meta: dict[str, Any], axis: int) -> int:
    """Positions to take at once: whole chunks, of some megabytes."""
    chunk = _chunk(meta)[axis]
    each = 8
    for number, size in enumerate(meta["shape"]):
        each *= max(1, size) if number != axis else 1
    return max(chunk, flat_write.PIECE // each // chunk * chunk)


def _indices(shape: list[int], chunk: list[int]) -> Iterator[tuple[int, ...]]:
    """Of all chunks that an array of a shape has."""
    counts = (-(-size // most) for size, most in zip(shape, chunk, strict=True))
    return itertools.product(*(range(count) for count in counts))


def _at(meta: dict[str, Any], axis: int, start: int, stop: int) -> Any:
    return tuple(
        slice(start, stop) if number == axis else slice(None)
        for number in range(len(meta["shape"]))
    )


def _equal(one: Any, other: Any) -> bool:
    if other.dtype.kind in "OT":
        return bool((one == other).all())
    return bool(one.tobytes() == other.tobytes())
