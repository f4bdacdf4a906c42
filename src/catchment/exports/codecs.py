"""Compression of outputs, as they are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import zstandard
from isal import isal_zlib
from isal.igzip_lib import IsalError

from catchment.core.errors import Corrupt
from catchment.exports.model import Codec

LEVEL = 1  # both codecs are then as fast as the digest is
_SLICE = 1 << 14  # bytes that are decompressed at once: they may become a thousand times as many


class Compressor(Protocol):
    """Takes bytes, gives fewer."""

    def compress(self, data: memoryview, /) -> bytes | memoryview:
        """What can be given so far."""
        ...

    def flush(self) -> bytes:
        """The rest."""
        ...


class _Plain:
    def compress(self, data: memoryview, /) -> memoryview:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(codec: Codec) -> Compressor:
    """A fresh one. The same bytes give the same bytes, in the same pieces."""
    match codec:
        case Codec.GZIP:  # 31: with gzip's header, which holds no time
            return isal_zlib.compressobj(level=LEVEL, wbits=31)
        case Codec.ZSTD:
            return zstandard.ZstdCompressor(level=LEVEL).compressobj()
        case Codec.NONE:
            return _Plain()


def decompressed(chunks: Iterable[bytes], codec: Codec) -> Iterator[bytes]:
    """The bytes as they were before compression; memory stays small, whatever they hold.

    Corrupt (kind ``output-unreadable``) where they are damaged or end too early.
    """
    if codec is Codec.NONE:
        yield from chunks
        return
    gzip = codec is Codec.GZIP
    through = (
        isal_zlib.decompressobj(wbits=31) if gzip else zstandard.ZstdDecompressor().decompressobj()
    )
    try:
        for chunk in chunks:
            for start in range(0, len(chunk), _SLICE):
                yield through.decompress(chunk[start : start + _SLICE])
    except (IsalError, zstandard.ZstdError):  # type: ignore[misc] # wrong in its stub
        raise _unreadable() from None
    if not through.eof:
        raise _unreadable()


def _unreadable() -> Corrupt:
    return Corrupt(
        "an output is not as it was compressed",
        kind="output-unreadable",
        hint="restore the file from a backup, or run the job again",
    )
