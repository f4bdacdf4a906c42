"""Memory of large arrays goes back to the system as soon as they are not needed; or it stays.

The allocator of the C library keeps what is freed for later, up to 32 MB a piece: of work on a
cube of four million rows, 260 MB stay behind. But to ask the system for each array anew takes as
long as to work on it, where there are many.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from catchment.core.scratch import scratch_folder

_THRESHOLD = -3  # M_MMAP_THRESHOLD: what is larger is mapped by itself
_TRIM = -1  # M_TRIM_THRESHOLD: so much stays that is free at the end
_LEAN = 4 << 20  # pieces of what is looked at at once stay below it, and are used again
_LITTLE = 16 << 20
_USUAL = 32 << 20  # what it grows to by itself; the other one is twice as much then
_ROOM = 1 << 30


@contextmanager
def lean() -> Iterator[None]:
    """Within it nothing large stays behind; as ever where the C library is another."""
    library = _library()
    if library is None:
        yield
        return
    library.mallopt(_THRESHOLD, _LEAN)
    library.mallopt(_TRIM, _LITTLE)
    library.malloc_trim(0)
    try:
        yield
    finally:
        library.mallopt(_THRESHOLD, _USUAL)
        library.mallopt(_TRIM, 2 * _USUAL)
        library.malloc_trim(0)


@contextmanager
def roomy() -> Iterator[None]:
    """Within it what is given back is used again; afterwards it goes back to the system."""
    library = _library()
    if library is None:
        yield
        return
    library.mallopt(_THRESHOLD, _USUAL)
    library.mallopt(_TRIM, _ROOM)
    try:
        yield
    finally:
        library.mallopt(_TRIM, 2 * _USUAL)
        library.malloc_trim(0)


class Shelf:
    """Arrays in files without a name: what nobody looks at takes no memory."""

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []

    def put(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The same array, to be read only."""
        if not array.size:
            return array
        with scratch_folder() as folder, (folder / "array").open("w+b") as file:
            array.T.tofile(file)
            file.flush()
            self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return np.frombuffer(self._maps[-1], array.dtype).reshape(array.T.shape).T

    def close(self) -> None:
        """Until they are looked at again, they are not needed."""
        for one in self._maps:
            one.madvise(mmap.MADV_DONTNEED)


def in_one(
    parts: list[npt.NDArray[Any]], kind: type[np.int32 | np.int64 | np.float32]
) -> npt.NDArray[Any]:
    """The parts as one; the list of them is emptied, for they take much memory."""
    made = np.concatenate([np.zeros(0, kind), *parts], dtype=kind)
    parts.clear()
    return made


@cache
def _library() -> Any:
    with suppress(OSError, AttributeError, TypeError):
        found = ctypes.CDLL(None)
        _ = found.mallopt, found.malloc_trim  # looked up only now
        return found
    return None
