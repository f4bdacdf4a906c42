"""What the words of studies mean, as frozen types; and the table of states."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from catchment.core.errors import Conflict
from catchment.core.finding import Finding, Severity

SITE = "site"  # the column that a merge adds
COUNT = "cnt"
NONE = "cumulus__none"  # missing at the source, as a category; NULL means rolled up


class State(enum.StrEnum):
    """Where a contribution stands; the value is the prefix below which people find it."""

    RECEIVED = "site_upload"
    LATEST = "latest"
    LAST_VALID = "last_valid"
    ARCHIVED = "archive"
    ERROR = "error"


# Every move that there is. What was archived comes back by a rollback, what was refused by
# reprocessing; nothing ever leaves the history.
NEXT: Mapping[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.LATEST, State.ERROR}),
    State.LATEST: frozenset({State.LAST_VALID, State.ARCHIVED, State.ERROR}),
    State.LAST_VALID: frozenset({State.LATEST, State.ARCHIVED}),
    State.ARCHIVED: frozenset({State.LAST_VALID}),
    State.ERROR: frozenset({State.RECEIVED}),
}


def check_move(was: State, to: State) -> None:
    """Conflict (kind ``bad-move``) unless the table of states has this move."""
    if to not in NEXT[was]:
        raise Conflict(
            f"a contribution that is in {was} cannot become {to}, "
            f"expected one of: {', '.join(sorted(NEXT[was]))}",
            kind="bad-move",
        )


class Kind(enum.StrEnum):
    """What a member of an upload is, by its name."""

    CUBE = "cube"
    FLAT = "flat"
    META = "meta"
    MANIFEST = "manifest"
    LINES = "archive"  # line-level data: never kept
    UPLOAD = "upload"  # a zip that was refused as a whole
    OTHER = "other"


class Problem(NamedTuple):
    """Why something of a site is refused, or what it should know of it; a finding without names."""

    code: str
    message: str
    hint: str
    severity: Severity = Severity.ERROR

    def finding(self, site: str, where: str) -> Finding:
        """The finding that tells it."""
        return Finding(site, self.severity, self.code, where, self.message, self.hint)


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one member of an upload (or of the upload, where it was refused whole).

    Attributes:
        name: of the file, as the site calls it.
        accepted: it is, or was, part of what is published; None: not decided yet.
        state: where it stands now.
        rows: of a table that could be read.
        findings: what the site should know of it, and what to do.
        quality: compared with the previous upload of the same package; empty where there is none.
    """

    name: str
    kind: Kind
    package: str
    accepted: bool | None
    state: State
    digest: str
    size: int
    rows: int | None
    findings: Sequence[Finding] = ()
    quality: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "name": self.name,
            "kind": self.kind.value,
            "package": self.package,
            "accepted": self.accepted,
            "state": self.state.value,
            "digest": self.digest,
            "size": self.size,
            "rows": self.rows,
            "findings": [f.to_json() for f in self.findings],
            "quality": dict(self.quality),
        }


@dataclass(frozen=True, slots=True)
class Upload:
    """One file that a site uploaded, and what became of its members.

    Attributes:
        state: ``processing``, or ``done``: every file has its answer.
        files: one for each member of a zip, or one where it was no zip or is refused as a whole.
    """

    transaction: str
    site: str
    study: str
    version: int
    filename: str
    user: str
    digest: str
    size: int
    state: str
    received_at: datetime
    finished_at: datetime | None
    files: Sequence[FileResult] = ()

    @property
    def accepted(self) -> bool:
        """Every file of it was accepted."""
        return self.state == "done" and all(one.accepted for one in self.files)

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "transaction": self.transaction,
            "site": self.site,
            "study": self.study,
            "version": self.version,
            "filename": self.filename,
            "user": self.user,
            "digest": self.digest,
            "size": self.size,
            "state": self.state,
            "accepted": self.accepted,
            "received_at": self.received_at.isoformat(),
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
            "files": [one.to_json() for one in self.files],
        }


class Column(NamedTuple):
    """What charts know of a column: its type by the reference's rule, and its distinct values."""

    type: str
    distinct: int


@dataclass(frozen=True, slots=True)
class Part:
    """What a site contributes to a package now."""

    site: str
    source: str  # digest of the member that it was made of
    key: str
    digest: str
    rows: int
    total: int
    columns: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "site": self.site,
            "source": self.source,
            "key": self.key,
            "digest": self.digest,
            "rows": self.rows,
            "total": self.total,
            "columns": dict(self.columns),
        }


class Object(NamedTuple):
    """A stored object that a snapshot names."""

    key: str
    size: int
    digest: str  # "sha256:<hex>"


@dataclass(frozen=True, slots=True)
class Package:
    """One published data package: a merged cube, or the flat table of one site.

    Attributes:
        id: ``{study}__{name}__{version}``, of a flat table ``{study}__{name}__{site}__{version}``.
        kind: ``cube`` or ``flat``.
        site: of a flat table; empty for a cube.
        sites: who contributes to it now.
        released: the table as it may leave the house, a Parquet object; immutable, so its digest
            is the version for an ETag.
        csv: the same as CSV; None for a flat table.
        marked: columns of ``released`` that are marks: see :class:`~.disclosure.Release`; none
            where nothing may be suppressed, and of a flat table.
        marks: Parquet, row by row of ``released``: the same, of a release that is older.
        merged: the unsuppressed merge; internal, never served. None for a flat table.
        key: where people and Athena find ``released``: below ``aggregates/`` or ``flat/``.
        total: the greatest count, which is that of the whole; None for a flat table.
        min_cell: smallest cell that ``released`` shows; 0: nothing was suppressed.
        round_to: counts of ``released``, and ``total``, are rounded to multiples of it; 0: exact.
        updated_at: when this content was first published.
    """

    id: str
    study: str
    name: str
    version: int
    kind: str
    site: str
    sites: Sequence[str]
    columns: Mapping[str, Column]
    rows: int
    total: int | None
    min_cell: int
    released: Object
    csv: Object | None
    marks: Object | None
    merged: Object | None
    key: str
    updated_at: datetime
    marked: Sequence[str] = ()
    round_to: int = 0


@dataclass(frozen=True, slots=True)
class Times:
    """When a site's package was last through which room; None: never."""

    site: str
    study: str
    package: str
    version: int
    last_upload: datetime | None = None
    last_data_update: datetime | None = None
    last_aggregation: datetime | None = None
    last_error: datetime | None = None
    deleted: datetime | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """The time that a site's data of a study covers, from its ``meta_date`` table."""

    site: str
    study: str
    version: int
    earliest_date: str  # ISO, or empty
    latest_date: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The ``manifest.toml`` of a study version.

    Attributes:
        owner: the site whose manifest counts: the first that delivered one.
        content: of the file, as plain types.
        conflicts: sites whose manifest differs from the owner's.
    """

    study: str
    version: int
    owner: str
    content: Mapping[str, Any]
    object: Object
    conflicts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Staged:
    """What is to be processed: the bytes of an upload, and whose they are."""

    site: str
    study: str
    version: int
    filename: str
    user: str
    transaction: str
    key: str
