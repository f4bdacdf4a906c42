"""Pages: ``python -m bench.web``.

A ledger in PostgreSQL holds 100 sites, 200 aggregates and a million rows. The first page of each
list, and the overview, is asked for over HTTP by somebody who is signed in, as a browser asks:
compressed. The time is the server's, from the request to the last byte, on one connection that is
kept open; the bytes are the page's, and those of all that it loads the first time. Then
``catchment status`` of a million contributions, as a command, in PostgreSQL and in SQLite.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

import sqlalchemy as sa

from bench._common import Measured, Row, measure, scratch, sized, timed
from catchment.core.ledger.people import People
from catchment.core.workspace import Workspace
from catchment.testing.postgres import running
from catchment.testing.web import serving
from catchment.web.app import create_app

SITES = 100
AGGREGATES = 200
ROWS = 1_000_000
TIMES = 15
MOST_S = 0.2
MOST_BYTES = 300_000
MOST_STATUS_S = 1.0
TOKEN = "a token of the benchmark"  # noqa: S105 - of a ledger that lasts seconds
TOLD = "told.json"
PAGES = {
    "overview": "/ui/",
    "runs": "/ui/runs",
    "runs of one aggregate": "/ui/runs?aggregate=tables%2Fa0007",
    "failed runs": "/ui/runs?state=failed",
    "findings": "/ui/findings",
    "findings of one site": "/ui/findings?site=site042",
    "errors": "/ui/findings?severity=error",
    "findings by text": "/ui/findings?q=column+17",
    "a site": "/ui/sites/site042",
    "what came in, day by day": "/api/throughput",
}

CONTRIBUTIONS = """
INSERT INTO contributions (aggregate, site, name, digest, size, state, received_at, meta)
SELECT 'tables/a' || to_char(1 + (n / $sites) % $aggregates, 'FM0000'),
       'site' || to_char(1 + n % $sites, 'FM000'), 'versions/' || n, 'sha256:' || md5(n::text), n,
       CASE WHEN n % 97 = 0 THEN 'quarantined' ELSE 'published' END,
       now() - interval '100 days' * (1 - n::float / $last), '{}'
FROM generate_series($first, $last) n"""
# The same in SQLite.
EMBEDDED = """
INSERT INTO aggregates (name, fence)
SELECT printf('tables/a%04d', value + 1), 0 FROM (
  WITH RECURSIVE a(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM a LIMIT $aggregates)
  SELECT value FROM a);
INSERT INTO contributions (aggregate, site, name, digest, size, state, received_at, meta)
WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT $last)
SELECT printf('tables/a%04d', 1 + (n / $sites) % $aggregates),
       printf('site%03d', 1 + n % $sites), 'versions/' || n, 'sha256:' || n, n,
       CASE WHEN n % 97 = 0 THEN 'quarantined' ELSE 'published' END,
       '2026-11-21 00:00:00.000000', '{}'
FROM n"""

# 40 % contributions, 10 % transitions, 2 % runs, 28 % accounts, 20 % findings.
FILL = """
INSERT INTO aggregates (name, fence)
SELECT 'tables/a' || to_char(a, 'FM0000'), 0 FROM generate_series(1, $aggregates) a;

INSERT INTO runs (id, aggregate, key, state, started_at, finished_at, config, error)
SELECT to_char(at, 'YYYYMMDD-HH24MISS-US') || '-' || to_char(n, 'FM00000000'),
       'tables/a' || to_char(1 + n % $aggregates, 'FM0000'), NULL,
       CASE WHEN n % 50 = 0 THEN 'failed' WHEN n % 3 = 0 THEN 'unchanged' ELSE 'published' END,
       at, at + interval '40 seconds', '{}',
       CASE WHEN n % 50 = 0
            THEN '{"kind":"store-down","message":"the store is away","hint":"try again"}' END
FROM (SELECT n, now() - interval '100 days' * (1 - n::float / ($rows / 50)) AS at
      FROM generate_series(1, $rows / 50) n) t;

$contributions;

INSERT INTO transitions (contribution, at, was, "to", reason, run, batch)
SELECT id, received_at, NULL, 'received', '', '', '' FROM contributions
ORDER BY id LIMIT ($rows * 0.1)::int;

INSERT INTO accounts (run, site, part, unit, received, kept, dropped, quarantined)
SELECT r.id, 'site' || to_char(s, 'FM000'), 'uds', 'rows', 1000 + s, 990 + s,
       '{"transferred":10}', '{}'
FROM (SELECT id, row_number() OVER (ORDER BY id DESC) AS n FROM runs) r,
     generate_series(1, $sites) s
WHERE r.n <= ($rows * 0.28)::int / $sites;

INSERT INTO findings (run, site, severity, code, "where", message, hint, digest)
SELECT r.id, 'site' || to_char(1 + f % $sites, 'FM000'),
       CASE WHEN f % 20 = 0 THEN 'error' WHEN f % 4 = 0 THEN 'warning' ELSE 'note' END,
       'code-' || f % 40, 'uds: column ' || f % 90, 'expected an integer, found text', 'mend it',
       md5(r.id || f)
FROM (SELECT id FROM runs) r, generate_series(1, 10) f;

INSERT INTO snapshots (aggregate, number, parent, run, key, location, published_at, sealed,
                       expired_at, provenance)
SELECT aggregate, n, CASE WHEN n > 1 THEN n - 1 END, id, id, 'there/', started_at, true, NULL, '{}'
FROM (SELECT aggregate, id, started_at,
             row_number() OVER (PARTITION BY aggregate ORDER BY id) AS n
      FROM runs WHERE state = 'published') t
"""


def fill(url: str, rows: int) -> int:
    """A ledger of about so many rows; how many there are."""
    from catchment.core.ledger import Ledger

    with Ledger.open(url) as ledger:
        people = People(ledger)
        people.begin(TOKEN, "oidc", "bench", "operator", lasts=timedelta(hours=1))
    numbers = {"rows": rows, "sites": SITES, "aggregates": AGGREGATES}
    some = Template(CONTRIBUTIONS).substitute(numbers, first=1, last=rows * 2 // 5)
    tables = ("contributions", "transitions", "runs", "accounts", "findings", "snapshots")
    _do(url, Template(FILL).substitute(numbers, contributions=some), "VACUUM ANALYZE")
    _recount(url)
    engine = sa.create_engine(_driver(url))
    with engine.begin() as c:
        counted = [c.scalar(sa.text(f"SELECT count(*) FROM {table}")) for table in tables]  # noqa: S608 - ours
    engine.dispose()
    return sum(int(one or 0) for one in counted)


def _driver(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


def _do(url: str, statements: str, after: str) -> None:
    """Statements in one transaction, then one outside."""
    engine = sa.create_engine(_driver(url))
    with engine.begin() as c:
        for statement in statements.split(";\n"):
            c.exec_driver_sql(statement.replace("%", "%%") if url.startswith("post") else statement)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        c.execute(sa.text(after))
    engine.dispose()


def embedded(url: str, rows: int) -> None:
    """A ledger in SQLite with so many contributions, and nothing else."""
    from catchment.core.ledger import Ledger

    Ledger.open(url).close()
    numbers = {"last": rows, "sites": SITES, "aggregates": AGGREGATES}
    _do(url, Template(EMBEDDED).substitute(numbers), "ANALYZE")
    _recount(url)


def _recount(url: str) -> None:
    """The ledger counts what it receives itself; these rows went past it."""
    from catchment.core.ledger import Ledger

    with Ledger.open(url) as ledger:
        ledger.recount()


def status(folder: Path, ledger: str) -> None:
    """``catchment status``, as somebody types it: the process from its start to its end."""
    settings = {
        "CATCHMENT_WORKSPACE__STORE": folder.as_uri(),
        "CATCHMENT_WORKSPACE__LEDGER": ledger,
    }
    (folder / "catchment.toml").touch()
    command = [str(Path(sys.executable).parent / "catchment"), "--json", "status"]
    taken = []
    for _ in range(TIMES // 3):
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=os.environ | settings, capture_output=True, check=True
        )
        taken.append(time.perf_counter() - start)
    told = json.loads(done.stdout)
    if len(told) != AGGREGATES:
        raise AssertionError(f"{len(told)} aggregates")
    (folder / TOLD).write_text(json.dumps(statistics.median(taken)))


def ask(folder: Path, ledger: str) -> None:
    """Each page, warm; what was taken is left in a file."""
    settings = {"workspace.store": folder.as_uri(), "workspace.ledger": ledger}
    told: dict[str, dict[str, float]] = {}
    with (
        Workspace.described(settings) as workspace,
        serving(create_app(workspace, process=False)) as url,
    ):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        loaded: dict[str, int] = {}
        with timed():
            for name, path in PAGES.items():
                taken = []
                for _ in range(TIMES):
                    start = time.perf_counter()
                    text, size = _get(connection, path)
                    taken.append(time.perf_counter() - start)
                files = set(re.findall(rb'(?:src|href)="(/static/[^"]+)"', text))
                for file in files:
                    loaded.setdefault(file.decode(), _get(connection, file.decode())[1])
                whole = size + sum(loaded[file.decode()] for file in files)
                told[name] = {
                    "median": statistics.median(taken), "most": max(taken), "bytes": size,
                    "whole": whole,
                }  # fmt: skip
        connection.close()
    (folder / TOLD).write_text(json.dumps(told))


def _get(connection: http.client.HTTPConnection, path: str) -> tuple[bytes, int]:
    """The text of an answer, and how many bytes of it went over the wire."""
    import gzip

    cookie = f"catchment-session={TOKEN}"
    connection.request("GET", path, headers={"Cookie": cookie, "Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise AssertionError(f"{path} answers {answer.status}")
    packed = answer.headers.get("Content-Encoding") == "gzip"
    return gzip.decompress(body) if packed else body, len(body)


def rows(number: int = ROWS) -> tuple[list[Row], list[str]]:
    """The lines of the benchmark, and what they come to beside the bounds; there is no peer."""
    folder = scratch("web")
    taken: dict[str, tuple[float, Measured]] = {}
    with running() as postgres:
        ledger = postgres.database()
        count = fill(ledger, number)
        whole = measure(ask, folder, ledger)
        told = json.loads((folder / TOLD).read_text())
        more = {"sites": SITES, "aggregates": AGGREGATES, "first": number * 2 // 5 + 1}
        _do(ledger, Template(CONTRIBUTIONS).substitute(more, last=number), "VACUUM ANALYZE")
        _recount(ledger)
        url = f"sqlite:///{folder}/ledger.db"
        embedded(url, number)
        for name, one in (("PostgreSQL", ledger), ("SQLite", url)):
            measured = measure(status, folder, one)
            taken[name] = json.loads((folder / TOLD).read_text()), measured
    shutil.rmtree(folder)
    lines = [
        Row(f"{name}, first page: {one['bytes'] / 1e3:.0f} kB, {one['whole'] / 1e3:.0f} kB with "
            "all that it loads", Measured(one["median"], whole.peak_mb, whole.cpu_s), {})
        for name, one in told.items()
    ]  # fmt: skip
    for name, (seconds, cost) in taken.items():
        work = f"catchment status, {number:,} contributions, {name}"
        lines.append(Row(work, Measured(seconds, cost.peak_mb, cost.cpu_s / (TIMES // 3)), {}))
    bounds = [f"{count:,} rows, {SITES} sites, {AGGREGATES} aggregates"]
    for name, one in told.items():
        well = one["median"] < MOST_S and one["whole"] < MOST_BYTES
        bounds.append(
            f"{name}: median {one['median'] * 1e3:.0f} ms, most {one['most'] * 1e3:.0f} ms "
            f"(below {MOST_S * 1e3:.0f}), {one['whole'] / 1e3:.0f} kB (below "
            f"{MOST_BYTES / 1e3:.0f}): {'reached' if well else 'MISSED'}"
        )
    for name, (seconds, _) in taken.items():
        bounds.append(
            f"status, {name}: {seconds * 1e3:.0f} ms (below {MOST_STATUS_S * 1e3:.0f}): "
            f"{'reached' if seconds < MOST_STATUS_S else 'MISSED'}"
        )
    return lines, bounds


if __name__ == "__main__":
    sized("web", __doc__, rows, ROWS)
