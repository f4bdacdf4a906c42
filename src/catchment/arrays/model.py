"""What a store of sessions is made of, as frozen records."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from catchment.core.finding import Finding, Severity

OnConflict = Literal["error", "skip", "replace"]


class Status(enum.IntEnum):
    """What stands in a slot; the values of the array ``status``."""

    PRESENT = 0
    REPLACED = 1  # a later slot has the session
    WITHDRAWN = 2  # its chunks are deleted
    ABANDONED = 3  # its writer never came back, and later sessions were appended


class Decision(enum.StrEnum):
    """What is to be done with a session."""

    APPEND = "append"
    UNCHANGED = "unchanged"  # the same session with the same content is there
    SKIP = "skip"  # the session is there with other content, which stays
    REPLACE = "replace"  # the same, and the new content takes its place
    CONFLICT = "conflict"  # the same, and nobody said what to do
    REFUSE = "refuse"  # findings say why


@dataclass(frozen=True, slots=True)
class Row:
    """What a store remembers of one session; the fields are its arrays of one dimension.

    Attributes:
        session: id, as readers select it.
        n_windows: positions along the ragged dimension; what lies behind them is padding.
        content_hash: ``sha256:<hex>`` of all values, independent of chunks and compression.
        start: of the recording, in ms since 1970 UTC; NaN where unknown.
        schema: fingerprint of the variables, their dimensions, types, units and labels.
        source: key of the recording, or a pseudonym of it.
        transform: name and version of what made the session.
        values: of the dataset's own variables that have the append dimension only.
        attributes: of the dataset.
    """

    session: str
    n_windows: int
    content_hash: str
    site: str = ""
    start: float = math.nan
    schema: str = ""
    source: str = ""
    transform: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return asdict(self) | {"start": None if math.isnan(self.start) else self.start}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(**{**data, "start": math.nan if data["start"] is None else data["start"]})


@dataclass(frozen=True, slots=True)
class Entry:
    """A slot of a store, with what stands there."""

    slot: int
    status: Status
    row: Row

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return {"slot": self.slot, "status": self.status.name.lower()} | self.row.to_json()


@dataclass(frozen=True, slots=True)
class Step:
    """What an append does with one session.

    Attributes:
        slot: where it goes, or where it is already; None where it goes nowhere. Along a dimension
            that is there already: its first position.
        earlier: the slot whose content it replaces, or differs from.
        windows: positions along the ragged dimension.
        raw_bytes: of all values, before compression.
    """

    session: str
    decision: Decision
    slot: int | None
    windows: int
    raw_bytes: int
    earlier: int | None = None
    content_hash: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return asdict(self) | {"decision": self.decision.value}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an append did, or with ``dry_run`` would do.

    Attributes:
        store: URL.
        commit: number of the store's commit that shows it; None where there is no store.
        written_bytes: of the chunks as stored; None where nobody counts them (Icechunk).
        resumed_chunks: that an earlier, interrupted append had written already.
    """

    store: str
    commit: int | None
    steps: Sequence[Step]
    findings: Sequence[Finding] = ()
    dry_run: bool = False
    written_bytes: int | None = 0
    resumed_chunks: int = 0
    location: str = ""  # of the partition, below a partitioned store

    @property
    def appended(self) -> list[Step]:
        """Steps that put a session into the store."""
        return [s for s in self.steps if s.decision in (Decision.APPEND, Decision.REPLACE)]

    @property
    def refused(self) -> bool:
        """A finding stopped it."""
        return any(f.severity is Severity.ERROR for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for ``json.dumps``."""
        return {
            "store": self.store,
            "location": self.location,
            "commit": self.commit,
            "dry_run": self.dry_run,
            "steps": [step.to_json() for step in self.steps],
            "findings": [finding.to_json() for finding in self.findings],
            "written_bytes": self.written_bytes,
            "resumed_chunks": self.resumed_chunks,
        }
