"""Forty sample centers become one snapshot, on embedded defaults: a folder, SQLite, DuckDB.

Prints each command that it runs, so that you can go on from there by hand. Run it again: nothing
changed, so nothing is made again.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from catchment.cli.main import main
from catchment.testing.centers import make_centers

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


def demo() -> int:
    """Make the sites once, then run and verify."""
    settings = FOLDER / "catchment.toml"
    if not settings.exists():
        print(f"Making forty sample centers in {FOLDER / 'sites'} ...", flush=True)
        make_centers(
            FOLDER / "sites", centers=40, columns=60, rows=(200, 1000), tables=("uds", "mds")
        )
        settings.write_text(SETTINGS)
    where = ("--workspace", str(FOLDER))
    worst = max(catchment(*where, "tables", "run"), catchment(*where, "tables", "verify"))
    print(f"\nNext, center by center: catchment --workspace {FOLDER} tables show")
    return worst


if __name__ == "__main__":
    sys.exit(demo())
