"""The coordinator of a transform: discovers, skips, sends sessions to workers, commits, records."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from catchment.arrays import journal
from catchment.arrays.catalog import Catalog, keys
from catchment.arrays.foreign import kind_of
from catchment.arrays.journal import Holder
from catchment.arrays.model import OnConflict
from catchment.arrays.stack import Stack, Staged
from catchment.arrays.transform import reports
from catchment.arrays.transform.discovery import discover
from catchment.arrays.transform.foresee import foreseen
from catchment.arrays.transform.job import House, Job, Report
from catchment.arrays.transform.model import Session, TransformResult
from catchment.arrays.transform.sinks import Sent, below
from catchment.arrays.transform.worker import (
    FORBIDDEN,
    LOST,
    Done,
    Task,
    load,
    process,
    told,
    warm,
)
from catchment.core.account import Account, Line
from catchment.core.errors import CatchmentError, Invalid, NotFound
from catchment.core.executor import bounded_unordered, failed_item
from catchment.core.finding import Finding, Severity
from catchment.core.ledger import (
    Contribution,
    Delivery,
    Lease,
    Move,
    Publication,
    Run,
)
from catchment.core.progress import Event
from catchment.core.provenance import check_store, learn, manifest, seal, seal_all

SNAPSHOTS = "_snapshots/"  # below an aggregate's output
PAUSE = 0.5  # seconds between commits: sessions that are done meanwhile share one

# States of a run record: a contribution of the ledger, one for each (session, transform, version).
KEPT, QUARANTINED, SKIPPED = "kept", "quarantined", "skipped"
PUBLISHED = {KEPT: "published", QUARANTINED: "quarantine-published", SKIPPED: "skip-published"}
ENDED = {after: before for before, after in PUBLISHED.items()}


def run(job: Job, house: House, *, dry_run: bool = False) -> Report:
    """Bring the stores up to date with the recordings; what was done before is not done again.

    Raises:
        Conflict: kind ``lease-held`` while another run is at work.
        Corrupt: kind ``account-unbalanced``: nothing is published.
        Unavailable, NotFound: discovery or the ledger failed; nothing is done on a guess.
    """
    transform = load(job.transform)
    transform(job.source, house.store, job.options)  # says what is wrong with the options
    if dry_run:
        with journal.holding() as holder:
            return _Work(job, house, holder, None, dry_run=True).carry_out()
    with house.ledger.holding(job.aggregate, ttl=house.lease) as lease, journal.holding() as holder:
        latest = None if job.choice.reset else house.ledger.latest(job.aggregate)
        if latest is not None:
            check_store(house.store, latest, f"catchment arrays transform {job.name} --reset")
        seal_all(house.store, house.ledger, job.aggregate)
        home = f"{job.output}{SNAPSHOTS}"
        folders = [f"{home}{name}/" for name in house.store.folders(home)]
        learn(house.store, house.ledger, job.aggregate, folders, apart=True)
        return _Work(job, house, holder, lease).carry_out()


class _Work:
    """One coordinator at work; it holds the lease, but for a dry run."""

    def __init__(
        self, job: Job, house: House, holder: Holder, lease: Lease | None, *, dry_run: bool = False
    ) -> None:
        self.job = job
        self.house = house
        self.holder = holder
        self.lease = lease
        self.dry_run = dry_run
        self.transform = load(job.transform)
        self.identity = self.transform.identity()
        self.options = json.loads(json.dumps({**self.transform.OPTIONS, **job.options}))
        self.destination = below(house.store, job.output.rstrip("/"))
        self.account = Account()
        self.findings: list[Finding] = []
        self._seen: dict[str, str] = {}  # keys of recordings by the ids of sessions
        self.rows: dict[str, Contribution] = {}  # run records by session, of this transform
        self.stacks: dict[str, Stack] = {}
        self.staged: dict[str, dict[int, Staged]] = {}  # by store key and slot
        self.waiting: list[Done] = []
        self.told: list[dict[str, Any]] = []
        self.moves: list[Move] = []
        self.changed = False
        self.flushed = 0.0  # when commits were made

    def carry_out(self) -> Report:
        for row in self.house.ledger.contributions(self.job.aggregate):
            self._remember(row)
        todo = list(self._choose())
        ahead: list[Done] = []  # of a dry run
        self._tell("sessions", 0, len(todo))
        try:
            for number, done in enumerate(self._process(todo), 1):
                if self.dry_run:
                    ahead.append(done)
                else:
                    self._take(done)
                self._tell("sessions", number, len(todo))
            for done in foreseen(ahead, todo, self.job.partitioning):
                self._take(done)
        finally:
            self._flush(last=True)  # what is whole is shown, even if the run fails
        if self.dry_run:
            return Report("planned", self.account, self.findings, sessions=self.told)
        return self._publish()

    def _choose(self) -> Iterator[Session]:
        """Sessions to be done; the others are in the account."""
        found = discover(
            self.job.source, self.transform.SOURCE_PREFIX, self.transform.SUFFIXES, self.job.naming
        )
        choice, ignored, position, taken = self.job.choice, 0, -1, 0
        others: Counter[str] = Counter()
        for session in found:
            if isinstance(session, str):
                ignored += 1
                continue
            position += 1
            line = self._line(session, "sessions")
            self.account[line].received += 1
            if self._seen.setdefault(session.id, session.key) != session.key:
                self.account[line].quarantined["session-repeated"] += 1
                self.findings.append(reports.repeated(session))
                continue
            if not choice.takes(session, position) or (
                choice.most is not None and taken >= choice.most
            ):
                self.account[line].dropped["not-selected"] += 1
                continue
            row = self.rows.get(session.id)
            same = row is not None and row.meta["version"] == session.version
            if row is not None and same and not (choice.again or choice.reset):
                self._account(row)
                others[session.site] += row.meta.get("options", self.options) != self.options
                continue
            taken += 1
            yield session
        reports.check_found(choice.sessions, self._seen)
        self.findings += reports.other_options(self.job.name, others)
        if ignored:
            suffixes = self.transform.SUFFIXES
            self.findings.append(reports.ignored(self.job.naming.site, ignored, suffixes))

    def _process(self, todo: Sequence[Session]) -> Iterator[Done]:
        """Workers' answers. Where there is no store yet the first goes alone, and makes it.

        So its schema does not depend on who is fast; the other workers load what they need.
        """
        tasks = [self._task(session) for session in todo]
        alone = 0 if self.dry_run or next(keys(self.destination, self._keys()), None) else 1
        if alone:
            for _ in range(min(len(tasks), self.house.window // 2) - 1):
                self.house.executor.submit(warm, self.job.transform)
        for group in (tasks[:alone], tasks[alone:]):
            position = 0
            while position < len(group):
                part = group[position : position + 64]
                done = set()
                try:
                    for number, answer in bounded_unordered(
                        self.house.executor, process, part, self.house.window
                    ):
                        done.add(number)
                        yield answer
                except Invalid as error:  # of a worker that died: one session's fault
                    failed = failed_item(error)
                    if failed is None:
                        raise
                    yield Done(part[failed].session, TransformResult("failed"), error=error)
                    done.add(failed)
                group[position : position + 64] = [
                    task for number, task in enumerate(part) if number not in done
                ]

    def _task(self, session: Session) -> Task:
        conflict: OnConflict = "replace" if self.job.choice.reset else self.job.on_conflict
        return Task(
            self.job.transform,
            self.job.options,
            session,
            self.job.source,
            self.destination,
            self.holder,
            self.job.partitioning,
            conflict,
            self.dry_run,
        )

    def _take(self, done: Done) -> None:
        self.findings += done.findings
        error = done.error
        if error is not None and error.kind in LOST:
            self._lose(done.session, error)
            return
        own = isinstance(error, Invalid) and error.kind != FORBIDDEN
        if error is not None and not own and error.kind != "session-differs":
            raise error  # ours, not the session's: a store that is away, a full disk
        if error is not None and not any(f.severity is Severity.ERROR for f in done.findings):
            self.findings.append(reports.of_error(done.session, Severity.ERROR, error))
        for sent in done.sent:
            if sent.staged is not None:
                slots = self.staged.setdefault(sent.key, {})
                slots[sent.staged.claim.slot] = sent.staged
        self.waiting.append(done)
        self.told.append(told(done))
        if time.monotonic() - self.flushed > PAUSE:
            self._flush()

    def _lose(self, session: Session, error: CatchmentError) -> None:
        """A recording that cannot be had now has no record, so that the next run looks again."""
        line = self._line(session, "sessions")
        self.account[line].dropped[error.kind] += 1
        self.findings.append(reports.of_error(session, Severity.WARNING, error))

    def _flush(self, *, last: bool = False) -> None:
        """Commit what is next in each store; at the end all, and give up what was not filled."""
        self.flushed = time.monotonic()
        if self.dry_run:
            self._enter(self.waiting)
            self.waiting = []
            return
        for key in sorted({sent.key for done in self.waiting for sent in done.sent}):
            stack, slots = self._stack(key), self.staged.get(key, {})
            if not slots and kind_of(stack.store) == "group":
                continue
            # Also where nothing is to be committed: it may be there by a commit of a run that died
            # before it showed it.
            document = stack.heal()
            assert document is not None  # noqa: S101 - a worker made it
            size, ready, left = document.size, [], dict(slots)
            while (last and left) or size in left:
                slot = size if size in left else min(left)
                ready.append(left.pop(slot))
                size = slot + 1
            if ready and stack.commit(document, ready) is None:
                raise Invalid(
                    f"{key}: somebody else wrote to the store during the run",
                    kind="commits-lost",
                    hint="run the same command again",
                )
            self.staged[key] = left  # only now: what was not committed is not done
        shown = [d for d in self.waiting if not any(self._pending(s) for s in d.sent)]
        self.waiting = [d for d in self.waiting if d not in shown]
        self._enter(shown)

    def _pending(self, sent: Sent) -> bool:
        slots = self.staged.get(sent.key, {})
        return sent.staged is not None and sent.staged.claim.slot in slots

    def _enter(self, some: Sequence[Done]) -> None:
        """Run records in the ledger, and the account's lines: what is done is visible by now."""
        deliveries: dict[str, list[Delivery]] = {}
        for done in some:
            session, state = done.session, _state(done)
            meta = self._meta(done, state)
            if self.dry_run:
                self._add(session.site, state, meta)
                continue
            self._withdraw_elsewhere(done)
            text = f"{session.id} {session.version} {self.identity} {state} {meta['stores']}"
            if former := self.rows.get(session.id):  # else a result that comes back is no news
                text += f" after {former.id}"
            digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
            delivery = Delivery(session.site, session.id, digest, session.size, meta)
            deliveries.setdefault(state, []).append(delivery)
        for state, sent in deliveries.items():
            for row in self.house.ledger.receive_many(self.job.aggregate, sent, state):
                self._remember(row)
                self._account(row)
                self.changed = True

    def _meta(self, done: Done, state: str) -> dict[str, Any]:
        """What a run record keeps."""
        reason = done.error.kind if done.error else str(done.result.metadata.get("reason", state))
        return {
            "version": done.session.version,
            "transform": self.identity,
            "options": self.options,
            "reason": reason,
            "windows": sum(s.windows for s in done.sent),
            "bytes": sum(s.raw_bytes for s in done.sent),
            "stores": [
                {"key": s.key, "slot": s.step.slot, "decision": s.step.decision.value}
                for s in done.sent
            ],
            "metadata": done.result.metadata,
        }

    def _withdraw_elsewhere(self, done: Done) -> None:
        """A session that went to another store than before is no longer in the former one."""
        row = self.rows.get(done.session.id)
        if row is None or not done.sent:
            return
        now = {sent.key for sent in done.sent}
        for key in {former["key"] for former in row.meta["stores"]} - now:
            stack = self._stack(key)
            if kind_of(stack.store) == "group":
                with suppress(NotFound):  # it was withdrawn before
                    stack.withdraw(done.session.id)
                continue
            document = stack.heal()
            entry = None if document is None else stack.known(document).present.get(done.session.id)
            if document is not None and entry is not None:
                stack.tombstone(document, [entry.slot], "moved")

    def _remember(self, row: Contribution) -> None:
        """The newest record of each session; those of other code do not count as done."""
        if row.meta.get("transform") == self.identity:
            self.rows[row.name] = row
        if row.state in PUBLISHED:
            self.moves.append(Move(row.id, row.state, PUBLISHED[row.state]))

    def _account(self, row: Contribution) -> None:
        self._add(row.site, ENDED.get(row.state, row.state), row.meta)

    def _add(self, site: str, state: str, meta: Mapping[str, Any]) -> None:
        sessions = self.account[Line(site, self.job.name, "sessions")]
        windows = self.account[Line(site, self.job.name, "windows")]
        count = meta["windows"]
        windows.received += count
        if state == KEPT:
            sessions.kept += 1
            windows.kept += count
        elif state == SKIPPED:
            sessions.dropped[meta["reason"]] += 1
            windows.dropped[meta["reason"]] += count
        else:
            sessions.quarantined[meta["reason"]] += 1
            windows.quarantined[meta["reason"]] += count

    def _publish(self) -> Report:
        ledger, store = self.house.ledger, self.house.store
        self.account.check()
        latest = ledger.latest(self.job.aggregate)
        if not self.moves and not self.changed:
            return Report("unchanged", self.account, self.findings, latest, self.told)
        record: Run = ledger.start_run(self.job.aggregate, self._config())
        catalog = Catalog.build(self.destination, self._keys())
        location = f"{self.job.output}{SNAPSHOTS}{record.id}/"
        entry = catalog.write(store, location)
        catalog.write(store, self.job.output, mode="overwrite")
        publication = Publication(
            aggregate=self.job.aggregate,
            key=record.id,
            location=location,
            provenance={
                "manifest": manifest(),
                "config": self._config(),
                "objects": [entry],
                "stores": [s.to_json() for s in catalog.stores],
            },
            account=self.account,
            findings=self.findings,
            moves=self.moves,
            run=record.id,
        )
        snapshot = ledger.publish(publication, self.lease)
        seal(store, ledger, snapshot)
        return Report("published", self.account, self.findings, snapshot, self.told)

    def _config(self) -> dict[str, Any]:
        return {
            "transform": self.identity,
            "options": dict(self.job.options),
            "source": self.job.source.url,
            "on_conflict": self.job.on_conflict,
        }

    def _keys(self) -> set[str]:
        """Of the stores that sessions went to, as their records tell."""
        return {one["key"] for row in self.rows.values() for one in row.meta["stores"]}

    def _stack(self, key: str) -> Stack:
        if key not in self.stacks:
            self.stacks[key] = Stack(below(self.destination, key))
        return self.stacks[key]

    def _line(self, session: Session, unit: str) -> Line:
        return Line(session.site, self.job.name, unit)

    def _tell(self, work: str, done: int, total: int) -> None:
        self.house.progress(Event(f"{self.job.aggregate}: {work}", "step", done, total, work))


def _state(done: Done) -> str:
    """Of the run record."""
    if done.error is not None or done.result.status == "failed":
        return QUARANTINED
    return SKIPPED if done.result.status == "skipped" else KEPT
