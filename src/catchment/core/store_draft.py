"""A local file in the making: written in order, then durable, with its digest if asked for."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import sys
from collections.abc import Buffer
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import override

from catchment.core.compose import short
from catchment.core.errors import CatchmentError, Invalid, NotFound, Translating, Unavailable
from catchment.core.store import key_taken

BUFFER = 1 << 18  # bytes; fits a core's cache: larger ones were three times slower to copy through
SMALL = 1 << 15  # bytes; below it a read into the buffer costs less than a copy by the kernel
HASHED = 4 << 20  # bytes hashed at once: each time, the interpreter's lock has to be had again
STRIDE = 8 << 20  # bytes between signals to the disk and to the digest

_SYNC_FILE_RANGE_WRITE = 2  # <fcntl.h>
_sync_file_range = None
if sys.platform == "linux":
    _sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if _sync_file_range is not None:
        _sync_file_range.argtypes = ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
_NO_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


class Draft:
    """A file that nobody sees yet.

    Args:
        fd: an empty file, open for reading and writing; stays the caller's.
        key: what errors call it.
        digest: compute SHA-256 of the bytes while they are written.
    """

    def __init__(self, fd: int, key: str, *, digest: bool = False) -> None:
        self.size = 0
        self.digest: str | None = None
        self._fd = fd
        self._key = key
        self._buffer = memoryview(bytearray(BUFFER))
        self._filled = 0
        self._signalled = 0
        self._sizes: SimpleQueue[int | None] = SimpleQueue()
        self._thread: ThreadPoolExecutor | None = None
        if digest:
            self._thread = ThreadPoolExecutor(1, "digest")
            self._hashed: Future[str] = self._thread.submit(_follow, fd, self._sizes)

    def write(self, data: Buffer) -> None:
        """Append the bytes."""
        if not isinstance(data, bytes):
            data = memoryview(data).cast("B")
        if len(data) > BUFFER - self._filled:
            self._flush()
            if len(data) > SMALL:
                self._append(memoryview(data))
                return
        self._buffer[self._filled : self._filled + len(data)] = data
        self._filled += len(data)

    def splice(self, source: int, key: str, start: int, length: int) -> None:
        """Append bytes of an open file, by the kernel where it can (a reflink, a server's copy)."""
        if length < SMALL:
            self._read(source, key, start, length)
            return
        self._flush()
        while length:
            with os_errors(self._key):
                count = _copy(source, self._fd, start, min(length, STRIDE))
            if not count:
                self._read(source, key, start, length)
                return
            start += count
            length -= count
            self._advance(count)

    def finish(self, *, durable: bool) -> None:
        """Make it whole, and durable unless told otherwise; sets ``digest`` where asked for."""
        self._flush()
        self._sizes.put(self.size)
        self._sizes.put(None)
        with os_errors(self._key):
            if durable:
                os.fsync(self._fd)
            if self._thread:
                self.digest = self._hashed.result()

    def close(self) -> None:
        """End the digest's thread: from here on the file may be closed."""
        if self._thread:
            self._sizes.put(None)
            self._thread.shutdown()

    def _read(self, source: int, key: str, start: int, length: int) -> None:
        while length:
            if self._filled == BUFFER:
                self._flush()
            room = self._buffer[self._filled : self._filled + length]
            with os_errors(self._key):
                count = os.preadv(source, [room], start)
            if not count:
                raise short(key, start + length)
            self._filled += count
            start += count
            length -= count

    def _flush(self) -> None:
        self._append(self._buffer[: self._filled])
        self._filled = 0

    def _append(self, data: memoryview) -> None:
        while data:
            with os_errors(self._key):
                count = os.write(self._fd, data[:STRIDE])
            data = data[count:]
            self._advance(count)

    def _advance(self, count: int) -> None:
        self.size += count
        if self.size - self._signalled >= STRIDE:
            _write_back(self._fd, self._signalled, self.size - self._signalled)
            self._signalled = self.size
            self._sizes.put(self.size)


def _write_back(file: int, start: int, length: int) -> None:
    """Let the disk begin: half the time of the fsync. The pages stay in memory for the next run.

    Only a hint: what fails here fails again, and is told, at the fsync.
    """
    if _sync_file_range is not None:
        _sync_file_range(file, start, length, _SYNC_FILE_RANGE_WRITE)


def _copy(source: int, target: int, start: int, count: int) -> int:
    """Bytes copied to the target's position; 0 where the kernel cannot."""
    if sys.platform != "linux":
        return 0
    try:
        return os.copy_file_range(source, target, count, offset_src=start)
    except OSError as error:
        if error.errno in _NO_COPY:
            return 0
        raise


def _follow(fd: int, sizes: SimpleQueue[int | None]) -> str:
    """Hash a file while it grows: its pages are still in memory, and another core is free."""
    sha256 = hashlib.sha256()
    buffer = memoryview(bytearray(HASHED))
    done = 0
    while (size := sizes.get()) is not None:
        while done < size:
            count = os.preadv(fd, [buffer[: size - done]], done)
            sha256.update(buffer[:count])
            done += count
    return f"sha256:{sha256.hexdigest()}"


class os_errors(Translating):  # noqa: N801 - used like contextlib.suppress
    """Turns an OSError inside the block into one of ours, about a key."""

    @override
    def ours(self, error: BaseException) -> CatchmentError | None:
        return failure(error, self._key) if isinstance(error, OSError) else None


def failure(error: OSError, key: str) -> CatchmentError:
    """What the system's error means to the caller."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NotFound(f"no object {key!r}")
        case errno.EEXIST | errno.EISDIR:
            return key_taken(key)
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Invalid(
                f"no permission for {key!r}: {error.strerror}",
                kind="permission-denied",
                hint="check the owner and the mode of the store's folder",
            )
        case errno.ENOSPC | errno.EDQUOT:
            return Unavailable(
                f"no space left to write {key!r}",
                kind="disk-full",
                hint="free some space (catchment gc), then run it again",
            )
        case errno.ELOOP | errno.ENXIO:  # a link, a socket
            return not_followed(key)
        case errno.ENAMETOOLONG:
            return Invalid(f"the path of {key!r} is too long for the file system", kind="bad-key")
    return Unavailable(f"{key!r}: {error.strerror}", kind="io-error")


def not_followed(key: str) -> Invalid:
    """The error for a link: what it leads to may lie outside the store."""
    return Invalid(
        f"{key!r} is, or lies behind, a symbolic link or a special file",
        kind="not-a-file",
        hint="put the file itself there, or open a store at the place that the link leads to",
    )
