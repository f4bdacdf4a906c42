"""Plan: what a study becomes, decided from what is known; nothing here reads or writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catchment.core.account import Account, Line
from catchment.core.finding import Finding, Severity
from catchment.core.ledger import Contribution, Move
from catchment.studies.catalog import Catalog
from catchment.studies.check import Checked, Facts
from catchment.studies.merge import Policy
from catchment.studies.model import Kind, Part, Problem, State, check_move

Place = tuple[str, str, int, str]  # kind, package, version, site: what has one contribution
Version = tuple[str, int]  # package, version: what is merged


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for beside the contributions that wait.

    Attributes:
        archive: current contributions that shall leave, and why.
        restore: archived contributions that shall be current again.
        again: merge every package anew, from its parts.
    """

    archive: Mapping[int, str] = field(default_factory=dict)
    restore: Sequence[tuple[Contribution, Checked]] = ()
    again: bool = False


@dataclass(slots=True)
class Plan:
    """What is to be done, and what it comes to.

    Attributes:
        parts: of each package that is merged anew; none: it is no more.
        current: the contribution of each place that is new there.
        gone: places that nobody fills any more.
        refused: contributions that are not accepted, and why.
        moves: of contributions, in order.
        problems: of contributions that are accepted all the same.
    """

    parts: dict[Version, list[Part]] = field(default_factory=dict)
    current: dict[Place, tuple[Contribution, Facts]] = field(default_factory=dict)
    gone: set[Place] = field(default_factory=set)
    refused: list[tuple[Contribution, Problem]] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    problems: list[tuple[Contribution, Problem]] = field(default_factory=list)
    account: Account = field(default_factory=Account)

    @property
    def empty(self) -> bool:
        """Nothing is to be done."""
        return not (self.parts or self.moves)

    def findings(self) -> list[Finding]:
        """What the sites should know."""
        return [
            problem.finding(one.site, one.meta["file"])
            for one, problem in [*self.refused, *self.problems]
        ]


def place_of(one: Contribution) -> Place:
    """What a contribution fills."""
    meta = one.meta
    return meta["kind"], meta["package"], meta["version"], one.site


def part_of(one: Contribution, facts: Facts) -> Part:
    """A contribution as an input of a merge."""
    return Part(
        one.site,
        one.digest,
        facts.part,
        facts.part_digest,
        facts.rows,
        facts.total,
        facts.columns,
    )


def make(  # noqa: PLR0917 - all that is known
    before: Catalog,
    current: Iterable[Contribution],
    waiting: Sequence[tuple[Contribution, Checked]],
    policy: Policy,
    wish: Wish,
    refused: Mapping[int, Problem] | None = None,
) -> Plan:
    """What the study becomes.

    Args:
        before: what is published.
        current: contributions that are last valid.
        waiting: those that are not decided yet, and what their check found.
        policy: what may leave the house now.
        wish: what else is asked for.
        refused: waiting contributions that a merge could not take, by id.
    """
    return _Planner(before, current, policy, wish).plan(waiting, refused or {})


class _Planner:
    def __init__(
        self, before: Catalog, current: Iterable[Contribution], policy: Policy, wish: Wish
    ) -> None:
        self.before = before
        self.policy = policy
        self.wish = wish
        self.made = Plan()
        self.held = {place_of(one): one for one in current}
        self.parts: dict[Version, dict[str, Part]] = {
            version: {part.site: part for part in cube.merged.parts}
            for version, cube in before.cubes.items()
        }
        self.states = {one.id: State(one.state) for one in self.held.values()}

    def plan(
        self, waiting: Sequence[tuple[Contribution, Checked]], refused: Mapping[int, Problem]
    ) -> Plan:
        self._archive()
        for one, checked in self.wish.restore:
            self.states[one.id] = State(one.state)
            self._take(one, checked.facts or Facts(), "rolled back")
        for one, checked in sorted(waiting, key=lambda pair: (_arrived(pair[0]), pair[0].id)):
            self.states[one.id] = State(one.state)
            problem = refused.get(one.id) or self._problem(one, checked)
            if problem is not None:
                self._refuse(one, problem)
            elif checked.facts is not None:
                self.made.problems += [(one, p) for p in checked.problems]
                self._accept(one, checked.facts)
        self._packages()
        return self.made

    def _archive(self) -> None:
        for place, one in list(self.held.items()):
            if one.id in self.wish.archive:
                self._move(one, State.ARCHIVED, self.wish.archive[one.id])
                del self.held[place]
                self.made.gone.add(place)
                if place[0] == Kind.CUBE:
                    self.parts[place[1], place[2]].pop(one.site, None)

    def _problem(self, one: Contribution, checked: Checked) -> Problem | None:
        if checked.facts is None:
            return checked.problems[0]
        place = place_of(one)
        twin = self.made.current.get(place)
        if twin is not None and twin[0].meta["transaction"] == one.meta["transaction"]:
            return Problem(
                "package-twice",
                "expected one file for each package, got another one in the same upload",
                "send each package once",
            )
        if place[0] == Kind.CUBE:
            return self._misfit(one.site, (place[1], place[2]), checked.facts.columns)
        return None

    def _misfit(self, site: str, version: Version, columns: Mapping[str, str]) -> Problem | None:
        """Why these columns cannot be merged with those of the other sites."""
        others = [p for s, p in self.parts.get(version, {}).items() if s != site]
        if not others:
            return None
        known = {n: t for p in others for n, t in p.columns.items() if t != "null"}
        names = set(others[0].columns)
        if columns.keys() != names:
            return Problem(
                "cube-columns-differ",
                f"expected the columns of the other sites, got {len(columns.keys() - names)} that "
                f"they have not, and not {len(names - columns.keys())} that they have",
                "export with the same version of the study; a new set of columns needs a new "
                "data package version",
            )
        wrong = sorted(n for n, t in columns.items() if "null" != t != known.get(n, t))
        if wrong:
            told = ", ".join(f"{n!a} ({columns[n]}, not {known[n]})" for n in wrong[:5])
            return Problem(
                "cube-types-differ",
                f"expected the types of the other sites, got others: {told}",
                "convert the columns before they are exported",
            )
        return None

    def _refuse(self, one: Contribution, problem: Problem) -> None:
        self._move(one, State.ERROR, problem.code)
        self._leave(one)
        self.made.refused.append((one, problem))
        self._count(one, None, problem.code)

    def _leave(self, one: Contribution) -> None:
        """What was published of it, and is found bad now, is so no more."""
        place = place_of(one)
        if place in self.held:
            return
        parts = self.parts.get((place[1], place[2]), {})
        file = self.before.files.get(place)
        if place[0] == Kind.CUBE and one.site in parts and parts[one.site].source == one.digest:
            del parts[one.site]
            self.made.gone.add(place)
        elif file is not None and file.object.digest == one.digest:
            self.made.gone.add(place)

    def _accept(self, one: Contribution, facts: Facts) -> None:
        if one.meta["kind"] == Kind.MANIFEST:
            self._compare_manifests(one, facts)
        self._take(one, facts, "")
        self._count(one, facts, "")

    def _take(self, one: Contribution, facts: Facts, reason: str) -> None:
        """Put a contribution into its place; the one that was there goes to the archive.

        One that a worker who slept took in after what replaced it has been superseded already.
        """
        place = place_of(one)
        old = self.held.get(place)
        if old is not None and not reason and "" < _arrived(one) < _arrived(old):
            if self.states[one.id] is State.RECEIVED:
                self._move(one, State.LATEST, reason)
            self._move(one, State.LAST_VALID, reason)
            self._move(one, State.ARCHIVED, f"superseded by {old.id}")
            return
        if old is not None:
            self._move(old, State.ARCHIVED, f"superseded by {one.id}")
        if self.states[one.id] is State.RECEIVED:
            self._move(one, State.LATEST, reason)
        self._move(one, State.LAST_VALID, reason)
        self.held[place] = one
        self.made.current[place] = (one, facts)
        self.made.gone.discard(place)
        if place[0] == Kind.CUBE:
            self.parts.setdefault((place[1], place[2]), {})[one.site] = part_of(one, facts)

    def _compare_manifests(self, one: Contribution, facts: Facts) -> None:
        owner = self.before.owners.get(one.meta["version"])
        own = self.before.files.get((Kind.MANIFEST, "manifest", one.meta["version"], owner or ""))
        if own is not None and owner != one.site and own.content != facts.content:
            problem = Problem(
                "manifest-conflict",
                f"expected the manifest of {owner}, whose counts for this version, got another",
                "agree on one manifest for each version of the study",
                Severity.WARNING,
            )
            self.made.problems.append((one, problem))

    def _packages(self) -> None:
        for version, parts in self.parts.items():
            before = self.before.cubes.get(version)
            ordered = sorted(parts.values(), key=lambda part: part.site)
            same = (
                before is not None
                and bool(ordered)
                and before.merged.parts == tuple(ordered)
                and before.merged.policy == self.policy
            )
            if not same or self.wish.again:
                self.made.parts[version] = ordered

    def _move(self, one: Contribution, to: State, reason: str) -> None:
        was = self.states[one.id]
        check_move(was, to)
        self.made.moves.append(Move(one.id, was.value, to.value, reason))
        self.states[one.id] = to

    def _count(self, one: Contribution, facts: Facts | None, reason: str) -> None:
        meta: Mapping[str, Any] = one.meta
        part = meta["package"] or meta["file"]
        files = self.made.account[Line(one.site, part, "files")]
        files.received += 1
        if facts is None:
            files.quarantined[reason] += 1
            return
        files.kept += 1
        rows = self.made.account[Line(one.site, part, "rows")]
        rows.received += facts.rows
        rows.kept += facts.rows


def _arrived(one: Contribution) -> str:
    """When its upload had arrived, by the storage's clock; empty where nobody noted it."""
    arrived: str = one.meta.get("arrived", "")
    return arrived
