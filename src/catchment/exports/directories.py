"""The folders of a job, as every worker and aggregator of the first system knows them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from catchment.core.errors import Conflict, Invalid
from catchment.core.names import shown
from catchment.exports import layout
from catchment.exports.files import sync, told


@dataclass(frozen=True, slots=True)
class JobDirectories:
    """``<base>/<job>`` with its two folders; the first of them tells whether workers still stream.

    Attributes:
        base: folder of all jobs.
        job: name of the job.
        streaming: name of the folder of files that are being written.
        finished: name of the folder of files that are whole.
    """

    base: Path
    job: str
    streaming: str = layout.STREAMING
    finished: str = layout.FINISHED

    def __post_init__(self) -> None:
        layout.check_folder(self.job, "job")
        layout.check_folder(self.streaming, "folder")
        layout.check_folder(self.finished, "folder")
        if len({self.streaming, self.finished, layout.JOURNAL}) < 3:
            raise Invalid(
                f"streaming and finished files: expected two folders beside {layout.JOURNAL}, got "
                f"{shown(self.streaming)} and {shown(self.finished)}",
                kind="bad-name",
                hint="what is still written must not be taken for finished",
            )

    @property
    def job_path(self) -> Path:
        """Where outputs appear."""
        return Path(self.base) / self.job

    @property
    def streaming_path(self) -> Path:
        """Where files are written; gone when all workers are done."""
        return self.job_path / self.streaming

    @property
    def finished_path(self) -> Path:
        """Where whole files wait to be combined; gone when all of them are."""
        return self.job_path / self.finished

    @property
    def journal_path(self) -> Path:
        """What the aggregator remembers while the job is open."""
        return self.job_path / layout.JOURNAL

    def set_up(self) -> None:
        """Make the folders; those that are there already stay as they are."""
        with told(f"job {self.job} cannot be set up"):
            # First of all `streaming`: without it an aggregator takes the job for done.
            self.streaming_path.mkdir(parents=True, exist_ok=True)
            self.finished_path.mkdir(exist_ok=True)
            for folder in (self.job_path, self.job_path.parent):
                sync(folder)

    def finish(self, *, discard: bool = False) -> None:
        """Tell the aggregator that all data is written, by removing ``streaming``.

        Conflict (kind ``streams-open``) where files are still in it, unless they are to be
        discarded: what a killed worker left half written.
        """
        with told(f"job {self.job} cannot be finished"):
            if discard:
                shutil.rmtree(self.streaming_path, ignore_errors=True)
            try:
                self.streaming_path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                left = sum(1 for _ in self.streaming_path.iterdir())
                if not left:
                    raise
                raise Conflict(
                    f"job {self.job}: expected no open stream, got {left}",
                    kind="streams-open",
                    hint="close the streams first; discard what a killed worker left",
                ) from None
            sync(self.job_path)

    @property
    def done(self) -> bool:
        """Whether all workers are done: nothing streams any more."""
        with told(f"job {self.job} cannot be read"):
            return not self.streaming_path.exists()

    def promote(self, name: str) -> None:
        """Move a whole file from ``streaming`` to ``finished``, durably; or leave it there.

        Conflict (kind ``part-taken``) where another one of its name waits to be combined.
        """
        with told(f"{name} cannot be moved to {self.finished}"):
            # Nobody else comes between: the name is this file's in `streaming`, too.
            if os.path.lexists(self.finished_path / name):
                raise Conflict(
                    f"{name} waits to be combined: another one would take its place",
                    kind="part-taken",
                    hint="give each stream a name of its own",
                )
            moved = (self.streaming_path / name).rename(self.finished_path / name)
            try:
                sync(self.finished_path)
            except OSError:
                moved.rename(self.streaming_path / name)
                raise
