"""Trials of the ledger: many processes at once, lost answers, crashes, kill -9."""

from __future__ import annotations

import multiprocessing
import pickle
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from threading import Barrier
from typing import Any

import pytest

from catchment.core.errors import Conflict, Unavailable
from catchment.core.ledger import Delivery, Ledger, Move
from catchment.testing.ledger_faults import (
    Crash,
    Fault,
    faulty,
    open_and_close,
    publish_killed_at,
    publish_many,
    publish_until_killed,
)
from catchment.testing.ledger_samples import (
    AGGREGATE,
    ManualClock,
    account,
    everything,
    finding,
    publication,
    step,
    unbroken,
)

MINUTE = timedelta(minutes=1)


def processes() -> Any:
    """A context whose processes start quickly and inherit nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["catchment.testing.ledger_faults", "psycopg", "pytest"])
    return context


_inherited: list[Ledger] = []


def inherit(ledger: Ledger) -> None:
    """Keep the ledger that a forked child got with its parent's memory, not by pickling."""
    _inherited.append(ledger)


def publish_inherited(times: int) -> list[int]:
    """Publish through it."""
    return publish_many(_inherited[0], 1, times)


def race(pool: ThreadPoolExecutor, verbs: list[Callable[[], object]]) -> int:
    """Call them at the same instant; how many were not refused."""
    together = Barrier(len(verbs))

    def call(verb: Callable[[], object]) -> bool:
        together.wait()
        with suppress(Conflict):
            verb()
            return True
        return False

    return sum(pool.map(call, verbs))


class LedgerTrials:
    """What a ledger survives. A subclass gives the fixture ``new_url``."""

    processes = staticmethod(processes)

    @pytest.fixture
    def new_url(self) -> Callable[[], str]:
        """Gives the URL of a new database each time; it may hold an empty ledger already."""
        raise NotImplementedError

    @pytest.fixture
    def url(self, new_url: Callable[[], str]) -> str:
        """The URL of the test's database."""
        return new_url()

    @pytest.fixture
    def empty_url(self, url: str) -> str:
        """The URL of a database without any table."""
        return url

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The ledger's clock."""
        return ManualClock()

    @pytest.fixture
    def ledger(self, url: str, clock: ManualClock) -> Iterator[Ledger]:
        """An empty ledger."""
        with Ledger.open(url, clock=clock, patience=5) as ledger:
            yield ledger

    @pytest.fixture
    def empty(self, new_url: Callable[[], str]) -> Iterator[Ledger]:
        """Another empty ledger, to rebuild into."""
        with Ledger.open(new_url()) as ledger:
            yield ledger

    def test_it_survives_pickling_and_forking(self, ledger: Ledger) -> None:
        made = step(ledger, "a")
        clone = pickle.loads(pickle.dumps(ledger))  # noqa: S301 - our own bytes
        assert clone.latest(AGGREGATE) == made
        clone.close()
        assert clone.latest(AGGREGATE) == made  # a closed ledger opens again
        clone.close()
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(1, context, initializer=inherit, initargs=(ledger,)) as pool:
            there = pool.submit(publish_inherited, 20)
            here = publish_many(ledger, 0, 20)  # at once, over connections of its own
            assert sorted(here + there.result()) == list(range(2, 42))

    def test_many_processes_open_an_empty_database_at_once(self, empty_url: str) -> None:
        context = self.processes()
        children = [context.Process(target=open_and_close, args=(empty_url,)) for _ in range(8)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 8

    def test_of_two_at_once_one_is_refused(self, ledger: Ledger) -> None:
        deliveries = [Delivery("alpha", str(i), "sha256:a", 1) for i in range(20)]
        with ThreadPoolExecutor(2) as pool:
            for one in ledger.receive_many(AGGREGATE, deliveries):
                run = ledger.start_run(AGGREGATE, {}).id
                ends = ["failed", "unchanged"]
                assert race(pool, [partial(ledger.finish_run, run, end) for end in ends]) == 1
                moves = [[Move(one.id, "received", end)] for end in ends]
                assert race(pool, [partial(ledger.move, move) for move in moves]) == 1
                assert len(ledger.history(one.id)) == 2

    def test_twins_get_the_same_snapshot(self, ledger: Ledger) -> None:
        with ThreadPoolExecutor(3) as pool:
            for number in range(1, 21):
                twin = partial(ledger.publish, publication(str(number)))
                assert race(pool, [twin] * 3) == 3
                assert ledger.snapshots(AGGREGATE)[0].number == number
        assert len(ledger.runs()) == 20

    def test_eight_processes_publish_and_none_is_lost(self, url: str) -> None:
        with Ledger.open(url) as ledger, ProcessPoolExecutor(8, self.processes()) as pool:
            jobs = [pool.submit(publish_many, ledger, worker, 5) for worker in range(8)]
            acknowledged = {
                f"{worker}-{i}": number
                for worker, job in enumerate(jobs)
                for i, number in enumerate(job.result())
            }
            assert len(unbroken(ledger, acknowledged)) == len(set(acknowledged.values())) == 40

    def test_kill_9_at_random_times(self, url: str) -> None:
        context, acknowledged, kills = self.processes(), {}, 24
        chance = random.Random(24)
        with Ledger.open(url) as ledger:
            for first in range(0, kills, 4):
                children = []
                for worker in range(first, first + 4):
                    receiver, sender = context.Pipe(duplex=False)
                    child = context.Process(
                        target=publish_until_killed, args=(ledger, worker, sender)
                    )
                    child.start()
                    sender.close()
                    children.append((child, receiver))
                for child, receiver in children:
                    receiver.poll(30)  # it has begun
                    time.sleep(chance.uniform(0, 0.05))
                    child.kill()
                    child.join()
                    while True:
                        try:
                            key, number = receiver.recv()
                        except EOFError:
                            break
                        acknowledged[key] = number
            assert len(acknowledged) >= kills
            snapshots = unbroken(ledger, acknowledged)
            assert len(snapshots) - len(acknowledged) <= kills
            assert step(ledger, "after").number == len(snapshots) + 1

    def test_kill_9_at_every_instant(self, url: str) -> None:
        context = self.processes()
        with Ledger.open(url) as ledger:
            step(ledger, "before")
            made = {"before": 1}
            for instant in range(1, 100):
                key = f"at-{instant}"
                child = context.Process(target=publish_killed_at, args=(ledger, key, instant))
                child.start()
                child.join()
                made[key] = step(ledger, key).number  # the next run goes on where it died
                assert made[key] == instant + 1
                if child.exitcode == 0:
                    break
            assert instant > 8
            assert len(unbroken(ledger, made)) == instant + 1

    @pytest.mark.parametrize("kind", ["lost", "undone"])
    @pytest.mark.parametrize(
        "verb",
        [
            "receive",
            "move",
            "start_run",
            "start_run_with_key",
            "finish_run",
            "record",
            "acquire",
            "renew",
            "release",
            "publish",
            "seal",
            "expire",
            "restore",
        ],
    )
    def test_a_lost_answer_never_makes_a_thing_twice(
        self, ledger: Ledger, empty: Ledger, verb: str, kind: Any
    ) -> None:
        work = writes(ledger, empty)[verb]
        with faulty(empty if verb == "restore" else ledger, Fault(kind)) as fault:
            check = work()
        assert fault.done
        check()

    def test_a_crash_before_any_statement_changes_nothing(self, ledger: Ledger) -> None:
        one = ledger.receive(AGGREGATE, "alpha", "a", "sha256:a", 1)
        before = everything(ledger)
        made = publication("a", moves=[Move(one.id, "received", "latest")], findings=[finding()])
        for statement in range(1, 50):
            fault = Fault("crash", statement)
            with faulty(ledger, fault), suppress(Crash):
                ledger.publish(made)
            if not fault.done:
                break
            assert everything(ledger) == before
        assert statement > 8
        assert ledger.publish(made).number == 1


def writes(  # noqa: C901 - a small function for each verb
    ledger: Ledger, empty: Ledger
) -> dict[str, Callable[[], Callable[[], None]]]:
    """Every verb that writes: a call, which gives a check that it was done, and done once."""
    first = step(ledger, "first")
    ledger.publish(publication("second"))
    one = ledger.receive(AGGREGATE, "alpha", "a", "sha256:a", 1)
    run = ledger.start_run(AGGREGATE, {}).id
    lease = ledger.acquire("tables/leased", "me", MINUTE)
    runs = {made.id for made in ledger.runs()}

    def same(expected: Any, got: Callable[[], Any]) -> Callable[[], None]:
        def check() -> None:
            assert got() == expected

        return check

    def receive() -> Callable[[], None]:
        made = ledger.receive(AGGREGATE, "alpha", "b", "sha256:a", 1)
        return same(1, lambda: len(ledger.history(made.id)))

    def move() -> Callable[[], None]:
        ledger.move([Move(one.id, "received", "x"), Move(one.id, "x", "received")])
        return same(3, lambda: len(ledger.history(one.id)))

    def start_run(key: str | None = None) -> Callable[[], None]:
        made = ledger.start_run(AGGREGATE, {}, key=key)
        return same({made.id, *runs}, lambda: {run.id for run in ledger.runs()})

    def finish_run() -> Callable[[], None]:
        made = ledger.finish_run(run, "unchanged")
        return same(made, lambda: ledger.run(run))

    def record() -> Callable[[], None]:
        ledger.record(run, account(5), [finding()])
        return same(
            (account(5), [finding()]), lambda: (ledger.account(run), ledger.findings(run=run))
        )

    def acquire() -> Callable[[], None]:
        made = ledger.acquire(AGGREGATE, "me", MINUTE)
        return same(1, lambda: ledger.publish(publication("first"), made).number)

    def renew() -> Callable[[], None]:
        made = ledger.renew(lease, 2 * MINUTE)
        return same(made, lambda: ledger.lease("tables/leased"))

    def release() -> Callable[[], None]:
        ledger.release(lease)
        return same(None, lambda: ledger.lease("tables/leased"))

    def publish() -> Callable[[], None]:
        made = ledger.publish(publication("third", run=run))
        return same((made, 3), lambda: (ledger.latest(AGGREGATE), made.number))

    def seal() -> Callable[[], None]:
        ledger.seal(first)
        return same(True, lambda: ledger.snapshot(AGGREGATE, 1).sealed)

    def expire() -> Callable[[], None]:
        made = ledger.expire(AGGREGATE, 1)
        return same(made, lambda: ledger.snapshot(AGGREGATE, 1))

    def restore() -> Callable[[], None]:
        told = [ledger.snapshot(AGGREGATE, n).provenance for n in (2, 1)]
        with suppress(Unavailable):  # it reads an iterable, so that it is not retried
            empty.restore(told)
        empty.restore(told)
        return same([2, 1], lambda: [s.number for s in empty.snapshots(AGGREGATE)])

    verbs = (receive, move, start_run, finish_run, record, acquire, renew, release, publish)
    made = {verb.__name__: verb for verb in (*verbs, seal, expire, restore)}
    return made | {"start_run_with_key": lambda: start_run("key")}
