"""Every file ends in one state; what is published can be joined; a second run costs a listing."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.core.account import Line
from catchment.core.errors import Conflict, Invalid, NotFound, Unavailable
from catchment.core.ledger import Ledger
from catchment.core.store import open_store
from catchment.core.store_local import LocalStore
from catchment.imaging import layout, receive, review
from catchment.imaging.model import Options, Provider, State
from catchment.imaging.plan import Came, Claim, Fate, decide, unknown
from catchment.imaging.receive import Seen, mark
from catchment.imaging.resolve import conflicts, resolve
from catchment.imaging.run import plan_only, run, sync_only
from catchment.imaging.shelf import Shelf, most_rows
from catchment.testing.dicom import make_file


def image(number, series=1, study=1, patient="P1", **more):
    """A file whose UIDs say where it belongs."""
    return make_file(
        f"1.2.{study}.{series}.{number}", series=f"1.2.{study}.{series}", study=f"1.2.{study}",
        patient=patient, InstanceNumber=number, **more,
    )  # fmt: skip


LATER = datetime(2030, 1, 1, tzinfo=UTC)  # when every lease of today is over


def balance(outcome, site, part="files"):
    return outcome.account[Line(site, part, "files")]


def test_two_providers_become_joinable_tables(sites, job, house, opened):
    sites(
        alpha={"a/1.dcm": image(1), "a/2.dcm": image(2), "b.dcm": image(1, series=2)},
        beta={"x": image(1, study=2, patient="P1")},  # another person of the same id
    )
    outcome = run(job, house)
    assert outcome.state == "published"
    assert (balance(outcome, "alpha").received, balance(outcome, "alpha").kept) == (3, 3)
    snapshot = opened()
    assert snapshot.rows() == {
        "devices": 2, "patients": 2, "studies": 2, "series": 3, "images": 4,
        "compressed_images": 0, "processed_images": 4, "evidence": 0, "files": 4, "raw": 4,
    }  # fmt: skip
    with snapshot.connect() as connection:
        rows = connection.execute(
            'SELECT p.site, count(*) FROM images i JOIN series s USING ("SeriesInstanceUID") '
            'JOIN studies t ON t."StudyInstanceUID" = s."StudyInstanceUID" '
            "JOIN patients p ON p.patient_key = t.patient_key "
            "JOIN devices d ON d.device_key = s.device_key GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    assert rows == [("alpha", 3), ("beta", 1)]
    assert snapshot.verify(sources=True) == []
    assert snapshot.states() == {"alpha": {"ingested": 3}, "beta": {"ingested": 1}}


def test_values_are_typed_and_odd_ones_are_kept_and_told(sites, job, house, opened):
    odd = image(
        2,
        StudyDate="2026-13-45",
        SeriesTime="99",
        ContentTime="10:11:12",
        AcquisitionDateTime="20260102101112+0100",
    )
    sites(alpha={
        "1": image(1, StudyDate="20260102", StudyTime="101112.5", PixelSpacing=[0.5, 0.25], InstanceCreationDate="1999.12.31", AcquisitionDateTime="202601021011"),
        "2": odd,
    })  # fmt: skip
    outcome = run(job, house)
    first, second = opened()["images"].sort_by("InstanceNumber").to_pylist()
    assert first["PixelSpacing"] == [0.5, 0.25]
    assert first["InstanceCreationDate"] == date(1999, 12, 31)
    assert first["AcquisitionDateTime"] == datetime(2026, 1, 2, 10, 11)
    assert first["odd_values"] is None
    study = opened()["studies"].to_pylist()[0]
    assert (study["StudyDate"], study["StudyTime"]) == (date(2026, 1, 2), time(10, 11, 12, 500000))
    assert second["ContentTime"] == time(10, 11, 12)
    assert json.loads(second["odd_values"]) == {
        "StudyDate": "2026-13-45", "SeriesTime": "99", "AcquisitionDateTime": "20260102101112+0100",
    }  # fmt: skip
    told = {f.where for f in outcome.findings if f.code == "value-odd"}
    assert told == {"StudyDate", "SeriesTime", "AcquisitionDateTime"}
    assert not any("2026-13-45" in f.message for f in outcome.findings)


def test_what_has_no_column_stands_in_json(sites, job, house, opened):
    from pydicom.dataset import Dataset

    inner = Dataset()
    inner.CodeValue = "T-1"
    sites(alpha={"1": image(1, AnatomicRegionSequence=[inner])})
    run(job, house)
    rest = json.loads(opened()["images"]["attributes"][0].as_py())
    assert rest["00082218"]["Value"][0]["00080100"]["Value"] == ["T-1"]
    assert rest["7FE00010"]["BulkDataURI"].startswith("#bytes=")
    assert "00100010" not in rest  # it has a column


def test_a_second_run_reads_nothing_again(sites, job, house, monkeypatch):
    sites(alpha={"1": image(1), "2": b"no dicom"})
    first = run(job, house)
    monkeypatch.setattr(receive, "_take", lambda *_: pytest.fail("a file was read again"))
    second = run(job, house)
    assert second.state == "unchanged"
    assert second.snapshot.number == first.snapshot.number


def test_the_same_bytes_are_kept_once(sites, job, house, opened):
    sites(alpha={"1": image(1), "copy": image(1)}, beta={"1": image(1)})
    outcome = run(job, house)
    assert balance(outcome, "alpha").dropped == {"duplicate": 1}
    assert balance(outcome, "beta").dropped == {"duplicate": 1}
    assert len(list(house.store.list(layout.objects("ct")))) == 1
    sites(beta={"again": image(1)})
    assert balance(run(job, house), "beta").dropped == {"duplicate": 1}
    assert opened().verify() == []


def test_what_is_no_image_is_kept_with_its_reason(sites, job, house, opened):
    whole = image(1)
    sites(alpha={
        "empty": b"", "text": b"hello", "gz": b"\x1f\x8b\x08" + bytes(50), "cut": whole[:-100], "head": whole[:400],
        "anonymous": image(2, SOPInstanceUID=None), "uid": image(3, StudyInstanceUID="1.x"),
    })  # fmt: skip
    outcome = run(job, house)
    assert balance(outcome, "alpha").quarantined == {
        "empty": 1, "not-dicom": 1, "gzip": 1, "pixels-truncated": 1, "header-truncated": 1,
        "uid-missing": 1, "uid-malformed": 1,
    }  # fmt: skip
    assert opened().rows()["images"] == 0
    assert opened().verify(sources=True) == []
    assert {f.code for f in outcome.findings} == set(balance(outcome, "alpha").quarantined)


def test_the_same_uid_with_other_bytes_is_a_conflict_and_neither_is_published(
    sites, job, house, opened
):
    sites(alpha={"1": image(1), "2": image(2)})
    run(job, house)
    sites(beta={"1": image(1, SeriesDescription="other")})
    outcome = run(job, house)
    assert balance(outcome, "beta").quarantined == {"conflict": 1}
    assert balance(outcome, "alpha", "withdrawn").quarantined == {"conflict": 1}
    snapshot = opened()
    assert snapshot["images"]["InstanceNumber"].to_pylist() == [2]
    assert snapshot.states() == {"alpha": {"conflict": 1, "ingested": 1}, "beta": {"conflict": 1}}
    assert snapshot.verify(sources=True) == []
    # What the series is, its other file says now.
    (one,) = conflicts(snapshot)
    assert one["SOPInstanceUID"] == "1.2.1.1.1"
    assert {f["site"] for f in one["files"]} == {"alpha", "beta"}


def test_what_only_a_withdrawn_file_described_goes_with_it(sites, job, house, opened):
    sites(alpha={"1": image(1), "2": image(1, study=2, patient="P2")})
    run(job, house)
    sites(beta={"1": image(1, study=2, patient="P2", Manufacturer="Others")})
    run(job, house)
    rows = opened().rows()
    assert (rows["images"], rows["series"], rows["studies"], rows["patients"], rows["devices"]) == (
        1,
        1,
        1,
        1,
        1,
    )
    assert opened().verify() == []


@pytest.mark.parametrize("keep", ["alpha", "beta", None])
def test_a_conflict_is_decided_by_a_person(sites, job, house, opened, keep):
    sites(alpha={"1": image(1)}, beta={"1": image(1, SeriesDescription="other")})
    run(job, house)
    assert opened().rows()["images"] == 0
    (one,) = conflicts(opened())
    digests = {f["site"]: f["sha256"] for f in one["files"]}
    outcome = resolve(job, house, "1.2.1.1.1", keep and digests[keep][:10])
    rejected = [site for site in digests if site != keep]
    for site in rejected:
        assert balance(outcome, site, "resolved").quarantined == {"conflict-rejected": 1}
    snapshot = opened()
    assert conflicts(snapshot) == []
    assert snapshot["images"]["sha256"].to_pylist() == ([digests[keep]] if keep else [])
    assert snapshot.verify() == []
    # Sent once more, the rejected bytes are a duplicate: the decision stands.
    sites(beta={"2": image(1, SeriesDescription="other")})
    again = run(job, house)
    assert balance(again, "beta").dropped == {"duplicate": 1}
    assert opened()["images"]["sha256"].to_pylist() == ([digests[keep]] if keep else [])


def test_a_third_claim_opens_a_decided_conflict_again(sites, job, house, opened):
    sites(alpha={"1": image(1)}, beta={"1": image(1, SeriesDescription="other")})
    run(job, house)
    keep = conflicts(opened())[0]["files"][0]["sha256"]
    resolve(job, house, "1.2.1.1.1", keep)
    sites(alpha={"3": image(1, SeriesDescription="third")})
    run(job, house)
    (one,) = conflicts(opened())
    assert len(one["files"]) == 2
    assert opened().rows()["images"] == 0


def test_only_an_open_conflict_can_be_decided(sites, job, house):
    sites(alpha={"1": image(1)}, beta={"1": image(1, SeriesDescription="other")})
    run(job, house)
    with pytest.raises(NotFound, match="no open conflict"):
        resolve(job, house, "1.2.3", None)
    with pytest.raises(Invalid, match="one of 2 files"):
        resolve(job, house, "1.2.1.1.1", "nothing")
    assert house.ledger.runs("imaging/ct")[0].state == "failed"


def test_sync_receives_and_run_publishes(sites, job, house, opened):
    sites(alpha={"1": image(1)}, beta={"1": image(1, study=2)})
    assert sync_only(job, house).files == 2
    assert plan_only(job, house).files == 2
    assert house.ledger.latest("imaging/ct") is None
    assert run(job, house, sync=False).files == 2
    assert plan_only(job, house).files == 0
    assert opened().rows()["images"] == 2


def test_new_files_only_are_added(sites, job, house, opened):
    sites(alpha={"1": image(1)})
    run(job, house)
    before = {part.key for parts in opened().parts().values() for part in parts}
    sites(alpha={"2": image(2)})
    run(job, replace(house, clock=lambda: datetime(2026, 12, 1, tzinfo=UTC)))
    after = [part for parts in opened().parts().values() for part in parts]
    assert before < {part.key for part in after}
    assert {part.month for part in after if part.table == "images"} == {"2026-11", "2026-12"}
    assert opened().rows()["series"] == 1
    assert opened().verify() == []


def test_many_small_parts_become_one(sites, job, house, opened, monkeypatch):
    monkeypatch.setattr("catchment.imaging.shelf.COMPACT", 3)
    for number in range(1, 5):
        sites(alpha={str(number): image(number)})
        run(job, house)
    assert len(opened().parts()["images"]) == 2
    assert opened()["images"]["InstanceNumber"].to_pylist() == [1, 2, 3, 4]
    assert opened().verify() == []


def test_a_file_that_may_not_be_read_is_told_and_read_later(sites, job, house, opened, monkeypatch):
    sites(alpha={"1": image(1), "2": image(2)})
    read = LocalStore.read

    def forbidden(self, key, **more):
        if key == "1":
            raise Invalid("no permission for '1'", kind="permission-denied")
        return read(self, key, **more)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "read", forbidden)
        outcome = run(job, house)
    (told,) = outcome.findings
    assert (told.code, told.message) == (
        "file-forbidden",
        "1 files were listed and may not be read",
    )
    assert balance(outcome, "alpha").kept == 1
    assert balance(run(job, house), "alpha").kept == 1
    assert opened().rows()["images"] == 2


def test_a_link_or_a_special_file_keeps_no_other_away(sites, job, house, opened, tmp_path):
    sites(alpha={"1": image(1), "sub/2": image(2)})
    folder = tmp_path / "sites" / "alpha"
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "3").write_bytes(image(3))
    (folder / "link").symlink_to(secret / "3")
    (folder / "sub" / "more").symlink_to(secret)
    os.mkfifo(folder / "pipe")
    outcome = run(job, house)
    assert balance(outcome, "alpha").kept == 2
    assert balance(outcome, "alpha").quarantined == {"not-a-file": 3}
    assert [f.code for f in outcome.findings] == ["not-a-file"]
    assert run(job, house).state == "unchanged"
    assert opened().verify(sources=True) == []
    # Another file takes its place, and is one.
    (folder / "link").unlink()
    sites(alpha={"link": image(3)})
    assert balance(run(job, house), "alpha").kept == 1


def test_what_stands_of_earlier_files_is_told_by_every_snapshot(sites, job, house):
    def told():
        run = house.ledger.latest("imaging/ct").run
        return [(f.site, f.code, f.message) for f in house.ledger.findings(run=run)]

    claim = "1 file with a SOPInstanceUID that other bytes claim too"
    sites(alpha={"1": image(1), "text": b"hello"})
    run(job, house)
    sites(beta={"1": image(1, SeriesDescription="other")})
    run(job, house)
    sites(beta={"2": image(2)})
    outcome = run(job, house)
    expected = [
        ("alpha", "conflict", f"{claim}; 0 of them new"),
        ("alpha", "not-dicom", "1 file kept and not published; 0 of them new"),
        ("beta", "conflict", f"{claim}; 0 of them new"),
    ]
    assert [(f.site, f.code, f.message) for f in outcome.findings] == expected
    assert told() == expected
    sites(beta={"text": b"hello!"}, alpha={"text2": b"hello there"})
    assert {(f.site, f.message) for f in run(job, house).findings if f.code == "not-dicom"} == {
        ("alpha", "2 files kept and not published; 1 of them new"),
        ("beta", "1 file kept and not published"),
    }
    resolve(job, house, "1.2.1.1.1", None)
    assert {code for _, code, _ in told()} == {"not-dicom"}


def test_what_stands_is_counted_in_new_parts_only(sites, job, house, opened, monkeypatch):
    """The counts of the others are the snapshot's; a snapshot of before has none."""
    sites(alpha={"1": image(1), "text": b"hello"})
    run(job, house)
    asked = []
    read = Shelf.read
    monkeypatch.setattr(
        Shelf,
        "read",
        lambda self, part, columns=None: asked.append(columns) or read(self, part, columns),
    )
    sites(beta={"text": b"hello!"})
    outcome = run(job, house)
    assert [f.site for f in outcome.findings] == ["alpha", "beta"]
    assert asked.count(["site", "state", "reason", "seen"]) == 1
    parts = {part.key for part in opened().parts()["files"]}
    assert set(opened().record.provenance["standing"]) == parts
    assert len(parts) == 2


def test_what_a_person_has_seen_is_told_no_more(sites, job, house, opened, tmp_path):
    sites(alpha={"1": image(1), "text": b"hello", "empty": b""})
    (tmp_path / "sites" / "alpha" / "link").symlink_to("text")
    run(job, house)
    codes = ["empty", "not-a-file", "not-dicom"]
    assert [f.code for f in house.ledger.findings()] == codes
    assert [f.code for f in review.seen(job, house, ["not-dicom"]).findings] == codes[:2]
    assert [f.code for f in review.seen(job, house, ["not-a-file"]).findings] == codes[:1]
    assert review.seen(job, house).findings == []
    assert review.seen(job, house).state == "unchanged"
    assert opened().verify() == []
    assert opened().states() == {
        "alpha": {"ingested": 1} | {f"quarantined ({code})": 1 for code in codes}
    }
    sites(beta={"other": b"hello?"})
    assert [(f.site, f.code) for f in run(job, house).findings] == [("beta", "not-dicom")]


def test_quarantined_files_are_read_again(sites, job, house, opened):
    """By the settings of today; those that stay where they are change nothing."""
    strict = replace(job, options=replace(job.options, require_deidentified=True))
    other = image(2, PatientIdentityRemoved="YES", SeriesDescription="other")
    sites(alpha={"1": image(1), "2": image(2), "text": b"hello"}, beta={"1": image(1), "2": other})
    run(strict, house)
    assert review.again(strict, house).state == "unchanged"
    assert opened().record.number == 1
    assert review.again(job, house, ["not-dicom"]).state == "unchanged"
    outcome = review.again(job, house)
    line = balance(outcome, "alpha", "again")
    assert (line.received, line.kept, line.quarantined) == (3, 1, {"conflict": 1, "not-dicom": 1})
    assert [(f.site, f.code) for f in outcome.findings] == [
        ("alpha", "conflict"),
        ("alpha", "not-dicom"),
        ("beta", "conflict"),
    ]
    assert opened().verify() == []
    assert opened()["images"]["SOPInstanceUID"].to_pylist() == ["1.2.1.1.1"]
    (one,) = conflicts(opened())
    assert {claim["site"] for claim in one["files"]} == {"alpha", "beta"}
    assert all("name" not in claim for claim in one["files"])  # patients may be in it
    assert run(job, house).state == "unchanged"


def test_reading_again_is_for_the_profile_of_the_snapshot(sites, job, house):
    sites(alpha={"text": b"hello"})
    run(job, house)
    with pytest.raises(Invalid, match="profile"):
        review.again(replace(job, config={"deidentified_by": {}}), house)
    assert next(iter(house.ledger.runs("imaging/ct"))).state == "failed"


def test_parts_are_brought_together_as_far_as_memory_has_room(tmp_path):
    """All of a part is in memory when it is changed, however many files there are."""
    import pyarrow as pa

    shelf = Shelf(LocalStore(tmp_path), "ct", "run", "2026-11")
    numbers = iter(range(10**6))
    wide, narrow = most_rows("raw"), most_rows("files")
    assert (wide, narrow) == (4000, 65_536)
    for rows in [10] * 30 + [1500] * 7 + [2500] * 3 + [10] * 2:
        for table in ("raw", "files"):
            texts = [f"{next(numbers):06}" for _ in range(rows)]
            shelf.add(table, pa.table({"sha256": texts}))
    before = {
        t: sorted(n for p in shelf.of(t) for n in digests(shelf, p)) for t in ("raw", "files")
    }
    shelf.compact()
    after = {t: sorted(n for p in shelf.of(t) for n in digests(shelf, p)) for t in ("raw", "files")}
    assert after == before
    assert [part.rows for part in shelf.of("raw")] == [3300, 3000, 3000, 1520, 2500, 2500, 2500]
    assert [part.rows for part in shelf.of("files")] == [18_320]
    assert len(shelf.replaced) == 39 + 42
    assert not any(part.key in shelf.replaced for part in shelf.parts)


def digests(shelf, part):
    return shelf.read(part, ["sha256"])["sha256"].to_pylist()


def test_batches_of_one_run_know_each_other(sites, job, house, opened, monkeypatch):
    monkeypatch.setattr("catchment.imaging.run.FILES", 2)
    monkeypatch.setattr("catchment.imaging.receive.DELIVERY", 3)
    sites(alpha={f"{n:02}": image(n % 4, SeriesDescription=f"d{n // 6}") for n in range(8)})
    outcome = run(job, house)
    # 0..3 come twice; those of 6 and 7 with other bytes.
    assert balance(outcome, "alpha").dropped == {"duplicate": 2}
    assert opened().states() == {"alpha": {"conflict": 4, "duplicate": 2, "ingested": 2}}
    assert opened().verify() == []
    assert len(list(house.ledger.contributions("imaging/ct"))) == 3


def test_patients_have_pseudonyms_of_their_site_and_key(sites, job, house, opened, tmp_path):
    sites(
        alpha={
            "1": image(1),
            "2": image(1, study=2, patient="P1"),
            "3": image(1, study=3, patient=None),
        }
    )
    run(job, house)
    keys = opened()["patients"]["patient_key"].to_pylist()
    assert len(set(keys)) == 2
    other = replace(job, name="other", options=Options(key=b"another"))
    run(other, house)
    from catchment.imaging.snapshot import open_snapshot

    theirs = open_snapshot(house.store, house.ledger, "other")["patients"][
        "patient_key"
    ].to_pylist()
    assert not set(keys) & set(theirs)


def test_files_that_are_not_deidentified_can_be_refused(sites, job, house, opened):
    sites(alpha={"1": image(1), "2": image(2, PatientIdentityRemoved="YES")})
    strict = replace(job, options=Options(require_deidentified=True))
    assert balance(run(strict, house), "alpha").quarantined == {"not-deidentified": 1}
    assert opened().rows()["images"] == 1


def test_only_what_changed_since_is_received(sites, job, house, opened, tmp_path):
    import os

    sites(alpha={"old": image(1), "new": image(2)})
    os.utime(tmp_path / "sites/alpha/old", (1e9, 1e9))
    since = replace(job, providers=(replace(job.providers[0], since="2020-01-01"),))
    run(since, house)
    assert opened()["files"]["name"].to_pylist() == ["new"]


def test_a_provider_that_is_away_does_not_keep_the_others_files(
    sites, job, house, opened, tmp_path
):
    sites(beta={"1": image(1)})
    away = Provider("away", "s3://not a bucket")
    outcome = run(replace(job, providers=(away, *job.providers)), house)
    (told,) = (f for f in outcome.findings if f.site == "away")
    assert (told.severity, told.where, bool(told.hint)) == ("error", "provider", True)
    assert opened().rows()["images"] == 1
    with pytest.raises(Invalid):
        run(replace(job, providers=(away,)), house)


def test_a_folder_that_is_not_there_is_told(sites, job, house, opened, tmp_path):
    """A disk that is not mounted does not look like a provider who has nothing new."""
    sites(beta={"1": image(1)})
    gone = Provider("gone", (tmp_path / "unmounted").as_uri())
    outcome = run(replace(job, providers=(gone, *job.providers)), house)
    (told,) = (f for f in outcome.findings if f.site == "gone")
    assert (told.severity, told.code) == ("error", "no-folder")
    assert opened().rows()["images"] == 1
    with pytest.raises(NotFound, match=r"there is no folder .*unmounted"):
        run(replace(job, providers=(gone,)), house)


def test_a_provider_whose_folder_holds_our_store_is_refused(sites, job, house, opened, tmp_path):
    """Each run would receive what the one before wrote."""
    sites(beta={"1": image(1)})
    around = Provider("alpha", tmp_path.as_uri())
    within = Provider("alpha", f"{house.store.url}/imaging/ct/raw")
    (tmp_path / "store" / "imaging" / "ct" / "raw").mkdir(parents=True)
    for provider in (around, within):
        with pytest.raises(Invalid, match="in one another"):
            run(replace(job, providers=(provider,)), house)
    beta = next(one for one in job.providers if one.name == "beta")
    outcome = run(replace(job, providers=(around, beta)), house)
    assert [(f.site, f.code) for f in outcome.findings] == [("alpha", "folder-shared")]
    assert opened().rows()["files"] == 1
    beside = Provider("alpha", f"{house.store.url}/incoming")  # beside what is ours
    (tmp_path / "store" / "incoming").mkdir()
    assert run(replace(job, providers=(beside,)), house).state == "unchanged"


@pytest.mark.parametrize("error", [Unavailable("no answer", kind="away"), NotFound("no bucket")])
def test_a_provider_that_does_not_answer_is_a_finding(sites, job, house, opened, error):
    sites(alpha={"1": image(1)}, beta={"1": image(2)})
    whole = house.open_store

    def open_store(url):
        if "alpha" in url:
            raise error
        return whole(url)

    outcome = run(job, replace(house, open_store=open_store))
    assert [f.code for f in outcome.findings if f.site == "alpha"] == [error.kind]
    assert opened().rows()["images"] == 1
    run(job, house)
    assert opened().rows()["images"] == 2


def test_a_file_that_goes_away_or_keeps_changing_is_told_and_looked_at_again(
    sites, job, house, monkeypatch, tmp_path, opened
):
    sites(alpha={"1": image(1), "2": image(2), "3": image(3)})
    keep = receive._keep
    count = 0

    def meddle(source, target, name, stat):
        nonlocal count
        if stat.key == "1":
            (tmp_path / "sites/alpha/1").unlink(missing_ok=True)
        kept = keep(source, target, name, stat)
        if stat.key == "2":
            count += 1
            (tmp_path / "sites/alpha/2").write_bytes(image(2, SeriesDescription=f"{count}"))
        return kept

    monkeypatch.setattr(receive, "_keep", meddle)
    outcome = run(job, house)
    assert {f.code for f in outcome.findings} == {"file-vanished", "file-moving"}
    assert opened()["files"]["name"].to_pylist() == ["3"]
    monkeypatch.setattr(receive, "_keep", keep)
    assert balance(run(job, house), "alpha").kept == 1
    assert opened()["files"]["name"].to_pylist() == ["3", "2"]
    assert opened().verify() == []


@pytest.mark.parametrize("whole", [receive.WHOLE, 100], ids=["small", "large"])
@pytest.mark.parametrize("error", [NotFound("no object"), Invalid("no permission", kind="denied")])
def test_a_fault_of_our_own_store_is_no_file_that_vanished(
    sites, job, house, opened, monkeypatch, whole, error
):
    """Else the provider would be told of it, and the run would go on without the file."""
    monkeypatch.setattr(receive, "WHOLE", whole)
    sites(alpha={"1": image(1)}, beta={"1": image(2)})
    put = LocalStore.put

    def lost(self, key, data, **more):
        if key.startswith(layout.objects("ct")):
            assert data if isinstance(data, bytes) else list(data)
            raise error
        return put(self, key, data, **more)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put", lost)
        with pytest.raises(type(error)):
            run(job, house)
    assert house.ledger.findings(aggregate="imaging/ct") == []
    assert run(job, house).findings == []
    assert opened().rows()["images"] == 2


def test_a_draft_that_a_collection_removed_is_told_as_ours(sites, job, house, opened, monkeypatch):
    monkeypatch.setattr(receive, "WHOLE", 100)
    sites(alpha={"1": image(1)})
    checked = receive._checked

    def swept(chunks, digest):
        yield from checked(chunks, digest)
        house.store.sweep(timedelta(0))

    with monkeypatch.context() as patch:
        patch.setattr(receive, "_checked", swept)
        with pytest.raises(Unavailable) as caught:
            run(job, house)
    assert caught.value.kind == "draft-removed"
    assert run(job, house).findings == []
    assert opened().rows()["images"] == 1


def test_a_large_file_that_vanishes_while_it_is_read_again(sites, job, house, opened, monkeypatch):
    monkeypatch.setattr(receive, "WHOLE", 100)
    sites(alpha={"1": image(1)})
    stream, count = LocalStore.stream, 0

    def vanishing(self, key, **more):
        nonlocal count
        count += 1
        return broken() if count == 2 else stream(self, key, **more)

    def broken():
        yield b"DICM"
        raise NotFound("no object '1'")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "stream", vanishing)
        assert [f.code for f in run(job, house).findings] == ["file-vanished"]
    assert run(job, house).findings == []
    assert opened().rows()["images"] == 1


def test_a_list_of_ours_that_is_gone_is_not_the_providers_fault(sites, job, house):
    sites(alpha={"1": image(1)}, beta={"1": image(2)})
    run(job, house)
    (key,) = (stat.key for stat in house.store.list(layout.deliveries("ct", "alpha")))
    house.store.delete(key)
    with pytest.raises(NotFound):
        run(job, house)


def test_a_large_file_is_read_twice_and_never_whole(sites, job, house, monkeypatch, opened):
    monkeypatch.setattr(receive, "WHOLE", 100)
    sites(alpha={"1": image(1)})
    run(job, house)
    assert opened().verify(sources=True) == []


def test_a_receiver_that_wakes_after_a_takeover_records_nothing(
    sites, job, house, monkeypatch, tmp_path, opened
):
    """What it saw as new, the other run has received: a broken file would be listed twice."""
    sites(alpha={"1": image(1), "2": b"not an image"}, beta={"3": image(1, study=2)})
    late = Ledger.open(f"sqlite:///{tmp_path}/ledger.db", clock=lambda: LATER)
    keep = receive._keep

    def asleep(*given):
        monkeypatch.setattr(receive, "_keep", keep)
        kept = keep(*given)
        with ThreadPoolExecutor(2) as executor:
            run(job, replace(house, ledger=late, executor=executor))
        return kept

    monkeypatch.setattr(receive, "_keep", asleep)
    with late:
        with pytest.raises(Conflict) as raised:
            run(job, house)
        assert raised.value.kind == "lease-lost"
        first = opened().rows()
        assert (first["files"], first["images"]) == (3, 2)
        assert run(job, replace(house, ledger=late)).state == "unchanged"
    assert len(list(house.ledger.contributions(job.aggregate))) == 2  # one for each provider
    assert opened().rows() == first
    assert opened().verify(sources=True) == []


def test_one_lease_at_a_time(job, house):
    with house.ledger.holding("imaging/ct"), pytest.raises(Conflict, match="holds the lease"):
        run(job, house)


def test_a_ledger_that_is_lost_is_learnt_from_the_store(sites, job, house, tmp_path):
    sites(alpha={"1": image(1)})
    run(job, house)
    with Ledger.open(f"sqlite:///{tmp_path}/new.db") as ledger:
        again = run(job, replace(house, ledger=ledger))
        assert (again.state, again.snapshot.number) == ("unchanged", 1)


def test_a_ledger_of_another_store_is_told(sites, job, house, tmp_path):
    """Not "unchanged", where there is nothing."""
    sites(alpha={"1": image(1)})
    run(job, house)
    other = replace(house, store=open_store((tmp_path / "elsewhere").as_uri()))
    with pytest.raises(Conflict) as caught:
        run(job, other)
    assert caught.value.kind == "ledger-of-another-store"
    assert list(other.store.list()) == []


def test_a_store_that_fails_leaves_nothing_half_visible(sites, job, house, monkeypatch):
    sites(alpha={"1": image(1)})

    def fail(*_):
        raise Unavailable("the disk is full", kind="disk-full")

    monkeypatch.setattr("catchment.imaging.shelf.Shelf.add", fail)
    with pytest.raises(Unavailable):
        run(job, house)
    assert house.ledger.latest("imaging/ct") is None
    assert house.ledger.runs("imaging/ct")[0].error["kind"] == "disk-full"


MARKS = st.sets(st.text(max_size=4), max_size=30)


@given(MARKS, MARKS)
def test_what_was_seen_is_known_and_nothing_else(seen, asked):
    known = Seen([mark(name, 1, "") for name in seen])
    lacks = known.lacks(b"".join(mark(name, 1, "") for name in sorted(asked)))
    assert [not one for one in lacks] == [name in seen for name in sorted(asked)]


def test_marks_that_begin_alike_are_told_apart():
    known = Seen([bytes(8) + bytes([n]) * 8 for n in range(3)])
    assert list(known.lacks(bytes(8) + b"\1" * 8 + bytes(8) + b"\7" * 8)) == [False, True]


DIGESTS = st.sampled_from("abcdef")


@settings(max_examples=300)
@given(
    st.lists(st.tuples(DIGESTS, st.sampled_from(["u", "v", ""])), max_size=12),
    st.dictionaries(DIGESTS, st.sampled_from(list(State)), max_size=4),
)
def test_the_decision_keeps_its_promises(files, before):
    """One state each; no UID is published twice; a duplicate is one of what was there."""
    uid_of = {d: dict(files).get(d, "u") for d in "abcdef"}
    known = {d: s for d, s in before.items() if s != State.DUPLICATE}
    came = [Came("s", digest, None) for digest, _ in files]
    new = unknown(came, known)
    assert set(new) == {d for d, _ in files} - known.keys()
    uids = {d: uid_of[d] for d in new if uid_of[d]}
    refused = {d: "bad" for d in new if not uid_of[d]}
    claims = [Claim(uid_of[d] or "u", d, s) for d, s in known.items()]
    made = decide(came, known, uids, refused, claims)
    assert len(made.fates) == len(files)
    firsts = set()
    for (digest, _), fate in zip(files, made.fates, strict=True):
        again = digest in known or digest in firsts
        assert (fate.state == State.DUPLICATE) == again
        firsts.add(digest)
        if not again:
            assert (fate == Fate(State.QUARANTINED, "bad")) == (digest in refused)
    published = {d for d, s in known.items() if s == State.INGESTED} - set(made.withdraw) | set(
        made.ingest
    )
    claimants = {}
    for digest in known.keys() | uids.keys():
        if digest in uids or known.get(digest) in (State.INGESTED, State.CONFLICT):
            claimants.setdefault(uid_of[digest] or "u", set()).add(digest)
    for those in claimants.values():
        assert len(those) == 1 or not those & published


def test_what_could_not_be_read_is_quarantined():
    made = decide([Came("s", None, "name-unusable")], (), {}, {}, ())
    assert made.fates == [Fate(State.QUARANTINED, "name-unusable")]
