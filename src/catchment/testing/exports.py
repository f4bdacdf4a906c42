"""Jobs for tests: on disk, with lines that tell where they come from."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

from catchment.exports.directories import JobDirectories


def put(directories: JobDirectories, name: str, data: bytes) -> Path:
    """A finished part, put there as a worker does: written elsewhere, then moved."""
    directories.finished_path.mkdir(parents=True, exist_ok=True)
    written = directories.job_path.parent / f"{directories.job}-{name}"
    written.write_bytes(data)
    return written.rename(directories.finished_path / name)


def line(size: int, fill: str = "x") -> bytes:
    """One line of ``size`` bytes, newline included."""
    return (fill * (size - 1)).encode() + b"\n"


def read(path: Path) -> bytes:
    """The bytes of an output, uncompressed."""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def outputs(directories: JobDirectories) -> dict[str, bytes]:
    """Every file in the job's folder, by name."""
    return {p.name: read(p) for p in sorted(directories.job_path.iterdir()) if p.is_file()}


def lines_out(directories: JobDirectories) -> Counter[bytes]:
    """Every line of the outputs, with how often it is there."""
    return Counter(
        line for data in outputs(directories).values() for line in data.splitlines(keepends=True)
    )


def lines_left(directories: JobDirectories) -> Counter[bytes]:
    """Every line that is still in ``finished``."""
    left: Counter[bytes] = Counter()
    if directories.finished_path.exists():
        for path in directories.finished_path.iterdir():
            left.update(read(path).splitlines(keepends=True))
    return left
