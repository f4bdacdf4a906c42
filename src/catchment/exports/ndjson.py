"""Records from files: NDJSON, plain or gzip, and FHIR Bundles, in a folder or any other store."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from isal import igzip
from isal.igzip_lib import IsalError

from catchment.core.errors import Invalid
from catchment.core.store import Store
from catchment.core.store_file import StoreFile
from catchment.exports.model import MIB
from catchment.exports.sources import (
    MAX_TEXT,
    Item,
    Pause,
    Reader,
    item_of,
    items_of,
    read_bundle,
    refusal,
)

BUNDLE = ".json"
SUFFIXES = (".ndjson", ".ndjson.gz", BUNDLE)


@dataclass(frozen=True, slots=True)
class FileSource:
    """Each file below the store's root is a member, known by its key.

    Attributes:
        store: holds the files.
        resource_type: the type that is taken from Bundles; None: all.
    """

    store: Store
    resource_type: str | None = None

    def members(self) -> Sequence[str]:
        """Keys of all NDJSON files and Bundles, in order."""
        return [stat.key for stat in self.store.list() if stat.key.lower().endswith(SUFFIXES)]

    @contextmanager
    def open(self, pause: Pause) -> Iterator[Reader]:  # noqa: ARG002 - files need no second try
        """A reader of these files."""
        yield self._read

    def describe(self) -> dict[str, Any]:
        """The store's URL, and a digest that changes when a file does."""
        digest = hashlib.sha256()
        for stat in self.store.list():
            digest.update(json.dumps([stat.key, stat.size, stat.etag]).encode())
        return {
            "files": self.store.url,
            "type": self.resource_type,
            "digest": f"sha256:{digest.hexdigest()}",
        }

    def _read(self, member: str) -> Iterator[Item]:
        with StoreFile(self.store, member) as raw:
            file: io.BufferedIOBase = io.BufferedReader(raw, MIB)
            try:
                if member.lower().endswith(".gz"):
                    file = igzip.IGzipFile(fileobj=file)  # type: ignore[no-untyped-call]
                if member.lower().endswith(BUNDLE):
                    data = file.read(MAX_TEXT + 1)
                    if len(data) > MAX_TEXT:
                        raise Invalid(
                            f"expected a Bundle of at most {MAX_TEXT} bytes, got more",
                            kind="too-large",
                        )
                    yield from items_of(read_bundle(data), self.resource_type, member)
                else:
                    yield from _lines(file, member)
            except (EOFError, igzip.BadGzipFile, IsalError):  # type: ignore[misc] # its stub
                raise Invalid("expected gzip, got something else", kind="part-unreadable") from None


def _lines(file: io.BufferedIOBase, member: str) -> Iterator[Item]:
    number = 0
    while line := file.readline(MAX_TEXT + 1):
        number += 1
        if len(line) > MAX_TEXT:
            while line and not line.endswith(b"\n"):
                line = file.readline(MIB)
            yield refusal("too-large", f"line {number} has more than {MAX_TEXT} bytes", member)
            continue
        if number == 1:  # what editors of one system put before a text
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield item_of(line.rstrip(b"\r\n"), number, member)
