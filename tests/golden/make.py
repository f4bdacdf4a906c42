"""Makes a golden workspace with the version of Catchment that is on the path: an archive of it.

``PYTHONPATH=<src of that version> python tests/golden/make.py OUT.tar.xz [arrays|imaging|merged]``. It
uses only what each version has had: the command line, and the makers of samples. What comes later
is left out.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PLACE = Path(tempfile.gettempdir()) / "catchment-golden"  # where the workspace thinks it is
SETTINGS = """
[workspace]
store = "data"

[executor]
kind = "threads"

[tables.main]
centers = "sites/centers.json"
datasets = "sites/datasets/{center}"
identifiers = "sites/identifiers.csv"
freeze_date = "20261121"

[exports.claims]
contract = "Z1"
files = "claims"
"""
STUDIES = "\n[studies.core]\nmin_cell = 0\n"
MERGED = """
[workspace]
store = "data"

[executor]
kind = "threads"

[tables.main]
centers = "sites/centers.json"
datasets = "sites/datasets/{center}"
identifiers = "sites/identifiers.csv"
freeze_date = "20261121"

[studies.core]
"""
CUBE = "core__count_sex.cube.parquet"
ARRAYS = """
[workspace]
store = "data"

[executor]
kind = "threads"

[arrays.windows]
recordings = "recordings"
"""
IMAGING = """
[workspace]
store = "data"

[executor]
kind = "threads"

[imaging.ct]
key = "golden"
previews = "first"

[imaging.ct.providers]
alpha = "sites/alpha"
beta = "sites/beta"
"""


def main(target: str, kind: str = "ledger") -> None:
    """Make it, run it, pack it."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    os.chdir(PLACE)
    {"ledger": tables, "arrays": arrays, "imaging": imaging, "merged": merged}[kind]()
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(PLACE.rglob("*")):
            if ".catchment/tmp" in path.as_posix():
                continue
            info = archive.gettarinfo(path, path.relative_to(PLACE).as_posix())
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            archive.addfile(info, io.BytesIO(path.read_bytes()) if path.is_file() else None)
    shutil.rmtree(PLACE)


def unpacked(archive: Path, folder: Path) -> Path:
    """A golden workspace, somewhere else than where it was made."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


def called(*words: str) -> None:
    """A command that must succeed."""
    from catchment.cli.main import run

    if code := run([*words, "-q"]):
        sys.exit(code)


def arrays() -> None:
    """Recordings in a common store; by hand a session that was replaced, and one withdrawn.

    Where the version can do it, that store has other chunks than it was made with, and another one
    grows by positions.
    """
    import catchment.arrays
    from catchment.testing.arrays import make_session

    (PLACE / "catchment.toml").write_text(ARRAYS)
    (PLACE / "recordings").mkdir()
    for number in range(3):
        recording(PLACE / "recordings" / f"r{number}.h5", number)
    for _ in range(2):  # the second run changes nothing
        called("arrays", "transform", "windows")
    own = PLACE / "own.zarr"
    for name, seed in (("a", 0), ("b", 0), ("c", 0), ("a", 1)):
        dataset = make_session(name, seed=seed, windows=12, samples=4)
        catchment.arrays.append(dataset, str(own), on_conflict="replace")
    called("arrays", "withdraw", str(own), "b")
    if not hasattr(catchment.arrays, "rechunk"):
        return
    catchment.arrays.rechunk(str(own), {"time": 5})
    for name in ("a", "b"):
        dataset = make_session(name, windows=12, samples=4)[["fnirs"]].drop_vars("time")
        catchment.arrays.append(
            dataset, str(PLACE / "along.zarr"), append_dim="time", chunks={"time": 8}
        )


def recording(path: Path, seed: int) -> None:
    """A recording in the first system's layout: numbers without chance, so that they pack well."""
    import h5py
    import numpy as np

    clock = 1_772_352_000_000.0 + np.arange(60) * 70.0
    wave = np.round(20 * np.sin(np.arange(60 * 2 * 15) / (5 + seed)), 1)
    with h5py.File(path, "w") as file:
        device = file.create_group("devices/eeg")
        device["frames_data"] = wave.reshape(60, 2, 15)
        device["timestamps"] = np.stack([clock * 0, clock, clock * 0], axis=1)
        device = file.create_group("devices/fnirs")
        device["frames_data"] = np.arange(20 * 2).reshape(20, 2, 1) + 1.0
        clock = clock[::3]
        device["timestamps"] = np.stack([clock * 0, clock, clock * 0], axis=1)


def imaging() -> None:
    """Two providers: images, a duplicate, a conflict that a person decided, one open, junk."""
    from catchment.testing.dicom import make_file

    (PLACE / "catchment.toml").write_text(IMAGING)
    first = make_file("1.2.3.1.1.1")
    files = {
        "alpha/1": first,
        "alpha/2": make_file("1.2.3.1.1.2"),
        "alpha/3": first,
        "alpha/4": make_file("1.2.3.1.1.4"),
        "beta/1": make_file("1.2.3.1.1.2", SeriesDescription="other"),
        "beta/2": first[:-50],
        "beta/4": make_file("1.2.3.1.1.4", SeriesDescription="the right one"),
    }
    for name, data in files.items():
        path = PLACE / "sites" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for _ in range(2):  # the second run changes nothing
        called("imaging", "run")
    right = hashlib.sha256(files["beta/4"]).hexdigest()
    called("imaging", "resolve", "1.2.3.1.1.4", "--keep", right)


def tables() -> None:
    """Tables, exports, and studies where the version has them."""
    from catchment.testing.centers import make_centers

    make_centers(PLACE / "sites", centers=3, columns=5, rows=(6, 9), drift_columns=1, broken=0)
    (PLACE / "claims").mkdir()
    for member in range(3):
        lines = b"".join(
            b'{"resourceType":"ExplanationOfBenefit","id":"%d-%d"}\n' % (member, n)
            for n in range(4)
        )
        (PLACE / "claims" / f"m{member}.ndjson.gz").write_bytes(gzip.compress(lines, mtime=0))
    studies = _has_studies()
    (PLACE / "catchment.toml").write_text(SETTINGS + (STUDIES if studies else ""))
    if studies:
        _upload()
    for _ in range(2):  # the second run changes nothing
        called("run", "tables/main")
    called("exports", "run", "claims")


def merged() -> None:
    """What a later run composes of what was composed before: tables, and a study that hides cells.

    People moved, so rows are dropped; a center and a site have sent twice. What comes next lies in
    ``later/``, as this version makes it.
    """
    from catchment.core.workspace import Workspace
    from catchment.testing.centers import change_center, make_centers

    hides = find_spec("catchment.studies.disclosure") is not None
    (PLACE / "catchment.toml").write_text(MERGED + ("" if hides else "min_cell = 0\n"))
    made = make_centers(
        PLACE / "sites", centers=4, columns=8, rows=(20, 30), transfers=0.15, drift_columns=2,
        broken=0,
    )  # fmt: skip
    called("run", "tables/main")
    change_center(made, made.ids[0])
    called("run", "tables/main")
    version = change_center(made, made.ids[1])
    place = Path(made.ids[1], "versions", version)
    (PLACE / "later" / place).parent.mkdir(parents=True)
    shutil.move(PLACE / "sites" / "datasets" / place, PLACE / "later" / place)
    for number, site in enumerate(("boston", "denver", "seattle", "boston")):
        sent = PLACE / "sent" / f"{number}-{site}.parquet"
        sent.parent.mkdir(exist_ok=True)
        sent.write_bytes(cube(number))
        with Workspace.open(PLACE) as workspace:
            submit(workspace, site, sent)
    (PLACE / "later" / "4-denver.parquet").write_bytes(cube(4))


def cube(seed: int) -> bytes:
    """Counts of people by sex and age, their sums included; some are small."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[tuple[str | None, str | None], int] = {}
    for n, sex in enumerate(("female", "male")):
        for k, age in enumerate(("0-17", "18-64", "65+")):
            count = 2 + (7 * n + 11 * k + 5 * seed) % 40
            for place in ((None, None), (sex, None), (None, age), (sex, age)):
                rows[place] = rows.get(place, 0) + count
    sink = io.BytesIO()
    counts = pa.array(rows.values(), pa.int64())
    sex, age = (pa.array([place[n] for place in rows], pa.string()) for n in (0, 1))
    pq.write_table(pa.table({"cnt": counts, "sex": sex, "age": age}), sink)
    return sink.getvalue()


def submit(workspace: Any, site: str, sent: Path) -> None:
    """A site's upload, once more the same way as every version has had it."""
    from catchment.studies import library

    key = f"upload_staging/core/{site}/000/{CUBE}"
    workspace.store.put(key, sent.read_bytes())
    library.submit(workspace, site, "core", 0, CUBE, key, "anna", f"tx-{sent.stem}")


def _has_studies() -> bool:
    try:
        from catchment.studies import library
    except ImportError:
        return False
    return hasattr(library, "submit")


def _upload() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from catchment.core.workspace import Workspace
    from catchment.studies import library

    with Workspace.open(PLACE) as workspace:
        for site, count in (("boston", 20), ("denver", 30)):
            sink = io.BytesIO()
            counts = pa.array([count, count], pa.int64())
            pq.write_table(pa.table({"cnt": counts, "sex": [None, "f"]}), sink)
            name = "core__count_sex.cube.parquet"
            key = f"upload_staging/core/{site}/000/{name}"
            workspace.store.put(key, sink.getvalue())
            library.submit(workspace, site, "core", 0, name, key, "anna", f"tx-{site}")


if __name__ == "__main__":
    main(*sys.argv[1:])
