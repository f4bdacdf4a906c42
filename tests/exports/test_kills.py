"""kill -9 at random instants, of worker and of aggregator: each line comes out exactly once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from catchment.core.errors import CatchmentError
from catchment.core.ledger import Ledger
from catchment.core.store import open_store
from catchment.exports import jobs
from catchment.exports.aggregator import aggregate
from catchment.exports.directories import JobDirectories
from catchment.exports.fhir import FhirSource
from catchment.exports.job import House, Job
from catchment.exports.model import Codec, Kind, Rules
from catchment.exports.run import run
from catchment.exports.stream import RecordStream
from catchment.testing.exports import lines_left, lines_out
from catchment.testing.fhir import FhirServer
from tests.forking import CONTEXT

QUICK, SOAK = 12, 120  # kills of each


def killed(target, arguments, seconds):
    """Run in a child; whether it was killed before it ended. Its exit code must say all else."""
    child = CONTEXT.Process(target=target, args=arguments)
    child.start()
    child.join(seconds)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        return True
    assert child.exitcode == 0, "it failed, and not of our doing"
    return False


def work(folder, name, url, members, codec):
    """One coordinator; its lease is short, so that the next one need not wait."""
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger, ThreadPoolExecutor(2) as executor:
        house = House(
            open_store((folder / "store").as_uri()), ledger, executor, lease=timedelta(seconds=0.3)
        )
        source = FhirSource(url, "ExplanationOfBenefit")
        job = Job(name, "C", source, members, rules=Rules(3000, 1), codec=codec, batch=3)
        while ledger.latest(job.aggregate) is None:  # one job each
            try:
                run(job, house)
            except CatchmentError as error:
                if error.kind != "lease-held":
                    raise
                time.sleep(0.05)


def kill_workers(tmp_path, kills, seed):
    chance = random.Random(seed)
    resources = {
        str(m): [b'{"resourceType":"ExplanationOfBenefit","id":"%d-%d"}' % (m, i) for i in range(m)]
        for m in range(24)
    }
    expected = Counter(line for lines in resources.values() for line in lines)
    done = rounds = 0
    with FhirServer(resources, page=9, delay=0.002) as server:
        while done < kills:
            rounds += 1
            codec = chance.choice(list(Codec))
            arguments = (tmp_path, f"e{rounds}", server.url, tuple(resources), codec)
            for _ in range(4):
                done += killed(work, arguments, chance.uniform(0.05, 0.9))
            assert not killed(work, arguments, None)
            with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
                store = open_store((tmp_path / "store").as_uri())
                (snapshot,) = ledger.snapshots(f"exports/e{rounds}")
                status = jobs.status(ledger, snapshot.run)
                assert jobs.verify(store, ledger, status) == []
                found = Counter()
                for output in status.outputs:
                    assert output.kind is Kind.DATA
                    data = store.read(snapshot.location + output.name)
                    if codec is Codec.NONE:
                        found.update(data.splitlines())
                assert codec is not Codec.NONE or found == expected
                assert sum(output.count for output in status.outputs) == expected.total()
                others = {s.key for s in store.list(f"exports/e{rounds}/")}
                others -= {snapshot.location + output.name for output in status.outputs}
                assert others <= {
                    snapshot.location + n for n in ("manifest.json", "provenance.json")
                }


def kill_aggregators(tmp_path, kills, seed):
    """A worker streams all the while; aggregators come and are killed; one ends the job."""
    chance = random.Random(seed)
    done = rounds = 0
    while done < kills:
        rounds += 1
        job = JobDirectories(tmp_path, f"J{rounds}")
        job.set_up()
        pace = random.Random(chance.random())
        streamed: Counter[bytes] = Counter()

        def stream(job=job, pace=pace, streamed=streamed):
            for number in range(150):
                kind = pace.choice([Kind.DATA, Kind.DATA, Kind.ERROR])
                with RecordStream(job, kind) as records:
                    for i in range(pace.randrange(40)):
                        text = f"{kind}-{number}-{i}".ljust(pace.randrange(20, 60))
                        records.write(text)
                        streamed[text.encode() + b"\n"] += 1
                time.sleep(0.002)
            job.finish()

        arguments = (job, "C", Rules(4000, 1))
        with ThreadPoolExecutor(1) as worker:
            streaming = worker.submit(stream)
            for _ in range(4):
                done += killed(aggregate, arguments, chance.uniform(0.02, 0.4))
            assert not killed(aggregate, arguments, None)
            streaming.result()
        assert lines_out(job) == streamed
        assert not lines_left(job)
        assert [p for p in job.job_path.iterdir() if p.suffix != ".ndjson"] == []


def test_killed_workers(tmp_path):
    kill_workers(tmp_path, QUICK, 1)


def test_killed_aggregators(tmp_path):
    kill_aggregators(tmp_path, QUICK, 2)


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", [11, 12])
def test_many_killed_workers(tmp_path, seed):
    kill_workers(tmp_path, SOAK, seed)


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", [21, 22])
def test_many_killed_aggregators(tmp_path, seed):
    kill_aggregators(tmp_path, SOAK, seed)
