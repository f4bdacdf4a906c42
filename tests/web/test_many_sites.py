"""Many sites at once, over real HTTP: no error, and every count is in the total once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from catchment.core.ledger.access import Access
from catchment.core.ledger.uploads import FileState, Uploads
from catchment.testing.web import serving
from catchment.web.app import create_app
from tests.web.serving import HASH, Sites, make_workspace, published, study

SITES = 50


@pytest.mark.timeout(600)
def test_fifty_sites_upload_at_once(tmp_path):
    with make_workspace(tmp_path) as workspace:
        access = Access(workspace.ledger)
        for n in range(SITES):
            access.add(f"site{n:02}", f"user{n:02}", HASH)
        with (
            serving(create_app(workspace)) as url,
            httpx.Client(
                base_url=url, timeout=300, limits=httpx.Limits(max_connections=SITES)
            ) as http,
            ThreadPoolExecutor(SITES) as pool,
        ):
            sites = Sites(workspace, http)
            sites.slowest = 2.0

            def upload(n):
                return sites.upload(study(n + 1, 2 * n + 1), f"user{n:02}")

            told = list(pool.map(upload, range(SITES)))
        assert [one for one in told if not one["accepted"]] == []
        assert {one["site"] for one in told} == {f"site{n:02}" for n in range(SITES)}
        counts = published(workspace)
        assert counts[None, None] == sum(3 * n + 2 for n in range(SITES))
        for n in range(SITES):
            assert counts[f"site{n:02}", "a"] == n + 1
            assert counts[f"site{n:02}", None] == 3 * n + 2
        uploads = Uploads(workspace.ledger)
        assert len(uploads.files(FileState.PROCESSED)) == SITES
        assert all(uploads.holder(f"site{n:02}", "flu") is None for n in range(SITES))
