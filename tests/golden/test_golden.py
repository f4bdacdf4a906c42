"""Workspaces that earlier versions made: they open, migrate, are verified, and go on."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from catchment.core.errors import Invalid
from catchment.core.ledger import migrate
from catchment.core.ledger import provenance as provenances
from catchment.core.workspace import Workspace
from tests.golden.make import unpacked

ARCHIVES = sorted(Path(__file__).parent.glob("ledger-*.tar.xz"))


def rows(workspace):
    """What the latest snapshot says, whichever version wrote its bytes, and on whatever day."""
    snapshot = workspace.ledger.latest("tables/main")
    (item,) = [one for one in snapshot.provenance["objects"] if one["role"] == "table"]
    table = pq.read_table(io.BytesIO(workspace.store.read(item["key"])))
    return table.drop_columns(["etl_date"]).to_pylist()


def version(folder):
    with sqlite3.connect(folder / ".catchment" / "ledger.db") as db:
        (found,) = db.execute("SELECT version_num FROM catchment_version").fetchone()
    db.close()
    return found


def test_there_is_one_of_every_version():
    """A migration comes with a workspace of the version before it: see tests/golden/make.py."""
    folder = Path(migrate.__file__).with_name("migrations") / "versions"
    known = sorted(path.name[1:5] for path in folder.glob("v[0-9]*.py"))
    assert [path.name[7:11] for path in ARCHIVES] == known
    assert known[-1] == migrate.HEAD
    assert max(path.stat().st_size for path in ARCHIVES) < 64 << 10


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name[:11])
def test_it_opens_migrates_and_goes_on(archive, tmp_path, call):
    folder = unpacked(archive, tmp_path / "w")
    assert version(folder) == archive.name[7:11]
    before = {path: path.read_bytes() for path in (folder / "data").rglob("*") if path.is_file()}
    entries = {entry["aggregate"]: entry for entry in call(folder, "status")}
    assert version(folder) == migrate.HEAD
    assert entries["tables/main"]["snapshot"]["number"] == 1
    assert all(wrong == [] for wrong in call(folder, "verify").values())
    with Workspace.open(folder) as workspace:
        tables = rows(workspace)
    outcomes = {one["aggregate"]: one for one in call(folder, "run")}
    assert outcomes["tables/main"]["state"] in {"unchanged", "published"}
    with Workspace.open(folder) as workspace:
        assert rows(workspace) == tables
        snapshot = workspace.ledger.snapshot("tables/main", 1)
        assert provenances.read(snapshot.provenance).snapshot.number == 1
    for path, data in before.items():  # what was published is as it was
        if "views" not in path.parts:
            assert path.read_bytes() == data, path
    assert all(wrong == [] for wrong in call(folder, "verify").values())
    assert all(check["well"] for check in call(folder, "doctor")["checks"])


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name[:11])
def test_its_lost_ledger_is_told_by_its_store(archive, tmp_path, call):
    folder = unpacked(archive, tmp_path / "w")

    def numbers():
        told = call(folder, "status")
        return {e["aggregate"]: e["snapshot"]["number"] for e in told if e["snapshot"]}

    before = numbers()
    shutil.rmtree(folder / ".catchment")
    assert call(folder, "doctor", "--rebuild-ledger")["restored"] == sum(before.values())
    assert numbers() == before


def test_a_ledger_of_a_later_version_is_refused(tmp_path, capsys):
    from catchment.cli.main import run

    folder = unpacked(ARCHIVES[-1], tmp_path / "w")
    with sqlite3.connect(folder / ".catchment" / "ledger.db") as db:
        db.execute("UPDATE catchment_version SET version_num = '9999'")
    db.close()
    ledger = (folder / ".catchment" / "ledger.db").read_bytes()
    for command, code in (("status", 2), ("run", 2), ("gc", 2), ("verify", 2), ("doctor", 2)):
        assert run([command, "-w", str(folder), "--json"]) == code
        told = capsys.readouterr().out
        assert f"expected a ledger of version {migrate.HEAD} or older, got version 9999" in told
        assert "pip install --upgrade catchment" in told
    assert (folder / ".catchment" / "ledger.db").read_bytes() == ledger


def test_a_provenance_of_a_later_format_is_refused(tmp_path):
    folder = unpacked(ARCHIVES[-1], tmp_path / "w")
    for path in (folder / "data").rglob("provenance.json"):
        told = json.loads(path.read_text("utf-8"))
        if "catchment" in told:
            told["catchment"]["format"] = provenances.FORMAT + 1
            path.write_text(json.dumps(told))
    shutil.rmtree(folder / ".catchment")
    with Workspace.open(folder) as workspace, pytest.raises(Invalid) as refused:
        workspace.ledger_to_read()
    assert refused.value.kind == "provenance-newer"
    assert "pip install --upgrade catchment" in refused.value.hint


def test_a_store_of_sessions_of_a_later_format_is_refused():
    from catchment.arrays.document import FORMAT, SECTION, Document

    root = {"attributes": {SECTION: {"format": FORMAT + 1}}}
    with pytest.raises(Invalid) as refused:
        Document.parse(json.dumps(root).encode())
    assert refused.value.kind == "store-newer"
    assert refused.value.hint == "pip install --upgrade catchment"
