"""Pieces of parts become the bytes of one output, with digest and count in the same pass."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import cycle
from typing import NamedTuple

import numpy as np

from catchment.core.errors import Unavailable
from catchment.exports.codecs import compressor
from catchment.exports.files import begin_sync, write_all
from catchment.exports.model import MIB, Codec, Piece

_BUFFERS = 4
_FLUSH = 8 * MIB  # bytes that are written before the kernel begins to bring them to the disk
_NEWLINE = ord("\n")


class Made(NamedTuple):
    """What was written: see :class:`catchment.exports.model.Output`."""

    size: int
    stored: int
    lines: int
    digest: str


class Combiner:
    """Writes outputs, one at a time; its buffers and its thread serve all of them."""

    def __init__(self) -> None:
        self._buffers = [bytearray(MIB) for _ in range(_BUFFERS)]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="catchment-digest")

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown()

    def combine(
        self,
        descriptor: int,
        pieces: Iterable[Piece],
        open_part: Callable[[str], io.RawIOBase],
        codec: Codec,
    ) -> Made:
        """Write the pieces, one after the other, to a file, which is not durable yet.

        Bytes are copied, never parsed; the only change is a newline where a part lacks its last
        one. Reading and writing go on while the thread takes the digest of the same buffers.
        """
        source = _Source(pieces, open_part)
        sink = _Sink(descriptor, codec)
        digest = hashlib.sha256()
        size = lines = 0
        pending: deque[Future[None]] = deque()
        try:
            for buffer in cycle(self._buffers):
                if len(pending) == _BUFFERS:
                    pending.popleft().result()
                if not (filled := source.fill(buffer)):
                    break
                data = memoryview(buffer)[:filled]
                pending.append(self._thread.submit(digest.update, data))
                size += filled
                lines += _newlines(data)
                sink.write(data)
            for future in pending:
                future.result()
        finally:
            source.close()
            wait(pending)  # before the buffers serve the next output
        return Made(size, sink.close(), lines, f"sha256:{digest.hexdigest()}")


def _newlines(data: memoryview) -> int:
    """NumPy counts several times as fast as ``bytes.count``, and lets other threads run."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == _NEWLINE))


class _Source:
    """The pieces as one stream of bytes; small ones share a buffer."""

    def __init__(self, pieces: Iterable[Piece], open_part: Callable[[str], io.RawIOBase]) -> None:
        self._pieces = iter(pieces)
        self._open_part = open_part
        self._part = ""
        self._file = io.RawIOBase()
        self._left = 0  # bytes of the piece that are still to come
        self._last = _NEWLINE

    def fill(self, buffer: bytearray) -> int:
        """Put the next bytes into the buffer; returns how many, less than its size at the end."""
        view = memoryview(buffer)
        at = 0
        while at < len(view):
            if not self._left and not self._advance():
                break
            count = self._file.readinto(view[at : at + self._left]) or 0
            if not count:
                if self._left != 1 or self._last == _NEWLINE:
                    raise Unavailable(
                        f"{self._part} became shorter while it was combined",
                        kind="part-changed",
                        hint="workers must not write to finished files",
                    )
                view[at] = _NEWLINE  # counted by the plan, missing in the part
                count = 1
            at += count
            self._left -= count
            self._last = view[at - 1]
        return at

    def _advance(self) -> bool:
        self._file.close()
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._part, start, self._left = piece
        self._file = self._open_part(self._part)
        if start:
            self._file.seek(start)
        self._last = _NEWLINE
        return True

    def close(self) -> None:
        self._file.close()


class _Sink:
    """The file that is written, through a codec where one is asked for."""

    def __init__(self, descriptor: int, codec: Codec) -> None:
        self._descriptor = descriptor
        self._compressor = compressor(codec)
        self._stored = self._begun = 0

    def write(self, data: memoryview) -> None:
        self._put(self._compressor.compress(data))

    def close(self) -> int:
        """Finish; returns the bytes stored."""
        self._put(self._compressor.flush())
        self._begin_sync()
        return self._stored

    def _put(self, data: bytes | memoryview) -> None:
        write_all(self._descriptor, data)
        self._stored += len(data)
        if self._stored - self._begun >= _FLUSH:
            self._begin_sync()

    def _begin_sync(self) -> None:
        begin_sync(self._descriptor, self._begun, self._stored - self._begun)
        self._begun = self._stored
