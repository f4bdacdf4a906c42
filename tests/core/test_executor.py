"""Executors: the same work, the same results and the same errors wherever it runs."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, wait
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core import executor as module
from catchment.core.errors import Conflict, Invalid, Unavailable
from catchment.core.executor import bounded_map, bounded_unordered, failed_item, open_executor
from catchment.core.safe import Limits, SafePool
from catchment.testing.cluster import cluster
from catchment.testing.web import listening

TASKS = str(Path(__file__).parent)
sys.path.insert(0, TASKS)  # children take it over
import safe_tasks  # noqa: E402

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def unmeasured():
    """Processes start faster unmeasured, and a child that is killed has no coverage to tell."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def address(folder):
    with cluster(folder, 2, TASKS) as found:
        yield found.address


@pytest.fixture(scope="module")
def on_cluster(address):
    with open_executor(address, limits=Limits(memory=256 * MIB, cpu=20, wall=20)) as executor:
        yield executor


@pytest.fixture(scope="module")
def in_processes():
    with open_executor("processes", 2, Limits(memory=256 * MIB, cpu=20, wall=20)) as executor:
        yield executor


@pytest.fixture(scope="module")
def in_threads():
    with open_executor("threads", 2) as executor:
        yield executor


@pytest.fixture(params=["in_threads", "in_processes", "on_cluster"])
def executor(request) -> Executor:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["in_processes", "on_cluster"])
def guarded(request) -> Executor:
    """An executor whose tasks run under limits."""
    return request.getfixturevalue(request.param)


# --- everywhere the same ------------------------------------------------------------------------


def test_results_come_back(executor):
    assert executor.submit(safe_tasks.add, 2, two=3).result(30) == 5
    assert list(executor.map(safe_tasks.add, range(20), timeout=30)) == list(range(1, 21))


def test_our_errors_pass_as_they_are(executor):
    error = executor.submit(safe_tasks.fail, "subclass").exception(30)
    assert isinstance(error, safe_tasks.Torn)
    assert (error.kind, error.page, error.hint) == ("torn", 7, "send the page again")


@pytest.mark.parametrize("what", ["value", "panic"])
def test_of_other_errors_only_the_class_is_told(guarded, what):
    error = guarded.submit(safe_tasks.fail, what).exception(30)
    assert (type(error), error.kind) == (Invalid, "unreadable")
    assert safe_tasks.CANARY not in f"{error!r} {vars(error)}"


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ((safe_tasks.die, "segfault"), "reader-died"),
        ((safe_tasks.grow,), "reader-memory"),
        ((safe_tasks.unpicklable,), "unpicklable"),
    ],
)
def test_limits_hold_and_the_executor_works_on(guarded, task, kind):
    error = guarded.submit(*task).exception(30)
    assert (type(error), error.kind) == (Invalid, kind)
    assert guarded.submit(safe_tasks.add, 1).result(30) == 2


def test_limits_are_those_that_were_given(address):
    for kind in ("processes", address):
        with open_executor(kind, 1, Limits(wall=0.3)) as executor:
            error = executor.submit(safe_tasks.sleep, 30).exception(30)
            assert error.kind == "reader-wall"


@pytest.mark.parametrize("where", ["threads", "processes", "cluster"])
def test_leaving_waits_for_the_work(where, request):
    kind = request.getfixturevalue("address") if where == "cluster" else where
    with open_executor(kind, 1) as executor:
        futures = [executor.submit(safe_tasks.sleep, 0.1) for _ in range(3)]
    assert [future.result(0) for future in futures] == [0.1] * 3


@pytest.mark.parametrize("where", ["threads", "processes", "cluster"])
def test_an_exception_that_leaves_cancels_the_work(where, request):
    kind = request.getfixturevalue("address") if where == "cluster" else where
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), open_executor(kind, 1) as executor:  # noqa: PT012
        executor.submit(safe_tasks.sleep, 0.5)
        futures = [executor.submit(safe_tasks.sleep, 1.5) for _ in range(9)]
        raise KeyboardInterrupt
    assert all(future.cancelled() for future in futures)
    assert time.monotonic() - started < 3


def test_processors_are_the_default_number_of_workers():
    with open_executor("processes") as executor:
        assert isinstance(executor, SafePool)
        assert executor._threads._max_workers == os.cpu_count()


# --- bounded maps -------------------------------------------------------------------------------


class Manual(Executor):
    """Runs nothing by itself: tasks are run, in an order that a test draws, by ``run``."""

    def __init__(self, choose):
        self.choose = choose
        self.queue: list[tuple[Future, object, tuple]] = []
        self.most = 0

    def submit(self, fn, /, *args):
        future: Future = Future()
        self.queue.append((future, fn, args))
        self.most = max(self.most, len(self.queue))
        return future

    def run(self):
        future, fn, args = self.queue.pop(self.choose(len(self.queue)))
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(fn(*args))
            except Exception as error:  # noqa: BLE001
                future.set_exception(error)


class Driven(Manual):
    """Runs some waiting task whenever a result is wanted: every order of completion, no clock."""

    def submit(self, fn, /, *args):
        future = super().submit(fn, *args)
        future.result = lambda timeout=None: self.result(future)
        return future

    def result(self, future):
        while not future.done():
            self.run()
        return Future.result(future)


def fail_at(bad, item):
    if item in bad:
        raise Conflict(f"item {item}")
    return item * 10


@given(
    st.data(), st.integers(0, 12), st.integers(1, 5), st.frozensets(st.integers(0, 11), max_size=3)
)
def test_bounded_map_in_any_order_of_completion(data, count, window, bad):
    executor = Driven(lambda n: data.draw(st.integers(0, n - 1)))
    taken = []

    def items():
        for item in range(count):
            taken.append(item)
            yield item

    results, failed = [], None
    try:
        for result in bounded_map(executor, lambda item: fail_at(bad, item), items(), window):
            results.append(result)
            assert len(taken) <= len(results) + window - 1
    except Conflict as error:
        failed = failed_item(error)
    first = min((b for b in bad if b < count), default=None)
    assert failed == first
    assert results == [i * 10 for i in range(count if first is None else first)]
    assert executor.most <= window
    assert all(future.cancelled() for future, *_ in executor.queue)


def test_bounded_unordered_gives_what_is_done_first():
    gates = [threading.Event() for _ in range(4)]
    with open_executor("threads", 4) as executor:
        results = bounded_unordered(executor, lambda n: gates[n].wait(30) and n, range(4), 3)
        gates[1].set()
        assert next(results) == (1, 1)
        gates[3].set()  # begun in the place of 1
        assert next(results) == (3, 3)
        gates[0].set()
        gates[2].set()
        assert sorted(results) == [(0, 0), (2, 2)]


def test_bounded_unordered_raises_at_the_first_failure():
    executor = Manual(lambda _: 1)
    results = bounded_unordered(executor, lambda item: fail_at({1}, item), range(5), 3)
    threading.Timer(0.05, executor.run).start()
    with pytest.raises(Conflict) as caught:
        next(results)
    assert failed_item(caught.value) == 1
    assert [future.cancelled() for future, *_ in executor.queue] == [True, True]


def test_an_iterator_that_is_closed_cancels_the_rest():
    executor = Driven(lambda _: 0)
    results = bounded_map(executor, lambda item: item, range(9), 4)
    assert next(results) == 0
    results.close()
    assert [future.cancelled() for future, *_ in executor.queue] == [True] * 3


def test_an_error_of_nobodys_item_has_no_position():
    assert failed_item(ValueError()) is None


@pytest.mark.parametrize("function", [bounded_map, bounded_unordered])
def test_a_window_has_room(function, in_threads):
    with pytest.raises(Invalid) as caught:
        next(function(in_threads, safe_tasks.add, [1], 0))
    assert caught.value.kind == "bad-window"


def test_bounded_map_on_real_executors(executor):
    assert list(bounded_map(executor, safe_tasks.add, range(30), 4)) == list(range(1, 31))
    with pytest.raises(Invalid) as caught:
        list(bounded_map(executor, safe_tasks.fail, ["ours", "ours"], 2))
    assert failed_item(caught.value) == 0
    unordered = dict(bounded_unordered(executor, safe_tasks.add, range(30), 4))
    assert unordered == {n: n + 1 for n in range(30)}


# --- a cluster ----------------------------------------------------------------------------------


def test_a_task_runs_in_a_child_of_a_worker(on_cluster):
    worker = on_cluster.submit(safe_tasks.parent_pid).result(30)
    assert worker != os.getpid()


def test_a_worker_gives_an_outcome_whatever_happens():
    def outcome(*task):
        return pickle.loads(module._on_worker(pickle.dumps(task), 256 * MIB, 20, 20))

    assert outcome(safe_tasks.add, (1,), {}) == (2, None)
    assert outcome(safe_tasks.fail, ("value",), {})[1].kind == "unreadable"
    assert outcome(safe_tasks.die, ("abort",), {})[1].kind == "reader-died"


def test_work_completes_though_a_worker_is_killed(on_cluster, tmp_path):
    killer = on_cluster.submit(safe_tasks.kill_worker_once, str(tmp_path / "flag"))
    results = bounded_map(on_cluster, safe_tasks.add, range(200), 20)
    assert list(results) == list(range(1, 201))
    assert killer.result(30) == "done"
    assert (tmp_path / "flag").exists()


def test_a_task_that_kills_every_worker_is_given_up(on_cluster):
    error = on_cluster.submit(safe_tasks.kill_worker).exception(60)
    assert (type(error), error.kind) == (Invalid, "reader-died")
    assert str(error) == "2 workers of the cluster were lost while they ran a task"
    assert on_cluster.submit(safe_tasks.add, 1).result(30) == 2


def test_what_a_cluster_cannot_run_is_unavailable(on_cluster):
    bad = on_cluster._client.submit(safe_tasks.fail, "value", key="raises-in-the-worker")
    future: Future = Future()
    on_cluster._client.loop.add_callback(on_cluster._follow, bad, future, "name")
    error = future.exception(30)
    assert (type(error), error.kind) == (Unavailable, "cluster-failed")
    assert str(error) == "the cluster could not run a task: ValueError"


def test_no_value_reaches_the_logs_of_the_cluster(on_cluster, folder):
    wait([on_cluster.submit(safe_tasks.fail, what) for what in ("exit", "interrupt", "memory")])
    on_cluster.submit(safe_tasks.add, safe_tasks.CANARY, "-as-argument").result(30)
    logs = {path.name: path.read_text() for path in folder.glob("*.log")}
    assert set(logs) == {"scheduler.log", "worker.log"}
    assert "-as-argument" not in "".join(logs.values())


def test_a_cancelled_task_does_not_begin(on_cluster, tmp_path):
    busy = [on_cluster.submit(safe_tasks.sleep, 0.5) for _ in range(2)]
    waiting = on_cluster.submit(safe_tasks.note, str(tmp_path / "ran"), "x")
    assert waiting.cancel()
    wait(busy)
    on_cluster.submit(safe_tasks.add, 1).result(30)
    assert not (tmp_path / "ran").exists()


SCRIPT = f"""
import sys, time; sys.path.insert(0, {TASKS!r})
from catchment.core.errors import CatchmentError
from catchment.core import executor
import safe_tasks
executor._CONNECT_SECONDS = 1.0
for address in sys.argv[1:]:
    started = time.monotonic()
    try:
        with executor.open_executor(address) as cluster:
            print("connected", flush=True)
            list(executor.bounded_map(cluster, safe_tasks.sleep, [60] * 9, 4))
    except CatchmentError as error:
        print(type(error).__name__, error.kind, time.monotonic() - started < 5, flush=True)
"""


def test_no_scheduler_or_one_that_goes_away_is_told_soon_and_without_noise(tmp_path, caplog):
    with cluster(tmp_path, 0) as (address, scheduler, _):
        with caplog.at_level(logging.WARNING, "catchment"), open_executor(address):
            waits = f"the cluster at {address} has no workers yet: work waits for one"
            assert waits in caplog.messages
        running = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "tcp://127.0.0.1:9", address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with running:
            assert running.stdout.readline() == "Unavailable cluster-unreachable True\n"
            assert running.stdout.readline() == "connected\n"
            time.sleep(0.3)
            scheduler.kill()
            output, noise = running.communicate(timeout=60)
    assert output == "Unavailable cluster-lost True\n"
    assert noise == waits + "\n"


def test_something_else_at_the_address(monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    monkeypatch.setattr(module, "_CONNECT_SECONDS", 1.0)
    with (
        listening(HTTPServer(("127.0.0.1", 0), Handler)) as url,
        pytest.raises(Unavailable) as caught,
    ):
        open_executor(url.replace("http", "tcp")).__enter__()
    assert caught.value.kind == "cluster-unreachable"
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["fibres", "tcp://", "tcp://host:port", "tls://127.0.0.1:9"])
def test_a_kind_or_address_that_cannot_be(kind):
    with pytest.raises(Invalid) as caught:
        open_executor(kind).__enter__()
    assert caught.value.kind == "bad-executor"
    assert caught.value.hint


def test_a_cluster_without_dask_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(Invalid) as caught:
        open_executor("tcp://127.0.0.1:9").__enter__()
    assert caught.value.kind == "missing-extra"
    assert "catchment[cluster]" in caught.value.hint
