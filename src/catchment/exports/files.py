"""The few operations on local files that durability and clear errors need."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from catchment.core.errors import CatchmentError, Invalid, NotFound, Unavailable


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn an OSError into one of ours, of the kinds that a local store has; ``what`` failed."""
    try:
        yield
    except OSError as error:
        raise failure(error, what) from error


def failure(error: OSError, what: str) -> CatchmentError:
    """The error of ours: NotFound, Invalid ``permission-denied``, Unavailable ``disk-full``, ..."""
    message = f"{what}: {error.strerror or type(error).__name__}"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NotFound(message, hint="check the folder; was the job removed?")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Invalid(
                message,
                kind="permission-denied",
                hint="mend owner, mode or flags, then run the same command again",
            )
        case errno.ENOSPC | errno.EDQUOT:
            return Unavailable(
                message, kind="disk-full", hint="make room, then run the same command again"
            )
    return Unavailable(
        message, kind="io-error", hint="mend the file system, then run the same command again"
    )


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of the data, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def begin_sync(descriptor: int, start: int, size: int) -> None:
    """Let the kernel begin to write bytes to the disk, so that the sync that follows is short."""
    if hasattr(os, "posix_fadvise"):
        # On Linux this is what it does with dirty pages, whatever its name says.
        os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_DONTNEED)
