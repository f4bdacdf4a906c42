"""De-identification in the run: what identifies is in nothing that is made of a file."""

from __future__ import annotations

import io
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from catchment.core.account import Line
from catchment.core.errors import Invalid
from catchment.imaging import layout, staging
from catchment.imaging.browse import Look, picture, shown_tags
from catchment.imaging.export import export_snapshot
from catchment.imaging.model import Options
from catchment.imaging.profile import Profile
from catchment.imaging.resolve import conflicts, resolve
from catchment.imaging.run import run
from catchment.imaging.staging import SETTING
from catchment.imaging.walk import BadFile
from catchment.testing.dicom import make_file

CANARY = "QZXCANARY"
ORIGIN = "1.2.826.0.1.77777"
PROFILE = Profile("basic", b"0123456789abcdef")


def image(number, patient=f"{CANARY}7", **more):
    """A file with what identifies at the top, below two sequences and in private elements."""
    deepest = Dataset()
    deepest.PersonName = f"{CANARY}^Jane"
    deepest.PatientAddress = CANARY
    deepest.private_block(0x0029, "ACME", create=True).add_new(1, "LO", CANARY)
    inner = Dataset()
    inner.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    inner.ReferencedSOPInstanceUID = f"{ORIGIN}.1.1.99"
    inner.PurposeOfReferenceCodeSequence = Sequence([deepest])
    inner.StudyDescription = CANARY
    made = make_file(
        f"{ORIGIN}.1.1.{number}", series=f"{ORIGIN}.1.1", study=f"{ORIGIN}.1", patient=patient,
        PatientName=f"{CANARY}^Jane", InstitutionName=CANARY, StudyDescription=CANARY, AccessionNumber=CANARY,
        PatientBirthDate="19440203", OtherPatientIDs=CANARY, InstanceNumber=number, OperatorsName=CANARY,
        ReferencedImageSequence=Sequence([inner]), **more,
    )  # fmt: skip
    dataset = pydicom.dcmread(io.BytesIO(made))
    block = dataset.private_block(0x0029, "ACME", create=True)
    block.add_new(1, "LO", CANARY)
    block.add_new(2, "UN", CANARY.encode() + b" ")
    block.add_new(3, "SQ", Sequence([deepest]))
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


@pytest.fixture
def job(job):
    return replace(
        job,
        options=Options(key=b"secret", previews="all", archive="htj2k", profile=PROFILE),
        config={SETTING: PROFILE.described()},
    )


def everything(store, but=("raw/",)):
    """Keys and bytes of all that a run made, tables as text, but for what was received."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for stat in store.list():
        if stat.key.startswith(tuple(f"imaging/ct/{one}" for one in but)):
            continue
        data = store.read(stat.key)
        yield stat.key, data
        if stat.key.endswith(".parquet"):
            yield (
                stat.key,
                json.dumps(pq.read_table(pa.BufferReader(data)).to_pylist(), default=str).encode(),
            )


def test_what_identifies_is_in_no_object_table_name_or_log(
    sites, job, house, opened, caplog, tmp_path
):
    caplog.set_level(logging.DEBUG)
    sites(
        alpha={f"{CANARY}^JANE/1.dcm": image(1), f"{CANARY}/2": image(2)},
        beta={f"{CANARY}.dcm": image(3), f"{CANARY}-us": image(4, Modality="US"), CANARY: b"text"},
    )
    outcome = run(job, house)
    assert outcome.account[Line("alpha", "files", "files")].kept == 2
    beta = outcome.account[Line("beta", "files", "files")]
    assert (beta.received, beta.kept) == (3, 1)
    assert beta.quarantined == {"burned-in": 1, "not-dicom": 1}
    snapshot = opened()
    export_snapshot(snapshot, tmp_path / "out", snapshot["series"]["SeriesInstanceUID"].to_pylist())
    exported = [(str(p.relative_to(tmp_path)), p.read_bytes()) for p in (tmp_path / "out").rglob("*") if p.is_file()]  # fmt: skip
    looked = 0
    for key, data in [*everything(house.store), *exported]:
        for secret in (CANARY, CANARY.lower(), ORIGIN, "19440203", "JANE"):
            assert secret not in key
            assert secret.encode() not in data, key
        looked += 1
    assert looked > 20
    assert not any(secret in caplog.text for secret in (CANARY, ORIGIN))
    assert not any(CANARY in str(finding) for finding in outcome.findings)
    told = json.dumps([snapshot.record.provenance, outcome.account.to_json()])
    assert CANARY not in told
    assert PROFILE.key.decode() not in told
    assert snapshot.verify(sources=True) == []


def test_tables_pictures_and_references_are_of_the_staged_files(sites, job, house, opened):
    sites(alpha={"1": image(99), "2": image(2)})
    run(job, house)
    snapshot = opened()
    images = {row["InstanceNumber"]: row for row in snapshot["images"].to_pylist()}
    for row in images.values():
        staged = house.store.read(layout.clean_key("ct", row["stage_sha256"]))
        dataset = pydicom.dcmread(io.BytesIO(staged))
        assert dataset.SOPInstanceUID == row["SOPInstanceUID"]
        assert dataset.PatientIdentityRemoved == row["PatientIdentityRemoved"] == "YES"
        reference = dataset.ReferencedImageSequence[0].ReferencedSOPInstanceUID
        assert reference == images[None]["SOPInstanceUID"] if None in images else True
    evidence = {row["SOPInstanceUID"]: row for row in snapshot["evidence"].to_pylist()}
    assert evidence.keys() == {row["SOPInstanceUID"] for row in images.values()}
    assert all(json.loads(row["actions"])["removed"] > 5 for row in evidence.values())
    made = snapshot["compressed_images"].to_pylist()
    assert {row["format"] for row in made} == {"jpeg", "htj2k"}
    assert all(row["object_sha256"] in row["object"] for row in made)
    volume_keys = snapshot.series(snapshot["series"]["SeriesInstanceUID"][0].as_py()).keys
    assert all("/stage/" in key for key in volume_keys)


def test_the_viewer_shows_staged_pictures(sites, job, house, opened):
    """What was received is not touched: it may be on another disk, for fewer eyes."""
    sites(alpha={"1": image(1)})
    run(job, house)
    snapshot = opened()
    (digest,) = snapshot["images"]["sha256"].to_pylist()
    house.store.delete(layout.object_key("ct", digest))
    with ThreadPoolExecutor(1) as threads:
        data, _ = picture(snapshot, digest, Look(), threads)
    assert data[:2] == b"\xff\xd8"
    assert not {"ContrastBolusAgent", "PatientAge", "StudyDate"} & set(shown_tags())


def test_sites_have_pseudonyms_of_their_own_and_share_uids(sites, job, house, opened):
    sites(alpha={"1": image(1)}, beta={"1": image(2)})
    run(job, house)
    patients = {row["site"]: row["PatientID"] for row in opened()["patients"].to_pylist()}
    assert patients.keys() == {"alpha", "beta"}
    assert patients["alpha"] != patients["beta"]
    assert len(set(opened()["images"]["StudyInstanceUID"].to_pylist())) == 1
    keyed = replace(PROFILE, keys={"alpha": b"another secret!!"})
    assert keyed.of_site("alpha").key != PROFILE.of_site("alpha").key
    assert keyed.of_site("beta") == PROFILE.of_site("beta")
    assert keyed.described()["key_id"] != PROFILE.described()["key_id"]


def test_only_new_files_are_de_identified(sites, job, house, opened, monkeypatch):
    sites(alpha={"1": image(1)})
    run(job, house)
    worked = []
    real = staging.stage_files
    monkeypatch.setattr(
        staging,
        "stage_files",
        lambda store, files, **more: worked.extend(files) or real(store, files, **more),
    )
    sites(alpha={"2": image(2)})
    run(job, house)
    assert len(worked) == 1
    assert opened().rows()["images"] == opened().rows()["evidence"] == 2
    assert run(job, house).state == "unchanged"


def test_another_profile_or_key_does_not_mix_with_what_is_there(sites, job, house):
    sites(alpha={"1": image(1)})
    run(job, house)
    other = replace(PROFILE, key=b"some other secret")
    for changed in (
        replace(job, config={SETTING: other.described()}),
        replace(job, config={SETTING: replace(PROFILE, dates="shift").described()}),
        replace(job, config={}, options=Options()),
    ):
        with pytest.raises(Invalid, match="not that of the latest snapshot"):
            run(changed, house)


def test_a_conflict_of_staged_files_is_decided(sites, job, house, opened):
    sites(alpha={"1": image(1)}, beta={"1": image(1, SeriesNumber=2)})
    run(job, house)
    (one,) = conflicts(opened())
    assert not one["SOPInstanceUID"].startswith(ORIGIN)
    keep = one["files"][0]["sha256"]
    plain = replace(job, options=Options(), config={})  # who decides needs no secret
    resolve(plain, house, one["SOPInstanceUID"], keep)
    assert opened()["images"]["sha256"].to_pylist() == [keep]
    assert opened().verify(sources=True) == []
    assert run(job, house).state == "unchanged"


def test_a_file_too_large_to_be_read_whole_is_kept_back(sites, job, house, monkeypatch):
    monkeypatch.setattr(staging, "LARGEST", 100)
    sites(alpha={"1": image(1)})
    assert run(job, house).account[Line("alpha", "files", "files")].quarantined == {"too-large": 1}


def test_raw_data_that_must_be_de_identified_already_is_refused(sites, job, house):
    sites(alpha={"1": image(1), "2": image(2, PatientIdentityRemoved="YES")})
    hard = replace(job, options=replace(job.options, require_deidentified=True))
    balance = run(hard, house).account[Line("alpha", "files", "files")]
    assert (balance.kept, balance.quarantined) == (1, {"not-deidentified": 1})


def test_pixels_are_those_of_the_file(sites, job, house, opened):
    pixels = np.arange(2 * 12 * 10, dtype=np.int16).reshape(2, 12, 10)
    sites(alpha={"1": make_file("1.2.9.1", pixels=pixels)})
    run(job, house)
    (row,) = opened()["images"].to_pylist()
    staged = pydicom.dcmread(
        io.BytesIO(house.store.read(layout.clean_key("ct", row["stage_sha256"])))
    )
    assert np.array_equal(staged.pixel_array, pixels)


def test_what_deidentify_refuses_has_no_object(sites, job, house, monkeypatch):
    def refuse(*_):
        raise BadFile("residual")

    monkeypatch.setattr(staging, "_clean", refuse)
    sites(alpha={"1": image(1)})
    assert run(job, house).account[Line("alpha", "files", "files")].quarantined == {"residual": 1}
    assert not list(house.store.list("imaging/ct/stage/"))
