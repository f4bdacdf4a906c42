"""Sessions appended beside other ways: ``python -m bench.arrays [--part sessions]``.

A session is EEG (n, 16, 500) and fNIRS (n, 1500) in float32, n from 60 to 200, 5 MB before
compression. Each way appends the same sessions one after the other. Ours checks, takes a digest and
makes every object durable; the peers do not, but for Icechunk. The proposal's way rewrites the
store at each append, so its store is filled by plain xarray first, and its last append counts.

Each part takes less than three minutes, so that a quiet machine can be had for it; what a part
measured is kept, and the last one records all of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import arrays_peers
from bench._common import RESULTS, Failed, Measured, Row, measure, report, timed

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

WAYS: tuple[str, ...] = ("ours", *(name for name in arrays_peers.WAYS if name != "seed"))
PARTS = ("sessions", "late", "small", "seed", "transform")
EARLY = 5  # sessions that a store has when it has few
PERIOD = 10  # sessions; then their lengths come again, so early and late appends are alike
TURNS = 3  # of a period each
LONGEST = 200  # windows


@cache
def _noise(seed: int, size: int) -> np.ndarray:
    import numpy as np

    found: np.ndarray = np.random.default_rng(seed).standard_normal(size, dtype="float32")
    return found


def session(number: int, *, small: bool = False) -> xr.Dataset:
    """One session; recordings compress to about a half."""
    import numpy as np
    import xarray as xr

    random = np.random.default_rng(number % PERIOD)
    windows = int(random.integers(3, 8) if small else random.integers(60, LONGEST))
    samples, optodes = (20, 15) if small else (500, 1500)
    eeg, fnirs = (
        np.roll(_noise(seed, LONGEST * size + 1), number * 7919)[: windows * size]
        for seed, size in ((1, 16 * samples), (2, optodes))
    )
    return xr.Dataset(
        {
            "eeg": (
                ("time", "channel", "sample"),
                (eeg * 50).round(0).reshape(windows, 16, samples),
            ),
            "fnirs": (("time", "optode"), fnirs.reshape(windows, optodes)),
        },
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
    append_one = append
    if way == "seed":  # its store is made by plain xarray but for the last session
        append_one = _way("append_dim", path)[0]
    for number in range(count):
        dataset = session(number, small=small)
        chosen = append if number == count - 1 else append_one
        before = _bytes(path) if not small else 0
        with timed():  # it waits for the disk first, which is no append's
            cpu, wall = time.process_time(), time.perf_counter()
            chosen(dataset)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        notes.append(
            {
                "cpu": cpu,
                "wall": wall,
                "written": (_bytes(path) if not small else 0) - before,
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


def one_by_one(connection: Connection, folder: str, way: str, count: int) -> None:
    """Append ``count`` sessions, then those that are asked for; tells the CPU of each."""
    append, close = _way(way, Path(folder))
    for number in range(count):
        append(session(number))
    connection.send(0.0)
    while (number := connection.recv()) is not None:
        dataset = session(number)
        before = time.process_time()
        append(dataset)
        connection.send(time.process_time() - before)
    close()


@contextmanager
def appending(folder: Path, way: str, count: int) -> Iterator[Callable[[int], float]]:
    """A process of its own that has appended so many sessions to a new store."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=one_by_one, args=(theirs, str(folder / "store"), way, count))
    process.start()
    theirs.close()
    try:
        ours.recv()

        def turn(number: int) -> float:
            ours.send(number)
            took: float = ours.recv()
            return took

        yield turn
        ours.send(None)
    finally:
        ours.close()
        process.join()


def in_turns(folder: Path, way: str, before: int) -> list[tuple[float, float]]:
    """CPU of appends to a store of few sessions and to one of many, of one length, in turns.

    The same work takes a third more CPU a few seconds later, where a core or its caches are shared
    with others of the host: a fixed work beside it and the number of calls stay what they were. So
    early and late appends of one run, which are seconds apart, tell of the host. Here those that
    are compared stand side by side, each in a process that has appended all that its store has.
    """
    pairs = []
    with appending(folder / "late", way, before) as late:
        for turn in range(TURNS):
            with appending(folder / "early", way, EARLY) as early:
                for number in range(EARLY, EARLY + PERIOD):
                    other = before - EARLY + number + turn * PERIOD
                    if number % 2:
                        first = early(number)
                        pairs.append((first, late(other)))
                    else:
                        last = late(other)
                        pairs.append((early(number), last))
    return pairs


def floor(count: int) -> int:
    """Bytes of the codec alone, over chunks as the store cuts them."""
    from numcodecs.zstd import Zstd

    codec, total = Zstd(0), 0
    for number in range(count):
        dataset = session(number)
        for name in ("eeg", "fnirs"):
            values = dataset[name].values
            total += sum(len(codec.encode(values[i : i + 128])) for i in range(0, len(values), 128))
    return total


def requests(folder: Path, count: int) -> int:
    """Requests of the store that reading one session takes, the root included."""
    import xarray as xr

    from catchment.arrays import read
    from catchment.core.store import open_store

    store = open_store((folder / "ours").as_uri())
    view = read.view(store, read.published(store))
    found = xr.open_zarr(view, consolidated=True, zarr_format=3, chunks=None)
    one = read.session(found, f"s{count // 2:04}")
    one[["eeg", "fnirs", "timestamp"]].load()
    return view.requests + 1


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


def _notes(folder: Path, way: str) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((folder / f"{way}.json").read_text())
    return found


def late_to_early(notes: list[dict[str, float]], many: int = PERIOD) -> float:
    """CPU of the last appends to that of the first ones: the median over sessions of one length."""
    pairs = zip(notes[:many], notes[-many:], strict=True)
    return statistics.median(late["cpu"] / early["cpu"] for early, late in pairs)


Told = tuple[list[Row], list[dict[str, Any]]]


def bound(what: str, value: float, limit: float, *, least: bool = False) -> dict[str, Any]:
    """A bound of the benchmark, and whether it is met."""
    met = value >= limit if least else value <= limit
    words = "at least" if least else "at most"
    return {"what": what, "value": round(value, 3), "bound": f"{words} {limit:g}", "met": met}


def sessions(folder: Path, count: int) -> Told:
    """Sessions of 5 MB, every way."""
    measured = run(folder, WAYS, count, small=False)
    told = []
    for way in measured:
        lines = _notes(folder, way)
        raw, written = sum(n["raw"] for n in lines), sum(n["written"] for n in lines)
        if way == "ours":
            share = sum(n["written"] for n in lines) / floor(count)
            told.append(bound("ours: bytes written, to the codec's floor", share, 1.05))
        told.append({"what": f"{way}: bytes, to raw", "value": round(written / raw, 3)})
    if "append_dim" in measured:
        speed = measured["append_dim"].seconds / measured["ours"].seconds
        told.append(bound("speed, to xarray's bare append", speed, 0.9, least=True))
    told.append(bound("requests of the store to read a session", requests(folder, count), 10))
    return [_row(f"{count} sessions of 5 MB", measured)], told


def late(folder: Path, count: int) -> Told:
    """What an append costs when there are many sessions, to one when there are few."""
    told = []
    for way in WAYS:
        ratio = statistics.median(b / a for a, b in in_turns(folder, way, count))
        what = f"{way}: CPU of an append behind {count} sessions, to one behind {EARLY}"
        own = way == "ours"
        told.append(bound(what, ratio, 1.15) if own else {"what": what, "value": round(ratio, 3)})
    return [], told


def small(folder: Path, count: int) -> Told:
    """Small sessions: what the store costs, and not the values."""
    measured = run(folder, ("ours", "append_dim"), count, small=True)
    ratio = late_to_early(_notes(folder, "ours"), 5 * PERIOD)
    told = [bound(f"{count} small sessions: CPU of an append, late to early", ratio, 1.15)]
    return [_row(f"{count} small sessions", measured)], told


def seed(folder: Path, count: int) -> Told:
    """The proposal's last append beside ours."""
    measured = run(folder, ("ours", "seed"), count, small=False)
    own = statistics.median(n["wall"] / n["windows"] for n in _notes(folder, "ours")[-10:])
    last = _notes(folder, "seed")[-1]
    ratio = last["wall"] / (own * last["windows"])
    what = f"the append of session {count}: the proposal's time, to ours"
    return [], [bound(what, ratio, 20, least=True)] if "seed" in measured else []


def transform(folder: Path, count: int) -> Told:
    """Recordings become windows, with one worker and with two."""
    from bench.arrays_recordings import make, transformed

    seconds = make(folder / "recordings", count)
    took = {n: measure(transformed, str(folder), n, count) for n in (1, 2)}
    work = f"{count} recordings, {seconds / 60:.0f} min, transformed by two workers"
    pair, one = took[2], took[1]
    told = [
        {"what": f"WindowTransform, x real time, workers: {n}", "value": round(seconds / m.seconds)}
        for n, m in took.items()
    ]
    told.append(bound("two workers, to one", one.seconds / pair.seconds, 1.6, least=True))
    return [Row(work, pair, {"one worker": one})], told


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=PARTS, help="only this one")
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--small", type=int, default=1000, help="number of small sessions")
    parser.add_argument("--recordings", type=int, default=48)
    arguments = parser.parse_args()
    folder = RESULTS.parent / ".data" / "arrays"
    kept = folder / "parts"
    kept.mkdir(parents=True, exist_ok=True)
    counts = {
        "sessions": arguments.sessions,
        "late": EARLY + (arguments.sessions - EARLY) // PERIOD * PERIOD,
        "small": arguments.small,
        "seed": arguments.sessions,
        "transform": arguments.recordings,
    }
    whole = (arguments.sessions, arguments.small, arguments.recordings) == (100, 1000, 48)
    parts: dict[str, Callable[[Path, int], Told]] = {
        "sessions": sessions, "late": late, "small": small, "seed": seed, "transform": transform
    }  # fmt: skip
    rows, told = [], []
    for name in PARTS:
        place = kept / f"{name}-{counts[name]}.json"
        if arguments.part in (None, name):
            scratch = folder / name
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            made, bounds = parts[name](scratch, counts[name])
            shutil.rmtree(scratch)
            place.write_text(json.dumps({"rows": [asdict(r) for r in made], "bounds": bounds}))
        if place.exists():
            found = json.loads(place.read_text())
            rows += [_parsed(row) for row in found["rows"]]
            told += found["bounds"]
        else:
            whole = False
    report("arrays", rows, RESULTS if whole else None)
    for line in told:
        met = {True: "met", False: "NOT MET", None: ""}[line.get("met")]
        print(f"{line['what']}: {line['value']}", line.get("bound", ""), met)
    if not whole:
        print("a trial: nothing was recorded")


def _parsed(row: dict[str, Any]) -> Row:
    peers = {name: peer and Measured(**peer) for name, peer in row["peers"].items()}
    return Row(row["work"], Measured(**row["ours"]), peers)


def _row(work: str, measured: dict[str, Measured]) -> Row:
    peers: dict[str, Measured | None] = {n: m for n, m in measured.items() if n != "ours"}
    return Row(work, measured["ours"], peers)


if __name__ == "__main__":
    main()
