"""A hint to the disk: what will soon be read from start to end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

from catchment.core.errors import CatchmentError
from catchment.core.store import Store

AHEAD = 1 << 30  # bytes: what a disk brings while a run is planned, and what any memory bears
_STEP = 128 << 10  # bytes; of more, the kernel takes what the disk takes at once, and no rest


def read_ahead(store: Store, keys: Iterable[str]) -> None:
    """Have the first GiB of objects read into memory, where they are files; nobody waits for it.

    What cannot be had is left out.
    """
    files: list[Path] = []
    with suppress(CatchmentError, OSError):
        files += (path for key in keys if (path := store.path(key)) is not None)
    if files and hasattr(os, "posix_fadvise"):  # Linux
        with suppress(RuntimeError):  # no thread can be started
            Thread(target=_read_ahead, args=(files,), name="ahead", daemon=True).start()


def _read_ahead(files: Sequence[Path]) -> None:
    left = AHEAD
    for path in files:
        with suppress(OSError), path.open("rb") as file:
            size = min(left, os.fstat(file.fileno()).st_size)
            left -= size
            for start in range(0, size, _STEP):
                os.posix_fadvise(file.fileno(), start, _STEP, os.POSIX_FADV_WILLNEED)
