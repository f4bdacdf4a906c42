"""How fast the ledger is: `make soak`, on a quiet machine. Prints what it measured."""

import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from catchment.core.ledger import Delivery, Ledger
from catchment.testing.ledger_faults import publish_rapidly
from catchment.testing.ledger_samples import AGGREGATE
from catchment.testing.ledger_trials import processes

pytestmark = pytest.mark.soak


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").database()
    with Ledger.open(url) as ledger:
        yield ledger


def test_eight_processes_publish_a_hundred_times_a_second(ledger, capsys):
    each = 100
    with ProcessPoolExecutor(8, processes()) as pool:
        list(pool.map(publish_rapidly, [ledger] * 8, range(100, 108), [1] * 8))  # all have begun
        start = time.monotonic()
        slowest = max(pool.map(publish_rapidly, [ledger] * 8, range(8), [each] * 8))
        rate = 8 * each / (time.monotonic() - start)
    with capsys.disabled():
        print(f"\n{ledger}: {rate:.0f} publications/s, the slowest took {slowest * 1000:.0f} ms")  # noqa: T201
    numbers = [snapshot.number for snapshot in ledger.snapshots(AGGREGATE)]
    assert numbers == list(range(8 * each + 8, 0, -1))
    assert rate >= 100


def test_a_million_contributions_are_counted_within_a_second(ledger, capsys):
    states = ["latest", "archived", "archived", "archived", "error"]
    for site in range(20):
        for part, state in enumerate(states):
            many = [Delivery(f"site{site}", f"{part}/{i}", "sha256:a", 1) for i in range(10_000)]
            ledger.receive_many(AGGREGATE, many, state)
    start = time.monotonic()
    counts = ledger.counts()
    counted = time.monotonic() - start
    last = list(ledger.contributions(AGGREGATE, site="site7", limit=30_000))[-1]
    start = time.monotonic()
    page = list(ledger.contributions(AGGREGATE, after=last, limit=100))
    paged = time.monotonic() - start
    with capsys.disabled():
        print(f"\n{ledger}: counted in {counted * 1000:.0f} ms, a page in {paged * 1000:.0f} ms")  # noqa: T201
    assert sum(c.contributions for c in counts) == 1_000_000
    assert len(page) == 100
    assert counted < 1
    assert paged < 0.1
