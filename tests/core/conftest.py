"""Fixtures of the core's tests."""

from __future__ import annotations

import pytest

from catchment.core.ledger import Ledger
from catchment.core.ledger.schema import metadata
from catchment.testing.postgres import postgres

__all__ = ["postgres"]

# --- ledger ---


@pytest.fixture(scope="session")
def postgres_ledgers(postgres):
    """URLs of two databases that hold a ledger: to empty them is quicker than to make new ones."""
    urls = [postgres.database() for _ in range(2)]
    for url in urls:
        Ledger.open(url).close()
    return urls


@pytest.fixture
def emptied_ledgers(postgres_ledgers):
    """The same URLs, each of an empty ledger."""
    psycopg = pytest.importorskip("psycopg")
    # A fifth of what TRUNCATE costs, which makes a new file for each table and index.
    deletes = "; ".join(f"DELETE FROM {table.name}" for table in metadata.sorted_tables[::-1])
    restart = "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'"
    for url in postgres_ledgers:
        with psycopg.connect(url) as connection:
            connection.execute("SET session_replication_role = replica")  # no keys are asked for
            connection.execute(deletes)
            connection.execute(restart)
    return postgres_ledgers
