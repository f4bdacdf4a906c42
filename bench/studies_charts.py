"""Charts: ``python -m bench.studies_charts [--rows 10000000]``.

One package in memory is asked for charts by one column, by two, and under filters by up to all of
its columns, each once unseen before its time is taken. The slowest is told beside the median, for
most charts are of small roll-ups. Memory is what the kernel says that the process had at most: a
sampler may miss how short a load is.

Over HTTP, eight connections of a client in a process of its own ask for a chart that they have:
each request is checked, answered 304, and kept in the log of reads.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from bench._common import Measured, Row, measure, scratch, sized, timed
from catchment.core.ledger.keys import Keys, scopes
from catchment.core.workspace import Workspace
from catchment.studies import layout, library
from catchment.studies.charts.filters import parse
from catchment.studies.charts.query import Chartable
from catchment.testing.studies import parquet, wide_cube
from catchment.testing.web import serving
from catchment.web.app import create_app

ROWS = 10_000_000
SITE_ROWS = 200_000
SHARE = 0.84  # of the rows: sites' own
MOST_S = 0.015
ASKED = 2000
CONNECTIONS = 8
LEAST_PER_S = 200
STUDY = "bench"
TOKEN = "a token of the benchmark"  # noqa: S105 - of a workspace that lasts seconds
PATH = f"/data-packages/{STUDY}__count__000/chart?column=gender&stratifier=race"
TIMES = 5  # each chart
MIDDLE = "middle.json"  # the median, as the measured process tells it


def prepare(folder: Path, rows: int) -> Path:
    """A merged cube of about so many rows: those of sites, and their sums."""
    parts, path = folder / "parts", folder / "cube.parquet"
    parts.mkdir()
    for number in range(max(1, round(rows * SHARE / SITE_ROWS))):
        cube = wide_cube(number, min(rows, SITE_ROWS))
        label = pa.array([f"site{number:02}"] * cube.num_rows)
        pq.write_table(cube.append_column("site", label), parts / f"{number}.parquet")
    names = ", ".join(name for name in cube.column_names if name != "cnt")
    with duckdb.connect(config={"memory_limit": "8GB"}) as connection:
        connection.execute(
            f"COPY (FROM '{parts}/*.parquet' UNION ALL BY NAME SELECT sum(cnt)::BIGINT AS cnt, "  # noqa: S608 - ours
            f"{names} FROM '{parts}/*.parquet' GROUP BY {names}) TO '{path}'"
        )
    shutil.rmtree(parts)
    return path


def charts(path: Path) -> None:
    """Ask a package in memory; the median of all charts is left beside it."""
    package = Chartable(path)
    names = package.columns
    asked: list[tuple[str, str | None, list[str]]] = [(name, None, []) for name in names]
    asked += [(names[0], name, []) for name in names[1:]]
    for name in names[2:]:
        values = package.chart(name, None, parse([]))["data"][0]["rows"]
        value = values[len(values) // 2][0]
        kind = "strEq" if isinstance(value, str) else "eq"
        asked.append((names[0], None, [f"{name}:{kind}:{value}"]))
        asked.append((names[0], names[1], [f"{name}:{kind}:{value}", f"{name}:isNone"]))
    for last in range(3, len(names) + 1):  # up to the finest roll-up, which is the largest
        every = ",".join(f"{name}:strNotEq:nothing" for name in names[2:last])
        asked.append((names[0], names[1], [every]))
    taken = []
    with timed():
        for column, stratifier, texts in asked:
            filters = parse(texts)
            package.chart(column, stratifier, filters)  # warm
            for _ in range(TIMES):
                start = time.perf_counter()
                package.chart(column, stratifier, filters)
                taken.append(time.perf_counter() - start)
    told = {"median": statistics.median(taken), "most": max(taken), "charts": len(asked)}
    told["rows"], told["peak_mb"] = package.rows, _peak_mb()
    (path.parent / MIDDLE).write_text(json.dumps(told))


def _peak_mb() -> float:
    """The most that was resident in this process, in MB (10**6 bytes)."""
    status = Path("/proc/self/status").read_text()
    (line,) = (one for one in status.splitlines() if one.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def requests(folder: Path) -> None:
    """Ask again and again for what did not change; raises unless each is 304, and kept."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = {
        "workspace.store": folder.as_uri(),
        "workspace.ledger": f"sqlite:///{folder}/ledger.db",
        f"studies.{STUDY}.min_cell": 0,
    }
    name = f"{STUDY}__count.cube.parquet"
    with Workspace.described(settings) as workspace:
        key = layout.staging(STUDY, "site", 0, name)
        workspace.store.put(key, parquet(wide_cube(0, 20_000)))
        library.submit(workspace, "site", STUDY, 0, name, key, "u", "tx")
        keys = Keys(workspace.ledger)
        keys.add("bench", TOKEN, *scopes(["all"]))
        context = multiprocessing.get_context("spawn")
        with (
            serving(create_app(workspace, process=False)) as url,
            ProcessPoolExecutor(1, context) as client,
        ):
            answer = httpx.get(f"{url}{PATH}", headers={"x-api-key": TOKEN}, timeout=60)
            tag = answer.raise_for_status().headers["ETag"]
            client.submit(ask, url, tag, CONNECTIONS).result()  # warm
            with timed():
                found = client.submit(ask, url, tag, ASKED).result()
        kept = len(keys.reads(limit=2 * ASKED))
    wrong = [status for status in found if status != http.HTTPStatus.NOT_MODIFIED]
    if wrong or kept != 1 + CONNECTIONS + ASKED:
        raise AssertionError(f"{len(wrong)} answers are not 304; {kept} reads were kept")


def ask(url: str, tag: str, number: int) -> Sequence[int]:
    """The statuses of so many requests over connections that are kept open."""

    def some(_: int) -> list[int]:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        statuses = []
        for _ in range(number // CONNECTIONS):
            headers = {"x-api-key": TOKEN, "If-None-Match": tag}
            connection.request("GET", PATH, headers=headers)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()
        return statuses

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return [status for part in pool.map(some, range(CONNECTIONS)) for status in part]


def rows(number: int = ROWS) -> tuple[list[Row], list[str]]:
    """The lines of the benchmark, and what they come to beside the bounds; there is no peer."""
    folder = scratch("studies_charts")
    path = prepare(folder, number)
    whole = measure(charts, path)
    told = json.loads((folder / MIDDLE).read_text())
    one = Measured(told["median"], told["peak_mb"], whole.cpu_s)
    many = measure(requests, folder / "workspace")
    shutil.rmtree(folder)
    lines = [
        Row(f"median of {told['charts']} charts over {told['rows']:,} rows, warm", one, {}),
        Row(f"{ASKED:,} charts that the client has, over HTTP (304)", many, {}),
    ]
    rate = ASKED / many.seconds
    return lines, [
        (
            f"charts: median {told['median'] * 1e3:.1f} ms, at most {MOST_S * 1e3:.0f} ms: "
            f"{_told(told['median'], MOST_S)}; the slowest {told['most'] * 1e3:.0f} ms"
        ),
        f"cached answers: {rate:.0f}/s, at least {LEAST_PER_S}/s: {_told(LEAST_PER_S, rate)}",
    ]


def _told(smaller: float, greater: float) -> str:
    return "reached" if smaller <= greater else "MISSED"


if __name__ == "__main__":
    sized("studies_charts", __doc__, rows, ROWS)
