"""Once: what a key tells is written once, and stands.

A worker that was paused, or one that reprocesses, may come to write what a snapshot names by now.
Then what stands is looked at, and kept: it is the same, or else it is another's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

from catchment.core.compose import stream
from catchment.core.errors import Conflict
from catchment.core.store import Mode, Segment, Store
from catchment.studies.model import Object

type Chunks = Callable[[], Iterable[bytes]]  # gives the same each time
type Write = Callable[[str, Mode], Object]


def put(store: Store, key: str, chunks: Chunks, *, mend: bool = False) -> Object:
    """Write the chunks under the key, unless they stand there; the object as it is then.

    Where something else stands there, it stays, and they are written beside it, under a key with
    their digest. With ``mend`` it is replaced: of objects that no snapshot names.
    """

    def write(where: str, mode: Mode) -> Object:
        seen = _Seen()
        store.put(where, seen.of(chunks()), mode=mode)
        return seen.told(where)

    return _once(store, key, chunks, write, mend=mend)


def compose(store: Store, key: str, segments: Callable[[], Iterable[Segment]]) -> Object:
    """The same of a composition."""

    def write(where: str, mode: Mode) -> Object:
        made = store.compose(where, segments(), mode=mode, digest=True)
        return Object(where, made.size, str(made.digest))

    return _once(store, key, lambda: stream(segments()), write, mend=False)


def _once(store: Store, key: str, chunks: Chunks, write: Write, *, mend: bool) -> Object:
    try:
        return write(key, "create")
    except Conflict as error:
        if error.kind != "key-taken":
            raise
    wanted, there = _told(key, chunks()), _told(key, store.stream(key))
    if there == wanted:
        return there
    if mend:
        return write(key, "overwrite")
    stem, _, ending = key.rpartition(".")
    beside = f"{stem}-{wanted.digest.removeprefix('sha256:')[:32]}.{ending}"
    return _once(store, beside, chunks, write, mend=True)


def _told(key: str, chunks: Iterable[bytes]) -> Object:
    seen = _Seen()
    for _ in seen.of(chunks):
        pass
    return seen.told(key)


class _Seen:
    """Counts and hashes what passes."""

    def __init__(self) -> None:
        self._size, self._hash = 0, hashlib.sha256()

    def of(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._size += len(chunk)
            self._hash.update(chunk)
            yield chunk

    def told(self, key: str) -> Object:
        return Object(key, self._size, f"sha256:{self._hash.hexdigest()}")
