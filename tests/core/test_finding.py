"""Findings are data: they survive JSON and pickling, and compare."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.finding import Finding, Severity, worst

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
findings = st.builds(Finding, text, st.sampled_from(Severity), text, text, text, text)


@given(findings)
def test_it_survives_json_and_pickling(finding):
    again = Finding.from_json(json.loads(json.dumps(finding.to_json())))
    assert again == finding
    assert isinstance(again.severity, Severity)
    assert pickle.loads(pickle.dumps(finding)) == finding


@given(st.lists(findings))
def test_the_gravest_is_the_worst(found):
    severities = [f.severity for f in found]
    for severity in (Severity.ERROR, Severity.WARNING, Severity.NOTE):
        if severity in severities:
            assert worst(found) is severity
            return
    assert worst(found) is None


def test_a_severity_that_is_none_is_refused():
    data = Finding("a", Severity.NOTE, "c", "w", "m").to_json()
    with pytest.raises(ValueError, match="fatal"):
        Finding.from_json(data | {"severity": "fatal"})
    with pytest.raises(TypeError):
        Finding.from_json(data | {"patient": "x"})


def test_equal_ones_are_one():
    one = Finding("a", Severity.NOTE, "c", "w", "m")
    assert len({one, Finding("a", Severity.NOTE, "c", "w", "m", "")}) == 1
    assert min([Finding("b", Severity.ERROR, "a", "a", "a"), one]) is one
