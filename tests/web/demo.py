"""Workspaces with something of everything: a small one, and the one that `make demo` makes.

Both are made once in a run of tests, by whichever process comes first; the others copy them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from catchment.arrays import capability as arrays
from catchment.core import passwords
from catchment.core.ledger.access import Access
from catchment.core.ledger.people import People
from catchment.core.ledger.uploads import Uploads
from catchment.core.workspace import Workspace
from catchment.exports import capability as exports
from catchment.imaging import capability as imaging
from catchment.studies import library
from catchment.tables import capability as tables
from catchment.testing.centers import make_centers
from catchment.testing.dicom import make_file
from catchment.testing.studies import make_uploads, parquet
from tests.arrays.recordings import MARCH, hdf5

PASSWORD = "correct horse battery staple"
USERS = {"vera": "viewer", "stella": "steward", "otto": "operator"}
SLICES = 12
SETTINGS = """
[workspace]
name = "demo"

[executor]
kind = "threads"
workers = 2

[serve]
preview_rows = 5

[subscriptions]
warehouse = "warehouse.duckdb"

[tables.nacc]
centers = "sites/centers.json"
datasets = "sites/datasets/{center}"
identifiers = "sites/identifiers.csv"

[studies.core]
min_cell = 5

[imaging.clinic]
previews = "middle"
providers = { alpha = "dicom/alpha", beta = "dicom/beta" }

[exports.claims]
contract = "Z9000"
files = "claims"
max_bytes = 4000

[exports.slow]
contract = "Z9001"
files = "claims"

[arrays.sessions]
recordings = "recordings"
session_ids = "names"
site = "lab"
"""


ROOT = Path(__file__).parents[2]


def copied(factory, name: str, make: Callable[[Path], None]) -> Path:
    """A copy, for this process alone, of a folder that one process makes."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made, making = shared / f"{name}-made", shared / f"{name}-making"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make(making)
            making.rename(made)
    own = factory.mktemp(name) / "copy"
    shutil.copytree(made, own)
    return own


def small(factory) -> Workspace:
    """The small one."""

    def make(folder: Path) -> None:
        make_small(folder).close()

    return Workspace.open(copied(factory, "small", make))


def demo(factory) -> Workspace:
    """The one of `make demo`, and somebody of each role."""

    def make(folder: Path) -> None:
        # What needs no workspace is left out: no page shows it.
        command = [sys.executable, "-c", "import sys, demo; sys.exit(demo.workspace())"]
        where = {"PYTHONPATH": str(ROOT / "examples")}
        done = subprocess.run(
            command, cwd=folder, env=os.environ | where, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        with Workspace.open(folder / "demo") as workspace:
            add_users(workspace)

    # Threads, so that a test can hold a job while it is watched.
    return Workspace.open(copied(factory, "demo", make) / "demo", {"executor.kind": "threads"})


def add_users(workspace: Workspace) -> None:
    """Somebody of each role, and of two sites; all with one password, since a hash costs."""
    hashed = passwords.hash_secret(PASSWORD)
    for user, role in USERS.items():
        People(workspace.ledger).add(user, role, hashed)
    Access(workspace.ledger).add("boston", "anna", hashed)
    Access(workspace.ledger).add("denver", "dan", hashed)


def make_small(folder: Path) -> Workspace:
    """Make it, bring every aggregate up to date, and add users."""
    (folder / "catchment.toml").write_text(SETTINGS)
    make_centers(
        folder / "sites", centers=6, columns=14, rows=(40, 90), tables=("uds", "mds"), broken=1
    )
    _dicom(folder / "dicom")
    _claims(folder / "claims")
    _recordings(folder / "recordings")
    workspace = Workspace.open(folder)
    tables.run(workspace, "nacc")
    _again(folder / "sites")
    tables.run(workspace, "nacc")
    _upload(folder, workspace)
    imaging.run(workspace, "clinic")
    exports.run(workspace, "claims")
    arrays.run(workspace, "sessions")
    add_users(workspace)
    return workspace


def _again(sites: Path) -> None:
    """One center sends a newer version, so that the second snapshot differs from the first."""
    import shutil

    for one in sorted((sites / "datasets").iterdir()):
        versions = one / "versions"
        described = sorted(versions.glob("*/provenance/dataset_description.json"))
        if not described:
            continue
        latest = max(described, key=lambda p: json.loads(p.read_text())["created"])
        target = versions / "99"
        shutil.copytree(latest.parents[1], target)
        about = target / "provenance" / "dataset_description.json"
        about.write_text(
            json.dumps(json.loads(about.read_text()) | {"created": "2026-06-01T00:00:00Z"})
        )
        shutil.rmtree(target / "tables" / "mds", ignore_errors=True)
        return


def _upload(folder: Path, workspace: Workspace) -> None:
    """Three sites by what the site API records; the last one also sends text for counts."""
    import pyarrow as pa

    uploads = Uploads(workspace.ledger)
    sent = make_uploads(folder / "uploads", ["boston", "denver", "seattle"])
    bad = folder / "uploads" / "bad.parquet"
    bad.write_bytes(parquet(pa.table({"cnt": ["many"], "gender": ["female"]})))
    files = [(site, path, path.name) for site, path in sent.items()]
    files.append(("seattle", bad, "core__count_text.cube.parquet"))
    for number, (site, path, name) in enumerate(files):
        transaction = f"00000000-0000-4000-8000-{number:012}"
        if path != bad:  # it comes by the storage
            uploads.open(transaction, site=site, user="anna", study="core")
        key = f"upload_staging/core/{site}/000/{name}"
        workspace.store.put(key, path.read_bytes())
        library.submit(workspace, site, "core", 0, name, key, "anna", transaction)


def _dicom(folder: Path) -> None:
    """A stack of round things, whose radius grows; and a single picture of another provider."""
    rows, columns = np.mgrid[:96, :96]
    for site, slices in (("alpha", SLICES), ("beta", 1)):
        (folder / site).mkdir(parents=True)
        for n in range(slices):
            far = np.hypot(rows - 48, columns - 48 + n)
            pixels = np.where(far < 18 + 2 * n, 1100 + 40 * n, np.where(far < 44, 1000, 24))
            noise = np.random.default_rng(n).normal(0, 12, pixels.shape)
            data = make_file(
                f"1.2.3.{len(site)}.1.{n}",
                series=f"1.2.3.{len(site)}.1",
                study=f"1.2.3.{len(site)}",
                patient=f"Secret{site}",
                pixels=(pixels + noise).clip(0).astype(np.uint16),
                InstanceNumber=n + 1,
                BodyPartExamined="CHEST",
                SeriesDescription="SECRET-DESCRIPTION",
                RescaleSlope=1,
                RescaleIntercept=-1024,
                WindowCenter=40,
                WindowWidth=400,
                SliceThickness=2.5,
                PatientIdentityRemoved="YES" if site == "alpha" else None,
            )
            (folder / site / f"{n}.dcm").write_bytes(data)


def _claims(folder: Path) -> None:
    folder.mkdir()
    for member in range(30):
        lines = [
            json.dumps({"resourceType": "ExplanationOfBenefit", "id": f"{member}-{n}"})
            for n in range(member % 7 + 1)
        ]
        (folder / f"{member:02}.ndjson").write_text("\n".join(lines) + "\n")


def _recordings(folder: Path) -> None:
    folder.mkdir()
    for n, frames in enumerate((60, 45, 80)):
        hdf5(folder / f"s{n + 1}.h5", frames=frames, seed=n, start=MARCH + n * 86_400_000.0)
