"""Sessions as training wants them: across partitions, window by window, and exported flat."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr

import catchment.arrays
from catchment.arrays import api, read
from catchment.arrays.stack import Stack, withdraw
from catchment.core.errors import CatchmentError, Conflict, Invalid, NotFound
from catchment.core.store import open_store
from catchment.testing.arrays import make_session, same
from catchment.testing.faults import every_fault, inject

pytestmark = pytest.mark.usefixtures("no_sync")


def ready(name, windows, **options):
    """A session with a flag that says which windows are whole."""
    made = make_session(name, windows=windows, samples=4, **options)
    good = np.arange(windows) % 3 > 0
    return made.assign(
        eeg_valid=("time", good), note=("time", np.array([f"{name}{i}" for i in range(windows)]))
    )


SESSIONS = {name: ready(name, n) for name, n in (("a", 20), ("b", 75), ("c", 3), ("d", 40))}


@pytest.fixture
def folder(tmp_path):
    """Two partitions of one schema, with other chunks and other lengths, and tombstones."""
    made = tmp_path / "parts"
    for key, names, chunks in (
        ("w.2026-03.zarr", "ab", {"time": 8}),
        ("w.2026-04.zarr", "xcd", None),
    ):
        stack = Stack(open_store((made / key).as_uri()))
        for name in names:
            dataset = SESSIONS.get(name, ready("x", 9))
            assert not api.append(dataset, stack, chunks=chunks, site=f"site-{name}").refused
        if "x" in names:
            withdraw(stack, "x")
    return made


def test_partitions_stand_behind_each_other(folder):
    found = catchment.arrays.open(folder)
    assert found["session"].values.tolist() == ["a", "b", "c", "d"]
    assert dict(found.sizes)["time"] == 75
    assert found["n_windows"].values.tolist() == [20, 75, 3, 40]
    for name, dataset in SESSIONS.items():
        assert same(read.session(found, name), dataset)
    assert np.isnan(found["eeg"].isel(session=2, time=slice(3, None))).all()
    model = found[["eeg", "note"]].copy(deep=True).load()
    model["eeg"][...], model["note"][...] = np.nan, ""
    for number, dataset in enumerate(SESSIONS.values()):
        model["eeg"][number, : dataset.sizes["time"]] = dataset["eeg"].values
        model["note"][number, : dataset.sizes["time"]] = dataset["note"].values
    random = np.random.default_rng(0)
    for number in range(60):
        keys = {
            dim: [
                int(random.integers(size)),
                slice(*sorted(random.integers(0, size + 1, 2).tolist())),
                slice(None, None, -1),
                random.integers(0, size, 3),
            ][random.integers(4)]
            for dim, size in found["eeg"].sizes.items()
            if number % 4 or dim == "session"
        }
        assert np.array_equal(
            found["eeg"].isel(keys).values, model["eeg"].isel(keys).values, equal_nan=True
        )
    assert (found["note"].values == model["note"].values).all()
    assert found["eeg"].chunk(session=1).mean().compute() == pytest.approx(
        float(model["eeg"].mean())
    )
    assert pickle.loads(pickle.dumps(found))["eeg"].shape == found["eeg"].shape


def test_partitions_of_several_schemas(folder):
    other = Stack(open_store((folder / "w.other.zarr").as_uri()))
    api.append(make_session("q", samples=4), other)
    with pytest.raises(Invalid) as caught:
        catchment.arrays.open(folder)
    assert (caught.value.kind, "w.other.zarr" in caught.value.message) == ("several-schemas", True)
    schema = other.published().schema.fingerprint
    assert catchment.arrays.open(folder, schema=schema)["session"].values.tolist() == ["q"]
    with pytest.raises(Invalid, match="no store has"):
        catchment.arrays.windows(folder, schema="0")
    assert len(catchment.arrays.windows(other)) == 20
    with pytest.raises(NotFound) as caught:
        catchment.arrays.open(folder.parent / "none")
    assert caught.value.kind == "no-store"


def test_windows_by_number(folder):
    windows = catchment.arrays.windows(folder)
    assert len(windows) == 138
    assert windows.variables == ["eeg", "eeg_valid", "fnirs", "note", "timestamp"]
    assert windows.sessions == ["a", "b", "c", "d"]
    for number, one in enumerate(windows):
        which, position = windows.index[number]
        name = windows.sessions[which]
        assert (one["session"], one["site"], one["window"]) == (name, f"site-{name}", position)
        expected = SESSIONS[name].isel(time=position)
        assert np.array_equal(one["eeg"], expected["eeg"].values)
        assert (one["note"], one["eeg_valid"]) == (f"{name}{position}", bool(position % 3))
        assert windows.number(name, position) == number
    assert windows[-1]["session"] == "d"
    with pytest.raises(IndexError):
        windows[138]
    with pytest.raises(NotFound):
        windows.number("a", 20)
    copy = pickle.loads(pickle.dumps(windows))
    several = copy.__getitems__([137, 0, 30, 0])
    assert [(one["session"], one["window"]) for one in several] == [
        ("d", 39),
        ("a", 0),
        ("b", 10),
        ("a", 0),
    ]
    order = windows.order(1)
    assert sorted(order) == list(range(138))
    assert order.tolist() != sorted(order)
    assert (windows.order(1) == order).all()


def test_windows_that_are_chosen(folder, monkeypatch):
    windows = catchment.arrays.windows(folder, variables=["fnirs"], sessions=["b", "d"], valid=True)
    assert len(windows) == 50 + 26
    assert set(windows[0]) == {"session", "site", "window", "fnirs"}
    assert [windows[i]["window"] for i in range(4)] == [1, 2, 4, 5]
    monkeypatch.setattr("catchment.arrays.training.CACHED", 100)
    for number in windows.order(5):
        which, position = windows.index[number]
        expected = SESSIONS[windows.sessions[which]]["fnirs"][position].values
        assert np.array_equal(windows[number]["fnirs"], expected)
    for wrong in ({"variables": ["x"]}, {"sessions": ["nobody"]}):
        with pytest.raises(NotFound):
            catchment.arrays.windows(folder, **wrong)
    assert len(catchment.arrays.windows(folder, sessions=[])) == 0
    assert len(catchment.arrays.windows(folder, sessions=[]).order(0)) == 0


def test_no_torch_is_needed(folder):
    import sys

    assert "torch" not in sys.modules
    # What a loader does: workers get a copy, ask for a batch, and stack it.
    windows = pickle.loads(pickle.dumps(catchment.arrays.windows(folder, variables=["eeg"])))
    batch = windows.__getitems__(list(range(16)))
    assert np.stack([one["eeg"] for one in batch]).shape == (16, 3, 4)


def flat(name):
    return np.concatenate([d[name].values for d in SESSIONS.values()])


FORMS = ["zarr", "npy", "parquet"]


def exported(target, form):
    """Index and arrays of an export, read as its users would."""
    if form == "zarr":
        found = xr.open_zarr(target)
        rows = list(
            zip(*(found[n].values.tolist() for n in ("session", "site", "position")), strict=True)
        )
        return rows, found
    if form == "npy":
        index = pq.read_table(target / "index.parquet")
        arrays = {path.stem: np.load(path, mmap_mode="r") for path in target.glob("*.npy")}
    else:
        index = pq.read_table(target / "windows.parquet")
        arrays = {}
    for name in index.column_names[3:]:
        field = index.schema.field(name)
        values = index.column(name).combine_chunks()
        if field.metadata and b"shape" in field.metadata:
            shape = json.loads(field.metadata[b"shape"])
            arrays[name] = np.asarray(values.flatten()).reshape(-1, *shape)
        else:
            arrays[name] = np.asarray(values.to_pylist())
    rows = list(
        zip(*(index.column(n).to_pylist() for n in ("session", "site", "position")), strict=True)
    )
    return rows, arrays


@pytest.mark.parametrize("form", FORMS)
def test_windows_behind_each_other(folder, tmp_path, form, monkeypatch):
    monkeypatch.setattr("catchment.arrays.export_files.TARGET", 1000)
    monkeypatch.setattr("catchment.arrays.export_files.BLOCK", 2000)
    target = tmp_path / "flat"
    planned = catchment.arrays.export(folder, target, form=form, dry_run=True)
    assert (planned.state, planned.windows, target.exists()) == ("planned", 138, False)
    made = catchment.arrays.export(folder, target, form=form)
    assert (made.state, made.windows) == ("exported", 138)
    total = made.account.total("windows")
    assert (total.received, total.kept, total.missing) == (138, 138, 0)
    rows, arrays = exported(target, form)
    assert rows == [
        (n, f"site-{n}", p) for n, d in SESSIONS.items() for p in range(d.sizes["time"])
    ]
    for name in ("eeg", "fnirs", "eeg_valid", "note"):
        assert np.array_equal(np.asarray(arrays[name]), flat(name))
    told = json.loads((target / "export.json").read_text())
    assert [s["first"] for s in told["sessions"]] == [0, 20, 95, 98]
    assert told["labels"]["channel"] == ["E0", "E1", "E2"]
    assert told["attributes"]["eeg"]["units"] == "uV"
    assert not (target / "export-begun.json").exists()
    before = sorted((p, p.stat().st_mtime_ns) for p in target.rglob("*"))
    assert catchment.arrays.export(folder, target, form=form).state == "unchanged"
    assert sorted((p, p.stat().st_mtime_ns) for p in target.rglob("*")) == before
    with pytest.raises(Conflict) as caught:
        catchment.arrays.export(folder, target, form=form, valid=True)
    assert caught.value.kind == "export-exists"
    valid = catchment.arrays.export(
        folder, tmp_path / "v", form=form, valid=True, sessions=["b"], variables=["eeg", "note"]
    )
    lost = valid.account.total("windows")
    assert (lost.kept, dict(lost.dropped)) == (50, {"not-selected": 63, "not-valid": 25})
    assert valid.account.total("sessions").dropped.total() == 3
    rows, arrays = exported(tmp_path / "v", form)
    assert [position for _, _, position in rows] == [p for p in range(75) if p % 3]
    assert np.array_equal(
        np.asarray(arrays["eeg"]), SESSIONS["b"]["eeg"].values[np.arange(75) % 3 > 0]
    )


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_whole_or_not_there(folder, tmp_path, form):
    windows = catchment.arrays.windows(folder, sessions=["a", "c"], variables=["eeg"])
    from catchment.arrays.exporting import export

    for number, faults in enumerate(every_fault()):
        target = tmp_path / f"{number}"
        store = open_store(target.as_uri())
        try:
            export(windows, inject(store, faults), form)
        except CatchmentError:
            assert faults.fired
        assert export(windows, store, form).state in ("exported", "unchanged")
        assert np.array_equal(
            np.asarray(exported(target, form)[1]["eeg"]), flat("eeg")[np.r_[0:20, 95:98]]
        )


def test_other_ragged_dimensions_and_moments(tmp_path):
    def session(name, slow, fast):
        at = np.datetime64("2026-01-01", "ms") + np.arange(slow)
        return xr.Dataset(
            {"a": (("time", "sample"), np.ones((slow, fast))), "at": (("time",), at)},
            attrs={"session_id": name},
        )

    for name, slow, fast in (("x", 3, 9), ("y", 5, 4)):
        catchment.arrays.append(
            session(name, slow, fast), tmp_path / "s.zarr", ragged=("time", "sample")
        )
    for form in FORMS:
        catchment.arrays.export(tmp_path / "s.zarr", tmp_path / form, form=form)
        _, arrays = exported(tmp_path / form, form)
        values = np.asarray(arrays["a"])
        assert values.shape == (8, 9)
        assert np.isnan(values[3:, 4:]).all()
        assert np.nansum(values) == 3 * 9 + 5 * 4
        at = np.asarray(arrays["at"]).astype("datetime64[ms]").astype("int64")
        assert at[0] == np.datetime64("2026-01-01", "ms").astype("int64")


def test_what_cannot_be_exported(folder, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(Conflict) as caught:
        catchment.arrays.export(folder, tmp_path / "full")
    assert caught.value.kind == "not-empty"
    with pytest.raises(Invalid) as caught:
        catchment.arrays.export(folder, tmp_path / "new", form="csv")
    assert caught.value.kind == "bad-form"
    odd = make_session("a").assign(position=("time", np.arange(20.0)))
    catchment.arrays.append(odd, tmp_path / "odd.zarr")
    with pytest.raises(Invalid) as caught:
        catchment.arrays.export(tmp_path / "odd.zarr", tmp_path / "new")
    assert caught.value.kind == "reserved-variable"
    empty = catchment.arrays.export(folder, tmp_path / "none", sessions=[])
    assert empty.windows == 0
    assert xr.open_zarr(tmp_path / "none").sizes["window"] == 0
