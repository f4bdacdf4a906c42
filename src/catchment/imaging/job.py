"""Where a run of imaging works, and who listens."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from catchment.core.ledger import Ledger
from catchment.core.progress import Progress, silent
from catchment.core.store import Store


@dataclass(frozen=True, slots=True)
class House:
    """Store, ledger, workers, the door to providers' stores, the clock; and who listens."""

    store: Store
    ledger: Ledger
    executor: Executor
    open_store: Callable[[str], Store]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    progress: Progress = silent
    lease: timedelta = timedelta(seconds=60)
    compressor: Executor | None = None  # for pictures; None: the executor
