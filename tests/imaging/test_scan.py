"""The fast reader and pydicom say the same of every file, or the fast one says that it cannot."""

from __future__ import annotations

import io
import json
import math
import struct
import warnings
import zlib
from contextlib import suppress

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from catchment.imaging import fallback, values
from catchment.imaging.fallback import read_slowly
from catchment.imaging.scan import read_header
from catchment.imaging.values import Unreadable
from catchment.imaging.walk import BadFile, Unscannable

REFUSED = {
    "empty",
    "gzip",
    "header-truncated",
    "media-directory",
    "not-dicom",
}


def scanned(data):
    return read_header(lambda start, length: data[start : start + length], len(data))


def by_pydicom(data):
    """The header in DICOM JSON by pydicom alone; an element that it cannot say is its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        made = {}
        for tag in dataset.keys():  # noqa: SIM118
            try:
                made[f"{tag:08X}"] = dataset[tag].to_json_dict(lambda _: "bulk", 1024)
            except ValueError as error:
                made[f"{tag:08X}"] = type(error)
    return made


def plain(value):
    """Without the places of bulk data, which pydicom does not know."""
    if isinstance(value, dict):
        return {k: "bulk" if k == "BulkDataURI" else plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value


def test_it_equals_pydicom_on_every_tag_of_every_sample_file(corpus):
    equal, left, refused = 0, {}, {}
    for path in corpus:
        data = path.read_bytes()
        try:
            header = scanned(data)
            ours = plain(header.to_json())
        except (Unscannable, Unreadable) as reason:
            left[path.name] = str(reason)
            continue
        except BadFile as reason:
            refused[path.name] = str(reason)
            continue
        theirs = by_pydicom(data)
        if header.pixels:
            del ours[f"{header.pixels.tag:08X}"]
        if "trailing-padding" in header.notes:  # pydicom takes zeros for an element
            del theirs["00000000"]
        for key in ours.keys() | theirs.keys():
            if theirs.get(key) is ValueError:  # a number that is none: ours keeps its text
                assert isinstance(ours[key]["Value"][0], str), (path, key)
            else:
                expected = json.loads(json.dumps(plain(theirs.get(key))))
                assert ours.get(key) == expected, (path, key)
        equal += 1
    assert equal > 0.85 * len(corpus), left
    assert set(refused.values()) <= REFUSED
    assert set(left.values()) <= {
        "big-endian", "character-set", "deflated", "no-file-meta", "no-preamble", "odd-item",
        "other-encoding", "un-of-many-kinds", "undefined-length", "unknown-vr",
    }  # fmt: skip


def test_what_it_leaves_pydicom_reads_in_the_same_form(corpus):
    read = 0
    for path in corpus:
        data = path.read_bytes()
        try:
            scanned(data).to_json()
        except BadFile:
            continue
        except (Unscannable, Unreadable):
            pass
        else:
            if read % 7:  # some of the others too: both readers, one form
                continue
        try:
            header = read_slowly(io.BytesIO(data), len(data))
        except (BadFile, OSError):
            continue
        json.dumps(header.to_json(), allow_nan=False)
        read += 1
    assert read > 40


def test_both_readers_agree_on_sound_files(corpus):
    for path in corpus[::5]:
        data = path.read_bytes()
        try:
            header = scanned(data)
            ours = plain(header.to_json())
        except (Unscannable, Unreadable, BadFile):
            continue
        if header.notes or path.name == "badVR.dcm":
            continue
        slow = read_slowly(io.BytesIO(data), len(data))
        expected = {key: plain(one) for key, one in slow.to_json().items()}
        for one in (ours, expected):  # the fast one knows where bulk data is
            one.pop("7FE00010", None)
        assert ours == {key: "bulk" if one == "bulk" else one for key, one in expected.items()}, (
            path
        )
        if header.pixels:
            assert (slow.pixels.start, slow.pixels.length) == (
                header.pixels.start,
                header.pixels.length,
            ), path


TEXTS = st.text(st.characters(codec="latin-1", exclude_characters="\\^=\0\x1b"), max_size=20)
PLAIN = TEXTS.map(lambda t: t.strip())
ELEMENTS = st.one_of(
    st.tuples(st.just("PatientName"), TEXTS.filter(lambda t: t == t.strip())),
    st.tuples(st.just("StudyDescription"), PLAIN),
    st.tuples(st.just("ImageComments"), PLAIN),
    st.tuples(st.just("Rows"), st.integers(0, 65535)),
    st.tuples(st.just("ImagePositionPatient"), st.lists(st.integers(-999, 999), min_size=3, max_size=3)),
    st.tuples(st.just("DiffusionBValue"), st.floats(allow_nan=False, allow_infinity=False)),
    st.tuples(st.just("PixelPaddingValue"), st.integers(0, 32767)),
    st.tuples(st.just("InstanceNumber"), st.integers(-99999, 99999)),
    st.tuples(st.just("FrameIncrementPointer"), st.integers(0x00080000, 0x00300000)),
    st.tuples(st.just("SOPInstanceUID"), st.just("1.2.3")),
    st.tuples(st.just("EncapsulatedDocument"), st.binary(max_size=2000).map(lambda b: b + b"\0" * (len(b) % 2))),
)  # fmt: skip


@st.composite
def datasets(draw, depth=0):
    made = Dataset()
    for name, value in draw(st.lists(ELEMENTS, max_size=6)):
        setattr(made, name, value)
    if draw(st.booleans()):
        block = made.private_block(0x0029, "ACME 1.0", create=True)
        block.add_new(1, "LO", draw(PLAIN))
        block.add_new(2, "UN", draw(st.binary(min_size=2, max_size=2)))
    if depth < 3 and draw(st.booleans()):
        items = draw(st.lists(datasets(depth + 1), max_size=3))
        made.ReferencedImageSequence = Sequence(items)
        made["ReferencedImageSequence"].is_undefined_length = draw(st.booleans())
        for item in items:
            item.is_undefined_length_sequence_item = draw(st.booleans())
    return made


def written(dataset, syntax):
    file = io.BytesIO()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.StudyDate = "20200101"  # so that there is something
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


@settings(max_examples=150)
@given(datasets(), st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
def test_it_equals_pydicom_on_any_nested_dataset(dataset, syntax):
    data = written(dataset, syntax)
    try:
        ours = scanned(data).to_json()
    except Unreadable:  # a text that the dataset's character set does not have
        return
    assert plain(ours) == json.loads(json.dumps(by_pydicom(data)))


@settings(max_examples=200)
@given(datasets(), st.data())
def test_no_damage_makes_it_do_anything_but_refuse(dataset, more):
    """Any byte changed, any length cut: rows, a refusal or the slow reader, nothing else."""
    data = bytearray(written(dataset, ExplicitVRLittleEndian))
    for _ in range(more.draw(st.integers(0, 8))):
        data[more.draw(st.integers(0, len(data) - 1))] = more.draw(st.integers(0, 255))
    data = bytes(data[: more.draw(st.integers(0, len(data)))])
    with suppress(BadFile, Unscannable, Unreadable):
        scanned(data).to_json()


def test_only_the_windows_that_are_needed_are_read():
    data = written(Dataset(), ExplicitVRLittleEndian)
    large = Dataset()
    large.TextValue = "x" * 40_000
    asked = []

    def fetch(source):
        return lambda start, length: (
            asked.append((start, length)),
            source[start : start + length],
        )[1]

    padded = data + b"\xe0\x7f\x10\0OW\0\0" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    assert read_header(fetch(padded), len(padded)).pixels.length == 1 << 20
    assert asked == [(0, 32 << 10)]
    asked.clear()
    long = (
        written(large, ExplicitVRLittleEndian)
        + b"\xe0\x7f\x10\0OW\0\0"
        + struct.pack("<I", 1 << 20)
    )
    read_header(fetch(long + bytes(1 << 20)), len(long) + (1 << 20))
    assert asked == [(0, 32 << 10), (0, 256 << 10)]


def test_the_text_of_what_json_cannot_say_is_kept():
    assert values.element("FD", struct.pack("<2d", math.nan, math.inf), "latin_1", 0, 1)[
        "Value"
    ] == ["NaN", "Infinity"]
    assert values.not_finite(-math.inf) == "-Infinity"
    assert values.element("IS", b"1\\\\x\\2.0\\2.5", "latin_1", 0, 1)["Value"] == [
        1,
        None,
        "x",
        2,
        2.5,
    ]
    assert values.element("DS", b"1e400\\ \\5", "latin_1", 0, 1)["Value"] == ["1e400", None, 5.0]
    assert values.element("US", b"abc", "latin_1", 0, 1) == {"vr": "UN", "InlineBinary": "YWJj"}
    assert values.element("UR", b"http://a ", "latin_1", 0, 1)["Value"] == ["http://a"]
    assert values.element("PN", b"A^B=C=D", "latin_1", 0, 1)["Value"] == [
        {"Alphabetic": "A^B", "Ideographic": "C", "Phonetic": "D"}
    ]
    with pytest.raises(Unreadable):
        values.element("LO", b"\x1b$B", "latin_1", 0, 1)
    with pytest.raises(Unreadable):
        values.element("LO", b"\xff", "utf_8", 0, 1)


def head(*elements):
    """A file's start, with explicit elements of 16-bit lengths, or of 32-bit where VR is long."""
    body = b""
    for tag, vr, value in elements:
        body += struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
        long = vr in (b"OB", b"SQ", b"UN")
        body += (
            b"\0\0" + struct.pack("<I", len(value)) + value
            if long
            else struct.pack("<H", len(value)) + value
        )
    return bytes(128) + b"DICM" + body


SYNTAX = (0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x1f\x8b" + bytes(200), "gzip"),
        (b"GIF89a" + bytes(200), "not-dicom"),
        (bytes(128) + b"DICM", "header-truncated"),
        (head(SYNTAX), "header-truncated"),
        (head(SYNTAX, (0x00080018, b"UI", b"1.2"))[:-1], "header-truncated"),
        (head(SYNTAX, (0x00041220, b"SQ", b""), (0x00080018, b"UI", b"1.2\0")), "media-directory"),
    ],
)
def test_what_no_reader_can_take_is_refused(data, reason):
    with pytest.raises(BadFile, match=reason):
        scanned(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (head((0x00020010, b"UI", b"1.2.840.10008.1.2.2\0"), (0x00080018, b"UI", b"1.2\0")), "big-endian"),
        (head((0x00020010, b"UI", b"1.2.840.10008.1.2.1.99")) + bytes(8), "deflated"),
        (head((0x00020012, b"UI", b"1.2\0"), (0x00080018, b"UI", b"1.2\0")), "no-file-meta"),
        (head((0x00020012, b"ZZ", b"1.2\0")) + bytes(8), "odd-file-meta"),
        (head(SYNTAX, (0x00080005, b"CS", b"ISO 2022 IR 87"), (0x00080018, b"UI", b"1.2\0")), "character-set"),
        (head(SYNTAX, (0x00080018, b"UI", b"1.2\0"), (0x00091001, b"ZZ", b"")), "unknown-vr"),
        (head(SYNTAX, (0x00280106, b"UN", b"\0\0"), (0x00280107, b"US", b"\0\0")), "un-of-many-kinds"),
        (b"\x08\x00\x05\x00CS\x0a\0ISO_IR 100" + bytes(200), "no-preamble"),
        (b"\x08\x00\x00\x00\x04\0\0\0" + bytes(200), "no-preamble"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_it_says(data, reason):
    with pytest.raises(Unscannable, match=reason):
        scanned(data)


def test_sequences_that_never_end_do_not_end_it():
    inside = b""
    for _ in range(100):
        inside = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" + inside
    data = head(SYNTAX, (0x00080018, b"UI", b"1.2\0")) + inside
    with pytest.raises(BadFile, match="nested-too-deep"):
        scanned(data)


def test_a_deflated_bomb_is_refused_before_pydicom_inflates_it(monkeypatch):
    monkeypatch.setattr(fallback, "MOST_INFLATED", 1 << 20)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = packer.compress(bytes(8 << 20)) + packer.flush()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = io.BytesIO()
    file.write(bytes(128) + b"DICM")
    pydicom.filewriter.write_file_meta_info(file, meta)
    with pytest.raises(BadFile, match="deflated-too-large"):
        read_slowly(io.BytesIO(file.getvalue() + bomb), len(file.getvalue()) + len(bomb))
