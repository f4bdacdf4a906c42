"""The house under load: ``python -m bench.load``, or ``--only ledger`` for one part of it.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from math import log
from pathlib import Path
from typing import Any

from bench._common import RESULTS, Row, measure, report, scratch, timed
from catchment.core.workspace import Workspace

GROWTH = 1.3  # that a measurement may be above n log n
PROCESSES = 8
SITES = 200
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


def ledgers() -> Iterator[Row]:
    """Both databases at each size."""
    from catchment.testing import postgres

    folder = scratch("load-ledger")
    with postgres.running() as server:
        for count in LEDGER:
            for name, url in (("SQLite", f"sqlite:///{folder}/{count}.db"),
                              ("PostgreSQL", server.database())):  # fmt: skip
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


def tables() -> Iterator[Row]:
    """Snapshots of more and more centers."""
    from catchment.testing.centers import make_centers

    for count in CENTERS:
        folder = scratch(f"load-tables-{count}")
        made = make_centers(folder / "in", centers=count, columns=200, rows=(800, 1200), broken=0)
        text = f'[tables.main]\ncenters = "{made.centers}"\ndatasets = "{made.datasets}"\n'
        text += f'identifiers = "{made.identifiers}"\n'
        place = _workspace(folder / "w", text)
        yield Row(f"table of {count} centers", measure(run, place, "tables/main"), {})


def images() -> Iterator[Row]:
    """Tables of more and more files, which have headers only."""
    from catchment.testing.dicom import make_file

    known = "1.2.3.4.5.1000000"
    pixels = ("Rows", "Columns", "PixelData", "BitsAllocated", "BitsStored", "HighBit")
    one = make_file(known, patient="P1", **dict.fromkeys(pixels))
    for count in FILES:
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


def sessions() -> Iterator[Row]:
    """Stores of more and more sessions."""
    import edfio
    import numpy as np

    noise = np.random.default_rng(0)
    values = [noise.standard_normal(400) * 20 for _ in range(2)]
    for count in SESSIONS:
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
        for number in range(30):
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
        took = sorted(t for _ in workers for t in answers.get(timeout=240))
        for worker in workers:
            worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a process failed")
    Path(told).write_text(json.dumps(took))


def many() -> Iterator[tuple[Row, list[float]]]:
    """Commits of eight processes, then uploads of more and more sites."""
    for work, counts in (("commit", (PROCESSES,)), ("send", UPLOADS)):
        for count in counts:
            folder = scratch("load-many")
            with servers() as text:
                (folder / "w").mkdir()
                (folder / "w/catchment.toml").write_text(f"{text}\n[studies.core]\nmin_cell = 0\n")
                told = folder / "took.json"
                measured = measure(at_once, str(folder / "w"), work, count, str(told))
            took = json.loads(told.read_text())
            name = (
                f"{len(took)} commits of {PROCESSES} processes"
                if work == "commit"
                else f"{count} sites upload to one study, {PROCESSES} at a time"
            )
            yield Row(name, measured, {}), took


# --- all of it ------------------------------------------------------------------------------------


def growth(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """The last time by what n log n makes of the one before; at most 1 is no worse than that."""
    (m, n), (before, last) = sizes[-2:], seconds[-2:]
    return last / (before * (n * log(n)) / (m * log(m)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = ("ledger", "tables", "images", "sessions", "many")
    parser.add_argument("--only", choices=kinds, action="append")
    parser.add_argument("--no-record", action="store_true")
    told = parser.parse_args()
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    plain: dict[str, tuple[Callable[[], Iterator[Row]], tuple[int, ...]]] = {
        "tables": (tables, CENTERS),
        "images": (images, FILES),
        "sessions": (sessions, SESSIONS),
    }
    for kind in told.only or kinds:
        if kind == "ledger":
            made = list(ledgers())
            rows += made
            for place, name in enumerate(("SQLite", "PostgreSQL")):
                seconds = [row.ours.seconds for row in made[2 * place :: 4]]
                facts[f"growth: contributions into {name}"] = round(growth(LEDGER, seconds), 2)
                facts[f"status over {LEDGER[-1]:,} in {name}, s"] = round(
                    made[-4 + 2 * place + 1].ours.seconds, 3
                )
        elif kind == "many":
            for row, took in many():
                rows.append(row)
                facts[row.work] = {
                    "per_second": round(len(took) / row.ours.seconds, 1),
                    "median_s": round(statistics.median(took), 3),
                    "p95_s": round(took[int(len(took) * 0.95)], 3),
                }
        else:
            work, sizes = plain[kind]
            made = list(work())
            rows += made
            facts[f"growth: {kind}"] = round(growth(sizes, [r.ours.seconds for r in made]), 2)
    report("load", rows, None if told.no_record else RESULTS, keep=True)
    worse = {k: v for k, v in facts.items() if k.startswith("growth") and v > GROWTH}
    print(json.dumps(facts, indent=1))
    if not told.no_record:
        _record(facts)
    sys.exit(f"grows faster than n log n: {worse}" if worse else 0)


def _record(facts: dict[str, Any]) -> None:
    file = RESULTS / "load.json"
    data = json.loads(file.read_text())
    data["facts"] = data.get("facts", {}) | facts
    file.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
