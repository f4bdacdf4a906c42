"""The door of studies: what a site sends becomes what readers see."""

from __future__ import annotations

import pytest

from catchment.core.errors import NotFound
from catchment.studies import library
from tests.studies.studying import CUBE, DATA, below, package, published, send, send_cube

SITE = "princeton_plainsboro_teaching_hospital"


@pytest.mark.skipif(not DATA.exists(), reason="the shared sample data is not here")
def test_the_public_example_becomes_506_rows(space):
    data = (DATA / "studies" / "upload.zip").read_bytes()
    done = send(space, SITE, data, study="upload", tx="tx-1")
    assert done.accepted
    assert [one.kind for one in done.files] == ["manifest", "cube", "meta", "meta"]
    assert done.to_json()["files"][1]["state"] == "last_valid"
    made = package(space, "count_synthea_patient", study="upload")
    assert (made.rows, made.total, made.sites) == (506, 1103, (SITE,))
    assert published(space, "count_synthea_patient", study="upload")[:2] == [
        (1103, None, None, None, None),
        (1103, None, None, None, SITE),
    ]
    assert library.uploads(space, "tx-1", SITE) == [done]
    assert library.uploads(space, "tx-1", "another") == []
    assert below(space, "upload_staging/") == []
    (period,) = library.periods(space)
    assert (period.earliest_date, period.latest_date) == ("2020-01-01", "2025-01-01")
    (manifest,) = library.manifests(space)
    assert (manifest.owner, manifest.content["study_prefix"]) == (SITE, "upload")
    assert library.studies(space) == ["upload"]


def test_nothing_that_arrived_is_nothing_to_submit(space):
    with pytest.raises(NotFound) as error:
        library.submit(space, "a", "upload", 0, "x.zip", "upload_staging/x", "u", "tx-9")
    assert error.value.kind == "no-upload"


def test_the_same_transaction_again_changes_nothing(space):
    first = send_cube(space, "a", CUBE, tx="once")
    number = library.catalog(space, "core").snapshot
    assert send_cube(space, "a", CUBE, tx="once") == first
    assert library.catalog(space, "core").snapshot == number
    key = "upload_staging/core/a/000/core__count.cube.parquet"
    name = "core__count.cube.parquet"
    assert library.submit(space, "a", "core", 0, name, key, "u", "once") == first


def test_times_tell_what_went_through_which_room(space):
    send_cube(space, "a", CUBE)
    send(space, "a", b"no cube", name="core__count.cube.parquet")
    (times,) = library.times(space)
    assert (times.site, times.study, times.package, times.version) == ("a", "core", "count", 0)
    assert times.last_data_update == times.last_aggregation < times.last_error == times.last_upload
    assert times.deleted is None


def test_a_package_is_found_by_its_study_alone(space, monkeypatch):
    send_cube(space, "a", CUBE)
    (one,) = library.packages(space)
    monkeypatch.setattr(library, "packages", None)
    assert library.package(space, one.id) == one
    for id_ in ("", "core", "core__count", "core__nobody__000", "nobody__count__000", "\0__a__000"):
        assert library.package(space, id_) is None
