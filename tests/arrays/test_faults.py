"""Every operation on the store fails once, before and after it is applied; nothing is half visible."""

from __future__ import annotations

import shutil

import pytest
import xarray as xr

from catchment.arrays import api, layout
from catchment.arrays.stack import Stack, withdraw
from catchment.arrays.verify import verify
from catchment.core.errors import CatchmentError
from catchment.core.store import open_store
from catchment.testing.arrays import make_session, same
from catchment.testing.faults import every_fault, inject

pytestmark = pytest.mark.usefixtures("no_sync")

SESSIONS = {name: make_session(name, windows=5, samples=4) for name in "abc"}
OTHER = make_session("b", windows=7, samples=4, seed=1)


def shown(store):
    """What plain xarray sees: sessions by id, each of them whole; None where there is no store."""
    path = store.path(layout.ROOT)
    if path is None:
        return None
    found = xr.open_zarr(path.parent, chunks=None).load()
    names = found["session"].values.tolist()
    for name in names:
        if not name.startswith("~"):
            one = found.sel(session=name)
            one = one.isel(time=slice(int(one["n_windows"])))
            assert same(one, SESSIONS[name]) or (name == "b" and same(one, OTHER))
    return names


def appended(stack, name):
    assert not api.append(SESSIONS[name], stack).refused


def replaced(stack):
    api.append(OTHER, stack, on_conflict="replace")


CASES = {
    "first": ((), lambda stack: appended(stack, "a"), (None, ["a"])),
    "next": ("a", lambda stack: appended(stack, "b"), (["a"], ["a", "b"])),
    "replace": ("ab", replaced, (["a", "b"], ["a", "~1", "b"])),
    "withdraw": ("ab", lambda stack: withdraw(stack, "a"), (["a", "b"], ["~0", "b"])),
}


@pytest.mark.parametrize("each", [3, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("case", CASES)
def test_every_fault_leaves_the_old_state_or_the_new(tmp_path, case, when, each):
    ready, work, (old, new) = CASES[case]
    first = tmp_path / "first.zarr"
    first.mkdir()
    for name in ready:
        appended(Stack(open_store(first.as_uri())), name)
    for number, faults in enumerate(every_fault(when=when)):
        store = open_store(shutil.copytree(first, tmp_path / f"{number}.zarr").as_uri())
        try:
            work(Stack(inject(store, faults)))
        except CatchmentError:
            assert faults.fired
        assert shown(store) in (old, new)
        try:
            work(Stack(store))  # again, as the next run does
        except CatchmentError as error:
            assert (case, error.kind) == ("withdraw", "no-session")  # it was done
        assert shown(store) == new
        if number % each == 0:  # and it goes on from there
            assert verify(Stack(store)).wrong == []
            appended(Stack(store), "c")
            assert shown(store) == [*new, "c"]


def test_what_was_written_is_not_written_again(tmp_path):
    first = tmp_path / "first.zarr"
    appended(Stack(open_store(first.as_uri())), "a")
    for number, faults in enumerate(every_fault()):
        store = open_store(shutil.copytree(first, tmp_path / f"{number}.zarr").as_uri())
        try:
            appended(Stack(inject(store, faults)), "b")
        except CatchmentError:
            if store.path("fnirs/c/1/0/0") and store.path("timestamp/c/1/0"):
                break
    before = {stat.key: stat for stat in store.list() if "/c/1/" in stat.key}
    outcome = api.append(SESSIONS["b"], Stack(store))
    assert outcome.resumed_chunks == len(before) >= 2
    assert outcome.steps[0].slot == 1
    after = {stat.key: stat for stat in store.list()}
    assert {key: after[key] for key in before} == before
