"""``catchment tables`` as people and programs call it: flags, names, JSON, exit codes."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catchment.core.errors import Unavailable
from catchment.core.ledger import Ledger
from catchment.core.store import open_store
from catchment.tables import identifiers as providers
from tests.tables.running import Sites, visits
from tests.tables.test_identifiers import Service, serving

MOVED = "NACC000001"
MAPPING = {
    "0": {"adcid": 0, "name": "Zero", "center-id": "zero"},
    "10": {"adcid": 10, "name": "Alpha", "center-id": "alpha"},
    "20": {"adcid": 20, "name": "Beta", "center-id": "beta-leads"},
    "30": {"adcid": 30, "name": "Gamma", "center-id": "gamma", "active": False},
}
TOML = """\
[workspace]
store = "data"
[tables.nacc]
centers = "centers.json"
datasets = "sites/{center}"
identifiers = "people.csv"
"""


@pytest.fixture
def sites(catchment, tmp_path, monkeypatch):
    """Three centers, one of them with ADCID 0; a participant of alpha is at beta-leads now."""
    monkeypatch.setenv("CATCHMENT_EXECUTOR__KIND", "threads")
    made = Sites(open_store((tmp_path / "sites").as_uri()))
    made.add("zero", 0, visits(("NACC000003", 0, "2020-01-01", 1)))
    made.add("alpha", 10, visits((MOVED, 10, "2020-01-01", 2), ("NACC000002", 10, "x", 3)))
    made.add("beta-leads", 20, visits((MOVED, 20, "2020-01-01", 4)), mds={"a.parquet": visits()})
    Path("centers.json").write_text(json.dumps({"centers": MAPPING}))
    Path("people.csv").write_text(f"naccid,adcid,active\n{MOVED},10,false\n{MOVED},20,true\n")
    return made


@pytest.fixture
def workspace(sites):
    """The settings of one aggregate, in the current folder."""
    Path("catchment.toml").write_text(TOML)


ARGUMENTS = ("--centers", "centers.json", "--datasets", "sites/{center}", "--output", "out")
PEOPLE = ("--identifiers", "people.csv")


def values(called, table="uds") -> list[int]:
    """The column ``value`` of the snapshot that a run tells of."""
    store = open_store(called.json["store"])
    path = store.path(f"{called.json['location']}{table}/aggregate_result.parquet")
    return pq.read_table(path).column("value").to_pylist()


def tree(folder: Path = Path()) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- a run without a workspace -------------------------------------------------------------------


def test_a_run_needs_no_workspace(catchment, sites):
    called = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--json")
    assert (called.code, called.json["state"], called.json["snapshot"]) == (0, "published", 1)
    assert re.fullmatch(r"\d{8}-\d{6}/", called.json["location"])
    assert called.json["aggregate"] == "tables/default"
    assert values(called) == [1, 3, 4]
    assert called.json["details"]["skipped"] == {"gamma": "center-inactive"}
    again = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--json").json
    assert (again["state"], again["snapshot"]) == ("unchanged", 1)
    for command in (("list",), ("show",), ("verify",), ("show", "--snapshot", "1")):
        assert catchment("tables", *command, "--output", "out", "--json").code == 0
    named = catchment("tables", "run", "other", *ARGUMENTS, *PEOPLE, "--json").json
    assert (named["aggregate"], named["snapshot"]) == ("tables/other", 1)
    (listed,) = catchment("tables", "list", "other", "--output", "out", "--json").json
    assert listed["location"] == named["location"] != called.json["location"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--transfers", "none"], [1, 2, 3, 4]),
        (["--transfers", "current"], [1, 3, 4]),
        (["--duplicates-criteria", "drop.json"], [1, 3]),
        (["--duplicates-criteria", "keep.json"], [1, 2, 3, 4]),
        (["--include-centers", "zero,beta-leads"], [1, 4]),
        (["--exclude-centers", "alpha, zero"], [4]),
        (["--exclude-studies", "leads"], [1, 2, 3]),
        (["--mode", "dev"], [1, 3]),  # a NACC is malformed there, and at two centers
    ],
)
def test_flags_that_choose_rows(catchment, sites, flags, expected):
    rule = {"criteria": ["naccid", "visitdate"]}
    Path("drop.json").write_text(json.dumps({"uds": rule}))
    Path("keep.json").write_text(json.dumps({"uds": rule | {"on_duplicate": "keep_all"}}))
    called = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--json", *flags)
    assert called.code == 0
    assert values(called) == expected


def test_the_freeze_date_flag(catchment, sites):
    called = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--json", "--freeze-date", "20251231")
    assert called.json["details"]["constants"]["freeze_date"] == "20251231"
    for day in ("2025-12-31", "tomorrow", "20260230"):
        wrong = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--freeze-date", day)
        told = f"error: --freeze-date: expected a day as YYYYMMDD, found {day!r}"
        assert (wrong.code, wrong.err.splitlines()[0]) == (2, told)


def test_strict_and_require_all_and_fall_back(catchment, sites):
    text = visits((MOVED, 20, "2020-01-01", 4)).set_column(3, "value", pa.array(["four"]))
    sites.add("beta-leads", 20, text)
    called = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--strict", "--json")
    assert (called.code, called.json["error"]["kind"]) == (2, "type-conflict")
    sites.add("beta-leads", 20, version="2", created="2026-02-01T00:00:00Z")
    called = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--require-all", "--json")
    assert (called.code, called.json["error"]["kind"]) == (2, "centers-missing")
    called = catchment(
        "tables", "run", *ARGUMENTS, *PEOPLE, "--require-all", "--fall-back", "--json"
    )
    assert values(called) == ["1", "3", "four"]
    full = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--fall-back", "--full", "--json")
    assert full.json["state"] == "unchanged"


def test_a_run_in_child_processes(catchment, sites, monkeypatch):
    monkeypatch.delenv("CATCHMENT_EXECUTOR__KIND")
    called = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--json")
    assert values(called) == [1, 3, 4]


def test_a_run_on_a_cluster(catchment, sites):
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    options = {"processes": False, "dashboard_address": "127.0.0.1:0", "protocol": "tcp"}
    with distributed.LocalCluster(1, threads_per_worker=2, **options) as cluster:
        address = cluster.scheduler_address
        called = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--json", "--cluster", address)
    assert values(called) == [1, 3, 4]
    wrong = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--cluster", "somewhere")
    told = "error: --cluster: expected tcp://HOST:PORT, threads or processes, found 'somewhere'"
    assert (wrong.code, wrong.err.splitlines()[0]) == (2, told)


def test_what_is_missing_is_said(catchment, sites):
    called = catchment("tables", "run", "--output", "out")
    assert (called.code, "centers" in called.err) == (2, True)
    called = catchment("tables", "run", "--output", "out", "--centers", "centers.json")
    assert (called.code, "datasets" in called.err) == (2, True)
    called = catchment("tables", "run", *ARGUMENTS[:-2])
    assert (called.code, "--output URL" in called.err) == (3, True)
    assert "hint: catchment init" in catchment("tables", "list").err
    called = catchment("tables", "run", *ARGUMENTS, "--include-centers", "alfa", "--json")
    assert called.json["error"]["kind"] == "unknown-center"
    called = catchment(
        "tables", "run", *ARGUMENTS, "--include-centers", "alpha", "--exclude-centers", "zero"
    )
    assert called.code == 2
    for flag, known in (("--transfers", "'current' or 'none'"), ("--mode", "'prod' or 'dev'")):
        called = catchment("tables", "run", *ARGUMENTS, flag, "perhaps")
        told = f"error: {flag}: expected {known}, found 'perhaps'"
        assert (called.code, called.err.splitlines()[0]) == (2, told)
    assert not Path("out").exists()


@pytest.mark.parametrize("flag", ["--output", "--identifiers", "--include-centers"])
def test_an_option_without_a_value_is_told(catchment, sites, flag):
    for given in ((flag, ""), (f"{flag}=",)):
        called = catchment("tables", "run", *ARGUMENTS, *PEOPLE, *given)
        assert (called.code, called.err.splitlines()[0]) == (2, f"error: {flag} is empty")
    assert catchment("tables", "run", flag, "", "--json").json["error"]["kind"] == "usage"


def test_an_output_that_is_no_folder(catchment, sites):
    for output in ("people.csv", "people.csv/below"):
        called = catchment("tables", "run", *ARGUMENTS[:-1], output)
        assert (called.code, "people.csv is a file, expected a folder" in called.err) == (2, True)
        assert "hint: " in called.err
    called = catchment("tables", "run", *ARGUMENTS[:-1], "/proc/nope")
    assert called.err.startswith("error: /proc/nope cannot be made: No such file")


def test_the_hint_without_identifiers_fits_the_rule_that_asks(catchment, sites):
    def hint(*flags: str) -> str:
        called = catchment("tables", "run", *ARGUMENTS, *flags, "--json")
        assert called.json["error"]["kind"] == "no-identifiers"
        return called.json["error"]["hint"]

    rule = {"criteria": ["naccid", "visitdate"], "on_duplicate": "active_only"}
    Path("rules.json").write_text(json.dumps({"uds": rule}))
    assert hint().endswith("or --transfers none to keep all")
    told = hint("--duplicates-criteria", "rules.json", "--transfers", "none")
    assert told.endswith("or set on_duplicate to keep_all or drop_all in the criteria")


def test_where_no_file_can_be_read_the_first_says_why(catchment, sites):
    for center, adcid in (("zero", 0), ("alpha", 10), ("beta-leads", 20)):
        sites.add(center, adcid, b"PAR1", version="2", created="2026-02-01T00:00:00Z")
    error = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--json").json["error"]
    assert (error["kind"], error["hint"]) == ("nothing-to-do", "send the file again")
    assert "zero: uds/tables/uds/data.parquet: " in error["message"]


def test_every_flag_of_the_reference_is_there(catchment):
    told = catchment("tables", "run", "--help").out
    for flag in (
        "centers", "datasets", "output", "identifiers", "transfers", "duplicates-criteria",
        "freeze-date", "include-centers", "exclude-centers", "exclude-studies", "mode", "strict",
        "dry-run", "json", "require-all", "fall-back", "full", "cluster",
    ):  # fmt: skip
        assert f"--{flag}" in told


# --- who knows the current center ----------------------------------------------------------------


@pytest.fixture
def service():
    with serving(Service({MOVED: [(10, False), (20, True)]})) as running:
        yield running


@pytest.fixture
def spec(request, service, monkeypatch, sites):
    """What is said to --identifiers, for each kind of provider."""
    for name, value in {"ENDPOINT_URL_LAMBDA": service.url, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "us-west-2"}.items():  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    with Path("people.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = pa.table({"naccid": [r["naccid"] for r in rows], "adcid": [int(r["adcid"]) for r in rows], "active": [r["active"] == "true" for r in rows]})  # fmt: skip
    pq.write_table(table, "people.parquet")
    return {
        "path": "people.csv",
        "parquet": "people.parquet",
        "url": Path("people.csv").absolute().as_uri(),
        "http": f"{service.url}/identifiers",
        "lambda": "lambda:ids",
        "qualifier": "lambda:ids:stable",
    }[request.param]


@pytest.mark.parametrize(
    "spec", ["path", "parquet", "url", "http", "lambda", "qualifier"], indirect=True
)
def test_every_provider_is_reached_by_the_flag(catchment, service, spec):
    called = catchment("tables", "run", *ARGUMENTS, "--json", "--identifiers", spec)
    assert values(called) == [1, 3, 4]
    assert [r["naccid"] for _, _, r in service.requests] in ([], [MOVED])
    assert len(service.requests) == ("people" not in spec)


def test_an_unknown_participant_stops_before_anything_is_published(catchment, sites):
    Path("people.csv").write_text("naccid,adcid\nNACC000009,10\n")
    called = catchment("tables", "run", *ARGUMENTS, *PEOPLE, "--json")
    assert (called.code, called.json["error"]["kind"]) == (2, "unknown-naccid")
    assert "1 of 1 participants" in called.json["error"]["message"]
    assert MOVED not in called.out + called.err
    assert [p for p in tree(Path("out")) if ".catchment" not in p.parts] == []
    assert catchment("tables", "list", "--output", "out", "--json").json == []


def test_a_service_that_fails_or_refuses(catchment, sites, service, monkeypatch):
    options = providers.IdentifiersOptions
    monkeypatch.setattr("catchment.tables.capability.IdentifiersOptions", lambda **given: options(**given, wait=0.001))  # fmt: skip
    service.failures = [(503, {}, b"")] * 100
    called = catchment("tables", "run", *ARGUMENTS, "--identifiers", service.url, "--json")
    assert (called.code, called.json["error"]["kind"]) == (Unavailable.exit_code, "identifiers-unavailable")  # fmt: skip
    service.failures = [(403, {}, b"")]
    called = catchment("tables", "run", *ARGUMENTS, "--identifiers", service.url)
    assert called.code == 2
    assert called.err.startswith("error: the HTTP identifiers service refused")
    assert "hint: " in called.err
    called = catchment("tables", "run", *ARGUMENTS, "--json")
    assert (called.code, called.json["error"]["kind"]) == (2, "no-identifiers")
    assert [p for p in tree(Path("out")) if ".catchment" not in p.parts] == []
    service.failures = []
    called = catchment("tables", "run", *ARGUMENTS, "--identifiers", service.url, "--json")
    assert (called.code, called.json["snapshot"]) == (0, 1)


@pytest.mark.parametrize("spec", ["ftp://x", "lambda:", "none.csv"])
def test_a_provider_that_is_none(catchment, sites, spec):
    called = catchment("tables", "run", *ARGUMENTS, "--identifiers", spec, "--json")
    assert called.code in (2, 3)
    assert "error" in called.json


# --- dry runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the first run", "after it"])
def test_a_dry_run_writes_nothing(catchment, workspace, when):
    if when == "after it":
        assert catchment("tables", "run").code == 0
        Path("people.csv").write_text(f"naccid,adcid,active\n{MOVED},10,true\n")
    before = tree()
    for arguments in (
        ("tables", "plan"), ("tables", "run", "--dry-run"), ("run", "--dry-run"),
        ("tables", "plan", "--full"), ("tables", "run", *ARGUMENTS, *PEOPLE, "--dry-run"),
    ):  # fmt: skip
        text = catchment(*arguments)
        told = catchment(*arguments, "--json")
        assert (text.code, told.code) == (0, 0)
        told = told.json[0] if arguments[0] == "run" else told.json
        assert told["state"] == "planned"
        assert told["details"]["changed"]
        assert arguments[0] == "run" or "dry run: would be published" in text.out
    assert tree() == before
    assert not Path("out").exists()


def test_a_plan_tells_what_a_run_will_do(catchment, workspace, sites):
    planned = catchment("tables", "plan", "--json").json
    done = catchment("tables", "run", "--json").json
    for key in ("account", "findings"):
        assert planned[key] == done[key]
    tables = {t["table"]: t for t in planned["details"]["tables"]}
    assert (tables["uds"]["rows"], tables["uds"]["files"]) == (3, 3)
    assert tables["uds"]["copied_from_previous"] == 0
    sites.add("zero", 0, visits(("NACC000003", 0, "2020-01-01", 7)))
    tables = {
        t["table"]: t for t in catchment("tables", "plan", "--json").json["details"]["tables"]
    }
    assert tables["uds"]["copied_from_previous"] == 2
    assert catchment("tables", "run").code == 0
    assert "dry run: nothing changed" in catchment("tables", "plan").out


# --- a workspace ---------------------------------------------------------------------------------


def test_commands_over_a_workspace(catchment, workspace, sites):
    assert catchment("tables", "list", "--json").json == []
    empty = catchment("tables", "show", "--json")
    assert (empty.code, empty.json["error"]["kind"]) == (3, "no-snapshot")
    first = catchment("tables", "run", "--json").json
    assert first["location"].startswith("tables/nacc/")
    sites.add("zero", 0, visits(("NACC000003", 0, "2020-01-01", 7)))
    second = catchment("run", "--json").json[0]
    assert (second["aggregate"], second["snapshot"]) == ("tables/nacc", 2)
    listed = catchment("tables", "list", "--json").json
    assert [(s["snapshot"], s["location"]) for s in listed] == [(2, second["location"]), (1, first["location"])]  # fmt: skip
    assert not any(s["expired"] for s in listed)
    shown = catchment("tables", "show", "nacc", "--json").json
    assert (shown["snapshot"], shown["tables"]["uds"]["rows"]) == (2, 3)
    assert shown["skipped"] == {"gamma": "center-inactive"}
    rows = {(x["site"], x["part"]): x for x in shown["centers"] if x["unit"] == "rows"}
    assert rows["alpha", "uds"]["dropped"] == {"transferred": 1}
    assert (rows["alpha", "uds"]["received"], rows["alpha", "uds"]["kept"]) == (2, 1)
    assert catchment("tables", "show", "--snapshot", "1", "--json").json["location"] == first["location"]  # fmt: skip
    verified = catchment("tables", "verify", "--json")
    assert (verified.code, verified.json["wrong"], verified.json["snapshot"]) == (0, [], 2)
    (status,) = catchment("status", "--json").json
    assert (status["aggregate"], status["snapshot"]["number"]) == ("tables/nacc", 2)
    assert status["contributions"] == {"published": 3, "superseded": 1}
    assert catchment("doctor").code == 0
    missing = catchment("tables", "show", "--snapshot", "9")
    assert missing.code == 3


def test_text_for_people(catchment, workspace, sites):
    sites.add("alpha", 10, b"broken")
    sites.add("zero", 0, visits(("NACC000003", 0, "x", 7)).set_column(3, "value", pa.array(["x"])))
    ran = catchment("tables", "run").out
    assert re.search(r"uds +files +3 +2 +0 +1", ran)
    assert "quarantined: 1 file (parquet-unreadable)" in ran
    assert re.search(r"error: alpha: .*\[parquet-unreadable\]", ran)
    assert "[column-conflict]" in ran
    assert "(--json shows " in ran
    assert "skipped: gamma (center-inactive)" in ran
    assert "skipped: alpha (parquet-unreadable)" in ran
    assert "published snapshot 1" in ran
    assert re.search(r"^file://.*/data/tables/nacc/\d{8}-\d{6}/$", ran, re.MULTILINE)
    assert "nothing changed: snapshot 1 is up to date" in catchment("tables", "run").out
    shown = catchment("tables", "show").out
    assert re.search(r"beta-leads +uds +1 +1 +0 +0 +1", shown)
    assert "skipped: alpha (parquet-unreadable)" in shown
    assert re.search(r"1 +20\d\d-\S+ +tables/nacc/", catchment("tables", "list").out)
    assert re.search(
        r"snapshot 1: \d objects and the account are right", catchment("tables", "verify").out
    )


@pytest.mark.parametrize(
    "name", ["uds/aggregate_result.parquet", "uds/_keys.arrow", "provenance.json"]
)
def test_verify_finds_what_was_tampered_with(catchment, workspace, name):
    location = catchment("tables", "run", "--json").json["location"]
    path = Path("data", location, name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    called = catchment("tables", "verify", "--json")
    assert called.code == 1
    (wrong,) = called.json["wrong"]
    assert f"{location}{name}" in wrong
    text = catchment("tables", "verify")
    assert (text.code, text.out.startswith("wrong: ")) == (1, True)
    path.unlink()
    assert "missing" in catchment("tables", "verify", "--json").json["wrong"][0]


def test_names_of_aggregates(catchment, workspace):
    assert catchment("tables", "run", "nacc", "--json").json["aggregate"] == "tables/nacc"
    for command in ("run", "plan", "list", "show", "verify"):
        called = catchment("tables", command, "other", "--json")
        assert called.code == 3, command
        assert called.json["error"]["kind"] == "no-aggregate", command
    with Path("catchment.toml").open("a") as file:
        file.write('[tables.second]\ncenters = "centers.json"\ndatasets = "sites/{center}"\ntransfers = "none"\n')  # fmt: skip
    for command in ("run", "plan", "list", "show", "verify"):
        called = catchment("tables", command, "--json")
        assert (called.code, called.json["error"]["kind"]) == (2, "which-aggregate"), command
        assert "nacc, second" in called.json["error"]["message"]
    assert values(catchment("tables", "run", "second", "--json")) == [1, 2, 3, 4]
    assert {o["aggregate"]: o["state"] for o in catchment("run", "--json").json} == {
        "tables/nacc": "unchanged", "tables/second": "unchanged",
    }  # fmt: skip


def test_arguments_override_the_workspace(catchment, workspace):
    called = catchment("tables", "run", "--exclude-centers", "alpha", "--json")
    assert values(called) == [1, 4]
    provenance = json.loads(Path("data", called.json["location"], "provenance.json").read_bytes())
    assert provenance["config"]["exclude_centers"] == ["alpha"]
    assert provenance["skipped"]["alpha"] == "center-excluded"


def test_orphans_are_collected(catchment, workspace):
    location = catchment("tables", "run", "--json").json["location"]
    orphan = Path("data/tables/nacc/20200101-000000/uds/aggregate_result.parquet")
    staged = Path("data/_staging/tables/nacc/dead/uds/000000.stay")
    for path in (orphan, staged):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    before = tree(Path("data") / location)
    assert catchment("gc", "--json").json["objects"] == []  # younger than a day
    told = catchment("gc", "--grace", "0", "--dry-run", "--json").json["objects"]
    assert told == [str(staged.relative_to("data")), str(orphan.relative_to("data"))]
    assert orphan.exists()
    everything = tree()
    assert catchment("gc", "--grace", "0", "--dry-run", "--json").json["objects"] == told
    assert tree() == everything  # the ledger, too
    assert catchment("gc", "--grace", "0", "--json").json["objects"] == told
    assert not orphan.exists()
    assert not staged.exists()
    assert tree(Path("data") / location) == before
    assert catchment("tables", "verify").code == 0


def test_a_lost_ledger_is_rebuilt(catchment, workspace, sites):
    catchment("tables", "run")
    sites.add("zero", 0, visits(("NACC000003", 0, "2020-01-01", 7)))
    catchment("tables", "run")
    commands = (("tables", "list"), ("tables", "show"), ("tables", "verify"))
    before = [catchment(*command, "--json").json for command in commands]
    with Ledger.open("sqlite:///.catchment/ledger.db") as ledger:
        known = [(c.site, c.name, c.digest, c.state) for c in ledger.contributions("tables/nacc")]
    shutil.rmtree(".catchment")
    assert [catchment(*command, "--json").json for command in commands] == before
    assert not Path(".catchment").exists()  # the store told, and nothing was kept
    rebuilt = catchment("doctor", "--rebuild-ledger", "--json")
    assert (rebuilt.code, rebuilt.json["restored"]) == (0, 2)
    assert [catchment(*command, "--json").json for command in commands] == before
    with Ledger.open("sqlite:///.catchment/ledger.db") as ledger:
        assert [(c.site, c.name, c.digest, c.state) for c in ledger.contributions("tables/nacc")] == known  # fmt: skip
    assert catchment("tables", "run", "--json").json["state"] == "unchanged"
    sites.add("zero", 0, visits(("NACC000003", 0, "2020-01-01", 8)))
    third = catchment("tables", "run", "--json").json
    assert (third["snapshot"], values(catchment("tables", "run", "--json"))) == (3, [8, 3, 4])


def test_a_collection_after_a_lost_ledger_makes_one_that_knows(catchment, workspace):
    catchment("tables", "run")
    before = catchment("tables", "list", "--json").json
    shutil.rmtree(".catchment")
    assert catchment("gc", "--grace", "0", "--json").json["objects"] == []
    assert Path(".catchment").exists()
    assert catchment("tables", "list", "--json").json == before


@pytest.mark.parametrize("command", [("doctor", "--rebuild-ledger"), ("gc",)])
def test_a_rebuild_that_fails_leaves_no_ledger(catchment, workspace, sites, command):
    location = catchment("tables", "run", "--json").json["location"]
    sites.add("zero", 0, visits(("NACC000003", 0, "2020-01-01", 7)))
    catchment("tables", "run")
    shutil.rmtree(".catchment")
    provenance = Path("data", location, "provenance.json")
    told = provenance.read_text()
    provenance.write_text("{junk")
    failed = catchment(*command)
    assert (failed.code, str(location) in failed.err) == (6, True)
    assert not Path(".catchment").exists()
    provenance.write_text(told.replace('"received": ', '"received": 1', 1))
    assert provenance.read_text() != told
    failed = catchment(*command)
    assert failed.code == 6
    assert "tables/nacc: snapshot 1: records are not accounted for" in failed.err
    assert "backup" in failed.err
    provenance.write_text(told)
    assert catchment(*command).code == 0
    assert len(catchment("tables", "list", "--json").json) == 2


def test_a_run_after_a_lost_ledger_needs_no_doctor(catchment, workspace):
    first = catchment("tables", "run", "--json").json
    shutil.rmtree(".catchment")
    again = catchment("tables", "run", "--json").json
    assert (again["state"], again["snapshot"], again["location"]) == ("unchanged", 1, first["location"])  # fmt: skip


def test_every_command_prints_json_errors_too(catchment, workspace):
    """Before the first run and after it."""
    for _ in range(2):
        for command in ("plan", "run", "list", "show", "verify"):
            called = catchment("tables", command, "--json")
            assert called.json is not None
            assert called.err == ""
    assert catchment("tables", "show", "--snapshot", "x", "--json").json["error"]["kind"] == "usage"
