from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.errors import Invalid, NotFound
from catchment.tables.model import Center
from catchment.tables.sources import (
    MappingSource,
    Place,
    TemplateSource,
    Url,
    check_one_bucket,
    read_pointer,
)

ALPHA = Center("alpha", 0, "Alpha")
BETA = Center("beta", 12, "Beta")
POINTER = {
    "bucket": "nacc-etl",
    "prefix": "fw/alpha/form",
    "storage_id": "65",
    "storage_label": "etl",
    "type": "s3",
}
# Nobody asks this store anything: opening it makes no request.
S3 = {"region": "us-east-1", "access_key_id": "id", "secret_access_key": "key"}


def where(place: Place) -> tuple[str, str]:
    return place.store.url, place.prefix


# --- templates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "url", "prefix"),
    [
        ("file:///data/{center}", "file:///data", "beta/"),
        ("file:///data/{center}/", "file:///data", "beta/"),
        ("/data/{center}", "file:///data", "beta/"),
        ("/my data/100%/{center}/x", "file:///my%20data/100%25", "beta/x/"),
        ("file:///my%20data/{center}/a%20b", "file:///my%20data", "beta/a b/"),
        ("file:///data/c-{adcid}/etl/{center}", "file:///data", "c-12/etl/beta/"),
        ("file:///{center}", "file:///", "beta/"),
        ("s3://nacc-etl/fw/{center}/form", "s3://nacc-etl", "fw/beta/form/"),
        ("s3://nacc-{center}/fw", "s3://nacc-beta", "fw/"),
        ("s3://nacc-{center}", "s3://nacc-beta", ""),
    ],
)
def test_a_template_is_filled_in(template, url, prefix):
    assert where(TemplateSource(template, options=S3).locate(BETA)) == (url, prefix)


def test_adcid_zero_is_filled_in():
    assert TemplateSource("/data/{adcid}").locate(ALPHA).prefix == "0/"


def test_centers_share_one_open_store():
    source = TemplateSource("/data/{center}")
    assert source.locate(ALPHA).store is source.locate(BETA).store
    assert not source.one_bucket


@pytest.mark.parametrize(
    "template",
    [
        "",
        "/data",
        "data/{center}",
        "file://data/{center}",
        "file:///data/../{center}",
        "file:///data/%2e%2e/{center}",
        "file:///data//{center}",
        "/data/{name}",
        "/data/{center.id}",
        "/data/{center}/{",
        "/data/{{center}}",
        "s3://{center}x_y/z",
        "s3://UPPER/{center}",
        "s3:///{center}",
        "s3://user:password@bucket/{center}",
        "s3://bucket/{center}?versionId=1",
        "s3://bucket/{center}#part",
        "https://example.org/{center}",
        "memory://x/{center}",
        "file:///da\nta/{center}",
    ],
)
def test_anything_else_is_no_template(template):
    with pytest.raises(Invalid) as error:
        TemplateSource(template)
    assert "password" not in error.value.message
    assert "expected" in error.value.message or error.value.kind == "bad-key"


# --- a place per center -------------------------------------------------------------------------


def test_places_by_center():
    source = MappingSource({"alpha": "file:///a/x", "beta": "s3://some-bucket/b"}, options=S3)
    assert where(source.locate(ALPHA)) == ("file:///a/x", "")
    assert where(source.locate(BETA)) == ("s3://some-bucket", "b/")
    assert not source.one_bucket


def test_a_center_without_a_place_is_not_found():
    with pytest.raises(NotFound) as error:
        MappingSource({"alpha": "/a"}).locate(BETA)
    assert error.value.kind == "no-place"
    assert "beta" in error.value.message


def test_pointers_as_places():
    source = MappingSource({"alpha": POINTER}, options=S3)
    assert where(source.locate(ALPHA)) == ("s3://nacc-etl", "fw/alpha/form/")
    assert source.one_bucket


def test_placeholders_in_a_place_mean_nothing():
    assert MappingSource({"alpha": "/a/{center}"}).locate(ALPHA).store.url.endswith("%7Bcenter%7D")


# --- pointers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"type": "S3"},
        {"prefix": "/fw/alpha/form/"},
        {"storage_label": ..., "label": "etl"},
        {"storage_id": ...},
    ],
)
def test_pointers_in_their_usual_forms(changes):
    pointer = {k: v for k, v in (POINTER | changes).items() if v is not ...}
    assert read_pointer(pointer) == Url("s3", "nacc-etl", ("fw", "alpha", "form"))


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "gs"},
        {"type": ...},
        {"type": 5},
        {"bucket": ...},
        {"bucket": "../x"},
        {"bucket": "a/b"},
        {"bucket": 5},
        {"prefix": ...},
        {"prefix": ""},
        {"prefix": "/"},
        {"prefix": ["fw"]},
        {"prefix": "fw/../other"},
        {"prefix": "fw//x"},
        {"prefix": "fw/\x00"},
    ],
)
def test_anything_else_is_no_pointer(changes):
    pointer = {k: v for k, v in (POINTER | changes).items() if v is not ...}
    with pytest.raises(Invalid) as error:
        read_pointer(pointer)
    assert error.value.kind in {"bad-pointer", "bad-key"}


@pytest.mark.parametrize("pointer", [None, "s3://bucket/x", [POINTER], 5])
def test_a_pointer_is_an_object(pointer):
    with pytest.raises(Invalid, match="got "):
        read_pointer(pointer)


def test_pointers_to_several_buckets_are_an_error_that_names_them():
    source = MappingSource({"alpha": POINTER, "beta": POINTER | {"bucket": "other"}}, options=S3)
    places = {c.id: source.locate(c) for c in (ALPHA, BETA)}
    with pytest.raises(Invalid) as error:
        check_one_bucket(places)
    assert error.value.kind == "many-buckets"
    assert "s3://nacc-etl (for one, alpha), s3://other (for one, beta)" in error.value.message
    check_one_bucket({"alpha": places["alpha"]})
    check_one_bucket({})


# --- what is allowed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allow", "allowed"),
    [
        (["s3://nacc-etl"], True),
        (["s3://nacc-etl/fw"], True),
        (["s3://nacc-etl/fw/{center}/"], True),
        (["s3://other", "s3://nacc-etl/fw/alpha/form"], True),
        (["s3://nacc-etl/fw/al"], False),
        (["s3://nacc-etl/fw/alpha/form/x"], False),
        (["s3://nacc-etl/fw/{adcid}"], False),
        (["s3://nacc-etlx"], False),
        (["file:///nacc-etl"], False),
    ],
)
def test_places_outside_the_allow_list_are_refused(allow, allowed):
    source = MappingSource({"alpha": POINTER}, allow=allow, options=S3)
    if allowed:
        assert source.locate(ALPHA).prefix == "fw/alpha/form/"
    else:
        with pytest.raises(Invalid) as error:
            source.locate(ALPHA)
        assert error.value.kind == "place-not-allowed"
        assert allow[0].split("{")[0] in error.value.hint


def test_a_center_cannot_point_to_another_ones_folder():
    source = MappingSource({"beta": POINTER}, allow=["s3://nacc-etl/fw/{center}"], options=S3)
    with pytest.raises(Invalid):
        source.locate(BETA)


def test_the_allow_list_itself_is_checked():
    with pytest.raises(Invalid):
        TemplateSource("/data/{center}", allow=["gs://bucket"])
    assert TemplateSource("/data/{center}", allow=["/data"]).locate(ALPHA).prefix == "alpha/"


PARTS = st.lists(st.text("ab.%{} ü", min_size=1).filter(lambda p: p not in {".", ".."}), max_size=4)


@given(PARTS, PARTS)
def test_holds_compares_whole_parts(one, other):
    a, b = Url("s3", "bucket", tuple(one)), Url("s3", "bucket", tuple(other))
    assert a.holds(b) == ("/".join([*other, ""]).startswith("/".join([*one, ""]) if one else ""))
    assert a.holds(a)
    assert not a.holds(Url("s3", "other", a.parts))


@given(PARTS)
def test_a_folders_url_is_read_back(parts):
    path = "/" + "/".join(parts)
    store = MappingSource({"alpha": path}).locate(ALPHA).store
    assert Url.parse(store.url) == Url.parse(path) == Url("file", "", tuple(parts))


def test_urls_survive_pickling():
    url = Url.parse("s3://bucket/a/b")
    assert pickle.loads(pickle.dumps(url)) == url
