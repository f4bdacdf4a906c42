"""Where work on studies is done: stores, workers, rules and bounds, given once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime

from catchment.core.ledger import Ledger
from catchment.core.progress import Progress, silent
from catchment.core.store import Store
from catchment.studies.check import DEFAULT_LIMITS, Limits
from catchment.studies.intake import DEFAULT_BOUNDS, Bounds
from catchment.studies.merge import Policy


@dataclass(frozen=True, slots=True)
class House:
    """Where work is done."""

    store: Store
    ledger: Ledger
    executor: Executor
    policy: Callable[[str], Policy]
    bounds: Bounds = DEFAULT_BOUNDS
    limits: Limits = DEFAULT_LIMITS
    progress: Progress = silent
    published: Callable[[str], None] = lambda _: None  # told of each study that was; never fails
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
