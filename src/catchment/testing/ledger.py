"""The contract of the ledger, as a suite that runs on every database it supports."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import pytest
import sqlalchemy as sa

from catchment.core.account import Account
from catchment.core.errors import CatchmentError, Conflict, Corrupt, Invalid, NotFound
from catchment.core.ledger import Count, Delivery, Ledger, Move, counts, leases
from catchment.testing.ledger_samples import (
    AGGREGATE,
    ManualClock,
    account,
    everything,
    finding,
    publication,
    refused,
    step,
    whole,
)
from catchment.testing.ledger_trials import MINUTE, LedgerTrials


def _hold(url: str, said: Connection[int, int]) -> None:
    with Ledger.open(url) as ledger, ledger.holding(AGGREGATE) as lease:
        said.send(lease.fence)
        time.sleep(60)


class LedgerContract(LedgerTrials):
    """What every ledger promises. A subclass gives the fixture ``new_url``."""

    # Contributions

    def test_a_second_delivery_is_the_same_contribution(self, ledger: Ledger) -> None:
        one = ledger.receive(AGGREGATE, "alpha", "uds/1", "sha256:a", 7, {"tables": ["uds"]})
        assert (one.site, one.size, one.state) == ("alpha", 7, "received")
        ledger.move([Move(one.id, "received", "latest")])
        again = ledger.receive(AGGREGATE, "alpha", "uds/1", "sha256:a", 7)
        assert (again.id, again.state, again.meta) == (one.id, "latest", {"tables": ["uds"]})
        assert ledger.receive(AGGREGATE, "alpha", "uds/1", "sha256:b", 7).id != one.id
        assert ledger.receive("tables/other", "alpha", "uds/1", "sha256:a", 7).id != one.id
        assert ledger.aggregates() == [AGGREGATE, "tables/other"]

    def test_many_deliveries_keep_their_order_and_may_repeat(self, ledger: Ledger) -> None:
        many = [Delivery("alpha", str(i % 1500), "sha256:a", i) for i in range(2500)]
        found = ledger.receive_many(AGGREGATE, iter(many), "latest")
        assert [one.name for one in found] == [d.name for d in many]
        assert ledger.receive_many(AGGREGATE, many) == found
        assert ledger.counts() == [Count(AGGREGATE, "alpha", "latest", 1500)]
        assert [line.to for line in ledger.history(found[7].id)] == ["latest"]
        assert ledger.receive_many(AGGREGATE, []) == []

    def test_contributions_are_listed_by_site_then_receipt(self, ledger: Ledger) -> None:
        for site, name in [("b", "1"), ("a", "2"), ("B", "3"), ("a", "1"), ("ä", "1"), ("a-", "1")]:
            ledger.receive(AGGREGATE, site, name, "sha256:a", 1)
        ledger.receive("tables/other", "a", "1", "sha256:a", 1)
        listed = list(ledger.contributions(AGGREGATE))
        expected = [("B", "3"), ("a", "2"), ("a", "1"), ("a-", "1"), ("b", "1"), ("ä", "1")]
        assert [(one.site, one.name) for one in listed] == expected
        assert list(ledger.contributions(AGGREGATE, site="a")) == listed[1:3]
        assert list(ledger.contributions(AGGREGATE, name="1")) == listed[2:]
        ledger.move([Move(listed[2].id, "received", "error")])
        assert [one.id for one in ledger.contributions(AGGREGATE, state="error")] == [listed[2].id]

    @pytest.mark.parametrize("size", [1, 2, 4, 9, 10])
    def test_pages_join_to_the_whole(self, ledger: Ledger, size: int) -> None:
        many = [Delivery(f"site{i % 3}", str(i), "sha256:a", 1) for i in range(9)]
        ledger.receive_many(AGGREGATE, many)
        pages, after = [], None
        while page := list(ledger.contributions(AGGREGATE, after=after, limit=size)):
            assert len(page) <= size
            pages += page
            after = page[-1]
        assert pages == list(ledger.contributions(AGGREGATE))

    def test_listings_and_moves_go_beyond_one_page(self, ledger: Ledger) -> None:
        many = [Delivery("alpha", str(i), "sha256:a", 1) for i in range(2001)]
        found = ledger.receive_many(AGGREGATE, many)
        assert list(ledger.contributions(AGGREGATE)) == found
        assert list(ledger.contributions(AGGREGATE, limit=1500)) == found[:1500]
        assert list(ledger.contributions(AGGREGATE, limit=0)) == []
        ledger.move([Move(one.id, "received", "latest") for one in found])
        assert ledger.counts(AGGREGATE) == [Count(AGGREGATE, "alpha", "latest", 2001)]

    def test_moves_are_made_all_or_none(self, ledger: Ledger, clock: ManualClock) -> None:
        deliveries = [Delivery("alpha", name, "sha256:a", 1) for name in ("a", "b")]
        a, b = ledger.receive_many(AGGREGATE, deliveries)
        clock.advance(seconds=1)
        ledger.move([Move(a.id, "received", "latest", "valid")], run="run-1")
        with refused("state-changed", match="that is latest cannot become error: expected rec"):
            ledger.move([Move(b.id, "received", "latest"), Move(a.id, "received", "error")])
        with refused("no-contribution", NotFound):
            ledger.move([Move(b.id, "received", "latest"), Move(999, "received", "error")])
        ledger.move([])
        assert [one.state for one in ledger.contributions(AGGREGATE)] == ["latest", "received"]
        received, moved = ledger.history(a.id)
        assert (received.was, received.to, received.run) == (None, "received", "")
        assert (moved.was, moved.to, moved.reason, moved.run) == (
            "received",
            "latest",
            "valid",
            "run-1",
        )
        assert (received.at, moved.at) == (a.received_at, clock.now)
        assert len(ledger.history(b.id)) == 1
        assert ledger.history(999) == []

    def test_a_contribution_may_move_twice_at_once(self, ledger: Ledger) -> None:
        one = ledger.receive(AGGREGATE, "alpha", "a", "sha256:a", 1)
        ledger.move([Move(one.id, "received", "latest"), Move(one.id, "latest", "archived")])
        assert [line.to for line in ledger.history(one.id)] == ["received", "latest", "archived"]
        with refused("state-changed"):
            ledger.move([Move(one.id, "archived", "a"), Move(one.id, "archived", "b")])

    def test_counts_are_those_of_the_rows(self, ledger: Ledger) -> None:
        for aggregate in ("tables/b", "tables/a"):
            for site, name in (("x", "1"), ("x", "2"), ("y", "1")):
                one = ledger.receive(aggregate, site, name, "sha256:a", 1)
            ledger.move([Move(one.id, "received", "error")])
        assert ledger.counts("tables/a") == [
            Count("tables/a", "x", "received", 2),
            Count("tables/a", "y", "error", 1),
        ]
        assert [c.aggregate for c in ledger.counts()] == ["tables/a"] * 2 + ["tables/b"] * 2
        assert ledger.counts("tables/none") == []

    def test_counts_are_those_of_the_rows_after_a_recount(self, ledger: Ledger) -> None:
        for n in range(5):
            one = ledger.receive(AGGREGATE, f"s{n % 2}", str(n), "sha256:a", 1)
        ledger.move([Move(one.id, "received", "latest")])
        before = ledger.counts()
        ledger.recount()
        assert ledger.counts() == before
        with ledger._database.engine.begin() as c:  # noqa: SLF001 - as who knows of no counts
            c.execute(sa.text("UPDATE contribution_counts SET contributions = 7"))
        wrong = [(AGGREGATE, "s0", "latest"), (AGGREGATE, "s0", "received")]
        wrong += [(AGGREGATE, "s1", "received")]
        assert ledger._database.read(counts.wrong) == wrong  # noqa: SLF001 - of one package
        ledger.recount()
        assert ledger.counts() == before

    def test_counts_of_many_at_once_are_true(self, ledger: Ledger) -> None:
        """Threads receive and move in the same sites and states, in all orders."""

        def work(worker: int) -> None:
            sites = ["x", "y", "z"][:: 1 if worker % 2 else -1]
            for turn in range(6):
                many = [Delivery(site, f"{worker}/{turn}", "sha256:a", 1) for site in sites]
                made = ledger.receive_many(AGGREGATE, many)
                ledger.move([Move(one.id, "received", "latest") for one in made])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert ledger.counts() == [Count(AGGREGATE, site, "latest", 24) for site in "xyz"]
        assert ledger._database.read(counts.wrong) == []  # noqa: SLF001 - of one package

    @pytest.mark.parametrize("value", ["a\0b", "\ud800"])
    def test_text_that_a_database_cannot_hold_is_refused(self, ledger: Ledger, value: str) -> None:
        with refused("bad-text", Invalid):
            ledger.receive(AGGREGATE, value, "a", "sha256:a", 1)

    def test_meta_comes_back_as_it_was(self, ledger: Ledger) -> None:
        meta = {"z": ["a\0b", "\x1f", "\u2028", "ä", "\U0001f600"], "a": {"": 1.5, "b": None}}
        one = ledger.receive(AGGREGATE, "alpha", "a", "sha256:a", 1, meta)
        assert one.meta == next(ledger.contributions(AGGREGATE)).meta == meta
        assert list(one.meta) == ["z", "a"]

    def test_values_that_a_database_cannot_hold_are_refused(self, ledger: Ledger) -> None:
        with refused("ledger-bad-value", Invalid):
            ledger.receive(AGGREGATE, "alpha", "a", "sha256:a", 2**63)
        with refused("not-json", Invalid):
            ledger.receive(AGGREGATE, "alpha", "a", "sha256:a", 1, {"x": float("nan")})
        for value in (object(), "\ud800", {1, 2}, float("inf")):
            with refused("not-json", Invalid):
                ledger.start_run(AGGREGATE, {"x": value})
        assert ledger.counts() == []

    # Runs

    def test_a_run_starts_once_for_a_key(self, ledger: Ledger, clock: ManualClock) -> None:
        run = ledger.start_run(AGGREGATE, {"strict": True}, key="monday")
        assert (run.state, run.finished_at, run.config) == ("running", None, {"strict": True})
        clock.advance(hours=1)
        assert ledger.start_run(AGGREGATE, {}, key="monday") == run == ledger.run(run.id)
        assert ledger.start_run("tables/other", {}, key="monday").id > run.id
        assert ledger.start_run(AGGREGATE, {}).id != ledger.start_run(AGGREGATE, {}).id

    def test_a_run_ends_once(self, ledger: Ledger, clock: ManualClock) -> None:
        run = ledger.start_run(AGGREGATE, {})
        clock.advance(hours=1)
        error = Conflict("moved", kind="snapshot-moved", hint="again")
        failed = ledger.finish_run(run.id, "failed", error)
        assert failed.error == {"kind": "snapshot-moved", "message": "moved", "hint": "again"}
        assert failed.finished_at == clock.now
        clock.advance(hours=1)
        assert ledger.finish_run(run.id, "failed") == failed == ledger.run(run.id)
        with refused("run-finished"):
            ledger.finish_run(run.id, "unchanged")
        with refused("run-finished"):
            ledger.record(run.id, account(1))
        with refused("bad-run-state", Invalid):
            ledger.finish_run(run.id, "published")
        for verb in (ledger.run, ledger.record, lambda run: ledger.finish_run(run, "failed")):
            with refused("no-run", NotFound):
                verb("none")

    def test_runs_are_listed_newest_first_by_pages(
        self, ledger: Ledger, clock: ManualClock
    ) -> None:
        started = []
        for i in range(6):
            clock.advance(microseconds=1)
            started.append(ledger.start_run(f"tables/{i % 2}", {}).id)
        ledger.finish_run(started[4], "unchanged")
        assert [run.id for run in ledger.runs()] == started[::-1]
        assert [run.id for run in ledger.runs("tables/1")] == started[5::-2]
        assert [run.id for run in ledger.runs(before=started[4], limit=2)] == started[3:1:-1]
        assert [run.id for run in ledger.runs("tables/0", state="running")] == started[2::-2]

    def test_a_run_keeps_its_account_and_says_a_finding_once(
        self, ledger: Ledger, clock: ManualClock
    ) -> None:
        run = ledger.start_run(AGGREGATE, {}).id
        assert ledger.account(run) == Account()
        ledger.record(run, account(5, missing=2), [finding(where="b"), finding(where="a")])
        ledger.record(run, findings=[finding(where="b"), finding("beta")])
        assert ledger.account(run) == account(5, missing=2)
        ledger.record(run, account(4))
        assert ledger.account(run) == account(4)
        said = [finding(where="b"), finding(where="a"), finding("beta")]
        assert ledger.findings(run=run) == said
        clock.advance(hours=1)
        other = ledger.start_run("tables/other", {}).id
        ledger.record(other, findings=[finding(where="c")])
        assert ledger.findings(site="alpha") == [finding(where="c"), *said[:2]]
        assert ledger.findings(aggregate=AGGREGATE, site="alpha", limit=1) == said[:1]
        assert ledger.findings(aggregate=AGGREGATE) == said

    # Leases

    def test_a_lease_excludes_until_it_expires(self, ledger: Ledger, clock: ManualClock) -> None:
        assert ledger.lease(AGGREGATE) is None
        first = ledger.acquire(AGGREGATE, "one", MINUTE)
        for holder in ("one", "two"):
            with refused("lease-held", match="one holds the lease until 2026-03-28 20:01:00Z"):
                ledger.acquire(AGGREGATE, holder, MINUTE)
        assert ledger.acquire("tables/other", "two", MINUTE).fence == 1
        assert ledger.lease(AGGREGATE) == first
        clock.advance(seconds=59)
        renewed = ledger.renew(first, MINUTE)
        assert renewed.fence == first.fence
        clock.advance(seconds=59)
        with refused("lease-held"):
            ledger.acquire(AGGREGATE, "two", MINUTE)
        clock.advance(seconds=1)
        assert ledger.lease(AGGREGATE) is None
        assert ledger.renew(first, MINUTE).expires_at == clock.now + MINUTE  # nobody took it
        clock.advance(minutes=1)
        second = ledger.acquire(AGGREGATE, "two", MINUTE)
        assert second.fence == first.fence + 1
        with refused("lease-lost", match="fence 1 is lost, got two with fence 2"):
            ledger.renew(first, MINUTE)
        ledger.release(first)
        assert ledger.lease(AGGREGATE) == second
        ledger.release(second)
        ledger.release(second)
        with refused("lease-lost", match="got no holder"):
            ledger.renew(second, MINUTE)
        assert ledger.acquire(AGGREGATE, "one", MINUTE).fence == 3

    def test_the_lease_of_a_process_that_died_here_is_free(self, ledger: Ledger, url: str) -> None:
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("spawn").Process(target=_hold, args=(url, theirs))
        child.start()
        try:
            fence = ours.recv()
            with refused("lease-held"):
                ledger.acquire(AGGREGATE, "two", MINUTE)
        finally:
            child.kill()
        deadline = time.monotonic() + 10
        while True:  # nobody has waited for the child yet
            try:
                assert ledger.acquire(AGGREGATE, "two", MINUTE).fence == fence + 1
                break
            except Conflict:
                assert time.monotonic() < deadline
        child.join()

    def test_the_lease_of_a_process_elsewhere_is_left_to_end(self, ledger: Ledger) -> None:
        here, _, start, token = leases.this_process().split(":")
        dead = f"{2**22 + 1}:1@"  # above any pid
        ledger.acquire(AGGREGATE, f"{here}:{dead}0123456789ab:{token}", MINUTE)
        with refused("lease-held"):
            ledger.acquire(AGGREGATE, "two", MINUTE)
        ledger.acquire("tables/other", f"{here}:{dead}{start.split('@')[1]}:{token}", MINUTE)
        assert ledger.acquire("tables/other", "two", MINUTE).fence == 2

    def test_a_woken_holder_cannot_publish(self, ledger: Ledger, clock: ManualClock) -> None:
        old = ledger.acquire(AGGREGATE, "one", MINUTE)
        assert ledger.publish(publication("a"), old).number == 1
        clock.advance(minutes=2)
        assert ledger.publish(publication("b"), old).number == 2  # expired, but nobody took it
        new = ledger.acquire(AGGREGATE, "two", MINUTE)
        with refused("lease-lost"):
            ledger.publish(publication("c"), old)
        late = [Delivery("alpha", "late", "sha256:l", 1)]
        with refused("lease-lost"):
            ledger.receive_many(AGGREGATE, late, lease=old)
        assert not list(ledger.contributions(AGGREGATE, name="late"))
        assert len(ledger.receive_many(AGGREGATE, late, lease=new)) == 1
        assert ledger.publish(publication("b"), old).number == 2  # it was acknowledged before
        assert ledger.publish(publication("c"), new).number == 3
        ledger.release(new)
        with refused("lease-lost"):
            ledger.publish(publication("d"), new)

    def test_holding_renews_until_the_block_ends(self, url: str) -> None:
        ledger = Ledger.open(url)
        with ledger.holding(AGGREGATE, ttl=timedelta(seconds=0.6)) as lease:
            time.sleep(1)
            with refused("lease-held"):
                ledger.acquire(AGGREGATE, "other", MINUTE)
            assert ledger.publish(publication("a"), lease).number == 1
        with suppress(ZeroDivisionError), ledger.holding(AGGREGATE, holder="me") as second:
            assert (second.holder, second.fence) == ("me", lease.fence + 1)
            raise ZeroDivisionError
        assert ledger.lease(AGGREGATE) is None
        ledger.close()

    def test_a_lease_lost_while_holding_is_refused_at_the_publication(self, url: str) -> None:
        ledger = Ledger.open(url)
        with ledger.holding(AGGREGATE, ttl=timedelta(seconds=0.3)) as lease:
            ledger.release(lease)  # as if it had expired
            taken = ledger.acquire(AGGREGATE, "other", MINUTE)
            time.sleep(0.3)  # the thread meets it too, and stops
            with refused("lease-lost"):
                ledger.publish(publication("a"), lease)
        assert ledger.lease(AGGREGATE) == taken
        ledger.close()

    # Snapshots

    def test_a_publication_shows_all_its_parts(self, ledger: Ledger, clock: ManualClock) -> None:
        assert ledger.latest(AGGREGATE) is None
        clock.advance(minutes=1)
        made = step(ledger, "a")
        assert (made.number, made.parent, made.sealed, made.expired_at) == (1, None, False, None)
        assert (made.published_at, made.location) == (clock.now, f"{AGGREGATE}/a/")
        assert made.provenance["tables"] == {"uds": 3}
        assert whole(ledger, made)
        assert ledger.run(made.run).finished_at == clock.now
        assert ledger.snapshot(AGGREGATE, 1) == ledger.latest(AGGREGATE) == made
        assert json.dumps(ledger.snapshot(AGGREGATE, 1).provenance) == json.dumps(made.provenance)
        second = step(ledger, "b")
        assert (second.number, second.parent) == (2, 1)
        assert ledger.publish(publication("a", aggregate="tables/other")).number == 1
        with refused("no-snapshot", NotFound):
            ledger.snapshot(AGGREGATE, 3)

    def test_the_same_key_gives_the_same_snapshot(self, ledger: Ledger) -> None:
        first = step(ledger, "a")
        step(ledger, "b")
        again = publication("a", location="elsewhere/", run=first.run, parent=7)
        assert ledger.publish(again) == first
        assert [s.number for s in ledger.snapshots(AGGREGATE)] == [2, 1]

    def test_a_publication_without_a_run_makes_one(self, ledger: Ledger) -> None:
        made = ledger.publish(publication("a"))
        assert ledger.run(made.run).state == "published"
        assert ledger.account(made.run) == account(3)

    def test_findings_recorded_before_are_told_too(self, ledger: Ledger) -> None:
        run = ledger.start_run(AGGREGATE, {}).id
        ledger.record(run, account(9), [finding(where="b")])
        made = ledger.publish(publication("a", run=run, findings=[finding(), finding(where="b")]))
        told = made.provenance["catchment"]["findings"]
        assert [f["where"] for f in told] == ["b", "uds"]
        assert ledger.account(run) == account(3)

    def test_a_publication_is_planned_against_the_latest(self, ledger: Ledger) -> None:
        assert ledger.publish(publication("a", parent=0)).number == 1
        for parent in (0, 2):
            with refused("snapshot-moved", match=f"expected snapshot {parent} .*, got 1"):
                ledger.publish(publication("b", parent=parent))
        assert ledger.publish(publication("b", parent=1)).number == 2

    def test_a_refused_publication_changes_nothing(self, ledger: Ledger) -> None:
        run = ledger.start_run(AGGREGATE, {}).id
        other = ledger.start_run("tables/other", {}).id
        ended = step(ledger, "a").run
        one = ledger.receive(AGGREGATE, "alpha", "x", "sha256:a", 1)
        stranger = ledger.receive("tables/other", "alpha", "x", "sha256:a", 1)
        move = Move(one.id, "received", "latest")
        cases: list[tuple[str, type[CatchmentError], dict[str, Any]]] = [
            ("account-unbalanced", Corrupt, {"account": account(3, missing=1)}),
            ("state-changed", Conflict, {"moves": [move, Move(one.id, "received", "error")]}),
            ("no-contribution", NotFound, {"moves": [move, Move(stranger.id, "received", "x")]}),
            ("run-finished", Conflict, {"run": ended}),
            ("no-run", NotFound, {"run": "none"}),
            ("no-run", NotFound, {"run": other}),
            ("not-json", Invalid, {"provenance": {"x": {1, 2}}}),
            ("bad-text", Invalid, {"location": "a\0"}),
        ]
        for kind, error, facts in cases:
            with refused(kind, error):
                ledger.publish(
                    publication(
                        "b", **{"run": run, "moves": [move], "findings": [finding()], **facts}
                    )
                )
            assert ledger.history(one.id)[1:] == []
            assert (ledger.account(run), ledger.findings(run=run)) == (Account(), [])
            assert ledger.run(run).state == "running"
        assert [s.number for s in ledger.snapshots(AGGREGATE)] == [1]
        assert ledger.publish(publication("b", run=run, moves=[move])).number == 2

    def test_listings_are_by_pages_and_light(self, ledger: Ledger) -> None:
        made = [ledger.publish(publication(key)) for key in "abcde"][::-1]
        light = ledger.snapshots(AGGREGATE)
        assert [s.number for s in light] == [5, 4, 3, 2, 1]
        assert [s.provenance for s in light] == [{}] * 5
        assert ledger.snapshots(AGGREGATE, provenance=True) == made
        assert ledger.snapshots(AGGREGATE, before=4, limit=2) == light[2:4]

    def test_snapshots_are_unsealed_until_told_otherwise(self, ledger: Ledger) -> None:
        a, b = [ledger.publish(publication(key)) for key in "ab"]
        assert ledger.unsealed(AGGREGATE) == [a, b]
        ledger.seal(a)
        ledger.seal(a)
        assert ledger.unsealed(AGGREGATE) == [b]
        assert ledger.snapshot(AGGREGATE, 1).sealed

    def test_an_expired_snapshot_keeps_its_number(self, ledger: Ledger, clock: ManualClock) -> None:
        a = ledger.publish(publication("a"))
        with refused("snapshot-latest"):
            ledger.expire(AGGREGATE, 1)
        ledger.seal(a)
        ledger.publish(publication("b"))
        clock.advance(hours=1)
        expired = ledger.expire(AGGREGATE, 1)
        assert expired.expired_at == clock.now
        assert expired.provenance["catchment"]["expired_at"] == "2026-03-28T21:00:00+00:00"
        assert ledger.unsealed(AGGREGATE)[0] == expired  # the store is to be told
        with refused("snapshot-expired"):
            ledger.seal(a)
        ledger.seal(expired)
        clock.advance(hours=1)
        assert ledger.expire(AGGREGATE, 1).expired_at == expired.expired_at
        assert ledger.snapshot(AGGREGATE, 1).sealed
        assert ledger.publish(publication("a")).number == 1
        assert ledger.publish(publication("c")).number == 3
        with refused("no-snapshot", NotFound):
            ledger.expire(AGGREGATE, 9)

    # Rebuild

    def test_a_rebuilt_ledger_equals_the_lost_one(
        self, ledger: Ledger, clock: ManualClock, empty: Ledger
    ) -> None:
        for key in "abc":
            clock.advance(minutes=1)
            step(ledger, key)
        old = next(ledger.contributions(AGGREGATE, name="a/1"))
        clock.advance(minutes=1)
        ledger.publish(publication("d", moves=[Move(old.id, "latest", "archived")]))
        clock.advance(minutes=1)
        ledger.publish(publication("e", aggregate="tables/other"))
        ledger.expire(AGGREGATE, 2)
        for aggregate in ledger.aggregates():
            for snapshot in ledger.unsealed(aggregate):
                ledger.seal(snapshot)
        told = [
            json.loads(json.dumps(snapshot.provenance))
            for aggregate in ledger.aggregates()
            for snapshot in ledger.snapshots(aggregate, provenance=True)
        ]
        random.Random(1).shuffle(told)
        assert empty.restore(iter(told)) == 5
        assert everything(empty) == everything(ledger)
        assert empty.restore(told) == 0
        assert everything(empty) == everything(ledger)
        assert step(empty, "f").number == 5

    def test_a_ledger_from_a_backup_is_brought_up_to_date(
        self, ledger: Ledger, clock: ManualClock, empty: Ledger
    ) -> None:
        step(ledger, "a")
        empty.restore([ledger.snapshot(AGGREGATE, 1).provenance])  # the backup
        one = next(ledger.contributions(AGGREGATE))
        clock.advance(minutes=1)
        ledger.publish(publication("b", moves=[Move(one.id, "latest", "archived")]))
        ledger.expire(AGGREGATE, 1)
        for snapshot in ledger.unsealed(AGGREGATE):
            ledger.seal(snapshot)
        told = [s.provenance for s in ledger.snapshots(AGGREGATE, provenance=True)]
        assert empty.restore(told) == 1
        assert everything(empty) == everything(ledger)

    def test_provenance_that_contradicts_is_refused(self, ledger: Ledger, empty: Ledger) -> None:
        for key in "abc":
            step(ledger, key)
        told = [dict(ledger.snapshot(AGGREGATE, n).provenance) for n in (1, 2, 3)]

        def changed(which: int, **facts: Any) -> dict[str, Any]:
            section = told[which - 1]["catchment"]
            return {**told[which - 1], "catchment": {**section, **facts}}

        account_of_1 = told[0]["catchment"]["account"]
        contribution = told[0]["catchment"]["contributions"][0]
        late = {**contribution["history"][0], "at": "2026-01-01T00:00:00+00:00"}
        cases: list[tuple[str, str | None, list[dict[str, Any]]]] = [
            ("provenance-contradicts", "says that its parent is 1", [changed(3, parent=1)]),
            ("provenance-contradicts", "says that its parent is None", [changed(2, parent=None)]),
            ("provenance-contradicts", "snapshot 0", [changed(1, number=0, parent=-1)]),
            ("snapshot-gap", "1 to 3 without a gap, got 2", [told[0], told[2]]),
            ("snapshot-gap", "1 to 2 without a gap, got 1", [told[1]]),
            ("provenance-contradicts", "2 of run", [*told, changed(2, location="elsewhere/")]),
            ("provenance-contradicts", "4 of run", [*told, changed(3, number=4, parent=3)]),
            (
                "provenance-contradicts",
                "history",
                [told[0], changed(2, contributions=[{**contribution, "history": [late]}])],
            ),
            ("account-unbalanced", "uds", [changed(1, account=[{**account_of_1[0], "kept": 9}])]),
            ("provenance-malformed", "KeyError", [{"tables": {}}]),
            ("provenance-malformed", "format 0", [changed(1, format=0)]),
            ("provenance-malformed", None, [changed(1, published_at="2026-01-01T00:00:00")]),
            ("provenance-malformed", None, [changed(1, run={})]),
            ("provenance-malformed", None, [changed(1, contributions=[{}])]),
            ("provenance-malformed", None, [changed(1, number="1")]),
            ("provenance-malformed", None, [{"catchment": []}]),
        ]
        for kind, words, provenances in cases:
            with refused(kind, Corrupt, words):
                empty.restore(provenances)
            assert empty.aggregates() == []
        with refused("provenance-newer", Invalid, "format 1 or older, got format 2"):
            empty.restore([changed(1, format=2)])
        assert empty.aggregates() == []
        empty.restore(told)
        assert everything(empty)[1] == everything(ledger)[1]
