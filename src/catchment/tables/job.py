"""A job: what is to be brought up to date, from where, and where the work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from catchment.core.finding import Finding
from catchment.core.ledger import Ledger
from catchment.core.progress import Progress, silent
from catchment.core.store import Store
from catchment.tables.identifiers import Identifiers
from catchment.tables.model import Center, Options
from catchment.tables.sources import Source


@dataclass(frozen=True, slots=True)
class Job:
    """One aggregate of tables.

    Attributes:
        name: the aggregate is ``tables/<name>`` in the ledger.
        output: prefix of its snapshots below the store, empty or ending in ``/``.
        centers: those that take part; ``skipped`` has the others, with the reason's slug.
        findings: about the center mapping.
        identifiers: None where nothing needs current centers.
        config: the settings for the provenance, without secrets.
    """

    name: str
    output: str
    centers: Sequence[Center]
    source: Source
    identifiers: Identifiers | None
    options: Options
    findings: Sequence[Finding] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def aggregate(self) -> str:
        """Its name in the ledger."""
        return f"tables/{self.name}"


@dataclass(frozen=True, slots=True)
class House:
    """Where a run works: store, ledger, workers, clock; and who listens."""

    store: Store
    ledger: Ledger
    executor: Executor
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    progress: Progress = silent
