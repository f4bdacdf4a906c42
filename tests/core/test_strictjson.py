from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.strictjson import Repeated, described, loads


def test_the_json_test_suite_is_read_as_it_says(shared):
    files = sorted((shared / "data/hostile/json/test_parsing").glob("*.json"))
    assert len(files) > 300
    for file in files:
        _read_as_its_name_says(file)


def _read_as_its_name_says(file: Path) -> None:
    data = file.read_bytes()
    if file.name.startswith("y_"):
        assert loads(data) == json.loads(data), file.name
    elif file.name.startswith("n_"):
        with pytest.raises(ValueError):  # noqa: PT012
            loads(data)
            pytest.fail(file.name)
    else:
        with contextlib.suppress(ValueError):
            loads(data)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_refused_not_died_of(opening):
    with pytest.raises(ValueError, match="deep"):
        loads(opening * 100_000)


def test_a_number_of_many_digits_is_refused():
    with pytest.raises(ValueError):
        loads("9" * 5000)


def test_a_byte_order_mark_is_passed_over():
    assert loads(b"\xef\xbb\xbf[1]") == loads("\ufeff[1]") == [1]


def test_other_encodings_are_refused():
    with pytest.raises(ValueError):
        loads('{"a": 1}'.encode("utf-16"))


def test_repeated_names_are_told_apart():
    value = loads('{"a": {"b": 1, "c": 2, "b": 3}, "d": 4}')
    assert value == {"a": {"b": 3, "c": 2}, "d": 4}
    assert isinstance(value["a"], Repeated)
    assert value["a"].names == {"b"}
    assert not isinstance(value, Repeated)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_what_python_writes_is_read_back(value):
    text = json.dumps(value)
    assert loads(text) == loads(text.encode()) == value


@given(st.binary() | st.text())
def test_any_input_is_a_value_or_a_valueerror(data):
    with contextlib.suppress(ValueError):
        loads(data)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true or false"),
        (0, "a number"),
        (0.5, "a number"),
        ("x", "a string"),
        ([], "an array"),
        ({}, "an object"),
        (b"", "a bytes"),
    ],
)
def test_values_are_described_without_being_shown(value, words):
    assert described(value) == words
