"""The public upload client, unchanged, against a served workspace."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from catchment.core.ledger.keys import Keys
from catchment.core.ledger.uploads import FileState, Uploads
from catchment.studies import library
from catchment.testing.web import serving
from catchment.web.app import create_app
from tests.web.serving import SECRET, make_workspace, wait_until

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venv-public-client"  # 600 MB, made once; `make clean` or a hand removes it
PACKAGE = "cumulus-library>=6,<7"
TOKEN = "a dashboard's key"


@pytest.fixture(scope="session")
def public_client():
    """The program ``cumulus-library``, in an environment of its own; skips where it is not to be had."""
    program = HOME / "bin" / "cumulus-library"
    ready = HOME / "ready"
    if not ready.exists():
        shutil.rmtree(HOME, ignore_errors=True)
        uv = shutil.which("uv") or shutil.which("uv", path=ROOT / ".venv-tools" / "bin")
        python = ["--python", str(HOME / "bin" / "python")]
        steps = (
            [
                [uv, "venv", "-q", "--python", sys.executable, str(HOME)],
                [uv, "pip", "install", "-q", *python, PACKAGE],
            ]
            if uv
            else [
                [sys.executable, "-m", "venv", str(HOME)],
                [str(HOME / "bin" / "pip"), "install", "-q", PACKAGE],
            ]
        )
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"the public client cannot be installed: {done.stderr[-300:]}")
        ready.touch()
    return program


@pytest.mark.timeout(900)  # it imports a great deal
def test_an_export_is_uploaded_merged_and_seen(public_client, shared, tmp_path):
    exports = tmp_path / "exports" / "upload"
    exports.mkdir(parents=True)
    shutil.copy(shared / "data" / "studies" / "upload.zip", exports)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CUMULUS"))}
    environment |= {"HOME": str(tmp_path), "CUMULUS_AGGREGATOR_ID": SECRET}
    folder = tmp_path / "center"
    folder.mkdir()
    with (
        make_workspace(folder, **{"studies.upload": "min_cell = 0"}) as workspace,
        serving(create_app(workspace)) as url,
    ):
        done = subprocess.run(
            [
                public_client,
                "upload",
                "-t",
                "upload",
                "--user",
                "anna",
                "--url",
                url,
                exports.parent,
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        uploads = Uploads(workspace.ledger)
        (file,) = wait_until(lambda: uploads.files(FileState.PROCESSED))
        assert file.filename == "anna_upload.zip"
        (answer,) = library.uploads(workspace, file.upload, "boston")
        (package,) = [p for p in library.packages(workspace) if p.kind == "cube"]
        table = pq.read_table(io.BytesIO(workspace.store.read(package.key)))
        Keys(workspace.ledger).add("dashboard", TOKEN, [], [])
        chart = httpx.get(
            f"{url}/data-packages/{package.id}/chart",
            params={"column": "gender"},
            headers={"x-api-key": TOKEN},
            timeout=60,
        )
    assert chart.status_code == 200, chart.text
    (shown,) = chart.json()["data"]
    assert dict(shown["rows"]) == {"male": 552, "female": 551}
    assert {f.name: f.accepted for f in answer.files}["upload__count_synthea_patient.cube.parquet"]
    original = shared / "data" / "studies" / "count_synthea_patient_agg.parquet"
    assert table.num_rows == pq.read_metadata(original).num_rows == 506
    assert list(table.slice(0, 1).to_pylist()[0].values()) == [1103, None, None, None, None]
