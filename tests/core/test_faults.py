"""Faults happen where they should, and a store under faults keeps its promises."""

import multiprocessing
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import count

import pytest

from catchment.core.errors import Conflict, NotFound, Unavailable
from catchment.core.store import Range, open_store
from catchment.testing.faults import VARIABLE, Faults, every_fault, inject

_names = count()


@pytest.fixture
def store():
    return open_store(f"memory://faults-{next(_names)}")


def test_operations_are_counted(store):
    faults = Faults()
    watched = inject(store, faults)
    assert watched.url == store.url
    assert faults.count == 0
    watched.put("a", b"1")
    watched.put("b", b"2")
    assert [stat.key for stat in watched.list()] == ["a", "b"]
    assert faults.count == 2 + 1 + 3, "the listing itself, its two steps and its end"
    assert not faults.fired
    assert repr(watched) == f"inject({store!r})"


def test_before_nothing_is_applied(store):
    faults = Faults(fail_at=2)
    watched = inject(store, faults)
    watched.put("a", b"1")
    with pytest.raises(Unavailable) as caught:
        watched.put("b", b"2")
    assert caught.value.kind == "injected"
    assert faults.fired
    assert [stat.key for stat in store.list()] == ["a"]
    watched.put("b", b"2")


def test_after_it_is_applied_and_the_answer_is_lost(store):
    watched = inject(store, Faults(fail_at=1, when="after", error=TimeoutError("lost")))
    with pytest.raises(TimeoutError):
        watched.put("a", b"1")
    with pytest.raises(Conflict):
        watched.put("a", b"1")


def test_an_error_of_its_own_comes_first(store):
    watched = inject(store, Faults(fail_at=1, when="after"))
    with pytest.raises(NotFound):
        watched.read("none")


def test_iterators_fail_at_any_step(store):
    for n in range(3):
        store.put(f"{n}", b"")
    for step in range(1, 6):
        listing = inject(store, Faults(fail_at=step))
        with pytest.raises(Unavailable):
            list(listing.list())
    assert [stat.key for stat in inject(store, Faults(fail_at=6)).list()] == ["0", "1", "2"]


def test_contexts_fail_on_entry_and_exit():
    log = []

    class Ledger:
        def __enter__(self):
            log.append("open")
            return self

        def __exit__(self, *error):
            log.append("close")

        @contextmanager
        def holding(self):
            log.append("acquire")
            yield "lease"
            log.append("release")

    for step, expected in ((1, []), (2, ["open"]), (3, ["open"]), (4, ["open", "acquire"])):
        log.clear()
        with (
            pytest.raises(Unavailable),
            inject(Ledger(), Faults(fail_at=step)) as ledger,
            ledger.holding() as lease,
        ):
            assert lease == "lease"
        assert [entry for entry in log if entry != "close"] == expected
    log.clear()
    with inject(Ledger(), Faults(fail_at=6)) as ledger, ledger.holding():
        pass
    assert log == ["open", "acquire", "release", "close"]


def test_the_own_ranges_of_a_store_are_known(store, tmp_path):
    local = open_store(tmp_path.as_uri())
    local.put("a", b"abc")
    watched = inject(local, Faults())
    watched.compose("b", [Range(watched, "a", 1, 2)])
    watched.compose("c", segments=(Range(watched, "a", 0, 1), b"x"))
    assert (local.read("b"), local.read("c")) == (b"bc", b"ax")
    watched.compose("d", [Range(inject(watched, Faults()), "a", 0, 2)])
    assert local.read("d") == b"ab"


def test_threads_share_the_count(store):
    faults = Faults(fail_at=100)
    watched = inject(store, faults)

    def put(n):
        try:
            watched.put(f"{n}", b"")
        except Unavailable:
            return 1
        return 0

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(put, range(200))) == 1
    assert faults.count == 200


def test_every_fault_ends_with_an_undisturbed_run():
    seen = []
    for faults in every_fault(when="after"):
        store = inject(open_store(f"memory://faults-{next(_names)}"), faults)
        try:
            for key in ("a", "b", "c"):
                store.put(key, b"")
        except Unavailable:
            pass
        seen.append([stat.key for stat in open_store(store.url).list()])
    assert seen == [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c"]]


def test_every_fault_goes_on_behind_an_operation_that_ends_by_itself():
    """The end of a listing is no undisturbed round."""
    rounds = 0
    for faults in every_fault(when="after"):
        rounds += 1
        store = inject(open_store(f"memory://faults-{next(_names)}"), faults)
        try:
            assert list(store.list()) == []
            store.put("a", b"")
        except Unavailable:
            pass
    assert rounds == 4  # the listing, its end, the put, and none


def test_work_without_end_is_told():
    rounds = every_fault(limit=3)
    for _ in range(3):
        next(rounds).fired = True
    with pytest.raises(AssertionError, match="3 operations"):
        next(rounds)


# --- processes ------------------------------------------------------------------------------------


def test_it_travels_to_another_process(tmp_path):
    watched = inject(open_store(tmp_path.as_uri()), Faults(kill_at=2, when="after"))
    assert pickle.loads(pickle.dumps(watched)).url == watched.url
    process = multiprocessing.get_context("spawn").Process(target=put_three, args=(watched,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert [stat.key for stat in open_store(tmp_path.as_uri()).list()] == ["0", "1"]


def put_three(store):
    for n in range(3):
        store.put(f"{n}", b"")


STEPS = """
store.put("folder/a", bytes(100_000), mode="overwrite")
segments = [b"x", Range(store, "folder/a", 1, 99_000)]
store.compose("folder/b", segments, mode="overwrite", digest=True)
store.compose("folder/c", segments, mode="overwrite")
store.delete("folder/a")
"""

# Forks before each try: only the first pays for the start of Python.
WORK = f"""
import os, sys
from catchment.core import store_draft
from catchment.core.store import Range, open_store
from catchment.testing.faults import Faults

store_draft.BLOCK = 1 << 15  # three of them, and a rest
CALLS = ("open", "write", "link", "rename", "fsync", "unlink", "mkdir", "copy_file_range",
         "pwrite")

def work(url, faults):
    for name in CALLS:
        real = getattr(os, name)
        def counted(*args, _real=real, **options):
            return faults.around(lambda: _real(*args, **options))
        setattr(os, name, counted)
    store = open_store(url)
    {"    ".join(STEPS.splitlines(keepends=True))}

number = status = 1
while status:
    pid = os.fork()
    if not pid:
        work(sys.argv[1] + f"/{{number}}", Faults(kill_at=number))
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, 9), status
    number += 1
"""


def test_a_kill_at_each_call_to_the_system_loses_nothing(tmp_path):
    command = [sys.executable, "-c", WORK, tmp_path.as_uri()]
    subprocess.run(command, check=True, timeout=60)
    tries = sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    assert len(tries) > 30
    wholes = {"folder/a": bytes(100_000)}
    wholes |= dict.fromkeys(("folder/b", "folder/c"), b"x" + bytes(99_000))
    for root in tries:
        store = open_store(root.as_uri())
        for stat in store.list():
            assert store.read(stat.key) == wholes[stat.key]
        exec(STEPS, {"store": store, "Range": Range})  # the next run ends as an undisturbed one
        assert [(s.key, store.read(s.key)) for s in store.list()] == [
            (key, wholes[key]) for key in ("folder/b", "folder/c")
        ]
        assert store.sweep(timedelta(0)) <= 1


def test_the_environment_says_what_fails():
    assert Faults.from_environment({}).around(lambda: 1) == 1
    faults = Faults.from_environment({VARIABLE: "fail:2:after"})
    log = []
    faults.around(lambda: log.append(1))
    with pytest.raises(Unavailable):
        faults.around(lambda: log.append(2))
    assert log == [1, 2]
