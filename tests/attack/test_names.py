"""Hostile names and texts in every field: they are shown, kept and asked for as what they are."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pytest

from catchment.core.account import Account
from catchment.core.finding import Finding, Severity
from catchment.core.ledger import Publication
from catchment.core.workspace import Workspace
from catchment.studies import merge
from catchment.web.app import create_app
from tests.web.looking import add_people, signed_in
from tests.web.serving import make_workspace

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "'; DROP TABLE runs; --",
    "{{7*7}}${7*7}{% for x in y %}",
    "=HYPERLINK(1)",
    "\x1b[2J\x1b]0;title\x07",
    "a\r\nSet-Cookie: x=1",
    "\u202egnp.exe",
    "../../etc/passwd",
    "%2e%2e%2f%00",
    "javascript:alert(1)",
]


def test_texts_of_sites_are_texts_on_every_page(tmp_path):
    with make_workspace(tmp_path) as workspace:
        add_people(workspace)
        found = [Finding("boston", Severity.ERROR, "some-code", t, t, t) for t in HOSTILE]
        made = Publication("tables/main", "k", "there/", {}, Account(), findings=found)
        workspace.ledger.publish(made)
        for n, text in enumerate(HOSTILE):
            workspace.ledger.receive("tables/main", "boston", text, f"sha256:{n}", 1)
        looker = signed_in(create_app(workspace, process=False), "operator")
        for path in ("/ui/", "/ui/runs", "/ui/findings", "/ui/sites", "/ui/sites/boston"):
            page = looker.get(path)
            assert page.status_code in {200, 404}, path
            for part in ("<script>alert", "<img src=x", "49$"):
                assert part not in page.text.lower(), path
            assert "x" not in page.cookies
            assert "\n" not in str(page.headers.values())
            assert 'href="javascript:' not in page.text
        page = looker.get("/ui/findings").text
        assert "&lt;script&gt;alert(1)" in page
        told = [one["message"] for one in looker.get("/api/findings").json()["findings"]]
        assert set(told) <= {*HOSTILE}
        assert workspace.ledger.aggregates() == ["tables/main"]  # nothing was dropped


def test_a_terminal_obeys_no_name(tmp_path, capsys):
    from catchment.cli.main import run

    with make_workspace(tmp_path) as workspace:
        found = [Finding("boston", Severity.ERROR, "some-code", t, t, t) for t in HOSTILE]
        workspace.ledger.publish(
            Publication("tables/main", "k", "there/", {}, Account(), findings=found)
        )
    assert run(["status", "-w", str(tmp_path)]) == 0
    assert run(["lineage", "-w", str(tmp_path)]) == 0
    shown = "".join(capsys.readouterr())
    assert not {c for c in shown if ord(c) < 32} - {"\n"}
    assert "\u202e" not in shown


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '"=1'])
def test_no_cell_and_no_heading_is_a_formula(text):
    table = pa.table({"cnt": pa.array([12, 20], pa.int64()), text: [text, "plain"]})
    told = b"".join(merge._lines(table)).decode()
    rows = list(csv.reader(io.StringIO(told, newline="")))
    assert len(rows) == 3
    assert rows[1][0] == "12"  # numbers stay numbers
    for cell in (rows[0][1], rows[1][1]):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert cell.endswith(text)


@pytest.mark.parametrize("name", [*HOSTILE, "UPPER", "con", "a" * 64, "ﬁle", "a/b", ""])
def test_a_hostile_name_is_no_setting_no_site_and_no_key(tmp_path, name):
    from catchment.core.errors import CatchmentError
    from catchment.core.ledger.access import Access
    from catchment.studies import layout

    with Workspace.described({"workspace.store": tmp_path.as_uri()}) as workspace:
        for attempt in (
            lambda: Access(workspace.ledger).add(name, "anna", "hash"),
            lambda: layout.staging(name, "boston", 0, "x.zip"),
            lambda: layout.staging("core", name, 0, "x.zip"),
        ):
            with pytest.raises(CatchmentError) as refused:
                attempt()
            assert "\x1b" not in refused.value.message
        assert list(workspace.store.list()) == []
