"""Recordings become sessions: every format, what is skipped, what is quarantined, where it goes."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import xarray as xr

import catchment.arrays
from catchment.arrays import browse, catalog, journal, read
from catchment.arrays.stack import Stack
from catchment.arrays.transform import signals, sinks
from catchment.arrays.transform.base import BaseTransform, _Local
from catchment.arrays.transform.discovery import Choice, Naming, discover
from catchment.arrays.transform.job import House, Job
from catchment.arrays.transform.model import (
    Copied,
    Recording,
    Session,
    Signal,
    TransformResult,
    Uploaded,
)
from catchment.arrays.transform.readers import read as read_file
from catchment.arrays.transform.run import run
from catchment.arrays.transform.sinks import Partitioning, below
from catchment.arrays.transform.window import WindowTransform
from catchment.arrays.transform.worker import load
from catchment.arrays.verify import verify
from catchment.core.account import Line
from catchment.core.errors import CatchmentError, Conflict, Invalid, NotFound, Unavailable
from catchment.core.ledger import Ledger
from catchment.core.passwords import kept_key
from catchment.core.provenance import read_all
from catchment.core.store import open_store
from catchment.core.store_local import LocalStore
from catchment.testing.faults import Faults, inject

sys.path.insert(0, str(Path(__file__).parent))
import recordings

pytestmark = pytest.mark.usefixtures("no_sync")


@pytest.fixture
def folder(tmp_path):
    """Where recordings are put."""
    made = tmp_path / "recordings"
    made.mkdir()
    return made


@pytest.fixture
def work(tmp_path, folder, ledger):
    """Runs a job of the folder, in threads."""
    store = open_store((tmp_path / "data").as_uri())
    with ThreadPoolExecutor(2) as executor:
        house = House(store, ledger, executor)

        def go(*, dry_run=False, house=house, **options):
            job = Job(
                "x",
                "window",
                {},
                open_store(folder.as_uri()),
                "arrays/x/",
                Naming(b"key", site="lab"),
            )
            return run(replace(job, **options), house, dry_run=dry_run)

        go.house = house
        go.output = below(store, "arrays/x")
        yield go


def stores(work):
    return list(catalog.keys(work.output))


def totals(report):
    sessions, windows = report.account.total("sessions"), report.account.total("windows")
    assert (sessions.missing, windows.missing) == (0, 0)
    return sessions.received, sessions.kept, sessions.quarantined.total(), windows.kept


def test_recordings_become_one_store_and_are_not_done_again(folder, work):
    for name in ("Ann Smith 1.h5", "b.h5", "c.h5"):
        recordings.hdf5(folder / name, seed=len(name), frames=50 + len(name))
    report = work()
    assert (report.state, report.snapshot.number) == ("published", 1)
    assert totals(report) == (3, 3, 0, 50 * 3 + 14 + 4 + 4)
    assert stores(work) == ["windows_combined.zarr"]
    found = xr.open_zarr(Path(work.output.path("windows_combined.zarr/zarr.json")).parent)
    assert found["eeg"].dims == ("session", "time", "eeg_channel", "eeg_sample")
    assert found["eeg"].attrs["sampling_rate_hz"] == 214
    assert found["eeg"].dtype == "float32"
    one = read.session(found, found["session"].values[0])
    assert one["timestamp"].values[:2] - recordings.MARCH == pytest.approx([0, 210], abs=1)
    assert one["eeg_valid"].values[1:-1].all()
    assert one["fnirs_valid"].values.all()
    everything = b"".join(
        work.house.store.read(stat.key) + stat.key.encode() for stat in work.house.store.list()
    )
    assert b"Smith" not in everything

    before = list(work.house.store.list())
    again = work()
    assert (again.state, again.sessions, again.snapshot.number) == ("unchanged", [], 1)
    assert totals(again) == totals(report)
    assert list(work.house.store.list()) == before

    recordings.hdf5(folder / "d.h5", seed=9)
    more = work()
    assert (len(more.sessions), more.snapshot.number) == (1, 2)
    assert totals(more)[:2] == (4, 4)
    data = work.house.store.read(more.snapshot.location + catalog.NAME)
    assert len(catalog.Catalog.parse(data).sessions) == 4
    assert catalog.Catalog.build(work.output).dumps() == data
    assert verify(Stack(below(work.output, "windows_combined.zarr"))).wrong == []


def test_what_cannot_join_gets_a_store_of_its_own_and_what_is_broken_is_quarantined(folder, work):
    recordings.hdf5(folder / "a.h5")
    recordings.edf(folder / "b.edf")
    recordings.edf(folder / "twice.edf", labels=("Fp1", "Fp1"))
    recordings.snirf(folder / "c.snirf")
    recordings.edf(folder / "short.edf", seconds=1, rate=10)
    (folder / "broken.xdf").write_bytes(b"XDF:\0\0")
    recordings.xdf(folder / "empty.xdf", [])
    (folder / "broken.snirf").write_bytes(b"no")
    (folder / "notes.txt").write_text("no recording")
    report = work()
    assert totals(report)[:3] == (8, 3, 5)
    assert len(stores(work)) == 3
    reasons = {f.code for f in report.findings if f.severity != "warning"}
    assert reasons == {
        "labels-repeated", "no-signal", "recording-too-short", "recording-unreadable", "files-ignored"
    }  # fmt: skip
    own = [f for f in report.findings if f.code == "own-partition"]
    assert len(own) == 2
    assert "variable-missing" in own[0].message
    assert work().state == "unchanged"
    refused = work(partitioning=Partitioning(schema=False), choice=Choice(again=True))
    assert totals(refused)[:3] == (8, 1, 7)


def test_a_recording_that_changed(folder, work):
    recordings.hdf5(folder / "a.h5", seed=1)
    work()
    recordings.hdf5(folder / "a.h5", seed=2, frames=70)
    quarantined = work()
    assert totals(quarantined)[:3] == (1, 0, 1)
    assert quarantined.findings[0].code == "session-differs"
    replaced = work(choice=Choice(reset=True))
    assert totals(replaced) == (1, 1, 0, 70)
    found = catchment.arrays.open(below(work.output, "windows_combined.zarr"))
    assert found["n_windows"].values.tolist() == [70]
    # Other channels: it moves to another store, and leaves the first one.
    recordings.hdf5(folder / "a.h5", seed=2, frames=40, labels=["a", "b", "c", "d"])
    moved = work(on_conflict="replace")
    assert totals(moved) == (1, 1, 0, 40)
    places = catalog.Catalog.build(work.output).sessions
    assert [(p.n_windows, p.slot) for p in places] == [(40, 0)]


def test_partitions_by_time_and_size(folder, work):
    for day in (1, 2, 3):
        recordings.edf(folder / f"m{day}.edf", day=date(2026, 3, day), seed=day)
    recordings.edf(folder / "april.edf", day=date(2026, 4, 1))
    recordings.snirf(folder / "undated.snirf", when=None)
    with ThreadPoolExecutor(1) as one:  # with more, a store may take a few more
        house = replace(work.house, executor=one)
        report = work(partitioning=Partitioning("month", max_sessions=2), house=house)
    assert totals(report)[:2] == (5, 5)
    assert stores(work) == [
        "windows_combined.2026-03.0002.zarr",
        "windows_combined.2026-03.zarr",
        "windows_combined.2026-04.zarr",
        "windows_combined.undated.zarr",
    ]
    assert Partitioning("year").key("w.zarr", recordings.MARCH) == "w.2026.zarr"
    assert [f.code for f in report.findings] == ["clock-unknown"]


def test_units_that_are_not_all_known_stay_as_they_are(tmp_path):
    """What is told as "%, mv" is in these."""
    import edfio

    made = [
        edfio.EdfSignal(
            np.linspace(-1, 1, 200),
            100,
            label=label,
            physical_dimension=unit,
            physical_range=(-1, 1),
        )
        for label, unit in (("Fp1", "mV"), ("SpO2", "%"))
    ]
    for count, unit, most in ((2, "%, mv", 1), (1, "uV", 1000)):
        edfio.Edf(made[:count]).write(tmp_path / "a.edf")
        eeg = read_file(str(tmp_path / "a.edf"), ".edf", {}).eeg
        assert (eeg.units, eeg.values[:, 0].max()) == (unit, pytest.approx(most))


@pytest.mark.parametrize("apart", [True, False])
def test_a_dry_run_says_where_sessions_that_differ_would_go(folder, work, apart):
    """No worker sees the sessions of the others, for none is written."""
    recordings.edf(folder / "a.edf", seed=1)
    recordings.edf(folder / "b.edf", seed=2, labels=["Fp1", "Oz"])
    recordings.edf(folder / "c.edf", seed=3)
    recordings.edf(folder / "d.edf", seed=4, labels=["Fp1", "Oz"])
    partitioning = Partitioning(schema=apart)
    planned, done = (work(dry_run=d, partitioning=partitioning) for d in (True, False))

    def facts(report):
        told = sorted(
            (s["key"], s["status"], s["reason"], s["stores"], s["windows"]) for s in report.sessions
        )
        return told, sorted((f.code, f.message) for f in report.findings), totals(report)

    assert facts(planned) == facts(done)
    slots = {s["key"][0]: s["slots"] for s in planned.sessions}
    assert slots == ({"a": [0], "b": [0], "c": [1], "d": [1]} if apart else
                     {"a": [0], "b": [], "c": [1], "d": []})  # fmt: skip


def test_which_sessions_a_run_does(folder, work):
    for name in "abcd":
        recordings.edf(folder / f"{name}.edf", seed=ord(name))
    planned = work(dry_run=True)
    assert (planned.state, len(planned.sessions), stores(work)) == ("planned", 4, [])
    assert [(s["key"], s["slots"]) for s in planned.sessions] == [
        (f"{name}.edf", [slot]) for slot, name in enumerate("abcd")
    ]
    with pytest.raises(NotFound, match="no recording has the id or key"):
        work(choice=Choice(sessions=frozenset(["a.edf", "e.edf"])))
    assert totals(planned)[:2] == (4, 4)
    first = work(choice=Choice(most=2, start=1))
    assert first.account[Line("lab", "x", "sessions")].dropped == {"not-selected": 2}
    assert [s["key"] for s in first.sessions] == ["b.edf", "c.edf"]
    one = work(choice=Choice(sessions=frozenset(["a.edf"])))
    assert [s["key"] for s in one.sessions] == ["a.edf"]
    none = Choice(since=datetime(2100, 1, 1, tzinfo=UTC))
    assert work(choice=none).account.total("sessions").dropped.total() == 4
    assert work(choice=Choice(min_size=10**9)).account.total("sessions").kept == 0
    assert work(choice=Choice(max_size=1)).account.total("sessions").kept == 0
    again = work(choice=Choice(again=True))
    assert {s["decision"] for s in again.sessions} == {"append", "unchanged"}
    assert len(again.sessions) == 4
    own = work(options={"append_to_common": False, "chunk_windows": 8}, choice=Choice(again=True))
    assert {s["stores"][0].endswith("_windowed.zarr") for s in own.sessions} == {True}


def test_a_failing_look_up_does_nothing(folder, work):
    recordings.edf(folder / "a.edf")
    work()
    before = list(work.house.store.list())
    for number in (1, 2, 3):
        faults = Faults(fail_at=number)
        house = replace(work.house, ledger=inject(work.house.ledger, faults))
        with pytest.raises(Unavailable):
            work(house=house, choice=Choice(again=True))
        assert list(work.house.store.list()) == before


def test_a_run_that_was_interrupted_goes_on(folder, work, monkeypatch):
    for name in "abc":
        recordings.edf(folder / f"{name}.edf", seed=ord(name))

    def away(*args, **options):
        raise Unavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr("catchment.arrays.transform.run.Catalog.build", away)
        with pytest.raises(Unavailable):
            work()
    done = work()
    assert (done.state, done.sessions) == ("published", [])  # it was only to be published
    assert totals(done)[:2] == (3, 3)


class Mine(BaseTransform):
    """A transform of a user's own."""

    NAME = "mine"
    OPTIONS: ClassVar = {"fail": ""}

    def process_session(self, session):
        path = Path(self.local_file(session).__enter__())
        if "skip" in session.key:
            return TransformResult("skipped", {"reason": "too-old"})
        if "bad" in session.key:
            return TransformResult("failed", {"reason": "not-mine"})
        dataset = xr.Dataset({"size": (("time",), np.arange(3.0) + len(session.key))})
        self.append_dataset_to_s3_zarr(dataset, "mine.zarr", append_dim="session")
        return TransformResult(
            files_to_copy=[Copied(session.key, "raw.edf")],
            files_to_upload=[Uploaded(str(path), "up.edf")],
            zarr_stores=["mine.zarr"],
        )


def test_a_lost_ledger_is_learnt_from_the_store(folder, work, tmp_path):
    """Before a snapshot gets a number that another one has."""
    recordings.hdf5(folder / "a.h5")
    work()
    with Ledger.open(f"sqlite:///{tmp_path}/new.db") as ledger:
        house = replace(work.house, ledger=ledger)
        again = work(house=house)
        assert (again.state, again.snapshot.number) == ("unchanged", 1)
        recordings.hdf5(folder / "b.h5", seed=2)
        assert work(house=house).snapshot.number == 2
        assert ledger.restore(read_all(work.house.store)) == 0


def test_a_ledger_of_another_store_is_told(folder, work, tmp_path):
    """Not "unchanged", where there is nothing."""
    recordings.hdf5(folder / "a.h5")
    work()
    other = replace(work.house, store=open_store((tmp_path / "elsewhere").as_uri()))
    with pytest.raises(Conflict) as caught:
        work(house=other)
    assert caught.value.kind == "ledger-of-another-store"
    assert list(other.store.list()) == []


def test_a_transform_of_ones_own(folder, work, tmp_path):
    for name in ("a", "skip", "bad"):
        recordings.edf(folder / f"{name}.edf")
    name = f"{Path(__file__)}:Mine"
    report = work(transform=name)
    sessions = report.account.total("sessions")
    assert (sessions.kept, sessions.dropped, sessions.quarantined) == (
        1, {"too-old": 1}, {"not-mine": 1}
    )  # fmt: skip
    (place,) = catalog.Catalog.build(work.output).sessions
    for file in ("raw.edf", "up.edf"):
        assert work.output.read(f"{place.session}/{file}") == (folder / "a.edf").read_bytes()
    assert load(name).identity().startswith("mine 1 ")
    for wrong in ("nothing", "no.module:X", f"{tmp_path}/none.py:X", "json:dumps"):
        with pytest.raises(Invalid) as caught:
            load(wrong)
        assert caught.value.kind == "bad-transform"
    with pytest.raises(Invalid, match="no option colour"):
        work(transform=name, options={"colour": 1})


class Elsewhere(Mine):
    """It names a store that it wrote by other means."""

    def process_session(self, session):
        result = super().process_session(session)
        return replace(result, zarr_stores=["mine.zarr", "theirs.zarr"])


def test_a_store_that_nothing_was_appended_to_is_told(folder, work):
    recordings.edf(folder / "a.edf")
    report = work(transform=f"{Path(__file__)}:Elsewhere")
    (told,) = report.findings
    assert (told.code, told.where.endswith("'theirs.zarr'")) == ("store-unknown", True)


def test_sessions_done_under_other_options_are_told(folder, work):
    for name in "ab":
        recordings.hdf5(folder / f"{name}.h5")
    work()
    assert work(options={"lowpass_hz": 40}).findings == []  # that is the default
    report = work(options={"lowpass_hz": 30})
    (told,) = report.findings
    assert (told.code, told.message[:10]) == ("options-differ", "2 sessions")
    assert report.state == "unchanged"
    again = {"lowpass_hz": 30}
    done = work(options=again, choice=Choice(reset=True))
    assert {f.code for f in done.findings} == {"own-partition"}
    assert work(options=again).findings == []
    # Back to the first options: the newest record of each session counts.
    work(choice=Choice(reset=True))
    assert work().findings == []
    assert [f.code for f in work(options=again).findings] == ["options-differ"]


def test_a_recording_that_is_broken_again_is_looked_at_once(folder, work):
    recordings.edf(folder / "a.edf")
    path = folder / "a.edf"
    good, stat = path.read_bytes(), path.stat()

    def put(data):
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    for data in (bytes(len(good)), good, bytes(len(good))):
        put(data)
        work(choice=Choice(reset=True))
    assert work().sessions == []
    assert work().account.total("sessions").quarantined.total() == 1


def test_a_folder_of_recordings_that_is_not_there_is_no_empty_one(folder, work):
    recordings.edf(folder / "a.edf")
    work()
    folder.rename(folder.parent / "unmounted")
    for dry_run in (True, False):
        with pytest.raises(NotFound) as caught:
            work(dry_run=dry_run)
        assert caught.value.kind == "no-folder"
    (folder.parent / "unmounted").rename(folder)
    assert work().state == "unchanged"


class Odd(BaseTransform):
    """Each of its recordings meets another fault of its author."""

    NAME = "odd"

    def process_session(self, session):
        metadata = {}
        match Path(session.key).stem:
            case "a":
                return None
            case "b":
                return TransformResult("done")
            case "c":
                metadata = {"x": float("nan")}
            case "d":
                metadata = {"x": np.int64(3)}
            case "e":
                return TransformResult(files_to_copy=[Copied("nothing", "x")])
            case "f":
                return TransformResult(files_to_upload=[Uploaded("/nothing/x", "x")])
            case "g":
                raise ValueError("a patient's value")
            case "h":
                raise MemoryError
        return TransformResult(metadata=metadata)


def test_faults_of_a_transform_s_author_are_told_and_end_no_run(folder, work):
    for name in "abcdefgi":
        recordings.edf(folder / f"{name}.edf")
    report = work(transform=f"{Path(__file__)}:Odd")
    sessions = report.account.total("sessions")
    assert (sessions.kept, sessions.quarantined) == (1, {"bad-result": 6, "transform-failed": 1})
    (failed,) = [f for f in report.findings if f.code == "transform-failed"]
    lines = Path(__file__).read_text().splitlines()
    line = 1 + next(n for n, text in enumerate(lines) if 'ValueError("a patient' in text)
    assert failed.message == (
        f"the transform failed with ValueError at line {line} of {Path(__file__).name}"
    )
    recordings.edf(folder / "h.edf")
    with pytest.raises(MemoryError):  # of this machine: a child's is told by its pool
        work(transform=f"{Path(__file__)}:Odd")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("no object"), "file-vanished"),
        (Invalid("no permission", kind="permission-denied"), "file-forbidden"),
    ],
)
def test_a_recording_that_cannot_be_had_is_looked_at_again(folder, work, monkeypatch, error, code):
    for name in "ab":
        recordings.edf(folder / f"{name}.edf")
    opened = LocalStore.open_file

    def away(self, key):
        if key == "b.edf":
            raise error
        return opened(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "open_file", away)
        report = work()
    sessions = report.account.total("sessions")
    assert (sessions.received, sessions.kept, sessions.dropped) == (2, 1, {code: 1})
    assert [(f.code, f.severity) for f in report.findings] == [(code, "warning")]
    again = work()
    assert again.account.total("sessions").kept == 2
    assert again.findings == []


def test_a_destination_that_may_not_be_written_is_no_fault_of_the_sessions(
    folder, work, monkeypatch
):
    recordings.edf(folder / "a.edf")
    put = LocalStore.put

    def forbidden(self, key, *args, **more):
        if "/c/" in key:
            raise Invalid("no permission", kind="permission-denied")
        return put(self, key, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put", forbidden)
        with pytest.raises(Invalid, match="no permission"):
            work()
    assert work().account.total("sessions").kept == 1


def test_a_transform_by_hand(folder, tmp_path):
    recordings.hdf5(folder / "a.h5")
    source, target = open_store(folder.as_uri()), open_store((tmp_path / "out").as_uri())
    transform = WindowTransform(source, target)
    (session,) = discover(source, "", transform.SUFFIXES, Naming(b"k", plain=True))
    assert session.id == "a.h5"
    assert transform.run_session(session).status == "success"
    found = transform.open_dataset_from_s3_zarr("windows_combined.zarr")
    assert found["session"].values.tolist() == ["a.h5"]
    bad = xr.Dataset({"x": (("time",), [np.inf])}, attrs={"session_id": "q"})
    with pytest.raises(Invalid) as caught:
        transform.append_dataset_to_s3_zarr(bad, "other.zarr")
    assert caught.value.kind == "values-infinite"
    good = bad.assign(x=("time", [1.0]))
    assert transform.save_dataset_to_s3_zarr(good, "own.zarr").endswith("out/own.zarr")
    with pytest.raises(TypeError, match="process_session"):
        BaseTransform(source, target)
    with pytest.raises(Invalid):
        transform.read_recording(replace(session, key="x.txt"))


def test_a_worker_learns_what_stands_in_a_store_once_in_a_run(tmp_path):
    store = open_store(tmp_path.as_uri())
    with journal.holding() as run, journal.holding() as another:
        first = sinks._seen.stack(run, store)
        assert sinks._seen.stack(run, store) is first
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(sinks._seen.stack, run, store).result() is not first
        assert sinks._seen.stack(another, store) is not first


def test_names_of_sessions_and_sites(tmp_path):
    store = open_store("memory://names")
    key = kept_key(store, "_private/k")
    assert (len(key), kept_key(store, "_private/k")) == (32, key)
    naming = Naming(key)
    assert naming.session("a/b") != naming.session("a-b")
    assert naming.session("a/b") == naming.session("a/b")
    assert naming.site_of("north/x.edf") == "north"
    assert naming.site_of("North Clinic/x.edf") == naming.site_of("x.edf") == "all"
    assert Naming(key, plain=True).session("Ann Smith.edf").startswith("s")


# Readers


def test_an_edf_file(tmp_path):
    path = tmp_path / "a.edf"
    recordings.edf(path, labels=("Fp1", "Status"), unit="mV")
    made = read_file(str(path), ".edf", {})
    assert (made.eeg.labels, made.eeg.units, made.eeg.rate) == (["Fp1"], "uV", 100.0)
    assert made.start == made.eeg.times[0] == recordings.MARCH
    assert np.abs(made.eeg.values).max() > 5000
    assert made.findings[0][0] == "channels-left-out"
    with pytest.raises(Invalid, match="codes"):
        read_file(str(path), ".edf", {"eeg_channels": ["none"]})


@pytest.mark.parametrize("suffix", [".edf", ".xdf", ".snirf"])
def test_a_recording_that_is_cut_off_is_none(tmp_path, suffix):
    """Readers of the field take what is there; half a recording would pass as a whole one."""
    path = tmp_path / f"a{suffix}"
    if suffix == ".edf":
        recordings.edf(path)
    elif suffix == ".snirf":
        recordings.snirf(path)
    else:
        values = recordings.noise(0, 400, 2)
        recordings.xdf(path, [("EEG", "eeg", 100, values, ["Fp1", "Fp2"])])
    data = path.read_bytes()
    whole = read_file(str(path), suffix, {})
    assert (whole.eeg or whole.fnirs) is not None
    for size in (0, 3, 5, 200, len(data) // 2, len(data) - 200, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(Invalid) as caught:
            read_file(str(path), suffix, {})
        assert caught.value.kind == "recording-unreadable", size


def test_an_edf_file_of_a_device_that_was_interrupted(tmp_path):
    path = tmp_path / "a.edf"
    recordings.edf(path)
    data = path.read_bytes()
    path.write_bytes(data[:236] + b"-1      " + data[244:])
    whole = read_file(str(path), ".edf", {})
    assert len(whole.eeg.values) == 400
    assert [code for code, *_ in whole.findings] == ["recording-unfinished"]


def test_an_xdf_file_whose_stream_nobody_ended(tmp_path):
    path = tmp_path / "a.xdf"
    recordings.xdf(path, [("EEG", "eeg", 100, recordings.noise(0, 400, 2), ["Fp1", "Fp2"])])
    data = path.read_bytes()
    assert read_file(str(path), ".xdf", {}).findings == []
    path.write_bytes(data[: data.index(b"<info><first_timestamp>") - 11])  # between two chunks
    whole = read_file(str(path), ".xdf", {})
    assert len(whole.eeg.values) == 400
    assert [code for code, *_ in whole.findings] == ["recording-unfinished"]


def test_a_snirf_file(tmp_path):
    path = tmp_path / "a.snirf"
    recordings.snirf(path)
    made = read_file(str(path), ".snirf", {})
    assert list(made.fnirs.labels) == ["S1_D1 690", "S1_D2 690"]
    assert (made.fnirs.rate, made.start, len(made.fnirs.times)) == (5.0, recordings.MARCH, 60)
    chosen = read_file(str(path), ".snirf", {"fnirs_channels": ["S1_D2 690"]})
    assert chosen.fnirs.values.shape == (60, 1)


def change(path, edit):
    import h5py

    with h5py.File(path, "r+") as file:
        edit(file)


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (lambda f: f.move("nirs", "other"), "recording-unreadable"),
        (lambda f: f["nirs"].move("data1", "data7"), "no-signal"),
        (lambda f: f["nirs/data1"].pop("measurementList2"), "recording-unreadable"),
        (lambda f: f["nirs/data1/measurementList1/wavelengthIndex"].write_direct(np.array(9)),
         "recording-unreadable"),
        (lambda f: (f["nirs/data1"].pop("time"), f["nirs/data1"].update({"time": np.zeros(60)})),
         "recording-unreadable"),
        (lambda f: (f["nirs/data1"].pop("time"), f["nirs/data1"].update({"time": np.zeros(7)})),
         "recording-unreadable"),
        (lambda f: (f["nirs/data1"].pop("dataTimeSeries"),
                    f["nirs/data1"].update({"dataTimeSeries": np.zeros(5)})), "no-signal"),
    ],
)  # fmt: skip
def test_a_broken_snirf_file(tmp_path, edit, kind):
    path = tmp_path / "a.snirf"
    recordings.snirf(path)
    change(path, edit)
    with pytest.raises(Invalid) as caught:
        read_file(str(path), ".snirf", {})
    assert caught.value.kind == kind


def test_an_xdf_file(tmp_path):
    path = tmp_path / "a.xdf"
    eeg = ("EEG", "cap", 100, recordings.noise(0, 300, 2), ["C3", "C4"])
    light = ("NIRS", "light", 5, np.abs(recordings.noise(1, 15, 1)), [])
    recordings.xdf(path, [eeg, light])
    made = read_file(str(path), ".xdf", {})
    assert (list(made.eeg.labels), made.eeg.units) == (["C3", "C4"], "uV")
    assert list(made.fnirs.labels) == ["ch01"]
    assert made.eeg.times[0] == pytest.approx(recordings.MARCH)
    recordings.xdf(path, [eeg, eeg])
    with pytest.raises(Invalid) as caught:
        read_file(str(path), ".xdf", {})
    assert caught.value.kind == "streams-ambiguous"
    recordings.xdf(path, [eeg], moment="")
    assert read_file(str(path), ".xdf", {}).findings[0][0] == "clock-unknown"
    recordings.xdf(path, [("EEG", "cap", 0.0001, recordings.noise(0, 3, 2), [])])
    assert read_file(str(path), ".xdf", {}).eeg.rate == 0.0001


def test_the_first_systems_hdf5(tmp_path):
    path = tmp_path / "a.h5"
    recordings.hdf5(path, labels=["a", "b", "c", "d"])
    made = read_file(str(path), ".h5", {"eeg_rate": 250})
    assert (made.eeg.rate, made.eeg.values.shape, list(made.eeg.labels)) == (
        250.0, (60 * 3 * 15, 4), ["a", "b", "c", "d"]
    )  # fmt: skip
    assert made.fnirs.values.shape == (60, 3)
    recordings.hdf5(path, eeg=False, fnirs=False)
    with pytest.raises(Invalid):
        read_file(str(path), ".h5", {})
    for edit in (
        lambda f: f["devices/eeg"].pop("timestamps"),
        lambda f: (
            f["devices/eeg"].pop("timestamps"),
            f["devices/eeg"].update({"timestamps": np.zeros((5, 3))}),
        ),
    ):
        recordings.hdf5(path)
        change(path, edit)
        with pytest.raises(Invalid):
            read_file(str(path), ".h5", {})


# Signals


def sine(hz, rate=100.0, seconds=20):
    times = np.arange(int(rate * seconds)) * 1000 / rate
    return Signal(np.sin(2 * np.pi * hz * times / 1000)[:, None], times, rate, ["a"], "uV")


@pytest.mark.parametrize(("hz", "gain"), [(0.05, 0.0), (10, 1.0), (49, 0.02)])
def test_the_filter_keeps_its_band_and_shifts_nothing(hz, gain):
    signal = sine(hz)
    filtered = signals.bandpass(signal)[500:-500, 0]
    assert np.abs(filtered).max() == pytest.approx(gain, abs=0.1)
    if gain == 1:
        assert np.corrcoef(filtered, signal.values[500:-500, 0])[0, 1] > 0.999


def test_gaps_and_missing_samples():
    signal = sine(10)
    values = signal.values.copy()
    values[300:310] = np.nan
    times = signal.times + np.where(np.arange(2000) >= 1000, 5000, 0)
    broken = replace(signal, values=values, times=times)
    assert signals.segments(times, 100) == [slice(0, 1000), slice(1000, 2000)]
    filtered = signals.bandpass(broken)
    assert np.flatnonzero(np.isnan(filtered[:, 0])).tolist() == list(range(300, 310))
    windows = signals.cut(filtered, times, np.array([0.0, 2950, 9900, 12000, 99_000]), 100, 210)
    assert windows.values.shape == (5, 1, 21)
    assert windows.valid.tolist() == [True, False, False, False, False]
    with pytest.raises(Invalid, match="too low"):
        signals.bandpass(sine(0.1, rate=0.9, seconds=100))
    assert np.isnan(signals.bandpass(sine(1, seconds=0.2))).all()
    assert not np.isnan(signals.bandpass(sine(1, rate=50.0))).any()  # no low-pass above Nyquist


def test_light_that_cannot_be():
    logs = signals.log_intensity(np.array([1.0, 0.0, -1.0, np.nan, np.inf, np.e]))
    assert np.isnan(logs).tolist() == [False, True, True, True, True, False]
    assert logs[[0, 5]].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("rate", [4.76, 10.0, 20.0, 1.0])
def test_windows_follow_the_frames(rate):
    jitter = recordings.noise(3, 400) * 3
    frames = Signal(np.ones((400, 1)), np.arange(400) * 1000 / rate + jitter, rate, ["a"], "1")
    chosen = signals.pace(frames, 210)
    steps = np.diff(frames.times[chosen])
    assert np.mean(steps) == pytest.approx(max(210, 1000 / rate), rel=0.06)
    assert steps.min() > 210 - 1000 / rate / 2 - 25


def test_a_recording_too_short_for_a_window(tmp_path):
    transform = WindowTransform(open_store("memory://a"), open_store("memory://b"))
    with pytest.raises(Invalid) as caught:
        transform.windows(Recording(eeg=sine(1, seconds=0.1)))
    assert caught.value.kind == "no-windows"
    with pytest.raises(CatchmentError):
        transform.windows(Recording())


def test_the_field_s_own_recordings(shared, tmp_path, ledger):
    source = open_store((shared / "data/arrays").as_uri())
    store = open_store((tmp_path / "data").as_uri())
    with ThreadPoolExecutor(2) as executor:
        job = Job("x", "window", {}, source, "arrays/x/", Naming(b"k"))
        report = run(job, House(store, ledger, executor))
        assert totals(report)[:3] == (9, 5, 4)
        assert run(job, House(store, ledger, executor)).state == "unchanged"
    reasons = {s["key"]: s["reason"] for s in report.sessions}
    assert reasons["mne_duplicate_channel_labels.edf"] == "labels-repeated"
    assert reasons["empty_streams.xdf"] == reasons["minimum_example.snirf"] == "no-signal"
    assert json.dumps(report.sessions)
    folder = below(store, "arrays/x")
    for key in catalog.keys(folder):
        assert xr.open_zarr(folder.path(f"{key}/zarr.json").parent).sizes["session"] == 1


def test_sessions_are_what_was_found():
    session = Session("s", "k", "lab", 5, "e", datetime.now(UTC))
    assert session.version == "5-e"


class Long(BaseTransform):
    """One long recording along time, of all sessions."""

    NAME = "long"
    OPTIONS: ClassVar = {"store": "long.zarr"}

    def process_session(self, session):
        values = np.arange(4.0) + len(session.key)
        dataset = xr.Dataset({"v": (("time",), values)})
        if "bad" in session.key:
            dataset = dataset + np.inf
        self.append_dataset_to_s3_zarr(dataset, self.options["store"], append_dim="time")
        return TransformResult(zarr_stores=[self.options["store"]])


def test_a_transform_along_positions(folder, work, tmp_path):
    for name in ("a", "b", "bad"):
        recordings.edf(folder / f"{name}.edf")
    name = f"{Path(__file__)}:Long"
    planned = work(transform=name, dry_run=True)
    assert (planned.state, stores(work)) == ("planned", [])
    report = work(transform=name)
    assert totals(report) == (3, 2, 1, 8)
    assert {f.code for f in report.findings} == {"values-infinite"}
    found = catchment.arrays.open(below(work.output, "long.zarr"))
    assert found.sizes["time"] == 8
    assert work(transform=name).state == "unchanged"
    places = catalog.Catalog.build(work.output)
    assert [(p.slot, p.n_windows) for p in places.sessions] == [(0, 4), (4, 4)]
    assert (places.stores[0].windows, places.stores[0].fingerprint) == (8, "")
    assert verify(Stack(below(work.output, "long.zarr"))).wrong == []
    assert [p["windows"] for p in browse.partitions(work.output)] == [8]
    told = browse.sessions(work.output, "long.zarr")
    assert [(s["slot"], s["n_windows"]) for s in told["sessions"]] == [(0, 4), (4, 4)]
    one = browse.session(work.output, "long.zarr", told["sessions"][1]["session"])
    assert one["signals"][0]["shape"] == [4]
    again = work(transform=name, choice=Choice(again=True))
    assert {s["decision"] for s in again.sessions if s["status"] == "kept"} == {"unchanged"}
    # By windows now: what stands along time stays there.
    moved = work(choice=Choice(again=True))
    assert stores(work) == ["long.zarr", "windows_combined.zarr"]
    assert moved.account.total("sessions").kept == 3
    # In another store along time: then they are no longer in the former one.
    work(transform=name, options={"store": "other.zarr"}, choice=Choice(again=True))
    sizes = [catchment.arrays.open(below(work.output, f"{s}.zarr")).sizes["time"]
             for s in ("long", "other")]  # fmt: skip
    assert sizes == [0, 8]
    transform = load(name)(open_store(folder.as_uri()), open_store((tmp_path / "out").as_uri()))
    dataset = xr.Dataset({"v": (("time",), np.ones(3))}, attrs={"session_id": "q"})
    transform.append_dataset_to_s3_zarr(dataset, "hand.zarr", append_dim="time")
    assert xr.open_zarr(tmp_path / "out/hand.zarr").sizes["time"] == 3


def edf_with_a_gap(path, *, gap=100.0, kind=b"EDF+D"):
    """Ten records of a second each; the sixth and those behind it come later."""
    import edfio

    signal = edfio.EdfSignal(
        recordings.noise(1, 1000) * 20, 100, label="Fp1", physical_dimension="uV",
        physical_range=(-200, 200),
    )  # fmt: skip
    day = edfio.Recording(startdate=date(2026, 3, 1))
    notes = [edfio.EdfAnnotation(1.0, None, "x")]
    edfio.Edf([signal], recording=day, annotations=notes).write(path)
    data = bytearray(path.read_bytes())
    data[192:197] = kind
    signals, head = int(data[252:256]), int(data[184:192])
    sizes = [2 * int(data[256 + 216 * signals + 8 * n :][:8]) for n in range(signals)]
    for number in range(5, 10):
        at = head + number * sum(sizes) + sizes[0]
        told = b"+%g\x14\x14\0" % (number + gap)
        data[at : at + sizes[1]] = told.ljust(sizes[1], b"\0")
    path.write_bytes(data)


def test_an_edf_file_with_gaps_tells_when_each_record_began(folder, work):
    edf_with_a_gap(folder / "a.edf")
    report = work()
    assert totals(report)[:2] == (1, 1)
    found = xr.open_zarr(Path(work.output.path("windows_combined.zarr/zarr.json")).parent)
    clock = found["timestamp"].values[0]
    first = np.arange(23) * 210.0  # whole windows of five seconds
    np.testing.assert_allclose(clock - clock[0], [*first, *(first + 105_000)], atol=1e-3)
    assert found["eeg_valid"].values.all()
    assert np.isfinite(found["eeg"].values).all()


@pytest.mark.parametrize(
    ("gap", "kind", "reason"),
    [(-3.0, b"EDF+D", "not in order"), (float("nan"), b"EDF+D", "does not tell when")],
)
def test_an_edf_file_whose_records_have_no_order_is_quarantined(tmp_path, gap, kind, reason):
    edf_with_a_gap(tmp_path / "a.edf", gap=gap, kind=kind)
    with pytest.raises(Invalid, match=reason) as error:
        read_file(str(tmp_path / "a.edf"), ".edf", {})
    assert error.value.kind == "recording-unreadable"


def test_an_edf_file_with_gaps_that_tells_none_is_quarantined(tmp_path):
    path = tmp_path / "a.edf"
    recordings.edf(path)
    data = bytearray(path.read_bytes())
    data[192:197] = b"EDF+D"
    path.write_bytes(data)
    with pytest.raises(Invalid, match="does not tell where"):
        read_file(str(path), ".edf", {})


def test_channels_are_chosen_and_put_in_order_whatever_the_format(tmp_path):
    recordings.edf(tmp_path / "a.edf", labels=("A", "B", "C"))
    streams = [
        ("EEG", "e", 100.0, recordings.noise(1, 400, 3), ["A", "B", "C"]),
        ("NIRS", "f", 5.0, recordings.noise(1, 20, 2), ["X", "Y"]),
    ]
    recordings.xdf(tmp_path / "a.xdf", streams)
    recordings.hdf5(tmp_path / "a.h5", labels=["A", "B", "C", "D"])
    options = {"eeg_channels": ["C", "A"], "fnirs_channels": ["Y", "ch02"]}
    for suffix in (".edf", ".xdf", ".h5"):
        path = str(tmp_path / f"a{suffix}")
        plain, made = read_file(path, suffix, {}), read_file(path, suffix, options)
        assert made.eeg.labels == ["C", "A"]
        np.testing.assert_array_equal(made.eeg.values, plain.eeg.values[:, [2, 0]])
        if plain.fnirs is not None:
            assert made.fnirs.labels == [{".xdf": "Y", ".h5": "ch02"}[suffix]]
        with pytest.raises(Invalid) as error:
            read_file(path, suffix, {"eeg_channels": ["nobody"]})
        assert error.value.kind == "no-signal"


def test_what_a_snirf_file_has_beside_the_first_block_is_told(tmp_path):
    import h5py

    path = tmp_path / "a.snirf"
    recordings.snirf(path)
    assert read_file(str(path), ".snirf", {}).findings == []
    with h5py.File(path, "a") as file:
        file.copy(file["nirs/data1"], file["nirs"], "data2")
        file.copy(file["nirs"], file, "nirs2")
    (told,) = read_file(str(path), ".snirf", {}).findings
    assert told[0] == "blocks-left-out"
    assert "2 more" in told[2]
    with pytest.raises(Invalid) as error:
        read_file(str(path), ".snirf", {"fnirs_channels": ["nobody"]})
    assert error.value.kind == "no-signal"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window_ms", 0),
        ("window_ms", "x"),
        ("window_ms", float("inf")),
        ("highpass_hz", 0),
        ("lowpass_hz", 0.1),
        ("eeg_rate", -1),
        ("chunk_windows", 0),
        ("eeg_channels", "Fp1"),
        ("fnirs_channels", []),
        ("common_store_name", "a/b"),
        ("common_store_name", ".."),
        ("common_store_name", ""),
    ],
)
def test_bad_options_are_told_before_a_session_is_done(folder, work, name, value):
    recordings.edf(folder / "a.edf")
    for dry_run in (True, False):
        with pytest.raises(Invalid) as error:
            work(options={name: value}, dry_run=dry_run)
        assert error.value.kind in {"bad-transform-option", "bad-store-key"}
    assert work().account.total("sessions").kept == 1


class Deep(BaseTransform):
    """Stores in a folder of their own."""

    NAME = "deep"
    DEST_PREFIX = "out/deeper/"
    OPTIONS: ClassVar = {"key": "s.zarr"}

    def process_session(self, session):
        dataset = xr.Dataset({"v": (("time",), np.arange(4.0))}, attrs={"session_id": session.id})
        self.append_dataset_to_s3_zarr(dataset, f"{self.DEST_PREFIX}{self.options['key']}")
        return TransformResult()


def test_stores_below_a_prefix_are_in_the_catalog(folder, work):
    recordings.edf(folder / "a.edf")
    name = f"{Path(__file__)}:Deep"
    work(transform=name)
    assert stores(work) == ["out/deeper/s.zarr"]
    assert len(catalog.Catalog.build(work.output).sessions) == 1
    work.output.put(catalog.NAME, b"{}", mode="overwrite")  # rebuilt from what is known
    assert stores(work) == []
    recordings.edf(folder / "b.edf", seed=2)
    work(transform=name)
    assert stores(work) == ["out/deeper/s.zarr"]
    assert len(catalog.Catalog.build(work.output).sessions) == 2
    assert catchment.arrays.open(work.output).sizes["session"] == 2


@pytest.mark.parametrize("key", ["../../evil.zarr", "s", ".zarr", "a//s.zarr", "a b.zarr"])
def test_a_store_is_nowhere_but_below_the_destination(folder, work, key, tmp_path):
    recordings.edf(folder / "a.edf")
    report = work(transform=f"{Path(__file__)}:Deep", options={"key": key})
    assert {f.code for f in report.findings} == {"bad-store-key"}
    assert totals(report)[:3] == (1, 0, 1)
    assert not list(tmp_path.rglob("*.zarr"))
    with pytest.raises(Invalid) as error:
        sinks.DirectSink(work.output, "x").append(sinks.Piece(xr.Dataset(), key))
    assert error.value.kind == "bad-store-key"


def test_two_recordings_of_one_name_are_told_apart(folder, work):
    """``a/b`` and ``a-b`` are the same name, once slashes are dashes."""
    (folder / "a").mkdir()
    recordings.edf(folder / "a/b.edf", seed=1)
    recordings.edf(folder / "a-b.edf", seed=2)
    naming = Naming(b"key", plain=True, site="lab")
    for state in ("published", "unchanged"):
        report = work(naming=naming)
        assert report.state == state
        assert totals(report)[:3] == (2, 1, 1)
        (told,) = report.findings
        assert (told.code, told.site, told.where) == ("session-repeated", "a", "a-b.edf")


def test_a_start_in_no_year_is_undated():
    for start in (float("nan"), 1e300, -1e17):
        assert Partitioning("month").key("s.zarr", start) == "s.undated.zarr"


def test_what_else_keeps_a_recording_away_is_told_as_it_was(folder, work, monkeypatch):
    recordings.edf(folder / "a.edf")
    opened, error = LocalStore.open_file, [Invalid("a link", kind="not-a-file")]

    def away(self, key):
        if key == "a.edf":
            raise error[0]
        return opened(self, key)

    monkeypatch.setattr(LocalStore, "open_file", away)
    (finding,) = work().findings
    assert finding.code == "not-a-file"
    error[0] = Unavailable("no answer")
    recordings.edf(folder / "a.edf", seconds=30)
    with pytest.raises(Unavailable, match="no answer"):  # of the store: the run is made again
        work()


def test_what_a_failed_commit_left_is_done_again(folder, work, monkeypatch):
    recordings.edf(folder / "a.edf")

    def away(*_):
        raise Unavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Stack, "commit", away)
        with pytest.raises(Unavailable, match="no answer"):
            work()
    assert work().account.total("sessions").kept == 1
    assert len(catalog.Catalog.build(work.output).sessions) == 1


def test_a_recording_in_a_bucket_is_a_local_file_while_it_is_read():
    store = open_store("memory://recordings")
    store.put("a/b.edf", b"0       ")
    with _Local(store, "a/b.edf", ".edf") as path:
        assert (path.read_bytes(), path.suffix) == (b"0       ", ".edf")
    assert not path.exists()
