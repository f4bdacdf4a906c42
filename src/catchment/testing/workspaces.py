"""A workspace with tables, exports, imaging and arrays, and what its aggregates came to.

``make_workspace(folder)`` writes the inputs and ``catchment.toml``; ``contents(workspace, name)``
tells what was published, in a form that two runs over the same inputs share, byte for byte.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from catchment.core.capability import load
from catchment.core.workspace import Workspace

AGGREGATES = ("tables/main", "exports/claims", "imaging/ct", "arrays/eeg")
_SETTINGS = """
[workspace]
{workspace}

[executor]
kind = "threads"
{more}
[tables.main]
centers = "{inputs}/sites/centers.json"
datasets = "{inputs}/sites/datasets/{{center}}"
identifiers = "{inputs}/sites/identifiers.csv"
freeze_date = "20261121"

[exports.claims]
contract = "Z1"
files = "{inputs}/claims"
batch = 2
max_bytes = 20000

[imaging.ct]
key = "a key of tests"
previews = "middle"

[imaging.ct.providers]
north = "{inputs}/north"
south = "{inputs}/south"

[arrays.eeg]
recordings = "{inputs}/recordings"
pseudonym_key = "a key of tests, of thirty-two bytes and more"
"""


def make_inputs(folder: Path, *, scale: int = 1) -> None:
    """What the sites of all four have: the same arguments give the same bytes."""
    from catchment.testing.centers import make_centers
    from catchment.testing.dicom import make_file

    folder.mkdir(parents=True, exist_ok=True)
    make_centers(folder / "sites", centers=6, columns=12, rows=(100 * scale, 200 * scale), broken=0)
    made = random.Random(0)
    (folder / "claims").mkdir()
    for member in range(16):
        lines = [
            b'{"resourceType":"ExplanationOfBenefit","id":"%d-%d","note":"%s"}\n'
            % (member, number, made.randbytes(200).hex().encode())
            for number in range(20 * scale)
        ]
        (folder / "claims" / f"m{member:03}.ndjson.gz").write_bytes(
            gzip.compress(b"".join(lines), mtime=0)
        )
    for site, provider in enumerate(("north", "south")):
        (folder / provider).mkdir()
        for number in range(12 * scale):
            data = make_file(f"1.2.3.{site}.1.{number}", patient=f"{provider}{number % 3}")
            path = folder / provider / f"{number:05}.dcm"
            path.write_bytes(data)
            os.utime(path, (1_750_000_000, 1_750_000_000))  # when a file was written is told of it
    make_recordings(folder / "recordings", 6, 20 * scale)


def make_workspace(
    folder: Path,
    inputs: Path,
    *,
    workspace: str = 'store = "data"',
    more: str = "",
) -> Path:
    """A workspace over inputs; ``workspace`` and ``more`` are lines of its ``catchment.toml``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = _SETTINGS.format(workspace=workspace, more=more, inputs=inputs)
    (folder / "catchment.toml").write_text(text)
    return folder


def run(workspace: Workspace, aggregate: str) -> str:
    """Bring an aggregate up to date; the state that the run ended in."""
    from catchment.core.progress import silent

    capability, _, name = aggregate.partition("/")
    return load(capability).run(workspace, name, dry_run=False, progress=silent).state


def contents(workspace: Workspace, aggregate: str) -> Mapping[str, str]:
    """Digests of what was published last, by names that hold nothing of the run."""
    latest = workspace.ledger.latest(aggregate)
    assert latest is not None, f"{aggregate} has no snapshot"
    if aggregate.startswith("arrays/"):
        return dict(_arrays(workspace, aggregate))
    found: dict[str, list[str]] = {}
    for item in latest.provenance["objects"]:
        name = item.get("table") or str(item.get("role"))
        if item.get("role") not in {"composition", "keys", "manifest"}:  # they name the run
            found.setdefault(name, []).append(item["digest"])
    return {name: "\n".join(sorted(digests)) for name, digests in sorted(found.items())}


class Killing(Executor):
    """Passes work on to a cluster, and kills one of its workers with -9 in the middle.

    Args:
        kill: kills one; called once, when the first piece of work is done.
    """

    def __init__(self, inner: Executor, kill: Callable[[], object]) -> None:
        self._inner = inner
        self._kill = kill
        self._turn = threading.Lock()
        self.submitted = 0
        self.killed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As the inner one does."""
        self.submitted += 1
        future = self._inner.submit(fn, *args, **kwargs)
        future.add_done_callback(self._once)
        return future

    def _once(self, _done: Future[Any]) -> None:
        with self._turn:
            if not self.killed:
                self.killed = True
                self._kill()


def kill_a_worker(nanny: int) -> int:
    """Kill a worker that a nanny's process has started, as if its machine were gone; its id."""
    import psutil

    workers = [
        child
        for child in psutil.Process(nanny).children()
        if "spawn_main" in " ".join(child.cmdline())
    ]
    os.kill(workers[0].pid, signal.SIGKILL)
    return int(workers[0].pid)


def _arrays(workspace: Workspace, aggregate: str) -> Iterator[tuple[str, str]]:
    """Sessions with the digests of their content, and the digests of their chunks.

    Which slot of a store a session takes is a matter of who comes first; its chunks are not.
    """
    from catchment.arrays.capability import output_prefix
    from catchment.arrays.catalog import Catalog
    from catchment.core.store import open_store

    prefix = output_prefix(aggregate.partition("/")[2])
    folder = open_store(f"{workspace.store.url}/{prefix}", **workspace.settings.s3.options())
    for place in Catalog.build(folder).sessions:
        yield place.session, f"{place.content_hash} {place.n_windows}"
    chunks = [s.key for s in folder.list() if "/" in s.key.partition("/c/")[2]]
    digests = sorted(hashlib.sha256(folder.read(key)).hexdigest() for key in chunks)
    yield "chunks", "\n".join(digests)


def make_recordings(folder: Path, count: int, seconds: int) -> None:
    """EDF files of two channels."""
    import datetime as dt

    import edfio
    import numpy as np

    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number)
        signals = [
            edfio.EdfSignal(
                noise.standard_normal(100 * seconds) * 20,
                100,
                label=label,
                physical_dimension="uV",
                physical_range=(-200, 200),
            )
            for label in ("Fp1", "Fp2")
        ]
        day = edfio.Recording(startdate=dt.date(2026, 3, 1 + number))
        edfio.Edf(signals, starttime=dt.time(8, 0), recording=day).write(
            folder / f"site_s{number}.edf"
        )
