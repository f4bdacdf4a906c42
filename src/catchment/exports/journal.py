"""What an aggregator remembers on disk, so that each record comes out exactly once.

The steps of making an output are

1. its bytes are written to a temporary file in ``<job>/.catchment``;
2. a record beside it names the output and the pieces that it takes; both are made durable;
3. the temporary file is linked to the output's name, which must be free: from here on the output
   stands and its pieces are used;
4. the temporary file is removed, then the parts that gave all they had; the record stays.

After a crash, a temporary file that is not linked to its output is thrown away with its record,
and the parts are whole; for one that is, the remaining steps are made again. A part that cannot
be removed stays used for as long as it lies there. Records go all at once, when the job is done.

A worker may use the name of a part again at any moment. So a part is not removed where it lies: it
is moved into ``<job>/.catchment/used``, looked at there, and put back if it is not the one that
was used.

Threads remove the parts of one output while the next one is written: to remove a small file takes
longer than to copy it, most of it in waiting for the file system.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Container, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from catchment.core.errors import CatchmentError, Conflict, Corrupt
from catchment.exports.directories import JobDirectories
from catchment.exports.files import begin_sync, failure, sync, told
from catchment.exports.model import Output
from catchment.exports.parts import Identity, PartFolder, Span

FORMAT = 1
_LOCK = "lock"
_RECORD = ".json"
_TEMPORARY = ".tmp"
_TAKEN = "used"
_REMOVERS = 2  # threads
_TICK_NS = 20_000_000  # no file system's clock that is the kernel's stands still for longer
PATIENCE_SECONDS = 1.0  # for the lock: that of a killed process may outlive it by a moment


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
        parts: its finished parts.
        published: told of each output once it stands under its name, before its parts are removed;
            after a crash it may be told of the same output again.

    Attributes:
        outputs: every output of the job that is on record, in order of name.
        stuck: parts that are used up and could not be removed, with the reason; :meth:`settle`
            before you look.
    """

    def __init__(
        self,
        directories: JobDirectories,
        parts: PartFolder,
        published: Callable[[Output], None],
    ) -> None:
        self._directories = directories
        self._published = published
        self._folder = directories.journal_path
        self._parts = parts
        self._lock = self._taken = -1
        self._removers = ThreadPoolExecutor(_REMOVERS, thread_name_prefix="catchment-remove")
        self._removals: list[Future[None]] = []  # until they end, `stuck` and `_used` are theirs
        self._used: dict[tuple[str, Identity], list[Span]] = {}
        self.outputs: list[Output] = []
        self.stuck: dict[str, CatchmentError] = {}

    def open(self) -> None:
        """Take the job for this process, and finish what a crash left undone.

        Conflict (kind ``aggregator-running``) where another one has it.
        """
        with told(f"job {self._directories.job} cannot be opened for combining"):
            self._lock = self._take()
            taken = self._folder / _TAKEN
            taken.mkdir(exist_ok=True)
            self._taken = os.open(taken, os.O_RDONLY | os.O_DIRECTORY)
            names = sorted(path.name for path in self._folder.iterdir())
            for name in names:
                if name.endswith(_TEMPORARY) and not self._is_linked(name[: -len(_TEMPORARY)]):
                    self._discard(name[: -len(_TEMPORARY)])
            paths = [self._folder / name for name in names if name.endswith(_RECORD)]
            records = [_read(path) for path in paths if path.exists()]
            used = {(use.part, use.identity) for _, uses in records for use in uses if use.last}
            for part in [path.name for path in taken.iterdir()]:
                self._remove_or_put_back(part, used)
            for output, uses in records:
                self._finish(output, uses)

    def temporary(self, name: str) -> Path:
        """Where the bytes of an output are written before it stands."""
        return self._folder / (name + _TEMPORARY)

    def publish(self, output: Output, uses: Sequence[Use]) -> bool:
        """Publish an output whose bytes are in its temporary file, then remove what is used up.

        False, and only the temporary file is left, where another file has the output's name.
        """
        temporary, record = self.temporary(output.name), self._record(output.name)
        data = {"format": FORMAT, "output": output.to_json(), "uses": uses}
        with record.open("wb", buffering=0) as file:
            size = file.write(json.dumps(data).encode())
            begin_sync(file.fileno(), 0, size)
        for path in (temporary, record, self._folder):
            sync(path)
        try:
            os.link(temporary, self._directories.job_path / output.name)
        except FileExistsError:
            record.unlink()
            sync(self._folder)
            return False
        self._finish(output, uses)
        return True

    def used(self, part: str, identity: Identity) -> list[Span]:
        """What outputs took from this part already."""
        return self._used.get((part, identity), [])

    def remove(self, part: str, identity: Identity) -> bool:
        """Remove a part that is used up; False if that cannot be done, and it is stuck."""
        try:
            _outlive(identity)
            self._parts.move(part, self._taken)
            self._remove_or_put_back(part, {(part, identity)})
        except FileNotFoundError:
            pass
        except OSError as error:
            self.stuck[part] = failure(error, f"{part} is combined, but cannot be removed")
            return False
        self.stuck.pop(part, None)
        self._used.pop((part, identity), None)
        return True

    def settle(self) -> bool:
        """Wait until the parts of the last output are removed, or stuck; False if they were."""
        removals, self._removals = self._removals, []
        wait(removals)
        for removal in removals:
            removal.result()
        return bool(removals)

    def close(self) -> None:
        """Give the job free."""
        try:
            self.settle()
        finally:
            self._removers.shutdown()
            if self._taken >= 0:
                os.close(self._taken)
                self._taken = -1
            if self._lock >= 0:
                fcntl.flock(self._lock, fcntl.LOCK_UN)  # a child may have a copy of it
                os.close(self._lock)
                self._lock = -1

    def forget(self) -> None:
        """Remove the records of a job that is done; the lock goes last."""
        (self._folder / _TAKEN).rmdir()
        for path in sorted(self._folder.iterdir(), key=lambda path: path.name == _LOCK):
            path.unlink()
        try:
            self._folder.rmdir()
        except OSError as error:
            # Another aggregator came just now. It finds nothing to do, and removes the folder.
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
        self.close()

    def _take(self) -> int:
        """The lock, held; it is given back when this process ends, however that comes."""
        path = self._folder / _LOCK
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            with suppress(FileExistsError):
                self._folder.mkdir()
            lock = -1
            try:
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(path.stat(), os.fstat(lock)):
                    return lock
            except FileNotFoundError:
                pass
            except BlockingIOError:
                if time.monotonic() > end:
                    os.close(lock)
                    raise Conflict(
                        f"job {self._directories.job}: another aggregator is at work",
                        kind="aggregator-running",
                        hint="wait for it to end, or stop it",
                    ) from None
                time.sleep(PATIENCE_SECONDS / 50)
            except BaseException:
                if lock >= 0:
                    os.close(lock)
                raise
            if lock >= 0:
                os.close(lock)  # the one before finished the job and removed its lock just now

    def _finish(self, output: Output, uses: Sequence[Use]) -> None:
        temporary = self.temporary(output.name)
        if temporary.exists():
            sync(self._directories.job_path)
            self._published(output)
            temporary.unlink()
        self.outputs.append(output)
        self.settle()
        for use in uses:
            self._used.setdefault((use.part, use.identity), []).append(use.span)
        last = [use for use in uses if use.last]
        self._removals = [
            self._removers.submit(self._remove, last[start::_REMOVERS])
            for start in range(min(_REMOVERS, len(last)))
        ]

    def _remove(self, uses: Sequence[Use]) -> None:
        for use in uses:
            self.remove(use.part, use.identity)

    def _remove_or_put_back(self, part: str, used: Container[tuple[str, Identity]]) -> None:
        """End what the move of a part began; a part that is not used goes where it was."""
        status = os.stat(part, dir_fd=self._taken, follow_symlinks=False)
        if (part, Identity.of(status)) not in used and status.st_ino not in self._parts.inodes():
            try:
                self._parts.put(part, self._taken)
            except FileExistsError:  # a third part has the name by now
                self._parts.put(part, self._taken, f"{status.st_ino}-{part}")
        os.unlink(part, dir_fd=self._taken)

    def _is_linked(self, name: str) -> bool:
        target = self._directories.job_path / name
        return target.exists() and target.samefile(self.temporary(name))

    def _discard(self, name: str) -> None:
        self._record(name).unlink(missing_ok=True)
        sync(self._folder)  # never must the record be there without the file
        self.temporary(name).unlink()

    def _record(self, name: str) -> Path:
        return self._folder / (name + _RECORD)


def _outlive(identity: Identity) -> None:
    """Wait until a later file cannot have this identity, whose inode is free once it is removed."""
    clock = getattr(time, "CLOCK_REALTIME_COARSE", time.CLOCK_REALTIME)  # as files have it
    while 0 <= identity.mtime_ns + 1 - time.clock_gettime_ns(clock) < _TICK_NS:
        time.sleep(_TICK_NS / 1e10)


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
