"""``catchment studies``: what people type, and what they see."""

from __future__ import annotations

import json
import threading

import pytest

from catchment.cli import studies, upload
from catchment.cli.main import run
from catchment.core.workspace import Workspace
from catchment.studies import library
from catchment.testing.studies import parquet, study_zip
from tests.studies.studying import CUBE, model, published, stage, table


@pytest.fixture
def folder(tmp_path, monkeypatch):
    settings = (
        '[workspace]\nstore = "data"\n[executor]\nkind = "threads"\n[studies.core]\nmin_cell = 0\n'
    )
    (tmp_path / "catchment.toml").write_text(settings)
    monkeypatch.setenv("CATCHMENT_WORKSPACE", str(tmp_path))
    return tmp_path


def call(capsys, *arguments, code=0):
    assert run(["studies", *arguments]) == code
    return capsys.readouterr().out


def told(capsys, *arguments, code=0):
    return json.loads(call(capsys, *arguments, "--json", code=code))


def test_from_an_arrival_to_a_rollback(folder, capsys):
    assert "nothing has arrived" in call(capsys, "process", "--dry-run")
    assert not (folder / ".catchment").exists()
    assert "nothing has arrived" in call(capsys, "process")
    with Workspace.open(folder) as space:
        stage(space, "a", study_zip("core", {"count": CUBE}))
        stage(space, "b", parquet(CUBE), name="core__wrong.parquet")
    found = told(capsys, "process", "core", "--dry-run")["arrived"]
    assert found == [
        "upload_staging/core/a/000/u_core.zip",
        "upload_staging/core/b/000/core__wrong.parquet",
    ]
    text = call(capsys, "process")
    assert "a: u_core.zip of core: 3 files accepted, 0 refused" in text
    assert "[unknown-kind]" in text
    assert "core: " in text
    with Workspace.open(folder) as space:
        assert published(space) == model({"a": CUBE})
        stage(space, "a", parquet(table((1, "f", None))), name="core__count.cube.parquet")
    done = told(capsys, "process", "core")
    assert done["uploads"][0]["accepted"]
    assert (done["busy"], done["failed"]) == ([], {})
    (one,) = told(capsys, "list")
    assert (one["id"], one["sites"], one["rows"]) == ("core__count__000", ["a"], 2)
    assert "core__count__000" in call(capsys, "list")
    shown = told(capsys, "show", "core")
    assert [t["package"] for t in shown["times"]] == ["count", "manifest", "meta_date", ""]
    assert "count" in call(capsys, "show", "core")
    for command in ("show", "withdraw", "reprocess"):
        assert told(capsys, command, "cor", code=3)["error"]["kind"] == "no-study"
    with Workspace.open(folder) as space:
        assert space.ledger.aggregates() == ["studies/core", "uploads"]
    with Workspace.open(folder) as space:
        number = library.catalog(space, "core").snapshot
    assert told(capsys, "rollback", "core", "1", "--dry-run")["state"] == "planned"
    text = call(capsys, "rollback", "core", "1")
    assert "rolled back" in text
    assert f"published, snapshot {number + 1}" in text
    assert "count, version 0: a" in call(capsys, "reprocess", "core", "--refused")
    assert told(capsys, "reprocess", "core", "--dry-run")["packages"] == [
        {"name": "count", "version": 0, "sites": ["a"]}
    ]
    assert told(capsys, "withdraw", "core", "--site", "a", "--dry-run")["state"] == "planned"
    assert "no site any more" in call(capsys, "withdraw", "core", "--site", "a")
    assert told(capsys, "withdraw", "core", code=3)["error"]["kind"] == "no-contribution"
    assert told(capsys, "list") == []


def test_what_is_in_the_way_is_told(folder, capsys):
    with Workspace.open(folder) as space:
        stage(space, "a", parquet(CUBE), name="core__count.cube.parquet")
        call(capsys, "process")
        with space.ledger.holding("studies/core"):
            assert "core: another worker is at it" in call(capsys, "process")


def test_watching_sees_what_comes(folder, capsys, monkeypatch):
    from catchment.studies import watch

    real = watch.watch

    def until(look, store, _, interval, queue):
        assert queue is None
        stop, came = threading.Event(), threading.Event()

        def looked():
            look()
            if came.is_set():
                stop.set()
            else:
                came.set()
                with Workspace.open(folder) as space:
                    stage(space, "a", parquet(CUBE), name="core__count.cube.parquet")

        real(looked, store, stop, interval=interval)

    monkeypatch.setattr(watch, "watch", until)
    text = call(capsys, "process", "--watch", "--interval", "60")
    assert "a: core__count.cube.parquet of core: 1 file accepted" in text
    monkeypatch.setattr(watch, "INotify", None)
    with Workspace.open(folder) as space:
        told_of = watch.Watch(space.store)
        told_of.wait(0.01, threading.Event())
        told_of.close()


def test_a_queue_that_cannot_be_used_is_told(folder, capsys, monkeypatch):
    monkeypatch.setenv("CATCHMENT_EVENTS__QUEUE", "https://nowhere")
    assert run(["studies", "process", "--watch"]) != 0
    assert "events.queue" in capsys.readouterr().err


def test_a_folder_that_cannot_be_watched_is_looked_at(folder, monkeypatch):
    from catchment.studies import watch

    def none_left():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(watch, "INotify", none_left)
    with Workspace.open(folder) as space:
        told_of = watch.Watch(space.store)
        stop = threading.Event()
        stop.set()
        told_of.wait(60, stop)


def test_uploads_that_were_all_refused_publish_nothing(folder, capsys):
    with Workspace.open(folder) as space:
        stage(space, "a", b"no parquet", name="core__count.cube.parquet")
    assert "core: all is in snapshot 1" in call(capsys, "process", "core")
    with Workspace.open(folder) as space:
        assert published(space) == []


def test_a_study_without_a_snapshot_is_told_as_one():
    told = studies._stands("core", {"state": "unchanged", "snapshot": None})
    assert told == "core: nothing is published"


def test_of_very_many_sites_some_are_named():
    sites = [f"s{n}" for n in range(200)]
    data = {"moves": [], "findings": [], "study": "core", "state": "published", "snapshot": 1}
    package = {"name": "count", "version": 0, "sites": sites}
    (line, _) = studies._show_outcome(data | {"packages": [package]})
    assert line == f"count, version 0: {', '.join(sites[:10])} and 190 more"


def test_an_upload_tells_what_differs_from_the_one_before():
    quality = {
        "rows": {"now": 3, "before": 2},
        "total": {"now": 9, "before": 9},
        "columns": {"sex": {"distinct": {"now": 2, "before": 1}, "new": ["f"], "vanished": []}},
    }
    file = {"name": CUBE, "kind": "cube", "accepted": True, "rows": 3, "findings": []}
    part = {"filename": "u.zip", "files": [file | {"quality": quality}], "error": None}
    told = {"uploads": [part], "transaction": "t1", "study": "core", "accepted": True}
    _, *lines = upload._show(told)
    assert lines == [
        f"{CUBE}: rows 3, before 2",
        f"{CUBE}: sex: new f",
        "core: accepted (transaction t1)",
    ]
