"""The aggregator: finished parts become outputs, one step at a time, until the workers are done."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from catchment.core.errors import Unavailable
from catchment.core.progress import Event, Progress, silent
from catchment.exports import layout
from catchment.exports.combine import Combiner, Made
from catchment.exports.directories import JobDirectories
from catchment.exports.files import sync, told
from catchment.exports.inventory import Inventory
from catchment.exports.journal import Journal
from catchment.exports.model import Codec, Kind, Output, Piece, Rules
from catchment.exports.parts import PartFolder
from catchment.exports.plan import plan, ready

logger = logging.getLogger(__name__)

_WARNINGS = 10  # parts that are told of one by one


class Aggregator:
    """Combines the finished parts of one job; use it as a context manager, in one thread.

    Args:
        directories: of the job; its workers may be other processes, or another program.
        contract: first part of the outputs' names.
        rules: how an output is filled, and when.
        codec: how outputs are stored.
        published: told of each output once it stands under its name, before its parts are removed;
            after a crash it may be told of the same output again.
        progress: told of each output.

    Entering raises NotFound where there is no such job, Conflict (kind ``aggregator-running``)
    where another aggregator is at work on it.
    """

    def __init__(
        self,
        directories: JobDirectories,
        contract: str,
        rules: Rules | None = None,
        *,
        codec: Codec = Codec.NONE,
        published: Callable[[Output], None] = lambda _: None,
        progress: Progress = silent,
    ) -> None:
        self._directories = directories
        self._contract = layout.check(contract, "contract")
        self._rules = rules or Rules()
        self._codec = codec
        self._published = published
        self._progress = progress
        self._bytes = 0

    def __enter__(self) -> Self:
        self._parts = PartFolder(self._directories.finished_path)
        self._journal = Journal(self._directories, self._parts, self._published)
        self._inventory = Inventory(
            self._directories, self._parts, self._rules.max_bytes, self._journal
        )
        self._combiner = Combiner()
        self._plans: dict[Kind, Iterator[list[Piece]]] = {}
        self._numbers = dict.fromkeys(Kind, 0)
        self._failed = False  # a step, whose effects only the journal knows
        try:
            with told(f"job {self._directories.job} cannot be read"):
                self._parts.open()
                self._journal.open()
                self._inventory.open()
                for path in self._directories.job_path.iterdir():
                    for kind in Kind:
                        number = layout.output_number(path.name, self._contract, kind) or 0
                        self._numbers[kind] = max(self._numbers[kind], number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._combiner.close()
        self._inventory.close()
        self._journal.close()
        self._parts.close()

    @property
    def outputs(self) -> list[Output]:
        """What was made since the job was set up, also before a crash."""
        return self._journal.outputs

    def step(self) -> Output | None:
        """Make at most one output; None where nothing may be combined now.

        While workers stream, the start rule decides; when they are done, all that is left goes out.

        Raises:
            Invalid, Unavailable: the output could not be written; its parts are as they were.
                The next step takes the job up as a new aggregator would.
        """
        if self._failed:
            self.__exit__()
            self.__enter__()
        self._failed = True
        output = self._step()
        self._failed = False
        return output

    def _step(self) -> Output | None:
        if self._inventory.look():
            self._plans.clear()
        for kind in Kind:
            while pieces := self._next(kind):
                if output := self._make(kind, pieces):
                    return output
        return None

    def run(self, stop: threading.Event, *, once: bool = False) -> bool:
        """Step until the job is finished; whether it is.

        Args:
            stop: ends it early; the job can be taken up again.
            once: return when nothing more may be combined now.

        Raises as :meth:`step` and :meth:`check` do.
        """
        while not stop.is_set():
            if self.step() is None:
                if self.finish():
                    return True
                if once:
                    self.check()
                    break
                self._inventory.wait(stop)
        return False

    def finish(self) -> bool:
        """Remove ``finished`` and the journal if all is combined; False while there is more to do.

        Raises as :meth:`check` does.
        """
        if not self._inventory.done:
            return False
        self.check()
        with told(f"job {self._directories.job} cannot be finished"):
            try:
                self._directories.finished_path.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                if not any(self._directories.finished_path.iterdir()):
                    raise
                self._inventory.reopen()
                return False
            sync(self._directories.job_path)
            self._journal.forget()
        return True

    def check(self) -> None:
        """Raise if a part could not be combined or removed. The outputs that were made stand.

        The error is that of the first such part, warnings tell of more; all are in ``finished``.
        """
        self._journal.settle()
        problems = [*self._inventory.problems.values(), *self._journal.stuck.values()]
        if problems:
            first = problems[0]
            for problem in problems[1:_WARNINGS]:
                logger.warning("%s", problem.message)
            more = f" (and {len(problems) - 1} more parts)" if problems[1:] else ""
            raise type(first)(first.message + more, kind=first.kind, hint=first.hint)

    def _next(self, kind: Kind) -> list[Piece] | None:
        if kind not in self._plans:
            done = self._inventory.done
            if not ready(self._inventory.totals[kind], self._rules, done=done):
                return None
            self._plans[kind] = plan(self._inventory.pieces(kind), self._rules, done=done)
        return next(self._plans[kind], None)

    def _make(self, kind: Kind, pieces: list[Piece]) -> Output | None:
        """The output of these pieces; None if a part has changed, which is noted as a problem."""
        number = self._numbers[kind] + 1
        name = layout.output_name(self._contract, number, kind, self._codec)
        temporary = self._journal.temporary(name)
        try:
            try:
                made = self._write(temporary, pieces)
            except Unavailable as error:
                if error.kind != "disk-full" or not self._journal.settle():
                    raise
                made = self._write(temporary, pieces)  # in the room that other parts gave free
        except BaseException:
            temporary.unlink(missing_ok=True)
            if not self._inventory.set_aside(kind, pieces):
                raise
            self._plans.clear()
            return None
        if self._inventory.set_aside(kind, pieces):
            temporary.unlink()
            self._plans.clear()
            return None
        output = Output(name, kind, *made)
        uses = self._inventory.uses(kind, pieces)
        with told(f"{name} cannot be published"):
            while not self._journal.publish(output, uses):
                number += 1  # somebody else's file has the name
                name = layout.output_name(self._contract, number, kind, self._codec)
                temporary = temporary.rename(self._journal.temporary(name))
                output = replace(output, name=name)
        self._numbers[kind] = number
        self._bytes += output.size
        self._inventory.take(kind, pieces)
        self._tell(output)
        return output

    def _write(self, path: Path, pieces: list[Piece]) -> Made:
        with told(f"{path.stem} cannot be written"):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                return self._combiner.combine(descriptor, pieces, self._parts.read, self._codec)
            finally:
                os.close(descriptor)

    def _tell(self, output: Output) -> None:
        if output.size > self._rules.max_bytes:
            logger.warning(
                "%s is one line of %d bytes, above the maximum of %d",
                output.name,
                output.size,
                self._rules.max_bytes,
            )
        event = Event(
            f"exports/{self._directories.job}: combine",
            done=self._bytes,
            unit="bytes",
            message=f"in {len(self.outputs)} files",
        )
        self._progress(event)


def aggregate(
    directories: JobDirectories,
    contract: str,
    rules: Rules | None = None,
    *,
    codec: Codec = Codec.NONE,
    published: Callable[[Output], None] = lambda _: None,
    progress: Progress = silent,
    stop: threading.Event | None = None,
) -> int:
    """Combine finished parts until the workers are done and nothing is left; the outputs' number.

    A callable for any executor. It ends early when ``stop`` is set; the job can be taken up again.
    Arguments and errors are those of :class:`Aggregator`; after an error the parts that are not
    combined are in ``finished``, whole.
    """
    with Aggregator(
        directories, contract, rules, codec=codec, published=published, progress=progress
    ) as aggregator:
        aggregator.run(stop or threading.Event())
        return len(aggregator.outputs)
