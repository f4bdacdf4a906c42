"""Tables and studies that earlier versions composed: later runs go on from them, as if from none.

What such a version kept beside its snapshots (compositions, keys, parts, merges) has other formats
than today's: engines 1 to 3 of tables, formats 1 to 3 of studies, in the order of the archives.
"""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from catchment.core.workspace import Workspace
from catchment.studies import check, library, merge
from catchment.studies.charts.filters import parse
from catchment.studies.charts.query import Chartable
from catchment.tables.placed import ENGINE
from catchment.web.cells import written
from tests.golden.make import submit, unpacked

ARCHIVES = sorted(Path(__file__).parent.glob("merged-*.tar.xz"))
VIEWS = ("aggregates", "csv_aggregates", "last_valid")


def kept(folder):
    """The formats of what a workspace keeps for later runs: of tables, of studies."""
    tables = {
        int(re.search(rb"1, (\d+), pyarrow", path.read_bytes())[1])
        for path in folder.rglob("_composition.arrow")
    }
    merges = [*folder.rglob("merges/**/*.json"), *folder.rglob("parts/**/*.json")]
    studies = {
        int(found[1])
        for path in merges
        if (found := re.search(rb'"format": ?(\d+)', path.read_bytes()))
    }
    return tables, studies


def table(folder):
    """The latest rows, without the day they were made on, and where each row comes from."""
    with Workspace.open(folder) as workspace:
        snapshot = workspace.ledger.latest("tables/main")
        (item,) = [o for o in snapshot.provenance["objects"] if o["role"] == "table"]
        read = pq.read_table(io.BytesIO(workspace.store.read(item["key"])))
        balances = snapshot.provenance["catchment"]["account"]
        return read.drop_columns(["etl_date"]).to_pylist(), balances


def digests(folder):
    """Of the objects of the latest snapshot of tables; a composition tells where its inputs lay."""
    with Workspace.open(folder) as workspace:
        objects = workspace.ledger.latest("tables/main").provenance["objects"]
        found = {(item["table"], item["role"]): item["digest"] for item in objects}
        del found["uds", "composition"]
        return found


def views(folder):
    """What people find of a study."""
    return {
        path.relative_to(folder): path.read_bytes()
        for name in VIEWS
        for path in (folder / "data" / name).rglob("*")
        if path.is_file()
    }


def shown(folder):
    """What is released: as a chart of sexes, and as CSV with its marks."""
    with Workspace.open(folder) as workspace:
        (one,) = library.packages(workspace)
        path = workspace.store.path(one.released.key)
        charted = Chartable(path, one.marked).chart("sex", None, parse([]), sites=len(one.sites))
        return charted, list("".join(written(workspace, one, "csv", marks=True)).splitlines())


def next_inputs(folder):
    """A center's newer version, and a site's upload that replaces its former one."""
    shutil.copytree(
        folder / "later/center01", folder / "sites/datasets/center01", dirs_exist_ok=True
    )
    shutil.copy(folder / "later/4-denver.parquet", folder / "sent")


def clean(folder, target, call):
    """The same inputs in a workspace that begins today."""
    for name in ("sites", "sent", "catchment.toml"):
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copy
        (target).mkdir(exist_ok=True)
        copy(folder / name, target / name)
    for sent in sorted((target / "sent").iterdir()):
        with Workspace.open(target) as workspace:
            submit(workspace, sent.stem.partition("-")[2], sent)
    call(target, "run")
    return target


def test_there_is_one_of_every_format():
    """Who raises one of these numbers makes a workspace of the version before."""
    now = int(ENGINE.partition(",")[0]), check.FORMAT, merge.FORMAT
    assert [archive.name[:8] for archive in ARCHIVES] == ["merged-1", "merged-2", "merged-3"]
    assert now == (4, 3, 3)
    assert max(archive.stat().st_size for archive in ARCHIVES) < 64 << 10


@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_was_composed_before_is_gone_on_from(number, tmp_path, call):
    folder = unpacked(ARCHIVES[number - 1], tmp_path / "w")
    assert kept(folder) == ({number}, {number})
    before = {path: path.read_bytes() for path in (folder / "data").rglob("*") if path.is_file()}
    rows, released = table(folder), shown(folder)
    assert all(wrong == [] for wrong in call(folder, "verify").values())
    outcomes = {one["aggregate"]: one for one in call(folder, "run")}
    assert outcomes["studies/core"]["state"] == "unchanged"
    assert table(folder) == rows
    assert shown(folder) == released
    next_inputs(folder)
    with Workspace.open(folder) as workspace:
        submit(workspace, "denver", folder / "sent/4-denver.parquet")
    call(folder, "run")
    fresh = clean(folder, tmp_path / "fresh", call)
    assert digests(folder) == digests(fresh)
    assert table(folder) == table(fresh) != rows
    assert shown(folder) == shown(fresh) != released
    assert views(folder) == views(fresh)
    for path, data in before.items():  # what was published is as it was
        if path.relative_to(folder / "data").parts[0] not in VIEWS:
            assert path.read_bytes() == data, path
    assert all(wrong == [] for wrong in call(folder, "verify").values())
    assert all(check["well"] for check in call(folder, "doctor")["checks"])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_cells_are_hidden_as_before_and_cubes_checked_again(number, tmp_path, call):
    """Of the first format nothing was hidden: it is, once that is asked for."""
    folder = unpacked(ARCHIVES[number - 1], tmp_path / "w")
    settings = folder / "catchment.toml"
    settings.write_text(settings.read_text().replace("min_cell = 0\n", ""))
    call(folder, "run")
    call(folder, "studies", "reprocess", "core")
    fresh = clean(folder, tmp_path / "fresh", call)
    assert views(folder) == views(fresh)
    charted, lines = shown(folder)
    assert shown(fresh) == (charted, lines)
    assert lines[0].endswith("suppressed,sites_reported,sites_suppressed,sites_absent")
    assert any(line.startswith(",") for line in lines)  # a cell that is not told
    assert all(wrong == [] for wrong in call(folder, "verify").values())
