"""Datasets that a store, or those who open it, cannot say: refused before any write."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from catchment.arrays import api
from catchment.arrays.codec import decode, encode
from catchment.arrays.content import simple
from catchment.arrays.document import array
from catchment.arrays.stack import Stack
from catchment.arrays.transform.readers import edf
from catchment.arrays.verify import verify
from catchment.core.errors import Invalid
from catchment.core.store import open_store

HALF = "a\ud800b"  # of a surrogate pair
LONG = "x" * (3 << 20)


def session(name="a", n=8, **more):
    values = np.random.default_rng(3).normal(size=(n, 3)).astype("f4")
    made = xr.Dataset(
        {"eeg": (("time", "channel"), values)},
        {"channel": ["E0", "E1", "E2"]},
        {"session_id": name},
    )
    return made.assign(**more)


def moments(text, unit="ns", n=8):
    return ("time",), np.array([text] * n, f"datetime64[{unit}]")


def with_attributes(**attributes):
    made = session()
    made["eeg"].attrs.update(attributes)
    return made


def nested(deep):
    found = []
    for _ in range(deep):
        found = [found]
    return found


REFUSED = {
    "moments-unreadable": [
        session(when=moments("3000-01-01", "s")),
        session(when=(("time",), np.full(8, 1 << 54, "datetime64[s]"))),
        session(day=(("time",), np.full(8, 1e30), {"units": "days since 2000-01-01"})),
        session(day=(("time",), np.arange(8), {"units": "days since the flood"})),
        session(day=(("time",), np.full(8, np.nan), {"units": "days since the flood"})),
        session(value=(("time",), np.arange(8.0), {"scale_factor": "x"})),
        session().assign_coords(time=np.full(8, 1 << 54, "datetime64[s]")),
    ],
    "dtype-unsupported": [
        session(count=np.uint64(2**64 - 1)),
        session().assign_coords(channel=np.array(["2020-01-01"] * 3, "datetime64[ns]")),
        session().assign_coords(channel=np.arange(3).astype("timedelta64[s]")),
        session().assign_coords(time=list("abcdefgh")),
    ],
    "text-unusable": [
        session(note=HALF),
        session().assign_coords(channel=["E0", "E1", HALF]),
        session(note=(("time",), np.array([HALF] * 8))),
        session(note=(("time",), np.array([b"\xff\xfe"] * 8))),
    ],
    "attributes-too-large": [with_attributes(note=LONG), session(note=LONG)],
    "labels-too-many": [session().assign_coords(channel=["E0", "E1", LONG])],
    "variable-empty": [
        xr.Dataset({"eeg": (("time", "channel"), np.zeros((5, 0)))}, attrs={"session_id": "a"})
    ],
    "bad-variable": [session().rename(eeg="zarr.json")],
}
CASES = [
    pytest.param(code, one, id=f"{code}-{number}")
    for code, some in REFUSED.items()
    for number, one in enumerate(some)
]


@pytest.mark.parametrize(("code", "dataset"), CASES)
def test_what_cannot_be_said_is_refused_before_any_write(store, code, dataset):
    outcome = api.append(dataset, Stack(store))
    assert code in {f.code for f in outcome.findings}
    assert all(f.message and f.hint for f in outcome.findings)
    assert outcome.refused
    assert list(store.list()) == []
    assert not api.append(session("b"), Stack(store)).refused


def test_bytes_that_are_utf_8_are_text(store):
    note = (("time",), np.array(["é".encode()] * 8))
    assert not api.append(session(note=note), Stack(store)).findings
    assert set(Stack(store).dataset()["note"].values[0]) == {"é"}


def test_a_session_that_xarray_cannot_say_keeps_nobody_from_the_others(tmp_path):
    """It decodes the first and the last of the moments as it opens a store."""
    place = tmp_path / "s.zarr"
    api.append(session("a", when=moments("2020-01-01")), place)
    assert api.append(session("b", when=moments("3000-01-01", "s")), place).refused
    assert not api.append(session("c", when=moments("NaT")), place).refused
    found = xr.open_zarr(place)
    assert list(found["session"].values) == ["a", "c"]
    assert np.isnat(found["when"].values[1]).all()


@pytest.mark.parametrize(
    "dataset",
    [
        session(value=(("time",), np.arange(8.0), {"_FillValue": "x"})),
        session().assign_coords(day=("channel", np.arange(3.0), {"units": "days since the flood"})),
    ],
)
def test_a_store_that_xarray_could_not_open_is_not_made(store, dataset):
    for dry_run in (True, False):
        with pytest.raises(Invalid) as error:
            api.append(dataset, Stack(store), dry_run=dry_run)
        assert error.value.kind == "not-openable"
    assert list(store.list()) == []


def test_moments_in_parts_of_a_millisecond_are_told(store):
    outcome = api.append(session(when=moments("2020-01-01T00:00:00.1234")), Stack(store))
    assert [f.code for f in outcome.findings] == ["moments-rounded"]
    assert not api.append(
        session("b", when=moments("2020-01-01T00:00:00.123")), Stack(store)
    ).findings


def test_attributes_that_json_cannot_say_are_told(store):
    dataset = with_attributes(deep=nested(5000), half=HALF, rate=np.array([1, 2]), sfreq=np.nan)
    dataset.attrs["deep"] = nested(50)
    outcome = api.append(dataset, Stack(store))
    dropped = sorted(f.where for f in outcome.findings if f.code == "attribute-dropped")
    assert dropped == ["'deep'", "'eeg.deep'", "'eeg.half'", "'eeg.sfreq'"]
    assert not api.append(dataset.assign_attrs(session_id="b"), Stack(store)).refused
    found = Stack(store).dataset()["eeg"].attrs
    assert {name: list(found[name]) for name in ("rate",)} == {"rate": [1, 2]}


def test_labels_that_are_no_numbers_are_equal_to_themselves(store):
    """And the root stays JSON that others can read, too."""
    labels = {"place": ("channel", [1.0, np.nan, np.inf])}
    for name in "ab":
        assert not api.append(session(name).assign_coords(labels), Stack(store)).refused
    other = {"place": ("channel", [1.0, np.nan, -np.inf])}
    assert api.append(session("c").assign_coords(other), Stack(store)).refused

    def strange(text):
        raise AssertionError(text)

    json.loads(store.read("zarr.json"), parse_constant=strange)
    np.testing.assert_array_equal(Stack(store).dataset()["place"], [1.0, np.nan, np.inf])


@pytest.mark.parametrize("flat", [False, True])
def test_every_nan_comes_back_as_it_was_sent(tmp_path, flat):
    """There are many: 0/0 is another one than that which stands for what is absent."""
    other = np.frombuffer(b"\x00\x00\xc0\xff", "<f4")[0]
    values = np.zeros((200, 3), "f4")
    values[:128] = other
    dataset = xr.Dataset({"eeg": (("time", "channel"), values)})
    place = tmp_path / "s.zarr"
    more = {"append_dim": "time"} if flat else {"session": "a"}
    for state in ("append", "unchanged"):
        (step,) = api.append(dataset, place, chunks={"time": 64}, **more).steps
        assert step.decision == state
    assert verify(Stack(open_store(place.as_uri()))).wrong == []
    found = xr.open_zarr(place)["eeg"].values
    np.testing.assert_array_equal(found.reshape(values.shape), values)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "complex64", "complex128"])
def test_only_the_nan_that_is_absent_is_left_out(kind):
    fill = ["NaN", "NaN"] if kind.startswith("complex") else "NaN"
    meta = array(kind, ["x"], [4], [4], fill, {})
    absent = np.full(4, np.nan, kind)
    if kind.startswith("complex"):
        absent = np.full(4, complex(np.nan, np.nan), kind)
    assert encode(absent, meta, (4,)) is None
    for other in (-absent, np.where(np.arange(4) < 3, absent, 1).astype(kind)):
        data = encode(other, meta, (4,))
        assert data is not None
        assert decode(data, meta, (4,)).tobytes() == other.tobytes()


def test_a_clock_of_spans_is_in_milliseconds(store):
    spans = np.arange(8) * np.timedelta64(250_000_000, "ns")
    spans[-1] = np.timedelta64("NaT", "ns")
    outcome = api.append(session().assign_coords(time=spans), Stack(store))
    assert not outcome.refused
    found = Stack(store).dataset()["timestamp"]
    np.testing.assert_array_equal(found.values[0], [*np.arange(7) * 250.0, np.nan])
    assert "epoch" not in found.attrs


def test_what_json_cannot_say_is_told_as_text():
    assert [simple(np.array([1, 2])), simple(np.float32(0.5)), simple(b"x")] == ["[1, 2]", 0.5, "x"]


def test_samples_that_do_not_fill_records_are_refused():
    """Of a recording with gaps, each record has as many samples."""
    with pytest.raises(Invalid) as error:
        edf._times(5, 1.0, np.array([0.0, 4.0]))
    assert error.value.kind == "recording-unreadable"
    assert edf._times(4, 1.0, np.array([0.0, 4.0])).tolist() == [0, 1000, 4000, 5000]
