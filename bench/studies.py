"""Merges of data packages beside the first system's: ``python -m bench.studies [--scale 0.1]``.

``--only merges`` (or ``release``, ``uploads``, ``charts``) measures a part, and puts its lines in
the place of the recorded ones.

Ours goes all the way: from files that have arrived to a published aggregate, checked, durable, as
Parquet and CSV. The original's merge is re-stated in pandas, from local files to local files; it
does the same work whether all sites are new or one of them.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from bench import studies_charts, studies_uploads
from bench._common import RESULTS, Measured, Row, measure, report, scratch, timed
from bench.studies_peers import arrow, original
from catchment.core.workspace import Workspace
from catchment.studies import layout, library, process
from catchment.studies.house import House
from catchment.studies.model import Staged
from catchment.studies.run import settle
from catchment.testing.studies import parquet, wide_cube

SITES = 16
ROWS = 200_000
STUDY, PACKAGE = "bench", "count_wide"
FILE = f"{STUDY}__{PACKAGE}.cube.parquet"
MOST_MB = 1000


def workspace(folder: Path, min_cell: int = 0, round_to: int = 0) -> Workspace:
    """One on embedded defaults, but for what is released."""
    return Workspace.described(
        {
            "workspace.store": (folder / "data").as_uri(),
            "workspace.ledger": f"sqlite:///{folder}/ledger.db",
            f"studies.{STUDY}.min_cell": min_cell,
            f"studies.{STUDY}.round_to": round_to,
            "studies.warm.min_cell": 0,
        }
    )


def site(number: int) -> str:
    """The name of a site."""
    return f"site{number:02}"


def prepare(folder: Path, rows: int) -> None:
    """Contributions of all sites, and a second one of the first site."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "contributions").mkdir(parents=True)
    (folder / "out").mkdir()
    for number in range(SITES):
        path = folder / "contributions" / f"{site(number)}.parquet"
        pq.write_table(wide_cube(number, rows), path)
    pq.write_table(wide_cube(1000, rows), folder / "second.parquet")


def arrive(house: House, path: Path, name: str, transaction: str) -> None:
    """Put a file where uploads arrive, and take it in."""
    key = layout.staging(STUDY, name, 0, FILE)
    house.store.put(key, path.read_bytes())
    process.take_in(house, Staged(name, STUDY, 0, FILE, "u", transaction, key))


def fresh(folder: Path) -> None:
    """A workspace in which all have arrived, and nothing was looked at."""
    shutil.rmtree(folder / "workspace", ignore_errors=True)
    with workspace(folder / "workspace") as made:
        house = library.house(made)
        for path in sorted((folder / "contributions").iterdir()):
            arrive(house, path, path.stem, f"first-{path.stem}")


def first(folder: Path) -> None:
    """Check and merge all that waits."""
    with workspace(folder / "workspace") as made:
        house = library.house(made)
        warm(house)
        with timed():
            settle(house, STUDY)


def second(folder: Path) -> None:
    """The first site uploads again."""
    with workspace(folder / "workspace") as made:
        house = library.house(made)
        warm(house)
        arrive(house, folder / "second.parquet", site(0), "second")
        with timed():
            settle(house, STUDY)


def warm(house: House) -> None:
    """Start the workers, which a service has running: small cubes of another study."""
    for number in range(4):
        key = layout.staging("warm", site(number), 0, "warm__small.cube.parquet")
        house.store.put(key, parquet(wide_cube(number, 100)))
        staged = Staged(site(number), "warm", 0, "warm__small.cube.parquet", "u", f"w{number}", key)
        process.take_in(house, staged)
    settle(house, "warm")


def before_second(folder: Path) -> None:
    """All sites are merged."""
    fresh(folder)
    with workspace(folder / "workspace") as made:
        settle(library.house(made), STUDY)


def suppressed(folder: Path, round_to: int = 0) -> None:
    """What is merged is released anew, with small cells suppressed, and rounded if it is said."""
    with workspace(folder / "workspace", 11, round_to) as made:
        house = library.house(made)
        warm(house)
        with timed():
            settle(house, STUDY)


PARTS = ("merges", "release", "uploads", "charts")


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1, help="of the numbers of rows")
    parser.add_argument("--ours", action="store_true", help="leave the original out")
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts")
    options = parser.parse_args()
    parts = options.only or PARTS
    rows = int(ROWS * options.scale)
    lines: list[Row] = []
    bounds: list[str] = []
    if {"merges", "release"} & {*parts}:
        folder = scratch("studies")
        prepare(folder, rows)
        if "merges" in parts:
            made, told = merges(folder, rows, ours_only=options.ours)
            lines, bounds = lines + made, bounds + told
        if "release" in parts:
            for base, more in ((0, ""), (11, ", rounded to 11")):
                taken = measure(suppressed, folder, base, before=lambda: before_second(folder))
                lines.append(Row(f"the same released with min_cell = 11{more}", taken, {}))
                bounds.append(_bound(f"release with min_cell = 11{more}", taken))
        shutil.rmtree(folder)
    if "uploads" in parts:
        lines.append(studies_uploads.row())
    if "charts" in parts:
        made, told = studies_charts.rows(int(studies_charts.ROWS * options.scale))
        lines, bounds = lines + made, bounds + told
    recorded = options.scale == 1 and not options.ours
    report("studies", lines, RESULTS if recorded else None, keep=bool(options.only))
    print("\n".join(bounds))


def merges(folder: Path, rows: int, *, ours_only: bool) -> tuple[list[Row], list[str]]:
    """The first merge and a second one, beside the first system's."""
    peers: dict[str, Measured | None] = {}
    if not ours_only:
        for name, way in {"original": original, "pandas 3": arrow}.items():
            peers[name] = measure(way, folder / "contributions", folder / "out")
    ours = {
        "first": measure(first, folder, runs=3, before=lambda: fresh(folder)),
        "second": measure(second, folder, runs=3, before=lambda: before_second(folder)),
    }
    titles = {
        "first": f"first merge, {SITES} sites x {rows:,} rows x 6 columns",
        "second": "one site uploads again",
    }
    lines = [Row(titles[name], taken, peers) for name, taken in ours.items()]
    bounds = []
    for name, least in {"first": 8, "second": 30}.items():
        bounds.append(_bound(titles[name], ours[name]))
        if taken := peers.get("original"):
            ratio = taken.seconds / ours[name].seconds
            bounds.append(
                f"  {_told(f'{ratio:.1f}x the original, at least {least}', ratio >= least)}"
            )
    return lines, bounds


def _bound(title: str, taken: Measured) -> str:
    peak = taken.peak_mb
    return f"{title}\n  {_told(f'{peak:.0f} MB, at most {MOST_MB}', peak <= MOST_MB)}"


def _told(what: str, reached: bool) -> str:  # noqa: FBT001 - a truth in words
    return f"{what}: {'reached' if reached else 'MISSED'}"


if __name__ == "__main__":
    main()
