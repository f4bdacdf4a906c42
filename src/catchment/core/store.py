"""The door to object storage: one small protocol, and the rules for keys.

A store is a tree of immutable-by-custom objects under a URL: ``file:///folder``,
``memory://name`` or ``s3://bucket/prefix``. :func:`open_store` opens one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol

from catchment.core.errors import Invalid

Mode = Literal["create", "overwrite"]
Buffer = bytes | bytearray | memoryview

MAX_KEY_BYTES = 1024  # S3's limit
MAX_PART_BYTES = 255  # a file name on every usual file system


class Stat(NamedTuple):
    """What a store knows of an object without reading it. ``etag`` only tells that nothing moved."""

    key: str
    size: int  # bytes
    etag: str
    modified: datetime  # aware


class Range(NamedTuple):
    """Bytes ``[start, start + length)`` of an object of any store; a segment of a composition."""

    store: Store
    key: str
    start: int
    length: int


Segment = Range | bytes


class Composed(NamedTuple):
    """A composed object: its size in bytes and, where asked for, ``sha256:<hex>`` of its bytes."""

    key: str
    size: int
    digest: str | None


class Store(Protocol):
    """Few verbs. A store survives pickling (but not ``memory://``): workers open it by URL."""

    @property
    def url(self) -> str:
        """The URL that :func:`open_store` opens this store from; holds no credentials."""
        ...

    def head(self, key: str) -> Stat:
        """What the object is. NotFound if there is none."""
        ...

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """The bytes ``[start, start + length)``, shorter at the end of the object.

        A negative ``start`` counts from the end. NotFound if there is no object.
        """
        ...

    def stream(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The same bytes, in chunks of at most a few MiB. NotFound is raised at once."""
        ...

    def put(
        self, key: str, data: Buffer | Iterable[Buffer], *, mode: Mode = "create"
    ) -> Stat:
        """All or nothing, durable on return: no reader sees half an object.

        Conflict (kind ``key-taken``) if mode is ``create`` and the key is taken.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Objects below a prefix that is empty or ends in ``/``, in order of key (UTF-8 bytes)."""
        ...

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The distinct next parts below a prefix, without ``/``, in order; objects are not listed."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; no error if there is none."""
        ...

    def copy(self, source: str, target: str, *, mode: Mode = "create") -> Stat:
        """A copy within this store, made by the storage itself; as whole and durable as a put."""
        ...

    def presign(self, key: str, *, expires: timedelta, method: Literal["GET", "PUT"] = "GET") -> str:
        """A URL that allows one method on one key for a while. Invalid where the store has none."""
        ...

    def compose(
        self,
        target: str,
        segments: Sequence[Segment],
        *,
        mode: Mode = "create",
        digest: bool = False,
    ) -> Composed:
        """Build an object from byte ranges and literal bytes, in order; bytes are not decoded.

        Ranges of the same kind of storage never pass through this process where the storage can
        copy them itself. As whole and durable as a put; an interrupted one leaves nothing visible.
        NotFound if a source is missing, Corrupt if one is shorter than its range says.
        """
        ...


def check_key(key: str) -> str:
    """The key itself, if it may name an object; Invalid (kind ``bad-key``) otherwise.

    Keys are relative, of parts joined by ``/``; no part is empty, ``.`` or ``..`` or holds a
    control character, a backslash or a lone surrogate; a part has at most 255 bytes, a key 1024.
    """
    problem = _problem(key)
    if problem:
        raise Invalid(f"not a usable object key: {problem}", kind="bad-key")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself, if it is empty or a valid key followed by ``/``; Invalid otherwise."""
    if prefix:
        if not prefix.endswith("/"):
            raise Invalid(
                "a prefix must end in '/' so that 'a/b/' never finds 'a/bc'", kind="bad-prefix"
            )
        check_key(prefix[:-1])
    return prefix


def _problem(key: str) -> str | None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "it holds a lone surrogate"
    if not 0 < size <= MAX_KEY_BYTES:
        return f"it has {size} bytes, expected 1 to {MAX_KEY_BYTES}"
    for part in key.split("/"):
        if part in ("", ".", ".."):
            return "it has an empty, '.' or '..' part"
        if len(part.encode()) > MAX_PART_BYTES:
            return f"a part has more than {MAX_PART_BYTES} bytes"
    if "\\" in key or any(unicodedata.category(c) == "Cc" for c in key):
        return "it holds a control character or a backslash"
    return None


def open_store(url: str, **options: str) -> Store:
    """Open the store at a URL; options are those of the settings' ``[s3]`` table.

    Invalid (kind ``bad-store-url``) for any other URL. A local folder is made at the first write.
    """
    raise NotImplementedError
