"""Enhanced multi-frame images: what functional groups say of each frame, PS3.3 C.7.6.16."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from catchment.core.errors import Invalid
from catchment.imaging.browse import Look, picture
from catchment.imaging.compress import header_of
from catchment.imaging.functional import Frames
from catchment.imaging.model import Options
from catchment.imaging.previews import window_of
from catchment.imaging.run import run
from catchment.imaging.volume import volume
from catchment.testing.dicom import make_enhanced, make_file

SAMPLES = Path(__file__).parents[3] / "shared/data/imaging/icometrix_dicom2nifti/tests/data"
AXIAL = [1, 0, 0, 0, 1, 0]


def frames(places, **more):
    """What frames at these heights say."""
    return [
        {
            "ImagePositionPatient": [3, 2, place],
            "ImageOrientationPatient": AXIAL,
            "PixelSpacing": [0.5, 0.25],
            "SliceThickness": 4,
        }
        | {name: values[n] for name, values in more.items()}
        for n, place in enumerate(places)
    ]


def pixels(count):
    return np.arange(count * 12, dtype=np.int16).reshape(count, 3, 4) - 7


def same(one, other):
    assert one.array.dtype == other.array.dtype
    assert np.array_equal(one.array, other.array)
    assert (one.spacing, one.origin) == (other.spacing, other.origin)
    assert np.array_equal(one.directions, other.directions)


@settings(max_examples=40, deadline=None, database=None)
@given(st.data())
def test_the_volume_is_that_of_a_classic_series(data):
    """However frames are shuffled, shared out among files, and what they say among groups."""
    count = data.draw(st.integers(1, 6))
    places = data.draw(st.permutations([2.5 * n for n in range(count)]))
    said = frames(places)
    orientation = data.draw(st.sampled_from([AXIAL, [-1, 0, 0, 0, -1, 0], [0.6, 0.8, 0, 0, 0, -1]]))
    normal = np.cross(orientation[:3], orientation[3:])
    for frame in said:
        frame["ImageOrientationPatient"] = orientation
        frame["ImagePositionPatient"] = [
            float(round(v, 6)) for v in normal * frame["ImagePositionPatient"][2]
        ]
    slopes = data.draw(
        st.one_of(st.none(), st.lists(st.sampled_from([1, 2, 0.5]), min_size=count, max_size=count))
    )
    for frame, slope in zip(said, slopes or (), strict=slopes is not None):
        frame |= {"RescaleSlope": slope, "RescaleIntercept": -5}
    values = pixels(count)
    classic = volume(
        [make_file(f"1.2.{n}", pixels=values[n], **frame) for n, frame in enumerate(said)]
    )
    cut = data.draw(st.integers(0, count))
    files = [
        make_enhanced(f"1.3.{n}", said[a:b], values[a:b])
        for n, (a, b) in enumerate([(0, cut), (cut, count)])
        if a < b
    ]
    same(volume(files), classic)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(make_file(pixels=pixels(3)), id="no groups"),
        pytest.param(make_enhanced("1.2", frames([0, 1]), pixels(3)), id="two of three"),
        pytest.param(make_enhanced("1.2", frames([0, 1, 1]), pixels(3)), id="twice at one place"),
        pytest.param(make_enhanced("1.2", frames([0, 1, 3]), pixels(3)), id="a gap"),
        pytest.param(make_enhanced("1.2", [{}, {}, {}], pixels(3)), id="empty groups"),
        pytest.param(
            make_enhanced(
                "1.2", frames([0, 1, 2], PixelSpacing=[[1, 1], [1, 1], [1, 2]]), pixels(3)
            ),
            id="spacings",
        ),
        pytest.param(
            make_file(
                pixels=np.zeros((4, 4, 3), np.uint8),
                SamplesPerPixel=3,
                PhotometricInterpretation="RGB",
                PlanarConfiguration=0,
                Rows=4,
                Columns=4,
                NumberOfFrames=1,
            ),
            id="colours",
        ),
    ],
)
def test_what_does_not_say_where_it_is_is_no_volume(file):
    with pytest.raises(Invalid) as caught:
        volume([file])
    assert caught.value.kind == "no-volume"


def test_a_slope_that_is_none_changes_nothing():
    assert volume([make_file(**frames([0])[0], RescaleSlope="")]).array.dtype == np.uint16


def test_a_slope_that_is_no_number_is_told():
    with pytest.raises(Invalid, match="what its values mean"):
        volume(
            [
                make_file(**frames([0])[0], RescaleIntercept=-12345.0).replace(
                    b"-12345.0", b"-tenfold"
                )
            ]
        )


def test_one_frame_has_the_thickness_of_its_group():
    assert volume([make_enhanced("1.2", frames([0]), pixels(1))]).spacing == (4.0, 0.5, 0.25)


def test_windows_are_those_of_the_frames():
    said = frames([0, 1], WindowCenter=[10, 300], WindowWidth=[20, 30])
    told = Frames(header_of(make_enhanced("1.2", said, pixels(2), WindowCenter=1, WindowWidth=2)))
    assert [window_of(told, n).center for n in range(3)] == [10, 300, 1]
    assert [window_of(told, n).width for n in range(3)] == [20, 30, 2]


def test_previews_and_pages_show_each_frame_by_its_window(sites, job, house, opened):
    said = frames([0, 5], WindowCenter=[100, 1], WindowWidth=[1, 1])
    values = np.full((2, 8, 8), 50, np.uint16)
    sites(alpha={"1": make_enhanced("1.2.3.1.1.1", said, values)})
    run(replace(job, options=Options(previews="all")), house)
    digest = opened()["images"]["sha256"][0].as_py()
    with ThreadPoolExecutor(1) as threads:
        for frame, grey in enumerate((0, 255)):
            data, told = picture(opened(), digest, Look(frame), threads)
            assert told["center"] == (100, 1)[frame]
            assert np.asarray(Image.open(io.BytesIO(data))).mean() == grey
        assert opened().series("1.2.3.1.1", threads).volume().array.shape == (2, 8, 8)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs ../shared/data/imaging")
def test_scans_of_a_machine():
    """Philips' enhanced MR, explicit and implicit, and its frames as classic files."""
    import pydicom

    for path in sorted((SAMPLES / "philips_enhanced" / "anatomical").rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        shared = dataset.SharedFunctionalGroupsSequence[0]
        files = []
        for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            said = {}
            for macro, names in {
                "PlanePositionSequence": ["ImagePositionPatient"],
                "PlaneOrientationSequence": ["ImageOrientationPatient"],
                "PixelMeasuresSequence": ["PixelSpacing", "SliceThickness"],
                "PixelValueTransformationSequence": ["RescaleSlope", "RescaleIntercept"],
            }.items():
                item = (group if macro in group else shared)[macro][0]
                said |= {name: item[name].value for name in names}
            frame = dataset.pixel_array[number]
            files.append(make_file(f"1.2.{number}", pixels=frame, **said))
        made = volume([path.read_bytes()])
        same(made, volume(files))
        assert sorted(made.array.shape) == [8, 256, 256]
