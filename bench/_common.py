"""The frame of all benchmarks: measures work in processes of its own, prints, records.

Each piece of work is a function with picklable arguments, called in a fresh process. What is told:

* seconds: wall time of the call itself, imports and start of the process excluded; where the work
  says :func:`timed`, of that part only.
* peak memory: the greatest sum of proportional set sizes (PSS: shared pages are divided among those
  who share them) over the process and all its descendants, sampled every 20 ms, or less often
  where looking takes long: it may take a tenth of one core's time.
* CPU seconds: user and system time of the process and all descendants that it waited for, imports
  and start included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
SAMPLE_SECONDS = 0.02
TOUCHED = 4 << 30  # bytes; more than any output

_parts: list[float] = []  # seconds of what was timed in this process


class Failed(RuntimeError):
    """The work raised an error, died, or went over a limit; the message says which."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one piece of work took: seconds, MB (10**6 bytes), CPU seconds."""

    seconds: float
    peak_mb: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a benchmark: our way, and the peers' ways by name; None where one failed."""

    work: str
    ours: Measured
    peers: Mapping[str, Measured | None]

    def to_json(self) -> dict[str, Any]:
        """The recorded form; a ratio above 1 means that the peer takes longer."""
        return {
            "work": self.work,
            "ours_s": round(self.ours.seconds, 3),
            "peers": {name: peer and round(peer.seconds, 3) for name, peer in self.peers.items()},
            "ratio": {
                name: peer and round(peer.seconds / self.ours.seconds, 3)
                for name, peer in self.peers.items()
            },
            "peak_mb": round(self.ours.peak_mb, 1),
            "cpu_s": round(self.ours.cpu_s, 2),
        }


def measure(
    work: Callable[..., object],
    *arguments: Any,
    runs: int = 1,
    before: Callable[[], object] | None = None,
    most_mb: float | None = None,
    most_s: float | None = None,
) -> Measured:
    """The run with the median time; ``before`` each run, unmeasured, clears what the last one left.

    Failed if the work fails, or goes over a limit: MB of memory, seconds from start to end.
    """
    measured = []
    for _ in range(runs):
        if before is not None:
            before()
        measured.append(_measure_once(work, arguments, most_mb, most_s))
    middle = statistics.median_low(m.seconds for m in measured)
    return next(m for m in measured if m.seconds == middle)


@contextmanager
def timed() -> Iterator[None]:
    """Within work that is measured: the part whose time counts. It starts with nothing to sync."""
    os.sync()
    start = time.perf_counter()
    yield
    _parts.append(time.perf_counter() - start)


def report(
    name: str,
    rows: Iterable[Row],
    folder: Path | None = RESULTS,
    *,
    keep: bool = False,
) -> None:
    """Print the table of a benchmark, and write ``<name>.json``; without a folder, only print.

    With ``keep``, lines of other work stay in the file as they are.
    """
    rows = list(rows)
    table = Table(title=f"{name}: seconds (MB)", title_justify="left", caption_justify="left")
    table.caption = (
        "seconds of wall time; MB: the greatest sum of PSS over the process and its descendants, "
        "sampled every 20 ms; ratio: the peer's seconds to ours; CPU s: ours, children included"
    )
    peers = list(dict.fromkeys(peer for row in rows for peer in row.peers))
    for column in ("work", "ours", *peers, "ratio", "CPU s"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for row in rows:
        told = row.to_json()
        table.add_row(
            row.work,
            _shown(row.ours),
            *(_shown(row.peers[peer]) if peer in row.peers else "" for peer in peers),
            "\n".join(
                f"{ratio:.2f}x {peer}" for peer, ratio in told["ratio"].items() if ratio is not None
            ),
            f"{row.ours.cpu_s:.1f}",
        )
    Console(width=None if os.isatty(1) else 160).print(table)
    if folder is None:
        return
    result: dict[str, Any] = {
        "name": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "rows": [row.to_json() for row in rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    if keep and file.exists():
        known = {row["work"]: row for row in json.loads(file.read_text())["rows"]}
        result["rows"] = [*(known | {row["work"]: row for row in result["rows"]}).values()]
    file.write_text(json.dumps(result, indent=1) + "\n")


def machine() -> str:
    """CPU, cores and memory; nothing that names the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (v.strip() for k, _, v in (x.partition(":") for x in lines) if "model name" in k), ""
    )
    memory = psutil.virtual_memory().total / 2**30
    return f"{model or 'unknown CPU'}, {os.cpu_count()} cores, {memory:.0f} GiB"


def scratch(name: str) -> Path:
    """An empty folder for a benchmark's data, on the disk that holds this checkout."""
    folder = RESULTS.parent / ".data" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _shown(measured: Measured | None) -> str:
    if measured is None:
        return "failed"
    return f"{measured.seconds:.2f} ({measured.peak_mb:.0f})"


def _measure_once(
    work: Callable[..., object],
    arguments: tuple[Any, ...],
    most_mb: float | None,
    most_s: float | None,
) -> Measured:
    _touch_memory()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    before = _children_cpu()
    process = context.Process(target=_work, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    watch = _Watch(process.pid or 0, most_mb, most_s)
    try:
        outcome = ours.recv()
    except EOFError:
        outcome = "died"
    finally:
        watch.stop()
        process.join()
    if isinstance(outcome, str):
        raise Failed(f"{work.__name__} failed: {watch.exceeded or outcome}")
    return Measured(outcome, watch.peak / 1e6, _children_cpu() - before)


def _touch_memory() -> None:
    """Have a virtual machine's host give the memory that the page cache will take.

    It comes when it is first touched, at a third of the speed of a copy. Whoever runs first would
    pay for all.
    """
    bytearray(b"1") * min(TOUCHED, psutil.virtual_memory().available // 2)


def _work(connection: Connection, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    start = time.perf_counter()
    try:
        work(*arguments)
        connection.send(sum(_parts) if _parts else time.perf_counter() - start)
    except Exception as error:  # noqa: BLE001 - the parent raises it
        connection.send(f"{type(error).__name__}: {error}")


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def sized(
    name: str, about: str, rows: Callable[[int], tuple[list[Row], list[str]]], number: int
) -> None:
    """A benchmark as a command: measured, printed, and recorded unless it was made smaller."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=number)
    asked = parser.parse_args().rows
    lines, bounds = rows(asked)
    report(name, lines, RESULTS if asked == number else None)
    print("\n".join(bounds))


class _Watch:
    """Looks at a process and its descendants until it is stopped; ends them over a limit."""

    def __init__(self, pid: int, most_mb: float | None, most_s: float | None) -> None:
        self.peak = 0  # bytes
        self.exceeded = ""
        self._most_mb = most_mb
        self._most_s = most_s
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        start = time.perf_counter()
        pause = SAMPLE_SECONDS
        while not self._over.wait(pause):
            begun = time.perf_counter()
            try:
                tree = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.peak = max(self.peak, sum(_pss(process.pid) for process in tree))
            if self._most_mb and self.peak > self._most_mb * 1e6:
                self.exceeded = f"more than {self._most_mb:,.0f} MB"
            elif self._most_s and begun - start > self._most_s:
                self.exceeded = f"more than {self._most_s:,.0f} s"
            if self.exceeded:
                for process in tree:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                return
            pause = max(SAMPLE_SECONDS, 9 * (time.perf_counter() - begun))


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:  # it has ended
        pass
    return 0
