from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from types import ModuleType

import pytest

from catchment.cli.main import COMMANDS
from catchment.core.account import Account, Line
from catchment.core.capability import Outcome
from catchment.core.errors import Unavailable
from catchment.core.finding import Finding, Severity
from catchment.core.ledger import Ledger, Publication
from catchment.core.provenance import seal

SETTINGS = """
[tables.first]
centers = "centers.json"
datasets = "sites/{center}"
[tables.second]
centers = "centers.json"
datasets = "sites/{center}"
"""


def run(workspace, name, *, dry_run, progress):
    """Publish one snapshot; ``first`` cannot be reached."""
    if name == "first":
        raise Unavailable("the service is away", kind="away", hint="wait")
    aggregate = f"tables/{name}"
    account = Account()
    balance = account[Line("alpha", "uds", "rows")]
    balance.received, balance.kept = 5, 3
    balance.dropped["transferred"] = 2
    account[Line("alpha", "uds", "files")].received = 1
    account[Line("alpha", "uds", "files")].kept = 1
    finding = Finding("alpha", Severity.WARNING, "drift", "uds", "types differ", "mend")
    if dry_run:
        return Outcome(aggregate, "planned", None, None, account, (finding,))
    run = workspace.ledger.start_run(aggregate, {})
    place = f"{aggregate}/{len(workspace.ledger.snapshots(aggregate)) + 1}/"
    snapshot = workspace.ledger.publish(
        Publication(aggregate, run.id, place, {}, account, [finding], run=run.id)
    )
    seal(workspace.store, workspace.ledger, snapshot)
    skipped = {"skipped": {"beta": "not-found"}}
    return Outcome(aggregate, "published", 1, snapshot.location, account, (finding,), skipped)


def orphans(workspace, *, grace, dry_run=False):
    return (s.key for s in workspace.store.list("tables/") if s.key.endswith("orphan"))


@pytest.fixture
def workspace(catchment, monkeypatch, tmp_path):
    """A workspace of two aggregates, with a capability that is small and real."""
    (tmp_path / "catchment.toml").write_text(SETTINGS)
    module = ModuleType("catchment.tables.capability")
    module.run, module.orphans = run, orphans
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return tmp_path


def test_init_writes_a_workspace_that_can_be_opened(catchment, tmp_path):
    called = catchment("init", "new", "--json")
    written = ["new/catchment.toml", "new/centers.json"]
    assert called.json == {"dry_run": False, "written": written}
    assert catchment("-w", "new", "status", "--json").json[0]["aggregate"] == "tables/main"
    assert catchment("-w", "new", "doctor").code == 0
    text = (tmp_path / "new" / "catchment.toml").read_text()
    uncommented = "\n".join(
        line.removeprefix("# ") if "=" in line or line.startswith("# [") else line
        for line in text.splitlines()[4:]
    )
    (tmp_path / "new" / "catchment.toml").write_text(uncommented)
    assert tomllib.loads(uncommented)["s3"]
    assert catchment("-w", "new", "config").code == 0


def test_init_says_what_it_would_write(catchment, tmp_path):
    called = catchment("init", "new", "--dry-run")
    assert called.out.startswith("would write new/catchment.toml\n")
    assert not (tmp_path / "new").exists()


def test_init_does_not_overwrite(catchment, tmp_path):
    assert "  catchment run\n" in catchment("init").out
    assert "  catchment --workspace 'of mine' run\n" in catchment("init", "of mine").out
    (tmp_path / "catchment.toml").write_text("mine")
    called = catchment("init", "--json")
    assert (called.code, called.json["error"]["kind"]) == (4, "file-exists")
    assert (tmp_path / "catchment.toml").read_text() == "mine"


def test_config_shows_values_and_where_they_come_from(catchment, workspace, monkeypatch):
    monkeypatch.setenv("CATCHMENT_S3__SECRET_ACCESS_KEY", "hush")
    called = catchment("config", "--show")
    lines = {line.split()[0]: line.split()[1:] for line in called.out.splitlines()[2:]}
    assert lines["tables.first.mode"] == ["prod", "default"]
    assert lines["s3.secret_access_key"] == ["***", "environment"]
    assert "hush" not in called.out + catchment("config", "--json").out


def test_every_command_needs_a_workspace(catchment):
    for command in set(COMMANDS) - {"init", "upload", "backup", "restore", "crate"}:
        called = catchment(command, "--json")
        assert (called.code, called.json["error"]["kind"]) == (3, "no-workspace")


def test_run_goes_on_after_a_failure_and_says_so(catchment, workspace):
    called = catchment("run", "--json")
    first, second = called.json
    assert called.code == 5
    assert first == {
        "aggregate": "tables/first",
        "state": "failed",
        "error": {"kind": "away", "message": "the service is away", "hint": "wait"},
    }
    assert (second["state"], second["snapshot"]) == ("published", 1)
    assert second["account"][1]["dropped"] == {"transferred": 2}


def test_run_shows_rows_findings_and_errors(catchment, workspace):
    lines = [line.split() for line in catchment("run").out.splitlines()]
    assert lines[0][-5:] == ["unit", "received", "kept", "dropped", "quarantined"]
    assert lines[2] == ["tables/first", "failed"]
    assert lines[3] == ["tables/second", "published", "1", "files", "1", "1", "0", "0"]
    assert lines[4] == ["tables/second", "published", "1", "rows", "5", "3", "2", "0"]
    assert [" ".join(line) for line in lines[5:]] == [
        "tables/first: error: the service is away",
        "hint: wait",
        f"tables/second: {(workspace / 'data').as_uri()}/tables/second/1/",
        "tables/second: skipped: beta (not-found)",
        "warning: alpha: uds: types differ [drift]",
        "hint: mend",
    ]


def test_run_of_one(catchment, workspace):
    called = catchment("run", "tables/second", "--json")
    assert (called.code, len(called.json)) == (0, 1)
    called = catchment("run", "tables/third", "--json")
    assert (called.code, called.json["error"]["kind"]) == (3, "no-aggregate")


def test_a_dry_run_writes_nothing(catchment, workspace):
    before = sorted(workspace.rglob("*"))
    called = catchment("run", "tables/second", "--dry-run", "--json")
    assert called.json[0]["state"] == "planned"
    assert sorted(workspace.rglob("*")) == before


def test_a_cluster_that_is_not_there(catchment, workspace):
    called = catchment("run", "--cluster", "udp://x", "--json")
    assert (called.code, called.json["error"]["kind"]) == (2, "bad-settings")


def test_status_shows_what_is_published(catchment, workspace):
    assert [entry["snapshot"] for entry in catchment("status", "--json").json] == [None, None]
    assert not (workspace / ".catchment").exists()
    catchment("run")
    lines = [line.split() for line in catchment("status").out.splitlines()]
    assert lines[2][:1] == ["tables/first"]
    assert lines[3][:2] == ["tables/second", "1"]
    assert lines[3][3:] == ["published", "1"]
    assert catchment("status", "tables/second", "--json").json[0]["snapshot"]["number"] == 1


def test_status_shows_a_failed_run(catchment, workspace):
    from catchment.core.workspace import Workspace

    with Workspace.open(workspace) as opened:
        failed = opened.ledger.start_run("tables/first", {})
        opened.ledger.finish_run(failed.id, "failed", Unavailable("away", hint="wait"))
    assert catchment("status", "tables/first").out.splitlines()[-2:] == [
        "tables/first: away",
        "  hint: wait",
    ]


@pytest.fixture
def aside(tmp_path_factory, monkeypatch):
    """Temporary folders of this test alone: processes that other tests killed left some."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


DIES = """import os, sys
from datetime import timedelta
from catchment.core.ledger import Ledger, leases

ledger = Ledger.open(sys.argv[1])
ledger.acquire("tables/second", leases.this_process(), timedelta(seconds=60))
ledger.start_run("tables/second", {})
os._exit(0)
"""


def test_status_tells_a_run_that_nobody_is_at_work_on(catchment, workspace):
    catchment("run", "tables/second")
    url = f"sqlite:///{workspace}/.catchment/ledger.db"
    subprocess.run([sys.executable, "-c", DIES, url], check=True)
    (told,) = catchment("status", "tables/second", "--json").json
    assert (told["runs"][0]["state"], told["lease"]) == ("running", None)
    assert "not ended" in catchment("status", "tables/second").out
    with Ledger.open(url) as ledger, ledger.holding("tables/second"):
        assert "running" in catchment("status", "tables/second").out


@pytest.mark.usefixtures("aside")
def test_gc_removes_orphans_and_interrupted_writes(catchment, workspace, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("aside")
    catchment("run")
    store = workspace / "data"
    (store / "tables" / "an-orphan").write_text("x")
    (store / ".catchment" / "tmp").mkdir(parents=True, exist_ok=True)
    (store / ".catchment" / "tmp" / "half").write_text("x")
    called = catchment("gc", "--grace", "0", "--dry-run")
    assert called.out == (
        "tables/an-orphan\n1 object would be removed\n1 interrupted write would be cleared away\n"
    )
    shutil.move(workspace / ".catchment", tmp_path / "away")
    assert catchment("gc", "--grace", "0", "--dry-run").out == called.out
    assert not (workspace / ".catchment").exists()
    shutil.move(tmp_path / "away", workspace / ".catchment")
    assert (store / "tables" / "an-orphan").exists()
    called = catchment("gc", "--grace", "0")
    assert called.out == (
        "tables/an-orphan\n1 object was removed\n1 interrupted write was cleared away\n"
    )
    assert catchment("gc", "--json").json == {
        "dry_run": False,
        "objects": [],
        "interrupted_writes": 0,
    }
    assert catchment("doctor").code == 0


def test_doctor_rebuilds_a_lost_ledger(catchment, workspace):
    catchment("run")
    shutil.rmtree(workspace / ".catchment")
    called = catchment("doctor")
    assert called.code == 1
    assert "1 snapshot that the ledger does not know" in " ".join(called.out.split())
    called = catchment("doctor", "--rebuild-ledger", "--dry-run")
    assert called.out.startswith("1 snapshot would be new to the ledger\n")
    assert not (workspace / ".catchment").exists()
    called = catchment("doctor", "--rebuild-ledger")
    assert called.code == 0
    assert called.out.startswith("1 snapshot was new to the ledger\n")
    assert catchment("doctor", "--rebuild-ledger", "--json").json["restored"] == 0
    again = catchment("doctor", "--rebuild-ledger", "--dry-run", "--json").json
    assert (again["dry_run"], again["restored"]) == (True, 0)
    assert catchment("status", "tables/second", "--json").json[0]["snapshot"]["number"] == 1


def test_a_deep_doctor_looks_at_the_provenance_of_each_kept_snapshot(catchment, workspace):
    """Else it is gone without a word, and a rebuilt ledger does not know the snapshot."""
    catchment("run")
    catchment("run")
    lost = workspace / "data/tables/second/1/provenance.json"
    before = lost.read_bytes()
    lost.unlink()
    assert catchment("doctor").code == 0
    assert catchment("doctor", "--deep").code == 1
    told = catchment("doctor", "--deep", "--mend", "--json")
    assert told.json["mended"] == ["tables/second: its provenance is written anew from the ledger"]
    assert (told.code, lost.read_bytes()) == (0, before)


def test_doctor_tells_what_is_wrong(catchment, workspace):
    catchment("run")
    (workspace / "data/tables/second/1/provenance.json").write_text("{}")
    called = catchment("doctor")
    assert called.code == 1
    assert "WRONG" in called.out
    checks = {check["what"]: check for check in catchment("doctor", "--json").json["checks"]}
    assert checks["tables/second"]["well"] is False
    assert checks["ledger"]["well"] is True


@pytest.mark.usefixtures("aside")
def test_commands_about_a_store_without_a_workspace(catchment, workspace, tmp_path_factory):
    catchment("run")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(workspace / "data", elsewhere / "copy")
    url = (elsewhere / "copy").as_uri()
    (found,) = catchment("status", "--output", url, "--json").json
    assert (found["aggregate"], found["snapshot"]["number"]) == ("tables/second", 1)
    assert catchment("doctor", "--output", url).code == 0
    (elsewhere / "copy" / "tables" / "an-orphan").write_text("x")
    called = catchment("gc", "--grace", "0", "--output", url)
    assert called.out == "tables/an-orphan\n1 object was removed\n"
    called = catchment("-w", workspace, "status", "--output", url, "--json")
    assert (called.code, called.json["error"]["kind"]) == (2, "two-places")


@pytest.mark.parametrize(
    "command", [("gc",), ("doctor",), ("status",), ("tables", "list"), ("exports", "status")]
)
def test_what_only_looks_makes_no_store(catchment, tmp_path, command):
    called = catchment(*command, "--output", "nothere")
    assert (called.code, f"there is no folder {(tmp_path / 'nothere').as_uri()}" in called.err) == (
        3,
        True,
    )
    assert not (tmp_path / "nothere").exists()
    (tmp_path / "file").write_bytes(b"")
    called = catchment(*command, "--output", "file")
    assert (called.code, "file is a file, expected a folder" in called.err) == (2, True)
