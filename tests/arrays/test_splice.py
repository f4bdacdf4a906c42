"""Along positions: what is replaced or withdrawn, and what lies behind it."""

from __future__ import annotations

import json
import random
import shutil
import warnings

import numpy as np
import pytest
import xarray as xr

from catchment.arrays import api, layout
from catchment.arrays.flat import Flat
from catchment.arrays.flat_log import FlatLog, pieces
from catchment.arrays.foreign import Group
from catchment.arrays.model import Decision
from catchment.arrays.stack import Stack
from catchment.arrays.verify import verify
from catchment.core.errors import CatchmentError, Conflict, Corrupt, Invalid, NotFound
from catchment.core.store import open_store
from catchment.testing.faults import every_fault, inject

# What xarray says of stores without consolidated metadata, and of the formats.
pytestmark = [pytest.mark.usefixtures("no_sync"), pytest.mark.filterwarnings("ignore")]


def stretch(number, count, name=None):
    """Positions that nobody else has: values, text, moments, one array along its second axis."""
    values = np.random.default_rng(number).standard_normal((count, 2)).astype("float32")
    return xr.Dataset(
        {
            "eeg": (("time", "channel"), values, {"units": "uV"}),
            "turned": (("channel", "time"), values.T.astype("float64")),
            "mark": (("time",), np.array([f"{number}.{i}" for i in range(count)], dtype=object)),
            "unchanged": (("channel",), np.arange(2)),
        },
        coords={
            "time": np.datetime64("2026-01-01", "us") + (number * 1000 + np.arange(count)) * 1500,
            "channel": ["a", "b"],
        },
        attrs={"session_id": name or f"s{number}"},
    )


def put(store, dataset, **options):
    outcome = api.append(dataset, Stack(store), append_dim="time", **options)
    assert not outcome.refused, outcome.findings
    return outcome


def plain(store):
    """What plain xarray shows, whose metadata are consolidated."""
    path = store.path(layout.ROOT)
    return xr.open_zarr(path.parent, consolidated=True, chunks=None)


def holds(found, expected):
    """Whether a store shows these datasets behind each other."""
    if not expected:
        return found.sizes["time"] == 0
    whole = xr.concat(
        [one.drop_attrs() for one in expected], dim="time", data_vars="minimal", join="override"
    )
    return (
        found.load()
        .drop_attrs()[list(whole.variables)]
        .identical(whole.set_coords(list(found.coords)))
    )


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_appends_replacements_and_withdrawals(store, seed):
    """Against a list of what shall be there."""
    chance = random.Random(seed)
    wanted = {}  # by id, in order of position
    for number in range(16):
        known = list(wanted)
        verb = chance.choice(["append", "append", "replace", "withdraw"]) if known else "append"
        size = chance.choice([1, 3, 4, 9])
        if verb == "append":
            wanted[f"s{number}"] = stretch(number, size)
            step = put(store, wanted[f"s{number}"], chunks={"time": 4}).steps[0]
            assert step.decision is Decision.APPEND
        else:
            name = chance.choice(known)
            start = sum(wanted[one].sizes["time"] for one in known[: known.index(name)])
            if verb == "replace":
                wanted[name] = stretch(number, size, name)
                step = put(store, wanted[name], on_conflict="replace").steps[0]
                assert (step.decision, step.slot, step.earlier) == (Decision.REPLACE, start, start)
            else:
                entry, chunks = Stack(store).withdraw(name)
                assert (entry.slot, entry.row.n_windows) == (start, wanted.pop(name).sizes["time"])
                assert chunks or not wanted
        assert holds(plain(store), list(wanted.values()))
    assert verify(Stack(store)).wrong == []
    entries = Flat(Stack(store)).entries()
    assert [entry.row.session for entry in entries] == list(wanted)
    for name, one in wanted.items():  # wherever it stands now, it is known
        again = put(store, one).steps[0]
        assert again.decision is Decision.UNCHANGED
        assert again.slot == next(e.slot for e in entries if e.row.session == name)
        with pytest.raises(Conflict):
            put(store, stretch(99, 3, name))


def test_what_is_withdrawn_is_nowhere_and_may_come_again(store):
    for number in range(3):
        put(store, stretch(number, 5), chunks={"time": 4})
    before = plain(store)
    put(store, stretch(7, 6, "s1"), on_conflict="replace")
    xr.testing.assert_equal(before.load(), before)
    assert holds(before, [stretch(n, 5) for n in range(3)])  # who had it open still reads it
    between = plain(store)
    Stack(store).withdraw("s1")
    assert holds(plain(store), [stretch(0, 5), stretch(2, 5)])
    # Who had it open sees the others, and of the session nothing is left.
    assert bool(between["eeg"][5:11].isnull().all())
    assert np.array_equal(between["eeg"][:5], stretch(0, 5)["eeg"])
    assert np.array_equal(between["eeg"][11:], stretch(2, 5)["eeg"])
    assert set(between["mark"][5:11].values.tolist()) == {""}
    with pytest.raises(NotFound) as caught:
        Stack(store).withdraw("s1")
    assert caught.value.kind == "no-session"
    assert put(store, stretch(7, 6, "s1")).steps[0].slot == 10
    assert verify(Stack(store)).wrong == []


def test_nothing_is_left_and_then_something_comes(store):
    put(store, stretch(0, 5), chunks={"time": 4})
    Stack(store).withdraw("s0")
    assert plain(store).sizes["time"] == 0
    put(store, stretch(1, 6))
    assert holds(plain(store), [stretch(1, 6)])


def test_a_plan_of_a_replacement_writes_nothing(store):
    put(store, stretch(0, 5))
    before = [(stat.key, stat.etag) for stat in store.list()]
    step = put(store, stretch(1, 3, "s0"), on_conflict="replace", dry_run=True).steps[0]
    assert (step.decision, step.slot, step.windows) == (Decision.REPLACE, 0, 3)
    assert [(stat.key, stat.etag) for stat in store.list()] == before


def former(store, number):
    """The group before a commit."""
    record = next(r for r in FlatLog(store).records() if r["number"] == number)
    documents = {key: json.dumps(told).encode() for key, told in record["former"].items()}
    return Group(3, documents).dataset(store)


@pytest.mark.parametrize("each", [3, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("verb", ["replace", "withdraw"])
@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.soak), "after"])
def test_every_fault_leaves_the_old_state_or_the_new(tmp_path, when, verb, each):
    first = [bare(number, 5) for number in range(3)]
    second = [first[0], first[2]] if verb == "withdraw" else [first[0], bare(9, 6, "s1"), first[2]]

    def act(store):
        if verb == "withdraw":
            return Stack(store).withdraw("s1")
        return put(store, bare(9, 6, "s1"), on_conflict="replace")

    ready = tmp_path / "ready.zarr"
    for one in first:
        put(open_store(ready.as_uri()), one, chunks={"time": 4})
    for number, faults in enumerate(every_fault(when=when)):
        store = open_store(shutil.copytree(ready, tmp_path / f"{number}.zarr").as_uri())
        try:
            act(inject(store, faults))
        except CatchmentError:
            assert faults.fired
        assert holds(plain(store), first) or holds(plain(store), second)
        try:
            act(store)
        except NotFound:
            assert verb == "withdraw"
        assert holds(plain(store), second)
        if verb == "withdraw":
            assert bool(former(store, 4)["eeg"][5:10].isnull().all())
        if number % each == 0:
            assert verify(Stack(store)).wrong == []
            put(store, bare(3, 3))
            assert holds(plain(store), [*second, bare(3, 3)])


def bare(number, count, name=None):
    return stretch(number, count, name)[["eeg"]].drop_vars(["time", "channel"])


def test_values_that_a_killed_withdrawal_left_are_found_and_deleted(store, monkeypatch):
    for number in range(2):
        put(store, bare(number, 5), chunks={"time": 4})
    with monkeypatch.context() as patch:
        patch.setattr("catchment.arrays.flat_splice.blank", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Stack(store).withdraw("s0")
    assert "are left" in verify(Stack(store)).wrong[0]
    assert verify(Stack(store), repair=True).wrong == []
    assert bool(former(store, 3)["eeg"][:5].isnull().all())
    assert np.array_equal(former(store, 3)["eeg"][5:], bare(1, 5)["eeg"])


def test_somebody_else_wrote_over_a_withdrawal_that_was_not_shown(store, monkeypatch):
    for number in range(2):
        put(store, bare(number, 5), chunks={"time": 4})
    with monkeypatch.context() as patch:
        patch.setattr(FlatLog, "show", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Stack(store).withdraw("s1")
    bare(5, 2).to_zarr(store.path(layout.ROOT).parent, append_dim="time")
    with pytest.raises(Corrupt) as caught:
        put(store, bare(6, 3))
    assert caught.value.kind == "store-changed"


def foreign(store, version, names=("a", "b", "c")):
    """A store that plain xarray made, whose sessions have labels."""
    dataset = xr.Dataset(
        {"eeg": (("session", "time"), np.arange(len(names) * 4.0).reshape(-1, 4))},
        coords={"session": np.array(names, dtype=object)},
    )
    store.put("x", b"")
    folder = store.path("x").parent
    store.delete("x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.to_zarr(
            folder, mode="w", zarr_format=version, consolidated=True,
            encoding={"eeg": {"chunks": (2, 3)}},
        )  # fmt: skip
    return dataset, folder


def labelled(name, value):
    return xr.Dataset(
        {"eeg": (("session", "time"), np.full((1, 4), float(value)))},
        coords={"session": np.array([name], dtype=object)},
    )


def test_sessions_of_a_foreign_store_are_known_by_their_labels(store):
    dataset, folder = foreign(store, 3)
    stack = Stack(store)
    step = api.append(labelled("b", 9), stack, on_conflict="replace").steps[0]
    assert (step.decision, step.slot) == (Decision.REPLACE, 1)
    api.append(labelled("d", 7), stack)
    assert api.find(stack, "a").slot == 0
    stack.withdraw("a")
    found = xr.open_zarr(folder)
    assert found["session"].values.tolist() == ["b", "c", "d"]
    assert found["eeg"].values[:, 0].tolist() == [9, dataset["eeg"].values[2, 0], 7]
    assert found["eeg"].encoding["chunks"] == (2, 3)
    with pytest.raises(NotFound):
        api.find(stack, "a")
    several = xr.concat([labelled("c", 1), labelled("b", 2)], dim="session")
    with pytest.raises(Invalid) as caught:
        api.append(several, stack, on_conflict="replace")
    assert caught.value.kind == "replace-not-possible"
    assert verify(stack).wrong == []
    # A label out of what came together.
    api.append(xr.concat([labelled("x", 1), labelled("y", 2)], dim="session"), stack)
    stack.withdraw("x")
    assert xr.open_zarr(folder)["session"].values.tolist() == ["b", "c", "d", "y"]
    assert verify(stack).wrong == []
    assert [piece.stored_hash for piece in pieces(FlatLog(store).records())][-1] == ""
    stack.withdraw("x\ny")  # what is left of both
    assert xr.open_zarr(folder)["session"].values.tolist() == ["b", "c", "d"]


@pytest.mark.parametrize("where", ["s3", "memory"])
def test_where_the_storage_copies_by_itself(request, tmp_path, where):
    if where == "s3":
        store = request.getfixturevalue("moto").store()
    else:
        store = open_store(f"memory://{tmp_path.name}")
    for number in range(3):
        put(store, stretch(number, 5), chunks={"time": 4})
    put(store, stretch(7, 6, "s1"), on_conflict="replace")
    assert api.open_sessions(store)["eeg"].sizes["time"] == 16
    Stack(store).withdraw("s0")
    assert holds(api.open_sessions(store), [stretch(7, 6), stretch(2, 5)])
    assert verify(Stack(store)).wrong == []


def test_a_store_of_format_2_says_how_to_go_on(store):
    foreign(store, 2)
    stack = Stack(store)
    api.append(labelled("d", 7), stack)
    before = list(store.list())
    for act in (
        lambda: api.append(labelled("d", 8), stack, on_conflict="replace"),
        lambda: stack.withdraw("a"),
    ):
        with pytest.raises(Invalid) as caught:
            act()
        assert caught.value.kind == "replace-not-possible"
        assert "--append-dim session" in caught.value.hint
    assert list(store.list()) == before


def test_of_no_store_nothing_is_withdrawn():
    with pytest.raises(NotFound):
        Stack(open_store("memory://no-splice")).withdraw("a")
    with pytest.raises(NotFound):
        Flat(Stack(open_store("memory://no-splice"))).find("a")


def test_keys_of_chunks_of_every_spelling():
    """As Zarr spells them."""
    from zarr.core.chunk_key_encodings import parse_chunk_key_encoding

    for encoding in (*map(layout.key_encoding, range(3)), {"name": "default"}, {"name": "v2"}):
        for index in ((0,), (3, 11)):
            told = parse_chunk_key_encoding(encoding).encode_chunk_key(index)
            assert layout.chunk_key("x", index, encoding) == f"x/{told}"
            assert layout.spelling_of_key(told) == layout.spelling(encoding)
        spelt = layout.respelt(encoding)
        assert len({layout.spelling(e) for e in (encoding, spelt, layout.respelt(spelt))}) == 3
    assert layout.spelling_of_key(layout.ROOT) is None
