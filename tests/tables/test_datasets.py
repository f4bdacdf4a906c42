from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.errors import Invalid, NotFound, Unavailable
from catchment.core.finding import Severity
from catchment.core.progress import Event
from catchment.core.store import open_store
from catchment.tables.datasets import (
    MAX_DESCRIPTION,
    Found,
    find_datasets,
    latest,
    read_created,
)
from catchment.tables.model import Center
from catchment.tables.sources import MappingSource, Place, TemplateSource

UCD = Center("ucd", 0, "UC Davis, the short one")
UCDAVIS = Center("ucdavis", 1, "UC Davis")
CENTERS = [UCD, UCDAVIS]


class Sites:
    """Sites in a folder, written as plain files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = TemplateSource(f"{folder}/fw/{{center}}")

    def write(self, key: str, data: bytes | str = b"PAR1") -> Path:
        path = self.folder / "fw" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def version(self, prefix: str, created: object, *files: str, **more: object) -> None:
        for file in files:
            self.write(f"{prefix}/tables/{file}")
        description = json.dumps({"id": "x", "created": created, "tables": {}, **more})
        self.write(f"{prefix}/provenance/dataset_description.json", description)

    def find(self, *centers: Center, **options) -> Found:
        return find_datasets(centers or CENTERS[:1], self.source, **options)

    def codes(self, *centers: Center, **options) -> list[str]:
        return [f.code for f in self.find(*centers, **options).findings]


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def test_the_latest_version_and_its_tables(sites):
    sites.version("ucd/versions/1", NEW, "uds/b.parquet", "uds/a.parquet", "mds/x.parquet")
    sites.version("ucd/versions/2", OLD, "uds/old.parquet")
    found = sites.find()
    (dataset,) = found.datasets
    assert found.findings == ()
    assert dataset.center is UCD
    assert dataset.version == "1"
    assert dataset.prefix == "ucd/versions/1/"
    assert dataset.created == datetime(2026, 1, 2, tzinfo=UTC)
    assert dataset.url == (sites.folder / "fw").as_uri()
    assert list(dataset.tables) == ["mds", "uds"]
    assert [(f.key, f.size) for f in dataset.tables["uds"]] == [
        ("ucd/versions/1/tables/uds/a.parquet", 4),
        ("ucd/versions/1/tables/uds/b.parquet", 4),
    ]
    file = dataset.tables["mds"][0]
    assert file.store.read(file.key) == b"PAR1"
    assert file.etag == file.store.head(file.key).etag


def test_prefixes_are_whole(sites):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet", "uds_ext/a.parquet", "uds-x/a.parquet")
    sites.version("ucdavis/versions/1", NEW, "uds/b.parquet")
    ucd, ucdavis = sites.find(*CENTERS).datasets
    assert {t: [f.key for f in files] for t, files in ucd.tables.items()} == {
        t: [f"ucd/versions/1/tables/{t}/a.parquet"] for t in ("uds", "uds-x", "uds_ext")
    }
    assert list(ucdavis.tables) == ["uds"]


@pytest.mark.parametrize(
    ("one", "two", "winner"),
    [
        (OLD, NEW, "2"),
        (NEW, OLD, "1"),
        ("2026-01-05T12:00:00+09:00", "2026-01-05T10:00:00Z", "2"),
        ("2026-01-05T10:00:00.5Z", "2026-01-05T10:00:00Z", "1"),
        ("2026-01-05T10:00:00Z", "2026-01-05T02:00:00-08:00", "2"),
        ("2026-01-05T10:00:00.000Z", "2026-01-05T10:00:00Z", "2"),
        ("2026-01-05T10:00:00.000001Z", "2026-01-05T10:00:00Z", "1"),
    ],
)
def test_versions_are_compared_as_instants_and_then_by_key(sites, one, two, winner):
    sites.version("ucd/versions/1", one, "uds/a.parquet")
    sites.version("ucd/versions/2", two, "uds/a.parquet")
    assert sites.find().datasets[0].version == winner


def test_an_older_releases_latest_folder(sites):
    sites.version("ucd/latest", OLD, "uds/a.parquet")
    assert sites.find().datasets[0].version == "latest"
    sites.version("ucd/versions/1", OLD, "uds/a.parquet")
    assert sites.find().datasets[0].version == "1"
    sites.version("ucd/latest", NEW, "uds/a.parquet")
    assert sites.find().datasets[0].prefix == "ucd/latest/"


def test_a_template_may_lead_to_the_versions_themselves(sites):
    sites.version("ucd/etl/form/versions/1", OLD, "uds/a.parquet")
    sites.source = TemplateSource(f"{sites.folder}/fw/{{center}}/etl/form")
    assert sites.find().datasets[0].prefix == "ucd/etl/form/versions/1/"
    sites.source = MappingSource({"ucd": f"{sites.folder}/fw/ucd/etl/form"})
    assert sites.find().datasets[0].prefix == "versions/1/"


@pytest.mark.parametrize(
    "description",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"created": 1767225600}',
        b'{"created": "yesterday"}',
        b'{"created": "2026-01-03"}',
        b'{"created": "2026-01-03T00:00:00"}',
        b'{"created": "0001-01-01T00:00:00+14:00"}',
        b'{"created": "2026-01-03T00:00:00Z", "created": "2026-01-04T00:00:00Z"}',
        b'{"created": ["2026-01-03T00:00:00Z"]}',
        b'{"created": "2026-01-03T00:00:00Z", "x": NaN}',
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b"9" * 10_000,
        b" " * MAX_DESCRIPTION + b'{"created": "2026-01-03T00:00:00Z"}',
    ],
    ids=lambda d: f"{d[:24]}...{len(d)}",
)
def test_a_version_with_a_broken_description_is_passed_over(sites, description):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet")
    sites.version("ucd/versions/2", NEW, "uds/a.parquet")
    sites.write("ucd/versions/2/provenance/dataset_description.json", description)
    found = sites.find()
    assert [d.version for d in found.datasets] == ["1"]
    (finding,) = found.findings
    assert finding.code == "description-unreadable"
    assert finding.severity is Severity.WARNING
    assert finding.where == "ucd/versions/2/provenance/dataset_description.json"
    assert "expected" in finding.message
    assert len(finding.message) < 200
    assert found.skipped == {}


def test_a_description_of_the_greatest_size_is_read(sites):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet")
    text = b'{"created": "2026-01-03T00:00:00Z"}'
    sites.write("ucd/versions/1/provenance/dataset_description.json", text.rjust(MAX_DESCRIPTION))
    assert sites.find().findings == ()


def test_a_version_without_a_description_is_not_whole_yet(sites):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet")
    sites.write("ucd/versions/2/tables/uds/a.parquet")
    found = sites.find()
    assert [d.version for d in found.datasets] == ["1"]
    assert [f.code for f in found.findings] == ["description-unreadable"]


def test_hostile_json_in_a_description_is_survived(sites, shared):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet")
    files = sorted((shared / "data/hostile/json/test_parsing").glob("*.json"))
    for file in files:
        target = sites.folder / f"fw/ucd/versions/{file.stem}/provenance/dataset_description.json"
        target.parent.mkdir(parents=True)
        shutil.copy(file, target)
    found = sites.find()
    assert [d.version for d in found.datasets] == ["1"]
    assert len(found.findings) == len(files)


def test_nothing_there_is_said(sites):
    found = sites.find()
    assert found.datasets == ()
    assert found.skipped["ucd"].code == "dataset-missing"
    assert "--datasets" in found.skipped["ucd"].hint
    assert found.skipped["ucd"].severity is Severity.ERROR
    assert found.findings == tuple(found.skipped.values())


def test_a_newest_version_without_tables_is_said_and_not_replaced(sites):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet")
    sites.version("ucd/versions/2", NEW)
    found = sites.find()
    assert found.datasets == ()
    assert found.skipped["ucd"].code == "version-empty"
    assert "--fall-back" in found.skipped["ucd"].hint
    assert found.skipped["ucd"].where == "ucd/versions/2/"


def test_it_is_replaced_where_that_is_allowed_and_still_said(sites):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet")
    sites.version("ucd/versions/2", NEW)
    sites.version("ucd/versions/3", NEW)
    found = sites.find(fall_back=True)
    assert [d.version for d in found.datasets] == ["1"]
    assert [(f.code, f.severity) for f in found.findings] == [("version-empty", "warning")] * 2
    assert found.skipped == {}


def test_no_version_with_tables_at_all(sites):
    sites.version("ucd/versions/1", OLD)
    found = sites.find(fall_back=True)
    assert [f.code for f in found.findings] == ["version-empty", "dataset-missing"]
    assert found.skipped["ucd"] is found.findings[-1]


@pytest.mark.parametrize("name", ["UDS", "1uds", "uds.old", "u ds", "con", "x" * 64, "üds"])
def test_a_table_with_a_bad_name_is_refused_and_the_others_stand(sites, name):
    sites.version("ucd/versions/1", OLD, f"{name}/a.parquet", f"{name}/b.parquet", "mds/a.parquet")
    found = sites.find()
    assert list(found.datasets[0].tables) == ["mds"]
    (finding,) = found.findings
    assert finding.code == "table-refused"
    assert "table name" in finding.message
    assert finding.message.isascii()


@pytest.mark.parametrize(
    "file", ["uds.parquet", "uds/part=1/a.parquet", "uds/a.csv", "uds/a.PARQUET", "uds/parquet"]
)
def test_files_that_are_not_where_tables_are_are_not_silently_lost(sites, file):
    sites.version("ucd/versions/1", OLD, file, "uds/z.parquet")
    found = sites.find()
    assert [f.key[-9:] for f in found.datasets[0].tables["uds"]] == ["z.parquet"]
    assert [f.code for f in found.findings] == ["table-refused"]


def test_marks_of_writers_and_folders_are_passed_over(sites):
    sites.version(
        "ucd/versions/1", OLD, "uds/z.parquet", "uds/_SUCCESS", "uds/.z.parquet.crc", "_x"
    )
    sites.write("ucd/versions/1/tables/mds", b"")  # how S3 consoles make a folder
    assert sites.find().findings == ()


def test_an_empty_parquet_file_is_left_to_those_who_read_it(sites):
    sites.version("ucd/versions/1", OLD)
    sites.write("ucd/versions/1/tables/uds/a.parquet", b"")
    assert sites.find().datasets[0].tables["uds"][0].size == 0


def test_a_table_that_the_description_names_must_be_there(sites):
    tables = {"uds": {}, "mds": {}, "Bad": {}}
    sites.version("ucd/versions/1", OLD, "uds/a.parquet", "Bad/a.parquet", tables=tables)
    refused, missing = sites.find().findings
    assert refused.code == "table-refused"
    assert missing.code == "table-missing"
    assert "'mds'" in missing.message


@pytest.mark.parametrize("tables", [None, ["uds"], "uds", 5])
def test_tables_in_another_form_are_not_looked_at(sites, tables):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet", tables=tables)
    assert sites.find().findings == ()


def test_errors_that_the_description_reports_are_counted_not_quoted(sites):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet", errors=["NACC000001 has no visit", "x"])
    (finding,) = sites.find().findings
    assert finding.code == "description-errors"
    assert "2" in finding.message
    assert "NACC" not in finding.message


# --- the digest ---------------------------------------------------------------------------------


def test_the_digest_stays_while_nothing_moves(sites):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet", "mds/a.parquet")
    before = sites.find().datasets[0].digest
    sites.version("ucd/versions/0", OLD, "uds/a.parquet")
    sites.write("ucd/versions/1/tables/uds/_SUCCESS")
    assert before.startswith("sha256:")
    assert sites.find().datasets[0].digest == before


@pytest.mark.parametrize("change", ["description", "size", "same size", "name", "more"])
def test_the_digest_follows_every_move(sites, change):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet")
    before = sites.find().datasets[0].digest
    match change:
        case "description":
            sites.version("ucd/versions/1", OLD, "uds/a.parquet", name="y")
        case "size":
            sites.write("ucd/versions/1/tables/uds/a.parquet", b"PAR11")
        case "same size":
            path = sites.folder / "fw/ucd/versions/1/tables/uds/a.parquet"
            path.unlink()
            sites.write("ucd/versions/1/tables/uds/a.parquet", b"PAR2")
        case "name":
            path = sites.folder / "fw/ucd/versions/1/tables/uds/a.parquet"
            path.rename(path.with_name("b.parquet"))
        case "more":
            sites.write("ucd/versions/1/tables/uds/b.parquet")
    assert sites.find().datasets[0].digest != before


# --- many centers -------------------------------------------------------------------------------


def test_one_bad_center_does_not_hurt_the_others(sites):
    sites.version("ucdavis/versions/1", OLD, "uds/a.parquet")
    found = sites.find(*CENTERS)
    assert [d.center.id for d in found.datasets] == ["ucdavis"]
    assert list(found.skipped) == ["ucd"]


def test_results_are_in_order_of_centers_with_any_number_of_threads(sites):
    centers = [Center(f"c{n:02d}", n, "C") for n in range(20)]
    for n, center in enumerate(centers):
        sites.version(f"{center.id}/versions/1", OLD, *(["uds/a.parquet"] if n % 3 else []))
    found = sites.find(*centers, workers=1)
    assert [d.center for d in found.datasets] == [c for n, c in enumerate(centers) if n % 3]
    assert [f.site for f in found.findings] == [c.id for n, c in enumerate(centers) if not n % 3]
    again = sites.find(*centers, workers=8)
    assert again.findings == found.findings
    assert [d.digest for d in again.datasets] == [d.digest for d in found.datasets]


def test_centers_that_share_a_place_are_both_left_out(sites):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet")
    sites.version("other/versions/1", OLD, "uds/a.parquet")
    place = f"{sites.folder}/fw/ucd"
    other = Center("other", 9, "O")
    source = MappingSource(
        {"ucd": place, "ucdavis": place + "/", "other": f"{sites.folder}/fw/other"}
    )
    found = find_datasets([UCD, other, UCDAVIS], source)
    assert [d.center.id for d in found.datasets] == ["other"]
    assert {id_: f.code for id_, f in found.skipped.items()} == {
        "ucd": "place-shared",
        "ucdavis": "place-shared",
    }
    assert found.skipped["ucd"].message.endswith("ucdavis")


def test_progress_counts_centers(sites):
    events: list[Event] = []
    sites.find(*CENTERS, progress=events.append)
    assert [(e.state, e.done, e.total) for e in events] == [
        ("start", 0, 2),
        ("step", 1, 2),
        ("step", 2, 2),
        ("done", 2, 2),
    ]


class Told:
    """A source that does as it is told."""

    def __init__(self, source, *, one_bucket=False, errors=()):
        self.source, self.one_bucket, self.errors = source, one_bucket, dict(errors)

    def locate(self, center):
        if center.id in self.errors:
            raise self.errors[center.id]
        return self.source.locate(center)


@pytest.mark.parametrize(
    "error", [NotFound("gone", kind="no-project"), Invalid("odd", hint="mend")]
)
def test_a_center_that_cannot_be_located_is_skipped(sites, error):
    sites.version("ucdavis/versions/1", OLD, "uds/a.parquet")
    found = find_datasets(CENTERS, Told(sites.source, errors={"ucd": error}))
    assert [d.center.id for d in found.datasets] == ["ucdavis"]
    finding = found.skipped["ucd"]
    assert (finding.code, finding.message, finding.hint) == (error.kind, error.message, error.hint)


def test_a_source_that_is_down_ends_the_run(sites):
    source = Told(sites.source, errors={"ucdavis": Unavailable("down")})
    with pytest.raises(Unavailable, match="down"):
        find_datasets(CENTERS, source)


def test_several_buckets_end_the_run_where_one_is_asked_for(tmp_path):
    source = MappingSource({"ucd": f"{tmp_path}/a", "ucdavis": f"{tmp_path}/b"})
    with pytest.raises(Invalid) as error:
        find_datasets(CENTERS, Told(source, one_bucket=True))
    assert error.value.kind == "many-buckets"


class Watched:
    """A store that counts what it is asked, and fails where it is told."""

    def __init__(self, store, fail=lambda verb, key: False):
        self.store, self.url, self.fail = store, store.url, fail
        self.asked: list[tuple[str, str]] = []
        self.threads: set[int] = set()

    def __getattr__(self, verb):
        def ask(key, *args, **options):
            self.asked.append((verb, key))
            self.threads.add(threading.get_ident())
            if self.fail(verb, key):
                raise Unavailable("the network is gone")
            return getattr(self.store, verb)(key, *args, **options)

        return ask


def test_only_what_is_needed_is_asked_for(sites):
    for n in range(5):
        sites.version(f"ucd/versions/{n}", OLD, "uds/a.parquet")
    store = Watched(open_store((sites.folder / "fw").as_uri()))
    with ThreadPoolExecutor(2) as pool:
        dataset, _ = latest(UCD, Place(store, "ucd/"), pool=pool)
    assert dataset is not None
    assert sorted(verb for verb, _ in store.asked) == ["folders", "list", *["read"] * 6]
    assert ("list", "ucd/versions/4/tables/") in store.asked


def test_many_centers_and_versions_do_not_wait_for_each_other_forever(sites):
    centers = [Center(f"c{n}", n, "C") for n in range(6)]
    for center in centers:
        for n in range(6):
            sites.version(f"{center.id}/versions/{n}", OLD, "uds/a.parquet")
    assert len(sites.find(*centers, workers=1).datasets) == 6
    assert len(sites.find(*centers, workers=2).datasets) == 6


@pytest.mark.parametrize("verb", ["folders", "read", "list"])
def test_a_store_that_fails_skips_the_center_and_no_older_version_wins(sites, verb):
    sites.version("ucd/versions/1", OLD, "uds/a.parquet")
    sites.version("ucd/versions/2", NEW, "uds/a.parquet")
    sites.version("ucdavis/versions/1", OLD, "uds/a.parquet")
    source = Told(sites.source)
    watched = Watched(
        sites.source.locate(UCD).store,
        lambda v, key: v == verb and key.startswith(("ucd/versions/2", "ucd/versions/")),
    )
    source.source = type("S", (), {"locate": lambda _, c: Place(watched, f"{c.id}/")})()
    found = find_datasets(CENTERS, source)
    assert [d.center.id for d in found.datasets] == ["ucdavis"]
    assert found.skipped["ucd"].code == "unavailable"


# --- instants -----------------------------------------------------------------------------------


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
    st.sampled_from(["seconds", "milliseconds", "microseconds"]),
)
def test_an_instant_is_the_same_in_every_zone(moment, minutes, precision):
    zone = timezone(timedelta(minutes=minutes))
    instant = moment.replace(tzinfo=UTC)
    text = instant.astimezone(zone).isoformat(timespec=precision)
    lost = instant - read_created(text)
    assert timedelta() <= lost < timedelta(**{precision: 1})
    assert read_created(text).tzinfo is UTC
    assert read_created(text.lower().replace("+00:00", "z")) == read_created(text)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-05T10:00:00.1234567Z",
        "2026-01-05 10:00:00.123456+00:00",
        "20260105T100000.123456Z",
    ],
)
def test_other_spellings_of_an_instant(text):
    assert read_created(text) == datetime(2026, 1, 5, 10, 0, 0, 123456, tzinfo=UTC)


@given(st.text() | st.none() | st.integers() | st.booleans() | st.floats())
def test_anything_is_an_instant_or_invalid_and_is_not_quoted(value):
    try:
        created = read_created(value)
    except Invalid as error:
        assert error.message.startswith("created: expected")
    else:
        assert created.tzinfo is UTC


@pytest.mark.parametrize("where", ["tables/uds", "tables", "tables/uds/b.parquet"])
def test_a_link_in_a_dataset_is_no_table_that_left(sites, where, tmp_path):
    """Its center is told, and nothing is taken for a dataset without that table."""
    sites.version("ucd/latest", OLD, "mds/a.parquet", "uds/a.parquet")
    path = sites.folder / "fw/ucd/latest" / where
    moved = tmp_path / "elsewhere"
    if path.exists():
        path.rename(moved)
    else:
        moved.write_bytes(b"PAR1")
    path.symlink_to(moved)
    found = sites.find()
    if where.endswith(".parquet"):  # whoever reads it is refused
        (dataset,) = found.datasets
        link = dataset.tables["uds"][-1]
        with pytest.raises(Invalid) as caught:
            link.store.read(link.key)
        assert caught.value.kind == "not-a-file"
    else:
        assert (found.datasets, [f.code for f in found.findings]) == ((), ["not-a-file"])
