"""The ledger: the SQL database that remembers contributions, runs, accounts and snapshots.

SQLite (WAL, full sync) by default, PostgreSQL by URL; the same code on both. Every commit carries
an idempotency key and is read back before a retry, because an acknowledgement can be lost.
"""

from catchment.core.ledger.ledger import Ledger
from catchment.core.ledger.model import (
    Contribution,
    Count,
    Delivery,
    Lease,
    Move,
    Publication,
    Run,
    Snapshot,
    Transition,
)
from catchment.core.ledger.provenance import describe

__all__ = [
    "Contribution",
    "Count",
    "Delivery",
    "Lease",
    "Ledger",
    "Move",
    "Publication",
    "Run",
    "Snapshot",
    "Transition",
    "describe",
]
