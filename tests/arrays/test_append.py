"""Appending: what a store says afterwards, and every hazard that the first algorithm had."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import xarray as xr

import catchment.arrays
from catchment.arrays import api, journal, layout, read, rows
from catchment.arrays import stack as stacks
from catchment.arrays.content import CLOCK
from catchment.arrays.document import Document
from catchment.arrays.look import Facts
from catchment.arrays.model import Decision, Row, Status
from catchment.arrays.prepare import prepare
from catchment.arrays.stack import Stack, withdraw
from catchment.arrays.verify import orphans, verify
from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound
from catchment.core.store import open_store
from catchment.testing.arrays import EPOCH, make_session, same

pytestmark = pytest.mark.usefixtures("no_sync")


def put(store, *datasets, **options):
    """Append datasets, one after the other, without a ledger; the last outcome."""
    stack = store if isinstance(store, Stack) else Stack(store)
    for dataset in datasets:
        outcome = api.append(dataset, stack, **options)
        assert not outcome.refused, outcome.findings
    return outcome


def plain(store):
    """What anybody sees who knows nothing of us."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(store.path(layout.ROOT).parent)


def codes(outcome):
    return [(f.code, f.where) for f in outcome.findings if f.severity == "error"]


def test_sessions_stand_behind_each_other(store):
    sizes = {"a": 12, "b": 70, "c": 3}
    sessions = {name: make_session(name, windows=size) for name, size in sizes.items()}
    outcome = put(store, *sessions.values())
    assert (outcome.commit, outcome.steps[0].slot, outcome.steps[0].windows) == (3, 2, 3)
    found = plain(store)
    assert found["session"].values.tolist() == ["a", "b", "c"]
    assert found["n_windows"].values.tolist() == [12, 70, 3]
    assert dict(found.sizes) == {"session": 3, "time": 70, "channel": 3, "sample": 10, "optode": 4}
    assert found["channel"].values.tolist() == ["E0", "E1", "E2"]
    assert found["eeg"].attrs["units"] == "uV"
    assert found["eeg"].dims == ("session", "time", "channel", "sample")
    for name, expected in sessions.items():
        one = read.session(found, name)
        assert same(one, expected)
        moments = (expected["time"].values - np.datetime64(0, "ms")) / np.timedelta64(1, "ms")
        assert one[CLOCK].values.tolist() == moments.tolist()
    assert np.isnan(found["eeg"][0, 12:]).all()
    start = (EPOCH - np.datetime64(0, "ms")).astype(float)
    assert found["start"].values.tolist() == [start] * 3
    assert set(found["schema"].values) == {found.attrs["catchment"]["fingerprint"]}
    assert verify(Stack(store)).wrong == []


def test_padding_costs_nothing_and_committed_chunks_are_never_touched(store, tmp_path):
    put(store, make_session("long", windows=300), chunks={"time": 50})
    before = {s.key: s for s in store.list() if s.key.startswith(("eeg/", "fnirs/"))}
    put(store, make_session("short", windows=10))
    after = {s.key: s for s in store.list() if s.key.startswith(("eeg/", "fnirs/"))}
    assert {k: v for k, v in after.items() if k in before} == before
    assert sorted(after.keys() - before.keys()) == ["eeg/c/1/0/0/0", "fnirs/c/1/0/0"]


def test_the_same_again_changes_nothing(store):
    put(store, make_session("a"))
    before = list(store.list())
    again = put(store, make_session("a"))
    assert [s.decision for s in again.steps] == [Decision.UNCHANGED]
    assert (again.steps[0].slot, again.commit, again.dry_run) == (0, 1, False)
    assert list(store.list()) == before
    rechunked = put(store, make_session("a").chunk({"time": 7}))
    assert rechunked.steps[0].decision is Decision.UNCHANGED


def test_other_content_under_the_same_id_is_a_conflict(store):
    put(store, make_session("a"), make_session("b"))
    other = make_session("a", seed=1, windows=30)
    with pytest.raises(Conflict, match="other content") as caught:
        put(store, other)
    assert caught.value.kind == "session-differs"
    assert put(store, other, on_conflict="skip").steps[0].decision is Decision.SKIP
    assert same(read.session(catchment.arrays.open(store), "a"), make_session("a"))

    outcome = put(store, other, on_conflict="replace")
    assert (outcome.steps[0].slot, outcome.steps[0].earlier) == (2, 0)
    found = plain(store)
    assert found["session"].values.tolist() == ["~0", "b", "a"]
    assert found["status"].values.tolist() == [Status.REPLACED, 0, 0]
    opened = catchment.arrays.open(store)
    assert opened["session"].values.tolist() == ["b", "a"]
    assert same(read.session(opened, "a"), other)
    assert verify(Stack(store)).wrong == []
    with pytest.raises(Invalid, match="on_conflict"):
        put(store, other, on_conflict="merge")


def test_who_slept_takes_no_slot_that_was_committed_since(store):
    """Its writer is gone, but what it wrote is seen: it was cleared, and written over."""
    put(store, make_session("a"))
    stack = Stack(store)
    document = stack.published()
    put(store, make_session("b"), make_session("c"))
    with journal.holding() as holder:
        staged = stack.stage(document, prepare(make_session("d", seed=9))[0][0], holder)
        assert staged.claim.slot == 3
        assert verify(stack).wrong == []
        assert stack.commit(document, [staged]) is None
        assert stack.commit(stack.published(), [staged]) is not None
    for name, seed in {"b": 0, "c": 0, "d": 9}.items():
        found = read.session(catchment.arrays.open(store), name)
        assert same(found, make_session(name, seed=seed) if seed else make_session(name))
    assert verify(stack).wrong == []


def test_a_withdrawn_session_leaves_a_tombstone_and_no_chunks(store):
    put(store, *(make_session(name) for name in "abc"))
    put(store, make_session("b", seed=9), on_conflict="replace")
    stack = Stack(store)
    entry, chunks = withdraw(stack, "b")
    assert (entry.slot, chunks) == (3, 6)  # of its earlier content, too
    assert plain(store)["session"].values.tolist() == ["a", "~1", "c", "~3"]
    assert catchment.arrays.open(store)["session"].values.tolist() == ["a", "c"]
    assert not [s.key for s in store.list() if "/c/1/" in s.key or "/c/3/" in s.key]
    assert verify(stack).wrong == []
    with pytest.raises(NotFound) as caught:
        withdraw(stack, "b")
    assert caught.value.kind == "no-session"
    assert put(store, make_session("b")).steps[0].slot == 4  # it may come again
    stale = store.read("eeg/c/0/0/0/0")
    store.put("eeg/c/1/0/0/0", stale)
    assert "withdrawn" in verify(stack).wrong[0]
    assert list(orphans(stack, stack.published())) == ["eeg/c/1/0/0/0"]


def test_rows_change_families_round_and_round(store):
    """Tombstones rewrite all rows under other keys, so that one root replaces them at once."""
    stack = Stack(store)
    for number in range(8):
        put(stack, make_session(f"s{number}"))
        if number % 2:
            old = plain(store)
            withdraw(stack, f"s{number}")
            assert f"s{number}" in old["session"].values  # the reader of before is not disturbed
            assert old["status"].values.tolist()[-1] == 0
    assert plain(store)["session"].values.tolist() == [
        "s0", "~1", "s2", "~3", "s4", "~5", "s6", "~7"
    ]  # fmt: skip
    assert verify(Stack(store)).wrong == []


def test_many_sessions_at_once_are_one_commit(store):
    several = xr.concat(
        [make_session(n).drop_vars("time") for n in "abc"], dim="session", join="exact"
    ).assign_coords(session=["a", "b", "c"], label=("session", ["x", "y", "z"]))
    outcome = put(store, several)
    assert (outcome.commit, [s.slot for s in outcome.steps]) == (1, [0, 1, 2])
    found = plain(store)
    assert found["label"].values.tolist() == ["x", "y", "z"]
    # What was read from a store can be appended to another, padding and tombstones left behind.
    put(store, make_session("long", windows=50).drop_vars("time").assign(label="q"))
    withdraw(Stack(store), "b")
    copy = open_store("memory://copy")
    put(copy, catchment.arrays.open(store, tombstones=True))
    opened = catchment.arrays.open(copy)
    assert opened["n_windows"].values.tolist() == [20, 20, 50]
    assert same(read.session(opened, "c"), make_session("c"))
    hashes = {e.row.session: e.row.content_hash for e in read.entries(store)[1]}
    assert {e.row.content_hash for e in read.entries(copy)[1]} <= set(hashes.values())


def test_long_text_and_moments_do_not_shift(store):
    def session(name, text, unit):
        events = np.array(["2026-01-01T00:00:00.123", "2026-01-02"], dtype=f"M8[{unit}]")
        return xr.Dataset(
            {"note": (("event",), np.array([text, "b"])), "at": (("event",), events)},
            attrs={"session_id": name},
        )

    put(store, session("a", "x", "ms"), session("b", "much longer text " * 40, "us"))
    found = plain(store)
    assert found["note"].values[1, 0] == "much longer text " * 40
    assert str(found["at"].values[1, 0]).startswith("2026-01-01T00:00:00.123")
    assert found["at"].dtype.kind == "M"
    assert verify(Stack(store)).wrong == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.drop_vars("fnirs"), ("variable-missing", "b: fnirs")),
        (lambda d: d.assign(more=d["eeg"]), ("variable-extra", "b: more")),
        (lambda d: d.isel(channel=[1, 0, 2]), ("labels-differ", "b: channel")),
        (lambda d: d.isel(channel=[0, 1]), ("labels-differ", "b: channel")),
        (lambda d: d.drop_vars("channel"), ("labels-differ", "b: channel")),
        (lambda d: d.isel(sample=slice(5)), ("size-differs", "b: sample")),
        (lambda d: d.assign(eeg=d["eeg"].astype("f8")), ("dtype-differs", "b: eeg")),
        (lambda d: d.transpose("channel", ...), ("dims-differ", "b: eeg")),
        (lambda d: d.assign(eeg=d["eeg"].assign_attrs(units="V")), ("units-differ", "b: eeg")),
        (
            lambda d: d.assign(eeg=d["eeg"].assign_attrs(sampling_rate_hz=1)),
            ("sampling-differs", "b: eeg"),
        ),
        (
            lambda d: d.assign(eeg=d["eeg"].assign_attrs(reference="A1")),
            ("reference-differs", "b: eeg"),
        ),
        (lambda d: d.assign_coords(channel=[1, 2, 3]), ("labels-differ", "b: channel")),
    ],
)
def test_what_does_not_go_with_the_store_is_refused_before_any_write(store, change, expected):
    put(store, make_session("a"))
    before = list(store.list())
    outcome = api.append(change(make_session("b")), Stack(store))
    assert expected in codes(outcome)
    assert outcome.refused
    assert {s.decision for s in outcome.steps} == {Decision.REFUSE}
    assert list(store.list()) == before
    assert plain(store)["session"].values.tolist() == ["a"]


def test_another_dimension_is_refused(store):
    put(store, make_session("a"))
    outcome = api.append(make_session("b"), Stack(store), append_dim="subject", session="b")
    assert ("append-dim-differs", "b") in codes(outcome)


def test_a_dimension_of_positions_is_refused(store):
    put(store, make_session("a"))
    outcome = api.append(make_session("b"), Stack(store), append_dim="time")
    assert ("append-dim-positions", "time") in codes(outcome)
    assert plain(store).sizes["session"] == 1


def infinite(d):
    d["eeg"][0, 0, 0] = np.inf
    return d


def nothing(d):
    d["eeg"][...] = np.nan
    return d


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d.isel(time=slice(0)), "no-windows"),
        (infinite, "values-infinite"),
        (nothing, "values-missing-all"),
        (lambda d: d.assign_attrs(note="x" * 70_000), "attributes-too-large"),
        (lambda d: d.drop_attrs(), "session-missing"),
        (lambda d: d.assign_attrs(session_id=[]), "session-missing"),
        (lambda d: d.assign_attrs(session_id="~1"), "bad-session"),
        (lambda d: d.assign_attrs(session_id="a\x1b[2J"), "bad-session"),
        (lambda d: d.assign_attrs(session_id="x" * 300), "bad-session"),
        (lambda d: d.rename(eeg="../eeg"), "bad-variable"),
        (lambda d: d.rename(eeg="_catchment"), "bad-variable"),
        (lambda d: d[["time"]], "no-variables"),
        (lambda d: d.assign(n_windows=d["eeg"]), "reserved-variable"),
        (lambda d: d.assign(odd=("time", np.array([{}] * 20))), "dtype-unsupported"),
        (lambda d: d.assign(odd=("time", np.zeros(20, "m8[s]"))), "dtype-unsupported"),
        (lambda d: d.assign_coords(channel=["E0", "E0", "E1"]), "labels-repeated"),
        (lambda d: d.assign({CLOCK: d["eeg"]}), "clock-twice"),
        (lambda d: d.expand_dims(session=["q", "q"]), "session-repeated"),
        (lambda d: d.drop_attrs().expand_dims(session=2), "session-missing"),
        (lambda d: d.assign_coords(far=("n", np.arange(70_000))), "labels-too-many"),
        (
            lambda d: d.assign({f"v{i}": ("time", np.zeros(20)) for i in range(260)}),
            "too-many-variables",
        ),
    ],
)  # fmt: skip
def test_a_session_that_cannot_be_kept_has_findings_and_no_store(store, change, code):
    outcome = api.append(change(make_session("a")), Stack(store), site="lab")
    assert code in {c for c, _ in codes(outcome)}
    assert {f.site for f in outcome.findings} == {"lab"}
    assert list(store.list()) == []


def test_what_is_only_told(store):
    session = make_session("a")
    session["eeg"][0, 0, 0] = np.nan
    session = session.assign_attrs(odd=object(), array=np.arange(2), when=np.datetime64("2026"))
    session = session.assign_coords(grid=(("channel", "optode"), np.zeros((3, 4))))
    outcome = put(store, session)
    assert {f.code for f in outcome.findings} == {
        "values-missing", "attribute-dropped", "label-dropped"
    }  # fmt: skip
    assert plain(store).sizes["session"] == 1


@pytest.mark.parametrize(
    "session",
    [
        make_session("a").assign_attrs(session_id=["a", "b"]),
        make_session("x").assign_coords(session="a"),
        make_session("x").expand_dims(session=["a"]),
        make_session("a").expand_dims("session"),
        make_session("x").assign_attrs(session_id=b"a"),
    ],
)
def test_where_an_id_may_stand(store, session):
    assert put(store, session).steps[0].session == "a"
    assert same(read.session(catchment.arrays.open(store), "a"), session.squeeze())


def test_ids_given_by_the_caller_win(store):
    put(store, make_session("x").expand_dims(session=["y"]), session="a b/ü", site="lab 1")
    (entry,) = read.entries(store)[1]
    assert (entry.row.session, entry.row.site) == ("a b/ü", "lab 1")
    assert not any("ü" in stat.key for stat in store.list())


def test_facts_of_the_dataset_become_rows(store):
    session = make_session("a").assign(site="north", start=5.0, source="k", transform="t 1", age=7)
    session = session.assign_coords(time=np.arange(20))
    put(store, session)
    put(
        store,
        session.assign_attrs(session_id="b").assign(transform="t 2", age=8),
        chunks={"time": 64},
    )
    found = plain(store)
    assert found["transform"].values.tolist() == ["t 1", "t 2"]
    assert found["age"].values.tolist() == [7, 8]
    assert found["site"].values.tolist() == ["north", "north"]
    assert found["start"].values.tolist() == [5.0, 5.0]
    prepared, _ = prepare(session, facts=Facts(start=9.0))
    assert prepared[0].row.start == 9


def test_a_clock_in_numbers_and_other_ragged_dimensions(store):
    def session(name, slow, fast):
        return xr.Dataset(
            {"a": (("time",), np.arange(slow) * 1.0), "b": (("sample",), np.arange(fast) * 1.0)},
            coords={"time": np.linspace(1, 2, slow), "sample": np.linspace(0, 1, fast)},
            attrs={"session_id": name},
        )

    for name, slow, fast in (("x", 3, 9), ("y", 5, 4)):
        put(store, session(name, slow, fast), ragged=("time", "sample"))
    one = read.session(catchment.arrays.open(store), "y")
    assert one[CLOCK].values.tolist() == np.linspace(1, 2, 5).tolist()
    assert (one.sizes["time"], one.sizes["sample"]) == (5, 4)
    assert one["sample_value"].values.tolist() == np.linspace(0, 1, 4).tolist()
    assert verify(Stack(store)).wrong == []


def test_chunks_are_fixed_when_the_store_is_made(store):
    put(store, make_session("a"), chunks={"time": 8, "session": 1, "channel": 2})
    assert plain(store)["eeg"].encoding["chunks"] == (1, 8, 2, 10)
    put(store, make_session("b"), chunks={"time": 8})
    for wrong in ({"time": 9}, {"channel": 3}, {"session": 2}, {"sample": 5}):
        with pytest.raises(Invalid, match="has chunks of") as caught:
            put(store, make_session("c"), chunks=wrong)
        assert "catchment arrays rechunk STORE --chunks" in caught.value.hint
    with pytest.raises(Invalid) as caught:
        put(open_store("memory://chunks"), make_session("c"), chunks={"space": 8})
    assert caught.value.kind == "bad-chunks"


def test_chunks_of_a_new_store_are_those_of_the_dataset(store):
    put(store, make_session("a", windows=90).chunk({"time": 40}))
    assert plain(store)["eeg"].encoding["chunks"][1] == 40
    big = open_store("memory://big")
    put(big, make_session("a", windows=3000, samples=500))
    assert catchment.arrays.open(big)["eeg"].encoding["chunks"][1] == 699  # 4 MiB


def test_large_variables_are_written_piece_by_piece(store, monkeypatch):
    monkeypatch.setattr("catchment.arrays.chunks._AT_ONCE", 1000)
    monkeypatch.setattr("catchment.arrays.content.BLOCK", 700)
    events = []
    session = make_session("a", windows=90).chunk({"time": 40})
    put(Stack(store, progress=events.append), session, chunks={"time": 8})
    assert same(read.session(catchment.arrays.open(store), "a"), session)
    assert events[-1].state == "done"
    assert (events[-1].done, events[-1].total) == (36, 36)
    assert prepare(make_session("a", windows=90))[0][0].row.content_hash == (
        read.entries(store)[1][0].row.content_hash
    )


def test_a_dry_run_says_slot_windows_bytes_and_conflicts(tmp_path):
    folder = tmp_path / "dry.zarr"
    planned = catchment.arrays.append(make_session("a"), folder, dry_run=True)
    (step,) = planned.steps
    assert (step.decision, step.slot, step.windows) == (Decision.APPEND, 0, 20)
    assert step.raw_bytes == 20 * (3 * 10 + 4) * 4 + 20 * 8
    assert (planned.dry_run, planned.commit) == (True, None)
    assert not folder.exists()
    catchment.arrays.append(make_session("a"), folder)
    other = catchment.arrays.append(make_session("a", seed=1), str(folder), dry_run=True)
    assert other.steps[0].decision is Decision.CONFLICT
    assert json.loads(json.dumps(other.to_json()))["steps"][0]["decision"] == "conflict"
    assert catchment.arrays.append(make_session("c"), folder, dry_run=True).steps[0].slot == 1
    refused = catchment.arrays.append(make_session("c").drop_attrs(), folder, dry_run=True)
    assert (refused.refused, refused.commit) == (True, 1)
    with pytest.raises(Invalid):
        catchment.arrays.append(
            make_session("a"), tmp_path / "x.zarr", chunks={"y": 1}, dry_run=True
        )


def test_leaves_of_a_tree(store):
    tree = xr.DataTree.from_dict({"/": make_session("a")[["channel"]], "/x": make_session("a")})
    put(store, tree["x"])
    assert catchment.arrays.open(Stack(store))["session"].values.tolist() == ["a"]


def test_readers_ask_little_of_the_store(store):
    stack = Stack(store)
    for number in range(40):
        put(stack, make_session(f"s{number}", windows=3))
    opened = read.view(store, read.published(store))
    one = read.session(xr.open_zarr(opened, consolidated=True), "s17")
    assert same(one[["eeg", "fnirs", CLOCK]].load(), make_session("s17", windows=3))
    assert opened.requests + 1 <= 10  # one for the root


def test_another_kind_of_store_is_left_alone(store, tmp_path):
    make_session("a").drop_vars("time").to_zarr(tmp_path / "common.zarr", consolidated=False)
    before = list(store.list())
    outcome = api.append(make_session("b"), Stack(store))
    assert codes(outcome) == [("append-dim-missing", "session")]
    with pytest.raises(Invalid) as caught:
        Stack(store).part()
    assert caught.value.kind == "not-our-store"
    assert list(store.list()) == before
    with pytest.raises(NotFound) as caught:
        catchment.arrays.open(tmp_path / "nowhere")
    assert caught.value.kind == "no-store"
    put(open_store("memory://some"), make_session("a"))
    with pytest.raises(NotFound):
        read.session(catchment.arrays.open(open_store("memory://some")), "zz")


def test_two_writers_without_a_ledger_never_fill_one_slot(store):
    """The second commit loses, sees the first, and goes on."""
    put(store, make_session("a"))
    stack, rival = Stack(store), Stack(store)
    document = stack.heal()
    with journal.holding() as holder:
        staged = stack.stage(document, prepare(make_session("b"))[0][0], holder)
        put(rival, make_session("c"))
        assert stack.commit(stack.heal(), [staged]) is None  # its slot was given up
    outcome = put(stack, make_session("b"))
    assert outcome.steps[0].slot == 3
    assert plain(store)["session"].values.tolist() == ["a", "~1", "c", "b"]
    assert plain(store)["status"].values.tolist()[1] == Status.ABANDONED
    assert catchment.arrays.open(store)["session"].values.tolist() == ["a", "c", "b"]
    assert verify(stack).wrong == []
    assert len(list(orphans(stack, stack.published()))) == 3  # what b wrote first


def test_a_commit_that_lost_is_tried_again(store, monkeypatch):
    put(store, make_session("a"))
    tries = []

    def lost(*args):
        tries.append(args)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(journal, "commit", lost)
        with pytest.raises(Conflict) as caught:
            put(store, make_session("b"))
        assert (caught.value.kind, len(tries)) == ("commits-lost", 20)
        with pytest.raises(Conflict):
            withdraw(Stack(store), "a")
    assert put(store, make_session("b")).steps[0].slot == 1  # the claim is ours still


def test_a_late_root_is_mended(store):
    """A writer that slept put an older root over a newer one."""
    stack = Stack(store)
    put(stack, make_session("a"))
    old = store.read(layout.ROOT)
    put(stack, make_session("b"))
    store.put(layout.ROOT, old, mode="overwrite")
    verdict = verify(Stack(store))
    assert "not shown" in verdict.wrong[0]
    assert plain(store)["session"].values.tolist() == ["a"]
    assert put(Stack(store), make_session("b")).steps[0].decision is Decision.UNCHANGED
    assert plain(store)["session"].values.tolist() == ["a", "b"]


def told(entries):
    return [(e.slot, e.status, e.row.session, e.row.content_hash) for e in entries]


def test_what_is_known_follows_the_commits(store, monkeypatch):
    """A few commits of others are read one by one; the rows only where there are many."""
    stack, other = Stack(store), Stack(store)
    put(stack, make_session("a"), make_session("b"))
    put(other, make_session("c"))
    withdraw(other, "b")
    put(other, make_session("a", seed=1), on_conflict="replace")
    document = stack.published()
    with monkeypatch.context() as patch:
        patch.setattr(rows, "read", lambda *_: pytest.fail("the rows were read"))
        known = stack.known(document)
    assert told(known.entries) == told(other.replay(document.commit))
    assert {name: entry.slot for name, entry in known.present.items()} == {"c": 2, "a": 3}
    for number in range(stacks.FEW + 1):
        put(other, make_session(f"d{number}"))
    document = stack.published()
    read_rows = rows.read
    looks = []
    monkeypatch.setattr(rows, "read", lambda *some: looks.append(some) or read_rows(*some))
    assert told(stack.known(document).entries) == told(other.replay(document.commit))
    assert len(looks) == 1
    put(other, make_session("e"))
    key = layout.log(document.commit + 1)
    good = store.read(key)
    store.put(key, b"{", mode="overwrite")  # damaged: the rows say the same
    assert "e" in stack.known(stack.published()).present
    store.put(key, good, mode="overwrite")
    put(stack, make_session("f"))
    assert verify(Stack(store)).wrong == []


def test_rows_of_many_chunks(store, monkeypatch):
    """Whoever appends, withdraws or replaces: rows are what the commits say."""
    monkeypatch.setattr(layout, "ROWS", 4)
    one, two = Stack(store), Stack(store)
    for number in range(11):
        put((one, two)[number % 2], make_session(f"s{number}", windows=number + 1))
        if number % 4 == 3:
            withdraw((two, one)[number % 2], f"s{number - 2}")
        if number == 6:
            put(one, make_session("s5", seed=1), make_session("t"), on_conflict="replace")
    document, found = read.entries(store)
    assert told(found) == told(one.replay(document.commit))
    assert len(found) == 13
    assert verify(Stack(store)).wrong == []


def test_an_append_converts_its_own_rows_only(store, monkeypatch):
    stack, value, counts = Stack(store), rows.value, []
    monkeypatch.setattr(rows, "value", lambda *some: counts.append(some) or value(*some))
    for number in range(12):
        counts.clear()
        put(stack, make_session(f"s{number}"))
        assert len(counts) == len(stack.published().rows())


def test_damaged_rows_are_found_and_restored(store):
    put(store, *(make_session(name) for name in "abc"))
    key = layout.row_key("session", 0, 0)
    good = store.read(key)
    store.delete(key)
    with pytest.raises(Corrupt):
        read.entries(store)
    assert put(Stack(store), make_session("b")).steps[0].decision is Decision.UNCHANGED
    verdict = verify(Stack(store))
    assert verdict.wrong == ["the rows of slot 0 are not those of its commit"]
    mended = verify(Stack(store), repair=True)
    assert (mended.wrong, mended.repaired) == ([], True)
    assert store.read(key) == good
    store.put(layout.row_key("content_hash", 0, 0), b"", mode="overwrite")
    assert verify(Stack(store), repair=True).wrong == []


def test_damaged_chunks_are_found(store):
    put(store, make_session("a"), make_session("b"))
    stack = Stack(store)
    data = store.read("eeg/c/0/0/0/0")
    store.put("eeg/c/1/0/0/0", data, mode="overwrite")
    assert verify(stack, quick=True).wrong == []
    assert verify(stack).wrong == ["slot 1 does not hold what was appended: its digest differs"]
    store.put("eeg/c/1/0/0/0", data[:-9], mode="overwrite")
    assert "cannot be decoded" in verify(stack).wrong[0]
    store.put("_catchment/log/0000000002.json", b"{", mode="overwrite")
    with pytest.raises(Corrupt):
        verify(stack)
    store.put("_catchment/log/0000000002.json", b'{"number": 7}', mode="overwrite")
    with pytest.raises(Corrupt, match="says that it is commit 7"):
        verify(stack)


def test_records_come_back_from_json():
    row = Row("a", 3, "sha256:x", start=1.5, values={"n": 1}, attributes={"k": [1]})
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
    assert Row.from_json(Row("a", 1, "").to_json()).start != 0  # NaN
    with pytest.raises(Corrupt):
        journal.after(None, {"kind": "append", "number": 3})
    with pytest.raises(Corrupt):
        Stack(open_store("memory://none")).restore()
    with pytest.raises(Invalid):
        Document.parse(b"[]")
    assert rows.changes({"tombstones": {"4": 2}})[4].row.session == "~4"
    assert layout.parse_claim("x") is None
