"""The groups, ops and sensors of imaging, and the crawl of subscriptions: real runs in process."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import dagster as dg
import pytest

from catchment.cli.main import run as call
from catchment.core.errors import Invalid
from catchment.core.store_s3_config import service
from catchment.core.workspace import Workspace
from catchment.flows.definitions import build
from catchment.flows.house import House
from catchment.imaging import lambda_handler, layout
from catchment.imaging.snapshot import open_snapshot
from catchment.testing import aws_lambda
from catchment.testing.dicom import make_file
from catchment.testing.s3 import moto  # noqa: F401 - a fixture

MONTH = f"{datetime.now(UTC):%Y-%m}-01"
SETTINGS = """
[executor]
kind = "threads"

[warehouse]
kind = "duckdb"

[studies.core]
min_cell = 0

[imaging.main]
previews = "middle"

[imaging.main.providers]
north = "north"
south = "south"
"""


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "catchment.toml").write_text(SETTINGS)
    for provider in ("north", "south"):
        (tmp_path / provider).mkdir()
        for number in range(2):
            uid = f"1.2.3.1.1.{len(provider)}{'1' if provider == 'north' else '2'}{number}"
            data = make_file(uid, patient=f"{provider}{number}")
            (tmp_path / provider / f"{number}.dcm").write_bytes(data)
    return tmp_path


@pytest.fixture
def found(workspace):
    return build(House(path=str(workspace)))


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as opened:
        opened.add_dynamic_partitions("imaging_main", ["north", "south"])
        yield opened


def execute(found, instance, job, partition=None, **more):
    return found.resolve_job_def(job).execute_in_process(
        instance=instance, partition_key=partition, **more
    )


def told(done):
    return {
        "/".join(e.asset_key.path[2:]): {k: v.value for k, v in e.materialization.metadata.items()}
        for e in done.get_asset_materialization_events()
    }


def look(found, instance, cursor=None, name="imaging_main_compressed"):
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, definitions=found, resources=found.resources
    ) as context:
        return found.resolve_sensor_def(name).evaluate_tick(context)


def test_group_by_group_files_become_tables(found, workspace, instance):
    paths = told(execute(found, instance, "imaging_main_operational", "north"))
    assert paths["operational/paths"]["digest"]
    north = told(execute(found, instance, "imaging_main_raw", "north"))
    assert north["raw/files"] == {"waiting": 2, "findings": 0}
    south = told(execute(found, instance, "imaging_main_raw", "south"))
    assert south["raw/files"]["waiting"] == 4
    assert told(execute(found, instance, "imaging_main_raw", "south")) == south
    done = execute(found, instance, "imaging_main_stage", MONTH)
    stage = told(done)
    assert {name: one["rows"] for name, one in stage.items()} == {
        "stage/devices": 2,
        "stage/patients": 4,
        "stage/studies": 1,
        "stage/series": 1,
        "stage/images": 4,
        "stage/compressed_images": 4,
    }
    (check,) = done.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("references_lead_to_rows", True)
    done = execute(found, instance, "imaging_main_processed", MONTH)
    assert told(done)["processed/processed_images"]["rows"] == 4
    assert all(c.passed for c in done.get_asset_check_evaluations())
    nightly = execute(found, instance, "nightly")
    (metadata,) = (
        e.materialization.metadata
        for e in nightly.get_asset_materialization_events()
        if e.asset_key.path == ["imaging", "main"]
    )
    assert metadata["state"].value == "unchanged"
    older = told(execute(found, instance, "imaging_main_stage", "2026-01-01"))
    assert older["stage/images"]["rows"] == 0
    with Workspace.open(workspace) as opened:
        assert open_snapshot(opened.store, opened.ledger, "main").record.number == 1


def test_pictures_are_there_before_a_run_asks_for_them(found, workspace, instance):
    execute(found, instance, "imaging_main_raw", "north")
    done = execute(found, instance, "imaging_main_compress")
    assert len(done.output_for_node("get_raw_keys")) == 2
    assert done.output_for_node("compress_pixel_data") == 2
    with Workspace.open(workspace) as opened:
        before = {s.key: s.etag for s in opened.store.list("imaging/main/previews/")}
        assert len(before) == 1  # the same pixels
        opened.store.delete(done.output_for_node("get_raw_keys")[0])
    again = execute(found, instance, "imaging_main_compress")
    assert len(again.output_for_node("get_raw_files")) == 1  # the lost one is told, and no more
    with Workspace.open(workspace) as opened:
        after = {s.key: s.etag for s in opened.store.list("imaging/main/previews/")}
    assert after == before


@pytest.fixture
def function(monkeypatch, workspace):
    """The API of AWS Lambda, and the function behind it."""
    with aws_lambda.function(lambda_handler.handler) as (made, environment):
        environment["CATCHMENT_WORKSPACE__STORE"] = (workspace / "data").as_uri()
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield made


def test_a_function_makes_the_same_pictures(found, workspace, instance, function):
    execute(found, instance, "imaging_main_raw", "north")
    job = "imaging_main_compress_remotely"
    with pytest.raises(Invalid, match="no compressor"):
        execute(found, instance, job)
    text = (workspace / "catchment.toml").read_text()
    changed = text.replace(
        'previews = "middle"', 'previews = "middle"\ncompress = "lambda:pictures"'
    )
    (workspace / "catchment.toml").write_text(changed)
    done = execute(found, instance, job)
    assert done.output_for_node("compress_pixel_data_remotely") == 2
    assert len(function.invoked) == 1
    with Workspace.open(workspace) as opened:
        assert len(list(opened.store.list("imaging/main/previews/"))) == 1
    assert "no compression" in look(found, instance).skip_message  # the job has read its results


def test_no_picture_is_made_of_what_is_to_be_deidentified(found, workspace, instance):
    execute(found, instance, "imaging_main_raw", "north")
    text = (workspace / "catchment.toml").read_text()
    changed = text.replace('previews = "middle"', 'previews = "middle"\ndeidentify = "basic"')
    (workspace / "catchment.toml").write_text(changed)
    with pytest.raises(Invalid) as caught:
        execute(found, instance, "imaging_main_compress")
    assert caught.value.kind == "raw-pixels"


def test_a_finished_compression_is_published(found, workspace, instance):
    assert "no compression" in look(found, instance).skip_message
    with Workspace.open(workspace) as opened:
        opened.store.put(f"{layout.results('main')}one.json", b"{}")
    first = look(found, instance)
    (request,) = first.run_requests
    assert request.partition_key == MONTH
    assert look(found, instance).run_requests[0].run_key == request.run_key
    assert not look(found, instance, first.cursor).run_requests
    with Workspace.open(workspace) as opened:
        opened.store.delete(f"{layout.results('main')}one.json")
        opened.store.put(f"{layout.results('main')}two.json", b"{}")
    late = look(found, instance, first.cursor)  # whatever was missed is caught up
    assert late.run_requests[0].run_key != request.run_key
    assert json.loads(late.cursor) == [f"{layout.results('main')}two.json"]


def event(*keys):
    told = [{"bucket": {"name": "b"}, "object": {"key": key}} for key in keys]
    return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": s3} for s3 in told]})


def test_a_queue_tells_of_it_at_once(workspace, instance, moto):  # noqa: F811
    sqs = service("sqs", moto.options, endpoint=moto.endpoint)
    url = sqs.create_queue(QueueName=workspace.name.replace("_", "-")[:60])["QueueUrl"]
    lines = [f'store = "s3://{moto.bucket}/a b"', 'ledger = "ledger.db"', "[s3]"]
    lines += [f'{name} = "{value}"' for name, value in moto.options.items()]
    text = "[workspace]\n" + "\n".join(lines) + f'\n[events]\nqueue = "{url}"\n' + SETTINGS
    (workspace / "catchment.toml").write_text(text.replace('"true"', "true"))
    found = build(House(path=str(workspace)))
    key = f"a+b/{layout.results('main')}x.json"
    bodies = (
        event(key),
        event("a+b/other/y"),
        "no event",
        json.dumps({"Type": "Notification", "Message": event(key)}),
    )
    for body in bodies:
        sqs.send_message(QueueUrl=url, MessageBody=body)
    told = look(found, instance)
    assert len(told.run_requests) == 1
    assert json.loads(told.cursor) == [f"{layout.results('main')}x.json"]
    assert not look(found, instance, told.cursor).run_requests  # the queue is empty
    text = (workspace / "catchment.toml").read_text().replace(url, url + "-gone")
    (workspace / "catchment.toml").write_text(text)
    refused = look(found, instance)
    assert "queue" in refused.skip_message


def test_the_crawl_of_subscriptions(found, workspace, instance):
    import duckdb

    from catchment.studies import layout as places
    from catchment.testing.studies import make_uploads

    with Workspace.open(workspace) as opened:
        for site, file in make_uploads(workspace / "zips", ["alpha"]).items():
            opened.store.put(places.staging("core", site, 0, file.name), file.read_bytes())
    execute(found, instance, "studies")
    file = workspace / "warehouse.duckdb"
    file.unlink()
    assert execute(found, instance, "crawl_subscriptions").success
    with duckdb.connect(str(file), read_only=True) as connection:
        names = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    assert any(name.startswith("core__") for (name,) in names)
    file.write_bytes(b"no database" * 1000)
    assert not execute(found, instance, "crawl_subscriptions", raise_on_error=False).success
    assert found.resolve_schedule_def("every_week").cron_schedule == "0 4 * * 0"


def test_sessions_are_partitions(workspace, instance):
    from catchment.testing.workspaces import make_recordings

    make_recordings(workspace / "recordings", 2, 10)
    with (workspace / "catchment.toml").open("a") as file:
        file.write('\n[arrays.eeg]\nrecordings = "recordings"\n')
    found = build(House(path=str(workspace)))
    done = execute(found, instance, "arrays")
    events = [e for e in done.get_asset_materialization_events() if "sessions" in e.asset_key.path]
    sessions = instance.get_dynamic_partitions("arrays_eeg_sessions")
    assert {e.partition for e in events} == set(sessions)
    assert len(sessions) == 2
    assert all(e.materialization.metadata["windows"].value > 0 for e in events)
    again = execute(found, instance, "arrays")
    assert not [e for e in again.get_asset_materialization_events() if e.partition]
    assert (
        dg.AssetKey(["arrays", "eeg", "sessions"])
        in found.resolve_asset_graph().get_all_asset_keys()
    )


def test_the_command_takes_a_partition(workspace, capsys, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    where = ["-w", str(workspace), "flows", "run"]

    def told(*arguments):
        assert call([*where, *arguments, "--json"]) == 2
        return json.loads(capsys.readouterr().out)["error"]

    def kind(*arguments):
        return told(*arguments)["kind"]

    assert told("imaging_main_raw")["hint"].endswith("--partition P")  # none is known yet
    assert told("imaging_main_stage")["hint"].endswith("-01")  # the form of a month
    assert kind("imaging_main_raw") == "which-partition"
    assert kind("nightly", "--partition", "x") == "which-partition"
    assert kind("imaging_main_stage", "--partition", "1999-01-01") == "which-partition"
    assert call([*where, "imaging_main_raw", "--partition", "north"]) == 0
    assert "materialized imaging/main/raw/files" in capsys.readouterr().out
    assert told("imaging_main_raw")["hint"].endswith("--partition north")
    assert call([*where, "imaging_main_raw", "--partition", "west", "--json"]) == 1
    assert "west" not in json.loads(capsys.readouterr().out)["materialized"]
    assert told("imaging_main_raw")["hint"].endswith("--partition north")  # it left no partition
    assert call([*where, "imaging_main_raw", "--partition", "north"]) == 0  # it is known now
    assert call([*where, "imaging_main_stage", "--partition", MONTH]) == 0
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
