"""A stored object as a seekable file, for libraries that want one."""

from __future__ import annotations

import io
import os
from collections.abc import Buffer, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from catchment.core.scratch import scratch_folder
from catchment.core.store import Store


@contextmanager
def seekable(store: Store, key: str, size: int, *, whole: bool) -> Iterator[str | BinaryIO]:
    """An object for a library that reads files: its path, or where it has none, a StoreFile.

    What will be read as a ``whole`` is brought into a file first. Threads of Arrow may free what a
    StoreFile gave them as late as when the program ends, and then abort it: let it use one only.
    """
    path = store.path(key)
    if path is not None:
        yield str(path)
    elif whole:
        with scratch_folder() as folder:
            with Path(folder, "object").open("wb") as file:
                file.writelines(store.stream(key))
            yield file.name
    else:
        with StoreFile(store, key, size) as opened:
            yield cast("BinaryIO", opened)


class StoreFile(io.RawIOBase):
    """Read-only view of one object; each read is one ranged read of the store.

    Wrap it in :class:`io.BufferedReader` where reads are small.
    """

    def __init__(self, store: Store, key: str, size: int | None = None) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._size = store.head(key).size if size is None else size
        self._at = 0

    def readable(self) -> bool:
        """Always: it is for reading only."""
        return True

    def seekable(self) -> bool:
        """Always: stores read by range."""
        return True

    def tell(self) -> int:
        """Bytes from the start of the object."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; ValueError before the start, as files do."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("seek before the start of the object")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill the buffer from here on; 0 at the end."""
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._size - self._at)
        if length <= 0:
            return 0
        data = self._store.read(self._key, start=self._at, length=length)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
