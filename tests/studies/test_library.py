"""The door of studies: what a site sends becomes what readers see."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from catchment.core.errors import NotFound
from catchment.core.workspace import Workspace
from catchment.studies import layout, library

DATA = Path(__file__).parents[3] / "shared" / "data" / "studies"
SITE = "princeton_plainsboro_teaching_hospital"


@pytest.fixture
def workspace(tmp_path):
    with Workspace.described(
        {
            "workspace.store": (tmp_path / "data").as_uri(),
            "workspace.ledger": f"sqlite:///{tmp_path}/ledger.db",
            "executor.kind": "threads",
            "studies.upload.min_cell": 0,
        }
    ) as made:
        yield made


def send(workspace, site, data, *, name="u_upload.zip", transaction="tx-1", study="upload"):
    key = layout.staging(study, site, 0, name)
    workspace.store.put(key, data)
    return library.submit(workspace, site, study, 0, name, key, "u", transaction)


@pytest.mark.skipif(not DATA.exists(), reason="the shared sample data is not here")
def test_the_public_example_becomes_506_rows(workspace):
    done = send(workspace, SITE, (DATA / "upload.zip").read_bytes())
    assert done.accepted
    assert [one.kind for one in done.files] == ["manifest", "cube", "meta", "meta"]
    (package,) = library.packages(workspace)
    assert (package.rows, package.total, package.sites) == (506, 1103, (SITE,))
    table = pq.read_table(workspace.store.path(package.key))
    assert list(table.slice(0, 1).to_pylist()[0].values()) == [1103, None, None, None, None]
    assert library.uploads(workspace, "tx-1", SITE) == [done]
    assert library.uploads(workspace, "tx-1", "another") == []
    assert list(workspace.store.list("upload_staging/")) == []


def test_nothing_that_arrived_is_nothing_to_submit(workspace):
    with pytest.raises(NotFound) as error:
        library.submit(workspace, "a", "upload", 0, "x.zip", "upload_staging/x", "u", "tx-9")
    assert error.value.kind == "no-upload"
