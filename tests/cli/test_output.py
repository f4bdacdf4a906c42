from __future__ import annotations

import json
import sys
import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from catchment.cli import output
from catchment.cli.output import Output, findings, plain, table
from catchment.core.progress import Event


class Terminal:
    """A stream that says it is a terminal, and keeps what is written."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


@given(st.text())
@example("a\x1b[31mb\x9b\u202e\u2028\ud800\x00\u200b é 漢 🙂")
def test_plain_text_has_nothing_that_a_terminal_obeys(text):
    shown = plain(text)
    assert all(c == " " or unicodedata.category(c)[0] not in "CZ" for c in shown)
    shown.encode()


@given(st.text(alphabet=st.characters(exclude_categories=["C", "Z"])))
def test_plain_text_stays_as_it_is(text):
    assert plain(text) == text


def test_a_result_is_lines_and_tables(capsys):
    rows = [("uds", 12345, True, None, ("a", "b")), ("\x1b[1m[red]ftld", 7, False, "x", [])]
    Output().result(
        {"rows": rows},
        lambda data: ["first\x1b line", table("A title", "abcde", data["rows"])],
    )
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["first\\x1b line", "A title"]
    assert lines[2].split() == list("abcde")
    assert lines[4].split() == ["uds", "12,345", "true", "a,", "b"]
    assert lines[5].split() == ["\\x1b[1m[red]ftld", "7", "false", "x"]
    assert len(lines) == 6


def test_a_result_as_json_is_ascii(capsys):
    Output(json=True).result({"a": "\u202e\x9b\x1b"}, lambda data: [str(data)])
    text = capsys.readouterr().out
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text) == {"a": "\u202e\x9b\x1b"}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda one: (
        st.lists(one)
        | st.tuples(one, one)
        | st.dictionaries(st.text() | st.integers() | st.none(), one)
    ),
    max_leaves=30,
)


@given(PLAIN)
@example({"a": [{"b": 1, "c": []}, {}], "d\x7f é 🙂": {"e": (), "f": None}})
def test_json_is_that_of_the_standard_library(data):
    assert output._pretty(data) == json.dumps(data, indent=1)


def test_notes_are_for_people(capsys):
    Output().note("a\x1b")
    Output(quiet=True).note("b")
    Output(json=True).note("c")
    assert capsys.readouterr() == ("", "a\\x1b\n")


def test_findings_begin_with_the_gravest():
    common = {"where": "uds", "message": "m"}
    found = [
        {"severity": "note", "site": "a", "code": "x", "hint": "", **common},
        {"severity": "error", "site": "b", "code": "y", "hint": "do", **common},
        {"severity": "warning", "site": "a", "code": "z", "hint": "", **common},
    ]
    assert list(findings(found)) == [
        "error: b: uds: m [y]",
        "  hint: do",
        "warning: a: uds: m [z]",
        "and 1 note (--json shows it)",
    ]


def test_what_several_sites_share_is_said_once():
    same = {"severity": "warning", "code": "x", "where": "uds", "message": "m", "hint": ""}
    assert list(findings([{**same, "site": site} for site in "abcde"])) == [
        "warning: a, b, c and 2 more: uds: m [x]"
    ]


def test_on_a_terminal_progress_is_bars(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Output().progress() as show:
        show(Event("tables/uds: merge\x1b", "start", 0, 3, "centers"))
        show(Event("tables/uds: merge\x1b", "done", 3, 3, "centers", "al\x07pha [red]"))
    assert "tables/uds: merge\\x1b" in terminal.text
    assert "3/3" in terminal.text
    assert "centers al\\x07pha [red]" in terminal.text


def test_elsewhere_progress_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(output, "HEARTBEAT_SECONDS", 0.02)
    with Output().progress() as show:
        show(Event("old", "step", 1))
        show(Event("tables/uds: merge\x1b", "step", 1200, 4000, "rows", "alpha"))
        until = time.monotonic() + 10
        lines: list[str] = []
        while not lines and time.monotonic() < until:
            time.sleep(0.02)
            lines = capsys.readouterr().err.splitlines()
        show(Event("tables/uds: merge\x1b", "done"))
        show(Event("old", "done"))
        time.sleep(0.1)
        capsys.readouterr()
        time.sleep(0.1)
        assert capsys.readouterr().err == ""
    assert set(lines) == {"tables/uds: merge\\x1b: 1,200 of 4,000 rows alpha"}


def test_short_work_says_nothing(capsys):
    with Output().progress() as show:
        show(Event("x", "start"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("output", [Output(json=True), Output(quiet=True)])
def test_progress_is_silent_when_asked(monkeypatch, output):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with output.progress() as show:
        show(Event("x", "step", 1, 2))
    assert terminal.text == ""
