"""Statements about contributions and their states; each runs inside a transaction of the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import batched

import sqlalchemy as sa

from catchment.core.errors import Conflict, Corrupt, NotFound
from catchment.core.ledger import counts
from catchment.core.ledger.counts import Change, Place
from catchment.core.ledger.database import upsert
from catchment.core.ledger.model import Contribution, Delivery, Move, Transition
from catchment.core.ledger.schema import aggregates, contributions, transitions

BATCH = 1000  # rows of a statement, and of a page

FIELDS = list(Contribution.__dataclass_fields__)
_COLUMNS = [contributions.c[name] for name in FIELDS]

Key = tuple[str, str, str]  # site, name, digest: what makes a contribution the same one


def declare(c: sa.Connection, aggregate: str) -> None:
    """Make the aggregate known."""
    c.execute(upsert(c, aggregates).on_conflict_do_nothing(), {"name": aggregate})


def receive(
    c: sa.Connection, aggregate: str, deliveries: Iterable[Delivery], state: str, at: datetime
) -> list[Contribution]:
    """The contribution of each delivery, new in ``state`` or as an earlier delivery left it."""
    declare(c, aggregate)
    result: list[Contribution] = []
    change = Change()
    for chunk in batched(deliveries, BATCH):
        wanted = [
            Contribution(0, aggregate, d.site, d.name, d.digest, d.size, state, at, d.meta)
            for d in chunk
        ]
        new = _add(c, wanted)
        _append(c, [Transition(one.id, at, None, state, "", "") for one in new.values()], "")
        change.update((aggregate, one.site, state) for one in new.values())
        known = new | _find(c, aggregate, [_key(one) for one in wanted if _key(one) not in new])
        result += [known[_key(one)] for one in wanted]
    counts.add(c, change)
    return result


def move(
    c: sa.Connection,
    moves: Sequence[Move],
    *,
    run: str,
    at: datetime,
    batch: str,
    aggregate: str | None = None,
) -> Change:
    """Every move or none, of one aggregate if it is given; a batch is not made a second time.

    Gives what the caller is to add to the counts, at the end of its transaction.
    """
    t = transitions.c
    query = sa.select(t.id).where(t.contribution == moves[0].contribution, t.batch == batch)
    if c.scalar(query.limit(1)):
        return Change()
    before = _lock(c, {m.contribution for m in moves}, aggregate)
    states = {one: state for one, (_, _, state) in before.items()}
    for m in moves:
        if states.get(m.contribution) != m.expected:
            raise _refusal(m, states.get(m.contribution))
        states[m.contribution] = m.to  # a contribution may move twice
    _set_states(c, states)
    lines = [Transition(m.contribution, at, m.expected, m.to, m.reason, run) for m in moves]
    _append(c, lines, batch)
    return _change(before, states)


def rebuild(
    c: sa.Connection, aggregate: str, told: Sequence[tuple[Contribution, Sequence[Transition]]]
) -> Change:
    """Add the contributions and the part of their histories that is not here yet.

    They keep their ids where those are free. Gives what the caller is to add to the counts.
    Corrupt if a history here and a history told differ in what both say.
    """
    _reserve(c, max((one.id for one, _ in told), default=0))
    known = _add(c, [one for one, _ in told])
    new = list(known.values())
    known |= _find(c, aggregate, [_key(one) for one, _ in told if _key(one) not in known])
    displaced = [replace(one, id=0) for one, _ in told if _key(one) not in known]
    added = _add(c, displaced)
    known |= added
    here = history(c, [one.id for one in known.values()])
    states = {}
    for one, lines in told:
        row = known[_key(one)]
        there = [replace(line, contribution=row.id) for line in lines]
        old = here.get(row.id, [])
        if any(a != b for a, b in zip(old, there, strict=False)):
            raise Corrupt(
                f"{aggregate}: the history of a contribution of {one.site} is not the one that a "
                "provenance tells",
                kind="provenance-contradicts",
                hint="rebuild into an empty ledger",
            )
        _append(c, there[len(old) :], "")
        if len(there) > len(old):
            states[row.id] = one.state
    before = _lock(c, set(states), aggregate)
    _set_states(c, states)
    change = _change(before, states)
    change.update((aggregate, one.site, one.state) for one in (*new, *added.values()))
    return change


def history(c: sa.Connection, ids: Iterable[int]) -> dict[int, list[Transition]]:
    """Every transition of these contributions, oldest first."""
    result: dict[int, list[Transition]] = {}
    for chunk in batched(ids, BATCH):
        query = sa.select(transitions).where(transitions.c.contribution.in_(chunk))
        for r in c.execute(query.order_by(transitions.c.id)):
            line = Transition(r.contribution, r.at, r.was, r.to, r.reason, r.run)
            result.setdefault(r.contribution, []).append(line)
    return result


def by_id(c: sa.Connection, ids: Iterable[int]) -> list[Contribution]:
    """The contributions, in order of site and receipt."""
    found: list[Contribution] = []
    for chunk in batched(ids, BATCH):
        query = sa.select(*_COLUMNS).where(contributions.c.id.in_(chunk))
        found += [Contribution(*r) for r in c.execute(query)]
    return sorted(found, key=lambda x: (x.site, x.id))


def page(
    c: sa.Connection,
    aggregate: str,
    wanted: dict[str, str | None],
    after: Contribution | None,
    limit: int,
) -> list[Contribution]:
    """The next contributions after one, in order of site and receipt."""
    t = contributions.c
    query = sa.select(*_COLUMNS).where(t.aggregate == aggregate)
    for column, value in wanted.items():
        if value is not None:
            query = query.where(t[column] == value)
    # Of a name there are few: SQLite must not walk a whole site in order of id to find them.
    query = query.order_by(t.site, t.id + 0 if wanted["name"] else t.id)
    steps: list[sa.ColumnElement[bool]] = [sa.true()]
    if after is not None:  # two ranges of an index; SQLite sees no range in (site, id) > (:s, :i)
        steps = [(t.site == after.site) & (t.id > after.id), t.site > after.site]
    found: list[Contribution] = []
    for step in steps:
        rows = c.execute(query.where(step).limit(limit - len(found)))
        found += [Contribution(*r) for r in rows]
    return found


def _key(one: Contribution) -> Key:
    return one.site, one.name, one.digest


def _add(c: sa.Connection, wanted: Sequence[Contribution]) -> dict[Key, Contribution]:
    """Insert those that are new, and only those; an id of 0 is replaced by the next one."""
    if not wanted:
        return {}
    names = FIELDS if wanted[0].id else [n for n in FIELDS if n != "id"]
    rows = [{n: getattr(one, n) for n in names} for one in wanted]
    query = upsert(c, contributions).on_conflict_do_nothing().returning(*_COLUMNS)
    return {_key(one): one for one in (Contribution(*r) for r in c.execute(query, rows))}


def _reserve(c: sa.Connection, last: int) -> None:
    """Keep PostgreSQL from giving an id up to the last to somebody else; SQLite looks itself."""
    if last and c.dialect.name == "postgresql":
        sequence = sa.func.pg_get_serial_sequence("contributions", "id")
        here = sa.func.coalesce(sa.func.pg_sequence_last_value(sequence), 1)
        c.execute(sa.select(sa.func.setval(sequence, sa.func.greatest(here, last))))


def _find(c: sa.Connection, aggregate: str, keys: Sequence[Key]) -> dict[Key, Contribution]:
    """The contributions known by these keys."""
    t = contributions.c
    result: dict[Key, Contribution] = {}
    for chunk in batched(keys, BATCH):
        wanted = sa.tuple_(t.site, t.name, t.digest).in_(chunk)
        rows = c.execute(sa.select(*_COLUMNS).where(t.aggregate == aggregate, wanted))
        result |= {_key(one): one for one in (Contribution(*r) for r in rows)}
    return result


def _lock(c: sa.Connection, ids: set[int], aggregate: str | None) -> dict[int, Place]:
    """Where each of them is now, and stays until the end of the transaction."""
    places: dict[int, Place] = {}
    for chunk in batched(sorted(ids), BATCH):  # in order of id, so that two never deadlock
        t = contributions.c
        query = sa.select(t.id, t.aggregate, t.site, t.state).where(t.id.in_(chunk)).order_by(t.id)
        if aggregate is not None:
            query = query.where(t.aggregate == aggregate)
        rows = c.execute(query.with_for_update(key_share=True))
        places |= {r.id: (r.aggregate, r.site, r.state) for r in rows}
    return places


def _change(before: Mapping[int, Place], states: Mapping[int, str]) -> Change:
    change = Change()
    for one, (aggregate, site, was) in before.items():
        counts.moved(change, aggregate, site, was, states[one])
    return change


def _set_states(c: sa.Connection, states: dict[int, str]) -> None:
    if states:
        query = sa.update(contributions).where(contributions.c.id == sa.bindparam("row"))
        rows = [{"row": key, "now": state} for key, state in states.items()]
        c.execute(query.values(state=sa.bindparam("now")), rows)


def _append(c: sa.Connection, lines: Iterable[Transition], batch: str) -> None:
    names = Transition.__dataclass_fields__
    rows = [{n: getattr(line, n) for n in names} | {"batch": batch} for line in lines]
    if rows:
        c.execute(sa.insert(transitions), rows)


def _refusal(move: Move, state: str | None) -> Conflict | NotFound:
    if state is None:
        return NotFound(
            f"contribution {move.contribution} is not in this aggregate", kind="no-contribution"
        )
    return Conflict(
        f"a contribution that is {state} cannot become {move.to}: expected {move.expected}, "
        f"got {state} (contribution {move.contribution})",
        kind="state-changed",
        hint="another run moved it; run the same command again",
    )
