"""The ledger against a model: Hypothesis calls its verbs, with faults, in any order."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from catchment.core.account import Account
from catchment.core.errors import CatchmentError
from catchment.core.finding import Finding
from catchment.core.ledger import (
    Contribution,
    Lease,
    Ledger,
    Move,
    Publication,
    Snapshot,
    counts,
)
from catchment.testing.ledger_faults import Crash, Fault, faulty
from catchment.testing.ledger_samples import ManualClock, account, finding

TTL = timedelta(minutes=2)
STATES = ("received", "latest", "archived")

some = st.integers(0, 99)  # one of the things there are, counted round
wheres = st.lists(st.sampled_from("abc"), max_size=2)
moves = st.lists(st.tuples(some, st.sampled_from(STATES), st.booleans()), max_size=2)


def check_ledger(url: str, examples: int, steps: int) -> None:
    """Run the machine over the database at a URL; each example has an aggregate of its own."""

    class Machine(LedgerMachine):
        ledger_url = url

    options = settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(Machine, settings=options)


class LedgerMachine(RuleBasedStateMachine):
    """Dictionaries that say what the ledger must say."""

    ledger_url: ClassVar[str]
    numbers: ClassVar[count[int]] = count()

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.ledger = Ledger.open(self.ledger_url, clock=self.clock, patience=60)
        self.aggregate = f"machine/{next(self.numbers)}"
        self.fault: Fault | None = None
        self.known: dict[tuple[str, str], Contribution] = {}
        self.histories: dict[int, list[str]] = {}
        self.runs: dict[str, str] = {}
        self.accounts: dict[str, Account] = {}
        self.findings: dict[str, list[Finding]] = {}
        self.leases: list[Lease] = []
        self.lease: Lease | None = None
        self.snapshots: list[Snapshot] = []

    def teardown(self) -> None:
        """What was published can be rebuilt from its provenance alone."""
        with tempfile.TemporaryDirectory() as folder, self.ledger:
            rebuilt = Ledger.open(f"sqlite:///{folder}/rebuilt.db")
            told = [json.loads(json.dumps(s.provenance)) for s in self.snapshots]
            assert rebuilt.restore(told) == len(told)
            here = [replace(s, sealed=True) for s in self.snapshots]
            assert rebuilt.snapshots(self.aggregate, provenance=True) == here[::-1]
            for snapshot in self.snapshots:
                assert rebuilt.account(snapshot.run) == self.accounts[snapshot.run]
                assert rebuilt.findings(run=snapshot.run) == self.findings[snapshot.run]
            for one in rebuilt.contributions(self.aggregate):
                lines = rebuilt.history(one.id)
                assert one.state == lines[-1].to
                assert lines == self.ledger.history(one.id)[: len(lines)]
            assert rebuilt._database.read(counts.wrong) == []  # noqa: SLF001 - of one package
            rebuilt.close()

    def call[T](self, verb: Callable[[], T], refusal: str | None = None) -> T | None:
        """What the verb gives; None if it was refused as it should be, or died before the commit.

        After a death behind the commit, it is called once more: as the next run would do.
        """
        fault, self.fault = self.fault or Fault("lost", done=True), None
        kind: str | None
        try:
            with faulty(self.ledger, fault):
                result = verb()
        except Crash:
            return verb() if fault.kind == "crash-after" else None
        except CatchmentError as error:
            result, kind = None, error.kind
        else:
            kind = None
        assert kind == refusal, (kind, refusal)
        return result

    @rule(
        kind=st.sampled_from(["lost", "undone", "crash", "crash-after"]),
        statement=st.integers(1, 14),
    )
    def something_will_go_wrong(self, kind: Any, statement: int) -> None:
        """At the next verb that writes."""
        self.fault = Fault(kind, statement)

    @rule(minutes=st.integers(0, 3))
    def time_passes(self, minutes: int) -> None:
        """Leases expire."""
        self.clock.advance(minutes=minutes, microseconds=1)

    @rule()
    def reopen(self) -> None:
        """Nothing is kept in the object."""
        self.ledger.close()
        self.ledger = Ledger.open(self.ledger_url, clock=self.clock, patience=60)

    @rule(site=st.sampled_from("xy"), name=st.sampled_from("ab"))
    def receive(self, site: str, name: str) -> None:
        """A delivery, new or not."""
        one = self.call(lambda: self.ledger.receive(self.aggregate, site, name, "sha256:a", 1))
        if one is not None:
            assert self.known.setdefault((site, name), one) == one
            self.histories.setdefault(one.id, ["received"])

    def plan(self, wanted: list[tuple[int, str, bool]]) -> tuple[list[Move], bool]:
        """Moves of contributions that there are, some from a wrong state; and whether all fit."""
        made, states = [], {one.id: one.state for one in self.known.values()}
        for which, to, right in wanted if states else []:
            one = list(states)[which % len(states)]
            made.append(Move(one, states[one] if right else "elsewhere", to))
            states[one] = to
        return made, all(move.expected != "elsewhere" for move in made)

    def moved(self, made: list[Move]) -> None:
        """The model's moves."""
        for key, one in self.known.items():
            to = [move.to for move in made if move.contribution == one.id]
            self.histories[one.id] += to
            self.known[key] = replace(one, state=(one.state, *to)[-1])

    @rule(wanted=moves)
    def move(self, wanted: list[tuple[int, str, bool]]) -> None:
        """Moves outside of a publication."""
        made, fits = self.plan(wanted)

        def verb() -> bool:
            if again:  # a moved contribution cannot be moved again: the next run reads first
                return True
            again.append(True)
            self.ledger.move(made)
            return True

        again: list[bool] = []
        if self.call(verb, None if fits else "state-changed"):
            self.moved(made)

    @rule(key=st.sampled_from("kl"))
    def start_run(self, key: str) -> None:
        """A run with a key, new or not."""
        run = self.call(lambda: self.ledger.start_run(self.aggregate, {}, key=key))
        if run is not None:
            assert self.runs.setdefault(run.id, "running") == run.state

    @precondition(lambda self: self.runs)
    @rule(which=some, state=st.sampled_from(["unchanged", "failed"]))
    def finish_run(self, which: int, state: str) -> None:
        """The end of a run, first or second."""
        run = self.a_run(which)
        ended = self.runs[run] not in ("running", state)
        refusal = "run-finished" if ended else None
        if self.call(lambda: self.ledger.finish_run(run, state), refusal):
            self.runs[run] = state

    @precondition(lambda self: self.runs)
    @rule(which=some, rows=st.none() | st.integers(0, 3), where=wheres)
    def record(self, which: int, rows: int | None, where: list[str]) -> None:
        """An account and findings of a run."""
        run = self.a_run(which)
        new = account(rows, missing=rows) if rows is not None else None

        def verb() -> bool:
            self.ledger.record(run, new, [finding(where=w) for w in where])
            return True

        if self.call(verb, None if self.runs[run] == "running" else "run-finished"):
            if new is not None:
                self.accounts[run] = new
            self.say(run, where)

    def a_run(self, which: int) -> str:
        """One of the runs."""
        return list(self.runs)[which % len(self.runs)]

    def say(self, run: str, where: list[str]) -> None:
        """The model's findings: each is said once."""
        said = self.findings.setdefault(run, [])
        said += [f for w in dict.fromkeys(where) if (f := finding(where=w)) not in said]

    @rule(holder=st.sampled_from("pq"))
    def acquire(self, holder: str) -> None:
        """A lease, if the last one is over."""
        good = self.lease is not None and self.lease.expires_at > self.clock.now
        fence = self.leases[-1].fence if self.leases else 0
        lease = Lease(self.aggregate, holder, fence + 1, self.clock.now + TTL)

        def verb() -> Lease:
            if again:  # it died and never knew: nobody holds this one
                return lease
            again.append(True)
            return self.ledger.acquire(self.aggregate, holder, TTL)

        again: list[bool] = []
        made = self.call(verb, "lease-held" if good else None)
        if made is not None:
            assert made == lease
            self.leases.append(lease)
            self.lease = lease

    @precondition(lambda self: self.leases)
    @rule(which=some)
    def renew(self, which: int) -> None:
        """A lease of now or of old."""
        old = self.leases[which % len(self.leases)]
        refusal = None if self.holds(old) else "lease-lost"
        self.lease = self.call(lambda: self.ledger.renew(old, TTL), refusal) or self.lease

    @precondition(lambda self: self.leases)
    @rule(which=some)
    def release(self, which: int) -> None:
        """A lease of now or of old."""
        old = self.leases[which % len(self.leases)]

        def verb() -> bool:
            self.ledger.release(old)
            return True

        if self.call(verb) and self.holds(old):
            self.lease = None

    def holds(self, lease: Lease) -> bool:
        """Whether nobody took it over."""
        return self.lease is not None and self.lease.fence == lease.fence

    @rule(
        key=st.sampled_from("stuvw"),
        lease=st.none() | some,
        parent=st.sampled_from([None, 0, 0, -1]),
        run=st.none() | some,
        wanted=moves,
        where=wheres,
        missing=st.sampled_from([0, 0, 0, 1]),
    )
    def publish(  # noqa: PLR0917 - Hypothesis passes them by name
        self,
        key: str,
        lease: int | None,
        parent: int | None,
        run: int | None,
        wanted: list[tuple[int, str, bool]],
        where: list[str],
        missing: int,
    ) -> None:
        """Everything at once; a parent of 0 is the right one, of -1 one too low."""
        made, fits = self.plan(wanted)
        held = self.leases[lease % len(self.leases)] if self.leases and lease is not None else None
        ran = self.a_run(run) if self.runs and run is not None else ""
        publication = Publication(
            aggregate=self.aggregate,
            key=key,
            location=f"{self.aggregate}/{len(self.snapshots)}/",
            provenance={"key": key},
            account=account(len(self.snapshots), missing=missing),
            findings=[finding(where=w) for w in where],
            moves=made,
            run=ran,
            parent=None if parent is None else len(self.snapshots) + parent,
        )
        earlier = next((s for s in self.snapshots if s.key == key), None)
        refusals = {
            "account-unbalanced": missing > 0,
            None: earlier is not None,
            "run-finished": ran != "" and self.runs[ran] != "running",
            "state-changed": not fits,
            "lease-lost": held is not None and not self.holds(held),
            "snapshot-moved": parent == -1,
        }
        refusal = next((kind for kind, applies in refusals.items() if applies), None)
        snapshot = self.call(lambda: self.ledger.publish(publication, held), refusal)
        if snapshot is None or earlier is not None:
            assert snapshot is None or snapshot == earlier
            return
        assert (snapshot.number, snapshot.parent or 0) == (
            len(self.snapshots) + 1,
            len(self.snapshots),
        )
        assert ran in ("", snapshot.run)
        self.snapshots.append(snapshot)
        self.runs[snapshot.run] = "published"
        self.accounts[snapshot.run] = publication.account
        self.say(snapshot.run, where)
        self.moved(made)

    @precondition(lambda self: self.snapshots)
    @rule(which=some)
    def seal(self, which: int) -> None:
        """The store has its provenance."""
        i = which % len(self.snapshots)

        def verb() -> bool:
            self.ledger.seal(self.snapshots[i])
            return True

        if self.call(verb):
            self.snapshots[i] = replace(self.snapshots[i], sealed=True)

    @precondition(lambda self: self.snapshots)
    @rule(which=some)
    def expire(self, which: int) -> None:
        """An old snapshot is marked."""
        i = which % len(self.snapshots)
        last = i == len(self.snapshots) - 1
        refusal = "snapshot-latest" if last else None
        expired = self.call(lambda: self.ledger.expire(self.aggregate, i + 1), refusal)
        if expired is not None:
            old = self.snapshots[i]
            assert expired.expired_at == (old.expired_at or self.clock.now)
            assert replace(expired, **{n: getattr(old, n) for n in CHANGED}) == old
            self.snapshots[i] = expired

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        """After every step, whatever went wrong in it."""
        ledger, name = self.ledger, self.aggregate
        order = sorted(self.known.values(), key=lambda one: (one.site, one.id))
        assert list(ledger.contributions(name)) == order
        for one in order:
            assert [line.to for line in ledger.history(one.id)] == self.histories[one.id]
        counted = Counter((one.site, one.state) for one in order)
        assert {(c.site, c.state): c.contributions for c in ledger.counts(name)} == counted
        assert ledger._database.read(counts.wrong) == []  # noqa: SLF001 - the rows, counted again
        assert ledger.snapshots(name, provenance=True) == self.snapshots[::-1]
        assert ledger.latest(name) == (self.snapshots[-1] if self.snapshots else None)
        assert ledger.unsealed(name) == [s for s in self.snapshots if not s.sealed]
        assert {run.id: run.state for run in ledger.runs(name)} == self.runs
        for run in self.runs:
            assert ledger.account(run) == self.accounts.get(run, Account())
            assert ledger.findings(run=run) == self.findings.get(run, [])
        good = self.lease is not None and self.lease.expires_at > self.clock.now
        assert ledger.lease(name) == (self.lease if good else None)


CHANGED = ("expired_at", "sealed", "provenance")  # by an expiry
