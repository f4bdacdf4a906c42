"""Jobs from end to end: a source, an executor, a store and a ledger, all of them real."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import pytest

from catchment.core.account import Balance, Line
from catchment.core.errors import CatchmentError, Conflict, Corrupt, Invalid, NotFound, Unavailable
from catchment.core.provenance import NAME, dumps, seal_all
from catchment.core.safe import SafePool
from catchment.core.store import open_store
from catchment.exports import jobs, layout, manifest
from catchment.exports.batch import Batch, Part
from catchment.exports.book import Made
from catchment.exports.codecs import decompressed
from catchment.exports.fhir import FhirSource
from catchment.exports.job import NEXT, Job, State, read_members
from catchment.exports.model import MIB, Codec, Kind, Output, Rules
from catchment.exports.ndjson import FileSource
from catchment.exports.packer import Packer
from catchment.exports.run import cancel, run
from catchment.testing.faults import every_fault, inject
from catchment.testing.fhir import FhirServer

EOB = "ExplanationOfBenefit"


def records(member, n, size=100):
    return [
        (b'{"resourceType":"%s","id":"%s-%d","x":"' % (EOB.encode(), member.encode(), i)).ljust(
            size - 2, b"x"
        )
        + b'"}'
        for i in range(n)
    ]


@pytest.fixture
def server():
    """Twenty members with 0 to 19 records of 100 bytes each, without the newline."""
    with FhirServer({str(m): records(str(m), m) for m in range(20)}, page=7) as running:
        yield running


def job_of(server, **parts):
    given = {
        "source": FhirSource(server.url, EOB, retries=1),
        "members": tuple(str(m) for m in range(20)),
        "rules": Rules(2000, 1),
        "batch": 3,
        "threshold": 0.5,
    }
    return Job("eob", "Z9000", **given | parts)


def all_lines(server):
    return Counter(line for lines in server._resources.values() for line in lines)


def outputs_of(house, snapshot):
    """Names and digests of what was stored, in order of name."""
    location = snapshot.location
    return [
        (item["key"].removeprefix(location), item["digest"])
        for item in snapshot.provenance["objects"]
        if item["role"] != "manifest"
    ]


def lines_of(house, snapshot, kind=Kind.DATA):
    status = jobs.status(house.ledger, snapshot.run)
    found = Counter()
    for output in status.outputs:
        data = b"".join(
            decompressed(
                house.store.stream(snapshot.location + output.name), layout.codec_of(output.name)
            )
        )
        assert len(data) == output.size
        assert data.endswith(b"\n")
        if output.kind is kind:
            found.update(data.splitlines())
    return found


def is_whole(house, snapshot, expected):
    """Everything that must be so after a job, however it came about."""
    assert lines_of(house, snapshot) == expected
    status = jobs.status(house.ledger, snapshot.run)
    assert status.state == "published"
    assert jobs.verify(house.store, house.ledger, status) == []
    keys = {stat.key.removeprefix(snapshot.location) for stat in house.store.list()}
    assert keys == {output.name for output in status.outputs} | {"manifest.json", "provenance.json"}
    for kind in Kind:
        numbers = [
            layout.output_number(o.name, "Z9000", kind) for o in status.outputs if o.kind is kind
        ]
        assert numbers == list(range(1, len(numbers) + 1))
    assert {c.state for c in house.ledger.contributions("exports/eob")} == {"published"}


def test_the_sample_from_a_server_that_fails_in_every_usual_way(claims, house):
    lines, members = claims
    with FhirServer(members, page=40, token="secret") as server:
        server.plan.extend([(429, {"Retry-After": "0"}, b""), (500, {}, b""), (503, {}, b"")])
        server.broken["-1"] = (500, {}, b"")
        source = FhirSource(server.url, EOB, token="secret")
        job = Job(
            "eob", "Z9000", source, (*members, "-1"), rules=Rules(MIB), batch=2, threshold=0.2
        )
        snapshot = run(job, house)
    is_whole(house, snapshot, Counter(lines))
    (error,) = lines_of(house, snapshot, Kind.ERROR)
    issue = json.loads(error)["issue"][0]
    assert (issue["code"], issue["diagnostics"][:4]) == ("transient", "-1: ")
    assert server.requests["-1"] == 7
    account = house.ledger.account(snapshot.run)
    account.check()
    assert account[Line("Z9000", EOB, "lines")].to_json() == {
        "received": 500, "kept": 500, "dropped": {}, "quarantined": {},
    }  # fmt: skip
    assert account[Line("Z9000", EOB, "members")].quarantined == {"source-down": 1}
    assert account[Line("Z9000", "OperationOutcome", "outcomes")] == Balance(1, 1)  # no record
    document = json.loads(house.store.read(snapshot.location + "manifest.json"))
    assert [entry.kind for entry in manifest.read(document)] == [Kind.DATA] * 5 + [Kind.ERROR]
    assert sum(entry.lines for entry in manifest.read(document)) == 501
    told = json.dumps(house.ledger.latest("exports/eob").provenance)
    for member in members:
        assert member not in told, "no id of a patient leaves the outputs"


@pytest.mark.parametrize("codec", Codec)
def test_outputs_come_out_while_members_are_read(server, house, codec):
    events = []
    done = job_of(server, codec=codec)
    snapshot = run(done, replace(house, progress=events.append, window=1))
    is_whole(house, snapshot, all_lines(server))
    status = jobs.status(house.ledger, snapshot.run)
    assert {layout.codec_of(output.name) for output in status.outputs} == {codec}
    made = [e for e in events if e.work == "exports/eob: combine"]
    assert [later.done > earlier.done for earlier, later in pairwise(made)] == [True] * (
        len(made) - 1
    )
    assert all(output.size <= 2000 for output in status.outputs)
    assert status.done == status.members == 20


def test_in_child_processes(server, house):
    with SafePool(2) as pool:
        snapshot = run(job_of(server), replace(house, executor=pool))
    is_whole(house, snapshot, all_lines(server))


def test_on_s3(server, house, moto):
    with FhirServer({"1": records("1", 7000, 1000), "2": records("2", 3)}) as big:
        where = replace(house, store=moto.store())
        snapshot = run(job_of(big, members=("1", "2"), rules=Rules(6_000_000, 0), batch=1), where)
        is_whole(where, snapshot, all_lines(big))


def test_files_and_bundles_with_every_fault(shared, house):
    source = FileSource(open_store((shared / "data/exports").as_uri()), "Patient")
    job = Job("eob", "Z9000", source, tuple(source.members()), rules=Rules(MIB), batch=2)
    snapshot = run(job, house)
    account = house.ledger.account(snapshot.run)
    balance = account[Line("Z9000", "Patient", "lines")]
    assert balance.quarantined == {"not-json": 7}
    assert balance.kept == sum(lines_of(house, snapshot).values())
    findings = {finding.code: finding for finding in house.ledger.findings(run=snapshot.run)}
    assert findings["records-refused"].message == "7 records kept out: not-json"
    assert jobs.verify(house.store, house.ledger, jobs.status(house.ledger, snapshot.run)) == []


def test_a_member_that_fails_half_way_leaves_only_its_error(house):
    class Half(FhirServer):
        def answer(self, target, headers):
            return (500, {}, b"") if "startIndex" in target else super().answer(target, headers)

    with Half(
        {m: records(m, n) for m, n in (("a", 5), ("b", 20), ("c", 4), ("d", 30))}, page=10
    ) as server:
        snapshot = run(job_of(server, members=("a", "b", "c", "d"), batch=4), house)
    is_whole(house, snapshot, Counter(records("a", 5) + records("c", 4)))
    told = [
        json.loads(line)["issue"][0]["diagnostics"]
        for line in lines_of(house, snapshot, Kind.ERROR)
    ]
    assert sorted(text[:2] for text in told) == ["b:", "d:"], "each failed member has its line"
    balance = house.ledger.account(snapshot.run)[Line("Z9000", EOB, "lines")]
    assert (balance.received, balance.kept, balance.quarantined) == (29, 9, {"member-failed": 20})


def test_too_many_failures(server, house):
    for m in range(3):
        server.broken[str(m)] = (404, {}, b"")
    with pytest.raises(Unavailable, match="3 of 20 members failed, expected at most 10") as error:
        run(job_of(server, threshold=0.1, batch=1), house)
    assert error.value.kind == "too-many-failures"
    assert list(house.store.list()) == []
    (failed,) = house.ledger.runs("exports/eob")
    assert (failed.state, failed.error["kind"]) == ("failed", "too-many-failures")
    assert {c.state for c in house.ledger.contributions("exports/eob")} <= {"discarded"}
    is_whole_again = run(job_of(server, threshold=0.15, batch=1), house)
    assert is_whole_again.number == 1


def test_one_line_above_the_maximum(house):
    with FhirServer({"1": [*records("1", 1, 5000), *records("2", 3)]}) as server:
        snapshot = run(job_of(server, members=("1",)), house)
        is_whole(house, snapshot, all_lines(server))
    (finding,) = house.ledger.findings(run=snapshot.run)
    assert (finding.code, finding.where) == ("line-above-maximum", "Z9000_0001.ndjson")


def test_every_job_is_a_snapshot(server, house):
    first, second = run(job_of(server), house), run(job_of(server), house)
    assert (first.number, second.number, second.parent) == (1, 2, 1)
    assert first.run != second.run
    assert lines_of(house, first) == lines_of(house, second)


def test_an_open_job_is_another_one(server, house):
    house.ledger.start_run("exports/eob", {"contract": "Z9000"})
    with pytest.raises(Conflict) as error:
        run(job_of(server), house)
    assert error.value.kind == "job-open"
    with house.ledger.holding("exports/eob"), pytest.raises(Conflict) as error:
        run(job_of(server), house)
    assert error.value.kind == "lease-held"


@pytest.mark.parametrize("where", ["local", "s3"])
def test_somebody_elses_object_with_the_name_of_an_output(server, house, moto, where):
    store = house.store if where == "local" else moto.store()

    class Meddled:
        """Puts a foreign object before the job's second output."""

        def __getattr__(self, name):
            return getattr(store, name)

        def compose(self, target, segments, **options):
            if target.endswith("_0002.ndjson"):
                store.put(target, b"foreign", mode="overwrite")
            return store.compose(target, segments, **options)

    snapshot = run(job_of(server), replace(house, store=Meddled()))
    assert store.read(snapshot.location + "Z9000_0002.ndjson") == b"foreign"
    status = jobs.status(house.ledger, snapshot.run)
    assert "Z9000_0002.ndjson" not in [output.name for output in status.outputs]
    assert lines_of(replace(house, store=store), snapshot) == all_lines(server)


def test_cancelled_from_elsewhere(server, house):
    server.delay = 0.05
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, job_of(server, batch=1), house)
        while not list(house.ledger.contributions("exports/eob")):
            time.sleep(0.01)
            assert not running.done()
        record = cancel(house.store, house.ledger, "exports/eob")
        with pytest.raises(Conflict) as error:
            running.result(30)
    assert error.value.kind == "job-cancelled"
    assert record.state == "cancelled"
    assert list(house.store.list()) == []
    assert {c.state for c in house.ledger.contributions("exports/eob")} == {"discarded"}
    assert house.ledger.lease("exports/eob") is None
    assert jobs.status(house.ledger, record.id).state == "cancelled"
    with pytest.raises(NotFound) as error:
        cancel(house.store, house.ledger, "exports/eob")
    assert error.value.kind == "no-job"
    is_next = run(job_of(server), house)
    assert lines_of(house, is_next) == all_lines(server)


def test_progress_by_member_is_seen_from_elsewhere(server, house, monkeypatch):
    """While the only batch is under way, whoever reaches the ledger sees how far it is."""
    monkeypatch.setattr("catchment.exports.run.TELL_SECONDS", 0.0)
    server.delay = 0.05
    seen = set()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, job_of(server, batch=20), house)
        while not running.done():
            with suppress(NotFound):
                seen.add(jobs.newest(house.ledger, "exports/eob").done)
            time.sleep(0.02)
        is_whole(house, running.result(), all_lines(server))
    assert len(seen) > 3
    assert seen <= set(range(21))


def test_only_the_job_that_is_meant_is_cancelled(server, house):
    record = house.ledger.start_run("exports/eob", job_of(server).config())
    with pytest.raises(NotFound) as error:
        cancel(house.store, house.ledger, "exports/eob", job="another")
    assert error.value.kind == "no-job"
    assert cancel(house.store, house.ledger, "exports/eob", job=record.id).state == "cancelled"


def test_cancel_does_not_wait_for_ever(server, house):
    house.ledger.start_run("exports/eob", {})
    with house.ledger.holding("exports/eob"), pytest.raises(Unavailable) as error:
        cancel(house.store, house.ledger, "exports/eob", patience=0)
    assert error.value.kind == "worker-busy"


def test_cancelled_while_a_batch_waits_for_its_server(house):
    with FhirServer({}) as server:
        server.broken["1"] = (503, {"Retry-After": "100"}, b"")
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run, job_of(server, members=("1",)), house)
            while not server.requests["1"]:
                time.sleep(0.01)
            cancel(house.store, house.ledger, "exports/eob")
            with pytest.raises(Conflict):
                running.result(30)
    assert list(house.store.list()) == []


def test_cancelled_at_the_very_end(server, house):
    class Late:
        """A ledger in which somebody cancels the job just before it is published."""

        def __getattr__(self, name):
            return getattr(house.ledger, name)

        def publish(self, publication, lease):
            house.ledger.finish_run(publication.run, "cancelled")
            return house.ledger.publish(publication, lease)

    with pytest.raises(Conflict) as error:
        run(job_of(server), replace(house, ledger=Late()))
    assert error.value.kind == "job-cancelled"
    assert list(house.store.list()) == []


class Drowsy:
    """A ledger whose leases are short, and not renewed beside the work."""

    def __init__(self, ledger):
        self.ledger = ledger

    def __getattr__(self, name):
        return getattr(self.ledger, name)

    @contextmanager
    def holding(self, aggregate, **_):
        yield self.ledger.acquire(aggregate, "drowsy", timedelta(seconds=0.2))

    def renew(self, lease, ttl):
        return lease


def test_a_coordinator_that_was_paused_publishes_nothing(server, house):
    """Its lease expires, another one takes the job over; both come out of it with each line once."""
    taken = threading.Event()
    done = threading.Event()

    class Paused(Drowsy):
        def renew(self, lease, ttl):
            if not taken.is_set():
                taken.set()
                assert done.wait(30)
            return house.ledger.renew(lease, ttl)

    with ThreadPoolExecutor(1) as pool:
        paused = pool.submit(run, job_of(server), replace(house, ledger=Paused(house.ledger)))
        assert taken.wait(30)
        time.sleep(0.3)
        with ThreadPoolExecutor(2) as executor:
            snapshot = run(job_of(server), replace(house, executor=executor))
        done.set()
        with pytest.raises(Conflict) as error:
            paused.result(30)
    assert error.value.kind in ("lease-lost", "job-cancelled")
    assert lines_of(house, snapshot) == all_lines(server)


def test_who_wakes_late_does_not_touch_a_published_manifest(server, house, monkeypatch):
    """It was paused just before it wrote its own, while another one took the job over."""
    put, woken, told = type(house.store).put, [], []

    def late(store, key, data, **options):
        if key.endswith("/manifest.json") and not woken:
            woken.append(key)
            time.sleep(0.3)
            told.append(run(job_of(server), house))
            told.append(store.head(key))
        return put(store, key, data, **options)

    monkeypatch.setattr(type(house.store), "put", late)
    woke = run(job_of(server), replace(house, ledger=Drowsy(house.ledger)))
    snapshot, stat = told
    assert woke.number == snapshot.number
    assert house.store.head(*woken) == stat
    assert lines_of(house, snapshot) == all_lines(server)


def test_the_manifest_of_one_that_died_is_written_again_where_it_would_differ(
    server, house, monkeypatch
):
    def publish(*_):
        raise Unavailable("gone", kind="ledger-gone")

    with monkeypatch.context() as patched:
        patched.setattr(type(house.ledger), "publish", publish)
        with pytest.raises(Unavailable):
            run(job_of(server), house)
    (left,) = [s.key for s in house.store.list() if s.key.endswith("/manifest.json")]
    snapshot = run(job_of(server, base_url="https://a.example/"), house)
    document = json.loads(house.store.read(left))
    assert layout.manifest(snapshot.location) == left
    assert document["output"][0]["url"].startswith("https://a.example/")
    assert jobs.verify(house.store, house.ledger, jobs.status(house.ledger, snapshot.run)) == []


@pytest.mark.parametrize(("when", "codec"), [("before", Codec.NONE), ("after", Codec.GZIP)])
def test_every_operation_fails_once(house, when, codec):
    """Any operation on the store or the ledger: the next run ends as if nothing had happened."""

    class Hurt:
        """Faults in all but the lease, whose thread goes on until its block ends."""

        def __init__(self, ledger, faults):
            self._hurt = inject(ledger, faults)
            self.holding = ledger.holding

        def __getattr__(self, name):
            return getattr(self._hurt, name)

    with FhirServer({m: records(m, int(m)) for m in "123"}, page=2) as server:
        expected = all_lines(server)
        job = job_of(server, members=("1", "2", "3"), batch=2, rules=Rules(350, 1), codec=codec)
        undisturbed = outputs_of(house, run(replace(job, name="e0"), house))
        read_again = []
        for number, faults in enumerate(every_fault(when=when), 1):
            job = replace(job, name=f"e{number}")
            hurt = replace(
                house,
                store=inject(house.store, faults),
                ledger=Hurt(house.ledger, faults),
                window=1,
            )
            server.requests.clear()
            with suppress(CatchmentError):
                run(job, hurt)
            if not (snapshot := house.ledger.latest(job.aggregate)):
                snapshot = run(job, house)
            else:
                seal_all(house.store, house.ledger, job.aggregate)
            assert lines_of(house, snapshot) == expected
            assert outputs_of(house, snapshot) == undisturbed
            status = jobs.status(house.ledger, snapshot.run)
            assert status.state == "published"
            assert jobs.verify(house.store, house.ledger, status) == []
            read_again.append(server.requests["1"])
    assert number > 30
    assert set(read_again) == {1, 2}, "only the batch whose own operation failed is read again"


class Slowed(Executor):
    """Batches end in another order than they begin."""

    def __init__(self, inner, seconds):
        self._inner, self._seconds = inner, iter(seconds)

    def submit(self, fn, /, *args):
        seconds = next(self._seconds, 0)
        return self._inner.submit(lambda: (time.sleep(seconds), fn(*args))[1])


@pytest.mark.parametrize("seconds", [(0.2,), (0, 0.2, 0.1), (0.1, 0, 0.05, 0, 0.1)])
def test_the_outputs_follow_from_the_job_alone(house, seconds):
    """Which records stand in which output, and in which order; while workers stream, too."""
    resources = {str(m): records(str(m), m % 4, 100 + m % 3) for m in range(24)}
    with FhirServer(resources) as server, ThreadPoolExecutor(4) as threads:
        wanted = {"members": tuple(resources), "batch": 2, "rules": Rules(900, 1)}
        expected = outputs_of(house, run(job_of(server, **wanted), replace(house, window=1)))
        assert len(expected) > 3
        slowed = replace(house, executor=Slowed(threads, seconds), window=8)
        assert outputs_of(house, run(job_of(server, **wanted), slowed)) == expected


def test_equal_pieces_of_a_batch_keep_their_order(house):
    """Not the one of their keys, which are made by chance."""
    with FhirServer({"1": records("1", 40)}) as server:
        wanted = {"members": ("1",), "rules": Rules(303, 1)}
        snapshot = run(job_of(server, **wanted), house)
        data = b"".join(
            house.store.read(snapshot.location + name) for name, _ in outputs_of(house, snapshot)
        )
        assert data.splitlines() == records("1", 40)


class Pages(NamedTuple):
    """A book that is written by hand."""

    batches: dict[int, Batch]
    made: list[Made]

    def enter_output(self, _site, made):
        self.made.append(made)


def test_an_open_job_of_a_version_that_took_batches_as_they_came(store, server):
    """Its outputs stand, and nothing comes out twice."""
    batches = {}
    for number in range(4):
        key, line = f"_staging/exports/eob/r/{number}.ndjson", b"%d\n" % number
        store.put(key, line)
        batches[number] = Batch(number, 1, parts=(Part(key, Kind.DATA, 2, 1),))
    late = batches.pop(1)
    first = Output("Z9000_0001.ndjson", Kind.DATA, 2, 2, 1, "sha256:0")
    pages = Pages(batches, [Made(first, "sha256:0", ["_staging/exports/eob/r/2.ndjson"])])
    packer = Packer(job_of(server, rules=Rules(2, 0)), "r", store, pages)
    while packer.step(done=False):
        pass
    batches[1] = late
    while packer.step(done=True):
        pass
    made = [made.output.name for made in pages.made]
    assert made == [f"Z9000_{number:04}.ndjson" for number in range(1, 5)]
    found = {stat.key.rpartition("/")[2]: store.read(stat.key) for stat in store.list()}
    assert sorted(found) == made[1:]
    assert sorted(found.values()) == [b"0\n", b"1\n", b"3\n"]


def test_finished_batches_are_not_read_again(server, house):
    server.broken["15"] = (500, {}, b"")

    class Full:
        """A store whose disk is full when the sixth batch writes its part."""

        def __getattr__(self, name):
            return getattr(house.store, name)

        def put(self, key, data, **options):
            if "tmp_000005" in key:
                raise Unavailable("no space left", kind="disk-full")
            return house.store.put(key, data, **options)

    with pytest.raises(Unavailable) as error, ThreadPoolExecutor(1) as one:
        run(job_of(server), replace(house, store=Full(), executor=one, window=1))
    assert error.value.kind == "disk-full"
    status = jobs.newest(house.ledger, "exports/eob")
    assert (status.state, status.done) == ("running", 15)
    del server.broken["15"]
    before = server.requests.copy()
    snapshot = run(job_of(server), house)
    is_whole(house, snapshot, all_lines(server))
    again = server.requests - before
    assert set(again) == {"15", "16", "17", "18", "19"}


def test_an_account_that_does_not_balance_is_not_published(server, house, monkeypatch):
    monkeypatch.setattr("catchment.exports.batch._put", lambda *_: iter(()))
    with pytest.raises(Corrupt) as error:
        run(job_of(server), house)
    assert error.value.kind == "account-unbalanced"
    assert house.ledger.latest("exports/eob") is None


def test_verify_finds_what_is_wrong(server, house):
    snapshot = run(job_of(server, codec=Codec.ZSTD), house)
    status = jobs.status(house.ledger, snapshot.run)
    first, second = (snapshot.location + output.name for output in status.outputs[:2])
    house.store.put(first, b"x", mode="overwrite")
    house.store.delete(second)
    wrong = jobs.verify(house.store, house.ledger, status)
    assert {text.partition(":")[0] for text in wrong} == {first, second}
    with pytest.raises(NotFound) as error:
        jobs.snapshot_of(house.ledger, "exports/eob", "none")
    assert error.value.kind == "not-published"


def test_verify_reads_every_byte_and_the_account(server, house):
    snapshot = run(job_of(server, codec=Codec.GZIP), house)
    status = jobs.status(house.ledger, snapshot.run)
    first, second = (snapshot.location + output.name for output in status.outputs[:2])
    whole = house.store.read(first)
    house.store.put(first, whole[:-9], mode="overwrite")
    damaged = house.store.read(second)
    house.store.put(second, damaged[:20] + b"\0\0" + damaged[22:], mode="overwrite")
    house.store.put(snapshot.location + NAME, b"{}", mode="overwrite")
    wrong = jobs.verify(house.store, house.ledger, status)
    damaged_keys = [first, second, snapshot.location + NAME]
    assert [text.partition(": ")[0] for text in wrong] == damaged_keys
    house.store.put(first, whole, mode="overwrite")
    house.store.put(second, damaged, mode="overwrite")
    house.store.put(snapshot.location + NAME, dumps(snapshot.provenance), mode="overwrite")
    assert jobs.verify(house.store, house.ledger, status) == []
    fewer = replace(status, outputs=(replace(status.outputs[0], count=1), *status.outputs[1:]))
    wrong = jobs.verify(house.store, house.ledger, fewer)
    assert [text.partition(": ")[2][:12] for text in wrong] == [
        f"{status.outputs[0].count} lines, ex"[:12],
        f"{sum(o.count for o in fewer.outputs)} lines of"[:12],
    ]


def test_the_lines_are_those_that_were_recorded(server, house, monkeypatch):
    """Bytes that stand as they were stored, and are not the lines that the job tells of."""
    snapshot = run(job_of(server), house)
    status = jobs.status(house.ledger, snapshot.run)
    monkeypatch.setattr(jobs, "decompressed", lambda chunks, codec: [b"another\n"])
    wrong = jobs.verify(house.store, house.ledger, status)
    assert len(wrong) == len(status.outputs)
    assert all("8 bytes, sha256:" in text for text in wrong)


def test_a_cancelled_job_is_seen_before_the_next_output(server, house):
    """Between two batches nobody looks at the ledger but the watch."""
    ended = threading.Event()

    def listen(event):
        if event.work.endswith("combine") and not ended.is_set():
            ended.set()
            house.ledger.finish_run(house.ledger.runs("exports/eob")[0].id, "cancelled")
            time.sleep(0.3)

    with pytest.raises(Conflict) as error:
        run(job_of(server, rules=Rules(2000, 100)), replace(house, progress=listen))
    assert error.value.kind == "job-cancelled"
    assert list(house.store.list()) == []


def test_what_ended_jobs_left_is_removed_by_the_next(server, house):
    house.store.put("_staging/exports/eob/gone/tmp_1.ndjson", b"1\n")
    is_whole(house, run(job_of(server), house), all_lines(server))


@pytest.mark.parametrize("document", [None, [], {"output": 3}, {"output": [{}]}])
def test_what_is_no_manifest(document):
    with pytest.raises(Invalid) as error:
        manifest.read(document)
    assert error.value.kind == "not-a-manifest"


def test_a_manifest_of_another_server():
    entries = manifest.read({
        "output": [{"type": "Patient", "url": "https://x/1.ndjson"}],
        "error": [{"url": "https://x/2.ndjson", "extension": [
            {"url": "https://x/checksum", "valueString": "sha256:ab"},
            {"url": "https://x/file_length", "valueDecimal": 7}, {"url": "https://x/more"}]}],
        "outcome": None,
    })  # fmt: skip
    assert entries == [
        ("https://x/1.ndjson", Kind.DATA, "Patient", None, None, None),
        ("https://x/2.ndjson", Kind.ERROR, None, None, 7, "sha256:ab"),
    ]
    document = manifest.write([], None, time_of := house_time(), request="https://x/$export")
    assert document["request"] == "https://x/$export"
    assert document["transactionTime"] == time_of.isoformat(timespec="milliseconds")


def house_time():
    return datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_status_of_what_is_no_job(house):
    other = house.ledger.start_run("tables/uds", {})
    for name in ("nonsense", other.id):
        with pytest.raises(NotFound) as error:
            jobs.status(house.ledger, name)
        assert error.value.kind == "no-job"
    with pytest.raises(NotFound):
        jobs.newest(house.ledger, "exports/none")


def test_members():
    assert read_members(["1", " 2 ", "", "# no", "1"]) == (("1", "2"), 1)
    for line in ("a b", "é", "x" * 201, "a\x00"):
        with pytest.raises(Invalid, match="line 2 of the members") as error:
            read_members(["1", line])
        assert error.value.kind == "bad-member"
        assert line not in error.value.message


def test_repeated_members_are_accounted_for(server, house):
    snapshot = run(job_of(server, members=("3", "4"), repeated=2), house)
    balance = house.ledger.account(snapshot.run)[Line("Z9000", EOB, "members")]
    assert (balance.received, balance.kept, balance.dropped) == (4, 2, {"repeated": 2})


def test_the_table_of_states():
    assert set(NEXT) == set(State)
    assert NEXT[State.FINISHED] == {State.PUBLISHED, State.DISCARDED}
    assert not NEXT[State.PUBLISHED] | NEXT[State.DISCARDED]
