"""Serving the files of a published job: ranges (RFC 9110, section 14), encodings, expiry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from catchment.core.errors import NotFound
from catchment.core.store import Store
from catchment.exports import layout
from catchment.exports.codecs import compressor, decompressed
from catchment.exports.jobs import Status
from catchment.exports.model import Codec, Output

MEDIA_TYPE = "application/fhir+ndjson"
_ENCODING = {Codec.GZIP: "gzip", Codec.ZSTD: "zstd"}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer over HTTP, before any framework knows of it."""

    status: int
    headers: Mapping[str, str]
    body: Iterable[bytes] = ()


def expiry(job: Status, hours: int) -> datetime:
    """Until when the files of a finished job are served."""
    return (job.finished_at or job.started_at) + timedelta(hours=hours)


def find(job: Status, name: str, expires: datetime, now: datetime) -> Output:
    """The output of this name.

    NotFound: kind ``no-file``; kind ``job-expired`` once the time is over.
    """
    output = next((output for output in job.outputs if output.name == name), None)
    if job.state != "published" or output is None:
        raise NotFound(f"job {job.job} has no such file", kind="no-file")
    if now >= expires:
        raise NotFound(
            f"the files of job {job.job} were served until {expires:%Y-%m-%d %H:%M}Z",
            kind="job-expired",
            hint="run the export again",
        )
    return output


def serve(
    store: Store, job: Status, output: Output, expires: datetime, request: Mapping[str, str]
) -> Reply:
    """The file, or the range of it that the request's headers (in lower case) ask for.

    A file goes out as it is stored where the client takes that encoding. Else it is decompressed,
    or compressed by gzip, on the way. A range is one of what goes out, so it is never compressed
    on the way; several ranges at once are answered with the whole, as a server may.
    """
    key, stored = job.location + output.name, layout.codec_of(output.name)
    sent = _encoding(stored, request)
    etag = f'"{output.digest.removeprefix("sha256:")}{layout.STORED[sent]}"'
    headers = {
        "Content-Type": MEDIA_TYPE,
        "ETag": etag,
        "Vary": "Accept-Encoding",
        "Expires": format_datetime(expires.astimezone(UTC), usegmt=True),
    }
    known = request.get("if-none-match", "").replace("W/", "").split(",")
    if {etag, "*"} & {item.strip() for item in known}:
        return Reply(304, headers)
    if sent is not Codec.NONE:
        headers["Content-Encoding"] = _ENCODING[sent]
    if sent is not stored and sent is not Codec.NONE:
        return Reply(200, headers, _compressed(store.stream(key), sent))
    size = output.stored if sent is stored else output.size
    asked = request.get("range", "") if request.get("if-range", etag) == etag else ""
    start, length = _range(asked, size)
    if length is None:
        return Reply(416, {"Content-Range": f"bytes */{size}"})
    headers |= {"Accept-Ranges": "bytes", "Content-Length": str(length)}
    if (start, length) != (0, size):
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
    status = 206 if "Content-Range" in headers else 200
    if sent is stored:
        return Reply(status, headers, store.stream(key, start=start, length=length))
    return Reply(status, headers, _cut(decompressed(store.stream(key), stored), start, length))


def _encoding(stored: Codec, request: Mapping[str, str]) -> Codec:
    """What goes out: by what is stored and what the client takes (RFC 9110, section 12.5.3)."""
    accepted = set()
    for item in request.get("accept-encoding", "").split(","):
        coding, _, weight = item.partition(";")
        if not re.fullmatch(r"\s*q=0(\.0*)?\s*", weight):
            accepted.add(coding.strip().lower())
    if stored is not Codec.NONE:
        return stored if _ENCODING[stored] in accepted else Codec.NONE
    return Codec.GZIP if "gzip" in accepted and "range" not in request else Codec.NONE


def _range(asked: str, size: int) -> tuple[int, int | None]:
    """Start and length of one range; all where none is asked for, no length where it is outside."""
    match = _RANGE.fullmatch(asked.strip())
    if match is None or match[0] == "bytes=-":
        return 0, size
    if not match[1]:
        length = min(int(match[2]), size)
        return size - length, length or None
    start, last = int(match[1]), int(match[2] or size - 1)
    if last < start and match[2]:
        return 0, size
    return start, min(last + 1, size) - start if start < size else None


def _compressed(chunks: Iterable[bytes], codec: Codec) -> Iterator[bytes]:
    through = compressor(codec)
    for chunk in chunks:
        if data := through.compress(memoryview(chunk)):
            yield bytes(data)
    yield through.flush()


def _cut(chunks: Iterable[bytes], start: int, length: int) -> Iterator[bytes]:
    for chunk in chunks:
        part = chunk[start : start + length]
        start = max(start - len(chunk), 0)
        length -= len(part)
        if part:
            yield part
        if not length:
            return
