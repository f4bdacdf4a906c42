"""The door to the ledger: its verbs, and what each of them promises."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa

from catchment.core.account import Account
from catchment.core.errors import CatchmentError, Invalid, Unavailable
from catchment.core.finding import Finding
from catchment.core.ledger import contributions, counts, leases, runs, schema, snapshots
from catchment.core.ledger.database import Database
from catchment.core.ledger.migrate import migrate
from catchment.core.ledger.model import (
    Contribution,
    Count,
    Delivery,
    Lease,
    Move,
    Publication,
    Run,
    Snapshot,
    Transition,
)

Clock = Callable[[], datetime]

ENDS = frozenset({"unchanged", "failed", "cancelled"})  # "published" is for a publication to say


def utc_now() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


class Ledger:
    """What is remembered of contributions, runs and snapshots; open one with :meth:`open`.

    Each verb that writes is one transaction: all of it is durable on return, or none of it is done.
    Each may be called again after any error: a lost acknowledgement never makes a thing twice. A
    ledger is used from many threads, and it survives pickling: the other side opens it by URL.

    Every verb raises Unavailable (kinds ``ledger-locked``, ``ledger-down``, ``disk-full``) once it
    has tried for as long as the ledger's patience, and Corrupt (``ledger-malformed``,
    ``ledger-contradiction``) where the database is broken.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        # Called with the id of each run that begins, or (True) has ended.
        self.watch: Callable[[str, bool], object] = lambda _run, _ended: None

    @classmethod
    def open(cls, url: str, *, clock: Clock = utc_now, patience: float = 30) -> Self:
        """Open the ledger, which is created or brought to this version's schema first.

        Many processes may open the same empty database at once.

        Args:
            url: ``sqlite:///path`` or ``postgresql://user:password@host/database``.
            clock: the time, aware. Processes that share leases need clocks that about agree.
            patience: seconds that a verb goes on trying while the database is locked or away. A
                database that has never answered is not waited for.

        Raises:
            Invalid: kind ``bad-ledger-url``, ``postgres-missing``, ``ledger-refused`` (no such
                folder or database, wrong password), ``ledger-no-wal``, ``not-a-ledger``, or
                ``ledger-newer`` if a later version of Catchment made it.
        """
        database = Database(url, patience)
        try:
            migrate(database)
        except CatchmentError:
            database.close()
            raise
        return cls(database, clock)

    def close(self) -> None:
        """Give the connections back; the next verb opens new ones."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Ledger({self._database.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self._database.url, self._clock, self._database.patience)

    def _now(self) -> datetime:
        return self._clock().astimezone(UTC)

    # Contributions

    def receive(  # noqa: PLR0917 - the four that identify it, its size, and what is rarely given
        self,
        aggregate: str,
        site: str,
        name: str,
        digest: str,
        size: int,
        meta: Mapping[str, Any] | None = None,
        state: str = "received",
    ) -> Contribution:
        """Record a delivery. The same (aggregate, site, name, digest) again gives the same row."""
        delivery = Delivery(site, name, digest, size, meta or {})
        return self.receive_many(aggregate, [delivery], state)[0]

    def receive_many(
        self,
        aggregate: str,
        deliveries: Iterable[Delivery],
        state: str = "received",
        *,
        lease: Lease | None = None,
    ) -> list[Contribution]:
        """Record many deliveries in one transaction; their contributions, in the same order.

        With a lease that was taken over none is recorded: Conflict (kind ``lease-lost``).
        """
        many, at = list(deliveries), self._now()

        def work(c: sa.Connection) -> list[Contribution]:
            if lease is not None:
                leases.check(leases.lock(c, aggregate), lease)
            return contributions.receive(c, aggregate, many, state, at)

        return self._database.write(work)

    def move(self, moves: Sequence[Move], *, run: str = "") -> None:
        """Make every move or none.

        Raises:
            Conflict: kind ``state-changed`` if a contribution is not in the state expected.
            NotFound: kind ``no-contribution``.
        """
        at, batch = self._now(), secrets.token_hex(8)

        def work(c: sa.Connection) -> None:
            counts.add(c, contributions.move(c, moves, run=run, at=at, batch=batch))

        if moves:
            self._database.write(work)

    def contributions(
        self,
        aggregate: str,
        *,
        site: str | None = None,
        state: str | None = None,
        name: str | None = None,
        after: Contribution | None = None,
        limit: int | None = None,
    ) -> Iterator[Contribution]:
        """Contributions in order of site, then of receipt, as each is when its page is read.

        They are read by pages, so a million of them need no memory; ``after`` goes on behind one.
        """
        wanted = {"site": site, "state": state, "name": name}
        while limit is None or limit > 0:
            size = contributions.BATCH if limit is None else min(limit, contributions.BATCH)
            page = self._database.read(
                lambda c: contributions.page(c, aggregate, wanted, after, size)  # noqa: B023
            )
            yield from page
            if len(page) < size:
                return
            after, limit = page[-1], None if limit is None else limit - size

    def counts(self, aggregate: str | None = None) -> list[Count]:
        """How many contributions are in each state, by aggregate and site, in that order."""
        return self._database.read(lambda c: counts.listed(c, aggregate))

    def recount(self) -> None:
        """Make :meth:`counts` those of the contributions: an older version kept none."""
        self._database.write(counts.recount)

    def history(self, contribution: int) -> list[Transition]:
        """Every transition of the contribution, oldest first; the first is its receipt."""
        lines = self._database.read(lambda c: contributions.history(c, [contribution]))
        return lines.get(contribution, [])

    # Runs

    def start_run(
        self, aggregate: str, config: Mapping[str, Any], *, key: str | None = None
    ) -> Run:
        """A new running run; with a key, the run that the key started before, if any."""
        at = self._now()
        run = Run(runs.new_id(at), aggregate, runs.RUNNING, at, None, config, key=key)
        started = self._database.write(lambda c: runs.start(c, run))
        self.watch(started.id, False)
        return started

    def finish_run(self, run: str, state: str, error: CatchmentError | None = None) -> Run:
        """End a run that publishes nothing: ``unchanged``, ``failed`` or ``cancelled``.

        Ending it twice alike is no error.

        Raises:
            Conflict: kind ``run-finished`` if it has ended otherwise.
            NotFound: kind ``no-run``.
        """
        if state not in ENDS:
            raise Invalid(
                f"expected a run to end as one of {', '.join(sorted(ENDS))}, got {state}",
                kind="bad-run-state",
            )
        at = self._now()
        facts = (
            {"kind": error.kind, "message": error.message, "hint": error.hint} if error else None
        )
        ended = self._database.write(lambda c: runs.finish(c, run, state, facts, at))
        self.watch(run, True)
        return ended

    def run(self, run: str) -> Run:
        """The run; NotFound (kind ``no-run``) if there is none."""
        return self._database.read(lambda c: runs.get(c, run))

    def runs(
        self,
        aggregate: str | None = None,
        *,
        state: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[Run]:
        """The newest runs first; ``before`` is the id that the next page goes on behind."""
        return self._database.read(lambda c: runs.newest(c, aggregate, state, before, limit))

    def record(
        self, run: str, account: Account | None = None, findings: Iterable[Finding] = ()
    ) -> None:
        """Add findings to a running run, each once, and make this its account if one is given.

        The account need not balance yet: :meth:`publish` checks. Raises as :meth:`finish_run`.
        """
        many = list(findings)

        def work(c: sa.Connection) -> None:
            runs.running(runs.get(c, run))
            if account is not None:
                runs.set_account(c, run, account)
            runs.add_findings(c, run, many)

        self._database.write(work)

    def account(self, run: str) -> Account:
        """The account of the run; empty if none was recorded."""
        return self._database.read(lambda c: runs.account(c, run))

    def findings(
        self,
        *,
        run: str | None = None,
        aggregate: str | None = None,
        site: str | None = None,
        limit: int | None = None,
    ) -> list[Finding]:
        """Findings of a run, an aggregate, a site: newest run first, each run's as recorded."""
        return self._database.read(lambda c: runs.listed(c, run, aggregate, site, limit))

    # Leases

    def acquire(self, aggregate: str, holder: str, ttl: timedelta) -> Lease:
        """The right to publish the aggregate for a while, with a fence greater than any before.

        ``holder`` names one live process. Conflict (kind ``lease-held``) while another lease is
        good, of whomever; one that has expired is taken over.
        """
        now = self._now()
        ours: list[int] = []

        def work(c: sa.Connection) -> Lease:
            lease = leases.acquire(c, aggregate, holder, ttl=ttl, now=now, ours=ours)
            ours.append(lease.fence)
            return lease

        return self._database.write(work)

    def renew(self, lease: Lease, ttl: timedelta) -> Lease:
        """The lease, good for ``ttl`` from now. Conflict (kind ``lease-lost``) if it is taken."""
        until = self._now() + ttl
        return self._database.write(lambda c: leases.renew(c, lease, until))

    def release(self, lease: Lease) -> None:
        """Give the lease back; no error if it was taken over."""
        self._database.write(lambda c: leases.release(c, lease))

    def lease(self, aggregate: str) -> Lease | None:
        """The lease that somebody holds now; None where it is free."""
        now = self._now()
        return self._database.read(lambda c: leases.current(c, aggregate, now))

    @contextmanager
    def holding(
        self,
        aggregate: str,
        *,
        ttl: timedelta = timedelta(seconds=60),
        holder: str | None = None,
    ) -> Iterator[Lease]:
        """Hold the lease over a block; a thread renews it, at a third of ``ttl``.

        If it is lost all the same (the machine slept), the block goes on and its publication is
        refused. After a kill -9 the next one on this machine has it at once, on another one after
        ``ttl`` at most.
        """
        lease = self.acquire(aggregate, holder or leases.this_process(), ttl)
        try:
            with leases.renewing(lambda: self.renew(lease, ttl), aggregate, ttl / 3):
                yield lease
        finally:
            with suppress(Unavailable):  # it expires by itself
                self.release(lease)

    # Snapshots

    def publish(self, publication: Publication, lease: Lease | None = None) -> Snapshot:
        """Make a snapshot visible: one transaction, the last step of a run.

        It gives the next number, without a gap, and writes the snapshot with its provenance (see
        :func:`~catchment.core.ledger.provenance.describe`), the account, the findings, the moves
        and the end of the run; then or never. The objects that it names must be durable before.
        The same key gives the snapshot that it gave before, whatever else was asked.

        Raises:
            Corrupt: kind ``account-unbalanced``.
            Conflict: kind ``lease-lost`` if the lease was taken over or given back;
                ``snapshot-moved`` if the parent is not the latest; ``state-changed`` if a move does
                not fit; ``run-finished`` if the run has ended.
            NotFound: kind ``no-run`` or ``no-contribution``, also for those of another aggregate.
        """
        publication.account.check()
        at = self._now()
        run = Run(runs.new_id(at), publication.aggregate, runs.RUNNING, at, None, {})
        made = self._database.write(lambda c: snapshots.publish(c, publication, lease, run, at))
        self.watch(made.run, True)
        return made

    def seal(self, snapshot: Snapshot) -> None:
        """Remember that the store holds ``snapshot.provenance``.

        Conflict (kind ``snapshot-expired``) if it has got a newer one since.
        """
        self._database.write(lambda c: snapshots.seal(c, snapshot))

    def unsealed(self, aggregate: str) -> list[Snapshot]:
        """Snapshots whose provenance is to be written to the store, and sealed; oldest first."""
        return self._database.read(lambda c: snapshots.unsealed(c, aggregate))

    def expire(self, aggregate: str, number: int) -> Snapshot:
        """Mark the snapshot as expired; it keeps its number and its row. A second time: no change.

        Its provenance says so from now on and is unsealed: write it over the old one and seal it
        before any of its objects is deleted, so that a rebuilt ledger knows too.

        Raises:
            Conflict: kind ``snapshot-latest``: the latest snapshot cannot expire.
            NotFound: kind ``no-snapshot``.
        """
        at = self._now()
        return self._database.write(lambda c: snapshots.expire(c, aggregate, number, at))

    def snapshots(
        self,
        aggregate: str,
        *,
        before: int | None = None,
        limit: int | None = None,
        provenance: bool = False,
    ) -> list[Snapshot]:
        """The newest snapshots first, expired ones too; without provenance unless asked for."""
        return self._database.read(
            lambda c: snapshots.newest(c, aggregate, before, limit, whole=provenance)
        )

    def snapshot(self, aggregate: str, number: int) -> Snapshot:
        """The snapshot, whole; NotFound (kind ``no-snapshot``) if there is none."""
        return self._database.read(lambda c: snapshots.get(c, aggregate, number))

    def latest(self, aggregate: str) -> Snapshot | None:
        """The snapshot that readers see, whole; None before the first."""
        return self._database.read(lambda c: snapshots.latest(c, aggregate))

    def aggregates(self) -> list[str]:
        """Every aggregate that anything is known of, in order."""
        name = schema.aggregates.c.name
        return self._database.read(lambda c: list(c.scalars(sa.select(name).order_by(name))))

    def restore(self, provenances: Iterable[Mapping[str, Any]]) -> int:
        """Rebuild from ``provenance.json`` objects, in any order; returns how many were new.

        Recreates all that was published: snapshots with their runs, accounts and findings, and the
        contributions they moved with their histories. What was never published is not in them.
        One transaction; doing it again changes nothing, and is left to the caller: the iterable is
        read once, and is not held in memory.

        Raises:
            Corrupt: kind ``provenance-malformed``, ``provenance-contradicts``, ``snapshot-gap`` or
                ``account-unbalanced``; nothing is changed.
        """
        return self._database.write(lambda c: snapshots.restore(c, provenances), again=False)


def _reopen(kind: type[Ledger], url: str, clock: Clock, patience: float) -> Ledger:
    return kind.open(url, clock=clock, patience=patience)
