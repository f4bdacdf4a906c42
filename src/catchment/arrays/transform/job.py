"""A job: what is to be brought up to date, from where, where the work is done, what it came to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from catchment.arrays.model import OnConflict
from catchment.arrays.transform.discovery import Choice, Naming
from catchment.arrays.transform.sinks import Partitioning
from catchment.core.account import Account
from catchment.core.finding import Finding
from catchment.core.ledger import Ledger, Snapshot
from catchment.core.progress import Progress, silent
from catchment.core.store import Store


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Attributes:
        name: of the aggregate, ``arrays/<name>``.
        transform: as :func:`~catchment.arrays.transform.worker.load` takes it.
        output: prefix of the stores below the workspace's store; ends in ``/``.
    """

    name: str
    transform: str
    options: Mapping[str, Any]
    source: Store
    output: str
    naming: Naming
    partitioning: Partitioning = field(default_factory=Partitioning)
    on_conflict: OnConflict = "error"
    choice: Choice = field(default_factory=Choice)

    @property
    def aggregate(self) -> str:
        """As the ledger knows it."""
        return f"arrays/{self.name}"


@dataclass(frozen=True, slots=True)
class House:
    """Where a job works."""

    store: Store
    ledger: Ledger
    executor: Executor
    progress: Progress = silent
    window: int = 2 * (os.cpu_count() or 1)
    lease: timedelta = timedelta(seconds=60)


@dataclass
class Report:
    """What a run came to."""

    state: str
    account: Account
    findings: list[Finding]
    snapshot: Snapshot | None = None
    sessions: list[dict[str, Any]] = field(default_factory=list)
