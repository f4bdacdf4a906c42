"""One batch of members: the unit of work that an executor runs, here or on another machine."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from catchment.core.errors import CatchmentError, Conflict, Invalid, Unavailable
from catchment.core.store import Store
from catchment.exports import layout
from catchment.exports.files import told
from catchment.exports.lines import LineFile
from catchment.exports.model import MIB, Kind
from catchment.exports.plan import cut
from catchment.exports.sources import Reader, Source, issue_type, outcome, refusal

_SLICE = 0.2  # seconds between two looks at the sign while waiting


class Sign(NamedTuple):
    """A small file that batches on the same machine share with their coordinator.

    It grows by one byte for each member that is done, and it is gone when the job is cancelled.
    """

    path: str

    def check(self) -> None:
        """Raise Conflict (kind ``job-cancelled``) if the job goes on no more."""
        if not Path(self.path).exists():
            raise cancelled()

    def tick(self) -> None:
        """One member more."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            raise cancelled() from None
        try:
            with suppress(OSError):  # a full disk: that one more is done is told later
                os.write(descriptor, b".")
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be done.

    Attributes:
        number: of the batch within the job, from 0.
        members: whose records are asked for.
        prefix: where parts are put, below the store.
        max_bytes: no part is larger, but for a single line that is.
        sign: see :class:`Sign`; None where the coordinator is on another machine.
    """

    number: int
    members: tuple[str, ...]
    source: Source
    store: Store
    prefix: str
    max_bytes: int
    sign: Sign | None = None


class Part(NamedTuple):
    """Whole lines of a batch, an object below the prefix."""

    key: str
    kind: Kind
    size: int  # bytes
    lines: int


@dataclass(slots=True)
class Batch:
    """What came of it.

    Attributes:
        number: of the batch.
        members: how many there were.
        failed: members without records, counted by the kind of their error.
        unavailable: how many of them failed for now only: the source may have them later.
        received: records that the source gave, refused ones and those of failed members included.
        refused: records that stay out, by reason.
        parts: what was written.
    """

    number: int
    members: int
    failed: Counter[str] = field(default_factory=Counter)
    unavailable: int = 0
    received: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    parts: tuple[Part, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain types, for the ledger."""
        return {
            "batch": self.number,
            "members": self.members,
            "failed": dict(self.failed),
            "unavailable": self.unavailable,
            "received": self.received,
            "refused": dict(self.refused),
            "parts": [list(part) for part in self.parts],
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(
            data["batch"],
            data["members"],
            Counter(data["failed"]),
            data.get("unavailable", 0),  # nobody counted them before
            data["received"],
            Counter(data["refused"]),
            tuple(Part(key, Kind(kind), size, lines) for key, kind, size, lines in data["parts"]),
        )


def cancelled() -> Conflict:
    """The error of everything that a cancelled job still does."""
    return Conflict("the job was cancelled", kind="job-cancelled")


def fetch(task: Task) -> Batch:
    """Read the batch's members and put their lines into parts.

    A member that fails leaves nothing but an OperationOutcome among the errors; the others are not
    disturbed. A batch that cannot be finished leaves nothing that anybody counts.

    Raises:
        Conflict: kind ``job-cancelled``.
        CatchmentError: the parts cannot be written, or the source cannot be opened.
    """
    batch = Batch(task.number, len(task.members))
    with (
        told("temporary files of a batch"),
        tempfile.TemporaryFile(buffering=0) as data_file,
        tempfile.TemporaryFile(buffering=0) as error_file,
        task.source.open(lambda seconds: _pause(task.sign, seconds)) as reader,
    ):
        data, errors = LineFile("a batch", data_file), LineFile("a batch", error_file)
        for member in task.members:
            if task.sign:
                task.sign.check()
            _read(member, reader, batch, data, errors)
            if task.sign:
                task.sign.tick()
        parts: list[Part] = []
        for kind, file, lines in ((Kind.DATA, data_file, data), (Kind.ERROR, error_file, errors)):
            lines.flush()
            parts += _put(task, kind, file)
    batch.parts = tuple(parts)
    return batch


def _read(member: str, reader: Reader, batch: Batch, data: LineFile, errors: LineFile) -> None:
    before = (data.count, data.size), (errors.count, errors.size)
    received = 0
    refused: Counter[str] = Counter()
    try:
        for item in reader(member):
            received += item.kind is Kind.DATA or bool(item.refused)
            try:
                (data if item.kind is Kind.DATA else errors).write(item.line)
            except Invalid as error:
                if error.kind != "record-not-utf8":
                    raise
                received += item.kind is Kind.ERROR
                item = refusal("not-utf8", f"record {received} is not UTF-8", member)  # noqa: PLW2901
                errors.write(item.line)
            refused[item.refused] += bool(item.refused)
    except CatchmentError as error:
        if error.kind == "job-cancelled":
            raise
        data.rewind(*before[0])
        errors.rewind(*before[1])
        errors.write(outcome(issue_type(error), error.message, member))
        batch.failed[error.kind] += 1
        batch.unavailable += isinstance(error, Unavailable)
        refused = Counter({"member-failed": received})
    batch.received += received
    batch.refused += refused


def _put(task: Task, kind: Kind, file: IO[bytes]) -> Iterator[Part]:
    """The lines of a file as parts of bounded size."""
    file.seek(0)
    sizes = list(cut(iter(lambda: file.read(MIB), b""), task.max_bytes))
    file.seek(0)
    for index, size in enumerate(sizes):  # equal sizes are packed in order of name
        unique = f"{task.number:06}_{index:06}_{secrets.token_hex(4)}"
        name = layout.part_name(unique, kind)
        counted: list[int] = []
        task.store.put(task.prefix + name, _take(file, size, counted))
        yield Part(task.prefix + name, kind, size, sum(counted))


def _take(file: IO[bytes], size: int, lines: list[int]) -> Iterator[bytes]:
    while size:
        chunk = file.read(min(size, MIB))
        size -= len(chunk)
        lines.append(chunk.count(b"\n"))
        yield chunk


def _pause(sign: Sign | None, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if sign:
            sign.check()
        time.sleep(min(left, _SLICE))
