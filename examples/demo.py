"""One workspace with all five kinds of data, on embedded defaults: a folder, SQLite, DuckDB.

Forty sample centers become one snapshot; one of them sends a newer version, and a second snapshot
follows. Three sites upload a study; one of them sends a file that is refused, and is told why.
DICOM files of two providers become tables that join, and pictures; claims become NDJSON files, and
recordings a Zarr store. Then, without a workspace: the claims of 200 members, of whom one always
fails, come from a small FHIR server; and three sessions, each sent twice, are appended to a store.
Prints each command that it runs, so that you can go on from there by hand. Run it again: no table
changed, so none is made again; an export is a new job.
"""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile

import duckdb
import pyarrow as pa
import pydicom

from catchment.cli.main import main
from catchment.testing.centers import change_center, make_centers
from catchment.testing.fhir import FhirServer
from catchment.testing.studies import make_uploads, parquet

FOLDER = Path("demo")
SHARED = Path(__file__).parents[2] / "shared" / "data"  # sample data, where it is
SAMPLE = SHARED / "studies" / "count_synthea_patient.parquet"
WHERE = ("--workspace", str(FOLDER))
SETTINGS = """\
[workspace]
name = "demo"
store = "./data"

[tables.nacc]
centers = "./sites/centers.json"
datasets = "./sites/datasets/{center}"
identifiers = "./sites/identifiers.csv"
most_drift = 0.1  # the sample sites differ in some columns

# The sample sites are small; a count below 5 is not released, where it is 11 otherwise.
[studies.core]
min_cell = 5

# Stewards may look at rows in the pages.
[serve]
preview_rows = 5

[subscriptions]
warehouse = "warehouse.duckdb"
"""


def catchment(*arguments: str) -> int:
    """Run one command of the program, and show it as one would type it."""
    print(f"\n$ catchment {shlex.join(arguments)}", flush=True)
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def claims(member: int) -> list[bytes]:
    """Lines of one member, as a server keeps them."""
    return [
        b'{"resourceType":"ExplanationOfBenefit","id":"%d-%d","note":"%s"}'
        % (member, number, b"x" * (member * number % 900))
        for number in range(member % 20)
    ]


def export() -> int:
    """A small export job, from a server of its own."""
    members = FOLDER / "members.txt"
    members.write_text("\n".join(map(str, range(200))))
    where = ("--output", str(FOLDER / "exports"))
    with FhirServer({str(member): claims(member) for member in range(200)}, page=15) as server:
        server.broken["13"] = (404, {}, b"")
        what = ("--contract", "Z9000", "--fhir", server.url, "--members", str(members))
        worst = catchment("exports", "run", *where, *what, "--max-bytes", "400000")
    return max(worst, catchment("exports", "verify", *where))


def study() -> int:
    """Three sites upload, as the site API would put it; the last one sends text for counts, too."""
    arrived = FOLDER / "data" / "upload_staging" / "core"
    uploads = make_uploads(FOLDER / "uploads", ["boston", "denver", "seattle"])
    for site, path in uploads.items():
        (arrived / site / "000").mkdir(parents=True, exist_ok=True)
        path.rename(arrived / site / "000" / path.name)
        if SAMPLE.exists():  # a cube as the public system makes it
            copyfile(SAMPLE, arrived / site / "000" / "core__count_synthea.cube.parquet")
    text = pa.table({"cnt": ["many"], "gender": ["female"]})
    (arrived / "seattle" / "000" / "core__count_text.cube.parquet").write_bytes(parquet(text))
    worst = catchment(*WHERE, "studies", "process")
    return max(worst, catchment(*WHERE, "studies", "list"))


def arrays() -> int:
    """Three sessions, each sent twice, in one Zarr store."""
    try:
        from catchment.testing.arrays import make_session
    except ImportError:
        print("\nArrays are left out: pip install 'catchment[arrays]'")
        return 0
    store, worst = str(FOLDER / "sessions.zarr"), 0
    for name, windows in (("s1", 80), ("s2", 60), ("s3", 95)):
        file = FOLDER / f"{name}.nc"
        make_session(name, windows=windows, channels=8, samples=105).to_netcdf(file)
        for _ in range(2):
            worst = max(worst, catchment("arrays", "append", str(file), store))
    return max(worst, catchment("arrays", "list", store), catchment("arrays", "verify", store))


JOIN = """
SELECT p.site, s."Modality", count(*) AS images, count(DISTINCT p.patient_key) AS patients,
       count(DISTINCT d.device_key) AS devices
FROM images i
JOIN series s USING ("SeriesInstanceUID")
JOIN studies t ON t."StudyInstanceUID" = s."StudyInstanceUID"
JOIN patients p ON p.patient_key = t.patient_key
LEFT JOIN devices d ON d.device_key = s.device_key
GROUP BY ALL ORDER BY ALL
"""


def imaging() -> int:
    """DICOM of two providers: the account, a join over all five tables, a sheet of pictures."""
    warehouse = FOLDER / "imaging.duckdb"
    worst = catchment(*WHERE, "imaging", "run", "--warehouse", str(warehouse))
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        print("\nA join over all five tables, in DuckDB:")
        print(connection.sql(JOIN))
        richest = 'SELECT "SeriesInstanceUID" FROM processed_images GROUP BY ALL ORDER BY '
        picked = connection.execute(richest + "count(DISTINCT object) DESC, 1 LIMIT 1")
        (series,) = picked.fetchone() or ("",)
    sheet = ("--series", series, "--png", str(FOLDER / "series.png"))
    return max(worst, catchment(*WHERE, "imaging", "show", *sheet))


def scans() -> list[Path]:
    """The folders of two providers of DICOM."""
    shared = SHARED / "imaging"
    folders = [shared / "kaiko-ai_spark-dicom", shared / "neurolabusc_dcm_qa_uih"]
    if all(folder.is_dir() for folder in folders):
        return folders
    own = Path(pydicom.__file__).parent / "data"
    return [own / "test_files", own / "charset_files"]


def others() -> str:
    """Settings of what else the workspace has: records, images, recordings; makes the first."""
    records = FOLDER / "records"
    records.mkdir()
    for member in range(40):
        (records / f"{member:03}.ndjson").write_bytes(b"\n".join(claims(member)))
    first, second = scans()
    text = f"""
[exports.records]
contract = "Z9000"
files = "./records"
max_bytes = 400000

[imaging.scans]
key = "a secret of the demo"
previews = "middle"

[imaging.scans.providers]
a = "{first}"
b = "{second}"
"""
    try:
        from catchment.testing.workspaces import make_recordings

        (FOLDER / "recordings").mkdir()
        make_recordings(FOLDER / "recordings" / "lab", 3, 20)
    except ImportError:
        return text
    return f'{text}\n[arrays.recordings]\nrecordings = "./recordings"\n'


def tables() -> int:
    """Two snapshots: of what the centers have, and with a newer version of one of them."""
    settings, made = FOLDER / "catchment.toml", None
    if not settings.exists():
        print(f"Making forty sample centers in {FOLDER / 'sites'} ...", flush=True)
        made = make_centers(
            FOLDER / "sites", centers=40, columns=60, rows=(200, 1000), tables=("uds", "mds")
        )
        settings.write_text(SETTINGS + others())
    worst = max(catchment(*WHERE, "tables", "run"), catchment(*WHERE, "tables", "verify"))
    if made is not None:
        print(f"\n{made.ids[0]} sends version {change_center(made, made.ids[0])}.", flush=True)
        worst = max(worst, catchment(*WHERE, "tables", "run"))
    return worst


def workspace() -> int:
    """Bring the workspace up to date and verify it; the sites are made once."""
    worst = max(tables(), study(), imaging(), catchment(*WHERE, "run", "exports/records"))
    if "[arrays." in (FOLDER / "catchment.toml").read_text():
        worst = max(worst, catchment(*WHERE, "run", "arrays/recordings"))
    return worst


def demo() -> int:
    """The workspace, and what needs none."""
    worst = max(workspace(), export(), arrays(), catchment(*WHERE, "status"))
    print(f"\nNext, in a browser: catchment --workspace {FOLDER} serve")
    print(f"Center by center: catchment --workspace {FOLDER} tables show")
    first = "" if find_spec("dagster") else "tools/bootstrap dev, then "
    print(f"All of it, under Dagster: {first}catchment --workspace {FOLDER} flows run nightly")
    return worst


if __name__ == "__main__":
    sys.exit(demo())
