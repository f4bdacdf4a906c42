from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.errors import Invalid
from catchment.core.names import NAME, RESERVED, check_name, counted, shown
from catchment.core.store import check_key


@pytest.mark.parametrize("name", ["a", "uds", "alpha-leads", "a_1", "z" * 63])
def test_a_plain_name_is_given_back_as_it_is(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A",
        "1a",
        "-a",
        "_a",
        "a b",
        "a/b",
        "a.b",
        "..",
        "a\n",
        "a\x00",
        "z" * 64,
        "é",
        "\u0430lpha",
        "\uff41",
    ],
)
def test_anything_else_is_refused(name):
    with pytest.raises(Invalid) as error:
        check_name(name, "table name")
    assert error.value.kind == "bad-name"
    assert "table name" in error.value.message
    assert error.value.hint


def test_a_name_that_only_looks_right_is_told_apart():
    with pytest.raises(Invalid, match="only looks like one"):
        check_name("\uff41lpha")


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_words_are_refused(name):
    with pytest.raises(Invalid, match="reserved"):
        check_name(name)


@given(st.text())
def test_an_accepted_name_is_a_key_and_its_own_normal_form(name):
    if NAME.fullmatch(name) and name not in RESERVED:
        assert check_key(check_name(name)) == name
        assert unicodedata.normalize("NFKC", name) == name == name.lower()
        return
    with pytest.raises(Invalid) as error:
        check_name(name)
    assert error.value.message.isascii()
    assert error.value.message.isprintable()


def test_hostile_names_are_refused_and_shown_harmlessly(shared):
    for name in json.loads((shared / "data/hostile/strings/blns.json").read_text("utf-8")):
        printed = shown(name)
        assert printed.isascii()
        assert printed.isprintable()
        if not NAME.fullmatch(name):
            with pytest.raises(Invalid):
                check_name(name)


def test_a_long_name_is_shown_cut():
    assert shown("x" * 65) == repr("x" * 61 + "...")
    assert shown("x" * 64) == repr("x" * 64)


def test_one_thing_is_no_plural():
    assert [counted(n, "rows") for n in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
