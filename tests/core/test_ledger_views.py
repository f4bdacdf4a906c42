"""What pages ask the ledger, on both databases: compared with the same counted plainly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from catchment.core.account import Account, Balance, Line
from catchment.core.errors import Unavailable
from catchment.core.finding import WAY, Finding, Severity
from catchment.core.ledger import Ledger, Move, Publication
from catchment.core.ledger import views as module
from catchment.core.ledger.views import Views

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SITES = ("boston", "chicago", "denver")


class Clock:
    def __init__(self):
        self.now = NOW - timedelta(days=3)

    def __call__(self):
        self.now += timedelta(minutes=1)
        return self.now


def finding(site, severity, n, code="column-missing"):
    return Finding(site, severity, code, f"uds: 100 %_{n}", f"message {n}", "mend it")


def filled(ledger):
    """Three aggregates: one published with findings, one that failed, one that runs."""
    good = ledger.start_run("tables/good", {})
    account = Account()
    received = []
    for n, site in enumerate(SITES):
        received.append(ledger.receive("tables/good", site, "one", f"sha256:{site}", 10))
        account[Line(site, "uds", "rows")].add(Balance(10 + n, 10 + n))
        account[Line(site, "uds", "files")].add(Balance(1, 1))
    findings = [finding("boston", Severity.ERROR, n) for n in range(7)]
    findings += [finding("denver", Severity.WARNING, n, "columns-extra") for n in range(5)]
    ledger.publish(
        Publication(
            "tables/good", "key", "there/", {}, account, findings,
            [Move(received[0].id, "received", "published")], run=good.id,
        )
    )  # fmt: skip
    later = ledger.receive("tables/good", "boston", "two", "sha256:two", 10)
    bad = ledger.start_run("exports/bad", {})
    ledger.record(bad.id, findings=[finding("exporter", Severity.ERROR, 1, "member-failed")])
    ledger.finish_run(bad.id, "failed", Unavailable("away", kind="store-down", hint="wait"))
    busy = ledger.start_run("exports/bad", {"again": True})
    return good, bad, busy, later


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request, tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    if request.param == "postgres":
        url = request.getfixturevalue("emptied_ledgers")[0]
    with Ledger.open(url, clock=Clock()) as opened:
        yield opened


@pytest.fixture
def known(ledger):
    return filled(ledger)


def test_standings_tell_the_latest_run_and_the_latest_that_ended(ledger, known):
    good, bad, busy, _ = known
    ledger.receive("arrays/new", "lab", "s1", "sha256:s1", 1)
    one, two, three = Views(ledger).standings()
    assert (one.aggregate, one.run, one.ended, one.snapshot) == ("arrays/new", None, None, 0)
    assert (two.aggregate, two.run.id, two.ended.id) == ("exports/bad", busy.id, bad.id)
    assert (two.errors, two.warnings, two.published_at) == (1, 0, None)
    assert (three.run.id, three.snapshot) == (good.id, 1)
    assert (three.errors, three.warnings) == (7, 5)
    assert three.published_at is not None


def test_what_was_told_stands_while_runs_have_nothing_to_look_at(ledger, known):
    """An imaging run at night that finds no new file takes no conflict from the list."""
    views = Views(ledger)

    def told():
        (one,) = (s for s in views.standings() if s.aggregate == "tables/good")
        cell = next(c for c in views.cells(["tables/good"]) if c.site == "boston")
        whole = views.wholes(["tables/good"], 2)["tables/good"]
        assert len(whole.findings) == one.errors + one.warnings
        return one.errors, one.warnings, cell.errors, cell.warnings

    assert told() == (7, 5, 7, 0)
    for _ in range(2):
        idle = ledger.start_run("tables/good", {})
        ledger.finish_run(idle.id, "unchanged")
        assert told() == (7, 5, 7, 0)
    idle = ledger.start_run("tables/good", {})  # a provider could not be asked
    ledger.record(idle.id, findings=[finding("boston", Severity.WARNING, 1, "provider-away")])
    ledger.finish_run(idle.id, "unchanged")
    assert told() == (7, 6, 7, 1)
    other = ledger.start_run("exports/bad", {})  # another aggregate's is not this one's
    ledger.finish_run(other.id, "failed")
    assert told() == (7, 6, 7, 1)
    looked = ledger.start_run("tables/good", {})  # it has looked, and all is well now
    ledger.record(looked.id, Account({Line("boston", "uds", "rows"): Balance(1, 1)}))
    ledger.finish_run(looked.id, "unchanged")
    assert told() == (0, 0, 0, 0)
    other = ledger.start_run("exports/bad", {})
    ledger.finish_run(other.id, "unchanged")
    assert told() == (0, 0, 0, 0)


def test_the_way_to_a_site_is_told_as_it_was_found_last(ledger):
    """A run with nothing to read has tried it all the same."""
    views, name = Views(ledger), "imaging/ct"
    lost = Finding("north", Severity.ERROR, "no-folder", WAY, "there is no folder", "mount it")
    odd = Finding("north", Severity.WARNING, "value-odd", "files", "odd", "look")

    def idle(*findings):
        run = ledger.start_run(name, {})
        if findings:
            ledger.record(run.id, findings=findings)
        ledger.finish_run(run.id, "unchanged")

    def told():
        (one,) = views.standings()
        (cell,) = views.cells([name])
        found = sorted(f.code for f in views.wholes([name], 2)[name].findings)
        assert (one.errors, one.warnings) == (cell.errors, cell.warnings)
        assert len(found) == one.errors + one.warnings
        return found

    run = ledger.start_run(name, {})
    account = Account({Line("north", "files", "files"): Balance(1, 1)})
    ledger.publish(Publication(name, "key", "there/", {}, account, [lost, odd], run=run.id))
    assert told() == ["no-folder", "value-odd"]
    idle(lost)
    assert told() == ["no-folder", "value-odd"]
    idle()
    assert told() == ["value-odd"]


def test_cells_tell_the_newest_contribution_findings_and_account(ledger, known):
    *_, later = known
    cells = {(c.aggregate, c.site): c for c in Views(ledger).cells(["tables/good", "exports/bad"])}
    assert set(cells) == {*(("tables/good", s) for s in SITES), ("exports/bad", "exporter")}
    boston = cells["tables/good", "boston"]
    assert (boston.state, boston.received_at) == ("received", later.received_at)
    assert (boston.errors, boston.warnings) == (7, 0)
    assert (boston.unit, boston.received, boston.kept) == ("rows", 10, 10)
    assert cells["tables/good", "denver"].warnings == 5
    assert cells["exports/bad", "exporter"][2:6] == ("", None, 1, 0)
    (alone,) = Views(ledger).cells(ledger.aggregates(), "boston")
    assert alone == boston
    assert Views(ledger).cells([]) == []
    assert Views(ledger).cells(ledger.aggregates(), "nowhere") == []


def test_findings_are_paged_by_key_without_gap_or_repeat(ledger, known):
    views, seen, before = Views(ledger), [], None
    while True:
        page = views.findings(before=before, limit=4)
        seen += page.findings
        if page.next is None:
            break
        before = page.next
    assert len(seen) == 13
    assert [one.id for one in seen] == sorted({one.id for one in seen}, reverse=True)
    assert {one.aggregate for one in seen} == {"tables/good", "exports/bad"}


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"site": "boston"}, 7),
        ({"severity": "warning"}, 5),
        ({"code": "columns-extra"}, 5),
        ({"aggregate": "exports/bad"}, 1),
        ({"aggregate": "tables/good", "site": "exporter"}, 0),
        ({"text": "MESSAGE 3"}, 2),
        ({"text": "100 %_"}, 13),
        ({"text": "100 __"}, 0),  # no pattern of a search is one of SQL
        ({"text": "x' OR '1'='1"}, 0),
        ({"text": "message", "site": "denver"}, 5),
    ],
)
def test_findings_are_narrowed(ledger, known, asked, count):
    assert len(Views(ledger).findings(**asked).findings) == count


def test_a_search_looks_at_so_many_at_a_time_and_goes_on(ledger, known, monkeypatch):
    monkeypatch.setattr(module, "SEARCHED", 5)
    views, before, steps, found = Views(ledger), None, 0, []
    while steps < 10:
        page = views.findings(text="message 6", before=before)
        found += page.findings
        steps += 1
        if page.next is None:
            break
        before = page.next
    assert [one.finding.message for one in found] == ["message 6"]
    assert steps == 3
    assert views.findings(text="message", limit=2).next is not None


def test_what_there_is_to_choose_from(ledger, known):
    views = Views(ledger)
    assert views.codes() == ["column-missing", "columns-extra", "member-failed"]
    assert views.sites() == ["boston", "chicago", "denver", "exporter"]


def test_sums_by_day_are_of_published_runs(ledger, known):
    views = Views(ledger)
    day = f"{NOW - timedelta(days=3):%Y%m%d}"
    assert [tuple(one) for one in views.days(30)] == [
        (day, "tabl", "files", 3, 3),
        (day, "tabl", "rows", 33, 33),
    ]
    assert views.days(1) == [] or day in {one.day for one in views.days(1)}


def test_a_site_sees_its_own_lines(ledger, known):
    good, *_ = known
    ((run, told),) = Views(ledger).site_runs("chicago")
    assert run.id == good.id
    assert [(x["part"], x["unit"], x["received"]) for x in told["lines"]] == [
        ("uds", "files", 1), ("uds", "rows", 11),
    ]  # fmt: skip
    assert Views(ledger).site_runs("nowhere") == []


def test_a_run_tells_what_it_made_of_contributions(ledger, known):
    good, _, busy, _ = known
    views = Views(ledger)
    ((site, name, line),) = views.moves(good.id)
    assert (site, name, line.was, line.to) == ("boston", "one", "received", "published")
    assert views.moves(busy.id) == []
    assert views.moves("none") == []
    assert views.snapshot_of_run(good) == 1
    assert views.snapshot_of_run(busy) is None
