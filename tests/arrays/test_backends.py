"""Every back end under one contract; Icechunk's own troubles."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import xarray as xr

import catchment.arrays
from catchment.arrays import api, backend, read
from catchment.arrays.stack import Stack
from catchment.core.errors import Conflict, Invalid
from catchment.core.ledger import Ledger
from catchment.core.store import open_store
from catchment.testing.arrays import make_session, same
from catchment.testing.arrays_contract import SessionsContract, append

pytest.importorskip("icechunk", reason="the extra icechunk is not installed")

from catchment.arrays.icechunk_store import IcechunkStore

pytestmark = pytest.mark.usefixtures("no_sync")


class TestStack(SessionsContract):
    @pytest.fixture
    def sessions(self, store, ledger):
        return lambda: Stack(store, ledger)


class TestStackInMemory(SessionsContract):
    @pytest.fixture
    def sessions(self, tmp_path):
        return lambda: Stack(open_store(f"memory://{tmp_path.name}"))


class TestStackOnS3(SessionsContract):
    @pytest.fixture
    def sessions(self, moto, ledger):
        store = moto.store()
        return lambda: Stack(store, ledger)


class TestIcechunk(SessionsContract):
    @pytest.fixture
    def sessions(self, store, ledger):
        return lambda: IcechunkStore(store, ledger)


class TestIcechunkOnS3(SessionsContract):
    @pytest.fixture
    def sessions(self, moto, ledger):
        store = moto.store()
        return lambda: IcechunkStore(store, ledger)


def test_writers_at_once_lose_nothing(store, tmp_path):
    """On a local folder Icechunk itself would: commits go through the ledger's lease."""
    url = f"sqlite:///{tmp_path}/ledger.db"

    def send(writer):
        with Ledger.open(url) as ledger:
            for number in range(4):
                for _ in range(2):
                    queue = IcechunkStore(store, ledger)
                    queue._queue = Stack(store, ledger, "arrays/x", lease=timedelta(seconds=5))
                    assert not append(queue, make_session(f"s{writer}{number}", windows=3)).refused

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(4)))
    verdict = IcechunkStore(store).verify()
    assert (verdict.wrong, verdict.sessions) == ([], 16)


def test_a_withdrawn_session_is_not_in_the_history(store):
    import icechunk

    one = IcechunkStore(store)
    append(one, make_session("a", windows=100))
    append(one, make_session("b"))
    folder = store.path("icechunk/repo").parent
    before = set((folder / "chunks").iterdir())
    append(one, make_session("a", seed=1), on_conflict="replace")
    entry, deleted = one.withdraw("a")
    assert (entry.slot, deleted > 0) == (2, True)
    assert len(set((folder / "chunks").iterdir()) & before) < len(before)
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))
    for snapshot in list(repository.ancestry(branch="main"))[:-1]:
        view = repository.readonly_session(snapshot_id=snapshot.id).store
        assert "a" not in xr.open_zarr(view, consolidated=False)["session"].values


def test_the_verbs_find_the_back_end(tmp_path):
    place = tmp_path / "x.zarr"
    made = catchment.arrays.append(make_session("a"), place, backend="icechunk")
    assert made.commit == 1
    assert catchment.arrays.append(make_session("b", windows=9), place).commit == 2
    store = open_store(place.as_uri())
    assert backend.kind_of(store) == "icechunk"
    assert same(read.session(catchment.arrays.open(place), "b"), make_session("b", windows=9))
    assert len(catchment.arrays.windows(place)) == 29
    assert catchment.arrays.export(place, tmp_path / "flat").windows == 29
    with api.opened(place) as found:
        assert api.store_of(found).url == store.url
    for wrong in (
        lambda: catchment.arrays.append(make_session("c"), place, backend="zarr"),
        lambda: catchment.arrays.append(make_session("c"), tmp_path / "y", backend="tar"),
        lambda: catchment.arrays.rechunk(place, {"time": 3}),
        lambda: append(IcechunkStore(open_store("memory://ice"))),
    ):
        with pytest.raises(Invalid) as caught:
            wrong()
        assert caught.value.kind == "bad-backend"


def test_damage_and_lost_commits(store, monkeypatch):
    one = IcechunkStore(store)
    append(one, make_session("a", windows=100), make_session("b", windows=100))
    assert one.verify(quick=True).sessions == 2
    with monkeypatch.context() as patch:
        patch.setattr(IcechunkStore, "_commit", lambda *_: False)
        for work in (lambda: append(one, make_session("c")), lambda: one.withdraw("a")):
            with pytest.raises(Conflict) as caught:
                work()
            assert caught.value.kind == "commits-lost"
    chunk = max(
        store.path("icechunk/repo").parent.joinpath("chunks").iterdir(),
        key=lambda p: p.stat().st_size,
    )
    chunk.write_bytes(b"x" * chunk.stat().st_size)
    assert len(one.verify().wrong) >= 1


def test_without_icechunk(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "icechunk", None)
    with pytest.raises(Invalid) as caught:
        append(IcechunkStore(store), make_session("a"))
    assert caught.value.kind == "missing-extra"
