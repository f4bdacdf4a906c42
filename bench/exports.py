"""Finished parts beside other ways of combining them: ``python -m bench.exports [--scale 0.1]``.

Ours takes the digest, counts lines, makes every output durable and removes the inputs; ``no
digest`` is the same without the digest, to see what that costs. ``cat`` and ``copy`` (through a
buffer) make the same outputs durable and leave the inputs; ``original`` is the first system's
algorithm re-stated with its scans, which makes nothing durable and takes no digest.
The files were just written and synced, so all find them in the page cache. The ways take turns, and
the median of each counts.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

from bench import exports_peers
from bench._common import RESULTS, Measured, Row, measure, report, scratch, timed
from catchment.exports.aggregator import aggregate
from catchment.exports.directories import JobDirectories
from catchment.exports.model import MIB, Rules

LINE = b'{"resourceType":"ExplanationOfBenefit","id":"0123456789"}'.ljust(999, b" ") + b"\n"
LATENCIES = 5
MOST_MB = 100  # that ours may take


@dataclass(frozen=True, slots=True)
class Work:
    """One line of the table.

    Attributes:
        files, size: of the parts; bytes each.
        ratios: how many times as long as ours a peer has to take, at least.
        runs: of each way, but for the original's where it takes minutes.
    """

    title: str
    files: int
    size: int
    max_bytes: int
    ratios: Mapping[str, float]
    runs: int = 3


# 0.8 of cat's speed without the digest; it may make that 1.5 times as long.
BIG = Work(
    "200 parts of 10 MB into outputs of 200 MiB", 200, 10_000_000, 200 * MIB, {"cat": 0.8 / 1.5}
)
SMALL = Work("20,000 parts of 20 KB into outputs of 1 MiB", 20_000, 20_000, MIB, {"original": 30})
ONE = Work("20,000 parts of 20 KB into outputs of 200 MiB", 20_000, 20_000, 200 * MIB, {})


def prepare(job: Path, work: Work, *, done: bool = True) -> None:
    """The job's folders, with all parts; of a worker that is done, or of one that still streams."""
    shutil.rmtree(job, ignore_errors=True)
    directories = JobDirectories(job.parent, job.name)
    directories.set_up()
    data = LINE * (work.size // len(LINE))
    for number in range(work.files):
        (directories.finished_path / f"tmp_{number:06}.ndjson").write_bytes(data)
    if done:
        directories.finish()


def ours(job: Path, max_bytes: int) -> None:
    """All of it."""
    with timed():
        aggregate(JobDirectories(job.parent, job.name), "C", Rules(max_bytes, 2))


def latency(job: Path, way: str) -> None:
    """From the done signal until the aggregator has ended, with one small part left."""
    directories = JobDirectories(job.parent, job.name)
    work: Callable[[], int] = (
        (lambda: aggregate(directories, "C"))
        if way == "ours"
        else exports_peers.Original(job, 200 * MIB).call
    )
    for _ in range(LATENCIES):
        prepare(job, Work("", 1, 1000, MIB, {}), done=False)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(work)
            time.sleep(0.7)
            with timed():
                directories.finish()
                ended.result()


def without_digest(job: Path, max_bytes: int) -> None:
    """Ours, but for the digest."""
    with patch("hashlib.sha256", _NoDigest):
        ours(job, max_bytes)


class _NoDigest:
    def update(self, data: object) -> None:
        pass

    def hexdigest(self) -> str:
        return "0" * 64


def compare(job: Path, work: Work, scale: float) -> tuple[Row, list[str]]:
    """The line of the table, and what had to be reached."""
    title = work.title + ("" if scale == 1 else f" (parts x {scale:g})")
    scaled = replace(work, files=int(work.files * scale))
    turns: dict[str, tuple[Callable[[Path, int], None], Work]] = {"ours": (ours, scaled)}
    if work is BIG:
        turns["no digest"] = (without_digest, scaled)
    if work is SMALL:
        turns["half"] = (ours, replace(scaled, files=scaled.files // 2))
    turns |= {name: (way, scaled) for name, way in exports_peers.WAYS.items()}
    runs: dict[str, list[Measured]] = {name: [] for name in turns}
    for turn in range(work.runs):
        for name, (way, part) in turns.items():
            if turn == 0 or not (work is SMALL and name == "original"):
                runs[name].append(_run(way, job, part))
    peers: dict[str, Measured | None] = {
        name: sorted(measured, key=lambda m: m.seconds)[(len(measured) - 1) // 2]
        for name, measured in runs.items()
    }
    own = peers.pop("ours")
    assert own is not None  # noqa: S101 - it failed with an exception, or not at all
    told = [_told(f"{own.peak_mb:.0f} MB, at most {MOST_MB}", own.peak_mb <= MOST_MB)]
    for name, least in work.ratios.items():
        ratio = (peer.seconds if (peer := peers[name]) else 0) / own.seconds
        told.append(_told(f"{ratio:.2f}x {name}, at least {least:.2f}", ratio >= least))
    if (bare := peers.get("no digest")) and (cat := peers["cat"]):
        ratio = cat.seconds / bare.seconds
        told.append(_told(f"{ratio:.2f}x cat without the digest, at least 0.8", ratio >= 0.8))
    if half := peers.get("half"):
        growth = own.seconds / half.seconds
        told.append(_told(f"twice the parts: {growth:.2f}x the time, less than 2.3", growth < 2.3))
    return Row(title, own, peers), [title, *told]


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1, help="of the numbers of parts")
    scale = parser.parse_args().scale
    job = scratch("exports") / "J"
    lines = [compare(job, work, scale) for work in (BIG, SMALL, ONE)]
    ends = {way: _one(measure(latency, job, way)) for way in ("ours", "original")}
    title, took = "from the done signal to the end", ends["ours"].seconds * 1000
    told = [title, _told(f"{took:.0f} ms, less than 100", took < 100)]
    lines.append((Row(title, ends["ours"], {"original": ends["original"]}), told))
    shutil.rmtree(job.parent)
    report("exports", [row for row, _ in lines], RESULTS if scale == 1 else None)
    for _, told in lines:
        print(*told, sep="\n  ")
    if scale != 1:
        print("a trial: nothing was recorded")


def _run(way: Callable[[Path, int], None], job: Path, work: Work) -> Measured:
    return measure(way, job, work.max_bytes, before=lambda: prepare(job, work))


def _one(all_of_them: Measured) -> Measured:
    return replace(all_of_them, seconds=all_of_them.seconds / LATENCIES)


def _told(what: str, reached: bool) -> str:  # noqa: FBT001 - a truth in words
    return f"{what}: {'reached' if reached else 'MISSED'}"


if __name__ == "__main__":
    main()
