"""What an operator asks for: withdraw, roll back, reprocess. Each is one run, and on record."""

from __future__ import annotations

from catchment.core.errors import NotFound
from catchment.core.ledger import Contribution, Move
from catchment.core.names import shown
from catchment.studies import catalog as catalogs
from catchment.studies import layout, plan
from catchment.studies.catalog import Catalog
from catchment.studies.house import House
from catchment.studies.model import Kind, State
from catchment.studies.plan import Wish
from catchment.studies.run import Outcome, check_all, settle, waiting


def withdraw(
    house: House, study: str, site: str | None = None, *, dry_run: bool = False
) -> Outcome:
    """Take a site, or all of them, out of a study: its parts leave every package.

    Its files go to the archive, with the reason. NotFound (kind ``no-contribution``) where there is
    nothing to withdraw, ``no-study`` where nothing is known of the study.
    """
    _check_known(house, study)

    def wish(_: Catalog) -> Wish:
        found = house.ledger.contributions(
            layout.aggregate(study), site=site, state=State.LAST_VALID.value
        )
        archive = {one.id: "withdrawn" for one in found}
        if not archive:
            who = f"{site} has" if site else "there is"
            raise NotFound(
                f"{who} nothing in {study} that could be withdrawn",
                kind="no-contribution",
                hint="catchment studies list",
            )
        return Wish(archive=archive)

    _decide_first(house, study, dry_run=dry_run)
    return settle(house, study, wish, dry_run=dry_run)


def rollback(house: House, study: str, number: int, *, dry_run: bool = False) -> Outcome:
    """Make the contributions of a former snapshot current again, with all that comes of them.

    Raises:
        NotFound: kind ``no-snapshot``; ``no-contribution`` if one is not in the archive.
    """
    former = catalogs.of(house.store, house.ledger.snapshot(layout.aggregate(study), number), study)

    def wish(_: Catalog) -> Wish:
        wanted: dict[plan.Place, str] = {}
        for (name, version), cube in former.cubes.items():
            for part in cube.merged.parts:
                wanted[Kind.CUBE.value, name, version, part.site] = part.source
        wanted |= {place: file.object.digest for place, file in former.files.items()}
        known: dict[plan.Place, list[Contribution]] = {}
        for one in house.ledger.contributions(layout.aggregate(study)):
            if one.state in {State.LAST_VALID, State.ARCHIVED}:
                known.setdefault(plan.place_of(one), []).append(one)
        archive: dict[int, str] = {}
        restore: list[Contribution] = []
        for place, candidates in known.items():
            digest = wanted.pop(place, None)
            current = [one for one in candidates if one.state == State.LAST_VALID]
            if digest is not None and any(one.digest == digest for one in current):
                continue
            archive |= {one.id: f"rolled back to {number}" for one in current}
            restore += [one for one in candidates if one.digest == digest][-1:]
        return Wish(archive=archive, restore=check_all(house, restore))

    _decide_first(house, study, dry_run=dry_run)
    return settle(house, study, wish, dry_run=dry_run)


def _check_known(house: House, study: str) -> None:
    """A lease would make an aggregate of a slip of the pen, which all lists show from then on."""
    aggregate = layout.aggregate(study)
    if aggregate in house.ledger.aggregates():
        return
    if next(house.store.list(f"{aggregate}/"), None) is None:  # else its ledger was lost
        raise NotFound(
            f"nothing is known of a study {shown(study)}",
            kind="no-study",
            hint="catchment studies list",
        )


def _decide_first(house: House, study: str, *, dry_run: bool) -> None:
    """What waits is decided before: also what a reprocess that was cut off left waiting."""
    if not dry_run and waiting(house.ledger, study):
        settle(house, study)


def reprocess(house: House, study: str, *, refused: bool = False, dry_run: bool = False) -> Outcome:
    """Read every kept file of a study again, and merge every package anew from what comes of it.

    Args:
        house: where.
        study: which.
        refused: give what was refused another chance, too.
        dry_run: only say which packages would be merged.

    NotFound (kind ``no-study``) where nothing is known of the study.
    """
    _check_known(house, study)
    aggregate = layout.aggregate(study)

    def wish(_: Catalog) -> Wish:
        if dry_run:
            return Wish(again=True)
        ways = [(State.LAST_VALID, State.LATEST)]
        ways += [(State.ERROR, State.RECEIVED)] if refused else []
        moves = [
            Move(one.id, was.value, to.value, "reprocessed")
            for was, to in ways
            for one in house.ledger.contributions(aggregate, state=was.value)
            if one.meta["key"] is not None
        ]
        house.ledger.move(moves)
        return Wish(again=True)

    return settle(house, study, wish, again=not dry_run, dry_run=dry_run)
