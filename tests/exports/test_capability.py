"""Exports of a workspace whose ledger is not that of its store."""

from __future__ import annotations

import shutil

import pytest

from catchment.core import doctor
from catchment.core.errors import Conflict, Unavailable
from catchment.core.ledger import Ledger
from catchment.core.provenance import read_all
from catchment.core.workspace import Workspace
from catchment.exports import capability

SETTINGS = """
[workspace]
store = "{store}"

[executor]
kind = "threads"

[exports.eob]
contract = "Z1"
files = "records"
type = "Patient"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "records").mkdir()
    record(tmp_path, 1)
    (tmp_path / "catchment.toml").write_text(SETTINGS.format(store="data"))
    return tmp_path


def record(folder, number):
    text = f'{{"resourceType":"Patient","id":"{number}"}}\n'
    (folder / "records" / f"{number}.ndjson").write_text(text)


def run(folder, **options):
    with Workspace.open(folder) as workspace:
        done = capability.run(workspace, "eob", **options)
        return done.state, done.snapshot


def test_a_lost_ledger_is_learnt_from_the_store(folder):
    """Before a job gets a number that another one has."""
    assert run(folder) == ("published", 1)
    shutil.copytree(folder / ".catchment", folder / "older")
    record(folder, 2)
    assert run(folder) == ("published", 2)
    shutil.rmtree(folder / ".catchment")
    assert run(folder, dry_run=True) == ("unchanged", 2)  # the store says so
    assert run(folder) == ("unchanged", 2)
    shutil.rmtree(folder / ".catchment")
    assert run(folder, again=True) == ("published", 3)
    shutil.rmtree(folder / ".catchment")
    (folder / "older").rename(folder / ".catchment")
    assert run(folder) == ("unchanged", 3)  # what it learns tells that nothing is new
    assert run(folder, again=True) == ("published", 4)
    with Workspace.open(folder) as workspace:
        assert workspace.ledger.restore(read_all(workspace.store)) == 0
        assert capability.verify(workspace, "eob") == []


def test_jobs_that_were_deleted_keep_no_new_one_away(folder, caplog):
    """A lost ledger, and old jobs that somebody cleared away: nothing needs them."""
    assert run(folder) == ("published", 1)
    (first,) = (folder / "data/exports/eob").iterdir()
    assert run(folder, again=True) == ("published", 2)
    shutil.rmtree(first)
    shutil.rmtree(folder / ".catchment")
    assert run(folder) == ("published", 1)
    assert "without a gap" in caplog.text


def test_a_ledger_of_another_store_is_told(folder):
    """Not "unchanged", where there is nothing."""
    assert run(folder) == ("published", 1)
    (folder / "catchment.toml").write_text(SETTINGS.format(store="elsewhere"))
    with pytest.raises(Conflict) as caught:
        run(folder)
    assert caught.value.kind == "ledger-of-another-store"
    assert "catchment exports run eob" in caught.value.hint
    assert not any((folder / "elsewhere").rglob("*.json"))


def test_a_base_url_of_ones_own_is_that_of_the_manifest(folder):
    """One that is set later, too."""
    assert run(folder) == ("published", 1)
    text = (folder / "catchment.toml").read_text()
    (folder / "catchment.toml").write_text(f'{text}base_url = "https://host/jobs/"\n')
    assert run(folder) == ("published", 2)
    assert run(folder) == ("unchanged", 2)
    manifests = [path.read_text() for path in sorted(folder.rglob("manifest.json"))]
    links = ["https://host/jobs/Z1_0001.ndjson" in text for text in manifests]
    assert links == [False, True]


def test_a_list_of_members_with_a_byte_order_mark(folder):
    text = (folder / "catchment.toml").read_text()
    (folder / "catchment.toml").write_text(f'{text}members = "members.txt"\n')
    (folder / "members.txt").write_text("\ufeff1.ndjson\n", encoding="utf-8")
    assert run(folder) == ("published", 1)


def test_an_open_job_whose_files_moved_begins_anew(folder, monkeypatch, caplog):
    """A folder that grows every night must not wait for a person after a crash."""

    def publish(*_):
        raise Unavailable("gone", kind="ledger-gone")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "publish", publish)
        with pytest.raises(Unavailable):
            run(folder)
    record(folder, 2)
    text = (folder / "catchment.toml").read_text()
    (folder / "catchment.toml").write_text(f"{text}batch = 1\n")
    with pytest.raises(Conflict) as caught:
        run(folder)
    assert caught.value.kind == "job-open"
    (folder / "catchment.toml").write_text(text)
    assert run(folder) == ("published", 1)
    assert "begins anew" in caplog.text
    with Workspace.open(folder) as workspace:
        latest = workspace.ledger.latest("exports/eob")
        assert latest is not None
        assert latest.provenance["config"]["members"]["count"] == 2
        states = {run.state for run in workspace.ledger.runs("exports/eob")}
        assert states == {"published", "cancelled"}
        found = [stat.key for stat in workspace.store.list("exports/eob/")]
        assert all(key.startswith(latest.location) for key in found)


def test_a_number_given_twice_is_found(folder, caplog):
    """Two ledgers at work on one store: each knows a snapshot 1, and the doctor sees both."""
    assert run(folder) == ("published", 1)
    (folder / ".catchment").rename(folder / "first")
    (folder / "data").rename(folder / "aside")
    assert run(folder) == ("published", 1)
    shutil.copytree(folder / "aside", folder / "data", dirs_exist_ok=True)
    with Workspace.open(folder) as workspace:
        checks = {check.what: check for check in doctor.examine(workspace)}
    assert "1 snapshot that the ledger does not know" in checks["ledger and store"].found
    assert run(folder, again=True) == ("published", 2)
    assert "contradicts" in caplog.text
