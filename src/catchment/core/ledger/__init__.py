"""The ledger: the SQL database that remembers contributions, runs, accounts and snapshots.

SQLite (WAL, full sync) by default, PostgreSQL by URL; the same code on both. Every commit carries
an idempotency key and is read back before a retry, because an acknowledgement can be lost.
"""

from catchment.core.ledger.model import (
    Contribution,
    Lease,
    Move,
    Publication,
    Run,
    Snapshot,
)

__all__ = ["Contribution", "Lease", "Move", "Publication", "Run", "Snapshot"]
