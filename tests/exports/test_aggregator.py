"""The aggregator on the on-disk contract alone."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import importlib
import json
import logging
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inotify_simple import Event, flags

from catchment.core.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from catchment.exports import watch
from catchment.exports.aggregator import Aggregator, aggregate
from catchment.exports.combine import Combiner
from catchment.exports.directories import JobDirectories
from catchment.exports.model import MIB, Codec, Kind, Output, Rules
from catchment.exports.stream import RecordStream
from catchment.testing.exports import line, lines_left, lines_out, outputs, put

pytestmark = pytest.mark.usefixtures("no_sync")

K = 1024


@pytest.fixture
def job(tmp_path):
    directories = JobDirectories(tmp_path, "ABC-DEF")
    directories.set_up()
    return directories


def drain(directories, rules=None, **options):
    with Aggregator(directories, "C", rules, **options) as aggregator:
        aggregator.run(threading.Event(), once=True)
        return aggregator.outputs


def names(directories):
    return sorted(p.name for p in directories.job_path.iterdir())


def test_shared_cases(shared, tmp_path):
    for case in json.loads((shared / "cases/exports.json").read_text())["cases"]:
        job = JobDirectories(tmp_path, case["id"])
        job.set_up()
        for i, size in enumerate(case["sizes"], 1):
            put(job, f"f{i:03}.ndjson", line(size, str(i % 10)) if size else b"")
        if case["phase"] == "done":
            job.finish()
        drain(job, Rules(case["max_bytes"], case["multiplier"]))
        expected = case["expected"]
        sizes = {name: len(data) for name, data in outputs(job).items()}
        assert sizes == expected["final_files"], case["id"]
        left = job.finished_path
        if case["phase"] == "done":
            assert not left.exists()
            assert not job.journal_path.exists()
        else:
            of = {f"f{i:03}": size for i, size in enumerate(case["sizes"], 1)}
            assert sorted(of[p.stem] for p in left.iterdir()) == sorted(
                of[name] for name in expected["left_in_finished"]
            ), case["id"]


def test_the_readme_of_the_contract(job):
    rules = Rules(MIB, 2)
    for name, size in zip("abcd", (700, 200, 800, 900), strict=True):
        put(job, f"tmp_{name}.ndjson", line(size * K, name))
    with Aggregator(job, "Z9000", rules) as aggregator:
        assert aggregator.step().size == 900 * K
        assert aggregator.step() is None
        assert aggregator.finish() is False
        job.finish()
        assert aggregator.step().size == 1000 * K
        assert aggregator.step().size == 700 * K
        assert aggregator.step() is None
        assert aggregator.finish() is True
    assert names(job) == ["Z9000_0001.ndjson", "Z9000_0002.ndjson", "Z9000_0003.ndjson"]
    assert outputs(job)["Z9000_0002.ndjson"] == line(800 * K, "c") + line(200 * K, "b")


def test_an_output_is_described_by_length_count_and_digest(job):
    put(job, "a.ndjson", b"ab\nc")
    put(job, "b.ndjson.gz", gzip.compress(b"d\n"))
    job.finish()
    digest = hashlib.sha256(b"ab\nc\nd\n").hexdigest()
    assert drain(job) == [Output("C_0001.ndjson", Kind.DATA, 7, 7, 3, f"sha256:{digest}")]
    assert outputs(job) == {"C_0001.ndjson": b"ab\nc\nd\n"}


def test_kinds_have_their_own_files_and_numbers(job):
    put(job, "a.ndjson", b"1\n")
    put(job, "a_error.ndjson", b"2\n")
    put(job, "b_error.ndjson.gz", gzip.compress(b"33\n"))
    put(job, "error.ndjson", b"44\n")  # the suffix is "_error.ndjson"
    put(job, "_error.ndjson", b"5\n")
    put(job, ".ndjson", b"6\n")
    job.finish()
    drain(job)
    assert outputs(job) == {"C_0001.ndjson": b"44\n6\n1\n", "C_0001_error.ndjson": b"33\n5\n2\n"}


@pytest.mark.parametrize(
    ("codec", "suffix", "decompress"),
    [
        (Codec.GZIP, ".gz", gzip.decompress),
        (Codec.ZSTD, ".zst", zstandard.ZstdDecompressor().decompressobj().decompress),
    ],
)
def test_codec(job, codec, suffix, decompress):
    data = b"".join(b'{"n": %d}\n' % i for i in range(300_000))
    put(job, "a.ndjson", data)
    job.finish()
    (output,) = drain(job, codec=codec)
    path = job.job_path / f"C_0001.ndjson{suffix}"
    assert decompress(path.read_bytes()) == data
    assert output.name == path.name
    assert output.size == len(data)
    assert output.stored == path.stat().st_size < len(data) / 5
    assert output.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_oversize_parts_are_split_at_lines(job, caplog):
    lines = [line(10, str(i)) for i in range(10)]
    lines.insert(5, line(70, "L"))
    put(job, "big.ndjson", b"".join(lines)[:-1])
    put(job, "big.ndjson.gz", gzip.compress(b"".join(lines[:9])))
    job.finish()
    with caplog.at_level(logging.WARNING):
        made = drain(job, Rules(40, 2))
    assert [o.size for o in made] == [70, 70, 40, 40, 40, 40, 20]
    assert caplog.text.count("above the maximum of 40") == 2
    assert lines_out(job) == {**dict.fromkeys(lines, 2), lines[9]: 1, lines[10]: 1}
    for data in outputs(job).values():
        assert len(data) <= 40 or data == line(70, "L")


def test_a_repaired_newline_counts_towards_the_maximum(job):
    put(job, "a.ndjson", b"1234")
    put(job, "b.ndjson", b"12345")
    job.finish()
    drain(job, Rules(10, 2))
    assert outputs(job) == {"C_0001.ndjson": b"12345\n", "C_0002.ndjson": b"1234\n"}


def test_numbers_go_on_after_a_restart_and_beyond_four_digits(job):
    for name in ("C_0002.ndjson", "C_9999.ndjson.gz", "D_0500.ndjson", "C_12.ndjson"):
        (job.job_path / name).write_bytes(b"")
    put(job, "a.ndjson", b"1\n")
    put(job, "a_error.ndjson", b"2\n")
    job.finish()
    assert [o.name for o in drain(job)] == ["C_10000.ndjson", "C_0001_error.ndjson"]


def test_a_late_or_needless_start_ends_at_once(tmp_path):
    job = JobDirectories(tmp_path, "late")
    with pytest.raises(NotFound):
        aggregate(job, "C")
    job.set_up()
    put(job, "a.ndjson", b"1\n")
    job.finish()
    assert aggregate(job, "C") == 1
    assert aggregate(job, "C") == 0
    assert names(job) == ["C_0001.ndjson"]


def test_one_aggregator_at_a_time(job, monkeypatch):
    monkeypatch.setattr("catchment.exports.journal.PATIENCE_SECONDS", 0.1)
    with Aggregator(job, "C"), pytest.raises(Conflict) as error:
        aggregate(job, "C")
    assert error.value.kind == "aggregator-running"
    job.finish()
    assert aggregate(job, "C") == 0


def test_aggregate_runs_beside_the_workers_and_ends_quickly(job):
    lines = [f"{worker}-{i}" for worker in range(4) for i in range(40)]
    with ThreadPoolExecutor() as pool:
        counted = pool.submit(aggregate, job, "C", Rules(100, 2))
        for start in range(0, len(lines), 8):
            with RecordStream(job) as stream:
                for text in lines[start : start + 8]:
                    stream.write(text)
        deadline = time.monotonic() + 20
        while not list(job.job_path.glob("*.ndjson")):
            assert time.monotonic() < deadline, "nothing is combined while workers stream"
            time.sleep(0.01)
        job.finish()
        assert counted.result(20) == len(outputs(job))
    assert lines_out(job) == dict.fromkeys((f"{text}\n".encode() for text in lines), 1)
    assert not job.finished_path.exists()


def test_latency_after_the_done_signal(job):
    took = []
    for attempt in range(5):
        job.set_up()
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(lambda: (aggregate(job, "C"), time.monotonic())[1])
            time.sleep(0.3)
            put(job, f"{attempt}.ndjson", b"1\n")
            start = time.monotonic()
            job.finish()
            took.append(ended.result(20) - start)
    assert min(took) < 0.1


def test_as_a_process(job):
    put(job, "a.ndjson", b"1\n")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        counted = pool.submit(aggregate, job, "C", Rules(10, 1), codec=Codec.GZIP)
        put(job, "b.ndjson", b"1\n")
        job.finish()
        assert counted.result(60) == 1
    assert outputs(job) == {"C_0001.ndjson.gz": b"1\n1\n"}


def test_stop(job):
    stop = threading.Event()
    put(job, "a.ndjson", b"1\n")
    with ThreadPoolExecutor(1) as pool:
        counted = pool.submit(aggregate, job, "C", stop=stop)
        stop.set()
        assert counted.result(20) == 0
    assert lines_left(job) == {b"1\n": 1}


@pytest.mark.parametrize("name", ["notes.txt", "a.ndjson.tmp", ".nfs01", "a.json"])
def test_what_is_not_a_part_is_never_removed(job, name):
    put(job, "a.ndjson", b"1\n")
    put(job, name, b"precious")
    job.finish()
    with pytest.raises(Invalid) as error:
        aggregate(job, "C")
    assert error.value.kind == "not-a-part"
    assert outputs(job) == {"C_0001.ndjson": b"1\n"}
    (job.finished_path / name).rename(job.job_path / "away")
    assert aggregate(job, "C") == 1
    assert outputs(job) == {"C_0001.ndjson": b"1\n", "away": b"precious"}


def test_links_and_folders_are_not_followed(job, tmp_path, caplog):
    (tmp_path / "secret.ndjson").write_bytes(b"secret\n")
    (job.finished_path / "link.ndjson").symlink_to(tmp_path / "secret.ndjson")
    (job.finished_path / "folder.ndjson").mkdir()
    job.finish()
    with pytest.raises(Invalid, match="and 1 more part"):
        aggregate(job, "C")
    assert "'link.ndjson' in the folder" in caplog.text or "'folder.ndjson' in" in caplog.text
    assert not outputs(job)
    assert (tmp_path / "secret.ndjson").exists()


@pytest.mark.parametrize("damage", [lambda d: d[:-9], lambda d: d[:20] + b"\0" + d[21:]])
def test_a_damaged_gzip_part_stays_and_hurts_no_other(job, damage):
    data = gzip.compress(b"".join(b"%d\n" % (i * i) for i in range(1000)))
    put(job, "bad.ndjson.gz", damage(data))
    put(job, "good.ndjson", b"1\n")
    job.finish()
    with pytest.raises(Corrupt) as error:
        aggregate(job, "C")
    assert error.value.kind == "part-unreadable"
    assert outputs(job) == {"C_0001.ndjson": b"1\n"}
    assert [p.name for p in job.finished_path.iterdir()] == ["bad.ndjson.gz"]
    put(job, "bad.ndjson.gz", data)
    assert aggregate(job, "C") == 2


def test_a_part_that_changes_is_set_aside_until_the_end(job):
    part = put(job, "a.ndjson", line(100))
    put(job, "b.ndjson", line(60))
    with Aggregator(job, "C", Rules(100, 0)) as aggregator:
        assert aggregator._inventory.look()
        with part.open("ab") as file:
            file.write(line(50, "y"))
        assert aggregator.step().size == 60
        assert aggregator.step() is None
        with pytest.raises(Unavailable) as error:
            aggregator.check()
        assert error.value.kind == "part-changed"
        job.finish()
        while aggregator.step():
            pass
        assert aggregator.finish()
    assert lines_out(job) == {line(100): 1, line(60): 1, line(50, "y"): 1}


def test_a_part_that_changes_while_it_is_combined(job, monkeypatch):
    part = put(job, "a.ndjson", line(100))
    combine = Combiner.combine

    def meddled(*args):
        made = combine(*args)
        with part.open("ab") as file:
            file.write(line(50, "y"))
        return made

    with Aggregator(job, "C", Rules(100, 0)) as aggregator:
        with monkeypatch.context() as patched:
            patched.setattr(Combiner, "combine", meddled)
            assert aggregator.step() is None
        job.finish()
        assert aggregator.run(threading.Event())
    assert lines_out(job) == {line(100): 1, line(50, "y"): 1}


def test_a_part_that_becomes_shorter_while_it_is_combined(job):
    part = put(job, "a.ndjson", line(100) * 3)
    with Aggregator(job, "C", Rules(300, 0)) as aggregator:
        assert aggregator._inventory.look()
        part.write_bytes(line(100))
        assert aggregator.step() is None
        part.unlink()
        job.finish()
        assert aggregator.run(threading.Event())
    assert not outputs(job)


def test_a_part_that_somebody_takes_away(job):
    with Aggregator(job, "C", Rules(1, 0)) as aggregator:
        assert aggregator.step() is None
        put(job, "a.ndjson", b"1\n")
        put(job, "b.ndjson", b"2\n").unlink()  # it is told of both, and finds one
        assert aggregator.step().count == 1
        assert aggregator.step() is None
        aggregator.check()


def test_outputs_of_many_mebibytes(job):
    data = b"".join(line(1000, str(i % 10)) for i in range(20_000))
    put(job, "a.ndjson", data)
    job.finish()
    (output,) = drain(job)
    assert output.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (output.size, output.count) == (20_000_000, 20_000)
    assert outputs(job) == {"C_0001.ndjson": data}


@pytest.mark.parametrize(
    "text", ["", "{}", '{"format": 2}', "[1]", '{"format": 1, "output": {}, "uses": []}']
)
def test_a_journal_that_is_not_ours_stops_everything(job, text):
    put(job, "a.ndjson", b"1\n")
    job.journal_path.mkdir()
    (job.journal_path / "C_0001.ndjson.json").write_text(text)
    job.finish()
    with pytest.raises(Corrupt) as error:
        aggregate(job, "C")
    assert error.value.kind == "journal-unreadable"
    assert lines_left(job) == {b"1\n": 1}


def test_a_part_that_comes_after_the_done_signal_is_not_lost(job):
    job.finish()
    with Aggregator(job, "C") as aggregator:
        assert aggregator.step() is None
        put(job, "late.ndjson", b"1\n")
        assert aggregator.finish() is False
        assert aggregator.step().count == 1
        assert aggregator.finish() is True
    assert outputs(job) == {"C_0001.ndjson": b"1\n"}


def test_the_name_of_a_part_that_was_empty_may_come_again(job):
    with Aggregator(job, "C", Rules(1, 0)) as aggregator:
        for name in ("a.ndjson", "a_error.ndjson"):
            put(job, name, b"")
            assert aggregator.step() is None
            put(job, name, b"1\n")
            assert aggregator.step().count == 1
            put(job, name, b"2\n")
            assert aggregator.step().count == 1
        put(job, "a.ndjson", b"")
        job.finish()
        assert aggregator.run(threading.Event())
    assert [data for _, data in sorted(outputs(job).items())] == [b"1\n", b"1\n", b"2\n", b"2\n"]


def test_many_aggregators_at_once(job):
    """One of them does the work; the others are refused, or find nothing to do."""
    lines = [f"{i}\n".encode() for i in range(60)]
    for i, text in enumerate(lines):
        put(job, f"{i}.ndjson", text)
    job.finish()

    def one(_):
        try:
            return aggregate(job, "C", Rules(8, 1))
        except Conflict as error:
            assert error.kind == "aggregator-running"
            return 0

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(one, range(200)))
    assert lines_out(job) == dict.fromkeys(lines, 1)
    assert sorted(made)[:-1] == [0] * 199
    assert made.count(len(outputs(job))) == 1
    assert not job.journal_path.exists()


def test_empty_parts_are_removed(job):
    put(job, "a.ndjson", b"")
    put(job, "b.ndjson.gz", gzip.compress(b""))
    put(job, "c_error.ndjson", b"")
    with Aggregator(job, "C", Rules(1, 0)) as aggregator:
        assert aggregator.step() is None
        assert not list(job.finished_path.iterdir())


def test_without_inotify_it_looks_for_itself(job, monkeypatch):
    monkeypatch.setattr("catchment.exports.watch.INotify", None)
    monkeypatch.setattr("catchment.exports.inventory.LOOK_SECONDS", 0.05)
    with ThreadPoolExecutor(1) as pool:
        counted = pool.submit(aggregate, job, "C", Rules(1, 0))
        put(job, "a.ndjson", b"1\n")
        deadline = time.monotonic() + 20
        while not outputs(job):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        job.finish()
        assert counted.result(20) == 1


def test_more_events_than_the_kernel_keeps(job, monkeypatch):
    """Then it looks for itself."""

    class Overflow:
        def __init__(self, inotify):
            self._inotify = inotify

        def __getattr__(self, name):
            return getattr(self._inotify, name)

        def read(self, timeout):
            self._inotify.read(timeout)
            return [flags_event]

    flags_event = Event(-1, flags.Q_OVERFLOW, 0, "")
    with Aggregator(job, "C", Rules(1, 0)) as aggregator:
        watch = aggregator._inventory._watch
        watch._inotify = Overflow(watch._inotify)
        put(job, "a.ndjson", b"1\n")
        assert aggregator.step().count == 1


def test_where_there_is_no_inotify(job, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "inotify_simple", None)
        importlib.reload(watch)
        assert watch.INotify is None
        put(job, "a.ndjson", b"1\n")
        job.finish()
        assert aggregate(job, "C") == 1
    importlib.reload(watch)
    assert watch.INotify is not None


def test_a_lock_that_was_removed_just_now_is_no_lock(job, monkeypatch):
    flock, calls = fcntl.flock, []

    def late(descriptor, operation):
        calls.append(operation)
        if len(calls) == 1:  # the one before has finished the job in this very moment
            (job.journal_path / "lock").unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    put(job, "a.ndjson", b"1\n")
    job.finish()
    assert aggregate(job, "C") == 1
    assert calls.count(fcntl.LOCK_EX | fcntl.LOCK_NB) == 2


def test_missing_folder_of_finished_files_is_waited_for(tmp_path):
    job = JobDirectories(tmp_path, "J")
    job.streaming_path.mkdir(parents=True)
    with Aggregator(job, "C", Rules(1, 0)) as aggregator:
        assert aggregator.step() is None
        put(job, "a.ndjson", b"1\n")
        assert aggregator.step().count == 1


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "a\0b"])
def test_names_of_jobs_and_contracts_are_checked(tmp_path, job, name):
    with pytest.raises(Invalid) as error:
        JobDirectories(tmp_path, name)
    assert error.value.kind == "bad-name"
    with pytest.raises(Invalid):
        JobDirectories(tmp_path, "J", finished=name)
    with pytest.raises(Invalid):
        Aggregator(job, name)


@pytest.mark.parametrize("name", ["a b", "x" * 64, "_a", "ü", "tmp.1"])
def test_contracts_are_matched_strictly_and_folders_are_what_they_are(tmp_path, name):
    job = JobDirectories(tmp_path, name)
    job.set_up()
    put(job, "a.ndjson", b"1\n")
    job.finish()
    assert aggregate(job, "C") == 1
    with pytest.raises(Invalid):
        Aggregator(job, name)


LINES = st.lists(
    st.binary(min_size=1, max_size=9).map(lambda b: b.replace(b"\n", b"-")), max_size=9
)
FILES = st.lists(st.tuples(LINES, st.booleans(), st.booleans(), st.booleans()), max_size=12)


@given(FILES, st.integers(1, 40), st.integers(0, 4), st.integers(0, 12))
@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_conservation(tmp_path_factory, files, maximum, multiplier, when_done):
    """Whatever the parts and whenever they come, each line comes out once and within the bound."""
    job = JobDirectories(tmp_path_factory.mktemp("jobs"), "J")
    job.set_up()
    given_lines: dict[Kind, list[bytes]] = {Kind.DATA: [], Kind.ERROR: []}
    with Aggregator(job, "C", Rules(maximum, multiplier)) as aggregator:
        for i, (lines, is_error, is_gzip, final_newline) in enumerate(files):
            if i == when_done:
                while aggregator.step():
                    pass
            data = b"\n".join(lines) + (b"\n" if final_newline and lines else b"")
            name = f"{i}{'_error' if is_error else ''}.ndjson{'.gz' if is_gzip else ''}"
            put(job, name, gzip.compress(data) if is_gzip else data)
            given_lines[Kind(("data", "error")[is_error])] += lines
        job.finish()
        while aggregator.step():
            pass
        assert aggregator.finish()
        made = aggregator.outputs
    out: dict[Kind, list[bytes]] = {Kind.DATA: [], Kind.ERROR: []}
    for output in made:
        data = (job.job_path / output.name).read_bytes()
        assert len(data) == output.size == output.stored
        assert data.count(b"\n") == output.count
        assert output.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert output.size <= maximum or output.count == 1
        out[output.kind] += data.split(b"\n")[:-1]
    assert {k: sorted(v) for k, v in out.items()} == {k: sorted(v) for k, v in given_lines.items()}
    assert {p.name for p in job.job_path.iterdir()} == {output.name for output in made}
