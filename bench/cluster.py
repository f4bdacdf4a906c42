"""Work on a dask cluster beside the same on this machine: ``python -m bench.cluster [--scale 5]``.

Tables, exports, imaging and arrays, each from nothing, over the same inputs in a local folder:

* ours: a real scheduler and two worker processes with nannies, as people start them;
* ``processes``: two child processes, no cluster;
* ``one worker``: a cluster of one;
* ``worker lost``: two workers, one of which is killed with -9 when the first task is done. The
  result is compared byte by byte with that of ``processes``.

Clusters are started before the clock. What passed through the scheduler is printed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from bench._common import Failed, Measured, Row, measure, report, scratch, timed

KINDS = {
    "tables/main": "tables: 6 centers",
    "exports/claims": "exports: 16 members",
    "imaging/ct": "imaging: DICOM of two providers",
    "arrays/eeg": "arrays: 6 recordings",
}


def work(inputs: Path, folder: Path, aggregate: str, workers: int, *, kill: bool = False) -> None:
    """One aggregate from nothing; without workers, in two child processes."""
    from catchment.core.safe import Limits
    from catchment.core.workspace import Workspace
    from catchment.testing.cluster import cluster
    from catchment.testing.workspaces import Killing, contents, kill_a_worker, make_workspace, run

    executors: Any = import_module("catchment.core.executor")
    sent: list[int] = []
    got: list[int] = []
    pack, take = executors.pack, executors.take

    def packed(*given: object) -> bytes:
        data: bytes = pack(*given)
        sent.append(len(data))
        return data

    def taken(data: bytes, name: str) -> object:
        got.append(len(data))
        return take(data, name)

    executors.pack, executors.take = packed, taken
    shutil.rmtree(folder, ignore_errors=True)
    limits = Limits(memory=1 << 30, cpu=120, wall=240)
    with ExitStack() as stack:
        kind, nanny = "processes", 0
        if workers:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-")))
            found = stack.enter_context(cluster(place, workers))
            kind, nanny = found.address, found.nanny.pid if found.nanny else 0
        executor = stack.enter_context(executors.open_executor(kind, 2, limits))
        for future in [executor.submit(os.getpid) for _ in range(2 * max(1, workers))]:
            future.result()
        sent.clear()
        got.clear()
        workspace = stack.enter_context(Workspace.open(make_workspace(folder, inputs)))
        used = Killing(executor, lambda: kill_a_worker(nanny)) if kill else executor
        vars(workspace)["executor"] = used
        with timed():
            run(workspace, aggregate)
        told = {"contents": contents(workspace, aggregate), "tasks": len(sent)}
        told |= {"sent": sum(sent), "got": sum(got)}
        (folder / "told.json").write_text(json.dumps(told))


def read(folder: Path) -> int:
    """Bytes of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def rows(scale: int) -> list[Row]:
    from catchment.testing.workspaces import make_inputs

    place = scratch("cluster")
    inputs = place / "in"
    make_inputs(inputs, scale=scale)
    print(f"inputs: {read(inputs) / 1e6:.1f} MB")
    found = []
    for aggregate, title in KINDS.items():
        folders = {name: place / f"{aggregate.partition('/')[0]}-{name}" for name in "abcd"}
        peers: dict[str, Measured | None] = {
            "processes": measure(work, inputs, folders["a"], aggregate, 0, most_s=120)
        }
        ours = measure(work, inputs, folders["b"], aggregate, 2, most_s=120)
        for name, folder, workers in (("one worker", "c", 1), ("worker lost", "d", 2)):
            kill = name == "worker lost"
            peers[name] = measure(_work, inputs, folders[folder], aggregate, workers, kill)
        told = {n: json.loads((f / "told.json").read_text()) for n, f in folders.items()}
        for name, one in told.items():
            if one["contents"] != told["a"]["contents"]:
                raise Failed(f"{aggregate}: {name} came to other bytes than child processes")
        told_b = told["b"]
        print(
            f"{aggregate}: {told_b['tasks']} tasks, {told_b['sent']:,} bytes to the scheduler, "
            f"{told_b['got']:,} bytes from it; the same bytes in all four"
        )
        found.append(Row(title, ours, peers))
    return found


def _work(inputs: Path, folder: Path, aggregate: str, workers: int, kill: bool) -> None:  # noqa: FBT001 - called by position
    work(inputs, folder, aggregate, workers, kill=kill)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=5)
    arguments = parser.parse_args()
    report("cluster", rows(arguments.scale))
