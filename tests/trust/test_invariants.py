"""I1 to I10, for each of the five kinds: one named test each, and the barriers between processes.

``docs/explanation/trust.md`` tells what each invariant is, and which other tests are about it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from datetime import timedelta

import pytest

from catchment.core.account import Account, Line
from catchment.core.capability import load
from catchment.core.collection import collect
from catchment.core.errors import Corrupt
from catchment.core.ledger import Publication
from catchment.core.provenance import read_all
from catchment.core.workspace import Workspace
from catchment.testing import workspaces
from catchment.testing.ledger_faults import Fault, faulty
from tests.trust.content import behind, contents
from tests.trust.hurting import SETTINGS, Grounds, grow
from tests.trust.observer import Broken, Observer
from tests.trust.soak import AGGREGATES
from tests.trust.world import ILL

KINDS = pytest.mark.parametrize("aggregate", AGGREGATES)
POINTS = {"store": 120, "ledger": 40, "disk": 400}  # more operations than a run of these has
FEW = {"store": (9,), "ledger": (5,), "disk": (20,)}  # of the normal suite


@pytest.fixture(scope="module")
def grounds(template, mother, tmp_path_factory):
    home, _ = grow(tmp_path_factory.mktemp("grounds"), template)
    made = Grounds(home, mother)
    made.learn()
    return made


def hurt_everywhere(grounds, aggregate, kind, points) -> int:
    """Each point in a copy of its own; how many of them were reached."""
    reached = 0
    for on, numbers in points.items():
        for when in ("before", "after"):
            for at in numbers:
                with grounds.fresh() as place:
                    fault = {"kind": kind, "on": on, "at": at, "when": when}
                    said = place.do(f"run {aggregate}", fault=fault)
                    if not said["fired"]:
                        break  # it has no more operations than that
                    reached += 1
                    place.observer.all()
                    place.mend(aggregate)
            else:  # of the normal suite only some points are asked for
                assert not isinstance(numbers, range), f"{on}: more operations than {numbers[-1]}"
    return reached


@KINDS
def test_i1_a_snapshot_shows_all_its_tables_or_none(grounds, aggregate):
    """Killed at an operation: readers see the old snapshot or the new one, whole."""
    assert hurt_everywhere(grounds, aggregate, "kill", FEW) >= 4


@KINDS
def test_i2_a_reader_who_pinned_a_snapshot_is_never_disturbed(grounds, aggregate):
    """Objects and provenance of the pinned snapshot stay as they are, while others take its place."""
    with grounds.fresh() as place:
        ledger, store = place.workspace.ledger, place.workspace.store
        pinned = ledger.latest(aggregate)
        before = {o["key"]: store.read(o["key"]) for o in pinned.provenance["objects"]}
        with place.observer.always():
            place.do(f"run {aggregate}")
            place.do("gc")
        assert ledger.latest(aggregate).number > pinned.number
        assert {key: store.read(key) for key in before} == before
        assert ledger.snapshot(aggregate, pinned.number).provenance == pinned.provenance


@KINDS
@pytest.mark.parametrize("kind", ["lost", "undone"])
def test_i3_i4_acknowledged_once_and_never_twice(grounds, aggregate, kind):
    """The answer to the commit is lost, made or not: the run publishes once, and its successor never."""
    with grounds.fresh() as place:
        ledger = place.workspace.ledger
        before = ledger.latest(aggregate).number
        with faulty(ledger, Fault(kind)) as fault:
            publish = ledger.publish

            def publishing(*arguments):
                fault.done = False  # of all that is written, the answer to the commit is lost
                return publish(*arguments)

            fault.done = True
            ledger.publish = publishing
            try:
                workspaces.run(place.workspace, aggregate)
            finally:
                del ledger.publish
        assert fault.done
        assert ledger.latest(aggregate).number == before + 1
        assert workspaces.run(place.workspace, aggregate) == "unchanged"
        assert ledger.latest(aggregate).number == before + 1
        place.same(aggregate)


@KINDS
def test_i5_no_reader_sees_what_is_staged_orphaned_or_half_moved(grounds, aggregate):
    """Killed just before the commit: all objects are there, and nothing tells of them."""
    with grounds.fresh() as place:
        before = contents(place.workspace, aggregate)
        sealed = [told["catchment"]["number"] for told in read_all(place.workspace.store)]
        child = place.start(
            f"run {aggregate}", fault={"kind": "kill", "on": "publish", "at": 1, "when": "before"}
        )
        place.until(child)
        assert place.end(child) == {"killed": True, "fired": True}
        if not aggregate.startswith("arrays/"):  # a store of sessions has commits of its own
            assert contents(place.workspace, aggregate) == before
        assert [t["catchment"]["number"] for t in read_all(place.workspace.store)] == sealed
        place.mend(aggregate)


@KINDS
def test_i6_every_object_that_a_snapshot_names_is_what_it_says(grounds, aggregate):
    """And an object that is not is found, by the observer and by the program."""
    kind, _, name = aggregate.partition("/")
    with grounds.fresh() as place:
        place.do(f"run {aggregate}")
        place.observer.all()
        item = place.workspace.ledger.latest(aggregate).provenance["objects"][0]
        data = place.workspace.store.read(item["key"])
        place.workspace.store.put(item["key"], data[:-1] + b"?", mode="overwrite")
        assert load(kind).verify(place.workspace, name)
        with pytest.raises(Broken, match=r"I6|I2"):
            Observer(place.workspace).look()


@KINDS
def test_i7_numbers_have_no_gap_and_one_parent(grounds, aggregate):
    """Several at once, and failures between: 1, 2, 3, and each one's parent is the one before."""
    with grounds.fresh() as place:
        ledger = place.workspace.ledger
        before = ledger.latest(aggregate).number
        children = [place.start(f"run {aggregate}") for _ in range(3)]
        place.until(*children)
        said = [place.end(child) for child in children]
        assert any(one.get("state") == "published" for one in said), said
        assert ledger.latest(aggregate).number == before + 1
        fault = {"kind": "fail", "on": "ledger", "at": 3, "when": "after"}
        place.do(f"run {aggregate}", fault=fault)
        numbers = [(s.number, s.parent) for s in ledger.snapshots(aggregate)]
        assert numbers == [(n, n - 1 or None) for n in range(len(numbers), 0, -1)]


@KINDS
def test_i8_collection_takes_nothing_that_is_reachable_or_young(grounds, aggregate):
    """A run died and left objects: within the grace time all stay, after it only they go."""
    with grounds.fresh() as place:
        place.do(
            f"run {aggregate}", fault={"kind": "kill", "on": "publish", "at": 1, "when": "before"}
        )
        place.outlive()
        store = place.workspace.store
        named = {
            item["key"]
            for one in place.workspace.ledger.snapshots(aggregate, provenance=True)
            for item in one.provenance["objects"]
        }
        keys = {s.key for s in store.list()}
        assert collect(place.workspace, timedelta(hours=1)).objects == []
        assert {s.key for s in store.list()} == keys
        gone = set(collect(place.workspace, timedelta(0)).objects)
        assert not gone & named
        assert {s.key for s in store.list()} == keys - gone
        place.mend(aggregate)


@pytest.mark.parametrize(
    ("aggregate", "change"),
    [
        ("tables/main", "dataset_damaged"),
        ("exports/claims", "records_damaged"),
        ("imaging/ct", "image_damaged"),
        ("arrays/eeg", "recording_damaged"),
        ("studies/core", "upload_damaged"),
    ],
)
def test_i9_what_is_bad_changes_nothing_and_its_site_is_told(template, tmp_path, aggregate, change):
    """The others' rows stay; the account says what was quarantined, a finding says why."""
    home, world = grow(tmp_path, template)
    with Workspace.open(home, SETTINGS) as space:
        workspaces.run(space, aggregate)
        before = contents(space, aggregate)
        world.draw.seed(1)
        getattr(world, f"site_{change}")()
        workspaces.run(space, aggregate)
        latest = space.ledger.latest(aggregate)
        told = space.ledger.findings(run=latest.run)
        account = Account.from_json(latest.provenance["catchment"]["account"])
        account.check()
        after = contents(space, aggregate)
        if aggregate.startswith("studies/"):
            assert [f.site for f in told] == [ILL]
            assert any(s.state == "error" for s in space.ledger.counts(aggregate))
            assert {k: v for k, v in after.items() if k in before} == before
        else:
            assert told
            assert all(finding.code and finding.hint for finding in told)
        if aggregate.startswith(("arrays/", "imaging/")):
            same = {
                k: v
                for k, v in before.items()
                if k not in {"account", "files", "states", "rows of files"}
            }
            assert {k: after[k] for k in same} == same


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_i10_a_site_changes_its_own_rows_only(template, tmp_path, aggregate):
    """One site has something new: what the others have in the aggregate is what it was."""
    home, world = grow(tmp_path, template)
    with Workspace.open(home, SETTINGS) as space:
        workspaces.run(space, aggregate)
        before = _by_site(space, aggregate)
        match aggregate.partition("/")[0]:
            case "tables":
                world._center = lambda *_: "center02"
                world.site_dataset_new()
                changed = {"12"}
            case "exports":
                world.site_records_new()
                changed = set()
            case "imaging":
                (world.folder / "later/south/00009.dcm").rename(world.folder / "south/00009.dcm")
                changed = {"south"}
            case "arrays":
                world.site_recording_new()
                changed = set()
            case _:
                world.draw.seed(5)
                world.site_upload()
                changed = {next(iter(set(world.expected) - set(before)), None) or _last(world)}
        assert workspaces.run(space, aggregate) == "published"
        after = _by_site(space, aggregate)
        assert after != before
        for site in before.keys() - changed:
            assert after[site] == before[site], site


def _last(world):
    return list(world.expected)[-1]


def _by_site(space, aggregate):  # noqa: C901, PLR0912 - one branch for each kind
    """The rows of each site, as one text; of exports of each member, of arrays of each session."""
    found: dict[str, list[str]] = {}
    kind, _, name = aggregate.partition("/")
    latest = space.ledger.latest(aggregate)
    if kind == "tables":
        from catchment.tables.snapshot import open_snapshot

        for row in open_snapshot(space.store, space.ledger, name)["uds"].to_arrow().to_pylist():
            found.setdefault(str(row["adcid"]), []).append(str(row))
    elif kind == "imaging":
        from catchment.imaging.snapshot import open_snapshot as open_images

        for row in open_images(space.store, space.ledger, name)["images"].to_pylist():
            found.setdefault(row["site"], []).append(json.dumps(row, sort_keys=True, default=str))
    elif kind == "exports":
        for item in latest.provenance["objects"]:
            if item["role"] == "data":
                for line in space.store.read(item["key"]).splitlines():
                    member = json.loads(line)["id"].partition("-")[0]
                    found.setdefault(member, []).append(line.decode())
    elif kind == "arrays":
        for session, digest in contents(space, aggregate).items():
            if session != "account":
                found[session] = [digest]
    else:
        import io

        import pyarrow.parquet as pq

        for item in latest.provenance["objects"]:
            if item["role"] == "released" and item["key"].endswith(".parquet"):
                for row in pq.read_table(io.BytesIO(space.store.read(item["key"]))).to_pylist():
                    if row.get("site"):
                        found.setdefault(row["site"], []).append(str(row))
    return {
        site: hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
        for site, rows in found.items()
    }


# --- barriers: one stops at an operation, another acts, the first one wakes -------------------------


def patience(aggregate) -> float:
    """Seconds of a sleeper's lease; a run of studies waits for its end, as an upload wants answer."""
    return 5 if aggregate.startswith("studies/") else 60


def between(grounds, aggregate, point, acts, do="") -> bool:
    """Whether the point was reached. In the end all is as if nobody had been stopped."""
    on, at, when = point
    with grounds.fresh() as place:
        fault = {"kind": "stop", "on": on, "at": at, "when": when}
        sleeper = place.start(do or f"run {aggregate}", fault=fault, ttl=patience(aggregate))
        place.until(sleeper)
        if not sleeper.stopped():
            place.end(sleeper)
            return False
        place.observer.look()  # {commit, reader}
        for act, options in acts:
            said = place.do(act, **options)
            assert said.get("class") in {None, "Conflict"}, said
            place.observer.look()
        place.end(sleeper)
        place.observer.all()
        place.mend(aggregate)
        return True


LATER = {"clock": 120}  # a host for which the sleeper's lease is over
BARRIERS = {
    "commit-commit": lambda aggregate: [(f"run {aggregate}", {})],
    "commit-collection": lambda _: [("gc", {})],
    "takeover-woken": lambda aggregate: [(f"run {aggregate}", LATER), ("gc", LATER)],
}
SOME = [("store", 7, "before"), ("publish", 1, "before")]


@KINDS
@pytest.mark.parametrize("barrier", BARRIERS)
def test_barrier(grounds, aggregate, barrier):
    """{commit, commit}, {commit, collection}, {takeover, woken writer}; readers look at each."""
    acts = BARRIERS[barrier](aggregate)
    assert sum(between(grounds, aggregate, point, acts) for point in SOME) >= 1


def test_what_a_dead_run_had_committed_is_shown_before_it_is_accounted_for(grounds):
    """A store of sessions has commits of its own: a run died behind one, before its root told it."""
    found = 0
    for at in range(12, 30):
        with grounds.fresh() as place:
            fault = {"kind": "kill", "on": "store", "at": at, "when": "after"}
            if not place.do("run arrays/eeg", fault=fault)["fired"]:
                break
            if behind(place.workspace, "arrays/eeg"):
                found += 1
                with pytest.raises(Broken, match="I6"):
                    place.observer.verify("arrays/eeg")
                place.outlive()
                place.do("run arrays/eeg")
                assert not behind(place.workspace, "arrays/eeg")
                place.observer.verify("arrays/eeg")
                place.mend("arrays/eeg")
                break
    assert found


@KINDS
def test_barrier_of_a_collector_that_sleeps_while_an_orphan_becomes_part_of_a_snapshot(
    grounds, aggregate
):
    """What it was about to remove is named now: keys that follow from content are used again."""
    with grounds.fresh() as place:
        place.do(
            f"run {aggregate}", fault={"kind": "kill", "on": "publish", "at": 1, "when": "before"}
        )
        place.outlive()
        fault = {"kind": "stop", "on": "delete", "at": 1, "when": "before"}
        collector = place.start("gc", fault=fault, ttl=patience(aggregate))
        place.until(collector)
        held = place.do(f"run {aggregate}")  # the collector has the lease: nobody may come between
        if collector.stopped():
            assert held.get("error") == "lease-held" or aggregate != "imaging/ct"
        place.end(collector)
        place.observer.all()
        place.mend(aggregate)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@KINDS
@pytest.mark.parametrize("kind", ["kill", "fail"])
def test_every_fault_point(grounds, aggregate, kind):
    """The 1st, 2nd, ... last operation on the store, the ledger and the disk."""
    points = {on: range(1, most) for on, most in POINTS.items()}
    assert hurt_everywhere(grounds, aggregate, kind, points) > 60


@pytest.mark.soak
@pytest.mark.timeout(3600)
@KINDS
@pytest.mark.parametrize("barrier", BARRIERS)
def test_every_barrier(grounds, aggregate, barrier):
    """The same with one stopped before each of its operations."""
    acts = BARRIERS[barrier](aggregate)
    for on in ("store", "ledger"):
        for at in range(1, POINTS[on]):
            if not between(grounds, aggregate, (on, at, "before"), acts):
                break


def test_the_observer_finds_what_is_broken(grounds):
    """An observer that cannot fail proves nothing."""
    with grounds.fresh() as place:
        space, observer = place.workspace, place.observer
        latest = space.ledger.latest("exports/claims")
        observer.acknowledged.add(("exports/claims", 99))
        with pytest.raises(Broken, match="I3"):
            observer.look()
        observer.acknowledged.clear()
        told = dict(latest.provenance)
        told["catchment"] = {**told["catchment"], "number": 77}
        space.store.put("exports/claims/ghost/provenance.json", json.dumps(told).encode())
        with pytest.raises(Broken, match="I5"):
            observer.all()
        space.store.delete("exports/claims/ghost/provenance.json")
        observer.all()
        key = latest.provenance["objects"][0]["key"]
        data = space.store.read(key)
        space.store.put(key, data, mode="overwrite")
        with pytest.raises(Broken, match="I2"):
            observer.look()
        space.store.delete(key)
        with pytest.raises(Broken, match="I6"):
            observer.look()
        account = Account()
        account[Line("a", "t", "rows")].received = 1
        with pytest.raises(Corrupt):
            space.ledger.publish(
                Publication("tables/x", "k", "tables/x/1/", {"objects": []}, account)
            )


def test_a_collector_that_was_overtaken_stops(grounds, monkeypatch):
    """It looks at its lease while it works: who took over has nothing to fear."""
    from catchment.core import collection

    monkeypatch.setattr(collection, "_LOOK", -1.0)
    with grounds.fresh() as place:
        space = place.workspace
        for number in range(5):
            space.store.put(f"imaging/ct/raw/objects/00/{number}", b"x")
        found = load("imaging").orphans(space, grace=timedelta(0))
        assert next(found)
        space.ledger.release(space.ledger.lease("imaging/ct"))
        taken = threading.Event()
        with space.ledger.holding("imaging/ct"):
            taken.set()
            assert list(found) == []
        assert taken.is_set()


def test_a_disk_that_is_full_from_some_operation_on(grounds):
    """Nothing is lost, whichever write is the first that finds no room."""
    for aggregate in AGGREGATES:
        for at in (1, 7, 25):
            with grounds.fresh() as place:
                fault = {"kind": "full", "on": "disk", "at": at, "when": "before"}
                said = place.do(f"run {aggregate}", fault=fault)
                assert said.get("class") in {None, "Unavailable"}, said
                place.observer.all()
                place.mend(aggregate)
