"""Sessions appended beside other ways: ``python -m bench.arrays [--sessions 100]``.

A session is EEG (n, 16, 500) and fNIRS (n, 1500) in float32, n from 60 to 200, 5 MB before
compression. Each way appends the same sessions one after the other. Ours checks, takes a digest and
makes every object durable; the peers do not, but for Icechunk. The proposal's way rewrites the
store at each append, so that it gets fewer sessions, and its last append counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import arrays_peers
from bench._common import RESULTS, Failed, Measured, Row, measure, report, scratch, timed

if TYPE_CHECKING:
    import xarray as xr

WAYS: tuple[str, ...] = ("ours", *(name for name in arrays_peers.WAYS if name != "seed"))
EARLY, LATE = 5, 95  # in hundredths of the sessions: appends that are compared
SPREAD = 5  # appends around each


def session(number: int, *, small: bool = False) -> xr.Dataset:
    """One session; recordings compress to about a half."""
    import numpy as np
    import xarray as xr

    random = np.random.default_rng(number)
    windows = int(random.integers(3, 8) if small else random.integers(60, 200))
    samples, optodes = (20, 15) if small else (500, 1500)
    eeg = (random.standard_normal((windows, 16, samples)) * 50).round(0).astype("float32")
    fnirs = random.standard_normal((windows, optodes)).astype("float32")
    return xr.Dataset(
        {"eeg": (("time", "channel", "sample"), eeg), "fnirs": (("time", "optode"), fnirs)},
        coords={
            "time": np.datetime64("2026-01-01", "ms") + 210 * np.arange(windows),
            "channel": [f"E{n}" for n in range(16)],
        },
        attrs={"session_id": f"s{number:04}"},
    )


def append_all(folder: str, way: str, count: int, small: bool) -> None:  # noqa: FBT001 - pickled
    """Append sessions one after the other; notes CPU, seconds and bytes of each."""
    path, notes = Path(folder) / way, []
    append, close = _way(way, path)
    for number in range(count):
        dataset = session(number, small=small)
        before = _bytes(path)
        cpu, wall = time.process_time(), time.perf_counter()
        with timed():
            append(dataset)
        notes.append(
            {
                "cpu": time.process_time() - cpu,
                "wall": time.perf_counter() - wall,
                "written": _bytes(path) - before,
                "raw": dataset.nbytes,
                "windows": dataset.sizes["time"],
            }
        )
    close()
    (Path(folder) / f"{way}.json").write_text(json.dumps(notes))


def _way(way: str, path: Path) -> tuple[Callable[[Any], object], Callable[[], None]]:
    if way != "ours":
        peer = arrays_peers.WAYS[way]
        return (lambda dataset: peer(dataset, path)), (lambda: None)
    from catchment.arrays import api
    from catchment.arrays.stack import Stack
    from catchment.core.ledger import Ledger
    from catchment.core.store import open_store

    ledger = Ledger.open(f"sqlite:///{path.parent}/ledger.db")
    stack = Stack(open_store(path.as_uri()), ledger)
    holding = stack.writing()
    holding.__enter__()

    def close() -> None:
        holding.__exit__(None, None, None)
        ledger.close()

    return (lambda dataset: api.append(dataset, stack)), close


def _bytes(path: Path) -> int:
    """Of all files, as they are: what is replaced counts by its growth."""
    total = 0
    for folder, _, names in os.walk(path):
        total += sum((Path(folder) / name).stat().st_size for name in names)
    return total


def floor(count: int, *, small: bool) -> int:
    """Bytes of the codec alone, over chunks as the store cuts them."""
    from numcodecs.zstd import Zstd

    codec, total = Zstd(0), 0
    for number in range(count):
        dataset = session(number, small=small)
        for name in ("eeg", "fnirs"):
            values = dataset[name].values
            total += sum(len(codec.encode(values[i : i + 128])) for i in range(0, len(values), 128))
    return total


def run(folder: Path, ways: tuple[str, ...], count: int, *, small: bool) -> dict[str, Measured]:
    """Every way, each in a process of its own."""
    measured = {}
    for way in ways:
        shutil.rmtree(folder / way, ignore_errors=True)
        try:
            measured[way] = measure(append_all, str(folder), way, count, small)
        except Failed as failed:
            print(failed)
    return measured


def around(notes: list[dict[str, float]], percent: int, what: str) -> float:
    """The median over some appends, per window where sessions are large."""
    middle = len(notes) * percent // 100
    some = notes[max(0, middle - SPREAD) : middle + SPREAD]
    return statistics.median(n[what] / n["windows"] for n in some)


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--small", type=int, default=1000, help="number of small sessions")
    parser.add_argument("--seed", type=int, default=100, help="sessions of the proposal's way")
    arguments = parser.parse_args()
    folder = scratch("arrays")
    count = arguments.sessions
    measured = run(folder, WAYS, count, small=False)
    notes = {way: json.loads((folder / f"{way}.json").read_text()) for way in measured}
    told = []
    for way, lines in notes.items():
        early, late = (around(lines, percent, "cpu") for percent in (EARLY, LATE))
        raw, written = sum(n["raw"] for n in lines), sum(n["written"] for n in lines)
        told.append(f"{way}: CPU late/early {late / early:.2f}, bytes/raw {written / raw:.3f}")
    least = floor(count, small=False)
    ours = sum(n["written"] for n in notes["ours"])
    told.append(f"ours: {ours / least:.3f} of the codec's floor, at most 1.05")
    rows = [_row(f"{count} sessions of 5 MB", measured)]
    if arguments.small:
        few = run(folder, ("ours", "append_dim"), arguments.small, small=True)
        lines = json.loads((folder / "ours.json").read_text())
        early, late = (
            statistics.median(n["cpu"] for n in part) for part in (lines[20:70], lines[-50:])
        )
        told.append(f"small: CPU late/early {late / early:.2f}")
        rows.append(_row(f"{arguments.small} small sessions", few))
    if arguments.seed:
        last = run(folder, ("ours", "seed"), arguments.seed, small=False)
        if "seed" in last:
            own, theirs = (
                json.loads((folder / f"{way}.json").read_text())[-1]["wall"]
                for way in ("ours", "seed")
            )
            told.append(f"the append of session {arguments.seed}: {theirs / own:.1f} x ours")
        rows.append(_row(f"{arguments.seed} sessions, the proposal's way", last))
    shutil.rmtree(folder)
    whole = (count, arguments.small, arguments.seed) == (100, 1000, 100)
    report("arrays", rows, RESULTS if whole else None)
    print(*told, sep="\n")
    if not whole:
        print("a trial: nothing was recorded")


def _row(work: str, measured: dict[str, Measured]) -> Row:
    peers: dict[str, Measured | None] = {n: m for n, m in measured.items() if n != "ours"}
    return Row(work, measured["ours"], peers)


if __name__ == "__main__":
    main()
