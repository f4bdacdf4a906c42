"""What imaging is made of: files, their states, tables in parts. Frozen types, no effects."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from catchment.imaging.profile import Profile

UID = re.compile(r"[0-9][0-9.]{0,63}")
TABLES = ("devices", "patients", "studies", "series", "images")


class State(enum.StrEnum):
    """Where a file stands; it is in exactly one of these."""

    INGESTED = "ingested"  # its image is in the tables
    DUPLICATE = "duplicate"  # the same bytes are there already
    CONFLICT = "conflict"  # other bytes claim the same SOPInstanceUID: none is published
    QUARANTINED = "quarantined"  # kept, not published, for a reason


class Delivered(enum.StrEnum):
    """Where a delivery stands: what one look at a provider brought."""

    RECEIVED = "received"
    PUBLISHED = "published"  # each of its files has its state in the latest snapshot


@dataclass(frozen=True, slots=True)
class Provider:
    """One site that provides files.

    Attributes:
        name: the site's name.
        url: the store that its files lie in.
        prefix: only what lies below it; empty or ending in ``/``.
        since: only what was modified at or after this instant (ISO 8601), where set.
        inbox: it is an inbox in our own store; what was taken is removed from it.
    """

    name: str
    url: str
    prefix: str = ""
    since: str = ""
    inbox: bool = False


class Part(NamedTuple):
    """One Parquet object of a table."""

    table: str
    month: str  # "2026-11", of the ingest
    key: str
    size: int  # bytes
    digest: str  # "sha256:<hex>"
    rows: int

    def to_json(self) -> dict[str, Any]:
        """As the provenance names it."""
        return {"role": "table", **self._asdict()}


@dataclass(frozen=True, slots=True)
class Options:
    """What decides a run's result, besides the files.

    Attributes:
        key: secret of the pseudonyms of patients; empty: pseudonyms are plain digests.
        previews: which frames get one: ``none``, ``first``, ``middle`` or ``all``.
        archive: codec of the lossless copies (``htj2k``, ``jpegls``); empty: none.
        require_deidentified: refuse files that do not say that they are de-identified.
        profile: how files are de-identified before anything is made of them; None: they are not.
    """

    key: bytes = b""
    previews: str = "none"
    archive: str = ""
    require_deidentified: bool = False
    profile: Profile | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One aggregate of imaging."""

    name: str
    providers: tuple[Provider, ...]
    options: Options = Options()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def aggregate(self) -> str:
        """Its name in the ledger."""
        return f"imaging/{self.name}"
