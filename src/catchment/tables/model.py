"""What tables are made of: centers, dataset versions, files, rules. Frozen types, no effects."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from catchment.core.store import Store

CONSTANTS = ("freeze_date", "etl_date")  # columns that a run writes, the same in all rows


@dataclass(frozen=True, slots=True)
class Center:
    """One site of the center mapping.

    Attributes:
        id: the center's slug and group id (``alpha``); part of keys, so matched strictly.
        adcid: the center's number, >= 0; **0 is legal**.
    """

    id: str
    adcid: int
    name: str
    active: bool = True
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A Parquet file at a site, as a listing shows it."""

    store: Store
    key: str
    size: int  # bytes
    etag: str  # only tells that nothing moved


@dataclass(frozen=True, slots=True)
class Dataset:
    """The version of a center's dataset that a run uses.

    Attributes:
        prefix: key of the version below its store, ending in ``/``.
        created: the instant that makes it the latest.
        tables: files of each table, in order of key.
        digest: ``sha256:`` of the description's bytes and of every file's key, size and etag: the
            same digest means that nothing moved.
    """

    center: Center
    url: str  # of the store that the prefix is in
    prefix: str
    version: str
    created: datetime
    tables: Mapping[str, tuple[SourceFile, ...]]
    digest: str


class OnDuplicate(enum.StrEnum):
    """What happens to rows whose key occurs more than once in the whole table."""

    ACTIVE_ONLY = "active_only"  # rows of centers that are not current are dropped
    KEEP_ALL = "keep_all"
    DROP_ALL = "drop_all"


@dataclass(frozen=True, slots=True)
class TransferRule:
    """The documented rule: rows of a participant stay at the current center only."""

    participant: str = "naccid"
    center: str = "adcid"


@dataclass(frozen=True, slots=True)
class CriteriaRule:
    """The rule by key columns, per table."""

    criteria: tuple[str, ...]
    on_duplicate: OnDuplicate = OnDuplicate.DROP_ALL
    participant: str = "naccid"
    center: str = "adcid"


Rule = TransferRule | CriteriaRule


class Fate(enum.StrEnum):
    """What becomes of a row that is not kept."""

    DROPPED = "dropped"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Removal:
    """Rows of one file that do not reach the table, for one reason.

    Attributes:
        rows: row numbers within the file, ascending, from 0.
        reason: stable slug (``transferred``, ``duplicate``, ``no-current-center`` ...).
    """

    rows: Sequence[int]
    fate: Fate
    reason: str


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that decides a run's result, besides the inputs themselves."""

    freeze_date: str | None = None  # YYYYMMDD; None: the day of the run
    include_centers: frozenset[str] | None = None
    exclude_centers: frozenset[str] = frozenset()
    exclude_studies: frozenset[str] = frozenset()  # suffixes of group ids
    transfers: bool = True
    criteria: Mapping[str, CriteriaRule] = field(default_factory=dict)
    mode: str = "prod"  # of the identifiers service: prod | dev
    strict: bool = False
    require_all: bool = False
    fall_back: bool = False  # to the version before a newest one that has no tables


class State(enum.StrEnum):
    """Where a contribution (a version of a center's dataset) stands."""

    RECEIVED = "received"
    PUBLISHED = "published"  # its rows are in the latest snapshot
    QUARANTINED = "quarantined"  # refused, with findings
    SUPERSEDED = "superseded"  # was published; a later snapshot does not use it


NEXT: Mapping[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.PUBLISHED, State.QUARANTINED}),
    State.PUBLISHED: frozenset({State.SUPERSEDED, State.QUARANTINED}),
    State.QUARANTINED: frozenset({State.PUBLISHED, State.SUPERSEDED}),
    State.SUPERSEDED: frozenset({State.PUBLISHED, State.QUARANTINED}),
}
