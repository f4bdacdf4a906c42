"""Finished parts: who they are, what pieces they give, and how their bytes are read."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
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


class PartFolder:
    """The folder of finished parts. Open: names are looked up in it without walking its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def open(self) -> None:
        """Take the folder that is there now, if there is one."""
        self.close()
        with suppress(FileNotFoundError):
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Let it go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def names(self) -> list[str]:
        """All that lies in the folder now; nothing where there is none."""
        self.open()
        if self._descriptor < 0:
            return []
        with os.scandir(self._descriptor) as entries:
            return [entry.name for entry in entries]

    def inodes(self) -> set[int]:
        """Of all that lies in the folder that was opened."""
        with os.scandir(self._descriptor) as entries:
            return {entry.inode() for entry in entries}

    def stat(self, part: str) -> os.stat_result:
        """Of the part itself, not of what it links to; FileNotFoundError if there is none."""
        if self._descriptor < 0:
            raise FileNotFoundError
        return os.stat(part, dir_fd=self._descriptor, follow_symlinks=False)

    def move(self, part: str, folder: int) -> None:
        """Move a part into another folder, under the same name; FileNotFoundError if none is."""
        if self._descriptor < 0:
            raise FileNotFoundError
        os.rename(part, part, src_dir_fd=self._descriptor, dst_dir_fd=folder)

    def put(self, part: str, folder: int, name: str = "") -> None:
        """Link a part of another folder here; FileExistsError where there is one of the name."""
        os.link(part, name or part, src_dir_fd=folder, dst_dir_fd=self._descriptor)

    def read(self, part: str) -> io.RawIOBase:
        """The part's bytes, uncompressed."""
        file = io.FileIO(self._open(part))
        if not layout.is_gzip(part):
            return file
        unzipped = igzip.IGzipFile(fileobj=file)  # type: ignore[no-untyped-call]
        unzipped.myfileobj = file  # to be closed with it
        return cast("io.RawIOBase", unzipped)

    def chunks(self, part: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """Bytes of the part from ``start``, at most ``size`` of them.

        Corrupt (kind ``part-unreadable``) where a compressed part cannot be read to its end.
        """
        left = sys.maxsize if size is None else size
        try:
            with self.read(part) as file:
                file.seek(start)
                while chunk := file.read(min(left, MIB)):
                    yield chunk
                    left -= len(chunk)
        except (EOFError, igzip.BadGzipFile, IsalError):  # type: ignore[misc] # wrong in its stub
            raise Corrupt(
                f"{part} cannot be read as gzip",
                kind="part-unreadable",
                hint="write the part again, or move it out of the folder of finished files",
            ) from None

    def measure(
        self, part: str, size: int, max_bytes: int, used: Sequence[Span] = ()
    ) -> list[Piece]:
        """The pieces that a part still has to give, in order; none where it is empty or used up.

        Args:
            part: its name.
            size: of the file in bytes, as stored.
            max_bytes: no piece is larger, but for a single line that is.
            used: what earlier outputs took from it.
        """
        total = sum(map(len, self.chunks(part))) if layout.is_gzip(part) else size
        if total and self._last(part, total) != b"\n":
            total += 1
        if not used and 0 < total <= max_bytes:
            return [Piece(part, 0, total)]
        pieces = []
        at = 0
        for span in [*sorted(used), Span(total, 0)]:
            for piece in cut(self.chunks(part, at, span.start - at), max_bytes):
                pieces.append(Piece(part, at, piece))
                at += piece
            at = span.start + span.size
        return pieces

    def _last(self, part: str, size: int) -> bytes:
        if layout.is_gzip(part):
            return next(self.chunks(part, size - 1))
        file = self._open(part)
        try:
            return os.pread(file, 1, size - 1)
        finally:
            os.close(file)

    def _open(self, part: str) -> int:
        return os.open(part, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._descriptor)
