"""What an append comes to: pure decisions from what the store has and what came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from catchment.arrays.model import Decision, Entry, OnConflict, Status, Step
from catchment.arrays.prepare import Prepared
from catchment.arrays.schema import Schema, differences
from catchment.core.errors import Conflict, Invalid, NotFound
from catchment.core.finding import Finding, Severity

CHOICES = ("error", "skip", "replace")
_HINTS = {
    "labels-differ": "bring the channels into the store's order, or use a partition of their own",
    "sampling-differs": "resample the session, or use a partition of its own",
    "units-differ": "convert the values, or use a partition of their own",
}


def steps(
    sessions: Sequence[Prepared],
    present: Mapping[str, Entry],
    size: int,
    on_conflict: OnConflict,
) -> list[Step]:
    """One step for each session; new ones take the slots behind those that are visible."""
    check_choice(on_conflict)
    made = []
    for one in sessions:
        row, earlier = one.row, present.get(one.row.session)
        step = Step(row.session, Decision.APPEND, size, row.n_windows, one.raw_bytes,
                    content_hash=row.content_hash)  # fmt: skip
        if earlier is None:
            size += 1
        elif earlier.row.content_hash == row.content_hash:
            step = replace(step, decision=Decision.UNCHANGED, slot=earlier.slot)
        elif on_conflict == "replace":
            step = replace(step, decision=Decision.REPLACE, earlier=earlier.slot)
            size += 1
        else:
            decision = Decision.SKIP if on_conflict == "skip" else Decision.CONFLICT
            step = replace(step, decision=decision, slot=None, earlier=earlier.slot)
        made.append(step)
    return made


def check_choice(on_conflict: str) -> None:
    """Invalid (kind ``bad-on-conflict``) for what is none of :data:`CHOICES`."""
    if on_conflict not in CHOICES:
        raise Invalid(
            f"expected on_conflict to be one of {', '.join(CHOICES)}, got {on_conflict!r}",
            kind="bad-on-conflict",
        )


def present(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The sessions that readers see, by id."""
    return {e.row.session: e for e in entries if e.status is Status.PRESENT}


def check_schema(store: Schema, sessions: Sequence[Prepared]) -> Iterator[Finding]:
    """An error for each way in which a session does not go with the store's."""
    for one in sessions:
        yield from unlike(store, one.schema, one.row.site, one.row.session)


def unlike(store: Schema, own: Schema, site: str, session: str) -> Iterator[Finding]:
    """The same of one session."""
    for code, where, message in differences(store, own):
        place = f"{session}: {where}" if where else session
        hint = _HINTS.get(code, "use a partition of its own, or make a store of its own")
        yield Finding(site, Severity.ERROR, code, place, message, hint)


def conflict(made: Sequence[Step]) -> Conflict | None:
    """The error of sessions that are there with other content, if nobody said what to do."""
    differing = [step.session for step in made if step.decision is Decision.CONFLICT]
    if not differing:
        return None
    return Conflict(
        f"{', '.join(differing[:5])}: the store has other content under this id",
        kind="session-differs",
        hint="--on-conflict replace takes the new content, --on-conflict skip keeps the store's",
    )


def no_session(url: str, session: str) -> NotFound:
    """The error of a session that a store does not have."""
    return NotFound(
        f"{url} has no session {session!r}",
        kind="no-session",
        hint=f"catchment arrays list {url}",
    )
