"""Loading tables into DuckDB: ``python -m bench.warehouse [--record]``.

40 centers of 600 columns and 500 rows each. What is timed is the load of a snapshot that is
published already: the first, one after a center sent something new, and the same a day later, when
``etl_date`` differs in every row. The peer, ``whole``, loads the table as one object, as it was
done before.
"""

from __future__ import annotations

import argparse
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench._common import RESULTS, Row, measure, report, scratch, timed

CENTERS, COLUMNS, ROWS = 40, 600, 500


def publish(folder: Path, day: int) -> None:
    """A snapshot of what the centers have, made on a day of November."""
    from dataclasses import replace

    from catchment.tables import capability
    from catchment.tables import run as runs

    with _opened(folder) as workspace:
        house = capability.house(workspace)
        clock = replace(house, clock=lambda: datetime(2026, 11, day, tzinfo=UTC))
        runs.run(capability.job(workspace, "main"), clock)


def load(folder: Path, file: Path, *, whole: bool = False) -> None:
    """Make a DuckDB file show the latest snapshot."""
    import duckdb  # noqa: F401 - imports are not what is measured
    import pyarrow.parquet  # noqa: F401 - the same

    from catchment.core import warehouse
    from catchment.core.warehouse.duck import DuckDBWarehouse
    from catchment.tables import composition, placed  # noqa: F401 - the same
    from catchment.tables.snapshot import open_snapshot

    with _opened(folder) as workspace:
        shown = open_snapshot(workspace.store, workspace.ledger, "main")
        if whole:
            vars(shown)["_compositions"] = {}
        with timed():
            warehouse.load(DuckDBWarehouse(file), shown.record.number, shown.relations)


def load_whole(folder: Path, file: Path) -> None:
    """The same with the table as one object."""
    load(folder, file, whole=True)


def _opened(folder: Path) -> Any:
    from catchment.core.workspace import Workspace

    settings = {
        "workspace.store": str(folder / "store"),
        "tables.main.centers": str(folder / "sites" / "centers.json"),
        "tables.main.datasets": f"{folder}/sites/datasets/{{center}}",
        "tables.main.identifiers": str(folder / "sites" / "identifiers.csv"),
    }
    return Workspace.described(settings)


def rows() -> list[Row]:
    from catchment.testing.centers import change_center, make_centers

    folder = scratch("warehouse")
    made = make_centers(
        folder / "sites", centers=CENTERS, columns=COLUMNS, rows=(ROWS, ROWS), broken=0
    )
    ours, peer = folder / "ours.duckdb", folder / "whole.duckdb"
    found: list[Row] = []
    for day, what in ((1, "first"), (1, "after one center changed"), (2, "the same, next day")):
        if found:
            change_center(made, made.ids[7])
        publish(folder, day)
        peers = {"whole": measure(load_whole, folder, peer)}
        title = f"{CENTERS} centers, {COLUMNS} columns, {what}"
        found.append(Row(title, measure(load, folder, ours), peers))
    shutil.rmtree(folder)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write bench/results/warehouse.json")
    report("warehouse", rows(), RESULTS if parser.parse_args().record else None)
