"""What a worker holds in its hands: the job's folders, and the stream of records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.exports.directories import JobDirectories
from catchment.exports.model import Kind
from catchment.exports.stream import RecordStream


@pytest.fixture
def job(tmp_path):
    directories = JobDirectories(tmp_path, "J")
    directories.set_up()
    return directories


def finished(job):
    return {p.name: p.read_bytes() for p in job.finished_path.iterdir()}


def test_the_folders_of_the_contract(tmp_path):
    job = JobDirectories(tmp_path / "efs", "ABC-DEF", "stream", "fini")
    job.set_up()
    job.set_up()
    assert sorted(p.name for p in (tmp_path / "efs/ABC-DEF").iterdir()) == ["fini", "stream"]
    assert not job.done
    job.finish()
    job.finish()
    assert job.done
    assert [p.name for p in job.job_path.iterdir()] == ["fini"]


@pytest.mark.parametrize(
    ("streaming", "finished"), [("x", "x"), (".catchment", "x"), ("x", ".catchment")]
)
def test_the_folders_are_not_one(tmp_path, streaming, finished):
    """Else what is still written is combined."""
    with pytest.raises(Invalid) as error:
        JobDirectories(tmp_path, "job", streaming, finished)
    assert error.value.kind == "bad-name"


def test_a_stream_appears_when_it_is_closed(job):
    with RecordStream(job) as stream:
        stream.write('{"a":1}')
        stream.write('{"ä":2}\n')
        stream.write(b"3\n4")
        assert (stream.count, stream.size) == (4, 21)
        assert [p.name for p in job.streaming_path.iterdir()] == [stream.name]
        assert not finished(job)
    assert finished(job) == {stream.name: '{"a":1}\n{"ä":2}\n3\n4\n'.encode()}
    assert stream.name.startswith("tmp_")
    assert not list(job.streaming_path.iterdir())
    stream.close()


def test_a_name_of_ones_own_is_no_path(job):
    with pytest.raises(Invalid) as error:
        RecordStream(job, unique="x/../../y")
    assert error.value.kind == "bad-name"


def test_errors_have_their_suffix(job):
    with RecordStream(job, Kind.ERROR, unique="7") as stream:
        stream.write("{}")
    assert list(finished(job)) == ["tmp_7_error.ndjson"]


def test_an_exception_discards_the_batch(job):
    def batch():
        with RecordStream(job) as stream:
            stream.write("half")
            stream.write("x" * 3_000_000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        batch()
    assert not finished(job)
    assert not list(job.streaming_path.iterdir())


def test_no_records_make_no_file(job):
    with RecordStream(job) as stream:
        for nothing in ("", "\n", b"\r\n"):
            stream.write(nothing)
    assert not finished(job)
    assert not list(job.streaming_path.iterdir())


@pytest.mark.parametrize("record", ["\ud800", b"\xff{}"])
def test_a_record_is_utf8(job, record):
    with pytest.raises(Invalid) as error, RecordStream(job) as stream:
        stream.write(record)
    assert error.value.kind == "record-not-utf8"
    assert not finished(job)


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8"), min_size=1)), max_size=5), st.data())
def test_rewind_takes_back_what_a_member_wrote(tmp_path_factory, members, data):
    job = JobDirectories(tmp_path_factory.mktemp("rewind"), "J")
    job.set_up()
    kept = []
    with RecordStream(job, unique="1") as stream:
        for records in members:
            count, size = stream.count, stream.size
            for record in records:
                stream.write(record)
            if data.draw(st.booleans()):
                stream.rewind(count, size)
                assert (stream.count, stream.size) == (count, size)
            else:
                kept += [r for r in records if r and not r.encode().isspace()]
        total = stream.size
    expected = "".join(r if r.endswith("\n") else r + "\n" for r in kept).encode()
    assert total == len(expected)
    assert finished(job) == ({"tmp_1.ndjson": expected} if kept else {})


def test_open_streams_keep_the_job_open(job):
    stream = RecordStream(job)
    stream.write("late")
    with pytest.raises(Conflict) as error:
        job.finish()
    assert error.value.kind == "streams-open"
    assert not job.done
    stream.close()
    job.finish()
    assert job.done
    assert len(finished(job)) == 1


def test_what_a_killed_worker_left_can_be_discarded(job):
    (job.streaming_path / "tmp_dead.ndjson").write_bytes(b'{"half":')
    job.finish(discard=True)
    assert job.done
    assert not finished(job)


def test_a_job_that_was_not_set_up(tmp_path):
    job = JobDirectories(tmp_path, "none")
    with pytest.raises(NotFound):
        RecordStream(job)
    job.set_up()
    stream = RecordStream(job)
    stream.write("1")
    job.finished_path.rmdir()
    with pytest.raises(NotFound):
        stream.close()
    assert not list(job.streaming_path.iterdir())


def test_a_second_stream_of_a_name_does_not_take_the_place_of_the_first(job):
    with RecordStream(job, unique="1") as stream:
        stream.write("1")
    with pytest.raises(Conflict) as error, RecordStream(job, unique="1") as stream:
        stream.write("2")
    assert error.value.kind == "part-taken"
    assert [path.read_bytes() for path in job.finished_path.iterdir()] == [b"1\n"]
    assert list(job.streaming_path.iterdir()) == []


@pytest.mark.parametrize("blank", ["", " ", "\t", "\r\n", " \n ", b"\x0b\n"])
def test_a_blank_record_is_none(job, blank):
    with RecordStream(job) as stream:
        stream.write(blank)
        assert (stream.count, stream.size) == (0, 0)
    assert list(job.finished_path.iterdir()) == []
