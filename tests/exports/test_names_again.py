"""Workers that use the name of a part again."""

from __future__ import annotations

import os
import threading
import time

import pytest

from catchment.exports.aggregator import Aggregator
from catchment.exports.directories import JobDirectories
from catchment.exports.journal import Journal
from catchment.exports.model import Rules
from catchment.exports.parts import PartFolder
from catchment.testing.exports import lines_left, lines_out, outputs, put

pytestmark = pytest.mark.usefixtures("no_sync")


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def job(tmp_path):
    directories = JobDirectories(tmp_path, "ABC-DEF")
    directories.set_up()
    return directories


def step(job):
    with Aggregator(job, "C", Rules(1, 0)) as aggregator:
        return aggregator.step()


def rest(job):
    job.finish()
    with Aggregator(job, "C", Rules(1, 0)) as aggregator:
        assert aggregator.run(threading.Event())
    assert not job.journal_path.exists()
    return lines_out(job)


def test_a_part_that_comes_between_the_look_and_the_removal(job, monkeypatch):
    """It is moved in the place of the one that is being removed, and another one after it."""
    put(job, "a.ndjson", b"1\n")
    move, link = PartFolder.move, PartFolder.put

    def late(self, part, folder):
        monkeypatch.setattr(PartFolder, "move", move)
        put(job, part, b"22\n")
        move(self, part, folder)

    def later(self, part, folder, name=""):
        monkeypatch.setattr(PartFolder, "put", link)
        put(job, part, b"333\n")
        link(self, part, folder, name)

    monkeypatch.setattr(PartFolder, "move", late)
    monkeypatch.setattr(PartFolder, "put", later)
    assert step(job).count == 1
    assert lines_left(job) == {b"22\n": 1, b"333\n": 1}
    assert rest(job) == {b"1\n": 1, b"22\n": 1, b"333\n": 1}


@pytest.mark.parametrize("late", [False, True], ids=["used", "another"])
@pytest.mark.parametrize("operation", ["stat", "link", "unlink"])
def test_a_crash_before_or_after_a_part_is_put_back(job, monkeypatch, operation, late):
    """Before it, or with the part in both places: it comes out once."""
    put(job, "a.ndjson", b"1\n")
    move, at_once = PartFolder.move, threading.Event()
    system = getattr(os, operation)

    def moved(self, part, folder):
        if late and not at_once.is_set():
            put(job, part, b"22\n")
        move(self, part, folder)
        at_once.set()

    def dead(*args, **kwargs):
        if at_once.is_set():
            raise Killed
        return system(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PartFolder, "move", moved)
        patch.setattr(os, operation, dead)
        try:
            step(job)
        except Killed:
            pass
        else:
            assert operation == "link"
            assert not late
    put(job, "b.ndjson", b"b\n")
    assert rest(job) == {b"1\n": 1, b"b\n": 1} | ({b"22\n": 1} if late else {})


def test_a_part_put_back_under_another_name_before_a_crash(job, monkeypatch):
    """Its own name is free again by the time that the next aggregator looks."""
    put(job, "a.ndjson", b"22\n")
    with Aggregator(job, "C", Rules(1, 0)) as aggregator:
        assert aggregator.step().count == 1
        aggregator._journal.settle()
        taken = job.journal_path / "used"
        left = put(job, "a.ndjson", b"333\n").rename(taken / "a.ndjson")
        os.link(left, job.finished_path / "1-a.ndjson")
    assert rest(job) == {b"22\n": 1, b"333\n": 1}


def test_a_removal_waits_until_a_later_file_cannot_look_the_same(job):
    """The inode is free at once; time and size must tell the two apart, after a restart, too."""
    for i in range(30):
        put(job, "a.ndjson", b"%d\n" % (i % 10))
        before = time.time_ns()
        assert step(job).count == 1, i
        assert time.time_ns() > before
    assert sum(rest(job).values()) == 30


def test_a_time_in_the_future_does_not_stop_a_removal(job):
    path = put(job, "a.ndjson", b"1\n")
    os.utime(path, (2**32, 2**32))
    assert step(job).count == 1
    assert rest(job) == {b"1\n": 1}


def test_two_parts_of_a_name_are_told_apart_in_the_records(job, monkeypatch):
    """The first cannot be removed and gives way to a second; the journal knows of both."""
    put(job, "a.ndjson", b"1\n")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda *_: False)
        assert step(job).count == 1
        put(job, "a.ndjson", b"22\n333\n")
        with Aggregator(job, "C", Rules(4, 0)) as aggregator:
            assert aggregator.step().count == 1
    assert rest(job) == {b"1\n": 1, b"22\n": 1, b"333\n": 1}


def test_a_few_names_used_again_and_again(job):
    """As a worker does that takes care not to overwrite; the aggregator is restarted at times."""
    wanted = {b"%d\n" % i: 1 for i in range(150)}

    def work():
        for i, line in enumerate(wanted):
            written = job.streaming_path / f"{i}"
            written.write_bytes(line)
            while True:
                try:
                    os.link(written, job.finished_path / f"{i % 3}.ndjson")
                    break
                except FileExistsError:
                    time.sleep(0.0005)
            written.unlink()
        job.finish()

    job.finished_path.mkdir(exist_ok=True)
    job.streaming_path.mkdir(exist_ok=True)
    worker = threading.Thread(target=work)
    worker.start()
    while worker.is_alive():
        with Aggregator(job, "C", Rules(1, 0)) as aggregator:
            for _ in range(50):
                aggregator.step()
    worker.join()
    assert rest(job) == wanted
    assert len(outputs(job)) == 150
