"""Hashes that stand more than once in the files of a table, found in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from tempfile import SpooledTemporaryFile

import numpy as np
from numpy.typing import NDArray

from catchment.core.errors import Unavailable
from catchment.tables.keys import Hashes

SLICE_BITS = 10  # the range of hashes is cut into 2**10 slices, so that it is compared in parts
PART = 1 << 20  # hashes compared at a time (8 MiB)
SPOOL_BYTES = 1 << 23  # kept in memory before they go to a temporary file


def places(values: Hashes, wanted: Hashes) -> NDArray[np.int64]:
    """Where the wanted are among the values, both ascending."""
    start = np.searchsorted(values, wanted, "left")
    count = np.searchsorted(values, wanted, "right") - start
    offset: NDArray[np.int64] = np.repeat(start - np.cumsum(count) + count, count)
    return np.arange(len(offset)) + offset


def repeated(runs: Iterable[Hashes]) -> Hashes:
    """Hashes that occur more than once in all runs together, ascending; each run is ascending.

    The runs go to a temporary file and are compared in slices of the hashes' range: memory holds
    little more than ``PART`` of them.
    """
    slices = 1 << SLICE_BITS
    edges = np.arange(1, slices, dtype=np.uint64) << np.uint64(64 - SLICE_BITS)
    try:
        with SpooledTemporaryFile(SPOOL_BYTES) as scratch:
            bounds, end = [], 0  # of each run's slices in the file
            for run in runs:
                bounds.append(np.concatenate(([0], np.searchsorted(run, edges), [len(run)])) + end)
                end += len(run)
                scratch.write(run.data)
            ends = np.cumsum(np.diff(bounds).sum(axis=0))
            firsts = np.unique(ends // PART, return_index=True)[1]
            found = []
            for first, last in zip(firsts, [*firsts[1:], slices], strict=True):
                part = np.empty(sum(b[last] - b[first] for b in bounds), np.uint64)
                rest = part.view(np.uint8).data
                for b in bounds:
                    scratch.seek(b[first] * 8)
                    rest = rest[scratch.readinto(rest[: (b[last] - b[first]) * 8]) :]
                part.sort(kind="stable")  # which merges runs, and these are some
                same = np.pad(part[1:] == part[:-1], (1, 0))
                found.append(part[:-1][same[1:] & ~same[:-1]])
            return np.concatenate(found)
    except OSError as error:
        raise Unavailable(
            f"no room to compare keys in a temporary file: {error.strerror}",
            kind="no-scratch-space",
            hint="set TMPDIR to a folder with more room: 8 bytes for each row of the table",
        ) from error
