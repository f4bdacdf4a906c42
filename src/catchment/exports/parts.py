"""Finished parts: who they are, what pieces they give, and how their bytes are read."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from isal import igzip
from isal.igzip_lib import IsalError

from catchment.core.errors import Corrupt
from catchment.exports import layout
from catchment.exports.model import MIB, Piece
from catchment.exports.plan import cut


class Identity(NamedTuple):
    """What tells a file from another, later one of the same name."""

    inode: int
    size: int  # bytes, as stored
    mtime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Identity:
        """The identity that a stat shows."""
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns)


class Span(NamedTuple):
    """A range of a part's uncompressed bytes."""

    start: int
    size: int


def open_part(path: Path) -> io.RawIOBase:
    """The part's bytes, uncompressed."""
    if layout.is_gzip(path.name):
        return cast("io.RawIOBase", igzip.IGzipFile(path))  # type: ignore[no-untyped-call]
    return io.FileIO(path)


def chunks(path: Path, start: int = 0, size: int | None = None) -> Iterator[bytes]:
    """Bytes of the part from ``start``, at most ``size`` of them.

    Corrupt (kind ``part-unreadable``) where a compressed part cannot be read to its end.
    """
    left = sys.maxsize if size is None else size
    try:
        with open_part(path) as file:
            file.seek(start)
            while chunk := file.read(min(left, MIB)):
                yield chunk
                left -= len(chunk)
    except (EOFError, igzip.BadGzipFile, IsalError):  # type: ignore[misc] # wrong in its stub
        raise Corrupt(
            f"{path.name} cannot be read as gzip",
            kind="part-unreadable",
            hint="write the part again, or move it out of the folder of finished files",
        ) from None


def measure(path: Path, size: int, max_bytes: int, used: Sequence[Span] = ()) -> list[Piece]:
    """The pieces that a part still has to give, in order; none where it is empty or used up.

    Args:
        path: of the part.
        size: of the file in bytes, as stored.
        max_bytes: no piece is larger, but for a single line that is.
        used: what earlier outputs took from it.
    """
    total = sum(map(len, chunks(path))) if layout.is_gzip(path.name) else size
    if total and next(chunks(path, total - 1)) != b"\n":
        total += 1
    pieces = []
    at = 0
    for span in [*sorted(used), Span(total, 0)]:
        gap = span.start - at
        sizes = [gap] if 0 < gap <= max_bytes else cut(chunks(path, at, gap), max_bytes)
        for piece in sizes:
            pieces.append(Piece(path.name, at, piece))
            at += piece
        at = span.start + span.size
    return pieces
