"""Frames equal pydicom's, pictures equal the standard's formula, copies equal bit by bit."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_windowing
from pydicom.uid import JPEG2000Lossless

import catchment
from catchment.core.errors import Invalid, NotFound
from catchment.imaging.codecs import CannotDecode, lossless, read_frames, shape_of
from catchment.imaging.compress import chosen, header_of
from catchment.imaging.functional import Frames
from catchment.imaging.model import Options
from catchment.imaging.one_series import sheet_of
from catchment.imaging.previews import Window, grey, jpeg, picture, window_of
from catchment.imaging.run import run
from catchment.imaging.volume import volume
from catchment.testing.dicom import make_file

# Files of which pydicom tells more, or other colours, than the pixels that are stored.
OTHERWISE = {"SC_ybr_full_uncompressed.dcm", "mlut_18.dcm"}


def theirs(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array
    single = int(dataset.get("NumberOfFrames") or 1) == 1
    return pixels[None] if single and pixels.ndim < 3 + (dataset.SamplesPerPixel == 3) else pixels


def test_frames_equal_those_of_pydicom(corpus):
    same = 0
    for path in corpus[::4]:
        if path.name in OTHERWISE or "derived" in str(path) or path.stat().st_size > 2_000_000:
            continue
        try:
            expected = theirs(path)
        except Exception:  # noqa: BLE001 - what it cannot decode is no measure
            continue
        frames = list(read_frames(path.read_bytes()))
        assert len(frames) == len(expected), path
        for frame, pixels in zip(frames, expected, strict=True):
            assert np.array_equal(frame.pixels, pixels), path
        same += 1
    assert same > 40


GREY = st.sampled_from([np.uint8, np.int8, np.uint16, np.int16])


@settings(max_examples=60)
@given(
    GREY,
    st.floats(-500, 500),
    st.floats(1, 2000),
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_windows_equal_the_standards_formula(dtype, center, width, function, inverse, seed):
    info = np.iinfo(dtype)
    pixels = np.random.default_rng(seed).integers(info.min, info.max, (8, 8), dtype, endpoint=True)
    data = make_file(
        pixels=pixels, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=float(np.float32(center)), WindowWidth=float(np.float32(width)) + 1,
        VOILUTFunction=function, PhotometricInterpretation="MONOCHROME1" if inverse else "MONOCHROME2",
    )  # fmt: skip
    header = header_of(data)
    window = window_of(Frames(header))
    made = grey(pixels, shape_of(header), window).astype(int)
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsStored = 16  # so that pydicom's range is that of 16 bits, to be scaled
    values = pixels * 2.0 - 100
    low, high = (
        (-100.0 + 2 * -(2**15), -100.0 + 2 * (2**15 - 1))
        if info.min < 0
        else (-100.0, -100.0 + 2 * (2**16 - 1))
    )
    with np.errstate(over="ignore"):
        windowed = apply_windowing(values, dataset)
    expected = (windowed - low) / (high - low) * 255
    expected = 255 - expected if inverse else expected
    assert np.abs(made - expected).max() <= 1  # of rounding


def test_twelve_stored_bits_are_read_without_what_stands_above_them():
    pixels = np.array([[0xF000, 0xFFFF], [0x0000, 0x0FFF]], np.uint16)
    data = make_file(pixels=pixels, BitsStored=12, HighBit=11)
    header = header_of(data)
    made = grey(pixels, shape_of(header), window_of(Frames(header)))
    assert made.tolist() == [[0, 255], [0, 255]]


def test_floats_and_constant_pictures():
    header = header_of(make_file(pixels=np.zeros((2, 2), np.uint16)))
    shape = shape_of(header)
    assert grey(np.zeros((2, 2), np.uint16), shape, Window()).max() in (0, 127, 128)
    assert grey(np.array([[0.0, np.nan], [1.0, 0.5]]), shape, Window()).tolist() == [
        [0, 0],
        [255, 128],
    ]
    assert grey(np.array([[0, 2**20]], np.uint32), shape, Window(inverse=True)).tolist() == [
        [255, 0]
    ]


@pytest.mark.parametrize("codec", ["htj2k", "jpegls"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_copies_are_lossless(codec, dtype):
    info = np.iinfo(dtype)
    pixels = np.random.default_rng(1).integers(info.min, info.max, (33, 47), dtype, endpoint=True)
    assert lossless(pixels, codec).data


def test_a_copy_that_differs_is_none(monkeypatch):
    monkeypatch.setattr(imagecodecs, "jpegls_decode", lambda _: np.zeros((4, 4), np.uint8))
    with pytest.raises(CannotDecode, match="not-lossless"):
        lossless(np.ones((4, 4), np.uint8), "jpegls")
    for pixels, codec in ((np.ones((4, 4)), "jpegls"), (np.ones((4, 4), np.uint8), "none")):
        with pytest.raises(CannotDecode, match="codec-cannot"):
            lossless(pixels, codec)


def test_colours():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[..., 0] = 200
    data = make_file(pixels=pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, Rows=4, Columns=4, NumberOfFrames=None)  # fmt: skip
    header = header_of(data)
    (frame,) = read_frames(data)
    shape = shape_of(header)
    assert picture(frame, shape, window_of(Frames(header)), data)[0, 0].tolist() == [200, 0, 0]
    yellow = picture(frame._replace(photometric="YBR_FULL"), shape, Window(), data)
    assert yellow[0, 0].tolist() != [200, 0, 0]
    assert Image.open(io.BytesIO(jpeg(yellow))).size == (4, 4)
    with pytest.raises(CannotDecode, match="too-large"):
        jpeg(np.zeros((1, 65_501), np.uint8))


def test_palettes(corpus):
    (path,) = [p for p in corpus if p.name == "examples_palette.dcm"][:1] or pytest.skip(
        "pydicom's file is not here"
    )
    data = path.read_bytes()
    header = header_of(data)
    frame = next(read_frames(data, [0]))
    assert picture(frame, shape_of(header), window_of(Frames(header)), data).shape[2] == 3


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"BitsAllocated": 12}, "bits-unknown"),
        ({"Rows": 0}, "pixels-undescribed"),
        ({"Rows": 999}, "pixels-truncated"),
    ],
)
def test_what_cannot_be_decoded_says_why(attributes, reason):
    with pytest.raises(CannotDecode, match=reason):
        list(read_frames(make_file(**attributes)))


def test_chosen_frames():
    assert [list(chosen(which, 5)) for which in ("none", "first", "middle", "all")] == [
        [],
        [0],
        [2],
        [0, 1, 2, 3, 4],
    ]


def test_previews_and_copies_belong_to_a_snapshot(sites, job, house, opened):
    sites(alpha={
        "1": make_file("1.2.3.1.1.1", pixels=np.arange(300, dtype=np.uint16).reshape(3, 10, 10)),
        "2": make_file("1.2.3.1.1.2", BitsAllocated=12),
        "3": make_file("1.2.3.1.1.3", PatientName="Secret^Name"),
    })  # fmt: skip
    wanted = replace(job, options=Options(previews="all", archive="jpegls"))
    run(wanted, house)
    snapshot = opened()
    assert snapshot.verify() == []
    rows = snapshot["compressed_images"].to_pylist()
    made = {
        (row["SOPInstanceUID"][-1], row["frame"], row["format"]) for row in rows if row["object"]
    }
    assert made == {("1", n, f) for n in range(3) for f in ("jpeg", "jpegls")} | {
        ("3", 0, "jpeg"),
        ("3", 0, "jpegls"),
    }
    assert [row["compress_error"] for row in rows if not row["object"]] == ["bits-unknown"]
    assert snapshot.rows()["processed_images"] == 9
    assert not any("1.2.3" in row["object"] for row in rows if row["object"])
    # A conflict takes the pictures out with the image.
    sites(beta={"1": make_file("1.2.3.1.1.3", PatientName="Other")})
    run(wanted, house)
    assert {row["SOPInstanceUID"][-1] for row in opened()["compressed_images"].to_pylist()} == {
        "1",
        "2",
    }


def slices(places, **more):
    return [
        make_file(
            f"1.2.3.1.1.{n}", InstanceNumber=n, ImagePositionPatient=[0, 0, place], ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[0.5, 0.25], RescaleSlope=2, RescaleIntercept=-5, pixels=np.full((4, 4), n, np.uint16), **more,
        )
        for n, place in enumerate(places, 1)
    ]  # fmt: skip


@pytest.mark.parametrize("signed", [False, True])
def test_a_volume_has_no_overlays_in_its_values(signed):
    """Old machines put them into the bits above those that are stored (PS3.5, 8.1.1)."""
    values = np.arange(16, dtype=np.int16).reshape(4, 4) - (8 if signed else 0)
    stored = (values & 0xFFF).astype(np.uint16) | np.uint16(0x9000)
    files = [
        make_file(
            f"1.2.3.1.1.{n}", InstanceNumber=n, ImagePositionPatient=[0, 0, n],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1, 1], RescaleSlope=None,
            RescaleIntercept=None, pixels=stored, BitsStored=12, HighBit=11,
            PixelRepresentation=int(signed),
        )
        for n in (1, 2)
    ]  # fmt: skip
    np.testing.assert_array_equal(volume(files).array, [values, values])


def test_colours_that_are_told_for_two_pixels_each():
    """YBR_FULL_422 as it is, not compressed (PS3.3, C.7.6.3.1.2), against pydicom."""
    from pydicom import dcmread
    from pydicom.data import get_testdata_file
    from pydicom.pixels import iter_pixels

    path = Path(str(get_testdata_file("SC_ybr_full_422_uncompressed.dcm")))
    data = path.read_bytes()
    (wanted,) = iter_pixels(dcmread(path), raw=True)
    (frame,) = read_frames(data)
    np.testing.assert_array_equal(frame.pixels, wanted)
    header = header_of(data)
    shown = picture(frame, shape_of(header), window_of(Frames(header)), data)
    np.testing.assert_array_equal(shown, next(iter_pixels(dcmread(path))))
    for change, reason in ((data[:-9], "pixels-truncated"), (odd(data), "pixels-undescribed")):
        with pytest.raises(CannotDecode, match=reason):
            list(read_frames(change))


def test_pixels_of_files_with_odd_text_are_decoded_as_all_others_are():
    """Text of several bytes a character is read by pydicom; its decoder fails for signed values."""
    pixels = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)
    japanese = {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada=山田"}
    dataset = dcmread(io.BytesIO(make_file(pixels=pixels, BitsStored=13, HighBit=12, **japanese)))
    dataset.PixelData = encapsulate(
        [imagecodecs.jpeg2k_encode((pixels & 0x1FFF).astype(np.uint16), level=0)]
    )
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    file = io.BytesIO()
    dataset.save_as(file)
    for data in (file.getvalue(), make_file(pixels=pixels, **japanese)):
        (frame,) = read_frames(data)
        np.testing.assert_array_equal(frame.pixels, pixels)


def test_pixels_of_a_file_without_meta_information():
    """They are in the syntax that the rest of it was read with."""
    pixels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    dataset = dcmread(io.BytesIO(make_file(pixels=pixels)))
    for syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"):
        file = io.BytesIO()
        dataset.file_meta = FileMetaDataset()
        pydicom.dcmwrite(
            file, dataset, implicit_vr=syntax == "1.2.840.10008.1.2", little_endian=True
        )
        (frame,) = read_frames(file.getvalue())
        np.testing.assert_array_equal(frame.pixels, pixels)


def odd(data):
    """The same, with an odd number of columns."""
    from pydicom import dcmread, dcmwrite

    dataset = dcmread(io.BytesIO(data))
    dataset.Columns = 99
    file = io.BytesIO()
    dcmwrite(file, dataset)
    return file.getvalue()


def test_a_volume_is_in_patient_order_with_its_spacing():
    made = volume(slices([10, 0, 5]))
    assert made.spacing == (5.0, 0.5, 0.25)
    assert made.origin == (0.0, 0.0, 0.0)
    assert made.array[:, 0, 0].tolist() == [-1.0, 1.0, -3.0]
    assert made.directions.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert volume(slices([1], SliceThickness=3)).spacing[0] == 3


@pytest.mark.parametrize(
    ("orientation", "positions"),
    [
        ([0, 1, 0, 0, 0, -1], [[9, 1, 2], [5, 1, 2], [7, 1, 2]]),  # sagittal, from above
        ([1, 0, 0, 0, 0, -1], [[1, 4, 2], [1, 8, 2], [1, 6, 2]]),  # coronal
        ([-1, 0, 0, 0, -1, 0], [[1, 4, 2], [1, 4, 6], [1, 4, 4]]),  # axial, from behind
    ],
)
def test_axes_are_the_patients_whichever_way_the_slices_lie(orientation, positions):
    """Each value is where its own slice says that it is."""
    pixels = [np.arange(12, dtype=np.uint16).reshape(3, 4) + 100 * n for n in range(3)]
    files = [
        make_file(
            f"1.2.3.1.1.{n}", InstanceNumber=n, ImagePositionPatient=positions[n], ImageOrientationPatient=orientation,
            PixelSpacing=[0.5, 0.25], pixels=pixels[n],
        )
        for n in range(3)
    ]  # fmt: skip
    made = volume(files)
    assert (np.diag(made.directions[:, ::-1]) > 0.99).all()
    along, down = np.array(orientation[:3]), np.array(orientation[3:])
    for n, (row, column) in [(0, (0, 0)), (1, (2, 3)), (2, (1, 2))]:
        place = np.array(positions[n]) + down * 0.5 * row + along * 0.25 * column
        index = np.rint((place - made.origin) @ made.directions.T / made.spacing).astype(int)
        assert made.array[tuple(index)] == pixels[n][row, column]


@pytest.mark.parametrize(
    "files",
    [
        [],
        slices([0, 5, 15]),
        slices([0, 0]),
        [  # a tilted gantry: each stands beside the one before, and would be told a wrong place
            make_file(
                f"1.2.{n}",
                ImagePositionPatient=[0, 2 * n, 5 * n],
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                PixelSpacing=[0.5, 0.25],
            )
            for n in range(3)
        ],
        [make_file()],
        [
            *slices([0]),
            make_file(
                "1.9",
                ImagePositionPatient=[0, 0, 5],
                ImageOrientationPatient=[0, 1, 0, 0, 0, 1],
                PixelSpacing=[0.5, 0.25],
            ),
        ],
    ],
)
def test_what_is_no_volume_is_refused(files):
    with pytest.raises(Invalid, match="no volume"):
        volume(files)


def test_python_reads_what_is_published(tmp_path):
    """``catchment.imaging.tables()``, ``.series(uid).volume()``; and a workspace that is open."""
    (tmp_path / "alpha").mkdir()
    for n, data in enumerate(slices([0, 5, 10])):
        (tmp_path / "alpha" / f"{n}").write_bytes(data)
    (tmp_path / "catchment.toml").write_text('[imaging.ct]\nproviders = {alpha = "alpha"}\n')
    with pytest.raises(NotFound):
        catchment.imaging.tables(tmp_path)
    with catchment.open(tmp_path) as opened:
        assert list(opened.imaging) == ["ct"]
        assert opened.imaging.plan().state == "planned"
        assert opened.imaging.run().state == "published"
        assert opened.imaging.run(sync=False).state == "unchanged"
        assert [s.number for s in opened.imaging.snapshots()] == [1]
        assert opened.imaging.tables()["images"].num_rows == 3
        uid = opened.imaging.tables()["series"]["SeriesInstanceUID"][0].as_py()
        assert opened.imaging.series(uid, 1).volume().spacing == (5.0, 0.5, 0.25)
    tables = catchment.imaging.tables(tmp_path)
    assert tables["images"].num_rows == 3
    with tables.connect() as connection:
        assert connection.execute("SELECT count(*) FROM series").fetchone() == (1,)
    volume = catchment.imaging.series(uid, tmp_path, name="ct").volume()
    assert volume.array.shape == (3, 4, 4)
    with pytest.raises(AttributeError, match="no attribute"):
        catchment.nothing  # noqa: B018 - that it is not there


def test_a_series_of_a_snapshot(sites, job, house, opened):
    sites(alpha={f"{n}": data for n, data in enumerate(slices([0, 5, 10]))})
    run(job, house)
    with ThreadPoolExecutor(1) as threads:
        assert opened().series("1.2.3.1.1", threads).volume().array.shape == (3, 4, 4)
        sheet = Image.open(io.BytesIO(sheet_of(opened(), "1.2.3.1.1", threads)))
    assert sheet.format == "PNG"
    with pytest.raises(NotFound):
        opened().series("9")


def test_a_series_without_pixels_says_so(sites, job, house, opened):
    bare = pydicom.dcmread(io.BytesIO(make_file("1.2.3.1.1.1")))
    del bare.PixelData
    file = io.BytesIO()
    bare.save_as(file)
    sites(alpha={"1": file.getvalue()})
    run(job, house)
    (uid,) = opened()["images"]["SeriesInstanceUID"].to_pylist()
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(Invalid, match="no-pixels") as caught:
            sheet_of(opened(), uid, threads)
        assert caught.value.kind == "cannot-decode"
        with pytest.raises(Invalid, match="no-pixels") as caught:
            opened().series(uid, threads).volume()
        assert caught.value.kind == "no-volume"
    # Of a series of which something can be shown, that is.
    series = opened()["images"]["SeriesInstanceUID"][0].as_py()
    sites(alpha={"2": make_file("1.2.3.1.1.2", series=series)})
    run(job, house)
    with ThreadPoolExecutor(1) as threads:
        sheet = Image.open(io.BytesIO(sheet_of(opened(), series, threads)))
    assert sheet.size[0] == 2 * 192


def test_no_room_for_a_picture_is_no_fault_of_the_picture(sites, job, house, opened, monkeypatch):
    def full(*_):
        raise MemoryError

    sites(alpha={"1": make_file("1.2.3.1.1.1", series="1.2.3.1.1")})
    run(job, house)
    monkeypatch.setattr("catchment.imaging.one_series._pictures", full)
    with ThreadPoolExecutor(1) as threads, pytest.raises(MemoryError):  # a child's its pool tells
        sheet_of(opened(), "1.2.3.1.1", threads)


@pytest.mark.parametrize("data", [b"", b"no DICOM", b"\0" * 128 + b"DICM" + b"\xff" * 9])
def test_what_is_no_file_of_pixels_is_no_picture(data):
    with pytest.raises(Exception, match=r"."):
        list(read_frames(data))
