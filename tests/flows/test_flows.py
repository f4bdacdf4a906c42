"""Definitions of a real workspace, run in this process on its embedded parts."""

from __future__ import annotations

import base64
import json

import dagster as dg
import pytest

from catchment.cli.main import run as call
from catchment.core.errors import Invalid
from catchment.core.settings import Settings
from catchment.core.workspace import Workspace
from catchment.flows.aggregates.checks import make
from catchment.flows.definitions import build, defs
from catchment.flows.house import House
from catchment.tables import capability
from catchment.testing.centers import change_center

TABLES, CLAIMS = dg.AssetKey(["tables", "main"]), dg.AssetKey(["exports", "claims"])


@pytest.fixture
def found(workspace):
    return build(House(path=str(workspace)))


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def execute(found, job, instance, **options):
    return found.resolve_job_def(job).execute_in_process(instance=instance, **options)


def checks(done):
    return {(c.asset_key, c.check_name): c for c in done.get_asset_check_evaluations()}


def test_definitions_load_from_the_environment(workspace, monkeypatch):
    monkeypatch.setenv("CATCHMENT_WORKSPACE", str(workspace))
    loaded = defs()
    dg.Definitions.validate_loadable(loaded)
    assert {TABLES, CLAIMS} <= loaded.resolve_asset_graph().get_all_asset_keys()


def test_nightly_brings_all_up_to_date_with_every_check_green(found, workspace, instance):
    done = execute(found, "nightly", instance)
    assert done.success
    assert all(c.passed for c in checks(done).values())
    assert {name for key, name in checks(done) if key == TABLES} == {
        "account_balances",
        "digests_hold",
        "drift_is_small",
        "fresh",
    }
    with Workspace.open(workspace) as opened:
        snapshot = opened.ledger.latest("tables/main")
        account = opened.ledger.account(snapshot.run)
    told = {
        e.asset_key: e.materialization.metadata for e in done.get_asset_materialization_events()
    }
    facts = told[TABLES]
    assert facts["snapshot"].value == snapshot.number == 1
    assert facts["bytes"].value == sum(item["size"] for item in snapshot.provenance["objects"])
    assert facts["seconds"].value > 0
    rows = {(r.data["site"], r.data["unit"]): r.data for r in facts["account"].records}
    for line, balance in account:
        assert rows[line.site, line.unit]["received"] == balance.received
    image = facts["shares"].value.partition("base64,")[2].removesuffix(")")
    picture = base64.b64decode(image).decode()
    assert picture.count("<text") == len({(line.site, line.unit) for line, _ in account})
    again = execute(found, "nightly", instance)
    versions = [
        e.materialization.metadata["state"].value for e in again.get_asset_materialization_events()
    ]
    assert versions == ["unchanged", "unchanged"]


def test_uploads_and_images_come_along(workspace, instance):
    import shutil

    from pydicom.data import get_testdata_file

    from catchment.studies import layout
    from catchment.testing.studies import make_uploads

    clinic = workspace / "clinic"
    clinic.mkdir()
    shutil.copy(get_testdata_file("CT_small.dcm"), clinic)
    with (workspace / "catchment.toml").open("a") as file:
        file.write("[studies.core]\nmin_cell = 0\n[imaging.main.providers]\nclinic = 'clinic'\n")
    zips = make_uploads(workspace / "zips", ["alpha", "beta"])
    with Workspace.open(workspace) as opened:
        for site, zip_ in zips.items():
            opened.store.put(layout.staging("core", site, 0, zip_.name), zip_.read_bytes())
    found = build(House(path=str(workspace)))
    for name in ("studies_core_changed", "imaging_main_changed"):
        assert look(found, instance, name=name).run_requests
    done = execute(found, "nightly", instance)
    assert done.success
    assert all(c.passed for c in checks(done).values())
    keys = {"/".join(e.asset_key.path) for e in done.get_asset_materialization_events()}
    snapshots = {"tables/main", "exports/claims", "studies/core", "imaging/main"}
    assert keys == snapshots | {"tables/main/uds", "studies/core/count_patient"}
    (clinic / "more.dcm").write_bytes(b"no DICOM")
    assert look(found, instance, name="imaging_main_changed").run_requests
    again = execute(found, "nightly", instance)
    assert all(c.passed for c in checks(again).values())


def test_pieces_that_others_published_are_told_once(workspace, instance):
    """A snapshot of the command line, which Dagster has not heard of."""
    with Workspace.open(workspace) as opened:
        done = capability.run(opened, "main")
    sites = {line.site for line, _ in done.account if line.part and line.unit == "rows"}
    found, piece = build(House(path=str(workspace))), dg.AssetKey(["tables", "main", "uds"])
    for _ in range(2):
        assert execute(found, "tables", instance).success
        assert instance.get_materialized_partitions(piece) == sites
    records = instance.fetch_materializations(piece, limit=1000).records
    assert len(records) == len(sites)


def test_a_job_of_one_capability(found, instance):
    done = execute(found, "exports", instance)
    assert {e.asset_key for e in done.get_asset_materialization_events()} == {CLAIMS}


def test_a_damaged_object_fails_its_check(found, workspace, instance):
    assert execute(found, "tables", instance).success
    (table,) = workspace.glob("data/tables/main/*/uds/aggregate_result.parquet")
    data = bytearray(table.read_bytes())
    data[100] ^= 1
    table.chmod(0o644)
    table.write_bytes(data)
    done = execute(found, "tables", instance)
    found_wrong = checks(done)[TABLES, "digests_hold"]
    assert not found_wrong.passed
    assert "uds" in str(found_wrong.metadata["wrong"].value)


def test_drift_above_the_limit_is_a_warning(workspace, tmp_path, made, instance):
    from catchment.testing.centers import make_centers

    drifted = make_centers(tmp_path / "more", centers=3, columns=8, drift_columns=4, broken=0)
    text = (workspace / "catchment.toml").read_text()
    for name in ("datasets", "centers", "identifiers"):
        text = text.replace(str(getattr(made, name)), str(getattr(drifted, name)))
    (workspace / "catchment.toml").write_text(text)
    done = execute(build(House(path=str(workspace))), "tables", instance)
    drift = checks(done)[TABLES, "drift_is_small"]
    assert (drift.passed, drift.severity) == (False, dg.AssetCheckSeverity.WARN)


def look(found, instance, cursor=None, name="tables_main_changed"):
    sensor = found.resolve_sensor_def(name)
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, definitions=found, resources=found.resources
    ) as context:
        return sensor.evaluate_tick(context)


def test_the_sensor_runs_what_changed_and_only_that(found, made, instance):
    first = look(found, instance)
    assert len(first.run_requests) == 1
    (request,) = first.dynamic_partitions_requests
    assert request.partition_keys == sorted(made.ids)
    assert {event.partition for event in first.asset_events} == set(made.ids)
    assert look(found, instance).run_requests[0].run_key == first.run_requests[0].run_key
    same = look(found, instance, first.cursor)
    assert not same.run_requests
    assert "no site" in same.skip_message
    changed = made.ids[1]
    change_center(made, changed)
    news = look(found, instance, first.cursor)
    assert [event.partition for event in news.asset_events] == [changed]
    assert news.run_requests[0].run_key != first.run_requests[0].run_key
    # An event that was missed is caught up: an old cursor sees all that came since.
    change_center(made, made.ids[2])
    late = look(found, instance, first.cursor)
    assert {event.partition for event in late.asset_events} == {changed, made.ids[2]}


def test_a_site_that_goes_back_to_what_it_had_is_run_again(found, made, instance, monkeypatch):
    """Dagster starts no run twice by one key: that of a listing alone would be one of before."""
    sites = {"a": "1"}
    monkeypatch.setattr("catchment.tables.capability.sites", lambda *_: sites)
    keys, cursor = [], json.dumps(sites)  # of an earlier version
    for digest in ("2", "1", "2", "1"):
        sites["a"] = digest
        seen = look(found, instance, cursor)
        again = look(found, instance, cursor)
        assert [r.run_key for r in again.run_requests] == [r.run_key for r in seen.run_requests]
        keys.append(seen.run_requests[0].run_key)
        cursor = seen.cursor
    assert len(set(keys)) == 4
    assert not look(found, instance, cursor).run_requests


def test_only_a_run_that_ended_well_is_fresh(workspace):
    """One that was killed is no reason to call an aggregate fresh."""
    house = House(path=str(workspace))
    (fresh,) = (one for one in make("tables/main") if "fresh" in str(one.check_keys))
    for state, passed in (("cancelled", False), ("failed", False), ("unchanged", True)):
        with house.open() as opened:
            opened.ledger.finish_run(opened.ledger.start_run("tables/main", {}).id, state)
        assert fresh(house=house).passed is passed


def test_a_sensor_that_cannot_look_says_why(found, workspace, made, instance):
    made.centers.unlink()
    skipped = look(found, instance)
    assert not skipped.run_requests
    assert "centers" in skipped.skip_message


def test_the_command_checks_and_runs(workspace, capsys, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("CATCHMENT_WORKSPACE", str(workspace))
    assert call(["flows", "check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["jobs"] == ["exports", "nightly", "tables"]
    assert told["sensors"] == ["exports_claims_changed", "tables_main_changed"]
    assert call(["flows", "run", "nightly"]) == 0
    out = capsys.readouterr()
    assert "materialized tables/main" in out.out
    assert "DEBUG" not in out.err
    assert "enabled: false" in (workspace / ".catchment/dagster/dagster.yaml").read_text()
    assert call(["flows", "run", "daily", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "no-job"
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def test_a_failure_is_told_in_our_words(workspace, made, capsys, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    made.centers.write_text("{}")
    assert call(["-w", str(workspace), "flows", "run", "tables", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["success"] is False
    assert "Traceback" not in told["steps"][0]["error"]
    assert "expected" in told["steps"][0]["error"] or "none of" in told["steps"][0]["error"]
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def test_the_environment_lays_a_file_over(workspace, monkeypatch):
    file = workspace / "catchment.toml"
    (workspace / "catchment.prod.toml").write_text('[workspace]\nstore = "s3://bucket/data"\n')
    assert Settings.load(file, environment={}).workspace.store.startswith("file://")
    there = Settings.load(file, environment={"CATCHMENT_ENV": "prod"})
    assert there.workspace.store == "s3://bucket/data"
    assert (
        there.tables["main"]
        == Settings.load(file, environment={"CATCHMENT_ENV": "local"}).tables["main"]
    )
    origins = {key: origin for key, _, origin in there.shown()}
    assert origins["workspace.store"] == "catchment.prod.toml"
    for wrong in ("staging", "../x"):
        with pytest.raises(Invalid) as caught:
            Settings.load(file, environment={"CATCHMENT_ENV": wrong})
        assert caught.value.kind == "bad-settings"
