"""Faults happen where they should, and a store under faults keeps its promises."""

import multiprocessing
import os
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
        seen = []
        with pytest.raises(Unavailable):
            seen.extend(stat.key for stat in listing.list())
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


def test_work_without_end_is_told():
    with pytest.raises(AssertionError, match="3 operations"):
        for faults in every_fault(limit=3):
            faults.fired = True


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


WORK = """
import os, sys
from catchment.core.store import Range, open_store
from catchment.testing.faults import Faults

faults = Faults.from_environment()
for name in ("open", "write", "link", "rename", "fsync", "unlink", "mkdir", "copy_file_range"):
    real = getattr(os, name)
    def counted(*args, _real=real, **options):
        return faults.around(lambda: _real(*args, **options))
    setattr(os, name, counted)

store = open_store(sys.argv[1])
store.put("folder/a", bytes(100_000), mode="overwrite")
store.compose("folder/b", [b"x", Range(store, "folder/a", 1, 99_000)], mode="overwrite", digest=True)
store.delete("folder/a")
print(faults.count)
"""


def run(root, environment):
    command = [sys.executable, "-c", WORK, root.as_uri()]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_each_call_to_the_system_loses_nothing(tmp_path, when):
    undisturbed = run(tmp_path / "undisturbed", {})
    assert undisturbed.returncode == 0, undisturbed.stderr
    calls = int(undisturbed.stdout)
    assert calls > 30
    for number in range(1, calls + 1, 1 if when == "before" else 4):
        root = tmp_path / f"{number}"
        killed = run(root, {VARIABLE: f"kill:{number}:{when}"})
        assert killed.returncode == -signal.SIGKILL
        store = open_store(root.as_uri())
        wholes = {"folder/a": bytes(100_000), "folder/b": b"x" + bytes(99_000)}
        for stat in store.list():
            assert store.read(stat.key) == wholes[stat.key]
        assert run(root, {}).returncode == 0, "the next run ends as an undisturbed one"
        assert [(s.key, store.read(s.key)) for s in store.list()] == [
            ("folder/b", wholes["folder/b"])
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
