"""How many contributions are in each state: numbers that every transaction keeps true.

The one that receives or moves contributions changes their counts as its last statements, in one
order: two that meet at a count wait for each other in turn, and never in a circle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import sqlalchemy as sa

from catchment.core.ledger.database import upsert
from catchment.core.ledger.model import Count
from catchment.core.ledger.schema import contribution_counts, contributions

Place = tuple[str, str, str]  # aggregate, site, state
Change = Counter[Place]  # by how much the counts of places change

_T = contribution_counts.c
_PLACE = (_T.aggregate, _T.site, _T.state)


def add(c: sa.Connection, change: Change) -> None:
    """Make the change, which is to be the last that the transaction does to contributions."""
    names = [column.name for column in _PLACE]
    rows = [
        dict(zip(names, place, strict=True)) | {"contributions": by}
        for place, by in sorted(change.items())
        if by
    ]
    if rows:
        query = upsert(c, contribution_counts)
        total = {"contributions": _T.contributions + query.excluded.contributions}
        c.execute(query.on_conflict_do_update(index_elements=_PLACE, set_=total), rows)


def moved(change: Change, aggregate: str, site: str, was: str, to: str) -> None:
    """Add one contribution's way from a state to another."""
    change[aggregate, site, was] -= 1
    change[aggregate, site, to] += 1


def listed(c: sa.Connection, aggregate: str | None) -> list[Count]:
    """The counts of all, or of one aggregate; no state of which there is none."""
    query = sa.select(*_PLACE, _T.contributions).where(_T.contributions != 0)
    if aggregate is not None:
        query = query.where(_T.aggregate == aggregate)
    return sorted(Count(*r) for r in c.execute(query))


def states(c: sa.Connection, names: Collection[str]) -> list[tuple[str, str, int]]:
    """Aggregate, state and count, of these aggregates, in order."""
    by = (_T.aggregate, _T.state)
    query = sa.select(*by, sa.func.sum(_T.contributions))
    query = query.where(_T.aggregate.in_(names), _T.contributions != 0).group_by(*by)
    return sorted((aggregate, state, int(n)) for aggregate, state, n in c.execute(query))


def wrong(c: sa.Connection) -> list[Place]:
    """The places whose count is not that of their rows; reads an index of all contributions."""
    t = contributions.c
    by = (t.aggregate, t.site, t.state)
    here = sa.select(*by, sa.func.count().label("n")).group_by(*by)
    told = sa.select(*_PLACE, (-_T.contributions).label("n"))
    both = sa.union_all(here, told).subquery()
    place = (both.c.aggregate, both.c.site, both.c.state)
    query = sa.select(*place).group_by(*place).having(sa.func.sum(both.c.n) != 0)
    return sorted((a, site, state) for a, site, state in c.execute(query))


def recount(c: sa.Connection) -> None:
    """Make the counts those of the rows, while nobody changes them."""
    if c.dialect.name == "postgresql":
        c.execute(sa.text("LOCK TABLE contributions IN SHARE ROW EXCLUSIVE MODE"))
    t = contributions.c
    by = (t.aggregate, t.site, t.state)
    here = sa.select(*by, sa.func.count()).group_by(*by)
    c.execute(sa.delete(contribution_counts))
    c.execute(sa.insert(contribution_counts).from_select([*_PLACE, _T.contributions], here))
