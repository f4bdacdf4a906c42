"""Every operation on the disk fails or is the last one before death: nothing is lost or doubled."""

from __future__ import annotations

import errno
import gzip
import os
from collections import Counter
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest

from catchment.core.errors import CatchmentError
from catchment.exports.aggregator import Aggregator, aggregate
from catchment.exports.directories import JobDirectories
from catchment.exports.model import Codec, Rules
from catchment.exports.stream import RecordStream
from catchment.testing.exports import line, lines_left, lines_out, outputs, put

pytestmark = pytest.mark.usefixtures("no_sync", "in_order")

EFFECTS = ("open", "write", "fsync", "link", "rename", "unlink", "mkdir", "rmdir")
READS = ("open", "scandir", "stat", "listdir", "pread")


class Inline(Executor):
    """Does at once what a thread would do, so that the n-th operation is always the same one."""

    def __init__(self, *_, **__):
        pass

    def submit(self, work, /, *args):
        work(*args)
        done = Future()
        done.set_result(None)
        return done


@pytest.fixture
def in_order(monkeypatch):
    """Parts are removed before the next output is written."""
    monkeypatch.setattr("catchment.exports.journal.ThreadPoolExecutor", Inline)


class Killed(BaseException):
    """Stands for SIGKILL: from then on nothing reaches the disk."""


class Disk:
    """Counts operations; the n-th one raises an error, or is the first that a dead process lacks."""

    def __init__(self, monkeypatch, names, at, error=None):
        self.count = 0
        self.fired = False
        self._at = at
        self._error = error
        for name in names:
            monkeypatch.setattr(os, name, self._around(getattr(os, name), names))

    def _around(self, real, names):
        def call(*args, **options):
            if real.__name__ == "open" and names is EFFECTS and not args[1] & os.O_ACCMODE:
                return real(*args, **options)
            self.count += 1
            if self.count == self._at or (self.fired and self._error is None):
                self.fired = True
                raise Killed if self._error is None else OSError(*self._error.args)
            return real(*args, **options)

        return call


def make_job(base):
    job = JobDirectories(base, "J")
    job.set_up()
    put(job, "a.ndjson", line(30, "a") + line(20, "b"))
    put(job, "b.ndjson.gz", gzip.compress(line(40, "c")))
    put(job, "c.ndjson", b"".join(line(10, str(i)) for i in range(9))[:-1])
    put(job, "d_error.ndjson", line(5, "e"))
    put(job, "e.ndjson", b"")
    expected = lines_left(job)
    # The one without its final newline gets it.
    expected[line(10, "8")] += expected.pop(line(10, "8")[:-1])
    job.finish()
    return job, expected


def all_points(tmp_path, names, make_error, run, aftermath):
    """Runs until no operation is left to fail; ``aftermath`` looks at each state."""
    for at in range(1, 2000):
        job, expected = make_job(tmp_path / str(at))
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = Disk(monkeypatch, names, at, make_error)
            try:
                run(job)
                raised = False
            except (CatchmentError, Killed):
                raised = True
        assert disk.fired or not raised
        if not disk.fired:
            assert at > 20
            return
        aftermath(job, expected, raised)
    raise AssertionError("the work does not end")


def undisturbed(tmp_path):
    job, _ = make_job(tmp_path / "undisturbed")
    aggregate(job, "C", Rules(60))
    return outputs(job)


def nothing_lost(job, expected):
    out = lines_out(job)
    assert out <= expected, "a line came out twice, or half"
    left = Counter(
        {text if text.endswith(b"\n") else text + b"\n": n for text, n in lines_left(job).items()}
    )
    assert expected <= out + left, "a line is gone"


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP])
def test_killed_before_any_operation(tmp_path, codec):
    expected_files = undisturbed(tmp_path)

    def aftermath(job, expected, _):
        nothing_lost(job, expected)
        aggregate(job, "C", Rules(60), codec=codec)
        made = {name.removesuffix(".gz"): data for name, data in outputs(job).items()}
        assert made == expected_files
        assert lines_out(job) == expected
        assert not job.journal_path.exists()
        assert not job.finished_path.exists()

    all_points(
        tmp_path, EFFECTS, None, lambda job: aggregate(job, "C", Rules(60), codec=codec), aftermath
    )


@pytest.mark.parametrize(
    ("code", "names"),
    [(errno.ENOSPC, EFFECTS), (errno.EACCES, EFFECTS), (errno.EIO, READS)],
)
def test_any_operation_fails(tmp_path, code, names):
    expected_files = undisturbed(tmp_path)

    def aftermath(job, expected, raised):
        nothing_lost(job, expected)
        if not raised:
            assert lines_out(job) == expected, "it said that all went well"
        aggregate(job, "C", Rules(60))
        assert lines_out(job) == expected
        if names is EFFECTS:  # a part that could not be read went out later, in another file
            assert outputs(job) == expected_files
        assert not job.journal_path.exists()

    error = OSError(code, os.strerror(code))
    all_points(tmp_path, names, error, lambda job: aggregate(job, "C", Rules(60)), aftermath)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_steps_go_on_after_any_operation_has_failed(tmp_path, code):
    """In the same aggregator: what a failed step did, the journal knows."""
    expected_files = undisturbed(tmp_path)

    def run(job):
        failures = []
        aggregator = Aggregator(job, "C", Rules(60))
        while not failures:
            try:
                with aggregator:
                    while not aggregator.finish():
                        try:
                            aggregator.step()
                        except CatchmentError as error:
                            failures.append(error)
            except CatchmentError as error:
                failures.append(error)
            else:
                break
        if failures:
            raise failures[0]

    def aftermath(job, expected, _):
        nothing_lost(job, expected)
        aggregate(job, "C", Rules(60))
        assert lines_out(job) == expected
        assert outputs(job) == expected_files
        assert not job.journal_path.exists()

    all_points(tmp_path, EFFECTS, OSError(code, os.strerror(code)), run, aftermath)


def test_all_is_on_the_disk_before_what_depends_on_it(tmp_path, monkeypatch):
    """After a power cut only what was synced is sure: file, record and their names, then the link."""
    log = []
    real = {name: getattr(os, name) for name in ("fsync", "link", "unlink")}

    def fsync(descriptor):
        log.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        real["fsync"](descriptor)

    def link(source, target):
        log.append(("link", Path(target).name))
        real["link"](source, target)

    def unlink(path, **options):
        log.append(("unlink", Path(path).name))
        real["unlink"](path, **options)

    job, _ = make_job(tmp_path)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "unlink", unlink)
    aggregate(job, "C", Rules(60))
    made = [name for what, name in log if what == "link"]
    assert len(made) == 5
    empty, *log = log
    assert empty == ("unlink", "e.ndjson")
    for name in made:
        steps = [
            ("sync", f"{name}.tmp"),
            ("sync", f"{name}.json"),
            ("sync", ".catchment"),
            ("link", name),
            ("sync", "J"),
            ("unlink", f"{name}.tmp"),
        ]
        assert log[: len(steps)] == steps
        log = log[len(steps) :]
        while log[0][0] == "unlink" and log[0][1][1:] in (".ndjson", ".ndjson.gz", "_error.ndjson"):
            log = log[1:]
    assert log[0] == ("sync", "J"), "`finished` is gone for sure before the records go"
    assert {what for what, _ in log[1:]} == {"unlink"}


@pytest.mark.parametrize("error", [None, OSError(errno.ENOSPC, "full")])
def test_a_stream_is_whole_or_not_there(tmp_path, error):
    def run(job):
        closed.clear()
        job.set_up()
        with RecordStream(job, unique="s") as stream:
            stream.write("first")
            stream.write("second")
        closed.append(stream)
        job.finish()

    def aftermath(job, expected, raised):
        arrived = job.finished_path / "tmp_s.ndjson"
        if arrived.exists():
            assert arrived.read_bytes() == b"first\nsecond\n"
        else:
            assert raised
        if error:
            assert not any(job.streaming_path.glob("*")), "what failed is discarded"
            assert arrived.exists() == bool(closed), "what was refused may be sent again"

    closed: list[RecordStream] = []
    for at in range(1, 100):
        job = JobDirectories(tmp_path / str(at), "J")
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = Disk(monkeypatch, EFFECTS, at, error)
            try:
                run(job)
                raised = False
            except (CatchmentError, Killed):
                raised = True
        if not disk.fired:
            break
        if job.finished_path.exists():
            aftermath(job, None, raised)
    assert at > 5
