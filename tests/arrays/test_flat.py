"""Along positions, and in stores that plain xarray made, of both formats."""

from __future__ import annotations

import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

import catchment.arrays
from catchment.arrays import api, journal, layout
from catchment.arrays.flat import Flat
from catchment.arrays.flat_log import FlatLog
from catchment.arrays.foreign import Group
from catchment.arrays.model import Decision, Row
from catchment.arrays.stack import Stack
from catchment.arrays.verify import verify
from catchment.core.errors import CatchmentError, Conflict, Corrupt, Invalid, NotFound
from catchment.core.store import open_store
from catchment.testing.arrays import make_session
from catchment.testing.faults import every_fault, inject

# What xarray says of stores without consolidated metadata, and of the formats.
pytestmark = [pytest.mark.usefixtures("no_sync"), pytest.mark.filterwarnings("ignore")]


def stretch(start, count, name=None):
    """Positions of one long recording."""
    values = np.random.default_rng(start).standard_normal((count, 2)).astype("float32")
    made = xr.Dataset(
        {
            "eeg": (("time", "channel"), values, {"units": "uV"}),
            "mark": (("time",), np.array([f"m{i}" * (i + 1) for i in range(count)])),
        },
        coords={
            "time": np.datetime64("2026-01-01T00:00:00.0005", "us")
            + (start + np.arange(count)) * 1500,
            "channel": ["a", "b"],
        },
    )
    return made.assign_attrs(session_id=name) if name else made


def bare(start, count):
    """One variable only, as plain xarray can append it."""
    return stretch(start, count)[["eeg"]].drop_vars("channel")


def plain(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*consolidated", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message=".*_catchment", category=UserWarning)
        return xr.open_zarr(store.path("_catchment/log/0000000001.json").parents[2], chunks=None)


def put(store, dataset, dim="time", **options):
    outcome = api.append(
        dataset, store if isinstance(store, Stack) else Stack(store), append_dim=dim, **options
    )
    assert not outcome.refused, outcome.findings
    return outcome


def test_positions_behind_each_other(store):
    pieces = [stretch(0, 10), stretch(10, 7), stretch(17, 1), stretch(18, 30)]
    for piece in pieces:
        outcome = put(store, piece, chunks={"time": 8})
    assert (outcome.commit, outcome.steps[0].slot, outcome.steps[0].windows) == (4, 18, 30)
    found = plain(store)
    assert found["eeg"].encoding["chunks"] == (8, 2)
    xr.testing.assert_equal(found.load().drop_attrs(), xr.concat(pieces, dim="time").drop_attrs())
    apart = xr.open_zarr(store.path("zarr.json").parent, consolidated=False)
    assert apart.sizes["time"] == 48
    again = put(store, pieces[1])
    assert (again.steps[0].decision, again.steps[0].slot, again.commit) == (
        Decision.UNCHANGED,
        10,
        4,
    )
    xr.testing.assert_equal(catchment.arrays.open(store).load(), found.load())
    verdict = verify(Stack(store))
    assert (verdict.wrong, verdict.sessions, verdict.windows) == ([], 4, 48)
    assert verify(Stack(store), quick=True).sessions == 4


def test_sessions_by_positions(store):
    put(store, stretch(0, 5, "s1"))
    assert put(store, stretch(5, 5), session="s2", site="north").steps[0].session == "s2"
    assert put(store, stretch(0, 5, "s1")).steps[0].decision is Decision.UNCHANGED
    with pytest.raises(Conflict) as caught:
        put(store, stretch(9, 3, "s1"))
    assert caught.value.kind == "session-differs"
    assert put(store, stretch(9, 3, "s1"), on_conflict="skip").steps[0].decision is Decision.SKIP
    planned = put(store, stretch(10, 3, "s3"), dry_run=True)
    assert (planned.steps[0].slot, planned.dry_run, planned.commit) == (10, True, 2)
    entries = Flat(Stack(store)).entries()
    assert [(e.row.session, e.slot, e.row.site) for e in entries] == [
        ("s1", 0, ""),
        ("s2", 5, "north"),
    ]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_stores_of_plain_xarray(store, version, consolidated):
    folder = store.path("zarr.json") or (store.put("x", b""), store.path("x"))[1]
    folder = folder.parent
    store.delete("x")
    sessions = [
        make_session(n, windows=12).drop_vars("time").expand_dims(session=[n])
        for n in ("a", "bb", "ccc")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xr.concat(sessions[:2], dim="session").assign_coords(
            session=np.array(["a", "bb"], dtype=object)
        ).to_zarr(
            folder,
            zarr_format=version,
            consolidated=consolidated,
            mode="w",
            encoding={"eeg": {"chunks": (2, 5, 3, 10)}},
        )
    before = xr.open_zarr(folder, consolidated=consolidated) if consolidated else None
    assert put(store, sessions[2], "session").steps[0].slot == 2
    assert (
        put(store, make_session("dd", windows=12).drop_vars("time"), "session").steps[0].session
        == "dd"
    )
    found = plain(store)
    assert found["session"].values.tolist() == ["a", "bb", "ccc", "dd"]
    expected = xr.concat(
        [*sessions, make_session("dd", windows=12).drop_vars("time").expand_dims(session=["dd"])],
        dim="session",
    )
    xr.testing.assert_equal(found[["eeg", "fnirs"]].load(), expected[["eeg", "fnirs"]])
    assert found["eeg"].encoding["chunks"] == (2, 5, 3, 10)
    if before is not None:
        assert np.array_equal(before["eeg"].values, expected["eeg"].values[:2])
    # What was there before us is known by its label.
    assert put(store, sessions[0], "session").steps[0].decision is Decision.UNCHANGED
    assert put(store, sessions[2], "session").steps[0].decision is Decision.UNCHANGED
    with pytest.raises(Conflict):
        put(store, sessions[0] * 2, "session", session="a")
    assert verify(Stack(store)).wrong == []
    assert catchment.arrays.open(store).sizes["session"] == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.drop_vars("mark"), ("variable-missing", "mark")),
        (lambda d: d.assign(more=d["eeg"]), ("variable-extra", "more")),
        (lambda d: d.isel(channel=[1, 0]), ("labels-differ", "channel")),
        (lambda d: d.isel(channel=[0]), ("labels-differ", "channel")),
        (lambda d: d.assign(eeg=d["eeg"].astype("f8")), ("dtype-differs", "eeg")),
        (lambda d: d.transpose("channel", "time"), ("dims-differ", "eeg")),
        (lambda d: d.assign(eeg=d["eeg"].assign_attrs(units="V")), ("units-differ", "eeg")),
        (lambda d: d.assign(eeg=d["eeg"] * np.inf), ("values-infinite", "eeg")),
        (lambda d: d.assign(eeg=d["eeg"] * np.nan), ("values-missing-all", "eeg")),
        (lambda d: d.isel(time=slice(0)), ("no-windows", "time")),
        (lambda d: d.drop_vars(["eeg", "mark"]), ("no-variables", "")),
        (lambda d: d.assign(odd=("time", np.zeros(6, "m8[s]"))), ("dtype-unsupported", "odd")),
        (lambda d: d.rename(mark="../x"), ("bad-variable", "'../x'")),
        (lambda d: d.rename(time="moment"), ("append-dim-missing", "moment")),
    ],
)
def test_what_does_not_go_with_the_store(store, change, expected):
    put(store, stretch(0, 6))
    before = list(store.list())
    changed = change(stretch(6, 6))
    dim = "moment" if "moment" in changed.dims else "time"
    outcome = api.append(changed, Stack(store), append_dim=dim)
    assert expected in [(f.code, f.where) for f in outcome.findings]
    assert outcome.refused
    assert list(store.list()) == before


def test_what_is_missing_is_told(store):
    one = stretch(0, 6)
    one["eeg"][0, 0] = np.nan
    assert [f.code for f in put(store, one).findings] == ["values-missing"]


def test_an_encoding_that_loses_is_found_before_anybody_sees_it(store):
    folder = (store.put("x", b""), store.path("x"))[1].parent
    store.delete("x")
    first = xr.Dataset(
        {"v": (("time",), np.arange(4.0))},
        coords={"time": np.datetime64("2026-01-01", "D") + np.arange(4)},
    )
    first.to_zarr(
        folder,
        mode="w",
        encoding={
            "time": {"units": "days since 2026-01-01", "dtype": "int64"},
            "v": {"scale_factor": 0.1, "dtype": "int16", "_FillValue": -1},
        },
    )
    later = first.assign_coords(time=np.datetime64("2026-01-05T07:00", "ns") + np.arange(4))
    outcome = api.append(later, Stack(store), append_dim="time")
    assert [f.code for f in outcome.findings] == ["encoding-loses"]
    assert xr.open_zarr(folder).sizes["time"] == 4
    good = first.assign_coords(time=first["time"].values + np.timedelta64(4, "D")).assign(
        v=("time", first["v"].values + 0.04)
    )
    assert put(store, good).steps[0].slot == 4  # a packed array says it as near as it can
    assert xr.open_zarr(folder)["v"].values.tolist() == pytest.approx(
        [0, 1, 2, 3, 0, 1, 2, 3], abs=0.1
    )
    assert verify(Stack(store)).wrong == []
    assert put(store, good).steps[0].decision is Decision.UNCHANGED


def test_raw_numbers_with_units_of_time_are_told_what_to_do(store):
    raw = xr.Dataset({"v": (("time",), np.arange(4.0), {"units": "days since 2026-01-01"})})
    (told,) = api.append(raw, Stack(store), append_dim="time").findings
    assert told.code == "encoding-loses"
    assert "decode_cf" in told.hint
    assert put(store, xr.decode_cf(raw)).steps[0].slot == 0


@pytest.mark.parametrize("each", [3, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.soak), "after"])
def test_every_fault_leaves_the_old_state_or_the_new(tmp_path, when, each):
    pieces = [stretch(0, 5)[["eeg"]], stretch(5, 6)[["eeg"]]]
    ready = tmp_path / "ready.zarr"
    put(open_store(ready.as_uri()), pieces[0], chunks={"time": 4})
    for number, faults in enumerate(every_fault(when=when)):
        store = open_store(shutil.copytree(ready, tmp_path / f"{number}.zarr").as_uri())
        try:
            put(inject(store, faults), pieces[1])
        except CatchmentError:
            assert faults.fired
        size = plain(store).sizes["time"]
        assert size in (5, 11)
        expected = xr.concat(pieces, dim="time").isel(time=slice(size))
        assert np.array_equal(plain(store)["eeg"].values, expected["eeg"].values)
        outcome = put(store, pieces[1])
        assert outcome.steps[0].slot == 5
        if number % each == 0:
            put(store, stretch(11, 3)[["eeg"]])
            assert plain(store).sizes["time"] == 14
            assert verify(Stack(store)).wrong == []


def test_many_writers_at_once(store):
    put(store, stretch(0, 3, "s0"))
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(
            pool.map(lambda n: put(store, stretch(n * 3, 3, f"s{n}")), [1, 2, 3, 4, 1, 2, 3, 4])
        )
    found = plain(store).load()
    assert found.sizes["time"] == 15
    for outcome in outcomes:
        (step,) = outcome.steps
        expected = stretch(int(step.session[1:]) * 3, 3)
        assert np.array_equal(
            found["eeg"].values[step.slot : step.slot + 3], expected["eeg"].values
        )
    assert verify(Stack(store)).wrong == []


def test_a_writer_elsewhere(store):
    put(store, stretch(0, 3))
    with journal.holding() as holder:
        from dataclasses import replace

        journal.claim(store, 2, Row("x", 1, ""), replace(holder, host="elsewhere"))
    with pytest.raises(Conflict) as caught:
        put(Stack(store, patience=0.1), stretch(3, 3))
    assert caught.value.kind == "claim-held"
    assert verify(Stack(store), repair=True).wrong == []
    assert put(store, stretch(3, 3)).commit == 2


def test_somebody_else_wrote(store, monkeypatch):
    put(store, bare(0, 3))
    with monkeypatch.context() as patch:
        patch.setattr(FlatLog, "show", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            put(store, bare(3, 3))
    assert "not shown" in verify(Stack(store)).wrong[0]
    folder = store.path("zarr.json").parent
    bare(9, 2).to_zarr(folder, append_dim="time")
    with pytest.raises(Corrupt) as caught:
        put(store, bare(6, 3))
    assert caught.value.kind == "store-changed"


def test_plain_xarray_may_append_between(store):
    put(store, bare(0, 3))
    bare(3, 2).to_zarr(store.path("zarr.json").parent, append_dim="time")
    assert put(store, bare(5, 3)).steps[0].slot == 5
    assert np.array_equal(
        plain(store)["eeg"].values,
        xr.concat([stretch(0, 3), stretch(3, 2), stretch(5, 3)], dim="time")["eeg"].values,
    )


def test_large_pieces(store, monkeypatch):
    monkeypatch.setattr("catchment.arrays.flat_write.PIECE", 100)
    pieces = [stretch(0, 30)[["eeg"]].chunk(time=4), stretch(30, 41)[["eeg"]].chunk(time=4)]
    for piece in pieces:
        put(store, piece, chunks={"time": 8})
    assert np.array_equal(plain(store)["eeg"].values, xr.concat(pieces, dim="time")["eeg"].values)


def test_chunks_and_choices(store):
    put(store, stretch(0, 3), chunks={"time": 8})
    for wrong, kind in (
        ({"chunks": {"time": 9}}, "chunks-fixed"),
        ({"on_conflict": "x"}, "bad-on-conflict"),
    ):
        with pytest.raises(Invalid) as caught:
            put(store, stretch(3, 3), **wrong)
        assert caught.value.kind == kind
    with pytest.raises(Invalid) as caught:
        put(open_store("memory://flat"), stretch(0, 3), chunks={"space": 1})
    assert caught.value.kind == "bad-chunks"
    assert put(open_store("memory://flat2"), stretch(0, 3), dry_run=True).commit is None
    with pytest.raises(NotFound):
        Flat(Stack(open_store("memory://none"))).verify()


def test_what_is_no_group(store):
    store.put("zarr.json", b"{")
    with pytest.raises(Invalid) as caught:
        put(store, stretch(0, 3))
    assert caught.value.kind == "not-our-store"
    store.put("zarr.json", b'{"zarr_format": 3, "node_type": "array"}', mode="overwrite")
    with pytest.raises(Invalid):
        Group.of(store)


def test_damage_is_found(store):
    put(store, stretch(0, 3)[["eeg"]], chunks={"time": 4})
    data = store.read("eeg/c/0/0")
    store.put("eeg/c/0/0", data[:-9], mode="overwrite")
    assert "cannot be read" in verify(Stack(store)).wrong[0]
    other = open_store("memory://other-flat")
    put(other, stretch(50, 3)[["eeg"]], chunks={"time": 4})
    store.put("eeg/c/0/0", other.read("eeg/c/0/0"), mode="overwrite")
    assert "does not hold" in verify(Stack(store)).wrong[0]


def test_labels_of_a_foreign_store(store):
    folder = (store.put("x", b""), store.path("x"))[1].parent
    store.delete("x")
    one = make_session("a", windows=4).drop_vars("time").expand_dims(session=["a"])
    one.assign_coords(session=np.array(["a"], dtype=object)).to_zarr(folder, mode="w")
    twice = xr.concat([one, one], dim="session")
    assert "session-repeated" in {
        f.code for f in api.append(twice.assign_coords(session=["q", "q"]), Stack(store)).findings
    }
    nameless = make_session("b", windows=4).drop_vars("time").drop_attrs(deep=False)
    assert "session-missing" in {f.code for f in api.append(nameless, Stack(store)).findings}
    listed = nameless.assign_attrs(session_id=["b", "c"])
    assert put(store, listed, "session").steps[0].session == "b"
    assert layout.marker("b") in [s.key for s in store.list()]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_moments_of_any_unit(store, unit):
    """Xarray makes NaT of coarse moments that are kept in fine units."""
    moments = np.datetime64("2026-01-01", unit) + np.arange(1, 7)
    whole = xr.Dataset({"v": ("time", np.arange(6.0))}, coords={"time": moments})
    for part in (slice(0, 1), slice(1, 6)):
        put(store, whole.isel(time=part), session=f"s{part.start}")
    assert (plain(store)["time"].values == moments).all()
