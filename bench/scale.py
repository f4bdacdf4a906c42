"""What a unit of work costs, and what that makes of very many: ``python -m bench.scale``.

Each kind of work runs twice over a real S3 server of tests (moto, in a process of its own), over n
units and over 3 n; the difference, divided by 2 n, is what one more unit costs: requests, bytes to
and from the store, CPU seconds of our process (one thread; the server's are not counted), bytes of
the ledger. What is left is the fixed part of a run. ``results/scale/constants.json`` holds what
was measured.

From these the model of ``docs/explanation/scale.md`` is computed; it is printed as Markdown. What
is above the measured sizes is simulated, and marked so.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench._common import RESULTS, machine

# Prices of requests and of the month's gigabyte, in dollars: S3 standard, us-east-1, list price.
PUT, GET, GIGABYTE_MONTH, CORE_HOUR = 5e-6, 4e-7, 0.023, 0.04
_LINE = re.compile(r'"(GET|PUT|POST|HEAD|DELETE) ')


class Cost(NamedTuple):
    """What some work took."""

    put: float  # PUT, POST; copies are PUT
    get: float  # GET, HEAD; listings are GET
    up: float  # bytes to the store
    down: float  # bytes from it
    cpu: float  # seconds
    ledger: float  # bytes

    def less(self, other: Cost) -> Cost:
        """What this took more."""
        return Cost(*(a - b for a, b in zip(self, other, strict=True)))

    def by(self, units: float) -> Cost:
        """Of one unit."""
        return Cost(*(a / units for a in self))


class Meter:
    """A server of S3, and a door to it that counts bytes."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "moto.log"
        self._behind = _free()
        self.port = _free()
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1"]
            self.process = subprocess.Popen(
                [*command, "-p", str(self._behind)], stdout=log, stderr=log
            )
        while socket.socket().connect_ex(("127.0.0.1", self._behind)):
            time.sleep(0.1)
        self.up = self.down = 0
        self._server = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._server.accept()
            except OSError:
                return
            other = socket.create_connection(("127.0.0.1", self._behind))
            for source, target, up in ((one, other, True), (other, one, False)):
                threading.Thread(target=self._pump, args=(source, target, up), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, up: bool) -> None:  # noqa: FBT001 - which way
        try:
            while data := source.recv(1 << 16):
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def requests(self) -> Counter[str]:
        """How many there were, by method."""
        time.sleep(0.2)
        return Counter(_LINE.findall(self.log.read_text(errors="replace")))

    def close(self) -> None:
        """End the server."""
        self._server.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def metered() -> Iterator[tuple[Meter, dict[str, str], str]]:
    """A meter, the options of its store, and the name of a bucket."""
    from catchment.core.store_s3_config import client

    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        meter = Meter(Path(folder))
        options = {
            "endpoint": f"http://127.0.0.1:{meter.port}",
            "region": "us-east-1",
            "access_key_id": "test",
            "secret_access_key": "test",
            "allow_http": "true",
        }
        try:
            client(options).create_bucket(Bucket="scale")
            yield meter, options, "scale"
        finally:
            meter.close()


class Kind(NamedTuple):
    """A kind of work: how its inputs are made, what a unit is."""

    aggregate: str
    unit: str
    units: int  # n
    make: Callable[[Path, int], int]  # writes inputs of so many units; their bytes


def measured(kind: Kind, meter: Meter, options: dict[str, str], bucket: str, count: int) -> Cost:
    """One run over so many units."""
    from catchment.core.workspace import Workspace
    from catchment.testing.workspaces import make_workspace, run

    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        kind.make(folder / "in", count)
        lines = "\n".join(f'{k} = "{v}"' for k, v in options.items()).replace('"true"', "true")
        prefix = f"{kind.aggregate.replace('/', '-')}-{count}-{time.time_ns()}"
        where = f'store = "s3://{bucket}/{prefix}"\nledger = "ledger.db"\n\n[s3]\n{lines}'
        place = make_workspace(folder / "w", folder / "in", workspace=where)
        with Workspace.open(place, SETTINGS) as workspace:
            workspace.ledger.aggregates()
            before = Cost(*_requests(meter), meter.up, meter.down, _cpu(), _size(place))
            run(workspace, kind.aggregate)
            workspace.ledger.aggregates()
            after = Cost(*_requests(meter), meter.up, meter.down, _cpu(), _size(place))
    return after.less(before)


def constants(kinds: list[Kind]) -> dict[str, Any]:
    """What one more unit costs, and the fixed part of a run, of each kind."""
    found: dict[str, Any] = {}
    with metered() as (meter, options, bucket):
        for kind in kinds:
            measured(kind, meter, options, bucket, 2)  # imports
            small = measured(kind, meter, options, bucket, kind.units)
            large = measured(kind, meter, options, bucket, 3 * kind.units)
            one = large.less(small).by(2 * kind.units)
            fixed = small.less(Cost(*(v * kind.units for v in one)))
            found[kind.aggregate] = {
                "unit": kind.unit,
                "measured": [kind.units, 3 * kind.units],
                "one": {k: round(v, 6) for k, v in one._asdict().items()},
                "fixed": {k: round(v, 6) for k, v in fixed._asdict().items()},
            }
            print(kind.aggregate, json.dumps(found[kind.aggregate]["one"]), flush=True)
    return found


def _requests(meter: Meter) -> tuple[int, int]:
    seen = meter.requests()
    return seen["PUT"] + seen["POST"], seen["GET"] + seen["HEAD"]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _size(place: Path) -> int:
    return sum(p.stat().st_size for p in place.glob("ledger.db*"))


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# One thread, so that its CPU is seen; the rest as it is by default.
SETTINGS = {
    "executor.workers": 1,
    "exports.claims.batch": 20,
    "exports.claims.max_bytes": 200 << 20,
    "imaging.ct.previews": "none",
}
ROWS, COLUMNS = 1000, 200


def centers(folder: Path, count: int) -> int:
    """Centers of ROWS rows and COLUMNS columns each."""
    from catchment.testing.centers import make_centers

    make_centers(
        folder / "sites",
        centers=count,
        columns=COLUMNS,
        rows=(ROWS, ROWS),
        broken=0,
        drift_columns=0,
        measures=COLUMNS // 10,
    )
    return _bytes(folder / "sites" / "datasets")


def claims(folder: Path, count: int) -> int:
    """Members of 50 lines of 1 kB each."""
    place = folder / "claims"
    place.mkdir()
    for member in range(count):
        line = b'{"id":"%d","note":"%s"}\n' % (member, b"x" * 980)
        (place / f"m{member:06}.ndjson").write_bytes(line * 50)
    return _bytes(place)


def instances(folder: Path, count: int) -> int:
    """CT slices of 512 x 512 pixels, one provider; no pictures are made of them."""
    import numpy as np

    from catchment.testing.dicom import make_file

    noise = np.random.default_rng(0)
    for provider in ("north", "south"):
        (folder / provider).mkdir()
    for number in range(count):
        pixels = noise.integers(0, 4096, (512, 512), dtype=np.uint16)
        data = make_file(f"1.2.3.1.1.{number}", pixels=pixels, InstanceNumber=number)
        (folder / "north" / f"{number:06}.dcm").write_bytes(data)
    return _bytes(folder / "north")


def recordings(folder: Path, count: int) -> int:
    """EDF recordings of two channels and 60 s."""
    from catchment.testing.workspaces import make_recordings

    make_recordings(folder / "recordings", count, 60)
    return _bytes(folder / "recordings")


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


KINDS = [
    Kind("tables/main", f"center of {ROWS:,} rows x {COLUMNS} columns", 10, centers),
    Kind("exports/claims", "member of 50 lines, 50 kB", 40, claims),
    Kind("imaging/ct", "DICOM instance, 0.5 MB", 40, instances),
    Kind("arrays/eeg", "session of 60 s, 2 channels", 6, recordings),
]

# What is asked of the model: kind, how many units, in words.
TARGETS = [
    ("tables/main", 10**5, "10^5 sites, one table each"),
    ("exports/claims", 2 * 10**10, "1 PB of lines (2 x 10^10 members)"),
    ("imaging/ct", 10**9, "10^9 DICOM instances (0.5 PB)"),
    ("arrays/eeg", 10**6, "10^6 sessions"),
]


def model(found: dict[str, Any]) -> str:
    """The table of ``docs/explanation/scale.md``: simulated from what was measured."""
    names = ("work (simulated)", "PUT, POST", "GET, HEAD", "read + written", "CPU", "ledger")
    lines = [
        f"| {' | '.join((*names, 'requests', 'CPU'))} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for aggregate, units, words in TARGETS:
        one = Cost(**found[aggregate]["one"])
        put, get, up, down, cpu, ledger = (v * units for v in one)
        lines.append(
            f"| {words} | {put:,.0f} | {get:,.0f} | {(up + down) / 1e12:,.1f} TB "
            f"| {cpu / 3600:,.0f} core hours | {max(0, ledger) / 1e9:,.1f} GB "
            f"| {put * PUT + get * GET:,.0f} $ | {cpu / 3600 * CORE_HOUR:,.0f} $ |"
        )
    return "\n".join(lines)


def told(found: dict[str, Any]) -> str:
    """The table of what was measured."""
    lines = [
        "| one more | PUT, POST | GET, HEAD | bytes up | bytes down | CPU | ledger |",
        "|---|---|---|---|---|---|---|",
    ]
    for aggregate, about in found.items():
        one = Cost(**about["one"])
        lines.append(
            f"| {aggregate.partition('/')[0]}: {about['unit']} | {one.put:.2f} | {one.get:.2f} "
            f"| {one.up:,.0f} | {one.down:,.0f} | {one.cpu * 1000:.1f} ms | {one.ledger:,.0f} B |"
        )
    return "\n".join(lines)


def main() -> None:
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    found = constants(KINDS)
    result = {
        "name": "scale",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "constants": found,
    }
    (RESULTS / "scale").mkdir(exist_ok=True)
    (RESULTS / "scale" / "constants.json").write_text(json.dumps(result, indent=1) + "\n")
    print(told(found), model(found), sep="\n\n")


if __name__ == "__main__":
    main()
