"""Settings become a job; runs leave nothing that cannot be collected."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest

from catchment.core.capability import choose, load
from catchment.core.errors import Invalid, NotFound, Unavailable
from catchment.core.executor import open_executor
from catchment.core.finding import Severity
from catchment.core.provenance import NAME
from catchment.core.store import open_store
from catchment.core.workspace import Workspace
from catchment.tables import capability
from catchment.tables import run as runs
from catchment.tables.identifiers import ServiceIdentifiers
from catchment.tables.identifiers_file import FileIdentifiers
from catchment.tables.model import CriteriaRule, OnDuplicate, Options
from catchment.tables.sources import MappingSource, TemplateSource
from catchment.testing.s3 import moto  # noqa: F401 - a fixture
from catchment.testing.web import listening
from tests.tables.running import Sites, visits

MAPPING = {
    "0": {"adcid": 0, "name": "Zero", "center-id": "zero", "is-active": True, "tags": ["t"]},
    "10": {"adcid": 10, "name": "Alpha", "center_id": "alpha"},
    "11": {"adcid": 11, "name": "Alpha's leads", "group": "alpha-leads"},
    "20": {"adcid": 20, "name": "Beta", "center-id": "beta", "active": False},
    "30": {"adcid": "30", "name": "Gamma", "center-id": "gamma"},
}
NOW = timedelta()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A workspace's folder: two centers have datasets."""
    monkeypatch.setenv("CATCHMENT_EXECUTOR__KIND", "threads")
    (tmp_path / "centers.json").write_text(json.dumps({"centers": MAPPING}))
    sites = Sites(open_store((tmp_path / "sites").as_uri()))
    sites.add("zero", 0, visits(("NACC000001", 0, "2020-01-01", 1)))
    sites.add("alpha", 10, visits(("NACC000002", 10, "2020-01-01", 2)))
    return tmp_path


@pytest.fixture
def opened(folder):
    """Opens the workspace with the lines of [tables.nacc], and what follows them."""
    workspaces = []

    def open_workspace(*lines: str) -> Workspace:
        text = "\n".join(['[tables.nacc]\ncenters = "centers.json"', *lines])
        (folder / "catchment.toml").write_text(text)
        workspaces.append(Workspace.open(folder))
        return workspaces[-1]

    yield open_workspace
    for workspace in workspaces:
        workspace.close()


@pytest.fixture
def workspace(opened):
    return opened('datasets = "sites/{center}"')


# --- from settings to a job ----------------------------------------------------------------------


def test_it_is_the_capability_of_its_name():
    assert load("tables") is capability


def test_the_least_that_must_be_said(opened):
    job = capability.job(opened('datasets = "sites/{center}"'), "nacc")
    assert (job.name, job.aggregate, job.output) == ("nacc", "tables/nacc", "tables/nacc/")
    assert job.options == Options()
    assert job.identifiers is None
    assert isinstance(job.source, TemplateSource)
    assert [c.id for c in job.centers] == ["zero", "alpha", "alpha-leads"]
    assert job.skipped == {"beta": "center-inactive", "gamma": "center-malformed"}
    assert {f.site: f.severity for f in job.findings} == {"beta": Severity.NOTE, "gamma": Severity.ERROR}  # fmt: skip


def test_every_option_reaches_the_job(opened, folder):
    rule = {"uds": {"criteria": ["naccid"], "on_duplicate": "active_only"}}
    (folder / "criteria.json").write_text(json.dumps(rule))
    workspace = opened(
        'datasets = "sites/{center}"', 'output = "/some/where/"', "freeze_date = 2026-01-31",
        'include_centers = ["zero", "alpha", "alpha-leads"]', 'exclude_studies = "leads"',
        'duplicates_criteria = "criteria.json"', 'mode = "dev"', "strict = true",
        "require_all = true", "fall_back = true", 'identifiers = "people.csv"',
    )  # fmt: skip
    job = capability.job(workspace, "nacc")
    assert job.output == "some/where/"
    assert job.options == Options(
        freeze_date="20260131",
        include_centers=frozenset({"zero", "alpha", "alpha-leads"}),
        exclude_studies=frozenset({"leads"}),
        transfers=False,
        criteria={"uds": CriteriaRule(("naccid",), OnDuplicate.ACTIVE_ONLY)},
        mode="dev",
        strict=True,
        require_all=True,
        fall_back=True,
    )
    assert [c.id for c in job.centers] == ["zero", "alpha"]
    assert job.skipped["alpha-leads"] == "study-excluded"
    assert isinstance(job.identifiers, FileIdentifiers)


@pytest.mark.parametrize(
    ("lines", "transfers"),
    [
        ([], True),
        (['transfers = "none"'], False),
        (['duplicates_criteria = "criteria.json"'], False),
        (['duplicates_criteria = "criteria.json"', 'transfers = "current"'], True),
    ],
)
def test_criteria_take_the_place_of_the_documented_rule(opened, folder, lines, transfers):
    (folder / "criteria.json").write_text('{"uds": {"criteria": null}}')
    job = capability.job(opened('datasets = "sites/{center}"', *lines), "nacc")
    assert job.options.transfers is transfers


def test_centers_may_be_excluded(opened):
    job = capability.job(opened('datasets = "sites/{center}"', 'exclude_centers = "zero"'), "nacc")
    assert [c.id for c in job.centers] == ["alpha", "alpha-leads"]
    assert job.skipped["zero"] == "center-excluded"
    assert job.options.exclude_centers == {"zero"}


def test_a_place_for_each_center(opened, folder):
    workspace = opened("[tables.nacc.datasets]", f'zero = "{folder}/sites/zero"')
    outcome = capability.run(workspace, "nacc")
    assert isinstance(capability.job(workspace, "nacc").source, MappingSource)
    assert outcome.details["skipped"] == {
        "alpha": "no-place", "alpha-leads": "no-place", "beta": "center-inactive",
        "gamma": "center-malformed",
    }  # fmt: skip


def test_places_are_held_to_the_allow_list(opened, folder):
    workspace = opened('datasets = "sites/{center}"', 'allow = ["sites/zero"]')
    outcome = capability.run(workspace, "nacc")
    assert outcome.details["skipped"]["alpha"] == "place-not-allowed"
    assert list(outcome.details["datasets"]) == ["zero"]


FLYWHEEL = ('source = "flywheel"', 'project = "ingest"', 'datasets = "sites/{center}"')


def test_datasets_in_flywheel_need_a_key(opened):
    with pytest.raises(Invalid) as caught:
        capability.job(opened(*FLYWHEEL), "nacc")
    assert caught.value.kind == "flywheel-key"


def test_datasets_in_flywheel(opened, monkeypatch, moto):  # noqa: F811
    """Pointers of the projects lead to a bucket; one center has no project."""
    pytest.importorskip("flywheel", reason="the extra 'flywheel' is not installed")
    from tests.tables.test_flywheel import KEY, Flywheel

    for name, value in moto.options.items():
        monkeypatch.setenv(f"CATCHMENT_S3__{name.upper()}", value)
    sites = Sites(open_store(f"s3://{moto.bucket}/fw", **moto.options))
    sites.add("zero", 0, visits(("NACC000001", 0, "2020-01-01", 1)))
    pointer = {"type": "s3", "bucket": moto.bucket, "prefix": "fw/zero", "label": "x"}
    server = Flywheel()
    server.projects["zero/ingest"] = {"dataset": pointer}
    with listening(server):
        address = f"127.0.0.1:{server.server_port}:__force_insecure:{KEY}"
        monkeypatch.setenv("CATCHMENT_FLYWHEEL__API_KEY", address)
        workspace = opened(*FLYWHEEL)
        outcome = capability.run(workspace, "nacc")
    assert outcome.details["datasets"] == {"zero": "fw/zero/versions/1/"}
    assert outcome.details["skipped"]["alpha"] == "no-project"
    assert KEY not in json.dumps(workspace.ledger.latest("tables/nacc").provenance)


def test_who_knows_the_current_center(opened, monkeypatch):
    monkeypatch.setenv("CATCHMENT_IDENTIFIERS__TOKEN", "hush")
    url = "https://user:secret@ids.example/v1"
    job = capability.job(opened('datasets = "sites/{center}"', f'identifiers = "{url}"'), "nacc")
    assert isinstance(job.identifiers, ServiceIdentifiers)
    assert job.identifiers.options.token == "hush"
    told = json.dumps(job.config)
    assert "hush" not in told
    assert "secret" not in told
    assert job.config["identifiers"] == "https://user:***@ids.example/v1"


def test_no_secret_is_published(opened, folder, monkeypatch):
    """Credentials of every kind are set, and in nothing that the run wrote."""
    secrets = {
        "CATCHMENT_IDENTIFIERS__TOKEN": "canary-token",
        "CATCHMENT_S3__ACCESS_KEY_ID": "canary-id",
        "CATCHMENT_S3__SECRET_ACCESS_KEY": "canary-key",
        "CATCHMENT_FLYWHEEL__API_KEY": "canary:flywheel",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    url = "https://someone:canary-password@ids.example/v1"
    workspace = opened('datasets = "sites/{center}"', f'identifiers = "{url}"')
    capability.run(workspace, "nacc")
    workspace.close()
    written = [p for d in ("data", ".catchment") for p in (folder / d).rglob("*") if p.is_file()]
    assert len(written) > 4
    for path in written:
        assert b"canary" not in path.read_bytes(), path.name


def test_files_of_the_settings_are_bounded_and_must_be_there(opened, monkeypatch):
    workspace = opened('datasets = "sites/{center}"', 'duplicates_criteria = "none.json"')
    with pytest.raises(NotFound):
        capability.job(workspace, "nacc")
    monkeypatch.setattr(capability, "MAX_FILE", 100)
    with pytest.raises(Invalid) as caught:
        capability.job(opened('datasets = "sites/{center}"'), "nacc")
    assert caught.value.kind == "too-large"


@pytest.mark.parametrize(
    "output",
    [
        *("../out", "a//b", "/", ".catchment/x", "_staging", "/_staging/tables/nacc"),
        *("studies/core/snapshots", "imaging/ct/extra", "upload_staging", "arrays", "exports/x"),
    ],
)
def test_an_output_that_is_no_prefix(opened, output):
    with pytest.raises(Invalid):
        capability.job(opened('datasets = "sites/{center}"', f'output = "{output}"'), "nacc")


def test_an_empty_output_is_the_store_itself(opened, folder):
    outcome = capability.run(opened('datasets = "sites/{center}"', 'output = ""'), "nacc")
    assert outcome.location.count("/") == 1
    assert (folder / "data" / outcome.location / NAME).exists()


@pytest.mark.parametrize("output", ["other/place", ""])
def test_another_output_gets_the_snapshot_that_did_not_change(opened, output):
    """Not only once the data change; the former one stays where it is."""
    first = capability.run(opened('datasets = "sites/{center}"'), "nacc")
    workspace = opened('datasets = "sites/{center}"', f'output = "{output}"')
    moved = capability.run(workspace, "nacc")
    assert (moved.state, moved.snapshot) == ("published", 2)
    assert moved.location.rstrip("/").rpartition("/")[0] == output
    assert capability.run(workspace, "nacc").state == "unchanged"
    assert capability.verify(workspace, "nacc") == []
    assert workspace.store.read(first.location + NAME)
    assert left(workspace) == []


def test_names_of_aggregates(opened):
    one = opened('datasets = "sites/{center}"')
    assert choose(one.settings, "tables", None) == "nacc"
    assert choose(one.settings, "tables", "other") == "other"
    assert choose(one.settings, "tables", "") == ""
    with pytest.raises(NotFound) as caught:
        capability.settings_of(one, "other")
    assert caught.value.kind == "no-aggregate"
    assert "only: nacc" in caught.value.message
    two = opened('datasets = "sites/{center}"', '[tables.b]\ncenters = "x"\ndatasets = "{center}"')
    with pytest.raises(Invalid) as caught:
        choose(two.settings, "tables", None)
    assert caught.value.kind == "which-aggregate"
    assert "b, nacc" in caught.value.message


# --- runs ----------------------------------------------------------------------------------------


def test_the_outcome_tells_what_was_done(workspace):
    events = []
    outcome = capability.run(workspace, "nacc", progress=events.append)
    assert (outcome.aggregate, outcome.state, outcome.snapshot) == ("tables/nacc", "published", 1)
    assert outcome.location.startswith("tables/nacc/")
    assert outcome.account.total("rows").kept == 2
    assert json.loads(json.dumps(outcome.to_json()))["details"]["tables"][0]["rows"] == 2
    assert {e.work for e in events} >= {"tables: find datasets", "tables: check files"}
    again = capability.run(workspace, "nacc")
    assert (again.state, again.snapshot, again.location) == ("unchanged", 1, outcome.location)
    assert capability.run(workspace, "nacc", full=True).state == "unchanged"


def test_a_dry_run_makes_nothing(workspace, folder):
    def tree():
        return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    before = tree()
    outcome = capability.run(workspace, "nacc", dry_run=True)
    assert (outcome.state, outcome.snapshot, outcome.location) == ("planned", None, None)
    assert outcome.details["changed"]
    workspace.close()
    assert tree() == before
    capability.run(workspace, "nacc")
    workspace.close()
    before = tree()
    outcome = capability.run(workspace, "nacc", dry_run=True)
    assert (outcome.state, outcome.snapshot) == ("planned", 1)
    assert not outcome.details["changed"]
    workspace.close()
    assert tree() == before


# --- what can be collected -----------------------------------------------------------------------


def left(workspace, **options) -> list[str]:
    return sorted(capability.orphans(workspace, grace=NOW, **options))


def test_what_a_killed_run_left_is_collected_and_nothing_else(workspace):
    location = capability.run(workspace, "nacc").location
    orphans = [
        "_staging/tables/nacc/20260101-000000-000000-aaaaaaaa/uds/000000.stay",
        "tables/nacc/20260101-000000/uds/aggregate_result.parquet",
    ]
    spared = [
        "_staging/tables/other/run/x",
        f"tables/nacc/20250101-000000/{NAME}",  # whole: of a ledger that was lost
        "tables/nacc/20250101-000000/uds/aggregate_result.parquet",
        "tables/nacc/readme.txt",
        "tables/nacc/2026/x",
        "tables/nacc2/20260101-000000/uds/x",
    ]
    for key in [*orphans, *spared]:
        workspace.store.put(key, b"x")
    assert left(workspace) == orphans
    assert list(capability.orphans(workspace, grace=timedelta(hours=1))) == []
    for key in orphans:
        os.utime(workspace.store.path(key), (0, 0))
    assert sorted(capability.orphans(workspace, grace=timedelta(hours=1))) == orphans
    assert location not in set(left(workspace))


def test_an_output_below_a_folder_named_as_a_snapshot_is_no_orphan(opened):
    main = 'datasets = "sites/{center}"'
    beside = 'centers = "centers.json"\noutput = "tables/nacc/20260101-000000"'
    workspace = opened(main, "[tables.beside]", main, beside)
    key = "tables/nacc/20260101-000000/20260202-000000/uds/x"
    workspace.store.put(key, b"x")
    with workspace.ledger.holding("tables/beside"):  # a run that is at work there
        assert left(workspace) == []
    assert left(workspace) == [key]


def test_nothing_is_an_orphan_while_a_run_is_at_work(workspace):
    workspace.store.put("tables/nacc/20260101-000000/uds/x", b"x")
    with workspace.ledger.holding("tables/nacc"):
        assert left(workspace) == []
    assert left(workspace) == ["tables/nacc/20260101-000000/uds/x"]


def test_a_snapshot_that_is_not_sealed_yet_is_no_orphan(workspace, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "seal", killed)
    with pytest.raises(KeyboardInterrupt):
        capability.run(workspace, "nacc")
    assert not any(s.key.endswith(NAME) for s in workspace.store.list())
    assert left(workspace) == []
    monkeypatch.undo()
    outcome = capability.run(workspace, "nacc")
    assert (outcome.state, outcome.snapshot) == ("unchanged", 1)
    assert workspace.store.head(f"{outcome.location}{NAME}")


def test_a_run_that_fails_while_it_merges_leaves_nothing(workspace, monkeypatch):
    def failing(*_, **options):
        options["store"].put(options["table"], b"half")
        options["store"].put(f"{options['staging']}000000.stay", b"half")
        raise Unavailable("no more room", kind="disk-full")

    monkeypatch.setattr(runs, "merge_table", failing)
    with pytest.raises(Unavailable):
        capability.run(workspace, "nacc")
    assert list(workspace.store.list()) == []


def test_the_house_has_the_clock_of_this_machine(workspace):
    where = capability.house(workspace)
    assert abs(where.clock() - datetime.now(UTC)) < timedelta(seconds=5)
    with open_executor("threads") as executor:
        assert type(where.executor) is type(executor)
