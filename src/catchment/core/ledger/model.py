"""What the ledger remembers, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from catchment.core.account import Account
from catchment.core.finding import Finding


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a site hands in: a contribution before the ledger knows it."""

    site: str
    name: str
    digest: str  # "sha256:<hex>"
    size: int  # bytes
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contribution:
    """One thing that a site delivered once; known by (aggregate, site, name, digest)."""

    id: int  # a handle within this ledger; a rebuild keeps it where it is free
    aggregate: str  # "tables/nacc"
    site: str
    name: str  # what the site calls it: "uds/versions/3", a package, a file
    digest: str  # "sha256:<hex>"
    size: int  # bytes
    state: str  # a capability's own states; the table of moves is the capability's
    received_at: datetime
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Move:
    """One transition of a contribution, by compare-and-set on its state."""

    contribution: int
    expected: str
    to: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Transition:
    """One line of a contribution's history, which is only ever appended to."""

    contribution: int
    at: datetime
    was: str | None  # None: it was received
    to: str
    reason: str
    run: str  # empty: outside of a run


class Count(NamedTuple):
    """How many contributions of a site are in a state."""

    aggregate: str
    site: str
    state: str
    contributions: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to publish an aggregate until a time; the fence grows with each holder."""

    aggregate: str
    holder: str
    fence: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt to bring an aggregate up to date."""

    id: str  # time-ordered and unique, so that it can be part of a key
    aggregate: str
    state: str  # running | published | unchanged | failed | cancelled
    started_at: datetime
    finished_at: datetime | None
    config: Mapping[str, Any]
    error: Mapping[str, Any] | None = None  # kind, message, hint
    key: str | None = None  # idempotency key of the start: the same key gives this run


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One published, immutable state of an aggregate. Numbers have no gap; each has one parent.

    Attributes:
        location: prefix below the workspace's store, ending in ``/``.
        key: idempotency key of the commit: a second publish with the same key gives this snapshot.
        provenance: the whole ``provenance.json``, from which the ledger can be rebuilt: what the
            publication brought and the section ``catchment`` (see :func:`describe`). Empty in
            listings that were not asked for it.
        sealed: the provenance object stands in the store; it is written after the ledger's row.
        expired_at: since when its objects may be collected; its number is never used again.
    """

    aggregate: str
    number: int  # from 1
    parent: int | None
    run: str
    key: str
    location: str
    published_at: datetime
    provenance: Mapping[str, Any]
    sealed: bool
    expired_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """All that becomes visible in one transaction: a snapshot, its account, findings, moves.

    Attributes:
        key: idempotency key: publishing it twice gives one snapshot.
        provenance: plain JSON; the ledger adds the section ``catchment``, a reserved name.
        run: the running run that it ends; empty: the ledger makes one.
        parent: number of the snapshot it was planned against (0: there was none); Conflict if it
            is not the latest. None: whichever is the latest.
    """

    aggregate: str
    key: str
    location: str
    provenance: Mapping[str, Any]
    account: Account
    findings: Sequence[Finding] = ()
    moves: Sequence[Move] = ()
    run: str = ""
    parent: int | None = None
