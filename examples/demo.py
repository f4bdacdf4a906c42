"""Forty sample centers become one snapshot, on embedded defaults: a folder, SQLite, DuckDB.

Three sites upload a study; one of them sends a file that is refused, and is told why. Then the
claims of 200 members, of whom one always fails, come from a small FHIR server as NDJSON files of
at most 400 kB; DICOM files of two providers become tables that join, and pictures; and three
recordings, each sent twice, are appended to one Zarr store. Prints each command that it runs, so
that you can go on from there by hand. Run it again: no table changed, so none is made again; an
export is a new job.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pydicom

from catchment.cli.main import main
from catchment.testing.centers import make_centers
from catchment.testing.fhir import FhirServer
from catchment.testing.studies import make_uploads, parquet

FOLDER = Path("demo")
SETTINGS = """\
[workspace]
store = "./data"

[tables.nacc]
centers = "./sites/centers.json"
datasets = "./sites/datasets/{center}"
identifiers = "./sites/identifiers.csv"
most_drift = 0.1  # the sample sites differ in some columns

# The sample sites are small, so every cell is released as it is.
[studies.core]
min_cell = 0
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
    text = pa.table({"cnt": ["many"], "gender": ["female"]})
    (arrived / "seattle" / "000" / "core__count_text.cube.parquet").write_bytes(parquet(text))
    where = ("--workspace", str(FOLDER))
    worst = catchment(*where, "studies", "process")
    return max(worst, catchment(*where, "studies", "list"))


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
    folders = scans()
    providers = [f"--provider={site}={path}" for site, path in zip("ab", folders, strict=True)]
    where = ("--output", str(FOLDER / "imaging"))
    warehouse = FOLDER / "imaging.duckdb"
    more = ("--warehouse", str(warehouse), "--previews", "middle")
    worst = catchment("imaging", "run", *providers, *where, *more)
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        print("\nA join over all five tables, in DuckDB:")
        print(connection.sql(JOIN))
        richest = 'SELECT "SeriesInstanceUID" FROM processed_images GROUP BY ALL ORDER BY '
        picked = connection.execute(richest + "count(DISTINCT object) DESC, 1 LIMIT 1")
        (series,) = picked.fetchone() or ("",)
    sheet = ("--series", series, "--png", str(FOLDER / "series.png"))
    return max(worst, catchment("imaging", "show", *where, *sheet))


def scans() -> list[Path]:
    """The folders of two providers of DICOM."""
    shared = Path(__file__).parents[2] / "shared" / "data" / "imaging"
    folders = [shared / "kaiko-ai_spark-dicom", shared / "neurolabusc_dcm_qa_uih"]
    if all(folder.is_dir() for folder in folders):
        return folders
    own = Path(pydicom.__file__).parent / "data"
    return [own / "test_files", own / "charset_files"]


def nightly() -> str:
    """What more `catchment flows run nightly` brings up to date: records, images, recordings."""
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

        make_recordings(FOLDER / "recordings", 3, 20)
    except ImportError:
        return text
    return f'{text}\n[arrays.recordings]\nrecordings = "./recordings"\n'


def demo() -> int:
    """Make the sites once, then run and verify; a study, an export, and images."""
    settings = FOLDER / "catchment.toml"
    if not settings.exists():
        print(f"Making forty sample centers in {FOLDER / 'sites'} ...", flush=True)
        make_centers(
            FOLDER / "sites", centers=40, columns=60, rows=(200, 1000), tables=("uds", "mds")
        )
        settings.write_text(SETTINGS + nightly())
    where = ("--workspace", str(FOLDER))
    worst = max(catchment(*where, "tables", "run"), catchment(*where, "tables", "verify"))
    worst = max(worst, study(), export(), imaging(), arrays())
    print(f"\nNext, center by center: catchment --workspace {FOLDER} tables show")
    print(f"All of it, under Dagster: catchment --workspace {FOLDER} flows run nightly")
    return worst


if __name__ == "__main__":
    sys.exit(demo())
