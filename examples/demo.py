"""Forty sample centers become one snapshot, on embedded defaults: a folder, SQLite, DuckDB.

Then the claims of 200 members, of whom one always fails, come from a small FHIR server as NDJSON
files of at most 400 kB. Prints each command that it runs, so that you can go on from there by
hand. Run it again: no table changed, so none is made again; an export is a new job.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from catchment.cli.main import main
from catchment.testing.centers import make_centers
from catchment.testing.fhir import FhirServer

FOLDER = Path("demo")
SETTINGS = """\
[workspace]
store = "./data"

[tables.nacc]
centers = "./sites/centers.json"
datasets = "./sites/datasets/{center}"
identifiers = "./sites/identifiers.csv"
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


def demo() -> int:
    """Make the sites once, then run and verify; and an export."""
    settings = FOLDER / "catchment.toml"
    if not settings.exists():
        print(f"Making forty sample centers in {FOLDER / 'sites'} ...", flush=True)
        make_centers(
            FOLDER / "sites", centers=40, columns=60, rows=(200, 1000), tables=("uds", "mds")
        )
        settings.write_text(SETTINGS)
    where = ("--workspace", str(FOLDER))
    worst = max(catchment(*where, "tables", "run"), catchment(*where, "tables", "verify"), export())
    print(f"\nNext, center by center: catchment --workspace {FOLDER} tables show")
    return worst


if __name__ == "__main__":
    sys.exit(demo())
