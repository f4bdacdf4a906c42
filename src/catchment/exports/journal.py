"""What an aggregator remembers on disk, so that each record comes out exactly once.

For each output there is a small record in ``<job>/.catchment``. The steps of making an output are

1. its bytes are written to a temporary file there, durably;
2. the record names the output and the pieces that it took: from here on they are used;
3. the temporary file is linked to the output's name, which must be free;
4. the temporary file is removed, then the parts that gave all they had.

A crash before 2 leaves a temporary file without a record: it is thrown away, the parts are whole.
A crash later leaves a record, from which the remaining steps are made again, each at most once.
A part that cannot be removed stays used for as long as it lies there. Records go when the job is
done, all at once.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from catchment.core.errors import CatchmentError, Conflict, Corrupt
from catchment.exports.directories import JobDirectories
from catchment.exports.files import failure, sync_folder, told, write_all
from catchment.exports.model import Output
from catchment.exports.parts import Identity, Span

FORMAT = 1
_LOCK = "lock"
_RECORD = ".json"
_TEMPORARY = ".tmp"


class Use(NamedTuple):
    """What an output took from a part; ``last`` says that nothing is left of it."""

    part: str
    identity: Identity
    span: Span
    last: bool


class Journal:
    """The records of a job, held by one aggregator at a time.

    Args:
        directories: of the job.
        published: told of each output once it stands under its name, before its parts are removed;
            after a crash it may be told of the same output again.

    Attributes:
        outputs: every output of the job that is on record, in order of name.
        stuck: parts that are used up and could not be removed, with the reason.
    """

    def __init__(self, directories: JobDirectories, published: Callable[[Output], None]) -> None:
        self._directories = directories
        self._published = published
        self._folder = directories.journal_path
        self._lock = -1
        self._used: dict[str, tuple[Identity, list[Span]]] = {}
        self.outputs: list[Output] = []
        self.stuck: dict[str, CatchmentError] = {}

    def open(self) -> None:
        """Take the job for this process, and finish what a crash left undone.

        Conflict (kind ``aggregator-running``) where another one has it.
        """
        with told(f"job {self._directories.job} cannot be opened for combining"):
            self._lock = self._take()
            files = set(self._folder.iterdir()) - {self._folder / _LOCK}
            records = sorted(path for path in files if path.suffix == _RECORD)
            for path in files.difference(records):
                if path.with_suffix(_RECORD) not in files:
                    path.unlink()
            for path in records:
                output, uses = _read(path)
                if not self._finish(output, uses):
                    self.temporary(output.name).unlink()

    def temporary(self, name: str) -> Path:
        """Where the bytes of an output are written before it is on record."""
        return self._folder / (name + _TEMPORARY)

    def publish(self, output: Output, uses: Sequence[Use]) -> bool:
        """Record, publish and clean up after an output whose bytes are in its temporary file.

        False, and nothing has changed, where another file has the output's name.
        """
        record = {"format": FORMAT, "output": output.to_json(), "uses": uses}
        path = self._folder / (output.name + _RECORD)
        draft = path.with_suffix(".draft")
        with draft.open("wb", buffering=0) as file:
            write_all(file.fileno(), json.dumps(record).encode())
            os.fsync(file.fileno())
        draft.rename(path)
        sync_folder(self._folder)
        return self._finish(output, uses)

    def used(self, part: str, identity: Identity) -> list[Span]:
        """What outputs took from this part already."""
        known, spans = self._used.get(part, (identity, []))
        return spans if known == identity else []

    def remove(self, part: str, identity: Identity) -> None:
        """Remove a part that is used up, or note that it is stuck."""
        path = self._directories.finished_path / part
        try:
            if Identity.of(path.lstat()) == identity:
                path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            self.stuck[part] = failure(error, f"{part} is combined, but cannot be removed")
            return
        self.stuck.pop(part, None)
        self._used.pop(part, None)

    def close(self) -> None:
        """Give the job free."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def forget(self) -> None:
        """Remove the records of a job that is done; the lock goes last."""
        for path in self._folder.iterdir():
            if path.name != _LOCK:
                path.unlink()
        (self._folder / _LOCK).unlink()
        self._folder.rmdir()
        self.close()

    def _take(self) -> int:
        """The lock, held; it is given back when this process ends, however that comes."""
        path = self._folder / _LOCK
        while True:
            self._folder.mkdir(exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and path.stat().st_ino == os.fstat(lock).st_ino:
                    return lock
            except BlockingIOError:
                os.close(lock)
                raise Conflict(
                    f"job {self._directories.job}: another aggregator is at work",
                    kind="aggregator-running",
                    hint="wait for it to end, or stop it",
                ) from None
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)  # the one before finished the job and removed its lock just now

    def _finish(self, output: Output, uses: Sequence[Use]) -> bool:
        temporary = self.temporary(output.name)
        target = self._directories.job_path / output.name
        if temporary.exists():
            try:
                os.link(temporary, target)
            except FileExistsError:
                if not temporary.samefile(target):
                    (self._folder / (output.name + _RECORD)).unlink()
                    sync_folder(self._folder)
                    return False
            sync_folder(self._directories.job_path)
            self._published(output)
            temporary.unlink()
        self.outputs.append(output)
        for use in uses:
            self._used.setdefault(use.part, (use.identity, []))[1].append(use.span)
            if use.last:
                self.remove(use.part, use.identity)
        return True


def _read(path: Path) -> tuple[Output, list[Use]]:
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}")
        uses = [
            Use(part, Identity(*identity), Span(*span), last)
            for part, identity, span, last in record["uses"]
        ]
        return Output.from_json(record["output"]), uses
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(
            f"the record {path.name} of what was combined cannot be read",
            kind="journal-unreadable",
            hint="keep the job's folder as it is, and report this",
        ) from error
