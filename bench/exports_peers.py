"""Other ways to combine finished files: ``cat``, a plain copy, the first system's algorithm."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from bench._common import timed
from catchment.exports.layout import kind_of
from catchment.exports.model import Kind, Piece
from catchment.exports.plan import pack

BUFFER = 1 << 20  # bytes


def groups(finished: Path, max_bytes: int) -> list[list[Path]]:
    """The files of each output, decided before the time starts."""
    pieces = [Piece(p.name, 0, p.stat().st_size) for p in finished.iterdir()]
    return [[finished / piece.part for piece in group] for group in pack(pieces, max_bytes)]


def cat(job: Path, max_bytes: int) -> None:
    """``cat`` into each output, with fsync; inputs stay."""
    work = groups(job / "finished", max_bytes)
    with timed():
        for number, group in enumerate(work):
            with (job / f"{number}.ndjson").open("wb", buffering=0) as out:
                subprocess.run(["cat", *group], stdout=out, check=True)  # noqa: S607
                os.fsync(out.fileno())


def copy(job: Path, max_bytes: int) -> None:
    """A copy through a buffer, with fsync; inputs stay."""
    work = groups(job / "finished", max_bytes)
    with timed():
        for number, group in enumerate(work):
            with (job / f"{number}.ndjson").open("wb", buffering=0) as out:
                for path in group:
                    with path.open("rb", buffering=0) as file:
                        shutil.copyfileobj(file, out, BUFFER)
                os.fsync(out.fileno())


def original(job: Path, max_bytes: int) -> None:
    """The first system's aggregator, scan by scan; no fsync, no digest."""
    with timed():
        Original(job, max_bytes).call()


class Original:
    """A re-statement of its classes, with the same listings and the same questions for sizes."""

    def __init__(self, job: Path, max_bytes: int, multiplier: int = 2) -> None:
        self.job = job
        self.finished = job / "finished"
        self.max_bytes = max_bytes
        self.multiplier = multiplier
        self.next = dict.fromkeys(Kind, 1)

    def call(self, pause: float = 1.0) -> int:
        """Until the workers are done it looks each second; then it drains."""
        made = 0
        while not self._done():
            made += self._drain()
            time.sleep(pause)
        made += self._drain()
        shutil.rmtree(self.finished)
        return made

    def _drain(self) -> int:
        made = 0
        for kind in Kind:
            while self._aggregate(kind):
                made += 1
        return made

    def _done(self) -> bool:
        return not (self.job / "streaming").exists()

    def _aggregate(self, kind: Kind) -> bool:
        for path in self._listed(Kind.DATA) + self._listed(Kind.ERROR):
            if self._size(path) == 0:
                path.unlink()
        total = sum(self._size(path) for path in self._listed(kind))
        if not (total > self.multiplier * self.max_bytes or self._done()):
            return False
        best = self._best(kind)
        if not best:
            return False
        suffix = ".ndjson" if kind is Kind.DATA else "_error.ndjson"
        target = self.job / f"C_{self.next[kind]:04}{suffix}"
        self.next[kind] += 1
        out = os.open(target, os.O_WRONLY | os.O_CREAT)
        for path in best:
            file = os.open(path, os.O_RDONLY)
            size, at = os.fstat(file).st_size, 0
            while at < size:
                at += os.sendfile(out, file, at, size - at)
            os.close(file)
        os.close(out)
        for path in best:
            path.unlink()
        return True

    def _best(self, kind: Kind) -> list[Path]:
        ordered = sorted(
            ((path, self._size(path)) for path in self._listed(kind)), key=lambda item: item[1]
        )
        if len(ordered) <= 1:
            return [path for path, _ in ordered]
        if ordered[-1][1] > self.max_bytes:
            return [ordered[-1][0]]
        taken, total = [], 0
        for path, size in reversed(ordered):
            if total + size <= self.max_bytes:
                total += size
                taken.append(path)
        return taken

    def _listed(self, kind: Kind) -> list[Path]:
        return [path for path in self.finished.iterdir() if kind_of(path.name) is kind]

    def _size(self, path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0


WAYS = {"cat": cat, "copy": copy, "original": original}
