"""The coordinator of a job: batches go out to an executor, outputs come out while they do."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from catchment.core.account import Account, Line
from catchment.core.errors import CatchmentError, Conflict, NotFound, Unavailable
from catchment.core.finding import Finding, Severity
from catchment.core.ledger import (
    Lease,
    Ledger,
    Publication,
    Run,
    Snapshot,
)
from catchment.core.names import counted
from catchment.core.progress import Event
from catchment.core.provenance import dumps, learn, seal, seal_all
from catchment.core.provenance import manifest as program
from catchment.core.scratch import scratch_folder
from catchment.core.store import Store
from catchment.exports import layout, manifest
from catchment.exports.batch import Batch, Sign, Task, cancelled, fetch
from catchment.exports.book import Book
from catchment.exports.files import told
from catchment.exports.job import House, Job, State
from catchment.exports.model import Kind
from catchment.exports.packer import Packer

logger = logging.getLogger(__name__)

BEAT_SECONDS = 0.5  # between two looks at what the ledger says of the job
TELL_SECONDS = 2.0  # between two times that the ledger is told how many members are done
_PATIENCE_SECONDS = 90.0  # for a worker that was told to stop


def run(
    job: Job, house: House, meanwhile: Callable[[], Snapshot | None] = lambda: None
) -> Snapshot:
    """Export the members' records; a job that a crash or an error left open is taken up again.

    Batches that were finished are not read again, outputs that were made stand. Where ``meanwhile``
    gives a snapshot, asked once the lease is held, it is that one and nothing is done.

    Raises:
        Conflict: kind ``lease-held`` while another coordinator is at work, ``job-open`` if the open
            job has other settings, or other members of a server, ``job-cancelled``.
        Unavailable: kind ``too-many-failures``: the job failed, and nothing of it is left. Of any
            other kind: the job stays open.
        Corrupt: kind ``account-unbalanced``; the job stays open, nothing was published.
    """
    with house.ledger.holding(job.aggregate, ttl=house.lease) as lease:
        mend(house.store, house.ledger, job.aggregate)
        if (other := meanwhile()) is not None:
            return other
        record = _open(job, house)
        for ended in set(house.store.folders(layout.staging(job.aggregate))) - {record.id}:
            clear(house.store, layout.staging(job.aggregate, ended))
        try:
            return _Work(job, house, record, lease).carry_out()
        except CatchmentError as error:
            if error.kind == "too-many-failures":
                house.ledger.finish_run(record.id, "failed", error)
            state = house.ledger.run(record.id).state
            if state in ("failed", "cancelled"):
                discard(house.store, house.ledger, record)
            raise (cancelled() if state == "cancelled" else error) from None


def mend(store: Store, ledger: Ledger, aggregate: str) -> None:
    """Under the lease: finish what a crash left, and learn what another ledger published."""
    seal_all(store, ledger, aggregate)
    jobs = [layout.location(aggregate, job) for job in store.folders(layout.location(aggregate))]
    learn(store, ledger, aggregate, jobs, apart=True)


def cancel(
    store: Store,
    ledger: Ledger,
    aggregate: str,
    *,
    job: str | None = None,
    patience: float = _PATIENCE_SECONDS,
) -> Run:
    """Cancel the open job: its worker stops, and nothing of the job is left.

    ``job`` is its id, where only this one is meant; ``patience`` is how many seconds the worker is
    waited for.

    Raises:
        NotFound: kind ``no-job``: no job is open, or another one.
        Conflict: kind ``run-finished``: it ended just now.
        Unavailable: kind ``worker-busy``: it is cancelled, but its worker does not stop.
    """
    for running in ledger.runs(aggregate, state="running", limit=1):
        if job not in (None, running.id):
            break
        record = ledger.finish_run(running.id, "cancelled")
        end = time.monotonic() + patience
        while True:
            try:
                with ledger.holding(aggregate):
                    discard(store, ledger, record)
                    return record
            except Conflict:
                if time.monotonic() > end:
                    raise Unavailable(
                        f"{aggregate} is cancelled, but its worker has not stopped yet",
                        kind="worker-busy",
                        hint="stop the worker; what it leaves is removed by: catchment gc",
                    ) from None
                time.sleep(BEAT_SECONDS)
    raise NotFound(
        f"{aggregate} has no open job", kind="no-job", hint=f"catchment status {aggregate}"
    )


def discard(store: Store, ledger: Ledger, record: Run) -> None:
    """Remove what an ended job left, and say so of its batches and outputs. Hold the lease."""
    clear(store, layout.staging(record.aggregate, record.id))
    clear(store, layout.location(record.aggregate, record.id))
    ledger.move(Book(ledger, record).moves(State.DISCARDED), run=record.id)


def clear(store: Store, prefix: str) -> None:
    """Delete all objects below a prefix."""
    for stat in list(store.list(prefix)):
        store.delete(stat.key)


def _open(job: Job, house: House) -> Run:
    """The open job, or a new one; the files that an open job began with may be gone for good."""
    ledger, wanted = house.ledger, job.config()
    for record in ledger.runs(job.aggregate, state="running"):
        if record.config == wanted:
            return record
        if not _moved(record.config, wanted):
            raise Conflict(
                f"{job.aggregate} has an open job with other members or settings",
                kind="job-open",
                hint=f"catchment exports cancel {job.name}, or run it with its former settings",
            )
        logger.warning("%s: its files are others now: the open job begins anew", job.aggregate)
        discard(house.store, ledger, ledger.finish_run(record.id, "cancelled"))
    return ledger.start_run(job.aggregate, wanted)


def _moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether nothing differs but the files that are there, and whom they are of."""
    then, source = before.get("source", {}), now["source"]
    same = {"members": now["members"], "source": {**then, "digest": source.get("digest")}}
    return then != source and {**before, **same} == now


class _Work:
    """One coordinator at work on an open job; it holds the lease."""

    def __init__(self, job: Job, house: House, record: Run, lease: Lease) -> None:
        self.job = job
        self.house = house
        self.record = record
        self.lease = lease
        self.book = Book(house.ledger, record)
        self.packer = Packer(job, record.id, house.store, self.book)
        self.staging = layout.staging(job.aggregate, record.id)
        self.location = layout.location(job.aggregate, record.id)
        self.members = sum(batch.members for batch in self.book.batches.values())  # done so far
        self.failed = sum(batch.failed.total() for batch in self.book.batches.values())
        self.ended = threading.Event()  # somebody else ended the job

    def carry_out(self) -> Snapshot:
        with self._watched() as sign:
            self._fetch(sign)
            self._pack(done=True)
        snapshot = self._publish()
        seal(self.house.store, self.house.ledger, snapshot)
        clear(self.house.store, self.staging)
        return snapshot

    def _fetch(self, sign: Sign) -> None:
        """Read the batches that are not on record yet; combine what comes meanwhile."""
        shared = sign if self.house.shared else None
        tasks = (
            Task(
                number,
                members,
                self.job.source,
                self.house.store,
                self.staging,
                self.job.rules.max_bytes,
                shared,
            )
            for number, members in enumerate(self.job.batches())
            if number not in self.book.batches
        )
        with closing(self._results(tasks, sign)) as results:
            for result in results:
                self._check()
                batch = self.book.enter_batch(self.job.contract, result)
                self.members += batch.members
                self.failed += batch.failed.total()
                if self.failed > self.job.threshold * len(self.job.members):
                    raise self._too_many_failures()
                self._pack(done=False)

    def _results(self, tasks: Iterator[Task], sign: Sign) -> Generator[Batch]:
        """What the executor makes of the tasks, as it comes; at the end none is under way."""
        executor, pending = self.house.executor, set[Future[Batch]]()
        try:
            while True:
                room = islice(tasks, self.house.window - len(pending))
                pending |= {executor.submit(fetch, task) for task in room}
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            Path(sign.path).unlink(missing_ok=True)
            for future in pending:
                future.cancel()
            wait(pending)

    def _pack(self, *, done: bool) -> None:
        while self.packer.step(done=done):
            self._check()
            made = self.book.made
            self._tell(
                "combine", sum(m.output.size for m in made), "bytes", f"in {len(made)} files"
            )

    def _check(self) -> None:
        """May this coordinator go on? The job must be open, and the lease ours."""
        if self.ended.is_set():
            raise cancelled()
        self.house.ledger.renew(self.lease, self.house.lease)

    @contextmanager
    def _watched(self) -> Iterator[Sign]:
        """A sign for the batches, and a thread that looks whether the job goes on."""
        over = threading.Event()
        with scratch_folder() as folder:
            path = folder / "members"
            with told("a temporary file"):
                path.touch()
            before = self.members

            def look() -> None:
                done = told = before
                at = time.monotonic()
                while not over.wait(BEAT_SECONDS):
                    with suppress(FileNotFoundError):
                        done = max(before + path.stat().st_size, self.members)
                        self._tell("members", done, "members")
                    with suppress(CatchmentError):
                        if done != told and time.monotonic() - at > TELL_SECONDS:
                            self.house.ledger.record(self.record.id, self._progress(done))
                            told, at = done, time.monotonic()
                        if self.house.ledger.run(self.record.id).state != "running":
                            self.ended.set()
                            path.unlink(missing_ok=True)

            thread = threading.Thread(target=look, name=f"watch of {self.job.aggregate}")
            thread.start()
            try:
                yield Sign(str(path))
            finally:
                over.set()
                thread.join()

    def _publish(self) -> Snapshot:
        made = sorted(self.book.made, key=lambda m: m.output.name)
        document = manifest.write(
            [m.output for m in made],
            self.job.source.resource_type,
            self.record.started_at,
            base_url=self.job.base_url,
        )
        data, key = dumps(document), layout.manifest(self.location)
        self._write(key, data)
        objects = [
            {
                "role": m.output.kind.value,
                "key": self.location + m.output.name,
                "size": m.output.stored,
                "digest": m.stored_digest,
            }
            for m in made
        ]
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        objects.append({"role": "manifest", "key": key, "size": len(data), "digest": digest})
        publication = Publication(
            aggregate=self.job.aggregate,
            key=self.record.id,
            location=self.location,
            provenance={
                "manifest": program(),
                "config": dict(self.record.config),
                "objects": objects,
                "outputs": [m.output.to_json() for m in made],
                "base_url": self.job.base_url,
                "unavailable": sum(b.unavailable for b in self.book.batches.values()),
            },
            account=self._account(),
            findings=list(self._findings()),
            moves=self.book.moves(State.PUBLISHED),
            run=self.record.id,
        )
        return self.house.ledger.publish(publication, self.lease)

    def _write(self, key: str, data: bytes) -> None:
        """Write an object, unless it stands: who wakes late must not touch what is published."""
        store = self.house.store
        try:
            store.put(key, data)
        except Conflict:
            if store.read(key) != data:  # of one that died before it published, with another URL
                self._check()
                store.put(key, data, mode="overwrite")

    def _progress(self, done: int) -> Account:
        """What the ledger is told while members are read; it balances only at the end."""
        account = Account()
        label = self.job.source.resource_type or "records"
        account[Line(self.job.contract, label, "members")].received = done
        return account

    def _account(self) -> Account:
        """Members, and lines of each kind: what came, what stands in the outputs, and the rest."""
        account = Account()
        contract, label = self.job.contract, self.job.source.resource_type or "records"
        members = account[Line(contract, label, "members")]
        records = account[Line(contract, label, "lines")]
        errors = account[Line(contract, "OperationOutcome", "outcomes")]  # no records
        members.received = len(self.job.members) + self.job.repeated
        if self.job.repeated:
            members.dropped["repeated"] = self.job.repeated
        for batch in self.book.batches.values():
            members.kept += batch.members - batch.failed.total()
            members.quarantined += batch.failed
            records.received += batch.received
            records.quarantined += batch.refused
            errors.received += sum(p.lines for p in batch.parts if p.kind is Kind.ERROR)
        for made in self.book.made:
            (records if made.output.kind is Kind.DATA else errors).kept += made.output.count
        account.check()
        return account

    def _findings(self) -> Iterator[Finding]:
        contract, label = self.job.contract, self.job.source.resource_type or "records"
        failed: Counter[str] = Counter()
        refused: Counter[str] = Counter()
        for batch in self.book.batches.values():
            failed += batch.failed
            refused += batch.refused
        for kind, count in sorted(failed.items()):
            yield Finding(
                contract,
                Severity.WARNING,
                "members-failed",
                label,
                f"{count} of {counted(len(self.job.members), 'members')} failed: {kind}",
                "the error files tell which, and why",
            )
        for reason, count in sorted(refused.items()):
            yield Finding(
                contract,
                Severity.WARNING,
                "records-refused",
                label,
                f"{counted(count, 'records')} kept out: {reason}",
                "the error files tell where they are",
            )
        for made in self.book.made:
            if made.output.size > self.job.rules.max_bytes:
                yield Finding(
                    contract,
                    Severity.WARNING,
                    "line-above-maximum",
                    made.output.name,
                    f"one line of {made.output.size} bytes, above {self.job.rules.max_bytes}",
                    "raise the maximum, or ask the source for smaller records",
                )

    def _too_many_failures(self) -> Unavailable:
        return Unavailable(
            f"{self.failed} of {counted(len(self.job.members), 'members')} failed, expected at "
            f"most {self.job.threshold:.2%}",
            kind="too-many-failures",
            hint="look at the source, then run the job again; a higher threshold lets more pass",
        )

    def _tell(self, work: str, done: int, unit: str, message: str = "") -> None:
        total = len(self.job.members) if unit == "members" else None
        event = Event(f"{self.job.aggregate}: {work}", "step", done, total, unit, message)
        self.house.progress(event)
