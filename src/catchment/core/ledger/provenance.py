"""The section ``catchment`` of a ``provenance.json``, from which a lost ledger can be rebuilt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from catchment.core.account import Account
from catchment.core.errors import CatchmentError, Corrupt, Invalid
from catchment.core.finding import Finding
from catchment.core.ledger.model import Contribution, Publication, Run, Snapshot, Transition

SECTION = "catchment"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Record:
    """What one provenance says."""

    snapshot: Snapshot
    run: Run
    account: Account
    findings: Sequence[Finding]
    contributions: Sequence[tuple[Contribution, Sequence[Transition]]]


def describe(
    publication: Publication,
    number: int,
    *,
    run: Run,
    published_at: datetime,
    findings: Iterable[Finding],
    contributions: Iterable[tuple[Contribution, Sequence[Transition]]],
) -> dict[str, Any]:
    """The whole provenance of a snapshot: the publication's own, and the section ``catchment``.

    ``Ledger.publish`` calls it inside the transaction that gives the number, and answers with the
    result in ``Snapshot.provenance``: write that to the store as it is. The section holds

    - ``format`` (1), ``aggregate``, ``number``, ``parent`` (number - 1, null for the first),
      ``key``, ``location``, ``published_at``, ``expired_at`` (null until :meth:`Ledger.expire`);
    - ``run``: ``id``, ``key``, ``state``, ``started_at``, ``finished_at``, ``config``, ``error``;
    - ``account``: one object a line, as ``Account.to_json`` makes them;
    - ``findings``: all of the run, as ``Finding.to_json`` makes them;
    - ``contributions``: those that the publication moved, with ``id``, ``site``, ``name``,
      ``digest``, ``size``, ``state`` (after the move), ``received_at``, ``meta`` and their whole
      ``history`` (``at``, ``was``, ``to``, ``reason``, ``run``).

    Times are ISO 8601 with zone. Its size follows what changed, not what the aggregate holds.
    """
    section = {
        "format": FORMAT,
        "aggregate": publication.aggregate,
        "number": number,
        "parent": number - 1 or None,
        "key": publication.key,
        "location": publication.location,
        "published_at": published_at.isoformat(),
        "expired_at": None,
        "run": _plain(run, "aggregate"),
        "account": publication.account.to_json(),
        "findings": [finding.to_json() for finding in findings],
        "contributions": [
            _plain(one, "aggregate") | {"history": [_plain(t, "contribution") for t in lines]}
            for one, lines in contributions
        ],
    }
    return {**publication.provenance, SECTION: section}


def read(provenance: Mapping[str, Any]) -> Record:
    """The inverse of :func:`describe`.

    Raises:
        Corrupt: kind ``provenance-malformed`` if the section is missing or not as described,
            ``provenance-contradicts`` if its number and parent do not fit together,
            ``account-unbalanced`` if its account does not balance.
        Invalid: kind ``provenance-newer`` if a later version of Catchment made it.
    """
    try:
        record = _read(provenance, provenance[SECTION])
        _check(record.snapshot)
    except CatchmentError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(
            f"expected a provenance with a section '{SECTION}' of format {FORMAT}, got one that "
            f"cannot be read ({type(error).__name__}: {error})"[:300],
            kind="provenance-malformed",
            hint="take this snapshot's provenance.json from a backup",
        ) from error
    try:
        record.account.check()
    except Corrupt as error:
        snapshot = record.snapshot
        raise Corrupt(
            f"{snapshot.aggregate}: snapshot {snapshot.number}: {error.message}",
            kind=error.kind,
            hint="take this snapshot's provenance.json from a backup",
        ) from None
    return record


def _check(snapshot: Snapshot) -> None:
    if snapshot.number < 1 or snapshot.parent != (snapshot.number - 1 or None):
        raise Corrupt(
            f"{snapshot.aggregate}: snapshot {snapshot.number} says that its parent is "
            f"{snapshot.parent}, expected {snapshot.number - 1 or None}",
            kind="provenance-contradicts",
            hint="take this snapshot's provenance.json from a backup",
        )


def _read(provenance: Mapping[str, Any], section: Mapping[str, Any]) -> Record:
    if isinstance(section["format"], int) and section["format"] > FORMAT:
        raise Invalid(
            f"expected a provenance of format {FORMAT} or older, got format {section['format']}",
            kind="provenance-newer",
            hint="pip install --upgrade catchment",
        )
    if section["format"] != FORMAT:
        raise ValueError(f"format {section['format']}")
    aggregate, number = section["aggregate"], section["number"]
    run = Run(**_times(section["run"], "started_at", "finished_at"), aggregate=aggregate)
    snapshot = Snapshot(
        aggregate=aggregate,
        number=number,
        parent=section["parent"],
        run=run.id,
        key=section["key"],
        location=section["location"],
        published_at=_times(section, "published_at")["published_at"],
        provenance=provenance,
        sealed=True,
        expired_at=_time(section["expired_at"]),
    )
    contributions = []
    for data in section["contributions"]:
        fields = _times(data, "received_at")
        history = fields.pop("history")
        one = Contribution(aggregate=aggregate, **fields)
        contributions.append((one, [Transition(one.id, **_times(t, "at")) for t in history]))
    findings = [Finding.from_json(data) for data in section["findings"]]
    return Record(snapshot, run, Account.from_json(section["account"]), findings, contributions)


def _plain(record: Run | Contribution | Transition, *without: str) -> dict[str, Any]:
    fields = {n: getattr(record, n) for n in record.__dataclass_fields__ if n not in without}
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in fields.items()}


def _times(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {k: _time(v) if k in names else v for k, v in data.items()}


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without a zone")
    return time
