"""The house under load: ``python -m bench.load``, or ``--only tables`` for one part of it.

Each kind of work runs at several sizes, so that its growth is seen: the time for the largest is
compared with what n log n would make of that for the one before. Eight processes and 200 sites work
on one workspace in S3 and PostgreSQL, real servers of tests on this machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from math import log
from pathlib import Path
from queue import Empty
from typing import Any

from bench._common import RESULTS, Measured, Row, measure, report, scratch, timed
from catchment.core.workspace import Workspace

GROWTH = 1.3  # that a measurement may be above n log n
PROCESSES = 8
SITES = 200
COMMITS = 30  # of each process
LEDGER = (10_000, 100_000, 1_000_000)
CENTERS = (25, 50, 100)
FILES = (10_000, 30_000, 100_000)
SESSIONS = (100, 300, 1_000)
UPLOADS = (50, 100, 200)


# --- a ledger of very many contributions ----------------------------------------------------------


def fill(url: str, count: int) -> None:
    """Record so many contributions of 200 sites, and move them as a run does."""
    from catchment.core.ledger import Delivery, Ledger

    with Ledger.open(url) as ledger, timed():
        for start in range(0, count, 10_000):
            numbers = range(start, min(count, start + 10_000))
            ledger.receive_many(
                "imaging/ct",
                [Delivery(f"site{n % SITES:03}", f"f{n}", f"sha256:{n:064x}", n) for n in numbers],
            )


def ask_status(url: str, count: int) -> None:
    """What ``catchment status`` asks."""
    from catchment.core.ledger import Ledger
    from catchment.core.status import status

    with Ledger.open(url) as ledger:
        ledger.aggregates()  # the connection is made
        with timed():
            (told,) = status(ledger, ["imaging/ct"])
    if sum(told["contributions"].values()) != count:
        raise RuntimeError("status counts something else")


def ledger_sqlite(count: int) -> Iterator[Row]:
    """A file."""
    yield from _ledger("SQLite", f"sqlite:///{scratch('load-ledger')}/{count}.db", count)


def ledger_postgres(count: int) -> Iterator[Row]:
    """A server, with fsync as in production."""
    from catchment.testing import postgres

    with postgres.running() as server:
        yield from _ledger("PostgreSQL", server.database(), count)


def _ledger(name: str, url: str, count: int) -> Iterator[Row]:
    yield Row(f"{count:,} contributions into {name}", measure(fill, url, count), {})
    yield Row(f"status over {count:,} in {name}", measure(ask_status, url, count), {})


# --- a run of each kind ---------------------------------------------------------------------------


def run(folder: str, aggregate: str) -> None:
    """One run of an aggregate in a workspace."""
    from catchment.testing.workspaces import run as bring

    with Workspace.open(folder) as workspace, timed():
        if bring(workspace, aggregate) != "published":
            raise RuntimeError(f"{aggregate} published nothing")


def _workspace(folder: Path, text: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "catchment.toml").write_text(f'[workspace]\nstore = "data"\n{text}')
    return str(folder)


def tables(count: int) -> Iterator[Row]:
    """Snapshots of more and more centers."""
    from catchment.testing.centers import make_centers

    folder = scratch(f"load-tables-{count}")
    made = make_centers(folder / "in", centers=count, columns=200, rows=(800, 1200), broken=0)
    text = f'[tables.main]\ncenters = "{made.centers}"\ndatasets = "{made.datasets}"\n'
    text += f'identifiers = "{made.identifiers}"\n'
    place = _workspace(folder / "w", text)
    yield Row(f"table of {count} centers", measure(run, place, "tables/main"), {})


def images(count: int) -> Iterator[Row]:
    """Tables of more and more files, which have headers only."""
    from catchment.testing.dicom import make_file

    known = "1.2.3.4.5.1000000"
    pixels = ("Rows", "Columns", "PixelData", "BitsAllocated", "BitsStored", "HighBit")
    nothing: dict[str, Any] = dict.fromkeys(pixels)
    one = make_file(known, patient="P1", **nothing)
    folder = scratch(f"load-images-{count}")
    source = folder / "in"
    for number in range(count):
        place = source / f"{number // 1000:03}"
        if not number % 1000:
            place.mkdir(parents=True)
        data = one.replace(known.encode(), f"1.2.3.4.5.{1_000_000 + number}".encode())
        (place / f"{number}.dcm").write_bytes(data)
    text = '[imaging.ct]\nkey = "a key"\npreviews = "none"\n'
    text += f'[imaging.ct.providers]\nclinic = "{source}"\n'
    yield Row(
        f"tables of {count:,} DICOM files",
        measure(run, _workspace(folder / "w", text), "imaging/ct"),
        {},
    )


def sessions(count: int) -> Iterator[Row]:
    """Stores of more and more sessions."""
    import edfio
    import numpy as np

    noise = np.random.default_rng(0)
    values = [noise.standard_normal(400) * 20 for _ in range(2)]
    folder = scratch(f"load-sessions-{count}")
    (folder / "in").mkdir()
    for number in range(count):
        signals = [
            edfio.EdfSignal(v, 100, label=label, physical_range=(-200, 200))
            for v, label in zip(values, ("Fp1", "Fp2"), strict=True)
        ]
        start = datetime(2026, 1, 1) + timedelta(minutes=number)  # noqa: DTZ001 - EDF has no zone
        recording = edfio.Recording(startdate=start.date())
        edf = edfio.Edf(signals, starttime=start.time(), recording=recording)
        edf.write(folder / f"in/site_s{number:04}.edf")
    text = f'[arrays.eeg]\nrecordings = "{folder / "in"}"\n'
    text += 'pseudonym_key = "a key of a benchmark, of thirty-two bytes"\n'
    text += '[executor]\nkind = "processes"\n'
    yield Row(
        f"store of {count:,} sessions",
        measure(run, _workspace(folder / "w", text), "arrays/eeg"),
        {},
    )


# --- many at once, on S3 and PostgreSQL -----------------------------------------------------------


@contextmanager
def servers() -> Iterator[str]:
    """Lines of a ``catchment.toml`` for real servers of this machine."""
    from catchment.testing import postgres, s3

    class Factory:
        def mktemp(self, name: str) -> Path:
            return Path(tempfile.mkdtemp(prefix=name))

    made: Any = getattr(s3.ministack, "__wrapped__")  # noqa: B009 - the function of the fixture
    with postgres.running() as database:
        started = made(Factory())
        server = next(started)
        try:
            lines = [
                f'store = "s3://{server.bucket}/load"', f'ledger = "{database.database()}"', "[s3]",
                *(f'{k} = "{v}"'.replace('"true"', "true") for k, v in server.options.items()),
            ]  # fmt: skip
            yield "[workspace]\n" + "\n".join(lines) + "\n"
        finally:
            next(started, None)


def send(folder: str, sites: list[int], answers: Any) -> None:
    """One process of sites: each uploads its package, and waits for its answer."""
    from catchment.studies import layout, library
    from catchment.testing.studies import cube, make_people, parquet

    took = []
    with Workspace.open(folder) as workspace:
        for site in sites:
            data = parquet(cube(make_people(site, 100)))
            name = "core__count.cube.parquet"
            key = layout.staging("core", f"s{site}", 0, name)
            start = time.perf_counter()
            workspace.store.put(key, data, mode="overwrite")
            said = library.submit(workspace, f"s{site}", "core", 0, name, key, "u", f"tx-{site}")
            took.append(time.perf_counter() - start)
            if not said.files:
                raise RuntimeError("an upload without an answer")
    answers.put(took)


def commit(folder: str, worker: list[int], answers: Any) -> None:
    """One process that publishes small snapshots of its own aggregate, with objects and seals."""
    import hashlib

    from catchment.core.account import Account
    from catchment.core.ledger import Publication
    from catchment.core.provenance import seal

    took = []
    with Workspace.open(folder) as workspace:
        for number in range(COMMITS):
            start = time.perf_counter()
            name = f"tables/w{worker[0]}"
            data = f"{worker} {number}".encode() * 100
            key = f"{name}/{number}/data"
            workspace.store.put(key, data)
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            item = {"role": "table", "key": key, "size": len(data), "digest": digest}
            made = Publication(
                name, str(number), f"{name}/{number}/", {"objects": [item]}, Account()
            )
            seal(workspace.store, workspace.ledger, workspace.ledger.publish(made))
            took.append(time.perf_counter() - start)
    answers.put(took)


def at_once(folder: str, work: str, count: int, told: str) -> None:
    """Eight processes do their share of the work; latencies go to a file."""
    call: Callable[..., None] = {"send": send, "commit": commit}[work]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    shares = [list(range(n, count, PROCESSES)) for n in range(PROCESSES)]
    with timed():
        workers = [context.Process(target=call, args=(folder, s, answers)) for s in shares if s]
        for worker in workers:
            worker.start()
        took = sorted(t for _ in workers for t in _answer(workers, answers))
        for worker in workers:
            worker.join()
    Path(told).write_text(json.dumps(took))


def _answer(workers: Iterable[Any], answers: Any) -> list[float]:
    """What one of the processes took, however long that is; RuntimeError if one has failed."""
    while True:
        try:
            return answers.get(timeout=5)  # type: ignore[no-any-return]
        except Empty:
            if any(worker.exitcode for worker in workers):
                raise RuntimeError("a process failed") from None


def uploads(count: int) -> Iterator[Row]:
    """So many sites."""
    yield from _many("send", count, f"{count:,} sites upload to one study, {PROCESSES} at a time")


def commits(count: int) -> Iterator[Row]:
    """Of aggregates of their own."""
    yield from _many("commit", count, f"{COMMITS * count} commits of {count} processes")


def _many(work: str, count: int, name: str) -> Iterator[Row]:
    folder = scratch("load-many")
    with servers() as text:
        (folder / "w").mkdir()
        (folder / "w/catchment.toml").write_text(f"{text}\n[studies.core]\nmin_cell = 0\n")
        told = folder / "took.json"
        measured = measure(at_once, str(folder / "w"), work, count, str(told))
    took = json.loads(told.read_text())
    yield Row(name, measured, {})
    for which, seconds in (
        ("median", statistics.median(took)),
        ("95 of 100 within", took[int(len(took) * 0.95)]),
    ):
        yield Row(f"{name}: {which}", Measured(seconds, measured.peak_mb, measured.cpu_s), {})


# --- all of it


PARTS: dict[str, tuple[Callable[[int], Iterator[Row]], tuple[int, ...], str]] = {
    "ledger-sqlite": (ledger_sqlite, LEDGER, "{:,} contributions into SQLite"),
    "ledger-postgres": (ledger_postgres, LEDGER, "{:,} contributions into PostgreSQL"),
    "tables": (tables, CENTERS, "table of {:,} centers"),
    "images": (images, FILES, "tables of {:,} DICOM files"),
    "sessions": (sessions, SESSIONS, "store of {:,} sessions"),
    "uploads": (uploads, UPLOADS, "{:,} sites upload to one study, 8 at a time"),
    "commits": (commits, (PROCESSES,), "240 commits of {} processes"),
}


def growth(file: Path) -> dict[str, float]:
    """The time for each size by what n log n makes of the size before; 1 is no worse than that."""
    took = {row["work"]: row["ours_s"] for row in json.loads(file.read_text())["rows"]}
    found = {}
    for _, sizes, name in PARTS.values():
        known = [(n, took[name.format(n)]) for n in sizes if name.format(n) in took]
        for (m, before), (n, last) in pairwise(known):
            found[name.format(n)] = round(last / (before * n * log(n) / (m * log(m))), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="several may be given")
    parser.add_argument("--size", type=int, action="append", help="instead of its own sizes")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where load.json is kept")
    told = parser.parse_args()
    for kind in told.only or PARTS:
        work, sizes, _ = PARTS[kind]
        for size in told.size or sizes:
            report("load", work(size), told.folder, keep=True)
    worse = {name: by for name, by in growth(told.folder / "load.json").items() if by > GROWTH}
    sys.exit(f"grows faster than n log n: {worse}" if worse else 0)


if __name__ == "__main__":
    main()
