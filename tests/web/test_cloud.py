"""The whole way on S3 and PostgreSQL: a form of the bucket, process, release, chart, withdraw."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import pyarrow.parquet as pq
import pytest

from catchment.core.ledger.access import Access
from catchment.core.ledger.keys import Keys, scopes
from catchment.core.workspace import Workspace
from catchment.studies import actions, capability, library
from catchment.testing.postgres import postgres
from catchment.testing.s3 import ministack
from catchment.testing.studies import cube, make_people, study_zip
from catchment.testing.web import serving
from catchment.web.app import create_app
from tests.studies import studying
from tests.web.serving import HASH, Sites

__all__ = ["ministack", "postgres"]

MIN_CELL = 11
SITES = ("boston", "chicago", "davis")
CHART = "/data-packages/core__count_patient__000/chart"


@pytest.fixture
def space(ministack, postgres, tmp_path):
    """A workspace as a center has it in the cloud; small cells are suppressed, as by default."""
    settings = {
        "workspace.store": f"s3://{ministack.bucket}/{tmp_path.name}",
        "workspace.ledger": postgres.database(),
        "executor.kind": "threads",
    } | {f"s3.{name}": value for name, value in ministack.options.items()}
    with Workspace.described(settings) as made:
        access = Access(made.ledger)
        for site in SITES:
            access.add(site, f"user-{site}", HASH)
        Keys(made.ledger).add("dashboard", "token", *scopes(["all"]))
        yield made


@pytest.mark.timeout(300)
def test_from_an_upload_to_a_chart_and_out_again(space, ministack):
    zips = {
        site: study_zip("core", {"count_patient": cube(make_people(n, 150))})
        for n, site in enumerate(SITES)
    }
    with (
        serving(create_app(space)) as url,
        httpx.Client(base_url=url, timeout=120) as http,
        ThreadPoolExecutor(len(SITES)) as pool,
    ):
        sites = Sites(space, http)

        def upload(site):
            offer = sites.ask(f"user-{site}", study="core", filename=f"user-{site}_core.zip")
            form = offer.raise_for_status().json()
            assert form["url"].startswith(ministack.endpoint)  # not through us
            assert sites.send(form, zips[site]).status_code == 204
            return sites.wait(offer.headers["transaction-id"], f"user-{site}")

        told = list(pool.map(upload, SITES))
        assert all(one["accepted"] for one in told), told

        def chart():
            asked = {"column": "gender", "marks": "true"}
            return http.get(CHART, params=asked, headers={"x-api-key": "token"})

        seen = chart().raise_for_status().json()
        counts = dict(seen["data"][0]["rows"])
        people = [p for n in range(len(SITES)) for p in make_people(n, 150)]
        for gender in ("female", "male"):
            assert counts[gender] == sum(p["gender"] == gender for p in people)
        assert seen["sites"] == len(SITES)
        assert all(row[1] == len(SITES) for row in seen["marks"] if row[0] != "other")

        (package,) = [p for p in library.packages(space) if p.kind == "cube"]
        released = pq.read_table(io.BytesIO(space.store.read(package.key)))
        assert package.min_cell == MIN_CELL
        assert released["cnt"].null_count
        assert min(c for c in released["cnt"].to_pylist() if c is not None) >= MIN_CELL
        csv = space.store.read(package.key.replace("aggregates/", "csv_aggregates/")[:-7] + "csv")
        assert len(csv.splitlines()) == released.num_rows + 1

        house = library.house(space)
        actions.withdraw(house, "core", "davis")
        after = chart().json()
        left = [p for n in range(2) for p in make_people(n, 150)]
        rows = dict(after["data"][0]["rows"])
        for gender in ("female", "male"):  # or suppressed: two sites hide less of each other
            assert rows[gender] in {None, sum(p["gender"] == gender for p in left)}
        assert after["sites"] == 2
        actions.withdraw(house, "core")
        assert chart().status_code == 404
    assert not studying.below(space, "aggregates/")
    assert capability.verify(space, "core") == []
    assert len(studying.below(space, "archive/")) == 3 * len(SITES)
