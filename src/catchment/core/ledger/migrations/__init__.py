"""Alembic's migrations of the ledger, run by ``Ledger.open``."""
