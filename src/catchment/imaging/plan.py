"""Which file stands where: a pure decision from what was read and what is known."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from catchment.imaging.model import State


class Came(NamedTuple):
    """A file of a delivery; ``reason``: it could not even be read from its provider."""

    site: str
    digest: str | None
    reason: str | None


class Claim(NamedTuple):
    """What bytes claim a SOPInstanceUID, and where they stand."""

    uid: str
    digest: str
    state: State


class Fate(NamedTuple):
    """Where a file stands from now on; a reason where it is quarantined."""

    state: State
    reason: str | None = None


@dataclass(slots=True)
class Decision:
    """What becomes of the files of a batch, and of those that were there before.

    Attributes:
        fates: of each file of the batch, in order.
        ingest: digests whose images go into the tables.
        withdraw: digests of images that leave the tables: others claim to be the same.
    """

    fates: list[Fate] = field(default_factory=list)
    ingest: list[str] = field(default_factory=list)
    withdraw: list[str] = field(default_factory=list)


def unknown(came: Sequence[Came], known: Iterable[str]) -> list[str]:
    """Digests that have to be read: in order, each once, none that is known."""
    seen = set(known)
    return [
        digest
        for digest in dict.fromkeys(one.digest for one in came)
        if digest is not None and digest not in seen
    ]


def decide(
    came: Sequence[Came],
    known: Iterable[str],
    uids: Mapping[str, str],
    refused: Mapping[str, str],
    claims: Iterable[Claim],
) -> Decision:
    """Decide.

    Args:
        came: the files of a batch, in order.
        known: digests of files that came before this batch.
        uids: SOPInstanceUID by digest, of those that were read now.
        refused: reason by digest, of those that were read now.
        claims: who claimed these SOPInstanceUIDs before. Those that a person rejected in favour of
            another do not count.
    """
    decision = Decision()
    conflicts: set[str] = set()
    for digests in _claimants(uids, claims).values():
        if len(digests) > 1:
            conflicts |= digests.keys()
            decision.withdraw += [d for d, state in digests.items() if state == State.INGESTED]
    seen = set(known)
    for one in came:
        fate = _fate(one, seen, refused, conflicts)
        decision.fates.append(fate)
        if one.digest is not None:
            seen.add(one.digest)
            if fate.state == State.INGESTED:
                decision.ingest.append(one.digest)
    return decision


def _claimants(
    uids: Mapping[str, str], claims: Iterable[Claim]
) -> dict[str, dict[str, State | None]]:
    """Who claims each SOPInstanceUID: digests with their states so far, None for new ones."""
    claimants: dict[str, dict[str, State | None]] = {}
    for claim in claims:
        if claim.state in (State.INGESTED, State.CONFLICT):
            claimants.setdefault(claim.uid, {})[claim.digest] = claim.state
    for digest, uid in uids.items():
        claimants.setdefault(uid, {}).setdefault(digest, None)
    return claimants


def _fate(
    one: Came, seen: Collection[str], refused: Mapping[str, str], conflicts: Collection[str]
) -> Fate:
    if one.digest is None:
        return Fate(State.QUARANTINED, one.reason)
    if one.digest in seen:
        return Fate(State.DUPLICATE)
    if one.digest in refused:
        return Fate(State.QUARANTINED, refused[one.digest])
    return Fate(State.CONFLICT if one.digest in conflicts else State.INGESTED)
