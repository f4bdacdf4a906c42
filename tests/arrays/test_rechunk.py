"""Rechunking: the former chunks or the new ones, whatever happens on the way."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import xarray as xr

import catchment.arrays
from catchment.arrays import api, journal, layout, read
from catchment.arrays import generations as rechunking
from catchment.arrays.generations import drop_former, rechunk
from catchment.arrays.prepare import prepare
from catchment.arrays.stack import Stack, withdraw
from catchment.arrays.verify import former, orphans, verify
from catchment.core.errors import CatchmentError, Conflict, Corrupt, Invalid, NotFound
from catchment.core.store import open_store
from catchment.testing.arrays import make_session, same
from catchment.testing.faults import every_fault, inject

pytestmark = pytest.mark.usefixtures("no_sync")
SESSIONS = {name: make_session(name, windows=n) for name, n in (("a", 20), ("b", 90), ("c", 3))}


@pytest.fixture
def filled(store):
    """Three sessions in chunks of 64, the second one of them replaced."""
    stack = Stack(store)
    api.append(make_session("b", windows=30, seed=4), stack)
    for dataset in SESSIONS.values():
        assert not api.append(dataset, stack, on_conflict="replace").refused
    return store


def whole(store, names="abc"):
    """Plain xarray shows these sessions, each as it was appended."""
    found = xr.open_zarr(store.path(layout.ROOT).parent, chunks=None).load()
    shown = [name for name in found["session"].values.tolist() if not name.startswith("~")]
    assert sorted(shown) == sorted(names)
    for name in shown:
        assert same(read.session(found, name), SESSIONS[name])
    return found["eeg"].encoding["chunks"]


def test_readers_of_before_and_of_after(filled):
    before = xr.open_zarr(filled.path(layout.ROOT).parent)
    made = rechunk(Stack(filled), {"time": 7, "channel": 2})
    assert (made.state, made.sessions, made.windows, made.commit) == ("rechunked", 3, 113, 5)
    assert (dict(made.before)["time"], made.chunks["time"], made.chunks["channel"]) == (64, 7, 2)
    assert whole(filled) == (1, 7, 2, 10)
    for name, dataset in SESSIONS.items():
        assert same(read.session(before, name), dataset)
    assert verify(Stack(filled)).wrong == []
    assert made.former_chunks == len(list(former(Stack(filled), read.published(filled)))) > 0
    assert set(orphans(Stack(filled), read.published(filled))) == set(
        former(Stack(filled), read.published(filled))
    )

    again = rechunk(Stack(filled), {"time": 7})
    assert (again.state, again.commit) == ("unchanged", 5)
    with pytest.raises(Conflict) as caught:
        rechunk(Stack(filled), {"time": 9})
    assert caught.value.kind == "former-chunks"
    assert drop_former(Stack(filled), dry_run=True) == made.former_chunks
    assert drop_former(Stack(filled)) == made.former_chunks
    assert drop_former(Stack(filled)) == 0
    assert catchment.arrays.rechunk(filled, {"time": 30, "session": 1}).commit == 6
    assert whole(filled) == (1, 30, 2, 10)
    api.append(make_session("d", windows=100), Stack(filled), chunks={"time": 30})
    assert verify(Stack(filled)).sessions == 4
    withdraw(Stack(filled), "b")
    assert verify(Stack(filled)).wrong == []  # of former chunks, too, nothing is left
    assert not [s.key for s in filled.list() if s.key.startswith(("eeg/2/", "eeg/c/2/"))]


def test_a_dry_run_and_what_cannot_be(filled):
    listed = list(filled.list())
    planned = api.rechunk(filled, {"time": 5}, dry_run=True)
    assert (planned.state, planned.sessions, planned.chunks["time"]) == ("planned", 3, 5)
    assert json.dumps(planned.to_json())
    for wrong in ({"space": 3}, {"time": 0}, {"session": 2}):
        with pytest.raises(Invalid) as caught:
            rechunk(Stack(filled), wrong)
        assert caught.value.kind == "bad-chunks"
    assert list(filled.list()) == listed
    with pytest.raises(NotFound):
        rechunk(Stack(open_store("memory://void")), {"time": 3})


@pytest.mark.parametrize("each", [3, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.soak), "after"])
def test_every_fault_and_the_next_run(tmp_path, when, each, monkeypatch):
    monkeypatch.setitem(SESSIONS, "a", make_session("a", windows=20)[["eeg"]])
    monkeypatch.setitem(SESSIONS, "c", make_session("c", windows=3)[["eeg"]])
    sessions = {name: SESSIONS[name] for name in "ac"}
    resumed = 0
    ready = tmp_path / "ready.zarr"
    for dataset in sessions.values():
        api.append(dataset, Stack(open_store(ready.as_uri())))
    for number, faults in enumerate(every_fault(when=when)):
        store = open_store(shutil.copytree(ready, tmp_path / f"{number}.zarr").as_uri())
        try:
            rechunk(Stack(inject(store, faults)), {"time": 8})
        except CatchmentError:
            assert faults.fired
        assert whole(store, "ac")[1] in (64, 8)
        resumed += rechunk(Stack(store), {"time": 8}).resumed
        assert whole(store, "ac")[1] == 8
        if number % each == 0:
            assert verify(Stack(store)).wrong == []
    assert resumed


def test_others_append_and_withdraw_meanwhile(filled, monkeypatch):
    copy, rounds = rechunking._Copy._copy, []

    def copying(self, document):
        slots = copy(self, document)
        if not rounds:
            api.append(make_session("d"), Stack(filled))
            withdraw(Stack(filled), "b")
        rounds.append(slots)
        return slots

    monkeypatch.setattr(rechunking._Copy, "_copy", copying)
    stack = Stack(filled)
    with journal.holding() as holder:  # a writer that began before the rechunk ends after it
        document = stack.heal()
        late = stack.stage(document, prepare(make_session("e"))[0][0], holder)
        made = rechunk(Stack(filled), {"time": 8})
        assert stack.commit(stack.heal(), [late]) is None
    assert (made.sessions, len(rounds)) == (3, 2)
    found = catchment.arrays.open(filled)
    assert sorted(found["session"].values) == ["a", "c", "d"]
    assert api.append(make_session("e"), Stack(filled)).appended
    assert verify(Stack(filled)).wrong == []


def test_two_rechunks_at_once(filled, monkeypatch):
    stack = Stack(filled)
    with journal.holding() as holder:
        plan = {"rechunked": {"generation": 1, "chunks": {"time": 3}}, "work": 0}
        ours = {"holder": holder.to_json()}
        key = layout.rechunk_plan(1, 0)
        filled.put(key, json.dumps(plan | ours).encode())
        with pytest.raises(Conflict) as caught:
            rechunk(stack, {"time": 8})
        assert (caught.value.kind, "time=3" in caught.value.message) == ("rechunk-under-way", True)
        with pytest.raises(Conflict):
            drop_former(stack)
        elsewhere = {"holder": holder.to_json() | {"host": "elsewhere"}}
        filled.put(key, json.dumps(plan | elsewhere).encode(), mode="overwrite")
        filled.put("eeg/0/0/0/0", b"what it left")
        assert "eeg/0/0/0/0" not in list(orphans(stack, stack.published()))
        with pytest.raises(Conflict):
            rechunk(stack, {"time": 8})
    assert rechunk(stack, {"time": 8}, take_over=True).state == "rechunked"
    assert whole(filled)[1] == 8
    assert verify(stack).wrong == []


def test_of_two_that_begin_together_one_is_first(filled, monkeypatch):
    def taken(*args, **options):
        raise Conflict("taken", kind="key-taken")

    with monkeypatch.context() as patch:
        patch.setattr(type(filled), "put", taken)
        with pytest.raises(Conflict) as caught:
            rechunk(Stack(filled), {"time": 8})
    assert caught.value.kind == "rechunk-under-way"
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "rechunk", lambda *_: None)
        with pytest.raises(Conflict) as caught:
            rechunk(Stack(filled), {"time": 8})
    assert caught.value.kind == "commits-lost"
    with monkeypatch.context() as patch:
        patch.setattr(rechunking._Copy, "_ready", lambda self: rechunk(Stack(filled), {"time": 8}))
        with pytest.raises(Conflict):
            rechunk(Stack(filled), {"time": 6})


def test_what_is_damaged_is_not_copied(filled):
    data = filled.read("eeg/c/3/0/0/0")
    filled.put("eeg/c/1/0/0/0", data, mode="overwrite")
    with pytest.raises(Corrupt, match="slot 1"):
        rechunk(Stack(filled), {"time": 8})
    assert read.published(filled).chunks["time"] == 64


def test_memory_does_not_grow_with_a_session(filled, monkeypatch):
    monkeypatch.setattr("catchment.arrays.chunks._AT_ONCE", 1000)
    monkeypatch.setattr("catchment.arrays.content.BLOCK", 700)
    rechunk(Stack(filled), {"time": 8})
    assert whole(filled)[1] == 8
    assert np.isnan(catchment.arrays.open(filled)["eeg"].values).any()


def test_on_s3_too(moto, ledger):
    store = moto.store()
    for name in "ac":
        api.append(SESSIONS[name], Stack(store, ledger))
    rechunk(Stack(store, ledger), {"time": 8})
    assert drop_former(Stack(store, ledger)) > 0
    found = catchment.arrays.open(store)
    assert found["eeg"].encoding["chunks"][1] == 8
    assert all(same(read.session(found, name), SESSIONS[name]) for name in "ac")
    assert verify(Stack(store)).wrong == []
    flat = moto.store()
    made = catchment.arrays.export(store, flat, form="npy")
    assert made.windows == 23
    assert {s.key for s in flat.list()} == {"eeg.npy", "export.json", "fnirs.npy", "index.parquet"}
    along = moto.store()
    for name in "ac":
        api.append(SESSIONS[name], Stack(along, ledger), append_dim="time")
    assert catchment.arrays.open(along).sizes["time"] == 23
