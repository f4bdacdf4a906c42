"""A store in an S3 bucket: obstore for objects, boto3 (extra ``s3``) for uploads in parts."""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Buffer, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, cast, override

import obstore
from obstore.store import S3Store as Backend

from catchment.core import compose
from catchment.core.errors import Conflict, Invalid, NotFound, Unavailable
from catchment.core.store import (
    Composed,
    Form,
    Mode,
    Range,
    Segment,
    Stat,
    Store,
    check_key,
    check_prefix,
    key_taken,
    open_store,
)
from catchment.core.store_objects import Objects, obstore_errors, sha256
from catchment.core.store_s3_config import TOKEN, aws_settings, backend, client

if TYPE_CHECKING:
    from catchment.core.store_s3_upload import Upload

ATTEMPTS = 4
HEADS = 8  # at the same time
MAX_EXPIRY = timedelta(days=7)  # AWS Signature Version 4

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


def open_s3(path: str, options: Mapping[str, str]) -> S3Store:
    """The store at what follows ``s3://``."""
    bucket, _, prefix = path.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise Invalid("expected s3://bucket/prefix", kind="bad-store-url")
    return S3Store(bucket, check_prefix(prefix and prefix.removesuffix("/") + "/"), options)


class S3Store(Objects):
    """Objects of a bucket below a prefix; see :class:`catchment.core.store.Store`.

    A create is one conditional request (``If-None-Match: *``): the only one, or the last of an
    upload in parts. If its answer is lost, a token in the object's metadata tells if it is ours.
    """

    def __init__(self, bucket: str, prefix: str, options: Mapping[str, str]) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.options = dict(options)
        url = f"s3://{bucket}/{prefix}".removesuffix("/")
        super().__init__(url, backend(bucket, prefix, options))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(open_store, **self.options), (self.url,)

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
        bodies = _bodies((data,) if isinstance(data, Buffer) else data)
        first, second = next(bodies, b""), next(bodies, b"")
        if not second:
            return self._put_whole(key, first, mode)
        size = 0
        with self._upload(key, mode) as upload:
            for body in chain((first, second), bodies):
                upload.send(body)
                size += len(body)
            etag = upload.complete(mode)
        return Stat(key, size, etag, datetime.now(UTC))

    @override
    def copy(self, source: str, target: str, *, mode: Mode = "create") -> Stat:
        return compose.copy(self, source, target, mode)

    @override
    def presign(
        self, key: str, *, expires: timedelta, method: Literal["GET", "PUT"] = "GET"
    ) -> str:
        check_key(key)
        if not timedelta(seconds=1) <= expires <= MAX_EXPIRY:
            raise Invalid("a presigned URL lasts from 1 second to 7 days", kind="bad-expiry")
        with obstore_errors(key):
            return obstore.sign(cast("Backend", self._backend), method, key, expires)

    @override
    def presign_post(self, key: str, *, expires: timedelta, max_bytes: int) -> Form:
        check_key(key)
        if not timedelta(seconds=1) <= expires <= MAX_EXPIRY:
            raise Invalid("a presigned form lasts from 1 second to 7 days", kind="bad-expiry")
        if "${filename}" in key:  # S3 would put the name of the sent file there
            raise Invalid("the key of a form holds '${filename}'", kind="bad-key")
        with aws_settings():
            made = self._client.generate_presigned_post(
                Bucket=self.bucket,
                Key=self.prefix + key,
                Conditions=[["content-length-range", 0, max_bytes]],
                ExpiresIn=int(expires.total_seconds()),
            )
        return Form(made["url"], made["fields"])

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
        check_key(target)
        segments = list(segments)
        etags = _check_sources(segments)
        parts = compose.plan_parts(segments, self._can_copy)
        if len(parts) < 2 and not any(map(self._copied, parts)):
            body = b"".join(compose.stream(chain(*parts)))
            self._put_whole(target, body, mode)
            return Composed(target, len(body), sha256(body) if digest else None)
        size = 0
        hashed = hashlib.sha256() if digest else None
        with self._upload(target, mode) as upload:
            for part in parts:
                if source := self._copied(part):
                    size += source.length
                    store = cast("S3Store", source.store)
                    upload.copy(
                        store.bucket,
                        store.prefix + source.key,
                        source.start,
                        source.length,
                        etags[source.store, source.key],
                    )
                    if hashed:
                        for chunk in compose.stream(part):
                            hashed.update(chunk)
                else:
                    body = b"".join(upload.pool.map(_fetch, part))
                    size += len(body)
                    upload.send(body)
                    if hashed:
                        hashed.update(body)
            if hashed and _check_sources(segments) != etags:
                raise Conflict("a source changed while it was hashed", kind="source-changed")
            upload.complete(mode)
        return Composed(target, size, f"sha256:{hashed.hexdigest()}" if hashed else None)

    @override
    def sweep(self, older_than: timedelta, *, dry_run: bool = False) -> int:
        s3 = self._client
        from catchment.core.store_s3_upload import abort_uploads

        before = datetime.now(UTC) - older_than
        return abort_uploads(s3, self.bucket, self.prefix, before, dry_run=dry_run)

    @override
    def clock(self) -> datetime | None:
        s3 = self._client
        from catchment.core.store_s3_upload import clock

        return clock(s3, self.bucket, self.prefix)

    @cached_property
    def _client(self) -> Any:
        return client(self.options)

    def _upload(self, key: str, mode: Mode) -> Upload:
        s3 = self._client
        from catchment.core.store_s3_upload import Upload

        if mode == "create":
            with suppress(NotFound):  # early: parts are big; the last request decides
                self.head(key)
                raise key_taken(key)
        return Upload(s3, self.bucket, self.prefix + key)

    def _put_whole(self, key: str, body: bytes, mode: Mode) -> Stat:
        token = uuid.uuid4().hex
        for attempt in range(ATTEMPTS):
            try:
                with obstore_errors(key):
                    answer = obstore.put(
                        self._backend,
                        key,
                        body,
                        mode=mode,
                        attributes={TOKEN: token},
                        use_multipart=False,
                    )
            except (Conflict, Unavailable) as error:
                # An attempt may have been applied and its answer lost, here or inside obstore.
                failed = error
                found = self._token(key)
                if found == token:
                    return self.head(key)
                if found is not None and mode == "create":
                    raise key_taken(key) from None
                time.sleep(0.1 * 2**attempt)
            else:
                return Stat(key, len(body), answer["e_tag"] or "", datetime.now(UTC))
        raise failed

    def _token(self, key: str) -> str | None:
        """Of the put that wrote the object: empty if it was none of ours, None without object."""
        try:
            with obstore_errors(key):
                found = obstore.get(self._backend, key, options={"head": True})
        except NotFound:
            return None
        return found.attributes.get(TOKEN, "")

    def _can_copy(self, source: Range) -> bool:
        """The storage can read the source itself: same service, same rights."""
        return isinstance(source.store, S3Store) and source.store.options == self.options

    def _copied(self, part: Sequence[Segment]) -> Range | None:
        """The range that the part is, if the storage can copy it."""
        first = part[0]
        if len(part) == 1 and isinstance(first, Range) and first.length >= compose.PART:
            return first if self._can_copy(first) else None
        return None


def _check_sources(segments: Sequence[Segment]) -> dict[tuple[Store, str], str]:
    """The etag of each source; NotFound or Corrupt if one is missing or too short."""
    ends: dict[tuple[Store, str], int] = {}
    for segment in segments:
        if isinstance(segment, Range):
            source = segment.store, segment.key
            ends[source] = max(ends.get(source, 0), segment.start + segment.length)
    with ThreadPoolExecutor(HEADS) as pool:
        stats = list(pool.map(lambda source: source[0].head(source[1]), ends))
    for stat, end in zip(stats, ends.values(), strict=True):
        if stat.size < end:
            raise compose.short(stat.key, end)
    return {source: stat.etag for source, stat in zip(ends, stats, strict=True)}


def _fetch(segment: Segment) -> bytes:
    return b"".join(compose.stream([segment]))


def _bodies(data: Iterable[Buffer]) -> Iterator[bytes]:
    """The bytes in parts of 5 MiB, and of more after each thousand: S3 takes 10,000 of them."""
    body = bytearray()
    size = compose.PART
    count = 0
    for chunk in data:
        view = memoryview(chunk).cast("B")
        while view:
            taken = view[: size - len(body)]
            body += taken
            view = view[len(taken) :]
            if len(body) == size:
                yield bytes(body)
                body.clear()
                count += 1
                size = compose.PART * (1 + count // 1000)
    if body:
        yield bytes(body)
