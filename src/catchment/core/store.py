"""The door to object storage: one small protocol, and the rules for keys.

A store is a tree of immutable-by-custom objects under a URL: ``file:///folder``,
``memory://name`` or ``s3://bucket/prefix``. :func:`open_store` opens one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Buffer, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from catchment.core.errors import Conflict, Invalid, Unavailable

Mode = Literal["create", "overwrite"]

MAX_KEY_BYTES = 1024  # S3's limit
MAX_PART_BYTES = 255  # a file name on every usual file system
RESERVED = ".catchment"  # first part of what a store keeps for itself; never an object's key
OPTIONS = frozenset(
    {
        "endpoint",
        "region",
        "access_key_id",
        "secret_access_key",
        "session_token",
        "allow_http",
        "virtual_hosted_style",
    }
)


class Stat(NamedTuple):
    """What a store knows of an object without reading it.

    ``etag`` only tells that nothing moved; ``modified`` is the storage's clock, but in the answer
    of an S3 put it is ours.
    """

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


class Form(NamedTuple):
    """What an HTML form, or a client that acts like one, sends with a file to upload it."""

    url: str
    fields: dict[str, str]  # before the file, which is the field ``file``


class Composed(NamedTuple):
    """A composed object: its size in bytes and, where asked for, ``sha256:<hex>`` of its bytes."""

    key: str
    size: int
    digest: str | None


class Store(Protocol):
    """Few verbs. A store survives pickling (but not ``memory://``): workers open it by URL.

    No key should be the folder of another (``a`` and ``a/b``): a local store refuses the second
    (Conflict, kind ``key-taken``). All verbs raise Unavailable while the storage cannot be reached
    or is full, and Invalid (kind ``permission-denied``) where it refuses us.
    """

    @property
    def url(self) -> str:
        """The URL that :func:`open_store` opens this store from; holds no credentials."""
        ...

    def head(self, key: str) -> Stat:
        """What the object is. NotFound if there is none."""
        ...

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """The bytes ``[start, start + length)``, shorter at the end of the object.

        A negative ``start`` counts from the end (at most to the start). NotFound if there is no
        object.
        """
        ...

    def stream(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The same bytes, in chunks of at most a few MiB. NotFound is raised at once."""
        ...

    def put(
        self,
        key: str,
        data: Buffer | Iterable[Buffer],
        *,
        mode: Mode = "create",
        durable: bool = True,
    ) -> Stat:
        """All or nothing, durable on return: no reader sees half an object.

        Conflict (kind ``key-taken``) if mode is ``create`` and the key is taken. Memory does not
        grow with the size of an iterable; if it fails, nothing was put. ``durable=False`` is for
        staged objects that may be lost, or emptied, by a power cut.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Objects below a prefix that is empty or ends in ``/``, in order of key (UTF-8 bytes).

        Foreign objects whose names are no usable keys are listed too, and so are links and special
        files of a folder, so that none is passed over in silence and none keeps the others away;
        every other verb refuses them.
        """
        ...

    def folders(self, prefix: str = "") -> Iterator[str]:
        """The distinct next parts below a prefix, without ``/``, in order (UTF-8 bytes)."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; no error if there is none."""
        ...

    def copy(self, source: str, target: str, *, mode: Mode = "create") -> Stat:
        """A copy within this store, made by the storage itself; as whole and durable as a put."""
        ...

    def path(self, key: str) -> Path | None:
        """Where a reader on this machine finds the object as a file; None if it is not one."""
        ...

    def presign(
        self, key: str, *, expires: timedelta, method: Literal["GET", "PUT"] = "GET"
    ) -> str:
        """A URL that allows one method on one key for a while. Invalid where the store has none."""
        ...

    def presign_post(self, key: str, *, expires: timedelta, max_bytes: int) -> Form:
        """A form that puts one file of at most so many bytes under one key, for a while.

        The storage answers 204. It overwrites: a form knows no ``create``. Invalid (kind
        ``no-presign``) where the store has none.
        """
        ...

    def compose(
        self,
        target: str,
        segments: Iterable[Segment],
        *,
        mode: Mode = "create",
        digest: bool = False,
        durable: bool = True,
    ) -> Composed:
        """Build an object from byte ranges and literal bytes, in order; bytes are not decoded.

        Segments may come one by one while others are made; where the storage can, earlier ones are
        copied meanwhile. If the iterable fails, nothing was composed.
        Ranges of the same kind of storage never pass through this process where the storage can
        copy them itself. As whole and durable as a put; an interrupted one leaves nothing visible.
        NotFound if a source is missing, Corrupt (kind ``short-source``) if one is shorter than its
        range says. ``digest`` costs one read of the sources: no storage hashes an object for us.
        """
        ...

    def sweep(self, older_than: timedelta, *, dry_run: bool = False) -> int:
        """Remove what interrupted writes of at least that age left behind; how many there were.

        A dry run only counts them.
        """
        ...

    def clock(self) -> datetime | None:
        """What time it is for the storage, to the second; None if that is this machine's time."""
        ...


def check_key(key: str) -> str:
    """The key itself, if it may name an object; Invalid (kind ``bad-key``) otherwise.

    Keys are relative, of parts joined by ``/``; no part is empty, ``.`` or ``..`` or holds a
    control character, a backslash or a lone surrogate; a part has at most 255 bytes, a key 1024.
    The first part is not ``.catchment``.
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


def key_taken(key: str) -> Conflict:
    """The error of a create that came second."""
    return Conflict(f"the key {key!r} is taken", kind="key-taken")


def draft_removed(key: str) -> Unavailable:
    """The error of a put whose draft a collection took for one that was left: nothing was put."""
    return Unavailable(
        f"what was being written to {key!r} was removed before it was whole",
        kind="draft-removed",
        hint="run the same command again; let catchment gc have a longer --grace",
    )


def _problem(key: str) -> str | None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "it holds a lone surrogate"
    if not 0 < size <= MAX_KEY_BYTES:
        return f"it has {size} bytes, expected 1 to {MAX_KEY_BYTES}"
    parts = key.split("/")
    if parts[0] == RESERVED:
        return f"its first part is {RESERVED!r}, which a store keeps for itself"
    for part in parts:
        if part in ("", ".", ".."):
            return "it has an empty, '.' or '..' part"
        if len(part.encode()) > MAX_PART_BYTES:
            return f"a part has more than {MAX_PART_BYTES} bytes"
    if "\\" in key or any(unicodedata.category(c) == "Cc" for c in key):
        return "it holds a control character or a backslash"
    return None


def open_store(url: str, **options: str) -> Store:
    """Open the store at a URL; options are those of the settings' ``[s3]`` table.

    They are ``endpoint``, ``region``, ``access_key_id``, ``secret_access_key``, ``session_token``,
    ``allow_http`` and ``virtual_hosted_style`` (``true`` or ``false``); what is absent comes from
    the ``AWS_*`` environment. Stores that are not S3 take no notice of them.

    Invalid (kind ``bad-store-url``) for any other URL, and for one that holds credentials; Invalid
    (kind ``bad-store-option``) for an unknown option. A local folder is made at the first write.
    """
    if unknown := sorted(options.keys() - OPTIONS):
        raise Invalid(
            f"unknown store options {', '.join(unknown)}; expected {', '.join(sorted(OPTIONS))}",
            kind="bad-store-option",
        )
    scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise Invalid(
            "a store's URL must not hold credentials",
            kind="bad-store-url",
            hint="put them into the [s3] settings or into AWS_* variables",
        )
    match scheme:
        case "file":
            from catchment.core.store_local import open_local

            return open_local(rest)
        case "memory":
            from catchment.core.store_objects import open_memory

            return open_memory(rest)
        case "s3":
            from catchment.core.store_s3 import open_s3

            return open_s3(rest, {name: value for name, value in options.items() if value})
    raise Invalid(
        "not the URL of a store: expected file:///folder, memory://name or s3://bucket/prefix, "
        + (f"got {scheme}://" if rest else "got no scheme"),
        kind="bad-store-url",
        hint="mend the URL; a folder needs no scheme in catchment.toml",
    )
