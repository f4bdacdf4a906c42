"""Receive: what a provider shows and was not seen before is kept as it is, and written down.

A file is kept once, under the SHA-256 of its bytes. What one look at a provider brought is a
*delivery*: a list of files (Parquet), durable before the ledger names it. The lists of all
deliveries are the cursor: a file that is listed with a name, size and etag that no list has is
new, whenever its provider says that it was written.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import batched
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from catchment.core.errors import (
    CatchmentError,
    Conflict,
    Corrupt,
    Invalid,
    NotFound,
    Unavailable,
)
from catchment.core.finding import WAY, Finding, Severity
from catchment.core.ledger import Contribution, Delivery, Lease
from catchment.core.progress import Event
from catchment.core.store import Stat, Store
from catchment.core.store_folders import overlap, there
from catchment.imaging import layout
from catchment.imaging.job import House
from catchment.imaging.model import Delivered, Job, Provider

if TYPE_CHECKING:
    import pyarrow as pa

DELIVERY = 10_000  # files in one delivery, at most
LOOK = 4096  # files of a listing that are looked up at a time
WHOLE = 32 << 20  # bytes of a file that is read at once; a larger one is read twice
TRIES = 3  # of a file that changes while it is read
THREADS = 8  # transfers at a time
MARK = 16  # bytes

_LOST = {
    "file-forbidden": "files were listed and may not be read",
    "file-moving": "files were listed and could not be read: they kept changing",
    "file-vanished": "files were listed and could not be read: they went away",
}
_FAULTS = (Invalid, NotFound, Unavailable)  # of a store; whose it is decides what they mean


class Received(NamedTuple):
    """One file of a delivery. Without a digest it could not be read at all, for the reason."""

    name: str
    size: int
    etag: str
    modified: datetime
    digest: str | None  # hexadecimal SHA-256
    reason: str | None
    mark: bytes


class Lost(NamedTuple):
    """A file that was listed and could not be had; the next look finds it, if it is there."""

    code: str


def receive(job: Job, house: House, lease: Lease) -> tuple[list[Finding], list[Contribution]]:
    """Keep every new file of every provider; the ledger has the deliveries on return.

    Told is what sites should know, and which deliveries wait for a run. All are looked up once:
    while we hold the lease nobody else brings one.

    A provider that cannot be reached does not keep the others' files away: it is a finding, and an
    error only where no provider can be. Conflict (kind ``lease-lost``) where another run took
    over: what that one received is not known here, and would be told twice.
    """
    findings: list[Finding] = []
    failed: list[CatchmentError] = []
    known = list(house.ledger.contributions(job.aggregate))
    for provider in job.providers:
        try:
            findings += _receive_one(job, provider, house, lease, known)
        except _Ours as ours:  # no provider is to blame
            raise ours.error from None
        except _FAULTS as error:
            failed.append(error)
            findings.append(
                Finding(
                    provider.name,
                    Severity.ERROR,
                    error.kind,
                    WAY,
                    error.message,
                    error.hint or "nothing is lost: the next run looks again",
                )
            )
    if failed and len(failed) == len(job.providers):
        raise failed[0]
    waiting = {one.id: one for one in known if one.state == Delivered.RECEIVED}
    return findings, sorted(waiting.values(), key=lambda one: (one.site, one.id))


def _receive_one(
    job: Job, provider: Provider, house: House, lease: Lease, known: list[Contribution]
) -> list[Finding]:
    """Keep the new files of one provider; the deliveries are added to those that are known."""
    source = source_of(job, provider, house)
    with _ours():
        seen = Seen(_marks(job, provider, house, known))
    lost: dict[str, int] = {}
    done = 0
    work = f"{job.aggregate}: {provider.name}"
    house.progress(Event(work, "start", unit="files"))
    with ThreadPoolExecutor(THREADS) as threads:
        for stats in batched(_new(source, provider, seen), DELIVERY):
            rows: list[Received] = []
            takes = threads.map(lambda stat: _take(source, house.store, job.name, stat), stats)
            for taken in takes:
                if isinstance(taken, Lost):
                    lost[taken.code] = lost.get(taken.code, 0) + 1
                else:
                    rows.append(taken)
                done += 1
                house.progress(Event(work, done=done, unit="files"))
            if rows:
                with _ours():
                    known += _deliver(job, provider, rows, house, lease)
    house.progress(Event(work, "done", done=done, unit="files"))
    if provider.inbox:
        with _ours():
            _empty(job, provider, house, known)
    return [
        Finding(
            provider.name,
            Severity.WARNING,
            code,
            WAY,
            f"{count} {_LOST[code]}",
            "nothing is lost: the next run looks again",
        )
        for code, count in sorted(lost.items())
    ]


def source_of(job: Job, provider: Provider, house: House) -> Store:
    """The store of a provider's files.

    NotFound (kind ``no-folder``) without its folder; Invalid (kind ``folder-shared``) if what we
    keep lies there, too: each run would receive what the one before wrote.
    """
    if provider.inbox:
        return house.store
    source = there(house.open_store(provider.url))
    if overlap(source, house.store, layout.home(job.name)):
        raise Invalid(
            f"the files of {provider.name} and {house.store.url}, which is the program's own, lie "
            "in one another",
            kind="folder-shared",
            hint="name a folder of the provider's own, or another workspace.store",
        )
    return source


def _empty(job: Job, provider: Provider, house: House, known: Iterable[Contribution]) -> None:
    """Remove from an inbox what deliveries have, also those of a run that was killed."""
    stats = list(house.store.list(provider.prefix))
    if not stats:
        return
    seen = Seen(_marks(job, provider, house, known))
    lacks = seen.lacks(b"".join(mark(s.key, s.size, s.etag) for s in stats))
    for stat, lacking in zip(stats, lacks, strict=True):
        if not lacking:
            house.store.delete(stat.key)


def listing(source: Store, provider: Provider) -> str:
    """Digest of what a provider has: names, sizes and etags, in order."""
    digest = hashlib.sha256()
    for stat in source.list(provider.prefix):
        digest.update(mark(stat.key, stat.size, stat.etag))
    return f"sha256:{digest.hexdigest()}"


def _new(source: Store, provider: Provider, seen: Seen) -> Iterator[Stat]:
    """Files of the provider that no delivery has, in order of their names."""
    since = datetime.fromisoformat(provider.since) if provider.since else None
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    wanted = (s for s in source.list(provider.prefix) if since is None or s.modified >= since)
    for stats in batched(wanted, LOOK):
        marks = b"".join(mark(s.key, s.size, s.etag) for s in stats)
        yield from (stats[i] for i in np.flatnonzero(seen.lacks(marks)))


def _take(source: Store, target: Store, name: str, stat: Stat) -> Received | Lost:
    """Keep one file. It counts as read if the provider shows the same file before and after."""
    for _ in range(TRIES):
        try:
            digest, size = _keep(source, target, name, stat)
            after = source.head(stat.key)
        except NotFound:
            return Lost("file-vanished")
        except Invalid as error:  # one file's own: the others go on
            if error.kind == "permission-denied":
                return Lost("file-forbidden")
            reason = {"bad-key": "name-unusable", "not-a-file": "not-a-file"}.get(error.kind)
            if reason is None:
                raise
            return _row(stat, None, reason)
        if (after.etag, after.size) == (stat.etag, size):
            return _row(stat, digest, None)
        stat = after
    return Lost("file-moving")


def _row(stat: Stat, digest: str | None, reason: str | None) -> Received:
    name = stat.key.encode("utf-8", "backslashreplace").decode()
    marked = mark(stat.key, stat.size, stat.etag)
    return Received(name, stat.size, stat.etag, stat.modified, digest, reason, marked)


def _keep(source: Store, target: Store, name: str, stat: Stat) -> tuple[str, int]:
    """Put the bytes under their SHA-256; the digest and their number."""
    if stat.size <= WHOLE:
        data = source.read(stat.key)
        digest = hashlib.sha256(data).hexdigest()
        with _ours(), suppress(Conflict):  # the same bytes are there
            target.put(layout.object_key(name, digest), data)
        return digest, len(data)
    made, size = hashlib.sha256(), 0
    for chunk in source.stream(stat.key):
        made.update(chunk)
        size += len(chunk)
    digest = made.hexdigest()
    again = source.stream(stat.key)
    try:
        with _ours(), suppress(Conflict, _Moved):
            target.put(layout.object_key(name, digest), _checked(again, digest))
    except _Theirs as theirs:
        raise theirs.error from None
    return digest, size


class _Moved(Exception):
    """The bytes are others than those of the first reading."""


class _Ours(Exception):
    """Our own store or ledger failed, and not the provider's store."""

    def __init__(self, error: CatchmentError) -> None:
        super().__init__()
        self.error = error


class _Theirs(_Ours):
    """The provider's store failed while ours was written."""


@contextmanager
def _ours() -> Iterator[None]:
    try:
        yield
    except _FAULTS as error:
        raise _Ours(error) from None


def _checked(chunks: Iterable[bytes], digest: str) -> Iterator[bytes]:
    made = hashlib.sha256()
    try:
        for chunk in chunks:
            made.update(chunk)
            yield chunk
    except _FAULTS as error:
        raise _Theirs(error) from None
    if made.hexdigest() != digest:
        raise _Moved


def _deliver(
    job: Job, provider: Provider, rows: Sequence[Received], house: House, lease: Lease
) -> list[Contribution]:
    """Write the list of what came, then tell the ledger; the delivery as it knows it."""
    data = _written(rows)
    digest = hashlib.sha256(data).hexdigest()
    with suppress(Conflict):  # written by a run that was killed before it told the ledger
        house.store.put(layout.delivery_key(job.name, provider.name, digest), data)
    size = sum(row.size for row in rows)
    name = f"delivery/{digest[:16]}"
    one = Delivery(provider.name, name, f"sha256:{digest}", size, {"files": len(rows)})
    return house.ledger.receive_many(job.aggregate, [one], Delivered.RECEIVED, lease=lease)


def _written(rows: Sequence[Received]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([row._asdict() for row in rows], schema())
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def schema() -> pa.Schema:
    """The columns of a delivery."""
    import pyarrow as pa

    return pa.schema(
        [
            ("name", pa.string()),
            ("size", pa.int64()),
            ("etag", pa.string()),
            ("modified", pa.timestamp("us", "UTC")),
            ("digest", pa.string()),
            ("reason", pa.string()),
            ("mark", pa.binary(MARK)),
        ]
    )


def read_delivery(
    store: Store, job: Job, one: Contribution, columns: Sequence[str] | None = None
) -> pa.Table:
    """The list of a delivery. Corrupt (kind ``delivery-differs``) if it is not what was written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest = one.digest.removeprefix("sha256:")
    data = store.read(layout.delivery_key(job.name, one.site, digest))
    if hashlib.sha256(data).hexdigest() != digest:
        raise Corrupt(
            f"the list of a delivery of {one.site} is not the one that was written",
            kind="delivery-differs",
            hint="restore the object from a backup",
        )
    names = None if columns is None else list(columns)
    # In this thread: to wake others takes longer than to read a column.
    return pq.ParquetFile(pa.BufferReader(data)).read(names, use_threads=False)


def _marks(
    job: Job, provider: Provider, house: House, known: Iterable[Contribution]
) -> Iterator[bytes]:
    """The marks of all files that the provider delivered so far."""
    for one in known:
        if one.site != provider.name:
            continue
        marks = read_delivery(house.store, job, one, ["mark"])["mark"].combine_chunks()
        data = marks.buffers()[1]  # one mark behind the other; none is null
        yield data[marks.offset * MARK : (marks.offset + len(marks)) * MARK].to_pybytes()


def mark(name: str, size: int, etag: str) -> bytes:
    """What tells one listed file from another: 16 bytes."""
    made = _EMPTY.copy()  # in a quarter of the time that making one takes
    made.update(f"{name}\0{size}\0{etag}".encode("utf-8", "surrogatepass"))
    return made.digest()


_EMPTY = hashlib.blake2b(digest_size=MARK)


class Seen:
    """A set of marks that takes 16 bytes for each."""

    def __init__(self, marks: Iterable[bytes]) -> None:
        high, low = _pairs(b"".join(marks))
        order = np.lexsort((low, high))
        self._high, self._low = high[order], low[order]

    def lacks(self, marks: bytes) -> Any:
        """Of each of the marks, which stand one behind the other, whether it is not there."""
        high, low = _pairs(marks)
        if not len(self._high):
            return np.ones(len(high), bool)
        at = np.searchsorted(self._high, high)
        place = np.minimum(at, len(self._high) - 1)
        alike = self._high[place] == high
        lacks = ~(alike & (self._low[place] == low))
        for i in np.flatnonzero(alike & lacks):  # others may have the same first half
            end = np.searchsorted(self._high, high[i], "right")
            lacks[i] = low[i] not in self._low[at[i] : end]
        return lacks


def _pairs(marks: bytes) -> tuple[Any, Any]:
    """The halves of each mark."""
    halves = np.frombuffer(marks, "<u8").reshape(-1, 2)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])
