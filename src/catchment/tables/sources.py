"""Where a center's dataset lies: by a URL template, by a list of URLs, or by dataset pointers."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol, Self
from urllib.parse import quote, unquote

from catchment.core.errors import Invalid, NotFound
from catchment.core.names import shown
from catchment.core.store import Store, check_key, open_store
from catchment.core.strictjson import described
from catchment.tables.model import Center

# Amazon S3 user guide, "General purpose bucket naming rules".
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


REMOTE, LOCAL = 16, 2  # questions to stores at a time


def at_once(stores: Iterable[Store]) -> int:
    """How many questions to ask at a time: a disk answers sooner than many threads take turns."""
    return LOCAL if all(store.url.startswith("file:") for store in stores) else REMOTE


class Place(NamedTuple):
    """A dataset's place: the prefix is empty or ends in ``/``; below it are ``versions/...``."""

    store: Store
    prefix: str


class Source(Protocol):
    """Knows where datasets lie."""

    @property
    def one_bucket(self) -> bool:
        """Whether all places of a run must lie in one bucket."""
        ...

    def locate(self, center: Center) -> Place:
        """The place of a center's dataset; called from several threads.

        NotFound or Invalid is about this center, which is then skipped and reported. Any other
        error ends the run.
        """
        ...


class Url(NamedTuple):
    """A place's address, compared part by part, so that ``/fw/ucd`` never holds ``/fw/ucdavis``."""

    scheme: str
    bucket: str  # empty for files
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, url: str) -> Self:
        """From ``file:///folder`` (percent-encoded), ``/folder`` or ``s3://bucket/prefix``.

        Invalid (kind ``bad-place``) for all else: another scheme, a host, credentials, a query.
        """
        if url.startswith("/"):
            url = "file://" + quote(url)
        scheme, found, rest = url.partition("://")
        bucket, _, path = rest.partition("/")
        parts = path.removesuffix("/").split("/") if path.strip("/") else []
        problem = ""
        if not found or scheme not in {"file", "s3"}:
            problem = "expected file:///folder or s3://bucket/prefix"
        elif "?" in rest or "#" in rest:
            problem = "expected neither a query nor a fragment"
        elif scheme == "file" and bucket:
            problem = "expected file:///, with three slashes"
        elif scheme == "s3" and not BUCKET.fullmatch(bucket):
            problem = "expected the name of a bucket after s3://"
        if problem:
            # The URL itself may hold a secret (user:password@host); its scheme cannot.
            raise Invalid(f"not a place of datasets: {problem}", kind="bad-place")
        if parts:
            key = check_key(unquote("/".join(parts)) if scheme == "file" else "/".join(parts))
            parts = key.split("/")
        return cls(scheme, bucket, tuple(parts))

    def holds(self, other: Url) -> bool:
        """Whether the other lies at or below this one."""
        return self[:2] == other[:2] and self.parts == other.parts[: len(self.parts)]


class Stores:
    """Opens each store once, and only where the allow-list lets it.

    Args:
        allow: URLs at or below which a place must lie; ``{center}`` and ``{adcid}`` stand for the
            center's own. Empty: anywhere.
        options: of :func:`open_store`.
    """

    def __init__(self, allow: Iterable[str], options: Mapping[str, str] | None) -> None:
        self._allow = tuple(check_template(url, placeholder=False) for url in allow)
        self._options = dict(options or {})
        self._open: dict[str, Store] = {}
        self._lock = threading.Lock()

    def place(self, center: Center, url: Url, *, root: int = 0) -> Place:
        """The place at a URL; for files, the store is opened at the first ``root`` parts of it.

        Invalid (kind ``place-not-allowed``) outside the allow-list.
        """
        if self._allow and not any(Url.parse(_fill(a, center)).holds(url) for a in self._allow):
            raise Invalid(
                f"{center.id}: its dataset lies outside of the places allowed for it",
                kind="place-not-allowed",
                hint=f"allowed: {', '.join(_fill(a, center) for a in self._allow)}",
            )
        opened, below = f"s3://{url.bucket}", url.parts
        if url.scheme == "file":
            opened, below = f"file:///{quote('/'.join(url.parts[:root]))}", url.parts[root:]
        with self._lock:
            if opened not in self._open:
                self._open[opened] = open_store(opened, **self._options)
            return Place(self._open[opened], "".join(f"{part}/" for part in below))


class TemplateSource:
    """Datasets at ``URL/{center}`` or ``URL/{adcid}``.

    Invalid (kind ``bad-place``) if the template has no placeholder, another brace, or a scheme
    that is neither ``file`` nor ``s3``.
    """

    one_bucket = False

    def __init__(
        self,
        template: str,
        *,
        allow: Iterable[str] = (),
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._template = check_template(template)
        # One store for all centers: opened at the folders above the first placeholder.
        self._root = self._template.removeprefix("file://").partition("{")[0].count("/") - 1
        self._stores = Stores(allow, options)

    def locate(self, center: Center) -> Place:
        """The template, filled in for the center."""
        url = Url.parse(_fill(self._template, center))
        return self._stores.place(center, url, root=self._root)


class MappingSource:
    """Datasets at a place per center id: a URL, or a dataset pointer (:func:`read_pointer`)."""

    def __init__(
        self,
        places: Mapping[str, str | Mapping[str, object]],
        *,
        allow: Iterable[str] = (),
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._places = dict(places)
        self._stores = Stores(allow, options)
        self.one_bucket = any(not isinstance(place, str) for place in places.values())

    def locate(self, center: Center) -> Place:
        """The center's own; NotFound (kind ``no-place``) if none is given."""
        if center.id not in self._places:
            raise NotFound(
                f"{center.id}: no place of its dataset is given",
                kind="no-place",
                hint="name its URL beside those of the other centers",
            )
        place = self._places[center.id]
        url = Url.parse(place) if isinstance(place, str) else read_pointer(place)
        return self._stores.place(center, url, root=len(url.parts))


def read_pointer(pointer: object) -> Url:
    """Where a dataset pointer leads: ``{bucket, prefix, type: "s3"}``; other fields are not needed.

    Invalid (kind ``bad-pointer``) if it is anything else.
    """
    expected = 'expected {"type": "s3", "bucket": ..., "prefix": ...}'
    if not isinstance(pointer, Mapping):
        raise _bad_pointer(f"{expected}, got {described(pointer)}")
    kind, bucket, prefix = (pointer.get(name) for name in ("type", "bucket", "prefix"))
    if not isinstance(kind, str) or kind.lower() != "s3":
        got = shown(kind) if isinstance(kind, str) else described(kind)
        raise _bad_pointer(f"{expected}, got the type {got}")
    if not isinstance(bucket, str) or not BUCKET.fullmatch(bucket):
        raise _bad_pointer(f"{expected}, got no name of a bucket")
    if not isinstance(prefix, str) or not prefix.strip("/"):
        raise _bad_pointer(f"{expected}, got no prefix")
    return Url("s3", bucket, tuple(check_key(prefix.strip("/")).split("/")))


def check_one_bucket(places: Mapping[str, Place]) -> None:
    """Raise Invalid (kind ``many-buckets``) unless all places, by center id, are in one store."""
    examples: dict[str, str] = {}
    for center, place in places.items():
        examples.setdefault(place.store.url, center)
    if len(examples) > 1:
        raise Invalid(
            "the dataset pointers name several buckets, expected one: "
            + ", ".join(f"{url} (for one, {center})" for url, center in examples.items()),
            kind="many-buckets",
            hint="mend the pointer, or exclude the centers of all but one bucket",
        )


def check_template(template: str, *, placeholder: bool = True) -> str:
    """The URL template itself, if it is one; Invalid (kind ``bad-place``) otherwise."""
    filled = _fill(template, Center("sample", 100, "Sample"))
    if "{" in filled or "}" in filled:
        raise Invalid(
            "not a URL template: expected no braces but {center} and {adcid}", kind="bad-place"
        )
    if placeholder and filled == template:
        raise Invalid(
            "not a URL template: expected {center} or {adcid} in it",
            kind="bad-place",
            hint="for example s3://bucket/datasets/{center}",
        )
    Url.parse(filled)
    return template


def _fill(template: str, center: Center) -> str:
    return template.replace("{center}", center.id).replace("{adcid}", str(center.adcid))


def _bad_pointer(problem: str) -> Invalid:
    return Invalid(f"not a dataset pointer: {problem}", kind="bad-pointer")
