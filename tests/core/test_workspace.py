from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from catchment.core.account import Account, Line
from catchment.core.doctor import examine, mend
from catchment.core.errors import Invalid, NotFound, Unavailable
from catchment.core.finding import Finding, Severity
from catchment.core.ledger import Ledger, Move, Publication
from catchment.core.ledger.uploads import FileState, Uploads, Wanted
from catchment.core.provenance import read_all, seal
from catchment.core.status import status
from catchment.core.workspace import Workspace


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No workspace of the machine that runs the tests is found."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CATCHMENT_WORKSPACE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    """Every workspace of a test is closed after it."""
    opened = []
    made = Workspace.__init__

    def remember(self, *arguments):
        made(self, *arguments)
        opened.append(self)

    monkeypatch.setattr(Workspace, "__init__", remember)
    yield
    for workspace in opened:
        workspace.close()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "catchment.toml").write_text("[workspace]\nname = 'found'\n")
    return tmp_path


def publish(workspace: Workspace, aggregate: str, *findings: Finding):
    account = Account()
    account[Line("alpha", "uds", "rows")].received = 3
    account[Line("alpha", "uds", "rows")].kept = 3
    ledger = workspace.ledger
    contribution = ledger.receive(aggregate, "alpha", "1", "sha256:00", 3)
    moves = [Move(contribution.id, "received", "latest")]
    run = ledger.start_run(aggregate, {})
    return ledger.publish(
        Publication(
            aggregate, "key", f"{aggregate}/1/", {"a": 1}, account, findings, moves, run=run.id
        )
    )


def test_it_is_found_in_this_folder_above_it_by_variable_or_by_path(folder, elsewhere, monkeypatch):
    below = elsewhere / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert Workspace.open().file == folder / "catchment.toml"
    assert Workspace.open(folder).settings.workspace.name == "found"
    other = elsewhere / "other.toml"
    other.write_text("[workspace]\nname = 'other'\n")
    monkeypatch.setenv("CATCHMENT_WORKSPACE", str(other))
    assert Workspace.open().settings.workspace.name == "other"
    assert Workspace.open(folder).settings.workspace.name == "found"
    assert Workspace.open(None, {"workspace.name": "x"}).settings.workspace.name == "x"


@pytest.mark.parametrize("path", [None, "absent", "."])
def test_where_there_is_none(path):
    with pytest.raises(NotFound, match=r"no catchment\.toml in") as caught:
        Workspace.open(path)
    assert (caught.value.kind, caught.value.hint) == ("no-workspace", "catchment init")


def test_the_ledger_lies_beside_the_file(folder):
    workspace = Workspace.open(folder)
    assert workspace.ledger.aggregates() == []
    assert workspace.ledger is workspace.ledger
    assert (folder / ".catchment" / "ledger.db").is_file()


def test_without_a_file_the_ledger_lies_in_the_store(elsewhere):
    workspace = Workspace.described({"workspace.store": "a b"})
    assert workspace.ledger.aggregates() == []
    assert (elsewhere / "a b" / ".catchment" / "ledger.db").is_file()
    assert list(workspace.store.list()) == []


def test_a_disk_that_is_full_when_the_ledger_is_made(elsewhere, monkeypatch):
    def full(self, **_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Path, "mkdir", full)
    with (
        Workspace.described({"workspace.store": elsewhere.as_uri()}) as workspace,
        pytest.raises(Unavailable) as error,
    ):
        workspace.ledger  # noqa: B018 - it is made now
    assert error.value.kind == "disk-full"


def test_the_ledger_of_a_remote_store_lies_in_the_state_folder(folder, tmp_path):
    one = Workspace.open(folder, {"workspace.store": "s3://bucket/one"})
    two = Workspace.open(folder, {"workspace.store": "s3://bucket/two"})
    assert one.ledger.aggregates() == two.ledger.aggregates() == []
    assert len(list((tmp_path / "state" / "catchment").glob("*/ledger.db"))) == 2


def test_a_store_in_memory_needs_a_ledger_that_is_named(elsewhere):
    with pytest.raises(Invalid, match="gone with the program"):
        Workspace.described({"workspace.store": "memory://x"}).ledger  # noqa: B018
    named = {"workspace.store": "memory://x", "workspace.ledger": "l.db"}
    assert Workspace.described(named).ledger.aggregates() == []
    assert (elsewhere / "l.db").is_file()


def test_it_closes_what_it_opened_and_opens_it_again(folder):
    with Workspace.open(folder) as workspace:
        ledger = workspace.ledger
        ledger.start_run("tables/nacc", {})
    assert workspace.ledger is not ledger
    assert workspace.ledger.aggregates() == ["tables/nacc"]


def test_questions_make_no_ledger(folder):
    with Workspace.open(folder) as workspace:
        assert workspace.ledger_to_read().aggregates() == []
        assert not (folder / ".catchment").exists()
        workspace.ledger.start_run("tables/nacc", {})
        assert workspace.ledger_to_read() is workspace.ledger


def test_a_folder_that_cannot_be_written_is_asked_all_the_same(folder, monkeypatch, caplog):
    """SQLite makes files beside its own even to read; the store says what is published."""
    with Workspace.open(folder) as workspace:
        seal(workspace.store, workspace.ledger, publish(workspace, "tables/nacc"))
        workspace.ledger.start_run("tables/other", {})
    opened = Ledger.open

    def refusing(url, **options):
        if url.startswith(f"sqlite:///{folder}"):
            raise Invalid("it cannot be opened", kind="ledger-refused")
        return opened(url, **options)

    monkeypatch.setattr(Ledger, "open", refusing)
    with Workspace.open(folder) as workspace, pytest.raises(Invalid):
        workspace.ledger_to_read()  # it may be written: something else is wrong
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Workspace.open(folder) as workspace:
        assert workspace.ledger_to_read().aggregates() == ["tables/nacc"]
        assert "it cannot be opened" in caplog.text
        with pytest.raises(Invalid):
            _ = workspace.ledger  # to write, it is needed
    with Workspace.open(folder) as workspace:
        workspace.only_read()
        checks = {check.what: check for check in examine(workspace)}
        assert not checks["ledger"].well
        assert "it cannot be opened" in checks["ledger"].found


def test_the_executor_is_that_of_the_settings():
    workspace = Workspace.described(
        {"executor.kind": "threads", "executor.workers": 3, "executor.memory": 7}
    )
    with workspace:
        executor = workspace.executor
        assert isinstance(executor, ThreadPoolExecutor)
        assert executor._max_workers == 3
        assert workspace.executor is executor
    assert executor._shutdown
    assert workspace.limits.memory == 7 << 20


def test_status_tells_what_the_ledger_knows(folder):
    workspace = Workspace.open(folder)
    finding = Finding("alpha", Severity.WARNING, "column-missing", "uds", "no column a")
    snapshot = publish(workspace, "tables/nacc", finding)
    started = workspace.ledger.start_run("tables/nacc", {})
    lease = workspace.ledger.acquire("tables/nacc", "someone", timedelta(minutes=1))

    old, new = status(workspace.ledger, ["tables/new"])
    assert new == {
        "aggregate": "tables/new",
        "snapshot": None,
        "lease": None,
        "runs": [],
        "contributions": {},
        "findings": [],
    }
    assert old["snapshot"] == {
        "number": 1,
        "location": "tables/nacc/1/",
        "published_at": snapshot.published_at.isoformat(),
        "run": snapshot.run,
        "sealed": False,
    }
    assert old["lease"] == {"holder": "someone", "expires_at": lease.expires_at.isoformat()}
    assert [(run["id"], run["state"]) for run in old["runs"]] == [
        (started.id, "running"),
        (snapshot.run, "published"),
    ]
    assert old["contributions"] == {"latest": 1}
    assert old["findings"] == [finding.to_json()]


def test_status_of_one(folder):
    ledger = Workspace.open(folder).ledger
    assert [e["aggregate"] for e in status(ledger, ["tables/a", "tables/b"], "tables/b")] == [
        "tables/b"
    ]
    with pytest.raises(NotFound, match="expected one of: tables/a") as caught:
        status(ledger, ["tables/a"], "tables/c")
    assert caught.value.kind == "no-aggregate"


def found(workspace: Workspace) -> dict[str, tuple[bool, str]]:
    return {check.what: (check.well, check.found) for check in examine(workspace)}


def test_doctor_finds_what_is_wrong(folder):
    workspace = Workspace.open(folder)
    workspace.ledger.start_run("tables/none", {})
    snapshot = publish(workspace, "tables/nacc")
    told = found(workspace)
    well = ("clocks", "ledger and store", "runs of tables/none", "counts", "interrupted writes")
    assert all(told.pop(name)[0] for name in well)
    assert told == {
        "objects of tables/nacc": (True, "0 are there, with their sizes"),
        "store": (True, f"{(folder / 'data').as_uri()} can be read"),
        "ledger": (True, "2 aggregates"),
        "tables/none": (True, "nothing is published yet"),
        "tables/nacc": (True, "snapshot 1; the next run writes its provenance"),
    }
    seal(workspace.store, workspace.ledger, snapshot)
    assert found(workspace)["tables/nacc"] == (True, "snapshot 1, with its provenance")
    file = folder / "data/tables/nacc/1/provenance.json"
    file.write_bytes(file.read_bytes() + b" ")
    assert found(workspace)["tables/nacc"][0] is False
    file.unlink()
    assert found(workspace)["tables/nacc"][0] is False


def test_doctor_finds_counts_that_an_older_version_left_behind(folder):
    workspace = Workspace.open(folder)
    publish(workspace, "tables/nacc")
    counts = workspace.ledger.counts()
    assert found(workspace)["counts"] == (True, "they are those of the contributions")
    with sqlite3.connect(folder / ".catchment" / "ledger.db") as db:  # it knows of no counts
        (state,) = db.execute("SELECT state FROM contributions").fetchone()
        db.execute("UPDATE contributions SET state = 'elsewhere'")
    db.close()
    assert found(workspace)["counts"] == (
        False,
        "2 are not those of the contributions: elsewhere of alpha in tables/nacc, for one",
    )
    (told,) = [line for line in mend(list(examine(workspace))) if line.startswith("counts")]
    assert told == "counts: they are counted again"
    assert found(workspace)["counts"][0] is True
    assert workspace.ledger.counts() == [c._replace(state="elsewhere") for c in counts]
    assert state != "elsewhere"


def test_doctor_clears_away_old_interrupted_writes(folder):
    workspace = Workspace.open(folder)
    workspace.store.put("a/b", b"1")
    drafts = folder / "data/.catchment/tmp"
    drafts.mkdir(parents=True, exist_ok=True)
    for name in ("old", "new"):
        (drafts / name).write_bytes(b"half")
    os.utime(drafts / "old", (0, 0))
    (check,) = [c for c in examine(workspace) if c.what == "interrupted writes"]
    assert (check.well, check.found.split()[:2]) == (True, ["1", "that"])
    assert {path.name for path in drafts.iterdir()} == {"old", "new"}
    assert mend([check]) == ["interrupted writes: 1 are cleared away"]
    assert {path.name for path in drafts.iterdir()} == {"new"}


def test_doctor_closes_half_uploads_and_tells_those_that_wait(folder):
    workspace = Workspace.open(folder)
    uploads = Uploads(workspace.ledger)
    forms = {"young": "form", "old": "form", "there": "", "came": "form", "begun": "form"}
    for name, form in forms.items():
        uploads.open(name, site=f"site-{name}", user="anna", study="flu")
        key = f"upload_staging/flu/{name}/f"
        uploads.offer(name, Wanted(key, "f", 1), form, datetime.now(UTC))
    with sqlite3.connect(folder / ".catchment" / "ledger.db") as db:
        db.execute("UPDATE upload_files SET expires_at = '2026-01-01 00:00:00.000000'")
        db.execute(
            "UPDATE upload_files SET touched_at = '2026-01-01 00:00:00.000000' "
            "WHERE upload != 'young'"
        )
        db.execute("UPDATE upload_files SET state = 'arrived' WHERE upload = 'came'")
        db.execute("UPDATE upload_files SET state = 'sending' WHERE upload = 'begun'")
    db.close()
    workspace.store.put("upload_staging/flu/there/f", b"1")
    checks = {c.what: c for c in examine(workspace)}
    waits, half = checks["uploads that wait"], checks["half uploads"]
    assert (waits.well, waits.remedy, waits.found[:9]) == (False, None, "2 arrived")
    assert half.well
    assert half.found.startswith("2 were begun")
    assert half.found.endswith(": site-begun, site-old")
    (begun,) = uploads.files(FileState.SENDING)
    uploads.touch(begun, "")  # it goes on after all
    assert mend([half]) == ["half uploads: 1 are closed"]
    _, (old,) = uploads.get("old", "site-old")
    assert (old.state, old.error["kind"]) == ("failed", "upload-abandoned")
    assert [file.upload for file in uploads.files(FileState.SENDING)] == ["begun"]
    assert {c.what for c in examine(workspace)}.isdisjoint({"half uploads"})
    assert uploads.abandon(old, NotFound("never")) is False


def test_doctor_tells_what_it_cannot_look_for(folder, monkeypatch):
    workspace = Workspace.open(folder)
    for kind, well in (("missing-extra", True), ("permission-denied", False)):

        def refuse(*_, kind=kind, **__):
            raise Invalid("no", kind=kind, hint="do it")

        monkeypatch.setattr(type(workspace.store), "sweep", refuse)
        monkeypatch.setattr(type(workspace.store), "clock", refuse)
        told = found(workspace)
        assert told["interrupted writes"] == (well, "not known: no")
        assert told["clock of the store"] == (True, "it cannot be asked: no")


def test_doctor_stops_at_a_ledger_that_cannot_be_read(folder):
    (folder / ".catchment").mkdir()
    (folder / ".catchment" / "ledger.db").write_text("no database " * 100)
    checks = found(Workspace.open(folder))
    assert set(checks) == {"store", "ledger"}
    assert checks["ledger"][0] is False


def test_a_lost_ledger_is_rebuilt_from_the_store(folder):
    workspace = Workspace.open(folder)
    snapshot = publish(workspace, "tables/nacc")
    seal(workspace.store, workspace.ledger, snapshot)
    before = status(workspace.ledger, [])
    workspace.ledger.close()
    shutil.rmtree(folder / ".catchment")

    again = Workspace.open(folder)
    assert again.ledger.restore(read_all(again.store)) == 1
    assert status(again.ledger, []) == before
