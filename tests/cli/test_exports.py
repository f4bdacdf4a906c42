"""``catchment exports``, as it is typed."""

from __future__ import annotations

import gzip
import os
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest

from catchment.core.workspace import Workspace
from catchment.exports import capability
from catchment.exports.directories import JobDirectories
from catchment.testing.exports import line, lines_out, outputs, put
from catchment.testing.fhir import FhirServer

EOB = "ExplanationOfBenefit"


@pytest.fixture
def server():
    records = {
        str(m): [b'{"resourceType":"%s","id":"%d-%d"}' % (EOB.encode(), m, i) for i in range(m)]
        for m in range(8)
    }
    with FhirServer(records) as running:
        yield running


@pytest.fixture
def workspace(tmp_path, server):
    (tmp_path / "members.txt").write_text("# members\n" + "\n".join("012345677"))
    (tmp_path / "catchment.toml").write_text(f"""
[exports.eob]
contract = "Z9000"
fhir = "{server.url}"
members = "members.txt"
batch = 2
threshold = 0.2
retries = 0
""")
    return tmp_path


def test_run_status_verify(catchment, workspace, server):
    dry = catchment("exports", "run", "--dry-run")
    assert (dry.code, dry.out.strip()) == (0, "dry run: 8 members in 4 batches")
    assert not (workspace / "data").exists()
    assert catchment("exports", "status").code == 3

    done = catchment("exports", "run", "--json")
    assert done.code == 0
    assert done.json["state"] == "published"
    assert done.json["details"]["outputs"][0]["count"] == 28
    members = next(line for line in done.json["account"] if line["unit"] == "members")
    assert (members["received"], members["kept"], members["dropped"]) == (9, 8, {"repeated": 1})
    file = workspace / "data" / done.json["location"] / "Z9000_0001.ndjson"
    assert file.read_bytes().count(b"\n") == 28

    status = catchment("exports", "status", "--json")
    assert (status.json["state"], status.json["done"]) == ("published", 8)
    named = catchment("exports", "status", "eob", "--job", done.json["details"]["job"])
    assert "8 of 8 members, 0 failed" in named.out
    assert "Z9000_0001.ndjson" in named.out

    well = catchment("exports", "verify")
    assert (well.code, well.out[:11]) == (0, "1 file of j")
    file.write_bytes(b"damaged\n")
    wrong = catchment("exports", "verify", "--json")
    assert wrong.code == 1
    assert len(wrong.json["wrong"]) == 1

    server.broken["3"] = (404, {}, b"")
    again = catchment("exports", "run")
    assert again.code == 0
    assert "members-failed" in again.out
    assert "as snapshot 2" in again.out
    assert "Z9000_0001_error.ndjson" in again.out
    server.broken["4"] = (404, {}, b"")
    failed = catchment("exports", "run")
    assert failed.code == 5
    assert "2 of 8 members failed" in failed.err
    assert "error: 2 of 8" in catchment("exports", "status").out


def test_who_comes_just_after_another_publishes_nothing(catchment, workspace, server, monkeypatch):
    """The other run ends between our look at what is published and our lease."""
    real, work = capability.runs.run, []

    def late(job, house, meanwhile):
        work.append(real(job, house))  # the other's
        if len(work) == 2:  # it had other members
            monkeypatch.setattr(capability, "_is_done", lambda *_: False)
        return real(job, house, meanwhile)

    with Workspace.open(workspace) as opened:
        (name,) = opened.settings.exports
        monkeypatch.setattr(capability.runs, "run", late)
        outcome = capability.run(opened, name)
        assert (outcome.state, outcome.snapshot) == ("unchanged", work[0].number)
        again = capability.run(opened, name, again=True)
        assert (again.state, again.snapshot) == ("published", work[1].number + 1)
        with (workspace / "members.txt").open("a") as members:
            members.write("9\n")
        other = capability.run(opened, name)
        assert (other.state, other.snapshot) == ("published", work[2].number + 1)


def test_the_command_for_all_runs_a_job_once(catchment, workspace, server):
    assert catchment("run", "--json").json[0]["state"] == "published"
    with sqlite3.connect(workspace / ".catchment/ledger.db") as ledger:
        ledger.execute("UPDATE snapshots SET sealed = 0")  # as a restored ledger says
    ledger.close()
    assert catchment("run", "--json").json[0]["state"] == "unchanged"
    assert catchment("status", "--json").json[0]["snapshot"]["sealed"]
    with (workspace / "members.txt").open("a") as members:
        members.write("\n8\n")
    assert catchment("run", "--json").json[0]["snapshot"] == 2
    assert catchment("status", "exports/eob").code == 0


def test_the_command_for_all_asks_again_for_members_that_could_not_be_given(
    catchment, workspace, server
):
    server.broken["3"] = (503, {"Retry-After": "0"}, b"")
    first = catchment("run", "--json").json[0]
    (members,) = [line for line in first["account"] if line["unit"] == "members"]
    assert members["quarantined"] == {"source-down": 1}
    del server.broken["3"]
    second = catchment("run", "--json").json[0]
    (members,) = [line for line in second["account"] if line["unit"] == "members"]
    assert (second["snapshot"], members["quarantined"]) == (2, {})
    assert catchment("run", "--json").json[0]["state"] == "unchanged"


def test_the_command_for_all_does_not_ask_again_for_members_that_are_not_there(
    catchment, workspace, server
):
    server.broken["3"] = (404, {}, b"")
    assert catchment("run", "--json").json[0]["state"] == "published"
    assert catchment("run", "--json").json[0]["state"] == "unchanged"


def test_without_a_workspace(catchment, server, tmp_path):
    (tmp_path / "who").write_text("1\n2\n")
    where = ("--output", tmp_path / "out")
    done = catchment(
        "exports", "run", *where, "--contract", "C", "--fhir", server.url, "--members", "who",
        "--batch", "1", "--threshold", "0", "--max-bytes", "110", "--multiplier", "1",
        "--codec", "gzip", "--json",
    )  # fmt: skip
    assert done.code == 0
    files = sorted((tmp_path / "out").rglob("*.gz"))
    assert [file.name for file in files] == ["C_0001.ndjson.gz", "C_0002.ndjson.gz"]
    assert sum(gzip.decompress(file.read_bytes()).count(b"\n") for file in files) == 3


def test_files_need_no_list_of_members(catchment, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.ndjson").write_text('{"a":1}\n{"a":2}')
    done = catchment(
        "exports", "run", "--output", tmp_path / "out", "--contract", "C", "--files", tmp_path / "in",
        "--json",
    )  # fmt: skip
    assert done.json["details"]["outputs"][0]["count"] == 2
    (tmp_path / "in/1.ndjson").unlink()
    empty = catchment(
        "exports",
        "run",
        "--output",
        tmp_path / "out",
        "--contract",
        "C",
        "--files",
        tmp_path / "in",
    )
    assert empty.code == 3
    assert "has no members: no records lie below" in empty.err


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (("fhir", "fihr"), 2, "did you mean 'fhir'"),
        (('"members.txt"', '"none.txt"'), 3, "members: there is no none.txt in "),
        (('"Z9000"', '"../x"'), 2, "not a usable contract"),
        (("batch = 2", "batch = 0"), 2, "greater than 0"),
        (("fhir =", 'files = "."\nfhir ='), 2, "either 'fhir' or 'files'"),
        (("members =", "#"), 2, "fhir needs 'members'"),
    ],
)
def test_settings_that_cannot_be_meant(catchment, workspace, change, code, told):
    settings = workspace / "catchment.toml"
    settings.write_text(settings.read_text().replace(*change))
    done = catchment("exports", "run")
    assert done.code == code
    assert told in done.err


def test_members_that_cannot_be_used(catchment, workspace):
    (workspace / "members.txt").write_text("\n# none\n")
    assert "has no members" in catchment("exports", "run").err
    (workspace / "members.txt").write_text("1\nMrs Miller\n")
    done = catchment("exports", "run")
    assert done.code == 2
    assert "line 2" in done.err
    assert "Miller" not in done.err


def test_a_list_of_members_has_a_bound(catchment, workspace, monkeypatch):
    monkeypatch.setattr("catchment.exports.capability.MAX_FILE", 3)
    assert "at most 3 bytes" in catchment("exports", "run").err


def test_a_certificate_that_is_not_there(catchment, workspace):
    settings = workspace / "catchment.toml"
    told = settings.read_text().replace("http:", "https:")
    settings.write_text(told + 'certificate = "client.pem"\n')
    done = catchment("exports", "run")
    assert done.code == 2
    assert "the certificates cannot be used" in done.err


def test_which_export(catchment, workspace):
    with (workspace / "catchment.toml").open("a") as settings:
        settings.write('\n[exports.other]\ncontract = "C"\nfiles = "."\n')
    assert "eob, other" in catchment("exports", "run").err
    assert catchment("exports", "run", "third").code == 3


def test_cancel_from_another_process(catchment, workspace, server):
    assert catchment("exports", "cancel").code == 3
    server.delay = 0.2
    command = [sys.executable, "-m", "catchment.cli.main", "exports", "run", "eob"]
    command[1:3] = ["-c", "from catchment.cli.main import main; main()"]
    worker = subprocess.Popen(command, cwd=workspace, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while catchment("exports", "status", "--json").code or not server.requests.total():
        assert time.monotonic() < deadline
        assert worker.poll() is None
        time.sleep(0.05)
    cancelled = catchment("exports", "cancel", "--json")
    assert cancelled.json["state"] == "cancelled"
    _, told = worker.communicate(timeout=60)
    assert worker.returncode == 4
    assert "the job was cancelled" in told
    assert not [path for path in (workspace / "data").rglob("*") if path.is_file()]


def test_gc_removes_what_ended_jobs_left(catchment, workspace, server):
    with Workspace.open(workspace) as opened:
        ended = opened.ledger.start_run("exports/eob", {})
        opened.ledger.finish_run(ended.id, "cancelled")
        still_open = opened.ledger.start_run("exports/eob", {})
        for run in (ended, still_open):
            opened.store.put(f"_staging/exports/eob/{run.id}/tmp_1.ndjson", b"1\n")
            opened.store.put(f"exports/eob/{run.id}/Z9000_0001.ndjson", b"1\n")
        found = set(capability.orphans(opened, grace=timedelta()))
        assert found == {
            f"_staging/exports/eob/{ended.id}/tmp_1.ndjson",
            f"exports/eob/{ended.id}/Z9000_0001.ndjson",
        }
        assert not set(capability.orphans(opened, grace=timedelta(hours=1)))
        with opened.ledger.holding("exports/eob"):
            assert not set(capability.orphans(opened, grace=timedelta()))


@pytest.fixture
def job(tmp_path):
    directories = JobDirectories(tmp_path, "J")
    directories.set_up()
    return directories


def test_aggregate_once(catchment, job):
    put(job, "a.ndjson", line(60))
    put(job, "b.ndjson", line(50))
    options = ("--contract", "C", "--max-bytes", "100", "--multiplier", "1", "--once")
    first = catchment("exports", "aggregate", job.job_path, *options, "--json")
    assert first.code == 0
    assert first.json["done"] is False
    assert [o["name"] for o in first.json["outputs"]] == ["C_0001.ndjson"]
    assert outputs(job) == {"C_0001.ndjson": line(60)}
    job.finish()
    rest = catchment("exports", "aggregate", job.job_path, *options)
    assert rest.code == 0
    assert rest.out.endswith("done\n")
    assert sorted(path.name for path in job.job_path.iterdir()) == [
        "C_0001.ndjson",
        "C_0002.ndjson",
    ]


def test_aggregate_beside_a_worker(catchment, job):
    def work():
        for i in range(20):
            put(job, f"{i}.ndjson", line(100, str(i % 10)))
            time.sleep(0.01)
        job.finish()

    worker = threading.Thread(target=work)
    worker.start()
    done = catchment(
        "exports", "aggregate", job.job_path, "--contract", "C", "--max-bytes", "300", "--json"
    )
    worker.join()
    assert done.json["done"] is True
    assert lines_out(job).total() == 20


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--contract", "a/b"), 2),
        (("--contract", "C", "--max-bytes", "0"), 2),
        (("--contract", "C", "--multiplier", "-1"), 2),
        (("--contract", "C", "--codec", "rar"), 2),
        (("--contract", "C", "--finished", "../x"), 2),
        ((), 2),
    ],
)
def test_aggregate_refuses(catchment, job, options, code):
    done = catchment("exports", "aggregate", job.job_path, *options)
    assert done.code == code
    assert not done.out


def test_aggregate_says_what_is_wrong(catchment, job, tmp_path):
    assert catchment("exports", "aggregate", tmp_path / "none", "--contract", "C").code == 3
    put(job, "a.ndjson.gz", b"no gzip")
    put(job, "b.ndjson", b"1\n")
    done = catchment("exports", "aggregate", job.job_path, "--contract", "C", "--once", "--json")
    assert done.code == 6
    assert done.json["error"]["kind"] == "part-unreadable"
    assert outputs(job) == {}
    job.finish()
    done = catchment("exports", "aggregate", job.job_path, "--contract", "C")
    assert done.code == 6
    assert outputs(job) == {"C_0001.ndjson": b"1\n"}


def test_the_folders_may_have_other_names(catchment, tmp_path):
    job = JobDirectories(tmp_path, "J", "in", "ready")
    job.set_up()
    put(job, "a.ndjson", b"1\n")
    job.finish()
    os.chdir(job.job_path)
    done = catchment(
        "exports", "aggregate", ".", "--contract", "C", "--streaming", "in", "--finished", "ready"
    )
    assert done.code == 0
    assert outputs(job) == {"C_0001.ndjson": b"1\n"}
