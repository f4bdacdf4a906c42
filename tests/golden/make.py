"""Makes a golden workspace with the version of Catchment that is on the path: an archive of it.

``PYTHONPATH=<src of that version> python tests/golden/make.py OUT.tar.xz``. It uses only what each
version has had: the command line, and the makers of samples. What comes later is left out.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

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


def main(target: str) -> None:
    """Make it, run it, pack it."""
    from catchment.cli.main import run
    from catchment.testing.centers import make_centers

    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    os.chdir(PLACE)
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
        if code := run(["run", "tables/main", "-q"]):
            sys.exit(code)
    if code := run(["exports", "run", "claims", "-q"]):
        sys.exit(code)
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(PLACE.rglob("*")):
            info = archive.gettarinfo(path, path.relative_to(PLACE).as_posix())
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            archive.addfile(info, io.BytesIO(path.read_bytes()) if path.is_file() else None)
    shutil.rmtree(PLACE)


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
    main(sys.argv[1])
