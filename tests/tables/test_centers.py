from __future__ import annotations

import json
import random
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.errors import Invalid
from catchment.core.finding import Finding, Severity
from catchment.tables.centers import read_centers, select_centers
from catchment.tables.model import Center, Options

ALPHA = {"adcid": 42, "name": "Alpha ADRC", "center-id": "alpha", "is-active": True, "tags": ["t"]}
BETA = {"adcid": 7, "name": "Beta", "group": "beta"}


def mapping(*entries: dict) -> str:
    return json.dumps({"centers": {str(e.get("adcid")): e for e in entries}})


def read(*entries: dict) -> tuple[list[Center], list[Finding]]:
    return read_centers(mapping(*entries), "centers.json")


def refused(**changes: object) -> Finding:
    """The one finding about alpha with changes, beside a beta that stands."""
    entry = {k: v for k, v in (ALPHA | changes).items() if v is not ...}
    text = json.dumps({"centers": {"42": entry, "7": BETA}})
    centers, findings = read_centers(text, "centers.json")
    assert [c.id for c in centers] == ["beta"]
    assert len(findings) == 1
    return findings[0]


def test_the_mapping_of_the_reference():
    centers, findings = read(ALPHA)
    assert centers == [Center("alpha", 42, "Alpha ADRC", active=True, tags=("t",))]
    assert findings == []


@pytest.mark.parametrize("field", ["center_id", "center-id", "group"])
def test_aliases_of_the_id(field):
    (center,), _ = read({"adcid": 1, "name": "A", field: "alpha"})
    assert center.id == "alpha"


@pytest.mark.parametrize("field", ["active", "is-active", "is_active"])
def test_aliases_of_active(field):
    (center,), _ = read({"adcid": 1, "name": "A", "group": "alpha", field: False})
    assert not center.active


def test_a_center_is_active_and_without_tags_unless_it_says_otherwise():
    (center,), _ = read(BETA)
    assert center.active
    assert center.tags == ()


@pytest.mark.parametrize("tags", [["a", " b "], "a, b", "a,b,", ["a", "", "b"]])
def test_tags_are_a_list_or_one_string(tags):
    (center,), _ = read(BETA | {"tags": tags})
    assert center.tags == ("a", "b")


def test_adcid_zero_is_a_center_like_any_other():
    centers, findings = read(BETA | {"adcid": 0}, ALPHA)
    assert [c.adcid for c in centers] == [0, 42]
    assert findings == []


def test_bytes_with_a_byte_order_mark_and_tables_of_toml_are_read_alike():
    toml = tomllib.loads(
        '[centers.42]\nadcid = 42\nname = "Alpha ADRC"\ncenter-id = "alpha"\ntags = "t"'
    )
    text = mapping(ALPHA)
    assert (
        read_centers(toml, "catchment.toml")
        == read_centers(text, "f")
        == read_centers(b"\xef\xbb\xbf" + text.encode(), "f")
    )


@pytest.mark.parametrize("adcid", [True, "42", 42.0, -1, None, ..., 2**31, [42]])
def test_only_an_integer_is_an_adcid(adcid):
    assert refused(adcid=adcid).message.startswith("adcid: expected an integer")


def test_the_key_must_be_the_adcid():
    assert "'42' for 43" in refused(adcid=43).message


@pytest.mark.parametrize("key", ["042", " 42", "+42", "\uff14\uff12"])
def test_the_key_is_compared_as_text(key):
    centers, findings = read_centers(json.dumps({"centers": {key: ALPHA}}), "f")
    assert centers == []
    assert [f.site for f in findings] == ["alpha"]


@pytest.mark.parametrize("active", ["false", "true", 0, 1, None])
def test_only_a_boolean_says_whether_a_center_is_active(active):
    assert refused(**{"is-active": active}).message.startswith("active: expected true or false")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ...}, "name:"),
        ({"name": ""}, "name:"),
        ({"name": "A\x1b[31m"}, "name:"),
        ({"name": 5}, "name:"),
        ({"center-id": ...}, "center-id: expected a string, got null"),
        ({"center-id": 5}, "center-id: expected a string, got a number"),
        ({"center-id": "Alpha"}, "not a usable center id"),
        ({"center-id": "../beta"}, "not a usable center id"),
        ({"center-id": "con"}, "reserved"),
        ({"tags": 5}, "tags:"),
        ({"tags": ["a", 5]}, "tags:"),
        ({"tags": {"a": 1}}, "tags:"),
        ({"active": False}, "active and is-active differ"),
        ({"group": "gamma"}, "center-id and group differ"),
    ],
)
def test_a_malformed_entry_is_a_finding_of_that_center(changes, message):
    finding = refused(**changes)
    assert message in finding.message
    assert finding.code == "center-malformed"
    assert finding.severity is Severity.ERROR
    assert finding.where == "centers.json: centers.'42'"
    assert finding.hint


def test_a_finding_names_the_center_where_it_can():
    assert refused(adcid=43).site == "alpha"
    assert refused(**{"center-id": "No"}).site == "'42'"


@pytest.mark.parametrize("entry", [None, 5, "alpha", [ALPHA]])
def test_an_entry_that_is_no_object_is_a_finding(entry):
    centers, findings = read_centers(json.dumps({"centers": {"42": entry, "7": BETA}}), "f")
    assert [c.id for c in centers] == ["beta"]
    assert findings[0].message.startswith("expected an object")


def test_two_centers_with_one_id_are_both_left_out():
    centers, findings = read(ALPHA, BETA | {"group": "alpha"}, BETA | {"adcid": 8})
    assert [c.adcid for c in centers] == [8]
    assert [(f.site, f.where) for f in findings] == [
        ("alpha", "centers.json: centers.'42'"),
        ("alpha", "centers.json: centers.'7'"),
    ]


def test_an_id_claimed_by_a_malformed_entry_is_doubtful_too():
    centers, findings = read(ALPHA, {"adcid": 7, "group": "alpha"})
    assert centers == []
    assert len(findings) == 2


def test_a_key_given_twice_leaves_both_out():
    text = mapping(BETA)[:-2] + f', "42": {json.dumps(ALPHA)}' * 2 + "}}"
    centers, findings = read_centers(text, "f")
    assert [c.id for c in centers] == ["beta"]
    assert ["more than once" in f.message for f in findings] == [True]


def test_a_field_given_twice_is_a_finding():
    centers, findings = read_centers('{"centers": {"1": {"adcid": 1, "adcid": 1}}}', "f")
    assert centers == []
    assert "twice: 'adcid'" in findings[0].message


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", "expected JSON"),
        ("{", "expected JSON"),
        (b"\xff", "expected JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "got an array"),
        ("{}", "got the names: none"),
        ('{"center": {}, "x\\u001b": 1}', "got the names: 'center', 'x\\x1b'"),
        ('{"centers": []}', "'centers': expected an object, got an array"),
        ('{"centers": {}, "centers": {}}', "'centers' twice"),
        ({"tables": {}}, "'tables'"),
    ],
)
def test_a_fault_of_the_whole_is_raised(data, expected):
    with pytest.raises(Invalid) as error:
        read_centers(data, "centers.json")
    assert error.value.kind == "bad-center-mapping"
    assert error.value.message.startswith("centers.json: ")
    assert expected in error.value.message
    assert '"centers"' in error.value.hint


def test_no_center_is_a_mapping_too():
    assert read_centers('{"centers": {}}', "f") == ([], [])


@given(st.permutations(range(8)))
def test_the_order_of_the_file_does_not_matter(order):
    centers, findings = read(*({"adcid": n, "name": "N", "group": f"c{n}"} for n in order))
    assert [c.adcid for c in centers] == list(range(8))
    assert findings == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 50) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.integers(-1, 5).map(str),
        JSON
        | st.fixed_dictionaries(
            {"adcid": JSON, "name": JSON, "group": JSON}, optional={"active": JSON, "tags": JSON}
        ),
    )
)
def test_every_entry_is_a_center_or_a_finding(entries):
    centers, findings = read_centers(json.dumps({"centers": entries}), "f")
    assert len(centers) + len(findings) == len(entries)
    assert len({c.id for c in centers}) == len({c.adcid for c in centers}) == len(centers)


# --- selection ----------------------------------------------------------------------------------

CENTERS = [
    Center("alpha", 0, "A"),
    Center("beta", 1, "B", active=False),
    Center("alpha-leads", 2, "AL"),
    Center("gamma", 3, "G"),
    Center("gamma-leads-two", 4, "GL"),
]


def select(**options) -> tuple[list[str], dict[str, str]]:
    options = {k: frozenset(v) for k, v in options.items()}
    taken, findings = select_centers(CENTERS, Options(**options))
    return [c.id for c in taken], {f.site: f.code for f in findings}


def test_all_active_centers_by_default():
    assert select() == (
        ["alpha", "alpha-leads", "gamma", "gamma-leads-two"],
        {"beta": "center-inactive"},
    )


def test_included_centers_only():
    taken, left = select(include_centers=["gamma", "alpha"])
    assert taken == ["alpha", "gamma"]
    assert left["alpha-leads"] == "center-not-included"


def test_an_inactive_center_is_skipped_even_if_it_is_asked_for():
    assert select(include_centers=["beta"])[1]["beta"] == "center-inactive"


def test_excluded_centers():
    taken, left = select(exclude_centers=["alpha"])
    assert "alpha" not in taken
    assert "alpha-leads" in taken
    assert left["alpha"] == "center-excluded"


def test_excluded_studies_are_whole_suffixes():
    taken, left = select(exclude_studies=["leads"])
    assert taken == ["alpha", "gamma", "gamma-leads-two"]
    assert left["alpha-leads"] == "study-excluded"
    assert "gamma-leads-two" not in select(exclude_studies=["leads-two"])[0]


def test_none_included_is_not_all_included():
    assert select(include_centers=[])[0] == []


@pytest.mark.parametrize("field", ["include_centers", "exclude_centers"])
def test_an_unknown_center_is_an_error_that_names_near_ones(field):
    with pytest.raises(Invalid) as error:
        select(**{field: ["alpha", "gama", "zzz"]})
    assert error.value.kind == "unknown-center"
    assert "'gama' (did you mean gamma?), 'zzz'" in error.value.message
    assert "alpha-leads" in error.value.hint


@pytest.mark.parametrize("study", ["lead", "eads", "alpha-leads", "", "-leads"])
def test_an_unknown_study_is_an_error(study):
    with pytest.raises(Invalid) as error:
        select(exclude_studies=[study])
    assert error.value.kind == "unknown-study"


def test_both_lists_are_an_error():
    with pytest.raises(Invalid) as error:
        select(include_centers=["alpha"], exclude_centers=["gamma"])
    assert error.value.kind == "include-and-exclude"


def test_a_malformed_center_can_be_named():
    centers, findings = read(BETA, ALPHA | {"name": ""})
    options = Options(exclude_centers=frozenset(["alpha"]))
    taken, _ = select_centers(centers, options, findings)
    assert [c.id for c in taken] == ["beta"]
    with pytest.raises(Invalid):
        select_centers(centers, options)


def test_every_center_is_taken_or_reported_with_any_options():
    draw = random.Random(5)
    ids = [c.id for c in CENTERS]
    for _ in range(100):
        lists = {draw.choice(["include_centers", "exclude_centers"]): draw.sample(ids, 2)}
        taken, left = select(**lists, exclude_studies=draw.sample(["leads", "two"], 1))
        assert sorted(taken + list(left)) == sorted(ids)
