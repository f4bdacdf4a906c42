"""What a snapshot names is never written again, whoever wakes, reprocesses or decides otherwise."""

from __future__ import annotations

import hashlib

import pytest

from catchment.core.errors import Conflict
from catchment.core.store import Range, open_store
from catchment.studies import actions, capability, disclosure, layout, library, merge, once
from catchment.testing.studies import cube, make_people
from tests.studies.studying import CUBE, package, send_cube, whole, workspace

HALVES = [b"what ", b"it is"]


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def ways(store):
    """Each way to write: of chunks, and of ranges."""
    store.put("in", b"what it is", mode="overwrite")
    yield lambda key: once.put(store, key, lambda: iter(HALVES))
    yield lambda key: once.compose(store, key, lambda: iter([b"what ", Range(store, "in", 5, 5)]))


@pytest.mark.parametrize("url", ["memory://once", "{}"])
def test_what_stands_is_kept(url, tmp_path):
    store = open_store(url.format(tmp_path.as_uri()))
    for number, write in enumerate(ways(store)):
        key = f"out/{number}.csv"
        first = write(key)
        assert first == (key, 10, digest(b"what it is"))
        stat = store.head(key)
        assert write(key) == first
        assert store.head(key) == stat


@pytest.mark.parametrize("url", ["memory://beside", "{}"])
def test_what_differs_stays_and_the_other_lies_beside_it(url, tmp_path):
    store = open_store(url.format(tmp_path.as_uri()))
    for number, write in enumerate(ways(store)):
        key = f"out/{number}.csv"
        store.put(key, b"something else")
        made = write(key)
        assert made.key != key
        assert made[1:] == (10, digest(b"what it is"))
        assert write(key) == made
        assert (store.read(key), store.read(made.key)) == (b"something else", b"what it is")
        store.put(made.key, b"damaged", mode="overwrite")  # its key tells what it should be
        assert write(key) == made
        assert store.read(made.key) == b"what it is"


def test_what_no_snapshot_names_is_mended():
    store = open_store("memory://mended")
    store.put("part.csv", b"half")
    made = once.put(store, "part.csv", lambda: HALVES, mend=True)
    assert made == ("part.csv", 10, digest(b"what it is"))
    assert store.read("part.csv") == b"what it is"


def test_other_conflicts_are_told():
    class Busy:
        def put(self, *_, **__):
            raise Conflict("busy", kind="source-changed")

    with pytest.raises(Conflict, match="busy"):
        once.put(Busy(), "key", lambda: HALVES)


def named(space) -> dict[str, str]:
    """The keys that snapshots name, and what their objects are now."""
    store = space.store
    return {
        one["key"]: store.head(one["key"]).etag
        for snapshot in space.ledger.snapshots(layout.aggregate("core"), provenance=True)
        for one in snapshot.provenance["objects"]
    }


def test_no_key_of_a_snapshot_is_written_again(tmp_path, monkeypatch):
    """By reprocessing, another policy, another format, another library or other decisions."""
    people = cube(make_people(1, 60))
    known: dict[str, str] = {}

    def same(space):
        found = named(space)
        assert found.items() >= known.items()
        known.update(found)
        whole(space)

    real = disclosure.close
    for size in (0, 5, 11):
        with workspace(tmp_path, **{"studies.core.min_cell": size}) as space:
            if size == 0:
                send_cube(space, "a", people)
                send_cube(space, "b", CUBE.append_column("age", CUBE["sex"]), package="other")
            capability.run(space, "core")
            same(space)
            assert actions.reprocess(library.house(space), "core").state == "published"
            same(space)
    with workspace(tmp_path, **{"studies.core.min_cell": 11}) as space:
        before = package(space)

        def stricter(held, hidden, *more):
            found = real(held, hidden, *more)
            found[0] = True
            return found

        monkeypatch.setattr(disclosure, "close", stricter)
        actions.reprocess(library.house(space), "core")
        same(space)
        assert package(space).released.key != before.released.key
        assert package(space).merged == before.merged
        monkeypatch.setattr("catchment.studies.parquet.writer", lambda: "arrow-999")
        actions.reprocess(library.house(space), "core")
        same(space)
        monkeypatch.setattr(merge, "FORMAT", merge.FORMAT + 1)
        actions.reprocess(library.house(space), "core")
        same(space)


def test_an_entry_of_another_format_is_none():
    store = open_store("memory://entries")
    store.put("entry.json", [b'{"format": 0}'])
    assert merge._known(store, "entry.json") is None
