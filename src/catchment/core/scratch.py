"""A folder for what a run keeps on this machine while it works.

It is locked while its process lives, and the lock ends with the process, however that ends. So a
folder that nobody holds was left by one that was killed, and may hold data: the next one removes
it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, gettempdir

from catchment.core.errors import Unavailable

PREFIX = "catchment-work-"  # no other folder of ours in the same place is called so
YOUNG_SECONDS = 60.0  # its owner may be about to lock it


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, gone afterwards.

    Unavailable: kind ``disk-full`` where there is no room, ``no-scratch-space`` where there can be
    no folder.
    """
    try:
        _sweep_once()
        made = TemporaryDirectory(prefix=PREFIX)
    except OSError as error:
        raise Unavailable(
            f"there is no place for temporary folders: {error.strerror}",
            kind="no-scratch-space",
            hint="set TMPDIR to a folder that may be written",
        ) from error
    try:
        with made as folder, ExitStack() as stack:
            with suppress(OSError):  # without locks nobody can hold it, to remove it
                stack.enter_context(_held(folder))
            yield Path(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unavailable(
            f"a temporary folder in {gettempdir()} has no room",
            kind="disk-full",
            hint="make room, or set TMPDIR to a larger place; then run the same command again",
        ) from error


def sweep(*, dry_run: bool = False) -> int:
    """Remove the folders of processes of this user that were killed; how many there were."""
    old = time.time() - YOUNG_SECONDS
    count = 0
    for path in Path(gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            found = path.lstat()
            if found.st_uid != os.geteuid() or found.st_mtime > old:
                continue
            with _held(path):
                if not dry_run:
                    rmtree(path)
                count += 1
    return count


@cache
def _sweep_once() -> None:
    sweep()


@contextmanager
def _held(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a folder. OSError where another process does, or it is no folder."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(place)
