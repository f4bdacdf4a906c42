"""Jobs as their clients see them: how far one is, what it made, and whether that is still so."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from catchment.core import provenance
from catchment.core.account import Account
from catchment.core.errors import NotFound
from catchment.core.ledger import Ledger, Snapshot
from catchment.core.ledger.provenance import SECTION
from catchment.core.store import Store
from catchment.exports import layout
from catchment.exports.book import Book
from catchment.exports.codecs import decompressed
from catchment.exports.model import Kind, Output

AGGREGATES = "exports/"


@dataclass(frozen=True, slots=True)
class Status:
    """How far a job is.

    Attributes:
        state: ``running`` (open), ``published``, ``failed`` or ``cancelled``.
        done: members that were read, the failed ones included.
        outputs: files that were made so far; of a published job all of them.
        location: prefix of the outputs below the store.
        error: why it failed: kind, message, hint.
    """

    job: str
    aggregate: str
    state: str
    started_at: datetime
    finished_at: datetime | None
    members: int
    done: int
    failed: int
    outputs: tuple[Output, ...]
    location: str
    resource_type: str | None
    error: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return asdict(self) | {
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at and self.finished_at.isoformat(),
            "outputs": [output.to_json() for output in self.outputs],
        }


def status(ledger: Ledger, job: str) -> Status:
    """How far the job is; NotFound (kind ``no-job``) if there is none of this id."""
    try:
        record = ledger.run(job)
    except NotFound:
        record = None
    if record is None or not record.aggregate.startswith(AGGREGATES):
        raise NotFound(f"no export job has the id {job}", kind="no-job", hint="catchment status")
    members = record.config["members"]["count"]
    done, failed, outputs = 0, 0, []
    if record.state == "running":
        book = Book(ledger, record)
        done = sum(batch.members for batch in book.batches.values())
        # The coordinator tells of single members too, from time to time.
        done = max(done, ledger.account(job).total("members").received)
        failed = sum(batch.failed.total() for batch in book.batches.values())
        outputs = [made.output for made in book.made]
    elif record.state == "published":
        done = members
        balance = ledger.account(job).total("members")
        failed = balance.quarantined.total()
        published = snapshot_of(ledger, record.aggregate, record.id)
        outputs = [Output.from_json(data) for data in published.provenance["outputs"]]
    return Status(
        record.id,
        record.aggregate,
        record.state,
        record.started_at,
        record.finished_at,
        members,
        done,
        failed,
        tuple(sorted(outputs, key=lambda output: output.name)),
        layout.location(record.aggregate, record.id),
        record.config["source"]["type"],
        dict(record.error) if record.error else None,
    )


def newest(ledger: Ledger, aggregate: str) -> Status:
    """The newest job of an aggregate; NotFound (kind ``no-job``) if there was none."""
    for record in ledger.runs(aggregate, limit=1):
        return status(ledger, record.id)
    raise NotFound(f"{aggregate} has no job yet", kind="no-job", hint="catchment exports run")


def verify(store: Store, ledger: Ledger, job: Status) -> list[str]:
    """What is wrong with a published job; empty where all is well.

    Every object that its snapshot names must be there with its size and SHA-256, every output must
    hold the lines that were recorded, and the account must balance and agree with them.
    """
    snapshot = snapshot_of(ledger, job.aggregate, job.job)
    wrong = provenance.verify(store, snapshot)
    if not wrong:
        wrong = [fault for output in job.outputs for fault in _unlike(store, job.location, output)]
    account = Account.from_json(snapshot.provenance[SECTION]["account"])
    units = {line.unit for line, _ in account}  # without outcomes: of an earlier version
    for kind in Kind:
        unit = "outcomes" if kind is Kind.ERROR and "outcomes" in units else "lines"
        part = "OperationOutcome" if kind is Kind.ERROR else job.resource_type or "records"
        kept = account.total(unit, part=part).kept
        lines = sum(output.count for output in job.outputs if output.kind is kind)
        if kept != lines:
            wrong.append(f"{job.location}: {lines} lines of {part}, the account kept {kept}")
    return wrong


def snapshot_of(ledger: Ledger, aggregate: str, job: str) -> Snapshot:
    """What the job published; NotFound (kind ``not-published``) if it has not."""
    for snapshot in ledger.snapshots(aggregate):
        if snapshot.run == job:
            return ledger.snapshot(aggregate, snapshot.number)
    raise NotFound(
        f"job {job} has published nothing",
        kind="not-published",
        hint=f"catchment status {aggregate}",
    )


def _unlike(store: Store, location: str, output: Output) -> list[str]:
    """What is wrong with the lines of an output, uncompressed."""
    key = location + output.name
    sha256, size, count = hashlib.sha256(), 0, 0
    for chunk in decompressed(store.stream(key), layout.codec_of(output.name)):
        sha256.update(chunk)
        size += len(chunk)
        count += chunk.count(b"\n")
    found, expected = (size, f"sha256:{sha256.hexdigest()}"), (output.size, output.digest)
    if found != expected:
        return [f"{key}: {size} bytes, {found[1]}; expected {output.size}, {output.digest}"]
    if count != output.count:
        return [f"{key}: {count} lines, expected {output.count}"]
    return []
