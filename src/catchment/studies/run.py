"""Run: bring a study up to date. One publication holds every move, so all of it is seen, or none.

Whoever holds the study's lease decides on all contributions that wait, not on its own only. Checks
and merges write objects that nobody reads yet, under keys that tell their content: whoever comes
next after a crash finds them done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from catchment.core.errors import CatchmentError, Conflict, Invalid
from catchment.core.finding import Finding
from catchment.core.ledger import Contribution, Lease, Ledger, Publication, Run, Snapshot
from catchment.core.progress import Event
from catchment.core.provenance import learn, manifest, seal
from catchment.core.safe_child import translate
from catchment.studies import catalog as catalogs
from catchment.studies import check, layout, plan, told, views
from catchment.studies.catalog import Catalog, Cube, File
from catchment.studies.check import Checked, Facts
from catchment.studies.house import House
from catchment.studies.merge import Merged, merge
from catchment.studies.model import Kind, Object, Problem, State
from catchment.studies.plan import Plan, Wish

LEASE = timedelta(seconds=60)
# Another worker holds the study, or took it over: what it decides counts, and one may look again.
OVERTAKEN = frozenset({"lease-held", "lease-lost", "snapshot-moved", "run-finished"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to: the new snapshot, or the one that stands where nothing changed."""

    state: str  # published | unchanged | planned
    plan: Plan
    snapshot: Snapshot | None


def settle(
    house: House,
    study: str,
    wish: Callable[[Catalog], Wish] | None = None,
    *,
    again: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Decide on all that waits in a study, and publish what comes of it.

    Args:
        house: where.
        study: which.
        wish: what else is asked for, told what is published.
        again: read every file and merge every package anew.
        dry_run: only plan. Checks are done all the same, and kept.

    Raises:
        Conflict: kind ``lease-held`` while another run is at work.
        Invalid: the settings, or the release, stop it; nothing was published.
    """
    aggregate = layout.aggregate(study)
    if dry_run:
        return _Run(house, study, again=again).plan_only(wish)
    with house.ledger.holding(aggregate, ttl=LEASE) as lease:
        mend(house, study)
        outcome = None
        while outcome is None:
            try:
                outcome = _Run(house, study, again=again).carry_out(wish, lease)
            except Conflict as error:
                # Its own worker has checked a file meanwhile; what was merged is not merged again.
                if error.kind != "state-changed":
                    raise
    if outcome.state == "published":
        house.published(study)
    return outcome


def mend(house: House, study: str) -> None:
    """Under the lease: finish what a crash left."""
    aggregate = layout.aggregate(study)
    for dead in house.ledger.runs(aggregate, state="running"):
        house.ledger.finish_run(dead.id, "cancelled")
    for snapshot in house.ledger.unsealed(aggregate):
        views.finish(house.store, snapshot)
        seal(house.store, house.ledger, snapshot)
    if house.ledger.latest(aggregate) is None:
        learn(house.store, house.ledger, aggregate, [layout.snapshots(study)])


def waiting(ledger: Ledger, study: str) -> list[Contribution]:
    """Contributions that are not decided yet."""
    aggregate = layout.aggregate(study)
    # In this order: what becomes the latest meanwhile is passed over, not seen twice.
    states = (State.LATEST, State.RECEIVED)
    return [one for state in states for one in ledger.contributions(aggregate, state=state.value)]


def check_all(
    house: House, contributions: Sequence[Contribution], *, again: bool = False
) -> list[tuple[Contribution, Checked]]:
    """What the check says of each, by the executor; what was checked before is only looked up."""
    calls = [_call(house, one, again=again) for one in contributions]
    checked: list[tuple[Contribution, Checked]] = []
    for one, call in zip(contributions, calls, strict=True):
        try:
            checked.append((one, call()))
        except Invalid as error:
            checked.append((one, Checked(None, (_as_problem(error),))))
        event = Event(f"studies/{one.meta['study']}: check", "step", len(checked), len(calls))
        house.progress(event._replace(unit="files", message=one.site))
    return checked


def answer[T](future: Future[T]) -> T:
    """What a reader says; an error of its own is one of the file, wherever it was read."""
    try:
        return future.result()
    except CatchmentError:
        raise
    except Exception as error:
        raise translate(error) from error


def _call(house: House, one: Contribution, *, again: bool) -> Callable[[], Checked]:
    meta = one.meta
    if meta["problem"] is not None:
        known = Checked(None, (Problem(*meta["problem"]),))
        return lambda: known
    future = house.executor.submit(
        check.check,
        house.store,
        meta["key"],
        one.digest,
        Kind(meta["kind"]),
        meta["package"],
        layout.parts(meta["study"], meta["package"], meta["version"], one.site),
        house.limits,
        one.site,
        text=house.policy(meta["study"]).open,
        again=again,
    )
    return lambda: answer(future)


def _as_problem(error: CatchmentError) -> Problem:
    """Why a reader gave up, as something a site can be told."""
    return Problem(error.kind, error.message, error.hint)


class _Run:
    """One run at work."""

    def __init__(self, house: House, study: str, *, again: bool) -> None:
        self.house = house
        self.study = study
        self.again = again
        self.aggregate = layout.aggregate(study)
        self.policy = house.policy(study)
        self.known: dict[int, Contribution] = {}
        self.at = house.clock()
        latest = house.ledger.latest(self.aggregate)
        self.latest = latest
        self.before = catalogs.of(house.store, latest, study)

    def plan_only(self, wish: Callable[[Catalog], Wish] | None) -> Outcome:
        return Outcome("planned", self._plan(self._gather(wish), {}), self.latest)

    def carry_out(self, wish: Callable[[Catalog], Wish] | None, lease: Lease) -> Outcome:
        ledger = self.house.ledger
        gathered = self._gather(wish)
        refused: dict[int, Problem] = {}
        made = self._plan(gathered, refused)
        if made.empty:
            return Outcome("unchanged", made, self.latest)
        record = ledger.start_run(self.aggregate, {"study": self.study, **self._config()})
        try:
            while (merged := self._merge_all(made, refused)) is None:
                made = self._plan(gathered, refused)
            after = self._after(made, merged)
            snapshot = ledger.publish(self._publication(made, after, merged, record), lease)
        except BaseException as error:
            known = error if isinstance(error, CatchmentError) else None
            with suppress(CatchmentError):  # the first error is the one to tell
                ledger.finish_run(record.id, "failed" if known else "cancelled", known)
            raise
        views.finish_last(self.house.store, ledger, snapshot)
        seal(self.house.store, ledger, snapshot)
        return Outcome("published", made, snapshot)

    def _config(self) -> dict[str, Any]:
        return self.policy.to_json()

    def _gather(
        self, wish: Callable[[Catalog], Wish] | None
    ) -> tuple[list[Contribution], list[tuple[Contribution, Checked]], Wish]:
        ledger = self.house.ledger
        wanted = wish(self.before) if wish else Wish()
        current = list(ledger.contributions(self.aggregate, state=State.LAST_VALID.value))
        undecided = waiting(ledger, self.study)
        restored = [one for one, _ in wanted.restore]
        self.known = {one.id: one for one in [*current, *undecided, *restored]}
        return current, check_all(self.house, undecided, again=self.again), wanted

    def _plan(
        self,
        gathered: tuple[list[Contribution], list[tuple[Contribution, Checked]], Wish],
        refused: Mapping[int, Problem],
    ) -> Plan:
        current, undecided, wish = gathered
        return plan.make(self.before, current, undecided, self.policy, wish, refused)

    def _merge_all(
        self, made: Plan, refused: dict[int, Problem]
    ) -> dict[plan.Version, Merged] | None:
        """Every package anew; None where contributions had to be refused, so the plan is another.

        What one package cannot take stops no other package.
        """
        merged: dict[plan.Version, Merged] = {}
        bad = False
        for number, (version, parts) in enumerate(sorted(made.parts.items()), 1):
            event = Event(f"{self.aggregate}: merge", "step", number, len(made.parts), "packages")
            self.house.progress(event)
            if not parts:
                continue
            before = self.before.cubes.get(version)
            try:
                merged[version] = merge(
                    self.house.store,
                    (self.study, *version),
                    parts,
                    self.policy,
                    before.merged if before and not self.again else None,
                    again=self.again,
                )
            except Invalid as error:
                known = {p.site: p.source for p in before.merged.parts} if before else {}
                guilty = [
                    one.id
                    for (kind, package, of, site), (one, _) in made.current.items()
                    if kind == Kind.CUBE
                    and (package, of) == version
                    and known.get(site) != one.digest
                ]
                if not guilty:
                    raise
                refused |= dict.fromkeys(guilty, _as_problem(error))
                bad = True
        return None if bad else merged

    def _after(self, made: Plan, merged: Mapping[plan.Version, Merged]) -> Catalog:
        """What is published when this is."""
        cubes = dict(self.before.cubes)
        for version, parts in made.parts.items():
            if not parts:
                del cubes[version]
                continue
            old, new = cubes.get(version), merged[version]
            moved = old is None or old.merged.released.digest != new.released.digest
            since = self.at if moved or old is None else old.updated_at
            cubes[version] = Cube(*version, new, since)
        files = {p: f for p, f in self.before.files.items() if p not in made.gone}
        for place, (one, facts) in made.current.items():
            if place[0] != Kind.CUBE:
                files[place] = self._file(one, facts)
        return Catalog(
            self.study,
            cubes,
            files,
            told.owners(self.before.owners, files, made),
            catalogs.touched(self.before.times, self._marks(made), self.study, self.at),
        )

    def _file(self, one: Contribution, facts: Facts) -> File:
        meta = one.meta
        return File(
            Kind(meta["kind"]),
            meta["package"],
            meta["version"],
            one.site,
            meta["file"],
            Object(meta["key"], one.size, one.digest),
            facts.rows,
            facts.columns,
            facts.content,
            self.at,
        )

    def _marks(self, made: Plan) -> list[tuple[tuple[str, str, int], str, bool]]:
        marks: list[tuple[tuple[str, str, int], str, bool]] = []
        for one, _ in made.refused:
            place = (one.site, one.meta["package"], one.meta["version"])
            marks += [(place, name, True) for name in ("last_upload", "last_error")]
        for _, package, version, site in made.current:
            names = ("last_upload", "last_data_update")
            marks += [((site, package, version), name, True) for name in names]
            marks.append(((site, package, version), "deleted", False))
        for (package, version), parts in made.parts.items():
            marks += [((p.site, package, version), "last_aggregation", True) for p in parts]
        marks += [((s, p, v), "deleted", True) for _, p, v, s in made.gone]
        return marks

    def _standing(self, made: Plan) -> Iterator[Finding]:
        """What the sites of which nothing is decided now were told last: it still stands."""
        if self.latest is not None:
            decided = {self.known[move.contribution].site for move in made.moves}
            decided |= {site for *_, site in [*made.current, *made.gone]}
            for finding in self.house.ledger.findings(run=self.latest.run):
                if finding.site not in decided:
                    yield finding

    def _publication(
        self,
        made: Plan,
        after: Catalog,
        merged: Mapping[plan.Version, Merged],
        record: Run,
    ) -> Publication:
        location = layout.snapshots(self.study, record.id)
        data, key = catalogs.dumps(after), f"{location}catalog.json"
        self.house.store.put(key, data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        objects = [{"role": catalogs.ROLE, "key": key, "size": len(data), "digest": digest}]
        for (name, version), cube in sorted(after.cubes.items()):
            objects += [
                {"role": role, "package": name, "version": version, **one._asdict()}
                for role, one in cube.merged.objects.items()
            ]
        objects += [
            {"role": file.kind.value, "package": file.package, "version": file.version}
            | {"site": file.site, **file.object._asdict()}
            for _, file in sorted(after.files.items())
        ]
        shown = told.shown(made, merged, self.study, self.known, self.at)
        return Publication(
            aggregate=self.aggregate,
            key=record.id,
            location=location,
            provenance={
                "manifest": manifest(),
                "config": dict(record.config),
                "objects": objects,
                "views": shown.to_json(),
            },
            account=made.account,
            findings=[*told.results(self.house.store, self.before, made), *self._standing(made)],
            moves=made.moves,
            run=record.id,
            parent=self.before.snapshot,
        )
