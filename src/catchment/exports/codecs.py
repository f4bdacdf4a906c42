"""Compression of outputs, as they are written."""

from __future__ import annotations

from typing import Protocol

import zstandard
from isal import isal_zlib

from catchment.exports.model import Codec

LEVEL = 1  # both codecs are then as fast as the digest is


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
