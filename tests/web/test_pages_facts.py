"""What the pages tell of a workspace that has something of everything, as JSON and as HTML."""

from __future__ import annotations

import csv
import html
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from catchment.arrays import browse as sessions
from catchment.arrays import read
from catchment.arrays.transform.sinks import below
from catchment.core.errors import Invalid, NotFound
from catchment.tables.snapshot import open_snapshot
from catchment.web.app import create_app
from tests.web.demo import PASSWORD, SLICES, small
from tests.web.looking import Looker

CANARIES = ("Secretalpha", "Secretbeta", "SECRET-DESCRIPTION", "1.2.3.5.1", "19700102")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    with small(tmp_path_factory) as workspace:
        yield workspace


@pytest.fixture(scope="module")
def app(demo):
    return create_app(demo, process=False)


@pytest.fixture(scope="module")
def otto(app):
    looker = Looker(app)
    assert looker.sign_in("otto", PASSWORD).status_code == 303
    return looker


@pytest.fixture(scope="module")
def vera(app):
    looker = Looker(app)
    assert looker.sign_in("vera", PASSWORD).status_code == 303
    return looker


@pytest.fixture
def facts(otto):
    def ask(path, **parameters):
        answer = otto.get(f"/api{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        page = otto.get(f"/ui{path}", params=parameters)
        assert page.status_code == 200, page.text
        return answer.json()

    return ask


def test_the_overview_puts_first_what_needs_somebody(facts, demo):
    told = facts("/")
    assert {one["aggregate"] for one in told["aggregates"]} == {
        "tables/nacc", "studies/core", "imaging/clinic", "exports/claims", "exports/slow",
        "arrays/sessions",
    }  # fmt: skip
    grave = [(one["errors"] > 0, one["warnings"] > 0) for one in told["aggregates"]]
    assert grave == sorted(grave, reverse=True)
    assert told["cells"]["studies/core"]["seattle"]["errors"] == 0 or told["attention"]
    assert told["attention"]
    only = facts("/", only="tables")
    assert [one["aggregate"] for one in only["aggregates"]] == ["tables/nacc"]
    centers = {line.site for line, _ in demo.ledger.account(demo.ledger.latest("tables/nacc").run)}
    assert centers <= set(only["sites"])
    assert facts("/", after=3)["aggregates"] == told["aggregates"][3:]


def test_throughput_adds_up_to_the_accounts(otto, demo):
    told = otto.get("/api/throughput", params={"days": 2}).json()["series"]
    rows = [one for one in told if (one["capability"], one["unit"]) == ("tables", "rows")]
    runs = demo.ledger.runs("tables/nacc", state="published")
    received = sum(demo.ledger.account(run.id).total("rows").received for run in runs)
    assert sum(one["received"] for one in rows) == received > 0


def test_tables_show_shares_that_are_those_of_the_account(facts, demo):
    told = facts("/tables/nacc/2")
    snapshot = open_snapshot(demo.store, demo.ledger, "nacc", 2)
    for table in told["tables"]:
        assert table["rows"] == snapshot[table["table"]].rows
        assert sum(line["kept"] for line in table["sites"]) == table["rows"]
        for line in table["sites"]:
            gone = sum(line["dropped"].values()) + sum(line["quarantined"].values())
            assert line["received"] == line["kept"] + gone
    assert told["drift"]["sites"]
    assert facts("/tables")["aggregates"][0]["snapshot"]["number"] == 2
    listed = facts("/tables/nacc")
    assert [one["number"] for one in listed["snapshots"]] == [2, 1]
    assert facts("/tables/nacc", before=2)["snapshots"][0]["number"] == 1


def test_a_difference_is_what_a_site_changed(facts):
    told = facts("/tables/nacc/2/since/1")
    (changed,) = told["versions"]
    mds = next(one for one in told["tables"] if one["table"] == "mds")
    assert [one["site"] for one in mds["sites"]] == [changed["site"]]
    assert mds["rows_now"] - mds["rows_was"] == sum(o["now"] - o["was"] for o in mds["sites"]) < 0
    same = facts("/tables/nacc/1/since/1")
    assert all(one["same"] for one in same["tables"])
    assert same["versions"] == []


def test_rows_and_files_go_to_stewards_where_the_settings_say_so(otto, vera, facts, demo):
    told = facts("/tables/nacc/2/rows/uds")
    table = open_snapshot(demo.store, demo.ledger, "nacc", 2)["uds"]
    assert told["of"] == table.rows
    assert told["columns"] == table.to_arrow().column_names
    assert len(told["rows"]) == 5
    file = otto.get("/api/tables/nacc/2/files/uds.parquet")
    assert pq.read_table(io.BytesIO(file.content)).equals(table.to_arrow())
    assert file.headers["content-disposition"] == 'attachment; filename="nacc-2-uds.parquet"'
    for path in ("/api/tables/nacc/2/rows/uds", "/api/tables/nacc/2/files/uds.parquet"):
        assert vera.get(path).status_code == 403
    actions = {deed["action"] for deed in facts("/audit")["deeds"]}
    assert {"rows looked at", "table downloaded"} <= actions
    provenance = otto.get("/api/tables/nacc/2/provenance.json").json()
    assert "config" not in provenance
    assert provenance["fingerprint"]


def test_rows_stay_where_they_are_unless_the_settings_say_so(demo, otto, app, monkeypatch):
    from catchment.core.sections import ServeSettings

    closed = demo.settings.model_copy(update={"serve": ServeSettings()})
    monkeypatch.setattr(demo, "settings", closed)
    for path in ("rows/uds", "files/uds.parquet"):
        answer = otto.get(f"/api/tables/nacc/2/{path}")
        assert (answer.status_code, answer.json()["kind"]) == (403, "no-preview")
    assert "First rows" not in otto.get("/ui/tables/nacc/2").text


def test_runs_and_findings_are_paged_and_narrowed(facts, demo, otto):
    run = demo.ledger.runs("tables/nacc")[0]
    told = facts(f"/runs/{run.id}")
    assert told["run"]["state"] == "published"
    assert told["account"] == demo.ledger.account(run.id).to_json()
    assert told["snapshot"] == 2
    assert told["log"]
    found = facts("/findings", aggregate="studies/core")["findings"]
    assert {one["site"] for one in found} >= {"seattle"}
    assert all(one["message"] for one in found)
    assert facts("/findings", q="no such text")["findings"] == []
    assert facts("/runs", state="failed")["runs"] == []
    part = otto.get("/ui/runs", headers={"HX-Request": "true"}).text
    assert "<html" not in part
    assert part.count("<tr>") >= 4


def test_names_of_contributions_are_for_stewards(vera, facts, demo):
    run = demo.ledger.runs("tables/nacc")[0].id
    assert all(line["name"] for line in facts(f"/runs/{run}")["log"])
    assert not any(line["name"] for line in vera.get(f"/api/runs/{run}").json()["log"])


PACKAGE = "/charts/core__count_patient__000"


def test_a_chart_is_that_of_the_chart_api(facts, otto):
    told = facts(PACKAGE, column="race", stratifier="gender")
    rows = {(g["stratifier"], v): n for g in told["chart"]["data"] for v, n in g["rows"]}
    assert rows["female", "white"] > 50
    text = otto.get(f"/api{PACKAGE}/chart.csv", params={"column": "race", "stratifier": "gender"})
    lines = text.text.splitlines()
    marks = "suppressed cells,sites that reported,sites suppressed,sites absent"
    assert lines[0] == f"gender,race,count,{marks}"
    assert len(lines) == len(rows) + 1
    plain = otto.get(f"/api{PACKAGE}/chart.csv", params={"column": "race"}).text.splitlines()
    assert plain[0] == f"race,count,{marks}"
    assert facts(PACKAGE)["column"]  # a chart at once, without any choice


def test_suppressed_cells_are_marked_and_never_told(facts, otto):
    told = facts(PACKAGE, column="onset_month", stratifier="gender")
    assert told["chart"]["suppressed"]
    page = otto.get(f"/ui{PACKAGE}", params={"column": "onset_month", "stratifier": "gender"})
    assert "✕" in page.text
    counts = [n for g in told["chart"]["data"] for _, n in g["rows"] if n is not None]
    assert min(counts) >= 5
    sites = len(told["package"]["sites"])
    assert all(row["sites"] + row["absent"] == sites for row in told["rows"])
    hidden = {(row["part"], row["value"]): row["hidden"] for row in told["rows"]}
    assert {tuple(mark[:2]): mark[3] for mark in told["chart"]["marks"]} == hidden
    asked = {"column": "onset_month", "stratifier": "gender"}
    lines = csv.DictReader(otto.get(f"/api{PACKAGE}/chart.csv", params=asked).text.splitlines())
    written = [
        (line["gender"], line["onset_month"], line["suppressed cells"], line["sites suppressed"])
        for line in lines
    ]
    assert written == [
        (row["part"], row["value"], str(row["cells"]), str(row["hidden"])) for row in told["rows"]
    ]


def test_filters_are_ored_groups_of_anded_conditions(facts):
    where = {
        "any": [{"all": [["gender", "strEq", "female"]]}, {"all": [["race", "strEq", "white"]]}]
    }
    total = facts(PACKAGE, column="race", where=json.dumps(where))["chart"]["totalCount"]
    everybody = facts(PACKAGE, column="race")["chart"]["totalCount"]
    female = facts(PACKAGE, column="race", where=json.dumps({"any": [where["any"][0]]}))["chart"][
        "totalCount"
    ]
    assert female < total < everybody


@pytest.mark.parametrize("where", ["{", '{"any": 3}', '{"any":[{"all":[["x","strEq","y"]]}]}'])
def test_a_bad_filter_is_said_to_be_one(otto, where):
    for start in ("/api", "/ui"):
        answer = otto.get(f"{start}{PACKAGE}", params={"column": "race", "where": where})
        assert answer.status_code == 400


def test_studies_tell_who_uploaded_when(facts):
    told = facts("/studies/core")
    assert {one["site"] for one in told["times"]} == {"boston", "denver", "seattle"}
    assert told["periods"][0]["earliest_date"] == "2024-01-01"
    every = facts("/studies")
    assert {one["site"] for one in every["uploads"]} == {"boston", "denver", "seattle"}
    assert every["subscriptions"]["targets"]


def test_a_crawl_registers_what_is_missing(facts, otto, demo):
    assert otto.post("/ui/studies/subscriptions/crawl").status_code == 303
    after = facts("/studies")["subscriptions"]
    assert after["missing"] == []
    assert "core__count_patient__000" in after["tables"]


def test_imaging_shows_nothing_that_identifies(facts, otto):
    told = facts("/imaging/clinic/series")["series"]
    stack = max(told, key=lambda one: one["images"])
    assert (stack["images"], stack["modality"], stack["body_part"]) == (SLICES, "CT", "CHEST")
    one = facts(f"/imaging/clinic/series/{stack['series']}")
    names = {tag["name"] for tag in one["tags"]}
    assert {"Rows", "SliceThickness", "RescaleIntercept"} <= names
    assert len(one["frames"]) == SLICES
    (patient,) = [p for p in facts("/imaging/clinic/patients")["patients"] if p["site"] == "alpha"]
    assert facts("/imaging/clinic/series", patient=patient["patient"])["series"] == [stack]
    assert facts("/imaging/clinic/series", patient="none")["series"] == []
    about = facts("/imaging")["aggregates"][0]
    assert about["rows"]["images"] == SLICES + 1
    assert {row["removed"] for row in about["deidentified"]} == {"YES", "not said"}
    for path in (
        "/imaging", "/imaging/clinic/series", f"/imaging/clinic/series/{stack['series']}",
        "/imaging/clinic/patients", "/audit", "/runs", "/findings",
    ):  # fmt: skip
        for start in ("/ui", "/api"):
            text = otto.get(f"{start}{path}").text
            assert [canary for canary in CANARIES if canary in text] == []


def test_a_picture_is_seen_through_the_window_that_is_asked_for(facts, otto):
    stack = max(facts("/imaging/clinic/series")["series"], key=lambda one: one["images"])
    frame = facts(f"/imaging/clinic/series/{stack['series']}")["frames"][0]
    url = f"/api/imaging/clinic/pictures/{frame['sha256']}/0"
    plain = otto.get(url)
    assert plain.headers["content-type"] == "image/jpeg"
    assert (plain.headers["x-window-center"], plain.headers["x-window-width"]) == ("40", "400")
    image = np.asarray(Image.open(io.BytesIO(plain.content)))
    assert image.shape == (96, 96)
    dark = otto.get(url, params={"center": 2000, "width": 10})
    assert np.asarray(Image.open(io.BytesIO(dark.content))).max() < 10
    small = Image.open(io.BytesIO(otto.get(url, params={"small": "true"}).content))
    assert max(small.size) <= 160
    assert otto.get(url[:-1] + "7").status_code == 400  # there is no such frame
    strange = f"/api/imaging/clinic/pictures/{'0' * 64}/0"
    assert otto.get(strange).json()["kind"] == "no-picture"
    assert otto.get(f"/api/imaging/clinic/series/{'0' * 24}").status_code == 404


def test_exports_show_jobs_and_give_files(facts, otto, vera, demo):
    job = demo.ledger.runs("exports/claims")[0].id
    told = facts(f"/exports/{job}")
    assert (told["state"], told["done"], told["members"]) == ("published", 30, 30)
    assert sum(one["count"] for one in told["outputs"]) == sum(n % 7 + 1 for n in range(30))
    name = told["outputs"][0]["name"]
    file = otto.get(f"/api/exports/{job}/files/{name}")
    assert len(file.text.splitlines()) == told["outputs"][0]["count"]
    assert vera.get(f"/api/exports/{job}/files/{name}").status_code == 403
    listed = otto.get(f"/api/exports/{job}/manifest.json?from=a/b").json()
    assert listed["request"].endswith(f"/api/exports/{job}/manifest.json")
    assert len(listed["output"]) == len(told["outputs"])
    assert listed["output"][0]["url"].endswith(f"/api/exports/{job}/files/{name}")
    events = otto.get(f"/api/exports/{job}/events").text
    assert events.startswith("event: job\ndata: {")
    assert events.endswith("event: end\ndata: {}\n\n")
    assert otto.post(f"/ui/exports/{job}/cancel").status_code == 409


def test_a_job_is_watched_until_it_ends_and_can_be_cancelled(otto, demo, facts):
    from catchment.exports import capability

    job = capability.job(demo, "slow")
    run = demo.ledger.start_run(job.aggregate, job.config())
    told = facts(f"/exports/{run.id}")
    assert (told["state"], told["may_cancel"], told["outputs"]) == ("running", True, [])
    brief = otto.get(f"/api/exports/{run.id}/events", params={"seconds": 0.01}).text
    assert '"state": "running"' in brief
    assert otto.get(f"/api/exports/{run.id}/manifest.json").status_code == 404
    assert otto.post(f"/ui/exports/{run.id}/cancel").headers["location"] == f"/ui/exports/{run.id}"
    assert demo.ledger.run(run.id).state == "cancelled"
    assert facts("/audit")["deeds"][0]["action"] == "export cancelled"


def test_sessions_are_listed_drawn_and_withdrawn(facts, otto, demo):
    (told,) = facts("/arrays")["aggregates"]
    (part,) = told["partitions"]
    assert part["sessions"] == 3
    assert sum(one["count"] for one in part["n_windows"]) == 3
    listed = facts(f"/arrays/sessions/{part['store']}")
    names = [one["session"] for one in listed["sessions"]]
    place = f"/arrays/sessions/{part['store']}/sessions/{names[0]}"
    about = facts(place)
    eeg = next(one for one in about["signals"] if one["name"] == "eeg")
    drawn = otto.get(f"/api{place}/signal", params={"variable": "eeg", "points": 50}).json()
    folder = sessions.folder_of(demo, "sessions")
    whole = read.session(read.dataset(below(folder, part["store"])), names[0])["eeg"]
    assert whole.dims == ("time", "eeg_channel", "eeg_sample")
    values = whole.values.transpose(1, 0, 2).reshape(len(eeg["channels"]), -1)
    for line, channel in zip(values, drawn["channels"], strict=True):
        assert max(channel["high"]) == pytest.approx(float(line.max()))
        assert min(channel["low"]) == pytest.approx(float(line.min()))
    half = otto.get(f"/api{place}/signal", params={"variable": "eeg", "start": 0.5}).json()
    assert half["samples"] == pytest.approx(drawn["samples"] / 2, rel=0.1)
    assert half["from"] > drawn["from"]
    bad = {"variable": "eeg", "start": 0.9, "stop": 0.1}
    assert otto.get(f"/api{place}/signal", params=bad).status_code == 400
    assert otto.get(f"/api{place}/signal", params={"variable": "none"}).status_code == 404
    assert otto.get(f"/api/arrays/sessions/none/sessions/{names[0]}").status_code == 404
    gone = f"/arrays/sessions/{part['store']}/sessions/{names[-1]}"
    assert otto.post(f"/ui{gone}/withdraw").status_code == 303
    assert otto.get(f"/api{gone}").status_code == 404
    after = facts(f"/arrays/sessions/{part['store']}")
    assert [one["status"] for one in after["sessions"]].count("present") == 2
    assert facts("/audit")["deeds"][0]["action"] == "session withdrawn"


def test_staff_look_at_any_site_and_a_site_at_its_own(facts, app):
    assert {"boston", "denver", "seattle"} <= set(facts("/sites")["sites"])
    told = facts("/sites/seattle")
    assert {one["aggregate"] for one in told["aggregates"]} == {"studies/core"}
    assert told["findings"]
    assert {run["aggregate"] for run in facts("/sites/boston")["runs"]} == {"studies/core"}
    anna = Looker(app)
    anna.sign_in("anna", PASSWORD)
    own = anna.get("/api/site").json()
    assert (own["site"], own["own"]) == ("boston", True)
    assert {one["study"] for one in own["uploads"]} == {"core"}
    assert "seattle" not in anna.get("/ui/site").text
    upload = own["uploads"][0]["transaction"]
    assert anna.get(f"/ui/site/uploads/{upload}").status_code == 200
    dan = Looker(app)
    dan.sign_in("dan", PASSWORD)
    assert dan.get(f"/api/site/uploads/{upload}").status_code == 404


def test_what_is_not_there_is_said_to_be_empty(tmp_path):
    from tests.web.looking import add_people, signed_in
    from tests.web.serving import make_workspace

    with make_workspace(tmp_path) as workspace:
        add_people(workspace)
        looker = signed_in(create_app(workspace, process=False), "operator")
        for path in ("/", "/tables", "/imaging", "/exports", "/arrays", "/runs", "/findings"):
            assert looker.get(f"/ui{path}").status_code == 200
        assert "Nothing is here yet" not in looker.get("/ui/").text  # it has [studies.flu]
        assert looker.get("/ui/tables/none").status_code == 404
    assert isinstance(TestClient, type)


@given(st.lists(st.floats(allow_infinity=True, allow_nan=True, width=32), max_size=300),
       st.integers(1, 50))  # fmt: skip
def test_an_envelope_loses_no_peak(values, points):
    line = np.array(values, dtype="float64")
    told = sessions.envelope(line, points)
    good = line[np.isfinite(line)]
    high = [v for v in told["high"] if v is not None]
    low = [v for v in told["low"] if v is not None]
    assert len(told["low"]) == len(told["high"]) <= points
    assert (max(high), min(low)) == (good.max(), good.min()) if good.size else not high + low
    json.dumps(told, allow_nan=False)


@given(st.lists(st.integers(0, 10_000), max_size=100))
def test_a_histogram_counts_each_once(values):
    bins = sessions.histogram(values)
    assert sum(one["count"] for one in bins) == len(values)
    for one in bins:
        assert one["count"] == sum(one["from"] <= v <= one["to"] for v in values)
    assert len(bins) <= sessions.BINS


def test_a_series_or_a_store_that_is_not_there(demo):
    from catchment.imaging import browse
    from catchment.imaging.snapshot import open_snapshot as open_imaging

    with pytest.raises(NotFound):
        browse.one_series(open_imaging(demo.store, demo.ledger, "clinic"), "0" * 24)
    with pytest.raises(Invalid):
        sessions.signal(
            sessions.folder_of(demo, "sessions"), "x", "y", sessions.Part("eeg", 1.0, 0.0)
        )


def test_a_picture_that_cannot_be_decoded_says_so(otto, facts, monkeypatch):
    from catchment.imaging import codecs

    def broken(*_):
        raise codecs.CannotDecode("too-large")

    stack = facts("/imaging/clinic/series")["series"][0]
    frame = facts(f"/imaging/clinic/series/{stack['series']}")["frames"][0]
    monkeypatch.setattr(codecs, "read_frames", broken)
    answer = otto.get(f"/api/imaging/clinic/pictures/{frame['sha256']}/0")
    assert (answer.status_code, answer.json()["kind"]) == (400, "cannot-decode")
    assert "too-large" in answer.json()["message"]


def test_tables_that_cannot_be_asked_are_damaged(otto, demo, monkeypatch):
    from catchment.imaging.snapshot import ImagingSnapshot

    connect = ImagingSnapshot.connect

    def without_tables(self):
        connection = connect(self)
        connection.execute("DROP VIEW images")
        return connection

    monkeypatch.setattr(ImagingSnapshot, "connect", without_tables)
    answer = otto.get("/api/imaging")
    assert (answer.status_code, answer.json()["kind"]) == (500, "snapshot-damaged")


def test_a_session_without_a_clock_has_no_times():
    import xarray as xr

    assert sessions._clock(xr.Dataset({"a": ("time", [1.0, 2.0])}), 0, 2) == (None, None)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"where": '{"all": [["race", "matches", "("]]}'}, "the filter cannot be applied"),
        ({"where": "no filter"}, "expected {&#34;any&#34;"),
        ({"stratifier": "nobody"}, "no such column"),
    ],
)
def test_a_chart_that_cannot_be_made_is_said_where_it_can_be_mended(otto, asked, said):
    answer = otto.get(f"/ui{PACKAGE}", params={"column": "race"} | asked)
    assert answer.status_code == 400
    assert said in answer.text
    assert 'id="builder"' in answer.text  # with what was asked
    assert html.escape(asked.get("where", "")) in answer.text.replace("&#34;", "&quot;")
    assert 'id="counts"' not in answer.text
    assert otto.get(f"/api{PACKAGE}", params={"column": "race"} | asked).status_code == 400


def test_a_flat_table_has_no_chart(otto, demo):
    from catchment.studies import library

    name = "core__people.flat.parquet"
    key = f"upload_staging/core/boston/000/{name}"
    import pyarrow as pa

    from catchment.testing.studies import parquet

    demo.store.put(key, parquet(pa.table({"age": [1, 2]})))
    library.submit(demo, "boston", "core", 0, name, key, "anna", "flat")
    (flat,) = [one for one in library.packages(demo) if one.kind == "flat"]
    answer = otto.get(f"/api/charts/{flat.id}")
    assert (answer.status_code, answer.json()["kind"]) == (400, "not-a-cube")
    assert otto.get("/ui/studies").status_code == 200


def test_many_studies_are_one_table(otto, monkeypatch):
    from catchment.studies import library

    assert 'aria-label="Studies"' not in otto.get("/ui/studies").text
    known = library.studies
    more = [f"study-{n}" for n in range(9)]
    monkeypatch.setattr(library, "studies", lambda workspace: [*known(workspace), *more])
    text = otto.get("/ui/studies").text
    assert 'aria-label="Studies"' in text
    assert "Packages of core" not in text
    for name in ("core", *more):
        assert f'href="/ui/studies/{name}"' in text


def test_who_watches_a_job_hears_signs_of_life_and_is_cut_off_when_signed_out(
    app, demo, monkeypatch
):
    from catchment.exports import capability
    from catchment.web.pages import exports

    stella = Looker(app)
    stella.sign_in("stella", PASSWORD)
    job = capability.job(demo, "slow")
    run = demo.ledger.start_run(job.aggregate, job.config() | {"again": 1})
    monkeypatch.setattr(exports, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(exports, "BEAT_SECONDS", 0.02)
    told = stella.get(f"/api/exports/{run.id}/events", params={"seconds": 0.3}).text
    assert ": still here" in told
    assert told.endswith("event: end\ndata: {}\n\n")
    people, asked = type(app.state.pages.people), []
    found = people.session

    def gone(self, token):
        asked.append(token)
        return found(self, token) if len(asked) == 1 else None

    monkeypatch.setattr(people, "session", gone)
    cut = stella.get(f"/api/exports/{run.id}/events", params={"seconds": 30}).text
    assert "event: end" not in cut
    demo.ledger.finish_run(run.id, "cancelled")
