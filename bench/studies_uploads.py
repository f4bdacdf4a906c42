"""Many sites upload at once: ``python -m bench.studies_uploads [--sites 50]``.

Real HTTP on loopback, server and clients in one process tree: each site asks for a form, sends its
zip, and asks until it is told that all of it was accepted. The totals are checked at the end.
"""

from __future__ import annotations

import argparse
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq

from bench._common import Row, measure, report, scratch, timed
from catchment.core.ledger.access import Access
from catchment.core.passwords import hash_secret, new_secret
from catchment.core.workspace import Workspace
from catchment.studies import library
from catchment.testing.studies import cube, make_people, study_zip
from catchment.testing.web import serving
from catchment.web.app import create_app

SITES = 50
STUDY = "bench"


def uploads(folder: Path, sites: int) -> None:
    """All sites upload at the same time; raises unless every count is in the total once."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    secret = new_secret()
    hashed = hash_secret(secret)
    zips = [study_zip(STUDY, {"count": cube(make_people(n, 200 + n))}) for n in range(sites)]
    settings = {
        "workspace.store": folder.as_uri(),
        "workspace.ledger": f"sqlite:///{folder}/ledger.db",
        f"studies.{STUDY}.min_cell": 0,
    }
    with Workspace.described(settings) as workspace:
        access = Access(workspace.ledger)
        for number in range(sites):
            access.add(f"site{number:02}", f"user{number:02}", hashed)
        with (
            serving(create_app(workspace)) as url,
            httpx.Client(base_url=url, timeout=600) as http,
            ThreadPoolExecutor(sites) as pool,
            timed(),
        ):

            def upload(number: int) -> None:
                _upload(http, (f"user{number:02}", secret), zips[number])

            list(pool.map(upload, range(sites)))
        (package,) = (p for p in library.packages(workspace) if p.kind == "cube")
        path = workspace.store.path(package.key)
        total = pq.read_table(path).column("cnt")[0].as_py()
    expected = sum(200 + number for number in range(sites))
    if total != expected:
        raise AssertionError(f"expected a total of {expected}, got {total}")


def _upload(http: httpx.Client, login: tuple[str, str], data: bytes) -> None:
    asked = {"study": STUDY, "filename": f"{STUDY}.zip"}
    offer = http.post("/", json=asked, auth=login).raise_for_status()
    form = offer.json()
    sent = http.post(form["url"], data=form["fields"], files={"file": ("zip", data)})
    sent.raise_for_status()
    told: dict[str, Any] = {}
    while told.get("state") != "done":
        time.sleep(0.5)
        where = f"/uploads/{offer.headers['transaction-id']}"
        told = http.get(where, auth=login).raise_for_status().json()
    if not told["accepted"]:
        raise AssertionError(f"{login[0]} was refused")


def row(sites: int = SITES) -> Row:
    """The line of the benchmark; nothing that could be called a peer does this."""
    folder = scratch("studies_uploads")
    taken = measure(uploads, folder, sites)
    shutil.rmtree(folder)
    return Row(f"{sites} sites upload at once, over HTTP, until all is merged", taken, {})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sites", type=int, default=SITES)
    report("studies_uploads", [row(parser.parse_args().sites)], None)


if __name__ == "__main__":
    main()
