"""Merge and publish: carries a plan out into new objects, then makes them visible at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from catchment.core.errors import CatchmentError, Conflict, Corrupt, NotFound
from catchment.core.ledger import Delivery, Lease, Move, Publication, Run, Snapshot
from catchment.core.provenance import check_store, learn, manifest, seal, seal_all
from catchment.core.read_ahead import read_ahead
from catchment.core.scratch import scratch_folder
from catchment.core.store import Composed, Store
from catchment.tables import composition, layout
from catchment.tables.check import AGAIN, check_unmoved
from catchment.tables.composition import Composition, Entry
from catchment.tables.job import House, Job
from catchment.tables.merge import Fresh, InputFailed, Kept, Placed, merge_table
from catchment.tables.model import State
from catchment.tables.plan import Plan, TablePlan
from catchment.tables.prepare import Planner

LEASE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did. ``snapshot`` is the new one, or the latest where nothing changed."""

    state: Literal["published", "unchanged", "planned"]
    plan: Plan
    snapshot: Snapshot | None


def plan_only(job: Job, house: House, *, full: bool = False) -> Outcome:
    """What a run would do now. Reads as a run reads; writes nothing but scratch files."""
    with (
        scratch_folder() as scratch,
        Planner(job, house, scratch, full=full) as planner,
    ):
        return Outcome("planned", planner.plan(), planner.memory.snapshot)


def run(job: Job, house: House, *, full: bool = False) -> Outcome:
    """Bring the aggregate up to date: a new snapshot, or none where nothing changed.

    Args:
        job: what to do.
        house: where.
        full: read every file again, and copy nothing from the latest snapshot; where its objects
            are damaged, make it anew.

    Raises:
        Conflict: kind ``lease-held`` while another run is at work.
        Invalid: the input or the configuration stops it; nothing was published.
        Unavailable: a store, the ledger or the identifiers service; nothing was published, unless
            the message says so: then only the snapshot's seal is missing.
        Corrupt: kind ``account-unbalanced``; nothing was published.
    """
    with house.ledger.holding(job.aggregate, ttl=LEASE) as lease:
        _mend(job, house, full=full)
        record = house.ledger.start_run(job.aggregate, job.config)
        try:
            taken = set(house.store.folders(job.output))
            prefix = layout.snapshot_prefix(job.output, house.clock(), taken)
            with (
                scratch_folder() as scratch,
                Planner(job, house, scratch, full=full, later=True) as planner,
            ):
                outcome = _Run(job, house, planner, record, lease, prefix=prefix).carry_out()
        except BaseException as error:
            known = error if isinstance(error, CatchmentError) else None
            with suppress(CatchmentError):  # the first error is the one to tell
                house.ledger.finish_run(record.id, "failed" if known else "cancelled", known)
            raise
        finally:
            with suppress(CatchmentError):  # what is left over is an orphan, no more
                clear(house.store, layout.staging_prefix(job.aggregate, record.id))
    if outcome.state == "published":  # past memory, but somebody will soon read it
        read_ahead(house.store, [layout.result_key(prefix, t.table) for t in outcome.plan.tables])
    return outcome


def _mend(job: Job, house: House, *, full: bool) -> None:
    """Under the lease: finish what a crash left, and learn what another ledger published."""
    ledger, store = house.ledger, house.store
    for dead in ledger.runs(job.aggregate, state="running"):
        ledger.finish_run(dead.id, "cancelled")
    for snapshot in [] if full else ledger.unsealed(job.aggregate):
        check_store(store, snapshot, AGAIN)  # or another store would get its provenance
    seal_all(store, ledger, job.aggregate)
    learn(store, ledger, job.aggregate, layout.snapshot_prefixes(store, job.output))


def clear(store: Store, prefix: str) -> None:
    """Delete all objects below a prefix."""
    for stat in list(store.list(prefix)):
        store.delete(stat.key)


class _Run:
    """One run at work; holds the lease."""

    def __init__(
        self,
        job: Job,
        house: House,
        planner: Planner,
        record: Run,
        lease: Lease,
        *,
        prefix: str,
    ) -> None:
        self.job = job
        self.house = house
        self.planner = planner
        self.record = record
        self.lease = lease
        self.prefix = prefix

    def carry_out(self) -> Outcome:
        ledger, store = self.house.ledger, self.house.store
        while (plan := self.planner.plan()).changed:
            try:
                objects = self._merge_all(plan)
                if objects is None:
                    self._clear()
                    continue
                plan = self.planner.settled(plan)
                publication = self._publication(plan, objects)
            except Conflict:
                raise  # what lies there may be another's, whose ledger is not ours
            except BaseException:
                with suppress(CatchmentError):  # what is left over is an orphan, no more
                    self._clear()
                raise
            snapshot = ledger.publish(publication, self.lease)
            seal(store, ledger, snapshot)
            return Outcome("published", plan, snapshot)
        moves = [m for m in self._moves(plan) if m.to == State.QUARANTINED]
        ledger.move(moves, run=self.record.id)
        ledger.record(self.record.id, plan.account, plan.findings)
        ledger.finish_run(self.record.id, "unchanged")
        return Outcome("unchanged", plan, self.planner.memory.snapshot)

    def _clear(self) -> None:
        """Delete what was written, if the lease still holds: else it may be a successor's."""
        self.house.ledger.renew(self.lease, LEASE)
        clear(self.house.store, self.prefix)

    def _merge_all(self, plan: Plan) -> list[dict[str, Any]] | None:
        """The objects of all tables; None where a file turned out bad and was left out."""
        objects: list[dict[str, Any]] = []
        for table in plan.tables:
            try:
                objects += self._merge(table, plan)
            except InputFailed as failed:
                self.planner.refuse(table.inputs[failed.index], failed.error)
                return None
        return objects

    def _merge(self, plan: TablePlan, whole: Plan) -> list[dict[str, Any]]:
        """Compose one table and write what stands beside it; the objects it is made of."""
        table = plan.table
        beside: list[dict[str, Any]] = []
        try:
            merged = merge_table(
                self._inputs(plan),
                plan.unified,
                whole.constants,
                store=self.house.store,
                table=layout.result_key(self.prefix, table),
                removed=layout.removed_key(self.prefix, table),
                staging=layout.staging_prefix(self.job.aggregate, f"{self.record.id}/{table}"),
                executor=self.house.executor,
                progress=self.house.progress,
                beside=lambda where, named: beside.extend(self._remember(plan, where, named)),
            )
        except (NotFound, Corrupt, InputFailed):
            self._check_unmoved(plan)  # a site's file that has gone is that site's matter
            raise
        self._check_unmoved(plan)
        objects = [{"role": "table", "rows": merged.rows, **_facts(merged.table)}]
        if merged.removed:
            objects.append({"role": "removed", **_facts(merged.removed)})
        return [{"table": table, **item} for item in [*objects, *beside]]

    def _check_unmoved(self, plan: TablePlan) -> None:
        """InputFailed where a file is not as it was listed: what was read of it may be torn."""
        fresh = [i for i, entry in enumerate(plan.kept) if entry is None]
        results = check_unmoved([plan.inputs[i].listed.file for i in fresh])
        for index, error in zip(fresh, results, strict=True):
            if error is not None:
                raise InputFailed(index, error)

    def _inputs(self, plan: TablePlan) -> list[Fresh | Kept]:
        store, previous = self.house.store, self.planner.memory.snapshot
        inputs: list[Fresh | Kept] = []
        for item, removals, entry in zip(plan.inputs, plan.removals, plan.kept, strict=True):
            who = item.center.id, item.listed.name
            if entry is not None:
                assert previous is not None  # noqa: S101 - the entry is of its composition
                inputs.append(
                    Kept(
                        *who,
                        store,
                        layout.result_key(previous.location, plan.table),
                        layout.removed_key(previous.location, plan.table) if removals else None,
                        Placed.loads(entry.placed),
                        removals,
                    )
                )
            else:
                assert item.footer is not None  # noqa: S101 - the plan is complete
                file = item.listed.file
                vouched = self.planner.vouched(item)
                inputs.append(Fresh(*who, file.store, file.key, item.footer, removals, vouched))
        return inputs

    def _remember(
        self, plan: TablePlan, where: Sequence[Placed], named: Future[Composed]
    ) -> Iterator[dict[str, Any]]:
        """Write what the next run needs to know of this table."""
        store = self.house.store
        parts = zip(plan.inputs, plan.removals, where, strict=True)
        entries = tuple(
            Entry(
                center=item.center.id,
                name=item.listed.name,
                url=item.listed.file.store.url,
                key=item.listed.file.key,
                size=item.listed.file.size,
                etag=item.listed.file.etag,
                digest=self.planner.digest(item),
                rows=item.rows,
                schema=item.schema,
                removals=removals,
                placed=placed.dumps(),
            )
            for item, removals, placed in parts
        )
        types, keys = self.planner.keys_of(plan)
        composed = Composition(entries, plan.unified.schema, types)
        key = layout.composition_key(self.prefix, plan.table)
        yield {"role": "composition", **_put(store, key, [composition.dump(composed)], named)}
        if types:
            blobs = (keys(index) for index in range(len(entries)))
            key = layout.keys_key(self.prefix, plan.table)
            yield {"role": "keys", **_put(store, key, composition.dump_keys(blobs), named)}

    def _publication(self, plan: Plan, objects: list[dict[str, Any]]) -> Publication:
        return Publication(
            aggregate=self.job.aggregate,
            key=f"{plan.fingerprint}@{plan.parent or 0}",
            location=self.prefix,
            provenance={
                "manifest": manifest(),
                "config": dict(self.job.config),
                "metadata": {"job": {"id": self.record.id, "started": str(self.record.started_at)}},
                "dataset_aggregator": {
                    **plan.constants,
                    "latest_versions": {c: d.prefix for c, d in sorted(plan.datasets.items())},
                },
                "fingerprint": plan.fingerprint,
                "objects": objects,
                "tables": {
                    t.table: {
                        "rows": t.rows,
                        "columns": {f.name: str(f.type) for f in t.unified.schema},
                        "drift": list(t.unified.drift),
                    }
                    for t in plan.tables
                },
                "skipped": dict(sorted(plan.skipped.items())),
            },
            account=plan.account,
            findings=plan.findings,
            moves=self._moves(plan),
            run=self.record.id,
            parent=plan.parent or 0,
        )

    def _moves(self, plan: Plan) -> list[Move]:
        """Record the datasets of this run; how their states change, and those of earlier ones."""
        ledger, aggregate = self.house.ledger, self.job.aggregate
        digests = self.planner.digests()
        datasets = self.planner.found.datasets
        received = ledger.receive_many(
            aggregate,
            [
                Delivery(
                    d.center.id,
                    d.prefix,
                    digests.get(d.center.id, d.digest),
                    sum(f.size for files in d.tables.values() for f in files),
                    {"store": d.url, "version": d.version, "created": d.created.isoformat()},
                )
                for d in datasets
            ],
        )
        wanted = {
            c.id: (c, State.PUBLISHED if c.site in plan.datasets else State.QUARANTINED)
            for c in received
        }
        moves = [Move(c.id, c.state, to) for c, to in wanted.values() if c.state != to]
        moves += [
            Move(c.id, c.state, State.SUPERSEDED)
            for c in ledger.contributions(aggregate, state=State.PUBLISHED)
            if c.id not in wanted
        ]
        return moves


def _facts(composed: Composed) -> dict[str, Any]:
    return {"key": composed.key, "size": composed.size, "digest": composed.digest}


def _put(
    store: Store, key: str, chunks: Iterable[bytes], named: Future[Composed]
) -> dict[str, Any]:
    """Write an object, which gets its name after another, and say what it is."""
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in chunks:
            digest.update(chunk)
            yield chunk
        named.result()

    size = store.put(key, hashed()).size
    return {"key": key, "size": size, "digest": f"sha256:{digest.hexdigest()}"}
