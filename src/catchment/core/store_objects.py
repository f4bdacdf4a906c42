"""What stores on obstore share, and the store in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Buffer, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, override

import obstore
from obstore import exceptions
from obstore.store import MemoryStore as _Memory

from catchment.core import compose
from catchment.core.errors import CatchmentError, Invalid, NotFound, Translating, Unavailable
from catchment.core.store import (
    Composed,
    Form,
    Mode,
    Segment,
    Stat,
    Store,
    check_key,
    check_prefix,
    draft_removed,
    key_taken,
)

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ObjectStore

CHUNK = 4 << 20  # bytes of a stream's chunk, at most

_memories: dict[str, MemoryStore] = {}


class Objects(Store):
    """The verbs that are the same for every obstore backend."""

    def __init__(self, url: str, backend: ObjectStore) -> None:
        self._url = url
        self._backend = backend

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    @property
    @override
    def url(self) -> str:
        return self._url

    @override
    def head(self, key: str) -> Stat:
        check_key(key)
        with obstore_errors(key):
            return _stat(obstore.head(self._backend, key))

    @override
    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        result = self._get(key, start, length)
        with obstore_errors(key):
            return bytes(result.bytes()) if result else b""

    @override
    def stream(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        result = self._get(key, start, length)
        return _chunks(result, key) if result else iter(())

    @override
    def list(self, prefix: str = "") -> Iterator[Stat]:
        check_prefix(prefix)
        return self._list(prefix)

    @override
    def folders(self, prefix: str = "") -> Iterator[str]:
        check_prefix(prefix)
        with obstore_errors(prefix or self.url):
            found = obstore.list_with_delimiter(self._backend, prefix or None)["common_prefixes"]
        return iter(sorted((path.rpartition("/")[2] for path in found), key=str.encode))

    @override
    def delete(self, key: str) -> None:
        check_key(key)
        try:
            with obstore_errors(key):
                obstore.delete(self._backend, key)
        except NotFound as error:
            if error.kind != NotFound.kind:  # the bucket itself
                raise

    @override
    def path(self, key: str) -> Path | None:
        check_key(key)
        return None

    def _get(self, key: str, start: int, length: int | None) -> GetResult | None:
        """The object's answer; None if the range holds no byte of it."""
        check_key(key)
        if start < 0 and length is not None:
            start = max(0, self.head(key).size + start)
        if length == 0:
            self.head(key)
            return None
        options: GetOptions = {}
        if start < 0:
            options["range"] = {"suffix": -start}
        elif length is not None:
            options["range"] = (start, start + length)
        elif start:
            options["range"] = {"offset": start}
        try:
            with obstore_errors(key):
                return obstore.get(self._backend, key, options=options)
        except (Invalid, Unavailable):  # backends answer in many ways to a range without bytes
            if options and ((size := self.head(key).size) == 0 or start >= size):
                return None
            raise

    def _list(self, prefix: str) -> Iterator[Stat]:
        pages = obstore.list(self._backend, prefix or None, chunk_size=1000)
        while True:
            with obstore_errors(prefix or self.url):
                page = next(pages, None)
            if page is None:
                return
            for meta in page:
                if meta["path"].startswith(prefix) and (meta["size"] or self._exists(meta["path"])):
                    yield _stat(meta)

    def _exists(self, path: str) -> bool:
        """False for the marker of a folder, ``a/`` without bytes, which is listed as ``a``."""
        try:
            with obstore_errors(path):
                obstore.head(self._backend, path)
        except NotFound:
            return False
        return True


def open_memory(name: str) -> MemoryStore:
    """The store of that name: the same one each time within a process."""
    check_key(name)
    return _memories.setdefault(name, MemoryStore(f"memory://{name}", _Memory()))


class MemoryStore(Objects):
    """A store that lasts as long as the process; see :class:`catchment.core.store.Store`."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise Invalid(
            f"{self.url} lives in this process only and cannot be sent to another",
            kind="not-picklable",
            hint="use a file:// or s3:// store, or run with one process",
        )

    @override
    def put(
        self,
        key: str,
        data: Buffer | Iterable[Buffer],
        *,
        mode: Mode = "create",
        durable: bool = True,
    ) -> Stat:
        check_key(key)
        body = bytes(data) if isinstance(data, Buffer) else b"".join(data)
        with obstore_errors(key):
            obstore.put(self._backend, key, body, mode=mode, use_multipart=False)
        return self.head(key)

    @override
    def copy(self, source: str, target: str, *, mode: Mode = "create") -> Stat:
        return compose.copy(self, source, target, mode)

    @override
    def presign(
        self, key: str, *, expires: timedelta, method: Literal["GET", "PUT"] = "GET"
    ) -> str:
        raise Invalid(f"{self.url}: only an S3 store presigns URLs", kind="no-presign")

    @override
    def presign_post(self, key: str, *, expires: timedelta, max_bytes: int) -> Form:
        raise Invalid(f"{self.url}: only an S3 store presigns forms", kind="no-presign")

    @override
    def compose(
        self,
        target: str,
        segments: Iterable[Segment],
        *,
        mode: Mode = "create",
        digest: bool = False,
        durable: bool = True,
    ) -> Composed:
        body = b"".join(compose.stream(segments))
        self.put(target, body, mode=mode)
        return Composed(target, len(body), sha256(body) if digest else None)

    @override
    def sweep(self, older_than: timedelta, *, dry_run: bool = False) -> int:
        return 0

    @override
    def clock(self) -> datetime | None:
        return None


def sha256(data: Buffer) -> str:
    """``sha256:<hex>`` of the bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _chunks(result: GetResult, key: str) -> Iterator[bytes]:
    stream = result.stream(min_chunk_size=CHUNK // 4)
    while True:
        with obstore_errors(key):
            chunk = next(stream, None)
        if chunk is None:
            return
        for start in range(0, len(chunk), CHUNK):
            yield bytes(chunk[start : start + CHUNK])


def _stat(meta: ObjectMeta) -> Stat:
    return Stat(meta["path"], meta["size"], meta["e_tag"] or "", meta["last_modified"])


class obstore_errors(Translating):  # noqa: N801 - used like contextlib.suppress
    """Turns an error of obstore inside the block into one of ours, about a key or a prefix."""

    @override
    def ours(self, error: BaseException) -> CatchmentError | None:
        # A panic of the Rust side is a BaseException: nobody further out would catch it.
        foreign = isinstance(error, (exceptions.BaseError, FileNotFoundError, ValueError))
        panic = type(error).__name__ == "PanicException"
        return _failure(error, self._key) if foreign or panic else None


def _failure(error: BaseException, key: str) -> CatchmentError:
    """What obstore's error means to the caller. Its text may name credentials: only codes go on."""
    text = str(error)
    code = re.search(r"<Code>(\w+)</Code>", text)
    status = re.search(r"status code: (\d{3})", text)
    match error:
        case FileNotFoundError() if not (code and code[1] == "NoSuchBucket"):
            return NotFound(f"no object {key!r}")
        case exceptions.AlreadyExistsError():
            return key_taken(key)
        case exceptions.InvalidPathError() | ValueError():
            return Invalid(
                f"an object at or below {key!r} has a name that is no usable key",
                kind="bad-key",
                hint="rename or remove the object: a part is empty, '.' or '..'",
            )
    if "169.254.169.254" in text or "redirect" in text:  # no credentials, another region
        return bad_settings(key, "no credentials" if "169.254" in text else "redirected")
    return refusal(key, int(status[1]) if status else 0, code[1] if code else type(error).__name__)


def refusal(key: str, status: int, code: str) -> CatchmentError:
    """What an answer of S3 means to the caller; status 0 if there was none."""
    told = f"{status} {code}" if status else code
    if named := _named(key, code, told):
        return named
    match status:
        case 401 | 403:
            return Invalid(
                f"no permission for {key!r}: {told}",
                kind="permission-denied",
                hint="check the credentials in the [s3] settings or the AWS_* environment",
            )
        case 404:
            return NotFound(f"no object {key!r}")
        case 409 | 412:
            return key_taken(key)
    if 300 <= status < 400:
        return bad_settings(key, told)
    if 400 <= status < 500 and status not in {408, 429}:
        return Invalid(f"S3 refused {key!r}: {told}", kind="refused")
    return Unavailable(f"S3 did not serve {key!r}: {told}", hint="try again later")


def _named(key: str, code: str, told: str) -> CatchmentError | None:
    """What codes mean that say more than the status."""
    match code:
        case "NoSuchBucket":
            return NotFound(
                "the store's bucket does not exist",
                kind="no-bucket",
                hint="create the bucket, or check the store's URL and endpoint",
            )
        case "NoSuchUpload":
            return draft_removed(key)
        case "RequestTimeTooSkewed":
            return Invalid(
                f"S3 lets nobody in whose clock is so far off: {told}",
                kind="clock-skew",
                hint="set this machine's clock by NTP; catchment doctor tells how far off it is",
            )
    return None


def bad_settings(key: str, told: str) -> Invalid:
    """The error for settings that cannot work."""
    return Invalid(
        f"cannot use the S3 settings for {repr(key) if key else 'the bucket'}: {told}",
        kind="bad-store-option",
        hint="set region, endpoint and credentials in [s3], or as AWS_* variables",
    )
