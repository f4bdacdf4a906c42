"""Seen from outside: lineage, crates and Croissant by their published schemas; verify; the audit."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
import sqlalchemy as sa

from catchment.core.account import Account
from catchment.core.errors import Invalid
from catchment.core.ledger.people import People
from catchment.core.ledger.schema import audit
from catchment.core.workspace import Workspace
from catchment.testing.workspaces import make_inputs, make_workspace
from tests.collecting import collecting
from tests.studies.studying import STUDY, table

AGGREGATES = ("tables/main", "exports/claims", "imaging/ct", "arrays/eeg", f"studies/{STUDY}")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A workspace of all five kinds, each with a snapshot, and a file of what was told of runs."""
    from catchment.cli.main import run
    from catchment.studies import library
    from catchment.testing.studies import study_zip

    folder = tmp_path_factory.mktemp("outside")
    make_inputs(folder / "inputs")
    more = f'[lineage]\nfile = "lineage.ndjson"\n[studies.{STUDY}]\nmin_cell = 5\n'
    made = make_workspace(folder / "house", folder / "inputs", more=more)
    with Workspace.open(made) as workspace:
        rows = [(40, None, None), (37, "f", None), (3, "m", None), (40, None, "x")]
        data = study_zip(STUDY, {"count_x": table(*rows)})
        key = f"upload_staging/{STUDY}/boston/000/u_core.zip"
        workspace.store.put(key, data)
        library.submit(workspace, "boston", STUDY, 0, "u_core.zip", key, "anna", "tx-1")
    handlers, level = logging.root.handlers[:], logging.root.level
    assert run(["run", "-w", str(made), "-q"]) == 0
    logging.root.handlers[:], logging.root.level = handlers, level
    return made


def told(folder):
    return [json.loads(line) for line in (folder / "lineage.ndjson").read_text().splitlines()]


FACETS = {
    "processing_engine": ("processing_engine_run", "ProcessingEngineRunFacet"),
    "errorMessage": ("error_message_run", "ErrorMessageRunFacet"),
    "jobType": ("job_type_job", "JobTypeJobFacet"),
    "version": ("dataset_version_dataset", "DatasetVersionDatasetFacet"),
    "schema": ("schema_dataset", "SchemaDatasetFacet"),
    "inputStatistics": ("input_statistics_input_dataset", "InputStatisticsInputDatasetFacet"),
    "outputStatistics": ("output_statistics_output_dataset", "OutputStatisticsOutputDatasetFacet"),
}


def check_event(event):
    """By the classes that the specification's own generator made of its schemas, key by key."""
    from importlib import import_module

    import attr
    from openlineage.client.generated import base

    def check_facets(facets):
        for name, facet in facets.items():
            module, cls = FACETS[name]
            kind = getattr(import_module(f"openlineage.client.generated.{module}"), cls)
            values = {k: v for k, v in facet.items() if not k.startswith("_")}
            kind(**values)  # raises for what is missing, unknown or of a wrong form
            assert facet["_schemaURL"] == kind._get_schema()
            assert facet["_producer"].startswith("urn:catchment:")

    def known(kind, data):
        names = {a.name for a in attr.fields(kind)}
        required = {a.name for a in attr.fields(kind) if a.default is attr.NOTHING}
        assert required <= set(data) <= names, (kind, set(data))

    known(base.RunEvent, event)
    assert event["schemaURL"] == base.RunEvent._get_schema()
    base.EventType(event["eventType"])
    base.RunEvent(
        eventTime=event["eventTime"],
        run=base.Run(event["run"]["runId"]),
        job=base.Job(event["job"]["namespace"], event["job"]["name"]),
        producer=event["producer"],
    )
    known(base.Run, event["run"])
    known(base.Job, event["job"])
    check_facets(event["run"]["facets"])
    check_facets(event["job"]["facets"])
    for one in event["inputs"]:
        known(base.InputDataset, one)
        check_facets(one["facets"])
        check_facets(one["inputFacets"])
    for one in event["outputs"]:
        known(base.OutputDataset, one)
        check_facets(one["facets"])
        check_facets(one["outputFacets"])


def test_every_run_is_told_as_openlineage_says(published):
    found = told(published)
    for event in found:
        check_event(event)
    by_run = {}
    for event in found:
        by_run.setdefault(event["run"]["runId"], []).append(event)
    assert {events[0]["job"]["name"] for events in by_run.values()} >= set(AGGREGATES[:4])
    for events in by_run.values():
        kinds = [event["eventType"] for event in events]
        assert kinds[-1] == "COMPLETE"
        assert set(kinds[:-1]) <= {"START"}
    end = next(
        e for e in found if e["job"]["name"] == "tables/main" and e["eventType"] == "COMPLETE"
    )
    (output,) = end["outputs"]
    assert output["namespace"] == "file"
    assert output["name"].startswith("/")
    assert output["facets"]["version"]["datasetVersion"] == "1"
    assert {field["name"] for field in output["facets"]["schema"]["fields"]}
    assert sum(i["inputFacets"]["inputStatistics"]["rowCount"] for i in end["inputs"]) > 0
    end = next(e for e in found if e["job"]["name"].startswith("imaging/") and e["inputs"])
    for one in end["inputs"]:  # of files, which are no rows
        statistics = one["inputFacets"]["inputStatistics"]
        assert "rowCount" not in statistics
        assert statistics["fileCount"] > 0


def test_a_fault_of_the_teller_is_a_warning_and_the_next_run_is_told_of(tmp_path, caplog):
    from catchment.core import lineage
    from catchment.core.sections import LineageSettings

    class Sick:
        def run(self, run):
            raise ValueError("an odd answer" if run == "1" else "another")

    teller = lineage.Teller(
        LineageSettings(file=str(tmp_path / "x")), lineage.Place("w", "s"), Sick()
    )
    for run in "12":
        teller.note(run, ended=True)
    teller.close()
    assert [r.getMessage() for r in caplog.records] == [
        f"run {run} is not told of: ValueError" for run in "12"
    ]


def test_events_can_be_told_again_and_are_the_same(published, catchment):
    again = catchment("lineage", "-w", published)
    assert again.code == 0
    lines = [json.loads(line) for line in again.out.splitlines()]
    for event in lines:
        check_event(event)
    for event in told(published):
        assert event in lines
    one = catchment("lineage", "tables/main", "-w", published, "--json", "--limit", "1").json
    assert [event["eventType"] for event in one] == ["START", "COMPLETE"]
    before = (published / "lineage.ndjson").read_bytes()
    assert catchment("lineage", "tables/main", "-w", published, "--send", "-q").code == 0
    after = (published / "lineage.ndjson").read_bytes()
    assert after.startswith(before)
    assert len(after.splitlines()) == len(before.splitlines()) + 2
    (published / "lineage.ndjson").write_bytes(before)


def test_lineage_of_what_nobody_knows_is_an_error(published, catchment):
    told = catchment("lineage", "tables/none", "-w", published)
    assert told.code == 3
    assert "nothing is known of 'tables/none'" in told.err


def test_nobody_to_send_to_is_told(catchment, tmp_path):
    catchment("init", "w")
    failed = catchment("lineage", "--send", "-w", "w")
    assert failed.code == 2
    assert "lineage" in failed.err


@pytest.fixture
def collector():
    with collecting() as server:
        yield server


def house(tmp_path, url):
    return Workspace.described(
        {
            "workspace.store": tmp_path.as_uri(),
            "workspace.name": "network",
            "lineage.url": url,
            "lineage.token": "a-token",
        }
    )


def test_a_run_that_fails_or_is_cancelled_is_told_to_the_collector(tmp_path, collector):
    with house(tmp_path, f"{collector.url}/api/v1/lineage") as space:
        ledger = space.ledger
        bad = ledger.start_run("tables/a", {})
        ledger.finish_run(bad.id, "failed", Invalid("expected a table, got none", kind="no-table"))
        ledger.finish_run(ledger.start_run("tables/a", {}).id, "cancelled")
        ledger.finish_run(ledger.start_run("tables/a", {}).id, "unchanged")
    assert {token for token, _ in collector.got} == {"Bearer a-token"}
    events = [json.loads(event) for _, event in collector.got]
    for event in events:
        check_event(event)
    kinds = [event["eventType"] for event in events]
    assert kinds == ["START", "FAIL", "START", "ABORT", "START", "COMPLETE"]
    message = events[1]["run"]["facets"]["errorMessage"]["message"]
    assert message == "no-table: expected a table, got none"
    assert {event["job"]["namespace"] for event in events} == {"network"}


def test_a_collector_that_is_away_or_refuses_delays_nothing(tmp_path, collector, caplog):
    with house(tmp_path, "http://127.0.0.1:9/") as space:
        began = time.monotonic()
        space.ledger.finish_run(space.ledger.start_run("tables/a", {}).id, "unchanged")
        assert time.monotonic() - began < 1
    assert "the collector is not reached" in caplog.text
    collector.status = 503
    with house(tmp_path, f"{collector.url}/") as space:
        space.ledger.start_run("tables/a", {})
    assert "the collector answers 503" in caplog.text


def test_a_collector_that_hangs_is_not_waited_for(tmp_path, collector, caplog, monkeypatch):
    from catchment.core import lineage

    monkeypatch.setattr(lineage, "PATIENCE", 0.2)
    monkeypatch.setattr(lineage, "WAITING", 3)
    collector.pause = 1
    with house(tmp_path, f"{collector.url}/") as space:
        began = time.monotonic()
        for _ in range(9):
            space.ledger.start_run("tables/a", {})
        assert time.monotonic() - began < 5
    assert "the collector is too slow" in caplog.text
    assert "not all runs were told of" in caplog.text
    collector.pause = 0


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    from catchment.core.errors import Unavailable
    from catchment.core.lineage import send
    from catchment.core.sections import LineageSettings

    with pytest.raises(Unavailable) as refused:
        send(LineageSettings(file=str(tmp_path)), [{}])
    assert refused.value.kind == "lineage-refused"


def test_a_file_that_takes_a_part_of_the_events_is_a_warning(tmp_path, monkeypatch):
    from catchment.core.errors import Unavailable
    from catchment.core.lineage import send
    from catchment.core.sections import LineageSettings

    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:1]))
    with pytest.raises(Unavailable, match="took a part"):
        send(LineageSettings(file=str(tmp_path / "events")), [{}])


# Crates


def check_crate(folder):
    """By the package of the specification: every term is of its context, every part is there."""
    from importlib.resources import files

    from rocrate.rocrate import ROCrate

    crate = ROCrate(folder)
    context = json.loads(files("rocrate").joinpath("data", "ro-crate.jsonld").read_text())
    terms = {*context["@context"], "@id", "@type", "@context"}
    document = json.loads((folder / "ro-crate-metadata.json").read_text())
    assert document["@context"] == "https://w3id.org/ro/crate/1.1/context"
    ids = {entity["@id"] for entity in document["@graph"]}
    assert len(ids) == len(document["@graph"])
    for entity in document["@graph"]:
        assert set(entity) <= terms, set(entity) - terms
        for kind in [entity["@type"]]:
            assert kind in terms
        for value in entity.values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict) and not one["@id"].startswith("http"):
                    assert one["@id"] in ids, one
    root = crate.root_dataset
    for needed in ("name", "description", "datePublished", "license"):
        assert root[needed]
    parts = {
        unquote(part["@id"])
        for part in next(e for e in document["@graph"] if e["@id"] == "./")["hasPart"]
    }
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert parts == there - {"ro-crate-metadata.json"}
    for entity in document["@graph"]:
        if "sha256" in entity:
            data = (folder / unquote(entity["@id"])).read_bytes()
            assert entity["sha256"] == hashlib.sha256(data).hexdigest()
            assert entity["contentSize"] == str(len(data))
    return document


def check_croissant(folder):
    """By the reference implementation: no error, no warning; the records can be read."""
    import mlcroissant

    dataset = mlcroissant.Dataset(folder / "croissant.json")
    issues = dataset.metadata.ctx.issues
    assert not issues.errors, issues.report()
    return dataset


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::SyntaxWarning")
def test_a_snapshot_becomes_a_crate(published, catchment, tmp_path, aggregate):
    folder = tmp_path / "crate"
    done = catchment(
        "crate", aggregate, folder, "-w", published, "--license", "CC-BY-4.0", "--json"
    )
    assert done.code == 0, done.err
    document = check_crate(folder)
    dataset = check_croissant(folder)
    assert len(done.json["files"]) == len(document["@graph"][1]["hasPart"]) - 1
    if aggregate in {"tables/main", f"studies/{STUDY}"}:
        import pyarrow.parquet as pq

        (first, *_) = [f for f in done.json["files"] if f["path"].endswith(".parquet")]
        name = f"records/{first['path'].removesuffix('.parquet')}"
        rows = sum(1 for _ in dataset.records(name))
        assert rows == pq.read_metadata(folder / first["path"]).num_rows
    if aggregate.startswith("imaging/"):  # what was received, and not published, stays where it is
        assert {f["path"].split("/tables/")[1].split("/")[0] for f in done.json["files"]} == {
            "devices", "patients", "studies", "series", "images", "processed_images", "compressed_images",
        }  # fmt: skip
    if aggregate == f"studies/{STUDY}":  # small cells stay where they are
        assert all("released" in f["path"] for f in done.json["files"])


def test_a_crate_says_what_is_in_its_way(published, catchment, tmp_path):
    folder = tmp_path / "crate"
    plain = catchment("crate", "tables/main", folder, "-w", published, "--number", "1")
    assert plain.out.splitlines()[0].endswith(" of tables/main, snapshot 1")
    assert catchment("crate", "tables/main", folder, "-w", published).code == 4
    none = catchment("crate", "tables/none", tmp_path / "b", "-w", published)
    assert none.code == 3
    assert (
        catchment("crate", "tables/main", tmp_path / "c", "-w", published, "--number", "9").code
        == 3
    )


def test_a_damaged_object_is_not_handed_on(tmp_path):
    from catchment.core import crate
    from catchment.core.errors import Corrupt, NotFound
    from catchment.core.ledger import Publication

    with Workspace.described({"workspace.store": tmp_path.joinpath("s").as_uri()}) as space:
        space.store.put("x/a.bin", b"other")
        item = {"role": "table", "key": "x/a.bin", "size": 5, "digest": "sha256:0"}
        made = space.ledger.publish(
            Publication("tables/a", "k", "x/", {"objects": [item]}, Account())
        )
        with pytest.raises(Corrupt) as damaged:
            crate.export(space.store, made, [item], tmp_path / "crate", publisher="us")
        assert damaged.value.kind == "object-damaged"
        assert not (tmp_path / "crate" / "a.bin").exists()
        with pytest.raises(NotFound) as nothing:
            crate.export(space.store, made, [], tmp_path / "crate", publisher="us")
        assert nothing.value.kind == "nothing-to-share"


def test_every_type_of_column_has_one_of_croissant():
    import pyarrow as pa

    from catchment.core.croissant import _type

    kinds = {
        pa.bool_(): "sc:Boolean", pa.int8(): "sc:Integer", pa.float32(): "sc:Float",
        pa.decimal128(9, 2): "sc:Float", pa.date32(): "sc:Date", pa.timestamp("us"): "sc:DateTime",
        pa.string(): "sc:Text", pa.list_(pa.int8()): "sc:Text",
    }  # fmt: skip
    assert {kind: _type(kind) for kind in kinds} == kinds


# Verify


def test_what_is_published_is_verified(published, catchment, tmp_path):
    well = catchment("verify", "-w", published)
    assert well.code == 0, well.out
    assert set(well.out.splitlines()) == {f"{name}: well" for name in AGGREGATES}
    assert catchment("verify", "tables/none", "-w", published).code == 3
    path = next((published / "data").rglob("aggregate_result.parquet"))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"?")
    try:
        wrong = catchment("verify", "tables/main", "-w", published)
        assert wrong.code == 1
        assert "expected" in wrong.out
    finally:
        path.write_bytes(data)


def test_nothing_published_is_no_fault(catchment):
    catchment("init", "w")
    assert "nothing is published yet" in catchment("verify", "-w", "w").out


def test_what_cannot_be_verified_is_an_error_not_nothing(published, catchment, monkeypatch):
    from catchment.core.errors import NotFound
    from catchment.tables import capability

    def away(workspace, name):
        raise NotFound("the bucket is gone", kind="no-bucket")

    monkeypatch.setattr(capability, "verify", away)
    gone = catchment("verify", "tables/main", "-w", published)
    assert gone.code == 3
    assert "the bucket is gone" in gone.err


CHANGES = {
    "user": "mallory", "role": "viewer", "action": "nothing", "target": "x", "detail": {"n": 9},
    "digest": "0" * 64,
}  # fmt: skip


@pytest.mark.parametrize("line", range(1, 6))
def test_an_audit_log_that_was_changed_at_any_line_is_found_and_named(catchment, tmp_path, line):
    def call(*more):
        return catchment("verify", "--audit", "-w", "w", *more)

    catchment("init", "w")
    for lost in (
        call(),
        catchment("user", "audit", "--check", "-w", "w"),
    ):  # "0 lines: all is well"
        assert (lost.code, "there is no ledger" in lost.err) == (3, True)
    with Workspace.open(tmp_path / "w") as space:
        people, database = People(space.ledger), space.ledger._database
        for n in range(5):
            people.note("otto", "operator", "export cancelled", f"exports/{n}", {"n": n})
        told = call("--json").json
        assert told["lines"] == 5
        for head in (told["head"], f" {told['head'].upper()}\n", "-"):
            assert call("--head", head).code == 0
        refused = call("--head", told["head"][:12])
        assert (refused.code, "64 hexadecimal digits" in refused.err) == (2, True)
        refused = call("--head", "")  # a variable that is not set proves nothing
        assert (refused.code, "--head is empty" in refused.err) == (2, True)
        rows = database.read(lambda c: c.execute(sa.select(audit).order_by(audit.c.id)).all())
        where = audit.c.id == rows[line - 1].id
        for column, value in CHANGES.items():
            was = getattr(rows[line - 1], column)
            database.write(
                lambda c, v={column: value}: c.execute(sa.update(audit).where(where).values(v))
            )
            broken = call()
            assert broken.code == 6
            assert f"line {rows[line - 1].id} " in broken.err
            database.write(
                lambda c, v={column: was}: c.execute(sa.update(audit).where(where).values(v))
            )
        database.write(lambda c: c.execute(sa.delete(audit).where(where)))
        gone = call("--head", told["head"])
        assert gone.code == 6
        assert ("ends at line 4" if line == 5 else f"line {rows[line].id} ") in gone.err


def test_the_chain_holds_while_many_write(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with Workspace.described({"workspace.store": tmp_path.as_uri()}) as space:
        people = People(space.ledger)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: people.note("otto", "operator", "x", str(n)), range(60)))
        assert people.check_audit().lines == 60


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_validator_of_the_community_finds_no_fault(published, catchment, tmp_path):
    """In an environment of its own: it asks for an older version of what we use."""
    import subprocess
    import sys

    for number, aggregate in enumerate(AGGREGATES):
        assert catchment("crate", aggregate, tmp_path / str(number), "-w", published).code == 0
    fresh = tmp_path / "fresh"
    subprocess.run([sys.executable, "-m", "venv", fresh], check=True)
    got = subprocess.run(
        [fresh / "bin" / "pip", "install", "--quiet", "roc-validator", "rocrate"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if got.returncode:
        pytest.skip(f"roc-validator cannot be installed: {got.stderr[-200:]}")
    program = Path(__file__).with_name("validate_crate.py")
    folders = [tmp_path / str(number) for number in range(len(AGGREGATES))]
    done = subprocess.run(
        [fresh / "bin" / "python", program, *folders],
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
