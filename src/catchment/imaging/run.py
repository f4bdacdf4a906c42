"""What was received becomes tables, and is published at once: a snapshot shows all or none."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from catchment.core.account import Account, Line
from catchment.core.errors import CatchmentError
from catchment.core.finding import Finding
from catchment.core.ledger import Contribution, Lease, Move, Publication, Run, Snapshot
from catchment.core.provenance import check_store, learn, manifest, seal, seal_all
from catchment.imaging import layout, reports
from catchment.imaging.compress import Image, Wanted, compress_all
from catchment.imaging.job import House
from catchment.imaging.model import Delivered, Job, Part, State
from catchment.imaging.plan import Came, Claim, Decision, decide, unknown
from catchment.imaging.processed import processed
from catchment.imaging.read import Stored
from catchment.imaging.receive import read_delivery, receive
from catchment.imaging.schemas import compressed_schema, evidence_schema, files_schema
from catchment.imaging.shelf import Shelf, parts_of
from catchment.imaging.stage import SOURCE, add_images, withdraw
from catchment.imaging.staging import SETTING, check_profile, read_all_files

if TYPE_CHECKING:
    import pyarrow as pa

STANDING = "standing"  # of a snapshot's provenance
FILES = 4000  # whose rows are in memory at a time


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did. ``snapshot`` is the new one, or the latest where nothing changed."""

    state: Literal["published", "unchanged", "planned"]
    snapshot: Snapshot | None
    account: Account
    findings: Sequence[Finding]
    files: int = 0


def run(job: Job, house: House, *, sync: bool = True) -> Outcome:
    """Receive what the providers have, unless told not to, and publish all that was received.

    Raises:
        Conflict: kind ``lease-held`` while another run is at work.
        NotFound, Invalid, Unavailable: a provider, the store or the ledger. What was received
            until then is kept, and is published by the next run.
        Corrupt: kind ``account-unbalanced`` or ``delivery-differs``; nothing was published.
    """
    with house.ledger.holding(job.aggregate, ttl=house.lease) as lease:
        latest = mend(job, house)
        check_profile(job, latest)
        record = house.ledger.start_run(job.aggregate, job.config)
        try:
            findings, waiting = receive(job, house, lease) if sync else ([], pending(job, house))
            return Work(job, house, record, lease, latest).carry_out(findings, waiting)
        except BaseException as error:
            known = error if isinstance(error, CatchmentError) else None
            with suppress(CatchmentError):  # the first error is the one to tell
                house.ledger.finish_run(record.id, "failed" if known else "cancelled", known)
            raise


def sync_only(job: Job, house: House) -> Outcome:
    """Receive, and leave the rest to a later run."""
    with house.ledger.holding(job.aggregate, ttl=house.lease) as lease:
        mend(job, house)
        findings, waiting = receive(job, house, lease)
    files = sum(one.meta["files"] for one in waiting)
    return Outcome("planned", house.ledger.latest(job.aggregate), Account(), findings, files)


def plan_only(job: Job, house: House) -> Outcome:
    """How many files wait for a run; asks no provider, and writes nothing."""
    files = sum(one.meta["files"] for one in pending(job, house))
    return Outcome("planned", house.ledger.latest(job.aggregate), Account(), (), files)


def pending(job: Job, house: House) -> list[Contribution]:
    """Deliveries whose files have no state yet."""
    return list(house.ledger.contributions(job.aggregate, state=Delivered.RECEIVED))


def mend(job: Job, house: House) -> Snapshot | None:
    """Under the lease: finish what a crash left, and learn what another ledger published.

    The latest snapshot then; nobody else publishes one while the lease is held.
    """
    ledger, store = house.ledger, house.store
    for dead in ledger.runs(job.aggregate, state="running"):
        ledger.finish_run(dead.id, "cancelled")
    latest = ledger.latest(job.aggregate)
    if latest is not None and latest.sealed:  # else a crash may have left nothing there yet
        check_store(store, latest, "restore it from a backup")
    seal_all(store, ledger, job.aggregate)
    if latest is None:
        learn(store, ledger, job.aggregate, [layout.snapshots(job.name)])
        latest = ledger.latest(job.aggregate)
    return latest


class Work:
    """One run at work; it holds the lease."""

    def __init__(
        self, job: Job, house: House, record: Run, lease: Lease, latest: Snapshot | None
    ) -> None:
        self.job = job
        self.house = house
        self.record = record
        self.lease = lease
        self.latest = latest
        parts = list(parts_of(self.latest.provenance)) if self.latest else []
        month = house.clock().strftime("%Y-%m")
        self.shelf = Shelf(house.store, job.name, record.id, month, parts)
        self.account = Account()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.odd: Counter[tuple[str, str]] = Counter()
        self.done = 0

    def carry_out(self, findings: Sequence[Finding], waiting: Sequence[Contribution]) -> Outcome:
        """Give the files of every waiting delivery their states; publish, if there was any."""
        for one in waiting:
            names = ["name", "size", "etag", "modified", "digest", "reason"]
            rows = read_delivery(self.house.store, self.job, one, names)
            for start in range(0, rows.num_rows, FILES):
                self._take(one, rows.slice(start, FILES))
        if not waiting:
            ledger = self.house.ledger
            if findings:
                ledger.record(self.record.id, self.account, findings)
            ledger.finish_run(self.record.id, "unchanged")
            return Outcome("unchanged", self.latest, self.account, findings)
        moves = [Move(one.id, Delivered.RECEIVED, Delivered.PUBLISHED) for one in waiting]
        return self.publish(findings, moves)

    def publish(self, findings: Sequence[Finding], moves: Sequence[Move] = ()) -> Outcome:
        """Make the shelf's parts the latest snapshot; told is also what stands of earlier files."""
        self.shelf.compact()
        standing = self._standing()
        told = [*findings, *reports.findings(self.reasons, reports.summed(standing), self.odd)]
        parent = self.latest.number if self.latest else 0
        provenance = {
            "program": manifest(),
            "config": self._config(),
            "objects": [part.to_json() for part in sorted(self.shelf.parts, key=_place)],
            STANDING: standing,
        }
        digests = "\n".join(part.digest for part in self.shelf.parts)
        publication = Publication(
            self.job.aggregate,
            key=f"{self.record.id}:{hashlib.sha256(digests.encode()).hexdigest()[:16]}",
            location=layout.snapshot_prefix(self.job.name, self.record.id),
            provenance=provenance,
            account=self.account,
            findings=told,
            moves=moves,
            run=self.record.id,
            parent=parent,
        )
        snapshot = self.house.ledger.publish(publication, self.lease)
        seal(self.house.store, self.house.ledger, snapshot)
        with suppress(CatchmentError):  # what is left over is an orphan, no more
            for key in self.shelf.replaced:
                self.house.store.delete(key)
        return Outcome("published", snapshot, self.account, told, self.done)

    def _standing(self) -> dict[str, reports.Standing]:
        """What each part of ``files`` holds that is not published; read are those that are new."""
        before = self.latest.provenance.get(STANDING, {}) if self.latest else {}
        columns = ["site", "state", "reason", "seen"]
        return {
            part.key: before[part.key]
            if part.key in before
            else reports.standing(self.shelf.read(part, columns))
            for part in self.shelf.of("files")
        }

    def _config(self) -> dict[str, Any]:
        """The settings; who only decides a conflict need not know the profile of what is there."""
        before = self.latest.provenance["config"] if self.latest else {}
        kept = {SETTING: before[SETTING]} if SETTING in before else {}
        return kept | dict(self.job.config)

    def _take(self, delivery: Contribution, rows: pa.Table) -> None:
        """Some files of a delivery: read, decide, and put all of it on the shelf."""
        import pyarrow as pa

        site = delivery.site
        digests = rows["digest"].to_pylist()
        came = [
            Came(site, digest, reason)
            for digest, reason in zip(digests, rows["reason"].to_pylist(), strict=True)
        ]
        known = self._known(rows["digest"].combine_chunks())
        sizes = dict(zip(digests, rows["size"].to_pylist(), strict=True))
        files = [
            Stored(site, layout.object_key(self.job.name, digest), digest, sizes[digest])
            for digest in unknown(came, known)
        ]
        decision, uids = self.settle(came, known, files)
        self.shelf.add("files", self._files(delivery, rows, decision, uids))
        reports.tell(self.account, self.reasons, came, decision.fates)
        self.done += rows.num_rows
        pa.default_memory_pool().release_unused()

    def settle(
        self, came: Sequence[Came], known: Collection[str], files: Sequence[Stored]
    ) -> tuple[Decision, dict[str, str]]:
        """Read files and decide about them; their images are in the tables then.

        Told is also the SOPInstanceUID of each that could be read, by digest.
        """
        import pyarrow as pa

        read, refused, evidence = read_all_files(self.job, self.house, files)
        self.shelf.add("raw", read)
        self.shelf.add("evidence", pa.Table.from_pylist(evidence, evidence_schema()))
        uids = dict(zip(read[SOURCE].to_pylist(), read["SOPInstanceUID"].to_pylist(), strict=True))
        claims = list(self.claims(read["SOPInstanceUID"].combine_chunks(), set(uids)))
        decision = decide(came, known, uids, refused, claims)
        if decision.withdraw:
            self.set_states(decision.withdraw, State.CONFLICT, None)
            withdraw(self.shelf, decision.withdraw)
            self._account_withdrawn(decision.withdraw)
        self.ingest(read, decision.ingest)
        reports.count_odd(self.odd, read)
        return decision, uids

    def ingest(self, read: pa.Table, digests: Sequence[str]) -> None:
        """Images of some of the rows, and what is new with them."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array(digests, pa.string())
        rows = read.filter(pc.is_in(read[SOURCE], value_set=wanted))
        add_images(self.shelf, rows)
        compressed = self._compress(rows)
        self.shelf.add("compressed_images", compressed)
        self.shelf.add("processed_images", processed(rows, compressed))

    def _compress(self, rows: pa.Table) -> pa.Table:
        """Previews and lossless copies of the rows' images, as far as they are wanted."""
        options = self.job.options
        wanted = Wanted(options.previews, options.archive)
        if not wanted:
            return compressed_schema().empty_table()
        names = (SOURCE, "stage_sha256", "SOPInstanceUID", "site", "size", "Rows")
        name = self.job.name
        images = [
            Image(Stored(site, layout.staged_key(name, digest, stage), digest, size), uid, name)
            for digest, stage, uid, site, size, height in zip(
                *(rows[column].to_pylist() for column in names), strict=True
            )
            if height
        ]
        executor = self.house.compressor or self.house.executor
        return compress_all(executor, self.house.store, images, wanted)

    def set_states(self, digests: Sequence[str], state: State, reason: str | None) -> None:
        """What the files with these bytes are from now on; duplicates stay duplicates."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array(digests, pa.string())

        def change(rows: pa.Table) -> pa.Table:
            own = pc.and_(
                pc.is_in(rows[SOURCE], value_set=wanted),
                pc.not_equal(rows["state"], State.DUPLICATE),
            )
            for name, value in (("state", str(state)), ("reason", reason)):
                new = pc.if_else(own, pa.scalar(value, pa.string()), rows[name])
                rows = rows.set_column(rows.column_names.index(name), name, new)
            return rows

        self.shelf.amend("files", SOURCE, wanted, change)

    def claims(self, uids: pa.Array, but: set[str]) -> Iterator[Claim]:
        """Who claimed these SOPInstanceUIDs, and where they stand; but for some digests."""
        read = self.shelf.find("raw", "SOPInstanceUID", uids.unique(), ["SOPInstanceUID", SOURCE])
        if read is None:
            return
        states = self._known(read[SOURCE].combine_chunks())
        for uid, digest in zip(*(read[n].to_pylist() for n in read.column_names), strict=True):
            if digest not in but:
                yield Claim(uid, digest, states[digest])

    def _known(self, digests: pa.Array) -> dict[str, State]:
        """States of the files with these bytes, those of duplicates left out."""
        found = self.shelf.find("files", SOURCE, digests.drop_null().unique(), [SOURCE, "state"])
        if found is None:
            return {}
        pairs = zip(found[SOURCE].to_pylist(), found["state"].to_pylist(), strict=True)
        return {digest: State(s) for digest, s in pairs if s != State.DUPLICATE}

    def _files(
        self, delivery: Contribution, rows: pa.Table, decision: Decision, uids: dict[str, str]
    ) -> pa.Table:
        """The rows of the table ``files``: every file once, with its state."""
        import pyarrow as pa

        texts = pa.string()
        digests = rows["digest"].to_pylist()
        hidden = self.job.options.profile is not None  # names of files may be names of patients
        columns: dict[str, Any] = {
            "site": pa.array([delivery.site] * rows.num_rows, texts),
            "name": pa.nulls(rows.num_rows, texts) if hidden else rows["name"],
            "size": rows["size"],
            "etag": rows["etag"],
            "modified": rows["modified"],
            SOURCE: rows["digest"],
            "state": pa.array([str(fate.state) for fate in decision.fates], texts),
            "reason": pa.array([fate.reason for fate in decision.fates], texts),
            "SOPInstanceUID": pa.array([uids.get(d or "") for d in digests], texts),
            "delivery": pa.array([delivery.name] * rows.num_rows, texts),
            "seen": pa.nulls(rows.num_rows, pa.timestamp("us", "UTC")),
        }
        return pa.table(columns, schema=files_schema())

    def _account_withdrawn(self, digests: Sequence[str]) -> None:
        import pyarrow as pa

        rows = self.shelf.find("files", SOURCE, pa.array(digests, pa.string()), ["site", "state"])
        for row in () if rows is None else rows.to_pylist():
            if row["state"] == State.CONFLICT:
                balance = self.account[Line(row["site"], "withdrawn", "files")]
                balance.received += 1
                balance.quarantined["conflict"] += 1


def _place(part: Part) -> tuple[str, str, str]:
    return part.table, part.month, part.key
