"""Safe reading: what a hostile file can do to a parser ends one task, and nothing else."""

from __future__ import annotations

import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError, wait
from importlib import import_module
from multiprocessing.connection import Pipe
from pathlib import Path

import pytest

from catchment.core import safe, safe_child
from catchment.core.errors import CatchmentError, Invalid, Unavailable
from catchment.core.safe import SafePool

sys.path.insert(0, str(Path(__file__).parent))  # children take it over
import safe_tasks

MIB = 1 << 20


MEASURED = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture(scope="module", autouse=True)
def unmeasured():
    """Processes start faster unmeasured, and a child that is killed has no coverage to tell."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def pool():
    with SafePool(1, memory=512 * MIB, cpu=20, wall=20) as pool:
        yield pool


def failure_of(future) -> CatchmentError:
    error = future.exception(timeout=30)
    assert isinstance(error, CatchmentError), error
    assert error.hint
    return error


def gone(pid: int, seconds: float = 2.0) -> bool:
    """Whether a process ends within that time; a zombie has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def script(tmp_path, text, **options):
    path = tmp_path / "script.py"
    path.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{text}")
    return subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# --- a pool of children -------------------------------------------------------------------------


def test_a_task_runs_in_a_child_that_is_used_again(pool):
    pids = {pool.submit(safe_tasks.pid).result() for _ in range(5)}
    assert len(pids) == 1
    assert os.getpid() not in pids
    assert pool.submit(safe_tasks.add, 2, two=3).result() == 5


def test_children_start_when_needed_and_tasks_run_side_by_side():
    with SafePool(3) as pool:
        assert not pool._children
        pool.submit(safe_tasks.pid).result()
        assert len(pool._children) == 1
        wait([pool.submit(safe_tasks.sleep, 0.3) for _ in range(3)])
        assert len(pool._children) == 3
        pids = [child.process.pid for child in pool._children]
    assert all(gone(pid, 0.1) for pid in pids)


def test_a_child_starts_without_what_the_parent_has_imported(pool):
    assert import_module("pyarrow")
    with SafePool(1) as fresh:
        loaded = fresh.submit(safe_tasks.modules).result()
    assert "safe_tasks" in loaded
    assert not loaded & {"pyarrow", "numpy", "duckdb", "polars", "pytest", "concurrent.futures"}


def test_map_keeps_order_and_times_out(pool):
    assert list(pool.map(safe_tasks.add, range(100), range(100))) == list(range(0, 200, 2))
    with pytest.raises(TimeoutError):
        list(pool.map(safe_tasks.sleep, [0.5], timeout=0.05))


def test_large_arguments_and_results_pass(pool):
    assert pool.submit(safe_tasks.add, b"x" * 5_000_000, b"y").result()[-2:] == b"xy"


def test_what_a_child_prints_is_dropped(pool, capfd):
    assert pool.submit(safe_tasks.chatter).result() == "said"
    assert capfd.readouterr() == ("", "")


# --- death and limits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("segfault", "SIGSEGV"),
        ("abort", "SIGABRT"),
        ("exit", "exit code 3"),
        ("killed", "SIGKILL"),
        ("closed", "SIGKILL"),
    ],
)
def test_a_child_that_dies_fails_its_own_task_only(pool, how, cause):
    before = pool.submit(safe_tasks.add, 1)
    dying = pool.submit(safe_tasks.die, how)
    after = [pool.submit(safe_tasks.add, number) for number in range(3)]
    error = failure_of(dying)
    assert (type(error), error.kind) == (Invalid, "reader-died")
    assert str(error) == f"the reader died ({cause})"
    assert before.result() == 2
    assert [future.result() for future in after] == [1, 2, 3]


def test_no_task_is_lost_or_run_twice_while_children_die(tmp_path):
    rng = random.Random(7)
    path = tmp_path / "ran"
    with SafePool(2) as pool:
        deadly = [rng.random() < 0.15 for _ in range(100)]
        futures = [
            pool.submit(safe_tasks.note_and_die if dies else safe_tasks.note, str(path), str(n))
            for n, dies in enumerate(deadly)
        ]
        outcomes = [future.exception() for future in futures]
    assert [isinstance(error, Invalid) for error in outcomes] == deadly
    assert all(f.result() == str(n) for n, f in enumerate(futures) if not deadly[n])
    assert sorted(path.read_text().split(), key=int) == [str(n) for n in range(100)]


def test_a_child_that_died_while_idle_costs_no_task(pool):
    pid = pool.submit(safe_tasks.pid).result()
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert pool.submit(safe_tasks.pid).result() != pid


def test_too_much_memory(pool):
    error = failure_of(pool.limited(memory=100 * MIB).submit(safe_tasks.grow))
    assert (type(error), error.kind) == (Invalid, "reader-memory")
    assert str(error) == "the reader used more than 100 MiB of memory"
    assert "executor.memory" in error.hint
    assert pool.submit(safe_tasks.add, 1).result() == 2


def test_a_parquet_bomb_ends_its_child_and_the_parent_lives(pool, shared):
    bomb = shared / "data/hostile/made/parquet_bomb_dict_1500x1MiB_str.parquet"
    error = failure_of(pool.submit(safe_tasks.read_parquet, str(bomb)))
    assert error.kind == "reader-memory"
    assert pool.submit(safe_tasks.add, 1).result() == 2


def test_a_broken_parquet_is_unreadable(pool, shared):
    broken = shared / "data/hostile/made/parquet_footer_len_huge.parquet"
    assert failure_of(pool.submit(safe_tasks.read_parquet, str(broken))).kind == "unreadable"


@pytest.mark.parametrize("what", ["memory", "duckdb"])
def test_memory_that_is_refused_is_the_same_kind(pool, what):
    error = failure_of(pool.submit(safe_tasks.fail, what))
    assert error.kind == "reader-memory"
    assert "executor.memory" in error.hint
    assert safe_tasks.CANARY not in str(error)


def test_a_task_does_not_pay_for_the_memory_of_the_one_before(pool):
    small = pool.limited(memory=100 * MIB)
    small.submit(safe_tasks.hold, 60 * MIB).result()
    assert small.submit(safe_tasks.hold, 60 * MIB).result() is None


def test_too_much_cpu(pool):
    error = failure_of(pool.limited(cpu=1).submit(safe_tasks.burn_in_c))
    assert (type(error), error.kind) == (Invalid, "reader-cpu")
    assert str(error) == "the reader used more than 1 s of CPU time"


def test_cpu_is_counted_from_the_start_of_the_task(pool):
    tight = pool.limited(cpu=0.5)
    pid = tight.submit(safe_tasks.pid).result()
    assert [tight.submit(safe_tasks.burn, 0.3).result() for _ in range(4)] == [0.3] * 4
    assert tight.submit(safe_tasks.pid).result() == pid


def test_a_hard_limit_from_outside_is_kept():
    with SafePool(1) as pool:
        pool.submit(safe_tasks.lower_hard_cpu_limit, 40).result()
        assert pool.submit(safe_tasks.cpu_limit).result() == (40, 40)


def test_too_much_time(pool):
    started = time.monotonic()
    error = failure_of(pool.limited(wall=0.2).submit(safe_tasks.sleep, 30))
    assert (type(error), error.kind) == (Invalid, "reader-wall")
    assert str(error) == "the reader used more than 0.2 s"
    assert time.monotonic() - started < 5


def test_waiting_in_the_queue_is_not_counted(pool):
    brief = pool.limited(wall=1.0)
    assert list(brief.map(safe_tasks.sleep, [0.4] * 4)) == [0.4] * 4


def test_leaving_a_limited_view_leaves_the_pool_open(pool):
    with pool.limited(wall=5) as brief:
        assert brief.submit(safe_tasks.add, 1).result() == 2
    assert pool.submit(safe_tasks.add, 1).result() == 2


# --- errors -------------------------------------------------------------------------------------


def test_our_errors_pass_as_they_are(pool):
    error = failure_of(pool.submit(safe_tasks.fail, "ours"))
    assert (type(error), error.kind, error.hint) == (Invalid, "columns", "drop one")
    assert str(error) == "expected two columns, found three"
    torn = failure_of(pool.submit(safe_tasks.fail, "subclass"))
    assert isinstance(torn, safe_tasks.Torn)
    assert (torn.kind, torn.page, torn.hint) == ("torn", 7, "send the page again")
    assert str(torn) == "page 7 is torn"


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("value", "ValueError"),
        ("panic", "Panic"),
        ("exit", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
    ],
)
def test_of_other_errors_only_the_class_is_told(pool, caplog, what, name):
    with caplog.at_level(logging.DEBUG, "catchment"):
        error = failure_of(pool.submit(safe_tasks.fail, what))
    assert (type(error), error.kind) == (Invalid, "unreadable")
    assert str(error) == f"the reader failed with {name}"
    assert error.__cause__ is error.__context__ is None
    assert f"safe_tasks.fail: the reader failed with {name}" in caplog.messages
    assert safe_tasks.CANARY not in f"{error!r} {vars(error)} {caplog.text}"


def test_the_log_names_the_task_that_died(pool, caplog):
    with caplog.at_level(logging.DEBUG, "catchment"):
        failure_of(pool.submit(safe_tasks.die, "exit"))
    assert "safe_tasks.die: the reader died (exit code 3)" in caplog.messages


def test_a_task_that_does_not_pickle_is_refused_at_once(pool):
    with pytest.raises(Invalid) as caught:
        pool.submit(safe_tasks.add, lambda: None)
    assert caught.value.kind == "unpicklable"
    assert caught.value.__suppress_context__


def test_results_and_errors_that_do_not_pickle_are_clear_errors(pool, monkeypatch):
    monkeypatch.setenv("SAFE_TASKS_PARENT", str(os.getpid()))
    with SafePool(1) as fresh:  # takes the environment over
        unloadable = failure_of(fresh.submit(safe_tasks.unloadable))
        assert unloadable.kind == "unpicklable"
        assert safe_tasks.CANARY not in str(unloadable)
        assert failure_of(fresh.submit(safe_tasks.unpicklable)).kind == "unpicklable"
        assert failure_of(fresh.submit(safe_tasks.fail, "burdened")).kind == "unpicklable"
        assert fresh.submit(safe_tasks.add, 1).result() == 2


def test_a_function_that_children_cannot_import_is_a_clear_error(pool, monkeypatch):
    monkeypatch.setattr(safe_tasks.add, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "add", safe_tasks.add, raising=False)
    error = failure_of(pool.submit(safe_tasks.add, 1))
    assert error.kind == "unpicklable"
    assert "importable modules" in error.hint


def test_call_gives_an_outcome_whatever_happens():
    def outcome(*task):
        return pickle.loads(safe_child.call(pickle.dumps(task)))

    assert outcome(safe_tasks.add, (1,), {}) == (2, None)
    assert outcome(safe_tasks.fail, ("ours",), {})[1].kind == "columns"
    assert outcome(safe_tasks.fail, ("memory",), {})[1].kind == "reader-memory"
    assert outcome(safe_tasks.fail, ("panic",), {})[1].kind == "unreadable"
    assert outcome(safe_tasks.fail, ("burdened",), {})[1].kind == "unpicklable"
    assert outcome(safe_tasks.unpicklable, (), {})[1].kind == "unpicklable"
    assert pickle.loads(safe_child.call(b"no pickle"))[1].kind == "unpicklable"


# --- start and end ------------------------------------------------------------------------------


def test_a_script_without_a_guard_is_not_run_again(tmp_path):
    running = script(
        tmp_path,
        "print('main')\n"
        "from catchment.core.safe import SafePool\nimport safe_tasks\n"
        "pool = SafePool(2)\n"
        "print(list(pool.map(safe_tasks.add, [1, 2, 3])))\n",  # and no shutdown
    )
    assert running.communicate(timeout=30) == ("main\n[2, 3, 4]\n", "")
    assert running.returncode == 0


def test_children_die_with_a_parent_that_is_killed(tmp_path):
    running = script(
        tmp_path,
        "from catchment.core.safe import SafePool\nimport safe_tasks, time\n"
        "pool = SafePool(3)\n"
        "for task in [(safe_tasks.burn_in_c,), (safe_tasks.sleep, 60), (safe_tasks.sleep, 0.2)]:\n"
        "    pool.submit(*task)\n"
        "time.sleep(0.6)\n"
        "print(*[child.process.pid for child in pool._children], flush=True)\n"
        "time.sleep(60)\n",
    )
    with running:
        pids = [int(pid) for pid in running.stdout.readline().split()]
        assert len(pids) == 3
        assert not any(gone(pid, 0.05) for pid in pids)
        running.kill()
        assert all(gone(pid, 2) for pid in pids)


def test_children_leave_ctrl_c_to_the_parent(tmp_path):
    running = script(
        tmp_path,
        "from catchment.core.safe import SafePool\nimport safe_tasks, signal, time\n"
        # What a shell starts in the background ignores it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with SafePool(1) as pool:\n"
        "    pool.submit(safe_tasks.add, 1).result()\n"
        "    future = pool.submit(safe_tasks.sleep, 0.5)\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        print('caught', future.result())\n",
        start_new_session=True,
    )
    with running:
        assert running.stdout.readline() == "ready\n"
        os.killpg(running.pid, signal.SIGINT)
        assert running.communicate(timeout=30) == ("caught 0.5\n", "")


def test_a_child_ignores_an_interrupt(pool):
    assert pool.submit(safe_tasks.interrupt_self).result() == "alive"


def test_an_exception_that_leaves_the_pool_ends_all_work():
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), SafePool(1) as pool:  # noqa: PT012
        pool.submit(safe_tasks.pid).result()
        running = pool.submit(safe_tasks.sleep, 60)
        queued = pool.submit(safe_tasks.sleep, 60)
        time.sleep(0.2)  # it has begun
        raise KeyboardInterrupt
    assert time.monotonic() - started < 10
    assert queued.cancelled()
    with pytest.raises(CancelledError):
        running.result()


def test_a_child_that_starts_while_the_pool_is_left_gets_no_task():
    with SafePool(1) as pool:
        pool._stopped = True
        with pytest.raises(CancelledError):
            pool.submit(safe_tasks.pid).result()


def test_shutdown_without_waiting_finishes_the_work():
    pool = SafePool(1)
    pids = pool.submit(safe_tasks.pid)
    futures = [pool.submit(safe_tasks.sleep, 0.1) for _ in range(3)]
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError):
        pool.submit(safe_tasks.pid)
    assert [future.result() for future in futures] == [0.1] * 3
    assert gone(pids.result())
    pool.shutdown()  # again: no harm


def test_shutdown_can_cancel_what_is_queued():
    pool = SafePool(1)
    first = pool.submit(safe_tasks.sleep, 0.3)
    while not first.running():
        time.sleep(0.01)
    second = pool.submit(safe_tasks.sleep, 60)
    pool.shutdown(cancel_futures=True)
    assert first.result() == 0.3
    assert second.cancelled()


def python_like(tmp_path, text):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_child_that_fails_to_start_is_tried_again(tmp_path, monkeypatch):
    flag = tmp_path / "flag"
    text = f'[ -e {flag} ] || {{ touch {flag}; exit 1; }}; exec {sys.executable} "$@"'
    monkeypatch.setattr(sys, "executable", python_like(tmp_path, text))
    with SafePool(1) as pool:
        assert pool.submit(safe_tasks.note, str(tmp_path / "ran"), "once").result() == "once"
    assert flag.exists()
    assert (tmp_path / "ran").read_text() == "once\n"


@pytest.mark.parametrize("text", ["exit 1", "exec sleep 60", None])
def test_children_that_never_start_make_the_pool_unavailable(tmp_path, monkeypatch, text):
    monkeypatch.setattr(safe, "_START_SECONDS", 0.2)
    path = python_like(tmp_path, text) if text else str(tmp_path / "absent")
    monkeypatch.setattr(sys, "executable", path)
    with SafePool(1) as pool:
        error = failure_of(pool.submit(safe_tasks.pid))
        assert (type(error), error.kind) == (Unavailable, "reader-start")
        assert all(child.resident() == 0 for child in pool._children)


@pytest.mark.parametrize(("parent", "code"), [(os.getpid(), 0), (1 << 30, 1)], ids=["ours", "none"])
def test_a_child_leaves_when_its_socket_closes_or_its_parent_is_gone(parent, code):
    ours, theirs = Pipe()
    boot = f"import catchment.core.safe_child as c; c.serve({theirs.fileno()}, {parent})"
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-c", boot],
            pass_fds=[theirs.fileno()],
            env=MEASURED,
        )
    with ours:
        if code == 0:
            ours.send((1.0, pickle.dumps((safe_tasks.add, (1,), {}))))
            assert ours.recv_bytes() == b""
            assert ours.recv() == (2, None)
    assert child.wait(10) == code
