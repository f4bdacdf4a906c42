"""Real disks in real trouble: full, not writable, files that cannot be removed."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from catchment.core.errors import Invalid, Unavailable
from catchment.exports.aggregator import Aggregator, aggregate
from catchment.exports.directories import JobDirectories
from catchment.exports.model import Codec, Rules
from catchment.exports.stream import RecordStream
from catchment.testing.exports import line, lines_left, lines_out, outputs, put

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts, immutable files")


@contextmanager
def small_disk(folder, size):
    """A file system of its own, of so many bytes."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def immutable(path):
    """Neither changed nor removed, not even by root."""
    if subprocess.run(["chattr", "+i", path], check=False, capture_output=True).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@needs_root
@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP])
def test_full_disk(tmp_path, codec):
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        job = JobDirectories(disk, "J")
        job.set_up()
        for i in range(6):
            put(
                job,
                f"{i}.ndjson",
                b"".join(os.urandom(50).hex().encode() + b"\n" for _ in range(1000)),
            )
        expected = lines_left(job)
        filler = disk / "filler"
        filler.write_bytes(b"x" * 340_000)
        job.finish()
        for _ in range(2):
            with pytest.raises(Unavailable) as error:
                aggregate(job, "C", Rules(500_000, 2), codec=codec)
            assert error.value.kind == "disk-full"
            assert error.value.exit_code == 5
            assert lines_out(job) + lines_left(job) == expected
            assert all(outputs(job).values()), "an empty output is published"
        filler.unlink()
        aggregate(job, "C", Rules(300_000, 2), codec=codec)
        assert lines_out(job) == expected
        assert not job.journal_path.exists()


@needs_root
def test_full_disk_under_a_stream(tmp_path):
    with small_disk(tmp_path / "disk", 200_000) as disk:
        job = JobDirectories(disk, "J")
        job.set_up()
        with RecordStream(job) as stream:
            stream.write("first")

        def too_much():
            with RecordStream(job) as stream:
                for _ in range(5000):
                    stream.write("x" * 99)

        with pytest.raises(Unavailable) as error:
            too_much()
        assert error.value.kind == "disk-full"
        assert lines_left(job) == {b"first\n": 1}
        job.finish()
        assert aggregate(job, "C") == 1


@needs_root
def test_folder_that_cannot_be_written(tmp_path):
    job = JobDirectories(tmp_path, "J")
    job.set_up()
    put(job, "a.ndjson", b"1\n")
    job.finish()
    with immutable(job.job_path), pytest.raises(Invalid) as error:
        aggregate(job, "C")
    assert error.value.kind == "permission-denied"
    assert lines_left(job) == {b"1\n": 1}
    assert aggregate(job, "C") == 1


@needs_root
def test_an_input_that_cannot_be_removed_is_combined_once(tmp_path):
    job = JobDirectories(tmp_path, "J")
    job.set_up()
    parts = [put(job, f"{i}.ndjson", line(10, str(i))) for i in range(4)]
    with immutable(parts[1]):
        job.finish()
        for _ in range(3):
            with pytest.raises(Invalid) as error:
                aggregate(job, "C", Rules(20, 2))
            assert error.value.kind == "permission-denied"
            assert "1.ndjson is combined, but cannot be removed" in error.value.message
            assert lines_out(job) == Counter(line(10, str(i)) for i in range(4))
            assert [p.name for p in job.finished_path.iterdir()] == ["1.ndjson"]
    assert aggregate(job, "C", Rules(20, 2)) == 2
    assert lines_out(job) == Counter(line(10, str(i)) for i in range(4))
    assert not job.finished_path.exists()
    assert not job.journal_path.exists()


@needs_root
def test_while_workers_stream_an_input_that_cannot_be_removed_is_passed_over(tmp_path):
    job = JobDirectories(tmp_path, "J")
    job.set_up()
    stuck = put(job, "stuck.ndjson", line(100, "s"))
    with immutable(stuck), Aggregator(job, "C", Rules(100, 0)) as aggregator:
        assert aggregator.step().size == 100
        assert aggregator.step() is None
        put(job, "more.ndjson", line(60, "m"))
        assert aggregator.step().size == 60
        assert aggregator.step() is None
        with pytest.raises(Invalid):
            aggregator.check()
    # Another file of the same name is another file.
    stuck.unlink()
    time.sleep(0.01)
    put(job, "stuck.ndjson", line(50, "t"))
    job.finish()
    aggregate(job, "C", Rules(100, 0))
    assert lines_out(job) == {line(100, "s"): 1, line(60, "m"): 1, line(50, "t"): 1}


@needs_root
def test_a_folder_of_inputs_that_cannot_be_changed(tmp_path):
    job = JobDirectories(tmp_path, "J")
    job.set_up()
    for i in range(5):
        put(job, f"{i}.ndjson", line(10, str(i)))
    job.finish()
    with immutable(job.finished_path), pytest.raises(Invalid, match="and 4 more parts"):
        aggregate(job, "C")
    assert aggregate(job, "C") == 1
    assert lines_out(job) == Counter(line(10, str(i)) for i in range(5))


def as_nobody(job):
    os.setuid(65534)
    with pytest.raises(Invalid) as error:
        aggregate(job, "C")
    assert error.value.kind == "permission-denied"
    os._exit(0)  # nobody may not write what is written at an orderly end (coverage)


@needs_root
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_folder_of_somebody_else():
    """The same by permissions, which do not bind root: in a child that is somebody else."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        job = JobDirectories(Path(folder), "J")
        job.set_up()
        put(job, "a.ndjson", b"1\n")
        job.finish()
        child = multiprocessing.get_context("fork").Process(target=as_nobody, args=(job,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert lines_left(job) == {b"1\n": 1}


def test_somebody_elses_files_with_the_names_of_outputs(tmp_path, monkeypatch):
    job = JobDirectories(tmp_path, "J")
    job.set_up()
    put(job, "a.ndjson", b"1\n")
    put(job, "b.ndjson", b"2\n")
    (job.job_path / "C_0001.ndjson").write_bytes(b"older, and longer than what comes now\n")
    job.finish()
    # The second name is taken between the look at the folder and the publication.
    link = os.link

    def late(source, target):
        if str(target).endswith("C_0002.ndjson") and not target.exists():
            target.write_bytes(b"foreign\n")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert aggregate(job, "C", Rules(2, 2)) == 2
    assert outputs(job) == {
        "C_0001.ndjson": b"older, and longer than what comes now\n",
        "C_0002.ndjson": b"foreign\n",
        "C_0003.ndjson": b"1\n",
        "C_0004.ndjson": b"2\n",
    }
