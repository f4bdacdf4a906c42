"""Many writers at once: chunks side by side, commits in order; on a dask cluster, too."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import xarray as xr

import catchment.arrays
from catchment.arrays import api, appending, journal, read
from catchment.arrays import chunks as chunking
from catchment.arrays.model import Decision, Row
from catchment.arrays.prepare import prepare
from catchment.arrays.stack import Stack
from catchment.arrays.transform.discovery import Naming
from catchment.arrays.transform.job import House, Job
from catchment.arrays.transform.run import run
from catchment.arrays.transform.sinks import below
from catchment.arrays.verify import verify
from catchment.core.errors import Conflict, Unavailable
from catchment.core.executor import open_executor
from catchment.core.store import open_store
from catchment.testing.arrays import make_session, same
from catchment.testing.arrays_work import append_session
from catchment.testing.cluster import cluster
from tests.arrays import recordings

pytestmark = pytest.mark.usefixtures("no_sync")


def test_chunks_are_written_side_by_side(store, ledger, monkeypatch):
    api.append(make_session("first"), Stack(store, ledger))
    meet, write = threading.Barrier(3, timeout=20), chunking.write

    def writing(*args):
        meet.wait()  # all of them are here at once, or this breaks
        return write(*args)

    monkeypatch.setattr(chunking, "write", writing)
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(
            pool.map(lambda n: api.append(make_session(n), Stack(store, ledger)), "abc")
        )
    assert sorted(o.steps[0].slot for o in outcomes) == [1, 2, 3]
    assert sorted(o.commit for o in outcomes) == [2, 3, 4]
    # In the order of slots: nobody's work was given up.
    assert [o.commit - o.steps[0].slot for o in outcomes] == [1, 1, 1]
    assert verify(Stack(store)).wrong == []
    assert not catchment.arrays.open(store, tombstones=True)["status"].values.any()


def test_the_same_session_from_two_writers_at_once(store, ledger, monkeypatch):
    api.append(make_session("first"), Stack(store, ledger))
    meet, write = threading.Barrier(2, timeout=20), chunking.write

    def writing(*args):
        meet.wait()
        return write(*args)

    monkeypatch.setattr(chunking, "write", writing)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(
            pool.map(lambda _: api.append(make_session("a"), Stack(store, ledger)), "ab")
        )
    assert {o.steps[0].decision for o in outcomes} == {Decision.APPEND, Decision.UNCHANGED}
    assert catchment.arrays.open(store)["session"].values.tolist() == ["first", "a"]
    monkeypatch.setattr(chunking, "write", write)
    api.append(make_session("b"), Stack(store, ledger))
    assert verify(Stack(store)).wrong == []


def test_a_writer_that_never_comes_is_not_waited_for_long(store, ledger, monkeypatch):
    monkeypatch.setattr(appending, "TURN", 0.2)
    stack = Stack(store, ledger)
    api.append(make_session("a"), stack)
    with journal.holding() as other:
        journal.claim(store, 1, Row("x", 1, ""), other)
        assert api.append(make_session("b"), stack).steps[0].slot == 2
    assert catchment.arrays.open(store)["session"].values.tolist() == ["a", "b"]
    with journal.holding() as other:
        document = stack.heal()
        stack.stage(document, prepare(make_session("c"))[0][0], other)
    assert api.append(make_session("c"), stack).resumed_chunks == 3  # it had failed: nobody waits


def test_what_fails_is_free_for_others(store, ledger, monkeypatch):
    api.append(make_session("a"), Stack(store, ledger))
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "commit", lambda *_: (_ for _ in ()).throw(Unavailable("away")))
        with pytest.raises(Unavailable):
            api.append(make_session("b"), Stack(store, ledger))
    with journal.holding() as holder:
        assert not journal.is_claimed(store, 1, holder)
    assert api.append(make_session("b"), Stack(store, ledger)).resumed_chunks == 3
    monkeypatch.setattr(Stack, "heal", lambda _: None)
    with pytest.raises((Conflict, AssertionError)):
        api.append(make_session("c"), Stack(store, ledger))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    with cluster(tmp_path_factory.mktemp("dask"), 2, str(Path(__file__).parents[2])) as found:
        yield found.address


def test_appends_on_a_cluster(address, store, tmp_path):
    ledger_url = f"sqlite:///{tmp_path}/cluster.db"
    names = [f"s{number:02}" for number in range(6)]
    with open_executor(address) as executor:
        tasks = [
            executor.submit(append_session, store.url, ledger_url, name)
            for name in [*names, *names]
        ]
        slots = [task.result() for task in tasks]
    assert slots[:6] == slots[6:]
    found = catchment.arrays.open(store)
    assert sorted(found["session"].values) == names
    assert all(same(read.session(found, name), make_session(name, windows=9)) for name in names)
    assert verify(Stack(store)).wrong == []


def test_a_transform_on_a_cluster(address, tmp_path, ledger):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(6):
        recordings.hdf5(folder / f"r{number}.h5", seed=number, frames=40 + number)
    store = open_store((tmp_path / "data").as_uri())
    with open_executor(address) as executor:
        job = Job("x", "window", {}, open_store(folder.as_uri()), "arrays/x/", Naming(b"k"))
        report = run(job, House(store, ledger, executor))
        assert run(job, House(store, ledger, executor)).state == "unchanged"
    assert report.account.total("sessions").kept == 6
    verdict = verify(Stack(below(store, "arrays/x/windows_combined.zarr")))
    assert (verdict.wrong, verdict.sessions, verdict.windows) == ([], 6, sum(range(40, 46)))


def test_dask_backed_datasets_on_a_cluster(address, store, tmp_path):
    distributed = pytest.importorskip("distributed")
    session = make_session("lazy", windows=90).chunk(time=20)
    tree = xr.DataTree.from_dict({"/": session[["channel"]], "/leaf": session})
    with distributed.Client(address, set_as_default=True):
        outcome = api.append(tree["leaf"], Stack(store), session="lazy")
        again = api.append(session, Stack(store))
    assert outcome.steps[0].decision is Decision.APPEND
    assert again.steps[0].decision is Decision.UNCHANGED
    assert same(
        read.session(catchment.arrays.open(store), "lazy"), make_session("lazy", windows=90)
    )
    assert catchment.arrays.open(store)["eeg"].encoding["chunks"][1] == 20
