"""A local file in the making: written in order, then durable, with its digest if asked for."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import sys
from collections import deque
from collections.abc import Buffer
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import override

from catchment.core.compose import short
from catchment.core.errors import CatchmentError, Invalid, NotFound, Translating, Unavailable
from catchment.core.store import key_taken

BUFFER = 1 << 18  # bytes; fits a core's cache: larger ones were three times slower to copy through
SMALL = 1 << 15  # bytes; below it a read into the buffer costs less than a copy by the kernel
BLOCK = 4 << 20  # bytes hashed and written at once: each time, the interpreter's lock is wanted
BLOCKS = 4  # in memory: one is filled, the others are hashed and written
STRIDE = 8 << 20  # bytes between signals to the disk

_SYNC_FILE_RANGE_WRITE = 2  # <fcntl.h>
_sync_file_range = None
if sys.platform == "linux":
    _sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if _sync_file_range is not None:
        _sync_file_range.argtypes = ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
_NO_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_DIRECT = getattr(os, "O_DIRECT", 0)


class Draft:
    """A file that nobody sees yet.

    Args:
        fd: an empty file, open for reading and writing; stays the caller's.
        key: what errors call it.
        digest: compute SHA-256 of the bytes while they are written.
        durable: on the disk once it is finished.
    """

    def __init__(self, fd: int, key: str, *, digest: bool = False, durable: bool = True) -> None:
        self.size = 0
        self.digest: str | None = None
        self._fd = fd
        self._key = key
        self._durable = durable
        self._blocks = _Blocks(fd, direct=durable) if digest else None
        with os_errors(key):
            self._buffer = memoryview(mmap.mmap(-1, BLOCK) if digest else bytearray(BUFFER))
        self._filled = 0
        self._signalled = 0

    def write(self, data: Buffer) -> None:
        """Append the bytes."""
        view = memoryview(data).cast("B")
        if self._blocks is None and len(view) > SMALL:
            self._flush()
            self._append(view)
            return
        while view:
            if self._filled == len(self._buffer):
                self._flush()
            count = min(len(view), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]

    def splice(self, source: int, key: str, start: int, length: int) -> None:
        """Append bytes of an open file, by the kernel where it can (a reflink, a server's copy).

        Those to be hashed have to pass through here, whoever copies them.
        """
        if self._blocks is not None or length < SMALL:
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

    def finish(self) -> None:
        """Make it whole; sets ``digest`` where asked for."""
        with os_errors(self._key):
            if self._blocks is None:
                self._flush()
            else:
                self.size += self._filled
                self._blocks.last(self._buffer[: self._filled])
            if self._durable:
                os.fsync(self._fd)
            if self._blocks is not None:
                self.digest = self._blocks.digest()

    def close(self) -> None:
        """Leave the file alone: from here on it may be closed."""
        if self._blocks is not None:
            self._blocks.close()
        self._buffer = memoryview(b"")  # an error's traceback may keep this for long

    def _read(self, source: int, key: str, start: int, length: int) -> None:
        while length:
            if self._filled == len(self._buffer):
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
        if self._blocks is None:
            self._append(self._buffer[: self._filled])
        else:
            self.size += self._filled
            with os_errors(self._key):
                self._buffer = self._blocks.turn(self._buffer)
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


class _Blocks:
    """A file's blocks on their way: one thread hashes them, another writes.

    Args:
        fd: the file.
        direct: write past the page cache (open(2), ``O_DIRECT``) where the file system can. That
            spares a copy into new pages, which somebody has to write back later, and leaves in
            memory what others read.
    """

    def __init__(self, fd: int, *, direct: bool) -> None:
        self._fd = fd
        self._direct = direct
        self._sha256 = hashlib.sha256()
        self._at = 0
        self._lock = Lock()  # on the file
        self._closed = False
        self._busy: deque[tuple[memoryview, Future[None], Future[None]]] = deque()
        self._writer: ThreadPoolExecutor | None = None  # most files are less than a block
        self._hasher: ThreadPoolExecutor | None = None

    def turn(self, block: memoryview) -> memoryview:
        """Take a full block; give one to fill."""
        if self._writer is None or self._hasher is None:
            if self._direct:
                self._direct = _set_direct(self._fd, on=True)
            self._writer = ThreadPoolExecutor(1, "write")
            self._hasher = ThreadPoolExecutor(1, "digest")
        try:
            written = self._writer.submit(self._write, block, self._at)
            hashed = self._hasher.submit(self._sha256.update, block)
        except RuntimeError as error:  # no thread can be started
            raise OSError(errno.EAGAIN, str(error)) from None
        self._busy.append((block, written, hashed))
        self._at += len(block)
        return self._oldest() if len(self._busy) == BLOCKS else memoryview(mmap.mmap(-1, BLOCK))

    def last(self, rest: memoryview) -> None:
        """Wait for all blocks, and append what is not a whole one."""
        while self._busy:
            self._oldest()
        self._buffered()
        self._write(rest, self._at)
        self._sha256.update(rest)

    def digest(self) -> str:
        """``sha256:<hex>`` of all."""
        return f"sha256:{self._sha256.hexdigest()}"

    def close(self) -> None:
        """Write no more, and end the threads."""
        with self._lock:  # who is interrupted while a thread starts has nothing to wait for
            self._closed = True
        self._busy.clear()
        for thread in (self._writer, self._hasher):
            if thread is not None:
                thread.shutdown(cancel_futures=True)

    def _oldest(self) -> memoryview:
        block, written, hashed = self._busy.popleft()
        written.result()
        hashed.result()
        return block

    def _write(self, data: memoryview, at: int) -> None:
        while data:
            with self._lock:
                if self._closed:
                    return
                try:
                    count = os.pwrite(self._fd, data, at)
                except OSError as error:
                    if error.errno != errno.EINVAL or not self._direct:
                        raise
                    self._buffered()  # what is left is not aligned, or the disk wants other blocks
                    continue
                if not self._direct:
                    _write_back(self._fd, at, count)
            data = data[count:]
            at += count

    def _buffered(self) -> None:
        if self._direct:
            self._direct = _set_direct(self._fd, on=False)


def _set_direct(fd: int, *, on: bool) -> bool:
    """Write past the page cache from now on, or no longer; whether it does."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~_DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | _DIRECT if on else flags)
    except OSError:  # the file system cannot
        return False
    return on and bool(_DIRECT)


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
