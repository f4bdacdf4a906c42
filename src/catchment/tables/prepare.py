"""Receive, check and plan: reads what decides, and only that; then decides."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC
from itertools import groupby
from pathlib import Path
from typing import Self

from catchment.core.errors import CatchmentError, Invalid
from catchment.core.finding import Finding, Severity
from catchment.core.names import shown
from catchment.tables import layout
from catchment.tables.check import KeyReader, Memory, Reader, key_types
from catchment.tables.criteria import check_criteria, check_tables
from catchment.tables.datasets import find_datasets
from catchment.tables.duplicates import Candidates, decide, find
from catchment.tables.job import House, Job
from catchment.tables.model import CONSTANTS, CriteriaRule, OnDuplicate, Removal, Rule, TransferRule
from catchment.tables.plan import (
    CENTER_QUARANTINED,
    Input,
    Plan,
    Refused,
    TablePlan,
    balance,
    fingerprint,
    keep,
    whole_centers,
)
from catchment.tables.snapshot import TableSnapshot
from catchment.tables.unify import Unified, folded, unify


class Planner:
    """Plans a job; plans again without a center whose file turns out bad later.

    Args:
        full: remember nothing of the latest snapshot.
        later: digests that decide nothing may be missing in a plan; :meth:`settled` has them.

    Attributes:
        memory: what the latest snapshot remembers.
        found: the datasets of this run.
        refused: files that enter no table.
    """

    def __init__(
        self, job: Job, house: House, scratch: Path, *, full: bool, later: bool = False
    ) -> None:
        self.job = job
        self.house = house
        snapshot = house.ledger.latest(job.aggregate)
        with ThreadPoolExecutor(1, "memory") as beside:
            memory = beside.submit(Memory.load, house.store, snapshot, remember=not full)
            self.found = find_datasets(
                job.centers,
                job.source,
                fall_back=job.options.fall_back,
                progress=house.progress,
            )
            self.memory = memory.result()
        self._damaged = full and snapshot and TableSnapshot(house.store, snapshot).verify()
        self._current: dict[str, frozenset[int]] = {}  # of all participants asked for
        self._keys = KeyReader(self.memory, house.executor, scratch)
        self._reader = Reader(
            self.memory, house.executor, self._keys, self._transfer_rule, later=later
        )
        self._inputs, self.refused = self._reader.check(self.found.datasets, house.progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.close()

    def refuse(self, item: Input, error: CatchmentError) -> None:
        """Leave out an input that could not be merged, and with it its whole center."""
        coming = self.vouched(item)
        unsure = coming is not None and coming.done() and coming.exception() is not None
        self._leave_out([Refused(item.listed, error, None if unsure else item.rows)])

    def vouched(self, item: Input) -> Future[str] | None:
        """The digest of an input that has none yet; it raises what is wrong with the file."""
        return self._reader.vouched(item)

    def digest(self, item: Input) -> str:
        """That of an input, which is waited for; raises what is wrong with the file."""
        coming = self.vouched(item)
        return item.digest or "" if coming is None else coming.result()

    def settled(self, plan: Plan) -> Plan:
        """The plan with all digests, which are waited for; raises what is wrong with a file."""
        settled = {id(item): replace(item, digest=self.digest(item)) for item in self._inputs}
        self._inputs = list(settled.values())
        tables = tuple(
            replace(table, inputs=tuple(settled[id(item)] for item in table.inputs))
            for table in plan.tables
        )
        digest = fingerprint(self.job.options, plan.datasets, tables)
        return replace(plan, tables=tables, fingerprint=digest)

    def digests(self) -> dict[str, str]:
        """``sha256:`` of each center's dataset by its content, where all of it could be read."""
        parts: defaultdict[str, list[list[str | None]]] = defaultdict(list)
        for item in self._inputs:
            parts[item.center.id].append([item.listed.table, item.listed.name, item.digest])
        return {
            center: f"sha256:{hashlib.sha256(json.dumps(files).encode()).hexdigest()}"
            for center, files in parts.items()
        }

    def keys_of(self, plan: TablePlan) -> tuple[dict[str, str], Callable[[int], bytes]]:
        """What the next run may keep of a planned table's keys; no types where it has no rule."""
        rule = self._rule(plan.table, plan.unified.schema.names)
        if rule is None:
            return {}, lambda _: b""
        keys, _ = self._keys.keys(plan.inputs, rule, plan.unified)
        return key_types(rule, plan.unified), keys

    def plan(self) -> Plan:
        """What to do, from all that is known now.

        Raises:
            Invalid: ``type-conflict`` under ``strict``; ``unknown-criteria``; ``unknown-naccid``;
                ``no-identifiers``; ``centers-missing`` under ``require_all``; ``nothing-to-do``.
            Unavailable: the identifiers service.
        """
        while True:
            self._inputs, self.refused = whole_centers(self._inputs, self.refused)
            self._check_centers()
            tables = {
                table: list(items)
                for table, items in groupby(self._inputs, key=lambda i: i.listed.table)
            }
            check_tables(self.job.options.criteria, tables)
            unified = {table: self._unify(items) for table, items in tables.items()}
            candidates = self._candidates(tables, unified)
            if candidates is None:
                continue
            plan = self._decide(tables, unified, candidates)
            if self._complete(plan):
                return plan

    def _check_centers(self) -> None:
        malformed = {f.site: f.code for f in self.job.findings if f.severity is Severity.ERROR}
        missing = sorted((malformed | self._skipped()).items())
        told = ", ".join(f"{center} ({reason})" for center, reason in missing)
        if missing and self.job.options.require_all:
            raise Invalid(
                f"expected every center, {len(missing)} bring nothing: {told}",
                kind="centers-missing",
                hint="mend them, or run without --require-all",
            )
        if not self._inputs:
            told = told or "none is taken"
            refused = (r.finding() for r in self.refused if r.error.kind != CENTER_QUARANTINED)
            first = next(iter(self.found.skipped.values()), None) or next(refused, None)
            why = f"; {first.site}: {first.where}: {first.message}" if first else ""
            raise Invalid(
                f"none of {len(self.job.centers)} centers brings a table: {told}{why}",
                kind="nothing-to-do",
                hint=(first and first.hint)
                or "mend the centers' datasets or the selection of centers",
            )

    def _skipped(self) -> dict[str, str]:
        found = {center: finding.code for center, finding in self.found.skipped.items()}
        return found | {
            r.listed.center.id: r.error.kind
            for r in reversed(self.refused)  # the first of a center's refused files tells
            if r.error.kind != CENTER_QUARANTINED
        }

    def _unify(self, items: Sequence[Input]) -> Unified:
        return unify(
            [(i.center.id, i.schema) for i in items],
            constants=CONSTANTS,
            strict=self.job.options.strict,
        )

    def _rule(self, table: str, columns: Sequence[str]) -> Rule | None:
        rule: Rule | None = self.job.options.criteria.get(table)
        if isinstance(rule, CriteriaRule):
            check_criteria(table, rule, columns)
            if not rule.criteria:
                return None
        elif self.job.options.transfers and TransferRule().participant in columns:
            rule = TransferRule()
        return rule

    def _misspelt(self, table: str, items: Sequence[Input]) -> Iterator[Finding]:
        """Who sends participants under a name that no transfer rule looks at."""
        rule = self._transfer_rule(table)
        if rule is None:
            return
        twins = {
            (item.center.id, name)
            for item in items
            if rule.participant not in item.schema.names
            for name in item.schema.names
            if folded(name) == rule.participant
        }
        for center, name in sorted(twins):
            yield Finding(
                center,
                Severity.WARNING,
                "participant-misspelt",
                f"{table}: {shown(name)}",
                f"expected {shown(rule.participant)}: who stands in this column is not looked for "
                "at other centers, so rows of who has transferred may be in the table twice",
                f"call the column {rule.participant}",
            )

    def _transfer_rule(self, table: str) -> TransferRule | None:
        """The one that the table has if any of its files has the participant."""
        criteria = table in self.job.options.criteria
        return TransferRule() if self.job.options.transfers and not criteria else None

    def _candidates(
        self, tables: Mapping[str, Sequence[Input]], unified: Mapping[str, Unified]
    ) -> dict[str, Candidates] | None:
        """Rows that may go, by table; None after leaving out files whose keys cannot be read."""
        candidates: dict[str, Candidates] = {}
        bad: list[Refused] = []
        for table, items in tables.items():
            rule = self._rule(table, unified[table].schema.names)
            if rule is None:
                continue
            keys, failed = self._keys.keys(items, rule, unified[table])
            bad += failed
            if not bad:
                centers = [i.center for i in items]
                mode = self.job.options.mode
                candidates[table] = find(table, rule, centers, keys, mode=mode)
        self._leave_out(bad)
        return None if bad else candidates

    def _decide(
        self,
        tables: Mapping[str, Sequence[Input]],
        unified: Mapping[str, Unified],
        candidates: Mapping[str, Candidates],
    ) -> Plan:
        self._ask(candidates)
        plans: list[TablePlan] = []
        findings = [*self.job.findings, *self.found.findings]
        findings += [r.finding() for r in self.refused if r.error.kind != CENTER_QUARANTINED]
        for table, items in tables.items():
            removals: tuple[tuple[Removal, ...], ...] = ((),) * len(items)
            if table in candidates:
                decision = decide(candidates[table], self._current)
                removals = decision.removals
                findings += decision.findings
            findings += unified[table].findings(table)
            findings += self._misspelt(table, items)
            previous = self.memory.tables.get(table)
            kept = keep(items, removals, unified[table], previous)
            plans.append(TablePlan(table, unified[table], tuple(items), removals, kept))
        entered = {i.center.id for i in self._inputs}
        datasets = {d.center.id: d for d in self.found.datasets if d.center.id in entered}
        digest = fingerprint(self.job.options, datasets, plans)
        latest = self.memory.snapshot
        today = self.house.clock().astimezone(UTC).strftime("%Y%m%d")
        dates = (self.job.options.freeze_date or today, today)
        return Plan(
            tables=tuple(plans),
            datasets=datasets,
            skipped={**self.job.skipped, **self._skipped()},
            findings=tuple(findings),
            account=balance(plans, self.refused),
            fingerprint=digest,
            parent=latest.number if latest else None,
            changed=latest is None
            or latest.provenance["fingerprint"] != digest
            or layout.output_of(latest.location) != self.job.output
            or bool(self._damaged),
            constants=dict(zip(CONSTANTS, dates, strict=True)),
        )

    def _ask(self, candidates: Mapping[str, Candidates]) -> None:
        """Learn the current centers of participants, of each once in a run."""
        wanted = set[str]().union(*(c.participants for c in candidates.values()))
        new = wanted - self._current.keys()
        if new and self.job.identifiers is None:
            raise Invalid(
                f"{len(new)} participants are at several centers, and nobody knows which is "
                "current",
                kind="no-identifiers",
                hint=f"give --identifiers FILE|URL|lambda:NAME, or {self._without_identifiers()}",
            )
        if new and self.job.identifiers is not None:
            self._current |= self.job.identifiers.current(new)

    def _without_identifiers(self) -> str:
        """What does without knowing who is where: it depends on which rule asks."""
        rules = self.job.options.criteria.values()
        asking = [r for r in rules if r.criteria and r.on_duplicate is OnDuplicate.ACTIVE_ONLY]
        choices = ["set on_duplicate to keep_all or drop_all in the criteria"] if asking else []
        if self.job.options.transfers:
            choices.append("--transfers none to keep all")
        return ", and ".join(choices)

    def _complete(self, plan: Plan) -> bool:
        """Whether every file that must be merged from its source has been read; else read them.

        A file that did not move has to be read again where its rows or types change all the same.
        """
        if not plan.changed:
            return True
        unread = [
            item
            for table in plan.tables
            for item, kept in zip(table.inputs, table.kept, strict=True)
            if kept is None and item.footer is None
        ]
        files = [item.listed for item in unread]
        read = dict(
            zip(map(id, unread), self._reader.read(files, self.house.progress), strict=True)
        )
        results = [read.get(id(item), item) for item in self._inputs]
        self._inputs = [r for r in results if isinstance(r, Input)]
        self._leave_out([r for r in results if isinstance(r, Refused)])
        return not unread

    def _leave_out(self, bad: Sequence[Refused]) -> None:
        listed = {id(r.listed) for r in bad}
        self._inputs = [i for i in self._inputs if id(i.listed) not in listed]
        self.refused = [*self.refused, *bad]
