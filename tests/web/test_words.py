"""How numbers, times and states are spelt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from catchment.web.pages import words

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("past", "text"),
    [
        (timedelta(0), "0 s"),
        (-timedelta(5), "0 s"),  # a clock that is ahead
        (timedelta(seconds=59), "59 s"),
        (timedelta(minutes=59), "59 min"),
        (timedelta(hours=23), "23 h"),
        (timedelta(days=59), "59 d"),
        (timedelta(days=90), "3 mo"),
        (timedelta(days=800), "2 y"),
    ],
)
def test_ages_are_one_number(past, text):
    assert words.ago((NOW - past).isoformat(), NOW) == text
    assert words.ago(None) == "never"


def test_times_are_utc():
    assert words.when("2026-11-21T13:30:00+01:00") == "2026-11-21 12:30"
    assert words.when(datetime(2026, 11, 21, 12, 30)) == "2026-11-21 12:30"
    assert words.day("2026-11-21T23:30:00-05:00") == "2026-11-22"
    assert words.when("") == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123 kB"),
     (5 * 10**12, "5.0 TB"), (5 * 10**15, "5.0 PB"), (5 * 10**19, "50000.0 PB")],
)  # fmt: skip
def test_sizes(value, text):
    assert words.size(value) == text


def test_numbers_and_shares():
    assert words.number(1_234_567) == "1\u202f234\u202f567"
    assert words.number(None) == ""
    assert words.number(1234.5) == "1\u202f234.5"
    assert words.share(1, 3) == "33.3 %"
    assert words.share(0, 3) == "0 %"
    assert words.share(3, 3) == "100 %"
    assert words.share(99_999, 100_000) == ">99.9 %"  # not all of it
    assert words.share(0, 0) == "—"


def test_durations():
    assert words.seconds(NOW, NOW + timedelta(seconds=1.25)) in {"1.2 s", "1.3 s"}
    assert words.seconds(NOW, NOW + timedelta(seconds=119)) == "119 s"
    assert words.seconds(NOW, NOW + timedelta(minutes=7)) == "7 min"
    assert words.seconds(NOW, None) == ""


def test_what_is_there_can_be_seen_in_a_bar():
    assert words.bar(1, 10**9) == 1
    assert words.bar(0, 10) == 0
    assert words.bar(1, 0) == 0
    assert words.bar(5, 10) == 50


def test_a_state_nobody_knows_is_calm():
    assert words.state("published").tone == "good"
    assert words.state("failed").tone == "bad"
    assert words.state("whatever").tone == "calm"
