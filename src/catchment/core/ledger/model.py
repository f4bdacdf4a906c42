"""What the ledger remembers, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from catchment.core.account import Account
from catchment.core.finding import Finding


@dataclass(frozen=True, slots=True)
class Contribution:
    """One thing that a site delivered once; known by (aggregate, site, name, digest)."""

    id: int
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One published, immutable state of an aggregate. Numbers have no gap; each has one parent.

    Attributes:
        location: prefix below the workspace's store, ending in ``/``.
        key: idempotency key of the commit: a second publish with the same key gives this snapshot.
        provenance: the whole ``provenance.json``, from which the ledger can be rebuilt.
        sealed: the provenance object stands in the store; it is written after the ledger's row.
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


@dataclass(frozen=True, slots=True)
class Publication:
    """All that becomes visible in one transaction: a snapshot, its account, findings, moves."""

    aggregate: str
    key: str
    location: str
    provenance: Mapping[str, Any]
    account: Account
    findings: Sequence[Finding] = ()
    moves: Sequence[Move] = ()
    run: str = ""
    parent: int | None = None  # the snapshot it was planned against; Conflict if it is not the latest
