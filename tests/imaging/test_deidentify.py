"""What identifies is put everywhere, at every depth, and found nowhere."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.core.settings import Settings
from catchment.core.store import open_store
from catchment.imaging.deidentify import deidentify
from catchment.imaging.deidentify_pixels import only_pixels
from catchment.imaging.deidentify_run import deidentify_all
from catchment.imaging.deidentify_standard import ACTIONS
from catchment.imaging.profile import Profile, profile_of
from catchment.imaging.walk import BadFile
from catchment.testing.dicom import make_file

KEY = b"0123456789abcdef"
BASIC = Profile("basic", KEY)
CANARY = "QZXCANARY"
TEXTS = [
    "PatientName", "OtherPatientNames", "PatientAddress", "PatientComments", "ReferringPhysicianName", "OperatorsName",
    "InstitutionName", "InstitutionAddress", "StudyDescription", "SeriesDescription", "ImageComments", "ProtocolName",
    "AdditionalPatientHistory", "TextValue", "PersonName", "RequestedProcedureDescription", "AccessionNumber",
    "StationName", "DeviceSerialNumber", "PatientTelephoneNumbers", "EthnicGroup", "Occupation", "MedicalAlerts",
    "CodeMeaning", "RetrieveAETitle", "RetrieveURL", "DerivationDescription", "FrameComments",
]  # fmt: skip


def put(dataset, names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            setattr(dataset, name, f"{CANARY}^Jane" if name.endswith("Name") else CANARY)
        block = dataset.private_block(0x0029, "ACME", create=True)
        block.add_new(1, "LO", CANARY)
        block.add_new(2, "UN", CANARY.encode() + b" ")
        block.add_new(3, "SQ", Sequence([Dataset()]))


@st.composite
def nested(draw, depth=0):
    made = Dataset()
    put(made, draw(st.lists(st.sampled_from(TEXTS), max_size=6, unique=True)))
    made.PatientBirthDate = "19440203"
    if depth < 3:
        for name in draw(
            st.lists(
                st.sampled_from(
                    [
                        "ReferencedImageSequence",
                        "ContentSequence",
                        "AnatomicRegionSequence",
                        "OtherPatientIDsSequence",
                        "SourceImageSequence",
                    ]
                ),
                max_size=2,
                unique=True,
            )
        ):
            setattr(made, name, Sequence(draw(st.lists(nested(depth + 1), min_size=1, max_size=2))))
    return made


def filled(items):
    return make_file(
        patient=f"{CANARY}77", PatientName=f"{CANARY}^Jane", InstitutionName=CANARY, StudyDescription=CANARY, AccessionNumber=CANARY,
        PatientBirthDate="19440203", StudyDate="20250304", AcquisitionDateTime="20250304101112.500000+0100",
        ReferencedImageSequence=Sequence(items), PatientAge="095Y", PatientWeight="71.5", DeviceSerialNumber="SN-9876",
    )  # fmt: skip


OPTIONS = st.builds(
    Profile,
    st.just("own"),
    st.just(KEY),
    st.sampled_from(["remove", "shift"]),
    st.booleans(),
    st.just(value=False),
    st.booleans(),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(nested(), max_size=3), OPTIONS)
def test_what_identifies_is_found_nowhere_in_the_output(items, profile):
    data = filled(items)
    try:
        clean = deidentify(data, profile)
    except BadFile as reason:  # what is retained names the patient: it is not let through
        assert str(reason) == "residual"
        assert profile.device or profile.patient
        return
    assert CANARY.encode() not in clean.data
    assert CANARY.lower().encode() not in clean.data.lower()
    assert b"19440203" not in clean.data
    assert CANARY not in json.dumps(clean.evidence)
    back = pydicom.dcmread(io.BytesIO(clean.data))
    assert back.PixelData == pydicom.dcmread(io.BytesIO(data)).PixelData
    assert back.PatientIdentityRemoved == "YES"
    assert not [e for e in back.iterall() if e.tag.is_private]
    assert deidentify(data, profile).data == clean.data


def read(clean):
    return pydicom.dcmread(io.BytesIO(clean.data))


def test_uids_are_others_and_the_same_everywhere():
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3.1.1.2"
    inner.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    one = deidentify(make_file("1.2.3.1.1.1", ReferencedImageSequence=[inner]), BASIC)
    two = deidentify(make_file("1.2.3.1.1.2"), BASIC)
    first, second = read(one), read(two)
    assert first.StudyInstanceUID == second.StudyInstanceUID != "1.2.3.1"
    assert (
        first.ReferencedImageSequence[0].ReferencedSOPInstanceUID
        == second.SOPInstanceUID
        == two.uid
    )
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert first.SOPClassUID == first.ReferencedImageSequence[0].ReferencedSOPClassUID
    assert deidentify(make_file(), replace(BASIC, key=b"another key of 16")).uid != one.uid
    assert read(deidentify(make_file(), replace(BASIC, uids=True))).StudyInstanceUID == "1.2.3.1"


def test_dates_move_together_by_the_patients_own_days():
    shift = replace(BASIC, dates="shift")
    first = read(deidentify(make_file(StudyDate="20250304", SeriesDate="20250311"), shift))
    second = read(deidentify(make_file("1.2.9", StudyDate="20250401"), shift))
    other = read(deidentify(make_file("1.2.8", patient="P2", StudyDate="20250304"), shift))
    from datetime import date

    def at(text):
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))

    assert (at(first.SeriesDate) - at(first.StudyDate)).days == 7
    assert (at(second.StudyDate) - at(first.StudyDate)).days == 28
    assert first.StudyDate not in ("20250304", other.StudyDate)
    assert first.PatientBirthDate == ""
    assert first.LongitudinalTemporalInformationModified == "MODIFIED"
    odd = read(deidentify(make_file(StudyDate="2025-99-99"), shift))
    assert odd.StudyDate == ""
    removed = read(deidentify(make_file(SeriesDate="20250311"), BASIC))
    assert (removed.StudyDate, "SeriesDate" in removed) == ("", False)
    assert removed.LongitudinalTemporalInformationModified == "REMOVED"


def test_options_keep_what_they_name():
    data = filled([])
    kept = read(deidentify(data, replace(BASIC, patient=True, device=True)))
    assert (kept.PatientAge, kept.PatientWeight, kept.DeviceSerialNumber) == (
        "090Y",
        71.5,
        "SN-9876",
    )
    codes = {c.CodeValue for c in kept.DeidentificationMethodCodeSequence}
    assert codes == {"113100", "113108", "113109"}
    basic = read(deidentify(data, BASIC))
    assert not {"PatientAge", "PatientWeight"} & set(basic.dir())
    assert basic.DeviceSerialNumber == "DEIDENTIFIED"


@pytest.mark.parametrize("creator", ["ACME", "http://acme.com/pacs"])
def test_safe_private_elements_stay(creator):
    """A creator may be an address; digits of the settings may be small."""
    dataset = pydicom.dcmread(io.BytesIO(make_file()))
    block = dataset.private_block(0x0029, creator, create=True)
    block.add_new(0x1A, "DS", "1.5")
    block.add_new(2, "LO", CANARY)
    file = io.BytesIO()
    dataset.save_as(file)
    own = {"key": KEY.decode(), "safe_private": [f"{creator}/0029xx1a"], "shown": ["us"]}
    profile = profile_of(Settings.model_validate({"deidentify": {"own": own}}), "own")
    assert profile.shown == {"US"}
    kept = read(deidentify(file.getvalue(), profile))
    assert [e.value for e in kept if e.tag.is_private] == [creator, 1.5]


@pytest.mark.parametrize("element", ["ACME", "ACME/0028xx1A", "ACME/0029101A", "/0029xx1A"])
def test_a_private_element_that_could_match_nothing_is_refused(element):
    with pytest.raises(ValueError, match="CREATOR/GGGGxxEE"):
        Settings.model_validate({"deidentify": {"own": {"safe_private": [element]}}})


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned-in"),
        ({"Modality": "US"}, "burned-in"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "burned-in"),
        ({"BurnedInAnnotation": "yes "}, "burned-in"),
        ({"BurnedInAnnotation": ["NO", "YES"], "Modality": "CT"}, "burned-in"),
        ({"Modality": "us"}, "burned-in"),
        ({"Modality": "IVUS"}, "burned-in"),
        ({"Modality": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, "burned-in"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4.1"}, "burned-in"),
        ({"Modality": "SM", "SpecimenLabelInImage": "YES"}, "burned-in"),
        (
            {
                "Modality": "SM",
                "SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.6",
                "ImageType": ["ORIGINAL", "PRIMARY", "LABEL", "NONE"],
                "BurnedInAnnotation": "NO",
            },
            "burned-in",
        ),
        ({"EncapsulatedDocument": b"%PDF"}, "encapsulated-document"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.9.4.1"}, "encapsulated-document"),
        (
            {
                "PatientName": "Makers",
                "PatientID": "Quux77",
                "CodeValue": "Quux77",
            },
            "residual",
        ),
    ],
)
def test_what_needs_a_look_is_never_let_through(attributes, reason):
    with pytest.raises(BadFile, match=reason):
        deidentify(make_file(**attributes), BASIC)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"])
@pytest.mark.parametrize(
    ("charset", "name", "left"),
    [
        (None, "SMITHSON^Jo", "smithson"),
        ("ISO_IR 100", "Müller^Jo", "MÜLLER"),
        ("ISO_IR 192", "Müller^Jo", "MÜLLER"),
        ("ISO_IR 144", "Иванов^Ян", "Иванов"),
        ("ISO_IR 192", "Иванов^Ян", "ИВАНОВ"),
        (["", "ISO 2022 IR 87"], "Yamada=山田", "山田"),
        (["", "ISO 2022 IR 149"], "Kim=김희중", "김희중"),
        ("GB18030", "王^小东", "小东"),
    ],
)
def test_a_name_is_found_in_the_bytes_in_any_script_and_syntax(syntax, charset, name, left):
    """A code stays whatever it says: what it may not say is found behind it."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = left, "99X", "x"
    data = make_file(
        SpecificCharacterSet=charset,
        PatientName=name,
        ProcedureCodeSequence=[code],
        syntax=syntax,
    )
    with pytest.raises(BadFile, match="residual"):
        deidentify(data, BASIC)
    code.CodeValue = "T-1"
    plain = make_file(PatientName=name, SpecificCharacterSet=charset, ProcedureCodeSequence=[code])
    assert read(deidentify(plain, BASIC)).ProcedureCodeSequence[0].CodeValue == "T-1"


@pytest.mark.parametrize(
    ("begin", "end"), [(b"\xff\xd8\xff\xfe\0\x12", b"\xff\xda"), (b"\xff\x4f\xff\x64", b"\xff\x90")]
)
def test_a_name_is_found_in_the_header_of_a_picture_that_is_compressed(begin, end):
    dataset = pydicom.dcmread(io.BytesIO(make_file(PatientName="Zyxwvut^Anna")))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    for comment, wrong in ((b" for Zyxwvut ", True), (b" for nobody. ", False)):
        picture = begin + comment + end + b" Zyxwvut "  # what is behind the header is a picture
        dataset.PixelData = pydicom.encaps.encapsulate([picture])
        dataset["PixelData"].VR = "OB"
        if wrong:
            with pytest.raises(BadFile, match="residual"):
                deidentify(written(dataset), BASIC)
        else:
            assert deidentify(written(dataset), BASIC).uid


def test_a_name_is_found_behind_pictures_that_are_compressed():
    """Behind the end of one, or in a fragment of its own; but not within one of two fragments."""
    begin, rest = b"\xff\xd8\xff\xda Zyxwvut ", b" Zyxwvut \xff\xd9"
    dataset = pydicom.dcmread(io.BytesIO(make_file(PatientName="Zyxwvut^Anna")))
    for fragments, wrong in (
        ([begin + rest], False),
        ([begin, rest + b"\0"], False),
        ([begin + rest + b" Zyxwvut "], True),
        ([begin, rest, b"for Zyxwvut."], True),
    ):
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
        dataset.PixelData = b"".join(
            b"\xfe\xff\x00\xe0" + len(one).to_bytes(4, "little") + one
            for one in (b"", *(f + b"\0" * (len(f) % 2) for f in fragments))
        )
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        if wrong:
            with pytest.raises(BadFile, match="residual"):
                deidentify(written(dataset), BASIC)
        else:
            assert deidentify(written(dataset), BASIC).uid


@pytest.mark.parametrize(
    ("age", "told"),
    [
        ("95Y", "090Y"), ("095", "090Y"), ("1100M", "090Y"), (" 095y", "090Y"), ("99999D", "090Y"),
        ("088Y", "088Y"), ("999M", "999M"), ("012W", "012W"), ("old", ""), ("", ""),
    ],
)  # fmt: skip
def test_ages_in_any_form_are_at_most_90(age, told):
    made = read(deidentify(make_file(PatientAge=age), replace(BASIC, patient=True)))
    assert (made.PatientAge or "") == told


def test_a_name_in_technical_text_takes_the_text_out():
    data = make_file(PatientName="Doe^Janet", SequenceName="janet fast", ScanOptions="FS")
    clean = read(deidentify(data, BASIC))
    assert "SequenceName" not in clean
    assert clean.ScanOptions == "FS"
    assert read(deidentify(make_file(SequenceName="fast"), BASIC)).SequenceName == "fast"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Lee^Al", "t1 Lee"),  # too short to be looked for in all bytes
        ("Ng^An", "NG"),
        ("Zyxwvut^Anna", "head_zyxwvutA1"),  # glued to something else
        ("Zyxwvut^Anna", "fl3d 20260102"),  # a date
    ],
)
def test_technical_text_holds_no_part_of_a_name_and_no_date(name, text):
    data = make_file(PatientName=name, SequenceName=text, ScanOptions="FAST")
    assert "SequenceName" not in read(deidentify(data, BASIC))
    kept = make_file(PatientName=name, SequenceName="fl3d1 ng2 99")
    assert read(deidentify(kept, BASIC)).SequenceName == "fl3d1 ng2 99"


def overlaid(position, **more):
    """A file with an overlay in a bit of its pixels, as old machines wrote it."""
    data = make_file(BitsStored=12, HighBit=11, pixels=PIXELS | (1 << 15), **more)
    dataset = pydicom.dcmread(io.BytesIO(data))
    for element, kind, value in ((0x10, "US", 16), (0x11, "US", 16), (0x102, "US", position)):
        dataset.add_new(0x60000000 | element, kind, value)
    return written(dataset)


PIXELS = np.arange(256, dtype=np.uint16).reshape(16, 16)


def written(dataset):
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset)
    return file.getvalue()


def test_overlays_in_the_pixels_and_bytes_behind_them_are_taken_out():
    """What is burned in there no viewer shows any more, and everybody can read."""
    made = read(deidentify(overlaid(15), BASIC))
    np.testing.assert_array_equal(made.pixel_array, PIXELS)
    assert made.PixelData == PIXELS.tobytes()
    for position in (3, 16):  # in the bits of the picture itself, or nowhere
        with pytest.raises(BadFile, match="burned-in"):
            deidentify(overlaid(position), BASIC)
    compressed = pydicom.dcmread(io.BytesIO(overlaid(15)))
    compressed.compress(pydicom.uid.RLELossless)
    with pytest.raises(BadFile, match="burned-in"):
        deidentify(written(compressed), BASIC)

    dataset = pydicom.dcmread(io.BytesIO(make_file(pixels=PIXELS)))
    dataset.PixelData += b"Zyxwvut^Anna"
    assert read(deidentify(written(dataset), BASIC)).PixelData == PIXELS.tobytes()
    dataset = pydicom.dcmread(io.BytesIO(make_file(pixels=PIXELS.astype(np.uint8)[:15, :15])))
    dataset.PixelData += b"\0Zyxwvut^Anna"
    made = read(deidentify(written(dataset), BASIC))
    assert made.PixelData == PIXELS.astype(np.uint8)[:15, :15].tobytes() + b"\0"
    dataset.Rows = None
    assert b"Zyxwvut" in deidentify(written(dataset), BASIC).data  # its pixels cannot be counted


def test_pictures_that_say_that_they_show_nothing_pass():
    assert deidentify(make_file(Modality="US", BurnedInAnnotation="NO"), BASIC).uid
    assert deidentify(make_file(Modality="US"), replace(BASIC, shown=frozenset({"US"}))).uid


def test_what_cannot_be_read_is_left_out():
    with pytest.raises(BadFile, match="header-broken"):
        deidentify(b"no dicom", BASIC)


@pytest.mark.parametrize("order", [1, -1])
def test_of_files_in_conflict_none_is_written(tmp_path, order):
    """Whichever comes first; and a file that may not be read keeps no other away."""
    files = [
        make_file("1.2.3.1.1.1"),
        make_file("1.2.3.1.1.1", SeriesNumber=2),
        make_file("1.2.3.1.1.1"),
    ]
    (tmp_path / "in").mkdir()
    for name, data in zip("abc", files[::order], strict=True):
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "good").write_bytes(make_file("1.2.3.1.1.2"))
    source, target = open_store((tmp_path / "in").as_uri()), open_store((tmp_path / "out").as_uri())
    with ThreadPoolExecutor(1) as threads:
        account, left_out = deidentify_all(source, target, BASIC, threads)
    assert left_out == {"conflict": 3, "not-a-file": 1}
    assert account.total("files").kept == 1
    assert len(list(target.list())) == 2  # one image, and the evidence
    lines = [json.loads(line) for line in target.read("evidence.ndjson").splitlines()]
    assert sum("file" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("source", "target"), [("in", "in"), ("in", "in/out"), ("in/out", "in"), ("in", "link")]
)
def test_what_is_identified_and_what_is_not_stand_in_no_one_folder(tmp_path, source, target):
    """Given again after a break, it would take its own output for input."""
    (tmp_path / "in" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "in" / "1").write_bytes(make_file())
    stores = [open_store((tmp_path / name).as_uri()) for name in (source, target)]
    with ThreadPoolExecutor(1) as threads, pytest.raises(Invalid, match="in one another"):
        deidentify_all(*stores, BASIC, threads)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["1"]


def test_a_folder_that_is_not_there_leaves_no_evidence(tmp_path):
    source, target = open_store((tmp_path / "in").as_uri()), open_store((tmp_path / "out").as_uri())
    with ThreadPoolExecutor(1) as threads, pytest.raises(NotFound) as caught:
        deidentify_all(source, target, BASIC, threads)
    assert caught.value.kind == "no-folder"
    assert list(target.list()) == []


def test_a_folder(tmp_path):
    for name, data in {
        "DOE^JANE/1.dcm": make_file("1.2.3.1.1.1"), "2": make_file("1.2.3.1.1.2"), "again": make_file("1.2.3.1.1.1"),
        "other": make_file("1.2.3.1.1.1", SeriesNumber=2), "us": make_file("1.2.9", Modality="US"), "text": b"hello",
    }.items():  # fmt: skip
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    source, target = open_store((tmp_path / "in").as_uri()), open_store((tmp_path / "out").as_uri())
    with ThreadPoolExecutor(1) as threads:
        account, left_out = deidentify_all(source, target, BASIC, threads)
        assert left_out == {"burned-in": 1, "header-broken": 1, "conflict": 3}
        assert account.total("files").kept == 1
        with pytest.raises(Conflict):
            deidentify_all(source, target, BASIC, threads)
    names = {stat.key for stat in target.list()}
    assert len(names) == 2  # an image, and the evidence
    assert not any("JANE" in name for name in names)
    lines = [json.loads(line) for line in target.read("evidence.ndjson").splitlines()]
    assert len(lines) == 6
    assert b"Test" not in target.read("evidence.ndjson")


def test_the_secret_of_a_site_with_a_dash_comes_from_the_environment():
    variables = {
        "CATCHMENT_DEIDENTIFY__OWN__KEY": "k" * 16,
        "CATCHMENT_DEIDENTIFY__OWN__KEYS__NORTH_1": "n" * 16,
    }
    own = profile_of(Settings.load(environment=variables), "own")
    plain = replace(own, keys={})
    assert own.of_site("north-1").key != plain.of_site("north-1").key
    assert own.of_site("south").key == plain.of_site("south").key


def test_a_profile_needs_its_key(monkeypatch):
    monkeypatch.setenv("CATCHMENT_DEIDENTIFY__BASIC__KEY", "0123456789abcdef")
    assert profile_of(Settings.load(), "basic").key == KEY
    with pytest.raises(NotFound):
        profile_of(Settings.load(), "other")
    monkeypatch.delenv("CATCHMENT_DEIDENTIFY__BASIC__KEY")
    with pytest.raises(Invalid, match="secret key"):
        profile_of(Settings.load(), "basic")


def errors(path):
    done = subprocess.run(["dciodvfy", path], check=False, capture_output=True)
    return sum(line.startswith(b"Error") for line in done.stderr.splitlines())


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy (Debian: dicom3tools)")
@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.soak)])
def test_dciodvfy_finds_no_more_errors_than_before(corpus, tmp_path, step):
    looked = 0
    size = 600_000 if step > 1 else 50_000_000
    for path in [p for p in corpus if "derived" not in str(p) and p.stat().st_size < size][::step]:
        try:
            clean = deidentify(path.read_bytes(), BASIC)
        except BadFile:
            continue
        made = tmp_path / "made.dcm"
        made.write_bytes(clean.data)
        assert errors(made) <= errors(path), path
        looked += 1
    assert looked > 10


VALUES = {
    "DA": "19440203", "TM": "101112", "DT": "19440203101112", "AS": "044Y", "UR": f"urn:{CANARY}", "AE": CANARY, "UI": "1.2.3.77",
    "CS": CANARY, "IS": "41", "DS": "41", "OB": b"QZXCANARY ", "UN": b"QZXCANARY ", "OW": b"QZXCANARY ", "US": 41, "FD": 41.0,
    "SQ": None,
}  # fmt: skip


@pytest.mark.parametrize("action", sorted(set(ACTIONS.values())))
def test_every_attribute_of_table_e_1_1_has_its_action(action):
    """At the top and in an item; of the actions that the table allows, one was taken."""
    for name in [name for name, own in ACTIONS.items() if own == action]:
        tag = tag_for_keyword(name)
        if name in ("PatientID", "PatientName", "EncapsulatedDocument") or tag >> 16 in (0, 2):
            continue
        vr = dictionary_VR(tag)
        dataset, item = pydicom.dcmread(io.BytesIO(make_file())), Dataset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for one in (dataset, item):
                inner = Dataset()
                inner.TextValue, inner.ReferencedSOPInstanceUID = CANARY, "1.2.3.77"
                value = Sequence([inner]) if vr == "SQ" else VALUES.get(vr, CANARY)
                one.add_new(tag, vr, value)
            dataset.DerivationCodeSequence = Sequence([item])
            if dataset.file_meta.MediaStorageSOPInstanceUID != dataset.SOPInstanceUID:
                dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            file = io.BytesIO()
            dataset.save_as(file)
        clean = deidentify(file.getvalue(), BASIC)
        assert CANARY.encode() not in clean.data, name
        back = read(clean)
        for one in (back, back.DerivationCodeSequence[0]):
            _check_action(name, action, one.get(tag), VALUES.get(vr, CANARY))


def _check_action(name, action, element, before):
    absent, empty = element is None, element is not None and element.is_empty
    changed = element is not None and not empty and element.value != before
    allowed = action.replace("U*", "U").split("/")
    if name in ("PersonIdentificationCodeSequence", "GraphicAnnotationSequence"):
        allowed = ["X"]  # more than the table asks for
    assert any(
        (one == "X" and absent) or (one == "Z" and empty) or (one in "DU" and changed)
        for one in allowed
    ), (name, action, element)


def test_a_file_without_meta_information_gets_one():
    dataset = pydicom.dcmread(io.BytesIO(make_file()))
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=False)
    bare = file.getvalue()[132:]
    start = bare.index(b"\x08\x00\x16\x00UI")
    clean = deidentify(bare[start:], BASIC)
    assert read(clean).PatientIdentityRemoved == "YES"
    assert read(clean).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


@pytest.mark.parametrize(("photometric", "size"), [("YBR_FULL_422", 32), ("YBR_FULL", 48)])
def test_bytes_behind_the_last_pixel_go(photometric, size):
    """PS3.5 section 8.2.1, C.7.6.3.1.2: of YBR_FULL_422, two pixels have four samples."""
    dataset = Dataset()
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.SamplesPerPixel = 4, 4, 8, 3
    dataset.PhotometricInterpretation = photometric
    dataset.PixelData = bytes(range(size)) + b"DOE^JANE"
    only_pixels(dataset)
    assert dataset.PixelData == bytes(range(size))
