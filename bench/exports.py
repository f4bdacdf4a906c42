"""Finished parts beside other ways of combining them: ``python -m bench.exports [--scale 0.1]``.

Ours takes the digest, counts lines, makes every output durable and removes the inputs; ``cat`` and
``copy`` (through a buffer) make the same outputs durable and leave the inputs; ``original`` is the
first system's algorithm re-stated with its scans, which makes nothing durable and takes no digest.
The files were just written and synced, so all find them in the page cache.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench import exports_peers
from bench._common import RESULTS, Measured, Row, measure, report, scratch, timed
from catchment.exports.aggregator import aggregate
from catchment.exports.directories import JobDirectories
from catchment.exports.model import MIB, Rules

LINE = b'{"resourceType":"ExplanationOfBenefit","id":"0123456789"}'.ljust(999, b" ") + b"\n"
LATENCIES = 5


@dataclass(frozen=True, slots=True)
class Work:
    """One line of the table.

    Attributes:
        files, size: of the parts; bytes each.
        ratios: how many times as long as ours a peer has to take, at least.
        most_mb: that ours may take.
    """

    title: str
    files: int
    size: int
    max_bytes: int
    ratios: Mapping[str, float]
    runs: int = 3
    most_mb: float = 100


BIG = Work("200 parts of 10 MB into outputs of 200 MiB", 200, 10_000_000, 200 * MIB, {"cat": 0.8})
SMALL = Work(
    "20,000 parts of 20 KB into outputs of 1 MiB", 20_000, 20_000, MIB, {"original": 30}, runs=1
)
HALF = Work("10,000 parts of 20 KB into outputs of 1 MiB", 10_000, 20_000, MIB, {}, runs=1)
ONE = Work("20,000 parts of 20 KB into outputs of 200 MiB", 20_000, 20_000, 200 * MIB, {}, runs=1)


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


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1, help="of the numbers of parts")
    given = parser.parse_args()
    job = scratch("exports") / "J"
    rows: list[Row] = []
    told: list[str] = []
    trial = "" if given.scale == 1 else f" (parts x {given.scale:g})"
    for work in (BIG, SMALL, ONE):
        scaled = Work(work.title, int(work.files * given.scale), work.size, work.max_bytes, {})

        def run(
            way: Callable[[Path, int], None], scaled: Work = scaled, runs: int = work.runs
        ) -> Measured:
            before = lambda: prepare(job, scaled)  # noqa: E731
            return measure(way, job, scaled.max_bytes, runs=runs, before=before)

        own = run(ours)
        peers: dict[str, Measured | None] = {
            "cat": run(exports_peers.cat),
            "copy": run(exports_peers.copy),
            "original": run(exports_peers.original),
        }
        if work is SMALL:
            half = Work("", scaled.files // 2, work.size, work.max_bytes, {})
            smaller = run(ours, half)
            growth = own.seconds / smaller.seconds
            told.append(
                f"twice the parts take {growth:.2f}x the time, at most 2.3: {_word(growth < 2.3)}"
            )
            peers["half"] = smaller
        rows.append(Row(work.title + trial, own, peers))
        for name, least in work.ratios.items():
            peer = peers[name]
            ratio = peer.seconds / own.seconds if peer else 0
            told.append(
                f"{work.title}: {ratio:.2f}x {name}, at least {least}: {_word(ratio >= least)}"
            )
        told.append(
            f"  {own.peak_mb:.0f} MB, at most {work.most_mb}: {_word(own.peak_mb <= work.most_mb)}"
        )
    ends = {way: _each(measure(latency, job, way)) for way in ("ours", "original")}
    rows.append(
        Row("from the done signal to the end", ends["ours"], {"original": ends["original"]})
    )
    own_s = ends["ours"].seconds
    told.append(f"latency {own_s * 1000:.0f} ms, at most 100: {_word(own_s < 0.1)}")
    shutil.rmtree(job.parent)
    whole = given.scale == 1
    report("exports", rows, RESULTS if whole else None)
    print(*told, sep="\n")
    if not whole:
        print("a trial: nothing was recorded")


def _each(all_of_them: Measured) -> Measured:
    return Measured(all_of_them.seconds / LATENCIES, all_of_them.peak_mb, all_of_them.cpu_s)


def _word(reached: bool) -> str:  # noqa: FBT001 - a truth in words
    return "reached" if reached else "MISSED"


if __name__ == "__main__":
    main()
