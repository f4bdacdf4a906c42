"""Center tables beside other ways of merging them: ``python -m bench.tables [--scale 0.1]``.

Ours is :func:`catchment.tables.run.run` of an open workspace whose workers, child processes, run
already; the second run is that of a workspace that stays open, as a service has it, and has made
the run before (its CPU and memory are those of both runs). The lines below the table tell the same
with ``cold`` workers, which start within the time, and as ``cli``, a whole cold
``catchment tables run``. The files were just read once, so all find them in the page cache, and lie
on the disk that takes the results. What takes less than 15 s is run three times, and the fastest
counts, for all alike; but ``cli``, which is run once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from bench import tables_peers
from bench._common import RESULTS, Failed, Measured, Row, measure, report, scratch, timed
from bench.tables_peers import Task
from catchment.core.store import open_store
from catchment.tables.job import House
from catchment.tables.model import TransferRule
from catchment.tables.reading import read

PEERS = ("cat", "original", "pyarrow", "pandas", "duckdb", "polars")
SHORT = 15.0  # seconds; what takes less is run three times
MOST_MB = 20_000  # of a peer, where the machine has as much to spare
MOST_S = 240.0  # of a peer


@dataclass(frozen=True, slots=True)
class Work:
    """One line of the table.

    Attributes:
        sample: of :func:`catchment.testing.centers.make_centers`.
        ratios: how many times as long as ours a peer has to take, at least.
        most_mb: that ours may take.
    """

    title: str
    sample: Mapping[str, Any]
    ratios: Mapping[str, float]
    most_mb: float | None = None


# With every tenth column measured, a value takes about one byte, as in files of real centers.
WIDE = {"centers": 40, "columns": 1200, "rows": (5_000, 20_000), "broken": 0, "measures": 10}
LONG = {"centers": 10, "columns": 10, "rows": (2_000_000, 2_000_000), "broken": 0}
EQUAL = Work(
    "40 centers, 1,200 columns, 5,000-20,000 rows each, equal schemas, no transfers",
    WIDE | {"transfers": 0, "drift_columns": 0},
    {"cat": 1 / 3, "original": 20},
)
DRIFTED = Work(
    "the same, 0.5 % of participants transferred, 5 drifted columns",
    WIDE | {"transfers": 0.005, "drift_columns": 5},
    {"original": 3},
    600,
)
AGAIN = Work(
    "the same, second run after one center changed (first: the run before; other peers: as before)",
    DRIFTED.sample,
    {"first": 10},
)
TALL = Work(
    "10 centers, 10 columns, 2,000,000 rows each, 0.5 % of participants transferred",
    LONG | {"transfers": 0.005, "drift_columns": 0},
    {"original": 2},
    600,
)
LINES = {"1": EQUAL, "2": DRIFTED, "4": TALL}


class Inputs:
    """What a line is made of, on disk; and what must come of it."""

    def __init__(self, work: Work, scale: float) -> None:
        from catchment.testing.centers import make_centers

        self.folder = scratch("tables")
        rows = tuple(max(100, round(n * scale)) for n in work.sample["rows"])  # not columns
        self.made = make_centers(self.folder / "in", **{**work.sample, "rows": rows})
        self.look()

    def look(self) -> None:
        """Find the latest files, and what they must give; reads them into the page cache."""
        self.files: list[str] = []
        for center in self.made.ids:
            versions = (self.folder / "in/datasets" / center / "versions").iterdir()
            latest = max(versions, key=lambda version: int(version.name))
            self.files.append(str(latest / "tables/uds/data.parquet"))
            Path(self.files[-1]).read_bytes()
        schema = tables_peers.unified_schema(self.files)
        Path(self.task.schema).write_bytes(schema.serialize())
        self.columns = set(schema.names)
        self.rows = tables_peers.kept_rows(self.files, self.task.identifiers)

    def change(self) -> None:
        """A new version of one center's dataset."""
        from catchment.testing.centers import change_center

        change_center(self.made, self.made.ids[len(self.made.ids) // 2])
        self.look()

    @property
    def task(self) -> Task:
        """That of a peer."""
        names = ("in/identifiers.csv", "schema.arrow", "peer.parquet")
        return Task(self.files, *(str(self.folder / name) for name in names))

    @property
    def flags(self) -> dict[str, str]:
        """Those of ``catchment tables run``."""
        return {
            "centers": str(self.made.centers),
            "datasets": self.made.datasets,
            "identifiers": str(self.made.identifiers),
        }

    def check(self, result: Path) -> None:
        """Every way has to keep the same rows, and all columns. RuntimeError if it did not."""
        import pyarrow.parquet as pq

        found = pq.read_metadata(result)
        if (found.num_rows, set(found.schema.names)) != (self.rows, self.columns):
            raise RuntimeError(
                f"expected {self.rows} rows of {len(self.columns)} columns, got {found.num_rows} "
                f"of {found.num_columns} in {result.name}"
            )


@contextmanager
def opened(output: str, flags: Mapping[str, str]) -> Iterator[tuple[House, Callable[[], None]]]:
    """An open workspace with an output URL, and the run as the command does it there."""
    from catchment.core.workspace import Workspace
    from catchment.tables import capability
    from catchment.tables.run import run

    settings = {"output": "", **flags}
    overrides = {f"tables.default.{key}": value for key, value in settings.items()}
    with Workspace.described({"workspace.store": output, **overrides}) as workspace:
        job = capability.job(workspace, "default")
        workspace.ledger.latest(job.aggregate)
        house = capability.house(workspace)

        def once() -> None:
            state = run(job, house).state
            if state != "published":
                raise RuntimeError(f"expected a new snapshot, the run ended as {state}")

        yield house, once


def ours(output: str, flags: Mapping[str, str], *, warm: bool = True) -> None:
    """The run."""
    with opened(output, flags) as (house, once):
        if warm:
            warm_up(house.executor)
        with timed():
            once()


def again(output: str, flags: Mapping[str, str], made: Event, changed: Event) -> None:
    """The run after one that the same open workspace has made, and after another change."""
    with opened(output, flags) as (_, once):
        once()
        made.set()
        changed.wait()
        with timed():
            once()


def cold(output: str, flags: Mapping[str, str]) -> None:
    """The same, with the start of the workers."""
    ours(output, flags, warm=False)


def warm_up(executor: Executor) -> None:
    """Have workers that read a small file and its keys before, as where a service has them."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "small.parquet")
        pq.write_table(pa.table({TransferRule().participant: ["a"]}), file)
        store = open_store(Path(folder).as_uri())
        size = file.stat().st_size
        tasks = [
            executor.submit(read, store, file.name, size, TransferRule(), whole=True)
            for _ in range(8)
        ]
        for task in tasks:
            task.result()


def cli(output: str, flags: Mapping[str, str]) -> None:
    """A whole cold process."""
    command = [str(Path(sys.executable).with_name("catchment")), "tables", "run", "--quiet"]
    command += ["--output", output]
    for name, value in flags.items():
        command += [f"--{name}", value]
    with timed():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def best(run: Callable[[], Measured]) -> Measured:
    """The fastest of three where the first was short; of its memory the most of all."""
    runs = [run()]
    if runs[0].seconds < SHORT:
        runs += [run(), run()]
    fastest = min(runs, key=lambda measured: measured.seconds)
    return Measured(fastest.seconds, max(m.peak_mb for m in runs), fastest.cpu_s)


def run_ours(inputs: Inputs, work: Callable[..., None]) -> Measured:
    """Ours into an empty folder."""
    output = inputs.folder / "out"

    def once() -> Measured:
        shutil.rmtree(output, ignore_errors=True)
        measured = measure(work, output.as_uri(), inputs.flags)
        inputs.check(max(output.glob("*/uds/aggregate_result.parquet")))
        return measured

    return once() if work is cli else best(once)


def run_again(inputs: Inputs, work: Callable[..., None]) -> Measured:
    """Ours over its last result, after one center changed."""
    output = inputs.folder / "out"
    made, changed = (multiprocessing.get_context("spawn").Event() for _ in range(2))

    def change() -> None:
        made.wait()
        try:
            inputs.change()
        finally:
            changed.set()

    def once() -> Measured:
        inputs.change()
        if work is not again:
            measured = measure(work, output.as_uri(), inputs.flags)
        else:
            with ThreadPoolExecutor(1) as thread:
                changing = thread.submit(change)
                try:
                    measured = measure(work, output.as_uri(), inputs.flags, made, changed)
                finally:
                    made.set()
                changing.result()
                made.clear()
                changed.clear()
        inputs.check(max(output.glob("*/uds/aggregate_result.parquet")))
        return measured

    return once() if work is cli else best(once)


def run_peer(inputs: Inputs, name: str) -> Measured | None:
    """A peer; None, and a line that says why, where it fails."""
    result = Path(inputs.task.output)
    most_mb = min(MOST_MB, psutil.virtual_memory().available * 0.9 / 1e6)

    def once() -> Measured:
        result.unlink(missing_ok=True)
        peer = getattr(tables_peers, name)
        measured = measure(peer, inputs.task, most_mb=most_mb, most_s=MOST_S)
        if name != "cat":
            inputs.check(result)
        return measured

    try:
        return best(once)
    except Failed as error:
        print(error, file=sys.stderr)
        return None
    finally:
        for left in result.parent.glob("peer.*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the rows; 1 is recorded")
    parser.add_argument("--peers", default=",".join(PEERS), help="A,B; all are recorded")
    parser.add_argument("--lines", default="1,2,4", help="A,B; line 3 comes with line 2")
    given = parser.parse_args()
    peers = [name for name in PEERS if name in given.peers.split(",")]
    works = [LINES[number] for number in LINES if number in given.lines.split(",")]
    trial = "" if given.scale == 1 else f" (rows x {given.scale:g})"
    lines: list[Line] = []
    for work in works:
        inputs = Inputs(work, given.scale)
        ways = [run_ours(inputs, way) for way in (cli, cold, ours)]
        others = {name: run_peer(inputs, name) for name in peers}
        lines.append(Line(work, Row(work.title + trial, ways[-1], others), *ways[:-1]))
        if work is DRIFTED:
            first = ways
            ways = [run_again(inputs, way) for way in (cli, cold, again)]
            row = Row(AGAIN.title + trial, ways[-1], {"first": first[-1], **others})
            lines.append(Line(AGAIN, row, ways[0], ways[1], cold_first=first[1]))
        shutil.rmtree(inputs.folder)
    whole = given.scale == 1 and len(peers) == len(PEERS) and len(works) == len(LINES)
    report("tables", [line.row for line in lines], RESULTS if whole else None)
    print(
        "ours: its workers run already; cold: their start counts; cli: a whole cold process, once; "
        f"all others: the fastest of 3 where the first took less than {SHORT:.0f} s"
    )
    for line in lines:
        print(*line.told(), sep="\n")
    if not whole:
        print("a trial: nothing was recorded")


@dataclass(frozen=True, slots=True)
class Line:
    """What was measured for one line."""

    work: Work
    row: Row
    cli: Measured
    cold: Measured
    cold_first: Measured | None = None  # beside which a cold second run stands

    def told(self) -> Sequence[str]:
        """Our other ways, and whether what had to be reached was."""
        own = self.row.ours
        told = [f"{self.row.work}: cold {self.cold.seconds:.2f} s, cli {self.cli.seconds:.2f} s"]
        for name, least in self.work.ratios.items():
            peer = self.row.peers.get(name)
            if peer:
                cold = self.cold_first if name == "first" and self.cold_first else peer
                ratio, slower = peer.seconds / own.seconds, cold.seconds / self.cold.seconds
                told.append(
                    f"  {ratio:.2f}x {name}, at least {least:.2f}: {_word(ratio >= least)} "
                    f"(cold {slower:.2f}x: {_word(slower >= least)})"
                )
        if self.work.most_mb:
            peak = max(own.peak_mb, self.cold.peak_mb)
            most = self.work.most_mb
            told.append(f"  {peak:.0f} MB, at most {most:.0f}: {_word(peak <= most)}")
        return told


def _word(reached: bool) -> str:  # noqa: FBT001 - a truth in words
    return "reached" if reached else "MISSED"


if __name__ == "__main__":
    main()
