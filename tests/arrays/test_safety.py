"""What recordings and datasets can do to a store: nothing, but for a finding that says what."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from catchment.arrays import api, catalog
from catchment.arrays.stack import Stack
from catchment.arrays.transform.discovery import Choice, Naming
from catchment.arrays.transform.job import House, Job
from catchment.arrays.transform.run import run
from catchment.arrays.transform.sinks import below
from catchment.core.errors import Unavailable
from catchment.core.executor import open_executor
from catchment.core.store import open_store
from catchment.testing.arrays import make_session
from catchment.testing.faults import Faults, inject
from tests.arrays import recordings

pytestmark = pytest.mark.usefixtures("no_sync")


def cut(path, share):
    """What an upload that broke off leaves."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def snirf_scalar(path):
    import h5py

    recordings.snirf(path)
    with h5py.File(path, "r+") as file:
        del file["nirs/data1/dataTimeSeries"]
        file["nirs/data1/dataTimeSeries"] = 1.5


def hdf5_huge(path):
    import h5py

    recordings.hdf5(path)
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = "x" * 60_000
        del file["devices/eeg/frames_data"]
        # It says 8 TB, and has nothing.
        file.create_dataset("devices/eeg/frames_data", (1 << 31, 4, 250), "f4", chunks=(1, 4, 250))


EEG = ("EEG", "cap", 100, recordings.noise(0, 300, 2), ["C3", "C4"])
BROKEN = {
    "garbage.edf": lambda p: p.write_bytes(b"\x00garbage" * 400),
    "empty.edf": lambda p: p.write_bytes(b""),
    "cut-in-header.edf": lambda p: (recordings.edf(p), cut(p, 0.01)),
    "duplicate-labels.edf": lambda p: recordings.edf(p, labels=("A", "A")),
    "nothing-but-codes.edf": lambda p: recordings.edf(p, labels=("Status",)),
    "too-short.edf": lambda p: recordings.edf(p, seconds=1, rate=4),
    "garbage.bdf": lambda p: p.write_bytes(b"\xffBIOSEMI" + b"?" * 5000),
    "garbage.snirf": lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + b"?" * 5000),
    "scalar-series.snirf": snirf_scalar,
    "no-samples.snirf": lambda p: recordings.snirf(p, samples=0),
    "cut.snirf": lambda p: (recordings.snirf(p), cut(p, 0.5)),
    "empty-streams.xdf": lambda p: recordings.xdf(
        p, [("EEG", "cap", 100, np.zeros((0, 2)), ["a", "b"])]
    ),
    "no-streams.xdf": lambda p: recordings.xdf(p, []),
    "duplicate-labels.xdf": lambda p: recordings.xdf(
        p, [("EEG", "cap", 100, recordings.noise(0, 300, 2), ["C3", "C3"])]
    ),
    "two-of-a-kind.xdf": lambda p: recordings.xdf(p, [EEG, EEG]),
    "infinite.xdf": lambda p: recordings.xdf(
        p, [("EEG", "cap", 100, np.full((300, 2), np.nan), ["a", "b"])]
    ),
    "garbage.xdf": lambda p: p.write_bytes(b"XDF:" + bytes(range(256)) * 9),
    "garbage.h5": lambda p: p.write_bytes(b"no file of HDF5"),
    "huge.h5": hdf5_huge,
    "no-devices.h5": lambda p: recordings.hdf5(p, eeg=False, fnirs=False),
}


def test_broken_recordings_are_quarantined_before_any_write(tmp_path, ledger):
    """One by one in processes under limits, as a run does; the sound one is kept."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, make in BROKEN.items():
        make(folder / name)
    recordings.edf(folder / "sound.edf")
    store = open_store((tmp_path / "data").as_uri())
    job = Job("x", "window", {}, open_store(folder.as_uri()), "arrays/x/", Naming(b"k"))
    with open_executor("processes", 1) as executor:  # to start one takes longer than all files
        report = run(job, House(store, ledger, executor))
        again = run(job, House(store, ledger, executor))
    told = {s["key"]: s for s in report.sessions}
    assert {key for key, s in told.items() if s["status"] == "kept"} == {"sound.edf"}
    assert {key for key, s in told.items() if s["status"] == "quarantined"} == BROKEN.keys()
    for key in BROKEN:
        assert told[key]["reason"], key
        findings = [f for f in report.findings if told[key]["session"] in f.where]
        assert any(f.severity == "error" and f.message for f in findings), key
        assert not any("Traceback" in f.message for f in findings)
    reasons = {key: s["reason"] for key, s in told.items()}
    assert reasons["duplicate-labels.edf"] == reasons["duplicate-labels.xdf"] == "labels-repeated"
    assert reasons["empty-streams.xdf"] == reasons["scalar-series.snirf"] == "no-signal"
    assert reasons["two-of-a-kind.xdf"] == "streams-ambiguous"
    sessions = report.account.total("sessions")
    assert (sessions.received, sessions.kept, sessions.missing) == (len(BROKEN) + 1, 1, 0)
    places = catalog.Catalog.build(below(store, "arrays/x")).sessions
    assert [p.session for p in places] == [told["sound.edf"]["session"]]
    assert (again.state, again.sessions) == ("unchanged", [])


def test_huge_attributes_missing_values_and_odd_ids_leave_no_trace(store):
    api.append(make_session("a"), Stack(store))
    before = list(store.list())
    bad = make_session("b")
    cases = {
        "attributes-too-large": bad.assign_attrs(note="x" * 70_000),
        "values-missing-all": bad.assign(eeg=bad["eeg"] * np.nan),
        "values-infinite": bad.assign(eeg=bad["eeg"] + np.inf),
        "no-windows": bad.isel(time=slice(0)),
        "session-repeated": xr.concat(
            [bad.drop_vars("time").expand_dims(session=["b"])] * 2, dim="session"
        ),
        "labels-repeated": bad.assign_coords(channel=["E0", "E0", "E2"]),
        "labels-differ": bad.isel(channel=[0, 2, 1]),
        "sampling-differs": bad.assign(eeg=bad["eeg"].assign_attrs(sampling_rate_hz=1.0)),
        "dtype-differs": bad.assign(eeg=bad["eeg"].astype("f8")),
        "units-differ": bad.assign(eeg=bad["eeg"].assign_attrs(units="V")),
        "bad-session": bad.assign_attrs(session_id="../../etc\n"),
    }
    for code, dataset in cases.items():
        outcome = api.append(dataset, Stack(store))
        assert code in {f.code for f in outcome.findings}
        assert all(f.message and f.hint for f in outcome.findings if f.code == code), code
        assert list(store.list()) == before


def test_a_failing_look_up_never_does_everything_again(tmp_path, ledger):
    """Of the ledger, of the recordings, of the stores: whichever request fails, nothing is redone."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        recordings.edf(folder / f"{name}.edf", seed=ord(name))
    store = open_store((tmp_path / "data").as_uri())
    source = open_store(folder.as_uri())
    job = Job("x", "window", {}, source, "arrays/x/", Naming(b"k"))
    with ThreadPoolExecutor(2) as executor:
        house = House(store, ledger, executor)
        assert run(job, house).account.total("sessions").kept == 3
        before = list(store.list())
        for number in (1, 2, 3, 4):
            for other in (
                (job, replace(house, ledger=inject(ledger, Faults(fail_at=number)))),
                (replace(job, source=inject(source, Faults(fail_at=number))), house),
                (
                    replace(job, choice=Choice(again=True)),
                    replace(house, ledger=inject(ledger, Faults(fail_at=number))),
                ),
            ):
                try:
                    report = run(*other)
                except Unavailable:
                    pass
                else:
                    assert report.state == "unchanged" or not report.sessions
                assert list(store.list()) == before
